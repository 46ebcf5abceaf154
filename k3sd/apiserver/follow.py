"""``follow``: indexes inside the API server that are exact with every write (RBAC, the node graph, quotas, allocators)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from k3sd.apimachinery.errors import Obj
from k3sd.apimachinery.resource import Resource

if TYPE_CHECKING:
    from k3sd.apiserver.registry import Registry
    from k3sd.apiserver.watchcache import CacheEvent

log = logging.getLogger(__name__)

Callback = Callable[[str, Obj, Obj | None], None]
"""``(type, object, object before)`` with type ADDED, MODIFIED or DELETED; objects are shared and read-only. The object
before is None where nobody asked for it."""


def follow(registry: Registry, resource: Resource, callback: Callback, *, with_old: bool = False) -> None:
    """Call ``callback`` for every stored object as ADDED, then for every change in the turn of the loop that makes it,
    before the writer is answered. ``with_old`` gives the object before a change too, which costs parsing it. Needs a started
    cache."""
    cache = registry.endpoint(resource).cache

    def on_change(event: CacheEvent) -> None:
        try:
            old = event.prev.obj if with_old and event.prev is not None else None
            callback(event.type, event.entry.obj, old)
        except Exception:
            # An index that fails on one strange object must not stop the writes of others.
            log.exception("index of %s failed on %s", resource.qualified, event.entry.key)

    for obj in registry.read_all(resource):
        callback("ADDED", obj, None)
    cache.follow(on_change)
