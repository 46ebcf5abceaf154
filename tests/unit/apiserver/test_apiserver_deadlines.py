from __future__ import annotations

import asyncio

import pytest

from k3sd.apiserver.deadlines import Limits


async def test_what_takes_too_long_is_ended_and_the_rest_is_not() -> None:
    limits = Limits(0.05)

    async def work(seconds: float) -> str:
        with limits.limit():
            await asyncio.sleep(seconds)
        return "done"

    results = await asyncio.gather(work(0), work(10), work(0), return_exceptions=True)
    assert results[0] == results[2] == "done"
    assert isinstance(results[1], TimeoutError)
    with pytest.raises(TimeoutError):
        await work(10)  # the timer is set again after it fired
    assert await work(0) == "done"


async def test_being_cancelled_stays_being_cancelled() -> None:
    limits = Limits(10)

    async def work() -> None:
        with limits.limit():
            await asyncio.sleep(10)

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_errors_pass_through() -> None:
    with pytest.raises(ValueError, match="mine"), Limits(10).limit():
        raise ValueError("mine")
