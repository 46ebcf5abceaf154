"""The ruleset of the node as data, and the difference of two rulesets as one nftables transaction. Pure.

One table, ``inet k3sd``, which k3sd owns entirely; the design follows kube-proxy's nftables mode (KEP-3866): verdict maps
find the chain of a service port in constant time, one chain a service port spreads over one chain an endpoint.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from k3sd.network.servicemap import ServicePort

TABLE = "inet k3sd"
MASQUERADE_MARK = 0x4000
MAPS = {
    "service-ips": "type ipv4_addr . inet_proto . inet_service : verdict",
    "service-nodeports": "type inet_proto . inet_service : verdict",
    "no-endpoint-services": "type ipv4_addr . inet_proto . inet_service : verdict",
    "no-endpoint-nodeports": "type inet_proto . inet_service : verdict",
}


@dataclass(slots=True)
class Ruleset:
    """``elements``: map name to element key to verdict; ``sets``: affinity set name to seconds; ``chains``: name to rules."""

    elements: dict[str, dict[str, str]] = field(default_factory=lambda: {name: {} for name in MAPS})
    sets: dict[str, int] = field(default_factory=dict)
    chains: dict[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What the fixed part of the table depends on."""

    cluster_cidr: str
    service_cidr: str
    dns_address: str
    bridge_filtering: bool = True
    """False where bridged packets skip nftables: then a pod that reaches a pod of the same node through a service must be
    masqueraded, or the answer would come back untranslated."""


def base_commands(facts: NodeFacts) -> list[str]:
    """Make the table anew, atomically: whatever an earlier run left in it is gone in the same transaction."""
    mark = f"{MASQUERADE_MARK:#x}"
    chains: dict[str, list[str]] = {
        "mark-for-masquerade": [f"meta mark set meta mark | {mark}"],
        # A reset, because an ICMP error that arrives while connect() still holds the socket is only seen a second later.
        "reject-chain": ["meta l4proto tcp reject with tcp reset", "reject"],
        "drop-chain": ["drop"],
        "services": [
            "ip daddr . meta l4proto . th dport vmap @service-ips",
            "fib daddr type local meta l4proto . th dport vmap @service-nodeports",
        ],
        "no-endpoints": [
            "ip daddr . meta l4proto . th dport vmap @no-endpoint-services",
            "fib daddr type local meta l4proto . th dport vmap @no-endpoint-nodeports",
        ],
        "prerouting": ["type nat hook prerouting priority -100; policy accept;", "jump services"],
        "output": ["type nat hook output priority -100; policy accept;", "jump services"],
        "postrouting": [
            "type nat hook postrouting priority 100; policy accept;",
            f"meta mark & {mark} == {mark} meta mark set meta mark ^ {mark} masquerade fully-random",
            f"ip saddr {facts.cluster_cidr} ip daddr != {{ {facts.cluster_cidr}, 224.0.0.0/4 }} masquerade fully-random",
        ],
        # route_localnet lets node ports answer on 127.0.0.1; without this rule it would also let neighbours reach loopback.
        "loopback-guard": [
            "type filter hook prerouting priority -150; policy accept;",
            'iifname != "lo" ip daddr 127.0.0.0/8 ct status & (dnat | snat) == 0x0 drop',
        ],
        "filter-input": ["type filter hook input priority 0; policy accept;", "ct state new jump no-endpoints"],
        "filter-forward": [
            "type filter hook forward priority 0; policy accept;",
            "ct state new jump no-endpoints",
            f"ct state new ip daddr {facts.service_cidr} goto reject-chain",
        ],
        "filter-output": [
            "type filter hook output priority 0; policy accept;",
            "ct state new jump no-endpoints",
            f"ct state new ip daddr {facts.service_cidr} ip daddr != {facts.dns_address} goto reject-chain",
        ],
    }
    if not facts.bridge_filtering:
        chains["postrouting"].insert(
            1, f"ct status dnat ip saddr {facts.cluster_cidr} ip daddr {facts.cluster_cidr} masquerade fully-random"
        )
    commands = [f"add table {TABLE}", f"delete table {TABLE}", f"add table {TABLE}"]
    commands += [f"add map {TABLE} {name} {{ {kind}; }}" for name, kind in MAPS.items()]
    for name, rules in chains.items():
        if rules[0].startswith("type "):
            commands.append(f"add chain {TABLE} {name} {{ {rules[0]} }}")
        else:
            commands.append(f"add chain {TABLE} {name}")
    for name, rules in chains.items():
        commands += [f"add rule {TABLE} {name} {rule}" for rule in rules if not rule.startswith("type ")]
    return commands


def chain_name(prefix: str, text: str) -> str:
    """A readable, unique nftables identifier; Kubernetes names may exceed its length, so a hash comes first."""
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{prefix}-{digest}-{text}"[:110]


def build_ruleset(ports: Iterable[ServicePort], facts: NodeFacts) -> Ruleset:
    """Chains and map elements of all service ports. A cluster IP that another Service already took is left to that one."""
    out = Ruleset()
    for port in ports:
        proto = port.protocol.lower()
        if proto not in ("tcp", "udp", "sctp") or port.cluster_ip == facts.dns_address:
            continue
        _one_port(out, port, proto, facts)
    return out


