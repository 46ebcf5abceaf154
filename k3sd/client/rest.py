"""``RestClient``: the client contract over HTTP(S) with keep-alive, client certificate or bearer token.

Failures the server reports are ``StatusError``; everything below HTTP is ``ConnectionError`` or ``TimeoutError``. Answers with
a ``Retry-After`` header (429, 5xx) are repeated as client-go does. aiohttp is imported with the first request.
Source: client-go ``rest/request.go``.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import socket
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from k3sd.apimachinery.errors import Obj, StatusError
from k3sd.apimachinery.resource import Resource
from k3sd.client.api import DeleteOptions, List, PatchType, WatchEvent
from k3sd.client.kubeconfig import ClientConfig, load_kubeconfig

if TYPE_CHECKING:
    import aiohttp

log = logging.getLogger(__name__)

REQUEST_TIMEOUT_SECONDS = 60.0
RETRY_AFTER_ATTEMPTS = 10
TOKEN_REREAD_SECONDS = 60.0
_REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    406: "NotAcceptable",
    409: "Conflict",
    410: "Gone",
    413: "RequestEntityTooLarge",
    415: "UnsupportedMediaType",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}


class RestClient:
    """One API server. ``server`` is a base URL, a kubeconfig path or a ``ClientConfig``, whose TLS ``ssl_context`` overrides.

    Safe for concurrent use in one event loop. ``close`` ends all connections.
    """

    def __init__(
        self,
        server: str | Path | ClientConfig,
        ssl_context: ssl.SSLContext | None = None,
        *,
        user_agent: str = "k3sd",
        timeout_seconds: float = REQUEST_TIMEOUT_SECONDS,
    ) -> None:
        if isinstance(server, str) and server.startswith(("https://", "http://")):
            server = ClientConfig(server.rstrip("/"))
        elif isinstance(server, str | Path):
            server = load_kubeconfig(server)
        self.config = server
        self._ssl = ssl_context
        self._user_agent = user_agent
        self._timeout_seconds = timeout_seconds
        self._session: aiohttp.ClientSession | None = None
        self._token = self.config.token
        self._token_read = float("-inf")

    # -- contract

    async def get(self, resource: Resource, name: str, namespace: str | None = None, *, subresource: str = "") -> Obj:
        return await self._object("GET", resource.path(namespace, name, subresource))

    async def list(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        label_selector: str = "",
        field_selector: str = "",
        resource_version: str = "",
        limit: int = 0,
        continue_: str = "",
    ) -> List:
        query = {
            "labelSelector": label_selector,
            "fieldSelector": field_selector,
            "resourceVersion": resource_version,
            "limit": str(limit) if limit else "",
            "continue": continue_,
        }
        answer = await self._object("GET", resource.path(namespace), query)
        metadata = answer.get("metadata") or {}
        items = answer.get("items") or []
        for item in items:
            # Upstream leaves these out inside typed lists.
            item.setdefault("kind", resource.kind)
            item.setdefault("apiVersion", resource.api_version)
        return List(items, str(metadata.get("resourceVersion") or ""), str(metadata.get("continue") or ""))

    async def create(
        self,
        resource: Resource,
        obj: Obj,
        namespace: str | None = None,
        *,
        name: str = "",
        subresource: str = "",
        dry_run: bool = False,
        field_manager: str = "",
    ) -> Obj:
        namespace = namespace or (obj.get("metadata") or {}).get("namespace")
        path = resource.path(namespace if resource.namespaced else None, name, subresource)
        return await self._object("POST", path, _write_query(dry_run, field_manager), obj)

    async def update(
        self, resource: Resource, obj: Obj, *, subresource: str = "", dry_run: bool = False, field_manager: str = ""
    ) -> Obj:
        metadata = obj["metadata"]
        path = resource.path(metadata.get("namespace"), metadata["name"], subresource)
        return await self._object("PUT", path, _write_query(dry_run, field_manager), obj)

    async def patch(
        self,
        resource: Resource,
        name: str,
        patch: Any,
        namespace: str | None = None,
        *,
        patch_type: PatchType = "application/merge-patch+json",
        subresource: str = "",
        dry_run: bool = False,
        field_manager: str = "",
        force: bool = False,
    ) -> Obj:
        query = _write_query(dry_run, field_manager)
        if force:
            query["force"] = "true"
        # JSON is YAML, so an apply patch needs no other encoding.
        return await self._object("PATCH", resource.path(namespace, name, subresource), query, patch, patch_type)

    async def delete(
        self, resource: Resource, name: str, namespace: str | None = None, options: DeleteOptions | None = None
    ) -> Obj:
        return await self._object("DELETE", resource.path(namespace, name), {}, encode_delete_options(options))

    async def delete_collection(
        self,
        resource: Resource,
        namespace: str | None = None,
        options: DeleteOptions | None = None,
        *,
        label_selector: str = "",
        field_selector: str = "",
    ) -> None:
        query = {"labelSelector": label_selector, "fieldSelector": field_selector}
        await self._object("DELETE", resource.path(namespace), query, encode_delete_options(options))

    async def watch(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        resource_version: str = "",
        label_selector: str = "",
        field_selector: str = "",
        allow_bookmarks: bool = True,
        timeout_seconds: int = 0,
    ) -> AsyncIterator[WatchEvent]:
        """Without ``timeout_seconds`` the stream lasts 5 to 10 minutes, as client-go's reflectors ask for."""
        import aiohttp

        seconds = timeout_seconds or random.randint(300, 600)
        query = {
            "watch": "true",
            "labelSelector": label_selector,
            "fieldSelector": field_selector,
            "resourceVersion": resource_version,
            "allowWatchBookmarks": "true" if allow_bookmarks else "",
            "timeoutSeconds": str(seconds),
        }
        # The server ends the stream in time; one that stays silent longer has lost its network.
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=30.0, sock_read=seconds + 30.0)
        try:
            async with self._open("GET", resource.path(namespace), query, timeout=timeout) as response:
                await _raise_for_status(response)
                _probe_peer(response)
                async for line in _lines(response.content):
                    event = json.loads(line)
                    obj = event.get("object") or {}
                    if event["type"] == "ERROR" and obj.get("code") == 410:
                        raise StatusError.from_status(obj)
                    yield WatchEvent(event["type"], obj)
        except aiohttp.ClientPayloadError:
            # A stream cut in the middle is the same as one that ended: the caller resumes after the last event.
            return
        except aiohttp.ClientError as e:
            raise _connection_error(self.config.server, e) from e

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    # -- outside resources

    async def raw(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> bytes:
        """Any path, such as ``/readyz`` or ``/version``; the answer's body."""
        import aiohttp

        reused = method in ("GET", "HEAD")
        for attempt in range(RETRY_AFTER_ATTEMPTS + 1):
            try:
                async with self._open(method, path, query or {}, body, headers) as response:
                    delay = _retry_after(response)
                    if delay is None or attempt == RETRY_AFTER_ATTEMPTS:
                        await _raise_for_status(response)
                        for warning in response.headers.getall("Warning", []):
                            log.debug("%s %s: %s", method, path, warning)
                        return bytes(await response.read())
                    await response.read()
            except aiohttp.ServerDisconnectedError as e:
                # The server closed an idle connection just as we took it from the pool; reading again is harmless.
                if not reused:
                    raise _connection_error(self.config.server, e) from e
                reused, delay = False, 0.0
            except aiohttp.ClientError as e:
                raise _connection_error(self.config.server, e) from e
            await asyncio.sleep(delay)
        raise AssertionError("unreachable")

    # -- transport

    async def _object(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
    ) -> Obj:
        data = None if body is None else json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()
        headers = {"Content-Type": content_type} if data is not None else None
        answer = await self.raw(method, path, query, data, headers)
        result: Obj = json.loads(answer)
        return result

    def _open(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: aiohttp.ClientTimeout | None = None,
    ) -> Any:
        from yarl import URL

        url = self.config.server + quote(path, safe="/:@!$&'()*+,;=-._~")
        text = urlencode({k: v for k, v in query.items() if v})
        if text:
            url += "?" + text
        options: dict[str, Any] = {"data": body, "headers": {**self._headers(), **(headers or {})}}
        if timeout is not None:
            options["timeout"] = timeout
        return self._connect().request(method, URL(url, encoded=True), **options)

    def _connect(self) -> aiohttp.ClientSession:
        if self._session is None:
            import aiohttp

            context = self._ssl or self.config.ssl_context()
            connector = aiohttp.TCPConnector(
                limit=0, ssl=False if context is None else context, keepalive_timeout=60.0, ttl_dns_cache=60
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                timeout=aiohttp.ClientTimeout(total=self._timeout_seconds, sock_connect=30.0),
                cookie_jar=aiohttp.DummyCookieJar(),
                # Components talk over loopback or a LAN: compressing costs more than it saves.
                headers={"Accept-Encoding": "identity"},
                skip_auto_headers=("Content-Type",),
            )
        return self._session

    def _headers(self) -> dict[str, str]:
        headers = {"User-Agent": self._user_agent, "Accept": "application/json"}
        token = self._current_token()
        if token:
            headers["Authorization"] = f"Bearer {token}"
        return headers

    def _current_token(self) -> str:
        """The bearer token; a token file is read again each minute, since bound tokens rotate."""
        if self.config.token_file and time.monotonic() - self._token_read > TOKEN_REREAD_SECONDS:
            try:
                self._token = Path(self.config.token_file).read_text().strip()
                self._token_read = time.monotonic()
            except OSError as e:
                if not self._token:
                    raise ConnectionError(f"token file {self.config.token_file}: {e.strerror}") from e
                log.warning("token file %s: %s: still using the previous token", self.config.token_file, e.strerror)
        return self._token


def encode_delete_options(options: DeleteOptions | None) -> Obj | None:
    """The wire form of ``options``; None stays None (no body)."""
    if options is None:
        return None
    out: Obj = {"kind": "DeleteOptions", "apiVersion": "v1"}
    if options.grace_period_seconds is not None:
        out["gracePeriodSeconds"] = options.grace_period_seconds
    if options.propagation_policy is not None:
        out["propagationPolicy"] = options.propagation_policy
    preconditions = {k: v for k, v in (("uid", options.uid), ("resourceVersion", options.resource_version)) if v is not None}
    if preconditions:
        out["preconditions"] = preconditions
    if options.dry_run:
        out["dryRun"] = ["All"]
    out.update(options.extra)
    return out


def _write_query(dry_run: bool, field_manager: str) -> dict[str, str]:
    return {"dryRun": "All" if dry_run else "", "fieldManager": field_manager}


def _connection_error(server: str, error: Exception) -> ConnectionError:
    return ConnectionError(f"{server}: {error or type(error).__name__}")


def _retry_after(response: aiohttp.ClientResponse) -> float | None:
    """Seconds to wait before repeating the request, None when the answer is final. Source: ``checkWait``."""
    if response.status != 429 and response.status < 500:
        return None
    try:
        return min(float(response.headers["Retry-After"]), 60.0)
    except (KeyError, ValueError):
        return None


async def _raise_for_status(response: aiohttp.ClientResponse) -> None:
    if response.status < 400:
        return
    body = await response.read()
    try:
        status = json.loads(body)
    except ValueError:
        status = None
    if isinstance(status, dict) and status.get("kind") == "Status":
        raise StatusError.from_status(status)
    text = body[:512].decode("utf-8", "replace").strip()
    reason = _REASONS.get(response.status, "Unknown")
    raise StatusError(response.status, reason, text or f"the server answered {response.status} {response.reason}")


def _probe_peer(response: aiohttp.ClientResponse) -> None:
    """Let the kernel find a dead peer within a minute, for a watch reads without ever writing."""
    connection = response.connection
    sock = connection.transport.get_extra_info("socket") if connection and connection.transport else None
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    fd = os.dup(sock.fileno())
    with socket.socket(fileno=fd) as duplicate:
        duplicate.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        duplicate.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 20)
        duplicate.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
        duplicate.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Lines of any length (``readline`` refuses those beyond its buffer, and an object may be megabytes)."""
    pending: list[bytes] = []
    async for chunk in content.iter_any():
        start = 0
        while (end := chunk.find(b"\n", start)) >= 0:
            pending.append(chunk[start:end])
            line = b"".join(pending)
            pending.clear()
            start = end + 1
            if line:
                yield line
        if start < len(chunk):
            pending.append(chunk[start:])
