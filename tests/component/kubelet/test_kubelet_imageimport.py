"""Images from files of this machine, in a real containerd."""

from __future__ import annotations

import bz2
import logging
from pathlib import Path

import pytest

from k3sd.config.paths import Paths
from k3sd.config.settings import Settings
from k3sd.kubelet.cri.client import CRIClient
from k3sd.kubelet.imageimport import ImageImporter
from k3sd.kubelet.ociarchive import File, build_archive

pytestmark = pytest.mark.root


def archive(name: str, content: bytes) -> bytes:
    return build_archive(name, {"file": File(content)}, {"Cmd": ["/file"]})


async def test_archives_are_imported_once_and_again_when_changed(
    node_settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    images = Paths(tmp_path).images
    images.mkdir(parents=True)
    plain, packed = "docker.io/library/k3sd-test-plain:1", "docker.io/library/k3sd-test-packed:1"
    (images / "plain.tar").write_bytes(archive(plain, b"one"))
    (images / "packed.tar.bz2").write_bytes(bz2.compress(archive(packed, b"two")))
    (images / "broken.tar").write_bytes(b"no archive")
    (images / "notes.md").write_text("ignored")
    async with CRIClient(node_settings.containerd_socket) as cri:
        importer = ImageImporter(cri, "overlayfs", Paths(tmp_path))
        await importer.import_directory()
        first = await cri.image_status(plain)
        assert first is not None and await cri.image_status(packed) is not None
        assert "broken.tar" in caplog.text and "notes.md is ignored" in caplog.text
        caplog.clear()
        await importer.import_directory()
        assert not any(r.getMessage().startswith("imported") for r in caplog.records)
        (images / "plain.tar").write_bytes(archive(plain, b"three"))
        await importer.import_directory()
        second = await cri.image_status(plain)
        assert second is not None and second.id != first.id
        await cri.remove_image(packed)
        await importer.import_directory()
        assert await cri.image_status(packed) is not None
        for name in (plain, packed):
            await cri.remove_image(name)


async def test_the_pause_image_is_there_and_made_only_once(node_settings: Settings, tmp_path: Path) -> None:
    async with CRIClient(node_settings.containerd_socket) as cri:
        importer = ImageImporter(cri, "overlayfs", Paths(tmp_path))
        name = "docker.io/library/k3sd-test-pause:1"
        await importer.ensure_pause_image(name)
        made = await cri.image_status(name)
        await importer.ensure_pause_image(name)
        again = await cri.image_status(name)
        assert made is not None and again is not None and made.id == again.id
        assert made.uid.value == 65535
        await cri.remove_image(name)
