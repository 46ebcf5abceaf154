from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from k3sd.apiserver import watchcache
from k3sd.apiserver.watchcache import CacheEvent, Expired, ResourceCache, WatchCache
from k3sd.datastore import open_backend
from k3sd.datastore.backend import Backend, Compacted
from k3sd.datastore.mvcc import KEEP_REVISIONS

PODS = "/registry/pods/"


def value(name: str, **data: object) -> bytes:
    obj = {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": name}, **data}
    return json.dumps(obj, separators=(",", ":")).encode()


@pytest.fixture
async def backend(tmp_path: Path) -> AsyncIterator[Backend]:
    backend = open_backend("memory", data_dir=tmp_path)
    await backend.start()
    yield backend
    await backend.stop()


@pytest.fixture
async def cache(backend: Backend) -> AsyncIterator[WatchCache]:
    cache = WatchCache(backend)
    await cache.start()
    yield cache
    cache.stop()


@pytest.fixture
def pods(cache: WatchCache) -> ResourceCache:
    return cache.resource(PODS)


def brief(events: Sequence[CacheEvent]) -> list[tuple[str, str, int]]:
    return [(e.type, e.entry.name, e.revision) for e in events]


async def test_a_write_is_readable_before_it_is_answered(backend: Backend, cache: WatchCache, pods: ResourceCache) -> None:
    revision = await backend.create(f"{PODS}ns/a", value("a"))
    entry = pods.get(f"{PODS}ns/a")
    assert entry is not None and cache.revision == revision
    expected = b'{"kind":"Pod","apiVersion":"v1","metadata":{"resourceVersion":"%d","name":"a"}}' % revision
    assert entry.raw == entry.data == expected
    assert (entry.name, entry.namespace, entry.revision, entry.create_revision) == ("a", "ns", revision, revision)
    updated = await backend.update(f"{PODS}ns/a", value("a", spec={}), revision)
    entry = pods.get(f"{PODS}ns/a")
    assert entry is not None and (entry.revision, entry.create_revision) == (updated, revision)
    await backend.delete(f"{PODS}ns/a")
    assert pods.get(f"{PODS}ns/a") is None and len(pods) == 0


@pytest.mark.parametrize(
    ("stored", "served"),
    [
        (b'{"kind":"A","apiVersion":"v1","metadata":{}}', b'{"kind":"A","apiVersion":"v1","metadata":{"resourceVersion":"7"}}'),
        (b'{"apiVersion":"v1","kind":"A","metadata":{"name":"x"},"z":{"metadata":{"a":1}}}', None),
        (b'{"apiVersion":"v1","data":{"metadata":{"name":"evil"}},"kind":"A","metadata":{"name":"x"}}', None),
        (b'{ "kind": "A", "apiVersion": "v1", "metadata": { "name": "x", "resourceVersion": "3" } }', None),
        (b'{"kind":"A\\"","apiVersion":"v1","metadata":{"name":"x"}}', None),
    ],
)
def test_the_resource_version_goes_into_metadata(backend: Backend, stored: bytes, served: bytes | None) -> None:
    raw = WatchCache(backend).serve("/k", stored, 7)
    if served is not None:
        assert raw == served
    expected = json.loads(stored)
    expected["metadata"]["resourceVersion"] = "7"
    assert json.loads(raw) == expected


async def test_values_that_are_not_json_are_decoded(backend: Backend, caplog: pytest.LogCaptureFixture) -> None:
    await backend.create(f"{PODS}ns/old", b"k8s\0old")
    await backend.create(f"{PODS}ns/bad", b"k8s\0bad")

    def decode(key: str, stored: bytes) -> bytes:
        if stored.endswith(b"bad"):
            raise ValueError("not known")
        return value(key.rpartition("/")[2])

    cache = WatchCache(backend, decode=decode)
    await cache.start()
    pods = cache.resource(PODS)
    assert [e.obj["metadata"]["name"] for e in pods.list()] == ["old"]
    assert "/registry/pods/ns/bad" in caplog.text and "not known" in caplog.text
    cache.stop()


async def test_lists_are_in_key_order_and_scoped(backend: Backend, cache: WatchCache, pods: ResourceCache) -> None:
    for key in ("b/2", "a/1", "a-b/1", "b/1", "a/0"):
        await backend.create(PODS + key, value(key[-1]))
    assert [e.key[len(PODS) :] for e in pods.list()] == ["a-b/1", "a/0", "a/1", "b/1", "b/2"]
    assert [e.key[len(PODS) :] for e in pods.list(f"{PODS}a/")] == ["a/0", "a/1"]
    assert [e.key[len(PODS) :] for e in pods.range(f"{PODS}a/1", "/registry/pods0", 2)] == ["a/1", "b/1"]
    assert (pods.count(), pods.count(f"{PODS}b/"), pods.count(f"{PODS}c/")) == (5, 2, 0)
    assert cache.resource(PODS) is pods is cache.prefix(PODS)


async def test_start_lists_in_pages_while_writes_go_on(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchcache, "LIST_PAGE", 7)
    for i in range(50):
        await backend.create(f"{PODS}ns/{i:03}", value(f"{i:03}"))
    cache = WatchCache(backend)
    pods = cache.resource(PODS)
    inner, calls = backend.list, 0

    async def list_and_write(*args: str, **kwargs: int):  # type: ignore[no-untyped-def]
        nonlocal calls
        calls += 1
        result = await inner(*args, **kwargs)
        await backend.create(f"{PODS}ns/new-{calls:03}", value("new"))
        await backend.delete(f"{PODS}ns/{calls:03}")
        return result

    monkeypatch.setattr(backend, "list", list_and_write)
    await cache.start()
    monkeypatch.undo()
    stored = await backend.list(PODS, "/registry/pods0")
    assert [e.key for e in pods.list()] == [kv.key for kv in stored.kvs]
    assert cache.revision == stored.revision
    cache.stop()


async def test_watch_is_ordered_and_scoped(backend: Backend, cache: WatchCache, pods: ResourceCache) -> None:
    everything = pods.watch(cache.revision)
    namespace = pods.watch(cache.revision, f"{PODS}a/")
    single = pods.watch(cache.revision, f"{PODS}a/1")
    r1 = await backend.create(f"{PODS}a/1", value("1"))
    r2 = await backend.create(f"{PODS}a/10", value("10"))
    r3 = await backend.create(f"{PODS}b/1", value("1"))
    r4 = await backend.update(f"{PODS}a/1", value("1", spec={}), r1)
    await backend.create("/registry/secrets/a/1", value("1"))
    r5, _ = await backend.delete(f"{PODS}a/1")
    full = [("ADDED", "1", r1), ("ADDED", "10", r2), ("ADDED", "1", r3), ("MODIFIED", "1", r4), ("DELETED", "1", r5)]
    assert brief(await everything.batch()) == full
    assert brief(await namespace.batch()) == [full[0], full[1], full[3], full[4]]
    events = await single.batch()
    assert brief(events) == [full[0], full[3], full[4]]
    gone = events[-1]
    assert gone.prev is not None and gone.prev.revision == r4
    assert gone.entry.obj == {**json.loads(value("1", spec={})), "metadata": {"name": "1", "resourceVersion": str(r5)}}
    for start, n in ((r1 - 1, 5), (r1, 4), (r3, 2), (r4, 1)):
        assert brief(await pods.watch(start).batch()) == full[5 - n :]
    for watcher in (everything, namespace, single):
        watcher.close()


async def test_watch_iterates_and_tells_its_progress(backend: Backend, cache: WatchCache, pods: ResourceCache) -> None:
    start = cache.revision
    revisions = [await backend.create(f"{PODS}a/{i}", value(str(i))) for i in range(3)]
    watcher = pods.watch(start)
    assert watcher.progress() == start
    assert (await anext(watcher)).revision == revisions[0]
    assert watcher.progress() == revisions[0]
    assert [(await anext(watcher)).revision for _ in range(2)] == revisions[1:]
    other = await backend.create("/registry/secrets/a/1", value("1"))
    assert watcher.progress() == other
    waiting = asyncio.ensure_future(anext(watcher))
    await asyncio.sleep(0)
    watcher.close()
    with pytest.raises(StopAsyncIteration):
        await waiting
    assert pods.watchers == 0


async def test_cancelling_a_read_loses_nothing(backend: Backend, cache: WatchCache, pods: ResourceCache) -> None:
    watcher = pods.watch(cache.revision)
    waiting = asyncio.ensure_future(watcher.batch())
    await asyncio.sleep(0)
    waiting.cancel()
    revision = await backend.create(f"{PODS}a/1", value("1"))
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert brief(await watcher.batch()) == [("ADDED", "1", revision)]


async def test_a_slow_watcher_expires(
    backend: Backend, cache: WatchCache, pods: ResourceCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchcache, "MAX_PENDING", 5)
    slow, quick = pods.watch(cache.revision), pods.watch(cache.revision)
    for i in range(6):
        await backend.create(f"{PODS}a/{i}", value(str(i)))
        assert len(await quick.batch()) == 1
    with pytest.raises(Expired, match="list again"):
        await slow.batch()
    assert pods.watchers == 1


async def test_a_frame_is_encoded_once(backend: Backend, cache: WatchCache, pods: ResourceCache) -> None:
    watchers = [pods.watch(cache.revision) for _ in range(10)]
    calls = 0

    def encode(event: CacheEvent) -> bytes:
        nonlocal calls
        calls += 1
        return event.entry.raw

    await backend.create(f"{PODS}a/1", value("1"))
    frames = {id(event.frame(encode)) for w in watchers for event in await w.batch()}
    assert calls == 1 and len(frames) == 1
    slow = pods.watch(cache.revision)
    for i in range(watchcache.KEPT_FRAMES + 10):
        await backend.create(f"{PODS}b/{i}", value(str(i)))
    events = await slow.batch()
    calls = 0
    for event in events * 2:
        event.frame(encode)
    assert calls == watchcache.KEPT_FRAMES + 10 * 2


async def test_history_goes_on_in_the_store(backend: Backend) -> None:
    revisions = [await backend.create(f"{PODS}a/{i}", value(str(i))) for i in range(1200)]
    deleted, _ = await backend.delete(f"{PODS}a/5")
    cache = WatchCache(backend)
    await cache.start()
    pods = cache.resource(PODS)
    watcher = pods.watch(revisions[3])
    live = await backend.create(f"{PODS}b/live", value("live"))
    seen = [await anext(watcher) for _ in range(1198)]
    assert [e.revision for e in seen] == [*revisions[4:], deleted, live]
    assert brief(seen[-2:]) == [("DELETED", "5", deleted), ("ADDED", "live", live)]
    assert seen[-2].entry.obj["metadata"]["resourceVersion"] == str(deleted)
    await asyncio.gather(*(backend.create(f"/registry/x/a/{i}", value(str(i))) for i in range(KEEP_REVISIONS)))
    await backend.compact(revisions[10])
    with pytest.raises(Compacted):
        pods.watch(revisions[3])
    assert (await anext(pods.watch(revisions[10]))).revision == revisions[11]
    cache.stop()


async def test_the_history_is_bounded_by_size_oldest_first(backend: Backend) -> None:
    cache = WatchCache(backend, history_bytes=20_000)
    await cache.start()
    pods, secrets = cache.resource(PODS), cache.resource("/registry/secrets/")
    start = cache.revision
    pod = await backend.create(f"{PODS}a/1", value("1", data="x" * 900))
    secret = await backend.create("/registry/secrets/a/1", value("1"))
    for _ in range(100):
        pod = await backend.update(f"{PODS}a/1", value("1", data="x" * 900), pod)
    assert cache._weight <= 20_000 and len(cache._history) < 25
    assert [e.revision async for e in _first(secrets.watch(start), 1)] == [secret]
    assert len([e async for e in _first(pods.watch(start), 101)]) == 101
    cache.stop()


async def _first(watcher: watchcache.Watcher, n: int) -> AsyncIterator[CacheEvent]:
    for _ in range(n):
        yield await anext(watcher)


async def test_a_resource_asked_for_later_has_its_objects_and_history(backend: Backend, cache: WatchCache) -> None:
    start = cache.revision
    r1 = await backend.create("/registry/example.org/things/ns/a", value("a"))
    r2 = await backend.create("/registry/example.org/others/ns/a", value("a"))
    r3 = await backend.update("/registry/example.org/things/ns/a", value("a", spec={}), r1)
    things = cache.resource("/registry/example.org/things/")
    assert [(e.name, e.namespace, e.revision) for e in things.list()] == [("a", "ns", r3)]
    watcher = things.watch(start)
    assert brief(await watcher.batch()) == [("ADDED", "a", r1), ("MODIFIED", "a", r3)]
    others = cache.resource("/registry/example.org/others/")
    assert brief(await others.watch(start).batch()) == [("ADDED", "a", r2)]
    r4 = await backend.create("/registry/example.org/things/ns/b", value("b"))
    assert brief(await watcher.batch()) == [("ADDED", "b", r4)]


async def test_lists_at_a_revision_come_from_the_store(backend: Backend, cache: WatchCache, pods: ResourceCache) -> None:
    revisions = [await backend.create(f"{PODS}a/{i}", value(str(i))) for i in range(5)]
    await backend.delete(f"{PODS}a/0")
    page = await pods.list_at(revisions[3], PODS, "/registry/pods0", limit=3)
    assert (page.revision, page.more, page.count) == (revisions[3], True, 4)
    assert [e.obj["metadata"] for e in page.entries] == [
        {"resourceVersion": str(revisions[i]), "name": str(i)} for i in range(3)
    ]


async def test_objects_are_shared_while_held(backend: Backend, pods: ResourceCache) -> None:
    await backend.create(f"{PODS}a/1", value("1"))
    entry = pods.get(f"{PODS}a/1")
    assert entry is not None
    held = entry.obj
    assert entry.obj is held and isinstance(held, dict)
    del held
    gc.collect()
    assert entry._parsed is not None and entry._parsed() is None
    assert entry.obj["metadata"]["name"] == "1"


async def test_fresh_sees_what_was_written(backend: Backend, cache: WatchCache) -> None:
    revision = await backend.create("/bootstrap/x", b"y")
    await cache.fresh()
    assert cache.revision == revision


async def test_followers_run_before_the_writer_is_answered(
    backend: Backend, cache: WatchCache, pods: ResourceCache, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[int] = []

    def follow(event: CacheEvent) -> None:
        seen.append(event.revision)
        if event.entry.name == "bad":
            raise ValueError("bad follower")

    follower = pods.follow(follow)
    revisions = [await backend.create(f"{PODS}a/{name}", value(name)) for name in ("1", "bad", "2")]
    assert seen == revisions and "bad follower" in caplog.text
    follower.close()
    await backend.create(f"{PODS}a/3", value("3"))
    assert seen == revisions and pods.watchers == 0


async def test_objects_of_a_k3s_database_are_served(backend: Backend, caplog: pytest.LogCaptureFixture) -> None:
    from k3sd.apimachinery import protobuf

    pod = {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "old", "namespace": "ns"}}
    revision = await backend.create(f"{PODS}ns/old", protobuf.encode_object(pod))
    await backend.create("/registry/secrets/ns/a", b"k8s:enc:aescbc:v1:key:\x01\x02")
    cache = WatchCache(backend)
    await cache.start()
    entry = cache.resource(PODS).get(f"{PODS}ns/old")
    assert entry is not None and entry.obj["kind"] == "Pod"
    assert entry.obj["metadata"]["resourceVersion"] == str(revision) and entry.obj["metadata"]["name"] == "old"
    assert "is encrypted" in caplog.text
    cache.stop()
