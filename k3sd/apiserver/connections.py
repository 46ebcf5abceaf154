"""aiohttp's low-level server with what an API server needs of a connection: the client certificate, word when the client
leaves, and a short way for the reads that make up most of the load.

Clients repeat their headers byte by byte. When aiohttp has parsed a GET once, the server may leave a ``FastPath`` behind: the
next request on this connection whose header block is equal is answered in the same turn of the loop, without parsing and
without a task. Everything else, and every failure, takes aiohttp's way.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from k3sd.lib.patience import PatientHandler, PatientServer

log = logging.getLogger(__name__)

KEEPALIVE_SECONDS = 300.0
MAX_LINE = 64 * 1024
MAX_HEADER_FIELD = 64 * 1024
MAX_FAST_HEAD = 8 * 1024
SLICE = 256 * 1024
"""Large bodies are given to TLS in parts, so that the encrypted copy stays in the processor's cache."""

_END = b"\r\n\r\n"
_LIGHT = frozenset({"POST", "PUT", "PATCH"})
MAX_HELD = 4 << 20


@dataclass(slots=True)
class FastPath:
    """``block`` is everything behind the request line's end; ``answer`` takes the request target and gives the parts to write,
    or None when the request must go the long way."""

    block: bytes
    answer: Callable[[str], Sequence[bytes] | None]


@dataclass(slots=True)
class LightPath:
    """The same for requests with a body: ``before`` and ``after`` surround the digits of Content-Length in the header block;
    ``headers`` is what aiohttp made of it."""

    before: bytes
    after: bytes
    headers: Any


class LightRequest:
    """What the handlers of API writes use of aiohttp's BaseRequest."""

    __slots__ = ("body", "headers", "method", "protocol", "raw_path", "transport")

    keep_alive = True

    def __init__(self, method: str, raw_path: str, headers: Any, body: bytes, protocol: Connection) -> None:
        self.method = method
        self.raw_path = raw_path
        self.headers = headers
        self.body = body
        self.protocol = protocol
        self.transport = protocol.transport

    @property
    def path(self) -> str:
        return self.raw_path.partition("?")[0]

    @property
    def writer(self) -> Any:
        return self

    async def drain(self) -> None:
        """Wait until the client has taken most of what was written."""
        await self.protocol._drain_helper()


class Connection(PatientHandler):
    """One client connection. ``certificate`` is the verified client certificate (DER), read once. ``on_lost`` is called when
    the client is gone, for requests that wait for something else."""

    def __init__(self, manager: web.Server, *, loop: asyncio.AbstractEventLoop, **kwargs: Any) -> None:
        super().__init__(manager, loop=loop, **kwargs)
        self.certificate: bytes | None = None
        self.on_lost: Callable[[], object] | None = None
        self.fast: FastPath | None = None
        self.block = b""
        self.light: LightPath | None = None
        self._last_fast = 0.0
        self._running: asyncio.Task[None] | None = None
        self._held = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        tls = transport.get_extra_info("ssl_object")
        if tls is not None:
            self.certificate = tls.getpeercert(binary_form=True)

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self.fast = self.light = None
        if self.on_lost is not None:
            self.on_lost()
            self.on_lost = None

    def data_received(self, data: bytes) -> None:
        if self._running is not None:
            self._held += data
            if len(self._held) > MAX_HELD:
                self.force_close()  # nobody pipelines that much
            return
        waiter = self._waiter
        idle = waiter is not None and not waiter.done() and not self._messages and not self._partial
        self.block = b""
        if idle:
            at = data.find(_END)
            if self._answer_at_once(data, at):
                return
            line = data.find(b"\r\n")
            if 0 < at <= MAX_FAST_HEAD:
                self.block = bytes(data[line : at + 4])
        super().data_received(data)

    def _answer_at_once(self, data: bytes, at: int) -> bool:
        """Answer a request that is here as a whole (its head ends at ``at``) and like one before. False: aiohttp's turn."""
        if self._close or self._force_close or at < 0:
            return False
        line = data.find(b"\r\n")
        if not data.endswith(b" HTTP/1.1", 0, line):
            return False
        if data.startswith(b"GET /"):
            if self.fast is None or at + 4 != len(data) or data[line:] != self.fast.block:
                return False
            parts = self.fast.answer(data[4 : line - 9].decode("latin-1"))
            if parts is None or self.transport is None:
                return False
            self._last_fast = self._loop.time()
            write_parts(self.transport, parts)
            return True
        light = self.light
        if light is None or not data.startswith(light.before, line) or not data.endswith(light.after, 0, at + 4):
            return False
        digits = data[line + len(light.before) : at + 4 - len(light.after)]
        method, _, target = data[: line - 9].decode("latin-1").partition(" ")
        if not digits.isdigit() or int(digits) != len(data) - at - 4 or method not in _LIGHT or not _is_light(target):
            return False
        request = LightRequest(method, target, light.headers, bytes(data[at + 4 :]), self)
        self._last_fast = self._loop.time()
        self._running = self._loop.create_task(self._run(request))
        return True

    async def _run(self, request: LightRequest) -> None:
        """Answer a light request, then take what came meanwhile."""
        manager = self._manager
        try:
            if manager is None:
                return
            answer = await manager.request_handler(request)
            await answer.prepare(request)
            if not answer.keep_alive:
                self.close()
                request.transport.close()
        except ConnectionError:
            self.force_close()
        except Exception:
            log.exception("%s %s: the answer could not be written", request.method, request.path)
            self.force_close()
        finally:
            self._last_fast = self._loop.time()
            self._running = None
            if self._held:
                held = bytes(self._held)
                self._held.clear()
                self.data_received(held)

    async def shutdown(self, timeout: float | None = 15.0) -> None:
        if self._running is not None:
            await asyncio.wait({self._running}, timeout=timeout)
        await super().shutdown(timeout)

    def _process_keepalive(self) -> None:
        """Close when nothing was asked for long. aiohttp would look every second while a watch runs; this does not."""
        busy = self._waiter is None or self._running is not None
        idle = 0.0 if busy else self._loop.time() - self._last_fast
        if not self._force_close and idle < KEEPALIVE_SECONDS:
            self._keepalive_handle = self._loop.call_later(KEEPALIVE_SECONDS - idle, self._process_keepalive)
            return
        super()._process_keepalive()


def _is_light(target: str) -> bool:
    """An API write: everything but what streams or belongs to other handlers."""
    return target.startswith(("/api/", "/apis/")) and "/proxy" not in target and "/exec" not in target


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


class Server(PatientServer):
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
