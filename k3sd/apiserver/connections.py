"""aiohttp's low-level server with what an API server needs of a connection: the client certificate, and word when the client leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from k3sd.apiserver.request import UserInfo

KEEPALIVE_SECONDS = 300.0
MAX_LINE = 64 * 1024
MAX_HEADER_FIELD = 64 * 1024


class Connection(RequestHandler):
    """One client connection. ``certificate`` is the verified client certificate (DER), read once; ``user`` the identity it was
    found to prove. ``on_lost`` is called when the client is gone, for requests that wait for something else."""

    def __init__(self, manager: web.Server, *, loop: asyncio.AbstractEventLoop, **kwargs: Any) -> None:
        super().__init__(manager, loop=loop, **kwargs)
        self.certificate: bytes | None = None
        self.user: UserInfo | None = None
        self.on_lost: Callable[[], object] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        tls = transport.get_extra_info("ssl_object")
        if tls is not None:
            self.certificate = tls.getpeercert(binary_form=True)

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        if self.on_lost is not None:
            self.on_lost()
            self.on_lost = None


class Server(web.Server):
    """Makes ``Connection``s."""

    def __init__(self, handler: Any, **kwargs: Any) -> None:
        super().__init__(handler, **kwargs)

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
