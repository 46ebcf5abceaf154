"""MySQL and MariaDB through mysqlclient. There is no notification: other servers' writes are found by looking, often after one
was found, once a second at rest.

Source: K3s kine, ``pkg/drivers/mysql``: DSN defaults (go-sql-driver syntax), database creation, schema.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import parse_qsl

import MySQLdb
import MySQLdb.converters
from MySQLdb.constants import CR, ER, FIELD_TYPE

from k3sd.datastore import mvcc, sql
from k3sd.datastore.backend import DatastoreError, Unavailable
from k3sd.datastore.drivers.server import (
    INSERT_COLUMNS,
    INSERT_ROW,
    LOCK_SECONDS,
    STATEMENT_BYTES,
    Duplicate,
    Held,
    Lost,
    Row,
    ServerLog,
)
from k3sd.datastore.endpoint import TLS, TLS_HINT

DEFAULT_DATABASE = "kubernetes"
CONNECT_TIMEOUT_SECONDS = 10
SILENCE_SECONDS = 60
"""A server that says nothing for so long is a lost connection; creating an index of a large table may take long."""

COLUMN_TYPES = {
    "id": "BIGINT UNSIGNED AUTO_INCREMENT",
    "name": "VARCHAR(630) CHARACTER SET ascii COLLATE ascii_bin",
    "create_revision": "BIGINT UNSIGNED",
    "prev_revision": "BIGINT UNSIGNED",
    "value": "MEDIUMBLOB",
    "old_value": "MEDIUMBLOB",
}

_DSN = re.compile(r"(?:(?P<user>[^:@]*)(?::(?P<password>.*))?@)?(?:(?P<proto>[a-z]+)(?:\((?P<addr>[^)]*)\))?)?/(?P<db>[^?]*)")

_DUPLICATES = {ER.DUP_ENTRY, 1061}  # 1061: duplicate key name, of an index that exists
_RETRY = {ER.LOCK_DEADLOCK}
_HELD = {ER.LOCK_WAIT_TIMEOUT, 3572}  # 3572: NOWAIT, in MySQL
_LOST = {
    CR.CONNECTION_ERROR,
    CR.CONN_HOST_ERROR,
    CR.SERVER_GONE_ERROR,
    CR.SERVER_LOST,
    1040,  # too many connections
    1053,  # server shutdown in progress
    1927,  # connection was killed
    2055,  # lost connection, extended
}
_NOW_NOT = {1021, 1114, 1290, 1836, 3, 28}  # disk full, table full, read-only server
PACKET_RESERVE = 256 << 10
"""Of ``max_allowed_packet``, for keys and numbers."""
CONVERSIONS = {**MySQLdb.converters.conversions, FIELD_TYPE.NEWDECIMAL: int}
"""Every number here is whole, also where the server chooses DECIMAL because one operand is unsigned and one is not."""
ER_BAD_DB = 1049
ER_ACCESS_DENIED = 1045
CR_SSL = 2026


def parse_dsn(endpoint: str, tls: TLS) -> dict[str, Any]:
    """Arguments of ``MySQLdb.connect`` for K3s's ``mysql://user:password@tcp(host:port)/database?...``."""
    rest = endpoint.partition("://")[2]
    if not rest:
        rest = "root@tcp(127.0.0.1)/" if tls else "root@unix(/var/run/mysqld/mysqld.sock)/"
    dsn, _, query = rest.partition("?") if "?" in rest.rpartition("/")[2] else (rest, "", "")
    match = _DSN.fullmatch(dsn)
    if match is None:
        raise DatastoreError("datastore endpoint is not a MySQL DSN: write mysql://user:password@tcp(host:port)/database")
    args: dict[str, Any] = {"db": match["db"] or DEFAULT_DATABASE, "user": match["user"] or "root"}
    if match["password"]:
        args["passwd"] = match["password"]
    proto, address = match["proto"] or "tcp", match["addr"] or "127.0.0.1"
    if proto == "unix":
        args["unix_socket"] = address
    elif proto == "tcp":
        host, _, port = address.rpartition(":") if re.search(r":\d+$", address) else (address, "", "3306")
        args["host"], args["port"] = host.strip("[]"), int(port)
    else:
        raise DatastoreError(f"datastore endpoint: protocol {proto!r} is not known; use tcp(host:port) or unix(/path)")
    wanted = dict(parse_qsl(query)).get("tls", "")
    if tls:
        args["ssl"] = {k: v for k, v in (("ca", tls.cafile), ("cert", tls.certfile), ("key", tls.keyfile)) if v}
        args["tls"] = "true"
    elif wanted in ("true", "skip-verify", "preferred"):
        args["tls"] = wanted
    return args


