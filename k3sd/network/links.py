"""Kernel links, addresses, routes, conntrack entries through netlink (pyroute2).

pyroute2 costs 25 MB resident, and is needed for moments only. So the node runs this module as a short command
(``python -m k3sd.network.links``) instead of importing it; cleanup, itself short-lived, calls the functions.

The service link ``k3sd0`` is a bridge without ports. It carries the cluster DNS address, which makes the node's own DNS server
reachable from every pod, and the route of the service CIDR, which makes cluster addresses routable on a host without a
default route; translation happens before a packet would ever leave through it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

SERVICE_LINK = "k3sd0"
POD_BRIDGE = "cni0"


def ensure_service_link(dns_address: str, service_cidr: str, node_ip: str) -> None:
    """Make the link with the DNS address and the service route, whatever of it is missing. Idempotent."""
    from pyroute2 import IPRoute

    with IPRoute() as ip:
        found = ip.link_lookup(ifname=SERVICE_LINK)
        if not found:
            ip.link("add", ifname=SERVICE_LINK, kind="bridge")
            found = ip.link_lookup(ifname=SERVICE_LINK)
        index = found[0]
        present = {a.get_attr("IFA_ADDRESS") for a in ip.get_addr(index=index)}
        for old in present - {dns_address}:
            if old and ":" not in old:
                ip.addr("del", index=index, address=old, prefixlen=32)
        if dns_address not in present:
            ip.addr("add", index=index, address=dns_address, prefixlen=32)
        ip.link("set", index=index, state="up")
        ip.route("replace", dst=service_cidr, oif=index, prefsrc=node_ip)


def default_mtu() -> int:
    """MTU of the link that has the default route; 0 when there is none."""
    from pyroute2 import IPRoute

    with IPRoute() as ip:
        for route in ip.get_default_routes(family=2):
            index = route.get_attr("RTA_OIF")
            if index:
                return int(ip.get_links(index)[0].get_attr("IFLA_MTU") or 0)
    return 0


def remove_links() -> list[str]:
    """Delete the pod bridge, everything attached to it, and the service link. Returns the names removed."""
    from pyroute2 import IPRoute

    removed: list[str] = []
    with IPRoute() as ip:
        bridges = {name: found[0] for name in (POD_BRIDGE, SERVICE_LINK) if (found := ip.link_lookup(ifname=name))}
        for link in ip.get_links():
            if link.get_attr("IFLA_MASTER") in bridges.values():
                removed.append(link.get_attr("IFLA_IFNAME"))
                ip.link("del", index=link["index"])
        for name, index in bridges.items():
            removed.append(name)
            ip.link("del", index=index)
    return removed


def flush_udp(destinations: Iterable[tuple[str, int]]) -> int:
    """Forget UDP flows to these (address, port) pairs, so that a client's next datagram meets the new rules. ``""`` as address
    means any (a node port). Returns how many were deleted. Source: kube-proxy ``pkg/proxy/conntrack``."""
    from pyroute2.netlink.nfnetlink.nfctsocket import NFCTAttrTuple, NFCTSocket

    wanted = set(destinations)
    deleted = 0
    with NFCTSocket() as table:
        for entry in list(table.dump()):
            original = entry.get_attr("CTA_TUPLE_ORIG")
            address, protocol = original.get_attr("CTA_TUPLE_IP"), original.get_attr("CTA_TUPLE_PROTO")
            if protocol.get_attr("CTA_PROTO_NUM") != 17:
                continue
            target = address.get_attr("CTA_IP_V4_DST") or address.get_attr("CTA_IP_V6_DST")
            port = protocol.get_attr("CTA_PROTO_DST_PORT")
            if (target, port) in wanted or ("", port) in wanted:
                table.entry("del", tuple_orig=NFCTAttrTuple.from_netlink(2 if "." in target else 10, original))
                deleted += 1
    return deleted


def set_sysctls() -> list[str]:
    """Forwarding and bridge filtering as K3s's agent sets them. Returns what could not be set, for a warning."""
    wanted = {
        "net/ipv4/ip_forward": "1",
        "net/ipv4/conf/all/route_localnet": "1",
        "net/bridge/bridge-nf-call-iptables": "1",
    }
    failed = []
    for name, value in wanted.items():
        path = Path("/proc/sys") / name
        try:
            if path.read_text().strip() != value:
                path.write_text(value)
        except OSError as error:
            failed.append(f"{name.replace('/', '.')}: {error.strerror}")
    return failed


def main() -> int:
    """``ensure DNS CIDR NODE_IP`` prints ``{"mtu": N, "failed": [...]}``; ``flush-udp`` reads pairs as JSON on stdin."""
    result: dict[str, Any] = {}
    match sys.argv[1:]:
        case ["ensure", dns, cidr, node_ip]:
            result["failed"] = set_sysctls()
            ensure_service_link(dns, cidr, node_ip)
            result["mtu"] = default_mtu()
        case ["flush-udp"]:
            result["deleted"] = flush_udp([(a, int(p)) for a, p in json.load(sys.stdin)])
        case _:
            print("usage: python -m k3sd.network.links ensure DNS CIDR NODE_IP | flush-udp", file=sys.stderr)
            return 2
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
