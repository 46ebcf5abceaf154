"""Calls of the API server to webhooks: admission and conversion. Upstream: ``apiserver/pkg/util/webhook``.

A Service is asked by its name, which the resolver turns into one of its endpoints and TLS into the expected certificate.
"""

from __future__ import annotations

import asyncio
import base64
import socket
import ssl
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp.abc import AbstractResolver

from k3sd.apimachinery import codec
from k3sd.apimachinery.errors import Obj, StatusError
from k3sd.apiserver import serviceresolver

if TYPE_CHECKING:
    from k3sd.apiserver.registry import Registry

MAX_CONTEXTS = 64


class CallFailed(Exception):
    """The webhook could not be asked, or did not answer properly."""


class _Resolver(AbstractResolver):
    """Names of Services become one of their endpoints; other names are the system's to resolve."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._others = aiohttp.ThreadedResolver()

    async def resolve(self, host: str, port: int = 0, family: int = socket.AF_INET) -> list[dict[str, Any]]:
        name, _, rest = host.partition(".")
        namespace, _, suffix = rest.partition(".")
        if suffix != "svc":
            found: list[dict[str, Any]] = await self._others.resolve(host, port, family)
            return found
        address, number = serviceresolver.resolve(self._registry, namespace, name, str(port))
        kind = socket.AF_INET6 if ":" in address else socket.AF_INET
        return [{"hostname": host, "host": address, "port": number, "family": kind, "proto": 0, "flags": socket.AI_NUMERICHOST}]

    async def close(self) -> None:
        await self._others.close()


class WebhookClient:
    """Posts reviews. One session for all webhooks; made when first needed."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._session: aiohttp.ClientSession | None = None
        self._contexts: dict[str, ssl.SSLContext] = {}

    def _context(self, bundle: str) -> ssl.SSLContext:
        """Trusts ``caBundle`` alone, or the system where there is none."""
        context = self._contexts.get(bundle)
        if context is None:
            if len(self._contexts) >= MAX_CONTEXTS:
                self._contexts.clear()
            context = ssl.create_default_context()
            if bundle:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
                context.load_verify_locations(cadata=base64.b64decode(bundle).decode())
            self._contexts[bundle] = context
        return context

    async def post(self, client: Obj, review: Obj, timeout_seconds: int, max_bytes: int) -> bytes:
        """The body of the answer of ``client`` (a ``clientConfig``) to ``review``. Raises CallFailed."""
        url = _url(client)
        url = f"{url}{'&' if '?' in url else '?'}timeout={timeout_seconds}s"
        if self._session is None:
            # No connection is kept: a pod that has gone since must not fail a request.
            connector = aiohttp.TCPConnector(resolver=_Resolver(self._registry), use_dns_cache=False, force_close=True)
            self._session = aiohttp.ClientSession(connector=connector)
        try:
            async with (
                asyncio.timeout(timeout_seconds),
                self._session.post(
                    url,
                    data=codec.encode(review),
                    headers={"Content-Type": "application/json", "Accept": "application/json"},
                    ssl=self._context(client.get("caBundle") or ""),
                    allow_redirects=False,
                ) as answer,
            ):
                body = await _read(answer.content, max_bytes, url)
                if answer.status != 200:
                    text = body[:200].decode(errors="replace")
                    raise CallFailed(f'Post "{url}": the server answered {answer.status}: {text}')
        except TimeoutError as error:
            raise CallFailed(f'Post "{url}": context deadline exceeded') from error
        except StatusError as error:
            raise CallFailed(f'Post "{url}": {error.message}') from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise CallFailed(f'Post "{url}": {error}') from error
        return body

    async def close(self) -> None:
        """Idempotent."""
        if self._session is not None:
            await self._session.close()
            self._session = None


async def _read(content: aiohttp.StreamReader, limit: int, url: str) -> bytes:
    body = bytearray()
    while part := await content.readany():
        body += part
        if len(body) > limit:
            raise CallFailed(f'Post "{url}": the answer is longer than {limit} bytes')
    return bytes(body)


def _url(client: Obj) -> str:
    service = client.get("service")
    if service is None:
        return str(client.get("url", ""))
    return f"https://{service['name']}.{service['namespace']}.svc:{service.get('port') or 443}{service.get('path') or ''}"
