"""The short way for plain GETs and LISTs of a client that repeats itself (see ``connections``).

Nothing is decided here that the long way would decide differently: the identity is proved again, authorization is asked
again, and any failure goes back to the long way, which words it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from k3sd.apimachinery.errors import StatusError
from k3sd.apiserver import requestinfo
from k3sd.apiserver.connections import FastPath, LightPath
from k3sd.apiserver.negotiation import JSON, MediaType
from k3sd.apiserver.request import RequestContext, UserInfo
from k3sd.apiserver.responses import GZIP_THRESHOLD, audit_id, head

if TYPE_CHECKING:
    from aiohttp import web

    from k3sd.apiserver.http import APIServer

_PARTICULAR = ("Audit-Id", "Upgrade", "If-None-Match", "Range", "Expect", "Content-Length", "Transfer-Encoding")
"""Headers with which a request is not an ordinary read."""
_NO_WRITE = ("Audit-Id", "Expect", "Transfer-Encoding", "Content-Encoding", "Trailer")


def remember(server: APIServer, request: web.BaseRequest, media: MediaType) -> None:
    """Let the connection answer the next GET with the same headers by itself."""
    connection: Any = request.protocol
    block = connection.block
    if not block or not media.plain or not request.keep_alive or (connection.fast and connection.fast.block == block):
        return
    headers = request.headers
    if any(name in headers for name in _PARTICULAR) or any(k.lower().startswith("impersonate-") for k in headers):
        return
    connection.fast = FastPath(block, _answerer(server, headers, connection.certificate))


def remember_write(request: web.BaseRequest) -> None:
    """Let the connection take the next request that has the same headers and a body without parsing them again."""
    connection: Any = request.protocol
    block = connection.block
    if not block or connection.light is not None or not request.keep_alive:
        return
    headers = request.headers
    if any(name in headers for name in (*_NO_WRITE, "Upgrade")) or len(headers.getall("Content-Length", ())) != 1:
        return
    found = block.lower().find(b"\r\ncontent-length:")
    start = found + len(b"\r\ncontent-length:")
    while block[start : start + 1] == b" ":
        start += 1
    end = block.index(b"\r\n", start)
    connection.light = LightPath(block[:start], block[end:], headers)


def _answerer(server: APIServer, headers: Any, certificate: bytes | None) -> Callable[[str], Sequence[bytes] | None]:
    registry, metrics = server.registry, server.metrics
    authenticate, authorize = server.authenticator.authenticate, server.authorizer.authorize
    find = registry.served.find
    packed = "gzip" in headers.get("Accept-Encoding", "")
    agent = headers.get("User-Agent", "")

    def answer(path: str) -> Sequence[bytes] | None:
        started = time.perf_counter()
        if "?" in path or server.is_extra(path):
            return None
        info = requestinfo.parse("GET", path, {})
        if not info.is_resource or info.subresource or info.verb not in ("get", "list"):
            return None
        resource = find(info.group, info.version, info.plural)
        if resource is None or resource.deprecation or (resource, "") in registry.handlers or info.verb not in resource.verbs:
            return None
        if bool(info.namespace) != resource.namespaced and (info.verb == "get" or info.namespace):
            return None  # namespaces themselves, or a path that does not exist
        try:
            user = _now(authenticate(headers, certificate))
            if user is None:
                return None
            ctx = RequestContext(user, info.verb, resource, "", info.namespace, info.name, path, user_agent=agent)
            if not authorize(ctx).allowed:
                return None
            if info.verb == "get":
                parts: tuple[bytes, ...] = (registry.get(ctx).raw,)
            else:
                ep = registry.endpoint(resource)
                if ep.reader is not None:
                    return None
                start = f'{ep.list_head}"resourceVersion":"{registry.cache.revision}"}},"items":['.encode()
                parts = (start, ep.lists.items(ep.scope(info.namespace)), b"]}")
                if packed and len(parts[1]) >= GZIP_THRESHOLD - len(start):
                    return None
        except StatusError:
            return None
        metrics.observe("GET", 200, time.perf_counter() - started)
        return head(200, JSON, sum(map(len, parts)), (), audit_id(), False), *parts

    return answer


def _now(coroutine: Coroutine[Any, Any, UserInfo | None]) -> UserInfo | None:
    """The result of a coroutine that does not wait; None when it does."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: UserInfo | None = done.value
        return result
    coroutine.close()
    return None
