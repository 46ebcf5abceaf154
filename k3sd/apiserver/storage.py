"""Where an object lives in the store and in which version.

Keys are upstream's (``kubeapiserver/default_storage_factory_builder.go``): an etcd or a K3s database can be read by an
upstream API server and back. Values are JSON in the storage version, ``kind``, ``apiVersion`` and ``metadata`` first, without
``resourceVersion``.
"""

from __future__ import annotations

from k3sd.apimachinery import codec
from k3sd.apimachinery.errors import Obj
from k3sd.apimachinery.resource import Resource

ROOT = "/registry/"

_SPECIAL_PREFIXES = {
    ("", "replicationcontrollers"): "controllers",
    ("", "endpoints"): "services/endpoints",
    ("", "services"): "services/specs",
    ("", "nodes"): "minions",
    ("networking.k8s.io", "ingresses"): "ingress",
    ("events.k8s.io", "events"): "events",
}
_GROUP_PREFIXES = frozenset({"apiextensions.k8s.io", "apiregistration.k8s.io"})
"""Groups of servers of their own upstream, which put the group into the key."""

STORAGE_VERSIONS: dict[tuple[str, str], tuple[str, str]] = {
    ("events.k8s.io", "events"): ("", "v1"),
    ("autoscaling", "horizontalpodautoscalers"): ("autoscaling", "v2"),
}
"""Resources whose stored group/version is not the first served one."""

EVENT_TTL_SECONDS = 3600


def prefix(resource: Resource) -> str:
    """Key prefix of all objects of the resource, with a trailing slash. Those of custom resources name the group."""
    custom = not resource.type_name.startswith("io.k8s.")
    special = _SPECIAL_PREFIXES.get((resource.group, resource.plural))
    if special:
        return f"{ROOT}{special}/"
    if custom or resource.group in _GROUP_PREFIXES:
        return f"{ROOT}{resource.group}/{resource.plural}/"
    return f"{ROOT}{resource.plural}/"


def prefix_end(start: str) -> str:
    """The smallest key after every key that begins with ``start`` (which ends in ``/``)."""
    return start[:-1] + chr(ord(start[-1]) + 1)


def encode(obj: Obj) -> bytes:
    """The stored bytes. ``metadata.resourceVersion`` is taken out first, from ``obj`` itself."""
    obj["metadata"].pop("resourceVersion", None)
    return codec.encode(obj)
