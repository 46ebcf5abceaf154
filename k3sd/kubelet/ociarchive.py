"""OCI image archives built from files of this machine: how the sandbox image comes to be without a registry.

Pure: bytes in, bytes out, and the same input gives the same digest.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from k3sd.kubelet.layout import architecture


@dataclass(frozen=True, slots=True)
class File:
    """One entry of the layer: content, or a symlink's target."""

    data: bytes = b""
    mode: int = 0o644
    link: str = ""


def _add(tar: tarfile.TarFile, name: str, data: bytes, mode: int = 0o644, link: str = "") -> None:
    info = tarfile.TarInfo(name)
    info.mode = mode
    info.size = len(data)
    if link:
        info.type, info.linkname, info.size = tarfile.SYMTYPE, link, 0
    tar.addfile(info, io.BytesIO(data) if not link else None)


def _layer(files: Mapping[str, File]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        made: set[str] = set()
        for name in sorted(files):
            parents = [str(p) for p in reversed(Path(name).parents) if str(p) != "."]
            for parent in (p for p in parents if p not in made):
                made.add(parent)
                info = tarfile.TarInfo(parent)
                info.type, info.mode = tarfile.DIRTYPE, 0o1777 if parent == "tmp" else 0o755
                tar.addfile(info)
            file = files[name]
            _add(tar, name, file.data, file.mode, file.link)
    return out.getvalue()


def build_archive(name: str, files: Mapping[str, File], config: Mapping[str, Any]) -> bytes:
    """A tar in OCI image layout with one image called ``name`` (a full reference) and one uncompressed layer.

    ``config`` is the image's own ``config`` object: Entrypoint, Cmd, Env, User, WorkingDir.
    """
    blobs: dict[str, bytes] = {}

    def put(data: bytes, media_type: str) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        blobs[digest] = data
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    layer = put(_layer(files), "application/vnd.oci.image.layer.v1.tar")
    target = {"architecture": architecture(), "os": "linux"}
    image = {**target, "config": dict(config), "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]}}
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": put(json.dumps(image, sort_keys=True).encode(), "application/vnd.oci.image.config.v1+json"),
        "layers": [layer],
    }
    entry = put(json.dumps(manifest, sort_keys=True).encode(), "application/vnd.oci.image.manifest.v1+json")
    entry["platform"] = target
    entry["annotations"] = {
        "io.containerd.image.name": name,
        "org.opencontainers.image.ref.name": name.rsplit(":", 1)[-1],
    }
    index = {"schemaVersion": 2, "manifests": [entry]}
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        _add(tar, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        _add(tar, "index.json", json.dumps(index, sort_keys=True).encode())
        for digest, data in sorted(blobs.items()):
            _add(tar, f"blobs/sha256/{digest}", data)
    return out.getvalue()


def build_pause_archive(name: str, catatonit: Path) -> bytes:
    """The sandbox image: ``catatonit -P`` waits for signals and reaps. Raises ValueError when the binary is not static,
    for a sandbox has no libraries to load."""
    data = catatonit.read_bytes()
    if _needs_interpreter(data):
        raise ValueError(f"{catatonit} is dynamically linked and cannot run alone in a sandbox: install a static catatonit")
    return build_archive(
        name,
        {"catatonit": File(data, 0o755)},
        {"Entrypoint": ["/catatonit", "-P"], "User": "65535:65535", "WorkingDir": "/"},
    )


def _needs_interpreter(elf: bytes) -> bool:
    """Whether an ELF file has a PT_INTERP program header."""
    if elf[:4] != b"\x7fELF":
        return False
    wide, order = elf[4] == 2, "little" if elf[5] == 1 else "big"

    def number(offset: int, size: int) -> int:
        return int.from_bytes(elf[offset : offset + size], order)  # type: ignore[arg-type]

    start = number(0x20, 8) if wide else number(0x1C, 4)
    size, count = (number(0x36, 2), number(0x38, 2)) if wide else (number(0x2A, 2), number(0x2C, 2))
    return any(number(start + i * size, 4) == 3 for i in range(count))
