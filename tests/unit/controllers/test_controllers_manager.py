from __future__ import annotations

import asyncio

import pytest

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
