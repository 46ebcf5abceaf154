"""What is really a kind's own: one ``Strategy`` a resource, and the handlers of subresources and of virtual resources.

Upstream: ``pkg/registry/<group>/<kind>/strategy.go``, ``pkg/apis/<group>/validation``. A module here covers kinds that
change together. Modules register with ``@strategy(...)``; ``load`` imports them once. Other resources use the base class.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, TypeVar

from k3sd.apimachinery.errors import Obj
from k3sd.apimachinery.resource import Resource
from k3sd.apiserver.request import RequestContext
from k3sd.apiserver.strategy import Strategy

if TYPE_CHECKING:
    from k3sd.apiserver.registry import Registry

S = TypeVar("S", bound=type[Strategy])

_MODULES = (
    "admissionregistration",
    "autoscaling",
    "batch",
    "certificates",
    "config",
    "discovery",
    "dra",
    "events",
    "extensions",
    "flowcontrol",
    "namespaces",
    "networking",
    "nodes",
    "pods",
    "policy",
    "quota",
    "rbac",
    "scheduling",
    "services",
    "storage",
    "workloads",
)
_classes: dict[Resource, type[Strategy]] = {}


class SubresourceHandler(Protocol):
    """A subresource, or a resource that stores nothing (``subresource == ""``: reviews, ``bindings``), served in its own way.

    Only the verbs that discovery lists are called. ``get`` returns what ``update`` and patch start from; ``update`` gets the
    whole new object and honours its ``metadata.resourceVersion``. Both raise StatusError. Authorization has been done,
    admission has not: a handler that writes goes through the registry, which runs it. ``name`` is empty for virtual resources.
    """

    resource: Resource
    subresource: str

    async def get(self, ctx: RequestContext, namespace: str, name: str) -> Obj: ...
    async def create(self, ctx: RequestContext, namespace: str, name: str, body: Obj) -> Obj: ...
    async def update(self, ctx: RequestContext, namespace: str, name: str, body: Obj) -> Obj: ...


def strategy(*rows: Resource) -> Callable[[S], S]:
    """Class decorator: use this Strategy for the resource rows named."""

    def register(cls: S) -> S:
        for row in rows:
            _classes[row] = cls
        return cls

    return register


def load(registry: Registry) -> dict[Resource, Strategy]:
    """Every resource that has rules of its own, with its strategy bound to ``registry``."""
    for module in _MODULES:
        import_module(f"{__name__}.{module}")
    return {row: cls(row, registry) for row, cls in _classes.items()}


def subresources(registry: Registry) -> dict[tuple[Resource, str], SubresourceHandler]:
    """Handlers by (resource, subresource). ``status`` is not among them: the registry serves it for every kind."""
    handlers: list[SubresourceHandler] = []
    for module in ("certificates", "podsub", "scale", "tokenrequest", "reviews", "finalize"):
        handlers += import_module(f"{__name__}.{module}").handlers(registry)
    return {(h.resource, h.subresource): h for h in handlers}
