"""The Watch service: many watches on one stream, one writer, so that progress can be told truthfully.

A progress response with revision R says that everything up to R was sent on this stream before it. Events and progress go
through one queue; progress enters it only when every watch is idle at the hub's revision.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from collections.abc import AsyncIterator
from typing import Any

from k3sd.datastore import etcdrpc
from k3sd.datastore.backend import Backend, Compacted, DatastoreError
from k3sd.datastore.hub import Watch
from k3sd.etcdface.wire import Refused, bounds, event, header

log = logging.getLogger(__name__)

PROGRESS_SECONDS = 5.0
MAX_QUEUED = 4096
"""Responses waiting for a client that does not read; then the stream waits, and the hub drops its watches."""
BROADCAST_ID = -1
NOPUT, NODELETE = 0, 1

_ids = itertools.count(1)


class _One:
    """One watch of a stream."""

    def __init__(self, stream: Stream, number: int, request: Any, watch: Watch) -> None:
        self.stream = stream
        self.number = number
        self.watch = watch
        self.wants_progress = bool(request.progress_notify)
        self.idle = False
        self.sent_since_progress = False
        self._skip = {bool(f == NODELETE) for f in request.filters}
        self.task = asyncio.create_task(self._pump(), name=f"etcd-watch-{number}")

    @property
    def synced(self) -> bool:
        return self.idle and self.watch.synced

    async def _pump(self) -> None:
        try:
            while True:
                self.idle = True
                self.stream.became_idle()
                try:
                    events = await anext(self.watch)
                finally:
                    self.idle = False
                messages = [event(e) for e in events if e.deleted not in self._skip]
                if messages:
                    self.sent_since_progress = True
                    await self.stream.send(
                        etcdrpc.WatchResponse(header=header(events[-1].kv.revision), watch_id=self.number, events=messages)
                    )
        except StopAsyncIteration:
            pass
        except Compacted as e:
            await self.stream.cancelled(self.number, str(e), e.compact_revision)
        except DatastoreError as e:
            await self.stream.cancelled(self.number, str(e))

    async def close(self) -> None:
        await self.watch.aclose()
        self.task.cancel()


class Stream:
    """One Watch call: ``requests`` in, responses out by iterating ``responses``."""

    def __init__(self, backend: Backend, requests: AsyncIterator[Any]) -> None:
        self._backend = backend
        self._requests = requests
        self._out: asyncio.Queue[Any] = asyncio.Queue(MAX_QUEUED)
        self._watches: dict[int, _One] = {}
        self._progress_wanted = False
        self._asking: asyncio.Task[None] | None = None
        self._ticker: asyncio.Task[None] | None = None

    async def responses(self) -> AsyncIterator[Any]:
        reader = asyncio.create_task(self._read(), name="etcd-watch-requests")
        try:
            while True:
                response = await self._out.get()
                if response is None:
                    return
                yield response
        finally:
            reader.cancel()
            for task in (self._asking, self._ticker):
                if task is not None:
                    task.cancel()
            for one in list(self._watches.values()):
                await one.close()

    async def _read(self) -> None:
        """The client closing its side ends the stream, as in etcd."""
        try:
            async for request in self._requests:
                if request.HasField("create_request"):
                    await self._create(request.create_request)
                elif request.HasField("cancel_request"):
                    await self._cancel(request.cancel_request.watch_id)
                elif request.HasField("progress_request"):
                    self._progress_wanted = True
                    self.became_idle()
        finally:
            await self._out.put(None)

    async def send(self, response: Any) -> None:
        await self._out.put(response)

    async def _create(self, request: Any) -> None:
        if request.watch_id:
            await self._refuse("a watch id of the client's own choice is not implemented by k3sd")
            return
        try:
            start, end = bounds(request.key, request.range_end)
            watch = self._backend.watch(start, end, request.start_revision)
        except (Refused, DatastoreError) as e:
            await self._refuse(str(e))
            return
        number = next(_ids)
        await self.send(etcdrpc.WatchResponse(header=header(0), watch_id=number, created=True))
        assert isinstance(watch, Watch)
        self._watches[number] = one = _One(self, number, request, watch)
        if one.wants_progress and self._ticker is None:
            self._ticker = asyncio.create_task(self._tick(), name="etcd-watch-progress")

    async def _refuse(self, reason: str) -> None:
        await self.send(
            etcdrpc.WatchResponse(header=header(0), watch_id=BROADCAST_ID, created=True, canceled=True, cancel_reason=reason)
        )

    async def _cancel(self, number: int) -> None:
        one = self._watches.pop(number, None)
        if one is not None:
            await one.close()
            await self.send(etcdrpc.WatchResponse(header=header(0), watch_id=number, canceled=True))

    async def cancelled(self, number: int, reason: str, compact_revision: int = 0) -> None:
        self._watches.pop(number, None)
        await self.send(
            etcdrpc.WatchResponse(
                header=header(0), watch_id=number, canceled=True, cancel_reason=reason, compact_revision=compact_revision
            )
        )

    # progress

    def became_idle(self) -> None:
        """Called when a watch has nothing to send, and when progress is asked for."""
        if self._progress_wanted and self._asking is None and all(one.synced for one in self._watches.values()):
            self._asking = asyncio.create_task(self._answer_progress(), name="etcd-watch-progress")

    async def _answer_progress(self) -> None:
        """A broadcast with the newest revision, once it is true for every watch."""
        try:
            revision = await self._backend.revision()
            if all(one.synced for one in self._watches.values()):
                self._progress_wanted = False
                await self.send(etcdrpc.WatchResponse(header=header(revision), watch_id=BROADCAST_ID))
        except DatastoreError as e:
            log.debug("no progress can be told: %s", e)
            self._progress_wanted = False
        finally:
            self._asking = None

    async def _tick(self) -> None:
        """Progress of the watches that want it, when they were quiet."""
        while True:
            await asyncio.sleep(PROGRESS_SECONDS * random.uniform(1, 1.1))
            try:
                revision = await self._backend.revision()
            except DatastoreError as e:
                log.debug("no progress can be told: %s", e)
                continue
            for one in list(self._watches.values()):
                if one.wants_progress and one.synced and not one.sent_since_progress:
                    await self.send(etcdrpc.WatchResponse(header=header(revision), watch_id=one.number))
                one.sent_since_progress = False