def _one_port(out: Ruleset, port: ServicePort, proto: str, facts: NodeFacts) -> None:
    internal = chain_name("service", port.key)
    if port.cluster_endpoints:
        match = f"ip daddr {port.cluster_ip} {proto} dport {port.port}"
        head = [f"{match} ip saddr != {facts.cluster_cidr} jump mark-for-masquerade"]
        out.chains[internal] = (*head, *_balance(out, port, proto, port.cluster_endpoints))
        out.elements["service-ips"].setdefault(f"{port.cluster_ip} . {proto} . {port.port}", f"goto {internal}")
    else:
        out.elements["no-endpoint-services"].setdefault(f"{port.cluster_ip} . {proto} . {port.port}", "goto reject-chain")
    if not port.node_port and not port.external_ips:
        return
    # Local policy without an endpoint here drops, so that a load balancer's health check moves on; otherwise it rejects.
    refusal = "goto drop-chain" if port.external_local and port.all_endpoints else "goto reject-chain"
    external = chain_name("external", port.key)
    if port.external_endpoints:
        out.chains[external] = _external_rules(out, port, proto, internal, facts)
        verdict, suffix = f"goto {external}", ""
    else:
        verdict, suffix = refusal, "no-endpoint-"
    if port.node_port:
        table = "no-endpoint-nodeports" if suffix else "service-nodeports"
        out.elements[table].setdefault(f"{proto} . {port.node_port}", verdict)
    for address in port.external_ips:
        target = _with_firewall(out, port, verdict) if not suffix else verdict
        table = "no-endpoint-services" if suffix else "service-ips"
        out.elements[table].setdefault(f"{address} . {proto} . {port.port}", target)


def _with_firewall(out: Ruleset, port: ServicePort, verdict: str) -> str:
    """loadBalancerSourceRanges: only these sources are translated; the others just reach nothing."""
    if not port.source_ranges:
        return verdict
    name = chain_name("firewall", port.key)
    out.chains[name] = (f"ip saddr {{ {', '.join(port.source_ranges)} }} {verdict}",)
    return f"goto {name}"


def _external_rules(out: Ruleset, port: ServicePort, proto: str, internal: str, facts: NodeFacts) -> tuple[str, ...]:
    if not port.external_local:
        balance = (
            [f"goto {internal}"]
            if port.cluster_endpoints == port.external_endpoints
            else _balance(out, port, proto, port.external_endpoints)
        )
        return ("jump mark-for-masquerade", *balance)
    rules = []
    if port.cluster_endpoints:
        # Traffic from this node or its pods is not "external": it may use any endpoint, masqueraded where it needs to be.
        rules += [
            f"ip saddr {facts.cluster_cidr} goto {internal}",
            "fib saddr type local jump mark-for-masquerade",
            f"fib saddr type local goto {internal}",
        ]
    return (*rules, *_balance(out, port, proto, port.external_endpoints))


def _balance(out: Ruleset, port: ServicePort, proto: str, endpoints: Sequence[tuple[str, int]]) -> list[str]:
    """Rules that pick one of ``endpoints``, and the chain of each; remembered clients go where they went before."""
    rules: list[str] = []
    targets: list[str] = []
    for address, number in endpoints:
        text = f"{port.key}__{address}/{number}"
        chain = chain_name("endpoint", text)
        body = [f"ip saddr {address} jump mark-for-masquerade"]
        if port.affinity_seconds:
            # A set's timeout cannot be changed, so the name carries it.
            affinity = chain_name("affinity", f"{port.affinity_seconds}-{text}")
            out.sets[affinity] = port.affinity_seconds
            rules.append(f"ip saddr @{affinity} goto {chain}")
            body.append(f"update @{affinity} {{ ip saddr }}")
        body.append(f"meta l4proto {proto} dnat ip to {address}:{number}")
        out.chains[chain] = tuple(body)
        targets.append(chain)
    choices = ", ".join(f"{i} : goto {chain}" for i, chain in enumerate(targets))
    rules.append(f"numgen random mod {len(targets)} vmap {{ {choices} }}" if len(targets) > 1 else f"goto {targets[0]}")
    return rules


def diff(old: Ruleset, new: Ruleset) -> list[str]:
    """Commands that turn ``old`` into ``new``, in an order nftables accepts: make, fill, repoint, then remove."""
    commands: list[str] = []
    for name, seconds in new.sets.items():
        if name not in old.sets:
            commands.append(f"add set {TABLE} {name} {{ type ipv4_addr; flags dynamic,timeout; timeout {seconds}s; }}")
    commands += [f"add chain {TABLE} {name}" for name in new.chains if name not in old.chains]
    for name, rules in new.chains.items():
        if old.chains.get(name) == rules:
            continue
        if name in old.chains:
            commands.append(f"flush chain {TABLE} {name}")
        commands += [f"add rule {TABLE} {name} {rule}" for rule in rules]
    for table in MAPS:
        before, after = old.elements[table], new.elements[table]
        gone = [f"{key} : {verdict}" for key, verdict in before.items() if after.get(key) != verdict]
        come = [f"{key} : {verdict}" for key, verdict in after.items() if before.get(key) != verdict]
        if gone:
            commands.append(f"delete element {TABLE} {table} {{ {', '.join(gone)} }}")
        if come:
            commands.append(f"add element {TABLE} {table} {{ {', '.join(come)} }}")
    stale = [name for name in old.chains if name not in new.chains]
    commands += [f"flush chain {TABLE} {name}" for name in stale]
    commands += [f"delete chain {TABLE} {name}" for name in stale]
    commands += [f"delete set {TABLE} {name}" for name in old.sets if name not in new.sets]
    return commands
