"""aiohttp's low-level server with what an API server needs of a connection: the client certificate, word when the client
leaves, and a short way for the reads that make up most of the load.

Clients repeat their headers byte by byte. When aiohttp has parsed a GET once, the server may leave a ``FastPath`` behind: the
next request on this connection whose header block is equal is answered in the same turn of the loop, without parsing and
without a task. Everything else, and every failure, takes aiohttp's way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

KEEPALIVE_SECONDS = 300.0
MAX_LINE = 64 * 1024
MAX_HEADER_FIELD = 64 * 1024
MAX_FAST_HEAD = 8 * 1024
SLICE = 256 * 1024
"""Large bodies are given to TLS in parts, so that the encrypted copy stays in the processor's cache."""

_END = b"\r\n\r\n"


@dataclass(slots=True)
class FastPath:
    """``block`` is everything behind the request line's end; ``answer`` takes the request target and gives the parts to write,
    or None when the request must go the long way."""

    block: bytes
    answer: Callable[[str], Sequence[bytes] | None]


class Connection(RequestHandler):
    """One client connection. ``certificate`` is the verified client certificate (DER), read once. ``on_lost`` is called when
    the client is gone, for requests that wait for something else."""

    def __init__(self, manager: web.Server, *, loop: asyncio.AbstractEventLoop, **kwargs: Any) -> None:
        super().__init__(manager, loop=loop, **kwargs)
        self.certificate: bytes | None = None
        self.on_lost: Callable[[], object] | None = None
        self.fast: FastPath | None = None
        self.block = b""
        self._partial = False
        self._last_fast = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        tls = transport.get_extra_info("ssl_object")
        if tls is not None:
            self.certificate = tls.getpeercert(binary_form=True)

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self.fast = None
        if self.on_lost is not None:
            self.on_lost()
            self.on_lost = None

    def data_received(self, data: bytes) -> None:
        waiter = self._waiter
        idle = waiter is not None and not waiter.done() and not self._messages
        fast = self.fast
        if fast is not None and idle and not self._partial and data.endswith(_END) and self._answer_fast(data, fast):
            return
        get = idle and not self._partial and data.startswith(b"GET ") and len(data) <= MAX_FAST_HEAD
        self.block = bytes(data[data.index(b"\r\n") :]) if get and data.find(_END) == len(data) - 4 else b""
        super().data_received(data)
        # Nothing came out of an idle connection's parser: it holds the beginning of a head.
        self._partial = idle and not self._messages and waiter is not None and not waiter.done()

    def _answer_fast(self, data: bytes, fast: FastPath) -> bool:
        at = data.find(b"\r\n")
        if data[at:] != fast.block or not data.startswith(b"GET /") or self._close or self._force_close:
            return False
        parts = fast.answer(data[4 : at - 9].decode("latin-1")) if data.endswith(b" HTTP/1.1", 0, at) else None
        transport = self.transport
        if parts is None or transport is None:
            return False
        self._last_fast = self._loop.time()
        write_parts(transport, parts)
        return True

    def _process_keepalive(self) -> None:
        idle = self._loop.time() - self._last_fast
        if self._last_fast and idle < KEEPALIVE_SECONDS:
            self._keepalive_handle = self._loop.call_later(KEEPALIVE_SECONDS - idle, self._process_keepalive)
            return
        super()._process_keepalive()


def write_parts(transport: asyncio.Transport, parts: Sequence[bytes]) -> None:
    """Write a head and a body."""
    if sum(map(len, parts)) <= SLICE:
        transport.write(b"".join(parts))
        return
    for part in parts:
        if len(part) <= SLICE:
            transport.write(part)
        else:
            view = memoryview(part)
            for at in range(0, len(part), SLICE):
                transport.write(view[at : at + SLICE])


class Server(web.Server):
    """Makes ``Connection``s."""

    def __call__(self) -> RequestHandler:
        return Connection(self, loop=self._loop, **self._kwargs)


def make_server(handler: Any) -> Server:
    """``handler`` takes aiohttp's BaseRequest."""
    return Server(
        handler,
        keepalive_timeout=KEEPALIVE_SECONDS,
        access_log=None,
        max_line_size=MAX_LINE,
        max_field_size=MAX_HEADER_FIELD,
        auto_decompress=True,
    )
