"""Migration between drivers, backup, restore, check."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from datastore_harness import Harness

from k3sd.datastore import migrate, open_backend
from k3sd.datastore.backend import DatastoreError, KeyValue
from k3sd.datastore.backup import backup, check, restore
from k3sd.datastore.mvcc import KEEP_REVISIONS, prefix_end
from tests.support.datastore_servers import Server, directory_for, etcd_member, etcd_ready, free_port, program, running

PREFIX = "/registry/x/"
RANGE = (PREFIX, prefix_end(PREFIX))
DURABLE = ["sqlite", "postgres", "mariadb", "etcd"]

Servers = Callable[[str], Server | None]


async def filled(driver: str, path: Path, servers: Servers, n: int = 300) -> Harness:
    """A stopped store with history, deletions and a lease."""
    harness = Harness(driver, path, servers(driver))
    store = await harness.open()
    revisions = await asyncio.gather(*(store.create(f"{PREFIX}{i:03}", b"%d" % i) for i in range(n)))
    for i in range(0, n, 7):
        await store.update(f"{PREFIX}{i:03}", b"new", revisions[i])
    await asyncio.gather(*(store.delete(f"{PREFIX}{i:03}") for i in range(3, n, 10)))
    await store.create("/registry/events/e", b"leased", lease_seconds=3600)
    await store.create("/bootstrap/abc", b"\0\xff" * 1000)
    await harness.close()
    return harness


async def in_order(harness: Harness) -> list[KeyValue]:
    store = open_backend(harness.endpoint, data_dir=harness.data_dir, upkeep=False)
    await store.start()
    found = [*(await store.list(*RANGE)).kvs, *(await store.list("/registry/events/", "/registry/events0")).kvs]
    await store.stop()
    return sorted(found, key=lambda kv: kv.revision)


@pytest.mark.parametrize(
    ("source", "target"), [pytest.param(s, t, id=f"{s}-{t}") for s in DURABLE for t in DURABLE if (s, t) != ("etcd", "etcd")]
)
async def test_migration(source: str, target: str, tmp_path: Path, database_server: Servers) -> None:
    """Every pair but etcd to etcd, of which the tests have one with one key space."""
    old = await filled(source, tmp_path / "old", database_server)
    new = Harness(target, tmp_path / "new", database_server(target))
    empty = await new.open()
    await empty.stop()
    old_url = old.endpoint or f"sqlite://{tmp_path}/old/server/db/state.db"
    new_url = new.endpoint or f"sqlite://{tmp_path}/new/server/db/state.db"
    seen: list[tuple[int, int]] = []
    report = await migrate.migrate(old_url, new_url, data_dir=tmp_path, progress=lambda *p: seen.append(p))
    assert report.keys == report.copied == 272 and seen[-1] == (272, 272)
    before, after = await in_order(old), await in_order(new)
    assert [(kv.key, kv.value, kv.lease_seconds) for kv in before] == [(kv.key, kv.value, kv.lease_seconds) for kv in after]
    assert after[-1].lease_seconds == 3600
    with pytest.raises(DatastoreError, match=r"holds 27[1-4] keys already"):
        await migrate.migrate(old_url, new_url, data_dir=tmp_path)


async def test_an_interrupted_migration_goes_on(
    tmp_path: Path, database_server: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = await filled("sqlite", tmp_path / "old", database_server)
    urls = [f"sqlite://{tmp_path}/{name}/server/db/state.db" for name in ("old", "new")]
    monkeypatch.setattr(migrate, "IN_FLIGHT", 50)

    def interrupt(done: int, total: int) -> None:
        if done >= 100:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await migrate.migrate(*urls, data_dir=tmp_path, progress=interrupt)
    store = await old.open()
    kv = (await store.get(f"{PREFIX}001"))[1]
    assert kv is not None
    await store.update(f"{PREFIX}001", b"changed", kv.revision)
    await store.delete(f"{PREFIX}002")
    await old.close()
    report = await migrate.migrate(*urls, data_dir=tmp_path)
    assert report.keys == 271 and report.kept >= 98 and report.removed == 1
    assert report.copied + report.kept == 271


KILLED = """
import os, sys
from k3sd.cli import datastore
from k3sd.datastore import migrate

migrate.IN_FLIGHT = 50
copy = migrate._copy

def progress(done, total):
    if done >= 100:
        os.kill(os.getpid(), 9)

