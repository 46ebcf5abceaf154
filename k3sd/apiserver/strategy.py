"""``Strategy``: the few functions that are really a kind's own. Everything else about a kind is data (``k3sd.apis``).

Upstream's ``pkg/registry/<group>/<kind>/strategy.go`` and ``pkg/apis/<group>/validation``. A subclass in
``k3sd.apiserver.kinds`` is registered for a resource with ``@strategy(resources.PODS)``; a resource without one uses this
base class as it is, which gives a complete generic kind: names, labels and metadata validated, ``status`` reset on main
writes, spec kept on status writes, generation bumped when anything but metadata and status changes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, ClassVar

from k3sd.apimachinery.errors import FieldError, Obj
from k3sd.apimachinery.resource import Resource
from k3sd.apiserver.request import RequestContext

if TYPE_CHECKING:
    from k3sd.apiserver.registry import Registry

Undo = Callable[[], Awaitable[None]]
"""Gives back what a ``begin_*`` hook took (an IP, a port) when the write then fails."""


class Strategy:
    """Hooks of one resource. ``obj``/``new`` may be changed in place by ``prepare_*``; ``old`` never. Hooks are synchronous and
    pure, but for ``begin_*`` and ``after_*``."""

    has_status: ClassVar[bool] = True
    """False for kinds without a status stanza (ConfigMap): nothing is reset or kept."""
    keeps_status_on_create: ClassVar[bool] = False
    """True where a creator may bring a status (Node: a kubelet registers with one)."""
    has_generation: ClassVar[bool] = False
    """True for kinds whose ``metadata.generation`` counts spec changes (most with a spec)."""
    allow_unconditional_update: ClassVar[bool] = True
    allow_create_on_update: ClassVar[bool] = False
    name_rule: ClassVar[str] = "dns1123-subdomain"
    """Rule for ``metadata.name``: dns1123-subdomain, dns1123-label, dns1035-label, path-segment."""

    def __init__(self, resource: Resource, registry: Registry) -> None:
        self.resource = resource
        self.registry = registry

    def prepare_create(self, ctx: RequestContext, obj: Obj) -> None:
        """Set what the server owns on creation, after defaulting (e.g. status, initial phase)."""

    def validate_create(self, ctx: RequestContext, obj: Obj) -> list[FieldError]:
        return []

    def prepare_update(self, ctx: RequestContext, new: Obj, old: Obj) -> None:
        """Carry over what a main-resource update may not change."""

    def validate_update(self, ctx: RequestContext, new: Obj, old: Obj) -> list[FieldError]:
        return []

    def prepare_status(self, ctx: RequestContext, new: Obj, old: Obj) -> None:
        """Called for ``/status`` writes after spec was carried over from ``old``."""

    def validate_status(self, ctx: RequestContext, new: Obj, old: Obj) -> list[FieldError]:
        return []

    def warnings(self, ctx: RequestContext, obj: Obj, old: Obj | None) -> list[str]:
        return []

    async def begin_create(self, ctx: RequestContext, obj: Obj) -> Undo | None:
        """Take resources shared between objects (cluster IPs, node ports). Not called for dry runs' side effects: check
        ``ctx.dry_run``."""
        return None

    async def begin_update(self, ctx: RequestContext, new: Obj, old: Obj) -> Undo | None:
        return None

    async def after_delete(self, ctx: RequestContext, obj: Obj) -> None:
        """The object is gone from the store: give back what it held."""

    def graceful_seconds(self, ctx: RequestContext, obj: Obj, requested: int | None) -> int:
        """Grace period for a delete; > 0 keeps the object with a deletionTimestamp until it is deleted again with 0 (pods)."""
        return 0

    def mark_deleting(self, ctx: RequestContext, obj: Obj) -> None:
        """``obj`` just got its deletionTimestamp: change what goes with it (a namespace's phase)."""

    def holds_deletion(self, obj: Obj) -> bool:
        """True keeps a deleted object although its metadata.finalizers are empty (a namespace with spec.finalizers)."""
        return False

    def default_orphan(self, obj: Obj) -> bool:
        """Whether dependents are orphaned when the delete names no propagation policy."""
        return False

    def selectable_fields(self, obj: Obj) -> dict[str, str]:
        """Field selector values besides metadata.name and metadata.namespace; the keys are those allowed."""
        return {}

    def decode_view(self, obj: Obj) -> Obj:
        """Change what is read back (rarely needed)."""
        return obj
