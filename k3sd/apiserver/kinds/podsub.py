"""What is done to a pod besides updating it: binding, eviction, ephemeral containers, resize.

Source: ``pkg/registry/core/pod/storage/{storage,eviction}.go``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from k3sd.apimachinery import selectors, timefmt
from k3sd.apimachinery.errors import (
    Obj,
    StatusError,
    bad_request,
    conflict,
    forbidden,
    internal,
    invalid_object,
    not_found,
)
from k3sd.apis import resources
from k3sd.apiserver.kinds.handlers import SUCCESS, Handler, ObjectHandler
from k3sd.apiserver.kinds.pods import validate_binding, with_condition
from k3sd.apiserver.kinds.rules import clone
from k3sd.apiserver.options import DeleteRequest
from k3sd.apiserver.request import RequestContext

if TYPE_CHECKING:
    from k3sd.apiserver.kinds import SubresourceHandler
    from k3sd.apiserver.registry import Registry

EVICTION_REFUSED = "Cannot evict pod as it would violate the pod's disruption budget."
_MAX_DISRUPTED = 2000
_EVICTION_ATTEMPTS = 10


class BindingHandler(Handler):
    """``pods/<name>/binding`` and the older ``bindings`` resource."""

    async def create(self, ctx: RequestContext, namespace: str, name: str, body: Obj) -> Obj:
        meta = body.get("metadata") or {}
        name = name or meta.get("name", "")
        if meta.get("name", name) != name:
            raise bad_request("name in URL does not match name in Binding object")
        errors = validate_binding(body)
        if errors:
            raise invalid_object("", "Binding", name, errors)
        node, uid = body["target"]["name"], meta.get("uid", "")
        labels, annotations = meta.get("labels") or {}, meta.get("annotations") or {}

        def change(pod: Obj) -> Obj:
            pod_meta, spec = pod["metadata"], pod.get("spec") or {}
            if uid and pod_meta.get("uid") != uid:
                text = f"Precondition failed: UID in precondition: {uid}, UID in object meta: {pod_meta.get('uid')}"
                raise conflict("", "pods/binding", name, text)
            if pod_meta.get("deletionTimestamp"):
                raise conflict("", "pods/binding", name, f"pod {name} is being deleted, cannot be assigned to a host")
            if spec.get("nodeName"):
                text = f'pod {name} is already assigned to node "{spec["nodeName"]}"'
                raise conflict("", "pods/binding", name, text)
            if spec.get("schedulingGates"):
                raise conflict("", "pods/binding", name, f"pod {name} has non-empty .spec.schedulingGates")
            new: Obj = clone(pod)
            new["metadata"].pop("resourceVersion", None)
            for key, added in (("labels", labels), ("annotations", annotations)):
                if added:
                    new["metadata"][key] = {**(pod_meta.get(key) or {}), **added}
            new["spec"]["nodeName"] = node
            return new

        pod_ctx = replace(ctx, resource=resources.PODS, subresource="binding", name=name, verb="update")
        await self.registry.modify(pod_ctx, change)
        return dict(SUCCESS)


class EphemeralHandler(ObjectHandler):
    def merge(self, current: Obj, body: Obj) -> Obj:
        new: Obj = clone(current)
        containers = (body.get("spec") or {}).get("ephemeralContainers")
        if containers:
            new["spec"]["ephemeralContainers"] = clone(containers)
        else:
            new["spec"].pop("ephemeralContainers", None)
        return new


class ResizeHandler(ObjectHandler):
    """Takes over the resources of containers (``dropNonResizeUpdates``).

    Containers that were added, removed, renamed or reordered are taken over as they are: validation refuses them.
    """

    def merge(self, current: Obj, body: Obj) -> Obj:
        new: Obj = clone(current)
        spec = body.get("spec") or {}
        keys = ("containers", "initContainers")
        if any(len(spec.get(key) or ()) != len(new["spec"].get(key) or ()) for key in keys):
            new["spec"].update({key: clone(spec.get(key) or []) for key in keys})
            return new
        for key in keys:
            wanted = spec.get(key) or []
            if [c.get("name") for c in wanted] != [c.get("name") for c in new["spec"].get(key) or ()]:
                new["spec"][key] = clone(wanted)
                continue
            for container, change in zip(new["spec"].get(key) or (), wanted, strict=True):
                for part in ("resources", "resizePolicy"):
                    if part in change:
                        container[part] = clone(change[part])
                    else:
                        container.pop(part, None)
        if "resources" in spec:
            new["spec"]["resources"] = clone(spec["resources"])
        else:
            new["spec"].pop("resources", None)
        return new


class EvictionHandler(Handler):
    """Deletes a pod if its disruption budget allows."""

    async def create(self, ctx: RequestContext, namespace: str, name: str, body: Obj) -> Obj:
        given = (body.get("metadata") or {}).get("name", name)
        if given != name:
            raise bad_request(f"name in URL does not match name in Eviction object: {given}, {name}")
        options = DeleteRequest.parse(body.get("deleteOptions") or {}, {})
        if (body.get("deleteOptions") or {}).get("dryRun"):
            ctx.dry_run = True
        pod = self.registry.read(resources.PODS, name, namespace)
        if pod is None:
            raise not_found("", "pods", name)
        uid = pod["metadata"].get("uid", "")
        if options.uid and options.uid != uid:
            text = f"Precondition failed: UID in precondition: {options.uid}, UID in object meta: {uid}"
            raise conflict("", "pods", name, text)
        if not self._ignores_budgets(pod):
            await self._take_budget(ctx, namespace, pod)
            if not ctx.dry_run:
                await self._mark(ctx, namespace, name)
        pod_ctx = replace(ctx, resource=resources.PODS, subresource="", verb="delete", name=name)
        options.uid = uid
        await self.registry.delete(pod_ctx, options)
        return dict(SUCCESS)

    @staticmethod
    def _ignores_budgets(pod: Obj) -> bool:
        """``canIgnorePDB``."""
        phase = (pod.get("status") or {}).get("phase")
        return phase in ("Succeeded", "Failed", "Pending") or bool(pod["metadata"].get("deletionTimestamp"))

    async def _take_budget(self, ctx: RequestContext, namespace: str, pod: Obj) -> None:
        labels = pod["metadata"].get("labels") or {}
        budgets = [
            b
            for b in self.registry.read_all(resources.PODDISRUPTIONBUDGETS, namespace)
            if selectors.label_selector_from((b.get("spec") or {}).get("selector")).matches(labels)
        ]
        if not budgets:
            return
        if len(budgets) > 1:
            raise internal("This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.")
        budget = budgets[0]
        if self._unready_may_go(budget, pod):
            return
        name, pod_name = budget["metadata"]["name"], pod["metadata"]["name"]

        def change(current: Obj) -> Obj:
            new: Obj = clone(current)
            new["metadata"].pop("resourceVersion", None)
            new["status"] = _decrement(new, pod_name)
            return new

        budget_ctx = replace(
            ctx, resource=resources.PODDISRUPTIONBUDGETS, subresource="status", verb="update", name=name, privileged=True
        )
        for attempt in range(_EVICTION_ATTEMPTS):
            try:
                await self.registry.modify(budget_ctx, change)
                return
            except StatusError as error:
                if error.reason != "Conflict" or attempt == _EVICTION_ATTEMPTS - 1:
                    raise

    @staticmethod
    def _unready_may_go(budget: Obj, pod: Obj) -> bool:
        conditions = (pod.get("status") or {}).get("conditions") or []
        if any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions):
            return False
        status = budget.get("status") or {}
        if (budget.get("spec") or {}).get("unhealthyPodEvictionPolicy") == "AlwaysAllow":
            return True
        healthy, desired = status.get("currentHealthy") or 0, status.get("desiredHealthy") or 0
        return bool(healthy >= desired > 0)

    async def _mark(self, ctx: RequestContext, namespace: str, name: str) -> None:
        condition = {
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "EvictionByEvictionAPI",
            "message": "Eviction API: evicting",
        }

        def change(pod: Obj) -> Obj:
            new: Obj = clone(pod)
            new["metadata"].pop("resourceVersion", None)
            new["status"] = with_condition(new.get("status") or {}, condition)
            return new

        await self.registry.modify(
            replace(ctx, resource=resources.PODS, subresource="status", verb="update", name=name), change
        )


def _decrement(budget: Obj, pod_name: str) -> Obj:
    """``checkAndDecrement``: the status with one disruption taken. Raises 429 with cause DisruptionBudget."""
    meta, status = budget["metadata"], dict(budget.get("status") or {})
    name = meta["name"]
    if (status.get("observedGeneration") or 0) < (meta.get("generation") or 0):
        raise _too_many(f"The disruption budget {name} is still being processed by the server.", 10)
    allowed = status.get("disruptionsAllowed") or 0
    if allowed < 0:
        raise forbidden("policy", "poddisruptionbudgets", name, "pdb disruptions allowed is negative")
    disrupted = status.get("disruptedPods") or {}
    if len(disrupted) > _MAX_DISRUPTED:
        raise forbidden(
            "policy",
            "poddisruptionbudgets",
            name,
            "DisruptedPods map too big - too many evictions not confirmed by PDB controller",
        )
    if allowed == 0:
        healthy, desired = status.get("currentHealthy") or 0, status.get("desiredHealthy") or 0
        text = f"The disruption budget {name} needs {desired} healthy pods and has {healthy} currently"
        for condition in status.get("conditions") or []:
            if condition.get("type") == "DisruptionAllowed" and condition.get("reason") == "SyncFailed":
                text = f"The disruption budget {name} does not allow evicting pods currently because it failed sync: "
                text += condition.get("message", "")
        raise _too_many(text, 0)
    status["disruptionsAllowed"] = allowed - 1
    if allowed == 1:
        condition = {"type": "DisruptionAllowed", "status": "False", "reason": "InsufficientPods", "message": ""}
        status = with_condition(status, {**condition, "observedGeneration": status.get("observedGeneration") or 0})
    status["disruptedPods"] = {**disrupted, pod_name: timefmt.now()}
    return status


def _too_many(cause: str, retry_after_seconds: int) -> StatusError:
    details: Obj = {"causes": [{"reason": "DisruptionBudget", "message": cause}]}
    if retry_after_seconds:
        details["retryAfterSeconds"] = retry_after_seconds
    return StatusError(429, "TooManyRequests", EVICTION_REFUSED, details)


def handlers(registry: Registry) -> list[SubresourceHandler]:
    return [
        BindingHandler(registry, resources.PODS, "binding"),
        BindingHandler(registry, resources.BINDINGS, ""),
        EvictionHandler(registry, resources.PODS, "eviction"),
        EphemeralHandler(registry, resources.PODS, "ephemeralcontainers"),
        ResizeHandler(registry, resources.PODS, "resize"),
    ]
