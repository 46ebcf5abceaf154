"""inotify(7) for an asyncio loop: one kernel instance for any number of watched directories, no polling.

Several watches of one directory share its kernel watch. The directory may vanish: the callback then gets an empty name once.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import struct
from collections.abc import Callable

IN_MODIFY = 0x2
IN_MOVED_FROM = 0x40
IN_MOVED_TO = 0x80
IN_CREATE = 0x100
IN_DELETE = 0x200
IN_ONLYDIR = 0x01000000
IN_MASK_ADD = 0x20000000
IN_IGNORED = 0x8000
IN_Q_OVERFLOW = 0x4000
_HEADER = struct.Struct("iIII")
_BUFFER_BYTES = 64 * 1024

Callback = Callable[[str], None]


class Watch:
    """One interest in a directory; ``close`` ends it and is idempotent."""

    __slots__ = ("_callback", "_owner", "_wd")

    def __init__(self, owner: DirectoryEvents, wd: int, callback: Callback) -> None:
        self._owner = owner
        self._wd = wd
        self._callback = callback

    def close(self) -> None:
        self._owner._drop(self)


class DirectoryEvents:
    """Calls back with the name of each file that was written, created or moved in. Belongs to the running loop."""

    def __init__(self) -> None:
        self._fd = -1
        self._watches: dict[int, list[Watch]] = {}

    def watch(self, directory: str, callback: Callback, *, removals: bool = False) -> Watch:
        """``removals``: also call for files deleted or moved away. Raises OSError (FileNotFoundError and so on)."""
        if self._fd < 0:
            self._open()
        mask = IN_MODIFY | IN_CREATE | IN_MOVED_TO | IN_ONLYDIR | (IN_MOVED_FROM | IN_DELETE if removals else 0)
        wd = _libc().inotify_add_watch(self._fd, os.fsencode(directory), mask)
        if wd < 0:
            number = ctypes.get_errno()
            raise OSError(number, f"watching {directory}: {os.strerror(number)}")
        watch = Watch(self, wd, callback)
        self._watches.setdefault(wd, []).append(watch)
        return watch

    def close(self) -> None:
        if self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
        self._watches.clear()

    def _open(self) -> None:
        fd = _libc().inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if fd < 0:
            number = ctypes.get_errno()
            raise OSError(number, f"inotify: {os.strerror(number)} (see fs.inotify.max_user_instances)")
        self._fd = fd
        asyncio.get_running_loop().add_reader(fd, self._readable)

    def _readable(self) -> None:
        try:
            data = os.read(self._fd, _BUFFER_BYTES)
        except BlockingIOError:
            return
        told: set[tuple[int, str]] = set()
        offset = 0
        while offset < len(data):
            wd, mask, _, length = _HEADER.unpack_from(data, offset)
            start = offset + _HEADER.size
            name = os.fsdecode(data[start : start + length].rstrip(b"\0"))
            offset = start + length
            if mask & IN_Q_OVERFLOW:
                # Events were lost: let everybody look.
                told.update((known, "") for known in self._watches)
            elif mask & IN_IGNORED:
                for watch in self._watches.pop(wd, []):
                    watch._callback("")
            else:
                told.add((wd, name))
        for wd, name in told:
            for watch in list(self._watches.get(wd, ())):
                watch._callback(name)

    def _drop(self, watch: Watch) -> None:
        others = self._watches.get(watch._wd, [])
        if watch not in others:
            return
        others.remove(watch)
        if not others:
            del self._watches[watch._wd]
            if self._fd >= 0:
                _libc().inotify_rm_watch(self._fd, watch._wd)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
