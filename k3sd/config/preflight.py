"""What this machine lacks for running k3sd, found before anything is changed. Reads ``/proc`` and ``/sys`` and opens nothing.

``check`` is cheap enough for every start; ``k3sd check-config`` tries the kernel's features for real.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from k3sd.config.paths import CNI_PLUGIN_DIRS
from k3sd.config.problem import Problem
from k3sd.config.settings import Settings

KUBELET_PORT = 10250
STREAM_PORT = 10010
"""Where containerd serves exec, attach and port-forward, on loopback."""
DNS_PORT = 53
_IP_FREEBIND = 15
_NETLINK_NETFILTER = 12
_NFTABLES, _GET_GENERATION = 10, 16
CNI_PLUGINS = ("bridge", "host-local", "loopback", "portmap")
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

PROGRAMS: dict[str, tuple[str, str]] = {
    "containerd": ("containerd", "containerd"),
    "containerd-shim-runc-v2": ("containerd", "containerd"),
    "runc": ("runc", "runc"),
    "catatonit": ("catatonit", "catatonit"),
    "iptables": ("iptables", "iptables-nft"),
    "setpriv": ("util-linux", "util-linux"),
}
"""Program to its package in Debian and in Fedora."""

MODULES: dict[str, tuple[str, str]] = {
    "aiohttp": ("python3-aiohttp", "python3-aiohttp"),
    "cryptography": ("python3-cryptography", "python3-cryptography"),
    "jwt": ("python3-jwt", "python3-jwt"),
    "uvloop": ("python3-uvloop", "python3-uvloop"),
}
NODE_MODULES: dict[str, tuple[str, str]] = {
    "grpc": ("python3-grpcio", "python3-grpcio"),
    "google.protobuf": ("python3-protobuf", "python3-protobuf"),
    "pyroute2": ("python3-pyroute2", "python3-pyroute2"),
    "nftables": ("python3-nftables", "python3-nftables"),
}
DATASTORE_MODULES: dict[str, tuple[str, tuple[str, str]]] = {
    "postgres": ("psycopg2", ("python3-psycopg2", "python3-psycopg2")),
    "postgresql": ("psycopg2", ("python3-psycopg2", "python3-psycopg2")),
    "mysql": ("MySQLdb", ("python3-mysqldb", "python3-mysqlclient")),
}
"""Scheme of a datastore endpoint to the module of its driver and the module's package."""

_CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21}
_CAP_SYS_RESOURCE = 24
_CONTROLLERS = ("cpu", "memory", "pids")
_KERNEL_DEFAULTS = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
}
"""What the kubelet sets, and ``protect-kernel-defaults`` demands instead."""


@dataclass(frozen=True, slots=True)
class Report:
    """``problems`` stand in the way. ``restrict_oom_score_adj`` is the fact that containerd must not lower scores."""

    problems: tuple[Problem, ...]
    restrict_oom_score_adj: bool


def check(settings: Settings, ports: bool = True) -> Report:
    """Everything that stands in the way of ``settings`` on this machine. ``ports`` is false where they are already ours."""
    if os.geteuid() != 0:
        return Report(
            (Problem("k3sd", "is not running as root", "start it with sudo, or with systemctl start k3sd-server"),), False
        )
    capabilities = effective_capabilities()
    driver = DATASTORE_MODULES.get(settings.datastore_endpoint.partition("://")[0].lower())
    problems = [*missing_modules(MODULES | dict([driver] if driver else []))]
    if not settings.disable_agent:
        problems += missing_modules(NODE_MODULES)
        problems += check_capabilities(capabilities)
        problems += check_programs(settings)
        problems += check_cni()
        problems += check_cgroups()
        problems += check_overlay(settings.snapshotter)
        if not settings.disable_kube_proxy:
            problems += check_nftables()
        if settings.protect_kernel_defaults:
            problems += check_kernel_defaults()
    if ports:
        problems += check_ports(settings)
    return Report(tuple(problems), not capabilities >> _CAP_SYS_RESOURCE & 1)


