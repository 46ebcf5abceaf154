"""The one door to nftables: a batch of commands is one transaction, applied whole or not at all.

libnftables is used in-process (``python3-nftables``); it blocks, so callers run ``apply`` in a thread.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from k3sd.network.rules import TABLE


class NftError(Exception):
    """The kernel or the parser refused a transaction; nothing of it was applied."""


class Nft:
    """A libnftables context, made at first use."""

    def __init__(self) -> None:
        self._context: Any = None
        self._lock = threading.Lock()

    def apply(self, commands: Sequence[str]) -> None:
        """Run ``commands`` as one transaction. Raises NftError with nft's first message."""
        if not commands:
            return
        with self._lock:
            if self._context is None:
                self._context = _open()
            code, _, error = self._context.cmd("\n".join(commands))
        if code != 0:
            raise NftError(f"nftables refused {len(commands)} commands: {(error or '').strip()[:1000]}")


def _open() -> Any:
    try:
        import nftables
    except ImportError as error:
        raise NftError("the Python bindings of nftables are missing; install python3-nftables") from error
    return nftables.Nftables()


def delete_table() -> bool:
    """Remove k3sd's table. True when it existed."""
    context = _open()
    code, _, _ = context.cmd(f"delete table {TABLE}")
    return bool(code == 0)
