"""Backup, restore and check of a datastore.

A backup of SQLite, PostgreSQL or MySQL is one SQLite file with kine's table as it was at one moment, history and revisions
included; it is taken while servers write, and any of the three (and K3s) can be restored from it. A backup of etcd is etcd's
own snapshot, which etcd's own tools restore. The cluster's token (``server/token``) belongs to every backup.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from k3sd.datastore import mvcc, sql
from k3sd.datastore.backend import DatastoreError
from k3sd.datastore.endpoint import TLS, driver_of, sqlite_path

if TYPE_CHECKING:
    from k3sd.datastore.drivers.server import ServerLog

BACKUP_PAGES = 512
"""Pages copied before the writer gets its turn."""
SHOWN = 5


@dataclass(frozen=True, slots=True)
class Backup:
    path: Path
    revision: int
    rows: int
    size: int


@dataclass(frozen=True, slots=True)
class Check:
    """``problems`` is empty for a sound datastore."""

    revision: int
    compact_revision: int
    keys: int
    problems: list[str] = field(default_factory=list)


async def backup(endpoint: str, path: Path | None = None, *, data_dir: Path, tls: TLS | None = None) -> Backup:
    """Write a consistent backup to ``path`` (default: ``<data_dir>/server/db/backups/<time>.db``), readable by its owner only.

    Servers may go on writing. Raises DatastoreError; an existing file is not replaced.
    """
    driver = driver_of(endpoint)
    if path is None:
        suffix = "snapshot" if driver == "etcd" else "db"
        path = data_dir / "server" / "db" / "backups" / f"{time.strftime('%Y%m%d-%H%M%S')}.{suffix}"
    if path.exists():
        raise DatastoreError(f"{path} exists already; name another file for the backup")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as e:
        raise DatastoreError(f"cannot make the directory {path.parent}: {e.strerror}") from e
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    try:
        os.close(os.open(partial, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600))
        if driver == "etcd":
            revision, rows = await _save_etcd(endpoint, tls or TLS(), partial)
        elif driver == "sqlite":
            revision, rows = await asyncio.to_thread(_save_sqlite, sqlite_path(endpoint, data_dir), partial)
        elif driver == "memory":
            raise DatastoreError("a memory datastore has nothing to back up")
        else:
            revision, rows = await asyncio.to_thread(_save_server, _server_log(driver, endpoint, tls or TLS()), partial)
        _durable(partial, path)
    except OSError as e:
        raise DatastoreError(f"cannot write the backup {path}: {e.strerror}") from e
    except sqlite3.Error as e:
        raise DatastoreError(f"cannot write the backup {path}: {e}") from e
    finally:
        partial.unlink(missing_ok=True)
    return Backup(path, revision, rows, path.stat().st_size)


async def restore(endpoint: str, path: Path, *, data_dir: Path, tls: TLS | None = None) -> Backup:
    """Make the datastore what the backup holds. No server may run.

    SQLite: the present file is kept beside as ``state.db.<time>.old``. PostgreSQL and MySQL: the database must be empty, or
    hold no keys. Raises DatastoreError; nothing is changed then.
    """
    driver = driver_of(endpoint)
    if driver in ("etcd", "memory"):
        raise DatastoreError(
            "an etcd snapshot is restored with 'k3sd server --cluster-reset --cluster-reset-restore-path=FILE' (embedded) "
            "or with 'etcdutl snapshot restore' (external)"
            if driver == "etcd"
            else "a memory datastore cannot be restored"
        )
    report = await asyncio.to_thread(_inspect_file, path)
    if report.problems:
        raise DatastoreError(f"{path} is no good backup: {'; '.join(report.problems[:SHOWN])}")
    if driver == "sqlite":
        rows = await asyncio.to_thread(_restore_sqlite, path, sqlite_path(endpoint, data_dir))
    else:
        rows = await asyncio.to_thread(_restore_server, path, _server_log(driver, endpoint, tls or TLS()))
    return Backup(path, report.revision, rows, path.stat().st_size)


async def check(endpoint: str, *, data_dir: Path, tls: TLS | None = None) -> Check:
    """Look for damage, reading only. For etcd its own alarms and errors are asked for."""
    driver = driver_of(endpoint)
    if driver == "sqlite":
        return await asyncio.to_thread(_inspect_file, sqlite_path(endpoint, data_dir))
    if driver == "etcd":
        return await _check_etcd(endpoint, tls or TLS())
    if driver == "memory":
        raise DatastoreError("a memory datastore cannot be checked from outside")
    return await asyncio.to_thread(_check_server, _server_log(driver, endpoint, tls or TLS()))


async def find(endpoint: str, *, data_dir: Path, tls: TLS | None = None) -> None:
    """Look whether an SQLite file or a database of an SQL server is a datastore. Raises DatastoreError where it is not."""
    driver = driver_of(endpoint)
    if driver == "sqlite":
        await asyncio.to_thread(_find_file, sqlite_path(endpoint, data_dir))
    else:
        await asyncio.to_thread(_find_server, _server_log(driver, endpoint, tls or TLS()))


def _find_file(path: Path) -> None:
    try:
        with contextlib.closing(_read_only(path)) as db:
            if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'kine'").fetchone():
                raise DatastoreError(f"{path} has no table kine")
    except sqlite3.DatabaseError as e:
        raise DatastoreError(f"{path}: {e}") from e


def _find_server(log: ServerLog) -> None:
    with _connected(log):
        if not log._columns():
            raise DatastoreError(f"the {log.product} database at {log.where} has no table kine")


def _durable(partial: Path, path: Path) -> None:
    with open(partial, "rb") as file:
        os.fsync(file.fileno())
    os.rename(partial, path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


# SQLite


def _read_only(path: Path) -> sqlite3.Connection:
    if not path.is_file():
        raise DatastoreError(f"{path} does not exist")
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=30, isolation_level=None)


def _facts(db: sqlite3.Connection) -> tuple[int, int]:
    """``(revision, rows)``"""
    return db.execute(sql.CURRENT_REVISION).fetchone()[0], db.execute("SELECT COUNT(*) FROM kine").fetchone()[0]


def _save_sqlite(source: Path, target: Path) -> tuple[int, int]:
    with contextlib.closing(_read_only(source)) as db, contextlib.closing(sqlite3.connect(target)) as copy:
        db.backup(copy, pages=BACKUP_PAGES, sleep=0.001)
        copy.execute("PRAGMA journal_mode = DELETE")
        if (found := copy.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise DatastoreError(f"{source} is damaged ({found}); the backup was not kept")
        return _facts(copy)


def _restore_sqlite(path: Path, target: Path) -> int:
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = target.with_name(target.name + ".restoring")
    partial.unlink(missing_ok=True)
    os.close(os.open(partial, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600))
    try:
        _, rows = _save_sqlite(path, partial)
        if target.exists():
            _close_cleanly(target)
            target.rename(target.with_name(f"{target.name}.{int(time.time())}.old"))
        for suffix in ("-wal", "-shm"):
            Path(f"{target}{suffix}").unlink(missing_ok=True)
        _durable(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    return rows


def _close_cleanly(path: Path) -> None:
    """Bring the log into the file that is put aside; refuse while a server has it open. A file too damaged for that stays as
    it is."""
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=0.5, isolation_level=None)) as db:
            db.execute("PRAGMA locking_mode = EXCLUSIVE")
            db.execute("BEGIN EXCLUSIVE")
            db.execute("COMMIT")
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.OperationalError as e:
        if e.sqlite_errorname.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            raise DatastoreError(f"{path} is in use; stop k3sd first") from e
    except sqlite3.DatabaseError:
        return


def _inspect_file(path: Path) -> Check:
    try:
        with contextlib.closing(_read_only(path)) as db:
            damage = [row[0] for row in db.execute(f"PRAGMA integrity_check({SHOWN})") if row[0] != "ok"]
            tables = {row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if "kine" not in tables:
                return Check(0, 0, 0, [*damage, "it has no table kine"])
            return _check_rows(lambda text: db.execute(text).fetchall(), damage)
    except sqlite3.DatabaseError as e:
        return Check(0, 0, 0, [f"{path}: {e}"])


def _check_rows(query: Any, problems: list[str]) -> Check:
    """kine's rules, on any SQL database. ``query`` runs one statement and returns its rows."""
    revision = int(query(sql.CURRENT_REVISION)[0][0])
    compacted = int(query(sql.COMPACT_REVISION)[0][0])
    keys = int(
        query(
            "SELECT COUNT(*) FROM kine k JOIN (SELECT MAX(id) AS id FROM kine GROUP BY name) m ON k.id = m.id "
            f"WHERE k.deleted = 0 AND k.name != '{mvcc.COMPACT_KEY}'"
        )[0][0]
    )
    rules = (
        ("two rows replace the same row", "SELECT MIN(id) FROM kine GROUP BY name, prev_revision HAVING COUNT(*) > 1"),
        ("a row replaces one of its future", f"SELECT id FROM kine WHERE prev_revision >= id AND name != '{mvcc.COMPACT_KEY}'"),
        ("a row was created in its future", "SELECT id FROM kine WHERE create_revision > id"),
        (
            "a row replaces a row of another key",
            "SELECT k.id FROM kine k JOIN kine p ON p.id = k.prev_revision "
            f"WHERE p.name != k.name AND k.name != '{mvcc.COMPACT_KEY}'",
        ),
        (
            "a change lacks the row it replaced",
            f"SELECT k.id FROM kine k WHERE k.id > {compacted} AND k.prev_revision > {compacted} "
            f"AND k.name != '{mvcc.COMPACT_KEY}' AND NOT EXISTS (SELECT 1 FROM kine p WHERE p.id = k.prev_revision)",
        ),
    )
    for text, statement in rules:
        found = [str(row[0]) for row in query(statement)[:SHOWN]]
        if found:
            problems.append(f"{text} (revision {', '.join(found)})")
    rows = len(query(f"SELECT id FROM kine WHERE name = '{mvcc.COMPACT_KEY}'"))
    if rows > 1:
        problems.append(f"there are {rows} compact_rev_key rows")
    if compacted > revision:
        problems.append(f"the compact revision {compacted} is ahead of the newest revision {revision}")
    return Check(revision, compacted, keys, problems)


