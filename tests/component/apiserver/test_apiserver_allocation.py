"""Cluster IPs and node ports through the API: nothing is handed out twice, and what failed keeps nothing."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from tests.component.apiserver.conftest import Http

SERVICES = "/api/v1/namespaces/default/services"


def service(name: str, **spec: Any) -> dict[str, Any]:
    body = {"ports": [{"port": 80}], "type": "NodePort", **spec}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": body}


def given(answers: list[Any]) -> tuple[list[str], list[int]]:
    """Addresses and node ports of what was made."""
    specs = [body["spec"] for status, _, body in answers if status == 201]
    return [s["clusterIP"] for s in specs], [s["ports"][0]["nodePort"] for s in specs]


async def test_many_at_once_get_different_ones(http: Http) -> None:
    answers = await asyncio.gather(*(http("POST", SERVICES, service(f"s{i}")) for i in range(60)))
    addresses, ports = given(answers)
    assert len(addresses) == 60
    assert Counter(addresses).most_common(1)[0][1] == Counter(ports).most_common(1)[0][1] == 1


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        (
            {"clusterIP": "10.43.7.7"},
            'spec.clusterIPs: Invalid value: ["10.43.7.7"]: failed to allocate IP 10.43.7.7: provided IP is already allocated',
        ),
        (
            {"ports": [{"port": 80, "nodePort": 31234}]},
            "spec.ports[0].nodePort: Invalid value: 31234: provided port is already allocated",
        ),
    ],
    ids=["address", "port"],
)
async def test_one_of_many_gets_what_all_ask_for(http: Http, wanted: dict[str, Any], text: str) -> None:
    answers = await asyncio.gather(*(http("POST", SERVICES, service(f"s{i}", **wanted)) for i in range(10)))
    assert len(given(answers)[0]) == 1
    refused = [body["message"] for status, _, body in answers if status == 422]
    assert refused == [f'Service "{name}" is invalid: {text}' for name in (m.split('"')[1] for m in refused)]
    assert len(refused) == 9


async def test_what_was_not_made_keeps_nothing(http: Http) -> None:
    wanted = service("a", clusterIP="10.43.7.8", ports=[{"port": 80, "nodePort": 31235}])
    bad = {**wanted, "spec": {**wanted["spec"], "sessionAffinity": "Sometimes"}}
    assert (await http("POST", SERVICES, bad))[0] == 422
    assert (await http("POST", SERVICES + "?dryRun=All", wanted))[0] == 201
    taken = service("a")
    assert (await http("POST", SERVICES, taken))[0] == 201
    assert (await http("POST", SERVICES, wanted))[0] == 409, "the name is taken"
    assert (await http("POST", SERVICES, {**wanted, "metadata": {"name": "b"}}))[0] == 201
    assert (await http("DELETE", f"{SERVICES}/b"))[0] == 200
    again = {**wanted, "metadata": {"name": "c"}}
    assert (await http("POST", SERVICES, again))[0] == 201, "a deleted service gives back what it had"
