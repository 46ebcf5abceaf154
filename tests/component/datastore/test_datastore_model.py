"""The store against a model of it: any sequence of operations gives the model's answers, history and state."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from datastore_harness import DRIVERS, Harness
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from k3sd.datastore.backend import Backend, Compacted, CompareFailed, Event
from k3sd.datastore.mvcc import KEEP_REVISIONS, LAST_KEY, prefix_end
from tests.support.datastore_servers import Server

KEYS = [f"/registry/{kind}/{name}" for kind in ("a", "b") for name in ("x", "y", "x-1", "xY")]
PREFIX = "/registry/"


@dataclass(frozen=True)
class Version:
    revision: int
    key: str
    value: bytes | None
    created: int


class StoreMachine(RuleBasedStateMachine):
    """The model is the list of all versions."""

    driver = "memory"
    server: Server | None = None

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.directory = tempfile.TemporaryDirectory()
        self.harness: Harness = Harness(self.driver, Path(self.directory.name), self.server)
        self.store: Backend = self.run(self.harness.open())
        self.base = self.run(self.store.revision())
        self.revision = self.base
        self.compacted = self.store.compact_revision
        self.log: list[Version] = []
        self.heard: list[Event] = []
        self.store.subscribe(self.heard.extend)

    def run(self, awaitable):  # type: ignore[no-untyped-def]
        async def bounded():  # type: ignore[no-untyped-def]
            async with asyncio.timeout(30):
                return await awaitable

        return self.loop.run_until_complete(bounded())

    def teardown(self) -> None:
        self.run(self.harness.close())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()
        self.directory.cleanup()

    def at(self, key: str, revision: int) -> Version | None:
        versions = [v for v in self.log if v.key == key and v.revision <= revision]
        return versions[-1] if versions and versions[-1].value is not None else None

    def append(self, key: str, value: bytes | None, created: int = 0) -> None:
        self.revision += 1
        self.log.append(Version(self.revision, key, value, created or self.revision))

    keys = st.sampled_from(KEYS)
    values = st.binary(max_size=20)

    @rule(key=keys, value=values)
    def create(self, key: str, value: bytes) -> None:
        if (live := self.at(key, self.revision)) is not None:
            with pytest.raises(CompareFailed) as failed:
                self.run(self.store.create(key, value))
            assert failed.value.current is not None and failed.value.current.value == live.value
        else:
            self.append(key, value)
            assert self.run(self.store.create(key, value)) == self.revision

    @rule(key=keys, value=values, stale=st.integers(0, 2))
    def update(self, key: str, value: bytes, stale: int) -> None:
        live = self.at(key, self.revision)
        wanted = (live.revision if live else self.revision) - stale
        if live is None or stale:
            with pytest.raises(CompareFailed):
                self.run(self.store.update(key, value, wanted))
        else:
            self.append(key, value, live.created)
            assert self.run(self.store.update(key, value, wanted)) == self.revision

    @rule(key=keys, how=st.sampled_from(["any", "exact", "stale"]))
    def delete(self, key: str, how: str) -> None:
        live = self.at(key, self.revision)
        wanted = 0 if how == "any" else live.revision - (how == "stale") if live else 1
        if live is None:
            assert self.run(self.store.delete(key, wanted)) == (self.revision, None)
        elif how == "stale":
            with pytest.raises(CompareFailed):
                self.run(self.store.delete(key, wanted))
        else:
            self.append(key, None)
            revision, previous = self.run(self.store.delete(key, wanted))
            assert revision == self.revision and previous.value == live.value
            assert previous.revision == live.revision and previous.create_revision == live.created

    @rule(n=st.integers(1, 4), back=st.integers(0, 3))
    def compact(self, n: int, back: int) -> None:
        """Filler writes stand for the revisions that are always kept."""

        async def fill() -> None:
            live = (await self.store.get("/filler"))[1]
            if live is None:
                await self.store.create("/filler", b"")
            await asyncio.gather(*(self.store.create(f"/filler/{self.revision + i}", b"") for i in range(KEEP_REVISIONS)))

        target = self.revision - back
        if target <= self.compacted or self.driver == "face" or len(self.log) > 3 * KEEP_REVISIONS:
            return
        before = self.run(self.store.revision())
        self.run(fill())
        now = self.run(self.store.revision())
        for revision in range(before + 1, now + 1):
            self.log.append(Version(revision, "/filler", b"", revision))
        self.revision = now
        assert self.run(self.store.compact(target)) == target
        self.compacted = target

    @rule(back=st.integers(0, 6), limit=st.integers(0, 4), prefix=st.sampled_from([PREFIX, "/registry/a/"]))
    def list_at(self, back: int, limit: int, prefix: str) -> None:
        revision = max(self.revision - back, self.base)
        if revision < max(self.compacted, 1):
            return
        found = self.run(self.store.list(prefix, prefix_end(prefix), revision=revision, limit=limit))
        live = [v for k in sorted(KEYS) if k.startswith(prefix) and (v := self.at(k, revision))]
        if prefix == PREFIX:
            found_kvs = [kv for kv in found.kvs if kv.key != "/registry/health"]
            live = live[: len(found_kvs)] if found.more else live
        else:
            assert found.count == len(live)
            assert found.more == (0 < limit < len(live))
            found_kvs, live = list(found.kvs), live[: limit or None]
        assert [(kv.key, kv.value, kv.revision, kv.create_revision) for kv in found_kvs] == [
            (v.key, v.value, v.revision, v.created) for v in live
        ]

    @rule(back=st.integers(0, 8))
    def watch_from(self, back: int) -> None:
        start = max(self.revision - back, self.base + 1)
        watch = self.store.watch(PREFIX, prefix_end(PREFIX), revision=start)
        if start < self.compacted:
            with pytest.raises(Compacted):
                self.run(anext(watch))
            return
        expected = [v for v in self.log if v.revision >= start and v.key.startswith(PREFIX)]
        seen: list[Event] = []
        while len(seen) < len(expected):
            seen.extend(self.run(anext(watch)))
        self.run(watch.aclose())
        assert [(e.kv.revision, e.kv.key, e.kv.value, e.deleted) for e in seen] == [
            (v.revision, v.key, v.value or b"", v.value is None) for v in expected
        ]
        for event in seen:
            before = self.at(event.kv.key, event.kv.revision - 1)
            assert (event.prev.value if event.prev else None) == (before.value if before else None)
            if event.prev is not None and before is not None:
                assert event.prev.revision == before.revision

    @rule()
    def reopen(self) -> None:
        if self.harness.durable:
            self.store = self.run(self.harness.reopen(self.store))
            self.store.subscribe(self.heard.extend)

    @invariant()
    def state_and_order_hold(self) -> None:
        assert self.run(self.store.revision()) == self.revision
        numbers = [e.kv.revision for e in self.heard]
        assert numbers == list(range(self.base + 1, self.base + 1 + len(numbers)))
        assert len(numbers) == self.revision - self.base

    @invariant()
    def every_key_reads_as_last_written(self) -> None:
        found = {kv.key: kv.value for kv in self.run(self.store.list(PREFIX, LAST_KEY)).kvs}
        found.pop("/registry/health", None)
        assert found == {k: v.value for k in KEYS if (v := self.at(k, self.revision))}


@pytest.mark.parametrize("driver", DRIVERS)
def test_any_sequence_of_operations(driver: str, database_server: Callable[[str], Server | None]) -> None:
    machine = type(f"Machine_{driver}", (StoreMachine,), {"driver": driver, "server": database_server(driver)})
    case = machine.TestCase
    case.settings = settings(
        max_examples={"memory": 30, "sqlite": 12}.get(driver, 6),
        stateful_step_count=25,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    case().runTest()
