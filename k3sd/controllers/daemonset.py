"""Runs one pod of a DaemonSet on every eligible node. The rules are in ``daemonrules``.

Source: ``pkg/controller/daemon``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from k3sd.apimachinery.errors import Obj, StatusError
from k3sd.apimachinery.resource import Resource
from k3sd.apimachinery.selectors import LabelSelector, label_selector_from
from k3sd.apis import resources
from k3sd.client.informer import object_key
from k3sd.controllers import daemonrules as rules
from k3sd.controllers import history
from k3sd.controllers.base import Context, Controller
from k3sd.controllers.expectations import Expectations
from k3sd.controllers.objects import controller_of, has_cause, is_deleting, labels_of, name_of, namespace_of, uid_of
from k3sd.controllers.podcontrol import PodControl, claim, claimable, owner_in, slow_start
from k3sd.controllers.pods import available_in, earliest, is_active, owner_index

BURST = 250
FAILED_BACKOFF_FIRST_SECONDS = 1.0
FAILED_BACKOFF_CAP_SECONDS = 900.0


class DaemonSetController(Controller):
    name = "daemonset-controller"
    workers = 2

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx)
        self.recorder = ctx.recorder(self.name)
        self.pod_control = PodControl(self.client, self.recorder)
        self.expectations = Expectations()
        # (set uid, node) -> (how often in a row, loop time of the last replacement)
        self._failures: dict[tuple[str, str], tuple[int, float]] = {}
        self.sets = self.informer(resources.DAEMONSETS, self.enqueue, self.enqueue_update, self._set_deleted)
        self.nodes = self.informer(resources.NODES, self._node, self._node_updated, self._node)
        self.pods = self.informer(resources.PODS, self._pod_added, self._pod_updated, self._pod_deleted)
        self.pods.add_index("owner", owner_index)
        self.revisions = self.informer(resources.CONTROLLERREVISIONS)
        self.revisions.add_index("owner", owner_index)

    # -- events

    def _set_deleted(self, owner: Obj) -> None:
        self.expectations.forget(object_key(owner))
        for key in [k for k in self._failures if k[0] == uid_of(owner)]:
            del self._failures[key]

    def _node(self, node: Obj) -> None:
        for owner in self.sets.list():
            self.enqueue(owner)

    def _node_updated(self, old: Obj, node: Obj) -> None:
        if labels_of(old) == labels_of(node) and old["spec"].get("taints") == node["spec"].get("taints"):
            return
        for owner in self.sets.list():
            if rules.eligible(owner, old) != rules.eligible(owner, node):
                self.enqueue(owner)

    def _owner_of(self, pod: Obj) -> Obj | None:
        return owner_in(self.sets, "DaemonSet", pod)

    def _pod_added(self, pod: Obj) -> None:
        if is_deleting(pod):
            self._pod_deleted(pod)
            return
        owner = self._owner_of(pod)
        if owner is not None:
            self.expectations.creation_observed(object_key(owner))
            self.enqueue(owner)
        elif controller_of(pod) is None:
            for one in self.sets.list(namespace_of(pod)):
                if label_selector_from(one["spec"].get("selector")).matches(labels_of(pod)):
                    self.enqueue(one)

    def _pod_updated(self, old: Obj, pod: Obj) -> None:
        if is_deleting(pod):
            self._pod_deleted(pod)
            return
        if controller_of(old) != controller_of(pod):
            previous = self._owner_of(old)
            if previous is not None:
                self.enqueue(previous)
        owner = self._owner_of(pod)
        if owner is not None:
            self.enqueue(owner)
        elif controller_of(pod) is None:
            self._pod_added(pod)

    def _pod_deleted(self, pod: Obj) -> None:
        owner = self._owner_of(pod)
        if owner is not None:
            self.expectations.deletion_observed(object_key(owner), uid_of(pod))
            self.enqueue(owner)

    # -- work

    async def reconcile(self, key: str) -> float | None:
        owner = self.sets.get(key)
        if owner is None:
            self.expectations.forget(key)
            return None
        selector = label_selector_from(owner["spec"].get("selector"))
        if selector.empty:
            message = "This daemon set is selecting all pods. A non-empty selector is required."
            self.recorder.event(owner, "Warning", "SelectingAll", message)
            return None
        pods = await self._claim(owner, resources.PODS, selector)
        revisions = await self._claim(owner, resources.CONTROLLERREVISIONS, selector)
        current, old, collisions = await self._revisions(owner, revisions)
        # A revision made by hand may lack the label; its name is as good.
        hashed = labels_of(current).get(rules.HASH) or name_of(current)
        placed = rules.by_node(pods)
        nodes = list(self.nodes.list())
        now = self.ctx.clock()
        again: float | None = None
        error: StatusError | None = None
        if not is_deleting(owner) and self.expectations.satisfied(key):
            changes = rules.place(owner, nodes, placed, hashed, now)
            again = self._ready_failures(owner, changes)
            if not changes.create and not changes.delete and self._is_rolling(owner):
                changes = rules.roll(owner, nodes, placed, hashed, now)
            try:
                await self._act(key, owner, changes, hashed)
            except StatusError as e:
                if has_cause(e, "NamespaceTerminating"):
                    return None
                error = e
        await self._clean_up(owner, old, pods)
        await self._write_status(owner, nodes, placed, hashed, collisions)
        if error is not None:
            raise error
        min_ready = int(owner["spec"].get("minReadySeconds") or 0)
        waits = [t for p in pods if is_active(p) and (t := available_in(p, min_ready, now))]
        return earliest([again, self.expectations.overdue_in(key), *waits])

    async def _claim(self, owner: Obj, resource: Resource, selector: LabelSelector) -> list[Obj]:
        informer = self.pods if resource is resources.PODS else self.revisions
        candidates = claimable(informer, owner)
        return await claim(self.client, resources.DAEMONSETS, owner, resource, candidates, selector)

    @staticmethod
    def _is_rolling(owner: Obj) -> bool:
        return bool((owner["spec"].get("updateStrategy") or {}).get("type", "RollingUpdate") == "RollingUpdate")

    async def _revisions(self, owner: Obj, revisions: Sequence[Obj]) -> tuple[Obj, list[Obj], int | None]:
        """``(current, older, collision count)``. Revisions are told apart by their data. Source: ``constructHistory``."""
        collisions = (owner.get("status") or {}).get("collisionCount")
        labels = dict((owner["spec"]["template"].get("metadata") or {}).get("labels") or {})

        def build(count: int | None) -> Obj:
            number = history.next_number(revisions)
            return history.build_revision(owner, resources.DAEMONSETS, labels, number, rules.HASH, count)

        wanted = build(collisions)
        equal = sorted((r for r in revisions if history.same_data(r, wanted)), key=history.order)
        old = [r for r in revisions if not history.same_data(r, wanted)]
        if not equal:
            if is_deleting(owner):
                return wanted, old, collisions
            made, collisions = await history.create_revision(self.client, owner, wanted, build)
            return made, old, collisions
        current = equal[-1]
        newest = max((int(r.get("revision") or 0) for r in old), default=0)
        if int(current.get("revision") or 0) <= newest:
            current = await history.set_number(self.client, current, newest + 1)
        return current, old, collisions

    def _ready_failures(self, owner: Obj, changes: rules.Changes) -> float | None:
        """Move failed pods to the deletions when their backoff is over; seconds until the next is."""
        now = asyncio.get_running_loop().time()
        waits: list[float] = []
        for pod in changes.failed:
            key = (uid_of(owner), rules.target_node(pod))
            times, last = self._failures.get(key, (0, float("-inf")))
            delay = min(FAILED_BACKOFF_FIRST_SECONDS * 2.0 ** min(max(times - 1, 0), 20), FAILED_BACKOFF_CAP_SECONDS)
            if now - last > 2 * FAILED_BACKOFF_CAP_SECONDS:
                times = 0
            if times and now - last < delay:
                waits.append(last + delay - now)
                continue
            self._failures[key] = (times + 1, now)
            message = f"Found failed daemon pod {object_key(pod)} on node {key[1]}, will try to kill it"
            self.recorder.event(owner, "Warning", "FailedDaemonPod", message)
            changes.delete.append(pod)
        return min(waits, default=None)

    async def _act(self, key: str, owner: Obj, changes: rules.Changes, hashed: str) -> None:
        delete, create = changes.delete[:BURST], changes.create[:BURST]
        if not delete and not create:
            return
        if create:
            self.expectations.expect_creations(key, len(create))
            if delete:
                # One entry holds both: creations first, then the deletions' uids.
                self.expectations.also_expect_deletions(key, (uid_of(p) for p in delete))
        else:
            self.expectations.expect_deletions(key, (uid_of(p) for p in delete))

        async def make(i: int) -> None:
            await self.pod_control.create(rules.build_pod(owner, create[i], hashed), owner)

        async def remove(pod: Obj) -> None:
            try:
                await self.pod_control.delete(pod, owner)
            except BaseException:
                self.expectations.deletion_observed(key, uid_of(pod))
                raise

        try:
            succeeded, error = await slow_start(len(create), make)
            self.expectations.creation_observed(key, len(create) - succeeded)
            results = await asyncio.gather(*map(remove, delete), return_exceptions=True)
        except BaseException:
            self.expectations.forget(key)
            raise
        for failure in [error, *results]:
            if isinstance(failure, BaseException):
                raise failure

    async def _clean_up(self, owner: Obj, old: Sequence[Obj], pods: Sequence[Obj]) -> None:
        used = {labels_of(p).get(rules.HASH) for p in pods}
        live = {name_of(r) for r in old if labels_of(r).get(rules.HASH) in used}
        await history.truncate(self.client, old, live, int(owner["spec"].get("revisionHistoryLimit", 10)))

    async def _write_status(
        self, owner: Obj, nodes: Sequence[Obj], pods: dict[str, list[Obj]], hashed: str, collisions: int | None
    ) -> None:
        now = self.ctx.clock()

        def change(obj: Obj) -> None:
            status = obj.setdefault("status", {})
            rules.compute_status(owner, status, nodes, pods, hashed, now)
            if collisions is not None:
                status["collisionCount"] = collisions

        await self.write_status(resources.DAEMONSETS, owner, change)