migrate._copy = lambda source, target, _: copy(source, target, progress)
datastore.run(["migrate", "--data-dir", sys.argv[1], "--from", sys.argv[2], "--to", sys.argv[3]])
"""


@pytest.mark.parametrize("target", ["sqlite", "postgres", "mariadb", "etcd"])
async def test_a_migration_that_was_killed_goes_on(target: str, tmp_path: Path, database_server: Servers) -> None:
    old = await filled("sqlite", tmp_path / "old", database_server)
    new = Harness(target, tmp_path / "new", database_server(target))
    await (await new.open()).stop()
    old_url = f"sqlite://{tmp_path}/old/server/db/state.db"
    new_url = new.endpoint or f"sqlite://{tmp_path}/new/server/db/state.db"
    killed = await asyncio.create_subprocess_exec(
        sys.executable, "-c", KILLED, str(tmp_path), old_url, new_url, cwd=Path(__file__).parents[3]
    )
    assert await killed.wait() == -signal.SIGKILL
    report = await migrate.migrate(old_url, new_url, data_dir=tmp_path)
    assert report.kept >= 100 and report.copied + report.kept == report.keys == 272 and report.removed == 0
    before, after = await in_order(old), await in_order(new)
    assert [(kv.key, kv.value, kv.lease_seconds) for kv in before] == [(kv.key, kv.value, kv.lease_seconds) for kv in after]


async def test_a_backup_of_etcd_is_its_own_snapshot(tmp_path: Path, database_server: Servers) -> None:
    """etcd's own tool restores it."""
    old = await filled("etcd", tmp_path / "old", database_server)
    saved = await backup(old.endpoint, tmp_path / "saved.snapshot", data_dir=old.data_dir)
    before = await in_order(old)
    with directory_for("") as path:
        client, peer = f"http://127.0.0.1:{free_port()}", f"http://127.0.0.1:{free_port()}"
        words = ["snapshot", "restore", str(saved.path), f"--data-dir={path}/data", "--name=default"]
        words += [f"--initial-cluster=default={peer}", f"--initial-advertise-peer-urls={peer}"]
        restored = ["env", "ETCDCTL_API=3", program("etcdctl"), *words]
        subprocess.run(restored, check=True, capture_output=True)
        member = etcd_member("default", path, client, peer, f"default={peer}")
        with running(member, etcd_ready(client)):
            new = Harness("sqlite", tmp_path, None)
            new.endpoint = client
            after = await in_order(new)
            assert [(kv.key, kv.value, kv.revision, kv.lease_seconds) for kv in after] == [
                (kv.key, kv.value, kv.revision, kv.lease_seconds) for kv in before
            ]
            assert not (await check(client, data_dir=tmp_path)).problems
    with pytest.raises(DatastoreError, match="etcdutl snapshot restore"):
        await restore(old.endpoint, saved.path, data_dir=tmp_path)


async def test_migrations_that_make_no_sense(tmp_path: Path) -> None:
    with pytest.raises(DatastoreError, match="lives in its own process"):
        await migrate.migrate("memory", "sqlite://x", data_dir=tmp_path)
    with pytest.raises(DatastoreError, match="the same datastore"):
        await migrate.migrate("sqlite://x", "sqlite://x", data_dir=tmp_path)


@pytest.mark.parametrize("driver", ["sqlite", "postgres", "mariadb"])
async def test_a_source_that_is_not_there_is_not_made(driver: str, tmp_path: Path, database_server: Servers) -> None:
    source = Harness(driver, tmp_path, database_server(driver)).endpoint or f"sqlite://{tmp_path}/old.db"
    target = tmp_path / "new.db"
    for _ in range(2):
        with pytest.raises(DatastoreError, match=r"old.db does not exist|database .*does not exist|Unknown database"):
            await migrate.migrate(source, f"sqlite://{target}", data_dir=tmp_path)
        assert not target.exists() and not (tmp_path / "old.db").exists()


async def test_a_source_without_keys_is_a_mistake(tmp_path: Path) -> None:
    store = open_backend("", data_dir=tmp_path, upkeep=False)
    await store.start()
    await store.stop()
    with pytest.raises(DatastoreError, match="holds no keys; check its URL"):
        await migrate.migrate("", f"sqlite://{tmp_path}/new.db", data_dir=tmp_path)


@pytest.mark.parametrize("driver", ["sqlite", "postgres", "mariadb"])
@pytest.mark.parametrize("target", ["sqlite", "postgres", "mariadb"])
async def test_backup_and_restore(driver: str, target: str, tmp_path: Path, database_server: Servers) -> None:
    old = await filled(driver, tmp_path / "old", database_server)
    saved = await backup(old.endpoint, tmp_path / "saved.db", data_dir=old.data_dir)
    assert stat.S_IMODE(saved.path.stat().st_mode) == 0o600
    new = Harness(target, tmp_path / "new", database_server(target))
    restored = await restore(new.endpoint, saved.path, data_dir=new.data_dir)
    assert (restored.revision, restored.rows) == (saved.revision, saved.rows)
    assert await in_order(new) == await in_order(old)
    report = await check(new.endpoint, data_dir=new.data_dir)
    assert not report.problems and report.keys == 273
    store = await new.open()
    assert await store.revision() == saved.revision
    watch = store.watch(*RANGE, revision=3)
    assert (await anext(watch))[0].kv.key == f"{PREFIX}000"
    assert await store.create(f"{PREFIX}after", b"") == saved.revision + 1
    await new.close()
    if target != "sqlite":
        with pytest.raises(DatastoreError, match="holds keys already"):
            await restore(new.endpoint, saved.path, data_dir=new.data_dir)


