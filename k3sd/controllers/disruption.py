"""Counts what PodDisruptionBudgets allow. Evictions are charged by the API server against ``status.disruptionsAllowed``.

Source: ``pkg/controller/disruption/disruption.go``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from k3sd.apimachinery import timefmt
from k3sd.apimachinery.errors import Obj, StatusError
from k3sd.apimachinery.selectors import label_selector_from
from k3sd.apis import resources
from k3sd.controllers.base import Context, Controller
from k3sd.controllers.catalog import Catalog
from k3sd.controllers.objects import (
    controller_of,
    is_deleting,
    labels_of,
    name_of,
    namespace_of,
    scaled_value,
    set_condition,
    uid_of,
)
from k3sd.controllers.pods import is_ready
from k3sd.lib.jsonvalue import clone

DISRUPTED_SECONDS = 120.0
"""An evicted pod that is still there after this long was not deleted: it counts again."""


def split_disrupted(budget: Obj, pods: Sequence[Obj], now: float) -> tuple[dict[str, str], float | None]:
    """``(entries of disruptedPods that still hold, seconds until the first of them lapses)``. Pure."""
    stamps: Mapping[str, str] = (budget.get("status") or {}).get("disruptedPods") or {}
    kept: dict[str, str] = {}
    waits: list[float] = []
    for pod in pods:
        stamp = stamps.get(name_of(pod))
        if stamp is None or is_deleting(pod):
            continue
        left = timefmt.parse(stamp) + DISRUPTED_SECONDS - now
        if left > 0:
            kept[name_of(pod)] = stamp
            waits.append(left)
    return kept, min(waits, default=None)


def count_healthy(pods: Sequence[Obj], disrupted: Mapping[str, str]) -> int:
    """Pods that are ready and stay."""
    return sum(is_ready(p) and not is_deleting(p) and name_of(p) not in disrupted for p in pods)


def compute_status(
    budget: Obj, status: Obj, expected: int, desired: int, healthy: int, disrupted: Mapping[str, str], now: str
) -> None:
    """Fill in ``status``, in place. Source: ``updatePdbStatus``."""
    allowed = max(0, healthy - desired) if expected > 0 else 0
    status["observedGeneration"] = budget["metadata"].get("generation", 0)
    status["expectedPods"] = expected
    status["desiredHealthy"] = desired
    status["currentHealthy"] = healthy
    status["disruptionsAllowed"] = allowed
    if disrupted:
        status["disruptedPods"] = dict(disrupted)
    else:
        status.pop("disruptedPods", None)
    condition: Obj = {
        "type": "DisruptionAllowed",
        "status": "True" if allowed > 0 else "False",
        "reason": "SufficientPods" if allowed > 0 else "InsufficientPods",
        "message": "",
        "observedGeneration": status["observedGeneration"],
    }
    set_condition(status, condition, now)


class DisruptionController(Controller):
    name = "disruption-controller"

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx)
        self.recorder = ctx.recorder("controllermanager")
        self.catalog = Catalog(ctx)
        self._removers.append(self.catalog.close)
        self.informer(resources.CUSTOMRESOURCEDEFINITIONS)
        self.budgets = self.informer(resources.PODDISRUPTIONBUDGETS, self.enqueue, self.enqueue_update)
        self.pods = self.informer(resources.PODS, self._pod, self._pod_updated, self._pod)
        self.owners = {
            resource.kind: self.informer(resource)
            for resource in (
                resources.DEPLOYMENTS,
                resources.REPLICASETS,
                resources.REPLICATIONCONTROLLERS,
                resources.STATEFULSETS,
            )
        }

    def _pod(self, pod: Obj) -> None:
        for budget in self.budgets.list(namespace_of(pod)):
            if label_selector_from(budget["spec"].get("selector")).matches(labels_of(pod)):
                self.enqueue(budget)

    def _pod_updated(self, old: Obj, pod: Obj) -> None:
        if labels_of(old) != labels_of(pod):
            self._pod(old)
            self._pod(pod)
        elif (is_ready(old), is_deleting(old), controller_of(old)) != (is_ready(pod), is_deleting(pod), controller_of(pod)):
            self._pod(pod)

    async def reconcile(self, key: str) -> float | None:
        budget = self.budgets.get(key)
        if budget is None:
            return None
        selector = label_selector_from(budget["spec"].get("selector"))
        pods = [p for p in self.pods.list(namespace_of(budget)) if selector.matches(labels_of(p))]
        if not pods:
            self.recorder.event(budget, "Normal", "NoPods", "No matching pods found")
        status = clone(budget.get("status") or {})
        now = self.ctx.now()
        try:
            expected, desired = await self._expected(budget, pods)
        except LookupError as e:
            text = f"Failed to calculate the number of expected pods: {e}"
            self.recorder.event(budget, "Warning", "CalculateExpectedPodCountFailed", text)
            condition = {"type": "DisruptionAllowed", "status": "False", "reason": "SyncFailed", "message": str(e)}
            set_condition(status, condition, now)
            status["disruptionsAllowed"] = 0
            status["observedGeneration"] = budget["metadata"].get("generation", 0)
            again = None
        else:
            disrupted, again = split_disrupted(budget, pods, self.ctx.clock())
            healthy = count_healthy(pods, disrupted)
            compute_status(budget, status, expected, desired, healthy, disrupted, now)
        if status != (budget.get("status") or {}):
            # On exactly the version that was looked at: an eviction charged meanwhile must not be lost.
            try:
                await self.client.update(resources.PODDISRUPTIONBUDGETS, {**budget, "status": status}, subresource="status")
            except StatusError as e:
                if e.code != 404:
                    raise
        return again

    async def _expected(self, budget: Obj, pods: Sequence[Obj]) -> tuple[int, int]:
        """``(expected pods, desired healthy)``. Source: ``getExpectedPodCount``."""
        spec = budget["spec"]
        if spec.get("maxUnavailable") is not None:
            expected = await self._scale(budget, pods)
            unavailable = scaled_value(spec["maxUnavailable"], expected, round_up=True)
            return expected, max(0, expected - unavailable)
        minimum = spec.get("minAvailable")
        if isinstance(minimum, str) and minimum.endswith("%"):
            expected = await self._scale(budget, pods)
            return expected, scaled_value(minimum, expected, round_up=True)
        return len(pods), int(minimum or 0)

    async def _scale(self, budget: Obj, pods: Sequence[Obj]) -> int:
        """The sum of what the pods' controllers ask for. Pods without one count for nothing."""
        found: dict[str, int] = {}
        for pod in pods:
            reference = controller_of(pod)
            if reference is None:
                continue
            uid, replicas = await self._owner_scale(namespace_of(pod), reference)
            found[uid] = replicas
        return sum(found.values())

    async def _owner_scale(self, namespace: str, reference: Obj) -> tuple[str, int]:
        kind = str(reference.get("kind"))
        informer = self.owners.get(kind)
        if informer is not None:
            owner = informer.get(f"{namespace}/{reference['name']}")
            if owner is None or uid_of(owner) != reference.get("uid"):
                raise LookupError(f'{kind.lower()} "{reference["name"]}" of the pods was not found')
            upper = controller_of(owner) if kind == "ReplicaSet" else None
            if upper is not None and upper.get("kind") == "Deployment":
                return await self._owner_scale(namespace, upper)
            return uid_of(owner), int(owner["spec"].get("replicas", 1))
        resource = self.catalog.by_kind(str(reference.get("apiVersion")), kind)
        if resource is None or not any(s.name == "scale" for s in resource.subresources):
            raise LookupError(f"{reference.get('apiVersion')} {kind} does not implement the scale subresource")
        try:
            scale = await self.client.get(resource, reference["name"], namespace, subresource="scale")
        except StatusError as e:
            raise LookupError(e.message) from e
        return str(reference.get("uid")), int((scale.get("spec") or {}).get("replicas") or 0)
