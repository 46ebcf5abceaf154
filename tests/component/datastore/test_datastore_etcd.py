"""What only the etcd driver has: TLS, leases that others granted, a restart of etcd."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from datastore_certificates import authority
from datastore_harness import Harness
from datastore_servers import Server, directory_for, free_port, program, running

from k3sd.datastore import etcdrpc, open_backend
from k3sd.datastore.backend import Backend, DatastoreError, Unavailable
from k3sd.datastore.drivers.etcd import EtcdBackend
from k3sd.datastore.mvcc import prefix_end

PREFIX = "/registry/x/"
RANGE = (PREFIX, prefix_end(PREFIX))


@contextmanager
def etcd_with_tls(certificates: Path) -> Iterator[Server]:
    ctl = program("etcdctl")
    with directory_for("") as path:
        client, peer = f"https://127.0.0.1:{free_port()}", f"http://127.0.0.1:{free_port()}"
        cert, key, ca = (str(certificates / n) for n in ("etcd.crt", "etcd.key", "etcd-ca.crt"))
        command = [program("etcd"), f"--data-dir={path}/data", f"--listen-client-urls={client}", "--client-cert-auth"]
        command += [f"--advertise-client-urls={client}", f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}"]
        command += [f"--initial-cluster=default={peer}", f"--cert-file={cert}", f"--key-file={key}", f"--trusted-ca-file={ca}"]
        ready = ["env", "ETCDCTL_API=3", ctl, f"--endpoints={client}", f"--cacert={ca}", f"--cert={cert}", f"--key={key}"]
        with running(Server(client, path, command, ""), [*ready, "endpoint", "health"]) as server:
            yield server


async def test_tls_with_client_certificates(tmp_path: Path) -> None:
    authority(tmp_path, "etcd")
    authority(tmp_path, "other")

    def store(ca: str, cert: str) -> Backend:
        names = {"cafile": f"{ca}-ca.crt", "certfile": f"{cert}.crt", "keyfile": f"{cert}.key"}
        files = {k: str(tmp_path / v) for k, v in names.items() if not v.startswith(".")}
        return open_backend(server.endpoint, data_dir=tmp_path, patience_seconds=0, **files)

    with etcd_with_tls(tmp_path) as server:
        good = store("etcd", "etcd")
        await good.start()
        await good.create(f"{PREFIX}a", b"1")
        assert (await good.list(*RANGE)).count == 1
        await good.stop()
        for ca, cert in (("other", "etcd"), ("etcd", "other"), ("etcd", "")):
            with pytest.raises(Unavailable, match=r"the etcd at 127.0.0.1:\d+ does not answer"):
                await store(ca, cert).start()
        missing = open_backend(server.endpoint, data_dir=tmp_path, cafile=str(tmp_path / "nothing"))
        with pytest.raises(DatastoreError, match=r"cannot read .*/nothing for the etcd at"):
            await missing.start()


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
