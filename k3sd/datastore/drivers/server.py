"""What PostgreSQL and MySQL have in common: kine's table on a server that several k3sd (and K3s) servers may share.

A batch of writes is one query for the newest rows of its keys, the decision here, and one INSERT. The unique index on
(name, prev_revision) decides between servers: who loses reads again and decides anew. Reading is safe to repeat, so a lost
connection is opened again there; a connection lost during the INSERT leaves the outcome unknown, which the error says.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

from k3sd.datastore import mvcc, sql
from k3sd.datastore.backend import Compacted, CompareFailed, DatastoreError, Event, KeyValue, ListResult, Unavailable
from k3sd.datastore.log import Opened
from k3sd.datastore.mvcc import Kind, Op, Verdict

logger = logging.getLogger(__name__)

Row = tuple[str, int, int, int, int, int, bytes | None, bytes | None]
"""name, created, deleted, create_revision, prev_revision, lease, value, old_value"""

ROUNDS = 20
MIGRATION_VARIABLE = "KINE_SCHEMA_MIGRATION"
LOCK_SECONDS = 5
"""How long a statement waits for a transaction of another session."""
STATEMENT_BYTES = 4 << 20
"""Of values, new and replaced, in one statement."""
COMPACT_STEP = 500
RECENT = 100
"""Latest revisions checked for holes at start; compaction never reaches them."""

INSERT_COLUMNS = "INSERT INTO kine (name, created, deleted, create_revision, prev_revision, lease, value, old_value) VALUES "
INSERT_ROW = "(?, ?, ?, ?, ?, ?, ?, ?)"
FILL = "INSERT INTO kine (id, name, created, deleted, create_revision, prev_revision, lease) VALUES (?, ?, 0, 1, 0, 0, 0)"
NEWEST = """
SELECT k.name, k.id, k.created, k.deleted, k.create_revision, k.lease, k.value FROM kine k
JOIN (SELECT MAX(id) AS id FROM kine WHERE name IN ({}) GROUP BY name) m ON k.id = m.id"""
AFTER = """
SELECT k.name, k.created, k.deleted, k.create_revision, k.prev_revision, k.lease, k.value, k.old_value, k.id,
CASE WHEN k.deleted = 0 THEN 0 ELSE COALESCE(
(SELECT CASE WHEN p.created = 1 THEN p.id ELSE p.create_revision END FROM kine p WHERE p.id = k.prev_revision), 0) END
FROM kine k WHERE k.id > ? ORDER BY k.id LIMIT ?"""
LOCK_COMPACT_ROW = f"SELECT prev_revision FROM kine WHERE name = '{mvcc.COMPACT_KEY}' FOR UPDATE NOWAIT"
LEASED = f"""
SELECT k.name, k.id, k.lease FROM kine k WHERE k.lease > 0 AND k.deleted = 0 AND k.name != '{mvcc.COMPACT_KEY}'
AND k.id = (SELECT MAX(n.id) FROM kine n WHERE n.name = k.name)"""


class Duplicate(Exception):
    """A row collided with the primary key or the unique index; nothing of the statement was applied."""


class Held(Exception):
    """A transaction of another session holds a row for too long; nothing of the statement was applied."""


class Lost(Exception):
    """The connection is gone or was refused. ``str`` is the driver's text."""


