"""One server for the tests of a module, on a machine of its own, with the sample image imported."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

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


def find_kubectl() -> list[str]:
    """Every kubectl there is: the one in PATH and Debian's own, unpacked if another one is installed."""
    found = [path] if (path := shutil.which("kubectl")) else []
    debian = unpack_debian_kubectl()
    return found + ([debian] if debian and debian not in found else [])


def unpack_debian_kubectl() -> str:
    """Debian's kubernetes-client without installing it over another kubectl; "" where the archive cannot be reached."""
    if shutil.which("dpkg") is None:
        return ""
    owner = subprocess.run(["dpkg", "-s", "kubernetes-client"], capture_output=True, text=True, check=False)
    if owner.returncode == 0:
        return ""
    cache = Path("/var/cache/k3sd-tests")
    program = cache / "usr/bin/kubectl"
    if not program.exists():
        cache.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(["apt-get", "-q", "download", "kubernetes-client"], cwd=cache, capture_output=True, check=False)
        packages = sorted(cache.glob("kubernetes-client_*.deb"))
        if done.returncode or not packages:
            return ""
        subprocess.run(["dpkg-deb", "-x", packages[-1], cache], check=True)
    return str(program)


def kubectl_version(program: str) -> str:
    """A test id such as ``kubectl-1.20``."""
    out = subprocess.run([program, "version", "--client", "-o", "json"], capture_output=True, text=True, check=False).stdout
    found = re.search(r'"gitVersion": "v(\d+\.\d+)', out)
    return f"kubectl-{found[1] if found else program}"


@pytest.fixture(scope="module", params=find_kubectl(), ids=kubectl_version)
def kubectl_program(request: pytest.FixtureRequest) -> str:
    return str(request.param)
