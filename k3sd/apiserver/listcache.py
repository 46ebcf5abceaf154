"""Joined lists, kept while nothing changes: many clients listing the same thing cost one join.

A list is kept from its second request on, for some seconds, and dropped in the loop turn in which any object of the resource
changes.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from k3sd.apiserver.watchcache import CacheEvent, Follower, ResourceCache

KEEP_SECONDS = 10.0
MAX_KEPT_BYTES = 8 << 20
"""All kept lists of one resource together."""


class ListCache:
    """The kept lists of one resource, by scope. A scope with None was asked for once since the last change."""

    __slots__ = ("_cache", "_follower", "_kept", "_timer")

    def __init__(self, cache: ResourceCache) -> None:
        self._cache = cache
        self._kept: dict[str, bytes | None] = {}
        self._follower: Follower | None = None
        self._timer: asyncio.TimerHandle | None = None

    def items(self, scope: str) -> bytes:
        """The served bytes of all objects below ``scope``, joined by commas."""
        kept = self._kept.get(scope)
        if kept is not None:
            return kept
        body = b",".join([e.raw for e in self._cache.list(scope)])
        if scope not in self._kept:
            self._expect(scope)
        elif len(body) + sum(len(b) for b in self._kept.values() if b) <= MAX_KEPT_BYTES:
            self._kept[scope] = body
        return body

    def _expect(self, scope: str) -> None:
        self._kept[scope] = None
        if self._follower is None:
            self._follower = self._cache.follow(self._changed)
            self._timer = asyncio.get_running_loop().call_later(KEEP_SECONDS, self.drop)

    def _changed(self, event: CacheEvent) -> None:
        self.drop()

    def drop(self) -> None:
        """Forget everything."""
        self._kept.clear()
        if self._follower is not None:
            self._follower.close()
            self._follower = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
