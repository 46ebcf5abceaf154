"""Runs StatefulSets: pods with names, volumes and an order. What is to be done next is decided by ``decide``.

Source: ``pkg/controller/statefulset`` (``stateful_set_control.go``, ``stateful_set_utils.go``).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from k3sd.apimachinery.errors import Obj, StatusError
from k3sd.apimachinery.selectors import label_selector_from
from k3sd.apis import resources
from k3sd.client.api import DeleteOptions
from k3sd.client.retry import update_with_retry
from k3sd.controllers import history
from k3sd.controllers.base import Context, Controller
from k3sd.controllers.objects import (
    controller_of,
    controller_reference,
    has_cause,
    is_controlled_by,
    is_deleting,
    labels_of,
    name_of,
    namespace_of,
    scaled_value,
    set_count,
    uid_of,
)
from k3sd.controllers.podcontrol import claim, claimable, owner_in
from k3sd.controllers.pods import (
    available_in,
    earliest,
    is_available,
    is_finished,
    is_ready,
    owner_index,
    phase_of,
    pod_from_template,
)
from k3sd.lib.jsonvalue import clone

POD_NAME = "statefulset.kubernetes.io/pod-name"
POD_INDEX = "apps.kubernetes.io/pod-index"
REVISION = "controller-revision-hash"


def ordinal_of(owner: Obj, pod: Obj) -> int | None:
    """The pod's number, None when its name is not one of this set."""
    match = re.fullmatch(re.escape(name_of(owner)) + r"-(\d+)", name_of(pod))
    return int(match[1]) if match else None


def start_of(owner: Obj) -> int:
    return int((owner["spec"].get("ordinals") or {}).get("start") or 0)


def replicas_of(owner: Obj) -> int:
    return int(owner["spec"].get("replicas", 1))


def is_running_and_ready(pod: Obj) -> bool:
    return phase_of(pod) == "Running" and is_ready(pod)


def partition_of(owner: Obj) -> int:
    strategy = owner["spec"].get("updateStrategy") or {}
    return int((strategy.get("rollingUpdate") or {}).get("partition") or 0)


def is_rolling(owner: Obj) -> bool:
    return bool((owner["spec"].get("updateStrategy") or {}).get("type", "RollingUpdate") == "RollingUpdate")


def claim_names(owner: Obj, ordinal: int) -> dict[str, str]:
    """Volume name -> name of its PersistentVolumeClaim."""
    templates = owner["spec"].get("volumeClaimTemplates") or ()
    return {t["metadata"]["name"]: f"{t['metadata']['name']}-{name_of(owner)}-{ordinal}" for t in templates}


def apply_identity(owner: Obj, pod: Obj, ordinal: int) -> None:
    """Give the pod its name, labels and volumes, in place. Source: ``updateIdentity``, ``updateStorage``."""
    name = f"{name_of(owner)}-{ordinal}"
    metadata, spec = pod["metadata"], pod["spec"]
    metadata["name"], metadata["namespace"] = name, namespace_of(owner)
    metadata.pop("generateName", None)
    metadata.setdefault("labels", {}).update({POD_NAME: name, POD_INDEX: str(ordinal)})
    spec["hostname"] = name
    if owner["spec"].get("serviceName"):
        spec["subdomain"] = owner["spec"]["serviceName"]
    claims = claim_names(owner, ordinal)
    if claims:
        kept = [v for v in spec.get("volumes") or () if v["name"] not in claims]
        made = [{"name": volume, "persistentVolumeClaim": {"claimName": claim_name}} for volume, claim_name in claims.items()]
        spec["volumes"] = [*made, *kept]


def build_pod(owner: Obj, ordinal: int, revision: str) -> Obj:
    reference = controller_reference(owner, resources.STATEFULSETS)
    pod = pod_from_template(owner["spec"]["template"], owner, reference)
    apply_identity(owner, pod, ordinal)
    pod["metadata"]["labels"][REVISION] = revision
    return pod


def has_identity(owner: Obj, pod: Obj) -> bool:
    """Whether labels that belong to the identity are still there."""
    ordinal = ordinal_of(owner, pod)
    labels = labels_of(pod)
    return labels.get(POD_NAME) == name_of(pod) and labels.get(POD_INDEX) == str(ordinal)


@dataclass(slots=True)
class Step:
    """What to do now: ``create`` ordinals, ``delete`` and ``repair`` pods; and when to look again for availability."""

    create: list[int] = field(default_factory=list)
    delete: list[Obj] = field(default_factory=list)
    repair: list[Obj] = field(default_factory=list)
    again: float | None = None


