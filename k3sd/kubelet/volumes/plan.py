"""What setting up one volume means: values computed in the event loop, carried out in a volume thread.

Source: Kubernetes 1.36, ``pkg/volume/{emptydir,hostpath,configmap,secret,projected,downwardapi,local}``. Every ``set_up`` is
idempotent: it makes what is missing and leaves alone what is there, so it also takes over volumes after a restart.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from k3sd.kubelet.volumes import atomic_writer
from k3sd.kubelet.volumes.ownership import apply_fs_group
from k3sd.lib import mounts


class VolumeError(Exception):
    """A volume cannot be had. ``reason`` is the event's (FailedMount) or the container's (CreateContainerConfigError)."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class Plan(Protocol):
    """``read_only``: containers get the volume read-only whatever they ask for."""

    @property
    def read_only(self) -> bool: ...

    def set_up(self) -> str:
        """Blocking. The host path that containers mount. Raises VolumeError, PayloadError or OSError."""
        ...


@dataclass(frozen=True, slots=True)
class EmptyDir:
    """A directory of the pod's own; ``filesystem`` tmpfs or hugetlbfs with ``options``, or "" for the disk."""

    path: Path
    fs_group: int | None = None
    filesystem: str = ""
    size_bytes: int = 0
    options: str = ""
    read_only: bool = False

    def set_up(self) -> str:
        is_new = _make_volume_dir(self.path)
        if self.filesystem and not _is_own_filesystem(self.path):
            if self.filesystem == "tmpfs":
                mounts.mount_tmpfs(str(self.path), self.size_bytes)
            else:
                mounts.mount("nodev", str(self.path), self.filesystem, 0, self.options)
            is_new = True
        if is_new:
            os.chmod(self.path, 0o777)
            apply_fs_group(str(self.path), self.fs_group)
        return str(self.path)


@dataclass(frozen=True, slots=True)
class Files:
    """Files from the API, replaced all at once; ``in_memory`` for what must not reach the disk."""

    path: Path
    payload: atomic_writer.Payload
    in_memory: bool
    fs_group: int | None = None
    read_only: bool = True

    def set_up(self) -> str:
        if _make_volume_dir(self.path):
            os.chmod(self.path, 0o777)
        if self.in_memory and not _is_own_filesystem(self.path):
            mounts.mount_tmpfs(str(self.path))
            os.chmod(self.path, 0o777)
        atomic_writer.write(self.path, self.payload, lambda target: apply_fs_group(str(target), self.fs_group, read_only=True))
        return str(self.path)


@dataclass(frozen=True, slots=True)
class HostPath:
    """A path of the node, checked or made as its type says."""

    path: str
    type: str = ""
    read_only: bool = False

    def set_up(self) -> str:
        if self.type == "DirectoryOrCreate" and not os.path.lexists(self.path):
            os.makedirs(self.path, mode=0o755, exist_ok=True)
        elif self.type == "FileOrCreate" and not os.path.lexists(self.path):
            os.close(os.open(self.path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))
        check = _HOST_PATH_CHECKS.get(self.type)
        if check is not None:
            is_right, what = check
            try:
                mode = os.stat(self.path).st_mode
            except FileNotFoundError:
                mode = 0
            if not is_right(mode):
                raise VolumeError("FailedMount", f"hostPath type check failed: {self.path} is not a {what}")
        elif self.type:
            raise VolumeError("FailedMount", f"{self.type} is an invalid volume type")
        return self.path


_HOST_PATH_CHECKS = {
    "Directory": (stat.S_ISDIR, "directory"),
    "DirectoryOrCreate": (stat.S_ISDIR, "directory"),
    "File": (stat.S_ISREG, "file"),
    "FileOrCreate": (stat.S_ISREG, "file"),
    "Socket": (stat.S_ISSOCK, "socket file"),
    "CharDevice": (stat.S_ISCHR, "character device"),
    "BlockDevice": (stat.S_ISBLK, "block device"),
}


@dataclass(frozen=True, slots=True)
class LocalVolume:
    """A local PersistentVolume: the node's directory bound below the pod's."""

    source: str
    path: Path
    fs_group: int | None = None
    on_root_mismatch: bool = False
    read_only: bool = False

    def set_up(self) -> str:
        if not os.path.isdir(self.source):
            problem = "is not a directory" if os.path.lexists(self.source) else "does not exist"
            raise VolumeError("FailedMount", f'path "{self.source}" {problem}')
        self.path.mkdir(parents=True, exist_ok=True, mode=0o750)
        if not mounts.is_mount_point(os.path.realpath(self.path)):
            mounts.bind(self.source, str(self.path), flags=mounts.MS_RDONLY if self.read_only else 0, recursive=True)
            if not self.read_only:
                apply_fs_group(self.source, self.fs_group, on_root_mismatch=self.on_root_mismatch)
        return str(self.path)


@dataclass(frozen=True, slots=True)
class LayerMount:
    """How the snapshotter shows an image: ``type`` overlay or bind, as containerd says it."""

    type: str
    source: str
    options: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ImageVolume:
    """The files of an image, read-only and without devices, set-uid and execution."""

    path: Path
    mount: LayerMount
    read_only: bool = True

    def set_up(self) -> str:
        _make_volume_dir(self.path)
        target = os.path.realpath(self.path)
        if not mounts.is_mount_point(target):
            flags = mounts.MS_RDONLY | mounts.MS_NOSUID | mounts.MS_NODEV | mounts.MS_NOEXEC
            if self.mount.type == "bind":
                mounts.bind(self.mount.source, target, flags=flags)
            else:
                options = ",".join(option for option in self.mount.options if "=" in option)
                mounts.mount(self.mount.source, target, self.mount.type, flags, options)
        return str(self.path)


def _make_volume_dir(path: Path) -> bool:
    """Whether it was made now."""
    if path.is_dir():
        return False
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
    path.mkdir(mode=0o750)
    return True


def _is_own_filesystem(path: Path) -> bool:
    return os.lstat(path).st_dev != os.lstat(path.parent).st_dev
