"""What only the etcd driver has: leases that others granted, a restart of etcd."""

from __future__ import annotations

import asyncio
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
