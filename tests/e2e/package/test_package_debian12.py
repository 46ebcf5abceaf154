"""The Debian package in a Debian 12 root booted by systemd-nspawn: install, enable, READY, the sample, upgrade, purge.

The root is made once by mmdebstrap with everything the package depends on, and kept in the temporary directory; apt then
installs the package from its file and checks its dependencies itself.
"""

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
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
ADDRESS = "192.0.2.10"
BASE = ["systemd-sysv", "dbus", "iproute2", "kmod", "procps", "nftables", "kubernetes-client", "busybox-static"]
BOOT_SECONDS = 60
READY_SECONDS = 60
PODS_SECONDS = 90

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(shutil.which("mmdebstrap") is None, reason="mmdebstrap is not installed; make test installs it"),
    pytest.mark.skipif(
        shutil.which("systemd-nspawn") is None, reason="systemd-container is not installed; make test installs it"
    ),
]


def run(*command: str | Path, timeout: float = 600) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout


def dependencies() -> list[str]:
    lines = (ROOT / "scripts/packages.txt").read_text().splitlines()
    return [line.split()[1] for line in lines if line.startswith("run ")]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("deb")
    run("sh", ROOT / "scripts/build-deb.sh", out)
    (found,) = out.glob("*.deb")
    return found


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, package: Path) -> Iterator[Path]:
    included = ",".join([*BASE, *dependencies()])
    name = f"debian12-{hashlib.sha256(included.encode()).hexdigest()[:12]}.tar"
    cached = Path(tempfile.gettempdir()) / "k3sd-test-cache" / name
    if not cached.exists():
        cached.parent.mkdir(mode=0o700, exist_ok=True)
        part = cached.with_suffix(".part.tar")
        run(
            "mmdebstrap",
            "--quiet",
            "--variant=minbase",
            f"--include={included}",
            "bookworm",
            part,
            timeout=900,
        )
        part.rename(cached)
    directory = tmp_path_factory.mktemp("machine") / "root"
    directory.mkdir()
    run("tar", "-x", "-f", cached, "-C", directory)
    (directory / "etc/hostname").write_text("node1\n")
    # The distribution's own containerd is not the one k3sd runs.
    (directory / "etc/systemd/system/containerd.service").symlink_to("/dev/null")
    shutil.copy(package, directory / "root" / package.name)
    run("chroot", directory, "apt-get", "-q", "-y", "install", f"/root/{package.name}")
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


class Machine:
    """A booted root. ``call`` runs a command in all of its namespaces."""

    def __init__(self, nspawn: subprocess.Popen[bytes], console: Path) -> None:
        self.nspawn = nspawn
        self.console = console
        self.leader = 0

    def find_leader(self) -> bool:
        children = Path(f"/proc/{self.nspawn.pid}/task/{self.nspawn.pid}/children").read_text().split()
        self.leader = int(children[0]) if children else 0
        return self.leader > 0

    def try_call(self, script: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        command = ["nsenter", "-t", str(self.leader), "-a", "sh", "-c", script]
        environ = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
        return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=timeout, check=False)

    def call(self, script: str, timeout: float = 120) -> str:
        done = self.try_call(script, timeout)
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


