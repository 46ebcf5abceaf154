"""An in-memory API server behind the ``Client`` protocol: resourceVersions, watches, conflicts, finalizers, graceful deletion.

Just enough of the server's rules to run controllers against it: no defaulting, validation or admission.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from k3sd.apimachinery import errors, timefmt
from k3sd.apimachinery.errors import Obj, StatusError
from k3sd.apimachinery.resource import Resource
from k3sd.client.api import DeleteOptions, List, WatchEvent
from k3sd.lib.jsonvalue import clone

Reactor = Callable[[str, Resource, Obj | None, str], None]
_SUFFIX = "bcdfghjklmnpqrstvwxz2456789"


class FakeClient:
    """``clock`` gives epoch seconds. ``actions`` records every write as ``(verb, plural[/subresource], key)``."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self.revision = 1
        self.objects: dict[Resource, dict[tuple[str, str], Obj]] = {}
        self.history: list[tuple[int, Resource, str, Obj, Obj | None]] = []
        self.watchers: dict[Resource, list[asyncio.Queue[tuple[int, str, Obj, Obj | None] | None]]] = {}
        self.actions: list[tuple[str, str, str]] = []
        self.reactors: list[Reactor] = []
        self.compacted = 0
        self.watch_lag: Callable[[], float] | None = None
        """Seconds by which each event comes late: caches that are behind."""
        self._uids = itertools.count(1)
        self._suffixes = itertools.count(1)

    # -- test side

    def on_write(self, reactor: Reactor) -> None:
        """Called before each write with (verb, resource, object, subresource); may raise."""
        self.reactors.append(reactor)

    def writes(self, *plurals: str) -> list[tuple[str, str, str]]:
        return [a for a in self.actions if not plurals or a[1] in plurals]

    def all(self, resource: Resource, namespace: str | None = None) -> list[Obj]:
        return [o for (ns, _), o in sorted(self.objects.get(resource, {}).items()) if namespace in (None, ns)]

    def compact(self) -> None:
        """Forget the history, so that older watches get 410."""
        self.compacted = self.revision
        self.history.clear()

    def close_watches(self, resource: Resource) -> None:
        for queue in self.watchers.get(resource, []):
            queue.put_nowait(None)

    # -- Client

    async def get(self, resource: Resource, name: str, namespace: str | None = None, *, subresource: str = "") -> Obj:
        await asyncio.sleep(0)
        return self._find(resource, namespace, name)

    async def list(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        label_selector: str = "",
        field_selector: str = "",
        resource_version: str = "",
        limit: int = 0,
        continue_: str = "",
    ) -> List:
        await asyncio.sleep(0)
        matches = _matcher(label_selector, field_selector)
        items = [o for o in self.all(resource, namespace or None) if matches(o)]
        return List(items, str(self.revision))

    async def create(
        self,
        resource: Resource,
        obj: Obj,
        namespace: str | None = None,
        *,
        name: str = "",
        subresource: str = "",
        dry_run: bool = False,
        field_manager: str = "",
    ) -> Obj:
        await asyncio.sleep(0)
        if subresource:
            self._record("create", resource, obj, subresource, f"{namespace}/{name}")
            if subresource == "eviction":
                self._remove(resource, self._find(resource, namespace, name), None)
            return obj
        obj = clone(obj)
        metadata = obj.setdefault("metadata", {})
        if namespace:
            metadata["namespace"] = namespace
        if not metadata.get("name"):
            if not metadata.get("generateName"):
                raise errors.bad_request("name or generateName is required")
            n = next(self._suffixes)
            text = "".join(_SUFFIX[(n // 27**i) % 27] for i in range(4, -1, -1))
            metadata["name"] = metadata["generateName"] + text
        self._record("create", resource, obj)
        key = (metadata.get("namespace", ""), metadata["name"])
        if key in self.objects.get(resource, {}):
            raise errors.already_exists(resource.group, resource.plural, metadata["name"])
        metadata["uid"] = f"uid-{next(self._uids)}"
        metadata["creationTimestamp"] = timefmt.from_epoch(self.clock())
        metadata["generation"] = 1
        obj.setdefault("kind", resource.kind)
        obj.setdefault("apiVersion", resource.api_version)
        if resource.plural == "namespaces":
            obj.setdefault("spec", {}).setdefault("finalizers", ["kubernetes"])
            obj.setdefault("status", {}).setdefault("phase", "Active")
        if resource.plural == "pods":
            obj.setdefault("status", {}).setdefault("phase", "Pending")
        self._store("ADDED", resource, obj, None)
        return obj

    async def update(
        self, resource: Resource, obj: Obj, *, subresource: str = "", dry_run: bool = False, field_manager: str = ""
    ) -> Obj:
        await asyncio.sleep(0)
        return self._write("update", resource, clone(obj), subresource)

    async def patch(
        self,
        resource: Resource,
        name: str,
        patch: Any,
        namespace: str | None = None,
        *,
        patch_type: str = "application/merge-patch+json",
        subresource: str = "",
        dry_run: bool = False,
        field_manager: str = "",
        force: bool = False,
    ) -> Obj:
        await asyncio.sleep(0)
        old = self._find(resource, namespace, name)
        if patch_type != "application/merge-patch+json":
            raise errors.unsupported_media_type(f"the fake client knows no {patch_type}")
        return self._write("patch", resource, _merge(old, patch), subresource)

    async def delete(
        self, resource: Resource, name: str, namespace: str | None = None, options: DeleteOptions | None = None
    ) -> Obj:
        await asyncio.sleep(0)
        obj = self._find(resource, namespace, name)
        self._record("delete", resource, obj)
        return self._remove(resource, obj, options)

    async def delete_collection(
        self,
        resource: Resource,
        namespace: str | None = None,
        options: DeleteOptions | None = None,
        *,
        label_selector: str = "",
        field_selector: str = "",
    ) -> None:
        await asyncio.sleep(0)
        self.actions.append(("deletecollection", resource.plural, namespace or ""))
        matches = _matcher(label_selector, field_selector)
        for obj in self.all(resource, namespace):
            if matches(obj):
                self._remove(resource, obj, options)

    async def watch(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        resource_version: str = "",
        label_selector: str = "",
        field_selector: str = "",
        allow_bookmarks: bool = True,
        timeout_seconds: int = 0,
    ) -> AsyncIterator[WatchEvent]:
        since = int(resource_version or 0)
        if since < self.compacted:
            raise errors.gone(f"too old resource version: {since} ({self.compacted})")
        matches = _matcher(label_selector, field_selector)
        queue: asyncio.Queue[tuple[int, str, Obj, Obj | None] | None] = asyncio.Queue()
        for revision, changed, type_, obj, old in self.history:
            if changed is resource and revision > since:
                queue.put_nowait((revision, type_, obj, old))
        self.watchers.setdefault(resource, []).append(queue)
        try:
            while (item := await queue.get()) is not None:
                _, type_, obj, old = item
                if self.watch_lag is not None:
                    await asyncio.sleep(self.watch_lag())
                if namespace and obj["metadata"].get("namespace") != namespace:
                    continue
                was, is_ = old is not None and matches(old), type_ != "DELETED" and matches(obj)
                if is_:
                    yield WatchEvent("MODIFIED" if was else "ADDED", obj)
                elif was:
                    yield WatchEvent("DELETED", obj)
        finally:
            self.watchers[resource].remove(queue)

    async def close(self) -> None:
        pass

    # -- the store

    def _find(self, resource: Resource, namespace: str | None, name: str) -> Obj:
        obj = self.objects.get(resource, {}).get((namespace or "", name))
        if obj is None:
            raise errors.not_found(resource.group, resource.plural, name)
        return obj

    def _record(self, verb: str, resource: Resource, obj: Obj | None, subresource: str = "", key: str = "") -> None:
        if not key and obj is not None:
            metadata = obj["metadata"]
            key = f"{metadata['namespace']}/{metadata['name']}" if metadata.get("namespace") else metadata["name"]
        what = f"{resource.plural}/{subresource}" if subresource else resource.plural
        for reactor in self.reactors:
            reactor(verb, resource, obj, subresource)
        self.actions.append((verb, what, key))

    def _write(self, verb: str, resource: Resource, obj: Obj, subresource: str) -> Obj:
        metadata = obj["metadata"]
        old = self._find(resource, metadata.get("namespace"), metadata["name"])
        self._record(verb, resource, obj, subresource)
        if metadata.get("uid", old["metadata"]["uid"]) != old["metadata"]["uid"]:
            raise errors.conflict(resource.group, resource.plural, metadata["name"], "Precondition failed: UID in precondition")
        version = metadata.get("resourceVersion")
        if version and version != old["metadata"]["resourceVersion"]:
            raise errors.conflict(resource.group, resource.plural, metadata["name"])
        obj = {**old, **obj}
        has_status = any(s.name == "status" for s in resource.subresources)
        if subresource == "status":
            obj = {**old, "status": obj.get("status", {})}
        elif subresource == "finalize":
            obj = {**old, "spec": {**old["spec"], "finalizers": obj["spec"].get("finalizers", [])}}
        elif has_status and "status" in old:
            obj["status"] = old["status"]
        elif has_status:
            obj.pop("status", None)
        if subresource != "status":
            for field in ("uid", "creationTimestamp", "deletionTimestamp", "generation", "deletionGracePeriodSeconds"):
                if field in old["metadata"]:
                    obj["metadata"] = {**obj["metadata"], field: old["metadata"][field]}
        if obj == {**old, "metadata": {**old["metadata"], "resourceVersion": obj["metadata"].get("resourceVersion")}}:
            return old
        if obj.get("spec") != old.get("spec") and subresource != "finalize":
            obj["metadata"] = {**obj["metadata"], "generation": old["metadata"]["generation"] + 1}
        if self._may_vanish(resource, obj):
            return self._drop(resource, obj, old)
        self._store("MODIFIED", resource, obj, old)
        return obj

    def _may_vanish(self, resource: Resource, obj: Obj) -> bool:
        metadata = obj["metadata"]
        if not metadata.get("deletionTimestamp") or metadata.get("finalizers"):
            return False
        if resource.plural == "namespaces" and obj["spec"].get("finalizers"):
            return False
        return not metadata.get("deletionGracePeriodSeconds")

    def _remove(self, resource: Resource, obj: Obj, options: DeleteOptions | None) -> Obj:
        options = options or DeleteOptions()
        metadata = obj["metadata"]
        if options.uid and options.uid != metadata["uid"]:
            raise errors.conflict(resource.group, resource.plural, metadata["name"], "Precondition failed: UID in precondition")
        if options.resource_version and options.resource_version != metadata["resourceVersion"]:
            raise errors.conflict(resource.group, resource.plural, metadata["name"])
        new = clone(obj)
        finalizers = list(metadata.get("finalizers", []))
        for policy, finalizer in (("Orphan", "orphan"), ("Foreground", "foregroundDeletion")):
            if options.propagation_policy == policy and finalizer not in finalizers:
                finalizers.append(finalizer)
        if finalizers:
            new["metadata"]["finalizers"] = finalizers
        grace = options.grace_period_seconds
        if resource.plural == "pods" and grace is None:
            grace = obj.get("spec", {}).get("terminationGracePeriodSeconds", 30)
        if resource.plural != "pods" or not obj.get("spec", {}).get("nodeName"):
            grace = 0
        if not metadata.get("deletionTimestamp"):
            new["metadata"]["deletionTimestamp"] = timefmt.from_epoch(self.clock() + (grace or 0))
        new["metadata"]["deletionGracePeriodSeconds"] = grace or 0
        if resource.plural == "namespaces":
            new["status"]["phase"] = "Terminating"
        if self._may_vanish(resource, new):
            return self._drop(resource, new, obj)
        if new != obj:
            self._store("MODIFIED", resource, new, obj)
        return new

    def _drop(self, resource: Resource, obj: Obj, old: Obj) -> Obj:
        metadata = obj["metadata"]
        del self.objects[resource][(metadata.get("namespace", ""), metadata["name"])]
        self._publish("DELETED", resource, obj, old)
        return obj

    def _store(self, type_: str, resource: Resource, obj: Obj, old: Obj | None) -> None:
        metadata = obj["metadata"]
        self.objects.setdefault(resource, {})[(metadata.get("namespace", ""), metadata["name"])] = obj
        self._publish(type_, resource, obj, old)

    def _publish(self, type_: str, resource: Resource, obj: Obj, old: Obj | None) -> None:
        self.revision += 1
        obj["metadata"] = {**obj["metadata"], "resourceVersion": str(self.revision)}
        self.history.append((self.revision, resource, type_, obj, old))
        for queue in self.watchers.get(resource, []):
            queue.put_nowait((self.revision, type_, obj, old))


def _merge(old: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    out = dict(old) if isinstance(old, dict) else {}
    for key, value in patch.items():
        if value is None:
            out.pop(key, None)
        else:
            out[key] = _merge(out.get(key), value)
    return out


def _matcher(label_selector: str, field_selector: str) -> Callable[[Obj], bool]:
    fields = [part.split("=", 1) for part in field_selector.split(",") if part]
    selector = None
    if label_selector:
        from k3sd.apimachinery.selectors import parse_label_selector

        selector = parse_label_selector(label_selector)

    def value(obj: Any, path: str) -> Any:
        for part in path.split("."):
            obj = obj.get(part, "") if isinstance(obj, dict) else ""
        return obj

    def matches(obj: Obj) -> bool:
        if selector is not None and not selector.matches(obj["metadata"].get("labels")):
            return False
        return all(value(obj, path) == wanted.lstrip("=") for path, wanted in fields)

    return matches


def status_error(code: int, reason: str, message: str) -> StatusError:
    return StatusError(code, reason, message)
