"""The disk as a power cut leaves it: what was synced, and any part of what was not."""

from __future__ import annotations

import random
import shutil
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

RECORD = struct.Struct("<IIQQQII")
MAGIC = 0x50435554
SECTOR = 512


@dataclass
class Record:
    op: str
    path: Path
    offset: int
    number: int
    data: bytes


def build(directory: Path) -> Path:
    """The recorder as a library to preload; skips the test without a C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("cc is not installed")
    library = directory / "powercut.so"
    source = Path(__file__).with_name("powercut.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl", "-lpthread"], check=True)
    return library


def read(log: Path) -> Iterator[Record]:
    content = log.read_bytes()
    at = 0
    while at + RECORD.size <= len(content):
        magic, op, offset, length, number, path_length, _ = RECORD.unpack_from(content, at)
        assert magic == MAGIC
        at += RECORD.size
        path = Path(content[at : at + path_length].decode())
        at += path_length
        data = content[at : at + length] if op == ord("W") else b""
        at += len(data)
        yield Record(chr(op), path, offset, number, data)


def replay(records: list[Record], below: Path, into: Path, dice: random.Random, survive: float) -> tuple[int, str]:
    """Write the files of ``below`` to ``into`` as they may be when the power goes after the last of ``records``: everything
    synced, and each unsynced sector with probability ``survive``. Returns the number of writes that were not synced, and what
    was appended to the file ``acks`` until then."""
    acks = ""
    durable: dict[Path, int] = {}
    for record in records:
        if record.op == "S":
            durable[record.path] = max(durable.get(record.path, 0), record.number)
    files: dict[Path, bytearray] = {}
    unsynced = 0
    for i, record in enumerate(records):
        if record.op == "S":
            continue
        if record.path == below / "acks":
            acks += record.data.decode()
            continue
        if record.op == "U":  # durable when its directory was synced afterwards
            if i < durable.get(record.path.parent, 0) or dice.random() < survive:
                files.pop(record.path, None)
            continue
        content = files.setdefault(record.path, bytearray())
        safe = i < durable.get(record.path, 0)
        if record.op == "W":
            unsynced += not safe
            for start in range(0, len(record.data), SECTOR):
                if safe or dice.random() < survive:
                    piece = record.data[start : start + SECTOR]
                    at = record.offset + start
                    if len(content) < at + len(piece):
                        content.extend(bytes(at + len(piece) - len(content)))
                    content[at : at + len(piece)] = piece
        elif record.op == "T" and (safe or dice.random() < survive):
            del content[record.offset :]
    for path, content in files.items():
        target = into / path.relative_to(below)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    return unsynced, acks
