"""The store in memory: kine's log as a Python list. For tests and throw-away clusters; nothing survives the process."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence

from k3sd.datastore import mvcc
from k3sd.datastore.backend import Compacted, CompareFailed, Event, KeyValue, ListResult
from k3sd.datastore.log import Opened
from k3sd.datastore.mvcc import Kind, Op, Verdict

COMPACT_STEP = 1000


class MemoryLog:
    """``_events`` in revision order; ``_versions`` a key's values by revision, None for a tombstone."""

    threaded = False
    maintenance_due = False
    compacted_elsewhere = False

    def __init__(self) -> None:
        self.compact_revision = 0
        self._revision = 0
        self._events: list[Event] = []
        self._versions: dict[str, list[tuple[int, KeyValue | None]]] = {}
        self._names: list[str] = []

    def open(self) -> Opened:
        return Opened(self._revision, self.compact_revision, ())

    def close(self) -> None:
        return None

    def maintain(self) -> None:
        return None

    def size(self) -> int:
        return 0

    def commit(self, ops: Sequence[Op]) -> list[Event]:
        events: list[Event] = []
        for op in ops:
            versions = self._versions.get(op.key)
            current = versions[-1][1] if versions else None
            head = None
            if versions:
                head = (current.revision, current.create_revision, 0) if current else (versions[-1][0], 0, 0)
            verdict = mvcc.judge(op.kind, op.revision, head)
            if verdict is Verdict.FAIL:
                op.error = CompareFailed(op.key, op.revision, current)
            elif verdict is Verdict.NOTHING:
                op.result = (self._revision, None)
            else:
                events.append(self._append(op, current))
        return events

    def _append(self, op: Op, current: KeyValue | None) -> Event:
        self._revision = revision = self._revision + 1
        if op.key not in self._versions:
            self._versions[op.key] = []
            insort(self._names, op.key)
        if op.kind is Kind.DELETE:
            event = Event(KeyValue(op.key, b"", revision, 0), current, True)
            self._versions[op.key].append((revision, None))
            op.result = (revision, current)
        else:
            created = current.create_revision if current else revision
            kv = KeyValue(op.key, bytes(op.value), revision, created, op.lease)
            event = Event(kv, current)
            self._versions[op.key].append((revision, kv))
            op.result = revision
        self._events.append(event)
        return event

    def compact_step(self, target: int) -> int:
        reached = min(target, self.compact_revision + COMPACT_STEP)
        self.compact_revision = reached
        cut = bisect_left(self._events, reached, key=lambda e: e.kv.revision)
        for name in {e.kv.key for e in self._events[: cut + 1]}:
            versions = self._versions.get(name)
            if versions is None:
                continue
            keep = bisect_right(versions, reached, key=lambda v: v[0]) - 1
            if keep >= 0 and versions[keep][1] is None and versions[keep][0] < reached:
                keep += 1
            if keep >= len(versions):
                del self._versions[name]
                del self._names[bisect_left(self._names, name)]
            elif keep > 0:
                del versions[:keep]
        del self._events[:cut]
        return reached

    def _at(self, name: str, revision: int) -> KeyValue | None:
        versions = self._versions[name]
        i = bisect_right(versions, revision, key=lambda v: v[0]) - 1
        return versions[i][1] if i >= 0 else None

    def get(self, key: str, revision: int) -> tuple[int, KeyValue | None]:
        mvcc.check_revision(revision, self._revision, self.compact_revision)
        if key not in self._versions:
            return self._revision, None
        return self._revision, self._at(key, revision or self._revision)

    def list(self, start: str, end: str, limit: int, revision: int, keys_only: bool, counted: bool) -> ListResult:
        mvcc.check_revision(revision, self._revision, self.compact_revision)
        at = revision or self._revision
        names = self._names[bisect_left(self._names, start) : bisect_left(self._names, end)]
        found = [kv for name in names if (kv := self._at(name, at)) is not None]
        kvs = found[:limit] if limit else found
        if keys_only:
            kvs = [KeyValue(kv.key, b"", kv.revision, kv.create_revision, kv.lease_seconds) for kv in kvs]
        return ListResult(at, kvs, len(kvs) < len(found), len(found))

    def count(self, start: str, end: str, revision: int) -> tuple[int, int]:
        result = self.list(start, end, 0, revision, False, True)
        return self._revision, result.count

    def history(self, start: str, end: str, after: int, upto: int, limit: int) -> tuple[Sequence[Event], int]:
        if after + 1 < self.compact_revision:
            raise Compacted(after + 1, self.compact_revision)
        first = bisect_right(self._events, after, key=lambda e: e.kv.revision)
        last = bisect_right(self._events, upto, key=lambda e: e.kv.revision)
        found = [e for e in self._events[first:last] if start <= e.kv.key < end]
        if len(found) <= limit:
            return found, upto
        return found[:limit], found[limit - 1].kv.revision
