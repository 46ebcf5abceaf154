"""The API server: kube-apiserver's place, one generic path for every kind.

A request comes in at ``connections`` (the socket; repeated plain reads are answered there by ``fastpath``), is understood and
authorized by ``http`` (``requestinfo``, ``negotiation``, ``decoding``) and goes to ``registry``: reads to ``listing`` and
``watching`` over ``watchcache``, writes to ``writes``, ``patching``, ``applying`` and ``deletion``. ``endpoint`` holds what
is known of one resource, ``strategy`` and ``kinds/`` what is its own. ``rendering``, ``tables`` and ``responses`` put answers
into the form asked for. ``connecting``, ``tunnel`` and ``proxying`` lead to kubelets, pods and services; ``nonresource``
serves discovery, OpenAPI, health and metrics. ``authn``, ``authz`` and ``admission`` decide who may do what. The package
talks to the store, never to controllers or nodes' internals.
"""
