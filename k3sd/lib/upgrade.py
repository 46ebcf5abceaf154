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
MAX_REFUSAL_BYTES = 64 * 1024
CONNECT_SECONDS = 30.0
IDLE_SECONDS = 4 * 3600.0

_NOT_FORWARDED = frozenset((b"host", b"authorization", b"cookie", b"content-length", b"transfer-encoding"))


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
    idle_seconds: float = IDLE_SECONDS,
) -> web.StreamResponse:
    """Send ``request`` to ``target`` (path and query) of the backend with its headers, except credentials, plus ``headers``.

    Returns the backend's refusal, or, when the tunnel has ended, a response that is already done. Raises BackendError.
    """
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            _, backend = await loop.create_connection(
                _Side, host, port, ssl=ssl_context, server_hostname=server_hostname if ssl_context else None
            )
    except (OSError, TimeoutError) as error:
        raise BackendError(f"connecting to {host}:{port}: {error or type(error).__name__}") from error
    assert backend.transport is not None
    try:
        backend.transport.write(_head(request, host, port, target, headers))
        head, status = await _read_head(backend)
        if status != 101:
            return await _refusal(backend, head, status)
        return await _tunnel(request, backend, head, idle_seconds)
    finally:
        backend.transport.close()


def _head(request: web.BaseRequest, host: str, port: int, target: str, headers: Iterable[tuple[str, str]]) -> bytes:
    extra = [(name.encode(), value.encode()) for name, value in headers]
    replaced = _NOT_FORWARDED | {name.lower() for name, _ in extra}
    lines = [f"{request.method} {target} HTTP/1.1".encode(), f"Host: {host}:{port}".encode()]
    lines += [name + b": " + value for name, value in request.raw_headers if name.lower() not in replaced]
    lines += [name + b": " + value for name, value in extra]
    if request.method != "GET":
        lines.append(b"Content-Length: 0")
    return b"\r\n".join(lines) + b"\r\n\r\n"


async def _read_head(backend: _Side) -> tuple[bytes, int]:
    """The response head with its blank line, and the status; what follows stays in ``received``."""
    async with asyncio.timeout(CONNECT_SECONDS):
        while (end := backend.received.find(b"\r\n\r\n")) < 0:
            if backend.lost.is_set() or len(backend.received) > MAX_HEAD_BYTES:
                raise BackendError("the backend closed the connection or did not answer with HTTP")
            backend.arrived.clear()
            await backend.arrived.wait()
    head = bytes(backend.received[: end + 4])
    del backend.received[: end + 4]
    parts = head.split(b" ", 2)
    if not head.startswith(b"HTTP/1.") or len(parts) < 2 or not parts[1][:3].isdigit():
        raise BackendError("the backend did not answer with HTTP")
    return head, int(parts[1][:3])


async def _refusal(backend: _Side, head: bytes, status: int) -> web.Response:
    """The backend's answer as a plain response; its body is short or cut."""
    fields: dict[str, str] = {}
    for line in head.decode("latin-1").split("\r\n")[1:]:
        name, colon, value = line.partition(":")
        if colon:
            fields[name.strip().lower()] = value.strip()
    length = int(fields["content-length"]) if fields.get("content-length", "").isdigit() else MAX_REFUSAL_BYTES
    wanted = min(length, MAX_REFUSAL_BYTES)
    with contextlib.suppress(TimeoutError):
        # Without a length only the end of the connection ends the body; some servers keep it open.
        async with asyncio.timeout(CONNECT_SECONDS if "content-length" in fields else 1.0):
            while len(backend.received) < wanted and not backend.lost.is_set():
                backend.arrived.clear()
                await backend.arrived.wait()
    response = web.Response(status=status, body=bytes(backend.received[:wanted]))
    for name in ("Content-Type", "X-Accepted-Stream-Protocol-Versions"):
        if given := fields.get(name.lower()):
            response.headers[name] = given
    return response


async def _tunnel(request: web.BaseRequest, backend: _Side, head: bytes, idle_seconds: float) -> web.StreamResponse:
    transport = request.transport
    if transport is None or transport.is_closing():
        return _Taken()
    client = _Side()
    client.connection_made(transport)
    handler = request.protocol
    transport.set_protocol(client)
    loop = asyncio.get_running_loop()
    client.last_heard = backend.last_heard = loop.time()

    def check_idle() -> None:
        quiet = loop.time() - max(client.last_heard, backend.last_heard)
        if quiet >= idle_seconds:
            transport.close()
        else:
            timers[0] = loop.call_later(idle_seconds - quiet, check_idle)

    timers = [loop.call_later(idle_seconds, check_idle)]
    try:
        transport.write(head)
        client.join(backend)
        if backend.lost.is_set():
            transport.close()
        await client.lost.wait()
    finally:
        timers[0].cancel()
        transport.close()
        # aiohttp waits for this of the protocol it made, which does not hear it any more.
        handler.connection_lost(None)
    return _Taken()
