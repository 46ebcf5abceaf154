"""What only the SQLite driver has: files, locks, damage, K3s's own databases, kill -9."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from k3sd.datastore import open_backend
from k3sd.datastore.backend import Backend, DatastoreError, Unavailable
from k3sd.datastore.mvcc import KEEP_REVISIONS, prefix_end

PREFIX = "/registry/x/"


def state_db(data_dir: Path) -> Path:
    return data_dir / "server" / "db" / "state.db"


async def opened(data_dir: Path) -> Backend:
    store = open_backend("", data_dir=data_dir)
    await store.start()
    return store


async def test_layout_is_kines(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    first = await store.create(f"{PREFIX}a", b"1", lease_seconds=300)
    second = await store.update(f"{PREFIX}a", b"2", first)
    third, _ = await store.delete(f"{PREFIX}a")
    await store.create(f"{PREFIX}a", b"3")
    await store.stop()
    assert not Path(f"{state_db(tmp_path)}-wal").exists()
    assert stat.S_IMODE(state_db(tmp_path).stat().st_mode) == 0o600
    assert stat.S_IMODE(state_db(tmp_path).parent.stat().st_mode) == 0o700
    with sqlite3.connect(state_db(tmp_path)) as db:
        rows = db.execute("SELECT * FROM kine ORDER BY id").fetchall()
        indexes = {row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'index'")}
    db.close()
    assert rows == [
        (1, "compact_rev_key", 1, 0, 0, 0, 0, b"", None),
        (2, "/registry/health", 1, 0, 0, 0, 0, b'{"health":"true"}', None),
        (3, f"{PREFIX}a", 1, 0, 0, 0, 300, b"1", None),
        (4, f"{PREFIX}a", 0, 0, first, first, 0, b"2", b"1"),
        (5, f"{PREFIX}a", 0, 1, 0, second, 0, None, b"2"),
        (6, f"{PREFIX}a", 1, 0, 0, third, 0, b"3", None),
    ]
    assert indexes == {
        "kine_name_index",
        "kine_name_id_index",
        "kine_id_deleted_index",
        "kine_prev_revision_index",
        "kine_name_prev_revision_uindex",
        "kine_id_compact_rev_key_with_prev_revision_index",
    }


def k3s_database(path: Path) -> None:
    """As an older K3s leaves it: fewer indexes, gap rows, a compact revision, tombstones, protobuf values."""
    path.parent.mkdir(parents=True)
    with sqlite3.connect(path) as db:
        db.execute(
            "CREATE TABLE kine (id INTEGER PRIMARY KEY AUTOINCREMENT, name INTEGER, created INTEGER, deleted INTEGER, "
            "create_revision INTEGER, prev_revision INTEGER, lease INTEGER, value BLOB, old_value BLOB)"
        )
        db.execute("CREATE INDEX kine_name_index ON kine (name)")
        db.execute("CREATE UNIQUE INDEX kine_name_prev_revision_uindex ON kine (name, prev_revision)")
        db.executemany(
            "INSERT INTO kine VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (1, "compact_rev_key", 1, 0, 0, 4, 0, b"", None),
                (2, "/registry/health", 1, 0, 0, 0, 0, b'{"health":"true"}', None),
                (4, f"{PREFIX}a", 0, 0, 3, 3, 0, b"k8s\0two", b"k8s\0one"),
                (5, "gap-5", 0, 1, 0, 0, 0, None, None),
                (6, f"{PREFIX}b", 1, 0, 0, 0, 0, b"b", None),
                (7, f"{PREFIX}b", 0, 1, 0, 6, 0, None, b"b"),
                (9, f"{PREFIX}c", 1, 0, 0, 0, 0, b"c", None),
            ],
        )
    db.close()


async def test_a_database_of_k3s_opens(tmp_path: Path) -> None:
    k3s_database(state_db(tmp_path))
    store = await opened(tmp_path)
    try:
        assert store.compact_revision == 4 and await store.revision() == 9
        listed = await store.list(PREFIX, prefix_end(PREFIX))
        assert [(kv.key, kv.value, kv.revision, kv.create_revision) for kv in listed.kvs] == [
            (f"{PREFIX}a", b"k8s\0two", 4, 3),
            (f"{PREFIX}c", b"c", 9, 9),
        ]
        events = [e for batch in [await anext(store.watch("", "~", revision=5))] for e in batch]
        assert [(e.kv.key, e.kv.revision, e.deleted) for e in events] == [
            (f"{PREFIX}b", 6, False),
            (f"{PREFIX}b", 7, True),
            (f"{PREFIX}c", 9, False),
        ]
        assert await store.create(f"{PREFIX}b", b"again") == 10
    finally:
        await store.stop()


async def test_the_legacy_table_is_copied_once(tmp_path: Path) -> None:
    path = state_db(tmp_path)
    path.parent.mkdir(parents=True)
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE key_value (id INTEGER PRIMARY KEY, name TEXT, value BLOB, ttl INTEGER)")
        db.execute("INSERT INTO key_value VALUES (7, '/registry/x/old', x'6f6c64', 0)")
    db.close()
    for _ in range(2):
        store = await opened(tmp_path)
        kv = (await store.get(f"{PREFIX}old"))[1]
        assert kv is not None and (kv.value, kv.revision) == (b"old", 7)
        await store.stop()


async def test_another_applications_database_is_refused_and_unchanged(tmp_path: Path) -> None:
    path = state_db(tmp_path)
    path.parent.mkdir(parents=True)
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE songs (title TEXT)")
    db.close()
    before = path.read_bytes()
    with pytest.raises(DatastoreError, match="another application \\(tables: songs\\)"):
        await opened(tmp_path)
    assert path.read_bytes() == before


async def test_a_kine_table_with_other_columns_is_refused(tmp_path: Path) -> None:
    path = state_db(tmp_path)
    path.parent.mkdir(parents=True)
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE kine (id INTEGER PRIMARY KEY, name TEXT)")
    db.close()
    with pytest.raises(DatastoreError, match="no column created, deleted"):
        await opened(tmp_path)


async def test_no_database_at_all(tmp_path: Path) -> None:
    path = state_db(tmp_path)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"these are not the pages you are looking for" * 100)
    with pytest.raises(DatastoreError, match="no SQLite database"):
        await opened(tmp_path)


async def test_a_damaged_file_is_found_after_a_crash(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    await asyncio.gather(*(store.create(f"{PREFIX}{i}", bytes(2000)) for i in range(200)))
    await store.stop()
    path = state_db(tmp_path)
    content = bytearray(path.read_bytes())
    for page in range(3, len(content) // 4096 - 1):
        content[page * 4096 : page * 4096 + 100] = b"\xff" * 100
    path.write_bytes(content)
    Path(f"{path}-wal").write_bytes(b"x" * 32)
    with pytest.raises(DatastoreError, match=r"damaged.*restore a backup"):
        await opened(tmp_path)


@pytest.mark.parametrize("damage", ["truncated", "a page lost", "a page of another file", "the header lost"])
async def test_a_damaged_file_is_found_at_every_start_and_not_touched(damage: str, tmp_path: Path) -> None:
    store = await opened(tmp_path)
    await asyncio.gather(*(store.create(f"{PREFIX}{i}", os.urandom(2000)) for i in range(300)))
    await store.stop()
    path = state_db(tmp_path)
    content = path.read_bytes()
    middle = len(content) // 2 // 4096 * 4096
    path.write_bytes(
        {
            "truncated": content[:middle],
            "a page lost": content[:middle] + bytes(4096) + content[middle + 4096 :],
            "a page of another file": content[:4096] + os.urandom(4096) + content[8192:],
            "the header lost": bytes(4096) + content[4096:],
        }[damage]
    )
    before = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in path.parent.iterdir()}
    with pytest.raises(DatastoreError, match=r"restore a backup with 'k3sd datastore restore FILE'"):
        await opened(tmp_path)
    assert {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in path.parent.iterdir()} == before


async def test_a_large_file_is_checked_beside_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("k3sd.datastore.drivers.sqlite.QUICK_CHECK_BYTES", 0)
    store = await opened(tmp_path)
    await asyncio.gather(*(store.create(f"{PREFIX}{i}", os.urandom(2000)) for i in range(300)))
    await store.stop()
    path = state_db(tmp_path)
    content = path.read_bytes()
    with sqlite3.connect(path) as db:
        root = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'kine_id_deleted_index'").fetchone()[0]
    db.close()
    path.write_bytes(content[: (root - 1) * 4096 + 100] + os.urandom(200) + content[(root - 1) * 4096 + 300 :])
    store = await opened(tmp_path)
    with contextlib.suppress(DatastoreError):
        await store.create(f"{PREFIX}new", b"")
    await store.stop()
    assert "is damaged" in caplog.text


async def test_free_pages_go_back_to_the_file_system(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    revisions = await asyncio.gather(*(store.create(f"{PREFIX}{i}", os.urandom(20_000)) for i in range(400)))
    await asyncio.gather(*(store.delete(f"{PREFIX}{i}", r) for i, r in enumerate(revisions)))
    await asyncio.gather(*(store.create(f"/registry/y/{i}", b"") for i in range(KEEP_REVISIONS + 10)))
    size = state_db(tmp_path).stat().st_size
    revision = await store.revision() - KEEP_REVISIONS - 5
    for target in range(revision - 5, revision + 1):
        await store.compact(target)
    await store.stop()
    store = await opened(tmp_path)
    assert state_db(tmp_path).stat().st_size <= size - 4 * 256 * 4096
    await store.stop()


async def test_a_clock_that_jumps_ends_no_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await opened(tmp_path)
    await store.create(f"{PREFIX}a", b"", lease_seconds=3600)
    watch = store.watch(PREFIX, prefix_end(PREFIX))
    real = time.time
    for jump in (-(10**8), 10**8):
        monkeypatch.setattr(time, "time", lambda jump=jump: real() + jump)
        await store.create(f"{PREFIX}b", b"", lease_seconds=1)
        async with asyncio.timeout(10):
            assert (await anext(watch))[0].created and (await anext(watch))[0].deleted
    assert (await store.get(f"{PREFIX}a"))[1] is not None
    await store.stop()


async def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "server").write_text("a file")
    with pytest.raises(DatastoreError, match="cannot create the database"):
        await opened(tmp_path)


async def test_a_lock_of_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("k3sd.datastore.drivers.sqlite.BUSY_TIMEOUT_SECONDS", 0.1)
    store = await opened(tmp_path)
    other = sqlite3.connect(state_db(tmp_path), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable, match="another process holds its lock"):
        await store.create(f"{PREFIX}a", b"1")
    other.execute("ROLLBACK")
    assert await store.create(f"{PREFIX}a", b"1") == await store.revision()
    other.close()
    await store.stop()


async def test_rows_written_by_another_process_are_respected(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    revision = await store.create(f"{PREFIX}a", b"1")
    with sqlite3.connect(state_db(tmp_path)) as other:
        other.execute(
            "INSERT INTO kine(name, created, deleted, create_revision, prev_revision, lease, value, old_value) "
            "VALUES (?, 0, 0, ?, ?, 0, 'foreign', '1')",
            (f"{PREFIX}a", revision, revision),
        )
    other.close()
    with pytest.raises(DatastoreError, match="compare failed"):
        await store.update(f"{PREFIX}a", b"2", revision)
    await store.stop()


@pytest.fixture
def small_disk(tmp_path: Path):  # type: ignore[no-untyped-def]
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    where = tmp_path / "disk"
    where.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "k3sd-test", where], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("cannot mount a tmpfs here")
    yield where
    subprocess.run(["umount", "-l", where], check=True)


async def test_a_full_disk_loses_nothing(small_disk: Path) -> None:
    store = await opened(small_disk)
    written: list[int] = []
    with pytest.raises(Unavailable, match="the disk is full"):
        for i in range(1000):
            await store.create(f"{PREFIX}{i:04}", bytes(4000))
            written.append(i)
    assert len((await store.list(PREFIX, prefix_end(PREFIX))).kvs) == len(written) > 10
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
    await store.create(f"{PREFIX}{9999:04}", bytes(4000))
    await store.stop()
    store = await opened(small_disk)
    keys = [kv.key for kv in (await store.list(PREFIX, prefix_end(PREFIX))).kvs]
    assert keys == [f"{PREFIX}{i:04}" for i in [*written, 9999]]
    await store.stop()


async def test_a_read_only_disk(small_disk: Path) -> None:
    store = await opened(small_disk)
    await store.create(f"{PREFIX}a", b"1")
    await store.stop()
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(DatastoreError, match="make it readable and writable for this user"):
        await opened(small_disk)


WRITER = """
import asyncio, sys
from pathlib import Path
from k3sd.datastore import open_backend