def client_options(args: dict[str, Any]) -> str:
    """The options file for what ``MySQLdb.connect`` has no argument for: TCP even to ``localhost``, and how TLS is verified."""
    lines = ["[client]"]
    if "host" in args:
        lines.append("protocol=1")  # TCP; the library takes a number
    if args.get("tls") in ("true", "skip-verify"):
        lines.append("ssl-enforce=1")
    if args.get("tls") == "true":
        lines.append("ssl-verify-server-cert=1")
    return "\n".join(lines) + "\n"


class MySQLLog(ServerLog):
    product = "MySQL"
    ascii_only = True
    max_key_bytes = 630
    migrations = (
        "ALTER TABLE kine MODIFY COLUMN id BIGINT UNSIGNED AUTO_INCREMENT, MODIFY COLUMN create_revision BIGINT UNSIGNED, "
        "MODIFY COLUMN prev_revision BIGINT UNSIGNED",
    )
    snapshot_begin = (
        "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
        "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY",
    )
    size_query = (
        "SELECT SUM(data_length + index_length) FROM information_schema.tables "
        "WHERE table_schema = DATABASE() AND table_name = 'kine'"
    )
    oldest_transaction = (
        "SELECT t.trx_mysql_thread_id, COALESCE(p.user, 'unknown'), t.trx_started FROM information_schema.innodb_trx t "
        "LEFT JOIN information_schema.processlist p ON p.id = t.trx_mysql_thread_id "
        "WHERE t.trx_mysql_thread_id != CONNECTION_ID() ORDER BY t.trx_started LIMIT 1"
    )
    after_nul = "!"
    """Its collations compare as if padded with spaces, so ``key`` and every ``key`` + control character sort the other way."""

    def __init__(self, endpoint: str, tls: TLS) -> None:
        tls.check()
        self._args = parse_dsn(endpoint, tls)
        self._tls = tls
        place = self._args.get("unix_socket") or f"{self._args['host']}:{self._args['port']}"
        super().__init__(f"{place}/{self._args['db']}")
        self._increment = 1

    # connecting

    def _connect(self, **changes: Any) -> Any:
        args = {k: v for k, v in {**self._args, **changes}.items() if v is not None and k != "tls"}
        with self._errors("connect to"), _file(client_options(self._args)) as options:
            connection = MySQLdb.connect(
                **args,
                read_default_file=options,
                conv=CONVERSIONS,
                connect_timeout=CONNECT_TIMEOUT_SECONDS,
                read_timeout=SILENCE_SECONDS,
                write_timeout=SILENCE_SECONDS,
                autocommit=True,
                charset="utf8mb4",
            )
            with contextlib.closing(connection.cursor()) as cursor:
                cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
                cursor.execute(f"SET SESSION innodb_lock_wait_timeout = {LOCK_SECONDS}")
                cursor.execute("SELECT @@auto_increment_increment, @@sql_mode, @@max_allowed_packet")
                increment, mode, packet = cursor.fetchone()
                self._increment = int(increment)
                # A statement holds the new and the replaced value, and escaping may double both.
                room = (int(packet) - PACKET_RESERVE) // 2
                self.statement_bytes = min(STATEMENT_BYTES, room)
                self.max_value_bytes = min(mvcc.MAX_VALUE_BYTES, room // 2)
                if "ANSI_QUOTES" in mode:
                    cursor.execute("SET SESSION sql_mode = ''")
            return connection

    def _create_database(self) -> None:
        try:
            self._connection()
            return
        except DatastoreError as e:
            cause = e.__cause__
            if not isinstance(cause, MySQLdb.Error) or cause.args[0] != ER_BAD_DB:
                raise
        connection = self._connect(db=None)
        name = self._args["db"].replace("`", "``")
        with self._errors("create"), contextlib.closing(connection), contextlib.closing(connection.cursor()) as cursor:
            cursor.execute(f"CREATE DATABASE IF NOT EXISTS `{name}`")
        self._connection()

    def _schema(self) -> Sequence[str]:
        columns = ", ".join(f"{c} {COLUMN_TYPES.get(c, 'INTEGER')}" for c in sql.COLUMNS)
        if self._columns():
            statements = []
        else:
            statements = [f"CREATE TABLE IF NOT EXISTS kine ({columns}, PRIMARY KEY (id))"]
        have = {
            row[0]
            for row in self._run(
                "SELECT DISTINCT index_name FROM information_schema.statistics "
                "WHERE table_schema = DATABASE() AND table_name = 'kine'"
            )
        }
        for name, unique, on in sql.INDEXES:
            if name not in have:
                statements.append(f"CREATE {'UNIQUE ' if unique else ''}INDEX {name} ON kine ({on})")
        return statements

    def _columns(self) -> Sequence[str]:
        rows = self._run(
            "SELECT column_name FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name = 'kine'"
        )
        return [row[0] for row in rows]

    def _foreign_tables(self) -> Sequence[str]:
        rows = self._run("SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE()")
        return [row[0] for row in rows]

    # writing

    def _insert(self, rows: Sequence[Row]) -> dict[str, int]:
        """One statement for all; row by row when one of them lost a race. The server numbers the rows of one such statement
        consecutively (a "simple insert" in every innodb_autoinc_lock_mode)."""
        try:
            first = self._insert_some(rows)
            return {row[0]: first + i * self._increment for i, row in enumerate(rows)}
        except Duplicate:
            if len(rows) == 1:
                return {}
        written: dict[str, int] = {}
        for row in rows:
            with contextlib.suppress(Duplicate):
                written[row[0]] = self._insert_some([row])
        return written

    def _insert_some(self, rows: Sequence[Row]) -> int:
        connection = self._connection()
        text = self.statement(INSERT_COLUMNS + ", ".join([INSERT_ROW] * len(rows)))
        with self._errors("write to"), contextlib.closing(connection.cursor()) as cursor:
            cursor.execute(text, [v for row in rows for v in row])
            return int(cursor.lastrowid)

    # errors

    @contextlib.contextmanager
    def _errors(self, action: str) -> Iterator[None]:
        try:
            yield
        except MySQLdb.Error as e:
            code = e.args[0] if e.args else 0
            text = str(e.args[1]) if len(e.args) > 1 else str(e)
            message = f"cannot {action} the MySQL database at {self.where}: {text}"
            if code == CR_SSL:
                message += TLS_HINT
            elif code == ER_ACCESS_DENIED and self._tls and not self._tls.certfile:
                message += "; if this user needs a client certificate, name it with --datastore-certfile and -keyfile"
            if code in _DUPLICATES or code in _RETRY:
                raise Duplicate(text) from e
            if code in _HELD:
                raise Held(text) from e
            if code in _LOST or (isinstance(e, MySQLdb.InterfaceError) and code == 0):
                raise Lost(text) from e
            if code in _NOW_NOT:
                raise Unavailable(message) from e
            raise DatastoreError(message) from e


@contextlib.contextmanager
def _file(content: str) -> Iterator[str]:
    """The name of a file in memory with ``content``."""
    with open(os.memfd_create("k3sd-mysql"), "wb") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(content.encode())
        file.flush()
        yield f"/proc/self/fd/{file.fileno()}"