def install(package: tuple[str, str]) -> str:
    """The remedy for a missing package, in the words of this distribution. ``package`` is Debian's and Fedora's name."""
    if shutil.which("dnf", path=SYSTEM_PATH) and not shutil.which("apt-get", path=SYSTEM_PATH):
        return f"run: dnf install {package[1]}"
    return f"run: apt install {package[0]}"


def find_program(name: str) -> str | None:
    """Where a program is, with the system's own directories behind ``PATH``."""
    return shutil.which(name, path=os.environ.get("PATH", "") + ":" + SYSTEM_PATH)


def missing_modules(modules: dict[str, tuple[str, str]]) -> Iterator[Problem]:
    for module, package in modules.items():
        try:
            found = importlib.util.find_spec(module) is not None
        except ModuleNotFoundError:
            found = False  # the parent of a dotted name is missing
        if not found:
            yield Problem("python3", f"the module {module} is not installed", install(package))


def check_programs(settings: Settings) -> Iterator[Problem]:
    """Missing programs; with an external runtime, its missing socket instead of containerd's."""
    own = not settings.container_runtime_endpoint
    for name, package in PROGRAMS.items():
        if (own or package[0] != "containerd") and find_program(name) is None:
            yield Problem(name, "is not installed", install(package))
    if not own and settings.container_runtime_endpoint != "/dev/null" and not Path(settings.containerd_socket).is_socket():
        yield Problem(
            settings.containerd_socket, "is not a socket", "start the container runtime, or correct container-runtime-endpoint"
        )
    name = settings.default_runtime
    binaries = (name, f"{name}-container-runtime", f"containerd-shim-{name}-v1", f"containerd-shim-{name}-v2")
    if own and name != "runc" and not any(find_program(binary) for binary in binaries):
        yield Problem("default-runtime", f"there is no program for the runtime {name!r}", "install it, or choose runc")


def check_cni() -> Iterator[Problem]:
    """The CNI plugins k3sd's configuration names."""
    missing = [name for name in CNI_PLUGINS if not any((directory / name).exists() for directory in CNI_PLUGIN_DIRS)]
    if missing:
        places = ", ".join(map(str, CNI_PLUGIN_DIRS))
        package = ("containernetworking-plugins", "containernetworking-plugins")
        yield Problem("CNI", f"no plugin {', '.join(missing)} in {places}", install(package))


# capabilities


def effective_capabilities() -> int:
    """The bit mask of this process, from ``/proc``."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def check_capabilities(mask: int) -> Iterator[Problem]:
    for name, bit in _CAPABILITIES.items():
        if not mask >> bit & 1:
            yield Problem(
                "privileges", f"root has no {name} here", f"run the surrounding container with {name}, or k3sd outside of it"
            )


# cgroups


def cgroup_root(mounts: str) -> tuple[int, dict[str, str]]:
    """``(version, controller -> mount point)`` from the text of ``/proc/mounts``. Version 2 has the one key "". 0: none."""
    v1: dict[str, str] = {}
    v2 = ""
    for line in mounts.splitlines():
        fields = line.split()
        if fields[2] == "cgroup2":
            v2 = v2 or fields[1]
        elif fields[2] == "cgroup":
            v1.update(dict.fromkeys(fields[3].split(","), fields[1]))
    if any(controller in v1 for controller in _CONTROLLERS):
        return 1, v1
    return (2, {"": v2}) if v2 else (0, {})


def check_cgroups() -> Iterator[Problem]:
    """Controllers that pods need. The Raspberry Pi's firmware leaves memory off."""
    version, mounted = cgroup_root(Path("/proc/mounts").read_text())
    if version == 0:
        yield Problem(
            "/sys/fs/cgroup",
            "no cgroup file system is mounted",
            "boot with systemd, or run: mount -t cgroup2 none /sys/fs/cgroup",
        )
        return
    if version == 2:
        present = set(Path(mounted[""], "cgroup.controllers").read_text().split())
    else:
        present = set(mounted)
    for name in _CONTROLLERS:
        if name not in present:
            yield Problem("/sys/fs/cgroup", f"the {name} cgroup controller is off", controller_remedy(name))
    places = [mounted[""]] if version == 2 else [mounted[name] for name in _CONTROLLERS if name in mounted]
    closed = [place for place in places if os.statvfs(place).f_flag & os.ST_RDONLY]
    if closed:
        remedy = (
            f"mount -o remount,bind,rw {closed[0]}"
            if version == 2
            else "for c in /sys/fs/cgroup/*/; do mount -o remount,bind,rw $c; done"
        )
        yield Problem(", ".join(closed), "read-only, so that no pod can have a control group", f"run: {remedy}")