async def main():
    store = open_backend("", data_dir=Path(sys.argv[1]))
    await store.start()
    async def write(worker):
        i = 0
        while True:
            key = f"/registry/x/{worker}-{i % 50}"
            kv = (await store.get(key))[1]
            value = b"%d" % i + b"." * 1000
            revision = await (store.create(key, value) if kv is None else store.update(key, value, kv.revision))
            print(key, i, revision, flush=True)
            i += 1
    await asyncio.gather(*(write(f"{sys.argv[2]}-{n}") for n in range(8)))

asyncio.run(main())
"""


async def test_kill_minus_nine_loses_no_acknowledged_write(tmp_path: Path) -> None:
    acknowledged: dict[str, tuple[int, int]] = {}
    revision = 0
    for turn in range(3):
        writer = await asyncio.create_subprocess_exec(
            sys.executable, "-c", WRITER, str(tmp_path), str(turn), stdout=subprocess.PIPE, limit=1 << 20
        )
        assert writer.stdout is not None
        for _ in range(300 + 150 * turn):
            key, i, written = (await writer.stdout.readline()).decode().split()
            acknowledged[key] = (int(i), int(written))
        writer.send_signal(signal.SIGKILL)
        rest = (await writer.stdout.read()).decode().splitlines()
        for line in rest:
            if len(parts := line.split()) == 3 and line.isascii():
                acknowledged[parts[0]] = (int(parts[1]), int(parts[2]))
        await writer.wait()
        store = await opened(tmp_path)
        found = {kv.key: kv for kv in (await store.list(PREFIX, prefix_end(PREFIX))).kvs}
        for key, (i, written) in acknowledged.items():
            assert found[key].revision >= written
            assert int(found[key].value.rstrip(b".")) >= i
        assert await store.revision() > revision
        revision = await store.revision()
        await store.stop()
        with sqlite3.connect(state_db(tmp_path)) as db:
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        db.close()


async def test_compaction_is_done_in_steps_and_leaves_room_for_writers(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    revisions = await asyncio.gather(*(store.create(f"{PREFIX}{i}", bytes(500)) for i in range(500)))
    for _ in range(8):
        revisions = await asyncio.gather(*(store.update(f"{PREFIX}{i}", bytes(500), revisions[i]) for i in range(500)))
    target = await store.revision() - KEEP_REVISIONS
    compaction = asyncio.create_task(store.compact(target))
    slowest = 0.0
    writes = 0
    loop = asyncio.get_running_loop()
    while not compaction.done():
        began = loop.time()
        await store.create(f"{PREFIX}new-{writes}", b"")
        slowest = max(slowest, loop.time() - began)
        writes += 1
    assert await compaction == target
    assert writes > 10 and slowest < 1
    with sqlite3.connect(state_db(tmp_path)) as db:
        (rows,) = db.execute("SELECT COUNT(*) FROM kine WHERE id <= ?", (target,)).fetchone()
    db.close()
    assert rows == 502
    await store.stop()


async def test_the_log_stays_bounded_under_load(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    total = 0

    async def writer() -> None:
        nonlocal total
        for _ in range(800):
            await store.create(f"{PREFIX}{os.urandom(8).hex()}", bytes(8000))
            total += 8000

    await asyncio.gather(*(writer() for _ in range(8)))
    log = Path(f"{state_db(tmp_path)}-wal").stat().st_size
    await store.stop()
    assert log < total // 2, "the log starts over in its own blocks"
