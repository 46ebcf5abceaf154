"""``k3sd check-config``: what the kernel and the system offer, tried for real where that leaves no trace.

Kernel networking is tried in a network namespace of a short-lived child, which takes everything with it when it ends.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from k3sd.config import preflight
from k3sd.config.machine import Machine
from k3sd.config.problem import ConfigError, Problem
from k3sd.config.resolve import resolve
from k3sd.config.settings import Settings
from k3sd.killall import find_parent

_CLONE_NEWNS = 0x00020000
_CLONE_NEWNET = 0x40000000
_MS_REC_PRIVATE = 0x4000 | (1 << 18)
_LOW_SPACE_BYTES = 2 << 30
_V1_CONTROLLERS = ("blkio", "cpu", "cpuacct", "cpuset", "devices", "freezer", "hugetlb", "memory", "pids")
_MARKS = {"good": "ok  ", "warning": "warn", "bad": "FAIL"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the answer."""

    state: Literal["good", "warning", "bad"]
    what: str
    detail: str = ""

    def __str__(self) -> str:
        return f"[{_MARKS[self.state]}] {self.what}" + (f": {self.detail}" if self.detail else "")


def run(argv: Sequence[str]) -> int:
    """Exit code 1 where k3sd cannot run."""
    if argv:
        print("usage: k3sd check-config\n\nCheck what the kernel and the system offer; the configuration file is used as is.")
        return 0 if argv[0] in ("-h", "--help") else 2
    bad = 0
    for heading, findings in (
        ("configuration", check_configuration),
        ("system", check_system),
        ("programs", check_programs),
        ("kernel", check_kernel),
        ("network", check_network),
    ):
        print(f"\n{heading}")
        for finding in findings():
            print(f"  {finding}", flush=True)
            bad += finding.state == "bad"
    print(f"\n{bad} problem{'s' if bad != 1 else ''}" if bad else "\nk3sd can run here")
    return 1 if bad else 0


def _settings() -> Settings:
    try:
        return resolve("server", [], os.environ)
    except ConfigError:
        return Settings(node_ips=("127.0.0.1",))


def check_configuration() -> Iterator[Finding]:
    try:
        settings = resolve("server", [], os.environ)
    except ConfigError as error:
        for problem in error.problems:
            yield Finding("bad", str(problem))
        return
    yield Finding("good", "configuration", f"node {settings.node_name} at {', '.join(settings.node_ips)}")


def check_system() -> Iterator[Finding]:
    yield Finding("good", "kernel", f"{os.uname().release} on {os.uname().machine}")
    yield Finding("good", "init", "systemd" if Machine().is_systemd() else "not systemd: k3sd runs without, in the foreground")
    if os.geteuid() != 0:
        yield Finding("bad", "user", "not root; run: sudo k3sd check-config")
        return
    mask = preflight.effective_capabilities()
    yield from _findings("capabilities", preflight.check_capabilities(mask))
    if not mask >> 24 & 1:
        yield Finding("warning", "CAP_SYS_RESOURCE", "missing: pods cannot be protected from the out-of-memory killer")
    version, mounted = preflight.cgroup_root(Path("/proc/mounts").read_text())
    if version == 2:
        controllers = Path(mounted[""], "cgroup.controllers").read_text().split()
    else:
        controllers = sorted(name for name in mounted if name in _V1_CONTROLLERS)
    yield from _findings(f"cgroup v{version}", preflight.check_cgroups(), " ".join(controllers))
    if "cpuset" not in controllers:
        yield Finding("warning", "cgroup cpuset", preflight.controller_remedy("cpuset"))
    settings = _settings()
    if parent := find_parent():
        yield Finding("good", "ports", f"not tried: k3sd runs (pid {parent}) and has its own")
    else:
        free = f"{settings.https_listen_port} and {preflight.KUBELET_PORT} are free"
        yield from _findings("ports", preflight.check_ports(settings), free)
    yield _space(Path(settings.data_dir))


def _existing(directory: Path) -> Path:
    """The directory, or the nearest one above it that exists."""
    while not directory.exists():
        directory = directory.parent
    return directory


def _space(directory: Path) -> Finding:
    directory = _existing(directory)
    stat = os.statvfs(directory)
    free, share = stat.f_bavail * stat.f_frsize, stat.f_bavail / max(stat.f_blocks, 1)
    text = f"{free / (1 << 30):.1f} GiB free on {directory}"
    if share < 0.05:
        return Finding("bad", "disk", f"{text}, below 5 %: pods would be evicted; free some space")
    return Finding("warning" if free < _LOW_SPACE_BYTES else "good", "disk", text)


def check_programs() -> Iterator[Finding]:
    settings = _settings()
    missing = {problem.where: problem for problem in preflight.check_programs(settings)}
    for name in preflight.PROGRAMS:
        if name in missing:
            yield Finding("bad", str(missing.pop(name)))
        elif name not in ("containerd-shim-runc-v2", "catatonit", "setpriv"):
            yield Finding("good", name, program_version(name))
    for problem in missing.values():
        yield Finding("bad", str(problem))
    yield from _findings("CNI plugins", preflight.check_cni(), ", ".join(preflight.CNI_PLUGINS))
    modules = [*preflight.missing_modules(preflight.MODULES), *preflight.missing_modules(preflight.NODE_MODULES)]
    yield from _findings("Python modules", iter(modules), f"Python {sys.version.split()[0]}")
    if preflight.find_program("kubectl") is None:
        yield Finding("warning", "kubectl", preflight.install(("kubernetes-client", "kubernetes-client")))
    if preflight.find_program("conntrack") is None:
        yield Finding("good", "conntrack", "not installed; k3sd does without")


