"""The store contract (``k3sd.datastore.backend``), against every driver."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
from datastore_harness import Harness

from k3sd.datastore.backend import (
    Backend,
    Compacted,
    CompareFailed,
    DatastoreError,
    Event,
    FutureRevision,
    Unavailable,
)
from k3sd.datastore.hub import MAX_PENDING_EVENTS
from k3sd.datastore.mvcc import KEEP_REVISIONS, prefix_end

A = "/registry/configmaps/default/a"
B = "/registry/configmaps/default/b"
ALL = ("/registry/configmaps/", prefix_end("/registry/configmaps/"))


async def take(watch: AsyncIterator[Sequence[Event]], n: int) -> list[Event]:
    events: list[Event] = []
    async with asyncio.timeout(10):
        while len(events) < n:
            events.extend(await anext(watch))
    assert len(events) == n
    return events


def brief(events: Sequence[Event]) -> list[tuple[str, str, bytes, bytes | None]]:
    kinds = [("DELETED" if e.deleted else "ADDED" if e.created else "MODIFIED") for e in events]
    return [(k, e.kv.key, e.kv.value, e.prev.value if e.prev else None) for k, e in zip(kinds, events, strict=True)]


async def test_create_get_update_delete(store: Backend) -> None:
    first = await store.create(A, b"1")
    revision, kv = await store.get(A)
    assert kv is not None and (kv.key, kv.value, kv.revision, kv.create_revision) == (A, b"1", first, first)
    assert revision == first == await store.revision()
    second = await store.update(A, b"2", first)
    assert second > first
    kv = (await store.get(A))[1]
    assert kv is not None and (kv.value, kv.revision, kv.create_revision) == (b"2", second, first)
    third, previous = await store.delete(A, second)
    assert third > second and previous is not None and previous.value == b"2" and previous.create_revision == first
    assert (await store.get(A))[1] is None
    fourth = await store.create(A, b"3")
    kv = (await store.get(A))[1]
    assert kv is not None and kv.create_revision == fourth > third


async def test_preconditions_refuse_with_the_current_value(store: Backend) -> None:
    revision = await store.create(A, b"1")
    with pytest.raises(CompareFailed) as failed:
        await store.create(A, b"other")
    assert failed.value.current is not None and failed.value.current.value == b"1"
    with pytest.raises(CompareFailed) as failed:
        await store.update(A, b"other", revision - 1)
    assert failed.value.current is not None and failed.value.current.revision == revision
    with pytest.raises(CompareFailed) as failed:
        await store.delete(A, revision + 5)
    assert failed.value.current is not None and failed.value.current.value == b"1"
    with pytest.raises(CompareFailed) as failed:
        await store.update(B, b"x", revision)
    assert failed.value.current is None
    assert await store.revision() == revision


async def test_delete_without_precondition_and_of_nothing(store: Backend) -> None:
    revision = await store.create(A, b"1")
    assert await store.delete(B) == (revision, None)
    deleted, previous = await store.delete(A)
    assert deleted == revision + 1 and previous is not None
    assert await store.delete(A) == (deleted, None)
    assert await store.delete(A, revision) == (deleted, None)


async def test_get_and_list_at_a_revision(store: Backend) -> None:
    r1 = await store.create(A, b"1")
    r2 = await store.create(B, b"1")
    r3 = await store.update(A, b"2", r1)
    r4, _ = await store.delete(B)
    seen = {r: [(kv.key, kv.value) for kv in (await store.list(*ALL, revision=r)).kvs] for r in (r1, r2, r3, r4)}
    assert seen == {
        r1: [(A, b"1")],
        r2: [(A, b"1"), (B, b"1")],
        r3: [(A, b"2"), (B, b"1")],
        r4: [(A, b"2")],
    }
    old = (await store.get(A, r2))[1]
    assert old is not None and old.value == b"1"
    assert (await store.get(B, r1))[1] is None
    assert (await store.list(*ALL, revision=r2)).revision == r2
    assert (await store.count(*ALL, revision=r3))[1] == 2
    assert (await store.count(*ALL)) == (r4, 1)
    with pytest.raises(FutureRevision, match="required revision is a future revision"):
        await store.list(*ALL, revision=r4 + 1)
    with pytest.raises(FutureRevision):
        await store.get(A, r4 + 1)


async def test_list_pages_at_one_revision(store: Backend) -> None:
    keys = [f"/registry/pods/ns-{i % 7}/p{i:03}" for i in range(50)]
    for key in keys:
        await store.create(key, key.encode())
    start, end = "/registry/pods/", prefix_end("/registry/pods/")
    page = await store.list(start, end, limit=20)
    assert page.more and page.count == 50
    seen = list(page.kvs)
    await store.create("/registry/pods/aaa/new", b"")
    await store.delete(keys[-1])
    while page.more:
        page = await store.list(seen[-1].key + "\0", end, limit=20, revision=page.revision)
        assert page.count == 50 - len(seen)
        seen.extend(page.kvs)
    assert [kv.key for kv in seen] == sorted(keys)
    assert [kv.value for kv in seen] == [k.encode() for k in sorted(keys)]
    names = await store.list(start, end, keys_only=True)
    assert names.count == 50 and all(kv.value == b"" for kv in names.kvs) and not names.more


async def test_ranges_are_bytewise_and_half_open(harness: Harness, store: Backend) -> None:
    wanted = ["a", "aB", "ab", "a-b", "a/b", "a_", "a\u00e9"]
    if harness.ascii_only:
        wanted.pop()
        with pytest.raises(DatastoreError, match="is not ASCII"):
            await store.create("/x/a\u00e9", b"")
        assert (await store.get("/x/a\u00e9"))[1] is None
    for name in (*wanted, "b"):
        await store.create(f"/x/{name}", b"")
    found = await store.list("/x/a", "/x/b")
    assert [kv.key[3:] for kv in found.kvs] == sorted(wanted, key=str.encode)
    assert (await store.list("/x/zzz", "/x/zzzz")).kvs == []


async def test_watch_live(store: Backend) -> None:
    watch = store.watch(*ALL)
    r1 = await store.create(A, b"1")
    await store.create("/registry/pods/default/a", b"other")
    r2 = await store.update(A, b"2", r1)
    await store.delete(A, r2)
    events = await take(watch, 3)
    assert brief(events) == [
        ("ADDED", A, b"1", None),
        ("MODIFIED", A, b"2", b"1"),
        ("DELETED", A, b"", b"2"),
    ]
    assert events[2].prev is not None and events[2].prev.create_revision == r1 and events[2].prev.revision == r2


async def test_watch_from_every_revision_meets_live_events(store: Backend) -> None:
    revisions = [await store.create(A, b"0")]
    for i in range(1, 20):
        revisions.append(await store.update(A, b"%d" % i, revisions[-1]))
    deleted, _ = await store.delete(A)
    watches = [store.watch(*ALL, revision=r) for r in (*revisions, deleted, deleted + 1)]
    await store.create(A, b"again")
    expected = [b"%d" % i for i in range(20)] + [b"", b"again"]
    for i, watch in enumerate(watches):
        events = await take(watch, len(expected) - i)
        assert [e.kv.value for e in events] == expected[i:]
        numbers = [e.kv.revision for e in events]
        assert numbers == sorted(set(numbers))
        for event in events[1:-1]:
            assert event.prev is not None and event.prev.create_revision == revisions[0]


async def test_watch_from_a_future_revision_waits_for_it(store: Backend) -> None:
    revision = await store.revision()
    watch = store.watch(*ALL, revision=revision + 2)
    await store.create(A, b"not this")
    await store.create(B, b"this")
    assert brief(await take(watch, 1)) == [("ADDED", B, b"this", None)]


async def test_closed_watch_ends(store: Backend) -> None:
    watch = store.watch(*ALL)
    reader = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)
    await watch.aclose()
    with pytest.raises(StopAsyncIteration):
        await reader
    await store.create(A, b"1")


async def test_a_slow_watch_is_dropped_and_stalls_nobody(store: Backend) -> None:
    slow, other = store.watch(*ALL), store.watch("/registry/pods/", prefix_end("/registry/pods/"))
    await asyncio.gather(*(store.create(f"{A}{i}", b"") for i in range(MAX_PENDING_EVENTS + 1)))
    with pytest.raises(Unavailable, match="list again"):
        await anext(slow)
    await store.create("/registry/pods/a", b"")
    assert len(await take(other, 1)) == 1


async def test_listeners_run_before_the_writer_is_answered(store: Backend) -> None:
    seen: list[int] = []
    unsubscribe = store.subscribe(lambda events: seen.extend(e.kv.revision for e in events))
    for i in range(5):
        revision = await store.create(f"{A}{i}", b"")
        assert seen[-1] == revision
    await asyncio.gather(*(store.create(f"{B}{i}", b"") for i in range(100)))
    assert seen == list(range(seen[0], seen[0] + 105))
    unsubscribe()
    await store.create(A, b"")
    assert len(seen) == 105


async def test_concurrent_writers_of_one_key(store: Backend) -> None:
    await store.create(A, b"0")

    async def increment() -> None:
        while True:
            kv = (await store.get(A))[1]
            assert kv is not None
            try:
                await store.update(A, b"%d" % (int(kv.value) + 1), kv.revision)
                return
            except CompareFailed:
                pass

    await asyncio.gather(*(increment() for _ in range(20)))
    kv = (await store.get(A))[1]
    assert kv is not None and kv.value == b"20"


async def test_only_one_of_many_creators_wins(store: Backend) -> None:
    results = await asyncio.gather(*(store.create(A, b"%d" % i) for i in range(30)), return_exceptions=True)
    won = [i for i, r in enumerate(results) if isinstance(r, int)]
    assert len(won) == 1
    kv = (await store.get(A))[1]
    assert kv is not None and kv.value == b"%d" % won[0]
    failures = [r for r in results if isinstance(r, CompareFailed)]
    assert len(failures) == 29 and all(f.current is not None and f.current.revision == kv.revision for f in failures)


async def test_several_writes_of_one_key_in_one_batch(harness: Harness, store: Backend) -> None:
    if harness.driver in ("etcd", "face"):
        pytest.skip("calls that run at the same time have no order")
    watch = store.watch(*ALL)
    await asyncio.gather(store.create(A, b"1"), store.delete(A), store.create(A, b"2"), store.delete(A), store.create(A, b"3"))
    assert [(k, v, p) for k, _, v, p in brief(await take(watch, 5))] == [
        ("ADDED", b"1", None),
        ("DELETED", b"", b"1"),
        ("ADDED", b"2", None),
        ("DELETED", b"", b"2"),
        ("ADDED", b"3", None),
    ]


def needs_compaction(harness: Harness) -> None:
    if harness.driver == "face":
        pytest.skip("the store behind the face compacts itself")


async def test_compaction_forgets_history_and_keeps_the_state(harness: Harness, store: Backend) -> None:
    needs_compaction(harness)
    first = revision = await store.create(A, b"0")
    await store.create(B, b"kept")
    gone = await store.create("/registry/configmaps/default/gone", b"x")
    deleted, _ = await store.delete("/registry/configmaps/default/gone", gone)
    for i in range(30):
        revision = await store.update(A, b"%d" % i, revision)
    target = revision - 5
    await asyncio.gather(*(store.create(f"/registry/pods/p/{i}", b"") for i in range(KEEP_REVISIONS)))
    assert await store.compact(target) == target == store.compact_revision
    assert await store.compact(first) == target
    for old in (first, deleted, target - 1):
        with pytest.raises(Compacted, match="required revision has been compacted"):
            await store.list(*ALL, revision=old)
        with pytest.raises(Compacted):
            await anext(store.watch(*ALL, revision=old))
    at_target = await store.list(*ALL, revision=target)
    assert [(kv.key, kv.value) for kv in at_target.kvs] == [(A, b"24"), (B, b"kept")]
    assert [e.kv.value for e in await take(store.watch(*ALL, revision=target + 1), 5)] == [b"%d" % i for i in range(25, 30)]
    assert (await take(store.watch(*ALL, revision=target), 6))[0].kv.value == b"24"
    again = await store.create("/registry/configmaps/default/gone", b"back")
    kv = (await store.get("/registry/configmaps/default/gone"))[1]
    assert kv is not None and kv.create_revision == again
    if harness.durable:
        store = await harness.reopen(store)
        assert store.compact_revision == target
        with pytest.raises(Compacted):
            await store.get(A, target - 1)
        kv = (await store.get(A))[1]
        assert kv is not None and (kv.value, kv.create_revision) == (b"29", first)


async def test_compaction_at_a_tombstone_still_shows_it_to_watches(harness: Harness, store: Backend) -> None:
    needs_compaction(harness)
    await store.create(A, b"1")
    deleted, _ = await store.delete(A)
    await asyncio.gather(*(store.create(f"/registry/pods/p/{i}", b"") for i in range(KEEP_REVISIONS + 10)))
    assert await store.compact(deleted) == deleted
    assert brief(await take(store.watch(*ALL, revision=deleted), 1)) == [("DELETED", A, b"", b"1")]
    assert await store.compact(deleted + 1) == deleted + 1
    assert (await store.get(A, deleted + 1))[1] is None
    await store.create(A, b"2")


async def test_compaction_keeps_the_latest_revisions(store: Backend) -> None:
    before = store.compact_revision
    revision = await store.create(A, b"1")
    await store.update(A, b"2", revision)
    assert await store.compact(revision + 1) == max(before, revision + 1 - KEEP_REVISIONS, 0)
    assert (await store.get(A, revision))[1] is not None


async def test_leased_keys_expire(store: Backend) -> None:
    watch = store.watch(*ALL)
    revision = await store.create(A, b"1", lease_seconds=2)
    kv = (await store.get(A))[1]
    assert kv is not None and kv.lease_seconds == 2
    renewed = await store.update(A, b"2", revision, lease_seconds=2)
    events = await take(watch, 3)
    assert events[2].deleted and events[2].prev is not None and events[2].prev.revision == renewed
    revision = await store.create(B, b"1", lease_seconds=2)
    await store.update(B, b"2", revision)
    await store.create(A, b"again", lease_seconds=2)
    assert [brief([e])[0][:2] for e in await take(watch, 4)][3] == ("DELETED", A)
    assert (await store.get(B))[1] is not None


async def test_leases_survive_a_restart(harness: Harness, store: Backend) -> None:
    if not harness.durable:
        pytest.skip("nothing survives here")
    await store.create(A, b"1", lease_seconds=2)
    store = await harness.reopen(store)
    assert (await store.get(A))[1] is not None
    events = await take(store.watch(*ALL), 1)
    assert events[0].deleted and events[0].kv.key == A


async def test_restart_in_the_middle(harness: Harness, store: Backend) -> None:
    if not harness.durable:
        pytest.skip("nothing survives here")
    created = [await store.create(f"{A}{i}", b"%d" % i) for i in range(20)]
    updated = await store.update(f"{A}0", b"new", created[0])
    await store.delete(f"{A}1")
    revision = await store.revision()
    store = await harness.reopen(store)
    assert await store.revision() == revision
    kv = (await store.get(f"{A}0"))[1]
    assert kv is not None and (kv.value, kv.revision, kv.create_revision) == (b"new", updated, created[0])
    watch = store.watch(*ALL, revision=created[0])
    with pytest.raises(CompareFailed):
        await store.create(f"{A}2", b"")
    assert await store.create(f"{A}1", b"back") == revision + 1
    events = await take(watch, 23)
    assert [e.kv.revision for e in events] == list(range(created[0], revision + 2))


@pytest.mark.parametrize("size", [0, 1, 100_000, 3 << 20])
async def test_values_of_any_size_and_content(store: Backend, size: int) -> None:
    value = bytes(i * 7 % 256 for i in range(1000)) * (size // 1000) + b"\0" * (size % 1000)
    revision = await store.create(A, value)
    kv = (await store.get(A))[1]
    assert kv is not None and kv.value == value
    await store.update(A, b"small", revision)
    event = (await take(store.watch(*ALL, revision=revision + 1), 1))[0]
    assert event.prev is not None and event.prev.value == value


async def test_a_value_over_the_limit_is_refused(store: Backend) -> None:
    revision = await store.revision()
    with pytest.raises(DatastoreError, match=f"value of key '{A}' has"):
        await store.create(A, bytes(9 << 20))
    assert await store.revision() == revision


async def test_cancelled_writes_are_applied_wholly_or_not_at_all(store: Backend) -> None:
    tasks = [asyncio.ensure_future(store.create(f"{A}{i:02}", b"x")) for i in range(40)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    await store.create(B, b"last")
    present = {kv.key: kv.revision for kv in (await store.list(*ALL)).kvs}
    for i, result in enumerate(results):
        if isinstance(result, int):
            assert present[f"{A}{i:02}"] == result
    assert sorted(present.values()) == list(range(min(present.values()), max(present.values()) + 1))


async def test_a_stopped_store_refuses(store: Backend) -> None:
    watch = store.watch(*ALL)
    await store.stop()
    await store.stop()
    with pytest.raises(Unavailable):
        await store.create(A, b"")
    with pytest.raises(Unavailable):
        await store.get(A)
    with pytest.raises(Unavailable):
        await anext(watch)
