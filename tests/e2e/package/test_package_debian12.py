"""The Debian package in a Debian 12 root booted by systemd-nspawn: install, enable, READY, the sample, upgrade, purge.

The root has everything the package depends on already; apt installs the package from its file and checks its dependencies.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.machine import ROOT, Machine, directory_on_disk, listed_packages, make_root, needs_machines, run, start

BASE = ["systemd-sysv", "dbus", "iproute2", "kmod", "procps", "nftables", "kubernetes-client", "busybox-static"]
READY_SECONDS = 60
PODS_SECONDS = 90

pytestmark = needs_machines


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("deb")
    run("sh", ROOT / "scripts/build-deb.sh", out)
    (found,) = out.glob("*.deb")
    return found


@pytest.fixture(scope="module")
def machine(package: Path) -> Iterator[Machine]:
    with directory_on_disk() as directory:
        root = directory / "root"
        make_root(root, [*BASE, *listed_packages("run")])
        # The distribution's own containerd is not the one k3sd runs.
        (root / "etc/systemd/system/containerd.service").symlink_to("/dev/null")
        shutil.copy(package, root / "root" / package.name)
        run("chroot", root, "apt-get", "-q", "-y", "install", f"/root/{package.name}")
        with start(root, directory / "console") as booted:
            yield booted


def test_the_installed_package_is_dormant_and_complete(machine: Machine) -> None:
    assert machine.call("k3sd --version").startswith("k3sd version")
    states = machine.try_call("systemctl is-enabled k3sd-server.service k3sd-server.socket k3sd-agent.service").stdout.split()
    assert states == ["disabled"] * 3
    assert machine.try_call("ss -Hltn sport = :6443").stdout == ""
    assert machine.call("getent passwd _k3sd")
    assert machine.try_call("k3sd check-config").returncode == 0
    units = " ".join(f"k3sd-{role}.{kind}" for role in ("server", "agent") for kind in ("service", "socket"))
    assert machine.call(f"systemd-analyze verify --man=no {units} 2>&1") == ""


def test_enable_and_run_the_sample_application(machine: Machine) -> None:
    examples = "/usr/share/doc/k3sd/examples/web"
    machine.call(f"/usr/bin/python3 {examples}/build_image.py /bin/busybox /var/lib/rancher/k3s/agent/images/web.tar")
    began = time.monotonic()
    machine.call("systemctl enable --now k3sd-server", timeout=READY_SECONDS)
    print(f"READY after {time.monotonic() - began:.1f} s")
    assert machine.call("systemctl show -p StatusText --value k3sd-server")
    machine.wait("node", READY_SECONDS, machine.answers("k3sd kubectl get nodes --no-headers", r"^node1 +Ready "))
    machine.call(f"k3sd kubectl apply -f {examples}/web.yaml")
    machine.call(f"k3sd kubectl rollout status deployment/web --timeout={PODS_SECONDS}s", timeout=PODS_SECONDS + 30)
    assert page(machine).startswith("Hello from web-")
    assert "web" in machine.call("k3sd kubectl exec deployment/web -- hostname")


def page(machine: Machine) -> str:
    address = machine.call("k3sd kubectl get service web -o 'jsonpath={.spec.clusterIP}'")
    code = f"import urllib.request as u; print(u.urlopen('http://{address}/', timeout=10).read().decode())"
    return machine.call(f'/usr/bin/python3 -c "{code}"')


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


def test_reload_reads_the_configuration_again(machine: Machine) -> None:
    before = restarts(machine)
    machine.call("mkdir -p /etc/rancher/k3s && echo 'node-label: [disk=ssd]' > /etc/rancher/k3s/config.yaml")
    pid = machine.call("systemctl show -p MainPID --value k3sd-server")
    machine.call("systemctl reload k3sd-server")
    machine.wait("label", READY_SECONDS, machine.answers("k3sd kubectl get nodes -l disk=ssd --no-headers", r"^node1 +Ready "))
    assert machine.call("systemctl show -p MainPID --value k3sd-server") == pid
    machine.call("echo 'node-labl: [disk=ssd]' > /etc/rancher/k3s/config.yaml")
    machine.call("systemctl reload k3sd-server")
    machine.wait("refusal", 30, lambda: "did you mean node-label?" in machine.journal())
    machine.call("rm /etc/rancher/k3s/config.yaml")
    assert page(machine).startswith("Hello from web-")
    assert restarts(machine) == before


def test_an_agent_leaves_a_running_server_alone(machine: Machine) -> None:
    machine.try_call("systemctl start k3sd-agent")
    assert machine.call("systemctl show -P ActiveState k3sd-agent") == "inactive"
    assert machine.call("systemctl show -P ActiveState k3sd-server") == "active"
    assert "with a node of its own" in machine.call("journalctl -u k3sd-agent --no-pager")
    machine.try_call("systemctl stop k3sd-agent.socket; systemctl reset-failed")


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
