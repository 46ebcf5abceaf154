"""Live events: listeners and watches fed with every committed batch, in revision order, in the event loop.

A watch is history from the log up to the revision at which it was registered, then live batches. Both ends meet exactly,
so every change is seen once and in order. Queues are bounded: who falls behind is closed, a writer is never stalled.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from k3sd.datastore.backend import Compacted, DatastoreError, Event, Unavailable

log = logging.getLogger(__name__)

MAX_PENDING_EVENTS = 8192

ReadHistory = Callable[[str, str, int, int], Awaitable[tuple[Sequence[Event], int]]]
"""``Backend.history``."""
Listener = Callable[[Sequence[Event]], None]


class Watch:
    """One watch; an async iterator of event batches. ``aclose`` ends it."""

    def __init__(self, hub: Hub, start: str, end: str, revision: int, history: ReadHistory) -> None:
        self._hub = hub
        self.start = start
        self.end = end
        self._next = revision or hub.revision + 1
        self._history_end = hub.revision
        self._history = history
        self._queue: deque[Sequence[Event]] = deque()
        self._pending = 0
        self._wake: asyncio.Future[None] | None = None
        self._error: DatastoreError | None = None
        self._closed = False

    def offer(self, events: Sequence[Event]) -> None:
        """Take what concerns this watch from a committed batch. Called by the hub."""
        start, end, first = self.start, self.end, self._next
        mine = [e for e in events if start <= e.kv.key < end and e.kv.revision >= first]
        if not mine:
            return
        self._pending += len(mine)
        if self._pending > MAX_PENDING_EVENTS:
            self.fail(Unavailable(f"watch on {start!r} fell more than {MAX_PENDING_EVENTS} events behind; list again"))
            return
        self._queue.append(mine)
        self._notify()

    def fail(self, error: DatastoreError) -> None:
        """End the watch with an error, after which nothing more is delivered."""
        self._error = error
        self._queue.clear()
        self._hub.drop(self)
        self._notify()

    def _notify(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    @property
    def synced(self) -> bool:
        """Nothing is waiting to be read: every event up to the hub's revision was handed out."""
        return not self._queue and self._next > self._history_end and self._error is None

    def __aiter__(self) -> AsyncIterator[Sequence[Event]]:
        return self

    async def __anext__(self) -> Sequence[Event]:
        while not self._closed:
            if self._error is not None:
                self._closed = True
                raise self._error
            if self._next <= self._history_end:
                try:
                    events, reached = await self._history(self.start, self.end, self._next - 1, self._history_end)
                except DatastoreError:
                    await self.aclose()
                    raise
                self._next = reached + 1
                if events:
                    return events
                continue
            if self._queue:
                batch = self._queue.popleft()
                self._pending -= len(batch)
                return batch
            self._wake = asyncio.get_running_loop().create_future()
            try:
                await self._wake
            finally:
                self._wake = None
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self._closed = True
        self._queue.clear()
        self._hub.drop(self)
        self._notify()


class Hub:
    """All listeners and watches of one store. ``revision`` is that of the last published batch."""

    def __init__(self) -> None:
        self.revision = 0
        self._listeners: list[Listener] = []
        self._watches: dict[Watch, None] = {}
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()
        self._lost: asyncio.Future[None] | None = None
        self._loss: DatastoreError | None = None

    async def lost(self) -> None:
        """See ``Backend.lost``."""
        if self._loss is None:
            if self._lost is None:
                self._lost = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._lost)
        if self._loss is not None:
            raise self._loss

    def lose(self, revision: int, compacted: int) -> None:
        """Go on at ``compacted`` although changes after ``revision`` are gone: watches end with Compacted, so that their
        readers list again, and whoever waits for ``lost`` hears of it."""
        for watch in tuple(self._watches):
            watch.fail(Compacted(revision, compacted))
        self.publish((), compacted)
        self._loss = DatastoreError(
            f"changes between revisions {revision} and {compacted} of the datastore were compacted before this server saw "
            "them: it was cut off or stopped for too long and must read everything again"
        )
        log.error("%s", self._loss)
        if self._lost is not None and not self._lost.done():
            self._lost.set_result(None)

    def reached(self, revision: int) -> asyncio.Future[None]:
        """Done when everything up to ``revision`` was published."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if revision <= self.revision:
            future.set_result(None)
        else:
            heapq.heappush(self._waiting, (revision, next(self._numbers), future))
        return future

    def publish(self, events: Sequence[Event], revision: int) -> None:
        """Hand a committed batch to everybody. ``revision`` may be ahead of the last event (gaps)."""
        self.revision = max(revision, self.revision)
        if events:
            self._hand_out(events)
        while self._waiting and self._waiting[0][0] <= self.revision:
            future = heapq.heappop(self._waiting)[2]
            if not future.done():
                future.set_result(None)

    def _hand_out(self, events: Sequence[Event]) -> None:
        for listener in tuple(self._listeners):
            try:
                listener(events)
            except Exception:
                log.exception("a listener of the datastore failed on revision %d", events[-1].kv.revision)
        for watch in tuple(self._watches):
            watch.offer(events)

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        self._listeners.append(listener)

        def unsubscribe() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return unsubscribe

    def watch(self, start: str, end: str, revision: int, compacted: int, history: ReadHistory) -> Watch:
        watch = Watch(self, start, end, revision, history)
        if 0 < revision < compacted:
            watch.fail(Compacted(revision, compacted))
        else:
            self._watches[watch] = None
        return watch

    def drop(self, watch: Watch) -> None:
        self._watches.pop(watch, None)

    def close(self, error: DatastoreError) -> None:
        """End every watch with ``error``."""
        for watch in tuple(self._watches):
            watch.fail(error)
        for _, _, future in self._waiting:
            if not future.done():
                future.set_exception(error)
        self._waiting.clear()
        self._listeners.clear()