async def test_a_backup_while_servers_write(harness: Harness) -> None:
    if harness.driver in ("memory", "face"):
        pytest.skip("nothing to back up here")
    store = await harness.open()
    stop = False

    async def write(n: int) -> None:
        i = 0
        while not stop:
            await store.create(f"{PREFIX}{n}-{i}", bytes(2000))
            i += 1

    writers = [asyncio.create_task(write(n)) for n in range(4)]
    await asyncio.sleep(0.1)
    saved = await backup(harness.endpoint, harness.data_dir / "saved", data_dir=harness.data_dir)
    stop = True
    await asyncio.gather(*writers)
    assert saved.size > 0 and await store.revision() >= saved.revision
    if harness.driver != "etcd":
        report = await check(f"sqlite://{saved.path}", data_dir=harness.data_dir)
        assert not report.problems and report.revision == saved.revision
    with pytest.raises(DatastoreError, match="exists already"):
        await backup(harness.endpoint, saved.path, data_dir=harness.data_dir)


async def test_restore_keeps_the_old_file_and_respects_a_running_server(tmp_path: Path, database_server: Servers) -> None:
    old = await filled("sqlite", tmp_path, database_server)
    saved = await backup("", data_dir=tmp_path)
    assert saved.path.parent == tmp_path / "server" / "db" / "backups"
    store = await old.open()
    await store.create(f"{PREFIX}later", b"")
    with pytest.raises(DatastoreError, match="is in use; stop k3sd first"):
        await restore("", saved.path, data_dir=tmp_path)
    await old.close()
    await restore("", saved.path, data_dir=tmp_path)
    store = await old.open()
    assert (await store.get(f"{PREFIX}later"))[1] is None
    await old.close()
    assert len(list((tmp_path / "server" / "db").glob("state.db.*.old"))) == 1


async def test_a_damaged_database_offers_the_newest_backup(tmp_path: Path, database_server: Servers) -> None:
    await filled("sqlite", tmp_path, database_server)
    saved = await backup("", data_dir=tmp_path)
    path = tmp_path / "server" / "db" / "state.db"
    (saved.path.parent / "later.db").write_bytes(saved.path.read_bytes()[:20_000])  # newer, but no good
    path.write_bytes(b"SQLite format 3\0" + b"\xff" * 50_000)
    with pytest.raises(DatastoreError, match=f"restore the newest good backup with 'k3sd datastore restore {saved.path}'"):
        await open_backend("", data_dir=tmp_path).start()
    assert (await check("", data_dir=tmp_path)).problems
    with pytest.raises(DatastoreError, match="is no good backup"):
        await restore("", path, data_dir=tmp_path)
    await restore("", saved.path, data_dir=tmp_path)
    assert (await check("", data_dir=tmp_path)).keys == 273


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        ("UPDATE kine SET prev_revision = id + 5 WHERE id = 10", "replaces one of its future"),
        ("UPDATE kine SET create_revision = id + 5 WHERE id = 10", "created in its future"),
        ("DELETE FROM kine WHERE name = '/registry/x/000' AND created = 1", "lacks the row it replaced"),
        ("INSERT INTO kine SELECT id + 10000, name, 1, 0, 0, 0, 0, '', NULL FROM kine WHERE id = 1", "2 compact_rev_key rows"),
        ("DROP TABLE kine", "no table kine"),
    ],
)
async def test_check_knows_kines_rules(damage: str, text: str, tmp_path: Path, database_server: Servers) -> None:
    await filled("sqlite", tmp_path, database_server)
    with sqlite3.connect(tmp_path / "server" / "db" / "state.db") as db:
        db.execute("DROP INDEX IF EXISTS kine_name_prev_revision_uindex")
        db.execute(damage)
    db.close()
    assert any(text in problem for problem in (await check("", data_dir=tmp_path)).problems)


async def test_check_after_compaction(harness: Harness) -> None:
    if harness.driver in ("memory", "face"):
        pytest.skip("nothing to check from outside")
    store = await harness.open()
    revision = await store.create(f"{PREFIX}a", b"0")
    for i in range(20):
        revision = await store.update(f"{PREFIX}a", b"%d" % i, revision)
    await store.create(f"{PREFIX}b", b"")
    await store.delete(f"{PREFIX}b")
    await asyncio.gather(*(store.create(f"/registry/y/{i}", b"") for i in range(KEEP_REVISIONS)))
    await store.compact(revision + 1)
    report = await check(harness.endpoint, data_dir=harness.data_dir)
    assert report.problems == [] and report.compact_revision == revision + 1
