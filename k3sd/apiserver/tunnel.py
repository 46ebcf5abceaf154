"""Upgrade requests that the API server passes on to kubelets and pods, and what their refusals look like.

Upstream: ``apimachinery/pkg/util/proxy/upgradeaware.go``.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from k3sd.apiserver.responses import Answer
from k3sd.lib.upgrade import BackendError, forward_upgrade

_OUR_OWN = frozenset(("content-length", "transfer-encoding", "connection", "content-type", "date", "keep-alive"))


class TunnelError(ConnectionError):
    """The other side cannot be reached or does not speak HTTP."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where to connect. ``server_name`` is what the certificate must say."""

    host: str
    port: int
    ssl: ssl.SSLContext | None = None
    server_name: str = ""


async def upgrade(request: web.BaseRequest, target: Target, path: str, extra: Iterable[tuple[str, str]] = ()) -> Any:
    """Pass the client's upgrade request on, without its credentials, and join both connections when the backend agrees; its
    refusal is answered as it is.

    Returns a response for aiohttp when the tunnel has ended. Raises TunnelError.
    """
    try:
        answer = await forward_upgrade(
            request,
            target.host,
            target.port,
            path,
            ssl_context=target.ssl,
            server_hostname=target.server_name or target.host,
            headers=extra,
            without="impersonate-",
            idle_seconds=None,
        )
    except BackendError as error:
        raise TunnelError(f"error dialing backend: {error}") from None
    if answer.status == 101:
        return answer
    headers = [(name, value) for name, value in answer.headers.items() if name.lower() not in _OUR_OWN]
    return Answer(answer.status, answer.body or b"", answer.headers.get("Content-Type", ""), headers, close=True)
