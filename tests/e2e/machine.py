"""Debian 12 machines for end-to-end tests: roots from mmdebstrap, run by systemd-nspawn."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ADDRESS = "192.0.2.10"
CACHE = Path("/var/cache/k3sd-tests")
DISK = Path("/var/tmp")
"""For roots. /tmp may be a small file system in memory, without devices and so full that a node evicts its pods."""
BOOT_SECONDS = 60
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HOME": "/root"}

_OWN_CGROUPS = """
for c in /sys/fs/cgroup /sys/fs/cgroup/*; do
    [ -e $c/cgroup.procs ] && mkdir -p $c/$0 || continue
    for f in cpuset.cpus cpuset.mems; do [ ! -w $c/$0/$f ] || cat $c/$f >$c/$0/$f; done
    echo $$ >$c/$0/cgroup.procs
done
exec "$@"
"""
"""Control groups of its own for a machine: with cgroup v1 it would share those of pods with every other node on this host."""

needs_machines = [
    pytest.mark.root,
    pytest.mark.skipif(shutil.which("mmdebstrap") is None, reason="mmdebstrap is not installed; make test installs it"),
    pytest.mark.skipif(
        shutil.which("systemd-nspawn") is None, reason="systemd-container is not installed; make test installs it"
    ),
]


def run(*command: str | Path, timeout: float = 600) -> str:
    """Standard output of a command that must succeed."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout


def listed_packages(*kinds: str) -> list[str]:
    """Names from scripts/packages.txt."""
    rows = [line.split() for line in (ROOT / "scripts/packages.txt").read_text().splitlines() if not line.startswith("#")]
    return [name for kind, name in rows if kind in kinds]


@contextlib.contextmanager
def directory_on_disk() -> Iterator[Path]:
    """A temporary directory with room for a root."""
    directory = Path(tempfile.mkdtemp(prefix="k3sd-test-", dir=DISK))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def make_root(directory: Path, packages: Sequence[str]) -> None:
    """Unpack a Debian with ``packages``; the archive is made once for each set of packages.

    K3SD_TEST_SUITE names another release than Debian 12, trixie for one.
    """
    included = ",".join(packages)
    suite = os.environ.get("K3SD_TEST_SUITE", "bookworm")
    name = f"{suite}-{hashlib.sha256(included.encode()).hexdigest()[:12]}.tar"
    cached = CACHE / name
    if not cached.exists():
        CACHE.mkdir(exist_ok=True)
        part = cached.with_suffix(f".{os.getpid()}.tar")
        environ = ["env", f"TMPDIR={DISK}"]
        run(*environ, "mmdebstrap", "--quiet", "--variant=minbase", f"--include={included}", suite, part, timeout=900)
        part.rename(cached)
    directory.mkdir()
    run("tar", "-x", "-f", cached, "-C", directory)
    (directory / "etc/hostname").write_text("node1\n")
    (directory / "etc/hosts").write_text("127.0.0.1 localhost\n127.0.1.1 node1\n")


class Machine:
    """A running root. ``call`` runs a command in all of its namespaces."""

    def __init__(self, nspawn: subprocess.Popen[bytes], console: Path) -> None:
        self.nspawn = nspawn
        self.console = console
        self.leader = 0

    def find_leader(self) -> bool:
        """The process that is number 1 in there."""
        for child in Path(f"/proc/{self.nspawn.pid}/task/{self.nspawn.pid}/children").read_text().split():
            with contextlib.suppress(OSError):
                if re.search(r"^NSpid:.*\t1$", Path(f"/proc/{child}/status").read_text(), re.MULTILINE):
                    self.leader = int(child)
        return self.leader > 0

    def try_call(self, script: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        command = ["nsenter", "-t", str(self.leader), "-a", "sh", "-c", script]
        environ = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
        return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=timeout, check=False)

    def call(self, script: str, timeout: float = 120) -> str:
        try:
            done = self.try_call(script, timeout)
        except subprocess.TimeoutExpired:
            pytest.fail(f"{script}: not done after {timeout} s\n{self.journal()}")
        assert done.returncode == 0, f"{script}: {done.stdout[-3000:]}{done.stderr[-3000:]}\n{self.journal()}"
        return done.stdout.strip()

    def journal(self) -> str:
        return self.try_call("journalctl -u k3sd-server --no-pager -n 60").stdout

    def wait(self, what: str, seconds: float, condition: Callable[[], bool]) -> None:
        until = time.monotonic() + seconds
        while not condition():
            assert self.nspawn.poll() is None, f"the machine ended: {self.console.read_text()[-2000:]}"
            assert time.monotonic() < until, f"{what} not within {seconds} s\n{self.journal()}"
            time.sleep(0.25)

    def answers(self, script: str, pattern: str) -> Callable[[], bool]:
        return lambda: re.search(pattern, self.try_call(script).stdout, re.MULTILINE) is not None


@contextlib.contextmanager
def start(root: Path, console: Path, boot: bool = True) -> Iterator[Machine]:
    """Run a root with a network of its own: with systemd, or with a mere init that only waits."""
    command = ["sh", "-c", _OWN_CGROUPS, f"k3sd-test-{os.getpid()}"]
    command += [
        "systemd-nspawn",
        "-D",
        str(root),
        "--register=no",
        "--keep-unit",
        "--private-network",
        "--capability=all",
        "--hostname=node1",
    ]
    command += ["--system-call-filter=@keyring bpf"]
    command += ["--boot"] if boot else ["--as-pid2", "sleep", "infinity"]
    environ = {**os.environ, "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "1"}
    with console.open("wb") as log:
        nspawn = subprocess.Popen(
            command, env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    machine = Machine(nspawn, console)
    try:
        machine.wait("the first process", BOOT_SECONDS, machine.find_leader)
        ready = ("systemctl is-system-running", "running|degraded") if boot else ("pgrep -x sleep", "[0-9]")
        machine.wait("boot", BOOT_SECONDS, machine.answers(*ready))
        machine.call("for c in /sys/fs/cgroup/*/; do mount -o remount,bind,rw $c; done")
        # A private network has loopback only: give the machine an address and no default route.
        machine.call(f"ip link add k3s0 type veth peer name k3s1 && ip addr add {ADDRESS}/24 dev k3s0")
        machine.call("ip link set k3s0 up && ip link set k3s1 up")
        yield machine
    finally:
        with contextlib.suppress(ProcessLookupError):
            nspawn.send_signal(signal.SIGTERM)
        try:
            nspawn.wait(30)
        except subprocess.TimeoutExpired:
            nspawn.kill()
            nspawn.wait()
        remove_cgroups(f"k3sd-test-{os.getpid()}")


def remove_cgroups(name: str) -> None:
    """What ``_OWN_CGROUPS`` made, with everything the machine made below."""
    for top in (*Path("/sys/fs/cgroup").glob(name), *Path("/sys/fs/cgroup").glob(f"*/{name}")):
        for directory, _, _ in os.walk(top, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(directory)
