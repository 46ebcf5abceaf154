"""The gRPC server with grpcio's client, and frame by frame where a client would not do it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import pytest

from k3sd.etcdface import grpcserver
from k3sd.etcdface.call import Call, Code, Methods, Status
from k3sd.etcdface.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    PADDED,
    PING,
    PREFACE,
    RST_STREAM,
    SETTING,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
)
from k3sd.etcdface.grpcserver import GrpcServer
from k3sd.etcdface.headers import Decoder, literal


class Service:
    """``/t/echo``, ``/t/size`` (that many bytes), ``/t/fail``, ``/t/wait`` (for ever), ``/t/chat`` (a stream of echoes)."""

    def __init__(self) -> None:
        self.cancelled = asyncio.Event()
        self.waiting = asyncio.Event()

    async def echo(self, message: bytes) -> bytes:
        return message

    async def size(self, message: bytes) -> bytes:
        return b"x" * int(message)

    async def fail(self, message: bytes) -> bytes:
        if message == b"bug":
            raise ZeroDivisionError
        raise Status(Code.OUT_OF_RANGE, "zu groß: 100%")

    async def wait(self, message: bytes) -> bytes:
        try:
            self.waiting.set()
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return b""

    async def chat(self, call: Call) -> None:
        async for message in call:
            if message == b"many":
                for i in range(100):
                    call.send(b"%d" % i + b"-" * 100_000)
                    await call.drain()
            call.send(message)

    def methods(self) -> Methods:
        unary = {f"/t/{name}".encode(): getattr(self, name) for name in ("echo", "size", "fail", "wait")}
        return Methods(unary, {b"/t/chat": self.chat})


@pytest.fixture
async def service() -> Service:
    return Service()


@pytest.fixture
async def server(service: Service, tmp_path: Path) -> AsyncIterator[GrpcServer]:
    server = GrpcServer(service.methods())
    await server.listen_unix(str(tmp_path / "sock"))
    yield server
    await server.stop(0.1)


@pytest.fixture
async def channel(server: GrpcServer, tmp_path: Path) -> AsyncIterator[grpc.aio.Channel]:
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    async with grpc.aio.insecure_channel(f"unix:{tmp_path}/sock", options) as channel:
        yield channel


async def call(channel: grpc.aio.Channel, method: str, message: bytes) -> bytes:
    answer: bytes = await channel.unary_unary(f"/t/{method}")(message, timeout=20)
    return answer


async def test_calls(channel: grpc.aio.Channel) -> None:
    assert await call(channel, "echo", b"") == b""
    answers = await asyncio.gather(*(call(channel, "echo", b"%d" % i) for i in range(500)))
    assert answers == [b"%d" % i for i in range(500)]


@pytest.mark.parametrize("size", [16378, 16379, 16380, 65535, 200_000, 10_000_000])
async def test_large_answers_wait_for_the_windows(channel: grpc.aio.Channel, size: int) -> None:
    answers = await asyncio.gather(*(call(channel, "size", b"%d" % size) for _ in range(3)), call(channel, "echo", b"small"))
    assert [len(a) for a in answers] == [size] * 3 + [5]


async def test_large_requests(channel: grpc.aio.Channel) -> None:
    for size in (16379, 16380, 100_000, 15_000_000):
        for _ in range(4):  # more than the connection's window at once
            assert len(await call(channel, "echo", b"x" * size)) == size
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call(channel, "echo", b"x" * (grpcserver.MAX_MESSAGE_BYTES + 1))
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert await call(channel, "echo", b"goes on") == b"goes on"


async def test_errors(channel: grpc.aio.Channel) -> None:
    for method, message, code, text in (
        ("fail", b"", "OUT_OF_RANGE", "zu groß: 100%"),
        ("fail", b"bug", "UNKNOWN", "internal error"),
        ("nothing", b"", "UNIMPLEMENTED", "unknown method /t/nothing"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await call(channel, method, message)
        assert (failed.value.code().name, failed.value.details()) == (code, text)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await channel.unary_unary("/t/echo")(b"x" * 1000, compression=grpc.Compression.Gzip, timeout=5)
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_cancelled_call_is_cancelled_here(channel: grpc.aio.Channel, service: Service) -> None:
    waiting = channel.unary_unary("/t/wait")(b"")
    async with asyncio.timeout(10):
        await service.waiting.wait()
        waiting.cancel()
        await service.cancelled.wait()
    assert await call(channel, "echo", b"goes on") == b"goes on"


async def test_a_stream_in_both_directions(channel: grpc.aio.Channel) -> None:
    stream = channel.stream_stream("/t/chat")()
    for i in range(50):
        await stream.write(b"%d" % i)
        assert await stream.read() == b"%d" % i
    await stream.write(b"many")
    await asyncio.sleep(0.1)  # the client reads nothing meanwhile; what waits here stays small
    sizes = [len(await stream.read()) for _ in range(101)]
    assert sizes[-1] == 4 and min(sizes[:-1]) > 100_000
    for _ in range(40):  # more than the stream's window in sum
        await stream.write(b"x" * 1_000_000)
        assert len(await stream.read()) == 1_000_000
    await stream.done_writing()
    assert await stream.read() is grpc.aio.EOF
    assert await stream.code() is grpc.StatusCode.OK


async def test_stopping(channel: grpc.aio.Channel, server: GrpcServer, service: Service) -> None:
    stream = channel.stream_stream("/t/chat")()
    await stream.write(b"a")
    assert await stream.read() == b"a"
    waiting = asyncio.ensure_future(call(channel, "wait", b""))
    await service.waiting.wait()
    began = asyncio.get_running_loop().time()
    await server.stop(0.3)
    assert 0.2 < asyncio.get_running_loop().time() - began < 3  # the unary call had its time
    assert await stream.code() is grpc.StatusCode.UNAVAILABLE
    with pytest.raises(grpc.aio.AioRpcError):
        await waiting
    assert service.cancelled.is_set()


class Raw:
    """A client that says what it wants."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._decoder = Decoder()

    def send(self, *frames: bytes) -> None:
        self._writer.write(b"".join(frames))

    async def read(self) -> tuple[int, int, int, bytes]:
        """``(kind, flags, stream, payload)``"""
        async with asyncio.timeout(10):
            head = await self._reader.readexactly(9)
            return (
                head[3],
                head[4],
                int.from_bytes(head[5:], "big"),
                await self._reader.readexactly(int.from_bytes(head[:3], "big")),
            )

    async def until(self, *kinds: int) -> tuple[int, int, int, bytes]:
        while (got := await self.read())[0] not in kinds:
            pass
        return got

    async def ended(self) -> bytes:
        async with asyncio.timeout(10):
            return await self._reader.read()

    def fields(self, payload: bytes) -> dict[bytes, bytes]:
        return dict(self._decoder.decode(payload))

    def close(self) -> None:
        self._writer.close()

    async def leave(self) -> None:
        """Without waiting for somebody to read what is still to be sent."""
        self._writer.transport.abort()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


