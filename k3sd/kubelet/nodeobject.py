"""What the Node object says of this machine: facts, capacity, conditions, addresses, labels. Pure but for reading the facts.

Source: Kubernetes 1.36 ``pkg/kubelet/nodestatus/setters.go``; K3s 1.36 ``pkg/agent/run.go``, ``pkg/cloudprovider``.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from k3sd.apimachinery import quantity
from k3sd.config.settings import Settings
from k3sd.kubelet.podinfo import Obj

MAX_IMAGES = 50
MAX_IMAGE_NAMES = 5


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """What a Node says of its machine. Sizes in bytes."""

    cpus: int
    memory: int
    storage: int
    machine_id: str
    system_uuid: str
    boot_id: str
    kernel: str
    os_image: str
    hugepages: Mapping[str, int] = field(default_factory=dict)
    swap: int = 0


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def memory_info() -> dict[str, int]:
    """``/proc/meminfo`` in bytes."""
    rows = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    return {row[0].rstrip(":"): int(row[1]) * (1024 if len(row) > 2 else 1) for row in rows}


def read_machine(root: Path) -> MachineFacts:
    """``root`` is on the filesystem whose size counts as ephemeral storage."""
    memory = memory_info()
    place = next(p for p in (root, *root.parents) if p.exists())
    disk = os.statvfs(place)
    release = dict(line.split("=", 1) for line in _read("/etc/os-release").splitlines() if "=" in line)
    pages = {
        entry.name.removeprefix("hugepages-"): int(_read(str(entry / "nr_hugepages")) or 0)
        for entry in Path("/sys/kernel/mm/hugepages").glob("hugepages-*kB")
    }
    machine_id = _read("/etc/machine-id") or _read("/var/lib/dbus/machine-id")
    return MachineFacts(
        cpus=os.cpu_count() or 1,
        memory=memory["MemTotal"],
        storage=disk.f_blocks * disk.f_frsize,
        machine_id=machine_id,
        system_uuid=_read("/sys/class/dmi/id/product_uuid") or machine_id,
        boot_id=_read("/proc/sys/kernel/random/boot_id"),
        kernel=os.uname().release,
        os_image=release.get("PRETTY_NAME", "Linux").strip('"'),
        hugepages={size: count * int(size.removesuffix("kB")) * 1024 for size, count in pages.items()},
        swap=memory.get("SwapTotal", 0),
    )


def build_capacity(facts: MachineFacts, max_pods: int) -> dict[str, str]:
    out = {
        "cpu": str(facts.cpus),
        "memory": f"{facts.memory // 1024}Ki",
        "ephemeral-storage": f"{facts.storage // 1024}Ki",
        "pods": str(max_pods),
    }
    for size, total in facts.hugepages.items():
        kilobytes = int(size.removesuffix("kB"))
        name = (
            f"{kilobytes >> 20}Gi"
            if kilobytes >= 1 << 20
            else f"{kilobytes >> 10}Mi"
            if kilobytes >= 1024
            else f"{kilobytes}Ki"
        )
        out[f"hugepages-{name}"] = quantity.canonical(str(quantity.from_int(total, "BinarySI")))
    return out


def build_allocatable(capacity: Mapping[str, str], reserved: Mapping[str, str], disk_percent: int = 5) -> dict[str, str]:
    """Capacity without what is reserved: by the operator, by the disk eviction threshold, and by huge pages."""
    out = dict(capacity)
    storage = quantity.parse(capacity["ephemeral-storage"]).value()
    out["ephemeral-storage"] = str(storage - storage * disk_percent // 100)
    taken = [*reserved.items(), *(("memory", v) for k, v in capacity.items() if k.startswith("hugepages-"))]
    for name, amount in taken:
        if name in out:
            left = quantity.parse(out[name]) - quantity.parse(amount)
            out[name] = str(left if quantity.from_int(0) < left else quantity.from_int(0))
    return out


def merge_resources(ours: Mapping[str, str], shown: Mapping[str, str]) -> dict[str, str]:
    """What is shown under other names (extended resources that somebody else advertises) stays."""
    return {**{k: v for k, v in shown.items() if "/" in k}, **ours}


def parse_reserved(texts: Sequence[str]) -> dict[str, str]:
    """``cpu=100m,memory=1Gi`` of ``kube-reserved`` and ``system-reserved``, added up."""
    total: dict[str, str] = {}
    for text in texts:
        for pair in filter(None, text.split(",")):
            name, _, value = pair.partition("=")
            amount = quantity.parse(value)
            total[name.strip()] = str(quantity.parse(total[name]) + amount if name in total else amount)
    return total


@dataclass(slots=True)
class Health:
    """What the conditions say. ``problem`` is why the node is not Ready, empty when it is."""

    problem: str = ""
    memory_pressure: bool = False
    disk_pressure: bool = False
    pid_pressure: bool = False


def build_conditions(health: Health, old: Sequence[Obj], now: str) -> list[Obj]:
    def pick(bad: bool, kind: str, reason: str, message: str, bad_reason: str, bad_message: str) -> Obj:
        status, why, text = ("True", bad_reason, bad_message) if bad else ("False", reason, message)
        return {"type": kind, "status": status, "reason": why, "message": text}

    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "kubelet is posting ready status"}
    if health.problem:
        ready = {"type": "Ready", "status": "False", "reason": "KubeletNotReady", "message": health.problem}
    conditions = [
        pick(
            health.memory_pressure,
            "MemoryPressure",
            "KubeletHasSufficientMemory",
            "kubelet has sufficient memory available",
            "KubeletHasInsufficientMemory",
            "kubelet has insufficient memory available",
        ),
        pick(
            health.disk_pressure,
            "DiskPressure",
            "KubeletHasNoDiskPressure",
            "kubelet has no disk pressure",
            "KubeletHasDiskPressure",
            "kubelet has disk pressure",
        ),
        pick(
            health.pid_pressure,
            "PIDPressure",
            "KubeletHasSufficientPID",
            "kubelet has sufficient PID available",
            "KubeletHasInsufficientPID",
            "kubelet has insufficient PID available",
        ),
        ready,
    ]
    before = {c["type"]: c for c in old}
    for condition in conditions:
        known = before.get(condition["type"])
        same = known is not None and known.get("status") == condition["status"]
        condition["lastHeartbeatTime"] = now
        condition["lastTransitionTime"] = (known or {}).get("lastTransitionTime", now) if same else now
    return conditions


def build_addresses(settings: Settings) -> list[Obj]:
    external = [{"type": "ExternalIP", "address": ip} for ip in settings.node_external_ips]
    internal = [{"type": "InternalIP", "address": ip} for ip in settings.node_ips]
    return [*internal, *external, {"type": "Hostname", "address": settings.node_name}]


def build_labels(settings: Settings, arch: str) -> dict[str, str]:
    """What a registering node of K3s carries; the operator's ``node-label`` come on top. Its role is its server's to say."""
    labels = {
        "kubernetes.io/hostname": settings.node_name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": arch,
        "beta.kubernetes.io/os": "linux",
        "beta.kubernetes.io/arch": arch,
        "node.kubernetes.io/instance-type": "k3s",
        "beta.kubernetes.io/instance-type": "k3s",
    }
    for text in settings.node_labels:
        key, _, value = text.partition("=")
        labels[key] = value
    return labels


def parse_taint(text: str) -> Obj:
    """``key[=value]:effect``."""
    pair, _, effect = text.rpartition(":")
    key, _, value = pair.partition("=")
    return {"key": key, "effect": effect, **({"value": value} if value else {})}


def build_annotations(settings: Settings) -> dict[str, str]:
    """K3s's own."""
    args, env = (json.dumps(value, separators=(",", ":")) for value in (settings.node_args, settings.node_env))
    out = {
        "k3s.io/hostname": settings.node_name,
        "k3s.io/internal-ip": ",".join(settings.node_ips),
        "volumes.kubernetes.io/controller-managed-attach-detach": "true",
    }
    if settings.node_external_ips:
        out["k3s.io/external-ip"] = ",".join(settings.node_external_ips)
    if settings.node_args:
        out["k3s.io/node-args"] = args
        out["k3s.io/node-env"] = env
        out["k3s.io/node-config-hash"] = base64.b32encode(hashlib.sha256((args + env).encode()).digest()).decode()
    return out


def build_images(images: Sequence[Any]) -> list[Obj]:
    """The largest ones, as ``status.images``; the same list however the runtime orders them."""
    largest = sorted(images, key=lambda i: (i.size, i.id), reverse=True)[:MAX_IMAGES]
    rows = [([*i.repo_digests, *i.repo_tags][:MAX_IMAGE_NAMES], int(i.size)) for i in largest]
    return [{"names": names, "sizeBytes": size} for names, size in rows if names]
