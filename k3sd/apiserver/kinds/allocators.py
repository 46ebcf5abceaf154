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


def _key(address: str) -> tuple[int, int]:
    ip = ipaddress.ip_address(address)
    return ip.version, int(ip)


class AddressPool:
    """One service CIDR; which addresses are held is kept for all of them together, as they may overlap. Network and (IPv4)
    broadcast address are never given out."""

    __slots__ = ("_held", "_size", "network")

    def __init__(self, network: Network, held: Holders | None = None) -> None:
        self.network = network
        self._held = Holders() if held is None else held
        broadcast = 1 if network.version == 4 else 0
        self._size = min(network.num_addresses - 1 - broadcast, 1 << 64)

    @property
    def family(self) -> str:
        return "IPv4" if self.network.version == 4 else "IPv6"

    def __contains__(self, address: str) -> bool:
        version, number = _key(address)
        return version == self.network.version and 1 <= number - int(self.network.network_address) <= self._size

    def take(self, address: str, owner: str) -> None:
        """A chosen address."""
        if address not in self:
            raise AllocationError(
                f"the provided IP ({address}) is not in the valid range. The range of valid IPs is {self.network}"
            )
        if not self._held.take(_key(address), owner):
            raise AllocationError("provided IP is already allocated")

    def take_next(self, owner: str) -> str:
        """Any free address: random in the upper band, then the first free one anywhere."""
        base, version = int(self.network.network_address), self.network.version
        low = min(max(16, self._size // 16), 256)
        if self._size <= low * 2:
            low = 0
        offsets = itertools.chain(
            (random.randint(low + 1, self._size) for _ in range(_PROBES)),
            range(low + 1, min(self._size, 1 << 20) + 1),
            range(1, low + 1),
        )
        for offset in offsets:
            if self._held.owner((version, base + offset)) is None:
                self._held.take((version, base + offset), owner)
                return str(self.network.network_address + offset)
        raise AllocationError("range is full")

    def release(self, address: str, owner: str) -> None:
        self._held.release(_key(address), owner)


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
    """All pools of one cluster: those of the options, and those that ServiceCIDR objects add."""

    def __init__(self, cidrs: str, port_range: tuple[int, int]) -> None:
        self._held = Holders()
        own = [ipaddress.ip_network(c.strip(), strict=False) for c in cidrs.split(",") if c.strip()]
        self._own = tuple(own)
        self.pools = [AddressPool(network, self._held) for network in own]
        self.ports = PortPool(*port_range)

    @property
    def families(self) -> list[str]:
        return list(dict.fromkeys(pool.family for pool in self.pools))

    def take(self, family: str, address: str, owner: str) -> None:
        """A chosen address of the family, from whatever range it is in."""
        pools = [p for p in self.pools if p.family == family]
        next((p for p in pools if address in p), pools[0]).take(address, owner)

    def take_next(self, family: str, owner: str) -> str:
        """A free address of the family."""
        for pool in self.pools:
            if pool.family == family:
                try:
                    return pool.take_next(owner)
                except AllocationError:
                    continue
        raise AllocationError("range is full")

    def on_cidr(self, event: str, obj: Obj, old: Obj | None) -> None:
        """A watch cache event of a ServiceCIDR. One that is going away gives out nothing any more."""
        going = event == "DELETED" or "deletionTimestamp" in obj["metadata"]
        for text in (obj.get("spec") or {}).get("cidrs") or ():
            network = ipaddress.ip_network(text, strict=False)
            if network in self._own:
                continue
            self.pools = [p for p in self.pools if p.network != network]
            if not going:
                self.pools.append(AddressPool(network, self._held))

    def observe(self, event: str, obj: Obj, old: Obj | None) -> None:
        """A watch cache event of a Service. Idempotent with the reservation made for the same write."""
        owner = owner_of(obj)
        now_ips, now_ports = (set(), set()) if event == "DELETED" else (cluster_ips(obj), node_ports(obj))
        before = old if old is not None else (obj if event == "DELETED" else None)
        if before is not None:
            self.release(owner, cluster_ips(before) - now_ips, node_ports(before) - now_ports)
        for ip in now_ips:
            self._held.take(_key(ip), owner)
        for port in now_ports:
            self.ports.mark(port, owner)

    def release(self, owner: str, ips: set[str], ports: set[int]) -> None:
        for ip in ips:
            self._held.release(_key(ip), owner)
        for port in ports:
            self.ports.release(port, owner)


def owner_of(service: Obj) -> str:
    return str(service["metadata"]["uid"])
