"""Answers on the wire: one head and one body written in one go, and chunked streams.

``Answer`` has the two methods that aiohttp's low-level server asks of a response, without its per-header work. Bodies are
compressed only when they are large and the client asked, in a thread.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import time
import zlib
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from k3sd.apimachinery import codec
from k3sd.apimachinery.errors import Obj, StatusError
from k3sd.apiserver.connections import SLICE, write_parts
from k3sd.apiserver.negotiation import JSON

GZIP_THRESHOLD = 128 * 1024
_PHRASES = {s.value: s.phrase for s in HTTPStatus}
_PHRASES[422] = "Unprocessable Entity"
_PHRASES[413] = "Request Entity Too Large"

_random = os.urandom(10).hex()
_AUDIT_PREFIX = f"{_random[:8]}-{_random[8:12]}-4{_random[12:15]}-a{_random[15:18]}-"
_audit_counter = itertools.count(int.from_bytes(os.urandom(5), "big"))

Headers = Sequence[tuple[str, str]]


def audit_id() -> str:
    """A UUID that no other request of this process has."""
    return f"{_AUDIT_PREFIX}{next(_audit_counter):012x}"


_date_at = 0
_date_text = ""


def http_date() -> str:
    global _date_at, _date_text
    now = int(time.time())
    if now != _date_at:
        _date_at = now
        _date_text = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(now))
    return _date_text


def head(status: int, content_type: str, length: int | None, headers: Headers, audit: str, close: bool) -> bytes:
    """A response head. ``length`` None means chunked."""
    lines = [
        f"HTTP/1.1 {status} {_PHRASES.get(status, 'Unknown')}\r\nAudit-Id: {audit}\r\nCache-Control: no-cache, private\r\n"
    ]
    if content_type:
        lines.append(f"Content-Type: {content_type}\r\n")
    lines.append("Transfer-Encoding: chunked\r\n" if length is None else f"Content-Length: {length}\r\n")
    for name, value in headers:
        lines.append(f"{name}: {clean(value)}\r\n")
    if close:
        lines.append("Connection: close\r\n")
    lines.append(f"Date: {http_date()}\r\n\r\n")
    return "".join(lines).encode("utf-8", "replace")


def clean(value: str) -> str:
    """A header value that cannot end its line."""
    if "\r" in value or "\n" in value:
        return value.replace("\r", " ").replace("\n", " ")
    return value


class Answer:
    """A complete response. ``close`` ends the connection behind it."""

    __slots__ = ("body", "close", "content_type", "headers", "status")

    def __init__(self, status: int, body: bytes, content_type: str = JSON, headers: Headers = (), close: bool = False) -> None:
        self.status = status
        self.body = body
        self.content_type = content_type
        self.headers = headers
        self.close = close

    @property
    def keep_alive(self) -> bool:
        return not self.close

    async def prepare(self, request: Any) -> None:
        """Write everything."""
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("the client is gone")
        close = self.close = self.close or not request.keep_alive
        body = self.body
        headers = self.headers
        if len(body) >= GZIP_THRESHOLD and "gzip" in request.headers.get("Accept-Encoding", "") and not _encoded(headers):
            body = await asyncio.get_running_loop().run_in_executor(None, gzip, body)
            headers = [*headers, ("Content-Encoding", "gzip"), ("Vary", "Accept-Encoding")]
        audit = request.headers.get("Audit-Id") or audit_id()
        start = head(self.status, self.content_type, len(body), headers, audit, close)
        if request.method == "HEAD" or self.status in (204, 304):
            transport.write(start)
        else:
            write_parts(transport, (start, body))
            if len(body) > SLICE:
                await request.writer.drain()

    async def write_eof(self) -> None:
        """Everything has been written."""


def _encoded(headers: Headers) -> bool:
    return any(name == "Content-Encoding" for name, _ in headers)


def gzip(body: bytes) -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    return packer.compress(body) + packer.flush()


def status_answer(error: StatusError, headers: Headers = ()) -> Answer:
    """A failure as a ``Status``."""
    seconds = error.details.get("retryAfterSeconds") if error.details else None
    if seconds:
        headers = [*headers, ("Retry-After", str(seconds))]
    return Answer(error.code, codec.encode(error.status), JSON, headers)


def json_answer(obj: Obj, status: int = 200, headers: Headers = ()) -> Answer:
    return Answer(status, codec.encode(obj), JSON, headers)


def text_answer(text: str, status: int = 200, headers: Headers = ()) -> Answer:
    return Answer(status, text.encode(), "text/plain; charset=utf-8", [*headers, ("X-Content-Type-Options", "nosniff")])


class Stream:
    """A chunked response that its producer writes itself. aiohttp sees it as finished."""

    __slots__ = ("_close", "_head_only", "_request", "_transport", "ended", "status")

    def __init__(self, request: Any) -> None:
        self._request = request
        self._transport = request.transport
        self._close = False
        self._head_only = request.method == "HEAD"
        self.ended = False
        self.status = 200

    @property
    def keep_alive(self) -> bool:
        return self.ended and not self._close

    def start(self, content_type: str, headers: Headers = (), status: int = 200) -> None:
        request = self._request
        if self._transport is None:
            raise ConnectionResetError("the client is gone")
        self._close = not request.keep_alive
        audit = request.headers.get("Audit-Id") or audit_id()
        self._transport.write(head(status, content_type, None, headers, audit, self._close))

    def write(self, data: bytes) -> None:
        """One chunk. Raises ConnectionResetError when the client is gone."""
        transport = self._transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client is gone")
        if not self._head_only:
            transport.write(b"%x\r\n%b\r\n" % (len(data), data))

    async def drain(self) -> None:
        """Wait until the client has taken most of what was written."""
        await self._request.writer.drain()

    def end(self) -> None:
        """The last chunk."""
        if not self.ended and self._transport is not None and not self._transport.is_closing():
            if not self._head_only:
                self._transport.write(b"0\r\n\r\n")
            self.ended = True

    def abort(self) -> None:
        """Cut the connection without an end: the client sees that something is missing."""
        if self._transport is not None:
            self._transport.abort()

    async def prepare(self, request: Any) -> None:
        """Already written."""

    async def write_eof(self) -> None:
        """Already written."""
