"""Which resources exist: the built-in ones and those that CustomResourceDefinitions serve now.

The garbage collector, namespace deletion and quota act on every kind; a new CRD joins as soon as it is Established. Rows are
made once for each definition version, so the same resource is always the same object.
"""

from __future__ import annotations

from collections.abc import Callable

from k3sd.apimachinery.errors import Obj
from k3sd.apimachinery.resource import Resource, Subresource
from k3sd.apis import resources
from k3sd.client.informer import object_key
from k3sd.controllers.base import Context
from k3sd.controllers.objects import condition_status

_CRUD = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")
SECOND_VIEWS = frozenset({resources.EVENTS_EVENTS, resources.HORIZONTALPODAUTOSCALERS_V1})
"""Rows that show objects which another row stores."""


def custom_resource(crd: Obj) -> Resource | None:
    """The row of a definition in its stored version, None while it is not served. Pure."""
    spec = crd["spec"]
    if condition_status(crd, "Established") != "True":
        return None
    served = [v for v in spec.get("versions") or () if v.get("served")]
    chosen = next((v for v in served if v.get("storage")), served[0] if served else None)
    if chosen is None:
        return None
    names = (crd.get("status") or {}).get("acceptedNames") or spec["names"]
    group, version, kind = spec["group"], chosen["name"], names["kind"]
    subresources = tuple(
        Subresource(name, kind, ("get", "patch", "update"), group, version) for name in (chosen.get("subresources") or {})
    )
    return Resource(
        group,
        version,
        names["plural"],
        kind,
        spec.get("scope") == "Namespaced",
        _CRUD,
        "",
        names.get("singular") or kind.lower(),
        tuple(names.get("shortNames") or ()),
        tuple(names.get("categories") or ()),
        subresources,
    )


class Catalog:
    """Follows the CustomResourceDefinitions. ``on_change(added, removed)`` is called for each custom resource."""

    def __init__(self, ctx: Context) -> None:
        self._custom: dict[str, tuple[tuple[str, str, bool], Resource]] = {}
        self._listeners: list[Callable[[Resource | None, Resource | None], object]] = []
        self.informer = ctx.informers.informer(resources.CUSTOMRESOURCEDEFINITIONS)
        self.close = self.informer.add_handler(self._changed, lambda _, crd: self._changed(crd), self._removed)

    def all(self, verb: str) -> list[Resource]:
        """Every resource that serves ``verb``, each store once."""
        built_in = [r for r in resources.ALL if verb in r.verbs and r not in SECOND_VIEWS]
        return built_in + [r for _, r in self._custom.values()]

    def by_kind(self, api_version: str, kind: str) -> Resource | None:
        """The resource of a kind in any of its versions of the group (owner references may name an older one)."""
        found = resources.by_kind(api_version, kind)
        if found is not None:
            return found
        group = api_version.rpartition("/")[0]
        for _, resource in self._custom.values():
            if (resource.group, resource.kind) == (group, kind):
                return resource
        for resource in resources.ALL:
            if (resource.group, resource.kind) == (group, kind):
                return resource
        return None

    def subscribe(self, on_change: Callable[[Resource | None, Resource | None], object]) -> None:
        self._listeners.append(on_change)

    def _changed(self, crd: Obj) -> None:
        resource = custom_resource(crd)
        key = object_key(crd)
        old = self._custom.get(key)
        identity = (resource.version, resource.kind, resource.namespaced) if resource else None
        if (old[0] if old else None) == identity:
            return
        if resource is None or identity is None:
            del self._custom[key]
        else:
            self._custom[key] = (identity, resource)
        for listener in self._listeners:
            listener(resource, old[1] if old else None)

    def _removed(self, crd: Obj) -> None:
        old = self._custom.pop(object_key(crd), None)
        if old is not None:
            for listener in self._listeners:
                listener(None, old[1])