@pytest.fixture
async def raw(server: GrpcServer, tmp_path: Path) -> AsyncIterator[Raw]:
    raw = Raw(*await asyncio.open_unix_connection(str(tmp_path / "sock")))
    yield raw
    await raw.leave()


def request(path: bytes, content_type: bytes = b"application/grpc") -> bytes:
    return b"\x83\x86" + literal(b":path", path) + literal(b"content-type", content_type) + literal(b"te", b"trailers")


def message(data: bytes) -> bytes:
    return struct.pack(">BL", 0, len(data)) + data


HELLO = PREFACE + frame(SETTINGS, 0, 0)


async def test_frames_in_small_pieces(raw: Raw) -> None:
    block = request(b"/t/echo")
    everything = b"".join(
        (
            HELLO,
            frame(HEADERS, 0, 1, block[:5]),
            frame(CONTINUATION, 0, 1, block[5:9]),
            frame(CONTINUATION, END_HEADERS, 1, block[9:]),
            frame(DATA, PADDED, 1, b"\x03" + message(b"hello")[:4] + b"\0\0\0"),
            frame(DATA, 0, 1, message(b"hello")[4:]),
            frame(0x77, 0xFF, 1, b"of a later version"),
            frame(PING, 0, 0, b"12345678"),
            frame(HEADERS, END_HEADERS | END_STREAM, 1, literal(b"x-trailer", b"1")),
        )
    )
    for i in range(0, len(everything), 3):
        raw.send(everything[i : i + 3])
        await asyncio.sleep(0)
    assert (await raw.until(PING))[1:] == (ACK, 0, b"12345678")
    assert raw.fields((await raw.until(HEADERS))[3])[b":status"] == b"200"
    assert (await raw.until(DATA))[3] == message(b"hello")
    assert raw.fields((await raw.until(HEADERS))[3]) == {b"grpc-status": b"0"}


