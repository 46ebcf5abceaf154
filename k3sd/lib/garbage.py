"""When Python's cycle collector runs in the long-lived processes.

What a process is made of (modules, types, options, the first informers' objects) never becomes garbage, but every full
collection would walk over it again: in a busy API server that takes a sixth of the time.
"""

from __future__ import annotations

import asyncio
import gc

SETTLE_SECONDS = 10.0
THRESHOLDS = (10_000, 20, 10)
"""Objects made, and collections of the younger generation, between collections."""


def begin() -> None:
    """Do not collect while the process is being built up; ``SETTLE_SECONDS`` later take what is there for permanent. Needs a
    running loop."""
    gc.disable()
    asyncio.get_running_loop().call_later(SETTLE_SECONDS, settle)


def settle() -> None:
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
    gc.enable()
