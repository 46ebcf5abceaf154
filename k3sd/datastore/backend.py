"""The store contract: what every driver promises and every caller may rely on.

Keys are Kubernetes's own (``/registry/pods/default/web``), values opaque bytes. The store is MVCC: each write gets the next
revision, one counter for all keys. Semantics follow etcd v3 as kine provides them (reference: K3s kine, ``pkg/server``).
Nothing here knows what a value means; ``k3sd.datastore`` never imports ``k3sd.apis``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import NewType, Protocol

Revision = NewType("Revision", int)


class DatastoreError(Exception):
    """Root of everything a driver raises. The message names the database, the cause and the remedy."""


class Compacted(DatastoreError):
    """The asked revision is older than the compact revision (etcd: "required revision has been compacted")."""

    def __init__(self, revision: int, compact_revision: int) -> None:
        super().__init__("etcdserver: mvcc: required revision has been compacted")
        self.revision = revision
        self.compact_revision = compact_revision


class FutureRevision(DatastoreError):
    """The asked revision has not been written yet (etcd: "required revision is a future revision")."""

    def __init__(self, revision: int, current_revision: int) -> None:
        super().__init__("etcdserver: mvcc: required revision is a future revision")
        self.revision = revision
        self.current_revision = current_revision


class CompareFailed(DatastoreError):
    """A precondition did not hold. ``current`` is the key's live value, None when it does not exist."""

    def __init__(self, key: str, revision: int, current: KeyValue | None) -> None:
        super().__init__(f"compare failed on {key!r}")
        self.key = key
        self.revision = revision
        self.current = current


class Unavailable(DatastoreError):
    """The database cannot be reached or is full or read-only now; the write was not acknowledged. Retry is safe for reads."""


@dataclass(frozen=True, slots=True)
class KeyValue:
    """One live key. ``revision`` is the revision of its last write (etcd mod_revision); ``lease_seconds`` 0 means none."""

    key: str
    value: bytes
    revision: int
    create_revision: int
    lease_seconds: int = 0


@dataclass(frozen=True, slots=True)
class Event:
    """One change. ``kv`` after the change (for a delete: key, empty value, revision of the delete);
    ``prev`` before it, None on creation."""

    kv: KeyValue
    prev: KeyValue | None
    deleted: bool = False

    @property
    def created(self) -> bool:
        return not self.deleted and self.prev is None


@dataclass(frozen=True, slots=True)
class ListResult:
    """``revision`` at which the list holds; ``kvs`` sorted by key (bytewise); ``more`` is True when ``limit`` cut it;
    ``count`` is the number of live keys in the whole range at ``revision``."""

    revision: int
    kvs: Sequence[KeyValue]
    more: bool
    count: int


@dataclass(slots=True)
class Counters:
    """What this process wrote since it started: transactions, rows in them, bytes of keys and values."""

    transactions: int = 0
    rows: int = 0
    bytes: int = 0

    def count(self, events: Sequence[Event]) -> None:
        self.transactions += 1
        self.rows += len(events)
        self.bytes += sum(len(e.kv.key) + len(e.kv.value) for e in events)


class Backend(Protocol):
    """An open store. All methods are safe to call concurrently from one event loop.

    Guarantees
    - A write returns only after it is durable (fsync or the server's equivalent). Concurrent writes may share one commit.
    - Events are delivered in strictly increasing revision order, each once, to every watch; and to the listeners of
      ``subscribe`` *before* the write that caused them returns to its caller.
    - A cancelled write is either wholly applied or not at all.
    """

    problem: str
    """Empty, or why the store cannot be written or followed now, for readyz."""

    counters: Counters

    async def start(self) -> None:
        """Open or create the database, check its schema. Raises DatastoreError with the remedy; changes nothing then."""

    async def stop(self) -> None:
        """Finish pending writes, close. Idempotent."""

    async def revision(self) -> int:
        """The current revision. Cheap (no I/O) where this process is the only writer."""

    @property
    def compact_revision(self) -> int:
        """Revisions below this are gone; 0 before the first compaction."""

    async def get(self, key: str, revision: int = 0) -> tuple[int, KeyValue | None]:
        """``(store revision, live value or None)``, at ``revision`` when > 0. Raises Compacted, FutureRevision."""

    async def list(
        self, start: str, end: str, *, limit: int = 0, revision: int = 0, keys_only: bool = False, counted: bool = True
    ) -> ListResult:
        """Live keys with ``start <= key < end``. Without ``counted`` the count of a list that ``limit`` cut may be 0, which
        spares reading the rest. Raises Compacted, FutureRevision."""

    async def count(self, start: str, end: str, *, revision: int = 0) -> tuple[int, int]:
        """``(store revision, number of live keys)``."""

    async def create(self, key: str, value: bytes, lease_seconds: int = 0) -> int:
        """Write a key that must not exist. Returns its revision. Raises CompareFailed with the current value."""

    async def update(self, key: str, value: bytes, revision: int, lease_seconds: int = 0) -> int:
        """Replace the value if the key's revision is ``revision``. Returns the new revision. Raises CompareFailed."""

    async def delete(self, key: str, revision: int = 0) -> tuple[int, KeyValue | None]:
        """Delete the key if its revision is ``revision`` (0: unconditionally). Returns ``(revision of the delete, previous
        value)``; a key that does not exist gives ``(store revision, None)``. Raises CompareFailed."""

    def watch(self, start: str, end: str, revision: int = 0) -> AsyncIterator[Sequence[Event]]:
        """Batches of events with ``start <= key < end`` from ``revision`` on (inclusive; 0: from now). First the kept history,
        then live. Raises Compacted. A consumer that falls too far behind gets Unavailable and must list again; it never
        stalls a writer. Closing the iterator ends the watch."""

    async def history(self, start: str, end: str, after: int, upto: int) -> tuple[Sequence[Event], int]:
        """Kept events with ``after < revision <= upto`` and ``start <= key < end``, in order, some at a time: returns them and
        the revision up to which they are complete (ask again from there until it is ``upto``). Raises Compacted."""

    def subscribe(self, listener: Callable[[Sequence[Event]], None]) -> Callable[[], None]:
        """Call ``listener`` synchronously in the event loop with every committed batch, all keys, in revision order, before
        the writers are answered. Returns the function that unsubscribes. The listener must not raise or block."""

    async def lost(self) -> None:
        """Raise DatastoreError once changes were compacted before this process saw them, which happens only to a server that
        lagged behind or was cut off for long: listeners missed something and must begin anew. Else wait for ever."""

    async def renew(self, lease_seconds: int) -> None:
        """Begin the time of every key with this lease anew, as far as this process decides about it."""

    async def size(self) -> int:
        """Bytes the store takes on disk, 0 where that means nothing."""

    async def compact(self, revision: int) -> int:
        """Forget history before ``revision`` in small steps. Returns the compact revision reached."""