def decide(owner: Obj, pods: Sequence[Obj], update_revision: str, now: float) -> Step:
    """The next step of a StatefulSet. Pure. Source: ``updateStatefulSet``."""
    step = Step()
    if is_deleting(owner):
        return step
    start, wanted = start_of(owner), replicas_of(owner)
    min_ready = int(owner["spec"].get("minReadySeconds") or 0)
    monotonic = owner["spec"].get("podManagementPolicy", "OrderedReady") != "Parallel"
    by_ordinal = {o: p for p in pods if (o := ordinal_of(owner, p)) is not None}
    replicas = {o: by_ordinal.get(o) for o in range(start, start + wanted)}
    condemned = [p for o, p in sorted(by_ordinal.items(), reverse=True) if o not in replicas]
    step.again = earliest(t for p in by_ordinal.values() if (t := available_in(p, min_ready, now)))

    for ordinal, pod in replicas.items():
        if pod is None:
            step.create.append(ordinal)
        elif is_finished(pod):
            if not is_deleting(pod):
                step.delete.append(pod)
        elif not is_deleting(pod):
            if not has_identity(owner, pod):
                step.repair.append(pod)
            if not monotonic or (is_running_and_ready(pod) and is_available(pod, min_ready, now)):
                continue
        elif not monotonic:
            continue
        # One after the other: the next waits for this one.
        if monotonic:
            return step

    unhealthy = [p for _, p in sorted(by_ordinal.items()) if not is_running_and_ready(p) or is_deleting(p)]
    first_unhealthy = unhealthy[0] if unhealthy else None
    for pod in condemned:
        if is_deleting(pod):
            if monotonic:
                return step
            continue
        healthy = is_running_and_ready(pod) and is_available(pod, min_ready, now)
        if not healthy and monotonic and pod is not first_unhealthy:
            return step
        step.delete.append(pod)
        if monotonic:
            return step

    if is_rolling(owner) and not step.create and not step.delete:
        existing = {o: p for o, p in replicas.items() if p is not None}
        step.delete += _roll(owner, existing, update_revision, min_ready, now)
    return step


def _roll(owner: Obj, replicas: dict[int, Obj], update_revision: str, min_ready: int, now: float) -> list[Obj]:
    """Pods to replace by the new revision, from the highest ordinal down to the partition."""
    rolling = (owner["spec"].get("updateStrategy") or {}).get("rollingUpdate") or {}
    most = max(1, scaled_value(rolling.get("maxUnavailable", 1), replicas_of(owner), round_up=False))

    def healthy(pod: Obj) -> bool:
        return is_running_and_ready(pod) and is_available(pod, min_ready, now) and not is_deleting(pod)

    lowest = start_of(owner) + partition_of(owner)
    budget = most
    if most > 1:
        budget -= sum(not healthy(p) for p in replicas.values())
    chosen: list[Obj] = []
    for ordinal in sorted(replicas, reverse=True):
        pod = replicas[ordinal]
        if ordinal < lowest or len(chosen) >= budget:
            break
        if labels_of(pod).get(REVISION) != update_revision and not is_deleting(pod):
            chosen.append(pod)
        elif most == 1 and not healthy(pod):
            # The replacement must serve before the next one goes.
            break
    return chosen


def revision_for(owner: Obj, ordinal: int, current: str, update: str) -> str:
    """Which revision a new pod gets: below the partition the current one. Source: ``newVersionedStatefulSetPod``."""
    if is_rolling(owner) and ordinal < start_of(owner) + partition_of(owner):
        return current
    return update


def compute_status(owner: Obj, status: Obj, pods: Sequence[Obj], current: str, update: str, now: float) -> None:
    """Fill in the counts, in place, and complete a finished rolling update."""
    min_ready = int(owner["spec"].get("minReadySeconds") or 0)
    mine = [p for p in pods if ordinal_of(owner, p) is not None]
    alive = [p for p in mine if not is_deleting(p)]
    status["observedGeneration"] = owner["metadata"].get("generation", 0)
    status["replicas"] = len(mine)
    ready = [p for p in mine if is_running_and_ready(p)]
    set_count(status, "readyReplicas", len(ready))
    status["availableReplicas"] = sum(is_available(p, min_ready, now) for p in ready)
    revisions = [labels_of(p).get(REVISION) for p in alive]
    set_count(status, "currentReplicas", revisions.count(current))
    set_count(status, "updatedReplicas", revisions.count(update))
    status["currentRevision"], status["updateRevision"] = current, update
    wanted = replicas_of(owner)
    counts = (len(mine), len(ready), revisions.count(update))
    if is_rolling(owner) and partition_of(owner) == 0 and counts == (wanted, wanted, wanted):
        set_count(status, "currentReplicas", wanted)
        status["currentRevision"] = update


