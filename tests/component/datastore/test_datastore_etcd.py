"""What only the etcd driver has: leases that others granted, a restart of etcd."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest
from datastore_harness import Harness

from k3sd.datastore import etcdrpc, open_backend
from k3sd.datastore.backend import Backend, Unavailable
from k3sd.datastore.drivers.etcd import EtcdBackend
from k3sd.datastore.mvcc import prefix_end
from tests.support.ports import free_port

PREFIX = "/registry/x/"
RANGE = (PREFIX, prefix_end(PREFIX))


@pytest.mark.parametrize("harness", ["etcd"], indirect=True)
async def test_leases_that_others_granted(store: Backend) -> None:
    assert isinstance(store, EtcdBackend)
    lease = (await store._call("Lease", "LeaseGrant", etcdrpc.LeaseGrantRequest(TTL=77))).ID
    watch = store.watch(*RANGE)
    await store._call("KV", "Put", etcdrpc.PutRequest(key=f"{PREFIX}a".encode(), value=b"1", lease=lease))
    events = await anext(watch)
    assert [e.kv.lease_seconds for e in events] == [77]
    kv = (await store.get(f"{PREFIX}a"))[1]
    assert kv is not None and kv.lease_seconds == 77


@pytest.mark.parametrize("harness", ["etcd"], indirect=True)
async def test_a_restart_of_etcd_is_survived(harness: Harness, store: Backend) -> None:
    assert harness.server is not None
    watch = store.watch(*RANGE)
    first = await store.create(f"{PREFIX}a", b"1")
    harness.server.kill()
    try:
        with pytest.raises(Unavailable, match="does not answer"):
            await store.create(f"{PREFIX}b", b"1")
    finally:
        harness.server.start()
    async with asyncio.timeout(30):
        while True:
            try:
                await store.create(f"{PREFIX}c", b"1")
                break
            except Unavailable:
                await asyncio.sleep(0.05)
        seen = []
        while not seen or seen[-1].kv.key != f"{PREFIX}c":
            seen += await anext(watch)
    assert [e.kv.key[-1] for e in seen] in (["a", "c"], ["a", "b", "c"]) and seen[0].kv.revision == first
    assert store.problem == ""


async def test_nobody_there(tmp_path: Path) -> None:
    store = open_backend(f"http://127.0.0.1:{free_port()}", data_dir=tmp_path, patience_seconds=0)
    with pytest.raises(Unavailable, match="does not answer"):
        await store.start()


@pytest.mark.parametrize("harness", ["etcd"], indirect=True)
async def test_calls_and_watches_outlive_the_change_to_another_endpoint(
    harness: Harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert harness.server is not None and harness.server.process is not None
    await (await harness.open()).stop()
    url = harness.server.endpoint
    store = open_backend(f"{url},{url.replace('127.0.0.1', 'localhost')}", data_dir=tmp_path)
    assert isinstance(store, EtcdBackend)
    await store.start()
    watch = store.watch(*RANGE)
    first = store._channel
    harness.server.process.send_signal(signal.SIGSTOP)
    try:
        write = asyncio.create_task(store.create(f"{PREFIX}a", b"1"))
        read = asyncio.create_task(store.get(f"{PREFIX}a"))
        await asyncio.sleep(0)
        monkeypatch.setattr("k3sd.datastore.drivers.etcd.CALL_TIMEOUT_SECONDS", 0.1)
        for _ in range(2):
            store._next_endpoint(first)
            assert store._targets[0][0].startswith("localhost"), "one step for all who saw the endpoint fail"
        with pytest.raises(Unavailable, match=r"given up|does not answer"):
            await write
    finally:
        harness.server.process.send_signal(signal.SIGCONT)
        monkeypatch.undo()
    await asyncio.gather(read, return_exceptions=True)
    assert not read.cancelled()
    await store.create(f"{PREFIX}b", b"2")
    async with asyncio.timeout(20):
        seen = [e.kv.key for e in await anext(watch)]
        while seen[-1] != f"{PREFIX}b":
            seen += [e.kv.key for e in await anext(watch)]
    await store.stop()
