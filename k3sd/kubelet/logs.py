"""Container logs: read, follow and rotate what the runtime writes.

A line of a log file is ``<RFC 3339 time> <stdout|stderr> <P|F> <text>``; P marks a piece of a longer line.
Source: Kubernetes 1.36, ``pkg/kubelet/kuberuntime/logs/logs.go`` and ``pkg/kubelet/logs/container_log_manager.go``.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import logging
import os
import shutil
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

from k3sd.apimachinery import timefmt
from k3sd.lib.inotify import DirectoryEvents, Watch

log = logging.getLogger(__name__)

CHUNK_BYTES = 64 * 1024
MAX_LINE_BYTES = 256 * 1024
"""The runtime cuts at 16 KiB; anything much longer is no log of ours."""
MAX_LOG_BYTES = 10 * 1024 * 1024
MAX_LOG_FILES = 5
ROTATION_DELAY_SECONDS = 10.0

Write = Callable[[bytes], Awaitable[None]]
Exited = Callable[[], Awaitable[None]]
"""Returns when the container runs no more and its log is complete."""
Stream = Literal["All", "Stdout", "Stderr"]


class LogOptionsError(ValueError):
    """A query parameter is wrong; the text names it."""


@dataclass(frozen=True, slots=True)
class LogOptions:
    """PodLogOptions as the kubelet needs them. ``since`` is seconds since 1970."""

    follow: bool = False
    timestamps: bool = False
    tail_lines: int | None = None
    limit_bytes: int | None = None
    since: float | None = None
    stream: Stream = "All"
    previous: bool = False


def parse_options(query: Mapping[str, str]) -> LogOptions:
    """From the query of ``/containerLogs``. Raises LogOptionsError."""
    since_seconds = _number(query, "sinceSeconds", 1)
    since: float | None = None if since_seconds is None else time.time() - since_seconds
    if query.get("sinceTime"):
        if since is not None:
            raise LogOptionsError("at most one of `sinceTime` or `sinceSeconds` may be specified")
        try:
            since = timefmt.parse(query["sinceTime"])
        except ValueError as error:
            raise LogOptionsError(f"sinceTime: {error}") from error
    stream = query.get("stream") or "All"
    if stream not in ("All", "Stdout", "Stderr"):
        raise LogOptionsError(f'stream: Unsupported value: "{stream}": supported values: "All", "Stderr", "Stdout"')
    tail_lines = _number(query, "tailLines", 0)
    if tail_lines is not None and stream != "All":
        raise LogOptionsError("`tailLines` and specific `stream` are mutually exclusive for now")
    return LogOptions(
        follow=_flag(query, "follow"),
        timestamps=_flag(query, "timestamps"),
        tail_lines=tail_lines,
        limit_bytes=_number(query, "limitBytes", 1),
        since=since,
        stream=stream,  # type: ignore[arg-type]
        previous=_flag(query, "previous"),
    )


def _flag(query: Mapping[str, str], name: str) -> bool:
    return query.get(name, "").lower() not in ("", "0", "f", "false")


def _number(query: Mapping[str, str], name: str, least: int) -> int | None:
    text = query.get(name, "")
    if not text:
        return None
    try:
        value = int(text)
    except ValueError as error:
        raise LogOptionsError(f'{name}: Invalid value: "{text}": must be an integer') from error
    if value < least:
        what = "must be greater than or equal to 0" if least == 0 else "must be greater than 0"
        raise LogOptionsError(f"{name}: Invalid value: {value}: {what}")
    return value


class LineWriter:
    """Turns raw lines of a log file into output by the options; ``done`` when ``limit_bytes`` are out. Pure.

    Also ``done`` after ``tail_lines`` lines, unless it follows: what is written while the tail is read is not part of it.
    """

    def __init__(self, options: LogOptions) -> None:
        self._options = options
        self._left = options.limit_bytes
        self._lines_left = None if options.follow else options.tail_lines
        self._stream = None if options.stream == "All" else options.stream.lower().encode()
        self._in_line = False
        self._since = options.since

    @property
    def done(self) -> bool:
        return (self._left is not None and self._left <= 0) or self._lines_left == 0

    def feed(self, line: bytes) -> bytes:
        """What one raw line (without newline) adds to the output; a line that is none of the runtime's adds nothing."""
        parts = line.split(b" ", 3)
        if len(parts) < 3 or parts[1] not in (b"stdout", b"stderr"):
            return b""
        if self._lines_left is not None:
            self._lines_left -= 1
        if self._stream is not None and parts[1] != self._stream:
            return b""
        if self._since is not None:
            if _epoch(parts[0]) < self._since:
                return b""
            # Times in one file only grow.
            self._since = None
        text = parts[3] if len(parts) == 4 else b""
        partial = parts[2].split(b":", 1)[0] == b"P"
        out = text if partial else text + b"\n"
        if self._options.timestamps and not self._in_line:
            out = _full_time(parts[0]) + b" " + out
        self._in_line = partial
        if self._left is not None:
            out = out[: self._left]
            self._left -= len(out)
        return out


