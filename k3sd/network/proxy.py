"""The service proxy: keeps the nftables table in step with Services and EndpointSlices.

Event driven: a change marks the state dirty, a short pause gathers its neighbours, one transaction carries the difference. The
informers are shared with the DNS server. A refused transaction makes the table anew from scratch.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from pathlib import Path
from typing import Any

from k3sd.client.informer import Informer
from k3sd.config.settings import Settings
from k3sd.network import rules
from k3sd.network.nft import Nft, NftError
from k3sd.network.servicemap import ServicePort, build_service_ports

log = logging.getLogger(__name__)

GATHER_SECONDS = 0.02
RETRY_SECONDS = 5.0


class ServiceProxy:
    """``services`` and ``slices`` are informers on all namespaces, started by the owner."""

    def __init__(self, settings: Settings, services: Informer, slices: Informer) -> None:
        self._settings = settings
        self._services = services
        self._slices = slices
        self._nft = Nft()
        self._applied: rules.Ruleset | None = None
        self._ports: list[ServicePort] = []
        self._dirty = asyncio.Event()
        self._synced = asyncio.Event()
        facts = rules.NodeFacts(settings.cluster_cidr, settings.service_cidr, settings.cluster_dns)
        self._facts = (
            facts
            if bridge_filtering()
            else rules.NodeFacts(facts.cluster_cidr, facts.service_cidr, facts.dns_address, bridge_filtering=False)
        )

    async def run(self) -> None:
        """Serve until cancelled; the rules stay in the kernel then, so that services keep answering during a restart."""
        for informer in (self._services, self._slices):
            informer.add_handler(self._changed, self._updated, self._changed)
        await asyncio.gather(self._services.wait_synced(), self._slices.wait_synced())
        self._dirty.set()
        while True:
            await self._dirty.wait()
            await asyncio.sleep(GATHER_SECONDS)
            self._dirty.clear()
            await self._sync()

    async def wait_synced(self) -> None:
        """The first transaction has been applied."""
        await self._synced.wait()

    def _changed(self, _obj: Any) -> None:
        self._dirty.set()

    def _updated(self, _old: Any, _new: Any) -> None:
        self._dirty.set()

    async def _sync(self) -> None:
        ports = build_service_ports(self._services.list(), self._slices.list(), self._settings.node_name)
        wanted = rules.build_ruleset(ports, self._facts)
        if self._applied is None:
            commands = [*rules.base_commands(self._facts), *rules.diff(rules.Ruleset(), wanted)]
        else:
            commands = rules.diff(self._applied, wanted)
        try:
            await asyncio.to_thread(self._nft.apply, commands)
        except NftError as error:
            log.warning("service rules could not be applied, making the table anew: %s", error)
            self._applied = None
            asyncio.get_running_loop().call_later(RETRY_SECONDS, self._dirty.set)
            return
        self._applied = wanted
        stale = stale_udp(self._ports, ports)
        self._ports = ports
        self._synced.set()
        if stale:
            await self._flush(stale)

    async def _flush(self, stale: list[tuple[str, int]]) -> None:
        from k3sd.procs.run import CommandError, run

        try:
            root = str(Path(__file__).resolve().parents[2])
            argv = [sys.executable, "-m", "k3sd.network.links", "flush-udp"]
            await run(argv, stdin=json.dumps(stale).encode(), environ={"PYTHONPATH": root})
        except CommandError as error:
            log.warning("old UDP flows could not be forgotten: %s", error)


def stale_udp(old: list[ServicePort], new: list[ServicePort]) -> list[tuple[str, int]]:
    """Destinations whose UDP flows must be forgotten: an endpoint went away, or the first one came."""
    before = {p.key: p for p in old if p.protocol == "UDP"}
    stale: list[tuple[str, int]] = []
    after = {p.key: p for p in new if p.protocol == "UDP"}
    for key, port in before.items():
        now = after.get(key)
        lost = set(port.all_endpoints) - set(now.all_endpoints if now else ())
        first = not port.all_endpoints and now is not None and now.all_endpoints
        if lost or first:
            stale += [(address, port.port) for address in (port.cluster_ip, *port.external_ips)]
            if port.node_port:
                stale.append(("", port.node_port))
    for key, port in after.items():
        if key not in before and port.node_port and port.all_endpoints:
            stale.append(("", port.node_port))
    return stale


def bridge_filtering() -> bool:
    """Whether bridged packets pass nftables (net.bridge.bridge-nf-call-iptables)."""
    try:
        return Path("/proc/sys/net/bridge/bridge-nf-call-iptables").read_text().strip() == "1"
    except OSError:
        return False