def controller_remedy(name: str) -> str:
    """How to switch a controller on: the exact file and line."""
    words = "cgroup_enable=memory cgroup_memory=1" if name == "memory" else f"cgroup_enable={name}"
    for file in ("/boot/firmware/cmdline.txt", "/boot/cmdline.txt"):
        if Path(file).is_file():
            return f"append {words} to the one line of {file} and reboot"
    if Path("/etc/default/grub").is_file():
        return f"append {words} to GRUB_CMDLINE_LINUX in /etc/default/grub, run update-grub and reboot"
    if cgroup_root(Path("/proc/mounts").read_text())[0] == 1:
        return f"run: mkdir -p /sys/fs/cgroup/{name} && mount -t cgroup -o {name} none /sys/fs/cgroup/{name}"
    return f"boot the kernel with {words}"


# kernel


def check_overlay(snapshotter: str) -> Iterator[Problem]:
    if snapshotter == "overlayfs" and not has_filesystem("overlay"):
        yield Problem("kernel", "has no overlay file system", "load it with: modprobe overlay, or choose --snapshotter=native")


def check_nftables(subsystem: int = _NFTABLES) -> Iterator[Problem]:
    """Ask the kernel for the number of nftables' last transaction, for which it loads the module where there is one."""
    remedy = "load it with: modprobe nf_tables, or boot a kernel with CONFIG_NF_TABLES"
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as netlink:
            netlink.settimeout(5)
            netlink.send(struct.pack("=LHHLLL", 20, subsystem << 8 | _GET_GENERATION, 1, 1, 0, 0))
            answer = netlink.recv(4096)
    except OSError as error:
        yield Problem("kernel", f"does not answer about nftables: {error}", remedy)
        return
    kind, code = struct.unpack_from("=H", answer, 4)[0], struct.unpack_from("=i", answer, 16)[0]
    if kind == 2 and code:  # NLMSG_ERROR
        yield Problem("kernel", f"has no nftables ({os.strerror(-code)})", remedy)


def has_filesystem(name: str) -> bool:
    """Registered, or a module that the kernel loads when it is mounted."""
    registered = {line.split()[-1] for line in Path("/proc/filesystems").read_text().splitlines() if line.strip()}
    return name in registered or has_module(name)


def has_module(name: str) -> bool:
    """Whether the running kernel has the module, built in or as a file."""
    directory = Path("/lib/modules", os.uname().release)
    for listing in ("modules.builtin", "modules.dep"):
        try:
            text = (directory / listing).read_text()
        except OSError:
            continue  # a kernel without modules has no such file
        if f"/{name}.ko" in text or f"/{name.replace('_', '-')}.ko" in text:
            return True
    return False


def check_kernel_defaults() -> Iterator[Problem]:
    for name, wanted in _KERNEL_DEFAULTS.items():
        path = Path("/proc/sys", name)
        found = path.read_text().strip() if path.exists() else "absent"
        if found != wanted:
            key = name.replace("/", ".")
            what = f"{key} is {found}, and protect-kernel-defaults demands {wanted}"
            yield Problem("kernel", what, f"write {key}={wanted} to /etc/sysctl.d/90-k3sd.conf and run: sysctl --system")


# ports


def check_ports(settings: Settings) -> Iterator[Problem]:
    """Ports that another program listens on. Sockets handed to us by systemd are ours."""
    yield from check_inherited(settings.https_listen_port)
    wanted = {"https-listen-port": (settings.bind_address, settings.https_listen_port)}
    if not settings.disable_agent:
        wanted["kubelet"] = (settings.bind_address, KUBELET_PORT)
    for name, (host, port) in wanted.items():
        error = _bind_error(host, port)
        if error is None or _is_inherited(port):
            continue
        remedy = "stop it"
        if name == "https-listen-port":
            remedy += ", or choose another port with --https-listen-port"
        yield (
            Problem(f"port {port}", f"is in use by {port_owner(port) or 'another program'}", remedy)
            if error == "in use"
            else Problem(f"address {host}", f"cannot be bound: {error}", "correct --bind-address")
        )
    if not settings.disable_agent:
        yield from check_node_ports(settings)


