"""One harness a driver: opens a fresh store and opens the same one again."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path
from typing import Any

from k3sd.datastore import open_backend
from k3sd.datastore.backend import Backend
from k3sd.datastore.mvcc import LAST_KEY
from tests.support.datastore_servers import Server

EMBEDDED = ["memory", "sqlite"]
DRIVERS = [*EMBEDDED, "postgres", "mariadb", "etcd", "face"]

_numbers = itertools.count()


class Harness:
    """``durable`` stores keep their content over ``reopen``; ``exact`` ones have no other revisions than the test's own."""

    def __init__(self, driver: str, data_dir: Path, server: Server | None = None) -> None:
        self.driver = driver
        self.data_dir = data_dir
        self.durable = driver != "memory"
        self.ascii_only = driver == "mariadb"
        self.server = server
        self.endpoint = {"memory": "memory", "sqlite": ""}.get(driver, "")
        if server is not None:
            self.endpoint = server.endpoint.format(db=f"k3sd{next(_numbers)}")
        self._open: list[Backend] = []
        self._behind: list[Any] = []

    async def open(self) -> Backend:
        if self.driver == "face":
            await self._serve()
        backend = open_backend(self.endpoint, data_dir=self.data_dir, patience_seconds=5)
        await backend.start()
        if self.driver == "etcd" and not self._open:  # it has one key space for all tests
            for kv in (await backend.list("\0", LAST_KEY, keys_only=True)).kvs:
                await backend.delete(kv.key)
        self._open.append(backend)
        return backend

    async def _serve(self) -> None:
        """The etcd face over SQLite; the etcd driver is its client."""
        from k3sd.etcdface.server import EtcdFace

        behind = open_backend("", data_dir=self.data_dir)
        await behind.start()
        with tempfile.NamedTemporaryFile(prefix="k3sd-face-") as name:
            self.endpoint = f"unix://{name.name}"
        face = EtcdFace(behind, self.endpoint)
        await face.start()
        self._behind = [face, behind]

    async def reopen(self, backend: Backend) -> Backend:
        await backend.stop()
        await self._end()
        return await self.open()

    async def _end(self) -> None:
        for part in self._behind:
            await part.stop()
        self._behind = []

    async def close(self) -> None:
        for backend in self._open:
            await backend.stop()
        await self._end()