# PostgreSQL, MySQL


def _server_log(driver: str, endpoint: str, tls: TLS) -> ServerLog:
    if driver == "postgres":
        from k3sd.datastore.drivers.postgres import PostgresLog

        return PostgresLog(endpoint, tls)
    from k3sd.datastore.drivers.mysql import MySQLLog

    return MySQLLog(endpoint, tls)


@contextlib.contextmanager
def _connected(log: ServerLog) -> Iterator[ServerLog]:
    from k3sd.datastore.drivers.server import Duplicate, Held, Lost

    try:
        yield log
    except (Lost, Held, Duplicate) as e:
        raise DatastoreError(f"the {log.product} database at {log.where} does not answer: {' '.join(str(e).split())}") from e
    finally:
        log.close()


def _save_server(log: ServerLog, target: Path) -> tuple[int, int]:
    from k3sd.datastore.drivers.sqlite import schema

    with _connected(log), contextlib.closing(sqlite3.connect(target, isolation_level=None)) as copy:
        if not log._columns():
            raise DatastoreError(f"the {log.product} database at {log.where} has no table kine")
        copy.execute("BEGIN")
        for statement in schema():
            copy.execute(statement)
        copy.executemany(sql.INSERT + sql.INSERT_VALUES, log.rows())
        copy.execute("COMMIT")
        return _facts(copy)


