from __future__ import annotations

import os
import uuid

from k3sd.lib.uid import new_uid


def test_uids_are_random_version_4_and_differ() -> None:
    found = [new_uid() for _ in range(500)]
    assert len(set(found)) == 500
    for text in found:
        parsed = uuid.UUID(text)
        assert parsed.version == 4 and parsed.variant == uuid.RFC_4122 and str(parsed) == text


def test_a_forked_process_has_its_own() -> None:
    new_uid()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, new_uid().encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 36).decode() != new_uid()
    os.close(reader)
    os.close(writer)