def check_node_ports(settings: Settings) -> Iterator[Problem]:
    """What containerd and the cluster DNS listen on. A containerd of an earlier start ends by itself."""
    if not settings.container_runtime_endpoint and _bind_error("127.0.0.1", STREAM_PORT) == "in use":
        owner = port_owner(STREAM_PORT)
        if not owner.startswith("containerd "):
            yield Problem(
                f"port {STREAM_PORT}", f"is in use by {owner or 'another program'}", "stop it; containerd needs the port"
            )
    for udp in (True, False):
        if _bind_error(settings.cluster_dns, DNS_PORT, udp) == "in use":
            owner = port_owner(DNS_PORT, udp) or "another program"
            yield Problem(
                f"port {DNS_PORT}",
                f"is in use on every address by {owner}, so that the cluster DNS cannot have it on {settings.cluster_dns}",
                "stop it, or let it listen on the host's own addresses only (dnsmasq: bind-interfaces)",
            )
            return


def check_inherited(port: int) -> Iterator[Problem]:
    """A socket unit that listens elsewhere than the options say."""
    names = os.environ.get("LISTEN_FDNAMES", "").split(":") if os.environ.get("LISTEN_FDS") else []
    for number, name in enumerate(names):
        if name != "apiserver":
            continue
        with socket.socket(fileno=os.dup(3 + number)) as listener:
            found = int(listener.getsockname()[1])
        if found != port:
            remedy = f"set ListenStream= and ListenStream={port} with: systemctl edit k3sd-server.socket"
            yield Problem("k3sd-server.socket", f"listens on port {found}, but https-listen-port is {port}", remedy)


def _bind_error(host: str, port: int, udp: bool = False) -> str | None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM if udp else socket.SOCK_STREAM) as probe:
        if not udp:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if port == DNS_PORT:
            probe.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)  # the address comes with the service link
        try:
            probe.bind((host, port))
        except OSError as error:
            return "in use" if error.errno == 98 else str(error.strerror)
        # Two sockets with SO_REUSEADDR may be bound to one port, but only one may listen.
        try:
            if not udp:
                probe.listen(1)
        except OSError:
            return "in use"
    return None


def _listener_inodes(port: int, udp: bool = False) -> set[str]:
    found = set()
    name, state = ("udp", "07") if udp else ("tcp", "0A")
    for table in (f"/proc/net/{name}", f"/proc/net/{name}6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except FileNotFoundError:
            continue  # no IPv6
        for line in lines:
            fields = line.split()
            if fields[3] == state and int(fields[1].rpartition(":")[2], 16) == port:
                found.add(fields[9])
    return found


def _is_inherited(port: int) -> bool:
    inodes = _listener_inodes(port)
    return any(target in {f"socket:[{inode}]" for inode in inodes} for target in _descriptors("self"))


def _descriptors(pid: str) -> Iterator[str]:
    try:
        entries = list(os.scandir(f"/proc/{pid}/fd"))
    except OSError:
        return  # ended meanwhile, or another user's
    for entry in entries:
        try:
            yield os.readlink(entry.path)
        except OSError:
            continue  # closed meanwhile


def port_owner(port: int, udp: bool = False) -> str:
    """``name (pid N)`` of the process that listens on a port, or "" where ``/proc`` does not tell."""
    targets = {f"socket:[{inode}]" for inode in _listener_inodes(port, udp)}
    for pid in sorted(filter(str.isdigit, os.listdir("/proc")), key=int):
        if any(target in targets for target in _descriptors(pid)):
            try:
                return f"{Path('/proc', pid, 'comm').read_text().strip()} (pid {pid})"
            except OSError:
                return ""
    return ""
