"""Several servers on one database, lost connections, and what a wrong configuration says."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from datastore_harness import Harness

from k3sd.datastore import open_backend
from k3sd.datastore.backend import Backend, Compacted, CompareFailed, DatastoreError, Event, Unavailable
from k3sd.datastore.drivers.server import ServerLog
from k3sd.datastore.mvcc import KEEP_REVISIONS, MAX_VALUE_BYTES, prefix_end
from k3sd.datastore.shared import SharedStore

PREFIX = "/registry/x/"
RANGE = (PREFIX, prefix_end(PREFIX))

pytestmark = pytest.mark.parametrize("harness", ["postgres", "mariadb"], indirect=True)


@pytest.fixture
async def pair(harness: Harness) -> AsyncIterator[tuple[Backend, Backend]]:
    yield await harness.open(), await harness.open()


def log_of(store: Backend) -> ServerLog:
    assert isinstance(store, SharedStore) and isinstance(store._log, ServerLog)
    return store._log


async def collect(watch: AsyncIterator[list[Event]], until: str) -> list[Event]:
    events: list[Event] = []
    async with asyncio.timeout(20):
        while not events or events[-1].kv.key != until:
            events.extend(await anext(watch))
    return events


async def test_both_see_everything_in_one_order(pair: tuple[Backend, Backend]) -> None:
    watches = [store.watch(*RANGE) for store in pair]

    async def write(number: int, store: Backend) -> None:
        for i in range(40):
            revision = await store.create(f"{PREFIX}{number}-{i}", b"1")
            if i % 3 == 0:
                await store.update(f"{PREFIX}{number}-{i}", b"2", revision)
            elif i % 3 == 1:
                await store.delete(f"{PREFIX}{number}-{i}", revision)

    await asyncio.gather(*(write(2 * n + s, store) for s, store in enumerate(pair) for n in range(4)))
    await pair[0].create(f"{PREFIX}last", b"")
    first, second = [await collect(watch, f"{PREFIX}last") for watch in watches]
    assert first == second
    for event in second:  # whoever encodes them needs integers, not what compares equal
        for kv in filter(None, (event.kv, event.prev)):
            assert {type(kv.revision), type(kv.create_revision), type(kv.lease_seconds)} == {int}
            assert type(kv.value) is bytes and type(kv.key) is str
    numbers = [event.kv.revision for event in first]
    assert numbers == sorted(set(numbers)) and len(numbers) == 8 * (40 + 14 + 13) + 1


async def test_one_of_two_servers_wins(pair: tuple[Backend, Backend]) -> None:
    async def increment(store: Backend, times: int) -> None:
        while times:
            kv = (await store.get(f"{PREFIX}n"))[1]
            assert kv is not None
            with contextlib.suppress(CompareFailed):
                await store.update(f"{PREFIX}n", b"%d" % (int(kv.value) + 1), kv.revision)
                times -= 1

    await pair[0].create(f"{PREFIX}n", b"0")
    await asyncio.gather(*(increment(store, 10) for store in pair for _ in range(2)))
    kv = (await pair[1].get(f"{PREFIX}n"))[1]
    assert kv is not None and kv.value == b"40"
    results = await asyncio.gather(*(s.create(f"{PREFIX}c{i}", b"") for s in pair for i in range(20)), return_exceptions=True)
    assert sum(isinstance(r, int) for r in results) == sum(isinstance(r, CompareFailed) for r in results) == 20


async def test_reads_see_what_the_other_server_wrote(pair: tuple[Backend, Backend]) -> None:
    for i in range(10):
        writer, reader = pair[i % 2], pair[1 - i % 2]
        revision = await writer.create(f"{PREFIX}{i}", b"x")
        assert await reader.revision() >= revision
        assert (await reader.list(*RANGE)).count == i + 1
        kv = (await reader.get(f"{PREFIX}{i}"))[1]
        assert kv is not None and kv.revision == revision


async def test_an_aborted_transactions_revision_is_filled(pair: tuple[Backend, Backend]) -> None:
    one, two = pair
    watch = two.watch(*RANGE)
    before = await one.create(f"{PREFIX}a", b"")
    log = log_of(one)
    connection = await asyncio.to_thread(log._connect)
    with contextlib.closing(connection.cursor()) as cursor:
        cursor.execute("BEGIN")
        cursor.execute(
            "INSERT INTO kine (name, created, deleted, create_revision, prev_revision, lease) "
            "VALUES ('/aborted', 1, 0, 0, 0, 0)"
        )
        cursor.execute("ROLLBACK")
    connection.close()
    after = await one.create(f"{PREFIX}b", b"")
    assert after == before + 2
    events = await collect(watch, f"{PREFIX}b")
    assert [e.kv.revision for e in events] == [before, after]
    rows = await asyncio.to_thread(log._run, f"SELECT name, deleted FROM kine WHERE id = {before + 1}")
    assert rows == [(f"gap-{before + 1}", 1)]


async def test_a_transaction_under_way_is_waited_for(pair: tuple[Backend, Backend]) -> None:
    """A lower revision that commits later must still be seen, and first."""
    one, two = pair
    watch = two.watch(*RANGE)
    log = log_of(one)
    connection = await asyncio.to_thread(log._connect)
    with contextlib.closing(connection.cursor()) as cursor:
        cursor.execute("BEGIN")
        cursor.execute(
            "INSERT INTO kine (name, created, deleted, create_revision, prev_revision, lease, value) "
            f"VALUES ('{PREFIX}slow', 1, 0, 0, 0, 0, 'v')"
        )
        writing = asyncio.create_task(one.create(f"{PREFIX}quick", b""))
        done, _ = await asyncio.wait([writing], timeout=0.3)
        assert not done
        cursor.execute("COMMIT")
    connection.close()
    quick = await writing
    events = await collect(watch, f"{PREFIX}quick")
    assert [(e.kv.key, e.kv.revision) for e in events] == [(f"{PREFIX}slow", quick - 1), (f"{PREFIX}quick", quick)]


async def test_compaction_by_one_is_seen_by_the_other(pair: tuple[Backend, Backend]) -> None:
    one, two = pair
    revision = await one.create(f"{PREFIX}a", b"0")
    for i in range(5):
        revision = await one.update(f"{PREFIX}a", b"%d" % i, revision)
    await asyncio.gather(*(one.create(f"/registry/y/{i}", b"") for i in range(KEEP_REVISIONS)))
    assert await one.compact(revision) == revision
    with pytest.raises(DatastoreError, match="required revision has been compacted"):
        await two.list(*RANGE, revision=revision - 1)
    assert await two.compact(revision) == revision
    kv = (await two.get(f"{PREFIX}a"))[1]
    assert kv is not None and kv.value == b"4"


async def test_lost_connections_are_opened_again(pair: tuple[Backend, Backend]) -> None:
    one, two = pair
    watch = two.watch(*RANGE)
    await one.create(f"{PREFIX}a", b"")
    killer = await asyncio.to_thread(log_of(one)._connect)
    with contextlib.closing(killer.cursor()) as cursor:
        if log_of(one).product == "PostgreSQL":
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid != pg_backend_pid()"
            )
        else:
            cursor.execute("SELECT id FROM information_schema.processlist WHERE db = DATABASE() AND id != CONNECTION_ID()")
            for (number,) in cursor.fetchall():
                cursor.execute(f"KILL {number}")
    killer.close()
    await one.create(f"{PREFIX}b", b"")
    await two.create(f"{PREFIX}c", b"")
    await one.create(f"{PREFIX}d", b"")
    assert (await two.list(*RANGE)).count == 4
    assert [e.kv.key[-1] for e in await collect(watch, f"{PREFIX}d")] == ["a", "b", "c", "d"]
    assert one.problem == two.problem == ""


async def test_a_restart_of_the_server_is_survived(harness: Harness, pair: tuple[Backend, Backend]) -> None:
    assert harness.server is not None
    one, two = pair
    watch = two.watch(*RANGE)
    await one.create(f"{PREFIX}a", b"")
    harness.server.kill()
    try:
        with pytest.raises(Unavailable, match=r"does not answer|was lost"):
            await one.create(f"{PREFIX}b", b"")
        with pytest.raises(Unavailable):
            await two.get(f"{PREFIX}a")
        assert one.problem
    finally:
        harness.server.start()
    async with asyncio.timeout(60):
        while True:
            try:
                await one.create(f"{PREFIX}c", b"")
                break
            except Unavailable:
                await asyncio.sleep(0.05)
    seen = [e.kv.key[-1] for e in await collect(watch, f"{PREFIX}c")]
    assert seen in (["a", "c"], ["a", "b", "c"])
    async with asyncio.timeout(10):
        while one.problem:  # noqa: ASYNC110 - a plain attribute, cleared when it follows again
            await asyncio.sleep(0.02)


async def test_the_schema_is_kines(harness: Harness, store: Backend) -> None:
    await store.create(f"{PREFIX}a", b"1", lease_seconds=300)
    revision = await store.update(f"{PREFIX}a", b"2", await store.revision())
    await store.delete(f"{PREFIX}a", revision)
    log = log_of(store)
    rows = await asyncio.to_thread(
        log._run,
        "SELECT id, name, created, deleted, create_revision, prev_revision, lease, value, old_value FROM kine ORDER BY id",
    )
    assert rows == [
        (1, "compact_rev_key", 1, 0, 0, 0, 0, b"", None),
        (2, "/registry/health", 1, 0, 0, 0, 0, b'{"health":"true"}', None),
        (3, f"{PREFIX}a", 1, 0, 0, 0, 300, b"1", None),
        (4, f"{PREFIX}a", 0, 0, 3, 3, 0, b"2", b"1"),
        (5, f"{PREFIX}a", 0, 1, 0, 4, 0, None, b"2"),
    ]


async def test_a_database_of_another_application(harness: Harness, store: Backend) -> None:
    log = log_of(store)
    await asyncio.to_thread(log._run, "CREATE TABLE songs (title VARCHAR(100))")
    await asyncio.to_thread(log._run, "DROP TABLE kine")
    with pytest.raises(DatastoreError, match=r"belongs to another application \(tables: songs\)"):
        await harness.open()
    assert await asyncio.to_thread(log._foreign_tables) == ["songs"]
    await asyncio.to_thread(log._run, "CREATE TABLE kine (id INTEGER, name VARCHAR(100))")
    with pytest.raises(DatastoreError, match="no column created, deleted"):
        await harness.open()


async def test_who_is_not_there_or_refuses(harness: Harness) -> None:
    assert harness.server is not None
    nowhere = {"postgres": "postgres://u:secret@127.0.0.1:1/db", "mariadb": "mysql://u:secret@tcp(127.0.0.1:1)/db"}
    store = open_backend(nowhere[harness.driver], data_dir=harness.data_dir, patience_seconds=0)
    with pytest.raises(Unavailable, match=r"127.0.0.1:1/db does not answer") as failed:
        await store.start()
    assert "secret" not in str(failed.value)
    wrong = {
        "postgres": harness.endpoint.replace("postgres@", "nobody@"),
        "mariadb": harness.endpoint.replace("root@", "nobody:secret@"),
    }
    store = open_backend(wrong[harness.driver], data_dir=harness.data_dir)
    with pytest.raises(DatastoreError, match=r"cannot connect to.*(nobody)"):
        await store.start()


async def test_a_transaction_that_stays_open_is_named_and_delays_nobody_for_ever(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody left a transaction open: writers hear of it after a bounded time, readyz says who, all is well afterwards."""
    monkeypatch.setattr("k3sd.datastore.shared.WAIT_SECONDS", 7.0)
    one, two = await harness.open(), await harness.open()
    log = log_of(one)
    connection = await asyncio.to_thread(log._connect)
    with contextlib.closing(connection.cursor()) as cursor:
        cursor.execute("BEGIN")
        cursor.execute(
            "INSERT INTO kine (name, created, deleted, create_revision, prev_revision, lease) VALUES ('/open', 1, 0, 0, 0, 0)"
        )
        began = asyncio.get_running_loop().time()
        with pytest.raises(Unavailable, match=r"is held by an open transaction of session \d+ \(.*end it"):
            await one.create(f"{PREFIX}a", b"")
        assert asyncio.get_running_loop().time() - began < 10
        assert "held by an open transaction" in one.problem
        cursor.execute("ROLLBACK")
    connection.close()
    assert await one.create(f"{PREFIX}b", b"") == await two.revision()
    kv = (await two.get(f"{PREFIX}a"))[1]
    assert kv is not None  # it had been written
    assert one.problem == ""


