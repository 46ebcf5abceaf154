"""Pods waiting for a node: by priority, then age; after a failure in backoff or parked until the cluster changes. No polling.

Source: ``pkg/scheduler/backend/queue/scheduling_queue.go``.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable

from k3sd.scheduler.podinfo import PodInfo

BACKOFF_FIRST_SECONDS = 1.0
BACKOFF_CAP_SECONDS = 10.0
PARK_LIMIT_SECONDS = 300.0
"""A parked pod is tried again after this at the latest, as upstream does."""


class SchedulingQueue:
    """One entry a pod uid. ``pop`` waits for the next pod; ``park`` puts one aside that did not fit; ``move_all`` wakes the
    parked."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._heap: list[tuple[int, float, int, str]] = []
        self._active: dict[str, PodInfo] = {}
        self._parked: dict[str, PodInfo] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._attempts: dict[str, int] = {}
        self._added: dict[str, float] = {}
        self._order = itertools.count()
        self._wake = asyncio.Event()
        self._moves = 0

    def __len__(self) -> int:
        return len(self._active) + len(self._parked)

    @property
    def moves(self) -> int:
        """Counts ``move_all`` calls: a cycle that saw fewer must not park its pod, the cluster changed meanwhile."""
        return self._moves

    def add(self, pod: PodInfo) -> None:
        """A new or changed pod: try it now."""
        self._cancel(pod.uid)
        self._parked.pop(pod.uid, None)
        self._activate(pod)

    def update(self, pod: PodInfo, spec_changed: bool) -> None:
        """The object changed. A parked pod comes back only if something that matters changed."""
        if pod.uid in self._active:
            self._active[pod.uid] = pod
        elif pod.uid in self._parked and not spec_changed:
            self._parked[pod.uid] = pod
        else:
            self.add(pod)

    def remove(self, uid: str) -> None:
        self._cancel(uid)
        for table in (self._active, self._parked):
            table.pop(uid, None)
        self._attempts.pop(uid, None)
        self._added.pop(uid, None)

    def _activate(self, pod: PodInfo) -> None:
        self._active[pod.uid] = pod
        since = self._added.setdefault(pod.uid, self._loop.time())
        heapq.heappush(self._heap, (-pod.priority, since, next(self._order), pod.uid))
        self._wake.set()

    def _cancel(self, uid: str) -> None:
        if (timer := self._timers.pop(uid, None)) is not None:
            timer.cancel()

    async def pop(self) -> PodInfo:
        """The next pod to try, removed from the queue."""
        while True:
            while self._heap:
                uid = heapq.heappop(self._heap)[3]
                if (pod := self._active.pop(uid, None)) is not None:
                    self._attempts[uid] = self._attempts.get(uid, 0) + 1
                    return pod
            self._wake.clear()
            await self._wake.wait()

    def backoff_seconds(self, uid: str) -> float:
        attempts = self._attempts.get(uid, 1)
        return float(min(BACKOFF_FIRST_SECONDS * 2 ** min(attempts - 1, 10), BACKOFF_CAP_SECONDS))

    def retry(self, pod: PodInfo) -> None:
        """Try again after the pod's backoff."""
        self._parked[pod.uid] = pod
        self._later(pod.uid, self.backoff_seconds(pod.uid))

    def park(self, pod: PodInfo, moves: int) -> None:
        """It fits nowhere now. ``moves`` is ``self.moves`` from before the cycle."""
        if moves != self._moves:
            self.retry(pod)
            return
        self._parked[pod.uid] = pod
        self._later(pod.uid, PARK_LIMIT_SECONDS)

    def _later(self, uid: str, seconds: float) -> None:
        self._cancel(uid)
        self._timers[uid] = self._loop.call_later(seconds, self._unpark, uid)

    def _unpark(self, uid: str) -> None:
        self._timers.pop(uid, None)
        if (pod := self._parked.pop(uid, None)) is not None:
            self._activate(pod)

    def move_all(self, helps: Callable[[PodInfo], bool] = lambda _pod: True) -> None:
        """The cluster changed in a way that may make parked pods fit: try those it helps, each after its backoff."""
        self._moves += 1
        now = self._loop.time()
        for uid, pod in list(self._parked.items()):
            if helps(pod):
                timer = self._timers.get(uid)
                wait = self.backoff_seconds(uid)
                if timer is None or timer.when() - now > wait:
                    self._later(uid, wait if self._attempts.get(uid, 0) > 1 else 0.0)

    def done(self, uid: str) -> None:
        """The pod was bound: forget its history."""
        self._attempts.pop(uid, None)
        self._added.pop(uid, None)

    def close(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
