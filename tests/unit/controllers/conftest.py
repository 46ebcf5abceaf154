from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fakes.clock import VirtualLoop


@pytest.fixture
def event_loop() -> Iterator[VirtualLoop]:
    loop = VirtualLoop()
    yield loop
    loop.close()
