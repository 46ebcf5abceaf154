"""Nothing acknowledged is lost and nobody sees what was not: kill -9, SIGSTOP, cut connections, a full disk, a power cut."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from datastore_proxy import between

from k3sd.datastore import open_backend
from k3sd.datastore.backend import Backend
from k3sd.datastore.drivers.server import ServerLog
from k3sd.datastore.mvcc import prefix_end
from k3sd.datastore.shared import SharedStore
from tests.support.datastore_servers import SERVERS, Server, etcd_cluster

from . import powercut
from .history import END, PREFIX, History, check, client, fence, follow, read_again

SECONDS = float(os.environ.get("K3SD_ROBUSTNESS_SECONDS", "2"))
DISK_SECONDS = min(SECONDS, 8.0) + 3
"""Longer histories, which nothing compacts, would fill the small disks for good."""
CLIENTS = 6
CUTS = 24
KEYS = [f"{PREFIX}{c}" for c in "abcde"]
SEED = int(os.environ.get("K3SD_ROBUSTNESS_SEED", "0")) or random.SystemRandom().getrandbits(32)

FACE = """
import asyncio, sys
from pathlib import Path
from k3sd.etcdface.server import serve
asyncio.run(serve(sys.argv[1], sys.argv[2], data_dir=Path(sys.argv[3]), ready=lambda: print("ready", flush=True)))
"""

Report = Callable[[str], None]


class Face:
    """``k3sd datastore serve`` as a process."""

    def __init__(self, endpoint: str, data_dir: Path) -> None:
        self.endpoint = endpoint
        self.data_dir = data_dir
        self.url = f"unix://{tempfile.mktemp(prefix='k3sd-robust-')}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-c", FACE, self.endpoint, self.url, str(self.data_dir)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)


@pytest.fixture
def servers() -> Iterator[Callable[[str], Server]]:
    with contextlib.ExitStack() as stack:
        yield lambda driver: stack.enter_context(SERVERS[driver]())


@contextlib.asynccontextmanager
async def stores(endpoint: str, data_dir: Path, n: int = 2) -> AsyncIterator[list[Backend]]:
    opened: list[Backend] = []
    try:
        for _ in range(n):
            opened.append(open_backend(endpoint, data_dir=data_dir, patience_seconds=30))
            await opened[-1].start()
        yield opened
    finally:
        for store in opened:
            await store.stop()


async def run(
    backends: list[Backend], fault: Callable[[], Awaitable[None]], seconds: float = SECONDS, size: int = 0
) -> History:
    """Clients on all backends while ``fault`` is repeated, then the checks. ``size`` is that of values."""
    history = History()
    start = await backends[0].revision() + 1
    history.logs = [[] for _ in backends]
    until = time.monotonic() + seconds
    watches = [asyncio.create_task(follow(b, history, log, start)) for b, log in zip(backends, history.logs, strict=True)]
    clients = [
        asyncio.create_task(client(backends[i % len(backends)], history, KEYS, random.Random(SEED + i), until, size))
        for i in range(CLIENTS)
    ]
    dice = random.Random(SEED)
    while time.monotonic() < until - 0.5:
        await asyncio.sleep(dice.uniform(0.6, 1.4))
        await fault()
        history.faults += 1
    await asyncio.gather(*clients)
    await fence(backends[0])
    async with asyncio.timeout(60):
        await asyncio.gather(*watches)
    try:
        check(history, (await backends[0].list(PREFIX, END)).kvs)
        await read_again(backends[-1], history, dice)
    except AssertionError as e:
        e.add_note(f"K3SD_ROBUSTNESS_SEED={SEED}")
        raise
    return history


async def pause(send: Callable[[int], None]) -> None:
    send(signal.SIGSTOP)
    await asyncio.sleep(0.4)
    send(signal.SIGCONT)


@pytest.mark.parametrize("fault", ["kill -9", "SIGSTOP"])
async def test_sqlite_behind_the_face(fault: str, tmp_path: Path, report: Report) -> None:
    face = Face("", tmp_path)
    face.start()

    async def kill() -> None:
        face.kill()
        await asyncio.to_thread(face.start)

    try:
        async with stores(face.url, tmp_path) as backends:
            history = await run(backends, kill if fault == "kill -9" else lambda: pause(face.signal))
    finally:
        face.kill()
    with contextlib.closing(sqlite3.connect(tmp_path / "server/db/state.db")) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    report(history.summary())


@pytest.mark.parametrize("fault", ["kill -9", "SIGSTOP"])
@pytest.mark.parametrize("driver", ["postgres", "mariadb", "etcd"])
async def test_database_servers(
    driver: str, fault: str, tmp_path: Path, servers: Callable[[str], Server], report: Report
) -> None:
    server = servers(driver)

    async def kill() -> None:
        server.kill()
        await asyncio.to_thread(server.revive)

    def send(number: int) -> None:
        assert server.process is not None
        os.killpg(server.process.pid, number)

    async with stores(server.endpoint.format(db="robust"), tmp_path) as backends:
        history = await run(backends, kill if fault == "kill -9" else lambda: pause(send))
    report(history.summary())


@pytest.mark.parametrize("fault", ["cut", "silent"])
@pytest.mark.parametrize("driver", ["postgres", "mariadb", "etcd"])
async def test_networks_that_break(
    driver: str, fault: str, tmp_path: Path, servers: Callable[[str], Server], report: Report
) -> None:
    """Connections are cut in the middle of what they carry; or nothing comes through for a while, and then they are cut."""
    endpoint = servers(driver).endpoint.format(db="robust")
    async with between(driver, endpoint) as (proxy, through), stores(through, tmp_path) as backends:

        async def silence() -> None:
            proxy.silence()
            await asyncio.sleep(1)
            proxy.speak()
            proxy.cut()

        async def cut() -> None:
            proxy.cut()

        history = await run(backends, cut if fault == "cut" else silence)
        assert proxy.broken >= history.faults > 0
    report(f"{history.summary()}, {proxy.broken} connections cut")


@pytest.mark.parametrize("driver", ["postgres", "mariadb"])
async def test_sessions_that_the_server_ends(
    driver: str, tmp_path: Path, servers: Callable[[str], Server], report: Report
) -> None:
    async with stores(servers(driver).endpoint.format(db="robust"), tmp_path) as backends:
        log = backends[0]._log if isinstance(backends[0], SharedStore) else None
        assert isinstance(log, ServerLog)

        def end() -> None:
            with contextlib.closing(log._connect()) as killer, contextlib.closing(killer.cursor()) as cursor:
                if driver == "postgres":
                    cursor.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid != pg_backend_pid()")
                    return
                cursor.execute("SELECT id FROM information_schema.processlist WHERE db = DATABASE() AND id != CONNECTION_ID()")
                for (number,) in cursor.fetchall():
                    with contextlib.suppress(Exception):  # it ended meanwhile
                        cursor.execute(f"KILL {number}")

        history = await run(backends, lambda: asyncio.to_thread(end))
    report(history.summary())


async def test_members_of_an_etcd_cluster_die_in_turn(tmp_path: Path, report: Report) -> None:
    with etcd_cluster() as members:
        turn = 0

        async def kill() -> None:
            nonlocal turn
            turn += 1
            members[turn % 3].kill()
            await asyncio.sleep(0.5)
            await asyncio.to_thread(members[turn % 3].revive)

        async with stores(",".join(m.endpoint for m in members), tmp_path) as backends:
            history = await run(backends, kill)
    report(history.summary())


@pytest.mark.parametrize("fault", ["kill -9", "SIGSTOP"])
@pytest.mark.parametrize("driver", ["postgres", "mariadb"])
async def test_two_servers_on_one_database(
    driver: str, fault: str, tmp_path: Path, servers: Callable[[str], Server], report: Report
) -> None:
    """Two k3sd servers share a database; each is killed or stopped in turn."""
    endpoint = servers(driver).endpoint.format(db="robust")
    faces = [Face(endpoint, tmp_path / str(i)) for i in range(2)]
    for face in faces:
        face.start()
    turn = 0

    async def harm() -> None:
        nonlocal turn
        turn += 1
        if fault == "SIGSTOP":
            await pause(faces[turn % 2].signal)
            return
        faces[turn % 2].kill()
        await asyncio.to_thread(faces[turn % 2].start)

    try:
        async with stores(faces[0].url, tmp_path, 1) as one, stores(faces[1].url, tmp_path, 1) as two:
            history = await run([*one, *two], harm)
    finally:
        for face in faces:
            face.kill()
    report(history.summary())


@contextlib.contextmanager
def small_disk(megabytes: int) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="k3sd-") as name:
        mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0777", "k3sd-test", name]
        if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
            pytest.skip("cannot mount a tmpfs here")
        try:
            yield Path(name)
        finally:
            subprocess.run(["umount", "-l", name], check=True)


def ballast(disk: Path) -> Path:
    """Fills the disk to the last block."""
    path = disk / "ballast"
    for size in (1 << 20, 4096):
        with contextlib.suppress(OSError), open(path, "ab", buffering=0) as file:
            while True:
                file.write(bytes(size))
    return path


@pytest.mark.parametrize(("driver", "megabytes"), [("postgres", 150), ("mariadb", 250), ("etcd", 150)])
async def test_disks_of_database_servers_that_fill_and_empty(
    driver: str, megabytes: int, tmp_path: Path, report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some of them die of it; like an init system the test starts them again."""
    deaths = 0
    with small_disk(megabytes) as disk, contextlib.ExitStack() as stack:
        monkeypatch.setattr(tempfile, "tempdir", str(disk))
        server = stack.enter_context(SERVERS[driver]())
        monkeypatch.setattr(tempfile, "tempdir", None)

        async def fill() -> None:
            nonlocal deaths
            full = await asyncio.to_thread(ballast, disk)
            await asyncio.sleep(1.5)
            full.unlink()
            assert server.process is not None
            with contextlib.suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(server.process.wait, 0.5)
                deaths += 1
                server.kill()
                (server.directory / "data" / "postmaster.pid").unlink(missing_ok=True)
                await asyncio.to_thread(server.revive)

        async with stores(server.endpoint.format(db="robust"), tmp_path, 1) as backends:
            history = await run(backends, fill, DISK_SECONDS, size=20_000)
    report(f"{history.summary()}, the server died {deaths} times")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
