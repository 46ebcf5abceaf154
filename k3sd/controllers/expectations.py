"""What a controller has asked for but not yet seen in its cache, so that a stale cache does not make it act twice.

Source: ``pkg/controller/controller_utils.go`` (``UIDTrackingControllerExpectations``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

TIMEOUT_SECONDS = 300.0


class _Expected:
    __slots__ = ("creations", "deletions", "since")

    def __init__(self, since: float) -> None:
        self.creations = 0
        self.deletions: set[str] = set()
        self.since = since


class Expectations:
    """For each controller object (by key): creations by number, deletions by the object's uid."""

    def __init__(self) -> None:
        self._entries: dict[str, _Expected] = {}

    def satisfied(self, key: str) -> bool:
        """True when everything was seen, or so long ago that an event must have been lost."""
        entry = self._entries.get(key)
        if entry is None or (entry.creations <= 0 and not entry.deletions):
            return True
        return asyncio.get_running_loop().time() - entry.since > TIMEOUT_SECONDS

    def overdue_in(self, key: str) -> float | None:
        """Seconds after which what is still expected counts as lost; None when nothing is expected."""
        if self.satisfied(key):
            return None
        return self._entries[key].since + TIMEOUT_SECONDS - asyncio.get_running_loop().time() + 1.0

    def expect_creations(self, key: str, count: int) -> None:
        self._fresh(key).creations = count

    def expect_deletions(self, key: str, uids: Iterable[str]) -> None:
        self._fresh(key).deletions = set(uids)

    def also_expect_deletions(self, key: str, uids: Iterable[str]) -> None:
        """Deletions besides creations that are expected already."""
        self._entries[key].deletions = set(uids)

    def creation_observed(self, key: str, count: int = 1) -> None:
        """A created object appeared, or will never appear because creating it failed."""
        entry = self._entries.get(key)
        if entry is not None:
            entry.creations -= count

    def deletion_observed(self, key: str, uid: str) -> None:
        entry = self._entries.get(key)
        if entry is not None:
            entry.deletions.discard(uid)

    def forget(self, key: str) -> None:
        self._entries.pop(key, None)

    def _fresh(self, key: str) -> _Expected:
        entry = self._entries[key] = _Expected(asyncio.get_running_loop().time())
        return entry
