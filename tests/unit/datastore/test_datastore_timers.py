"""Leases and compaction on a clock that jumps."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from k3sd.datastore.backend import CompareFailed, Event, KeyValue, Unavailable
from k3sd.datastore.compact import INTERVAL_SECONDS, Compactor
from k3sd.datastore.leases import LeaseKeeper
from tests.fakes.clock import VirtualLoop


def put(key: str, revision: int, seconds: int) -> Event:
    return Event(KeyValue(key, b"", revision, revision, seconds), None)


def keeper_test(test: Callable[[LeaseKeeper, list[tuple[str, int, int]]], Awaitable[None]]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        deleted: list[tuple[str, int, int]] = []

        async def delete(key: str, revision: int) -> None:
            deleted.append((key, revision, round(loop.time() - began)))

        keeper = LeaseKeeper(delete)
        await test(keeper, deleted)
        keeper.stop()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())


def test_leases_expire_in_order_and_renewals_count() -> None:
    async def test(keeper: LeaseKeeper, deleted: list[tuple[str, int, int]]) -> None:
        keeper.start([("a", 1, 10), ("b", 2, 5)])
        keeper.observe([put("c", 3, 7)])
        await asyncio.sleep(4)
        keeper.observe([put("b", 4, 5), put("d", 5, 0)])
        await asyncio.sleep(100)
        assert deleted == [("c", 3, 7), ("b", 4, 9), ("a", 1, 10)]

    keeper_test(test)


def test_a_write_without_lease_and_a_delete_end_it() -> None:
    async def test(keeper: LeaseKeeper, deleted: list[tuple[str, int, int]]) -> None:
        keeper.start([("a", 1, 5), ("b", 2, 5)])
        keeper.observe([put("a", 3, 0)])
        keeper.observe([Event(KeyValue("b", b"", 4, 0), KeyValue("b", b"", 2, 2), True)])
        await asyncio.sleep(100)
        assert deleted == []

    keeper_test(test)


def test_keep_alive_renews_every_key_of_the_lease() -> None:
    async def test(keeper: LeaseKeeper, deleted: list[tuple[str, int, int]]) -> None:
        keeper.start([("a", 1, 5), ("b", 2, 6)])
        await asyncio.sleep(4)
        keeper.renew(5)
        await asyncio.sleep(100)
        assert deleted == [("b", 2, 6), ("a", 1, 9)]

    keeper_test(test)


def test_expiry_is_tried_again_and_gives_way_to_writers() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        calls: list[tuple[str, float]] = []

        async def delete(key: str, revision: int) -> None:
            calls.append((key, round(loop.time() - began, 2)))
            if key == "taken":
                raise CompareFailed(key, revision, None)
            if len(calls) < 4:
                raise Unavailable("not now")

        keeper = LeaseKeeper(delete)
        began = loop.time()
        keeper.start([("a", 1, 1), ("taken", 2, 1)])
        await asyncio.sleep(100)
        assert calls == [("a", 1), ("taken", 1), ("a", 1.25), ("a", 1.5)]
        keeper.stop()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())


def test_compaction_follows_one_interval_behind_and_then_rests() -> None:
    async def main() -> None:
        targets: list[int] = []

        async def compact(revision: int) -> int:
            targets.append(revision)
            if len(targets) == 3:
                raise Unavailable("not now")
            return revision

        compactor = Compactor(compact)
        compactor.start(100)
        await asyncio.sleep(INTERVAL_SECONDS / 2)
        compactor.wrote(150)
        await asyncio.sleep(INTERVAL_SECONDS)
        assert targets == [100]
        compactor.wrote(180)
        await asyncio.sleep(20 * INTERVAL_SECONDS)
        assert targets == [100, 150, 180, 180]
        assert compactor._timer is None
        compactor.wrote(200)
        await asyncio.sleep(3 * INTERVAL_SECONDS)
        assert targets[-1] == 200
        compactor.stop()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())