async def test_who_compacts_is_the_leader(pair: tuple[Backend, Backend]) -> None:
    """Both begin at the same time: the work is shared or left to the other, done once, and blocks no writer."""
    one, two = pair
    revision = await one.create(f"{PREFIX}a", b"0")
    for i in range(50):
        revision = await one.update(f"{PREFIX}a", b"%d" % i, revision)
    await asyncio.gather(*(one.create(f"/registry/y/{i}", b"") for i in range(KEEP_REVISIONS + 10)))
    await two.revision()
    reached = await asyncio.gather(one.compact(revision), two.compact(revision), one.create(f"{PREFIX}b", b""))
    assert max(reached[:2]) == revision
    rows = await asyncio.to_thread(log_of(one)._run, f"SELECT COUNT(*) FROM kine WHERE id <= {revision} AND name = '{PREFIX}a'")
    assert rows == [(1,)]
    connection = await asyncio.to_thread(log_of(one)._connect)
    with contextlib.closing(connection.cursor()) as cursor:
        cursor.execute("BEGIN")
        cursor.execute("SELECT prev_revision FROM kine WHERE name = 'compact_rev_key' FOR UPDATE")
        began = asyncio.get_running_loop().time()
        assert await one.compact(revision + 5) == revision  # somebody else is at it
        await one.create(f"{PREFIX}c", b"")
        assert asyncio.get_running_loop().time() - began < 2
    connection.close()
    assert max([await two.compact(revision + 5) for _ in range(2)]) == revision + 5  # first it learns of the other's work


