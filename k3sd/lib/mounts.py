"""mount(2) and umount2(2) without a subprocess, and what is mounted below a directory. Blocking: call from a thread."""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import re
import shutil
import stat
from pathlib import Path

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 1 << 18
MS_SHARED = 1 << 20
MNT_DETACH = 0x2
UMOUNT_NOFOLLOW = 0x8
_OCTAL = re.compile(r"\\([0-7]{3})")


class MountError(OSError):
    """A mount call failed; the text names source, target and the kernel's reason."""


@functools.cache
def _libc() -> ctypes.CDLL:
    library = ctypes.CDLL(None, use_errno=True)
    library.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
    library.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)
    return library


def mount(source: str, target: str, filesystem: str = "", flags: int = 0, options: str = "") -> None:
    """Raises MountError."""
    result = _libc().mount(source.encode(), target.encode(), filesystem.encode() or None, flags, options.encode() or None)
    if result != 0:
        number = ctypes.get_errno()
        what = f"mounting {source} ({filesystem or 'bind'}{', ' + options if options else ''}) on {target}"
        raise MountError(number, f"{what}: {os.strerror(number)}")


def unmount(target: str) -> None:
    """Unmount; a busy mount is detached, so that it goes with its last user. Nothing mounted there is no error."""
    for flags in (UMOUNT_NOFOLLOW, UMOUNT_NOFOLLOW | MNT_DETACH):
        if _libc().umount2(target.encode(), flags) == 0:
            return
        number = ctypes.get_errno()
        if number in (errno.EINVAL, errno.ENOENT):
            return
        if number != errno.EBUSY:
            break
    raise MountError(number, f"unmounting {target}: {os.strerror(number)}")


def mount_tmpfs(target: str, size_bytes: int = 0) -> None:
    """A tmpfs on ``target``, never swapped where the kernel can do that (6.4). Without size the kernel gives half of memory."""
    size = f"size={size_bytes}" if size_bytes else ""
    if _knows_noswap():
        mount("tmpfs", target, "tmpfs", 0, ",".join(filter(None, (size, "noswap"))))
    else:
        mount("tmpfs", target, "tmpfs", 0, size)


@functools.cache
def _knows_noswap() -> bool:
    major, minor = (int(part) for part in re.findall(r"\d+", os.uname().release)[:2])
    # An unprivileged user namespace may not ask for it.
    return (major, minor) >= (6, 4) and _initial_user_namespace()


def _initial_user_namespace() -> bool:
    with open("/proc/self/uid_map", encoding="ascii") as file:
        return file.read().split() == ["0", "0", "4294967295"]


def bind(source: str, target: str, *, flags: int = 0, recursive: bool = False) -> None:
    """Bind mount ``source`` (a path, or ``/proc/self/fd/N``) on ``target``; ``flags`` such as MS_RDONLY are for this mount."""
    mount(source, target, "", MS_BIND | (MS_REC if recursive else 0))
    if flags:
        # A bind mount takes its own flags only when remounted.
        mount("none", target, "", MS_BIND | MS_REMOUNT | flags)


def make_shared(path: str) -> None:
    """Let mounts made below ``path`` propagate, to containers that ask for it, whatever the mount it lies on. Idempotent."""
    if is_shared(path):
        return
    if not is_mount_point(path):
        bind(path, path)
    mount("none", path, "", MS_SHARED)


def is_shared(path: str) -> bool:
    """Whether the mount that holds ``path`` passes mounts on."""
    best, shared = "", False
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            fields = line.split(" ")
            point = _unescape(fields[4])
            # The last one mounted on a path hides those before.
            if len(point) >= len(best) and (path == point or path.startswith(os.path.join(point, ""))):
                best, shared = point, any(field.startswith("shared:") for field in fields[6 : fields.index("-")])
    return shared


def mount_points(below: str | None = None) -> list[str]:
    """Mount points at or below ``below`` (all without), in the order they were mounted."""
    prefix = None if below is None else os.path.join(below, "")
    found: list[str] = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            point = _unescape(line.split(" ", 5)[4])
            if prefix is None or point == below or point.startswith(prefix):
                found.append(point)
    return found


def _unescape(point: str) -> str:
    return _OCTAL.sub(lambda m: chr(int(m[1], 8)), point) if "\\" in point else point


def is_mount_point(path: str) -> bool:
    """Whether something is mounted exactly there. Bind mounts from the same filesystem count, unlike in os.path.ismount."""
    return path in mount_points(path)


def unmount_below(directory: str) -> None:
    """Unmount everything at or below ``directory``, innermost first, stacked mounts included."""
    for point in reversed(mount_points(directory)):
        unmount(point)


def remove_tree(directory: Path) -> None:
    """Unmount what is below and delete ``directory``; never deletes through a mount. A missing directory is no error."""
    path = os.path.realpath(directory.parent) + "/" + directory.name
    unmount_below(path)
    try:
        device = os.lstat(path).st_dev
    except FileNotFoundError:
        return
    left = mount_points(path)
    if left:
        raise MountError(errno.EBUSY, f"removing {path}: still mounted: {', '.join(left)}")
    _delete(path, device)


def _delete(path: str, device: int) -> None:
    info = os.lstat(path)
    if info.st_dev != device:
        raise MountError(errno.EXDEV, f"removing {path}: it is on another filesystem")
    if stat.S_ISDIR(info.st_mode):
        # rmtree works on descriptors here, so a directory swapped for a link meanwhile is not followed.
        shutil.rmtree(path)
    else:
        os.unlink(path)