async def test_a_disk_that_fills_and_empties(tmp_path: Path, report: Report) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "k3sd-test", disk], check=False).returncode:
        pytest.skip("cannot mount a tmpfs here")
    try:
        full = 0

        async with stores("", disk, 1) as backends:

            async def fill() -> None:
                """Until a write was refused: the log may have room of its own for a while."""
                nonlocal full
                with contextlib.suppress(OSError), open(disk / "ballast", "wb") as file:
                    while True:
                        file.write(bytes(4096))
                        file.flush()
                deadline = time.monotonic() + 5
                while not backends[0].problem and time.monotonic() < deadline:  # noqa: ASYNC110 - a plain attribute
                    await asyncio.sleep(0.01)
                full += bool(backends[0].problem)
                await asyncio.sleep(0.1)
                (disk / "ballast").unlink()

            history = await run(backends, fill, DISK_SECONDS)
        assert full and any(op.outcome == "unknown" for op in history.ops)
    finally:
        subprocess.run(["umount", "-l", disk], check=True)
    report(f"{history.summary()}, full {full} times")


WRITER = """
import asyncio, os, sys
from pathlib import Path
from k3sd.datastore import open_backend
from k3sd.datastore.drivers import sqlite

sqlite.CHECKPOINT_BYTES = 200_000

async def main():
    store = open_backend("", data_dir=Path(sys.argv[1]))
    await store.start()
    async def write(worker):
        i = 0
        while True:
            key = f"/registry/x/{worker}-{i % 20}"
            kv = (await store.get(key))[1]
            value = b"%d" % i + b"." * 1000
            await (store.create(key, value) if kv is None else store.update(key, value, kv.revision))
            os.pwrite(acks, f"{key} {i}\\n".encode(), 0)
            print(key, i, flush=True)
            i += 1
    acks = os.open(sys.argv[1] + "/acks", os.O_CREAT | os.O_WRONLY, 0o600)
    await asyncio.gather(*(write(n) for n in range(6)))

asyncio.run(main())
"""


