"""What the machine lacks, from the texts of /proc and from sockets of our own."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from k3sd.config import preflight
from k3sd.config.settings import Settings

V1 = "cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0\ncgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n"
UNIFIED = "cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n"


@pytest.mark.parametrize(
    ("mounts", "version", "place"),
    [
        ("cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n", 2, "/sys/fs/cgroup"),
        (V1 + UNIFIED, 1, "/sys/fs/cgroup/memory"),
        (UNIFIED + V1, 1, "/sys/fs/cgroup/memory"),
        ("tmpfs /sys/fs/cgroup tmpfs rw 0 0\n", 0, None),
    ],
)
def test_cgroup_version(mounts: str, version: int, place: str | None) -> None:
    found, where = preflight.cgroup_root(mounts)
    assert found == version
    assert (where.get("") if version == 2 else where.get("memory")) == place


@pytest.mark.parametrize(
    ("mask", "missing"), [(0, ["CAP_NET_ADMIN", "CAP_SYS_ADMIN"]), (1 << 12, ["CAP_SYS_ADMIN"]), (1 << 12 | 1 << 21, [])]
)
def test_capabilities(mask: int, missing: list[str]) -> None:
    assert [name for problem in preflight.check_capabilities(mask) for name in missing if name in problem.what] == missing


def test_a_port_in_use_names_the_process() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert preflight.port_owner(port) == f"{Path('/proc/self/comm').read_text().strip()} (pid {os.getpid()})"
        # What this process has open already is inherited, not in the way.
        settings = Settings(bind_address="127.0.0.1", https_listen_port=port, disable_agent=True)
        assert list(preflight.check_ports(settings)) == []
        os_view = preflight._is_inherited
        try:
            preflight._is_inherited = lambda port: False
            (problem,) = preflight.check_ports(settings)
        finally:
            preflight._is_inherited = os_view
        assert str(problem) == (
            f"port {port}: is in use by {preflight.port_owner(port)}; stop it, or choose another port with --https-listen-port"
        )


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM], ids=["udp", "tcp"])
def test_a_name_server_on_every_address_is_in_the_way(kind: socket.SocketKind, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(type=kind) as server:
        server.bind(("0.0.0.0", 0))
        if kind == socket.SOCK_STREAM:
            server.listen()
        port = server.getsockname()[1]
        monkeypatch.setattr(preflight, "DNS_PORT", port)
        monkeypatch.setattr(preflight, "STREAM_PORT", 0)
        (problem,) = preflight.check_node_ports(Settings(cluster_dns="198.51.100.10"))
        owner = preflight.port_owner(port, udp=kind == socket.SOCK_DGRAM)
        assert owner.endswith(f"(pid {os.getpid()})")
        assert str(problem) == (
            f"port {port}: is in use on every address by {owner}, so that the cluster DNS cannot have it on 198.51.100.10;"
            " stop it, or let it listen on the host's own addresses only (dnsmasq: bind-interfaces)"
        )


def test_who_else_has_containerds_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "DNS_PORT", 0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setattr(preflight, "STREAM_PORT", port)
        (problem,) = preflight.check_node_ports(Settings(cluster_dns="127.0.0.1"))
        assert str(problem) == f"port {port}: is in use by {preflight.port_owner(port)}; stop it; containerd needs the port"
        assert list(preflight.check_node_ports(Settings(cluster_dns="127.0.0.1", container_runtime_endpoint="/x"))) == []
        monkeypatch.setattr(preflight, "port_owner", lambda port: "containerd (pid 7)")
        assert list(preflight.check_node_ports(Settings(cluster_dns="127.0.0.1"))) == []


def test_an_address_of_another_machine() -> None:
    (problem,) = preflight.check_ports(Settings(bind_address="192.0.2.77", https_listen_port=1, disable_agent=True))
    assert str(problem) == "address 192.0.2.77: cannot be bound: Cannot assign requested address; correct --bind-address"


def test_missing_programs_name_their_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "find_program", lambda name: None if name in ("containerd", "runc") else f"/usr/bin/{name}")
    monkeypatch.setattr(preflight, "install", lambda package: f"run: apt install {package[0]}")
    found = [str(problem) for problem in preflight.check_programs(Settings())]
    assert "containerd: is not installed; run: apt install containerd" in found
    assert "runc: is not installed; run: apt install runc" in found


def test_an_external_runtime_needs_its_socket_and_no_containerd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "find_program", lambda name: None if name == "containerd" else f"/usr/bin/{name}")
    (problem,) = preflight.check_programs(Settings(container_runtime_endpoint="unix:///proc/no-such.sock"))
    assert str(problem).startswith("/proc/no-such.sock: is not a socket; start the container runtime")


def test_missing_cni_plugins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "bridge").touch()
    monkeypatch.setattr(preflight, "CNI_PLUGIN_DIRS", (tmp_path,))
    (problem,) = preflight.check_cni()
    assert f"no plugin host-local, loopback, portmap in {tmp_path}" in str(problem)


def test_the_memory_controllers_remedy_names_file_and_words(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"/boot/firmware/cmdline.txt"}
    monkeypatch.setattr(Path, "is_file", lambda self: str(self) in files)
    text = "append cgroup_enable=memory cgroup_memory=1 to the one line of /boot/firmware/cmdline.txt and reboot"
    assert preflight.controller_remedy("memory") == text
    files.clear()
    files.add("/etc/default/grub")
    assert "GRUB_CMDLINE_LINUX in /etc/default/grub" in preflight.controller_remedy("memory")


def test_a_kernel_without_nftables() -> None:
    assert list(preflight.check_nftables()) == []
    (problem,) = preflight.check_nftables(subsystem=100)  # none has that number
    assert str(problem) == (
        "kernel: has no nftables (Invalid argument); load it with: modprobe nf_tables, or boot a kernel with CONFIG_NF_TABLES"
    )


def test_not_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    (problem,) = preflight.check(Settings()).problems
    assert str(problem) == "k3sd: is not running as root; start it with sudo, or with systemctl start k3sd-server"


def test_protected_kernel_defaults_are_demanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "_KERNEL_DEFAULTS", {"kernel/ostype": "Plan 9"})
    (problem,) = preflight.check_kernel_defaults()
    assert "kernel.ostype is Linux, and protect-kernel-defaults demands Plan 9" in str(problem)


def test_a_socket_unit_on_another_port_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("LISTEN_FDS", "1")
        monkeypatch.setenv("LISTEN_FDNAMES", "apiserver")
        monkeypatch.setattr(
            os, "dup", lambda descriptor, real=os.dup: real(server.fileno()) if descriptor == 3 else real(descriptor)
        )
        port = server.getsockname()[1]
        assert list(preflight.check_inherited(port)) == []
        (problem,) = preflight.check_inherited(port + 1)
        assert f"listens on port {port}, but https-listen-port is {port + 1}" in str(problem)
