"""Pass an upgraded connection (SPDY, websocket) of an aiohttp server on to another server, byte for byte.

The upgrade request goes to the backend with the client's own headers. A refusal comes back as an ordinary response; after 101
both sides are joined without looking at what they say. aiohttp's own upgrade support knows only websockets and, in later
releases, refuses others, so the connection is taken from it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Iterable
from typing import cast

from aiohttp import web

MAX_HEAD_BYTES = 64 * 1024
MAX_REFUSAL_BYTES = 1024 * 1024
CONNECT_SECONDS = 30.0
IDLE_SECONDS = 4 * 3600.0

_NOT_FORWARDED = frozenset((b"host", b"authorization", b"content-length", b"transfer-encoding", b"expect"))
_HOP_BY_HOP = frozenset(("connection", "content-length", "date", "keep-alive", "transfer-encoding", "upgrade"))
_END = b"\r\n\r\n"


class BackendError(Exception):
    """The backend could not be reached or did not speak HTTP."""


class _Side(asyncio.Protocol):
    """One end of the tunnel. Before ``join`` it collects what arrives; afterwards it hands it to the other end."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.peer: _Side | None = None
        self.received = bytearray()
        self.arrived = asyncio.Event()
        self.lost = asyncio.Event()
        self.last_heard = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not isinstance: uvloop's transports are none of asyncio's classes.
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self.peer is None:
            self.received += data
            self.arrived.set()
            if len(self.received) > MAX_HEAD_BYTES + MAX_REFUSAL_BYTES and self.transport is not None:
                self.transport.pause_reading()
            return
        self.last_heard = asyncio.get_running_loop().time()
        if self.peer.transport is not None:
            self.peer.transport.write(data)

    def pause_writing(self) -> None:
        # What fills up here is slowed down at its source.
        if self.peer is not None and self.peer.transport is not None:
            with contextlib.suppress(RuntimeError):
                self.peer.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.peer is not None and self.peer.transport is not None:
            with contextlib.suppress(RuntimeError):
                self.peer.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()
        self.arrived.set()
        if self.peer is not None and self.peer.transport is not None:
            self.peer.transport.close()

    async def more(self) -> None:
        """Wait for bytes or the end of the connection."""
        self.arrived.clear()
        if not self.lost.is_set():
            await self.arrived.wait()

    def join(self, peer: _Side) -> None:
        """Connect both ways and deliver what was collected."""
        self.peer, peer.peer = peer, self
        for side in (self, peer):
            data, side.received = bytes(side.received), bytearray()
            if data:
                side.data_received(data)
            if side.transport is not None:
                with contextlib.suppress(RuntimeError):
                    side.transport.resume_reading()


class _Taken(web.Response):
    """What a handler returns after the connection was taken: aiohttp must not write anything."""

    def __init__(self) -> None:
        super().__init__(status=101)

    async def prepare(self, request: web.BaseRequest) -> None:
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        return None


async def forward_upgrade(
    request: web.BaseRequest,
    host: str,
    port: int,
    target: str,
    *,
    ssl_context: ssl.SSLContext | None = None,
    server_hostname: str | None = None,
    headers: Iterable[tuple[str, str]] = (),
    without: str | None = None,
    idle_seconds: float | None = IDLE_SECONDS,
) -> web.Response:
    """Send ``request`` to ``target`` (path and query) of the backend with its headers, except credentials and those whose
    lower-case name begins with ``without``, plus ``headers``. ``idle_seconds`` None lets a silent tunnel stand.

    Returns the backend's refusal, or, when the tunnel has ended, a response with status 101 that is already done. Raises
    BackendError.
    """
    loop = asyncio.get_running_loop()
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            _, backend = await loop.create_connection(
                _Side, host, port, ssl=ssl_context, server_hostname=server_hostname if ssl_context else None
            )
    except (OSError, TimeoutError) as error:
        raise BackendError(f"dial tcp {address}: {str(error) or 'i/o timeout'}") from error
    assert backend.transport is not None
    try:
        backend.transport.write(_head(request, address, target, headers, without))
        head, status = await _read_head(backend)
        if status != 101:
            return await _refusal(backend, head, status)
        return await _tunnel(request, backend, head, idle_seconds)
    finally:
        backend.transport.close()


