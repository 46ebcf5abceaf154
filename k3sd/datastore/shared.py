"""``SharedStore``: a ``Backend`` over a database that several servers write.

The database numbers the rows, and rows become visible out of order. ``Sequencer`` puts them in order again: what this process
wrote itself is known at once, the rest is read by one follower that is woken by the database (or looks after a while). A
revision that stays empty belongs to an aborted transaction and is filled with a gap row, as kine does; a transaction still
under way makes the filler wait and then lose, so nothing is skipped. Everything that waits for the database or for such a
transaction waits for a bounded time and then says for what.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

from k3sd.datastore import compact, mvcc
from k3sd.datastore.backend import DatastoreError, Event, KeyValue, ListResult, Unavailable
from k3sd.datastore.log import Log, Opened
from k3sd.datastore.mvcc import Op
from k3sd.datastore.store import LogStore, answer

logger = logging.getLogger(__name__)

T = TypeVar("T")

PAGE = 500
SECOND_LOOK_SECONDS = 0.002
"""Between the first sight of an empty revision and filling it."""
MAX_FILL = 1000
BACKOFF_CAP_SECONDS = 5.0
WAIT_SECONDS = 10.0
"""How long an answer waits for the database, or for revisions before its own that another server has not finished."""


class SharedLog(Log, Protocol):
    """What a database shared by several servers adds. ``after`` and ``fill`` run in the follower's own thread."""

    listening: bool
    """False after the listener's connection was lost."""
    quiet_seconds: float
    """How long the follower rests at most when nothing happens."""

    def current_revision(self) -> int: ...

    def after(self, revision: int, limit: int) -> Sequence[tuple[int, Event | None]]:
        """Rows behind ``revision`` in order, None for rows that are no events."""
        ...

    def fill(self, first: int, last: int) -> None:
        """Put gap rows on the revisions that are still empty."""
        ...

    def find_compact_revision(self) -> int:
        """The compact revision as the database has it now."""
        ...

    def leased(self) -> Sequence[tuple[str, int, int]]:
        """``Opened.leased`` as it is now."""
        ...

    def open_listener(self) -> None:
        """Connect what ``listen`` needs; in the follower's thread."""
        ...

    def listen(self, loop: asyncio.AbstractEventLoop, wake: Callable[[], None]) -> None:
        """Call ``wake`` in the loop whenever another server wrote, and once when the connection is lost."""
        ...

    def unlisten(self) -> None: ...


class Sequencer:
    """Orders rows by revision. ``take`` gives the events that follow without a hole."""

    def __init__(self, revision: int) -> None:
        self.revision = revision
        self._pending: dict[int, Event | None] = {}

    def add(self, rows: Iterable[tuple[int, Event | None]]) -> None:
        for revision, event in rows:
            if revision > self.revision:
                self._pending[revision] = event

    def take(self) -> list[Event]:
        events: list[Event] = []
        pending = self._pending
        while (following := self.revision + 1) in pending:
            event = pending.pop(following)
            self.revision = following
            if event is not None:
                events.append(event)
        return events

    @property
    def hole(self) -> tuple[int, int] | None:
        """First and last revision missing before the next known one."""
        if not self._pending:
            return None
        return self.revision + 1, min(self._pending) - 1

    def skip(self, revision: int) -> None:
        """Go on behind ``revision`` although something before it is missing."""
        self.revision = max(self.revision, revision)
        for known in [r for r in self._pending if r <= self.revision]:
            del self._pending[known]


