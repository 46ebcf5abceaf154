"""Keeps as many pods as a ReplicaSet, or a ReplicationController, asks for.

One code for both kinds, as upstream; they differ in their selector's shape and in whether a deleted set's pods are known by
kind. Source: ``pkg/controller/replicaset``, ``pkg/controller/replication``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import ClassVar

from k3sd.apimachinery.errors import Obj, StatusError
from k3sd.apimachinery.resource import Resource
from k3sd.apimachinery.selectors import LabelSelector, label_selector_from
from k3sd.apis import resources
from k3sd.client.informer import object_key
from k3sd.controllers.base import Context, Controller
from k3sd.controllers.expectations import Expectations
from k3sd.controllers.objects import (
    controller_of,
    controller_reference,
    find_condition,
    has_cause,
    is_deleting,
    labels_of,
    namespace_of,
    remove_condition,
    set_condition,
    set_count,
    uid_of,
)
from k3sd.controllers.podcontrol import PodControl, claim, claimable, owner_in, slow_start
from k3sd.controllers.pods import (
    available_in,
    earliest,
    is_active,
    is_ready,
    owner_index,
    pod_from_template,
    pods_to_delete,
    template_labels,
)

BURST = 500


def compute_status(
    owner: Obj, status: Obj, active: Sequence[Obj], terminating: int, failure: tuple[str, str] | None, now: float, stamp: str
) -> None:
    """Fill in ``status`` (in place): the counts and our own condition, nothing else. Source: ``calculateStatus``.

    ``failure`` is ``(reason, message)`` when creating or deleting pods failed.
    """
    wanted = template_labels(owner)
    min_ready = int(owner["spec"].get("minReadySeconds") or 0)
    status["replicas"] = len(active)
    labelled = sum(all(labels_of(p).get(k) == v for k, v in wanted.items()) for p in active)
    set_count(status, "fullyLabeledReplicas", labelled)
    set_count(status, "readyReplicas", sum(is_ready(p) for p in active))
    set_count(status, "availableReplicas", sum(available_in(p, min_ready, now) == 0.0 for p in active))
    if owner["kind"] == "ReplicaSet":
        status["terminatingReplicas"] = terminating
    status["observedGeneration"] = owner["metadata"].get("generation", 0)
    if failure is not None:
        reason, message = failure
        condition = {"type": "ReplicaFailure", "status": "True", "reason": reason, "message": message}
        set_condition(status, condition, stamp, keep_reason=True)
    else:
        remove_condition(status, "ReplicaFailure")


class ReplicaSetController(Controller):
    name = "replicaset-controller"
    resource: ClassVar[Resource] = resources.REPLICASETS
    component: ClassVar[str] = "replicaset-controller"

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx)
        self.expectations = Expectations()
        self.recorder = ctx.recorder(self.component)
        self.pod_control = PodControl(self.client, self.recorder)
        self.sets = self.informer(self.resource, self.enqueue, self.enqueue_update, self._set_deleted)
        self.sets.add_index("owner", owner_index)
        self.pods = self.informer(resources.PODS, self._pod_added, self._pod_updated, self._pod_deleted)
        self.pods.add_index("owner", owner_index)

    # -- events

    def _set_deleted(self, owner: Obj) -> None:
        self.expectations.forget(object_key(owner))
        self.enqueue(owner)

    def _owner_of(self, pod: Obj) -> Obj | None:
        return owner_in(self.sets, self.resource.kind, pod)

    def _enqueue_matching(self, pod: Obj) -> None:
        for owner in list(self.sets.list(namespace_of(pod))):
            if self.selector(owner).matches(labels_of(pod)):
                self.enqueue(owner)

    def _pod_added(self, pod: Obj) -> None:
        if is_deleting(pod):
            self._pod_deleted(pod)
            return
        if controller_of(pod) is None:
            self._enqueue_matching(pod)
            return
        owner = self._owner_of(pod)
        if owner is not None:
            self.expectations.creation_observed(object_key(owner))
            self.enqueue(owner)

    def _pod_updated(self, old: Obj, pod: Obj) -> None:
        if is_deleting(pod):
            # A deletion counts as soon as it is asked for: the replacement need not wait for the old pod's grace period.
            self._pod_deleted(pod)
            return
        reference, before = controller_of(pod), controller_of(old)
        if before is not None and (reference is None or before.get("uid") != reference.get("uid")):
            previous = self._owner_of(old)
            if previous is not None:
                self.enqueue(previous)
        if reference is not None:
            owner = self._owner_of(pod)
            if owner is not None:
                self.enqueue(owner)
        elif before is not None or labels_of(pod) != labels_of(old):
            self._enqueue_matching(pod)

    def _pod_deleted(self, pod: Obj) -> None:
        owner = self._owner_of(pod)
        if owner is not None:
            self.expectations.deletion_observed(object_key(owner), uid_of(pod))
            self.enqueue(owner)

    # -- work

    def selector(self, owner: Obj) -> LabelSelector:
        return label_selector_from(owner["spec"].get("selector"))

    async def reconcile(self, key: str) -> float | None:
        owner = self.sets.get(key)
        if owner is None:
            self.expectations.forget(key)
            return None
        needs_sync = self.expectations.satisfied(key)
        mine = await self._claim(owner)
        active = [p for p in mine if is_active(p)]
        failure: tuple[str, str] | None = None
        error: StatusError | None = None
        if needs_sync and not is_deleting(owner):
            failure, error = await self._manage(key, owner, active)
        elif (known := find_condition(owner, "ReplicaFailure")) is not None:
            # Nothing was tried, so nothing is known to be better.
            failure = known.get("reason", ""), known.get("message", "")
        terminating = sum(is_deleting(p) for p in mine)
        owner = await self._write_status(owner, active, terminating, failure)
        if error is not None:
            raise error
        min_ready = int(owner["spec"].get("minReadySeconds") or 0)
        waits = [t for p in active if (t := available_in(p, min_ready, self.ctx.clock()))] if min_ready else []
        return earliest([*waits, self.expectations.overdue_in(key)])

    async def _claim(self, owner: Obj) -> list[Obj]:
        candidates = claimable(self.pods, owner)
        return await claim(
            self.client,
            self.resource,
            owner,
            resources.PODS,
            candidates,
            self.selector(owner),
            adoptable=is_active,
        )

    async def _manage(self, key: str, owner: Obj, active: Sequence[Obj]) -> tuple[tuple[str, str] | None, StatusError | None]:
        """Create or delete pods; the ReplicaFailure condition's reason and message, and the failure behind it."""
        wanted = int(owner["spec"].get("replicas", 1))
        missing = wanted - len(active)
        if missing > 0:
            return await self._create(key, owner, min(missing, BURST))
        if missing < 0:
            return await self._delete(key, owner, active, min(-missing, BURST))
        return None, None

    async def _create(self, key: str, owner: Obj, count: int) -> tuple[tuple[str, str] | None, StatusError | None]:
        self.expectations.expect_creations(key, count)
        reference = controller_reference(owner, self.resource)
        template = owner["spec"]["template"]
        terminating = False

        async def one(_: int) -> None:
            nonlocal terminating
            try:
                await self.pod_control.create(pod_from_template(template, owner, reference), owner)
            except StatusError as e:
                if not has_cause(e, "NamespaceTerminating"):
                    raise
                terminating = True

        try:
            succeeded, error = await slow_start(count, one)
        except BaseException:
            self.expectations.forget(key)
            raise
        if terminating:
            self.expectations.forget(key)
            return None, None
        self.expectations.creation_observed(key, count - succeeded)
        if error is None:
            return None, None
        if not isinstance(error, StatusError):
            raise error
        return ("FailedCreate", error.message), error

    async def _delete(
        self, key: str, owner: Obj, active: Sequence[Obj], count: int
    ) -> tuple[tuple[str, str] | None, StatusError | None]:
        chosen = pods_to_delete(active, self._related(owner), count, self.ctx.clock())
        self.expectations.expect_deletions(key, (uid_of(p) for p in chosen))
        errors: list[StatusError] = []

        async def one(i: int) -> None:
            try:
                await self.pod_control.delete(chosen[i], owner)
            except StatusError as e:
                self.expectations.deletion_observed(key, uid_of(chosen[i]))
                errors.append(e)

        try:
            await asyncio.gather(*(one(i) for i in range(len(chosen))))
        except BaseException:
            self.expectations.forget(key)
            raise
        return (("FailedDelete", errors[0].message), errors[0]) if errors else (None, None)

    def _related(self, owner: Obj) -> list[Obj]:
        """Pods of all sets with the same owner (a Deployment's). Source: ``getIndirectlyRelatedPods``."""
        reference = controller_of(owner)
        siblings = self.sets.by_index("owner", str(reference["uid"])) if reference else [owner]
        return [p for s in siblings for p in self.pods.by_index("owner", uid_of(s))]

    async def _write_status(self, owner: Obj, active: Sequence[Obj], terminating: int, failure: tuple[str, str] | None) -> Obj:
        now, stamp = self.ctx.clock(), self.ctx.now()

        def change(obj: Obj) -> None:
            status = obj.setdefault("status", {})
            # Observed is what was looked at, not what a re-read after a conflict brought.
            source = {**obj, "spec": owner["spec"], "metadata": owner["metadata"]}
            compute_status(source, status, active, terminating, failure, now, stamp)

        return await self.write_status(self.resource, owner, change)


class ReplicationControllerController(ReplicaSetController):
    name = "replicationcontroller-controller"
    resource = resources.REPLICATIONCONTROLLERS
    component = "replication-controller"

    def selector(self, owner: Obj) -> LabelSelector:
        """A plain map; an empty one selects nothing."""
        return label_selector_from(owner["spec"].get("selector") or None)
