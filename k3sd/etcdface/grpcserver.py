"""A gRPC server on asyncio: HTTP/2 as far as gRPC needs it, a fifth of the CPU time that grpcio takes for a call.

A connection is one protocol object; a call is one stream of it and one task. What one turn of the event loop answers leaves
in one write. Memory is bounded: a peer that does not read is not read from, and the connection's window opens again only when a
message was handed to its handler.

Source: RFC 9113 (HTTP/2), gRPC over HTTP/2 (PROTOCOL-HTTP2).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import cast
from urllib.parse import quote

from k3sd.etcdface.call import LENGTH, Call, Code, Methods, Status, Unary
from k3sd.etcdface.frames import (
    ACK,
    COMPRESSION_ERROR,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    FIRST_WINDOW,
    FLOW_CONTROL_ERROR,
    FRAME_BYTES,
    FRAME_SIZE_ERROR,
    GOAWAY,
    HEAD,
    HEADER_TABLE_SIZE,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    MAX_CONCURRENT_STREAMS,
    MAX_WINDOW,
    NO_ERROR,
    PADDED,
    PING,
    PREFACE,
    PRIORITIZED,
    PROTOCOL_ERROR,
    PUSH_PROMISE,
    REFUSED_STREAM,
    RST_STREAM,
    SETTING,
    SETTINGS,
    STREAM_CLOSED,
    WINDOW_UPDATE,
    WORD,
    ConnectionFailed,
    frame,
    unpadded,
    word,
)
from k3sd.etcdface.headers import MAX_HEADER_BYTES, Decoder, Fields, HeaderError, literal

log = logging.getLogger(__name__)

PREFACE_SECONDS = 10.0
MAX_MESSAGE_BYTES = 16 << 20
STREAM_WINDOW = MAX_MESSAGE_BYTES + (1 << 20)
"""A message and what follows it fit, so a unary call never waits for the window."""
CONNECTION_WINDOW = 2 * STREAM_WINDOW
MAX_STREAMS = 1000
BACKLOG = 128
CREDIT_BYTES = 1 << 20
"""Read of a streaming call before its window is opened again."""


def _trailers(code: int, message: str = "") -> bytes:
    fields = literal(b"grpc-status", b"%d" % code)
    if message:
        text = "".join(c if " " <= c <= "~" and c != "%" else quote(c, safe="") for c in message)
        fields += literal(b"grpc-message", text.encode()[:4096])
    return fields


_RESPONSE = b"\x88" + literal(b"content-type", b"application/grpc")
_NOT_GRPC = literal(b":status", b"415")
_OK = _trailers(Code.OK)
_SETTINGS = frame(
    SETTINGS,
    0,
    0,
    SETTING.pack(HEADER_TABLE_SIZE, 0)
    + SETTING.pack(MAX_CONCURRENT_STREAMS, MAX_STREAMS)
    + SETTING.pack(INITIAL_WINDOW_SIZE, STREAM_WINDOW),
) + frame(WINDOW_UPDATE, 0, 0, WORD.pack(CONNECTION_WINDOW - FIRST_WINDOW))


class Connection(asyncio.Protocol):
    def __init__(self, server: GrpcServer, methods: Methods) -> None:
        self._server = server
        self._unary = methods.unary
        self._streams = methods.streams
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._timer: asyncio.TimerHandle | None = None
        self._in = bytearray()
        self._greeted = False
        self._headers: tuple[int, int, bytearray] | None = None
        self._decoder = Decoder()
        self._out: list[bytes] = []
        self._calls: dict[int, Call] = {}
        self._last = 0
        self._going = False
        self._room = CONNECTION_WINDOW
        """What the client may still send."""
        self._credit = 0
        """What was handed to handlers, but not yet given back to the client."""
        self._window = FIRST_WINDOW
        self._stream_window = FIRST_WINDOW
        self._blocked: dict[int, Call] = {}

    # asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are none of asyncio's classes
        self._server.connections.add(self)
        peer = transport.get_extra_info("socket")
        if peer is not None and peer.family in (socket.AF_INET, socket.AF_INET6):
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._timer = self._loop.call_later(PREFACE_SECONDS, self._transport.close)
        self._write(_SETTINGS)

    def connection_lost(self, error: Exception | None) -> None:
        self._server.left(self)
        if self._timer is not None:
            self._timer.cancel()
        for call in list(self._calls.values()):
            self._drop(call)
        self._out.clear()

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        """A peer that does not read is not read from."""
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        if self._transport.is_closing():
            return
        buffer = self._in
        buffer += data
        try:
            if not self._greeted:
                if not PREFACE.startswith(buffer[: len(PREFACE)]):
                    raise ConnectionFailed(PROTOCOL_ERROR, "this is not HTTP/2")
                if len(buffer) < len(PREFACE):
                    return
                self._greeted = True
                assert self._timer is not None
                self._timer.cancel()
                del buffer[: len(PREFACE)]
            at, end = 0, len(buffer)
            while end - at >= 9:
                high, low, kind, flags, number = HEAD.unpack_from(buffer, at)
                length = high << 8 | low
                if length > FRAME_BYTES:
                    raise ConnectionFailed(FRAME_SIZE_ERROR, f"a frame of {length} bytes")
                if end - at < 9 + length:
                    break
                self._frame(kind, flags, number & MAX_WINDOW, bytes(buffer[at + 9 : at + 9 + length]))
                at += 9 + length
            del buffer[:at]
        except ConnectionFailed as e:
            self._fail(e.code, str(e))
        except HeaderError as e:
            self._fail(COMPRESSION_ERROR, str(e))

    # frames in

    def _frame(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if self._headers is not None and kind != CONTINUATION:
            raise ConnectionFailed(PROTOCOL_ERROR, "a header block was interrupted")
        if kind == DATA:
            self._data(flags, number, payload)
        elif kind == HEADERS:
            payload = unpadded(flags, payload)
            if flags & PRIORITIZED:
                payload = payload[5:]
            self._header_block(flags, number, flags & END_STREAM, bytearray(payload))
        elif kind == CONTINUATION:
            if self._headers is None or self._headers[0] != number:
                raise ConnectionFailed(PROTOCOL_ERROR, "a continuation of nothing")
            _, end_stream, block = self._headers
            if len(block) + len(payload) > MAX_HEADER_BYTES:
                raise ConnectionFailed(ENHANCE_YOUR_CALM, "the headers are too long")
            block += payload
            self._header_block(flags, number, end_stream, block)
        elif kind == WINDOW_UPDATE:
            self._window_update(number, word(payload))
        elif kind == PING:
            if len(payload) != 8:
                raise ConnectionFailed(FRAME_SIZE_ERROR, "a ping is 8 bytes")
            if not flags & ACK:
                self._write(frame(PING, ACK, 0, payload))
        elif kind == SETTINGS:
            if not flags & ACK:
                self._settings(payload)
        elif kind == RST_STREAM:
            word(payload)
            if number > self._last or number == 0:
                raise ConnectionFailed(PROTOCOL_ERROR, "a reset of a stream that was not opened")
            if (call := self._calls.get(number)) is not None:
                self._drop(call)
        elif kind == PUSH_PROMISE:
            raise ConnectionFailed(PROTOCOL_ERROR, "a client cannot push")
        # GOAWAY: the client opens no more streams and closes by itself. PRIORITY and unknown frames say nothing to us.

    def _settings(self, payload: bytes) -> None:
        if len(payload) % SETTING.size:
            raise ConnectionFailed(FRAME_SIZE_ERROR, "settings of a wrong size")
        for name, value in SETTING.iter_unpack(payload):
            if name == INITIAL_WINDOW_SIZE:
                if value > MAX_WINDOW:
                    raise ConnectionFailed(FLOW_CONTROL_ERROR, "the window is too large")
                more = value - self._stream_window
                self._stream_window = value
                for call in list(self._calls.values()):
                    call.window += more
        self._write(frame(SETTINGS, ACK, 0))
        self._unblock()

    def _window_update(self, number: int, more: int) -> None:
        if number == 0:
            self._window += more
            if more == 0 or self._window > MAX_WINDOW:
                raise ConnectionFailed(FLOW_CONTROL_ERROR, "the connection's window is wrong")
        elif (call := self._calls.get(number)) is not None:
            call.window += more
            if more == 0 or call.window > MAX_WINDOW:
                self._reset(call, FLOW_CONTROL_ERROR)
        if self._blocked:
            self._unblock()

    def _header_block(self, flags: int, number: int, end_stream: int, block: bytearray) -> None:
        if not flags & END_HEADERS:
            self._headers = (number, end_stream, block)
            return
        self._headers = None
        fields = self._decoder.decode(bytes(block))
        call = self._calls.get(number)
        if call is not None:  # trailers
            if not end_stream or call.ended:
                raise ConnectionFailed(PROTOCOL_ERROR, "headers in the middle of a call")
            self._end(call)
            return
        if number % 2 == 0:
            raise ConnectionFailed(PROTOCOL_ERROR, "a client's streams are odd")
        if number <= self._last:
            raise ConnectionFailed(STREAM_CLOSED, "headers on a closed stream")
        self._last = number
        if self._going or len(self._calls) >= MAX_STREAMS:
            self._write(frame(RST_STREAM, 0, number, WORD.pack(REFUSED_STREAM)))
            return
        self._calls[number] = call = Call(self, number, self._stream_window)
        self._open(call, fields, bool(end_stream))

    def _open(self, call: Call, fields: Fields, ended: bool) -> None:
        path = b""
        is_grpc = encoded = False
        for name, value in fields:
            if name == b":path":
                path = value
            elif name == b"content-type":
                is_grpc = value.startswith(b"application/grpc")
            elif name == b"grpc-encoding":
                encoded = value != b"identity"
        call.ended = ended
        if not is_grpc:
            self._write(frame(HEADERS, END_HEADERS | END_STREAM, call.number, _NOT_GRPC))
            self._finish(call)
        elif encoded:
            self.end(call, Code.UNIMPLEMENTED, "compressed messages are not implemented")
        elif (unary := self._unary.get(path)) is not None:
            call.unary = unary
            if ended:
                self._end(call)
        elif (stream := self._streams.get(path)) is not None:
            call.task = self._loop.create_task(self._run_stream(call, stream))
        else:
            self.end(call, Code.UNIMPLEMENTED, f"unknown method {path.decode(errors='replace')}")

    def _data(self, flags: int, number: int, payload: bytes) -> None:
        size = len(payload)
        self._room -= size
        if self._room < 0:
            raise ConnectionFailed(FLOW_CONTROL_ERROR, "more data than the window allows")
        if flags & PADDED:
            payload = unpadded(flags, payload)
        call = self._calls.get(number)
        if call is None:
            if number > self._last or number == 0:
                raise ConnectionFailed(PROTOCOL_ERROR, "data on a stream that was not opened")
            self._give_back(size)  # the call ended meanwhile
            return
        if call.ended:
            raise ConnectionFailed(STREAM_CLOSED, "data behind the end of a stream")
        self._give_back(size - len(payload))
        call.incoming += payload
        if not self._parse(call):
            return
        if flags & END_STREAM:
            self._end(call)
        elif call.unary is None:
            call.wake()

    def _parse(self, call: Call) -> bool:
        """Cut what came into messages. False when the call was refused for them."""
        incoming = call.incoming
        while len(incoming) >= LENGTH.size:
            compressed, length = LENGTH.unpack_from(incoming)
            if compressed:
                self.end(call, Code.UNIMPLEMENTED, "compressed messages are not implemented")
                return False
            if length > MAX_MESSAGE_BYTES:
                text = f"grpc: received message larger than max ({length} vs. {MAX_MESSAGE_BYTES})"
                self.end(call, Code.RESOURCE_EXHAUSTED, text)
                return False
            end = LENGTH.size + length
            if len(incoming) < end:
                break
            call.messages.append(bytes(incoming[LENGTH.size : end]))
            del incoming[:end]
        return True

    def _end(self, call: Call) -> None:
        """The client has said everything."""
        call.ended = True
        if call.unary is None:
            call.wake()
        elif call.incoming or len(call.messages) != 1:
            self.end(call, Code.INTERNAL, "the request is not one message")
        else:
            message = call.messages.popleft()
            self._give_back(len(message) + LENGTH.size)
            call.task = self._loop.create_task(self._run_unary(call, call.unary, message))

    def consumed(self, call: Call, size: int) -> None:
        """A handler has taken ``size`` bytes of a streaming call."""
        self._give_back(size)
        call.credit += size
        if call.credit >= CREDIT_BYTES and not call.ended:
            self._write(frame(WINDOW_UPDATE, 0, call.number, WORD.pack(call.credit)))
            call.credit = 0

    def _give_back(self, size: int) -> None:
        self._credit += size
        if self._credit >= STREAM_WINDOW // 4:
            self._write(frame(WINDOW_UPDATE, 0, 0, WORD.pack(self._credit)))
            self._room += self._credit
            self._credit = 0

    # handlers

    async def _run_unary(self, call: Call, handler: Unary, message: bytes) -> None:
        try:
            response = await handler(message)
        except Status as e:
            self.end(call, e.code, str(e))
        except Exception:
            log.exception("a call failed")
            self.end(call, Code.UNKNOWN, "internal error")
        else:
            self._answer(call, response)

    async def _run_stream(self, call: Call, handler: Callable[[Call], Awaitable[None]]) -> None:
        try:
            await handler(call)
        except Status as e:
            self.end(call, e.code, str(e))
        except Exception:
            log.exception("a call failed")
            self.end(call, Code.UNKNOWN, "internal error")
        else:
            self.end(call, Code.OK)

    # frames out

    def _answer(self, call: Call, message: bytes) -> None:
        """The whole answer of a unary call; in one piece where it fits."""
        size = len(message) + LENGTH.size
        if size > FRAME_BYTES or size > call.window or size > self._window:
            self.send(call, message)
            self.end(call, Code.OK)
            return
        self._window -= size
        number = call.number
        self._write(
            HEAD.pack(0, len(_RESPONSE), HEADERS, END_HEADERS, number)
            + _RESPONSE
            + HEAD.pack(size >> 8, size & 0xFF, DATA, 0, number)
            + LENGTH.pack(0, size - LENGTH.size)
            + message
            + HEAD.pack(0, len(_OK), HEADERS, END_HEADERS | END_STREAM, number)
            + _OK
        )
        self._finish(call)

    def send(self, call: Call, message: bytes) -> None:
        if call.number not in self._calls:
            return
        if not call.answered:
            call.answered = True
            self._write(frame(HEADERS, END_HEADERS, call.number, _RESPONSE))
        size = len(message) + LENGTH.size
        if size <= FRAME_BYTES and size <= call.window and size <= self._window and not call.unsent:
            call.window -= size
            self._window -= size
            self._write(frame(DATA, 0, call.number, LENGTH.pack(0, len(message)) + message))
            return
        call.unsent += LENGTH.pack(0, len(message))
        call.unsent += message
        self._push(call)

    def end(self, call: Call, code: Code, message: str = "") -> None:
        """Close the call behind what it has still to send."""
        if call.number not in self._calls or call.trailers is not None:
            return
        call.trailers = _trailers(code, message)
        if not call.answered:
            call.trailers = _RESPONSE + call.trailers
        if not call.unsent:
            self._close(call)

    def _push(self, call: Call) -> None:
        """Send what the windows allow."""
        unsent = call.unsent
        room = min(call.window, self._window, len(unsent))
        at = 0
        while at < room:
            size = min(FRAME_BYTES, room - at)
            self._write(frame(DATA, 0, call.number, bytes(unsent[at : at + size])))
            at += size
        if at:
            del unsent[:at]
            call.window -= at
            self._window -= at
        self._blocked.pop(call.number, None)
        if unsent:
            self._blocked[call.number] = call
        elif call.trailers is not None:
            self._close(call)
            return
        call.wake()

    def _unblock(self) -> None:
        for call in list(self._blocked.values()):
            if self._window <= 0:
                break
            self._push(call)

    def _close(self, call: Call) -> None:
        assert call.trailers is not None
        self._write(frame(HEADERS, END_HEADERS | END_STREAM, call.number, call.trailers))
        self._finish(call)

    def _reset(self, call: Call, code: int) -> None:
        self._write(frame(RST_STREAM, 0, call.number, WORD.pack(code)))
        self._drop(call)

    def _finish(self, call: Call) -> None:
        """The answer is complete."""
        if not call.ended:
            self._write(frame(RST_STREAM, 0, call.number, WORD.pack(NO_ERROR)))
        self._forget(call)

    def _drop(self, call: Call) -> None:
        """Nobody wants the answer any more."""
        self._forget(call)
        if call.task is not None:
            call.task.cancel()

    def _forget(self, call: Call) -> None:
        del self._calls[call.number]
        self._blocked.pop(call.number, None)
        if left := len(call.incoming) + sum(len(m) + LENGTH.size for m in call.messages):
            self._give_back(left)
        call.unsent.clear()
        call.wake()
        if self._going and not self._calls:
            self._loop.call_soon(self._transport.close)

    def _write(self, data: bytes) -> None:
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(data)

    def _flush(self) -> None:
        out, self._out = self._out, []
        if out and not self._transport.is_closing():
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))

    # the end

    def _fail(self, code: int, reason: str) -> None:
        log.debug("a connection is closed: %s", reason)
        self._go_away(code, reason)
        self._flush()
        self._transport.close()

    def _go_away(self, code: int, reason: str) -> None:
        self._write(frame(GOAWAY, 0, 0, WORD.pack(self._last) + WORD.pack(code) + reason.encode()))

    def shut_down(self) -> None:
        """Take no new calls, end streaming ones, close when the others are answered."""
        self._going = True
        self._go_away(NO_ERROR, "")
        for call in list(self._calls.values()):
            if call.unary is None:
                call.unsent.clear()
                self.end(call, Code.UNAVAILABLE, "the server is stopping")
                if call.task is not None:
                    call.task.cancel()
        if not self._calls:
            self._flush()
            self._transport.close()

    def abort(self) -> None:
        self._transport.abort()


class GrpcServer:
    """Answers ``methods`` on the sockets it was told to listen on."""

    def __init__(self, methods: Methods) -> None:
        self._methods = methods
        self._servers: list[asyncio.AbstractServer] = []
        self.connections: set[Connection] = set()
        self._gone: asyncio.Future[None] | None = None

    def _connection(self) -> Connection:
        return Connection(self, self._methods)

    def left(self, connection: Connection) -> None:
        self.connections.discard(connection)
        if not self.connections and self._gone is not None and not self._gone.done():
            self._gone.set_result(None)

    async def listen_unix(self, path: str) -> None:
        """Only this user may connect. A socket that is left over at ``path`` is replaced. Raises OSError."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            listener.bind(path)
            os.chmod(path, 0o600)
            server = await asyncio.get_running_loop().create_unix_server(self._connection, sock=listener, backlog=BACKLOG)
        except BaseException:
            listener.close()
            raise
        self._servers.append(server)

    async def listen_tcp(self, host: str | None, port: int, context: ssl.SSLContext | None = None) -> None:
        """Raises OSError."""
        loop = asyncio.get_running_loop()
        self._servers.append(await loop.create_server(self._connection, host, port, ssl=context, backlog=BACKLOG))

    async def stop(self, seconds: float) -> None:
        """End streaming calls; what else is under way has ``seconds`` to be answered."""
        for server in self._servers:
            server.close()
        self._servers.clear()
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        for connection in tuple(self.connections):
            connection.shut_down()
        if self.connections:
            self._gone = loop.create_future()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(until):
                    await self._gone
        for connection in tuple(self.connections):
            connection.abort()