def _head(
    request: web.BaseRequest, address: str, target: str, headers: Iterable[tuple[str, str]], without: str | None
) -> bytes:  # fmt: skip
    extra = [(name.encode(), value.encode()) for name, value in headers]
    replaced = _NOT_FORWARDED | {name.lower() for name, _ in extra}
    lines = [f"{request.method} {target} HTTP/1.1".encode("utf-8", "surrogateescape"), f"Host: {address}".encode()]
    lines += [
        name + b": " + value
        for name, value in request.raw_headers
        if name.lower() not in replaced and not (without and name.lower().startswith(without.encode()))
    ]
    lines += [name + b": " + value for name, value in extra]
    if request.method not in ("GET", "HEAD"):
        lines.append(b"Content-Length: 0")
    return b"\r\n".join(lines) + _END


async def _read_head(backend: _Side) -> tuple[bytes, int]:
    """The response head with its blank line, and the status; what follows stays in ``received``."""
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            while (end := backend.received.find(_END)) < 0:
                if backend.lost.is_set() or len(backend.received) > MAX_HEAD_BYTES:
                    raise BackendError("the backend closed the connection or did not answer with HTTP")
                await backend.more()
    except TimeoutError as error:
        raise BackendError("the backend does not answer") from error
    head = bytes(backend.received[: end + len(_END)])
    del backend.received[: end + len(_END)]
    parts = head.split(b" ", 2)
    if not head.startswith(b"HTTP/1.") or len(parts) < 2 or not parts[1][:3].isdigit():
        raise BackendError("the backend did not answer with HTTP")
    return head, int(parts[1][:3])


async def _refusal(backend: _Side, head: bytes, status: int) -> web.Response:
    """The backend's answer as a plain response; its body is short or cut."""
    lines = (line.partition(":") for line in head.decode("latin-1").split("\r\n")[1:])
    fields = [(name.strip(), value.strip()) for name, colon, value in lines if colon]
    named = {name.lower(): value for name, value in fields}
    chunked = "chunked" in named.get("transfer-encoding", "").lower()
    length = int(named["content-length"]) if named.get("content-length", "").isdigit() else MAX_REFUSAL_BYTES
    wanted = min(length, MAX_REFUSAL_BYTES)
    with contextlib.suppress(TimeoutError):
        # Where nothing says how long the body is only the end of the connection ends it; some servers keep it open.
        async with asyncio.timeout(CONNECT_SECONDS if chunked or "content-length" in named else 1.0):
            while len(backend.received) < wanted and not backend.lost.is_set():
                if chunked and backend.received.endswith(b"0\r\n\r\n"):
                    break
                await backend.more()
    body = bytes(backend.received[:wanted])
    response = web.Response(status=status, body=_dechunk(body) if chunked else body)
    response.headers.extend((name, value) for name, value in fields if name.lower() not in _HOP_BY_HOP)
    return response


def _dechunk(body: bytes) -> bytes:
    out = bytearray()
    while body:
        size_text, found, body = body.partition(b"\r\n")
        try:
            size = int(size_text.split(b";")[0], 16)
        except ValueError:
            break
        if not found or size == 0:
            break
        out += body[:size]
        body = body[size + 2 :]
    return bytes(out)


async def _tunnel(request: web.BaseRequest, backend: _Side, head: bytes, idle_seconds: float | None) -> web.Response:
    transport = request.transport
    if transport is None or transport.is_closing():
        return _Taken()
    client = _Side()
    client.connection_made(transport)
    handler = request.protocol
    # What the client sent behind its request without waiting for the answer.
    client.received += handler._message_tail
    handler._message_tail = b""
    transport.set_protocol(client)
    loop = asyncio.get_running_loop()
    client.last_heard = backend.last_heard = loop.time()

    def check_idle(idle_seconds: float) -> None:
        quiet = loop.time() - max(client.last_heard, backend.last_heard)
        if quiet >= idle_seconds:
            transport.close()
        else:
            timers[0] = loop.call_later(idle_seconds - quiet, check_idle, idle_seconds)

    timers = [] if idle_seconds is None else [loop.call_later(idle_seconds, check_idle, idle_seconds)]
    try:
        transport.write(head)
        client.join(backend)
        if backend.lost.is_set():
            transport.close()
        await client.lost.wait()
    finally:
        for timer in timers:
            timer.cancel()
        transport.close()
        # aiohttp waits for this of the protocol it made, which does not hear it any more.
        handler.connection_lost(None)
    return _Taken()
