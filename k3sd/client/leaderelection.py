"""Leader election on a Lease. Source: client-go ``tools/leaderelection``.

Not used where only one control plane can exist (sqlite). The lease is judged by when *we* saw it change, never by comparing
clocks of machines.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from k3sd.apimachinery import timefmt
from k3sd.apimachinery.errors import Obj, StatusError
from k3sd.client.api import Client
from k3sd.lib.jsonvalue import clone

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Election:
    """Which lease, who we are, and upstream's three durations in seconds."""

    name: str
    identity: str
    namespace: str = "kube-system"
    lease_seconds: float = 15.0
    renew_deadline_seconds: float = 10.0
    retry_seconds: float = 2.0


class LeaderElector:
    """Runs ``lead`` while we hold the lease."""

    def __init__(self, client: Client, election: Election, *, clock: Callable[[], float] = time.time) -> None:
        self._client = client
        self._election = election
        self._clock = clock
        self._observed: Obj | None = None
        self._observed_at = 0.0
        self.leader = ""
        """Identity of the current holder as last seen."""

    async def run(self, lead: Callable[[], Awaitable[None]]) -> None:
        """Wait for the lease, run ``lead``, and return when either the lease is lost (``lead`` is cancelled) or ``lead`` ends.

        The lease is given back at the end, so that a successor need not wait for it to expire.
        """
        while True:
            if await self._try_acquire():
                break
            await asyncio.sleep(self._election.retry_seconds * (1.0 + 0.2 * random.random()))
        log.info("%s: %s is leading", self._election.name, self._election.identity)
        work = asyncio.ensure_future(lead())
        renew = asyncio.create_task(self._renew(), name=f"renew lease {self._election.name}")
        try:
            await asyncio.wait({work, renew}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            renew.cancel()
            work.cancel()
            results = await asyncio.gather(work, renew, return_exceptions=True)
            await self._release()
        if isinstance(results[0], Exception):
            raise results[0]

    async def _renew(self) -> None:
        """Renew until that has failed for the renew deadline."""
        loop = asyncio.get_running_loop()
        renewed = loop.time()
        while loop.time() - renewed < self._election.renew_deadline_seconds:
            await asyncio.sleep(self._election.retry_seconds)
            try:
                async with asyncio.timeout(self._election.renew_deadline_seconds):
                    held = await self._try_acquire()
            except TimeoutError:
                held = False
            if held:
                renewed = loop.time()
        log.warning("%s: %s lost the lease", self._election.name, self._election.identity)

    async def _try_acquire(self) -> bool:
        try:
            return await self._acquire()
        except StatusError as e:
            if e.code not in (404, 409):
                log.warning("lease %s/%s: %s", self._election.namespace, self._election.name, e.message)
        except ConnectionError as e:
            log.warning("lease %s/%s: %s", self._election.namespace, self._election.name, e)
        return False

    async def _acquire(self) -> bool:
        from k3sd.apis import resources

        election, now = self._election, self._clock()
        try:
            lease = await self._client.get(resources.LEASES, election.name, election.namespace)
        except StatusError as e:
            if e.code != 404:
                raise
            await self._client.create(resources.LEASES, self._lease(now), election.namespace)
            self.leader = election.identity
            return True
        spec = lease.get("spec") or {}
        if self._observed != spec:
            self._observed, self._observed_at = spec, asyncio.get_running_loop().time()
        holder = str(spec.get("holderIdentity") or "")
        self.leader = holder
        expires = self._observed_at + float(spec.get("leaseDurationSeconds") or 0)
        if holder and holder != election.identity and expires > asyncio.get_running_loop().time():
            return False
        changed = clone(lease)
        changed["spec"] = self._spec(now)
        if holder == election.identity:
            changed["spec"]["acquireTime"] = spec.get("acquireTime")
            changed["spec"]["leaseTransitions"] = spec.get("leaseTransitions", 0)
        else:
            changed["spec"]["leaseTransitions"] = int(spec.get("leaseTransitions") or 0) + 1
        await self._client.update(resources.LEASES, changed)
        self.leader = election.identity
        return True

    async def _release(self) -> None:
        from k3sd.apis import resources

        if self.leader != self._election.identity:
            return
        try:
            lease = clone(await self._client.get(resources.LEASES, self._election.name, self._election.namespace))
            if (lease.get("spec") or {}).get("holderIdentity") != self._election.identity:
                return
            lease["spec"].update(holderIdentity="", leaseDurationSeconds=1)
            await self._client.update(resources.LEASES, lease)
        except (StatusError, ConnectionError) as e:
            log.debug("giving back lease %s: %s", self._election.name, e)

    def _lease(self, now: float) -> Obj:
        metadata = {"name": self._election.name, "namespace": self._election.namespace}
        return {"kind": "Lease", "apiVersion": "coordination.k8s.io/v1", "metadata": metadata, "spec": self._spec(now)}

    def _spec(self, now: float) -> Obj:
        return {
            "holderIdentity": self._election.identity,
            "leaseDurationSeconds": int(self._election.lease_seconds),
            "acquireTime": timefmt.from_epoch_micro(now),
            "renewTime": timefmt.from_epoch_micro(now),
            "leaseTransitions": 0,
        }


def is_shared(datastore_endpoint: str) -> bool:
    """Whether several servers may work on one datastore: anything but sqlite, which is a file of this machine."""
    return bool(datastore_endpoint) and not datastore_endpoint.startswith(("sqlite:", "memory:"))


async def run_elected(client: Client, name: str, node_name: str, work: Callable[[], Awaitable[None]]) -> None:
    """Run ``work`` whenever this process holds the lease ``name``, until cancelled. A lost lease cancels it and waits anew."""
    identity = f"{node_name}_{uuid.uuid4()}"
    while True:
        await LeaderElector(client, Election(name, identity)).run(work)
