"""Exponential backoff by key, with upstream's forgetting rule. Source: ``client-go/util/flowcontrol/backoff.go``."""

from __future__ import annotations

import time
from collections.abc import Callable

INITIAL_SECONDS = 10.0
CAP_SECONDS = 300.0


class Backoff:
    """A key's delay doubles with each ``next`` up to the cap, and starts anew when nothing happened for twice the cap."""

    def __init__(
        self, initial: float = INITIAL_SECONDS, cap: float = CAP_SECONDS, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._initial = initial
        self._cap = cap
        self._clock = clock
        self._entries: dict[str, tuple[float, float]] = {}

    def get(self, key: str) -> float:
        """The delay in force, 0 when there is none."""
        return self._entries.get(key, (0.0, 0.0))[0]

    def next(self, key: str, event_time: float) -> None:
        """Something happened (a restart, a failed pull) for the failure of ``event_time``: the next one waits longer."""
        delay, updated = self._entries.get(key, (0.0, 0.0))
        if not delay or self._is_expired(event_time, updated):
            delay = self._initial
        else:
            delay = min(delay * 2, self._cap)
        self._entries[key] = (delay, self._clock())

    def remaining(self, key: str, event_time: float) -> float:
        """Seconds until an action that failed at ``event_time`` may be tried again; 0 or less: now."""
        delay, updated = self._entries.get(key, (0.0, 0.0))
        if not delay or self._is_expired(event_time, updated):
            return 0.0
        return delay - (self._clock() - event_time)

    def remaining_since_update(self, key: str) -> float:
        """As ``remaining``, counted from the last ``next``."""
        delay, updated = self._entries.get(key, (0.0, 0.0))
        if not delay or self._is_expired(self._clock(), updated):
            return 0.0
        return delay - (self._clock() - updated)

    def forget(self, prefix: str) -> None:
        """Drop every key that starts so (a pod's)."""
        for key in [k for k in self._entries if k.startswith(prefix)]:
            del self._entries[key]

    def _is_expired(self, event_time: float, updated: float) -> bool:
        return event_time - updated > self._cap * 2


def text(seconds: float) -> str:
    """As Go prints a duration of whole seconds: ``10s``, ``1m20s``, ``5m0s``."""
    whole = int(seconds)
    return f"{whole // 60}m{whole % 60}s" if whole >= 60 else f"{whole}s"
