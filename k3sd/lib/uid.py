"""Random UUIDs (RFC 9562, version 4) as the API writes them.

Randomness is fetched for many at a time: every call into the kernel hands the interpreter to other threads, which costs a
writer more than the UUID itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

_BATCH = 64


def _make() -> Iterator[str]:
    while True:
        digits = os.urandom(16 * _BATCH).hex()
        for at in range(0, 32 * _BATCH, 32):
            d = digits[at : at + 32]
            yield f"{d[:8]}-{d[8:12]}-4{d[13:16]}-{'89ab'[int(d[16], 16) & 3]}{d[17:20]}-{d[20:]}"


_uids = _make()


def new_uid() -> str:
    """A UUID nobody else has."""
    return next(_uids)


def _forget() -> None:
    """A forked process must not give out what its parent does."""
    global _uids
    _uids = _make()


os.register_at_fork(after_in_child=_forget)
