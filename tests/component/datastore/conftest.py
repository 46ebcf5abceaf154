"""The contract suite's fixtures: a store of every driver, the servers they need."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from datastore_harness import DRIVERS, Harness

from k3sd.datastore.backend import Backend
from tests.support.datastore_servers import SERVERS, Server


@pytest.fixture(scope="session")
def database_server() -> Iterator[Callable[[str], Server | None]]:
    """``server(driver)`` starts the driver's server on first use; None for drivers without one."""
    running: dict[str, Server] = {}
    with ExitStack() as stack:

        def server(driver: str) -> Server | None:
            if driver in SERVERS and driver not in running:
                running[driver] = stack.enter_context(SERVERS[driver]())
            return running.get(driver)

        yield server


@pytest.fixture(params=DRIVERS)
async def harness(
    request: pytest.FixtureRequest, tmp_path: Path, database_server: Callable[[str], Server | None]
) -> AsyncIterator[Harness]:
    harness = Harness(request.param, tmp_path, database_server(request.param))
    yield harness
    await harness.close()


@pytest.fixture
async def store(harness: Harness) -> Backend:
    return await harness.open()
