"""Log files as the runtime writes them, with real inotify."""

import asyncio
import gzip
import io
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO

import pytest

from k3sd.kubelet.logs import (
    LineWriter,
    LogOptions,
    LogOptionsError,
    LogReader,
    LogRotator,
    parse_options,
    rotated_logs,
    tail_offset,
)
from k3sd.lib.inotify import DirectoryEvents


def line(text: str, stream: str = "stdout", tag: str = "F", second: int = 0) -> str:
    return f"2026-01-01T00:00:{second:02d}.5Z {stream} {tag} {text}\n"


@pytest.fixture
async def events() -> AsyncIterator[DirectoryEvents]:
    events = DirectoryEvents()
    yield events
    events.close()


class Rig:
    def __init__(self, events: DirectoryEvents, path: Path) -> None:
        self.reader = LogReader(events)
        self.path = path
        self.out = b""
        self.wrote = asyncio.Event()
        self.exit = asyncio.Event()

    async def write(self, data: bytes) -> None:
        self.out += data
        self.wrote.set()

    async def read(self, **options: object) -> str:
        await self.reader.stream(str(self.path), LogOptions(**options), self.write)  # type: ignore[arg-type]
        return self.out.decode()

    def follow(self, **options: object) -> asyncio.Task[None]:
        async def exited() -> None:
            await self.exit.wait()

        settings = LogOptions(follow=True, **options)  # type: ignore[arg-type]
        return asyncio.create_task(self.reader.stream(str(self.path), settings, self.write, exited))

    async def until(self, text: str) -> None:
        async with asyncio.timeout(5):
            while text not in self.out.decode():
                self.wrote.clear()
                await self.wrote.wait()

    def append(self, text: str) -> None:
        with open(self.path, "a") as file:
            file.write(text)


@pytest.fixture
async def rig(events: DirectoryEvents, tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(events, tmp_path / "0.log")
    yield rig
    rig.reader.close()


async def test_lines_pieces_and_streams(rig: Rig) -> None:
    rig.append(line("one") + line("long ", tag="P") + line("line") + line("bad", "stderr") + "garbage\n" + line(""))
    assert await rig.read() == "one\nlong line\nbad\n\n"
    rig.out = b""
    assert await rig.read(stream="Stderr") == "bad\n"
    rig.out = b""
    stamp = "2026-01-01T00:00:00.500000000Z"
    assert await rig.read(timestamps=True) == f"{stamp} one\n{stamp} long line\n{stamp} bad\n{stamp} \n"


async def test_tail_since_and_limit(rig: Rig) -> None:
    rig.append("".join(line(f"n{i}", second=i) for i in range(10)))
    for options, expected in (
        ({"tail_lines": 2}, "n8\nn9\n"),
        ({"tail_lines": 0}, ""),
        ({"tail_lines": 99}, "".join(f"n{i}\n" for i in range(10))),
        ({"since": 1767225608.5}, "n8\nn9\n"),
        ({"limit_bytes": 7}, "n0\nn1\nn"),
        ({"tail_lines": 3, "limit_bytes": 4}, "n7\nn"),
    ):
        rig.out = b""
        assert await rig.read(**options) == expected, options


@pytest.mark.parametrize("size", [1, 63, 5000])
@pytest.mark.parametrize("ends", [True, False])
def test_tail_offset_across_blocks(size: int, ends: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("k3sd.kubelet.logs.CHUNK_BYTES", 64)
    lines = [b"x" * size + b"%d" % i for i in range(9)]
    data = b"\n".join(lines) + (b"\n" if ends else b"")
    for count in range(12):
        found = data[tail_offset(io.BytesIO(data), count) :]
        assert [part for part in found.split(b"\n") if part] == (lines[-count:] if count else [])


@pytest.mark.parametrize(("lines", "text"), [(0, ""), (1, "old 2\n"), (2, "old 1\nold 2\n")])
async def test_a_line_written_while_the_tail_is_read_is_not_part_of_it(
    lines: int, text: str, rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.path.write_text(line("old 1") + line("old 2"))

    def found(file: BinaryIO, lines: int) -> int:
        start = tail_offset(file, lines)
        with rig.path.open("a") as log:
            log.write(line("new"))
        return start

    monkeypatch.setattr("k3sd.kubelet.logs.tail_offset", found)
    assert await rig.read(tail_lines=lines) == text


async def test_follow_goes_on_after_the_tail(rig: Rig) -> None:
    rig.path.write_text(line("old 1") + line("old 2"))
    task = rig.follow(tail_lines=1)
    await rig.until("old 2\n")
    with rig.path.open("a") as log:
        log.write(line("new"))
    await rig.until("old 2\nnew\n")
    rig.exit.set()
    await task
    assert rig.out == b"old 2\nnew\n"


def test_a_time_without_fraction_gets_one() -> None:
    writer = LineWriter(LogOptions(timestamps=True))
    assert writer.feed(b"2026-01-01T00:00:00+02:00 stdout F x") == b"2026-01-01T00:00:00.000000000+02:00 x\n"


async def test_missing_file(rig: Rig) -> None:
    with pytest.raises(FileNotFoundError):
        await rig.read()


async def test_follow_until_the_container_ends(rig: Rig) -> None:
    rig.append(line("old") + line("last"))
    task = rig.follow(tail_lines=1)
    await rig.until("last\n")
    rig.append(line("new"))
    await rig.until("new\n")
    rig.append("2026-01-01T00:00:01Z stdout F half")
    rig.append(" done\n")
    await rig.until("half done\n")
    rig.append(line("bye"))
    rig.exit.set()
    await asyncio.wait_for(task, 5)
    assert rig.out == b"last\nnew\nhalf done\nbye\n"


async def test_follow_through_rotation(rig: Rig) -> None:
    rig.append(line("a"))
    task = rig.follow()
    await rig.until("a\n")
    with open(rig.path, "a") as held:
        os.rename(rig.path, f"{rig.path}.20260101-000000")
        held.write(line("late"))
        held.flush()
        await rig.until("late\n")
        held.write(line("latest"))
    rig.append(line("b"))
    await rig.until("b\n")
    rig.exit.set()
    await asyncio.wait_for(task, 5)
    assert rig.out == b"a\nlate\nlatest\nb\n"


async def test_two_followers_share_one_watch(rig: Rig, events: DirectoryEvents) -> None:
    rig.append(line("a"))
    other = Rig(events, rig.path)
    tasks = [rig.follow(), other.follow()]
    await rig.until("a\n")
    await other.until("a\n")
    assert len(events._watches) == 1
    tasks[0].cancel()
    rig.append(line("b"))
    await other.until("b\n")
    other.exit.set()
    await asyncio.wait_for(tasks[1], 5)
    assert not events._watches
    other.reader.close()


async def test_follow_stops_at_the_limit_without_waiting(rig: Rig) -> None:
    rig.append(line("abcdef"))
    await asyncio.wait_for(rig.follow(limit_bytes=3), 5)
    assert rig.out == b"abc"


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"tailLines": "-1"}, "tailLines: Invalid value: -1: must be greater than or equal to 0"),
        ({"limitBytes": "0"}, "limitBytes: Invalid value: 0: must be greater than 0"),
        ({"sinceSeconds": "x"}, 'sinceSeconds: Invalid value: "x": must be an integer'),
        (
            {"sinceSeconds": "1", "sinceTime": "2026-01-01T00:00:00Z"},
            "at most one of `sinceTime` or `sinceSeconds` may be specified",
        ),
        ({"stream": "x"}, 'stream: Unsupported value: "x": supported values: "All", "Stderr", "Stdout"'),
    ],
)
def test_wrong_options(query: dict[str, str], message: str) -> None:
    with pytest.raises(LogOptionsError) as caught:
        parse_options(query)
    assert str(caught.value) == message


