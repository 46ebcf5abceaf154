"""``python3 -m bench.datastore``: what each store driver does on this machine, direct and through the etcd face.

    python3 -m bench.datastore [--driver sqlite ...] [--scale 0.1] [--peer-kine /path/to/kine]

Durable creates with 1, 8 and 64 writers, ranges, watch latency and fan-out, the longest stall while compacting, bytes written
to the disk for each write. Database servers are started in temporary directories. kine, where its binary is given, is measured
in the same run through the same client as the face, on SQLite as durable as ours: with its own options, but synchronous=FULL.
It compacts only by its own clock, so its stall is not known.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import uvloop

from bench.etcdclient import EtcdClient
from k3sd.datastore import open_backend
from k3sd.datastore.backend import Backend
from k3sd.datastore.mvcc import KEEP_REVISIONS, prefix_end

VALUE = b'{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"x"},"data":{"k":"' + b"x" * 1230 + b'"}}'
PREFIX = "/registry/configmaps/"
END = prefix_end(PREFIX)
DRIVERS = ("memory", "sqlite", "postgres", "mariadb", "etcd", "face")
LINES = (
    ("creates/s, 1 writer", "/s"),
    ("p99", "ms"),
    ("creates/s, 8 writers", "/s"),
    ("p99 ", "ms"),
    ("creates/s, 64 writers", "/s"),
    ("p99  ", "ms"),
    ("list 1,000 keys", "ms"),
    ("list 10,000 keys", "ms"),
    ("watch latency p50", "ms"),
    ("watch latency p99", "ms"),
    ("fan-out to 100, last, p50", "ms"),
    ("longest write while compacting", "ms"),
    ("bytes to disk a create", "B"),
)

FACE = [sys.executable, "-m", "k3sd", "datastore", "serve", "--endpoint="]
KINE_SQLITE = "sqlite://state.db?_journal_mode=WAL&_busy_timeout=30000&_synchronous=FULL&_txlock=immediate&_stmt_cache_size=20&cache=shared"

Store = Backend | EtcdClient
Disk = Callable[[], int]
"""Bytes that the store's process has sent to the disk so far."""


def quantile(values: list[float], q: float) -> float:
    values.sort()
    return values[min(int(len(values) * q), len(values) - 1)] * 1000


def written(pid: int | str) -> int:
    """Of a process and its children, from the kernel's accounting."""
    total = 0
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/io").read_text().splitlines():
            if line.startswith("write_bytes:"):
                total = int(line.split()[1])
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            total += written(child)
    return total


async def creates(store: Store, name: str, writers: int, total: int) -> tuple[float, float]:
    """``(creates a second, p99 in ms)``"""
    latencies: list[float] = []
    numbers = iter(range(total))

    async def writer() -> None:
        for i in numbers:
            began = time.perf_counter()
            await store.create(f"{PREFIX}{name}/{i * 7919 % total:07}", VALUE)
            latencies.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(*(writer() for _ in range(writers)))
    return total / (time.perf_counter() - began), quantile(latencies, 0.99)


async def lists(store: Store, limit: int) -> float:
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        result = await store.list(PREFIX, END, limit=limit)
        best = min(best, time.perf_counter() - began)
    return best * 1000 if len(result.kvs) == limit else float("nan")


async def watching(store: Store, watchers: int, writes: int) -> list[float]:
    """Time from the begin of each write to its delivery to the last watcher."""
    if isinstance(store, EtcdClient):
        watches: list[Any] = [await store.watch(PREFIX, END) for _ in range(watchers)]
    else:
        watches = [store.watch(PREFIX, END) for _ in range(watchers)]
    latencies = []
    for i in range(writes):
        readers = [asyncio.ensure_future(anext(w)) for w in watches]
        await asyncio.sleep(0)
        began = time.perf_counter()
        await store.create(f"{PREFIX}watch-{watchers}/{i}", VALUE)
        await asyncio.gather(*readers)
        latencies.append(time.perf_counter() - began)
    for watch in watches:
        await watch.aclose()
    return latencies