def _epoch(stamp: bytes) -> float:
    try:
        return timefmt.parse(stamp.decode())
    except ValueError:
        return 0.0


def _full_time(stamp: bytes) -> bytes:
    """Nine digits of a second, as upstream writes them whatever the file has."""
    head, dot, rest = stamp.partition(b".")
    if not dot:
        return stamp[:19] + b".000000000" + stamp[19:]
    digits = len(rest) - len(rest.lstrip(b"0123456789"))
    return head + b"." + rest[:digits].ljust(9, b"0")[:9] + rest[digits:]


def tail_offset(file: BinaryIO, lines: int) -> int:
    """Where the last ``lines`` lines of the file begin; reads backwards only as far as needed (``findTailLineStartIndex``)."""
    position = file.seek(0, os.SEEK_END)
    if lines <= 0:
        return position
    # The newline that ends the last line begins no further one.
    missing = lines + 1
    end = position
    while position > 0:
        size = min(CHUNK_BYTES, position)
        position -= size
        file.seek(position)
        block = file.read(size)
        if position + size == end and not block.endswith(b"\n"):
            missing -= 1
        at = len(block)
        while (at := block.rfind(b"\n", 0, at)) >= 0:
            missing -= 1
            if missing == 0:
                return position + at + 1
    return 0


class LogReader:
    """Streams log files. One a kubelet; file reads happen in one thread of its own, waiting is inotify's."""

    def __init__(self, events: DirectoryEvents) -> None:
        self._events = events
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="logs")

    def close(self) -> None:
        self._thread.shutdown(wait=False)

    async def stream(self, path: str, options: LogOptions, write: Write, exited: Exited | None = None) -> None:
        """Write the log to ``write`` until its end, or with ``follow`` until the container is gone (``exited``).

        Follows through rotation. Raises OSError when there is no file.
        """
        await _Reading(self._run, path, options, write).run(self._events, exited)

    async def _run(self, fn: Callable[..., object], *args: object) -> object:
        return await asyncio.get_running_loop().run_in_executor(self._thread, fn, *args)


class _Reading:
    """One reader of one log."""

    def __init__(self, run: Callable[..., Awaitable[object]], path: str, options: LogOptions, write: Write) -> None:
        self._run = run
        self._path = path
        self._options = options
        self._write = write
        self._lines = LineWriter(options)
        self._rest = b""
        self._file: BinaryIO | None = None

    async def run(self, events: DirectoryEvents, exited: Exited | None) -> None:
        watch: Watch | None = None
        changed = asyncio.Event()
        ended = asyncio.ensure_future(exited()) if exited is not None and self._options.follow else None
        try:
            if ended is not None:
                # Before the first read, so that nothing is missed in between.
                watch = events.watch(os.path.dirname(self._path), lambda _name: changed.set())
            await self._open()
            while True:
                changed.clear()
                was_over = ended is None or ended.done()
                await self._drain()
                if self._lines.done:
                    return
                if await self._switch():
                    continue
                if was_over:
                    return
                await _first(changed, ended)
        finally:
            if watch is not None:
                watch.close()
            if ended is not None:
                ended.cancel()
            if self._file is not None:
                self._file.close()

    async def _open(self) -> None:
        def opened() -> BinaryIO:
            file = _open_log(self._path)
            if self._options.tail_lines is not None:
                file.seek(tail_offset(file, self._options.tail_lines))
            return file

        self._file = await self._run(opened)  # type: ignore[assignment]

    async def _drain(self) -> None:
        """All there is in the open file, line by line; an unfinished line waits for its end."""
        assert self._file is not None
        while not self._lines.done:
            data = await self._run(self._file.read, CHUNK_BYTES)
            assert isinstance(data, bytes)
            if not data:
                return
            lines = (self._rest + data).split(b"\n")
            self._rest = lines.pop()[-MAX_LINE_BYTES:]
            out = bytearray()
            for line in lines:
                out += self._lines.feed(line)
                if self._lines.done:
                    break
            if out:
                await self._write(bytes(out))

    async def _switch(self) -> bool:
        """After a rotation go on with the new file; the old one is read to its end first."""
        if not self._options.follow or self._file is None:
            return False
        try:
            if os.stat(self._path).st_ino == os.fstat(self._file.fileno()).st_ino:
                return False
            fresh = _open_log(self._path)
        except FileNotFoundError:
            # Moved away, and the runtime has not opened its new one yet: its creation is an event.
            return False
        await self._drain()
        self._file.close()
        self._file, self._rest = fresh, b""
        return True


