"""One HTTP GET of a container, for probes and lifecycle hooks: no pool, no proxy, no certificate checks, a bounded answer.

Source: Kubernetes 1.36, ``pkg/probe/http``. Errors are worded as Go's ``net/http`` words them, since they end in events.
"""

from __future__ import annotations

import asyncio
import functools
import os
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

Obj = dict[str, Any]
Headers = list[tuple[str, str]]

MAX_BODY_BYTES = 10 * 1024
MAX_HEAD_BYTES = 64 * 1024
MAX_REDIRECTS = 10


class GetError(Exception):
    """No answer: the text starts with ``Get "<url>": ``."""


@dataclass(frozen=True, slots=True)
class Response:
    """``body`` holds at most 10 KiB. A ``status`` of 3xx is a redirect to another host, which is not followed."""

    status: int
    body: bytes


def resolve_port(port: int | str, container: Obj) -> int:
    """A number, or the container's port of that name. Raises ValueError with upstream's text."""
    if isinstance(port, int) or str(port).isdigit():
        number = int(port)
    else:
        ports = container.get("ports") or ()
        found = next((p["containerPort"] for p in ports if p.get("name") == port), None)
        if found is None:
            raise ValueError(f"couldn't find port: {port} in container {container.get('name', '')}")
        number = int(found)
    if not 0 < number < 65536:
        raise ValueError(f"invalid port number: {number}")
    return number


def action_url(action: Obj, container: Obj, pod_ip: str) -> str:
    """The URL of an ``httpGet`` action."""
    port = resolve_port(action.get("port", 80), container)
    host = str(action.get("host") or pod_ip)
    path = str(action.get("path") or "/")
    if not path.startswith("/"):
        path = "/" + path
    scheme = str(action.get("scheme") or "HTTP").lower()
    return f"{scheme}://{join_host_port(host, port)}{path}"


def join_host_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def action_headers(action: Obj, agent: str) -> Headers:
    """The action's headers; ``User-Agent`` and ``Accept`` default as upstream, and are left out where given empty."""
    headers = [(str(h["name"]), str(h.get("value") or "")) for h in action.get("httpHeaders") or ()]
    given = {name.lower() for name, _ in headers}
    for name, default in (("User-Agent", agent), ("Accept", "*/*")):
        if name.lower() not in given:
            headers.append((name, default))
    return [(name, value) for name, value in headers if value or name.lower() not in ("user-agent", "accept")]


async def get(url: str, headers: Headers, timeout_seconds: float) -> Response:
    """Raises GetError. Redirects on the same host are followed, up to ten."""
    first = url
    try:
        async with asyncio.timeout(timeout_seconds):
            for _ in range(MAX_REDIRECTS + 1):
                status, location, body = await _exchange(url, headers)
                target = urljoin(url, location) if location and status in (301, 302, 303, 307, 308) else ""
                if not target or urlsplit(target).hostname != urlsplit(first).hostname:
                    return Response(status, body)
                url = target
    except TimeoutError as error:
        raise GetError(f'Get "{url}": context deadline exceeded (Client.Timeout exceeded while awaiting headers)') from error
    raise GetError(f'Get "{url}": stopped after {MAX_REDIRECTS} redirects')


async def _exchange(url: str, headers: Headers) -> tuple[int, str, bytes]:
    """Status, Location and the start of the body."""
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    host = parts.hostname or ""
    port = parts.port or (443 if secure else 80)
    address = join_host_port(host, port)
    given_host = next((value for name, value in headers if name.lower() == "host"), "")
    context, name = (_insecure_tls(), given_host or host) if secure else (None, None)
    try:
        reader, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=name, limit=MAX_HEAD_BYTES)
    except ssl.SSLError as error:
        raise GetError(f'Get "{url}": tls: {error.reason or error}') from error
    except OSError as error:
        raise GetError(f'Get "{url}": dial tcp {address}: connect: {dial_reason(error)}') from error
    try:
        writer.write(_request(parts.path, parts.query, given_host or parts.netloc, headers))
        return await _answer(reader)
    except (ConnectionError, ssl.SSLError) as error:
        raise GetError(f'Get "{url}": read tcp {address}: {dial_reason(error)}') from error
    except asyncio.IncompleteReadError as error:
        raise GetError(f'Get "{url}": EOF') from error
    except (ValueError, asyncio.LimitOverrunError) as error:
        raise GetError(f'Get "{url}": net/http: HTTP/1.x transport connection broken: {error}') from error
    finally:
        writer.close()


def dial_reason(error: OSError) -> str:
    """The kernel's reason as Go words it."""
    # asyncio puts its own text into strerror; the number says what the kernel said.
    return os.strerror(error.errno).lower() if error.errno else str(error).lower() or "connection reset by peer"


def _request(path: str, query: str, host: str, headers: Iterable[tuple[str, str]]) -> bytes:
    # The path may hold anything a user wrote: what would break the request line is escaped, escapes stay.
    target = quote(path or "/", safe="/%:@!$&'()*+,;=-._~") + ("?" + quote(query, safe="/%:@!$&'()*+,;=-._~?") if query else "")
    lines = [f"GET {target} HTTP/1.1", f"Host: {host}", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers if name.lower() not in ("host", "connection")]
    if any("\r" in line or "\n" in line for line in lines):
        raise ValueError("invalid header field value")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def _answer(reader: asyncio.StreamReader) -> tuple[int, str, bytes]:
    status = 100
    while 100 <= status < 200:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        version, _, rest = head[0].partition(" ")
        code = rest[:3]
        if not version.startswith("HTTP/") or len(code) != 3 or not code.isdigit():
            raise ValueError(f'malformed HTTP response "{head[0][:80]}"')
        status = int(code)
    fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
    chunked = "chunked" in fields.get("transfer-encoding", "").lower()
    length = fields.get("content-length", "")
    limit = min(int(length), MAX_BODY_BYTES) if length.isdigit() and not chunked else MAX_BODY_BYTES
    if status in (204, 304):
        limit = 0
    body = await (_chunks(reader, limit) if chunked else _read(reader, limit))
    return status, fields.get("location", ""), body


async def _read(reader: asyncio.StreamReader, limit: int) -> bytes:
    out = b""
    while len(out) < limit and (piece := await reader.read(limit - len(out))):
        out += piece
    return out


async def _chunks(reader: asyncio.StreamReader, limit: int) -> bytes:
    out = b""
    while len(out) < limit:
        size = int((await reader.readuntil(b"\r\n")).split(b";")[0], 16)
        if size == 0:
            break
        out += await reader.readexactly(min(size, limit - len(out)))
        if len(out) < limit:
            await reader.readexactly(2)
    return out


@functools.cache
def _insecure_tls() -> ssl.SSLContext:
    """Containers bring certificates of their own making: what is probed is whether they answer."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
