"""One harness a driver: opens a fresh store and opens the same one again."""

from __future__ import annotations

from pathlib import Path

from k3sd.datastore import open_backend
from k3sd.datastore.backend import Backend

DRIVERS = ["memory", "sqlite"]


class Harness:
    """``durable`` stores keep their content over ``reopen``."""

    def __init__(self, endpoint: str, data_dir: Path, durable: bool) -> None:
        self.endpoint = endpoint
        self.data_dir = data_dir
        self.durable = durable
        self._open: list[Backend] = []

    async def open(self) -> Backend:
        backend = open_backend(self.endpoint, data_dir=self.data_dir)
        await backend.start()
        self._open.append(backend)
        return backend

    async def reopen(self, backend: Backend) -> Backend:
        await backend.stop()
        return await self.open()

    async def close(self) -> None:
        for backend in self._open:
            await backend.stop()


def harness_for(driver: str, data_dir: Path) -> Harness:
    return Harness("memory" if driver == "memory" else "", data_dir, driver != "memory")
