"""IPAddress objects: the store's own word on who holds a cluster IP, so that two servers never give out one address.

Upstream: ``pkg/registry/core/service/ipallocator/ipallocator.go`` and its repair loop. The object is created before the Service
and goes after it. One left behind by a crash is taken over, after a minute, when its Service turns out not to hold it.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import time
from typing import TYPE_CHECKING

from k3sd.apimachinery import timefmt
from k3sd.apimachinery.errors import Obj, StatusError
from k3sd.apis import resources
from k3sd.apiserver.kinds.allocators import cluster_ips
from k3sd.apiserver.options import DeleteRequest
from k3sd.apiserver.request import LOOPBACK, RequestContext
from k3sd.datastore.backend import DatastoreError

if TYPE_CHECKING:
    from k3sd.apiserver.registry import Registry

log = logging.getLogger(__name__)

MANAGED_BY = "ipaddress.kubernetes.io/managed-by"
ALLOCATOR = "ipallocator.k8s.io"


def build_address(ip: str, namespace: str, name: str) -> Obj:
    """``newIPAddress``."""
    address = ipaddress.ip_address(ip)
    return {
        "kind": "IPAddress",
        "apiVersion": "networking.k8s.io/v1",
        "metadata": {
            "name": str(address),
            "labels": {"ipaddress.kubernetes.io/ip-family": f"IPv{address.version}", MANAGED_BY: ALLOCATOR},
        },
        "spec": {"parentRef": {"group": "", "resource": "services", "namespace": namespace, "name": name}},
    }


class AddressClaims:
    """Makes and removes IPAddresses for Services."""

    stale_seconds = 60.0
    """How old a claim without a Service must be to count as left behind: another server may be about to store the Service."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._tasks: set[asyncio.Task[None]] = set()
        self._released: dict[str, tuple[str, str]] = {}
        """Addresses whose Service gave them up, while their objects are still to be removed."""

    def _context(self, verb: str, name: str) -> RequestContext:
        return RequestContext(LOOPBACK, verb, resources.IPADDRESSES, name=name, privileged=True)

    async def claim(self, ip: str, namespace: str, name: str) -> bool:
        """False when somebody else holds the address. Raises what the store raises."""
        obj = build_address(ip, namespace, name)
        address = obj["metadata"]["name"]
        for _ in range(2):
            try:
                await self._registry.create(self._context("create", address), build_address(ip, namespace, name))
                return True
            except StatusError as error:
                if error.reason != "AlreadyExists":
                    raise
            live = self._registry.read(resources.IPADDRESSES, address)
            if live is None:
                continue
            if (live.get("spec") or {}).get("parentRef") == obj["spec"]["parentRef"]:
                return True
            if not self._may_be_stale(address, live) or not await self._remove_stale(address, live):
                return False
        return False

    def _may_be_stale(self, address: str, live: Obj) -> bool:
        ref = (live.get("spec") or {}).get("parentRef") or {}
        if self._released.get(address) == (ref.get("namespace", ""), ref.get("name", "")):
            return True
        return time.time() - timefmt.parse(live["metadata"]["creationTimestamp"]) >= self.stale_seconds

    async def _remove_stale(self, address: str, live: Obj) -> bool:
        """True when the object spoke for a Service that is not there, or not there any more."""
        ref = (live.get("spec") or {}).get("parentRef") or {}
        if ref.get("resource") != "services" or (live["metadata"].get("labels") or {}).get(MANAGED_BY) != ALLOCATOR:
            return False
        service = self._registry.read(resources.SERVICES, ref.get("name", ""), ref.get("namespace", ""))
        if service is not None and address in {str(ipaddress.ip_address(ip)) for ip in cluster_ips(service)}:
            return False
        await self._delete(address, live)
        return True

    async def _delete(self, address: str, live: Obj) -> None:
        try:
            await self._registry.delete(self._context("delete", address), DeleteRequest(uid=live["metadata"].get("uid")))
        except StatusError as error:
            if error.reason not in ("NotFound", "Conflict"):
                raise

    async def release(self, ip: str, namespace: str, name: str) -> None:
        """Remove the address if it speaks for this Service and the Service does not hold it."""
        address = str(ipaddress.ip_address(ip))
        live = self._registry.read(resources.IPADDRESSES, address)
        wanted = {"group": "", "resource": "services", "namespace": namespace, "name": name}
        ref = ((live or {}).get("spec") or {}).get("parentRef") or {}
        if live is None or {**wanted, **ref} != wanted:
            return
        await self._remove_stale(address, live)

    def on_service(self, event: str, obj: Obj, old: Obj | None) -> None:
        """A watch cache event: what a Service gave up is released soon after."""
        before = old if old is not None else (obj if event == "DELETED" else None)
        if before is None:
            return
        gone = cluster_ips(before) - (set() if event == "DELETED" else cluster_ips(obj))
        if gone:
            meta = obj["metadata"]
            holder = (meta.get("namespace", ""), meta["name"])
            self._released.update({str(ipaddress.ip_address(ip)): holder for ip in gone})
            work = self._release_all(gone, *holder)
            task = asyncio.get_running_loop().create_task(work, name="release-cluster-ips")
            # The loop keeps weak references only.
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _release_all(self, ips: set[str], namespace: str, name: str) -> None:
        for ip in ips:
            try:
                await self.release(ip, namespace, name)
            except (StatusError, DatastoreError) as error:
                # Harmless: whoever wants the address next finds that nobody holds it.
                log.info("IPAddress %s of Service %s/%s stays for now: %s", ip, namespace, name, error)
            address = str(ipaddress.ip_address(ip))
            if self._released.get(address) == (namespace, name):
                del self._released[address]
