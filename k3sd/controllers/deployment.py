"""Rolls Deployments out through ReplicaSets. The arithmetic is in ``rollout``.

Source: ``pkg/controller/deployment`` (``sync.go``, ``rolling.go``, ``recreate.go``, ``progress.go``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from k3sd.apimachinery.errors import Obj, StatusError
from k3sd.apimachinery.selectors import label_selector_from
from k3sd.apis import resources
from k3sd.client.api import DeleteOptions
from k3sd.client.informer import object_key
from k3sd.client.retry import update_with_retry
from k3sd.controllers import rollout
from k3sd.controllers.base import Context, Controller
from k3sd.controllers.objects import (
    annotations_of,
    controller_of,
    controller_reference,
    find_condition,
    has_cause,
    is_controlled_by,
    is_deleting,
    labels_of,
    name_of,
    namespace_of,
    remove_condition,
    set_count,
    uid_of,
)
from k3sd.controllers.podcontrol import claim, claimable, owner_in
from k3sd.controllers.pods import is_finished, owner_index
from k3sd.controllers.rollout import Scale, replicas_of
from k3sd.lib.jsonvalue import clone

_COUNTS = ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas", "unavailableReplicas")


def set_deployment_condition(status: Obj, type_: str, value: str, reason: str, message: str, now: str) -> None:
    """Set one condition unless status and reason are as before. Source: ``SetDeploymentCondition``."""
    conditions: list[Obj] = status.setdefault("conditions", [])
    old = next((c for c in conditions if c.get("type") == type_), None)
    if old is not None and old.get("status") == value and old.get("reason") == reason:
        return
    same = old is not None and old.get("status") == value
    new = {
        "type": type_,
        "status": value,
        "lastUpdateTime": now,
        "lastTransitionTime": old["lastTransitionTime"] if same and old is not None else now,
        "reason": reason,
        "message": message,
    }
    status["conditions"] = [*(c for c in conditions if c.get("type") != type_), new]


def compute_status(deployment: Obj, sets: Sequence[Obj], new: Obj | None, status: Obj, now: str) -> None:
    """Fill in counts and the Available condition, in place. Source: ``calculateStatus``."""
    available = rollout.total(sets, "availableReplicas")
    status["observedGeneration"] = deployment["metadata"].get("generation", 0)
    set_count(status, "replicas", rollout.total(sets, "replicas"))
    set_count(status, "updatedReplicas", rollout.count(new, "replicas") if new is not None else 0)
    set_count(status, "readyReplicas", rollout.total(sets, "readyReplicas"))
    set_count(status, "availableReplicas", available)
    set_count(status, "unavailableReplicas", max(0, rollout.total_replicas(sets) - available))
    status["terminatingReplicas"] = rollout.total(sets, "terminatingReplicas")
    if available >= replicas_of(deployment) - rollout.max_unavailable(deployment):
        set_deployment_condition(
            status, "Available", "True", "MinimumReplicasAvailable", "Deployment has minimum availability.", now
        )
    else:
        message = "Deployment does not have minimum availability."
        set_deployment_condition(status, "Available", "False", "MinimumReplicasUnavailable", message, now)


def compute_progress(deployment: Obj, sets: Sequence[Obj], new: Obj | None, status: Obj, now: str, epoch: float) -> None:
    """Fill in the Progressing and ReplicaFailure conditions, in place. Source: ``syncRolloutStatus``."""
    before = deployment.get("status") or {}
    subject = f'ReplicaSet "{name_of(new)}"' if new is not None else f'Deployment "{name_of(deployment)}"'

    def progressing(value: str, reason: str, message: str) -> None:
        set_deployment_condition(status, "Progressing", value, reason, message, now)

    if not rollout.has_deadline(deployment):
        remove_condition(status, "Progressing")
    current = find_condition({"status": status}, "Progressing")
    finished = (
        int(status.get("replicas") or 0) == int(status.get("updatedReplicas") or 0)
        and current is not None
        and current.get("reason") == "NewReplicaSetAvailable"
    )
    if rollout.has_deadline(deployment) and not finished:
        if rollout.is_complete(deployment, status):
            progressing("True", "NewReplicaSetAvailable", f"{subject} has successfully progressed.")
        elif rollout.is_progressing(before, status):
            message = f"{subject} is progressing."
            if current is not None and current.get("status") == "True":
                # Each step restarts the deadline although nothing but the time changes in the condition.
                same = current.get("reason") == "ReplicaSetUpdated"
                remove_condition(status, "Progressing")
                set_deployment_condition(status, "Progressing", "True", "ReplicaSetUpdated", message, now)
                condition = find_condition({"status": status}, "Progressing")
                assert condition is not None
                condition["lastTransitionTime"] = current.get("lastTransitionTime", now)
                if same:
                    condition["lastUpdateTime"] = now
            else:
                remove_condition(status, "Progressing")
                progressing("True", "ReplicaSetUpdated", message)
        elif rollout.is_timed_out(deployment, status, epoch):
            progressing("False", "ProgressDeadlineExceeded", f"{subject} has timed out progressing.")
    failures = [c for s in sets if (c := find_condition(s, "ReplicaFailure")) is not None]
    if failures:
        # The new set's failure tells more than an old one's.
        own = find_condition(new, "ReplicaFailure") if new is not None else None
        failure = own or failures[0]
        set_deployment_condition(
            status, "ReplicaFailure", failure["status"], failure.get("reason", ""), failure.get("message", ""), now
        )
    else:
        remove_condition(status, "ReplicaFailure")


class DeploymentController(Controller):
    name = "deployment-controller"

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx)
        self.recorder = ctx.recorder(self.name)
        self.deployments = self.informer(resources.DEPLOYMENTS, self.enqueue, self.enqueue_update, self.enqueue)
        self.sets = self.informer(resources.REPLICASETS, self._set_added, self._set_updated, self._set_deleted)
        self.sets.add_index("owner", owner_index)
        self.pods = self.informer(resources.PODS, on_delete=self._pod_deleted)
        self.pods.add_index("owner", owner_index)

    # -- events

    def _owner_of(self, one: Obj) -> Obj | None:
        return owner_in(self.deployments, "Deployment", one)

    def _enqueue_matching(self, one: Obj) -> None:
        for deployment in list(self.deployments.list(namespace_of(one))):
            if label_selector_from(deployment["spec"].get("selector")).matches(labels_of(one)):
                self.enqueue(deployment)

    def _set_added(self, one: Obj) -> None:
        if controller_of(one) is None and not is_deleting(one):
            self._enqueue_matching(one)
        else:
            self._set_deleted(one)

    def _set_updated(self, old: Obj, one: Obj) -> None:
        reference, before = controller_of(one), controller_of(old)
        if before != reference:
            self._set_deleted(old)
        if reference is not None:
            self._set_deleted(one)
        elif before is not None or labels_of(one) != labels_of(old):
            self._enqueue_matching(one)

    def _set_deleted(self, one: Obj) -> None:
        owner = self._owner_of(one)
        if owner is not None:
            self.enqueue(owner)

    def _pod_deleted(self, pod: Obj) -> None:
        """Only Recreate waits for pods to be gone."""
        reference = controller_of(pod)
        if reference is None or reference.get("kind") != "ReplicaSet":
            return
        one = self.sets.get(f"{namespace_of(pod)}/{reference['name']}")
        owner = self._owner_of(one) if one is not None else None
        if owner is not None and not rollout.is_rolling(owner) and not self._pods_of(owner):
            self.enqueue(owner)

    def _pods_of(self, deployment: Obj) -> list[Obj]:
        sets = self.sets.by_index("owner", uid_of(deployment))
        return [p for s in sets for p in self.pods.by_index("owner", uid_of(s))]

    # -- work

    async def reconcile(self, key: str) -> float | None:
        deployment = self.deployments.get(key)
        if deployment is None:
            return None
        selector = label_selector_from(deployment["spec"].get("selector"))
        if selector.empty:
            self.recorder.event(
                deployment,
                "Warning",
                "SelectingAll",
                "This deployment is selecting all pods. A non-empty selector is required.",
            )
            return None
        candidates = claimable(self.sets, deployment)
        sets = await claim(self.client, resources.DEPLOYMENTS, deployment, resources.REPLICASETS, candidates, selector)
        try:
            return await self._sync(deployment, sets)
        except StatusError as e:
            if e.code == 404 or has_cause(e, "NamespaceTerminating"):
                # The deployment or its namespace is going away; its last events bring us back if not.
                return None
            raise

    async def _sync(self, deployment: Obj, sets: list[Obj]) -> float | None:
        new = rollout.find_new_set(deployment, sets)
        if is_deleting(deployment):
            await self._write_status(deployment, sets, new)
            return None
        deployment = await self._check_paused(deployment)
        if deployment["spec"].get("paused") or rollout.is_scaling(deployment, sets):
            deployment, new = await self._new_set(deployment, sets, create=False)
            sets = self._replaced(sets, new)
            sets = await self._scale(deployment, sets, new)
            if deployment["spec"].get("paused"):
                deployment = await self._clean_up(deployment, self._old(sets, new))
            await self._write_status(deployment, sets, rollout.find_new_set(deployment, sets))
            return None
        if rollout.is_rolling(deployment):
            return await self._roll(deployment, sets)
        return await self._recreate(deployment, sets)

    @staticmethod
    def _old(sets: Sequence[Obj], new: Obj | None) -> list[Obj]:
        return [s for s in sets if new is None or uid_of(s) != uid_of(new)]

    @staticmethod
    def _replaced(sets: Sequence[Obj], changed: Obj | None) -> list[Obj]:
        """``sets`` with the newer version of one of them, or with one more."""
        if changed is None:
            return list(sets)
        out = [changed if uid_of(s) == uid_of(changed) else s for s in sets]
        return out if any(s is changed for s in out) else [*out, changed]

    async def _roll(self, deployment: Obj, sets: list[Obj]) -> float | None:
        deployment, new = await self._new_set(deployment, sets, create=True)
        if new is None:
            return None
        sets = self._replaced(sets, new)
        wanted = replicas_of(deployment)
        if replicas_of(new) > wanted:
            size = wanted
        else:
            size = rollout.new_set_replicas(deployment, sets, new)
        if size != replicas_of(new):
            new = await self._resize(deployment, Scale(new, size))
            return await self._status_and_deadline(deployment, self._replaced(sets, new), new)
        steps = rollout.scale_down_old(deployment, sets, self._old(sets, new), new)
        for step in steps:
            sets = self._replaced(sets, await self._resize(deployment, step))
        return await self._settle(deployment, sets, new, clean=not steps)

    async def _recreate(self, deployment: Obj, sets: list[Obj]) -> float | None:
        deployment, new = await self._new_set(deployment, sets, create=False)
        sets = self._replaced(sets, new)
        running = [s for s in self._old(sets, new) if replicas_of(s) > 0]
        if running:
            for one in running:
                sets = self._replaced(sets, await self._resize(deployment, Scale(one, 0)))
            return await self._status_and_deadline(deployment, sets, new)
        new_uid = uid_of(new) if new is not None else ""
        for one in self._old(sets, new):
            if any(not is_finished(p) for p in self.pods.by_index("owner", uid_of(one)) if uid_of(one) != new_uid):
                return await self._status_and_deadline(deployment, sets, new)
        deployment, new = await self._new_set(deployment, sets, create=True)
        if new is None:
            return None
        sets = self._replaced(sets, new)
        if replicas_of(new) != replicas_of(deployment):
            new = await self._resize(deployment, Scale(new, replicas_of(deployment)))
            sets = self._replaced(sets, new)
        return await self._settle(deployment, sets, new, clean=True)

    async def _settle(self, deployment: Obj, sets: list[Obj], new: Obj, *, clean: bool) -> float | None:
        if clean and rollout.is_complete(deployment, deployment.get("status") or {}):
            deployment = await self._clean_up(deployment, self._old(sets, new))
        return await self._status_and_deadline(deployment, sets, new)

    async def _status_and_deadline(self, deployment: Obj, sets: Sequence[Obj], new: Obj | None) -> float | None:
        deployment = await self._write_status(deployment, sets, new, progress=True)
        condition = find_condition(deployment, "Progressing")
        status = deployment.get("status") or {}
        if condition is None or condition.get("reason") in ("NewReplicaSetAvailable", "ProgressDeadlineExceeded"):
            return None
        if rollout.is_complete(deployment, status):
            return None
        left = rollout.deadline_in(deployment, self.ctx.clock())
        return max(left, 0.0) + 1.0 if left is not None else None

    # -- parts

    async def _check_paused(self, deployment: Obj) -> Obj:
        """Say in the Progressing condition that a rollout is paused or resumed. Source: ``checkPausedConditions``."""
        if not rollout.has_deadline(deployment):
            return deployment
        condition = find_condition(deployment, "Progressing")
        reason = condition.get("reason") if condition else ""
        paused = bool(deployment["spec"].get("paused"))
        if reason == "ProgressDeadlineExceeded":
            return deployment
        if paused and reason != "DeploymentPaused":
            what = ("DeploymentPaused", "Deployment is paused")
        elif not paused and reason == "DeploymentPaused":
            what = ("DeploymentResumed", "Deployment is resumed")
        else:
            return deployment
        now = self.ctx.now()
        return await self._change_status(
            deployment, lambda status: set_deployment_condition(status, "Progressing", "Unknown", *what, now)
        )

    async def _new_set(self, deployment: Obj, sets: Sequence[Obj], *, create: bool) -> tuple[Obj, Obj | None]:
        """The set of the current template, made when it is missing. Source: ``getNewReplicaSet``."""
        new = rollout.find_new_set(deployment, sets)
        revision = str(rollout.max_revision(self._old(sets, new)) + 1)
        if new is not None:
            annotations = dict(annotations_of(new))
            rollout.set_annotations(annotations, deployment, revision, exists=True)
            min_ready = int(deployment["spec"].get("minReadySeconds") or 0)

            def bring_up(one: Obj) -> None:
                one["metadata"]["annotations"] = annotations
                if int(one["spec"].get("minReadySeconds") or 0) != min_ready:
                    one["spec"]["minReadySeconds"] = min_ready

            changed = await self._update_set(new, bring_up)
            deployment = await self._set_revision(deployment, annotations_of(changed).get(rollout.REVISION, ""))
            if rollout.has_deadline(deployment) and find_condition(deployment, "Progressing") is None:
                message = f'Found new replica set "{name_of(new)}"'
                now = self.ctx.now()
                deployment = await self._change_status(
                    deployment,
                    lambda s: set_deployment_condition(s, "Progressing", "True", "FoundNewReplicaSet", message, now),
                )
            return deployment, changed
        if not create:
            return deployment, None
        return await self._create_set(deployment, sets, revision)

    async def _create_set(self, deployment: Obj, sets: Sequence[Obj], revision: str) -> tuple[Obj, Obj | None]:
        spec = deployment["spec"]
        template = clone(spec["template"])
        hashed = rollout.template_hash(template, (deployment.get("status") or {}).get("collisionCount"))
        template.setdefault("metadata", {}).setdefault("labels", {})[rollout.HASH_LABEL] = hashed
        selector = clone(spec["selector"])
        selector.setdefault("matchLabels", {})[rollout.HASH_LABEL] = hashed
        annotations: dict[str, str] = {}
        rollout.set_annotations(annotations, deployment, revision, exists=False)
        one: Obj = {
            "kind": "ReplicaSet",
            "apiVersion": "apps/v1",
            "metadata": {
                "name": f"{name_of(deployment)}-{hashed}",
                "namespace": namespace_of(deployment),
                "labels": dict(template["metadata"]["labels"]),
                "annotations": annotations,
                "ownerReferences": [controller_reference(deployment, resources.DEPLOYMENTS)],
            },
            "spec": {
                "replicas": 0,
                "minReadySeconds": int(spec.get("minReadySeconds") or 0),
                "selector": selector,
                "template": template,
            },
        }
        one["spec"]["replicas"] = rollout.new_set_replicas(deployment, sets, one)
        now = self.ctx.now()
        existed = False
        try:
            created = await self.client.create(resources.REPLICASETS, one, namespace_of(deployment))
        except StatusError as e:
            if e.reason == "AlreadyExists":
                found = await self.client.get(resources.REPLICASETS, name_of(one), namespace_of(deployment))
                if is_controlled_by(found, deployment) and rollout.same_template(found["spec"]["template"], template):
                    created, existed = found, True
                else:
                    await self._collide(deployment)
                    return deployment, None
            else:
                if has_cause(e, "NamespaceTerminating"):
                    raise
                message = f'Failed to create new replica set "{name_of(one)}": {e.message}'
                if rollout.has_deadline(deployment):
                    await self._change_status(
                        deployment,
                        lambda s: set_deployment_condition(s, "Progressing", "False", "ReplicaSetCreateError", message, now),
                    )
                self.recorder.event(deployment, "Warning", "ReplicaSetCreateError", message)
                raise
        size = replicas_of(created)
        if not existed and size > 0:
            self.recorder.event(
                deployment,
                "Normal",
                "ScalingReplicaSet",
                f"Scaled up replica set {name_of(created)} from 0 to {size}",
            )
        deployment = await self._set_revision(deployment, annotations_of(created).get(rollout.REVISION, revision))
        if not existed and rollout.has_deadline(deployment):
            message = f'Created new replica set "{name_of(created)}"'
            deployment = await self._change_status(
                deployment,
                lambda s: set_deployment_condition(s, "Progressing", "True", "NewReplicaSetCreated", message, now),
            )
        return deployment, created

    async def _collide(self, deployment: Obj) -> None:
        """Another set has the name: the next sync hashes differently."""

        def count(status: Obj) -> None:
            status["collisionCount"] = int(status.get("collisionCount") or 0) + 1

        await self._change_status(deployment, count)
        self.queue.add_rate_limited(object_key(deployment))

    async def _set_revision(self, deployment: Obj, revision: str) -> Obj:
        if not revision or annotations_of(deployment).get(rollout.REVISION) == revision:
            return deployment

        def change(obj: Obj) -> None:
            obj["metadata"].setdefault("annotations", {})[rollout.REVISION] = revision

        fresh = await self._update(deployment, change)
        # The rest of this sync goes on with the spec it began with; a newer one brings its own event.
        return {**fresh, "spec": deployment["spec"]} if fresh["spec"] != deployment["spec"] else fresh

    async def _scale(self, deployment: Obj, sets: Sequence[Obj], new: Obj | None) -> list[Obj]:
        """Follow a change of ``spec.replicas`` without moving the rollout on. Source: ``scale``."""
        active = [s for s in sets if replicas_of(s) > 0]
        out = list(sets)
        steps: list[Scale] = []
        if len(active) <= 1:
            one = active[0] if active else new or max(sets, key=rollout.created, default=None)
            if one is not None:
                steps = [Scale(one, replicas_of(deployment))]
        elif new is not None and rollout.is_saturated(deployment, new):
            steps = [Scale(s, 0) for s in active if uid_of(s) != uid_of(new)]
        elif rollout.is_rolling(deployment):
            wanted = replicas_of(deployment)
            allowed = wanted + rollout.fenceposts(deployment)[0] if wanted > 0 else 0
            steps = rollout.scale_proportionally(deployment, active, allowed)
        for step in steps:
            out = self._replaced(out, await self._resize(deployment, step))
        return out

    async def _resize(self, deployment: Obj, step: Scale) -> Obj:
        """Set a set's size and note for which deployment size it was made."""
        before = replicas_of(step.target)
        wanted = replicas_of(deployment)

        def change(one: Obj) -> None:
            one["spec"]["replicas"] = step.replicas
            annotations = one["metadata"].setdefault("annotations", {})
            rollout.set_replica_annotations(annotations, wanted, wanted + rollout.fenceposts(deployment)[0])

        changed = await self._update_set(step.target, change)
        if before != step.replicas:
            direction = "up" if before < step.replicas else "down"
            self.recorder.event(
                deployment,
                "Normal",
                "ScalingReplicaSet",
                f"Scaled {direction} replica set {name_of(changed)} from {before} to {step.replicas}",
            )
        return changed

    async def _clean_up(self, deployment: Obj, old: Sequence[Obj]) -> Obj:
        for one in rollout.to_clean_up(deployment, old):
            try:
                await self.client.delete(resources.REPLICASETS, name_of(one), namespace_of(one), DeleteOptions(uid=uid_of(one)))
            except StatusError as e:
                if e.code != 404:
                    raise
        return deployment

    # -- writing

    async def _update_set(self, one: Obj, change: Callable[[Obj], object]) -> Obj:
        return await update_with_retry(
            self.client,
            resources.REPLICASETS,
            name_of(one),
            namespace_of(one),
            change,
            initial=one,
            uid=uid_of(one),
        )

    async def _update(self, deployment: Obj, change: Callable[[Obj], object], subresource: str = "") -> Obj:
        return await update_with_retry(
            self.client,
            resources.DEPLOYMENTS,
            name_of(deployment),
            namespace_of(deployment),
            change,
            subresource=subresource,
            initial=deployment if subresource or deployment is self.deployments.get(object_key(deployment)) else None,
            uid=uid_of(deployment),
        )

    async def _change_status(self, deployment: Obj, change: Callable[[Obj], object]) -> Obj:
        fresh = await self._update(deployment, lambda obj: change(obj.setdefault("status", {})), "status")
        # Keep the spec and generation this sync began with, as above.
        if fresh["metadata"].get("generation") == deployment["metadata"].get("generation"):
            return fresh
        generation = deployment["metadata"].get("generation")
        return {**fresh, "spec": deployment["spec"], "metadata": {**fresh["metadata"], "generation": generation}}

    async def _write_status(self, deployment: Obj, sets: Sequence[Obj], new: Obj | None, *, progress: bool = False) -> Obj:
        now, epoch = self.ctx.now(), self.ctx.clock()

        def change(status: Obj) -> None:
            compute_status(deployment, sets, new, status, now)
            if progress:
                compute_progress(deployment, sets, new, status, now, epoch)

        return await self._change_status(deployment, change)
