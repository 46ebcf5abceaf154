"""One server for the tests of a module, on a machine of its own, with the sample image imported."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support import kubectl
from tests.support.machine import ROOT, Machine, Server


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A running server whose node is Ready; `k3sd killall` ends it."""
    number = 30 + hash(request.module.__name__) % 200
    machine = Machine(tmp_path_factory.mktemp("machine"), f"192.0.2.{number}")
    it = Server(machine)
    try:
        images = machine.base / "1" / "k3s" / "agent" / "images"
        images.mkdir(parents=True)
        subprocess.run(
            [sys.executable, ROOT / "docs/examples/web/build_image.py", "/bin/busybox", images / "web.tar"], check=True
        )
        it.start()
        it.wait_ready()
        yield it
    finally:
        it.stop()
        machine.run([sys.executable, "-m", "k3sd", "killall"], check=False)
        machine.close()


@pytest.fixture(scope="module", params=kubectl.find(), ids=kubectl.name)
def kubectl_program(request: pytest.FixtureRequest) -> str:
    return str(request.param)
