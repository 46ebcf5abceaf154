from __future__ import annotations

import asyncio

import pytest

from k3sd.apis import resources
from k3sd.client.informer import InformerFactory
from k3sd.config.settings import Settings
from k3sd.controllers.base import Context, Controller
from k3sd.controllers.manager import TABLE, Row, run, select
from tests.fakes.client import FakeClient
from tests.fakes.clock import wall_clock


class Fragile(Controller):
    name = "fragile-controller"
    runs = 0

    async def run(self) -> None:
        Fragile.runs += 1
        if Fragile.runs < 3:
            raise RuntimeError("bug")
        await asyncio.Event().wait()


class Steady(Controller):
    name = "steady-controller"
    alive = False

    async def run(self) -> None:
        Steady.alive = True
        try:
            await asyncio.Event().wait()
        finally:
            Steady.alive = False


ROWS = [Row(Fragile, Fragile.name, "fragile"), Row(Steady, Steady.name, "steady"), Row(Steady, "off-controller", "off", False)]


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        ((), ["fragile-controller", "steady-controller"]),
        (("*,-fragile",), ["steady-controller"]),
        (("*", "off"), ["fragile-controller", "steady-controller", "off-controller"]),
        (("steady-controller",), ["steady-controller"]),
    ],
)
def test_select(patterns: tuple[str, ...], names: list[str]):
    assert [r.name for r in select(ROWS, patterns)] == names


def test_names_are_unique():
    names = [n for row in TABLE for n in (row.name, row.alias)]
    assert len(names) == len(set(names))


async def test_a_failing_controller_is_started_again_and_disturbs_no_other():
    client = FakeClient(wall_clock)
    task = asyncio.create_task(run(Context(client, InformerFactory(client), Settings(), wall_clock), ROWS[:2]))
    await asyncio.sleep(0.1)
    assert Fragile.runs == 1 and Steady.alive
    await asyncio.sleep(30)
    assert Fragile.runs == 3 and Steady.alive
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert not Steady.alive


async def test_controllers_find_caches_that_are_already_full(caplog: pytest.LogCaptureFixture):
    """As after a restart: another controller's list has come, or this one failed and is started again."""
    client = FakeClient(wall_clock)
    informers = InformerFactory(client)
    await client.create(resources.NODES, {"metadata": {"name": "n"}, "spec": {}})
    pod = {"metadata": {"name": "p", "namespace": "x"}, "spec": {"nodeName": "n"}, "status": {"phase": "Succeeded"}}
    await client.create(resources.PODS, pod, "x")
    for resource in (resources.NODES, resources.PODS):
        informer = informers.informer(resource)
        informer.start()
        await informer.wait_synced()
    rows = [row for row in TABLE if row.alias in ("ttl", "podgc", "daemonset", "nodelifecycle", "taint-eviction", "nodeipam")]
    task = asyncio.create_task(run(Context(client, informers, Settings(), wall_clock), rows))
    await asyncio.sleep(1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await informers.stop()
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []
    [node] = client.all(resources.NODES)
    assert node["metadata"]["annotations"] == {"node.alpha.kubernetes.io/ttl": "0"}
