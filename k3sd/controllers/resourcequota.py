"""Counts what ResourceQuotas bound. Admission charges; this corrects, above all downwards when objects go.

Resources are watched only while a quota speaks of them, and nothing of them is kept.
Source: ``pkg/controller/resourcequota``; what an object uses is in ``k3sd.apimachinery.quotausage``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from k3sd.apimachinery import quantity, quotausage
from k3sd.apimachinery.errors import Obj, StatusError
from k3sd.apimachinery.resource import Resource
from k3sd.apis import resources
from k3sd.client.informer import Reflector, object_key
from k3sd.controllers.base import Context, Controller
from k3sd.controllers.catalog import Catalog
from k3sd.controllers.objects import is_deleting, namespace_of

SETTLE_SECONDS = 0.1
"""A burst of changes is counted once."""
QUIET_SECONDS = 1.0
"""How long nobody has charged a quota before it is counted. What is charged is stored a moment later: a count between the two
would hand its share out again. A quota in a long burst is counted at its end, at the latest when everything is handed out."""


def resources_of(names: Iterable[str], known: Sequence[Resource]) -> set[Resource]:
    """The resources whose objects these quota resource names count. Pure."""
    out: set[Resource] = set()
    by_count = {(f"count/{r.qualified}"): r for r in known if r.namespaced}
    for name in names:
        if name in by_count:
            out.add(by_count[name])
        elif name in quotausage.LEGACY_COUNTS:
            out.add(by_count[f"count/{name}"])
        elif name.startswith("services."):
            out.add(resources.SERVICES)
        elif name == "requests.storage" or ".storageclass.storage.k8s.io/" in name:
            out.add(resources.PERSISTENTVOLUMECLAIMS)
        elif name in quotausage.COMPUTE or name.startswith(("requests.", "limits.", "hugepages-")):
            out.add(resources.PODS)
    return out


def total(quota: Obj, objects: Iterable[tuple[Resource, Obj]]) -> dict[str, str]:
    """What of ``spec.hard`` the objects use, as text. Pure."""
    hard = (quota.get("spec") or {}).get("hard") or {}
    sums = {name: quantity.parse(0) for name in hard}
    for resource, obj in objects:
        if not quotausage.in_scope(quota, obj):
            continue
        for name, amount in quotausage.usage(resource.group, resource.plural, obj).items():
            if name in sums:
                sums[name] = amount + sums[name]
    return {name: str(amount) for name, amount in sums.items()}


class _Sink:
    """Tells of namespaces in which something came, went or changed its use."""

    def __init__(self, controller: ResourceQuotaController, resource: Resource) -> None:
        self._controller = controller
        self._resource = resource

    def replace(self, items: Sequence[Obj]) -> None:
        self._controller.recount(None)

    def apply(self, type_: str, obj: Obj) -> None:
        resource = self._resource
        if type_ != "MODIFIED" or quotausage.charged_on_update(resource.group, resource.plural):
            self._controller.recount(namespace_of(obj))


class ResourceQuotaController(Controller):
    name = "resourcequota-controller"

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx)
        self.catalog = Catalog(ctx)
        self._removers.append(self.catalog.close)
        self.informer(resources.CUSTOMRESOURCEDEFINITIONS)
        self._watches: dict[Resource, asyncio.Task[None]] = {}
        self._charged: dict[str, float] = {}
        self.quotas = self.informer(resources.RESOURCEQUOTAS, self.enqueue, self._quota_updated, self._quota_deleted)

    def recount(self, namespace: str | None) -> None:
        """Look at the quotas of a namespace (of all when None) soon."""
        for quota in self.quotas.list(namespace):
            self.queue.add_after(object_key(quota), SETTLE_SECONDS)

    def _quota_updated(self, old: Obj, new: Obj) -> None:
        if (new.get("status") or {}).get("used") != (old.get("status") or {}).get("used"):
            self._charged[object_key(new)] = asyncio.get_running_loop().time()
        self.enqueue(new)

    def _quota_deleted(self, quota: Obj) -> None:
        self._charged.pop(object_key(quota), None)
        self._drop_unused()

    def _wanted(self) -> set[Resource]:
        known = self.catalog.all("list")
        names = {n for q in self.quotas.list() for n in ((q.get("spec") or {}).get("hard") or {})}
        return resources_of(names, known)

    def _watch(self, wanted: Iterable[Resource]) -> None:
        for resource in wanted:
            if resource not in self._watches:
                reflector = Reflector(self.client, resource, _Sink(self, resource))
                self._watches[resource] = asyncio.get_running_loop().create_task(
                    reflector.run(), name=f"quota {resource.qualified}"
                )

    def _drop_unused(self) -> None:
        wanted = self._wanted()
        for resource in [r for r in self._watches if r not in wanted]:
            self._watches.pop(resource).cancel()

    async def run(self) -> None:
        try:
            await super().run()
        finally:
            tasks = list(self._watches.values())
            self._watches.clear()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def reconcile(self, key: str) -> float | None:
        quota = self.quotas.get(key)
        if quota is None or is_deleting(quota):
            return None
        if (charged := self._charged.get(key)) is not None:
            wait = charged + QUIET_SECONDS - asyncio.get_running_loop().time()
            if wait > 0:
                return wait
            del self._charged[key]
        hard = (quota.get("spec") or {}).get("hard") or {}
        kinds = resources_of(hard, self.catalog.all("list"))
        self._watch(kinds)
        objects: list[tuple[Resource, Obj]] = []
        for resource in kinds:
            found = await self.client.list(resource, namespace_of(quota))
            objects += [(resource, obj) for obj in found.items]
        status = {**(quota.get("status") or {}), "hard": hard, "used": total(quota, objects)}
        if status == quota.get("status"):
            return None
        try:
            # On exactly the version that was counted for: a charge made meanwhile must not be lost.
            await self.client.update(resources.RESOURCEQUOTAS, {**quota, "status": status}, subresource="status")
        except StatusError as e:
            if e.code != 404:
                raise
        return None
