from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from k3sd.apiserver.registry import Registry
from k3sd.apiserver.watchcache import WatchCache
from k3sd.config.settings import Settings
from k3sd.datastore import open_backend


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[Registry]:
    """A registry on a real database, with its kinds and admission."""
    settings = Settings(data_dir=str(tmp_path), node_name="n1", node_ips=("127.0.0.1",))
    settings.paths.tls.mkdir(parents=True)
    (settings.paths.tls / "server-ca.crt").write_text("CERT\n")
    backend = open_backend(data_dir=tmp_path)
    await backend.start()
    cache = WatchCache(backend)
    await cache.start()
    registry = Registry(backend, cache, settings)
    registry.load()
    yield registry
    cache.stop()
    await backend.stop()
