"""The kubelet: makes the pods bound to this node real through CRI and tells the API how they are. Mirrors ``pkg/kubelet``.

``kubelet`` is the composition root. ``podworkers`` has one ``podworker`` a pod: ``plan`` decides (pure), ``runtime`` does,
``pleg`` keeps what the runtime says, ``status`` computes (pure), ``statuswriter`` writes. ``cri`` speaks to containerd;
``volumes``, ``env``, ``hosts`` and ``probes`` serve single pods; ``server`` answers the API server. It changes this machine,
and nothing else in the cluster than its own pods' and node's status.
"""
