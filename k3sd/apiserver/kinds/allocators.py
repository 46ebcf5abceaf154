"""Cluster IPs and node ports: who holds which, in memory, exact with every write.

The Services themselves are the record: the tables are filled from the cache once and follow its events, so a restart or another
server's write needs no repair loop. A number is reserved synchronously before the write and given back when the write fails.
Upstream: ``pkg/registry/core/service/{ipallocator,portallocator}``; like there, dynamic picks avoid the low band, which
is left to static choices (KEP-3070, KEP-3668).
"""

from __future__ import annotations

import ipaddress
import itertools
import random
from collections.abc import Hashable

from k3sd.apimachinery.errors import Obj

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_PROBES = 32


class AllocationError(Exception):
    """Why a number cannot be had, in upstream's words."""


class Holders:
    """Keys held by owners (the uid of a Service, so that a failed create never frees what its namesake holds)."""

    __slots__ = ("_owner",)

    def __init__(self) -> None:
        self._owner: dict[Hashable, str] = {}

    def owner(self, key: Hashable) -> str | None:
        return self._owner.get(key)

    def take(self, key: Hashable, owner: str) -> bool:
        """False when somebody else holds it."""
        return self._owner.setdefault(key, owner) == owner

    def release(self, key: Hashable, owner: str) -> None:
        if self._owner.get(key) == owner:
            del self._owner[key]

    def __len__(self) -> int:
        return len(self._owner)


class AddressPool:
    """One service CIDR. Network and (IPv4) broadcast address are never given out."""

    __slots__ = ("_held", "_size", "network")

    def __init__(self, network: Network) -> None:
        self.network = network
        self._held = Holders()
        broadcast = 1 if network.version == 4 else 0
        self._size = min(network.num_addresses - 1 - broadcast, 1 << 64)

    @property
    def family(self) -> str:
        return "IPv4" if self.network.version == 4 else "IPv6"

    def take(self, address: str, owner: str) -> None:
        """A chosen address."""
        ip = ipaddress.ip_address(address)
        offset = int(ip) - int(self.network.network_address)
        if ip.version != self.network.version or not 1 <= offset <= self._size:
            raise AllocationError(
                f"the provided IP ({address}) is not in the valid range. The range of valid IPs is {self.network}"
            )
        if not self._held.take(offset, owner):
            raise AllocationError("provided IP is already allocated")

    def take_next(self, owner: str) -> str:
        """Any free address: random in the upper band, then the first free one anywhere."""
        low = min(max(16, self._size // 16), 256)
        if self._size <= low * 2:
            low = 0
        for _ in range(_PROBES):
            offset = random.randint(low + 1, self._size)
            if self._held.owner(offset) is None:
                return self._give(offset, owner)
        for offset in itertools.chain(range(low + 1, min(self._size, 1 << 20) + 1), range(1, low + 1)):
            if self._held.owner(offset) is None:
                return self._give(offset, owner)
        raise AllocationError("range is full")

    def _give(self, offset: int, owner: str) -> str:
        self._held.take(offset, owner)
        return str(self.network.network_address + offset)

    def mark(self, address: str, owner: str) -> None:
        """An address found in a stored Service, in range or not."""
        self._held.take(int(ipaddress.ip_address(address)) - int(self.network.network_address), owner)

    def release(self, address: str, owner: str) -> None:
        self._held.release(int(ipaddress.ip_address(address)) - int(self.network.network_address), owner)

    def __contains__(self, address: str) -> bool:
        return ipaddress.ip_address(address).version == self.network.version


class PortPool:
    """The node port range. A number may serve several protocols of one Service, never two Services."""

    __slots__ = ("_held", "high", "low")

    def __init__(self, low: int, high: int) -> None:
        self.low, self.high = low, high
        self._held = Holders()

    def take(self, port: int, owner: str) -> None:
        if not self.low <= port <= self.high:
            raise AllocationError(
                f"provided port is not in the valid range. The range of valid ports is {self.low}-{self.high}"
            )
        if not self._held.take(port, owner):
            raise AllocationError("provided port is already allocated")

    def take_next(self, owner: str) -> int:
        size = self.high - self.low + 1
        band = min(max(16, size // 32), 128)
        start = self.low + band if size > 2 * band else self.low
        for _ in range(_PROBES):
            port = random.randint(start, self.high)
            if self._held.owner(port) is None:
                self._held.take(port, owner)
                return port
        for port in itertools.chain(range(start, self.high + 1), range(self.low, start)):
            if self._held.owner(port) is None:
                self._held.take(port, owner)
                return port
        raise AllocationError("range is full")

    def mark(self, port: int, owner: str) -> None:
        self._held.take(port, owner)

    def release(self, port: int, owner: str) -> None:
        self._held.release(port, owner)


def cluster_ips(service: Obj) -> set[str]:
    """The addresses a Service holds."""
    spec = service.get("spec") or {}
    if spec.get("type") == "ExternalName":
        return set()
    ips = spec.get("clusterIPs") or ([spec["clusterIP"]] if spec.get("clusterIP") else [])
    return {ip for ip in ips if ip and ip != "None"}


def node_ports(service: Obj) -> set[int]:
    """The node ports a Service holds, the health check port included."""
    spec = service.get("spec") or {}
    ports = {p["nodePort"] for p in spec.get("ports") or [] if p.get("nodePort")}
    if spec.get("healthCheckNodePort"):
        ports.add(spec["healthCheckNodePort"])
    return ports


class ServiceAllocator:
    """All pools of one cluster."""

    def __init__(self, cidrs: str, port_range: tuple[int, int]) -> None:
        self.pools = [AddressPool(ipaddress.ip_network(c.strip())) for c in cidrs.split(",") if c.strip()]
        self.ports = PortPool(*port_range)

    @property
    def families(self) -> list[str]:
        return [pool.family for pool in self.pools]

    def pool(self, family: str) -> AddressPool | None:
        return next((p for p in self.pools if p.family == family), None)

    def pool_of(self, address: str) -> AddressPool | None:
        return next((p for p in self.pools if address in p), None)

    def observe(self, event: str, obj: Obj, old: Obj | None) -> None:
        """A watch cache event of a Service. Idempotent with the reservation made for the same write."""
        owner = owner_of(obj)
        now_ips, now_ports = (set(), set()) if event == "DELETED" else (cluster_ips(obj), node_ports(obj))
        before = old if old is not None else (obj if event == "DELETED" else None)
        if before is not None:
            self.release(owner, cluster_ips(before) - now_ips, node_ports(before) - now_ports)
        for ip in now_ips:
            if (pool := self.pool_of(ip)) is not None:
                pool.mark(ip, owner)
        for port in now_ports:
            self.ports.mark(port, owner)

    def release(self, owner: str, ips: set[str], ports: set[int]) -> None:
        for ip in ips:
            if (pool := self.pool_of(ip)) is not None:
                pool.release(ip, owner)
        for port in ports:
            self.ports.release(port, owner)


def owner_of(service: Obj) -> str:
    return str(service["metadata"]["uid"])
