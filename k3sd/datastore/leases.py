"""Expiry of leased keys, as kine does it: a lease is the key's time to live in seconds, counted from when this process
saw the write, so a restart extends it. One timer, armed for the next key only; nothing runs when nothing is leased.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence

from k3sd.datastore.backend import CompareFailed, DatastoreError, Event

log = logging.getLogger(__name__)

RETRY_SECONDS = 0.25
MAX_CONCURRENT_DELETES = 64

Delete = Callable[[str, int], Awaitable[object]]


class LeaseKeeper:
    """Deletes leased keys when their time is over. ``delete(key, revision)`` must compare the revision."""

    def __init__(self, delete: Delete) -> None:
        self._delete = delete
        self._deadlines: dict[str, tuple[int, float, int]] = {}
        self._heap: list[tuple[float, str, int]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self, leased: Iterable[tuple[str, int, int]]) -> None:
        """Begin with ``(key, revision, seconds)`` of the keys found in the store."""
        self._loop = asyncio.get_running_loop()
        for key, revision, seconds in leased:
            self._put(key, revision, seconds)
        self._arm()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
        self._loop = None

    def observe(self, events: Sequence[Event]) -> None:
        """Follow the store's events."""
        armed = False
        for event in events:
            kv = event.kv
            if kv.lease_seconds > 0 and not event.deleted:
                self._put(kv.key, kv.revision, kv.lease_seconds)
                armed = True
            elif self._deadlines:
                self._deadlines.pop(kv.key, None)
        if armed:
            self._arm()

    def renew(self, seconds: int) -> None:
        """Begin the time of every key that has ``seconds`` to live anew."""
        for key, (revision, _, granted) in list(self._deadlines.items()):
            if granted == seconds:
                self._put(key, revision, seconds)
        self._arm()

    def _current(self, when: float, key: str, revision: int) -> bool:
        """Whether a heap entry is still what the key's last write or renewal put there."""
        return self._deadlines.get(key, (0, 0.0, 0))[:2] == (revision, when)

    def _put(self, key: str, revision: int, seconds: int, delay: float | None = None) -> None:
        assert self._loop is not None
        deadline = self._loop.time() + (seconds if delay is None else delay)
        self._deadlines[key] = (revision, deadline, seconds)
        heapq.heappush(self._heap, (deadline, key, revision))
        if len(self._heap) > 64 and len(self._heap) > 4 * len(self._deadlines):
            self._heap = [(when, k, rev) for k, (rev, when, _) in self._deadlines.items()]
            heapq.heapify(self._heap)

    def _arm(self) -> None:
        if self._loop is None or (self._task is not None and not self._task.done()):
            return
        while self._heap and not self._current(*self._heap[0]):
            heapq.heappop(self._heap)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._heap:
            self._timer = self._loop.call_at(self._heap[0][0], self._fire)

    def _fire(self) -> None:
        assert self._loop is not None
        self._timer = None
        self._task = self._loop.create_task(self._expire(), name="datastore-leases")
        self._task.add_done_callback(lambda _: self._arm())

    async def _expire(self) -> None:
        assert self._loop is not None
        due: list[tuple[str, int]] = []
        while self._heap and self._heap[0][0] <= self._loop.time() and len(due) < MAX_CONCURRENT_DELETES:
            when, key, revision = heapq.heappop(self._heap)
            if self._current(when, key, revision):
                due.append((key, revision))
        await asyncio.gather(*(self._expire_one(key, revision) for key, revision in due))

    async def _expire_one(self, key: str, revision: int) -> None:
        try:
            await self._delete(key, revision)
        except CompareFailed:
            pass  # written again meanwhile: its event renews or ends the lease
        except DatastoreError as e:
            log.debug("expiring %r failed, trying again: %s", key, e)
            if self._loop is not None and key in self._deadlines:
                self._put(key, revision, self._deadlines[key][2], RETRY_SECONDS)
            return
        if key in self._deadlines and self._deadlines[key][0] == revision:
            del self._deadlines[key]
