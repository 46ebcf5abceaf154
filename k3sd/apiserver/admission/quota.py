"""ResourceQuota: charge an object before it is stored, refuse what would go over. Source:
``plugin/pkg/admission/resourcequota``.

The charge is written to the quota's status by compare-and-swap, so that concurrent creations, also through another server,
cannot both take the last unit; those of one namespace stand in line here, so that they need not fight over it. The controller
corrects it downwards when objects go. Usage itself is in ``k3sd.apimachinery.quotausage``, which the controller shares.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from k3sd.apimachinery import quantity, quotausage
from k3sd.apimachinery.errors import StatusError, forbidden
from k3sd.apimachinery.resource import Resource
from k3sd.apis import resources
from k3sd.apiserver.admission.plugin import Plugin
from k3sd.apiserver.request import LOOPBACK, Attributes, RequestContext

if TYPE_CHECKING:
    from k3sd.apiserver.registry import Registry

Obj = dict[str, Any]
ATTEMPTS = 5


class ResourceQuota(Plugin):
    name = "ResourceQuota"
    operations = ("CREATE", "UPDATE")
    subresources = ("", "resize")

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._lines: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def handles(self, resource: Resource, subresource: str, operation: str) -> bool:
        if (
            resource is resources.RESOURCEQUOTAS
            or not resource.namespaced
            or not super().handles(resource, subresource, operation)
        ):
            return False
        return operation == "CREATE" or quotausage.charged_on_update(resource.group, resource.plural)

    async def validate(self, attrs: Attributes) -> None:
        """Last of all, when the object is known to be good."""
        namespace = attrs.ctx.namespace
        names = [quota["metadata"]["name"] for quota in self._registry.read_all(resources.RESOURCEQUOTAS, namespace)]
        if names:
            async with self._lines.setdefault(namespace, asyncio.Lock()):
                await self._charge_all(names, attrs)

    async def _charge_all(self, names: Sequence[str], attrs: Attributes) -> None:
        """Charge no quota unless all have room."""
        plans = {name: self._plan(name, attrs) for name in names}
        if attrs.ctx.dry_run:
            return
        for name, plan in plans.items():
            for attempt in range(ATTEMPTS):
                if plan is None:
                    break
                try:
                    await self._charge(*plan)
                    break
                except StatusError as error:
                    if error.reason != "Conflict" or attempt == ATTEMPTS - 1:
                        raise
                plan = self._plan(name, attrs)

    def _plan(self, name: str, attrs: Attributes) -> tuple[Obj, quotausage.Usage] | None:
        """The quota as it is now and what to charge to it. Raises Forbidden where that is too much."""
        quota = self._registry.read(resources.RESOURCEQUOTAS, name, attrs.ctx.namespace)
        if quota is None:
            return None
        delta = self._delta(quota, attrs)
        if not delta:
            return None
        self._check(quota, delta, attrs)
        return quota, delta

    def _delta(self, quota: Obj, attrs: Attributes) -> quotausage.Usage:
        """What this request adds to the quota, limited to what the quota speaks of."""
        resource = attrs.ctx.resource
        assert resource is not None and attrs.obj is not None
        hard = (quota.get("spec") or {}).get("hard") or {}
        self._require(quota, hard, attrs)
        new = quotausage.usage(resource.group, resource.plural, attrs.obj) if quotausage.in_scope(quota, attrs.obj) else {}
        old: quotausage.Usage = {}
        if attrs.old is not None and quotausage.in_scope(quota, attrs.old):
            old = quotausage.usage(resource.group, resource.plural, attrs.old)
        delta = {}
        for name, value in new.items():
            if name in hard:
                more = value - old[name] if name in old else value
                if quantity.parse(0) < more:
                    delta[name] = more
        return delta

    def _require(self, quota: Obj, hard: Obj, attrs: Attributes) -> None:
        """Where a quota bounds cpu or memory, every pod must say how much it wants."""
        if attrs.ctx.resource is not resources.PODS or attrs.obj is None or not quotausage.in_scope(quota, attrs.obj):
            return
        missing = quotausage.missing_compute(attrs.obj, hard)
        if missing:
            raise self._refuse(attrs, f"failed quota: {quota['metadata']['name']}: must specify {missing}")

    def _check(self, quota: Obj, delta: quotausage.Usage, attrs: Attributes) -> None:
        hard = (quota.get("status") or {}).get("hard") or {}
        used = (quota.get("status") or {}).get("used") or {}
        over = []
        for name in sorted(delta):
            if name not in hard:
                raise self._refuse(attrs, f"status unknown for quota: {quota['metadata']['name']}, resources: {name}")
            if quantity.parse(hard[name]) < quantity.parse(used.get(name, 0)) + delta[name]:
                over.append(name)
        if over:
            asked = ",".join(f"{n}={delta[n]}" for n in over)
            taken = ",".join(f"{n}={used.get(n, 0)}" for n in over)
            bound = ",".join(f"{n}={hard[n]}" for n in over)
            text = f"exceeded quota: {quota['metadata']['name']}, requested: {asked}, used: {taken}, limited: {bound}"
            raise self._refuse(attrs, text)

    @staticmethod
    def _refuse(attrs: Attributes, text: str) -> StatusError:
        resource = attrs.ctx.resource
        assert resource is not None
        meta = (attrs.obj or {}).get("metadata") or {}
        return forbidden(resource.group, resource.plural, meta.get("name") or meta.get("generateName") or "", text)

    async def _charge(self, quota: Obj, delta: quotausage.Usage) -> None:
        meta = quota["metadata"]
        ctx = RequestContext(
            LOOPBACK, "update", resources.RESOURCEQUOTAS, "status", meta["namespace"], meta["name"], privileged=True
        )
        version = meta["resourceVersion"]

        def change(current: Obj) -> Obj:
            if current["metadata"]["resourceVersion"] != version:
                raise StatusError(409, "Conflict", "the quota changed meanwhile")
            new = copy.deepcopy(current)
            used = new["status"].setdefault("used", {})
            for name, more in delta.items():
                used[name] = str(quantity.parse(used.get(name, 0)) + more)
            return new

        await self._registry.modify(ctx, change)
