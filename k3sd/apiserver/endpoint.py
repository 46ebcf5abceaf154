"""``Endpoint``: everything about one served resource that requests would otherwise look up again and again.

Built once a resource and kept by the registry: storage prefix and cache, strategy, schema type, conversion, the admission
plugins of each operation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Literal, Protocol

from k3sd.apimachinery import codec, schema
from k3sd.apimachinery.errors import Obj
from k3sd.apimachinery.resource import Resource, Subresource
from k3sd.apiserver import conversion, storage
from k3sd.apiserver.listcache import ListCache
from k3sd.apiserver.request import AdmissionPlugin
from k3sd.apiserver.served import subresource as find_subresource
from k3sd.apiserver.strategy import Strategy

if TYPE_CHECKING:
    from k3sd.apiserver.customviews import Views
    from k3sd.apiserver.registry import Registry
    from k3sd.apiserver.watchcache import Entry, ResourceCache

Operation = Literal["CREATE", "UPDATE", "DELETE", "CONNECT"]

_RETURNS_DELETED = frozenset(
    {
        ("", "persistentvolumeclaims"),
        ("", "persistentvolumes"),
        ("", "pods"),
        ("", "podtemplates"),
        ("", "resourcequotas"),
        ("", "serviceaccounts"),
        ("", "services"),
        ("storage.k8s.io", "csidrivers"),
        ("storage.k8s.io", "csinodes"),
        ("storage.k8s.io", "storageclasses"),
        ("storage.k8s.io", "volumeattachments"),
        ("storage.k8s.io", "volumeattributesclasses"),
        ("resource.k8s.io", "deviceclasses"),
        ("resource.k8s.io", "resourceclaims"),
        ("resource.k8s.io", "resourceclaimtemplates"),
        ("resource.k8s.io", "resourceslices"),
    }
)
"""Upstream stores with ``ReturnDeletedObject``: DELETE answers with the object instead of a Status."""


class Item(Protocol):
    """An object as it is served: its bytes (``resourceVersion`` included) and, parsed when first asked for, its shared
    read-only object. Watch cache entries are Items."""

    @property
    def raw(self) -> bytes: ...
    @property
    def obj(self) -> Obj: ...


class Rendered:
    """An Item that is not in the cache: a dry run, another version, a Status."""

    __slots__ = ("_raw", "obj")

    def __init__(self, obj: Obj, raw: bytes | None = None) -> None:
        self.obj = obj
        self._raw = raw

    @property
    def raw(self) -> bytes:
        if self._raw is None:
            self._raw = codec.encode(self.obj)
        return self._raw


def zero_status(resource: Resource, type_: schema.Type) -> Obj | None:
    """What ``status`` of a fresh object is: the fields Go always writes; None when it is left out."""
    blank: Obj = {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": {}}
    codec.conform(blank, type_)
    status: Obj | None = blank.get("status")
    return status


class Endpoint:
    """Facts of one served resource. ``stored`` is the row of the version in the store, ``reader`` how a stored item becomes
    one of this version (None: stored bytes are served as they are)."""

    __slots__ = (
        "_plugins",
        "cache",
        "end",
        "event_ttl",
        "fields",
        "has_status",
        "list_head",
        "lists",
        "prefix",
        "reader",
        "registry",
        "resource",
        "returns_deleted",
        "stored",
        "strategy",
        "to_storage",
        "type_",
        "views",
        "zero_status",
    )

    def __init__(
        self, registry: Registry, resource: Resource, stored: Resource, cache: ResourceCache, strategy: Strategy
    ) -> None:
        self.registry = registry
        self.resource = resource
        self.stored = stored
        self.strategy = strategy
        self.prefix = storage.prefix(resource)
        self.end = storage.prefix_end(self.prefix)
        self.cache = cache
        self.type_ = schema.types.get(resource.type_name)
        self.has_status = strategy.has_status and "status" in self.type_.fields
        self.zero_status = zero_status(resource, self.type_) if self.has_status else None
        self.reader: Callable[[Item], Item] | None = None
        self.views: Views | None = None
        self.store_as(stored, None)
        self.event_ttl = storage.EVENT_TTL_SECONDS if resource.plural == "events" else 0
        self.returns_deleted = (resource.group, resource.plural) in _RETURNS_DELETED
        self.lists = ListCache(cache)
        self.list_head = f'{{"kind":"{resource.kind}List","apiVersion":"{resource.api_version}","metadata":{{'
        self.fields: frozenset[str] | None = None
        self._plugins: dict[tuple[str, str], Sequence[AdmissionPlugin]] = {}

    def key(self, namespace: str, name: str) -> str:
        if self.resource.namespaced:
            return f"{self.prefix}{namespace}/{name}"
        return self.prefix + name

    def scope(self, namespace: str) -> str:
        """Key prefix of a list: one namespace or everything."""
        if namespace and self.resource.namespaced:
            return f"{self.prefix}{namespace}/"
        return self.prefix

    def store_as(self, stored: Resource, views: Views | None) -> None:
        """Objects are kept in the version of ``stored`` from now on, and read through ``views`` (custom resources)."""
        version = self.resource.api_version
        self.stored = stored
        self.to_storage = conversion.converter(self.resource.kind, version, stored.api_version)
        self.views = views
        if views is not None:
            self.reader = views.read
        elif convert := conversion.converter(self.resource.kind, stored.api_version, version):
            self.reader = lambda item: Rendered(convert(item.obj))
        else:
            self.reader = None

    def view(self, item: Item) -> Item:
        """The stored ``item`` in this endpoint's version. Where ``prepare`` waits, await it in the same turn before."""
        return item if self.reader is None else self.reader(item)

    async def prepare(self, entries: Iterable[Entry]) -> None:
        """Have ready what ``view`` needs of these: a conversion webhook is asked once for all of them. Raises 500."""
        if self.views is not None:
            await self.views.prepare(entries)

    async def stored_form(self, obj: Obj) -> Obj:
        """The object in the version of the store; itself when that is this one. Raises 500 when a webhook fails."""
        if self.to_storage is None:
            return obj
        if self.views is not None:
            return await self.views.to_storage(obj, self.stored.api_version)
        return self.to_storage(obj)

    def plugins(self, subresource: str, operation: Operation) -> Sequence[AdmissionPlugin]:
        """The admission plugins that have a say, in order."""
        key = (subresource, operation)
        found = self._plugins.get(key)
        if found is None:
            found = tuple(p for p in self.registry.admission if p.handles(self.resource, subresource, operation))
            self._plugins[key] = found
        return found

    def subresource(self, name: str) -> Subresource | None:
        return find_subresource(self.resource, name)
