from __future__ import annotations

import asyncio
import itertools

import pytest

from k3sd.client.workqueue import WorkQueue


async def run_for(queue: WorkQueue[str], reconcile, seconds: float, workers: int = 1) -> None:
    task = asyncio.create_task(queue.run(reconcile, workers))
    await asyncio.sleep(seconds)
    queue.stop()
    await task


async def test_a_key_added_twice_runs_once():
    seen: list[str] = []

    async def reconcile(key: str) -> None:
        seen.append(key)

    queue: WorkQueue[str] = WorkQueue("test")
    for key in ("a", "b", "a"):
        queue.add(key)
    assert len(queue) == 2
    await run_for(queue, reconcile, 1)
    assert seen == ["a", "b"]


async def test_a_key_added_while_worked_on_runs_again_and_never_twice_at_once():
    running = 0
    runs = 0
    queue: WorkQueue[str] = WorkQueue("test")

    async def reconcile(key: str) -> None:
        nonlocal running, runs
        running += 1
        assert running == 1
        runs += 1
        await asyncio.sleep(1)
        running -= 1

    queue.add("a")
    task = asyncio.create_task(queue.run(reconcile, 4))
    await asyncio.sleep(0.5)
    queue.add("a")
    queue.add("a")
    await asyncio.sleep(5)
    queue.stop()
    await task
    assert runs == 2


async def test_failures_back_off_exponentially_and_success_forgets():
    loop = asyncio.get_running_loop()
    times: list[float] = []
    queue: WorkQueue[str] = WorkQueue("test")

    async def reconcile(key: str) -> None:
        times.append(loop.time())
        if len(times) < 5:
            raise ConnectionError("down")

    queue.add("a")
    await run_for(queue, reconcile, 10)
    gaps = [round(b - a, 3) for a, b in itertools.pairwise(times)]
    assert gaps == [0.005, 0.01, 0.02, 0.04]
    assert queue.num_requeues("a") == 0


async def test_backoff_is_capped():
    queue: WorkQueue[str] = WorkQueue("test", max_delay=1.0)
    times: list[float] = []

    async def reconcile(key: str) -> None:
        times.append(asyncio.get_running_loop().time())
        raise RuntimeError("always")

    queue.add("a")
    await run_for(queue, reconcile, 10)
    assert max(b - a for a, b in itertools.pairwise(times)) == pytest.approx(1.0)


async def test_the_earliest_delay_counts_and_a_result_requeues():
    times: list[float] = []
    queue: WorkQueue[str] = WorkQueue("test")

    async def reconcile(key: str) -> float | None:
        times.append(round(asyncio.get_running_loop().time(), 3))
        return 7.0 if len(times) == 1 else None

    queue.add_after("a", 5)
    queue.add_after("a", 2)
    queue.add_after("a", 9)
    await run_for(queue, reconcile, 30)
    assert times == [2, 9]


async def test_different_keys_run_in_parallel_up_to_the_workers():
    peak = running = 0
    queue: WorkQueue[str] = WorkQueue("test")

    async def reconcile(key: str) -> None:
        nonlocal peak, running
        running += 1
        peak = max(peak, running)
        await asyncio.sleep(1)
        running -= 1

    for i in range(10):
        queue.add(str(i))
    await run_for(queue, reconcile, 20, workers=3)
    assert peak == 3
    assert queue.done_total == 10


async def test_stop_finishes_work_under_way_and_cancel_cancels_it():
    outcome: list[str] = []

    async def reconcile(key: str) -> None:
        try:
            await asyncio.sleep(5)
            outcome.append("finished")
        except asyncio.CancelledError:
            outcome.append("cancelled")
            raise

    queue: WorkQueue[str] = WorkQueue("test")
    queue.add("a")
    await run_for(queue, reconcile, 1)
    queue = WorkQueue("test")
    queue.add("a")
    task = asyncio.create_task(queue.run(reconcile))
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert outcome == ["finished", "cancelled"]
    assert queue.idle


async def test_a_busy_key_rests_so_that_a_burst_takes_few_looks():
    looks = 0

    async def reconcile(key: str) -> None:
        nonlocal looks
        looks += 1
        await asyncio.sleep(0.01)

    queue: WorkQueue[str] = WorkQueue("test")
    task = asyncio.create_task(queue.run(reconcile))
    for _ in range(300):
        queue.add("a")
        await asyncio.sleep(0.001)
    queue.add("b")
    await asyncio.sleep(0.2)
    queue.stop()
    await task
    # 300 ms at 10 ms of work and 20 ms of rest, the last event, and the other key.
    assert 10 <= looks <= 13