def _open_log(path: str) -> BinaryIO:
    # Unbuffered: what the end of a file was a moment ago must not be remembered.
    return os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC), "rb", buffering=0)


async def _first(changed: asyncio.Event, ended: asyncio.Future[None] | None) -> None:
    waiter = asyncio.ensure_future(changed.wait())
    try:
        both: set[asyncio.Future[Any]] = {waiter} if ended is None else {waiter, ended}
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiter.cancel()


class LogRotator:
    """Keeps the logs of running containers small.

    A log that nobody writes costs nothing: the first write sets a timer, the timer looks at the size and waits for the next
    write. ``reopen`` asks the runtime to open the log anew (CRI ReopenContainerLog).
    """

    def __init__(
        self,
        events: DirectoryEvents,
        reopen: Callable[[str], Awaitable[None]],
        *,
        max_bytes: int = MAX_LOG_BYTES,
        max_files: int = MAX_LOG_FILES,
        delay_seconds: float = ROTATION_DELAY_SECONDS,
    ) -> None:
        self._events = events
        self._reopen = reopen
        self._max_bytes = max_bytes
        self._max_files = max_files
        self._delay = delay_seconds
        self._paths: dict[str, str] = {}
        self._watches: dict[str, Watch] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def add(self, container_id: str, path: str) -> None:
        """A container runs and writes to ``path``. Idempotent."""
        if container_id not in self._paths:
            self._paths[container_id] = path
            self._written(container_id)

    def remove(self, container_id: str) -> None:
        self._paths.pop(container_id, None)
        if watch := self._watches.pop(container_id, None):
            watch.close()
        if timer := self._timers.pop(container_id, None):
            timer.cancel()

    async def close(self) -> None:
        for container_id in list(self._paths):
            self.remove(container_id)
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def _arm(self, container_id: str) -> None:
        """Wait for the next write."""
        path = self._paths.get(container_id)
        if path is None or container_id in self._watches:
            return
        name = os.path.basename(path)
        with contextlib.suppress(FileNotFoundError):
            self._watches[container_id] = self._events.watch(
                os.path.dirname(path), lambda changed: self._written(container_id) if changed in (name, "") else None
            )

    def _written(self, container_id: str) -> None:
        if watch := self._watches.pop(container_id, None):
            watch.close()
        if container_id in self._paths and container_id not in self._timers:
            self._timers[container_id] = asyncio.get_running_loop().call_later(self._delay, self._due, container_id)

    def _due(self, container_id: str) -> None:
        self._timers.pop(container_id, None)
        if container_id not in self._paths or container_id in self._tasks:
            return
        task = asyncio.get_running_loop().create_task(self._check(container_id), name="log rotation")
        self._tasks[container_id] = task
        task.add_done_callback(lambda _done: self._tasks.pop(container_id, None))

    async def _check(self, container_id: str) -> None:
        path = self._paths[container_id]
        # Watch before looking: a write in between is then seen.
        self._arm(container_id)
        try:
            if os.path.getsize(path) >= self._max_bytes:
                await self._rotate(container_id, path)
        except FileNotFoundError:
            return
        except Exception as error:
            log.warning("rotating %s: %s", path, error)
            self._written(container_id)

    async def _rotate(self, container_id: str, path: str) -> None:
        """Compress what was rotated before, drop what is too much, move the log away, let the runtime begin a new one."""
        await asyncio.to_thread(_prepare_rotation, path, self._max_files)
        rotated = f"{path}.{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}"
        os.rename(path, rotated)
        try:
            await self._reopen(container_id)
        except BaseException:
            # Without a new file the runtime still writes to the moved one: put it back, so that the log stays whole.
            if not os.path.exists(path):
                os.rename(rotated, path)
            raise


def rotated_logs(path: str) -> list[str]:
    """Rotated files of a log, oldest first."""
    directory, base = os.path.split(path)
    names = (entry.name for entry in os.scandir(directory) if entry.name.startswith(base + "."))
    return sorted(os.path.join(directory, name) for name in names)


def _prepare_rotation(path: str, max_files: int) -> None:
    files = []
    for name in rotated_logs(path):
        if name.endswith(".tmp"):
            os.unlink(name)
        else:
            files.append(name)
    # Room for the live file and the one that is rotated now.
    excess = max(len(files) - max(max_files - 2, 0), 0)
    for name in files[:excess]:
        os.unlink(name)
    for name in files[excess:]:
        if not name.endswith(".gz"):
            _compress(name)


def _compress(name: str) -> None:
    with open(name, "rb") as source, gzip.open(name + ".tmp", "wb", compresslevel=6) as target:
        shutil.copyfileobj(source, target, CHUNK_BYTES)
    os.chmod(name + ".tmp", 0o640)
    os.rename(name + ".tmp", name + ".gz")
    os.unlink(name)
