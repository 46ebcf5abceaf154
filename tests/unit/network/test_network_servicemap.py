"""From Services and EndpointSlices to service ports and rules."""

from __future__ import annotations

from typing import Any

import pytest

from k3sd.network import rules
from k3sd.network.proxy import stale_udp
from k3sd.network.servicemap import build_service_ports

FACTS = rules.NodeFacts("10.42.0.0/16", "10.43.0.0/16", "10.43.0.10")


def service(**spec: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "type": "ClusterIP",
        "clusterIP": "10.43.0.5",
        "ports": [{"port": 80, "name": "http", "protocol": "TCP"}],
    }
    return {"metadata": {"namespace": "ns", "name": "web"}, "spec": base | spec}


def slice_(endpoints: list[dict[str, Any]], port: int = 8080, name: str = "http", protocol: str = "TCP") -> dict[str, Any]:
    return {
        "metadata": {"namespace": "ns", "name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "ports": [{"port": port, "name": name, "protocol": protocol}],
        "endpoints": endpoints,
    }


def ready(address: str, node: str = "n1", **conditions: Any) -> dict[str, Any]:
    return {"addresses": [address], "nodeName": node, "conditions": {"ready": True, **conditions}}


DYING = ready("10.42.0.9", ready=False, serving=True, terminating=True)


@pytest.mark.parametrize(
    ("spec", "endpoints", "cluster", "external"),
    [
        ({}, [ready("10.42.0.2"), ready("10.42.0.1")], ["10.42.0.1", "10.42.0.2"], ["10.42.0.1", "10.42.0.2"]),
        ({}, [ready("10.42.0.2"), DYING], ["10.42.0.2"], ["10.42.0.2"]),
        ({}, [DYING], ["10.42.0.9"], ["10.42.0.9"]),
        ({"internalTrafficPolicy": "Local"}, [ready("10.42.1.2", "n2")], [], ["10.42.1.2"]),
        ({"externalTrafficPolicy": "Local"}, [ready("10.42.1.2", "n2")], ["10.42.1.2"], []),
        ({}, [ready("10.42.0.3", ready=False)], [], []),
    ],
    ids=["ready", "ready-before-terminating", "terminating-when-alone", "internal-local", "external-local", "unready"],
)
def test_usable_endpoints(spec: dict[str, Any], endpoints: list[Any], cluster: list[str], external: list[str]) -> None:
    (port,) = build_service_ports([service(**spec)], [slice_(endpoints)], "n1")
    assert [a for a, _ in port.cluster_endpoints] == cluster
    assert [a for a, _ in port.external_endpoints] == external


@pytest.mark.parametrize(
    "spec", [{"clusterIP": "None"}, {"type": "ExternalName", "clusterIP": ""}], ids=["headless", "external-name"]
)
def test_not_proxied(spec: dict[str, Any]) -> None:
    assert build_service_ports([service(**spec)], [], "n1") == []


def test_several_slices_count_and_one_address_counts_once() -> None:
    slices = [slice_([ready("10.42.0.1")]), slice_([ready("10.42.0.1"), ready("10.42.0.2")])]
    (port,) = build_service_ports([service()], slices, "n1")
    assert port.cluster_endpoints == (("10.42.0.1", 8080), ("10.42.0.2", 8080))


def test_rendered_rules() -> None:
    spec = {"type": "NodePort", "sessionAffinity": "ClientIP", "ports": [{"port": 80, "name": "http", "nodePort": 30080}]}
    ports = build_service_ports([service(**spec)], [slice_([ready("10.42.0.1"), ready("10.42.0.2")])], "n1")
    out = rules.build_ruleset(ports, FACTS)
    (verdict,) = out.elements["service-ips"].values()
    chain = verdict.removeprefix("goto ")
    assert list(out.elements["service-ips"]) == ["10.43.0.5 . tcp . 80"]
    assert list(out.elements["service-nodeports"]) == ["tcp . 30080"]
    assert out.chains[chain][0] == "ip daddr 10.43.0.5 tcp dport 80 ip saddr != 10.42.0.0/16 jump mark-for-masquerade"
    assert out.chains[chain][-1].startswith("numgen random mod 2 vmap")
    assert set(out.sets.values()) == {10800}
    endpoint = next(c for n, c in out.chains.items() if n.startswith("endpoint-") and "10.42.0.1/" in n)
    assert endpoint[0] == "ip saddr 10.42.0.1 jump mark-for-masquerade"
    assert endpoint[-1] == "meta l4proto tcp dnat ip to 10.42.0.1:8080"


def test_no_endpoints_reject() -> None:
    out = rules.build_ruleset(build_service_ports([service()], [], "n1"), FACTS)
    assert out.elements["no-endpoint-services"] == {"10.43.0.5 . tcp . 80": "goto reject-chain"}
    assert out.chains == {}


def test_diff_is_empty_for_no_change_and_undoes_itself() -> None:
    one = rules.build_ruleset(build_service_ports([service()], [slice_([ready("10.42.0.1")])], "n1"), FACTS)
    assert rules.diff(one, one) == []
    commands = rules.diff(one, rules.Ruleset())
    assert sum(c.startswith("delete chain") for c in commands) == len(one.chains)


def test_udp_flows_are_forgotten_when_an_endpoint_goes_or_the_first_comes() -> None:
    udp = {"ports": [{"port": 53, "name": "dns", "protocol": "UDP"}]}
    none = build_service_ports([service(**udp)], [], "n1")
    some = build_service_ports([service(**udp)], [slice_([ready("10.42.0.1")], 53, "dns", "UDP")], "n1")
    assert stale_udp(some, some) == []
    assert stale_udp(some, none) == [("10.43.0.5", 53)]
    assert stale_udp(none, some) == [("10.43.0.5", 53)]
