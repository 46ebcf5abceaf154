"""Tables as kine of every age made them (since K3s v1.0) open and work; those of a future kine are left alone.

Facts from kine's history: ``pkg/drivers/{pgsql,mysql,sqlite}``.
"""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datastore_harness import Harness

from k3sd.datastore.backend import Backend, CompareFailed, DatastoreError, Event
from k3sd.datastore.drivers.mysql import MySQLLog
from k3sd.datastore.drivers.postgres import PostgresLog
from k3sd.datastore.drivers.server import ServerLog
from k3sd.datastore.endpoint import TLS
from k3sd.datastore.mvcc import KEEP_REVISIONS, prefix_end
from tests.support.datastore_servers import Server

PREFIX = "/registry/x/"
RANGE = (PREFIX, prefix_end(PREFIX))

REST = "created INTEGER, deleted INTEGER, {revisions}, lease INTEGER, value {blob}, old_value {blob}"
SMALL = "create_revision INTEGER, prev_revision INTEGER"
NAMES = {
    "name": "CREATE INDEX kine_name_index ON kine (name)",
    "name_id": "CREATE INDEX kine_name_id_index ON kine (name, id)",
    "id_deleted": "CREATE INDEX kine_id_deleted_index ON kine (id, deleted)",
    "prev": "CREATE INDEX kine_prev_revision_index ON kine (prev_revision)",
    "unique": "CREATE UNIQUE INDEX kine_name_prev_revision_uindex ON kine (name, prev_revision)",
}


def table(columns: str, revisions: str, blob: str) -> str:
    return f"CREATE TABLE kine ({columns}, {REST.format(revisions=revisions, blob=blob)})"


PG_BIG = "create_revision BIGINT, prev_revision BIGINT"
MY_BIG = "create_revision BIGINT UNSIGNED, prev_revision BIGINT UNSIGNED"
AGES: dict[tuple[str, str], tuple[str, str]] = {
    ("postgres", "2019, v1.0"): (table("id SERIAL PRIMARY KEY, name VARCHAR(630)", SMALL, "bytea"), "name unique"),
    ("postgres", "2019, sorted by language"): (
        table('id SERIAL PRIMARY KEY, name VARCHAR(630) COLLATE "en-x-icu"', SMALL, "bytea"),
        "name unique",
    ),
    ("postgres", "2020, v1.20"): (
        table("id SERIAL PRIMARY KEY, name VARCHAR(630)", SMALL, "bytea"),
        "name name_id id_deleted prev unique",
    ),
    ("postgres", "2024, v1.30"): (
        table('id BIGSERIAL PRIMARY KEY, name text COLLATE "C"', PG_BIG, "bytea"),
        "name name_id id_deleted prev unique",
    ),
    ("mariadb", "2019, v1.0"): (
        table("id INTEGER AUTO_INCREMENT PRIMARY KEY, name VARCHAR(630)", SMALL, "MEDIUMBLOB"),
        "name unique",
    ),
    ("mariadb", "2020, v1.20"): (
        table("id INTEGER AUTO_INCREMENT PRIMARY KEY, name VARCHAR(630) CHARACTER SET ascii", SMALL, "MEDIUMBLOB"),
        "name name_id id_deleted prev unique",
    ),
    ("mariadb", "2024, v1.30"): (
        table("id BIGINT UNSIGNED AUTO_INCREMENT PRIMARY KEY, name VARCHAR(630) CHARACTER SET ascii", MY_BIG, "MEDIUMBLOB"),
        "name name_id id_deleted prev unique",
    ),
    ("sqlite", "2019, v1.0"): (table("id INTEGER PRIMARY KEY AUTOINCREMENT, name INTEGER", SMALL, "BLOB"), "name unique"),
    ("sqlite", "2024, v1.30"): (
        table("id INTEGER PRIMARY KEY AUTOINCREMENT, name INTEGER", SMALL, "BLOB"),
        "name name_id id_deleted prev unique",
    ),
    ("sqlite", "2026"): (
        table("id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT", SMALL, "BLOB"),
        "name name_id id_deleted prev unique",
    ),
}
COLUMNS = "id, name, created, deleted, create_revision, prev_revision, lease, value, old_value"
ROWS: list[tuple[Any, ...]] = [
    (1, "compact_rev_key", 1, 0, 0, 4, 0, b"", None),
    (2, "/registry/health", 1, 0, 0, 0, 0, b'{"health":"true"}', None),
    (4, f"{PREFIX}a", 0, 0, 3, 3, 0, b"k8s\0two", b"k8s\0one"),
    (5, "gap-5", 0, 1, 0, 0, 0, None, None),
    (6, f"{PREFIX}a-b", 1, 0, 0, 0, 0, b"b", None),
    (7, f"{PREFIX}a-b", 0, 1, 0, 6, 0, None, b"b"),
    (9, f"{PREFIX}a/c", 1, 0, 0, 0, 0, b"c", None),
]

Query = Callable[..., list[tuple[Any, ...]]]


