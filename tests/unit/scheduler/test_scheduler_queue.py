"""Order, backoff and waking of waiting pods."""

from __future__ import annotations

import asyncio
from typing import Any

from k3sd.scheduler.podinfo import PodInfo
from k3sd.scheduler.queue import SchedulingQueue


def info(name: str, priority: int = 0) -> PodInfo:
    meta: dict[str, Any] = {"name": name, "namespace": "ns", "uid": name}
    return PodInfo({"metadata": meta, "spec": {"priority": priority, "containers": []}})


async def test_priority_then_age() -> None:
    queue = SchedulingQueue()
    for item in (info("old"), info("important", 5), info("young")):
        queue.add(item)
    assert [(await queue.pop()).uid for _ in range(3)] == ["important", "old", "young"]


async def test_parked_until_the_cluster_changes() -> None:
    queue = SchedulingQueue()
    queue.add(info("a"))
    item = await queue.pop()
    queue.park(item, queue.moves)
    waiting = asyncio.ensure_future(queue.pop())
    await asyncio.sleep(0)
    assert not waiting.done()
    queue.move_all()
    assert (await asyncio.wait_for(waiting, 5)).uid == "a"
    queue.close()


async def test_a_change_during_the_cycle_is_not_lost() -> None:
    queue = SchedulingQueue()
    queue.add(info("a"))
    item = await queue.pop()
    seen = queue.moves
    queue.move_all()
    queue.park(item, seen)
    assert queue.backoff_seconds("a") == 1.0
    assert (await asyncio.wait_for(queue.pop(), 5)).uid == "a"


async def test_removed_pods_never_come() -> None:
    queue = SchedulingQueue()
    queue.add(info("a"))
    queue.add(info("b"))
    queue.remove("a")
    assert (await queue.pop()).uid == "b"
    assert len(queue) == 0