async def test_a_power_cut_drops_what_was_not_synced(tmp_path: Path, report: Report) -> None:
    library = powercut.build(tmp_path)
    data, log = tmp_path / "data", tmp_path / "writes"
    data.mkdir()
    environment = {**os.environ, "LD_PRELOAD": str(library), "POWERCUT_DIR": str(data), "POWERCUT_LOG": str(log)}
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(data)], env=environment, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert writer.stdout is not None
    for _ in range(random.Random(SEED).randint(800, 1600)):
        writer.stdout.readline()
    writer.kill()
    writer.stdout.close()
    writer.wait()
    records = list(powercut.read(log))
    acknowledgements = [i for i, r in enumerate(records) if r.path == data / "acks"]
    dice = random.Random(SEED)
    dropped = 0
    for trial in range(CUTS):
        cut = dice.randint(acknowledgements[0], len(records))
        after = tmp_path / f"after-{trial}"
        unsynced, acks = powercut.replay(records[:cut], data, after, dice, dice.choice([0, 0, 0.3, 0.6, 0.95]))
        dropped += unsynced
        acknowledged = {key: int(i) for key, i in (line.split() for line in acks.splitlines())}
        store = open_backend("", data_dir=after)
        await store.start()
        found = {
            kv.key: int(kv.value.rstrip(b".")) for kv in (await store.list("/registry/x/", prefix_end("/registry/x/"))).kvs
        }
        await store.stop()
        lost = {key: (i, found.get(key)) for key, i in acknowledged.items() if found.get(key, -1) < i}
        assert not lost, f"cut at {cut} of {len(records)}: acknowledged writes are missing: {lost}"
        with contextlib.closing(sqlite3.connect(after / "server/db/state.db")) as db:
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        shutil.rmtree(after)
    report(f"{CUTS} cuts in {len(acknowledgements)} acknowledged writes, {dropped} unsynced writes dropped or torn")


async def test_the_power_cut_test_can_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With syncing switched off the same test must lose something, else it proves nothing."""
    sabotaged = WRITER.replace(
        "async def main():",
        "sqlite.SqliteLog._connect_ = sqlite.SqliteLog._insert\n"
        "def _insert(self, rows):\n    self._db.execute('PRAGMA synchronous = OFF')\n    self._connect_(rows)\n"
        "sqlite.SqliteLog._insert = _insert\n\nasync def main():",
    )
    monkeypatch.setattr(sys.modules[__name__], "WRITER", sabotaged)
    with pytest.raises(Exception, match=r"missing|damaged|no SQLite database"):
        await test_a_power_cut_drops_what_was_not_synced(tmp_path, lambda text: None)
