"""Raw upgrade tunnels: after ``101 Switching Protocols`` every byte goes through untouched, in both directions (SPDY and
websocket alike).

Upstream: ``apimachinery/pkg/util/proxy/upgradeaware.go``.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from k3sd.apiserver.responses import Answer

MAX_HEAD = 64 * 1024
MAX_REFUSAL = 1024 * 1024
DIAL_SECONDS = 30.0
REFUSAL_SECONDS = 10.0
_END = b"\r\n\r\n"


class TunnelError(ConnectionError):
    """The other side cannot be reached or does not speak HTTP."""


class End(asyncio.Protocol):
    """One end of a tunnel. Until ``join`` it collects bytes (the head of the answer)."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.peer: End | None = None
        self.early = bytearray()
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._arrived = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        peer = self.peer
        if peer is None:
            self.early += data
            self._arrived.set()
        elif peer.transport is not None:
            peer.transport.write(data)

    def eof_received(self) -> bool:
        self._arrived.set()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._arrived.set()
        if self.peer is not None and self.peer.transport is not None:
            self.peer.transport.close()
        if not self.closed.done():
            self.closed.set_result(None)

    def pause_writing(self) -> None:
        if self.peer is not None and self.peer.transport is not None:
            self.peer.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.peer is not None and self.peer.transport is not None:
            self.peer.transport.resume_reading()

    async def head(self) -> tuple[bytes, bytes]:
        """The head of an HTTP answer and what came behind it. Raises TunnelError."""
        while True:
            at = self.early.find(_END)
            if at >= 0:
                head, rest = bytes(self.early[: at + 4]), bytes(self.early[at + 4 :])
                self.early.clear()
                return head, rest
            if self.transport is None or len(self.early) > MAX_HEAD:
                raise TunnelError("the connection ended before an HTTP answer")
            await self.more()

    async def more(self) -> None:
        """Wait for bytes or the end of the connection."""
        self._arrived.clear()
        if self.transport is not None:
            await self._arrived.wait()

    def join(self, peer: End) -> None:
        """From now on bytes go to ``peer``."""
        self.peer, peer.peer = peer, self


@dataclass(frozen=True, slots=True)
class Target:
    """Where to connect. ``server_name`` is what the certificate must say."""

    host: str
    port: int
    ssl: ssl.SSLContext | None = None
    server_name: str = ""


async def dial(target: Target) -> End:
    """Raises TunnelError."""
    loop = asyncio.get_running_loop()
    name = (target.server_name or target.host) if target.ssl else None
    try:
        async with asyncio.timeout(DIAL_SECONDS):
            _, end = await loop.create_connection(End, target.host, target.port, ssl=target.ssl, server_hostname=name)
    except (OSError, ssl.SSLError, TimeoutError) as error:
        text = str(error) or "i/o timeout"
        raise TunnelError(f"error dialing backend: dial tcp {target.host}:{target.port}: {text}") from None
    return end


def build_request(request: web.BaseRequest, path: str, host: str, extra: list[tuple[str, str]]) -> bytes:
    """The client's upgrade request for the backend: same headers, without its credentials."""
    lines = [f"{request.method} {path} HTTP/1.1", f"Host: {host}"]
    for name, value in request.headers.items():
        if name.lower() not in ("host", "authorization", "content-length", "expect") and not name.lower().startswith(
            "impersonate-"
        ):
            lines.append(f"{name}: {value}")
    lines += [f"{name}: {value}" for name, value in extra]
    if request.method not in ("GET", "HEAD"):
        lines.append("Content-Length: 0")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape")


async def upgrade(request: web.BaseRequest, target: Target, path: str, extra: list[tuple[str, str]] | None = None) -> Any:
    """Pass the client's upgrade request on and join both connections when the backend agrees; its refusal is answered as it is.

    Returns a response for aiohttp when the tunnel has ended. Raises TunnelError.
    """
    backend = await dial(target)
    assert backend.transport is not None
    connection: Any = request.protocol
    try:
        host = f"[{target.host}]" if ":" in target.host else target.host
        backend.transport.write(build_request(request, path, f"{host}:{target.port}", extra or []))
        head, rest = await backend.head()
        status = parse_status(head)
        if status != 101:
            return await _refusal(backend, status, head, rest)
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("the client is gone")
        client = End()
        client.transport = transport
        tail = connection._message_tail
        connection._message_tail = b""
        transport.set_protocol(client)
        client.join(backend)
        transport.write(head + rest)
        if backend.early:
            transport.write(bytes(backend.early))
        if tail:
            backend.transport.write(tail)
        transport.resume_reading() if not transport.is_reading() else None
        await client.closed
        # aiohttp's handler no longer gets the transport's events: let it clean up.
        connection.connection_lost(None)
        return Done()
    finally:
        if backend.transport is not None:
            backend.transport.close()


class Done:
    """What a handler returns when the connection is no longer HTTP."""

    status = 101
    keep_alive = False

    async def prepare(self, request: Any) -> None:
        """Nothing to write."""

    async def write_eof(self) -> None:
        """Nothing to write."""


def parse_status(head: bytes) -> int:
    parts = head.split(b" ", 2)
    if len(parts) < 2 or not parts[0].startswith(b"HTTP/1.") or not parts[1][:3].isdigit():
        raise TunnelError("the backend does not speak HTTP")
    return int(parts[1][:3])


def parse_headers(head: bytes) -> list[tuple[str, str]]:
    out = []
    for line in head.decode("latin-1").split("\r\n")[1:]:
        name, found, value = line.partition(":")
        if found:
            out.append((name.strip(), value.strip()))
    return out


async def _refusal(backend: End, status: int, head: bytes, rest: bytes) -> Answer:
    """The backend's answer in full: its body is short."""
    headers = parse_headers(head)
    named = {k.lower(): v for k, v in headers}
    body = bytearray(rest)
    length = int(named["content-length"]) if named.get("content-length", "").isdigit() else None
    try:
        async with asyncio.timeout(REFUSAL_SECONDS):
            while len(body) < MAX_REFUSAL and (length is None or len(body) < length):
                body += backend.early
                backend.early.clear()
                if backend.transport is None or (length is not None and len(body) >= length):
                    break
                if "chunked" in named.get("transfer-encoding", "") and body.endswith(b"0\r\n\r\n"):
                    break
                await backend.more()
    except TimeoutError:
        pass  # what has come so far says enough
    text = _dechunk(bytes(body)) if "chunked" in named.get("transfer-encoding", "") else bytes(body)
    kept = [
        (k, v)
        for k, v in headers
        if k.lower() not in ("content-length", "transfer-encoding", "connection", "content-type", "date", "keep-alive")
    ]
    return Answer(status, text[:MAX_REFUSAL], named.get("content-type", ""), kept, close=True)


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
