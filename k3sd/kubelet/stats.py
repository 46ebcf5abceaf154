"""Usage of node, pods and containers, from CRI's container statistics and /proc: ``/stats/summary``, ``/metrics/resource``.

Source: Kubernetes 1.36, ``staging/src/k8s.io/kubelet/pkg/apis/stats/v1alpha1`` and ``pkg/kubelet/metrics/collectors``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from typing import Any

from k3sd.apimachinery import timefmt

Obj = dict[str, Any]

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_POD_LABELS = ("io.kubernetes.pod.namespace", "io.kubernetes.pod.name", "io.kubernetes.pod.uid", "io.kubernetes.container.name")


def node_cpu_seconds() -> float:
    """CPU time used by anything on this machine since it started."""
    with open("/proc/stat", encoding="ascii") as file:
        fields = [int(field) for field in file.readline().split()[1:9]]
    idle = fields[3] + fields[4]
    return (sum(fields) - idle) / _TICKS


def node_memory() -> tuple[int, int]:
    """Bytes in use that cannot be reclaimed, and bytes available."""
    values: dict[str, int] = {}
    with open("/proc/meminfo", encoding="ascii") as file:
        for line in file:
            name, _, rest = line.partition(":")
            values[name] = int(rest.split()[0]) * 1024
    return values["MemTotal"] - values["MemAvailable"], values["MemAvailable"]


def _identity(stat: Any) -> tuple[str, str, str, str]:
    namespace, pod, uid, container = (str(stat.attributes.labels.get(key, "")) for key in _POD_LABELS)
    return namespace, pod, uid, container


def _current(containers: Iterable[Any]) -> list[Any]:
    """Without the earlier instances of restarted containers, which the runtime lists too."""
    latest: dict[tuple[str, str, str, str], Any] = {}
    for stat in containers:
        known = latest.get(_identity(stat))
        if known is None or stat.attributes.metadata.attempt > known.attributes.metadata.attempt:
            latest[_identity(stat)] = stat
    return list(latest.values())


def _usage(stat: Any) -> tuple[int, int]:
    """CPU nanoseconds and working set bytes."""
    return int(stat.cpu.usage_core_nano_seconds.value), int(stat.memory.working_set_bytes.value)


def summary(node_name: str, containers: Iterable[Any], pods: Sequence[Obj]) -> Obj:
    """The ``Summary`` object. ``containers`` are CRI's ContainerStats."""
    now = timefmt.now()
    known: dict[str, Obj] = {}
    for pod in pods:
        metadata = pod["metadata"]
        reference = {"name": metadata["name"], "namespace": metadata.get("namespace", ""), "uid": metadata["uid"]}
        started = (pod.get("status") or {}).get("startTime") or metadata.get("creationTimestamp")
        known[metadata["uid"]] = {"podRef": reference, "startTime": started, "containers": []}
    totals: dict[str, list[int]] = {uid: [0, 0] for uid in known}
    for stat in _current(containers):
        _, _, uid, name = _identity(stat)
        if uid not in known:
            continue
        cpu, memory = _usage(stat)
        totals[uid][0] += cpu
        totals[uid][1] += memory
        entry: Obj = {"name": name, "startTime": known[uid]["startTime"], **_sections(now, cpu, memory)}
        entry["rootfs"] = {
            "time": now,
            "usedBytes": int(stat.writable_layer.used_bytes.value),
            "inodesUsed": int(stat.writable_layer.inodes_used.value),
        }
        known[uid]["containers"].append(entry)
    for uid, (cpu, memory) in totals.items():
        known[uid].update(_sections(now, cpu, memory))
    used, available = node_memory()
    node = {"nodeName": node_name, "startTime": _boot_time(), **_sections(now, round(node_cpu_seconds() * 1e9), used)}
    node["memory"]["availableBytes"] = available
    node["fs"] = _filesystem(now)
    return {"node": node, "pods": list(known.values())}


def _sections(now: str, cpu_nanoseconds: int, memory_bytes: int) -> Obj:
    return {
        "cpu": {"time": now, "usageCoreNanoSeconds": cpu_nanoseconds},
        "memory": {"time": now, "workingSetBytes": memory_bytes},
    }


def _filesystem(now: str, path: str = "/var/lib") -> Obj:
    info = os.statvfs(path)
    return {
        "time": now,
        "availableBytes": info.f_bavail * info.f_frsize,
        "capacityBytes": info.f_blocks * info.f_frsize,
        "usedBytes": (info.f_blocks - info.f_bfree) * info.f_frsize,
        "inodesFree": info.f_favail,
        "inodes": info.f_files,
        "inodesUsed": info.f_files - info.f_ffree,
    }


def _boot_time() -> str:
    with open("/proc/stat", encoding="ascii") as file:
        for line in file:
            if line.startswith("btime "):
                return timefmt.from_epoch(int(line.split()[1]))
    return timefmt.now()


def resource_metrics(containers: Iterable[Any]) -> str:
    """``/metrics/resource``, what metrics-server reads."""
    lines = _Lines()
    pods: dict[tuple[str, str], list[int]] = {}
    rows = []
    for stat in _current(containers):
        namespace, pod, _, name = _identity(stat)
        cpu, memory = _usage(stat)
        rows.append((f'{{container="{name}",namespace="{namespace}",pod="{pod}"}}', cpu, memory))
        total = pods.setdefault((namespace, pod), [0, 0])
        total[0] += cpu
        total[1] += memory
    pod_rows = [(f'{{namespace="{ns}",pod="{pod}"}}', cpu, memory) for (ns, pod), (cpu, memory) in pods.items()]
    for scope, group in (("container", rows), ("pod", pod_rows)):
        for label, cpu, _ in group:
            lines.add(f"{scope}_cpu_usage_seconds_total", "counter", label, cpu / 1e9)
        for label, _, memory in group:
            lines.add(f"{scope}_memory_working_set_bytes", "gauge", label, memory)
    lines.add("node_cpu_usage_seconds_total", "counter", "", node_cpu_seconds())
    lines.add("node_memory_working_set_bytes", "gauge", "", node_memory()[0])
    lines.add("resource_scrape_error", "gauge", "", 0)
    return str(lines)


def process_metrics(pods: int) -> str:
    """``/metrics``: this process itself, and how many pods it keeps."""
    with open("/proc/self/stat", encoding="ascii") as file:
        fields = file.read().rpartition(")")[2].split()
    lines = _Lines()
    lines.add("kubelet_running_pods", "gauge", "", pods)
    lines.add("process_cpu_seconds_total", "counter", "", (int(fields[11]) + int(fields[12])) / _TICKS)
    lines.add("process_resident_memory_bytes", "gauge", "", int(fields[21]) * _PAGE)
    lines.add("process_open_fds", "gauge", "", len(os.listdir("/proc/self/fd")))
    lines.add("process_start_time_seconds", "gauge", "", time.time() - _uptime() + int(fields[19]) / _TICKS)
    return str(lines)


def _uptime() -> float:
    with open("/proc/uptime", encoding="ascii") as file:
        return float(file.read().split()[0])


class _Lines:
    """Prometheus text: a TYPE line before the first sample of a name; samples of one name must come together."""

    def __init__(self) -> None:
        self._out: list[str] = []
        self._typed: set[str] = set()

    def add(self, name: str, type_: str, labels: str, value: float) -> None:
        if name not in self._typed:
            self._typed.add(name)
            self._out.append(f"# TYPE {name} {type_}")
        self._out.append(f"{name}{labels} {value:.10g}")

    def __str__(self) -> str:
        return "\n".join(self._out) + "\n"
