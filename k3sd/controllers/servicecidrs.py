"""Marks ServiceCIDRs ready and keeps one that is deleted until no address of it is in use.

Source: ``pkg/controller/servicecidrs``.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable

from k3sd.apimachinery.errors import Obj, StatusError
from k3sd.apis import resources
from k3sd.client.retry import update_with_retry
from k3sd.controllers.base import Context, Controller
from k3sd.controllers.objects import condition_status, is_deleting, name_of, set_condition, uid_of

FINALIZER = "networking.k8s.io/service-cidr-finalizer"


def cidrs_of(obj: Obj) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    return [ipaddress.ip_network(c) for c in (obj.get("spec") or {}).get("cidrs") or ()]


def blocks_deletion(cidr: Obj, others: Iterable[Obj], addresses: Iterable[Obj]) -> bool:
    """Whether an address exists that only this ServiceCIDR covers. Pure. Source: ``canDeleteCIDR``."""
    rest = [n for other in others if name_of(other) != name_of(cidr) and not is_deleting(other) for n in cidrs_of(other)]
    own = cidrs_of(cidr)
    for obj in addresses:
        address = ipaddress.ip_address(name_of(obj))
        if any(address in n for n in own) and not any(address in n for n in rest):
            return True
    return False


class ServiceCIDRController(Controller):
    name = "service-cidr-controller"

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx)
        self.cidrs = self.informer(resources.SERVICECIDRS, self.enqueue, self.enqueue_update, self._changed)
        self.addresses = self.informer(resources.IPADDRESSES, None, None, self._changed)

    def _changed(self, _: Obj) -> None:
        for cidr in self.cidrs.list():
            if is_deleting(cidr):
                self.enqueue(cidr)

    async def reconcile(self, key: str) -> None:
        cidr = self.cidrs.get(key)
        if cidr is None:
            return
        finalizers = cidr["metadata"].get("finalizers") or []
        if not is_deleting(cidr):
            if FINALIZER not in finalizers:
                await self._edit(cidr, lambda o: o["metadata"].setdefault("finalizers", []).append(FINALIZER))
            if condition_status(cidr, "Ready") != "True":
                await self._ready(cidr, "True", "", "Kubernetes Service CIDR is ready")
            return
        if FINALIZER not in finalizers:
            return
        addresses = (await self.client.list(resources.IPADDRESSES)).items
        if blocks_deletion(cidr, self.cidrs.list(), addresses):
            message = "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR"
            await self._ready(cidr, "False", "Terminating", message)
            return
        await self._edit(cidr, _drop)

    async def _edit(self, cidr: Obj, change: Callable[[Obj], object]) -> None:
        try:
            await update_with_retry(
                self.client, resources.SERVICECIDRS, name_of(cidr), None, change, initial=cidr, uid=uid_of(cidr)
            )
        except StatusError as e:
            if e.code != 404:
                raise

    async def _ready(self, cidr: Obj, value: str, reason: str, message: str) -> None:
        condition = {"type": "Ready", "status": value, "reason": reason, "message": message}
        now = self.ctx.now()
        await update_with_retry(
            self.client,
            resources.SERVICECIDRS,
            name_of(cidr),
            None,
            lambda o: set_condition(o.setdefault("status", {}), condition, now),
            subresource="status",
            uid=uid_of(cidr),
        )


def _drop(obj: Obj) -> None:
    kept = [f for f in obj["metadata"].get("finalizers") or () if f != FINALIZER]
    if kept:
        obj["metadata"]["finalizers"] = kept
    else:
        obj["metadata"].pop("finalizers", None)