class StatefulSetController(Controller):
    name = "statefulset-controller"

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx)
        self.recorder = ctx.recorder(self.name)
        self.sets = self.informer(resources.STATEFULSETS, self.enqueue, self.enqueue_update, self.enqueue)
        self.pods = self.informer(resources.PODS, self._pod, self._pod_updated, self._pod)
        self.pods.add_index("owner", owner_index)
        self.revisions = self.informer(resources.CONTROLLERREVISIONS)
        self.revisions.add_index("owner", owner_index)
        self.claims = self.informer(resources.PERSISTENTVOLUMECLAIMS)

    # -- events

    def _owner_of(self, pod: Obj) -> Obj | None:
        return owner_in(self.sets, "StatefulSet", pod)

    def _pod(self, pod: Obj) -> None:
        owner = self._owner_of(pod)
        if owner is not None:
            self.enqueue(owner)
        elif controller_of(pod) is None:
            for one in self.sets.list(namespace_of(pod)):
                if label_selector_from(one["spec"].get("selector")).matches(labels_of(pod)):
                    self.enqueue(one)

    def _pod_updated(self, old: Obj, pod: Obj) -> None:
        if controller_of(old) != controller_of(pod):
            self._pod(old)
        self._pod(pod)

    # -- work

    async def reconcile(self, key: str) -> float | None:
        owner = self.sets.get(key)
        if owner is None:
            return None
        selector = label_selector_from(owner["spec"].get("selector"))
        candidates = claimable(self.pods, owner)
        pods = await claim(
            self.client,
            resources.STATEFULSETS,
            owner,
            resources.PODS,
            [p for p in candidates if ordinal_of(owner, p) is not None],
            selector,
        )
        revisions = await claim(
            self.client,
            resources.STATEFULSETS,
            owner,
            resources.CONTROLLERREVISIONS,
            claimable(self.revisions, owner),
            selector,
        )
        current, update, collisions = await self._revisions(owner, revisions)
        now = self.ctx.clock()
        step = decide(owner, pods, name_of(update), now)
        error: StatusError | None = None
        try:
            await self._act(owner, step, current, update)
        except StatusError as e:
            if has_cause(e, "NamespaceTerminating"):
                return None
            error = e
        await self._write_status(owner, pods, name_of(current), name_of(update), collisions)
        live = {name_of(current), name_of(update), *(labels_of(p).get(REVISION, "") for p in pods)}
        await history.truncate(self.client, revisions, live, int(owner["spec"].get("revisionHistoryLimit", 10)))
        if error is not None:
            raise error
        return step.again

    async def _revisions(self, owner: Obj, revisions: list[Obj]) -> tuple[Obj, Obj, int | None]:
        """``(current, update, collision count)``. Source: ``getStatefulSetRevisions``."""
        revisions.sort(key=history.order)
        status = owner.get("status") or {}
        collisions = status.get("collisionCount")
        labels = dict((owner["spec"].get("selector") or {}).get("matchLabels") or {})

        def build(count: int | None) -> Obj:
            number = history.next_number(revisions)
            return history.build_revision(owner, resources.STATEFULSETS, labels, number, history.HASH, count)

        wanted = build(collisions)
        equal = [r for r in revisions if history.same_data(r, wanted)]
        if equal and history.same_data(revisions[-1], equal[-1]):
            update = revisions[-1]
        elif equal:
            # Back to an older template: its revision becomes the newest.
            update = await history.set_number(self.client, equal[-1], wanted["revision"])
        elif is_deleting(owner):
            update = wanted
        else:
            update, collisions = await history.create_revision(self.client, owner, wanted, build)
        current = next((r for r in revisions if name_of(r) == status.get("currentRevision")), None)
        if current is not None and name_of(current) == name_of(update):
            current = update
        return current or update, update, collisions

    async def _act(self, owner: Obj, step: Step, current: Obj, update: Obj) -> None:
        for pod in step.repair:
            await self._repair(owner, pod)
        for pod in step.delete:
            await self._delete(owner, pod)
        results = await asyncio.gather(
            *(self._create(owner, ordinal, current, update) for ordinal in step.create), return_exceptions=True
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _create(self, owner: Obj, ordinal: int, current: Obj, update: Obj) -> None:
        name = f"{name_of(owner)}-{ordinal}"
        revision = revision_for(owner, ordinal, name_of(current), name_of(update))
        source = owner
        if revision == name_of(current) and revision != name_of(update):
            source = history.apply_revision(owner, current)
        pod = build_pod(source, ordinal, revision)
        await self._ensure_claims(owner, ordinal, pod)
        try:
            await self.client.create(resources.PODS, pod, namespace_of(owner))
        except StatusError as e:
            if e.reason == "AlreadyExists":
                # Ours and not yet in the cache, or a stranger's: either way its event brings us back.
                existing = await self.client.get(resources.PODS, name, namespace_of(owner))
                if is_controlled_by(existing, owner):
                    return
            if not has_cause(e, "NamespaceTerminating"):
                message = f"create Pod {name} in StatefulSet {name_of(owner)} failed error: {e.message}"
                self.recorder.event(owner, "Warning", "FailedCreate", message)
            raise
        message = f"create Pod {name} in StatefulSet {name_of(owner)} successful"
        self.recorder.event(owner, "Normal", "SuccessfulCreate", message)

    async def _ensure_claims(self, owner: Obj, ordinal: int, pod: Obj) -> None:
        policy = owner["spec"].get("persistentVolumeClaimRetentionPolicy") or {}
        for template in owner["spec"].get("volumeClaimTemplates") or ():
            name = claim_names(owner, ordinal)[template["metadata"]["name"]]
            if self.claims.get(f"{namespace_of(owner)}/{name}") is not None:
                continue
            selector = (owner["spec"].get("selector") or {}).get("matchLabels") or {}
            metadata: Obj = {
                **clone(template["metadata"]),
                "name": name,
                "namespace": namespace_of(owner),
                "labels": {**(template["metadata"].get("labels") or {}), **selector},
            }
            if policy.get("whenDeleted") == "Delete":
                reference = controller_reference(owner, resources.STATEFULSETS)
                metadata["ownerReferences"] = [reference]
            claim_object = {
                "kind": "PersistentVolumeClaim",
                "apiVersion": "v1",
                "metadata": metadata,
                "spec": clone(template["spec"]),
            }
            try:
                await self.client.create(resources.PERSISTENTVOLUMECLAIMS, claim_object, namespace_of(owner))
            except StatusError as e:
                if e.reason == "AlreadyExists":
                    continue
                what = f"create Claim {name} Pod {name_of(pod)} in StatefulSet {name_of(owner)}"
                self.recorder.event(owner, "Warning", "FailedCreate", f"{what} failed error: {e.message}")
                raise
            what = f"create Claim {name} Pod {name_of(pod)} in StatefulSet {name_of(owner)} success"
            self.recorder.event(owner, "Normal", "SuccessfulCreate", what)

    async def _delete(self, owner: Obj, pod: Obj) -> None:
        where = f"delete Pod {name_of(pod)} in StatefulSet {name_of(owner)}"
        if is_finished(pod):
            message = f"StatefulSet {namespace_of(owner)}/{name_of(owner)} is recreating {phase_of(pod)} Pod {name_of(pod)}"
            self.recorder.event(owner, "Warning", f"Recreating{phase_of(pod)}Pod", message)
        try:
            await self.client.delete(resources.PODS, name_of(pod), namespace_of(pod), DeleteOptions(uid=uid_of(pod)))
        except StatusError as e:
            if e.code == 404:
                return
            self.recorder.event(owner, "Warning", "FailedDelete", f"{where} failed error: {e.message}")
            raise
        self.recorder.event(owner, "Normal", "SuccessfulDelete", f"{where} successful")

    async def _repair(self, owner: Obj, pod: Obj) -> None:
        ordinal = ordinal_of(owner, pod)
        assert ordinal is not None

        def change(obj: Obj) -> None:
            obj["metadata"].setdefault("labels", {}).update({POD_NAME: name_of(pod), POD_INDEX: str(ordinal)})

        try:
            await update_with_retry(
                self.client, resources.PODS, name_of(pod), namespace_of(pod), change, initial=pod, uid=uid_of(pod)
            )
        except StatusError as e:
            if e.code != 404:
                raise

    async def _write_status(self, owner: Obj, pods: Sequence[Obj], current: str, update: str, collisions: int | None) -> None:
        now = self.ctx.clock()

        def change(obj: Obj) -> None:
            status = obj.setdefault("status", {})
            compute_status(owner, status, pods, current, update, now)
            # Always present, as upstream writes it.
            status["collisionCount"] = int(collisions or 0)

        await self.write_status(resources.STATEFULSETS, owner, change)
