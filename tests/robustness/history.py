"""etcd's own method: record what clients saw while things break, then check it against what must hold.

Every value is unique, so an event tells which operation made it. The watch log is the order of writes; operations on one
key are linearizable when each can be put at one point between its begin and its end such that this order explains it. Source
of the method: etcd ``tests/robustness`` (model, validate, watch guarantees).
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from k3sd.datastore.backend import Backend, CompareFailed, DatastoreError, Event, KeyValue

PREFIX = "/registry/robust/"
END = "/registry/robust0"
FENCE = f"{PREFIX}~fence"


@dataclass
class Op:
    """``outcome``: ok, failed (precondition; ``seen`` is what was there) or unknown."""

    kind: str
    key: str
    value: bytes
    wanted: int
    begin: float
    end: float = float("inf")
    outcome: str = "unknown"
    revision: int = 0
    seen: KeyValue | None = None


@dataclass
class History:
    ops: list[Op] = field(default_factory=list)
    logs: list[list[Event]] = field(default_factory=list)
    reconnects: int = 0
    faults: int = 0
    resumed: int = 0
    """Watches begun again from a random revision, and lists at one, that were compared with the history."""
    numbers: itertools.count[int] = field(default_factory=itertools.count)

    def summary(self) -> str:
        by = {o: sum(op.outcome == o for op in self.ops) for o in ("ok", "failed", "unknown")}
        return (
            f"{self.faults} faults, {len(self.ops)} operations "
            f"({by['ok']} ok, {by['failed']} refused, {by['unknown']} unknown), "
            f"{len(self.logs[0])} events on {len(self.logs)} watches, {self.reconnects} broke and went on, "
            f"{self.resumed} revisions read again"
        )


async def client(
    store: Backend, history: History, keys: Sequence[str], dice: random.Random, until: float, size: int = 0
) -> None:
    """Random operations until the clock says stop."""
    known: dict[str, KeyValue | None] = {}
    while time.monotonic() < until:
        key = dice.choice(keys)
        value = b"v%d" % next(history.numbers) + b"." * size
        kv = known.get(key)
        kind = dice.choice(["get", "create", "update", "update", "delete"])
        wanted = kv.revision if kv is not None else 0
        if kind == "update" and not wanted:
            kind = "create"
        op = Op(kind, key, value, wanted, time.monotonic())
        history.ops.append(op)
        try:
            async with asyncio.timeout(15):
                await _perform(store, op)
            op.outcome = "ok"
        except CompareFailed as e:
            op.outcome, op.seen = "failed", e.current
        except (DatastoreError, TimeoutError):
            await asyncio.sleep(0.02)  # outcome unknown: op.end stays open
            continue
        op.end = time.monotonic()
        known[key] = op.seen
        await asyncio.sleep(dice.uniform(0, 0.004))


async def _perform(store: Backend, op: Op) -> None:
    if op.kind == "get":
        op.seen = (await store.get(op.key))[1]
    elif op.kind == "create":
        op.revision = await store.create(op.key, op.value)
        op.seen = KeyValue(op.key, op.value, op.revision, op.revision)
    elif op.kind == "update":
        op.revision = await store.update(op.key, op.value, op.wanted)
        op.seen = KeyValue(op.key, op.value, op.revision, 0)
    else:
        revision, previous = await store.delete(op.key, op.wanted)
        if previous is not None:
            op.revision = revision
        op.seen = None


async def follow(store: Backend, history: History, log: list[Event], start: int) -> None:
    """A watch that resumes after the last event it saw, until it sees the fence."""
    while True:
        following = log[-1].kv.revision + 1 if log else start
        try:
            watch = store.watch(PREFIX, END, following)
            async for events in watch:
                log.extend(events)
                if any(e.kv.key == FENCE for e in events):
                    return
        except DatastoreError:
            history.reconnects += 1
            await asyncio.sleep(0.05)


async def fence(store: Backend) -> None:
    """Write until the store takes it: faults are over."""
    async with asyncio.timeout(60):
        while True:
            try:
                await store.create(FENCE, b"")
                return
            except CompareFailed:
                return
            except DatastoreError:
                await asyncio.sleep(0.05)


async def read_again(store: Backend, history: History, dice: random.Random, times: int = 8) -> None:
    """What was seen live must be what is read later: watches from random revisions on, lists at random revisions."""
    log = [e for e in history.logs[0] if e.kv.revision >= store.compact_revision]
    for _ in range(min(times, len(log))):
        i = dice.randrange(len(log))
        revision = log[i].kv.revision
        again: list[Event] = []
        async with asyncio.timeout(30):
            watch = store.watch(PREFIX, END, revision)
            async for events in watch:
                again.extend(events)
                if again[-1].kv.revision >= log[-1].kv.revision:
                    break
        assert [(e.kv, e.deleted) for e in again] == [(e.kv, e.deleted) for e in log[i:]], f"resumed from {revision}"
        state: dict[str, KeyValue] = {}
        for event in history.logs[0]:
            if event.kv.revision <= revision:
                state.pop(event.kv.key, None)
                if not event.deleted:
                    state[event.kv.key] = event.kv
        listed = await store.list(PREFIX, END, revision=revision)
        assert [(kv.key, kv.value, kv.revision) for kv in listed.kvs] == [
            (k, state[k].value, state[k].revision) for k in sorted(state)
        ], f"listed at {revision}"
        history.resumed += 1


def check(history: History, final: Sequence[KeyValue]) -> None:
    """Assert the watch guarantees and the linearizability of every key."""
    log = history.logs[0]
    numbers = [e.kv.revision for e in log]
    assert numbers == sorted(set(numbers)), "events must be ordered and unique"
    for other in history.logs[1:]:
        assert [(e.kv, e.deleted) for e in other] == [(e.kv, e.deleted) for e in log], "all watches must see the same"
    by_revision = {e.kv.revision: e for e in log}
    writers = {op.value: op for op in history.ops if op.kind in ("create", "update")}
    deletes: dict[int, Op] = {}
    for op in history.ops:
        if op.outcome == "ok" and op.revision:
            event = by_revision.get(op.revision)
            assert event is not None, f"acknowledged write {op} is missing"
            assert event.kv.key == op.key and event.deleted == (op.kind == "delete"), (op, event)
            if op.kind != "delete":
                assert event.kv.value == op.value, (op, event)
            else:
                deletes[op.revision] = op
            if op.wanted and op.kind != "create":
                assert event.prev is not None and event.prev.revision == op.wanted, (op, event)
    keys: dict[str, list[Event]] = {}
    for event in log:
        if event.kv.key == FENCE:
            continue
        versions = keys.setdefault(event.kv.key, [])
        live = versions[-1] if versions and not versions[-1].deleted else None
        assert event.created == (live is None), (live, event)
        if live is not None:
            assert event.prev is not None and event.prev.revision == live.kv.revision, (live, event)
            assert event.prev.value == live.kv.value
        if not event.deleted:
            assert event.kv.value in writers, f"nobody wrote {event}"
        versions.append(event)
    for key, versions in keys.items():
        _check_key(
            [op for op in history.ops if op.key == key], versions, [_writer(event, writers, deletes) for event in versions]
        )
    expected = {k: v[-1].kv.value for k, v in keys.items() if not v[-1].deleted}
    assert {kv.key: kv.value for kv in final if kv.key != FENCE} == expected


def _writer(event: Event, writers: dict[bytes, Op], deletes: dict[int, Op]) -> Op | None:
    return deletes.get(event.kv.revision) if event.deleted else writers[event.kv.value]


def _check_key(ops: list[Op], versions: list[Event], writers: list[Op | None]) -> None:
    """Versions are the register's states in order; each observation must fit between its begin and end."""
    index = {e.kv.revision: i for i, e in enumerate(versions)}
    written = [
        (w.begin, w.end) if w is not None and w.outcome == "ok" else (w.begin if w else 0.0, float("inf")) for w in writers
    ]
    latest_begin = 0.0
    for i, (begin, end) in enumerate(written):
        assert end >= latest_begin, f"version {versions[i]} was written before an earlier one began"
        latest_begin = max(latest_begin, begin)
    observed: list[tuple[float, float, int]] = []
    for op in ops:
        if op.outcome == "unknown" or (op.outcome == "ok" and op.kind in ("create", "update")):
            continue
        if op.outcome == "ok" and op.kind == "delete" and op.revision:
            continue
        if op.seen is not None:
            i = index.get(op.seen.revision)
            assert i is not None and versions[i].kv.value == op.seen.value, f"{op} saw what nobody wrote"
            assert _possible(i, op, written), f"{op} saw a stale or future version {versions[i]}"
            observed.append((op.begin, op.end, i))
        else:
            dead = [-1, *(i for i, e in enumerate(versions) if e.deleted)]
            assert any(_possible(i, op, written) for i in dead), f"{op} saw no key, which never was so at that time"
    observed.sort(key=lambda o: o[1])
    newest: list[tuple[float, int]] = []
    best = -1
    for begin, end, i in observed:
        floor = max((v for e, v in newest if e < begin), default=-1)
        assert i >= floor, "a later read went back in time"
        best = max(best, i)
        newest.append((end, best))


def _possible(i: int, op: Op, written: list[tuple[float, float]]) -> bool:
    """State ``i`` (-1: before the first) may have been current at some point of ``op``."""
    if i >= 0 and written[i][0] > op.end:
        return False
    return not any(end < op.begin for _, end in written[i + 1 :])