def _restore_server(path: Path, log: ServerLog) -> int:
    with _connected(log):
        log.open()
        live = log.list("\0", mvcc.LAST_KEY, 2, log.current_revision(), True, False)
        if others := [kv.key for kv in live.kvs if kv.key != mvcc.HEALTH_KEY]:
            raise DatastoreError(
                f"the {log.product} database at {log.where} holds keys already (such as {others[0]!r}); name an empty database"
            )
        with contextlib.closing(_read_only(path)) as db:
            return log.load(_table(db))


def _table(db: sqlite3.Connection) -> Iterable[tuple[Any, ...]]:
    return db.execute(f"SELECT {', '.join(sql.COLUMNS)} FROM kine ORDER BY id")


def _check_server(log: ServerLog) -> Check:
    with _connected(log):
        if not log._columns():
            return Check(0, 0, 0, ["it has no table kine"])
        return _check_rows(log._run, [])


# etcd


async def _save_etcd(endpoint: str, tls: TLS, target: Path) -> tuple[int, int]:
    from k3sd.datastore.drivers.etcd import EtcdBackend

    store = EtcdBackend(endpoint, tls, patience_seconds=10, upkeep=False)
    await store.start()
    try:
        revision, keys = await store.count("\0", mvcc.LAST_KEY)
        with open(target, "wb") as file:
            async for blob in store.snapshot():
                file.write(blob)
        return revision, keys
    finally:
        await store.stop()


async def _check_etcd(endpoint: str, tls: TLS) -> Check:
    from k3sd.datastore.drivers.etcd import EtcdBackend

    store = EtcdBackend(endpoint, tls, patience_seconds=10, upkeep=False)
    await store.start()
    try:
        revision, keys = await store.count("\0", mvcc.LAST_KEY)
        return Check(revision, store.compact_revision, keys, list(await store.alarms()))
    finally:
        await store.stop()
