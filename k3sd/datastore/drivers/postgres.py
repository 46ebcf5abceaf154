"""PostgreSQL through psycopg2. Other servers are told of a write by NOTIFY in the same statement.

Source: K3s kine, ``pkg/drivers/pgsql``: DSN defaults, database creation, schema.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

import psycopg2
import psycopg2.errors
import psycopg2.extensions

from k3sd.datastore import sql
from k3sd.datastore.backend import DatastoreError, Unavailable
from k3sd.datastore.drivers.server import INSERT_COLUMNS, INSERT_ROW, LOCK_SECONDS, Duplicate, Held, Lost, Row, ServerLog
from k3sd.datastore.endpoint import TLS, TLS_HINT

CHANNEL = "k3sd_kine"
CONNECT_TIMEOUT_SECONDS = 10
SILENCE_SECONDS = 15
"""A network that carries nothing for so long is a lost connection."""
SESSION = f"SET lock_timeout = '{LOCK_SECONDS}s'; SET idle_in_transaction_session_timeout = '60s'"
"""So that a server that vanished holds no lock for long, and none waits for a lock for ever."""
QUIET_SECONDS = 16.0
"""K3s servers on the same database do not notify; their writes are found by looking."""
DEFAULT_AUTHORITY = "postgres:postgres@localhost"
DEFAULT_DATABASE = "kubernetes"

COLUMN_TYPES = {
    "id": "BIGSERIAL PRIMARY KEY",
    "name": 'text COLLATE "C"',
    "create_revision": "BIGINT",
    "prev_revision": "BIGINT",
    "value": "bytea",
    "old_value": "bytea",
}

_BYTES = psycopg2.extensions.new_type(
    (17,), "BYTES", lambda value, cursor: None if value is None else bytes(psycopg2.BINARY(value, cursor))
)


def parse_dsn(endpoint: str, tls: TLS) -> str:
    """The libpq URI for K3s's ``postgres://...``, with its defaults."""
    rest = endpoint.partition("://")[2]
    try:
        parts = urlsplit(f"postgres://{rest or DEFAULT_AUTHORITY + '/'}")
        _ = parts.port
    except ValueError:
        # The error itself may quote a part of the password.
        raise DatastoreError(
            "datastore endpoint is not a PostgreSQL URI: write postgres://user:password@host:port/database, with characters "
            "such as / # ? @ of the password as %2F %23 %3F %40"
        ) from None
    query = dict(parse_qsl(parts.query))
    if tls:
        for name, value in (("sslcert", tls.certfile), ("sslkey", tls.keyfile), ("sslrootcert", tls.cafile)):
            if value:
                query.setdefault(name, value)
        query.setdefault("sslmode", "verify-full")
    path = parts.path.lower() if len(parts.path) > 1 else f"/{DEFAULT_DATABASE}"
    return urlunsplit((parts.scheme, parts.netloc, path, urlencode(query, quote_via=quote), ""))