async def test_a_server_that_missed_compacted_changes_says_so(pair: tuple[Backend, Backend]) -> None:
    one, two = pair
    assert isinstance(two, SharedStore) and two._follower is not None
    first = await one.create(f"{PREFIX}a", b"0")
    await two.revision()
    watch = two.watch(*RANGE)
    lost = asyncio.create_task(two.lost())
    two._follower.cancel()  # it sees nothing for a long time
    await asyncio.gather(two._follower, return_exceptions=True)
    revision = first
    for i in range(30):
        revision = await one.update(f"{PREFIX}a", b"%d" % i, revision)
    await asyncio.gather(*(one.create(f"/registry/y/{i}", b"") for i in range(KEEP_REVISIONS)))
    await one.compact(revision)
    before = await asyncio.to_thread(log_of(one)._run, "SELECT COUNT(*) FROM kine")
    two._follower = asyncio.create_task(two._follow_loop())
    two._wake.set()
    with pytest.raises(Compacted):
        await anext(watch)
    async with asyncio.timeout(10):
        with pytest.raises(DatastoreError, match="compacted before this server saw them"):
            await lost
    assert await two.revision() == await one.revision()
    assert await asyncio.to_thread(log_of(one)._run, "SELECT COUNT(*) FROM kine") == before, "nothing was filled in"
    watch = two.watch(*RANGE)
    await two.create(f"{PREFIX}b", b"")
    assert [e.kv.key[-1] for e in await collect(watch, f"{PREFIX}b")] == ["b"]


