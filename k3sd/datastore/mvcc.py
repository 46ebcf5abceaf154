"""The rules of the store, without I/O: preconditions, rows of kine's table, events, key ranges, reserved names.

Every change is one appended row; its number is the revision. The newest row of a name decides whether the key lives.
Source: K3s kine, ``pkg/logstructured`` and ``pkg/logstructured/sqllog``.
"""

from __future__ import annotations

from asyncio import Future
from enum import IntEnum
from typing import Any

from k3sd.datastore.backend import Compacted, DatastoreError, Event, FutureRevision, KeyValue

COMPACT_KEY = "compact_rev_key"
"""Reserved row; its ``prev_revision`` column is the compact revision, changed in place."""
GAP_PREFIX = "gap-"
"""Name prefix of rows that fill a revision which an aborted transaction left empty."""
HEALTH_KEY = "/registry/health"
HEALTH_VALUE = b'{"health":"true"}'
LAST_KEY = "\U0010ffff"
"""Sorts behind every key: the end of "everything from here on"."""

KEEP_REVISIONS = 1000
"""Compaction always keeps this many of the latest revisions."""
MAX_VALUE_BYTES = 8 << 20
"""Far above the API server's 3 MiB request limit, below MySQL's MEDIUMBLOB and its packet size."""

Head = tuple[int, int, int]
"""Newest row of a key: ``(revision, create revision, lease seconds)``; create revision 0 marks a tombstone."""


class Kind(IntEnum):
    CREATE = 1
    UPDATE = 2
    DELETE = 3


class Verdict(IntEnum):
    WRITE = 1
    FAIL = 2
    NOTHING = 3
    """Nothing to do: the key to delete does not exist."""


class Op:
    """One wanted write and, once decided, its outcome: ``result`` is what the caller gets, ``error`` what is raised."""

    __slots__ = ("error", "future", "key", "kind", "lease", "result", "revision", "value")

    def __init__(self, kind: Kind, key: str, value: bytes, revision: int, lease: int) -> None:
        self.kind = kind
        self.key = key
        self.value = value
        self.revision = revision
        self.lease = lease
        self.future: Future[Any] | None = None
        self.result: Any = None
        self.error: DatastoreError | None = None


def judge(kind: Kind, wanted: int, head: Head | None) -> Verdict:
    """Whether a write with precondition ``wanted`` (a revision, 0: none for deletes) may follow ``head``."""
    live = head is not None and head[1] != 0
    if kind is Kind.CREATE:
        return Verdict.FAIL if live else Verdict.WRITE
    if kind is Kind.DELETE:
        if not live:
            return Verdict.NOTHING
        if wanted == 0:
            return Verdict.WRITE
    return Verdict.WRITE if live and head is not None and head[0] == wanted else Verdict.FAIL


def check_size(key: str, value: bytes) -> None:
    if len(value) > MAX_VALUE_BYTES:
        raise DatastoreError(f"value of key {key!r} has {len(value)} bytes; the limit is {MAX_VALUE_BYTES}")
    if not key or "\0" in key:
        raise DatastoreError(f"key {key!r} must be non-empty text without NUL")


def check_revision(revision: int, current: int, compacted: int) -> None:
    """Raise for a read at a revision that is gone or not yet written; 0 means current."""
    if revision <= 0:
        return
    if revision > current:
        raise FutureRevision(revision, current)
    if revision < compacted:
        raise Compacted(revision, compacted)


def hidden(name: str) -> bool:
    """Rows that belong to the store itself and are no keys."""
    return name == COMPACT_KEY or name.startswith(GAP_PREFIX)


def event_of(
    name: str,
    created: int,
    deleted: int,
    create_revision: int,
    prev_revision: int,
    lease: int,
    value: bytes | None,
    old_value: bytes | None,
    revision: int,
    prev_create_revision: int,
) -> Event:
    """The event a stored row stands for. ``prev_create_revision`` 0: the replaced row is compacted, its creation unknown."""
    if created:
        return Event(KeyValue(name, value or b"", revision, revision, lease), None)
    if deleted:
        before = KeyValue(name, old_value or b"", prev_revision, prev_create_revision or prev_revision, 0)
        return Event(KeyValue(name, b"", revision, 0, 0), before, True)
    before = KeyValue(name, old_value or b"", prev_revision, create_revision, 0)
    return Event(KeyValue(name, value or b"", revision, create_revision, lease), before)


def prefix_end(prefix: str) -> str:
    """The smallest key behind every key that starts with ``prefix``; all keys for ``""``."""
    for i in range(len(prefix) - 1, -1, -1):
        code = ord(prefix[i]) + 1
        if 0xD800 <= code <= 0xDFFF:
            code = 0xE000
        if code <= 0x10FFFF:
            return prefix[:i] + chr(code)
    return LAST_KEY


def compact_target(wanted: int, current: int) -> int:
    """What may be compacted now when ``wanted`` is asked for."""
    return min(wanted, current - KEEP_REVISIONS)
