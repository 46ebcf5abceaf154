"""Under concurrent writers every watch sees every change once, in one order, and ends up with what a list shows."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from k3sd.apimachinery.errors import StatusError
from k3sd.apis import resources
from k3sd.client.api import WatchEvent
from tests.support.apiserver import TestServer, run_server

WRITERS, CHANGES, NAMES = 8, 60, 12


@pytest.fixture
async def server(tmp_path: Path, store: str) -> AsyncIterator[TestServer]:
    async with run_server(tmp_path, store) as running:
        yield running


class Follower:
    """A watch and the picture it makes of the world."""

    def __init__(self, server: TestServer, selector: str = "") -> None:
        self.selector = selector
        self.events: list[WatchEvent] = []
        self.state: dict[str, str] = {}
        self.seen = asyncio.Event()
        self._client = server.registry.client()
        self.task = asyncio.ensure_future(self._follow())

    async def _follow(self) -> None:
        async for event in self._client.watch(resources.CONFIGMAPS, "default", label_selector=self.selector):
            meta = event.object["metadata"]
            self.events.append(event)
            if event.type == "DELETED":
                assert meta["name"] in self.state, f"DELETED {meta['name']} without having been there"
                del self.state[meta["name"]]
            else:
                assert (event.type == "ADDED") == (meta["name"] not in self.state)
                self.state[meta["name"]] = meta["resourceVersion"]
            if meta["name"] == "last":
                self.seen.set()


async def write(server: TestServer, seed: int) -> None:
    chance = random.Random(seed)
    client: Any = server.registry.client()
    for number in range(CHANGES):
        name = f"n{chance.randrange(NAMES)}"
        obj = {
            "metadata": {"name": name, "namespace": "default", "labels": {"on": chance.choice("yn")}},
            "data": {"k": f"{seed}-{number}"},
        }
        try:
            match chance.randrange(3):
                case 0:
                    await client.create(resources.CONFIGMAPS, obj)
                case 1:
                    await client.update(resources.CONFIGMAPS, obj)
                case _:
                    await client.delete(resources.CONFIGMAPS, name, "default")
        except StatusError as error:
            assert error.reason in ("AlreadyExists", "NotFound", "Conflict"), error.message


async def test_every_watch_sees_the_same(server: TestServer) -> None:
    plain = [Follower(server) for _ in range(5)]
    chosen = Follower(server, "on=y")
    await asyncio.sleep(0)
    await asyncio.gather(*(write(server, seed) for seed in range(WRITERS)))
    late = Follower(server)
    client = server.registry.client()
    await client.create(resources.CONFIGMAPS, {"metadata": {"name": "last", "namespace": "default", "labels": {"on": "y"}}})
    everyone = [*plain, chosen, late]
    await asyncio.wait_for(asyncio.gather(*(f.seen.wait() for f in everyone)), 20)
    for follower in everyone:
        assert not follower.task.done(), follower.task.exception()
        follower.task.cancel()
    listed = await client.list(resources.CONFIGMAPS, "default")
    final = {o["metadata"]["name"]: o["metadata"]["resourceVersion"] for o in listed.items}
    marked = {o["metadata"]["name"] for o in listed.items if o["metadata"]["labels"]["on"] == "y"}
    orders = [[(e.type, e.object["metadata"]["resourceVersion"]) for e in f.events] for f in plain]
    assert all(order == orders[0] for order in orders)
    versions = [int(version) for _, version in orders[0]]
    assert versions == sorted(set(versions)), "in the order of revisions, each once"
    assert all(f.state == final for f in (*plain, late))
    assert chosen.state == {name: final[name] for name in marked}