class ServerLog:
    """A ``SharedLog``. Subclasses say how to connect, which schema to create and how the server reports errors."""

    threaded = True
    maintenance_due = False
    name_order: ClassVar[str] = ""
    """Appended to ``name`` where keys are compared or sorted."""
    product: ClassVar[str] = ""
    ascii_only: ClassVar[bool] = False
    max_key_bytes: ClassVar[int] = 0
    after_nul: ClassVar[str] = "\x01"

    migrations: ClassVar[tuple[str, ...]] = ()
    """Source: kine ``schemaMigrations``. Each may run again."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.compact_revision = 0
        self.compacted_elsewhere = False
        self.quiet_seconds = 1.0
        self.statement_bytes = STATEMENT_BYTES
        self.max_value_bytes = mvcc.MAX_VALUE_BYTES
        self.listening = True
        self._local = threading.local()
        self._lock = threading.Lock()
        self._connections: list[Any] = []

    # to be filled in

    def _connect(self) -> Any:
        """A new connection in autocommit mode. Raises Lost, DatastoreError."""
        raise AssertionError("abstract")

    def _create_database(self) -> None:
        """Make the database when it is absent."""

    def _schema(self) -> Sequence[str]:
        """Statements that create what is missing of the table and its indexes."""
        raise AssertionError("abstract")

    def _columns(self) -> Sequence[str]:
        """Columns of an existing ``kine`` table, empty when there is none."""
        raise AssertionError("abstract")

    def _foreign_tables(self) -> Sequence[str]:
        raise AssertionError("abstract")

    def _insert(self, rows: Sequence[Row]) -> dict[str, int]:
        """Insert rows with distinct names; returns the revisions of those that were. Others lost a race."""
        raise AssertionError("abstract")

    def _errors(self, action: str) -> contextlib.AbstractContextManager[None]:
        """Translates the driver's errors to Lost, Held, Duplicate, DatastoreError."""
        return contextlib.nullcontext()

    oldest_transaction: ClassVar[str] = ""
    """Query for ``(session, what it is, since when)`` of the oldest open transaction but our own."""

    def _held(self, what: str) -> Unavailable:
        """Names the session that is in the way, where this user may know."""
        holder = "another session"
        with contextlib.suppress(Lost, Held, Duplicate, DatastoreError):  # the message is as true without the name
            if rows := self._run(self.oldest_transaction):
                number, name, since = rows[0]
                holder = f"session {number} ({name}, since {since})"
        return Unavailable(
            f"{what} of the {self.product} database at {self.where} is held by an open transaction of {holder}; end it"
        )

    def open_listener(self) -> None:
        return None

    def listen(self, loop: Any, wake: Any) -> None:
        return None

    def unlisten(self) -> None:
        return None

    snapshot_begin: ClassVar[tuple[str, ...]] = ()
    """Statements that begin a transaction with one consistent view."""
    set_sequence: ClassVar[str] = ""
    """Run after rows were inserted with ids of their own, where the server needs it."""

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """All rows of the table in id order, with the columns of ``sql.COLUMNS``, of one moment."""
        columns = ", ".join(sql.COLUMNS)
        for statement in self.snapshot_begin:
            self._run(statement)
        last = 0
        while page := self._run(f"SELECT {columns} FROM kine WHERE id > ? ORDER BY id LIMIT 500", (last,)):
            yield from page
            last = page[-1][0]
        self._run("COMMIT")

    def load(self, rows: Iterable[tuple[Any, ...]]) -> int:
        """Put rows into the table, which must be empty, in one transaction. Returns how many."""
        text = INSERT_COLUMNS.replace("(name", "(id, name")
        count = 0
        self._run("BEGIN")
        self._run("DELETE FROM kine")
        batch: list[tuple[Any, ...]] = []
        for row in itertools.chain(rows, (None,)):
            size = sum(len(r[7] or b"") + len(r[8] or b"") for r in batch)
            if batch and (row is None or len(batch) >= 200 or size > self.statement_bytes // 2):
                self._run(text + ", ".join([INSERT_ROW.replace("(?", "(?, ?", 1)] * len(batch)), [v for r in batch for v in r])
                count += len(batch)
                batch = []
            if row is not None:
                batch.append(row)
        if self.set_sequence:
            self._run(self.set_sequence)
        self._run("COMMIT")
        return count

    size_query: ClassVar[str] = ""

    def size(self) -> int:
        return int(self._retried(self.size_query)[0][0] or 0)

    def maintain(self) -> None:
        return None

    # connections

    def _connection(self) -> Any:
        """This thread's connection."""
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self._connect()
            with self._lock:
                self._connections.append(connection)
        return connection

    def _disconnect(self) -> None:
        connection = getattr(self._local, "connection", None)
        self._local.connection = None
        if connection is not None:
            with self._lock:
                self._connections.remove(connection)
            with contextlib.suppress(Exception):  # it is broken already
                connection.close()

    def close(self) -> None:
        with self._lock:
            connections, self._connections = self._connections, []
        for connection in connections:
            with contextlib.suppress(Exception):
                connection.close()

    def statement(self, text: str) -> str:
        """``text`` as the drivers want it; both use the format style."""
        if self.name_order:
            for column in ("k.name >= ?", "k.name < ?", "ORDER BY k.name"):
                text = text.replace(column, column.replace("k.name", f"k.name {self.name_order}"))
        return text.replace("%", "%%").replace("?", "%s")

    def _run(self, text: str, args: Sequence[object] = (), action: str = "read") -> list[tuple[Any, ...]]:
        """Run one statement, return its rows. Raises Lost, Duplicate, DatastoreError."""
        connection = self._connection()
        with self._errors(action), contextlib.closing(connection.cursor()) as cursor:
            cursor.execute(self.statement(text), tuple(args))
            return list(cursor.fetchall()) if cursor.description else []

    def _retried(self, text: str, args: Sequence[object] = (), action: str = "read") -> list[tuple[Any, ...]]:
        """``_run`` for statements that may run twice: once more on a new connection."""
        for last in (False, True):
            try:
                return self._run(text, args, action)
            except Held as e:
                raise self._held("a row") from e
            except Lost as e:
                self._disconnect()
                if last:
                    raise self._unavailable(e) from e
        raise AssertionError("unreachable")

    def _unavailable(self, error: Exception) -> Unavailable:
        text = " ".join(str(error).split())
        return Unavailable(f"the {self.product} database at {self.where} does not answer: {text}")

    def bound(self, key: str) -> str:
        """A key or bound as this server can compare it: NUL, which its text cannot hold, becomes what sorts next to it, and
        what is not ASCII what sorts behind all that is."""
        key = key.replace("\0", self.after_nul)
        if self.ascii_only and not key.isascii():
            return "".join(itertools.takewhile(str.isascii, key)) + "\x7f"
        return key

    def why_not(self, key: str, value: bytes = b"") -> str:
        """Why this key or value cannot be stored here; empty when it can."""
        if self.ascii_only and not key.isascii():
            return f"key {key!r} is not ASCII, which {self.product} databases of K3s cannot store"
        if self.max_key_bytes and len(key) > self.max_key_bytes:
            return f"key {key!r} is longer than the {self.max_key_bytes} bytes that {self.product} databases of K3s can store"
        if len(value) > self.max_value_bytes:
            return (
                f"value of key {key!r} has {len(value)} bytes; the limit is {self.max_value_bytes} "
                f"with this {self.product} server's max_allowed_packet"
            )
        return ""

    # opening

    def open(self) -> Opened:
        try:
            self._disconnect()
            self._create_database()
            columns = self._columns()
            if not columns and (others := self._foreign_tables()):
                names = ", ".join(sorted(others)[:5])
                raise DatastoreError(
                    f"the {self.product} database at {self.where} belongs to another application (tables: {names}); "
                    "name an empty database"
                )
            if columns and (missing := [c for c in sql.COLUMNS if c not in columns]):
                raise DatastoreError(
                    f"table kine at {self.where} is not kine's: it has no column {', '.join(missing)}; name another database"
                )
            if unknown := set(columns) - set(sql.COLUMNS):
                raise DatastoreError(sql.newer_schema(self.where, unknown))
            if columns:
                self._migrate()
            for statement in self._schema():
                with contextlib.suppress(Duplicate):
                    self._run(statement, action="create the schema of")
            self._ensure_compact_row()
            self._close_recent_holes()
            revision = self.current_revision()
            self._read_compact_revision()
            return Opened(revision, self.compact_revision, self._run(LEASED))
        except Held as e:
            raise self._held("the table") from e
        except Lost as e:
            self._disconnect()
            raise self._unavailable(e) from e

    def _migrate(self) -> None:
        """kine's migrations of old tables, which rewrite the whole table and are therefore asked for by number."""
        wanted = os.environ.get(MIGRATION_VARIABLE, "0")
        if not wanted.isdecimal():
            raise DatastoreError(f"{MIGRATION_VARIABLE} is {wanted!r}; it must be a number: 1 for 64-bit revisions, 2 for all")
        for statement in self.migrations[: int(wanted)]:
            logger.info("migrating the %s table at %s, this may take a while: %s", self.product, self.where, statement)
            self._run(statement, action="migrate")

    def _ensure_compact_row(self) -> None:
        with contextlib.suppress(Duplicate):  # another server was quicker
            if not self._run(f"SELECT id FROM kine WHERE name = '{mvcc.COMPACT_KEY}'"):
                row: Row = (mvcc.COMPACT_KEY, 1, 0, 0, 0, 0, b"", None)
                self._run(INSERT_COLUMNS + INSERT_ROW, row, "create the schema of")

    def _close_recent_holes(self) -> None:
        """A revision that is empty at start may still be under way on another server; filling it waits for that."""
        current = self.current_revision()
        low = max(0, current - RECENT)
        known = {row[0] for row in self._run("SELECT id FROM kine WHERE id > ? AND id <= ?", (low, current))}
        first = min(known, default=current)
        for revision in range(first, current):
            if revision not in known:
                self.fill(revision, revision)

    def _read_compact_revision(self) -> None:
        self.compact_revision = max(self.compact_revision, int(self._retried(sql.COMPACT_REVISION)[0][0]))

    def find_compact_revision(self) -> int:
        self._read_compact_revision()
        return self.compact_revision

    def leased(self) -> Sequence[tuple[str, int, int]]:
        return [(key, revision, seconds) for key, revision, seconds in self._retried(LEASED)]

    # writing

    def commit(self, ops: Sequence[Op]) -> list[Event]:
        events: list[Event] = []
        todo = list(ops)
        for op in ops:
            op.result = op.error = None
        try:
            lost = 0
            while lost < ROUNDS:
                waiting, todo = len(todo), self._round(todo, events)
                if not todo:
                    return events
                lost = lost + 1 if len(todo) == waiting else 0
            raise Unavailable(f"other servers were always quicker to write to the {self.product} database; try again")
        except DatastoreError as e:
            for op in ops:
                if op.result is None and op.error is None:
                    op.error = e
        return events

    def _round(self, ops: list[Op], events: list[Event]) -> list[Op]:
        """One attempt. Returns what has to be tried again: lost races, and further writes of the same keys."""
        batch: dict[str, Op] = {}
        later: list[Op] = []
        for op in ops:
            if op.key in batch:
                later.append(op)
            elif reason := self.why_not(op.key, op.value):
                op.error = DatastoreError(reason)
            else:
                batch[op.key] = op
        if not batch:
            return later
        marks = ", ".join(["?"] * len(batch))
        newest = {row[0]: row for row in self._retried(NEWEST.format(marks), list(batch), "write to")}
        rows: dict[str, Row] = {}
        befores: dict[str, KeyValue | None] = {}
        size = 0
        for key, op in batch.items():
            row = newest.get(key)
            head = before = None
            previous = 0
            if row is not None:
                _, previous, created, deleted, create_revision, lease, value = row
                create_revision = 0 if deleted else previous if created else create_revision
                head = (previous, create_revision, lease)
                if not deleted:
                    before = KeyValue(key, bytes(value or b""), previous, create_revision, lease)
            verdict = mvcc.judge(op.kind, op.revision, head)
            if verdict is Verdict.FAIL:
                op.error = CompareFailed(key, op.revision, before)
            elif verdict is Verdict.NOTHING:
                op.result = (0, None)
            else:
                size += len(op.value) + (len(before.value) if before is not None else 0)
                if rows and size > self.statement_bytes:
                    later.append(op)
                    continue
                befores[key] = before
                rows[key] = _row(op, before, previous)
        if not rows:
            return later
        try:
            written = self._insert(list(rows.values()))
        except Held as e:
            raise self._held(f"one of {len(rows)} keys to write, such as {next(iter(rows))!r},") from e
        except Lost as e:
            self._disconnect()
            raise Unavailable(
                f"the connection to the {self.product} database at {self.where} was lost during a write; "
                f"whether it was applied is unknown: {' '.join(str(e).split())}"
            ) from e
        for key, revision in sorted(written.items(), key=lambda item: item[1]):
            op, before = batch[key], befores[key]
            events.append(_event(op, before, revision))
            op.result = (revision, before) if op.kind is Kind.DELETE else revision
        return [batch[key] for key in rows if key not in written] + later

    def fill(self, first: int, last: int) -> None:
        for revision in range(first, last + 1):
            try:
                self._run(FILL, (revision, f"{mvcc.GAP_PREFIX}{revision}"), "fill a gap in")
            except Duplicate:
                pass  # written meanwhile
            except Held as e:
                raise self._held(f"revision {revision}") from e
            except Lost as e:
                self._disconnect()
                raise self._unavailable(e) from e

    # compaction

    def compact_step(self, target: int) -> int:
        """One transaction. Source: kine ``pkg/logstructured/sqllog`` ``compact``: stop if another node moved the revision.
        It never waits for another server: who holds the compact row is the leader."""
        try:
            self.compacted_elsewhere = False
            self._run("BEGIN", action="compact")
            row = self._run(
                f"SELECT prev_revision FROM kine WHERE name = '{mvcc.COMPACT_KEY}' FOR UPDATE NOWAIT", (), "compact"
            )
            low = int(row[0][0])
            if low > self.compact_revision:
                self.compact_revision = low
                self.compacted_elsewhere = True
                self._run("ROLLBACK", action="compact")
                return low
            high = min(target, low + COMPACT_STEP)
            self.compact_revision = high
            superseded = self._run(
                "SELECT prev_revision FROM kine WHERE id > ? AND id <= ? AND prev_revision != 0 AND name != ?",
                (low, high, mvcc.COMPACT_KEY),
                "compact",
            )
            if superseded:
                marks = ", ".join(["?"] * len(superseded))
                self._run(f"DELETE FROM kine WHERE id IN ({marks})", [row[0] for row in superseded], "compact")
            self._run(sql.COMPACT_TOMBSTONES, (low, high), "compact")
            self._run(sql.SET_COMPACT_REVISION, (high,), "compact")
            self._run("COMMIT", action="compact")
            return high
        except Held:
            self._disconnect()
            self._read_compact_revision()
            self.compacted_elsewhere = True
            return self.compact_revision
        except (Lost, Duplicate) as e:
            self._disconnect()
            raise self._unavailable(e) from e
        except DatastoreError:
            self._disconnect()
            raise

    # reading

    def current_revision(self) -> int:
        return int(self._retried(sql.CURRENT_REVISION)[0][0])

    def after(self, revision: int, limit: int) -> Sequence[tuple[int, Event | None]]:
        rows = self._retried(AFTER, (revision, limit), "follow")
        return [(row[8], None if mvcc.hidden(row[0]) else mvcc.event_of(*row)) for row in rows]

    def _checked(self, revision: int) -> None:
        """After a read at an old revision: another server may have compacted it away meanwhile."""
        if revision and revision >= self.compact_revision:
            self._read_compact_revision()
        if revision and revision < self.compact_revision:
            raise Compacted(revision, self.compact_revision)

    def get(self, key: str, revision: int) -> tuple[int, KeyValue | None]:
        if self.why_not(key):
            return 0, None
        rows = self._retried(sql.GET, (self.bound(key), revision or sql.UNLIMITED))
        self._checked(revision)
        if not rows or rows[0][6] or mvcc.hidden(key):
            return 0, None
        return 0, sql.key_value(*rows[0][:6])

    def list(self, start: str, end: str, limit: int, revision: int, keys_only: bool, counted: bool) -> ListResult:
        start, end = self.bound(start), self.bound(end)
        wanted = limit + 1 if limit else sql.UNLIMITED
        rows = self._retried(sql.LIST_KEYS if keys_only else sql.LIST, (start, end, revision, revision, wanted))
        more = bool(limit) and len(rows) > limit
        count = len(rows)
        if more:
            count = self._retried(sql.COUNT, (start, end, revision))[0][0] if counted else 0
        self._checked(revision)
        if more:
            rows.pop()
        return ListResult(revision, [sql.key_value(*row) for row in rows], more, count)

    def count(self, start: str, end: str, revision: int) -> tuple[int, int]:
        rows = self._retried(sql.COUNT, (self.bound(start), self.bound(end), revision))
        self._checked(revision)
        return 0, rows[0][0]

    def history(self, start: str, end: str, after: int, upto: int, limit: int) -> tuple[Sequence[Event], int]:
        rows = self._retried(sql.HISTORY, (after, upto, self.bound(start), self.bound(end), limit))
        self._checked(after + 1)
        return sql.events_of(rows), upto if len(rows) < limit else rows[-1][8]


def _row(op: Op, before: KeyValue | None, previous: int) -> Row:
    if op.kind is Kind.DELETE:
        assert before is not None
        return op.key, 0, 1, 0, previous, 0, None, before.value
    if before is None:
        return op.key, 1, 0, 0, previous, op.lease, op.value, None
    return op.key, 0, 0, before.create_revision, previous, op.lease, op.value, before.value


def _event(op: Op, before: KeyValue | None, revision: int) -> Event:
    if op.kind is Kind.DELETE:
        return Event(KeyValue(op.key, b"", revision, 0), before, True)
    created = before.create_revision if before is not None else revision
    return Event(KeyValue(op.key, op.value, revision, created, op.lease), before)
