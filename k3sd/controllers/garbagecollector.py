"""Deletes objects whose owners are gone, deletes owners after their dependents, sets dependents free.

The owner graph is fed by watches on every deletable resource; before anything is deleted or set free, the object and its owners
are read again, so a late or missed event costs time but never an object. Source: ``pkg/controller/garbagecollector``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from k3sd.apimachinery.errors import Obj, StatusError
from k3sd.apimachinery.resource import Resource
from k3sd.apis import resources
from k3sd.client.api import DeleteOptions
from k3sd.client.informer import Reflector
from k3sd.client.retry import update_with_retry
from k3sd.controllers.base import Context, Controller
from k3sd.controllers.catalog import Catalog
from k3sd.controllers.objects import is_deleting, uid_of, version_of
from k3sd.controllers.ownergraph import FOREGROUND, ORPHAN, Node, Owner, OwnerGraph

log = logging.getLogger(__name__)

IGNORED = frozenset({resources.EVENTS})
CHECK, FREE = "check", "free"

Verdict = Literal["solid", "dangling", "waiting", "unknown"]


class Judged(NamedTuple):
    """Owner uids by what their owners are: existing, absent, or being deleted after this dependent."""

    solid: list[str]
    dangling: list[str]
    waiting: list[str]


class _Sink:
    """Feeds one resource's list and watch into the graph; keeps nothing itself."""

    def __init__(self, graph: OwnerGraph, resource: Resource) -> None:
        self._graph = graph
        self._resource = resource

    def replace(self, items: Sequence[Obj]) -> None:
        self._graph.replace(self._resource, items)

    def apply(self, type_: str, obj: Obj) -> None:
        if type_ == "DELETED":
            self._graph.gone(uid_of(obj))
        else:
            self._graph.seen(self._resource, obj)


