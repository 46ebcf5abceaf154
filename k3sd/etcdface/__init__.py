"""The etcd v3 face: the part of etcd's gRPC API that Kubernetes uses, over any ``k3sd.datastore`` backend.

It is kine's part in K3s: an upstream kube-apiserver runs on it (``--etcd-servers=unix://.../kine.sock``). What is not in the
subset is refused by name, never answered wrongly. Nothing here stores anything.

Source: K3s kine, ``pkg/server``; etcd 3.5 ``server/etcdserver/api/v3rpc``.
"""
