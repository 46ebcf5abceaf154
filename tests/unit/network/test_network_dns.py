"""The zone against the Kubernetes DNS specification."""

from __future__ import annotations

from typing import Any

import pytest
from dnslib import QTYPE, RCODE

from k3sd.network.dns import Zone

Obj = dict[str, Any]
PORT = {"name": "http", "port": 80, "protocol": "TCP"}
SERVICES: dict[str, Obj] = {
    "default/kubernetes": {"metadata": {"namespace": "default", "name": "kubernetes"}, "spec": {"clusterIP": "10.43.0.1"}},
    "ns/web": {"metadata": {"namespace": "ns", "name": "web"}, "spec": {"clusterIP": "10.43.0.5", "ports": [PORT]}},
    "ns/db": {"metadata": {"namespace": "ns", "name": "db"}, "spec": {"clusterIP": "None", "ports": [PORT]}},
    "ns/ext": {"metadata": {"namespace": "ns", "name": "ext"}, "spec": {"type": "ExternalName", "externalName": "example.com"}},
}  # fmt: skip
SLICES: dict[str, list[Obj]] = {
    "ns/db": [
        {
            "metadata": {"namespace": "ns", "name": "db-x", "labels": {"kubernetes.io/service-name": "db"}},
            "ports": [PORT],
            "endpoints": [
                {"addresses": ["10.42.0.7"], "hostname": "db-0", "conditions": {"ready": True}},
                {"addresses": ["10.42.0.8"], "conditions": {"ready": True}},
                {"addresses": ["10.42.0.9"], "conditions": {"ready": False}},
            ],
        }
    ]
}


@pytest.fixture
def zone() -> Zone:
    return Zone(
        "cluster.local",
        SERVICES.get,
        lambda n: n in ("default", "ns"),
        lambda key: SLICES.get(key, []),
        lambda ip: [s for s in SERVICES.values() if s["spec"].get("clusterIP") == ip],
        lambda ip: [s for items in SLICES.values() for s in items if any(ip in e["addresses"] for e in s["endpoints"])],
        lambda name: {"box": "192.0.2.1"}.get(name, ""),
    )


@pytest.mark.parametrize(
    ("name", "qtype", "expected"),
    [
        ("kubernetes.default.svc.cluster.local", "A", {"10.43.0.1"}),
        ("web.ns.svc.cluster.local", "AAAA", set()),
        ("_http._tcp.web.ns.svc.cluster.local", "SRV", {"0 100 80 web.ns.svc.cluster.local."}),
        ("db.ns.svc.cluster.local", "A", {"10.42.0.7", "10.42.0.8"}),
        ("db-0.db.ns.svc.cluster.local", "A", {"10.42.0.7"}),
        ("10-42-0-8.db.ns.svc.cluster.local", "A", {"10.42.0.8"}),
        (
            "_http._tcp.db.ns.svc.cluster.local",
            "SRV",
            {"0 50 80 db-0.db.ns.svc.cluster.local.", "0 50 80 10-42-0-8.db.ns.svc.cluster.local."},
        ),
        ("ext.ns.svc.cluster.local", "A", {"example.com."}),
        ("10-42-0-3.ns.pod.cluster.local", "A", {"10.42.0.3"}),
        ("5.0.43.10.in-addr.arpa", "PTR", {"web.ns.svc.cluster.local."}),
        ("7.0.42.10.in-addr.arpa", "PTR", {"db-0.db.ns.svc.cluster.local."}),
        ("box", "A", {"192.0.2.1"}),
        ("ns.svc.cluster.local", "A", set()),
    ],
)
def test_answers(zone: Zone, name: str, qtype: str, expected: set[str]) -> None:
    found = zone.answer(name, qtype)
    assert found is not None
    rcode, records = found
    assert rcode == RCODE.NOERROR
    assert {str(r.rdata) for r in records} == expected
    assert all(r.rtype == getattr(QTYPE, qtype) or r.rtype == QTYPE.CNAME for r in records)


@pytest.mark.parametrize(
    "name",
    [
        "nope.ns.svc.cluster.local",
        "web.other.svc.cluster.local",
        "nobody.db.ns.svc.cluster.local",
        "x.cluster.local",
        "a-b.ns.pod.cluster.local",
    ],
)
def test_unknown_names_do_not_exist(zone: Zone, name: str) -> None:
    assert zone.answer(name, "A") == (RCODE.NXDOMAIN, [])


@pytest.mark.parametrize("name", ["example.com", "1.0.0.127.in-addr.arpa", "web.ns"])
def test_foreign_names_are_forwarded(zone: Zone, name: str) -> None:
    assert zone.answer(name, "A") is None
