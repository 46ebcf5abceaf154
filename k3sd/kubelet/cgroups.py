"""Cgroups of pods and what a container may use: names, CFS and memory values, OOM score, and the pod-level hierarchy on disk.

Layout as upstream's (``kubepods/<qos>/pod<uid>``), so that a kubelet of either kind finds it. Source: Kubernetes 1.36
``pkg/kubelet/cm/`` (``helpers_linux.go``, ``pod_container_manager_linux.go``, ``qos_container_manager_linux.go``),
``pkg/kubelet/qos/policy.go``.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from k3sd.apimachinery.quantity import Quantity
from k3sd.kubelet import podinfo
from k3sd.lib import processes

Obj = dict[str, Any]
log = logging.getLogger(__name__)

MIN_SHARES = 2
MAX_SHARES = 262144
QUOTA_PERIOD = 100_000
MIN_QUOTA = 1000
GUARANTEED_OOM_SCORE_ADJ = -997
BEST_EFFORT_OOM_SCORE_ADJ = 1000
CGROUP_ROOT = Path("/sys/fs/cgroup")
_QOS_DIRS = {"Guaranteed": "", "Burstable": "burstable", "BestEffort": "besteffort"}


def cpu_shares(milli: int) -> int:
    """``MilliCPUToShares``."""
    return min(max(milli * 1024 // 1000, MIN_SHARES), MAX_SHARES)


def cpu_quota(milli: int) -> int:
    """``MilliCPUToQuota`` with the default period; 0 means no limit."""
    return max(milli * QUOTA_PERIOD // 1000, MIN_QUOTA) if milli else 0


def cpu_weight(shares: int) -> int:
    """cgroup v2's weight for v1 shares, the conversion runc uses."""
    return 1 + ((shares - 2) * 9999) // 262142


@dataclass(frozen=True, slots=True)
class Limits:
    """Values of one cgroup; None leaves the kernel's own, 0 memory or -1 quota is no limit."""

    cpu_shares: int
    cpu_quota: int | None = None
    memory: int | None = None


def _value(quantity: Quantity | None) -> int:
    return quantity.value() if quantity is not None else 0


def container_limits(pod: Obj, container: Obj) -> Limits:
    """``calculateLinuxResources``: shares from the request (the limit where there is none), quota and memory from the limits.
    A pod-level limit stands in for a container's missing one."""
    request = podinfo.resource(container, "requests", "cpu")
    cpu = podinfo.resource(container, "limits", "cpu")
    memory = podinfo.resource(container, "limits", "memory")
    if pod["spec"].get("resources"):
        cpu = cpu or podinfo.resource(pod["spec"], "limits", "cpu")
        memory = memory or podinfo.resource(pod["spec"], "limits", "memory")
    wanted = request if request is not None else cpu
    return Limits(
        cpu_shares(wanted.milli() if wanted is not None else 0),
        cpu_quota(cpu.milli() if cpu is not None else 0),
        _value(memory),
    )


def pod_limits(pod: Obj) -> Limits:
    """``ResourceConfigForPod``: a limit holds for the pod only when every container has one."""
    qos = podinfo.qos_class(pod)
    if qos == "BestEffort":
        return Limits(MIN_SHARES)
    requests = podinfo.pod_resources(pod, "requests")
    limits = podinfo.pod_resources(pod, "limits")
    shares = cpu_shares(requests["cpu"].milli() if "cpu" in requests else 0)

    def declared(name: str) -> bool:
        if podinfo.resource(pod["spec"], "limits", name):
            return True
        containers = [*podinfo.spec_containers(pod), *podinfo.init_containers(pod)]
        return all(_value(podinfo.resource(c, "limits", name)) for c in containers)

    return Limits(
        shares,
        cpu_quota(limits["cpu"].milli()) if "cpu" in limits and declared("cpu") else None,
        limits["memory"].value() if "memory" in limits and declared("memory") else None,
    )