class GarbageCollector(Controller):
    name = "garbage-collector-controller"
    workers = 20

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx)
        self.recorder = ctx.recorder("garbage-collector-controller")
        self.graph = OwnerGraph(lambda uid: self.queue.add(f"{CHECK}/{uid}"), lambda uid: self.queue.add(f"{FREE}/{uid}"))
        self.catalog = Catalog(ctx)
        self._removers.append(self.catalog.close)
        self.informer(resources.CUSTOMRESOURCEDEFINITIONS)
        self.catalog.subscribe(self._resource_changed)
        self._watches: dict[Resource, tuple[Reflector, asyncio.Task[None]]] = {}
        self._unresolved: set[str] = set()

    # -- watching everything

    async def run(self) -> None:
        self.catalog.informer.start()
        await self.catalog.informer.wait_synced()
        try:
            for resource in self.catalog.all("delete"):
                self._start(resource)
            built_in = [r.synced.wait() for r, _ in self._watches.values() if r.resource.type_name]
            # An object must not be judged while its owner's resource was never listed.
            await asyncio.gather(*built_in)
            await super().run()
        finally:
            tasks = [task for _, task in self._watches.values()]
            self._watches.clear()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, resource: Resource) -> None:
        if resource in IGNORED or resource in self._watches or not {"list", "watch"} <= set(resource.verbs):
            return
        reflector = Reflector(self.client, resource, _Sink(self.graph, resource))
        task = asyncio.get_running_loop().create_task(reflector.run(), name=f"garbage collector {resource.qualified}")
        self._watches[resource] = (reflector, task)

    def _resource_changed(self, added: Resource | None, removed: Resource | None) -> None:
        if not self._watches:
            return
        if removed is not None and removed in self._watches:
            _, task = self._watches.pop(removed)
            task.cancel()
            self.graph.replace(removed, [])
        if added is not None:
            self._start(added)
        unresolved, self._unresolved = self._unresolved, set()
        for uid in unresolved:
            self.queue.add(f"{CHECK}/{uid}")

    # -- judging

    async def reconcile(self, key: str) -> None:
        what, _, uid = key.partition("/")
        node = self.graph.nodes.get(uid)
        if node is None or not node.observed or node.resource is None:
            return
        if what == FREE:
            await self._set_free(node)
        elif node.foreground:
            await self._continue_foreground(node)
        elif not node.deleting:
            await self._check(node)

    async def _read(self, node: Node) -> Obj | None:
        """The object as it is now; None (and the graph knows) when it is gone or another one has its name."""
        assert node.resource is not None
        try:
            obj = await self.client.get(node.resource, node.name, node.namespace or None)
        except StatusError as e:
            if e.code != 404:
                raise
            obj = None
        if obj is None or uid_of(obj) != node.uid:
            self.graph.gone(node.uid)
            return None
        return obj

    async def _check(self, node: Node) -> None:
        """Delete the object unless an owner holds it. Source: ``attemptToDeleteItem``."""
        obj = await self._read(node)
        if obj is None or is_deleting(obj) or node.resource is None:
            return
        owners = [Owner.of(r) for r in obj["metadata"].get("ownerReferences") or ()]
        if not owners:
            return
        judged = await self._judge(node, owners)
        if judged is None:
            return
        if judged.solid:
            stale = {*judged.dangling, *judged.waiting}
            if stale:
                # Another owner holds it: it only stops belonging to those that are going.
                await self._edit(node, obj, lambda o: _drop_owners(o, stale))
            return
        if judged.waiting and node.dependents:
            if any(d.foreground for d in node.dependents.values()):
                # A circle: each would wait for the next for ever. This one stops holding its owner up.
                await self._edit(node, obj, _unblock_owners)
            await self._delete(node, obj, "Foreground")
            return
        finalizers = obj["metadata"].get("finalizers") or ()
        policy = "Orphan" if ORPHAN in finalizers else "Foreground" if FOREGROUND in finalizers else "Background"
        await self._delete(node, obj, policy)

    async def _judge(self, node: Node, owners: Sequence[Owner]) -> Judged | None:
        """Read every owner; None when one is of a kind nobody serves (it will be asked again when kinds change)."""
        judged = Judged([], [], [])
        for owner in owners:
            verdict = await self._verdict(node, owner)
            if verdict == "unknown":
                self._unresolved.add(node.uid)
                return None
            getattr(judged, verdict).append(owner.uid)
        return judged

    async def _verdict(self, node: Node, owner: Owner) -> Verdict:
        resource = self.catalog.by_kind(owner.api_version, owner.kind)
        if resource is None:
            log.debug("%s %s: owner kind %s %s is not served", node.resource, node.name, owner.api_version, owner.kind)
            return "unknown"
        if resource.namespaced and not node.namespace:
            self._warn_namespace(node, owner)
            return "solid"
        namespace = node.namespace if resource.namespaced else ""
        try:
            found = await self.client.get(resource, owner.name, namespace or None)
        except StatusError as e:
            if e.code != 404:
                raise
            return "dangling"
        if uid_of(found) != owner.uid:
            return "dangling"
        parent = self.graph.nodes.get(owner.uid)
        if parent is not None:
            self.graph.verify(parent, resource, namespace, owner.name)
        if is_deleting(found) and FOREGROUND in (found["metadata"].get("finalizers") or ()):
            return "waiting"
        return "solid"

    def _warn_namespace(self, node: Node, owner: Owner) -> None:
        assert node.resource is not None
        reference = {
            "kind": node.resource.kind,
            "apiVersion": node.resource.api_version,
            "name": node.name,
            "uid": node.uid,
        }
        text = f"{owner.api_version}/{owner.kind}, namespace: , name: {owner.name}, uid: {owner.uid}"
        message = f'ownerRef [{text}] does not exist in namespace ""'
        self.recorder.event(reference, "Warning", "OwnerRefInvalidNamespace", message)

    async def _continue_foreground(self, node: Node) -> None:
        """Let the owner go when no dependent blocks it any more. Source: ``processDeletingDependentsItem``."""
        blocking = node.blocking_dependents
        if not blocking:
            obj = await self._read(node)
            if obj is not None:
                await self._edit(node, obj, lambda o: _drop_finalizer(o, FOREGROUND))
            return
        for dependent in blocking:
            if not dependent.foreground:
                self.queue.add(f"{CHECK}/{dependent.uid}")

    async def _set_free(self, node: Node) -> None:
        """Take the owner out of its dependents' references, then let it go. Source: ``attemptToOrphanWorker``."""

        async def free(dependent: Node) -> None:
            if dependent.resource is None or not dependent.observed:
                return
            obj = await self._read(dependent)
            if obj is not None:
                await self._edit(dependent, obj, lambda o: _drop_owners(o, {node.uid}))

        await asyncio.gather(*(free(d) for d in list(node.dependents.values())))
        obj = await self._read(node)
        if obj is not None:
            await self._edit(node, obj, lambda o: _drop_finalizer(o, ORPHAN))

    # -- writing

    async def _edit(self, node: Node, obj: Obj, change: Callable[[Obj], object]) -> None:
        assert node.resource is not None
        try:
            await update_with_retry(
                self.client, node.resource, node.name, node.namespace or None, change, initial=obj, uid=node.uid
            )
        except StatusError as e:
            if e.code != 404:
                raise

    async def _delete(self, node: Node, obj: Obj, policy: str) -> None:
        assert node.resource is not None
        options = DeleteOptions(propagation_policy=policy, uid=node.uid, resource_version=version_of(obj))
        try:
            await self.client.delete(node.resource, node.name, node.namespace or None, options)
        except StatusError as e:
            if e.code == 404:
                return
            if e.reason != "Conflict":
                raise
            # It changed since we judged it, perhaps its owners did.
            self.queue.add_rate_limited(f"{CHECK}/{node.uid}")


def _drop_owners(obj: Obj, uids: set[str]) -> None:
    metadata = obj["metadata"]
    kept = [r for r in metadata.get("ownerReferences") or () if r.get("uid") not in uids]
    if kept:
        metadata["ownerReferences"] = kept
    else:
        metadata.pop("ownerReferences", None)


def _unblock_owners(obj: Obj) -> None:
    for reference in obj["metadata"].get("ownerReferences") or ():
        if reference.get("blockOwnerDeletion"):
            reference["blockOwnerDeletion"] = False


def _drop_finalizer(obj: Obj, finalizer: str) -> None:
    metadata = obj["metadata"]
    kept = [f for f in metadata.get("finalizers") or () if f != finalizer]
    if kept:
        metadata["finalizers"] = kept
    else:
        metadata.pop("finalizers", None)
