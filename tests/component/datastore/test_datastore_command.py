"""``k3sd datastore`` as an operator runs it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from k3sd.datastore import open_backend

ROOT = Path(__file__).parents[3]


def k3sd(*words: str, code: int = 0) -> str:
    done = subprocess.run([sys.executable, "-m", "k3sd", "datastore", *words], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


@pytest.fixture
async def data_dir(tmp_path: Path) -> Path:
    store = open_backend("", data_dir=tmp_path)
    await store.start()
    await asyncio.gather(*(store.create(f"/registry/x/{i}", b"v") for i in range(10)))
    await store.stop()
    return tmp_path


async def test_backup_check_restore_migrate(data_dir: Path, tmp_path: Path) -> None:
    where = ("--data-dir", str(data_dir), "--endpoint", "")
    assert "revision 12, compacted up to 0, 11 keys" in k3sd("check", *where)
    saved = str(tmp_path / "saved.db")
    assert f"{saved}: revision 12, 12 rows" in k3sd("backup", *where, saved)
    assert "exists already" in k3sd("backup", *where, saved, code=1)
    other = tmp_path / "other"
    assert "restored revision 12" in k3sd("restore", "--data-dir", str(other), "--endpoint", "", saved)
    new = f"sqlite://{tmp_path}/new.db"
    assert "10 keys: 10 copied" in k3sd("migrate", "--data-dir", str(data_dir), "--from", "sqlite://", "--to", new)
    (data_dir / "server/db/state.db").write_bytes(b"garbage" * 1000)
    assert "problem:" in k3sd("check", *where, code=1)
    assert "unknown scheme" in k3sd("check", "--data-dir", str(data_dir), "--endpoint", "nats://x", code=1)


async def test_certificates_for_a_listener_without_tls(tmp_path: Path) -> None:
    words = ("serve", "--data-dir", str(tmp_path), "--endpoint", "", "--listen", "http://127.0.0.1:1", "--client-ca", "x")
    assert "have no meaning for 'http://127.0.0.1:1'; listen on https://host:port" in k3sd(*words, code=1)


async def test_serve(data_dir: Path, tmp_path: Path) -> None:
    listen = f"unix://{tmp_path}/sock"
    words = ["datastore", "serve", "--data-dir", str(data_dir), "--endpoint", "", "--listen", listen]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "k3sd", *words, cwd=ROOT, stdout=subprocess.PIPE, env=os.environ
    )
    assert process.stdout is not None
    assert (await process.stdout.readline()).decode() == f"serving on {listen}\n"
    store = open_backend(listen, data_dir=tmp_path)
    await store.start()
    assert (await store.list("/registry/x/", "/registry/x0")).count == 10
    await store.stop()
    process.terminate()
    async with asyncio.timeout(10):
        assert await process.wait() == 0
