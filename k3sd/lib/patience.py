"""aiohttp's connection with an end to its patience: who does not finish a request's head in time is cut, and who sends
nonsense is answered 400 without a traceback in the log. Both can be done by anybody who reaches the port.

Source: Go's ``http.Server.ReadHeaderTimeout``, which kube-apiserver sets to 32 seconds.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestHandler

log = logging.getLogger(__name__)

HEAD_SECONDS = 32.0


class PatientHandler(RequestHandler):
    """One client connection."""

    def __init__(self, manager: web.Server, *, loop: asyncio.AbstractEventLoop, **kwargs: Any) -> None:
        super().__init__(manager, loop=loop, **kwargs)
        self._head_timer: asyncio.TimerHandle | None = None
        self._fresh = True
        """No request came yet."""
        self._partial = False
        """The parser holds the beginning of a head."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._head_timer = self._loop.call_later(HEAD_SECONDS, self._lose_patience)

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self._stop_waiting()

    def data_received(self, data: bytes) -> None:
        waiter = self._waiter
        idle = waiter is not None and not waiter.done() and not self._messages and not self._partial
        super().data_received(data)
        # Nothing came out of an idle connection's parser: it holds the beginning of a head.
        waiting = waiter is not None and not waiter.done() and not self._messages
        self._partial = waiting and (idle or self._partial)
        if self._messages or self._current_request is not None:
            self._fresh = False
            self._stop_waiting()
        elif self._partial and self._head_timer is None:
            self._head_timer = self._loop.call_later(HEAD_SECONDS, self._lose_patience)

    def _stop_waiting(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _lose_patience(self) -> None:
        self._head_timer = None
        busy = self._messages or self._current_request is not None
        if (self._fresh or self._partial) and not busy and self.transport is not None:
            self.transport.abort()

    def log_exception(self, *args: Any, **kw: Any) -> None:
        error = kw.get("exc_info") or sys.exc_info()[1]
        if isinstance(error, HttpProcessingError):
            log.debug("a client sent what is no HTTP request: %s", error.message)
            return
        super().log_exception(*args, **kw)


class PatientServer(web.Server):
    """Makes ``PatientHandler``s."""

    def __call__(self) -> RequestHandler:
        return PatientHandler(self, loop=self._loop, **self._kwargs)
