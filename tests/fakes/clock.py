"""An event loop whose time jumps to the next timer when nothing else is ready, so that tests never really wait."""

from __future__ import annotations

import asyncio
import selectors
from typing import Any

EPOCH = 1_800_000_000.0
SPIN_LIMIT = 200_000


class _JumpingSelector(selectors.SelectSelector):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self._spins = 0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if ready or timeout == 0:
            self._spins += 1
            if self._spins > SPIN_LIMIT:
                raise RuntimeError(f"busy loop: {SPIN_LIMIT} turns of the loop without time passing")
            return ready
        self._spins = 0
        if timeout is None:
            raise RuntimeError("deadlock: every task waits and no timer is set")
        self.now += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


def wall_clock() -> float:
    """``time.time`` in virtual time."""
    return EPOCH + asyncio.get_running_loop().time()
