"""``make run`` and ``make stop`` as the README gives them, in a Debian 12 root, with systemd and without.

Packages are installed before, through the same script, because the machine has no way to the internet once it runs.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.machine import ROOT, Machine, directory_on_disk, listed_packages, make_root, needs_machines, run, start

FRESH = ["git", "make", "sudo", "ca-certificates", "iproute2", "procps", "nftables"]
RUN_SECONDS = 240

pytestmark = needs_machines


def checkout(target: Path) -> None:
    """The tree as it is, without what git ignores."""
    listed = run("git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    subprocess.run(
        ["tar", "-c", "--null", "-C", ROOT, "-T", "-", "-f", "-", "--ignore-failed-read"],
        input=listed.encode(),
        stdout=(archive := target.with_suffix(".tar")).open("wb"),
        stderr=subprocess.DEVNULL,
        check=False,
    )
    target.mkdir()
    run("tar", "-x", "-f", archive, "-C", target)
    archive.unlink()


@pytest.fixture(scope="module", params=["systemd", "no-systemd"])
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    with directory_on_disk() as directory:
        root = directory / "root"
        make_root(root, [*FRESH, "systemd-sysv", "dbus", *listed_packages("run", "demo")])
        checkout(root / "srv/k3sd")
        with start(root, directory / "console", boot=request.param == "systemd") as running:
            yield running


def test_make_run_shows_the_sample_application_and_make_stop_removes_it(machine: Machine) -> None:
    before = {what: machine.call(what) for what in ("ip -o link", "nft list ruleset", "cat /proc/mounts")}
    out = machine.call("cd /srv/k3sd && sudo make run 2>&1", timeout=RUN_SECONDS)
    print(out)
    assert "node1 is Ready" in out
    assert out.count("Hello from web-") == 3
    assert "sudo make stop" in out
    again = machine.call("cd /srv/k3sd && sudo make run 2>&1", timeout=RUN_SECONDS)
    assert "the server is already running" in again
    machine.call("cd /srv/k3sd && sudo make stop 2>&1", timeout=120)
    assert machine.try_call("pgrep -a 'k3sd|containerd-shim|httpd|catatonit'").stdout == ""
    for what, text in before.items():
        assert machine.call(what) == text, what
