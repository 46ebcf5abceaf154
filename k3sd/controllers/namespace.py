"""Deletes what a terminating namespace holds, pods first, and then lets the namespace go.

Progress shows in the namespace's conditions. Source: ``pkg/controller/namespace/deletion/namespaced_resources_deleter.go``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from k3sd.apimachinery.errors import Obj, StatusError
from k3sd.apimachinery.resource import Resource
from k3sd.apis import resources
from k3sd.client.api import DeleteOptions
from k3sd.client.retry import update_with_retry
from k3sd.controllers.base import Context, Controller
from k3sd.controllers.catalog import Catalog
from k3sd.controllers.objects import is_deleting, set_condition, uid_of
from k3sd.lib.jsonvalue import clone

FINALIZER = "kubernetes"
FINALIZER_ESTIMATE_SECONDS = 15.0
PARALLEL = 16
RECHECK_SECONDS = (0.1, 5.0)
"""First and longest pause between looks at content that is on its way out."""

_OK = {
    "NamespaceDeletionDiscoveryFailure": ("ResourcesDiscovered", "All resources successfully discovered"),
    "NamespaceDeletionGroupVersionParsingFailure": ("ParsedGroupVersions", "All legacy kube types successfully parsed"),
    "NamespaceDeletionContentFailure": (
        "ContentDeleted",
        "All content successfully deleted, may be waiting on finalization",
    ),
    "NamespaceContentRemaining": ("ContentRemoved", "All content successfully removed"),
    "NamespaceFinalizersRemaining": ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
}


@dataclass(slots=True)
class Remaining:
    """What one pass found: instances left by resource, finalizers left, and failures."""

    counts: dict[str, int] = field(default_factory=dict)
    finalizers: dict[str, int] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)

    def note(self, resource: Resource, items: list[Obj]) -> None:
        if not items:
            return
        self.counts[f"{resource.plural}.{resource.group}"] = len(items)
        for item in items:
            for finalizer in item["metadata"].get("finalizers") or ():
                self.finalizers[finalizer] = self.finalizers.get(finalizer, 0) + 1


def build_conditions(remaining: Remaining) -> list[Obj]:
    """The five deletion conditions in upstream's order and wording. Source: ``status_condition_utils.go``."""
    failures: dict[str, tuple[str, str]] = {}
    if remaining.errors:
        text = "; ".join(sorted(remaining.errors))
        failures["NamespaceDeletionContentFailure"] = (
            "ContentDeletionFailed",
            f"Failed to delete all resource types, {len(remaining.errors)} remaining: {text}",
        )
    if remaining.counts:
        text = ", ".join(f"{name} has {n} resource instances" for name, n in sorted(remaining.counts.items()))
        failures["NamespaceContentRemaining"] = ("SomeResourcesRemain", f"Some resources are remaining: {text}")
    if remaining.finalizers:
        text = ", ".join(f"{name} in {n} resource instances" for name, n in sorted(remaining.finalizers.items()))
        failures["NamespaceFinalizersRemaining"] = (
            "SomeFinalizersRemain",
            f"Some content in the namespace has finalizers remaining: {text}",
        )
    out: list[Obj] = []
    for type_, ok in _OK.items():
        reason, message = failures.get(type_, ok)
        status = "True" if type_ in failures else "False"
        out.append({"type": type_, "status": status, "reason": reason, "message": message})
    return out