def oom_score_adj(pod: Obj, container: Obj, memory_capacity: int) -> int:
    """``GetContainerOOMScoreAdjust``."""
    if podinfo.is_node_critical(pod):
        return GUARANTEED_OOM_SCORE_ADJ
    qos = podinfo.qos_class(pod)
    if qos != "Burstable":
        return GUARANTEED_OOM_SCORE_ADJ if qos == "Guaranteed" else BEST_EFFORT_OOM_SCORE_ADJ
    request = _value(podinfo.resource(container, "requests", "memory"))
    pod_request = podinfo.resource(pod["spec"], "requests", "memory")
    if pod_request is not None:
        regular = [*podinfo.spec_containers(pod), *(c for c in podinfo.init_containers(pod) if podinfo.is_sidecar(c))]
        named = sum(_value(podinfo.resource(c, "requests", "memory")) for c in regular)
        request += max(pod_request.value() - named, 0) // max(len(regular), 1)
    score = 1000 - 1000 * request // memory_capacity
    if podinfo.is_sidecar(container) and container in podinfo.init_containers(pod):
        least = min((_value(podinfo.resource(c, "requests", "memory")) for c in podinfo.spec_containers(pod)), default=0)
        score = min(score, 1000 - 1000 * least // memory_capacity)
    return min(max(score, 1000 + GUARANTEED_OOM_SCORE_ADJ), BEST_EFFORT_OOM_SCORE_ADJ - 1)


def pod_cgroup(pod_uid: str, qos: str, systemd: bool) -> str:
    """The cgroup parent handed to the runtime: a path, or with the systemd driver the slice's name."""
    middle = _QOS_DIRS[qos]
    if systemd:
        prefix = f"kubepods-{middle}" if middle else "kubepods"
        return f"{prefix}-pod{pod_uid.replace('-', '_')}.slice"
    return "/".join(p for p in ("/kubepods", middle, f"pod{pod_uid}") if p)


def _relative(parent: str) -> str:
    """Where below a hierarchy's mount a cgroup parent is: slices nest by the dashes in their names."""
    if not parent.endswith(".slice"):
        return parent.lstrip("/")
    parts = parent.removesuffix(".slice").split("-")
    return "/".join("-".join(parts[: i + 1]) + ".slice" for i in range(len(parts)))


def systemd_properties(limits: Limits) -> list[str]:
    """The same values as unit properties, for ``systemctl set-property``."""
    out = [f"CPUWeight={cpu_weight(limits.cpu_shares)}"]
    if limits.cpu_quota is not None:
        out.append(f"CPUQuota={limits.cpu_quota * 100 // QUOTA_PERIOD}%" if limits.cpu_quota > 0 else "CPUQuota=")
    if limits.memory is not None:
        out.append(f"MemoryMax={limits.memory or 'infinity'}")
    return out


def is_stray(pid: int) -> bool:
    """Whether a process in the cgroup of a pod that this node does not have may be killed: never one outside our process
    namespace (shown as 0), ourselves and what we come from, or a container of another node on this kernel, whose shim sees
    other mounts."""
    if pid <= 1 or pid == os.getpid() or pid in processes.ancestors(os.getpid()):
        return False
    for ancestor in processes.ancestors(pid):
        if "containerd-shim" in processes.command_line(ancestor).partition(" ")[0] and not processes.shares_mounts(ancestor):
            return False
    return True


class CgroupManager:
    """The kubepods hierarchy on this machine. Every method blocks shortly (kernel filesystem): call it from a thread.

    With the systemd driver the slices are made by systemd when the runtime asks for a scope in them, and belong to it: their
    values are given to it as properties (``systemd_properties``), by who may run commands. Missing controllers are skipped:
    limited environments have few. ``top`` is the kubelet's ``cgroup-root``: several nodes on one kernel need one each, because
    each removes the pods it does not know (cgroupfs driver only).
    """

    def __init__(self, systemd: bool = False, root: Path = CGROUP_ROOT, top: str = "") -> None:
        self.systemd = systemd
        self._top = "" if systemd else "/" + top.strip("/") if top.strip("/") else ""
        self._root = root
        self.unified = (root / "cgroup.controllers").exists()
        self._mounts = [root] if self.unified else self._v1_mounts()

    def _v1_mounts(self) -> list[Path]:
        """Controller mounts of cgroup v1, each once: ``cpu`` and ``cpuacct`` may be links to one directory."""
        found: dict[Path, None] = {}
        for controller in ("cpu", "cpuacct", "memory", "cpuset", "pids", "blkio", "devices", "freezer", "hugetlb", "systemd"):
            path = self._root / controller
            if path.is_dir():
                found[path.resolve()] = None
        return list(found)

    def has_controller(self, name: str) -> bool:
        if self.unified:
            return name in (self._root / "cgroup.controllers").read_text().split()
        return (self._root / name).is_dir()

    def has_swap(self) -> bool:
        """The kernel accounts swap by cgroup."""
        if self.unified:
            return any(self._root.glob("*/memory.swap.max"))
        return (self._root / "memory" / "memory.memsw.limit_in_bytes").exists()

    def setup(self, limits: Limits | None = None) -> None:
        """Make the top of the hierarchy; ``limits`` are what all pods together may use."""
        if self.systemd:
            return
        for qos in _QOS_DIRS.values():
            self._make(f"{self._kubepods}/{qos}" if qos else self._kubepods)
        self._write(f"{self._kubepods}/besteffort", Limits(MIN_SHARES))
        if limits is not None:
            self._write(self._kubepods, limits)

    @property
    def _kubepods(self) -> str:
        return f"{self._top}/kubepods".lstrip("/")

    def _parent(self, pod_uid: str, qos: str) -> str:
        return self._top + pod_cgroup(pod_uid, qos, self.systemd)

    def create_pod(self, pod: Obj) -> str:
        """Make the pod's cgroup with its limits; returns the parent for the runtime. Idempotent."""
        parent = self._parent(podinfo.uid(pod), podinfo.qos_class(pod))
        relative = _relative(parent)
        if not self.systemd:
            self._make(relative)
        self._write(relative, pod_limits(pod))
        return parent

    def update_pod(self, pod: Obj) -> None:
        """Apply changed limits (in-place resize)."""
        parent = self._parent(podinfo.uid(pod), podinfo.qos_class(pod))
        self._write(_relative(parent), pod_limits(pod))

    def widen_pod(self, pod: Obj, limits: Limits) -> None:
        """Lift the pod's quota and memory limit to at least ``limits``: a child may not have more than its parent."""
        relative = _relative(self._parent(podinfo.uid(pod), podinfo.qos_class(pod)))
        quota, memory = self._current(relative)
        wider = Limits(
            limits.cpu_shares,
            None
            if limits.cpu_quota is not None and quota is not None and quota >= limits.cpu_quota
            else limits.cpu_quota or -1,
            None if limits.memory is not None and memory is not None and memory >= limits.memory else limits.memory or 0,
        )
        self._write(relative, wider)

    def _current(self, relative: str) -> tuple[int | None, int | None]:
        """Quota and memory limit in force; None where there is none or it cannot be read."""

        def read(path: Path) -> int | None:
            try:
                text = path.read_text().split()[0]
            except (OSError, IndexError):
                return None
            return int(text) if text.isdigit() else None

        if self.unified:
            return read(self._root / relative / "cpu.max"), read(self._root / relative / "memory.max")
        memory = self._root / "memory" / relative / "memory.limit_in_bytes"
        return read(self._root / "cpu" / relative / "cpu.cfs_quota_us"), read(memory)

    def set_burstable_shares(self, pods: Iterable[Obj]) -> None:
        """All burstable pods together weigh what they request."""
        milli = 0
        for pod in pods:
            if podinfo.qos_class(pod) == "Burstable":
                request = podinfo.pod_resources(pod, "requests").get("cpu")
                milli += request.milli() if request is not None else 0
        self._write(
            _relative("kubepods-burstable.slice") if self.systemd else f"{self._kubepods}/burstable", Limits(cpu_shares(milli))
        )

    def remove_pod(self, pod_uid: str) -> None:
        """Remove the pod's cgroup, killing what is left in it. Gone already is fine."""
        for qos in _QOS_DIRS:
            relative = _relative(self._parent(pod_uid, qos))
            for mount in self._mounts:
                top = mount / relative
                if top.is_dir():
                    self._remove_tree(top)

    def pods(self) -> set[str]:
        """Uids that have a cgroup (cgroupfs driver)."""
        found: set[str] = set()
        for qos in _QOS_DIRS.values():
            directory = self._mounts[0] / self._kubepods / qos if self._mounts else Path("/nonexistent")
            if directory.is_dir():
                found.update(d.name[3:] for d in directory.iterdir() if d.is_dir() and d.name.startswith("pod"))
        return found

    def _remove_tree(self, top: Path) -> None:
        for directory, _, _ in os.walk(top, topdown=False):
            deadline = time.monotonic() + 2.0
            while True:
                try:
                    os.rmdir(directory)
                except FileNotFoundError:
                    pass
                except OSError as error:
                    if error.errno != errno.EBUSY or time.monotonic() > deadline or not self._kill(Path(directory)):
                        log.warning("cannot remove cgroup %s: %s", directory, error)
                        return
                    time.sleep(0.01)  # a killed process leaves its cgroup when it is reaped, which nothing announces
                    continue
                break

    @staticmethod
    def _kill(directory: Path) -> bool:
        """Kill the strays in a cgroup. False when somebody else's processes are in it."""
        try:
            pids = [int(pid) for pid in (directory / "cgroup.procs").read_text().split()]
        except OSError:
            return True  # gone meanwhile
        strays = [pid for pid in pids if is_stray(pid)]
        for pid in strays:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(strays) == len(pids)

    def _make(self, relative: str) -> None:
        for mount in self._mounts:
            path = mount / relative
            if path.is_dir():
                continue
            if self.unified:
                self._delegate(path)
            path.mkdir(parents=True, exist_ok=True)
            if mount.name == "cpuset":
                self._inherit_cpuset(mount, path)

    @staticmethod
    def _inherit_cpuset(mount: Path, path: Path) -> None:
        """cgroup v1's cpuset starts empty and then takes no process."""
        chain = [p for p in [path, *path.parents] if p.is_relative_to(mount) and p != mount]
        for directory in reversed(chain):
            for name in ("cpuset.cpus", "cpuset.mems"):
                file = directory / name
                if file.exists() and not file.read_text().strip():
                    file.write_text((directory.parent / name).read_text())

    def _delegate(self, path: Path) -> None:
        """cgroup v2: controllers must be enabled in every ancestor for the children to have them."""
        for directory in reversed([p for p in path.parents if p.is_relative_to(self._root)]):
            directory.mkdir(exist_ok=True)
            try:
                available = (directory / "cgroup.controllers").read_text().split()
                (directory / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in available))
            except OSError as error:
                log.debug("cannot enable cgroup controllers in %s: %s", directory, error)

    def _write(self, relative: str, limits: Limits) -> None:
        if self.systemd:
            return
        if self.unified:
            values = {"cpu.weight": str(cpu_weight(limits.cpu_shares))}
            if limits.cpu_quota is not None:
                values["cpu.max"] = f"{limits.cpu_quota if limits.cpu_quota > 0 else 'max'} {QUOTA_PERIOD}"
            if limits.memory is not None:
                values["memory.max"] = str(limits.memory or "max")
        else:
            values = {"cpu/cpu.shares": str(limits.cpu_shares)}
            if limits.cpu_quota is not None:
                values["cpu/cpu.cfs_period_us"] = str(QUOTA_PERIOD)
                values["cpu/cpu.cfs_quota_us"] = str(limits.cpu_quota if limits.cpu_quota > 0 else -1)
            if limits.memory is not None:
                values["memory/memory.limit_in_bytes"] = str(limits.memory or -1)
        for name, value in values.items():
            controller, _, file = name.rpartition("/")
            path = self._root / controller / relative / file
            try:
                path.write_text(value)
            except OSError as error:
                log.debug("cannot write %s to cgroup %s: %s", value, path, error)
