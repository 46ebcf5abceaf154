"""An external etcd v3 cluster (or anything with its API, such as kine's or our own face).

Every write is one transaction; one watch on all keys feeds listeners and watches, and a write is answered when its event was
delivered. Retention differs in one point: after etcd compacts revision C, a watch from C itself may miss a deletion, so C + 1
is called the compact revision here and everything from there on is complete.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from k3sd.datastore import compact, etcdrpc, mvcc, tlsprobe
from k3sd.datastore.backend import (
    Compacted,
    CompareFailed,
    Counters,
    DatastoreError,
    Event,
    FutureRevision,
    KeyValue,
    ListResult,
    Unavailable,
)
from k3sd.datastore.endpoint import TLS, TLS_HINT
from k3sd.datastore.hub import Hub, Listener, Watch

log = logging.getLogger(__name__)

CALL_TIMEOUT_SECONDS = 10.0
BACKOFF_CAP_SECONDS = 5.0
MAX_CALLS = 512
"""At a time; etcd refuses more than 5,000 from all its clients together."""
HISTORY_PAGE = 500
LEASE_MARK = 0x6B33
"""Our lease ids are ``mark << 48 | ttl << 24 | random``: the time to live can be read from the id."""
MAX_TTL_SECONDS = (1 << 24) - 1
LEASE_REUSE_SECONDS = 60
CHANNEL_OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
]


class EtcdBackend:
    """See ``Backend``. ``endpoint`` is K3s's comma list of URLs."""

    def __init__(
        self,
        endpoint: str,
        tls: TLS,
        *,
        compact_interval: float = compact.INTERVAL_SECONDS,
        patience_seconds: float = 300.0,
        upkeep: bool = True,
    ) -> None:
        self._upkeep = upkeep
        self._targets = [_target(url) for url in endpoint.split(",") if url.strip()]
        self._tls = tls
        self._patience = patience_seconds
        self._channel: grpc.aio.Channel | None = None
        self._left: dict[grpc.aio.Channel, asyncio.Task[None]] = {}
        """Channels to other endpoints whose calls may still be answered."""
        self._calls: dict[str, Any] = {}
        self._hub = Hub()
        self._compactor = compact.Compactor(self.compact, compact_interval)
        self._watching: asyncio.Task[None] | None = None
        self._ready: asyncio.Future[None] | None = None
        self._compact_revision = 0
        self._slots = asyncio.Semaphore(MAX_CALLS)
        self._leases: dict[int, tuple[int, float]] = {}
        self._lease_seconds: dict[int, int] = {}
        self._closed = "is not started"
        self.problem = ""
        self.counters = Counters()

    # lifecycle

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._patience
        delay = 0.2
        self._closed = ""
        while True:
            try:
                self._connect()
                revision = (await self._call("KV", "Range", etcdrpc.RangeRequest(key=b"\0", count_only=True))).header.revision
                break
            except Unavailable as e:
                if (final := await self._refusal()) is not None:
                    await self._disconnect("could not be opened")
                    raise final from e
                if loop.time() + delay > deadline:
                    await self._disconnect("could not be opened")
                    raise
                log.warning("%s; trying again", e)
                await asyncio.sleep(delay)
                delay = min(delay * 2, BACKOFF_CAP_SECONDS)
            except DatastoreError:
                await self._disconnect("could not be opened")
                raise
        self._hub.publish((), revision)
        self._ready = loop.create_future()
        self._watching = asyncio.create_task(self._watch_loop(), name="datastore-watch")
        try:
            await self._find_compact_revision()
            async with asyncio.timeout(CALL_TIMEOUT_SECONDS):
                await self._ready
        except BaseException:
            await self.stop()
            raise
        if self._upkeep:
            self._compactor.start(revision)

    async def stop(self) -> None:
        if self._closed:
            return
        self._compactor.stop()
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        await self._disconnect("is closed")
        self._hub.close(Unavailable("the datastore is closed"))

    def _connect(self) -> None:
        """A channel to the first endpoint; the next one takes over when it does not answer."""
        target, secure = self._targets[0]
        self._calls = {}
        if not secure:
            self._channel = grpc.aio.insecure_channel(target, CHANNEL_OPTIONS)
            return
        files: list[bytes | None] = []
        self._tls.check()
        for name in (self._tls.cafile, self._tls.keyfile, self._tls.certfile):
            try:
                files.append(Path(name).read_bytes() if name else None)
            except OSError as e:
                raise DatastoreError(f"cannot read {name} for the etcd at {target}: {e.strerror}") from e
        self._channel = grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(*files), CHANNEL_OPTIONS)

    async def _refusal(self) -> DatastoreError | None:
        """What is wrong for good when no connection comes about; gRPC does not tell."""
        for target, secure in self._targets:
            if target.startswith("unix:"):
                continue
            if reason := await asyncio.to_thread(tlsprobe.refusal, target, self._tls if secure else None):
                return DatastoreError(f"cannot connect to the etcd at {target}: {reason}")
        return None

    async def _disconnect(self, reason: str) -> None:
        self._closed = reason
        for channel, closing in tuple(self._left.items()):
            closing.cancel()
            await channel.close(None)
        if self._channel is not None:
            await self._channel.close(None)
            self._channel = None

    def _next_endpoint(self, failed: grpc.aio.Channel | None) -> None:
        """Leave the endpoint of ``failed``, unless somebody has done so since. Other calls on it have their own time to end:
        they may have written something."""
        if failed is not self._channel or failed is None or len(self._targets) < 2:
            return
        self._targets.append(self._targets.pop(0))
        self._connect()
        self._left[failed] = closing = asyncio.create_task(failed.close(CALL_TIMEOUT_SECONDS))
        closing.add_done_callback(lambda _: self._left.pop(failed, None))

    # calls

    def _method(self, service: str, method: str) -> Any:
        call = self._calls.get(method)
        if call is None:
            assert self._channel is not None
            request, response = (etcdrpc.messages[name] for name in etcdrpc.METHODS[service][method])
            make = {
                (False, False): self._channel.unary_unary,
                (False, True): self._channel.unary_stream,
                (True, True): self._channel.stream_stream,
            }[etcdrpc.STREAMS.get(method, (False, False))]
            call = self._calls[method] = make(
                etcdrpc.path(service, method),
                request_serializer=request.SerializeToString,
                response_deserializer=response.FromString,
            )
        return call

    async def _call(self, service: str, method: str, request: Any, *, repeatable: bool = True) -> Any:
        if self._closed:
            raise Unavailable(f"the datastore {self._closed}")
        attempts = len(self._targets) + 1 if repeatable else 1
        for attempt in range(attempts):
            channel = None
            try:
                async with self._slots:
                    channel = self._channel
                    return await self._method(service, method)(request, timeout=CALL_TIMEOUT_SECONDS)
            except (grpc.aio.AioRpcError, asyncio.CancelledError) as e:
                error = self._explain(e)
                if isinstance(error, Unavailable):
                    self._next_endpoint(channel)
                    if attempt + 1 < attempts and len(self._targets) > 1:
                        continue
                raise error from e
        raise AssertionError("unreachable")

    def _explain(self, error: grpc.aio.AioRpcError | asyncio.CancelledError) -> DatastoreError:
        if isinstance(error, asyncio.CancelledError):
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise error
            # gRPC raises this as well for a call whose channel was closed.
            return Unavailable(f"the connection to an etcd other than {self._targets[0][0]} was given up")
        code, details = error.code(), " ".join((error.details() or "").split())
        place = self._targets[0][0]
        if code == grpc.StatusCode.OUT_OF_RANGE and "compacted" in details:
            return Compacted(0, self._compact_revision)
        if code == grpc.StatusCode.OUT_OF_RANGE and "future" in details:
            return FutureRevision(0, self._hub.revision)
        if "request is too large" in details or "larger than max" in details:
            return DatastoreError(f"the etcd at {place} refuses the value: {details}; raise its --max-request-bytes")
        if "space exceeded" in details:
            return Unavailable(f"the etcd at {place} has used up its quota; compact and defragment it, then disarm the alarm")
        if "user name is empty" in details or "permission denied" in details:
            return DatastoreError(
                f"the etcd at {place} refuses: {details}; its users are known by their client certificates, so name one with "
                "--datastore-certfile and -keyfile, or switch its authentication off"
            )
        if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED):
            hint = TLS_HINT if "handshake" in details.lower() else ""
            return Unavailable(f"the etcd at {place} does not answer: {details}{hint}")
        return DatastoreError(f"the etcd at {place} refuses: {details or code}")

    # watching

    async def _watch_loop(self) -> None:
        failures = 0
        while True:
            channel = self._channel
            try:
                async for response in self._stream(b"\0", b"\0", self._hub.revision + 1):
                    if failures:
                        log.info("following etcd again at revision %d", response.header.revision)
                    failures, self.problem = 0, ""
                    if response.created and self._ready is not None and not self._ready.done():
                        self._ready.set_result(None)
                    if response.events:
                        await self._learn_leases([e.kv for e in response.events] + [e.prev_kv for e in response.events])
                        events = [self._event(e) for e in response.events]
                        self._hub.publish(events, events[-1].kv.revision)
                        if self._upkeep:
                            self._compactor.wrote(self._hub.revision)
                raise Unavailable(f"the etcd at {self._targets[0][0]} ended the watch")
            except Compacted as e:
                self._hub.lose(self._hub.revision, e.compact_revision)
            except DatastoreError as e:
                failures += 1
                self.problem = str(e)
                if failures == 1:
                    log.warning("following etcd failed, trying again: %s", e)
                await asyncio.sleep(min(0.05 * 2**failures, BACKOFF_CAP_SECONDS) * random.uniform(0.5, 1))
                self._next_endpoint(channel)

    async def _stream(self, key: bytes, end: bytes, revision: int) -> AsyncGenerator[Any, None]:
        """Responses of one watch. Raises DatastoreError when it breaks, Compacted."""
        request = etcdrpc.WatchCreateRequest(key=key, range_end=end, start_revision=revision, prev_kv=True)
        try:
            call = self._method("Watch", "Watch")()
            try:
                await call.write(etcdrpc.WatchRequest(create_request=request))
                while (response := await call.read()) is not grpc.aio.EOF:
                    if response.canceled:
                        if response.compact_revision:
                            self._compact_revision = max(self._compact_revision, response.compact_revision + 1)
                            raise Compacted(revision, self._compact_revision)
                        raise DatastoreError(f"the etcd at {self._targets[0][0]} refused the watch: {response.cancel_reason}")
                    yield response
            finally:
                call.cancel()
        except (grpc.aio.AioRpcError, asyncio.CancelledError) as e:
            raise self._explain(e) from e
        except asyncio.InvalidStateError as e:
            raise Unavailable(f"the etcd at {self._targets[0][0]} closed the connection") from e

    async def _find_compact_revision(self) -> None:
        """etcd tells its compact revision to nobody; reading at a revision works from there on."""
        low, high = 0, self._hub.revision
        while high - low > 1:
            middle = (low + high) // 2
            try:
                await self._call("KV", "Range", etcdrpc.RangeRequest(key=b"\0", count_only=True, revision=middle))
                high = middle
            except Compacted:
                low = middle
        self._compact_revision = max(self._compact_revision, high + 1 if low else 0)

    def _event(self, event: Any) -> Event:
        prev = self._kv(event.prev_kv) if event.prev_kv.mod_revision else None
        if event.type == etcdrpc.DELETE:
            key = event.kv.key.decode()
            if prev is None:
                prev = KeyValue(key, b"", event.kv.mod_revision - 1, event.kv.mod_revision - 1)
            return Event(KeyValue(key, b"", event.kv.mod_revision, 0), prev, True)
        return Event(self._kv(event.kv), prev)

    def _kv(self, kv: Any) -> KeyValue:
        return KeyValue(kv.key.decode(), kv.value, kv.mod_revision, kv.create_revision, self._seconds(kv.lease))

    def _seconds(self, lease: int) -> int:
        if lease >> 48 == LEASE_MARK:
            return (lease >> 24) & MAX_TTL_SECONDS
        return self._lease_seconds.get(lease, 0)

    async def _learn_leases(self, kvs: Sequence[Any]) -> None:
        """Ask for the time to live of leases that others granted."""
        for lease in {kv.lease for kv in kvs if kv.lease and kv.lease >> 48 != LEASE_MARK} - self._lease_seconds.keys():
            answer = await self._call("Lease", "LeaseTimeToLive", etcdrpc.LeaseTimeToLiveRequest(ID=lease))
            if len(self._lease_seconds) > 10_000:
                self._lease_seconds.clear()
            self._lease_seconds[lease] = max(answer.grantedTTL, 0)

    async def _lease(self, seconds: int) -> int:
        """A lease id for ``seconds``; leases of a minute's writes are shared, as kube-apiserver does."""
        if seconds <= 0:
            return 0
        now = asyncio.get_running_loop().time()
        reuse = min(LEASE_REUSE_SECONDS, seconds // 20)
        known = self._leases.get(seconds)
        if known is not None and now < known[1]:
            return known[0]
        ttl = min(seconds + reuse, MAX_TTL_SECONDS)
        wanted = LEASE_MARK << 48 | min(seconds, MAX_TTL_SECONDS) << 24 | random.getrandbits(24)
        answer = await self._call("Lease", "LeaseGrant", etcdrpc.LeaseGrantRequest(TTL=ttl, ID=wanted), repeatable=False)
        lease = int(answer.ID)
        self._leases[seconds] = (lease, now + reuse)
        if lease >> 48 != LEASE_MARK:
            self._lease_seconds[lease] = seconds
        return lease

    # Backend

    async def revision(self) -> int:
        answer = await self._call("KV", "Range", etcdrpc.RangeRequest(key=b"\0", count_only=True))
        revision: int = answer.header.revision
        await self._seen(revision)
        return revision

    async def _seen(self, revision: int) -> None:
        """Return when everything up to ``revision`` was delivered here."""
        if revision > self._hub.revision:
            try:
                async with asyncio.timeout(CALL_TIMEOUT_SECONDS):
                    await self._hub.reached(revision)
            except TimeoutError:
                raise Unavailable(f"the watch on etcd is behind revision {revision}: {self.problem or 'no events'}") from None

    @property
    def compact_revision(self) -> int:
        return self._compact_revision

    async def _range(self, key: bytes, end: bytes, revision: int, **options: Any) -> Any:
        if 0 < revision < self._compact_revision:
            raise Compacted(revision, self._compact_revision)
        try:
            return await self._call("KV", "Range", etcdrpc.RangeRequest(key=key, range_end=end, revision=revision, **options))
        except Compacted:
            raise Compacted(revision, self._compact_revision) from None
        except FutureRevision as e:
            raise FutureRevision(revision, e.current_revision) from None

    async def get(self, key: str, revision: int = 0) -> tuple[int, KeyValue | None]:
        answer = await self._range(key.encode(), b"", revision)
        await self._learn_leases(answer.kvs)
        return answer.header.revision, self._kv(answer.kvs[0]) if answer.kvs else None

    async def list(
        self, start: str, end: str, *, limit: int = 0, revision: int = 0, keys_only: bool = False, counted: bool = True
    ) -> ListResult:
        answer = await self._range(start.encode(), etcdrpc.range_end(end), revision, limit=limit, keys_only=keys_only)
        at = revision or answer.header.revision
        await self._seen(at)
        await self._learn_leases(answer.kvs)
        return ListResult(at, [self._kv(kv) for kv in answer.kvs], answer.more, answer.count)

    async def count(self, start: str, end: str, *, revision: int = 0) -> tuple[int, int]:
        answer = await self._range(start.encode(), etcdrpc.range_end(end), revision, count_only=True)
        return answer.header.revision, answer.count

    async def create(self, key: str, value: bytes, lease_seconds: int = 0) -> int:
        return await self._put(key, value, 0, lease_seconds)

    async def update(self, key: str, value: bytes, revision: int, lease_seconds: int = 0) -> int:
        if revision <= 0:
            raise CompareFailed(key, revision, (await self.get(key))[1])
        return await self._put(key, value, revision, lease_seconds)

    async def _put(self, key: str, value: bytes, revision: int, lease_seconds: int) -> int:
        mvcc.check_size(key, value)
        put = etcdrpc.PutRequest(key=key.encode(), value=value, lease=await self._lease(lease_seconds))
        answer = await self._transact(key, revision, etcdrpc.RequestOp(request_put=put))
        written: int = answer.header.revision
        self.counters.transactions += 1
        self.counters.rows += 1
        self.counters.bytes += len(key) + len(value)
        await self._seen(written)
        return written

    async def _transact(self, key: str, revision: int, op: Any) -> Any:
        """``op`` if the key's revision is ``revision`` (0: it does not exist). Raises CompareFailed with what is there."""
        name = key.encode()
        request = etcdrpc.TxnRequest(
            compare=[etcdrpc.Compare(target=etcdrpc.MOD, result=etcdrpc.EQUAL, key=name, mod_revision=revision)],
            success=[op],
            failure=[etcdrpc.RequestOp(request_range=etcdrpc.RangeRequest(key=name))],
        )
        answer = await self._call("KV", "Txn", request, repeatable=False)
        if answer.succeeded:
            return answer
        kvs = answer.responses[0].response_range.kvs
        await self._learn_leases(kvs)
        raise CompareFailed(key, revision, self._kv(kvs[0]) if kvs else None)

    async def delete(self, key: str, revision: int = 0) -> tuple[int, KeyValue | None]:
        request = etcdrpc.DeleteRangeRequest(key=key.encode(), prev_kv=True)
        if revision:
            try:
                answer = await self._transact(key, revision, etcdrpc.RequestOp(request_delete_range=request))
            except CompareFailed as e:
                if e.current is None:
                    return await self.revision(), None
                raise
            kvs = answer.responses[0].response_delete_range.prev_kvs
        else:
            answer = await self._call("KV", "DeleteRange", request, repeatable=False)
            kvs = answer.prev_kvs
        await self._learn_leases(kvs)
        await self._seen(answer.header.revision)
        return answer.header.revision, self._kv(kvs[0]) if kvs else None

    def watch(self, start: str, end: str, revision: int = 0) -> Watch:
        if self._closed:
            raise Unavailable(f"the datastore {self._closed}")
        return self._hub.watch(start, end, revision, self._compact_revision, self.history)

    async def history(self, start: str, end: str, after: int, upto: int) -> tuple[Sequence[Event], int]:
        """Every revision has an event of some key, so a watch on all keys tells when it is done."""
        if after + 1 < self._compact_revision:
            raise Compacted(after + 1, self._compact_revision)
        found: list[Event] = []
        stream = self._stream(b"\0", b"\0", after + 1)
        async with contextlib.aclosing(stream):
            async for response in stream:
                if not response.events:
                    continue
                await self._learn_leases([e.kv for e in response.events])
                found += [
                    self._event(e) for e in response.events if e.kv.mod_revision <= upto and start <= e.kv.key.decode() < end
                ]
                reached = min(response.events[-1].kv.mod_revision, upto)
                if reached >= upto or len(found) >= HISTORY_PAGE:
                    return found, reached
        raise Unavailable(f"the etcd at {self._targets[0][0]} ended the watch")

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        return self._hub.subscribe(listener)

    async def lost(self) -> None:
        await self._hub.lost()

    async def renew(self, lease_seconds: int) -> None:
        """Keeps our own leases of this length alive, on whichever server they were granted."""
        leases = (await self._call("Lease", "LeaseLeases", etcdrpc.LeaseLeasesRequest())).leases
        wanted = [lease.ID for lease in leases if self._seconds(lease.ID) == lease_seconds]
        call = self._method("Lease", "LeaseKeepAlive")(timeout=CALL_TIMEOUT_SECONDS)
        try:
            for lease in wanted:
                await call.write(etcdrpc.LeaseKeepAliveRequest(ID=lease))
                await call.read()
        except grpc.aio.AioRpcError as e:
            raise self._explain(e) from e
        finally:
            call.cancel()

    async def size(self) -> int:
        status = await self._call("Maintenance", "Status", etcdrpc.StatusRequest())
        return int(status.dbSize)

    async def snapshot(self) -> AsyncGenerator[bytes, None]:
        """etcd's own snapshot of the member that answers."""
        call = self._method("Maintenance", "Snapshot")(etcdrpc.SnapshotRequest())
        try:
            async for part in call:
                yield part.blob
        except grpc.aio.AioRpcError as e:
            raise self._explain(e) from e

    async def alarms(self) -> Sequence[str]:
        """What etcd itself reports as wrong."""
        status = await self._call("Maintenance", "Status", etcdrpc.StatusRequest())
        alarms = (await self._call("Maintenance", "Alarm", etcdrpc.AlarmRequest())).alarms
        names = {1: "its quota is used up", 2: "a member's data is corrupt"}
        return [*status.errors, *(names.get(a.alarm, f"alarm {a.alarm}") for a in alarms)]

    async def compact(self, revision: int) -> int:
        target = mvcc.compact_target(revision, await self.revision())
        if target > max(self._compact_revision, 1):
            try:
                await self._call("KV", "Compact", etcdrpc.CompactionRequest(revision=target - 1))
                self._compact_revision = target
            except Compacted:
                await self._find_compact_revision()
        return self._compact_revision


def _target(url: str) -> tuple[str, bool]:
    """gRPC's target and whether TLS is wanted, for one of the endpoint's URLs."""
    scheme, found, rest = url.strip().partition("://")
    if not found or not rest:
        raise DatastoreError(f"datastore endpoint: {url!r} is not a URL; write http://host:2379 or https://host:2379")
    if scheme in ("unix", "unixs"):
        return f"unix:{rest}", scheme == "unixs"
    if scheme not in ("http", "https"):
        raise DatastoreError(f"datastore endpoint: {url!r} mixes schemes; all must be http or https")
    return rest.rstrip("/"), scheme == "https"
