"""When history is forgotten: every five minutes up to what was current five minutes before, so 5-10 minutes are kept.

Steps are small and leave room for writers between them. The timer runs only while there is something to forget.
Source: K3s kine, ``pkg/logstructured/sqllog``, ``compactor``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from k3sd.datastore.backend import DatastoreError

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 300.0
PAUSE_SECONDS = 0.02
"""Between two steps; a step takes about 5 ms of the writer."""

Compact = Callable[[int], Awaitable[int]]


class Compactor:
    """Calls ``compact(revision)`` on its schedule; ``wrote(revision)`` tells it that there is something new."""

    def __init__(self, compact: Compact, interval: float = INTERVAL_SECONDS) -> None:
        self._compact = compact
        self._interval = interval
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._revision = 0
        self._previous = 0
        self._stopped = False

    def start(self, revision: int) -> None:
        """``revision`` is the current one: the first tick may compact up to it."""
        self._revision = self._previous = revision
        self._arm()

    def wrote(self, revision: int) -> None:
        self._revision = revision
        if self._timer is None:
            self._arm()

    def stop(self) -> None:
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._task is not None:
            self._task.cancel()

    def _arm(self) -> None:
        if not self._stopped and (self._task is None or self._task.done()):
            self._timer = asyncio.get_running_loop().call_later(self._interval, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._task = asyncio.get_running_loop().create_task(self._run(), name="datastore-compact")

    async def _run(self) -> None:
        target, self._previous = self._previous, self._revision
        failed = False
        try:
            reached = await self._compact(target)
            log.debug("compacted up to revision %d", reached)
        except DatastoreError as e:
            log.warning("compaction up to revision %d failed, trying again later: %s", target, e)
            self._previous = target
            failed = True
        finally:
            self._task = None
        if failed or target < self._revision:
            self._arm()