async def test_another_servers_write_is_heard_at_once_and_rest_is_rest(harness: Harness, pair: tuple[Backend, Backend]) -> None:
    """PostgreSQL notifies; MySQL is looked at, seldom when nothing happens. The server's own counters say how seldom."""
    one, two = pair
    loop = asyncio.get_running_loop()
    delays = []
    for i in range(5):
        watch = two.watch(*RANGE)
        began = loop.time()
        await one.create(f"{PREFIX}{i}", b"")
        await anext(watch)
        delays.append(loop.time() - began)
        await watch.aclose()
    limit = {"postgres": 0.5, "mariadb": 1.5}[harness.driver]
    assert max(delays) < limit, delays
    log = log_of(one)
    await asyncio.sleep(3)
    counter = {
        "postgres": "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()",
        "mariadb": "SHOW GLOBAL STATUS LIKE 'Questions'",
    }[harness.driver]

    def queries() -> int:
        return int(log._run(counter)[0][-1])

    before = await asyncio.to_thread(queries)
    await asyncio.sleep(4)
    asked = await asyncio.to_thread(queries) - before - 1
    assert asked <= {"postgres": 2, "mariadb": 2 * 5}[harness.driver], "two servers at rest"


async def test_keys_that_the_name_column_cannot_hold(harness: Harness, store: Backend) -> None:
    long = PREFIX + "x" * 700
    if harness.driver == "postgres":
        await store.create(long, b"1")
        assert (await store.get(long))[1] is not None
        return
    log = log_of(store)
    await asyncio.to_thread(log._run, "SET SESSION sql_mode = ''")
    before = await asyncio.to_thread(log._run, "SELECT COUNT(*) FROM kine")
    for wrong, reason in ((long, "longer than the 630"), (f"{PREFIX}ü", "is not ASCII")):
        with pytest.raises(DatastoreError, match=reason):
            await store.create(wrong, b"1")
        assert (await store.get(wrong))[1] is None
    assert await asyncio.to_thread(log._run, "SELECT COUNT(*) FROM kine") == before
    assert (await store.list(f"{PREFIX}ü", f"{PREFIX}ý")).kvs == []


async def test_the_largest_values(harness: Harness, store: Backend) -> None:
    """Escaped for the statement, and written together with the value they replace; also many that are replaced at once."""
    limit = log_of(store).max_value_bytes
    value = (b"\\'\0\x1a" * (MAX_VALUE_BYTES // 4))[:limit]
    revision = await store.create(f"{PREFIX}a", value)
    revision = await store.update(f"{PREFIX}a", value[::-1], revision)
    kv = (await store.get(f"{PREFIX}a"))[1]
    assert kv is not None and kv.value == value[::-1]
    await store.delete(f"{PREFIX}a", revision)
    if harness.driver == "mariadb":
        assert limit > 3 << 20, "every request the API server takes fits the server's default"
        with pytest.raises(DatastoreError, match=f"the limit is {limit} with this MySQL server's max_allowed_packet"):
            await store.create(f"{PREFIX}a", bytes(limit + 1))
    revisions = await asyncio.gather(*(store.create(f"{PREFIX}big{i}", bytes(2 << 20)) for i in range(12)))
    await asyncio.gather(*(store.update(f"{PREFIX}big{i}", b"small", r) for i, r in enumerate(revisions)))
    assert {kv.value for kv in (await store.list(*RANGE)).kvs} == {b"small"}
