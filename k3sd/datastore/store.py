"""``LogStore``: a ``Backend`` over a ``Log`` that only this process writes. (``shared`` is for databases with several writers.)

Writes of one turn of the event loop go together to one writer thread, which commits all that wait in one transaction, so
concurrent writers share one fsync. After the commit one callback in the event loop delivers the batch: listeners and watches
first, then the writers' futures. Readers have their own threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue
from typing import TypeVar

from k3sd.datastore import compact, mvcc
from k3sd.datastore.backend import CompareFailed, Counters, DatastoreError, Event, KeyValue, ListResult, Unavailable
from k3sd.datastore.hub import Hub, Listener, Watch
from k3sd.datastore.leases import LeaseKeeper
from k3sd.datastore.log import Log, Opened
from k3sd.datastore.mvcc import Kind, Op

logger = logging.getLogger(__name__)

T = TypeVar("T")

MAX_BATCH = 256
READERS = 2
HISTORY_PAGE = 500


class _Call:
    """Something for the writer thread other than a write."""

    __slots__ = ("function", "future")

    def __init__(self, function: Callable[[], object], future: asyncio.Future[object]) -> None:
        self.function = function
        self.future = future


class LogStore:
    """See ``Backend``. ``compact_interval`` is in seconds. Without ``upkeep`` nothing is written of its own accord: no expiry
    of leases, no compaction, no health key."""

    def __init__(self, log: Log, *, compact_interval: float = compact.INTERVAL_SECONDS, upkeep: bool = True) -> None:
        self._upkeep = upkeep
        self._log = log
        self._hub = Hub()
        self._leases = LeaseKeeper(self.delete)
        self._compactor = compact.Compactor(self.compact, compact_interval)
        self._queue: SimpleQueue[list[Op] | _Call | None] = SimpleQueue()
        self._turn: list[Op] = []
        self._writer: threading.Thread | None = None
        self._readers: ThreadPoolExecutor | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = "is not started"
        self.problem = ""
        self.counters = Counters()
        self._maintaining = False

    # lifecycle

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        if self._log.threaded:
            self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="datastore-read")
            self._writer = threading.Thread(target=self._write_loop, name="datastore-write", daemon=True)
            self._writer.start()
        self._closed = ""
        try:
            opened = await self._open()
            self._hub.publish((), opened.revision)
            await self._follow(opened.revision)
            if self._upkeep:
                await self._bootstrap()
        except BaseException:
            await self._unfollow()
            await self._end_threads("could not be opened")
            raise
        if not self._upkeep:
            return
        self._hub.subscribe(self._leases.observe)
        self._leases.start(opened.leased)
        self._compactor.start(self._hub.revision)

    async def _open(self) -> Opened:
        return await self._in_writer(self._log.open)

    async def _follow(self, revision: int) -> None:
        """Begin to follow other writers from ``revision`` on; there are none here."""

    async def _unfollow(self) -> None:
        """End what ``_follow`` began. Idempotent."""

    async def _bootstrap(self) -> None:
        """kine's own health key, which Kubernetes's storage expects."""
        if (await self.get(mvcc.HEALTH_KEY))[1] is None:
            with contextlib.suppress(CompareFailed):  # another server was quicker
                await self.create(mvcc.HEALTH_KEY, mvcc.HEALTH_VALUE)

    async def stop(self) -> None:
        if self._closed:
            return
        self._compactor.stop()
        self._leases.stop()
        await self._unfollow()
        await self._end_threads("is closed")
        self._hub.close(Unavailable("the datastore is closed"))

    async def _end_threads(self, reason: str) -> None:
        """Commit what is queued, close the log, end the threads."""
        self._closed = reason
        if self._writer is None:
            self._log.close()
            return
        assert self._readers is not None
        await asyncio.to_thread(self._readers.shutdown)  # first: closing the log closes the readers' connections
        self._hand_over()
        self._queue.put(None)
        await asyncio.to_thread(self._writer.join)
        await asyncio.sleep(0)  # the last outcomes were handed to the loop before the thread ended

    # writer thread

    def _write_loop(self) -> None:
        queue = self._queue
        running = True
        while running:
            item = queue.get()
            ops: list[Op] = []
            while True:
                if isinstance(item, list):
                    ops += item
                elif item is None:
                    running = False
                else:
                    self._commit(ops)
                    ops = []
                    self._run(item)
                if len(ops) >= MAX_BATCH:
                    break
                try:
                    item = queue.get_nowait()
                except Empty:
                    break
            self._commit(ops)
        try:
            self._log.close()
        except DatastoreError as e:
            logger.warning("closing the datastore: %s", e)

    def _commit(self, ops: list[Op]) -> None:
        ops = [op for op in ops if op.future is None or not op.future.cancelled()]
        if not ops:
            return
        events: Sequence[Event] = ()
        error: DatastoreError | None = None
        try:
            events = self._log.commit(ops)
        except DatastoreError as e:
            error = e
        except Exception as e:
            logger.exception("the datastore's writer failed")
            error = DatastoreError(f"writing to the datastore failed: {e}")
            error.__cause__ = e
        if events:
            self.counters.count(events)
        self._call(self._deliver, ops, events, error)

    def _run(self, call: _Call) -> None:
        try:
            result: object = call.function()
        except Exception as e:
            self._call(_fail, call.future, e)
        else:
            self._call(_resolve, call.future, result)

    def _call(self, function: Callable[..., None], *args: object) -> None:
        assert self._loop is not None
        if self._writer is None:
            function(*args)
            return
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:
            logger.debug("the event loop is gone; an outcome was not delivered")

    # event loop

    def _deliver(self, ops: list[Op], events: Sequence[Event], error: DatastoreError | None) -> None:
        self.problem = str(error) if error is not None else ""
        if events:
            self._publish(events, events[-1].kv.revision)
        for op in ops:
            answer(op, error)
        if self._log.maintenance_due and not self._maintaining and self._readers is not None and not self._closed:
            self._maintaining = True
            self._readers.submit(self._maintain)

    def _publish(self, events: Sequence[Event], revision: int) -> None:
        self._hub.publish(events, revision)
        if self._upkeep:
            self._compactor.wrote(revision)

    def _maintain(self) -> None:
        try:
            self._log.maintain()
        except DatastoreError as e:
            logger.warning("%s", e)
        finally:
            self._maintaining = False

    def _submit(self, op: Op) -> asyncio.Future[object]:
        if self._closed:
            raise Unavailable(f"the datastore {self._closed}")
        assert self._loop is not None
        future: asyncio.Future[object] = self._loop.create_future()
        op.future = future
        if self._writer is None:
            self._commit([op])
            return future
        if not self._turn:
            self._loop.call_soon(self._hand_over)
        self._turn.append(op)
        return future

    def _hand_over(self) -> None:
        """Give the writer what this turn brought."""
        if self._turn:
            self._queue.put(self._turn)
            self._turn = []

    async def _in_writer(self, function: Callable[[], T]) -> T:
        if self._closed:
            raise Unavailable(f"the datastore {self._closed}")
        if self._writer is None:
            return function()
        assert self._loop is not None
        future: asyncio.Future[object] = self._loop.create_future()
        self._hand_over()
        self._queue.put(_Call(function, future))
        return await future  # type: ignore[return-value]

    async def _read(self, function: Callable[..., T], *args: object) -> T:
        if self._closed:
            raise Unavailable(f"the datastore {self._closed}")
        if self._readers is None:
            return function(*args)
        assert self._loop is not None
        return await self._loop.run_in_executor(self._readers, function, *args)

    # Backend

    async def revision(self) -> int:
        return self._hub.revision

    @property
    def compact_revision(self) -> int:
        return self._log.compact_revision

    async def get(self, key: str, revision: int = 0) -> tuple[int, KeyValue | None]:
        return await self._read(self._log.get, key, revision)

    async def list(
        self, start: str, end: str, *, limit: int = 0, revision: int = 0, keys_only: bool = False, counted: bool = True
    ) -> ListResult:
        return await self._read(self._log.list, start, end, limit, revision, keys_only, counted)

    async def count(self, start: str, end: str, *, revision: int = 0) -> tuple[int, int]:
        return await self._read(self._log.count, start, end, revision)

    async def create(self, key: str, value: bytes, lease_seconds: int = 0) -> int:
        mvcc.check_size(key, value)
        return await self._submit(Op(Kind.CREATE, key, value, 0, lease_seconds))  # type: ignore[return-value]

    async def update(self, key: str, value: bytes, revision: int, lease_seconds: int = 0) -> int:
        mvcc.check_size(key, value)
        return await self._submit(Op(Kind.UPDATE, key, value, revision, lease_seconds))  # type: ignore[return-value]

    async def delete(self, key: str, revision: int = 0) -> tuple[int, KeyValue | None]:
        return await self._submit(Op(Kind.DELETE, key, b"", revision, 0))  # type: ignore[return-value]

    def watch(self, start: str, end: str, revision: int = 0) -> Watch:
        if self._closed:
            raise Unavailable(f"the datastore {self._closed}")
        return self._hub.watch(start, end, revision, self._log.compact_revision, self.history)

    async def history(self, start: str, end: str, after: int, upto: int) -> tuple[Sequence[Event], int]:
        return await self._read(self._log.history, start, end, after, upto, HISTORY_PAGE)

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        return self._hub.subscribe(listener)

    async def lost(self) -> None:
        await self._hub.lost()

    async def renew(self, lease_seconds: int) -> None:
        self._leases.renew(lease_seconds)

    async def size(self) -> int:
        return await self._read(self._log.size)

    async def compact(self, revision: int) -> int:
        target = mvcc.compact_target(revision, self._hub.revision)
        reached = self._log.compact_revision
        while reached < target:
            reached = await self._in_writer(lambda: self._log.compact_step(target))
            if self._log.compacted_elsewhere:
                break
            if reached < target:
                await asyncio.sleep(compact.PAUSE_SECONDS)
        return reached


def answer(op: Op, error: DatastoreError | None = None) -> None:
    """Resolve the writer's future with the operation's outcome."""
    future = op.future
    if future is None or future.done():
        return
    failure = error or op.error
    if failure is not None:
        future.set_exception(failure)
    else:
        future.set_result(op.result)


def _fail(future: asyncio.Future[object], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


def _resolve(future: asyncio.Future[object], result: object) -> None:
    if not future.done():
        future.set_result(result)
