"""``EventRecorder``: Events about objects, without ever getting in the way of the work they tell of.

Events go through a bounded queue to one sender task that exists only while there is something to send. Equal events are
counted in one object, many similar ones are combined, and a noisy source is silenced. Source: client-go ``tools/record``
(``events_cache.go``): aggregation after 10 similar in 600 s, spam filter of 25 events and then one in 300 s for each
source and object.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from k3sd.apimachinery import timefmt
from k3sd.apimachinery.errors import Obj, StatusError
from k3sd.apimachinery.resource import Resource
from k3sd.client.api import Client

log = logging.getLogger(__name__)

QUEUE_LIMIT = 1000
CACHE_LIMIT = 4096
SIMILAR_LIMIT = 10
SIMILAR_WINDOW_SECONDS = 600.0
BURST = 25
REFILL_PER_SECOND = 1.0 / 300.0
SEND_ATTEMPTS = 12
SEND_BACKOFF_SECONDS = 10.0
MESSAGE_LIMIT = 1024

V = TypeVar("V")


class _LRU(Generic[V]):
    """A dict that forgets its least recently used entry."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: OrderedDict[Any, V] = OrderedDict()

    def get(self, key: Any) -> V | None:
        if key in self._entries:
            self._entries.move_to_end(key)
            return self._entries[key]
        return None

    def put(self, key: Any, value: V) -> None:
        self._entries[key] = value
        self._entries.move_to_end(key)
        if len(self._entries) > self._limit:
            self._entries.popitem(last=False)


@dataclass(slots=True)
class _Bucket:
    tokens: float
    filled: float


@dataclass(slots=True)
class _Similar:
    messages: set[str] = field(default_factory=set)
    last: float = 0.0


@dataclass(slots=True)
class _Seen:
    """An event already stored, to be counted up."""

    name: str
    namespace: str
    count: int
    first: str


@dataclass(frozen=True, slots=True)
class _Pending:
    regarding: Obj
    type: str
    reason: str
    message: str
    when: float


class Correlator:
    """Decides what becomes of an event: dropped, combined, counted or new. Pure but for its memory; times are epoch seconds."""

    def __init__(self) -> None:
        self._buckets: _LRU[_Bucket] = _LRU(CACHE_LIMIT)
        self._similar: _LRU[_Similar] = _LRU(CACHE_LIMIT)
        self.seen: _LRU[_Seen] = _LRU(CACHE_LIMIT)

    def admit(self, regarding: Obj, now: float) -> bool:
        """The spam filter, one token bucket an object."""
        key = (regarding.get("kind"), regarding.get("namespace"), regarding.get("name"), regarding.get("uid"))
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = _Bucket(BURST, now)
            self._buckets.put(key, bucket)
        bucket.tokens = min(BURST, bucket.tokens + max(0.0, now - bucket.filled) * REFILL_PER_SECOND)
        bucket.filled = now
        if bucket.tokens < 1:
            return False
        bucket.tokens -= 1
        return True

    def aggregate(self, regarding: Obj, type_: str, reason: str, message: str, now: float) -> tuple[str, Any]:
        """The message to store and the key under which equal events are counted."""
        base = (
            *(regarding.get(k) for k in ("kind", "namespace", "name", "uid", "apiVersion", "fieldPath")),
            type_,
            reason,
        )
        similar = self._similar.get(base)
        if similar is None or now - similar.last > SIMILAR_WINDOW_SECONDS:
            similar = _Similar()
            self._similar.put(base, similar)
        similar.messages.add(message)
        similar.last = now
        if len(similar.messages) < SIMILAR_LIMIT:
            return message, (base, message)
        similar.messages.pop()
        return f"(combined from similar events): {message}", (base, None)