@pytest.fixture(scope="module")
def machine(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    console = tmp_path_factory.mktemp("console") / "log"
    command = ["systemd-nspawn", "-D", str(root), "--boot", "--register=no", "--keep-unit", "--private-network"]
    command += ["--capability=all", "--system-call-filter=@keyring bpf"]
    environ = {**os.environ, "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "1"}
    with console.open("wb") as log:
        nspawn = subprocess.Popen(
            command, env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    booted = Machine(nspawn, console)
    try:
        booted.wait("systemd", BOOT_SECONDS, booted.find_leader)
        booted.wait("boot", BOOT_SECONDS, booted.answers("systemctl is-system-running", "running|degraded"))
        booted.call("for c in /sys/fs/cgroup/*/; do mount -o remount,bind,rw $c; done")
        # A private network has loopback only: give the machine an address and no default route.
        booted.call(f"ip link add k3s0 type veth peer name k3s1 && ip addr add {ADDRESS}/24 dev k3s0")
        booted.call("ip link set k3s0 up && ip link set k3s1 up && sysctl -qw net.ipv4.ip_forward=1")
        yield booted
    finally:
        with contextlib.suppress(ProcessLookupError):
            nspawn.send_signal(signal.SIGTERM)
        try:
            nspawn.wait(30)
        except subprocess.TimeoutExpired:
            nspawn.kill()
            nspawn.wait()


def test_the_installed_package_is_dormant_and_complete(machine: Machine) -> None:
    assert machine.call("k3sd --version").startswith("k3sd version")
    states = machine.try_call("systemctl is-enabled k3sd-server.service k3sd-server.socket k3sd-agent.service").stdout.split()
    assert states == ["disabled"] * 3
    assert machine.try_call("ss -Hltn sport = :6443").stdout == ""
    assert machine.call("getent passwd _k3sd")
    assert machine.try_call("k3sd check-config").returncode == 0
    assert (
        machine.call(
            "systemd-analyze verify k3sd-server.service k3sd-agent.service k3sd-server.socket k3sd-agent.socket 2>&1 || true"
        )
        == ""
    )


def test_enable_and_run_the_sample_application(machine: Machine) -> None:
    began = time.monotonic()
    machine.call("systemctl enable --now k3sd-server", timeout=READY_SECONDS)
    print(f"READY after {time.monotonic() - began:.1f} s")
    assert machine.call("systemctl show -p StatusText --value k3sd-server")
    machine.wait("node", READY_SECONDS, machine.answers("k3sd kubectl get nodes --no-headers", r"^node1 +Ready "))
    examples = "/usr/share/doc/k3sd/examples/web"
    machine.call(f"/usr/bin/python3 {examples}/build_image.py /bin/busybox /var/lib/rancher/k3s/agent/images/web.tar")
    machine.wait("image", 60, machine.answers("k3sd ctr images list -q", "^docker.io/library/web:1$"))
    machine.call(f"k3sd kubectl apply -f {examples}/web.yaml")
    machine.call(f"k3sd kubectl rollout status deployment/web --timeout={PODS_SECONDS}s", timeout=PODS_SECONDS + 30)
    assert page(machine).startswith("Hello from web-")
    assert "web" in machine.call("k3sd kubectl exec deployment/web -- hostname")


def page(machine: Machine) -> str:
    address = machine.call("k3sd kubectl get service web -o 'jsonpath={.spec.clusterIP}'")
    return machine.call(f"/bin/busybox wget -T 10 -q -O - http://{address}/")


def restarts(machine: Machine) -> str:
    path = '{range .items[*]}{.metadata.uid} {.status.containerStatuses[0].containerID}{"\\n"}{end}'
    return machine.call(f"k3sd kubectl get pods -l app=web --sort-by=.metadata.name -o 'jsonpath={path}'")


def test_restart_and_reinstall_leave_pods_running(machine: Machine, package: Path) -> None:
    before = restarts(machine)
    machine.call("systemctl restart k3sd-server", timeout=READY_SECONDS)
    assert restarts(machine) == before
    pid = machine.call("systemctl show -p MainPID --value k3sd-server")
    machine.call(f"apt-get -q -y --reinstall install /root/{package.name}")
    assert machine.call("systemctl show -p MainPID --value k3sd-server") == pid
    assert page(machine).startswith("Hello from web-")


def test_stop_leaves_pods_and_start_takes_them_over(machine: Machine) -> None:
    before = restarts(machine)
    machine.call("systemctl stop k3sd-server.socket k3sd-server.service", timeout=100)
    assert machine.call("pgrep -c httpd") == "2"
    assert machine.call("systemctl show -p Result --value k3sd-server") == "success"
    machine.call("systemctl start k3sd-server", timeout=READY_SECONDS)
    machine.wait("node", READY_SECONDS, machine.answers("k3sd kubectl get nodes --no-headers", r"^node1 +Ready "))
    assert restarts(machine) == before


def test_purge_leaves_nothing(machine: Machine) -> None:
    machine.call("DEBIAN_FRONTEND=noninteractive apt-get -q -y purge k3sd", timeout=200)
    assert machine.try_call("pgrep -a 'containerd|httpd|catatonit'").stdout == ""
    assert machine.try_call("ls -d /var/lib/rancher /etc/rancher /run/k3s /usr/share/k3sd").stdout == ""
    assert machine.try_call("mount | grep -E 'kubelet|rancher|cni-|/run/k3s'").stdout == ""
    assert machine.call("nft list tables") == ""
    links = machine.call("ip -o link show")
    assert not re.search(r"cni0|flannel|veth", links.replace("k3s0@k3s1", "").replace("k3s1@k3s0", ""))
    assert machine.try_call("systemctl list-unit-files 'k3sd*' --no-legend").stdout == ""
