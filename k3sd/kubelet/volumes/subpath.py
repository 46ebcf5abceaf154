"""subPath: bind one file or directory of a volume, resolved so that nothing a container planted leads out of the volume.

Source: Kubernetes 1.36, ``pkg/volume/util/subpath/subpath_linux.go`` and ``pkg/kubelet/kubelet_pods.go`` (``makeMounts``).
The path is walked with descriptors, one component at a time, links resolved here and not by the kernel; what is mounted is the
descriptor that was reached, so a later exchange of a component changes nothing. Blocking: call from the volume thread.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from k3sd.lib import mounts

MAX_LINKS = 40
_PATH = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class SubPathError(Exception):
    """The subPath is refused; the text is for the container's status."""


def check(sub_path: str) -> None:
    """Upstream's two textual rules, with its words."""
    if sub_path.startswith("/"):
        raise SubPathError(f"error SubPath `{sub_path}` must not be an absolute path")
    if ".." in sub_path.split("/"):
        raise SubPathError(f"unable to provision SubPath `{sub_path}`: must not contain '..'")


def open_beneath(volume: str, sub_path: str, *, create_mode: int | None = None) -> int:
    """An ``O_PATH`` descriptor of ``sub_path`` inside ``volume``; the caller closes it.

    With ``create_mode`` missing components are made as directories. Relative links are followed as long as they stay inside;
    raises SubPathError for a way out, an absolute link or a loop, OSError otherwise.
    """
    check(sub_path)
    pending = [part for part in reversed(sub_path.split("/")) if part not in ("", ".")]
    held = [os.open(volume, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)]
    links = 0
    try:
        while pending:
            part = pending.pop()
            if part == "..":
                # Only from a link: the parent is the descriptor we came from, whatever the tree looks like by now.
                if len(held) == 1:
                    raise SubPathError(f"subpath {sub_path!r} not within volume path {volume!r}")
                os.close(held.pop())
                continue
            descriptor = _step(held[-1], part, create_mode)
            if not stat.S_ISLNK(os.fstat(descriptor).st_mode):
                held.append(descriptor)
                continue
            try:
                target = os.readlink("", dir_fd=descriptor)
            finally:
                os.close(descriptor)
            links += 1
            if links > MAX_LINKS:
                raise SubPathError(f"subpath {sub_path!r}: too many levels of symbolic links")
            if target.startswith("/"):
                raise SubPathError(f"subpath {sub_path!r} not within volume path {volume!r}")
            pending += [p for p in reversed(target.split("/")) if p not in ("", ".")]
        return held.pop()
    finally:
        for descriptor in held:
            os.close(descriptor)


def _step(parent: int, name: str, create_mode: int | None) -> int:
    try:
        return os.open(name, _PATH, dir_fd=parent)
    except FileNotFoundError:
        if create_mode is None:
            raise
    try:
        os.mkdir(name, 0o700, dir_fd=parent)
    except FileExistsError:
        return os.open(name, _PATH, dir_fd=parent)
    made = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        # The umask must not take away what the volume's own mode grants.
        os.fchmod(made, create_mode)
        owner = os.stat(parent)
        if owner.st_mode & stat.S_ISGID:
            os.fchown(made, -1, owner.st_gid)
        return os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=made)
    finally:
        os.close(made)


def bind_sub_path(pod_dir: Path, volume_name: str, volume: str, sub_path: str, container: str, index: int) -> str:
    """Bind ``sub_path`` of ``volume`` below the pod's directory and return that path.

    What an earlier start of the container left there is replaced, since the volume may have changed since.
    """
    if not os.path.isdir(volume):
        raise SubPathError(f"subpath {sub_path!r}: volume {volume_name!r} is not a directory")
    descriptor = open_beneath(volume, sub_path, create_mode=stat.S_IMODE(os.stat(volume).st_mode))
    try:
        target = pod_dir / "volume-subpaths" / volume_name / container / str(index)
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
        wants_directory = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        _prepare_target(str(target), wants_directory)
        mounts.bind(f"/proc/self/fd/{descriptor}", str(target), recursive=True)
        return str(target)
    finally:
        os.close(descriptor)


def _prepare_target(target: str, wants_directory: bool) -> None:
    mounts.unmount(target)
    try:
        is_directory = stat.S_ISDIR(os.lstat(target).st_mode)
    except FileNotFoundError:
        pass
    else:
        if is_directory == wants_directory:
            return
        if is_directory:
            os.rmdir(target)
        else:
            os.unlink(target)
    if wants_directory:
        os.mkdir(target, 0o750)
    else:
        try:
            os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o640))
        except FileExistsError as error:
            raise SubPathError(f"{target}: {os.strerror(errno.EEXIST)}") from error
