"""Files that are replaced whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from k3sd.lib import files


def test_a_full_disk_names_the_file_and_keeps_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "token"
    files.write_atomic(path, "old")

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        files.write_atomic(path, "new")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(path))
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["token"]


def test_mode_is_set_before_anybody_can_look(tmp_path: Path) -> None:
    path = tmp_path / "key"
    assert files.write_if_changed(path, "a", 0o600) and not files.write_if_changed(path, "a", 0o640)
    assert path.stat().st_mode & 0o777 == 0o640
    assert files.write_if_changed(path, "b", 0o600)
    assert path.stat().st_mode & 0o777 == 0o600
