"""The door for short-lived commands: what comes back, and that nothing stays behind."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from k3sd.procs.run import CommandError, run


async def test_output_and_input() -> None:
    assert await run(["cat"], stdin=b"hello") == "hello"
    assert await run(["sh", "-c", "read x || echo none"]) == "none\n"


async def test_the_environment_is_clean() -> None:
    os.environ["K3S_TOKEN"] = "geheim"
    try:
        text = await run(["env"], environ={"EXTRA": "1"})
    finally:
        del os.environ["K3S_TOKEN"]
    assert "EXTRA=1" in text and "geheim" not in text and "PATH=" in text


async def test_a_missing_program() -> None:
    with pytest.raises(CommandError, match="no-such-program: no-such-program is not installed"):
        await run(["no-such-program"])


async def test_a_failure_has_the_end_of_what_was_said() -> None:
    with pytest.raises(CommandError, match=r"exited with status 3: it went wrong") as caught:
        await run(["sh", "-c", "echo it went wrong >&2; exit 3"])
    assert "it went wrong" in str(caught.value)


def pid_from(file: Path) -> Callable[[], int]:
    def read() -> int:
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            if file.exists() and file.read_text().strip():
                return int(file.read_text())
            time.sleep(0.01)
        raise AssertionError("the command did not start")

    return read


def ends(pid: int) -> bool:
    """A killed process closes its pipes a moment before it is gone."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.01)
    return False


async def test_a_time_out_kills_the_whole_group(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    with pytest.raises(CommandError, match="not done after 1 s: killed"):
        await run(["sh", "-c", f"sleep 60 & echo $! >{file}; wait"], timeout_seconds=1)
    assert ends(pid_from(file)())


async def test_cancellation_kills_the_whole_group(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    task = asyncio.create_task(run(["sh", "-c", f"sleep 60 & echo $! >{file}; wait"]))
    pid = await asyncio.to_thread(pid_from(file))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ends(pid)


def test_commands_start_while_grpc_has_a_channel_open() -> None:
    """libuv's fork waits for gRPC's threads, on Debian 13 for ever."""
    import grpc.aio
    import uvloop

    async def use() -> str:
        channel = grpc.aio.insecure_channel("unix:///proc/no-such.sock")
        try:
            channel.get_state(try_to_connect=True)
            async with asyncio.timeout(10):
                return await run(["echo", "started"])
        finally:
            await channel.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(use()) == "started\n"