async def test_the_window_of_the_client_is_kept(raw: Raw) -> None:
    raw.send(PREFACE, frame(SETTINGS, 0, 0, SETTING.pack(INITIAL_WINDOW_SIZE, 10)))
    raw.send(frame(HEADERS, END_HEADERS, 1, request(b"/t/size")), frame(DATA, END_STREAM, 1, message(b"30")))
    assert len((await raw.until(DATA))[3]) == 10
    raw.send(frame(PING, 0, 0, b"12345678"))
    assert (await raw.until(DATA, PING))[0] == PING  # nothing more without leave
    raw.send(frame(WINDOW_UPDATE, 0, 1, struct.pack(">L", 5)))
    assert len((await raw.until(DATA))[3]) == 5
    raw.send(frame(SETTINGS, 0, 0, SETTING.pack(INITIAL_WINDOW_SIZE, 1000)))
    assert len((await raw.until(DATA))[3]) == 20
    assert raw.fields((await raw.until(HEADERS))[3]) == {b"grpc-status": b"0"}


async def test_what_is_not_grpc(raw: Raw) -> None:
    raw.send(HELLO, frame(HEADERS, END_HEADERS | END_STREAM, 1, request(b"/t/echo", b"application/json")))
    _, flags, _, block = await raw.until(HEADERS)
    assert raw.fields(block) == {b":status": b"415"} and flags & END_STREAM
    raw.send(frame(HEADERS, END_HEADERS | END_STREAM, 3, request(b"/t/echo")))
    assert raw.fields((await raw.until(HEADERS))[3])[b"grpc-status"] == b"13"


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        (frame(DATA, 0, 1, b"x"), 1),
        (frame(HEADERS, END_HEADERS, 2, request(b"/t/chat")), 1),
        (frame(HEADERS, END_HEADERS, 3, request(b"/t/chat")) + frame(HEADERS, END_HEADERS, 1, request(b"/t/chat")), 5),
        (frame(HEADERS, 0, 1, request(b"/t/chat")) + frame(PING, 0, 0, b"12345678"), 1),
        (frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff"), 9),
        (frame(CONTINUATION, END_HEADERS, 1, b""), 1),
        (frame(HEADERS, 0, 1, b"") + 5 * frame(CONTINUATION, 0, 1, b"\0" * 16384), 11),
        (frame(DATA, PADDED, 0, b"\x05"), 1),
        (frame(PING, 0, 0, b"short"), 6),
        (frame(SETTINGS, 0, 0, b"12345"), 6),
        (frame(SETTINGS, 0, 0, SETTING.pack(INITIAL_WINDOW_SIZE, 1 << 31)), 3),
        (frame(WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff"), 3),
        (frame(RST_STREAM, 0, 7, b"\0\0\0\0"), 1),
        (frame(5, 0, 1, b""), 1),
        (frame(DATA, 0, 1, b"x" * 16385), 6),
    ],
)
async def test_a_broken_protocol_ends_the_connection(raw: Raw, frames: bytes, code: int) -> None:
    raw.send(HELLO, frames)
    goaway = (await raw.until(GOAWAY))[3]
    assert int.from_bytes(goaway[4:8], "big") == code
    assert await raw.ended() == b""


async def test_what_is_not_http2_is_hung_up_on(raw: Raw) -> None:
    raw.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    await raw.until(GOAWAY)
    assert await raw.ended() == b""


async def test_who_says_nothing_is_hung_up_on(server: GrpcServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpcserver, "PREFACE_SECONDS", 0.05)
    raw = Raw(*await asyncio.open_unix_connection(str(tmp_path / "sock")))
    await raw.ended()
    raw.close()


async def test_who_does_not_read_is_not_read_from(raw: Raw, server: GrpcServer) -> None:
    raw.send(HELLO)
    ping = frame(PING, 0, 0, b"12345678")
    await raw.until(SETTINGS)
    sent = 0
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            while sent < 64 << 20:
                raw.send(ping * 4096)
                sent += len(ping) * 4096
                await raw._writer.drain()
    assert sent < 16 << 20
    (connection,) = server.connections
    assert connection._transport.get_write_buffer_size() < 1 << 20


async def test_a_left_over_socket_is_replaced(server: GrpcServer, service: Service, tmp_path: Path) -> None:
    await server.stop(0.1)
    assert os.path.exists(tmp_path / "sock")
    again = GrpcServer(service.methods())
    await again.listen_unix(str(tmp_path / "sock"))
    async with grpc.aio.insecure_channel(f"unix:{tmp_path}/sock") as channel:
        assert await call(channel, "echo", b"x") == b"x"
    await again.stop(0.1)
