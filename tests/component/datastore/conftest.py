"""The contract suite's fixtures: a store of every driver."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from datastore_harness import DRIVERS, Harness, harness_for

from k3sd.datastore.backend import Backend


@pytest.fixture(params=DRIVERS)
async def harness(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Harness]:
    harness = harness_for(request.param, tmp_path)
    yield harness
    await harness.close()


@pytest.fixture
async def store(harness: Harness) -> Backend:
    return await harness.open()
