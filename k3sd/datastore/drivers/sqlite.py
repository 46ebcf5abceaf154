"""SQLite: kine's table in one file, so that K3s's ``state.db`` opens here and ours opens in K3s.

This process is the only writer, so the newest row of every key is kept in memory (``_heads``) and a compare-and-swap needs
no query. Revisions are given explicitly; should another process have written in between, the primary key or the unique
index refuses, and the batch is judged again against what is on disk. Never vacuums as a whole at run time.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from k3sd.datastore import mvcc, sql
from k3sd.datastore.backend import Compacted, CompareFailed, DatastoreError, Event, KeyValue, ListResult, Unavailable
from k3sd.datastore.log import Opened
from k3sd.datastore.mvcc import Head, Kind, Op, Verdict

logger = logging.getLogger(__name__)

BUSY_TIMEOUT_SECONDS = 5.0
CACHED_VALUES_BYTES = 4 << 20
"""Latest values kept for old_value and previous values of events; the rest is read back."""
PAGE_BYTES = 4096
CHECKPOINT_BYTES = 8 << 20
"""Of log, estimated at 4 pages a transaction and 4 a row (each index takes one)."""
WAL_LIMIT_BYTES = 64 << 20
STEP_SECONDS = 0.005
MAX_STEP = 256
"""Revisions compacted in one transaction; more would make its commit long."""
QUICK_CHECK_BYTES = 16 << 20
QUICK_CHECK_AFTER_CRASH_BYTES = 64 << 20
"""Larger files are checked beside the work, once it has begun."""
VACUUM_PAGES = 256

COLUMN_TYPES = {
    "id": "INTEGER PRIMARY KEY AUTOINCREMENT",
    "name": "TEXT",
    "value": "BLOB",
    "old_value": "BLOB",
}
PARTIAL_INDEX = f"""
CREATE INDEX IF NOT EXISTS kine_id_compact_rev_key_with_prev_revision_index ON kine (id, name, prev_revision)
WHERE name != '{mvcc.COMPACT_KEY}' AND prev_revision != 0"""

Row = tuple[int, str, int, int, int, int, int, bytes | None, bytes | None]


def schema() -> list[str]:
    columns = ", ".join(f"{c} {COLUMN_TYPES.get(c, 'INTEGER')}" for c in sql.COLUMNS)
    statements = [f"CREATE TABLE IF NOT EXISTS kine ({columns})"]
    for name, unique, on in sql.INDEXES:
        statements.append(f"CREATE {'UNIQUE ' if unique else ''}INDEX IF NOT EXISTS {name} ON kine ({on})")
    return [*statements, PARTIAL_INDEX]


class SqliteLog:
    """A ``Log``. The writer's connection and memory belong to the writer thread."""

    threaded = True
    compacted_elsewhere = False

    def __init__(self, path: Path) -> None:
        self.path = path
        self.compact_revision = 0
        self.maintenance_due = False
        self._db: sqlite3.Connection | None = None
        self._readers: list[sqlite3.Connection] = []
        self._local = threading.local()
        self._lock = threading.Lock()
        self._heads: dict[str, Head] = {}
        self._values: OrderedDict[str, tuple[int, bytes]] = OrderedDict()
        self._values_bytes = 0
        self._revision = 0
        self._unflushed_bytes = 0
        self._finish_checkpoint = False
        self._stale = False
        self._unchecked = False
        self._step = 128
        self._inserts = {1 << i: sql.INSERT + ", ".join([sql.INSERT_VALUES] * (1 << i)) for i in range(7)}

    # opening

    def open(self) -> Opened:
        with self._translated("open"):
            self._prepare_file()
            unclean = Path(f"{self.path}-wal").exists() and os.path.getsize(f"{self.path}-wal") > 0
            db = self._db = self._connect()
            self._check_application(db)
            if self.path.stat().st_size <= (QUICK_CHECK_AFTER_CRASH_BYTES if unclean else QUICK_CHECK_BYTES):
                self._quick_check(db)
            else:
                self._unchecked = self.maintenance_due = True
            if not db.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():
                db.execute("PRAGMA auto_vacuum = INCREMENTAL")
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            db.execute("PRAGMA wal_autocheckpoint = 0")
            db.execute(f"PRAGMA journal_size_limit = {CHECKPOINT_BYTES * 2}")
            db.execute("BEGIN IMMEDIATE")
            try:
                for statement in schema():
                    db.execute(statement)
                self._copy_legacy_table(db)
                self._ensure_compact_row(db)
                db.execute("COMMIT")
            except BaseException:
                db.execute("ROLLBACK")
                raise
            self._load(db)
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        leased = [(name, head[0], head[2]) for name, head in self._heads.items() if head[2] > 0 and head[1]]
        return Opened(self._revision, self.compact_revision, leased)

    def _prepare_file(self) -> None:
        directory = self.path.parent
        try:
            if not directory.exists():
                directory.mkdir(parents=True, mode=0o700)
            if not self.path.exists():
                os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
        except OSError as e:
            raise DatastoreError(f"cannot create the database {self.path}: {e.strerror}") from e
        if not os.access(self.path, os.R_OK | os.W_OK):
            raise DatastoreError(f"cannot write the database {self.path}: make it readable and writable for this user")

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(
            self.path,
            timeout=BUSY_TIMEOUT_SECONDS,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=64,
        )

    def _check_application(self, db: sqlite3.Connection) -> None:
        tables = {row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not tables or "key_value" in tables:
            return
        if "kine" not in tables:
            names = ", ".join(sorted(tables)[:5])
            raise DatastoreError(f"{self.path} is the database of another application (tables: {names}); name another file")
        have = {row[1] for row in db.execute("PRAGMA table_info(kine)")}
        if missing := [c for c in sql.COLUMNS if c not in have]:
            raise DatastoreError(f"table kine of {self.path} is not kine's: it has no column {', '.join(missing)}")
        if unknown := have - set(sql.COLUMNS):
            raise DatastoreError(sql.newer_schema(str(self.path), unknown))

    def _quick_check(self, db: sqlite3.Connection) -> None:
        found = " ".join(db.execute("PRAGMA quick_check(1)").fetchone()[0].split())
        if found != "ok":
            raise DatastoreError(f"{self.path} is damaged ({found}); {offer(self.path)}")

    def _copy_legacy_table(self, db: sqlite3.Connection) -> None:
        """K3s 0.x kept ``key_value``, several rows a key; the newest are copied once into an empty ``kine``, as kine does."""
        if not db.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'key_value'").fetchone():
            return
        if db.execute("SELECT 1 FROM kine LIMIT 1").fetchone():
            return
        db.execute(
            "INSERT INTO kine(id, name, created, deleted, create_revision, prev_revision, lease, value, old_value) "
            "SELECT id, name, 1, 0, 0, 0, CASE WHEN ttl > 0 THEN 15 ELSE 0 END, value, NULL FROM key_value "
            "WHERE id IN (SELECT MAX(id) FROM key_value GROUP BY name) ORDER BY id"
        )

    def _ensure_compact_row(self, db: sqlite3.Connection) -> None:
        rows = db.execute("SELECT id, prev_revision FROM kine WHERE name = ? ORDER BY prev_revision", (mvcc.COMPACT_KEY,))
        found = rows.fetchall()
        for revision, _ in found[:-1]:
            db.execute("DELETE FROM kine WHERE id = ?", (revision,))
        if not found:
            db.execute(
                "INSERT INTO kine(name, created, deleted, create_revision, prev_revision, lease, value, old_value) "
                "VALUES (?, 1, 0, 0, 0, 0, ?, NULL)",
                (mvcc.COMPACT_KEY, b""),
            )

    def _load(self, db: sqlite3.Connection) -> None:
        self._revision = db.execute(sql.CURRENT_REVISION).fetchone()[0]
        self.compact_revision = db.execute(sql.COMPACT_REVISION).fetchone()[0]
        heads: dict[str, Head] = {}
        for name, revision, created, deleted, create_revision, lease in db.execute(sql.HEADS):
            if not mvcc.hidden(name):
                heads[name] = (revision, 0 if deleted else revision if created else create_revision, lease)
        self._heads = heads
        self._values.clear()
        self._values_bytes = 0
        self._stale = False

    def close(self) -> None:
        db, self._db = self._db, None
        with self._lock:
            connections, self._readers = self._readers, []
        with self._translated("close"):
            for connection in connections:
                connection.close()
            if db is not None:
                db.close()

    # writing

    def commit(self, ops: Sequence[Op]) -> list[Event]:
        with self._translated("write"):
            for attempt in (1, 2, 3):
                if self._stale:
                    self._reopen()
                elif self._finish_checkpoint:
                    self._restart_log()
                try:
                    return self._commit_once(ops)
                except sqlite3.IntegrityError:
                    self._stale = True
                    if attempt == 3:
                        raise
                    logger.warning("%s was written by another process; reading it again", self.path)
        raise AssertionError("unreachable")

    def _reopen(self) -> None:
        """After a failed commit or a foreign write: trust nothing in memory."""
        if self._db is not None:
            self._db.close()
        db = self._db = self._connect()
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA wal_autocheckpoint = 0")
        db.execute(f"PRAGMA journal_size_limit = {CHECKPOINT_BYTES * 2}")
        with contextlib.suppress(sqlite3.OperationalError):
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()  # may free what a full disk lacks
        self._load(db)

    def _commit_once(self, ops: Sequence[Op]) -> list[Event]:
        heads = self._heads
        changed: dict[str, tuple[Head, bytes | None]] = {}
        rows: list[Row] = []
        events: list[Event] = []
        revision = self._revision
        size = 0
        for op in ops:
            op.result = op.error = None
            key = op.key
            head = changed[key][0] if key in changed else heads.get(key)
            verdict = mvcc.judge(op.kind, op.revision, head)
            if verdict is Verdict.NOTHING:
                op.result = (revision, None)
                continue
            before = None
            if head is not None and head[1]:
                value = changed[key][1] if key in changed else self._value(key, head[0])
                before = KeyValue(key, value or b"", head[0], head[1], head[2])
            if verdict is Verdict.FAIL:
                op.error = CompareFailed(key, op.revision, before)
                continue
            revision += 1
            previous = head[0] if head else 0
            if op.kind is Kind.DELETE:
                assert before is not None
                rows.append((revision, key, 0, 1, 0, previous, 0, None, before.value))
                changed[key] = ((revision, 0, 0), None)
                events.append(Event(KeyValue(key, b"", revision, 0), before, True))
                op.result = (revision, before)
                size += len(before.value)
                continue
            value = op.value
            if before is None:
                rows.append((revision, key, 1, 0, 0, previous, op.lease, value, None))
                created = revision
            else:
                created = before.create_revision
                rows.append((revision, key, 0, 0, created, previous, op.lease, value, before.value))
                size += len(before.value)
            changed[key] = ((revision, created, op.lease), value)
            events.append(Event(KeyValue(key, value, revision, created, op.lease), before))
            op.result = revision
            size += len(value)
        if rows:
            self._insert(rows)
            self._revision = revision
            for key, (new, stored) in changed.items():
                heads[key] = new
                self._remember(key, new[0], stored)
            self._unflushed_bytes += size + PAGE_BYTES * (4 + 4 * len(rows))
            if self._unflushed_bytes > CHECKPOINT_BYTES:
                self._unflushed_bytes = 0
                self.maintenance_due = True
        return events

    def _insert(self, rows: list[Row]) -> None:
        """One statement a chunk: each statement costs a hand-over of the interpreter lock."""
        db = self._db
        assert db is not None
        try:
            if (single := self._inserts.get(len(rows))) is not None:
                db.execute(single, [v for row in rows for v in row])
                return
            db.execute("BEGIN IMMEDIATE")
            i = 0
            while i < len(rows):
                n = 1 << min(6, (len(rows) - i).bit_length() - 1)
                db.execute(self._inserts[n], [v for row in rows[i : i + n] for v in row])
                i += n
            db.execute("COMMIT")
        except sqlite3.Error:
            self._stale = True
            if db.in_transaction:
                with contextlib.suppress(sqlite3.Error):
                    db.execute("ROLLBACK")
            raise

    def _value(self, key: str, revision: int) -> bytes:
        """The value of a live row."""
        known = self._values.get(key)
        if known is not None and known[0] == revision:
            self._values.move_to_end(key)
            return known[1]
        assert self._db is not None
        row = self._db.execute("SELECT value FROM kine WHERE id = ?", (revision,)).fetchone()
        return row[0] if row and row[0] is not None else b""

    def _remember(self, key: str, revision: int, value: bytes | None) -> None:
        values = self._values
        if (old := values.pop(key, None)) is not None:
            self._values_bytes -= len(old[1])
        if value is None or len(value) > CACHED_VALUES_BYTES // 16:
            return
        values[key] = (revision, value)
        self._values_bytes += len(value)
        while self._values_bytes > CACHED_VALUES_BYTES:
            self._values_bytes -= len(values.popitem(last=False)[1][1])

    # compaction and care

    def compact_step(self, target: int) -> int:
        with self._translated("compact"):
            if self._stale:
                self._reopen()
            db = self._db
            assert db is not None
            low = self.compact_revision
            if target <= low:
                return low
            high = min(target, low + self._step)
            self.compact_revision = high
            began = time.monotonic()
            db.execute("BEGIN IMMEDIATE")
            try:
                db.execute(sql.COMPACT_SUPERSEDED, (low, high))
                gone = db.execute(f"{sql.COMPACT_TOMBSTONES} RETURNING id, name", (low, high)).fetchall()
                db.execute(sql.SET_COMPACT_REVISION, (high,))
                took = time.monotonic() - began
                db.execute("COMMIT")
            except BaseException:
                self._stale = True
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise
            for revision, name in gone:
                head = self._heads.get(name)
                if head is not None and head[0] == revision:
                    del self._heads[name]
            if took > STEP_SECONDS and self._step > 16:
                self._step //= 2
            elif took < STEP_SECONDS / 3 and self._step < MAX_STEP:
                self._step *= 2
            if high == target:
                self._shrink(db)
                self.maintenance_due = True
            return high

    def _shrink(self, db: sqlite3.Connection) -> None:
        """Give back some free pages when more than a quarter of the file is free (files made by us: incremental vacuum)."""
        free = db.execute("PRAGMA freelist_count").fetchone()[0]
        pages = db.execute("PRAGMA page_count").fetchone()[0]
        if free > pages // 4 and free > 4 * VACUUM_PAGES and db.execute("PRAGMA auto_vacuum").fetchone()[0] == 2:
            db.executescript(f"PRAGMA incremental_vacuum({VACUUM_PAGES})")  # execute() would stop after the first page

    def maintain(self) -> None:
        """Move the log into the file without stopping the writer; stop it for a moment only if the log grew far too long."""
        self.maintenance_due = False
        with self._translated("checkpoint"):
            db = self._reader()
            if self._unchecked:
                self._unchecked = False
                self._quick_check(db)
            try:
                db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            except sqlite3.Error:
                # On a full disk the log must not take what is freed: it could never be moved then.
                self._unflushed_bytes = CHECKPOINT_BYTES * 7 // 8
                raise
            self._finish_checkpoint = True
            if os.path.getsize(f"{self.path}-wal") > WAL_LIMIT_BYTES:
                db.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()

    def _restart_log(self) -> None:
        """Move the little that came since ``maintain`` too, so that the log starts over in its blocks: to make one durable
        that grows costs the disk twice as much. Where a reader is in the way, the next round does it."""
        assert self._db is not None
        self._finish_checkpoint = False
        self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()

    def size(self) -> int:
        with self._translated("read"):
            return self.path.stat().st_size

    # reading

    def _reader(self) -> sqlite3.Connection:
        db: sqlite3.Connection | None = getattr(self._local, "db", None)
        if db is None:
            db = self._local.db = self._connect()
            db.execute("PRAGMA cache_size = -1000")
            db.execute("PRAGMA synchronous = FULL")
            with self._lock:
                self._readers.append(db)
        return db

    @contextlib.contextmanager
    def _snapshot(self, revision: int) -> Iterator[tuple[sqlite3.Connection, int]]:
        """A consistent view and its current revision; ``revision`` is checked before and, for compaction, after."""
        with self._translated("read"):
            db = self._reader()
            db.execute("BEGIN")
            try:
                current = db.execute(sql.CURRENT_REVISION).fetchone()[0]
                mvcc.check_revision(revision, current, self.compact_revision)
                yield db, current
                mvcc.check_revision(revision, current, self.compact_revision)
            finally:
                db.execute("COMMIT")

    def get(self, key: str, revision: int) -> tuple[int, KeyValue | None]:
        with self._snapshot(revision) as (db, current):
            row = db.execute(sql.GET, (key, revision or current)).fetchone()
        if row is None or row[6] or mvcc.hidden(key):
            return current, None
        return current, sql.key_value(*row[:6])

    def list(self, start: str, end: str, limit: int, revision: int, keys_only: bool, counted: bool) -> ListResult:
        with self._snapshot(revision) as (db, current):
            at = revision or current
            wanted = limit + 1 if limit else sql.UNLIMITED
            rows = db.execute(sql.LIST_KEYS if keys_only else sql.LIST, (start, end, at, at, wanted)).fetchall()
            more = bool(limit) and len(rows) > limit
            count = len(rows)
            if more:
                count = db.execute(sql.COUNT, (start, end, at)).fetchone()[0] if counted else 0
        if more:
            rows.pop()
        return ListResult(at, [sql.key_value(*row) for row in rows], more, count)

    def count(self, start: str, end: str, revision: int) -> tuple[int, int]:
        with self._snapshot(revision) as (db, current):
            at = revision or current
            return current, db.execute(sql.COUNT, (start, end, at)).fetchone()[0]

    def history(self, start: str, end: str, after: int, upto: int, limit: int) -> tuple[Sequence[Event], int]:
        with self._snapshot(0) as (db, _):
            rows = db.execute(sql.HISTORY, (after, upto, start, end, limit)).fetchall()
            if after + 1 < self.compact_revision:
                raise Compacted(after + 1, self.compact_revision)
        return sql.events_of(rows), upto if len(rows) < limit else rows[-1][8]

    # errors

    @contextlib.contextmanager
    def _translated(self, action: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as e:
            raise explain(self.path, action, e) from e
        except OSError as e:
            raise DatastoreError(f"cannot {action} the database {self.path}: {e.strerror}") from e


def offer(path: Path) -> str:
    """How to get the data back: the newest sound backup in the usual place, where there is one."""
    for backup in sorted(path.parent.glob("backups/*.db"), key=lambda p: p.stat().st_mtime, reverse=True):
        with (
            contextlib.suppress(sqlite3.Error),
            contextlib.closing(sqlite3.connect(f"{backup.absolute().as_uri()}?mode=ro", uri=True)) as db,
        ):
            if db.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok" and db.execute("SELECT 1 FROM kine").fetchone():
                return f"restore the newest good backup with 'k3sd datastore restore {backup}'"
    return "restore a backup with 'k3sd datastore restore FILE'"


def explain(path: Path, action: str, error: sqlite3.Error) -> DatastoreError:
    """The operator's sentence for what SQLite reports."""
    code = getattr(error, "sqlite_errorname", "") or ""
    prefix = f"cannot {action} the database {path}"
    cases: tuple[tuple[str, Callable[[str], DatastoreError], str], ...] = (
        ("SQLITE_FULL", Unavailable, "the disk is full; free space on its file system"),
        ("SQLITE_READONLY", Unavailable, "it is read-only; make the file and its directory writable"),
        ("SQLITE_BUSY", Unavailable, "another process holds its lock; stop that process"),
        ("SQLITE_LOCKED", Unavailable, "another connection holds its lock"),
        ("SQLITE_IOERR", Unavailable, f"the disk reports an error ({code}); check the disk and the kernel log"),
        ("SQLITE_NOTADB", DatastoreError, f"the file is no SQLite database; {offer(path)}"),
        ("SQLITE_CORRUPT", DatastoreError, f"the file is damaged; {offer(path)}"),
        ("SQLITE_CANTOPEN", DatastoreError, "the file cannot be opened; check the directory and its permissions"),
    )
    for name, kind, text in cases:
        if code.startswith(name):
            return kind(f"{prefix}: {text}")
    return DatastoreError(f"{prefix}: {error}")