class EventRecorder:
    """Records events as ``component`` (on ``host``, for those of a node). ``event`` returns at once and never raises."""

    def __init__(self, client: Client, component: str, host: str = "", *, clock: Callable[[], float] = time.time) -> None:
        self._client = client
        self._component = component
        self._host = host
        self._clock = clock
        self._correlator = Correlator()
        self._queue: deque[_Pending] = deque()
        self._task: asyncio.Task[None] | None = None
        self.dropped_total = 0

    def event(self, obj: Obj, type_: str, reason: str, message: str, *, field_path: str = "") -> None:
        """``type_`` is Normal or Warning. ``obj`` needs kind, apiVersion and metadata, or is an ObjectReference already."""
        if len(self._queue) >= QUEUE_LIMIT:
            self.dropped_total += 1
            return
        regarding = object_reference(obj, field_path)
        if len(message) > MESSAGE_LIMIT:
            message = message[: MESSAGE_LIMIT - 3] + "..."
        self._queue.append(_Pending(regarding, type_, reason, message, self._clock()))
        if self._task is None:
            # Ends when the queue is empty; ``flush`` and ``stop`` own it meanwhile.
            self._task = asyncio.get_running_loop().create_task(self._send_all(), name=f"events {self._component}")

    async def flush(self) -> None:
        """Wait until everything recorded so far was sent or given up."""
        while self._task is not None:
            await asyncio.shield(self._task)

    async def stop(self) -> None:
        task, self._task = self._task, None
        self._queue.clear()
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _send_all(self) -> None:
        try:
            while self._queue:
                pending = self._queue.popleft()
                try:
                    await self._send(pending)
                except Exception:
                    log.exception("event %s for %s was lost", pending.reason, pending.regarding.get("name"))
        finally:
            self._task = None

    async def _send(self, pending: _Pending) -> None:
        if not self._correlator.admit(pending.regarding, pending.when):
            self.dropped_total += 1
            return
        message, key = self._correlator.aggregate(
            pending.regarding, pending.type, pending.reason, pending.message, pending.when
        )
        for attempt in range(SEND_ATTEMPTS):
            try:
                await self._store(pending, message, key)
                return
            except StatusError as e:
                # The server refused this event (namespace gone or terminating, invalid): another try would end the same.
                log.debug("event %s for %s refused: %s", pending.reason, pending.regarding.get("name"), e.message)
                return
            except (ConnectionError, TimeoutError) as e:
                log.debug("sending events: %s", e)
                if attempt < SEND_ATTEMPTS - 1:
                    await asyncio.sleep(SEND_BACKOFF_SECONDS * (random.random() if attempt == 0 else 1.0))
        self.dropped_total += 1

    async def _store(self, pending: _Pending, message: str, key: Any) -> None:
        events = _events_resource()
        when = timefmt.from_epoch(pending.when)
        seen = self._correlator.seen.get(key)
        if seen is not None:
            patch: Obj = {"count": seen.count + 1, "lastTimestamp": when, "message": message}
            try:
                await self._client.patch(events, seen.name, patch, seen.namespace)
                seen.count += 1
                return
            except StatusError as e:
                if e.code != 404:
                    raise
        regarding = pending.regarding
        # Names as upstream makes them: unique in time, readable in place.
        name = f"{regarding.get('name')}.{time.time_ns():x}"
        namespace = regarding.get("namespace") or "default"
        source = {"component": self._component}
        if self._host:
            source["host"] = self._host
        event: Obj = {
            "kind": "Event",
            "apiVersion": "v1",
            "metadata": {"name": name, "namespace": namespace},
            "involvedObject": regarding,
            "reason": pending.reason,
            "message": message,
            "source": source,
            "firstTimestamp": when,
            "lastTimestamp": when,
            "count": 1,
            "type": pending.type,
            "reportingComponent": self._component,
            "reportingInstance": self._host,
        }
        await self._client.create(events, event, namespace)
        self._correlator.seen.put(key, _Seen(name, namespace, 1, when))


def object_reference(obj: Obj, field_path: str = "") -> Obj:
    """An ObjectReference to ``obj``, as events carry it. A reference is taken as it is."""
    metadata = obj.get("metadata")
    if metadata is None:
        return {**obj, "fieldPath": field_path} if field_path else obj
    out: Obj = {"kind": obj.get("kind", ""), "namespace": metadata.get("namespace", ""), "name": metadata["name"]}
    out["uid"] = metadata.get("uid", "")
    out["apiVersion"] = obj.get("apiVersion", "")
    out["resourceVersion"] = metadata.get("resourceVersion", "")
    out["fieldPath"] = field_path
    return {k: v for k, v in out.items() if v}


def _events_resource() -> Resource:
    from k3sd.apis import resources

    return resources.EVENTS