def test_options() -> None:
    query = {"follow": "true", "tailLines": "5", "sinceTime": "2026-01-01T00:00:00Z", "timestamps": "1", "previous": "false"}
    assert parse_options(query) == LogOptions(follow=True, timestamps=True, tail_lines=5, since=1767225600.0)


# -- rotation


async def test_rotation(events: DirectoryEvents, tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    path.write_text("x" * 100)
    reopened: asyncio.Queue[str] = asyncio.Queue()

    async def reopen(container_id: str) -> None:
        path.write_text("")
        await reopened.put(container_id)

    rotator = LogRotator(events, reopen, max_bytes=100, max_files=3, delay_seconds=0.01)
    (tmp_path / "0.log.20250101-000000.gz").write_bytes(b"")
    (tmp_path / "0.log.20250102-000000").write_text("older")
    (tmp_path / "0.log.20250103-000000.tmp").write_text("left over")
    rotator.add("id", str(path))
    assert await asyncio.wait_for(reopened.get(), 5) == "id"
    older, newest = rotated_logs(str(path))
    assert (
        gzip.decompress(Path(older).read_bytes()) == b"older"
        and Path(newest).read_text() == "x" * 100
        and path.read_text() == ""
    )
    # Nothing happens until somebody writes; then the size is looked at again.
    await asyncio.gather(*rotator._tasks.values())
    with open(path, "a") as file:
        file.write("y" * 200)
    await asyncio.wait_for(reopened.get(), 5)
    await rotator.close()


async def test_a_failed_reopen_puts_the_log_back(events: DirectoryEvents, tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    path.write_text("x" * 100)
    tried = asyncio.Event()

    async def reopen(container_id: str) -> None:
        tried.set()
        raise OSError("runtime is down")

    rotator = LogRotator(events, reopen, max_bytes=100, delay_seconds=0.01)
    rotator.add("id", str(path))
    await asyncio.wait_for(tried.wait(), 5)
    await rotator.close()
    assert path.read_text() == "x" * 100 and rotated_logs(str(path)) == []
