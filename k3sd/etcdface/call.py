"""One gRPC call as its handler sees it, and how it may end."""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from k3sd.etcdface.grpcserver import Connection

UNSENT_BYTES = 1 << 20
"""Of a streaming call, beyond which ``drain`` waits."""
LENGTH = struct.Struct(">BL")
"""In front of a message: whether it is compressed, its length."""


class Code(IntEnum):
    """gRPC's status codes."""

    OK = 0
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    RESOURCE_EXHAUSTED = 8
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14


class Status(Exception):
    """How a call ends that did not go well."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code


Unary = Callable[[bytes], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class Methods:
    """What a server answers, by path ("/package.Service/Method"). Handlers raise Status to refuse."""

    unary: Mapping[bytes, Unary]
    streams: Mapping[bytes, Callable[[Call], Awaitable[None]]]


class Call:
    """One call. Iterating gives the client's messages; ``send`` queues one to it."""

    __slots__ = (
        "_wake",
        "answered",
        "connection",
        "credit",
        "ended",
        "incoming",
        "messages",
        "number",
        "task",
        "trailers",
        "unary",
        "unsent",
        "window",
    )

    def __init__(self, connection: Connection, number: int, window: int) -> None:
        self.connection = connection
        self.number = number
        self.window = window
        self.unary: Unary | None = None
        self.incoming = bytearray()
        self.messages: deque[bytes] = deque()
        self.credit = 0
        """Bytes read, but not yet given back to the stream's window."""
        self.ended = False
        """The client has said everything."""
        self.unsent = bytearray()
        self.answered = False
        self.trailers: bytes | None = None
        self.task: asyncio.Task[None] | None = None
        self._wake: asyncio.Future[None] | None = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            while self.messages:
                message = self.messages.popleft()
                self.connection.consumed(self, len(message) + LENGTH.size)
                yield message
            if self.ended:
                return
            await self._wait()

    def send(self, message: bytes) -> None:
        """Queue a message. Who sends much awaits ``drain`` in between."""
        self.connection.send(self, message)

    async def drain(self) -> None:
        """Wait while the client has more than a little to read still."""
        while len(self.unsent) > UNSENT_BYTES:
            await self._wait()

    async def _wait(self) -> None:
        """Until ``wake``; every waiter looks again at what it waits for."""
        if self._wake is None:
            self._wake = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._wake)

    def wake(self) -> None:
        wake, self._wake = self._wake, None
        if wake is not None and not wake.done():
            wake.set_result(None)
