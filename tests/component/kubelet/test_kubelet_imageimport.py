"""Images from files of this machine, in a real containerd."""

from __future__ import annotations

import asyncio
import bz2
import logging
from pathlib import Path
from typing import Any

import pytest

from k3sd.config.paths import Paths
from k3sd.config.settings import Settings
from k3sd.kubelet import imageimport
from k3sd.kubelet.cri.client import CRIClient
from k3sd.kubelet.imageimport import ImageImporter
from k3sd.kubelet.ociarchive import File, build_archive
from k3sd.lib.inotify import DirectoryEvents

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
        importer = ImageImporter(cri, "overlayfs", Paths(tmp_path), DirectoryEvents())
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


async def test_an_archive_that_appears_is_imported_when_it_is_complete(
    node_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imageimport, "SETTLE_SECONDS", 0.2)
    images = Paths(tmp_path).images
    images.mkdir(parents=True)
    events = DirectoryEvents()
    async with CRIClient(node_settings.containerd_socket) as cri:
        importer = ImageImporter(cri, "overlayfs", Paths(tmp_path), events)
        imported: asyncio.Queue[Path] = asyncio.Queue()
        monkeypatch.setattr(importer, "_import_file", record(imported, importer._import_file))
        watching = asyncio.create_task(importer.watch_directory())
        try:
            await asyncio.sleep(0)  # the watch is there from its first step on
            for number in (1, 2):
                name = f"docker.io/library/k3sd-test-late:{number}"
                data = archive(name, b"late")
                with (images / f"late{number}.tar").open("wb") as file:
                    for half in (data[:1000], data[1000:]):
                        file.write(half)
                        file.flush()
                        await asyncio.sleep(0.05)  # a copy takes its time
                assert (await asyncio.wait_for(imported.get(), 20)).name == f"late{number}.tar"
                assert await cri.image_status(name) is not None
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            events.close()
        assert imported.empty(), "each is imported once"
        for number in (1, 2):
            await cri.remove_image(f"docker.io/library/k3sd-test-late:{number}")


def record(into: asyncio.Queue[Path], wrapped: Any) -> Any:
    async def call(file: Path) -> Any:
        answer = await wrapped(file)
        into.put_nowait(file)
        return answer

    return call


async def test_the_pause_image_is_there_and_made_only_once(node_settings: Settings, tmp_path: Path) -> None:
    async with CRIClient(node_settings.containerd_socket) as cri:
        importer = ImageImporter(cri, "overlayfs", Paths(tmp_path), DirectoryEvents())
        name = "docker.io/library/k3sd-test-pause:1"
        await importer.ensure_pause_image(name)
        made = await cri.image_status(name)
        await importer.ensure_pause_image(name)
        again = await cri.image_status(name)
        assert made is not None and again is not None and made.id == again.id
        assert made.uid.value == 65535
        await cri.remove_image(name)