class SharedStore(LogStore):
    """See ``Backend``. ``patience_seconds`` is how long ``start`` waits for a server that does not answer."""

    def __init__(
        self,
        log: SharedLog,
        *,
        compact_interval: float = compact.INTERVAL_SECONDS,
        patience_seconds: float = 300.0,
        upkeep: bool = True,
    ) -> None:
        super().__init__(log, compact_interval=compact_interval, upkeep=upkeep)
        self._shared = log
        self._patience = patience_seconds
        self._sequence = Sequencer(0)
        self._wake = asyncio.Event()
        self._follower: asyncio.Task[None] | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._unanswered: deque[tuple[float, str, asyncio.Future[object]]] = deque()
        self._deadline: asyncio.TimerHandle | None = None
        self._behind = ""
        """Why the follower cannot go on."""

    # lifecycle

    async def _open(self) -> Opened:
        """A server that does not answer is waited for (kine: 300 tries, a second apart); anything else fails at once."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._patience
        delay = 0.2
        while True:
            try:
                return await self._in_writer(self._log.open)
            except Unavailable as e:
                if loop.time() + delay > deadline:
                    raise
                logger.warning("%s; trying again", e)
                await asyncio.sleep(delay)
                delay = min(delay * 2, BACKOFF_CAP_SECONDS)

    async def _follow(self, revision: int) -> None:
        self._sequence = Sequencer(revision)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="datastore-follow")
        await self._listen()
        self._follower = asyncio.create_task(self._follow_loop(), name="datastore-follow")

    async def _listen(self) -> None:
        assert self._loop is not None
        self._shared.unlisten()
        await self._in_follower(self._shared.open_listener)
        self._shared.listen(self._loop, self._wake.set)

    async def _in_follower(self, function: Callable[..., T], *args: object) -> T:
        assert self._loop is not None and self._thread is not None
        return await self._bounded(self._loop.run_in_executor(self._thread, function, *args))

    async def _bounded(self, work: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                return await work
        except TimeoutError:
            raise Unavailable(f"the datastore did not answer within {WAIT_SECONDS:.0f} s") from None

    async def _read(self, function: Callable[..., T], *args: object) -> T:
        return await self._bounded(super()._read(function, *args))

    async def _unfollow(self) -> None:
        if self._follower is not None:
            self._follower.cancel()
            await asyncio.gather(self._follower, return_exceptions=True)
            self._follower = None
        self._shared.unlisten()
        if self._deadline is not None:
            self._deadline.cancel()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.shutdown)
            self._thread = None

    # following

    async def _follow_loop(self) -> None:
        rest = self._shared.quiet_seconds
        failures = 0
        while True:
            try:
                async with asyncio.timeout(rest):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            try:
                if failures or not self._shared.listening:
                    await self._listen()
                foreign = await self._catch_up()
            except DatastoreError as e:
                failures += 1
                self.problem = self._behind = str(e)
                if failures == 1:
                    logger.warning("following the datastore failed, trying again: %s", e)
                rest = min(0.1 * 2**failures, BACKOFF_CAP_SECONDS)
                continue
            if failures:
                logger.info("following the datastore again at revision %d", self._sequence.revision)
            self.problem = self._behind = ""
            failures = 0
            busy = self._shared.quiet_seconds / 16
            rest = busy if foreign else min(max(rest, busy) * 2, self._shared.quiet_seconds)

    async def _catch_up(self) -> bool:
        """Read up to the newest row. Returns whether another server wrote."""
        foreign = False
        seen: tuple[int, int] | None = None
        while True:
            rows = await self._in_follower(self._shared.after, self._sequence.revision, PAGE)
            foreign = foreign or bool(rows and rows[-1][0] > self._sequence.revision)
            self._sequence.add(rows)
            self._advance()
            hole = self._sequence.hole
            if hole is None:
                if len(rows) < PAGE:
                    return foreign
            elif hole != seen:
                seen = hole
                await asyncio.sleep(SECOND_LOOK_SECONDS)
            elif hole[0] <= (compacted := await self._in_follower(self._shared.find_compact_revision)):
                await self._lose(compacted)
            elif hole[1] - hole[0] >= MAX_FILL:
                logger.warning("revisions %d to %d were never written and are skipped", *hole)
                self._sequence.skip(hole[1])
                self._advance()
            else:
                logger.debug("filling revisions %d to %d", *hole)
                await self._in_follower(self._shared.fill, *hole)

    async def _lose(self, compacted: int) -> None:
        """The hole is history that was compacted before it was seen here."""
        behind = self._sequence.revision
        self._sequence.skip(compacted)
        self._hub.lose(behind, compacted)
        if self._upkeep:
            self._leases.start(await self._in_follower(self._shared.leased))
        self._advance()

    def _advance(self) -> None:
        events = self._sequence.take()
        revision = self._sequence.revision
        if revision > self._hub.revision:
            self._publish(events, revision)

    def _submit(self, op: Op) -> asyncio.Future[object]:
        future = super()._submit(op)
        assert self._loop is not None
        queue = self._unanswered
        while queue and queue[0][2].done():
            queue.popleft()
        queue.append((self._loop.time() + WAIT_SECONDS, op.key, future))
        if self._deadline is None:
            self._deadline = self._loop.call_later(WAIT_SECONDS, self._give_up)
        return future

    def _give_up(self) -> None:
        """Answer writers who waited too long; what becomes of their writes is not known."""
        assert self._loop is not None
        self._deadline = None
        queue = self._unanswered
        now = self._loop.time()
        while queue and (queue[0][0] <= now or queue[0][2].done()):
            _, key, future = queue.popleft()
            if not future.done():
                reason = self.problem or f"the datastore did not answer within {WAIT_SECONDS:.0f} s"
                future.set_exception(Unavailable(f"whether {key!r} was written is unknown: {reason}"))
        if queue:
            self._deadline = self._loop.call_at(queue[0][0], self._give_up)

    def _deliver(self, ops: list[Op], events: Sequence[Event], error: DatastoreError | None) -> None:
        errors = [error] if error is not None else [op.error for op in ops if isinstance(op.error, Unavailable)]
        self.problem = str(errors[0]) if errors else self._behind
        if errors or self._behind:
            self._wake.set()  # the follower finds out when the database answers again, with or without a write
        self._sequence.add((event.kv.revision, event) for event in events)
        self._advance()
        for op in ops:
            if op.result == (0, None):
                op.result = (self._sequence.revision, None)
            revision = op.result[0] if isinstance(op.result, tuple) else op.result or 0
            if error is not None or op.error is not None or revision <= self._sequence.revision:
                answer(op, error)
            else:
                self._hub.reached(revision).add_done_callback(functools.partial(_answer_later, op))
        if self._sequence.hole is not None:
            self._wake.set()

    # Backend

    async def revision(self) -> int:
        """The database's current revision, returned when everything up to it was published here."""
        current = await self._read(self._shared.current_revision)
        if current > self._sequence.revision:
            self._wake.set()
            try:
                async with asyncio.timeout(WAIT_SECONDS):
                    await self._hub.reached(current)
            except TimeoutError:
                raise Unavailable(
                    f"this server is at revision {self._sequence.revision} of the datastore and does not catch up to {current}"
                ) from None
        return self._sequence.revision

    async def _at(self, revision: int) -> int:
        """The revision to read at, checked."""
        if revision <= self._sequence.revision and revision > 0:
            mvcc.check_revision(revision, self._sequence.revision, self._log.compact_revision)
            return revision
        current = await self.revision()
        mvcc.check_revision(revision, current, self._log.compact_revision)
        return revision or current

    async def get(self, key: str, revision: int = 0) -> tuple[int, KeyValue | None]:
        if revision:
            revision = await self._at(revision)
        _, kv = await self._read(self._log.get, key, revision)
        return max(self._sequence.revision, kv.revision if kv else 0), kv

    async def list(
        self, start: str, end: str, *, limit: int = 0, revision: int = 0, keys_only: bool = False, counted: bool = True
    ) -> ListResult:
        return await self._read(self._log.list, start, end, limit, await self._at(revision), keys_only, counted)

    async def count(self, start: str, end: str, *, revision: int = 0) -> tuple[int, int]:
        _, count = await self._read(self._log.count, start, end, await self._at(revision))
        return self._sequence.revision, count


def _answer_later(op: Op, waiter: asyncio.Future[None]) -> None:
    error = waiter.exception()
    answer(op, error if isinstance(error, DatastoreError) else None)
