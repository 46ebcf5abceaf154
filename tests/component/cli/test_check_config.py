"""check-config on the real kernel: what it tries leaves no trace, and what is missing is told."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest

from k3sd.cli import check_config

ROOT = Path(__file__).resolve().parents[3]

pytestmark = pytest.mark.root


def links() -> list[str]:
    return [name for _, name in socket.if_nameindex()]


def test_kernel_networking_is_tried_without_a_trace() -> None:
    before = links(), Path("/proc/self/mounts").read_text()
    found = {finding.what: finding for finding in check_config.check_network()}
    assert set(found) == {"veth", "bridge", "vxlan", "nftables"}
    assert {finding.state for finding in found.values()} == {"good"}, found
    assert (links(), Path("/proc/self/mounts").read_text()) == before


def test_an_overlay_on_the_data_directory_is_tried(tmp_path: Path) -> None:
    before = Path("/proc/self/mounts").read_text()
    overlay = check_config.in_own_namespace(lambda: check_config._try_overlay(tmp_path))
    assert overlay == ""
    assert list(tmp_path.iterdir()) == []
    assert Path("/proc/self/mounts").read_text() == before


def test_a_failure_in_the_namespace_is_told() -> None:
    assert check_config.in_own_namespace(lambda: f"seen {len(links())} link") == "seen 1 link"

    def fail() -> str:
        raise OSError("no such kernel feature")

    assert check_config.in_own_namespace(fail) == "no such kernel feature"


def test_the_command_ends_with_a_verdict(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(f"node-ip: 192.0.2.1\ndata-dir: {tmp_path}\n")
    command = ["unshare", "-n", "/usr/bin/python3", "-m", "k3sd", "check-config"]
    environ = os.environ | {"K3S_CONFIG_FILE": str(config)}
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    assert done.stdout.rstrip().endswith("k3sd can run here"), done.stdout + done.stderr
    assert done.returncode == 0
    config.write_text("node-ip: nonsense\n")
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    assert "[FAIL]" in done.stdout and "which is no address" in done.stdout
    assert done.returncode == 1
