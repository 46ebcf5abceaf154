"""What ``/proc`` says of other processes. They may end at any moment: one that is gone has no command line and no parent."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def command_line(pid: int) -> str:
    """Its words, each ended by a space; empty for a zombie, a kernel thread and a process that is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def shares_mounts(pid: int) -> bool:
    """Whether it sees the same mounts as this process: what runs in a container does not."""
    try:
        return os.readlink(f"/proc/{pid}/ns/mnt") == os.readlink("/proc/self/ns/mnt")
    except OSError:
        return False


def parent(pid: int) -> int:
    """0 when it has none here or is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    except (OSError, IndexError, ValueError):
        return 0


def ancestors(pid: int) -> Iterator[int]:
    """From its parent upwards, without process 1."""
    while (pid := parent(pid)) > 1:
        yield pid


def parents() -> dict[int, int]:
    """Parent by process id, of everything running."""
    return {int(name): parent(int(name)) for name in os.listdir("/proc") if name.isdigit()}