class PostgresLog(ServerLog):
    product = "PostgreSQL"
    snapshot_begin = ("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",)
    set_sequence = "SELECT setval(pg_get_serial_sequence('kine', 'id'), (SELECT MAX(id) FROM kine))"
    size_query = "SELECT pg_total_relation_size('kine')"
    name_order = 'COLLATE "C"'
    migrations = (
        "ALTER TABLE kine ALTER COLUMN id TYPE BIGINT, ALTER COLUMN create_revision TYPE BIGINT, "
        "ALTER COLUMN prev_revision TYPE BIGINT; ALTER SEQUENCE kine_id_seq AS BIGINT",
        'ALTER TABLE kine ALTER COLUMN name TYPE text COLLATE "C"',
    )
    oldest_transaction = (
        "SELECT pid, COALESCE(NULLIF(application_name, ''), usename), date_trunc('second', xact_start) FROM pg_stat_activity "
        "WHERE datname = current_database() AND xact_start IS NOT NULL AND pid != pg_backend_pid() ORDER BY xact_start LIMIT 1"
    )

    def __init__(self, endpoint: str, tls: TLS) -> None:
        tls.check()
        self._dsn = parse_dsn(endpoint, tls)
        parts = urlsplit(self._dsn)
        self._database = unquote(parts.path[1:])
        host = parts.hostname or dict(parse_qsl(parts.query)).get("host", "localhost")
        super().__init__(f"{host}{f':{parts.port}' if parts.port else ''}/{self._database}")
        self.quiet_seconds = QUIET_SECONDS
        self._listener: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listener_fd = -1

    # connecting

    def _connect(self, database: str = "") -> Any:
        with self._errors("connect to"):
            try:
                connection = psycopg2.connect(
                    self._dsn,
                    connect_timeout=CONNECT_TIMEOUT_SECONDS,
                    application_name="k3sd",
                    keepalives_idle=10,
                    keepalives_interval=5,
                    keepalives_count=2,
                    tcp_user_timeout=SILENCE_SECONDS * 1000,
                    **({"dbname": database} if database else {}),
                )
            except psycopg2.OperationalError as e:
                text = " ".join(str(e).split())
                if _final(text):
                    hint = TLS_HINT if "certificate" in text or "SSL" in text else ""
                    raise DatastoreError(f"cannot connect to the PostgreSQL database at {self.where}: {text}{hint}") from e
                raise Lost(text) from e
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(SESSION)
            psycopg2.extensions.register_type(_BYTES, connection)
            return connection

    def _create_database(self) -> None:
        try:
            self._connection()
            return
        except DatastoreError as e:
            if "does not exist" not in str(e) or self._database not in str(e):
                raise
        connection = self._connect("postgres")
        name = self._database.replace('"', '""')
        with self._errors("create"), contextlib.closing(connection), connection.cursor() as cursor:
            try:
                cursor.execute(f'CREATE DATABASE "{name}"')
            except (psycopg2.errors.DuplicateDatabase, psycopg2.errors.UniqueViolation):
                pass  # another server was quicker
        self._connection()

    def _schema(self) -> Sequence[str]:
        columns = ", ".join(f"{c} {COLUMN_TYPES.get(c, 'INTEGER')}" for c in sql.COLUMNS)
        statements = [f"CREATE TABLE IF NOT EXISTS kine ({columns})"]
        for name, unique, on in (*sql.INDEXES, ("kine_list_query_index", False, "name, id DESC, deleted")):
            statements.append(f"CREATE {'UNIQUE ' if unique else ''}INDEX IF NOT EXISTS {name} ON kine ({on})")
        return statements

    def _columns(self) -> Sequence[str]:
        rows = self._run(
            "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass('kine') AND attnum > 0 AND NOT attisdropped"
        )
        return [row[0] for row in rows]

    def _foreign_tables(self) -> Sequence[str]:
        return [row[0] for row in self._run("SELECT tablename FROM pg_tables WHERE schemaname = ANY (current_schemas(false))")]

    # writing

    def _insert(self, rows: Sequence[Row]) -> dict[str, int]:
        values = ", ".join([INSERT_ROW] * len(rows))
        text = (
            f"WITH written AS ({INSERT_COLUMNS}{values} ON CONFLICT (name, prev_revision) DO NOTHING RETURNING name, id) "
            f"SELECT name, id, pg_notify('{CHANNEL}', '') FROM written"
        )
        try:
            return {row[0]: row[1] for row in self._run(text, [v for row in rows for v in row], "write to")}
        except Duplicate:
            return {}  # the primary key: a gap row took one of the revisions; all are tried again

    # waking

    def open_listener(self) -> None:
        try:
            listener = self._connect()
            with self._errors("listen to"), listener.cursor() as cursor:
                cursor.execute(f"LISTEN {CHANNEL}")
        except Lost as e:
            raise self._unavailable(e) from e
        self._listener = listener
        self.listening = True

    def listen(self, loop: asyncio.AbstractEventLoop, wake: Callable[[], None]) -> None:
        self._loop = loop
        self._listener_fd = self._listener.fileno()
        loop.add_reader(self._listener_fd, self._notified, wake)

    def _notified(self, wake: Callable[[], None]) -> None:
        try:
            self._listener.poll()
        except psycopg2.Error:
            self.unlisten()
            self.listening = False
            wake()
            return
        own = {c.info.backend_pid for c in list(self._connections) if not c.closed}
        foreign = any(n.pid not in own for n in self._listener.notifies)
        self._listener.notifies.clear()
        if foreign:
            wake()

    def unlisten(self) -> None:
        if self._loop is not None and self._listener_fd >= 0:
            self._loop.remove_reader(self._listener_fd)
        self._listener_fd = -1
        if self._listener is not None:
            with contextlib.suppress(psycopg2.Error):
                self._listener.close()
            self._listener = None

    # errors

    @contextlib.contextmanager
    def _errors(self, action: str) -> Iterator[None]:
        try:
            yield
        except psycopg2.errors.UniqueViolation as e:
            raise Duplicate(str(e)) from e
        except psycopg2.errors.LockNotAvailable as e:
            raise Held(str(e)) from e
        except (psycopg2.errors.DiskFull, psycopg2.errors.ReadOnlySqlTransaction) as e:
            raise Unavailable(f"cannot {action} the PostgreSQL database at {self.where}: {' '.join(str(e).split())}") from e
        except (psycopg2.OperationalError, psycopg2.InterfaceError) as e:
            raise Lost(str(e)) from e
        except psycopg2.Error as e:
            raise DatastoreError(f"cannot {action} the PostgreSQL database at {self.where}: {' '.join(str(e).split())}") from e


def _final(text: str) -> bool:
    """Whether a refused connection will be refused again: libpq gives no code for these."""
    return any(
        part in text
        for part in (
            "authentication failed",
            "no password supplied",
            "does not exist",
            "no pg_hba.conf entry",
            "certificate",
            "SSL error",
            "server does not support SSL",
            "could not translate host name",
            "private key file",
            "invalid",
        )
    )