@pytest.fixture
def database(request: pytest.FixtureRequest, tmp_path: Path, database_server: Callable[[str], Server | None]) -> Any:
    """``(harness, query)`` of an empty database."""
    driver: str = request.param
    harness = Harness(driver, tmp_path, database_server(driver))
    if driver == "sqlite":
        path = tmp_path / "server" / "db" / "state.db"
        path.parent.mkdir(parents=True)

        def query(text: str, args: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
            with sqlite3.connect(path) as db:
                rows = db.execute(text, args).fetchall()
            db.close()
            return rows

        yield harness, query
        return
    log: ServerLog = (PostgresLog if driver == "postgres" else MySQLLog)(harness.endpoint, TLS())
    log._create_database()
    yield harness, log._run
    log.close()


def by_age(names: list[tuple[str, str]]) -> Any:
    return pytest.mark.parametrize(("database", "age"), names, indirect=["database"], ids=" ".join)


async def collect(watch: Any, until: int) -> list[Event]:
    events: list[Event] = []
    async with asyncio.timeout(10):
        while not events or events[-1].kv.revision < until:
            events.extend(await anext(watch))
    return events


def fill(driver: str, age: str, query: Query, rows: list[tuple[Any, ...]] = ROWS) -> None:
    create, indexes = AGES[driver, age]
    query(create)
    for name in indexes.split():
        query(NAMES[name])
    for row in rows:
        query(f"INSERT INTO kine ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
    if driver == "postgres":
        query("SELECT setval(pg_get_serial_sequence('kine', 'id'), 9)")


async def works(store: Backend) -> None:
    assert store.compact_revision == 4 and await store.revision() == 9
    listed = await store.list(*RANGE)
    assert [(kv.key, kv.value, kv.revision, kv.create_revision) for kv in listed.kvs] == [
        (f"{PREFIX}a", b"k8s\0two", 4, 3),
        (f"{PREFIX}a/c", b"c", 9, 9),
    ]
    watch = store.watch(*RANGE, revision=5)
    assert await store.create(f"{PREFIX}a-b", b"again") == 10
    assert [(e.kv.revision, e.deleted) for e in await collect(watch, 10)] == [(6, False), (7, True), (9, False), (10, False)]
    with pytest.raises(CompareFailed):
        await store.update(f"{PREFIX}a", b"3", 3)
    assert await store.update(f"{PREFIX}a", b"3", 4) == 11
    await asyncio.gather(*(store.create(f"/registry/y/{i}", b"") for i in range(KEEP_REVISIONS)))
    assert await store.compact(11) == 11
    kv = (await store.get(f"{PREFIX}a"))[1]
    assert kv is not None and (kv.value, kv.create_revision) == (b"3", 3)


@by_age(list(AGES))
async def test_a_database_of_kine_opens(database: tuple[Harness, Query], age: str) -> None:
    harness, query = database
    await asyncio.to_thread(fill, harness.driver, age, query)
    await works(await harness.open())
    await harness.close()
    indexes = {
        "postgres": "SELECT indexname FROM pg_indexes WHERE tablename = 'kine'",
        "mariadb": "SELECT DISTINCT index_name FROM information_schema.statistics WHERE table_schema = DATABASE()",
        "sqlite": "SELECT name FROM sqlite_master WHERE type = 'index'",
    }[harness.driver]
    found = {row[0] for row in await asyncio.to_thread(query, indexes)}
    assert {f"kine_{n}_index" for n in ("name", "name_id", "id_deleted", "prev_revision")} <= found


@by_age([("postgres", "2019, sorted by language"), ("mariadb", "2020, v1.20")])
async def test_kines_migrations_run_when_asked_for(
    database: tuple[Harness, Query], age: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness, query = database
    await asyncio.to_thread(fill, harness.driver, age, query)
    types = (
        "SELECT column_name, data_type, collation_name FROM information_schema.columns WHERE table_name = 'kine' "
        f"AND table_schema = {'current_schema()' if harness.driver == 'postgres' else 'DATABASE()'}"
    )
    monkeypatch.setenv("KINE_SCHEMA_MIGRATION", "all")
    with pytest.raises(DatastoreError, match="KINE_SCHEMA_MIGRATION is 'all'; it must be a number"):
        await harness.open()
    monkeypatch.setenv("KINE_SCHEMA_MIGRATION", "2")
    await works(await harness.open())
    await harness.close()
    found = {row[0]: row[1:] for row in await asyncio.to_thread(query, types)}
    assert {found[c][0] for c in ("id", "create_revision", "prev_revision")} == {"bigint"}
    if harness.driver == "postgres":
        assert found["name"] == ("text", "C")
    await (await harness.open()).create(f"{PREFIX}later", b"")
    await harness.close()


@by_age([("postgres", "2024, v1.30"), ("mariadb", "2024, v1.30"), ("sqlite", "2026")])
async def test_a_newer_schema_is_refused_and_unchanged(database: tuple[Harness, Query], age: str) -> None:
    harness, query = database
    await asyncio.to_thread(fill, harness.driver, age, query)
    await asyncio.to_thread(query, "ALTER TABLE kine ADD COLUMN version INTEGER")

    def content() -> Any:
        if harness.driver == "sqlite":
            return hashlib.sha256((harness.data_dir / "server" / "db" / "state.db").read_bytes()).hexdigest()
        return query("SELECT * FROM kine ORDER BY id")

    before = await asyncio.to_thread(content)
    with pytest.raises(DatastoreError, match="made by a newer version: its column version is not known here"):
        await harness.open()
    assert await asyncio.to_thread(content) == before


@by_age([("postgres", "2020, v1.20"), ("mariadb", "2020, v1.20"), ("sqlite", "2024, v1.30")])
async def test_a_kine_that_never_compacted_has_no_row_for_it(database: tuple[Harness, Query], age: str) -> None:
    harness, query = database
    rows = [(1, f"{PREFIX}a", 1, 0, 0, 0, 0, b"1", None), (9, f"{PREFIX}b", 1, 0, 0, 0, 7200, b"2", None)]
    await asyncio.to_thread(fill, harness.driver, age, query, rows)
    store = await harness.open()
    assert [(kv.revision, kv.lease_seconds) for kv in (await store.list(*RANGE)).kvs] == [(1, 0), (9, 7200)]
    assert store.compact_revision == 0
    await harness.close()
    assert len(await asyncio.to_thread(query, "SELECT id FROM kine WHERE name = 'compact_rev_key'")) == 1