class NamespaceController(Controller):
    name = "namespace-controller"
    workers = 10

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx)
        self.catalog = Catalog(ctx)
        self._removers.append(self.catalog.close)
        self.informer(resources.CUSTOMRESOURCEDEFINITIONS)
        self.namespaces = self.informer(resources.NAMESPACES, self._consider, lambda _, ns: self._consider(ns), self._forget)
        # The end of a pod that was waited for; anything else left is looked for by time.
        self.informer(resources.PODS, on_delete=self._pod_deleted)
        self._passes: dict[str, int] = {}

    def _consider(self, namespace: Obj) -> None:
        if is_deleting(namespace):
            self.enqueue(namespace)

    def _forget(self, namespace: Obj) -> None:
        self._passes.pop(namespace["metadata"]["name"], None)

    def _pod_deleted(self, pod: Obj) -> None:
        if pod["metadata"]["namespace"] in self._passes:
            self.queue.add(pod["metadata"]["namespace"])

    async def reconcile(self, key: str) -> float | None:
        try:
            namespace = await self.client.get(resources.NAMESPACES, key)
        except StatusError as e:
            if e.code == 404:
                return None
            raise
        if not is_deleting(namespace):
            return None
        namespace = await self._update_status(namespace, lambda status: status.update(phase="Terminating"))
        if FINALIZER not in (namespace["spec"].get("finalizers") or ()):
            return None
        remaining = await self._delete_content(namespace)
        conditions = build_conditions(remaining)
        now = self.ctx.now()

        def set_conditions(status: Obj) -> None:
            for condition in conditions:
                set_condition(status, condition, now)

        if remaining.counts or remaining.errors:
            # A namespace that empties at once needs no conditions: that write would only delay its end.
            namespace = await self._update_status(namespace, set_conditions)
            n = self._passes[key] = self._passes.get(key, 0) + 1
            first, longest = RECHECK_SECONDS
            if remaining.finalizers and not remaining.errors and n > 8:
                longest = FINALIZER_ESTIMATE_SECONDS
            return float(min(first * 2**n, longest))
        await self._finalize(namespace)
        return None

    async def _delete_content(self, namespace: Obj) -> Remaining:
        """One pass over everything. While a pod is left, nothing else is touched (KEP-5080)."""
        name = namespace["metadata"]["name"]
        remaining = Remaining()
        await self._delete_all(resources.PODS, name, remaining)
        if remaining.counts or remaining.errors:
            return remaining
        limit = asyncio.Semaphore(PARALLEL)

        async def one(resource: Resource) -> None:
            async with limit:
                await self._delete_all(resource, name, remaining)

        rest = [r for r in self.catalog.all("delete") if r.namespaced and r is not resources.PODS and "list" in r.verbs]
        async with asyncio.TaskGroup() as group:
            for resource in rest:
                group.create_task(one(resource))
        return remaining

    async def _delete_all(self, resource: Resource, namespace: str, remaining: Remaining) -> None:
        try:
            items = (await self.client.list(resource, namespace)).items
            if not items:
                return
            options = DeleteOptions(propagation_policy="Background")
            if "deletecollection" in resource.verbs:
                await self.client.delete_collection(resource, namespace, options)
            else:
                for item in items:
                    await self.client.delete(resource, item["metadata"]["name"], namespace, options)
            remaining.note(resource, (await self.client.list(resource, namespace)).items)
        except StatusError as e:
            # 404 and 405: the kind vanished (its CRD went) or cannot be deleted; there is nothing left to do for us.
            if e.code not in (404, 405):
                remaining.errors.append(f"{resource.qualified}: {e.message}")

    async def _update_status(self, namespace: Obj, mutate: Callable[[Obj], object]) -> Obj:
        def change(obj: Obj) -> None:
            mutate(obj.setdefault("status", {}))

        return await update_with_retry(
            self.client,
            resources.NAMESPACES,
            namespace["metadata"]["name"],
            None,
            change,
            subresource="status",
            initial=namespace,
            uid=uid_of(namespace),
        )

    async def _finalize(self, namespace: Obj) -> None:
        changed = clone(namespace)
        changed["spec"]["finalizers"] = [f for f in namespace["spec"].get("finalizers") or () if f != FINALIZER]
        try:
            await self.client.update(resources.NAMESPACES, changed, subresource="finalize")
        except StatusError as e:
            if e.code != 404:
                raise
