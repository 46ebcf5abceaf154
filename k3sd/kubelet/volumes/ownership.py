"""fsGroup: give a volume to the pod's supplementary group. Source: Kubernetes 1.36, ``pkg/volume/volume_linux.go``."""

from __future__ import annotations

import os
import stat

READ_WRITE = 0o660
READ_ONLY = 0o440
EXECUTE = 0o110


def apply_fs_group(directory: str, group: int | None, *, read_only: bool = False, on_root_mismatch: bool = False) -> None:
    """Everything below ``directory`` becomes the group's: readable (and writable unless ``read_only``), directories set-gid.

    ``on_root_mismatch`` skips the walk when the top already is as it should be (``fsGroupChangePolicy: OnRootMismatch``).
    None does nothing. Links are given to the group, never followed.
    """
    if group is None:
        return
    root = os.lstat(directory)
    if on_root_mismatch and not _differs(root, group, read_only):
        return
    for current, directories, files, descriptor in os.fwalk(directory, topdown=False):
        del current
        for name in (*files, *directories):
            info = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
            # Directories were or will be the "." of their own turn.
            if not stat.S_ISDIR(info.st_mode):
                _change(name, info, group, read_only, descriptor)
        _change(".", os.fstat(descriptor), group, read_only, descriptor)


def _mask(info: os.stat_result, read_only: bool) -> int:
    mask = READ_ONLY if read_only else READ_WRITE
    return mask | stat.S_ISGID | EXECUTE if stat.S_ISDIR(info.st_mode) else mask


def _differs(info: os.stat_result, group: int, read_only: bool) -> bool:
    mask = _mask(info, read_only)
    return info.st_gid != group or stat.S_IMODE(info.st_mode) & mask != mask


def _change(name: str, info: os.stat_result, group: int, read_only: bool, descriptor: int) -> None:
    os.chown(name, -1, group, dir_fd=descriptor, follow_symlinks=False)
    if not stat.S_ISLNK(info.st_mode):
        os.chmod(name, stat.S_IMODE(info.st_mode) | _mask(info, read_only), dir_fd=descriptor)
