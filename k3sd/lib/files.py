"""Files that matter: replaced atomically, with their mode and owner set before anyone can see them."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_atomic(path: Path, data: bytes | str, mode: int = 0o600, owner: tuple[int, int] | None = None) -> None:
    """Replace ``path`` by ``data`` such that a crash leaves the old or the new content, never a part.

    The temporary file lives in the same directory, gets ``mode`` and ``owner`` (uid, gid) first, and is synced before the
    rename; the directory is synced after it. Raises OSError naming the file.
    """
    raw = data.encode() if isinstance(data, str) else data
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            os.fchmod(stream.fileno(), mode)
            if owner is not None:
                os.fchown(stream.fileno(), *owner)
            stream.write(raw)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(name, path)
    except OSError as error:
        Path(name).unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error  # a failed write names no file
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def write_if_changed(path: Path, data: bytes | str, mode: int = 0o600, owner: tuple[int, int] | None = None) -> bool:
    """``write_atomic`` unless the file already has this content; the mode is set right in any case. True when written."""
    raw = data.encode() if isinstance(data, str) else data
    try:
        if path.read_bytes() == raw and not path.is_symlink():
            path.chmod(mode)
            if owner is not None:
                os.chown(path, *owner)
            return False
    except FileNotFoundError:
        pass
    write_atomic(path, raw, mode, owner)
    return True


def sync_directory(path: Path) -> None:
    """Make renames and removals in ``path`` durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def ensure_directory(path: Path, mode: int = 0o700, owner: tuple[int, int] | None = None) -> None:
    """Create ``path`` with its parents; the last component gets exactly ``mode`` and ``owner``."""
    path.mkdir(parents=True, exist_ok=True)
    status = path.stat()
    if status.st_mode & 0o7777 != mode:
        path.chmod(mode)
    if owner is not None and (status.st_uid, status.st_gid) != owner:
        os.chown(path, *owner)


def ensure_symlink(path: Path, target: str) -> None:
    """Make ``path`` a symbolic link to ``target``, replacing a file or another link atomically."""
    if path.is_symlink() and os.readlink(path) == target:
        return
    temporary = path.with_name(f".{path.name}.link")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    os.replace(temporary, path)