def program_version(name: str) -> str:
    """The first line a program says about itself."""
    program = preflight.find_program(name)
    if program is None:
        return ""
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"does not start: {error}"
    return next(iter((done.stdout or done.stderr).splitlines()), "").strip()


def check_kernel() -> Iterator[Finding]:
    yield from _findings("overlay", preflight.check_overlay("overlayfs"))
    directory = _existing(Path(_settings().data_dir))
    if os.geteuid() == 0 and preflight.has_filesystem("overlay"):
        error = in_own_namespace(lambda: _try_overlay(directory))
        remedy = "choose --snapshotter=native, or another file system for --data-dir"
        yield (
            Finding("bad", f"overlay on {directory}", f"{error}; {remedy}")
            if error
            else Finding("good", f"overlay on {directory}")
        )
    for name, use in (("ip_forward", "net/ipv4/ip_forward"), ("inotify", "fs/inotify/max_user_instances")):
        path = Path("/proc/sys", use)
        yield Finding("good", name, path.read_text().strip()) if path.exists() else Finding("bad", name, f"no {path}")
    bridge = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
    if bridge.exists():
        yield Finding("good", "br_netfilter")
    elif preflight.has_module("br_netfilter"):
        yield Finding("good", "br_netfilter", "loaded at start")
    else:
        yield Finding("warning", "br_netfilter", "missing: a pod may not reach a service whose pod is on the same node")
    if Path("/sys/fs/selinux/enforce").exists() and Path("/sys/fs/selinux/enforce").read_text().strip() == "1":
        yield Finding("warning", "SELinux", "enforcing, and k3sd does not label containers yet")
    for setting, least in (("fs/inotify/max_user_instances", 512), ("fs/inotify/max_user_watches", 65536)):
        found = int(Path("/proc/sys", setting).read_text())
        if found < least:
            yield Finding("warning", setting.replace("/", "."), f"{found}; many pods want {least} or more")


def check_network() -> Iterator[Finding]:
    if os.geteuid() != 0:
        yield Finding("warning", "network", "needs root to be tried")
        return
    for name, attempt, remedy in (
        ("veth", _try_veth, "load it with: modprobe veth"),
        ("bridge", _try_bridge, "load it with: modprobe bridge"),
        ("vxlan", _try_vxlan, "load it with: modprobe vxlan"),
        ("nftables", _try_nft, "load it with: modprobe nf_tables nft_chain_nat nft_masq"),
    ):
        error = in_own_namespace(attempt)
        yield Finding("good", name) if not error else Finding("bad", name, f"{error}; {remedy}")


def in_own_namespace(attempt: Callable[[], str]) -> str:
    """Run ``attempt`` in a child with network and mounts of its own. Returns its answer: what went wrong, or ""."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.unshare(_CLONE_NEWNET | _CLONE_NEWNS) != 0:
                answer = f"no namespaces: {os.strerror(ctypes.get_errno())}"
            else:
                answer = attempt()
        except Exception as error:
            answer = str(error) or type(error).__name__
        os.write(write, answer.encode()[:2000])
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as source:
        answer = source.read().decode()
    os.waitpid(child, 0)
    return answer


def _try_overlay(directory: Path) -> str:
    """Mount an overlay whose layers are on the data directory's own file system, as containerd does."""
    libc = ctypes.CDLL(None, use_errno=True)
    with tempfile.TemporaryDirectory(prefix=".k3sd-check-", dir=directory) as name:
        for layer in ("lower", "upper", "work", "merged"):
            Path(name, layer).mkdir()
        # Without this the mount would travel to the machine's own tree.
        if libc.mount(b"none", b"/", None, _MS_REC_PRIVATE, None) != 0:
            return f"no private mounts: {os.strerror(ctypes.get_errno())}"
        data = f"lowerdir={name}/lower,upperdir={name}/upper,workdir={name}/work"
        if libc.mount(b"overlay", f"{name}/merged".encode(), b"overlay", 0, data.encode()) != 0:
            return os.strerror(ctypes.get_errno())
        libc.umount2(f"{name}/merged".encode(), 0)
    return ""


def _try_link(**attributes: object) -> str:
    from pyroute2 import IPRoute

    with IPRoute() as netlink:
        netlink.link("add", **attributes)
    return ""


def _try_veth() -> str:
    return _try_link(ifname="k3sd-a", kind="veth", peer={"ifname": "k3sd-b"})


def _try_bridge() -> str:
    return _try_link(ifname="k3sd-a", kind="bridge")


def _try_vxlan() -> str:
    return _try_link(ifname="k3sd-a", kind="vxlan", vxlan_id=1, vxlan_port=8472)


def _try_nft() -> str:
    from nftables import Nftables

    rules = (
        "add table inet k3sd-check\n"
        "add chain inet k3sd-check nat { type nat hook postrouting priority srcnat; }\n"
        "add map inet k3sd-check m { type inet_proto . ipv4_addr . inet_service : verdict; }\n"
        "add rule inet k3sd-check nat ct state new masquerade\n"
    )
    code, _, error = Nftables().cmd(rules)
    return str(error).strip().replace("\n", " ") if code else ""


def _findings(what: str, problems: Iterator[Problem], detail: str = "") -> Iterator[Finding]:
    count = 0
    for problem in problems:
        count += 1
        yield Finding("bad", str(problem))
    if not count:
        yield Finding("good", what, detail)
