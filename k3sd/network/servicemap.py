"""Which service port is answered by which endpoints: pure, from Services and EndpointSlices.

Follows kube-proxy (``pkg/proxy/endpointslicecache.go``, ``topology.go``): all slices of a Service count, hand-made ones too;
ready endpoints are used, and when none is ready the serving terminating ones; Local policies keep to this node.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

Obj = dict[str, Any]
SERVICE_NAME_LABEL = "kubernetes.io/service-name"
DEFAULT_AFFINITY_SECONDS = 10800


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One backend address of one port."""

    address: str
    port: int
    is_local: bool
    ready: bool
    serving: bool
    terminating: bool


@dataclass(frozen=True, slots=True)
class ServicePort:
    """One port of one Service with its usable endpoints, as ``(address, port)``.

    ``affinity_seconds`` 0 means none. ``cluster_endpoints`` answer the cluster IP, ``external_endpoints`` node ports, external
    and load balancer addresses; ``external_local`` says that those keep the client's address and stay on this node.
    """

    namespace: str
    name: str
    port_name: str
    protocol: str
    port: int
    cluster_ip: str
    node_port: int
    external_ips: tuple[str, ...]
    source_ranges: tuple[str, ...]
    affinity_seconds: int
    cluster_endpoints: tuple[tuple[str, int], ...]
    external_endpoints: tuple[tuple[str, int], ...]
    all_endpoints: tuple[tuple[str, int], ...]
    external_local: bool

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}/{self.protocol.lower()}/{self.port_name or self.port}"


def build_endpoints(slices: Iterable[Obj], node_name: str) -> dict[tuple[str, str, str], list[Endpoint]]:
    """Endpoints by (service key ``namespace/name``, port name, protocol); one address counts once a port."""
    found: dict[tuple[str, str, str], dict[tuple[str, int], Endpoint]] = {}
    for item in slices:
        meta = item["metadata"]
        service = (meta.get("labels") or {}).get(SERVICE_NAME_LABEL)
        if not service or item.get("addressType", "IPv4") != "IPv4":
            continue
        for port in item.get("ports") or ():
            if not port.get("port"):
                continue
            key = (f"{meta['namespace']}/{service}", port.get("name") or "", port.get("protocol") or "TCP")
            table = found.setdefault(key, {})
            for raw in item.get("endpoints") or ():
                conditions = raw.get("conditions") or {}
                ready = conditions.get("ready") is not False
                serving = conditions.get("serving")
                for address in raw.get("addresses") or ():
                    endpoint = Endpoint(
                        address,
                        port["port"],
                        raw.get("nodeName") == node_name,
                        ready,
                        ready if serving is None else bool(serving),
                        bool(conditions.get("terminating")),
                    )
                    old = table.get((address, port["port"]))
                    if old is None or (endpoint.ready and not old.ready):
                        table[(address, port["port"])] = endpoint
    return {key: list(table.values()) for key, table in found.items()}


def usable(endpoints: Iterable[Endpoint], local_only: bool) -> tuple[tuple[str, int], ...]:
    """Ready endpoints, else serving terminating ones (KEP-1669), sorted; ``local_only`` keeps those of this node."""
    chosen = [e for e in endpoints if e.is_local or not local_only]
    ready = [e for e in chosen if e.ready] or [e for e in chosen if e.serving and e.terminating]
    return tuple(sorted({(e.address, e.port) for e in ready}))


def build_service_ports(services: Iterable[Obj], slices: Iterable[Obj], node_name: str) -> list[ServicePort]:
    """All proxied service ports, sorted by key. Headless and ExternalName services and other proxies' services have none."""
    endpoints = build_endpoints(slices, node_name)
    ports: list[ServicePort] = []
    for service in services:
        meta, spec = service["metadata"], service.get("spec") or {}
        address = spec.get("clusterIP") or ""
        if spec.get("type") == "ExternalName" or address in ("", "None") or ":" in address:
            continue
        if "service.kubernetes.io/service-proxy-name" in (meta.get("labels") or {}):
            continue
        external = list(spec.get("externalIPs") or ())
        for ingress in ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ():
            if ingress.get("ip") and ingress.get("ipMode", "VIP") == "VIP":
                external.append(ingress["ip"])
        affinity = 0
        if spec.get("sessionAffinity") == "ClientIP":
            config = (spec.get("sessionAffinityConfig") or {}).get("clientIP") or {}
            affinity = config.get("timeoutSeconds") or DEFAULT_AFFINITY_SECONDS
        internal_local = spec.get("internalTrafficPolicy") == "Local"
        external_local = spec.get("externalTrafficPolicy") == "Local"
        for port in spec.get("ports") or ():
            protocol = port.get("protocol") or "TCP"
            key = (f"{meta['namespace']}/{meta['name']}", port.get("name") or "", protocol)
            mine = endpoints.get(key, [])
            ports.append(
                ServicePort(
                    namespace=meta["namespace"],
                    name=meta["name"],
                    port_name=port.get("name") or "",
                    protocol=protocol,
                    port=port["port"],
                    cluster_ip=address,
                    node_port=port.get("nodePort") or 0,
                    external_ips=tuple(ip for ip in dict.fromkeys(external) if ":" not in ip),
                    source_ranges=tuple(r for r in spec.get("loadBalancerSourceRanges") or () if ":" not in r),
                    affinity_seconds=affinity,
                    cluster_endpoints=usable(mine, internal_local),
                    external_endpoints=usable(mine, external_local),
                    all_endpoints=usable(mine, False),
                    external_local=external_local,
                )
            )
    return sorted(ports, key=lambda p: p.key)
