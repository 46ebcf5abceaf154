"""Files that change all at once: a timestamped directory behind the ``..data`` link, swapped by rename.

Source: Kubernetes 1.36, ``pkg/volume/util/atomic_writer.go``. Readers see the old set of files or the new one, never a mixture.
Blocking: call from the volume thread.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

DATA_LINK = "..data"
NEW_DATA_LINK = "..data_tmp"
MAX_PATH = 4096
MAX_NAME = 255


class PayloadError(ValueError):
    """A path in the payload is not allowed; the text is upstream's."""


@dataclass(frozen=True, slots=True)
class FileProjection:
    """One file: content, permission bits, and the owner if not root."""

    data: bytes
    mode: int
    uid: int | None = None


Payload = Mapping[str, FileProjection]


def check_path(path: str) -> None:
    """Raises PayloadError for a path that would leave the volume or clash with the links (``validatePath``)."""
    if not path:
        raise PayloadError('invalid path: must not be empty: ""')
    if path.startswith("/"):
        raise PayloadError(f"invalid path: must be relative path: {path}")
    if len(path) > MAX_PATH:
        raise PayloadError(f"invalid path: must be less than or equal to {MAX_PATH} characters")
    parts = path.split("/")
    if ".." in parts:
        raise PayloadError(f"invalid path: must not contain '..': {path}")
    if any(len(part) > MAX_NAME for part in parts):
        raise PayloadError(f"invalid path: filenames must be less than or equal to {MAX_NAME} characters")
    if parts[0].startswith("..") and len(parts[0]) > 2:
        raise PayloadError(f"invalid path: must not start with '..': {path}")


def write(target: Path, payload: Payload, finish: Callable[[Path], None] | None = None) -> bool:
    """Make the files of ``target`` those of ``payload``; returns whether anything changed.

    ``finish`` runs on ``target`` before the new files become visible (ownership of the new ones). Paths are relative and
    may have directories. Interrupted at any point, the next call repairs.
    """
    clean: dict[str, FileProjection] = {}
    for path, projection in payload.items():
        check_path(path)
        clean[os.path.normpath(path)] = projection
    current = _current(target)
    if current is not None and _same(target / current, clean) and not _stale_links(target, clean):
        return False
    fresh = Path(tempfile.mkdtemp(prefix=time.strftime("..%Y_%m_%d_%H_%M_%S.", time.gmtime()), dir=target))
    try:
        os.chmod(fresh, 0o755)
        _fill(fresh, clean)
        if finish is not None:
            finish(target)
        _swap(target, fresh.name, clean)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    for link in _stale_links(target, clean):
        os.unlink(link)
    # Also those an interrupted call left behind.
    for entry in list(os.scandir(target)):
        if entry.name.startswith("..2") and entry.name != fresh.name and entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
    return True


def _current(target: Path) -> str | None:
    try:
        name = os.readlink(target / DATA_LINK)
    except FileNotFoundError:
        return None
    return name if (target / name).is_dir() else None


def _same(directory: Path, payload: Payload) -> bool:
    """Whether the directory holds exactly the payload's files with the payload's bytes."""
    present: set[str] = set()
    for root, _, files in os.walk(directory):
        present.update(os.path.relpath(os.path.join(root, name), directory) for name in files)
    if present != set(payload):
        return False
    return all((directory / path).read_bytes() == projection.data for path, projection in payload.items())


def _stale_links(target: Path, payload: Payload) -> list[str]:
    """What readers see at the top but the payload no longer has."""
    wanted = {path.partition("/")[0] for path in payload}
    return [entry.path for entry in os.scandir(target) if not entry.name.startswith("..") and entry.name not in wanted]


def _fill(directory: Path, payload: Payload) -> None:
    made: set[str] = {""}
    for path, projection in payload.items():
        parent = os.path.dirname(path)
        if parent not in made:
            os.makedirs(directory / parent, mode=0o755, exist_ok=True)
            made.add(parent)
        descriptor = os.open(directory / path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb", buffering=0) as file:
            view = memoryview(projection.data)
            while view:
                view = view[file.write(view) or 0 :]
            # The umask must not weaken or widen what was asked for.
            os.fchmod(descriptor, projection.mode)
            if projection.uid is not None:
                os.fchown(descriptor, projection.uid, -1)


def _swap(target: Path, name: str, payload: Payload) -> None:
    new_link = target / NEW_DATA_LINK
    new_link.unlink(missing_ok=True)
    os.symlink(name, new_link)
    # The links may dangle until the first rename; later they point at whichever set is current.
    for first in {path.partition("/")[0] for path in payload}:
        link = target / first
        if not os.path.lexists(link):
            os.symlink(f"{DATA_LINK}/{first}", link)
    os.rename(new_link, target / DATA_LINK)
