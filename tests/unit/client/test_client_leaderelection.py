from __future__ import annotations

import asyncio

import pytest

from k3sd.apis import resources
from k3sd.client.leaderelection import Election, LeaderElector, is_shared, run_elected
from tests.fakes.client import FakeClient
from tests.fakes.clock import wall_clock


async def forever(log: list[str], name: str) -> None:
    log.append(f"{name} leads")
    try:
        await asyncio.Event().wait()
    finally:
        log.append(f"{name} stops")


def candidate(client: FakeClient, name: str, log: list[str]) -> asyncio.Task[None]:
    elector = LeaderElector(client, Election("kube-scheduler", name), clock=wall_clock)
    return asyncio.create_task(elector.run(lambda: forever(log, name)))


async def test_one_leads_and_hands_over_at_once_when_it_stops():
    client, log = FakeClient(wall_clock), list[str]()
    a = candidate(client, "a", log)
    await asyncio.sleep(1)
    b = candidate(client, "b", log)
    await asyncio.sleep(60)
    assert log == ["a leads"]
    lease = client.all(resources.LEASES)[0]
    assert lease["spec"]["holderIdentity"] == "a" and lease["spec"]["leaseTransitions"] == 0
    a.cancel()
    await asyncio.sleep(5)
    assert log == ["a leads", "a stops", "b leads"]
    assert client.all(resources.LEASES)[0]["spec"]["leaseTransitions"] == 1
    b.cancel()
    await asyncio.gather(a, b, return_exceptions=True)


async def test_a_leader_that_cannot_renew_stops_before_another_starts():
    client, log = FakeClient(wall_clock), list[str]()
    cut = False

    def partition(verb, resource, obj, subresource) -> None:
        if cut and obj is not None and obj["spec"].get("holderIdentity") in ("a", ""):
            raise ConnectionError("partitioned")

    client.on_write(partition)
    a = candidate(client, "a", log)
    await asyncio.sleep(1)
    b = candidate(client, "b", log)
    await asyncio.sleep(5)
    cut = True
    await asyncio.sleep(40)
    assert log == ["a leads", "a stops", "b leads"]
    b.cancel()
    await asyncio.gather(a, b, return_exceptions=True)


async def test_whoever_loses_the_lease_works_again_when_it_has_it_back():
    client, log = FakeClient(wall_clock), list[str]()
    a = asyncio.create_task(run_elected(client, "kube-controller-manager", "n1", lambda: forever(log, "n1")))
    await asyncio.sleep(5)
    lease = client.all(resources.LEASES)[0]
    assert lease["spec"]["holderIdentity"].startswith("n1_")
    stolen = {**lease, "spec": {**lease["spec"], "holderIdentity": "thief", "renewTime": "x"}}
    await client.update(resources.LEASES, {**stolen, "metadata": {**lease["metadata"], "resourceVersion": ""}})
    await asyncio.sleep(60)
    assert log == ["n1 leads", "n1 stops", "n1 leads"]
    a.cancel()
    await asyncio.gather(a, return_exceptions=True)


@pytest.mark.parametrize(
    ("endpoint", "shared"),
    [("", False), ("sqlite:///var/lib/x.db", False), ("postgres://db/k3s", True), ("https://etcd:2379", True)],
)
def test_is_shared(endpoint: str, shared: bool):
    assert is_shared(endpoint) is shared
