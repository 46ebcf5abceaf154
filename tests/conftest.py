"""What every test has: this checkout first on the path, and unit tests that cannot start programs or reach the network."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
UNIT = ROOT / "tests" / "unit"
sys.path.insert(0, str(ROOT))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests marked ``root`` are skipped for ordinary users."""
    if os.geteuid() == 0:
        return
    skip = pytest.mark.skip(reason="needs root: run sudo make test")
    for item in items:
        if "root" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def _unit_tests_stay_inside(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A unit test is pure: no programs, no addresses but loopback. The marker ``spawns`` lifts this for checks of tools."""
    if UNIT not in request.path.parents or request.node.get_closest_marker("spawns"):
        return
    connect = socket.socket.connect

    def refuse_program(*args: object, **kwargs: object) -> None:
        raise AssertionError(f"a unit test starts a program: {args}")

    def local_only(self: socket.socket, address: object) -> None:
        host = address[0] if isinstance(address, tuple) else ""
        # Connecting a datagram socket sends nothing; it asks the kernel for a route.
        if self.type == socket.SOCK_STREAM and host not in ("", "127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"a unit test connects to {address}")
        connect(self, address)

    monkeypatch.setattr(subprocess, "Popen", refuse_program)
    monkeypatch.setattr(socket.socket, "connect", local_only)