async def compacting(store: Store, total: int) -> float:
    """The longest write while history is compacted."""
    revisions = await asyncio.gather(*(store.create(f"{PREFIX}old/{i}", VALUE) for i in range(200)))
    for _ in range(max(total // 200, 2)):
        revisions = await asyncio.gather(*(store.update(f"{PREFIX}old/{i}", VALUE, r) for i, r in enumerate(revisions)))
    target = await store.revision() - KEEP_REVISIONS
    compaction = asyncio.create_task(store.compact(target))
    longest, i = 0.0, 0
    while not compaction.done():
        began = time.perf_counter()
        await store.create(f"{PREFIX}new/{i}", VALUE)
        longest = max(longest, time.perf_counter() - began)
        i += 1
        await asyncio.sleep(0)  # the memory store never waits
    await compaction
    return longest * 1000


async def measure(store: Store, disk: Disk, scale: float, compacts: bool) -> list[float]:
    """The figures of LINES."""
    figures: list[float] = []
    for writers, total in ((1, 2000), (8, 8000), (64, 12000)):
        figures += await creates(store, f"w{writers}", writers, max(int(total * scale), 100))
    before, n = disk(), max(int(2000 * scale), 100)
    await creates(store, "disk", 8, n)
    bytes_each = (disk() - before) / n
    figures += [await lists(store, 1000), await lists(store, 10_000)]
    latencies = await watching(store, 1, max(int(500 * scale), 50))
    figures += [quantile(latencies, 0.5), quantile(latencies, 0.99)]
    figures.append(quantile(await watching(store, 100, max(int(100 * scale), 20)), 0.5))
    figures.append(await compacting(store, int(4000 * scale)) if compacts else float("nan"))
    return [*figures, bytes_each]


@contextlib.contextmanager
def program(
    command: Sequence[str], ready: Callable[[subprocess.Popen[bytes]], object], directory: str | None = None
) -> Iterator[Disk]:
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=directory)
    try:
        ready(process)
        yield lambda: written(process.pid)
    finally:
        process.kill()
        process.wait()


def said_ready(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    process.stdout.readline()


@contextlib.asynccontextmanager
async def opened(driver: str, kine: str) -> AsyncIterator[tuple[Store, Disk]]:
    from tests.support.datastore_servers import SERVERS

    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="k3sd-bench-"))
        disk: Disk = lambda: written("self")  # noqa: E731
        endpoint = {"memory": "memory", "sqlite": ""}.get(driver, f"unix://{directory}/sock")
        if driver in SERVERS:
            server = stack.enter_context(SERVERS[driver]())
            endpoint = server.endpoint.format(db="bench")
            disk = lambda: written(server.process.pid if server.process else 0)  # noqa: E731
        elif driver == "face":
            disk = stack.enter_context(program([*FACE, f"--listen={endpoint}", f"--data-dir={directory}"], said_ready))
        elif driver == "kine":
            command = [kine, f"--listen-address={endpoint}", f"--endpoint={KINE_SQLITE}", "--metrics-bind-address=0"]
            disk = stack.enter_context(program(command, lambda process: None, directory))
        if driver in ("face", "kine"):
            store: Store = EtcdClient(endpoint.removeprefix("unix://"))
        else:
            store = open_backend(endpoint, data_dir=Path(directory), patience_seconds=30)
        await store.start()
        try:
            yield store, disk
        finally:
            await store.stop()


async def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python3 -m bench.datastore", description=__doc__.partition("\n")[0])
    parser.add_argument("--driver", action="append", choices=DRIVERS, help="only this one; may be repeated")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the full number of operations")
    parser.add_argument("--peer-kine", default="", metavar="PATH", help="measure this kine beside the face")
    args = parser.parse_args(argv)
    drivers = [*(args.driver or DRIVERS), *(["kine"] if args.peer_kine else [])]
    columns: dict[str, list[float]] = {}
    for driver in drivers:
        print(f"measuring {driver} ...", file=sys.stderr, flush=True)
        async with opened(driver, args.peer_kine) as (store, disk):
            columns[driver] = await measure(store, disk, args.scale, driver != "kine")
    print(f"{'':32}" + "".join(f"{d:>12}" for d in columns))
    for i, (line, unit) in enumerate(LINES):
        figures = "".join(f"{c[i]:>12,.{0 if c[i] >= 100 else 2}f}" if c[i] == c[i] else f"{'-':>12}" for c in columns.values())
        print(f"{line.strip():32}{figures}  {unit}")
    return 0


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        raise SystemExit(runner.run(main()))
