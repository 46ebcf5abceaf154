"""A small etcd client that costs little itself, so that servers are measured and not it.

What it speaks of HTTP/2 is enough for unary calls and one Watch stream on a unix socket. The windows it grants are never
used up. Of a watch it looks at no more than whose response it is.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from typing import Any

from k3sd.datastore import etcdrpc
from k3sd.datastore.backend import DatastoreError, KeyValue, ListResult
from k3sd.etcdface.frames import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    FIRST_WINDOW,
    GOAWAY,
    HEAD,
    HEADER_TABLE_SIZE,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    MAX_WINDOW,
    PING,
    PREFACE,
    RST_STREAM,
    SETTING,
    SETTINGS,
    WINDOW_UPDATE,
    WORD,
    frame,
)
from k3sd.etcdface.headers import Decoder, literal

SMALL = 500
"""Bytes below which a WatchResponse holds no event of ours."""
_LENGTH = struct.Struct(">BL")


def _headers(service: str, method: str) -> bytes:
    fields = [(b":path", etcdrpc.path(service, method).encode()), (b":authority", b"localhost")]
    fields += [(b"content-type", b"application/grpc"), (b"te", b"trailers")]
    return b"\x83\x86" + b"".join(literal(*field) for field in fields)


_TXN, _RANGE, _COMPACT = (_headers("KV", method) for method in ("Txn", "Range", "Compact"))
_WATCH = _headers("Watch", "Watch")


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self._in = bytearray()
        self._out: list[bytes] = []
        self._decoder = Decoder()
        self._next = 1
        self._window = FIRST_WINDOW
        self._waiting: deque[tuple[int, bytes]] = deque()
        self._calls: dict[int, tuple[asyncio.Future[bytes], bytearray]] = {}
        self._stream = 0
        self._watched = bytearray()
        self.watches: dict[int, EtcdWatch] = {}
        self.created: asyncio.Queue[int] = asyncio.Queue()
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        settings = frame(SETTINGS, 0, 0, SETTING.pack(HEADER_TABLE_SIZE, 0) + SETTING.pack(INITIAL_WINDOW_SIZE, MAX_WINDOW))
        transport.write(PREFACE + settings + frame(WINDOW_UPDATE, 0, 0, WORD.pack(MAX_WINDOW - FIRST_WINDOW)))

    def connection_lost(self, error: Exception | None) -> None:
        for future, _ in self._calls.values():
            if not future.done():
                future.set_exception(DatastoreError("the connection is lost"))

    def call(self, headers: bytes, message: bytes) -> asyncio.Future[bytes]:
        number, self._next = self._next, self._next + 2
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._calls[number] = future, bytearray()
        self._write(frame(HEADERS, END_HEADERS, number, headers))
        self._send(number, message, END_STREAM)
        return future

    def watch(self, message: bytes) -> None:
        if not self._stream:
            self._stream, self._next = self._next, self._next + 2
            self._write(frame(HEADERS, END_HEADERS, self._stream, _WATCH))
        self._send(self._stream, message, 0)

    def _send(self, number: int, message: bytes, flags: int) -> None:
        """Messages are smaller than a frame."""
        self._waiting.append((number, frame(DATA, flags, number, _LENGTH.pack(0, len(message)) + message)))
        self._push()

    def _push(self) -> None:
        while self._waiting and self._window >= (size := len(self._waiting[0][1]) - HEAD.size):
            self._window -= size
            self._write(self._waiting.popleft()[1])

    def _write(self, data: bytes) -> None:
        if not self._out:
            asyncio.get_running_loop().call_soon(self._flush)
        self._out.append(data)

    def _flush(self) -> None:
        out, self._out = self._out, []
        self.transport.write(b"".join(out))

    def data_received(self, data: bytes) -> None:
        buffer = self._in
        buffer += data
        at = 0
        while len(buffer) - at >= HEAD.size:
            high, low, kind, flags, number = HEAD.unpack_from(buffer, at)
            end = at + HEAD.size + (high << 8 | low)
            if len(buffer) < end:
                break
            self._frame(kind, flags, number, memoryview(buffer)[at + HEAD.size : end].tobytes())
            at = end
        del buffer[:at]

    def _frame(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if kind == DATA and number == self._stream:
            self._watched += payload
            self._responses()
        elif kind == DATA:
            self._calls[number][1].extend(payload)
        elif kind == HEADERS:
            fields = dict(self._decoder.decode(payload))
            if flags & END_STREAM and number in self._calls:
                future, message = self._calls.pop(number)
                if fields[b"grpc-status"] == b"0":
                    future.set_result(bytes(message[_LENGTH.size :]))
                else:
                    future.set_exception(DatastoreError(fields.get(b"grpc-message", b"").decode()))
        elif kind == WINDOW_UPDATE and number == 0:
            self._window += WORD.unpack(payload)[0]
            self._push()
        elif kind in (PING, SETTINGS) and not flags & ACK:
            self._write(frame(kind, ACK, 0, payload if kind == PING else b""))
        elif kind in (GOAWAY, RST_STREAM):
            self.transport.close()

    def _responses(self) -> None:
        buffer = self._watched
        while len(buffer) >= _LENGTH.size:
            end = _LENGTH.size + _LENGTH.unpack_from(buffer)[1]
            if len(buffer) < end:
                break
            message = bytes(buffer[_LENGTH.size : end])
            del buffer[:end]
            if len(message) < SMALL:
                response = etcdrpc.WatchResponse.FromString(message)
                if response.created:
                    self.created.put_nowait(response.watch_id)
            elif (watch := self.watches.get(_watch_id(message))) is not None:
                watch.offer(message)


def _watch_id(message: bytes) -> int:
    """The second field of a WatchResponse; the first is the header."""
    assert message[0] == 0x0A and message[1] < 0x80
    at = 2 + message[1]
    assert message[at] == 0x10
    at += 1
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value
        at, shift = at + 1, shift + 7


def _kv(kv: Any) -> KeyValue:
    return KeyValue(kv.key.decode(), kv.value, kv.mod_revision, kv.create_revision, kv.lease)


class EtcdWatch:
    """An iterator of responses with events, as bytes."""

    def __init__(self, connection: _Connection, number: int) -> None:
        self._connection = connection
        self._number = number
        self._responses: asyncio.Queue[bytes] = asyncio.Queue()
        connection.watches[number] = self

    def offer(self, response: bytes) -> None:
        self._responses.put_nowait(response)

    async def __anext__(self) -> bytes:
        return await self._responses.get()

    async def aclose(self) -> None:
        self._connection.watches.pop(self._number, None)
        cancel = etcdrpc.WatchCancelRequest(watch_id=self._number)
        self._connection.watch(etcdrpc.WatchRequest(cancel_request=cancel).SerializeToString())


class EtcdClient:
    """What the measurements need of a store, with the meaning of ``Backend``."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._connection: _Connection

    async def start(self) -> None:
        """Waits until somebody listens."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(30):
            while True:
                try:
                    _, self._connection = await loop.create_unix_connection(_Connection, self._path)
                    return
                except OSError:
                    await asyncio.sleep(0.05)

    async def stop(self) -> None:
        self._connection.transport.close()

    async def _put(self, key: str, value: bytes, revision: int) -> int:
        name = key.encode()
        request = etcdrpc.TxnRequest(
            compare=[etcdrpc.Compare(target=etcdrpc.MOD, result=etcdrpc.EQUAL, key=name, mod_revision=revision)],
            success=[etcdrpc.RequestOp(request_put=etcdrpc.PutRequest(key=name, value=value))],
            failure=[etcdrpc.RequestOp(request_range=etcdrpc.RangeRequest(key=name))],
        )
        answer = etcdrpc.TxnResponse.FromString(await self._connection.call(_TXN, request.SerializeToString()))
        if not answer.succeeded:
            raise DatastoreError(f"{key} was not written")
        return int(answer.header.revision)

    async def create(self, key: str, value: bytes) -> int:
        return await self._put(key, value, 0)

    async def update(self, key: str, value: bytes, revision: int) -> int:
        return await self._put(key, value, revision)

    async def _range(self, **fields: Any) -> Any:
        request = etcdrpc.RangeRequest(**fields)
        return etcdrpc.RangeResponse.FromString(await self._connection.call(_RANGE, request.SerializeToString()))

    async def revision(self) -> int:
        return int((await self._range(key=b"/registry/health")).header.revision)

    async def list(self, start: str, end: str, *, limit: int) -> ListResult:
        answer = await self._range(key=start.encode(), range_end=end.encode(), limit=limit)
        return ListResult(answer.header.revision, [_kv(kv) for kv in answer.kvs], answer.more, answer.count)

    async def watch(self, start: str, end: str) -> EtcdWatch:
        after = await self.revision() + 1  # as kube-apiserver does; without, kine begins with the whole history
        create = etcdrpc.WatchCreateRequest(key=start.encode(), range_end=end.encode(), start_revision=after, prev_kv=True)
        self._connection.watch(etcdrpc.WatchRequest(create_request=create).SerializeToString())
        return EtcdWatch(self._connection, await self._connection.created.get())

    async def compact(self, revision: int) -> None:
        request = etcdrpc.CompactionRequest(revision=revision, physical=True)
        await self._connection.call(_COMPACT, request.SerializeToString())
