"""The Watch service: many watches on one stream, so that progress can be told truthfully.

A progress response with revision R says that everything up to R was sent on this stream before it. Events and progress leave
in the order in which they are queued on the stream; progress is queued only when every watch is idle at the hub's revision.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from collections.abc import Sequence
from typing import Any

from google.protobuf.message import DecodeError

from k3sd.datastore import etcdrpc
from k3sd.datastore.backend import Backend, Compacted, DatastoreError, Event
from k3sd.datastore.hub import Watch
from k3sd.datastore.mvcc import COMPACT_KEY
from k3sd.etcdface import encode
from k3sd.etcdface.call import Call, Code
from k3sd.etcdface.wire import COMPACT_ALIAS, Refused, bounds, event, header

log = logging.getLogger(__name__)

PROGRESS_SECONDS = 5.0
BROADCAST_ID = -1
NOPUT, NODELETE = 0, 1
RESPONSE_BYTES = 1 << 20
"""Of events in one response; what follows goes into the next. etcd's clients take any size, other ones 4 MiB."""
ENCODED_BYTES = 4 << 20

_ids = itertools.count(1)


class Encoder:
    """Events as bytes of a WatchResponse, made once for all watches that see them."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, bool], bytes] = {}
        self._size = 0

    def encode(self, change: Event, with_previous: bool) -> bytes:
        key = (change.kv.revision, with_previous)  # a revision is one event
        known = self._known.get(key)
        if known is None:
            if self._size > ENCODED_BYTES:
                self._known.clear()
                self._size = 0
            known = etcdrpc.WatchResponse(events=[event(change, with_previous)]).SerializeToString()
            self._known[key] = known
            self._size += len(known) + 200
        return known


class _One:
    """One watch of a stream."""

    def __init__(self, stream: Stream, number: int, request: Any, watch: Watch) -> None:
        self.stream = stream
        self.number = number
        self.watch = watch
        self.wants_progress = bool(request.progress_notify)
        self.idle = False
        self.sent_since_progress = False
        self._with_previous = bool(request.prev_kv)
        self._skip = {bool(f == NODELETE) for f in request.filters}
        self.task = asyncio.create_task(self._pump(), name=f"etcd-watch-{number}")

    @property
    def synced(self) -> bool:
        return self.idle and self.watch.synced

    async def _pump(self) -> None:
        call = self.stream.call
        try:
            while True:
                self.idle = True
                self.stream.became_idle()
                try:
                    events = await anext(self.watch)
                finally:
                    self.idle = False
                self._send(events)
                await call.drain()
        except StopAsyncIteration:
            pass
        except Compacted as e:
            self.stream.cancelled(self.number, str(e), e.compact_revision)
        except DatastoreError as e:
            self.stream.cancelled(self.number, str(e))

    def _send(self, events: Sequence[Event]) -> None:
        """Bytes of a message that follow each other are one message, so a response is its head and the events."""
        encoder, with_previous, skip = self.stream.encoder, self._with_previous, self._skip
        parts: list[bytes] = []
        size = 0
        for change in events:
            if change.deleted in skip:
                continue
            part = encoder.encode(change, with_previous)
            parts.append(part)
            size += len(part)
            if size > RESPONSE_BYTES:
                self._send_parts(change.kv.revision, parts)
                parts, size = [], 0
        if parts:
            self._send_parts(events[-1].kv.revision, parts)

    def _send_parts(self, revision: int, parts: list[bytes]) -> None:
        self.sent_since_progress = True
        self.stream.call.send(encode.watch_head(revision, self.number) + b"".join(parts))

    async def close(self) -> None:
        await self.watch.aclose()
        self.task.cancel()


class Stream:
    """One Watch call."""

    def __init__(self, backend: Backend, encoder: Encoder, call: Call) -> None:
        self._backend = backend
        self.encoder = encoder
        self.call = call
        self._watches: dict[int, _One] = {}
        self._progress_wanted = False
        self._asking: asyncio.Task[None] | None = None
        self._ticker: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Serve until the client closes its side, which ends the stream as in etcd."""
        try:
            async for message in self.call:
                try:
                    request = etcdrpc.WatchRequest.FromString(message)
                except DecodeError as e:
                    raise Refused(f"the request is no message of etcd: {e}", Code.INTERNAL) from e
                if request.HasField("create_request"):
                    await self._create(request.create_request)
                elif request.HasField("cancel_request"):
                    await self._cancel(request.cancel_request.watch_id)
                elif request.HasField("progress_request"):
                    self._progress_wanted = True
                    self.became_idle()
        finally:
            for task in (self._asking, self._ticker):
                if task is not None:
                    task.cancel()
            for one in list(self._watches.values()):
                await one.close()

    def _send(self, revision: int, number: int, **fields: Any) -> None:
        response = etcdrpc.WatchResponse(header=header(revision), watch_id=number, **fields)
        self.call.send(response.SerializeToString())

    async def _create(self, request: Any) -> None:
        """A watch from now on begins behind the revision that the answer names: where the client resumes after a broken
        connection, should nothing have come until then."""
        if request.watch_id:
            self._refuse("a watch id of the client's own choice is not implemented by k3sd")
            return
        try:
            start, end = bounds(request.key, request.range_end)
            if start == COMPACT_KEY and not request.range_end:
                start, end = COMPACT_ALIAS, COMPACT_ALIAS + "\0"
            revision = await self._backend.revision()
            watch = self._backend.watch(start, end, request.start_revision or revision + 1)
        except (Refused, DatastoreError) as e:
            self._refuse(str(e))
            return
        number = next(_ids)
        self._send(revision, number, created=True)
        assert isinstance(watch, Watch)
        self._watches[number] = one = _One(self, number, request, watch)
        if one.wants_progress and self._ticker is None:
            self._ticker = asyncio.create_task(self._tick(), name="etcd-watch-progress")

    def _refuse(self, reason: str) -> None:
        self._send(0, BROADCAST_ID, created=True, canceled=True, cancel_reason=reason)

    async def _cancel(self, number: int) -> None:
        one = self._watches.pop(number, None)
        if one is not None:
            await one.close()
            self._send(0, number, canceled=True)

    def cancelled(self, number: int, reason: str, compact_revision: int = 0) -> None:
        self._watches.pop(number, None)
        self._send(0, number, canceled=True, cancel_reason=reason, compact_revision=compact_revision)

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
                self._send(revision, BROADCAST_ID)
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
                    self._send(revision, one.number)
                one.sent_since_progress = False
