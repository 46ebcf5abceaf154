"""The etcd face with etcd's own client and Python's."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import stat
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from socket import socket as new_socket
from typing import Any

import grpc
import grpc.aio
import pytest
from datastore_certificates import authority

from k3sd.datastore import etcdrpc, open_backend
from k3sd.datastore.backend import Backend, DatastoreError
from k3sd.datastore.mvcc import KEEP_REVISIONS
from k3sd.etcdface.server import EtcdFace, ServerTLS
from tests.support.ports import free_port

A = b"/registry/x/a"


@pytest.fixture
async def backend(tmp_path: Path) -> AsyncIterator[Backend]:
    backend = open_backend("", data_dir=tmp_path)
    await backend.start()
    yield backend
    await backend.stop()


@pytest.fixture
async def socket(backend: Backend, tmp_path: Path) -> AsyncIterator[str]:
    where = f"unix://{tmp_path}/kine.sock"
    face = EtcdFace(backend, where)
    await face.start()
    yield where
    await face.stop()


Call = Callable[..., Awaitable[Any]]


@pytest.fixture
async def channel(socket: str) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(socket.replace("://", ":")) as channel:
        yield channel


@pytest.fixture
def call(channel: grpc.aio.Channel) -> Call:
    async def call(service: str, method: str, **fields: Any) -> Any:
        request, response = (etcdrpc.messages[n] for n in etcdrpc.METHODS[service][method])
        path = etcdrpc.path(service, method)
        return await channel.unary_unary(path, request.SerializeToString, response.FromString)(request(**fields), timeout=10)

    return call


class WatchStream:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._call = channel.stream_stream(
            etcdrpc.path("Watch", "Watch"), etcdrpc.WatchRequest.SerializeToString, etcdrpc.WatchResponse.FromString
        )()

    async def create(self, **fields: Any) -> Any:
        await self._call.write(etcdrpc.WatchRequest(create_request=etcdrpc.WatchCreateRequest(**fields)))
        return await self.read()

    async def send(self, **fields: Any) -> None:
        await self._call.write(etcdrpc.WatchRequest(**fields))

    async def read(self) -> Any:
        async with asyncio.timeout(10):
            return await self._call.read()

    def close(self) -> None:
        self._call.cancel()


@pytest.fixture
async def stream(channel: grpc.aio.Channel) -> AsyncIterator[WatchStream]:
    stream = WatchStream(channel)
    yield stream
    stream.close()


def mod(key: bytes, revision: int) -> Any:
    return etcdrpc.Compare(target=etcdrpc.MOD, result=etcdrpc.EQUAL, key=key, mod_revision=revision)


def put(key: bytes, value: bytes, **more: Any) -> Any:
    return etcdrpc.RequestOp(request_put=etcdrpc.PutRequest(key=key, value=value, **more))


def read(key: bytes) -> Any:
    return etcdrpc.RequestOp(request_range=etcdrpc.RangeRequest(key=key))


def drop(key: bytes, **more: Any) -> Any:
    return etcdrpc.RequestOp(request_delete_range=etcdrpc.DeleteRangeRequest(key=key, **more))


def test_the_socket_is_private(tmp_path: Path, socket: str) -> None:
    assert stat.S_IMODE(os.stat(tmp_path / "kine.sock").st_mode) == 0o600


async def test_the_shapes_of_kubernetes(call: Call) -> None:
    created = await call("KV", "Txn", compare=[mod(A, 0)], success=[put(A, b"1")], failure=[read(A)])
    assert created.succeeded and created.responses[0].HasField("response_put")
    first = created.header.revision
    again = await call("KV", "Txn", compare=[mod(A, 0)], success=[put(A, b"2")])
    assert not again.succeeded and not again.responses
    again = await call("KV", "Txn", compare=[mod(A, 0)], success=[put(A, b"2")], failure=[read(A)])
    assert again.responses[0].response_range.kvs[0].value == b"1"
    updated = await call("KV", "Txn", compare=[mod(A, first)], success=[put(A, b"2")], failure=[read(A)])
    assert updated.succeeded and updated.header.revision == first + 1
    stale = await call("KV", "Txn", compare=[mod(A, first)], success=[drop(A)], failure=[read(A)])
    assert not stale.succeeded and stale.responses[0].response_range.kvs[0].mod_revision == first + 1
    gone = await call("KV", "Txn", compare=[mod(A, first + 1)], success=[drop(A)], failure=[read(A)])
    assert gone.succeeded and gone.responses[0].response_delete_range.deleted == 1
    assert gone.responses[0].response_delete_range.prev_kvs[0].value == b"2"
    missing = await call("KV", "Txn", compare=[mod(A, first)], success=[put(A, b"3")], failure=[read(A)])
    assert not missing.succeeded and missing.responses[0].response_range.count == 0
    await call("KV", "Put", key=A, value=b"4")
    anyway = await call("KV", "Txn", success=[read(A), drop(A)])
    assert anyway.succeeded and anyway.responses[0].response_range.kvs[0].value == b"4"
    assert anyway.responses[1].response_delete_range.deleted == 1


async def test_ranges(call: Call) -> None:
    for i in range(5):
        await call("KV", "Put", key=b"/registry/x/%d" % i, value=b"v%d" % i)
    start, end = b"/registry/x/", b"/registry/x0"
    page = await call("KV", "Range", key=start, range_end=end, limit=2)
    assert [kv.value for kv in page.kvs] == [b"v0", b"v1"] and page.more and page.count == 5
    rest = await call("KV", "Range", key=page.kvs[-1].key + b"\0", range_end=end, revision=page.header.revision)
    assert [kv.value for kv in rest.kvs] == [b"v2", b"v3", b"v4"] and not rest.more
    assert (await call("KV", "Range", key=start, range_end=end, count_only=True)).count == 5
    names = await call("KV", "Range", key=start, range_end=end, keys_only=True)
    assert len(names.kvs) == 5 and not any(kv.value for kv in names.kvs)
    everything = await call("KV", "Range", key=b"\0", range_end=b"\0", keys_only=True)
    assert everything.kvs[0].key == b"/registry/health" and everything.count == 6
    old = await call("KV", "Range", key=b"/registry/x/4", revision=page.header.revision - 1)
    assert old.count == 0 and old.header.revision == page.header.revision


@pytest.mark.parametrize(
    ("service", "method", "fields", "code", "text"),
    [
        ("KV", "Range", {"key": A, "sort_order": 1}, "UNIMPLEMENTED", "sort_order is not implemented by k3sd"),
        ("KV", "Range", {"key": A, "limit": 2}, "INVALID_ARGUMENT", "limit of a single key"),
        ("KV", "Range", {}, "INVALID_ARGUMENT", "key is not provided"),
        ("KV", "Range", {"key": b"\xff"}, "INVALID_ARGUMENT", "is not UTF-8"),
        ("KV", "Range", {"key": A, "revision": 10**9}, "OUT_OF_RANGE", "required revision is a future revision"),
        ("KV", "DeleteRange", {"key": A, "range_end": b"0"}, "UNIMPLEMENTED", "delete of a range of keys"),
        ("KV", "Put", {"key": A, "ignore_value": True}, "UNIMPLEMENTED", "ignore_value"),
        ("KV", "Txn", {"success": [put(A, b"")]}, "INVALID_ARGUMENT", "unsupported operations in txn request"),
        ("KV", "Txn", {"compare": [mod(A, 1)], "success": [put(b"b", b"")]}, "INVALID_ARGUMENT", "unsupported operations"),
        ("KV", "Txn", {"compare": [mod(A, 1)] * 2, "success": [put(A, b"")]}, "INVALID_ARGUMENT", "unsupported operations"),
        ("Lease", "LeaseRevoke", {"ID": 1}, "UNIMPLEMENTED", "LeaseRevoke is not implemented by k3sd"),
        ("Maintenance", "Defragment", {}, "UNIMPLEMENTED", "Defragment is not implemented by k3sd"),
        ("Cluster", "MemberAdd", {}, "UNIMPLEMENTED", "MemberAdd is not implemented by k3sd"),
    ],
)
async def test_what_is_outside_is_refused_by_name(
    call: Call, service: str, method: str, fields: dict[str, Any], code: str, text: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call(service, method, **fields)
    assert refused.value.code().name == code and text in (refused.value.details() or "")


async def test_watch(call: Call, stream: WatchStream) -> None:
    first = (await call("KV", "Put", key=A, value=b"1")).header.revision
    await call("KV", "Put", key=A, value=b"2")
    created = await stream.create(key=b"/registry/", range_end=b"/registry0", start_revision=first, prev_kv=True)
    assert created.created and not created.canceled and created.header.revision == first + 1
    await call("KV", "DeleteRange", key=A)
    events: list[Any] = []
    while len(events) < 3:
        response = await stream.read()
        assert response.watch_id == created.watch_id
        events += response.events
    assert [(e.type, e.kv.value, e.prev_kv.value) for e in events] == [(0, b"1", b""), (0, b"2", b"1"), (1, b"", b"2")]
    assert [e.kv.mod_revision for e in events] == [first, first + 1, first + 2]
    await stream.send(cancel_request=etcdrpc.WatchCancelRequest(watch_id=created.watch_id))
    assert (await stream.read()).canceled
    refused = await stream.create(key=A, watch_id=7)
    assert refused.created and refused.canceled and refused.watch_id == -1


async def test_progress_is_told_after_everything_before_it(call: Call, stream: WatchStream) -> None:
    await stream.create(key=b"/registry/", range_end=b"/registry0")
    await stream.create(key=b"/other/", range_end=b"/other0")
    for _ in range(20):
        writes = [call("KV", "Put", key=b"/registry/x/%d" % i, value=b"v") for i in range(20)]
        last = max(r.header.revision for r in await asyncio.gather(*writes))
        await stream.send(progress_request=etcdrpc.WatchProgressRequest())
        seen = 0
        while (response := await stream.read()).events:
            seen = response.events[-1].kv.mod_revision
        assert response.watch_id == -1 and response.header.revision >= last == seen


async def test_compaction_cancels_old_watches(call: Call, backend: Backend, stream: WatchStream) -> None:
    old = (await call("KV", "Put", key=A, value=b"1")).header.revision
    new = (await call("KV", "Put", key=A, value=b"2")).header.revision
    await asyncio.gather(*(backend.create(f"/y/{i}", b"") for i in range(KEEP_REVISIONS)))
    assert await backend.compact(new) == new
    created = await stream.create(key=A, start_revision=old)
    assert created.created
    response = await stream.read()
    assert response.canceled and response.compact_revision == new and "has been compacted" in response.cancel_reason
    with pytest.raises(grpc.aio.AioRpcError, match="required revision has been compacted"):
        await call("KV", "Range", key=A, revision=old)


async def test_leases(call: Call, backend: Backend, channel: grpc.aio.Channel, stream: WatchStream) -> None:
    lease = await call("Lease", "LeaseGrant", TTL=2)
    assert lease.ID == lease.TTL == 2
    await stream.create(key=A)
    await call("KV", "Put", key=A, value=b"1", lease=lease.ID)
    keep = channel.stream_stream(
        etcdrpc.path("Lease", "LeaseKeepAlive"),
        etcdrpc.LeaseKeepAliveRequest.SerializeToString,
        etcdrpc.LeaseKeepAliveResponse.FromString,
    )()
    for _ in range(4):
        await asyncio.sleep(0.7)
        await keep.write(etcdrpc.LeaseKeepAliveRequest(ID=2))
        assert (await keep.read()).TTL == 2
    assert (await backend.get(A.decode()))[1] is not None
    assert (await stream.read()).events[0].kv.lease == 2
    assert (await stream.read()).events[0].type == etcdrpc.DELETE
    keep.cancel()


async def test_the_compaction_key_of_kube_apiserver(call: Call, backend: Backend) -> None:
    key = b"compact_rev_key"

    def exchange(version: int, value: bytes) -> Awaitable[Any]:
        compare = etcdrpc.Compare(target=etcdrpc.VERSION, result=etcdrpc.EQUAL, key=key, version=version)
        return call("KV", "Txn", compare=[compare], success=[put(key, value)], failure=[read(key)])

    assert (await exchange(0, b"100")).succeeded
    taken = await exchange(0, b"200")
    assert not taken.succeeded
    kv = taken.responses[0].response_range.kvs[0]
    assert (kv.key, kv.version, kv.value) == (key, 1, b"100")
    assert (await exchange(1, b"200")).succeeded
    kv = (await call("KV", "Range", key=key)).kvs[0]
    assert (kv.version, kv.value) == (2, b"200")
    stored = (await backend.get("compact_rev_key_apiserver"))[1]
    assert stored is not None and stored.value == b"2|200"


def at_version(version: int) -> Any:
    return etcdrpc.Compare(target=etcdrpc.VERSION, result=etcdrpc.EQUAL, key=b"compact_rev_key", version=version)


async def test_what_kube_apiserver_sends(call: Call, stream: WatchStream) -> None:
    """Every shape of request that kube-apiserver 1.36 was seen to send, in the order of a start, and what it reads of the
    answers."""
    assert (await call("Maintenance", "Status")).version >= "3.6.0"  # else it asks for no progress
    pods, end = b"/registry/pods/", b"/registry/pods0"
    found = await call("KV", "Range", key=b"compact_rev_key")
    assert not found.kvs and found.header.revision
    begun = found.header.revision
    created = await stream.create(key=b"compact_rev_key", start_revision=begun)
    assert created.created
    for options in ({"count_only": True}, {"limit": 10_000}, {"limit": 500}, {}):
        listed = await call("KV", "Range", key=pods, range_end=end, **options)
        assert not listed.kvs and not listed.count and listed.header.revision == begun
    key = pods + b"default/a"
    assert not (await call("KV", "Range", key=key, limit=1)).kvs
    # a watch of the watch cache
    watch = await stream.create(key=pods, range_end=end, start_revision=begun + 1, progress_notify=True, prev_kv=True)
    made = await call("KV", "Txn", compare=[mod(key, 0)], success=[put(key, b"1")])
    made_again = await call("KV", "Txn", compare=[mod(key, 0)], success=[put(key, b"1")], failure=[read(key)])
    assert made.succeeded and not made_again.succeeded
    revision = made_again.responses[0].response_range.kvs[0].mod_revision
    assert revision == made.header.revision == made.responses[0].response_put.header.revision
    changed = await call("KV", "Txn", compare=[mod(key, revision)], success=[put(key, b"2")], failure=[read(key)])
    assert changed.succeeded
    deleted = await call("KV", "Txn", compare=[mod(key, changed.header.revision)], success=[drop(key)], failure=[read(key)])
    assert deleted.succeeded
    events: list[Any] = []
    while len(events) < 3:
        response = await stream.read()
        assert response.watch_id == watch.watch_id
        events += response.events
    assert [(e.type, e.kv.key, e.kv.value, e.prev_kv.value) for e in events] == [
        (0, key, b"1", b""),
        (0, key, b"2", b"1"),
        (1, key, b"", b"2"),
    ]
    assert events[2].kv.mod_revision == deleted.header.revision  # the version of the deleted object
    # a page at an earlier revision
    page = await call("KV", "Range", key=pods, range_end=end, limit=500, revision=revision)
    assert [kv.value for kv in page.kvs] == [b"1"] and page.count == 1 and not page.more
    # leases: of events, of the servers' addresses
    for seconds in (3660, 15):
        lease = await call("Lease", "LeaseGrant", TTL=seconds)
        name = pods + b"leased-%d" % seconds
        leased = await call("KV", "Txn", compare=[mod(name, 0)], success=[put(name, b"", lease=lease.ID)], failure=[read(name)])
        assert leased.succeeded
        assert lease == etcdrpc.LeaseGrantResponse(header=lease.header, ID=seconds, TTL=seconds)
        again = [mod(name, leased.header.revision)]
        assert (
            await call("KV", "Txn", compare=again, success=[put(name, b"x", lease=lease.ID)], failure=[read(name)])
        ).succeeded
    while len(events) < 7:
        events += (await stream.read()).events
    # compaction, seen by the other servers
    rev_key = b"compact_rev_key"
    first = await call("KV", "Txn", compare=[at_version(0)], success=[put(rev_key, b"0")], failure=[read(rev_key)])
    second = await call("KV", "Txn", compare=[at_version(1)], success=[put(rev_key, b"5")], failure=[read(rev_key)])
    late = await call("KV", "Txn", compare=[at_version(1)], success=[put(rev_key, b"6")], failure=[read(rev_key)])
    assert first.succeeded and second.succeeded and not late.succeeded
    current = late.responses[0].response_range.kvs[0]
    assert (current.key, current.version, current.value) == (rev_key, 2, b"5")
    assert (await call("KV", "Compact", revision=5)).header.revision
    told: list[Any] = []
    while len(told) < 2:
        response = await stream.read()
        assert response.watch_id == created.watch_id
        told += response.events
    assert [(e.kv.key, e.kv.value, e.kv.version) for e in told] == [(rev_key, b"0", 1), (rev_key, b"5", 2)]
    # consistent lists from the cache
    await stream.send(progress_request=etcdrpc.WatchProgressRequest())
    progress = await stream.read()
    assert progress.watch_id == -1 and not progress.events and progress.header.revision == second.header.revision


async def test_compact_is_done_by_the_store(call: Call, backend: Backend) -> None:
    await asyncio.gather(*(backend.create(f"/y/{i}", b"") for i in range(KEEP_REVISIONS + 100)))
    await call("KV", "Compact", revision=50, physical=True)
    assert backend.compact_revision == 50
    await call("KV", "Compact", revision=20, physical=True)  # done already, which is no error
    assert backend.compact_revision == 50
    newest = await backend.revision()
    await call("KV", "Compact", revision=newest, physical=True)
    assert backend.compact_revision == newest - KEEP_REVISIONS
    with pytest.raises(grpc.aio.AioRpcError, match="required revision is a future revision"):
        await call("KV", "Compact", revision=newest + 1)


async def test_a_watch_tells_where_it_begins(call: Call, stream: WatchStream) -> None:
    """A client whose connection breaks before the first event resumes from there."""
    now = (await call("KV", "Put", key=A, value=b"1")).header.revision
    created = await stream.create(key=A)
    assert created.header.revision == now
    await call("KV", "Put", key=A, value=b"2")
    (event,) = (await stream.read()).events
    assert event.kv.mod_revision == now + 1
    assert not event.HasField("prev_kv")  # which was not asked for


async def test_status_and_members(call: Call) -> None:
    status = await call("Maintenance", "Status")
    assert status.version.startswith("3.6.") and status.dbSize > 0 and status.leader
    assert [m.name for m in (await call("Cluster", "MemberList")).members] == ["k3sd"]
    assert not (await call("Maintenance", "Alarm")).alarms


async def test_a_listener_that_cannot_be(backend: Backend, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no certificate")
    text_tls = ServerTLS(str(tmp_path / "text"), str(tmp_path / "text"))
    authority(tmp_path, "etcd")
    no_clients = ServerTLS(str(tmp_path / "etcd.crt"), str(tmp_path / "etcd.key"))
    with new_socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for listen, tls, text in (
            ("tcp://x", None, "write unix:///path"),
            ("https://127.0.0.1:0", None, "a certificate and a key are needed"),
            ("https://127.0.0.1:0", ServerTLS("/none.crt", "/none.key"), "cannot read .*No such file"),
            ("https://127.0.0.1:0", text_tls, "cannot use .*text"),
            ("http://127.0.0.1", None, "the port is missing"),
            (f"http://127.0.0.1:{port}", None, f"cannot listen on 'http://127.0.0.1:{port}': .*in use"),
            (f"unix://{tmp_path}/none/sock", None, "No such file or directory"),
            ("http://0.0.0.0:0", None, "everybody who reaches it could .*; use https with --cert, --key and --client-ca"),
            ("http://:0", None, "everybody who reaches it"),
            ("https://192.0.2.1:0", no_clients, "everybody who reaches it"),
        ):
            with pytest.raises(DatastoreError, match=text):
                await EtcdFace(backend, listen, tls).start()


async def test_clients_need_a_certificate_of_the_named_authority(backend: Backend, tmp_path: Path) -> None:
    for name in ("etcd", "other"):
        authority(tmp_path, name)
    port = free_port()
    files = {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path) if name.startswith(("etcd", "other"))}
    tls = ServerTLS(str(tmp_path / "etcd.crt"), str(tmp_path / "etcd.key"), str(tmp_path / "etcd-ca.crt"))
    face = EtcdFace(backend, f"https://127.0.0.1:{port}", tls)
    await face.start()

    async def ask(channel: grpc.aio.Channel) -> Any:
        method = channel.unary_unary(etcdrpc.path("Maintenance", "Status"), None, etcdrpc.StatusResponse.FromString)
        return await method(b"", timeout=5)

    def secure(ca: str, name: str) -> grpc.aio.Channel:
        pair = (files[f"{name}.key"], files[f"{name}.crt"]) if name else (None, None)
        return grpc.aio.secure_channel(f"127.0.0.1:{port}", grpc.ssl_channel_credentials(files[ca], *pair))

    async with secure("etcd-ca.crt", "etcd") as channel:
        assert (await ask(channel)).version
    plain = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
    for refused in (secure("etcd-ca.crt", ""), secure("etcd-ca.crt", "other"), secure("other-ca.crt", "etcd"), plain):
        async with refused:
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await ask(refused)
            assert failed.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
    await face.stop()


async def etcdctl(socket: str, *args: str, stdin: bytes = b"") -> str:
    if shutil.which("etcdctl") is None:
        pytest.skip("etcdctl is not installed")
    process = await asyncio.create_subprocess_exec(
        "etcdctl",
        f"--endpoints={socket}",
        *args,
        env={**os.environ, "ETCDCTL_API": "3"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, error = await process.communicate(stdin)
    assert process.returncode == 0, error.decode()
    return out.decode()


async def test_etcdctl(socket: str) -> None:
    assert await etcdctl(socket, "put", "/registry/x/a", "one") == "OK\n"
    await etcdctl(socket, "put", "/registry/x/b", "two")
    assert await etcdctl(socket, "get", "--prefix", "/registry/x/") == "/registry/x/a\none\n/registry/x/b\ntwo\n"
    assert await etcdctl(socket, "get", "--prefix", "/registry/x/", "--keys-only", "--limit=1") == "/registry/x/a\n\n"
    assert await etcdctl(socket, "put", "--prev-kv", "/registry/x/a", "three") == "OK\n/registry/x/a\none\n"
    assert await etcdctl(socket, "del", "/registry/x/b") == "1\n"
    done = await etcdctl(socket, "txn", stdin=b'mod("/registry/x/c") = "0"\n\nput /registry/x/c new\n\nget /registry/x/c\n\n')
    assert done == "SUCCESS\n\nOK\n"
    found = json.loads(await etcdctl(socket, "get", "/registry/x/c", "-w", "json"))
    assert found["count"] == 1
    assert "true" in await etcdctl(socket, "endpoint", "health", "-w", "table")
    assert ", 3.6." in await etcdctl(socket, "endpoint", "status")
    assert "k3sd" in await etcdctl(socket, "member", "list")
    watching = asyncio.create_task(
        asyncio.create_subprocess_exec(
            "etcdctl", f"--endpoints={socket}", "watch", "--prefix", "/registry/", "--rev=1",
            env={**os.environ, "ETCDCTL_API": "3"}, stdout=subprocess.PIPE,
        )
    )  # fmt: skip
    process = await watching
    assert process.stdout is not None
    async with asyncio.timeout(10):
        lines = [(await process.stdout.readline()).decode().strip() for _ in range(6)]
    assert lines[3:] == ["PUT", "/registry/x/a", "one"]
    with suppress(ProcessLookupError):
        process.kill()
    await process.wait()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # its watch thread outlives close()
async def test_pythons_etcd3(backend: Backend) -> None:
    etcd3 = pytest.importorskip("etcd3")
    with new_socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    face = EtcdFace(backend, f"http://127.0.0.1:{port}")
    await face.start()

    def use() -> None:
        client = etcd3.client(host="127.0.0.1", port=port, timeout=10)
        client.put("/registry/x/a", "1")
        value, meta = client.get("/registry/x/a")
        assert value == b"1" and meta.mod_revision == meta.create_revision
        assert client.put_if_not_exists("/registry/x/b", "2") and not client.put_if_not_exists("/registry/x/b", "3")
        assert [v for v, _ in client.get_prefix("/registry/x/", sort_order=None)] == [b"1", b"2"]
        events, cancel = client.watch_prefix("/registry/x/")
        assert client.delete("/registry/x/a") is True
        event = next(events)
        assert isinstance(event, etcd3.events.DeleteEvent) and event.key == b"/registry/x/a"
        cancel()
        assert client.status().version.startswith("3.6.")
        client.close()

    await asyncio.to_thread(use)
    await face.stop()
