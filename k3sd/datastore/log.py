"""``Log``: what a driver does, synchronously: keep rows, decide writes against them, read them back.

``k3sd.datastore.store`` turns a log into a ``Backend``. ``open``, ``commit``, ``compact_step`` and ``close`` run in one writer
thread; the readers (``get``, ``list``, ``count``, ``history``) and ``maintain`` in others, at the same time.
All raise DatastoreError only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from k3sd.datastore.backend import Event, KeyValue, ListResult
from k3sd.datastore.mvcc import Op


@dataclass(frozen=True, slots=True)
class Opened:
    """State found at start. ``leased`` has ``(key, revision, lease seconds)`` of every live leased key."""

    revision: int
    compact_revision: int
    leased: Sequence[tuple[str, int, int]]


class Log(Protocol):
    threaded: bool
    """False when nothing blocks: everything is then called in the event loop."""
    compact_revision: int
    """Never behind what the readers may find missing: set before history is deleted."""
    maintenance_due: bool
    """True when ``maintain`` should be called in a reader thread soon."""

    compacted_elsewhere: bool
    """True when the last ``compact_step`` found another server compacting and left it the work."""

    def open(self) -> Opened: ...

    def close(self) -> None: ...

    def commit(self, ops: Sequence[Op]) -> list[Event]:
        """Apply ``ops`` in order in one durable transaction, setting ``result`` or ``error`` of each. Returns the events.
        Raises when the transaction failed as a whole; nothing is applied then."""
        ...

    def compact_step(self, target: int) -> int:
        """Forget some history before ``target``, about 5 ms of work. Returns the compact revision reached."""
        ...

    def size(self) -> int: ...

    def maintain(self) -> None: ...

    def get(self, key: str, revision: int) -> tuple[int, KeyValue | None]: ...

    def list(self, start: str, end: str, limit: int, revision: int, keys_only: bool, counted: bool) -> ListResult: ...

    def count(self, start: str, end: str, revision: int) -> tuple[int, int]: ...

    def history(self, start: str, end: str, after: int, upto: int, limit: int) -> tuple[Sequence[Event], int]:
        """Events with ``after < revision <= upto``, at most ``limit``, and the revision up to which they are complete.
        Raises Compacted."""
        ...
