"""HTTP to a backend and back: container logs and the ``proxy`` subresources.

Upstream: ``apimachinery/pkg/util/proxy/{transport,upgradeaware}.go``, ``registry/generic/rest/streamer.go``.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from aiohttp import web

from k3sd.apimachinery.errors import StatusError, bad_request, internal, service_unavailable
from k3sd.apiserver.responses import Answer, Stream
from k3sd.apiserver.tunnel import Target, upgrade

CHUNK = 64 * 1024
MAX_ERROR_TEXT = 64 * 1024
MAX_REWRITTEN = 16 * 1024 * 1024
_HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "content-length",
        "host",
        "authorization",
    }
)
_LINK = re.compile(
    rb"""(<[^>]*?\s(?:href|src|action|background|cite|data|longdesc|profile|usemap|poster)=["'])(/[^"']*)""", re.I
)


def empty_log() -> Answer:
    """The log of a pod that is on no node yet."""
    return Answer(200, b"", "text/plain")


def redirect(location: str) -> Answer:
    return Answer(301, b"", "", [("Location", location)])


def session() -> aiohttp.ClientSession:
    """A client for one exchange: connections to kubelets and pods are not kept."""
    connector = aiohttp.TCPConnector(force_close=True, limit=0)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=30)
    return aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False)


def url_of(target: Target, path: str) -> Any:
    from yarl import URL

    host = f"[{target.host}]" if ":" in target.host else target.host
    scheme = "https" if target.ssl else "http"
    return URL(f"{scheme}://{host}:{target.port}{path}", encoded=True)


def _tls(target: Target) -> Any:
    return target.ssl if target.ssl is not None else False


async def log(request: web.BaseRequest, target: Target, path: str) -> Any:
    """Stream a container's log from the kubelet; over a websocket when the client asked for one. Raises StatusError for a
    refusal."""
    async with session() as client:
        try:
            answer = await client.get(url_of(target, path), ssl=_tls(target))
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise internal(f"error dialing backend: Get {url_of(target, path)!s}: {error}") from None
        async with answer:
            if answer.status >= 300:
                text = (await answer.content.read(MAX_ERROR_TEXT)).decode("utf-8", "replace").strip()
                raise _log_error(answer.status, text)
            if request.headers.get("Upgrade", "").lower() == "websocket":
                return await _log_websocket(request, answer)
            return await _log_stream(request, answer)


def _log_error(status: int, text: str) -> StatusError:
    """``GenericHttpResponseChecker``."""
    if status == 400:
        return bad_request(text)
    if status == 500:
        return internal(text)
    if status == 404:
        return StatusError(404, "NotFound", text or "the server could not find the requested resource")
    return StatusError(status, "", text)


async def _log_stream(request: web.BaseRequest, answer: aiohttp.ClientResponse) -> Stream:
    stream = Stream(request)
    connection: Any = request.protocol
    connection.on_lost = answer.close
    try:
        stream.start("text/plain")
        async for part in answer.content.iter_any():
            if part:
                stream.write(part)
                await stream.drain()
        stream.end()
    except (aiohttp.ClientError, OSError):
        stream.abort()  # kubelet or client went away in the middle
    finally:
        connection.on_lost = None
    return stream


async def _log_websocket(request: web.BaseRequest, answer: aiohttp.ClientResponse) -> web.WebSocketResponse:
    """``binary.k8s.io`` frames, or base64 text frames; closed at the end of the log. Source: ``wsstream.Reader``."""
    import base64

    socket = web.WebSocketResponse(protocols=("binary.k8s.io", "base64.binary.k8s.io"))
    await socket.prepare(request)
    async for part in answer.content.iter_any():
        if not part:
            continue
        if socket.ws_protocol == "base64.binary.k8s.io":
            await socket.send_str(base64.b64encode(part).decode())
        else:
            await socket.send_bytes(part)
    await socket.close()
    return socket


async def forward(request: web.BaseRequest, target: Target, path: str, prefix: str) -> Any:
    """Pass a request to the backend and its answer back. ``prefix`` is the proxy's own path, put before links in HTML and
    redirects."""
    forwarded = [
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Uri", prefix + path.partition("?")[0]),
        ("X-Forwarded-Host", request.headers.get("Host", "")),
    ]
    if "Upgrade" in request.headers:
        return await upgrade(request, target, path, forwarded)
    headers = [(k, v) for k, v in request.headers.items() if k.lower() not in _HOP_BY_HOP]
    body: Any = request.content if request.body_exists else None
    async with session() as client:
        try:
            answer = await client.request(
                request.method,
                url_of(target, path),
                headers=[*headers, *forwarded],
                data=body,
                ssl=_tls(target),
                allow_redirects=False,
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            )
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise service_unavailable(f"error trying to reach service: {error}") from None
        async with answer:
            return await _pass_back(request, answer, target, prefix)


async def _pass_back(request: web.BaseRequest, answer: aiohttp.ClientResponse, target: Target, prefix: str) -> Any:
    headers = []
    for name, value in answer.headers.items():
        if name.lower() in _HOP_BY_HOP or name.lower() in ("content-type", "date", "audit-id"):
            continue
        if name.lower() == "location":
            value = rewrite_location(value, target, prefix)
        headers.append((name, value))
    content_type = answer.headers.get("Content-Type", "")
    html = content_type.startswith("text/html") and "Content-Encoding" not in answer.headers
    if request.method == "HEAD" or answer.status in (204, 304):
        return Answer(answer.status, b"", content_type, headers)
    if html:
        body = await answer.content.read(MAX_REWRITTEN)
        return Answer(answer.status, rewrite_links(body, prefix), content_type, headers)
    stream = Stream(request)
    stream.status = answer.status
    connection: Any = request.protocol
    connection.on_lost = answer.close
    try:
        stream.start(content_type, headers, answer.status)
        async for part in answer.content.iter_any():
            if part:
                stream.write(part)
                await stream.drain()
        stream.end()
    except (aiohttp.ClientError, OSError):
        stream.abort()
    finally:
        connection.on_lost = None
    return stream


def rewrite_location(value: str, target: Target, prefix: str) -> str:
    """A redirect of the backend, seen from outside the proxy."""
    parts = urlsplit(value)
    if parts.netloc and parts.hostname != target.host:
        return value
    path = parts.path if parts.path.startswith("/") else "/" + parts.path
    return prefix + path + (f"?{parts.query}" if parts.query else "")


def rewrite_links(body: bytes, prefix: str) -> bytes:
    """Absolute paths in the attributes of HTML elements, put below the proxy's own path."""
    start = prefix.encode()

    def moved(match: re.Match[bytes]) -> bytes:
        path = match[2]
        if path.startswith((b"//", start + b"/")):
            return match[0]
        return match[1] + start + path

    return _LINK.sub(moved, body)
