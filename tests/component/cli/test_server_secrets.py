"""Secrets among a server's flags: used, and not to be seen in the process list."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from k3sd.config.options import OPTIONS
from k3sd.server import SECRET_FLAGS
from tests.support.machine import ROOT, wait_for

pytestmark = pytest.mark.root


def test_every_secret_option_is_hidden() -> None:
    assert {name for o in OPTIONS if o.secret for name in (o.name, o.short) if name} == SECRET_FLAGS


def command_lines(parent: int) -> list[str]:
    """The command line of a process and of everything below it."""
    found = [Path(f"/proc/{parent}/cmdline").read_bytes().decode().replace("\0", " ").strip()]
    for children in Path(f"/proc/{parent}/task").glob("*/children"):
        for child in children.read_text().split():
            found += command_lines(int(child))
    return found


def test_a_token_on_the_command_line_is_used_and_not_shown(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(f"data-dir: {tmp_path}/data\nnode-ip: 192.0.2.10\nwrite-kubeconfig: {tmp_path}/k3s.yaml\n")
    log = tmp_path / "log"
    flags = "--disable-agent --token=mysecretword --datastore-endpoint=memory"
    script = f"ip link set lo up; mount -t tmpfs none /run; exec {sys.executable} -m k3sd server {flags}"
    with log.open("w") as out:
        process = subprocess.Popen(
            ["unshare", "-nm", "sh", "-c", script],
            cwd=ROOT,
            env=os.environ | {"K3S_CONFIG_FILE": str(config)},
            stdout=out,
            stderr=out,
        )
    try:
        wait_for(lambda: "k3sd: ready" in log.read_text() or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        lines = command_lines(process.pid)
        assert lines[0].endswith("-m k3sd server") and any("_control-plane" in line for line in lines)
        assert not any("mysecretword" in line for line in lines)
        assert "mysecretword" not in log.read_text()
        assert (tmp_path / "data/server/token").read_text().endswith("::server:mysecretword\n")
    finally:
        process.terminate()
        assert process.wait(30) == 0
