"""Statuses on their way to an in-memory API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from k3sd.apimachinery import errors
from k3sd.apis import resources
from k3sd.kubelet.statuswriter import StatusWriter
from tests.fakes.podapi import FakeAPI
from tests.unit.kubelet.kubelet_pods import pod

Obj = dict[str, Any]


class Setup:
    """One pod in the API and a writer for it."""

    def __init__(self, api: FakeAPI, made: Obj) -> None:
        self.api = api
        self.pod = made
        self.writer = StatusWriter(api)

    @property
    def shown(self) -> Obj:
        status: Obj = self.api.all(resources.PODS)[0]["status"]
        return status

    @property
    def patches(self) -> int:
        return len(self.api.writes("pods/status"))


@pytest.fixture
async def setup() -> AsyncIterator[Setup]:
    api = FakeAPI()
    made = await api.create(resources.PODS, pod(nodeName="n"), "ns")
    it = Setup(api, made)
    yield it
    await it.writer.stop()


async def test_the_newest_wins_and_nothing_is_written_twice(setup: Setup) -> None:
    for phase in ("Pending", "Running", "Failed"):
        setup.writer.set(setup.pod, {"phase": phase})
    await setup.writer.flush()
    assert (setup.shown["phase"], setup.patches) == ("Failed", 1)
    setup.writer.set(setup.pod, {"phase": "Failed"})
    await setup.writer.flush()
    assert setup.patches == 1


async def test_a_lazy_status_is_overtaken(setup: Setup) -> None:
    setup.writer.set(setup.pod, {"phase": "Pending", "reason": "x"}, lazy=True)
    await asyncio.sleep(0)
    assert setup.patches == 0
    setup.writer.set(setup.pod, {"phase": "Running"})
    await setup.writer.flush()
    assert (setup.shown["phase"], setup.patches) == ("Running", 1)
    setup.writer.set(setup.pod, {"phase": "Pending"}, lazy=True)
    await setup.writer.flush()
    assert setup.patches == 2


async def test_conditions_of_others_stay(setup: Setup) -> None:
    foreign = [{"type": "x/y", "status": "True"}]
    await setup.api.patch(resources.PODS, "p", {"status": {"conditions": foreign}}, "ns", subresource="status")
    setup.writer.set(setup.pod, {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]})
    await setup.writer.flush()
    assert {c["type"] for c in setup.shown["conditions"]} == {"x/y", "Ready"}


async def test_what_somebody_else_wrote_into_our_fields_is_set_right(setup: Setup) -> None:
    setup.writer.set(setup.pod, {"phase": "Running"})
    await setup.writer.flush()
    changed = await setup.api.patch(resources.PODS, "p", {"status": {"phase": "Failed"}}, "ns", subresource="status")
    setup.writer.observed(changed)
    await setup.writer.flush()
    assert setup.shown["phase"] == "Running"
    patches = setup.patches
    setup.writer.observed(setup.api.all(resources.PODS)[0])
    await setup.writer.flush()
    assert setup.patches == patches


async def test_deletion_comes_after_the_last_status(setup: Setup) -> None:
    setup.writer.set(setup.pod, {"phase": "Succeeded"})
    await setup.writer.delete(setup.pod)
    assert setup.api.all(resources.PODS) == []
    assert [a[:2] for a in setup.api.actions[-2:]] == [("patch", "pods/status"), ("delete", "pods")]


async def test_a_pod_that_is_gone_is_no_trouble(setup: Setup) -> None:
    await setup.api.remove(resources.PODS, setup.pod)
    setup.writer.set(setup.pod, {"phase": "Succeeded"})
    async with asyncio.timeout(5):
        await setup.writer.delete(setup.pod)


async def test_another_pod_of_the_same_name_is_left_alone(setup: Setup) -> None:
    await setup.api.remove(resources.PODS, setup.pod)
    await setup.api.create(resources.PODS, pod(nodeName="n"), "ns")
    setup.writer.set(setup.pod, {"phase": "Succeeded"})
    async with asyncio.timeout(5):
        await setup.writer.delete(setup.pod)
    assert setup.shown["phase"] == "Pending"


async def test_writes_are_repeated_until_the_api_answers(setup: Setup) -> None:
    failures = iter([ConnectionError("down"), errors.service_unavailable("starting")])

    def fail(verb: str, *_: object) -> None:
        for error in failures:
            raise error

    setup.api.on_write(fail)
    setup.writer.set(setup.pod, {"phase": "Running"})
    await setup.writer.flush()
    assert setup.shown["phase"] == "Running"
