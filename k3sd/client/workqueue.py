"""``WorkQueue``: keys to reconcile, each by one worker at a time. Source: client-go ``util/workqueue``.

A key added while waiting is kept once; added while it is being worked on, it runs again afterwards. Workers are tasks made when
there is work, so an idle queue holds no task. Failed keys come back with exponential backoff. A key whose events come faster
than it can be worked on rests in between, so that a burst is seen in a few looks, not in one look an event.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from k3sd.apimachinery.errors import StatusError

log = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)
BASE_DELAY_SECONDS = 0.005
MAX_DELAY_SECONDS = 1000.0
COOLING_FACTOR = 2.0
COOLING_SECONDS = (0.002, 0.1)
"""A key rests for twice the time its last work took, at most the second; not at all below the first."""


class WorkQueue(Generic[K]):
    """Use from one event loop. ``name`` labels logs, tasks and metrics."""

    def __init__(self, name: str, *, base_delay: float = BASE_DELAY_SECONDS, max_delay: float = MAX_DELAY_SECONDS) -> None:
        self.name = name
        self._base_delay = base_delay
        self._max_delay = max_delay
        self._pending: dict[K, None] = {}
        self._working: dict[K, asyncio.Task[None]] = {}
        self._again: set[K] = set()
        self._timers: dict[K, asyncio.TimerHandle] = {}
        self._failures: dict[K, int] = {}
        self._cooling: dict[K, asyncio.TimerHandle] = {}
        self._reconcile: Callable[[K], Awaitable[float | None]] | None = None
        self._workers = 0
        self._stopping: asyncio.Event | None = None
        self._closed = False
        self.adds_total = 0
        self.retries_total = 0
        self.done_total = 0
        self.work_seconds_total = 0.0

    def __len__(self) -> int:
        """Keys waiting for a worker (workqueue_depth)."""
        return len(self._pending)

    @property
    def idle(self) -> bool:
        """Nothing waits and nobody works; timers may be pending."""
        return not self._pending and not self._working

    def add(self, key: K) -> None:
        """Reconcile ``key`` soon. A pending ``add_after`` of it stays."""
        if self._closed:
            return
        if key in self._working or key in self._cooling:
            self._again.add(key)
        elif key not in self._pending:
            self.adds_total += 1
            self._pending[key] = None
            self._dispatch()

    def add_after(self, key: K, seconds: float) -> None:
        """``add`` after a delay. Of several delays of one key the earliest counts."""
        if self._closed:
            return
        if seconds <= 0:
            self.add(key)
            return
        loop = asyncio.get_running_loop()
        timer = self._timers.get(key)
        if timer is not None:
            if timer.when() <= loop.time() + seconds:
                return
            timer.cancel()
        self._timers[key] = loop.call_later(seconds, self._expired, key)

    def add_rate_limited(self, key: K) -> None:
        """``add_after`` with the key's backoff, which doubles until ``forget``."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        self.retries_total += 1
        self.add_after(key, min(self._base_delay * 2.0 ** min(failures, 60), self._max_delay))

    def forget(self, key: K) -> None:
        """The key succeeded: its next failure starts with the shortest delay."""
        self._failures.pop(key, None)

    def num_requeues(self, key: K) -> int:
        return self._failures.get(key, 0)

    async def run(self, reconcile: Callable[[K], Awaitable[float | None]], workers: int = 1) -> None:
        """Work until cancelled or ``stop``. Work under way is cancelled with us, but finished on ``stop``.

        ``reconcile`` may return seconds after which to look at the key again. What it raises is logged and retried.
        """
        self._reconcile = reconcile
        self._workers = workers
        self._stopping = asyncio.Event()
        self._dispatch()
        try:
            await self._stopping.wait()
            self._close()
            if self._working:
                await asyncio.wait(self._working.values())
        finally:
            self._close()
            tasks = list(self._working.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def stop(self) -> None:
        """Take no more work; ``run`` returns when the work under way is done."""
        self._closed = True
        if self._stopping is not None:
            self._stopping.set()

    def _close(self) -> None:
        self._closed = True
        self._pending.clear()
        self._again.clear()
        for timer in (*self._timers.values(), *self._cooling.values()):
            timer.cancel()
        self._timers.clear()
        self._cooling.clear()

    def _expired(self, key: K) -> None:
        del self._timers[key]
        self.add(key)

    def _rested(self, key: K) -> None:
        del self._cooling[key]
        self._repeat(key)

    def _repeat(self, key: K) -> None:
        """Add the key if it was added while it could not be worked on."""
        if key in self._again:
            self._again.discard(key)
            self.add(key)

    def _dispatch(self) -> None:
        while self._pending and len(self._working) < self._workers:
            key = next(iter(self._pending))
            del self._pending[key]
            self._working[key] = asyncio.get_running_loop().create_task(self._work(key), name=f"{self.name} {key}")

    async def _work(self, key: K) -> None:
        assert self._reconcile is not None
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            again = await self._reconcile(key)
        except StatusError as e:
            # Conflicts and objects that vanish are the daily bread of optimistic locking.
            level = logging.DEBUG if e.code in (404, 409) else logging.WARNING
            log.log(level, "%s: %s: %s", self.name, key, e.message)
            self.add_rate_limited(key)
        except (ConnectionError, TimeoutError) as e:
            log.warning("%s: %s: %s", self.name, key, e)
            self.add_rate_limited(key)
        except Exception:
            log.exception("%s: %s: reconciling failed", self.name, key)
            self.add_rate_limited(key)
        else:
            self.forget(key)
            if again is not None:
                self.add_after(key, again)
        finally:
            took = loop.time() - started
            self.done_total += 1
            self.work_seconds_total += took
            del self._working[key]
            if not self._closed:
                least, most = COOLING_SECONDS
                rest = min(took * COOLING_FACTOR, most)
                if rest >= least:
                    self._cooling[key] = loop.call_later(rest, self._rested, key)
                else:
                    self._repeat(key)
                self._dispatch()
