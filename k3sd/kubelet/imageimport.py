"""Images that need no registry: the sandbox image made from the distribution's catatonit, and ``agent/images/*``.

Source: K3s 1.36 ``pkg/agent/containerd/containerd.go`` (``PreloadImages``).
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import shutil
import stat
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from k3sd.config.paths import Paths
from k3sd.kubelet.cri.client import CRIClient, CRIError
from k3sd.lib.files import write_if_changed
from k3sd.lib.inotify import DirectoryEvents
from k3sd.procs.run import CommandError, run

log = logging.getLogger(__name__)

# What containerd reads itself, and what is unpacked here first.
_NATIVE = (".tar", ".tar.gz", ".tgz", ".tar.zst", ".tzst")
_FOREIGN = (".tar.bz2", ".tbz", ".tar.lz4")
_CACHE = ".k3sd-imported.json"
IMPORT_TIMEOUT_SECONDS = 1800.0
SETTLE_SECONDS = 2.0
"""A file that is still being copied is left alone."""


class ImportFailed(Exception):
    """An image could not be brought in; the message names file and remedy."""


class ImageImporter:
    """Imports through ``ctr`` into containerd's namespace of Kubernetes."""

    def __init__(self, cri: CRIClient, snapshotter: str, paths: Paths, events: DirectoryEvents) -> None:
        self._cri = cri
        self._snapshotter = snapshotter
        self._directory = paths.images
        self._events = events

    async def ensure_pause_image(self, name: str) -> None:
        """Make the sandbox image unless it is there. Raises ImportFailed."""
        if await self._cri.image_status(name) is not None:
            return
        binary = shutil.which("catatonit") or shutil.which("catatonit", path="/usr/libexec/podman:/usr/libexec/catatonit")
        if binary is None:
            raise ImportFailed(f"sandbox image {name}: catatonit is not installed: install the package catatonit")
        from k3sd.kubelet.ociarchive import build_pause_archive  # needed once in a node's life, and tarfile is large

        try:
            archive = await asyncio.to_thread(build_pause_archive, name, Path(binary))
        except (OSError, ValueError) as error:
            raise ImportFailed(f"sandbox image {name}: {error}") from error
        with tempfile.NamedTemporaryFile(prefix="k3sd-pause-", suffix=".tar") as file:
            file.write(archive)
            file.flush()
            await self._import(Path(file.name))
        await self._wait_for([name])

    async def import_directory(self) -> None:
        """Bring in every archive of ``agent/images`` that is new, changed or whose images are gone; pull the images named in
        its ``.txt`` files. A file that fails is logged and does not stop the others."""
        if not self._directory.is_dir() or not any(self._directory.iterdir()):
            return
        cache = self._load_cache()
        present = {tag for image in await self._cri.list_images() for tag in image.repo_tags}
        fresh: dict[str, Any] = {}
        for file in sorted(self._directory.iterdir()):
            if file.name.startswith("."):
                continue
            try:
                info = file.stat()
            except FileNotFoundError:
                continue
            if not stat.S_ISREG(info.st_mode):
                continue
            stamp = [info.st_size, info.st_mtime_ns]
            known = cache.get(file.name)
            if known and known["stamp"] == stamp and present.issuperset(known["images"]):
                fresh[file.name] = known
                continue
            try:
                names = await self._import_file(file)
            except (ImportFailed, CRIError, OSError) as error:
                log.error("cannot import %s: %s", file, error)
                continue
            if names is not None:
                log.info("imported %s: %s", file, ", ".join(names) or "no named image")
                fresh[file.name] = {"stamp": stamp, "images": names}
        if fresh != cache:
            write_if_changed(self._directory / _CACHE, json.dumps(fresh, indent=1), 0o600)

    async def watch_directory(self) -> None:
        """Import what appears in ``agent/images``, when it has not been written to for a moment. Runs until cancelled."""
        changed = asyncio.Event()

        def look(name: str) -> None:
            if not name.startswith("."):
                changed.set()

        try:
            watch = self._events.watch(str(self._directory), look)
        except OSError as error:
            log.warning("%s is read at start only: %s", self._directory, error)
            return
        try:
            await self.import_directory()  # what came before the watch
            while True:
                await changed.wait()
                while changed.is_set():
                    changed.clear()
                    await asyncio.sleep(SETTLE_SECONDS)
                await self.import_directory()
        finally:
            watch.close()

    def _load_cache(self) -> dict[str, Any]:
        try:
            cache = json.loads((self._directory / _CACHE).read_text())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            log.warning("%s is not readable and is made anew: %s", self._directory / _CACHE, error)
            return {}
        return cache if isinstance(cache, dict) else {}

    async def _import_file(self, file: Path) -> list[str] | None:
        """The names of the images; None for a file that is none of ours."""
        if file.name.endswith(".txt"):
            return await self._pull_list(file)
        if file.name.endswith(_NATIVE):
            return await self._import(file)
        if file.name.endswith(_FOREIGN):
            with tempfile.NamedTemporaryFile(prefix="k3sd-image-", suffix=".tar", dir=self._directory.parent) as unpacked:
                await self._unpack(file, unpacked)
                return await self._import(Path(unpacked.name))
        log.warning("%s is ignored: known endings are %s, .txt", file, ", ".join((*_NATIVE, *_FOREIGN)))
        return None

    async def _unpack(self, file: Path, target: Any) -> None:
        if file.name.endswith(".lz4"):
            try:
                await run(["lz4", "-d", "-f", str(file), target.name], timeout_seconds=IMPORT_TIMEOUT_SECONDS)
            except CommandError as error:
                raise ImportFailed(f"{error}; unpack it to a plain .tar, or install the package lz4") from error
            return

        def decompress() -> None:
            import bz2

            with bz2.open(file) as source:
                shutil.copyfileobj(source, target, 1 << 20)
            target.flush()

        await asyncio.to_thread(decompress)

    async def _pull_list(self, file: Path) -> list[str]:
        names = [line.strip() for line in file.read_text().splitlines()]
        wanted = [n for n in names if n and not n.startswith("#")]
        for name in wanted:
            if await self._cri.image_status(name) is None:
                await self._cri.pull_image(name)
        return wanted

    async def _import(self, archive: Path) -> list[str]:
        argv = ["ctr", "--address", self._cri.socket, "--namespace", "k8s.io", "images", "import"]
        argv += ["--snapshotter", self._snapshotter, str(archive)]
        try:
            output = await run(argv, timeout_seconds=IMPORT_TIMEOUT_SECONDS)
        except CommandError as error:
            raise ImportFailed(str(error)) from error
        names = re.findall(r"^(?:unpacking )?(\S+) \(sha256:[0-9a-f]+\)", output, re.MULTILINE)
        await self._wait_for(names)
        return names

    async def _wait_for(self, names: Sequence[str]) -> None:
        """containerd's CRI side learns of a new image from an event of its own; until then it does not know the name."""
        for name in names:
            delay = 0.005
            while await self._cri.image_status(name) is None:
                if delay > 2:
                    raise ImportFailed(f"{name} was imported but containerd's CRI does not show it")
                await asyncio.sleep(delay)
                delay *= 2
