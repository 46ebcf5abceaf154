"""What a pod asks for, computed once: resources, host ports. Pure.

Sources: ``pkg/api/v1/resource/helpers.go`` (``PodRequests``), ``pkg/scheduler/framework/types.go``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from k3sd.apimachinery import quantity
from k3sd.apimachinery.podresources import add, aggregate

Obj = dict[str, Any]
Resources = dict[str, int]
"""Resource name to amount: ``cpu`` in milli, everything else in its unit."""

DEFAULT_MILLI_CPU = 100
DEFAULT_MEMORY_BYTES = 200 * 1024 * 1024
"""What a container without requests counts for in scoring (``schedutil.DefaultMilliCPURequest``)."""


def amount(name: str, text: Any) -> int:
    parsed = quantity.parse(text)
    return parsed.milli() if name == "cpu" else parsed.value()


def amounts(resources: Mapping[str, Any] | None) -> Resources:
    return {name: amount(name, value) for name, value in (resources or {}).items()}


def _requests(container: Obj, defaults: bool) -> Resources:
    found = amounts((container.get("resources") or {}).get("requests"))
    if defaults:
        found.setdefault("cpu", DEFAULT_MILLI_CPU)
        found.setdefault("memory", DEFAULT_MEMORY_BYTES)
    return found


def pod_requests(pod: Obj, *, defaults: bool = False) -> Resources:
    """Sum of containers and sidecars, or the largest init step where that is more, or what the pod says for itself, plus
    overhead.

    ``defaults`` counts containers without cpu or memory requests as upstream's scoring does.
    """
    spec = pod["spec"]
    total = aggregate(spec, lambda container: _requests(container, defaults))
    for name, value in amounts((spec.get("resources") or {}).get("requests")).items():
        total[name] = value
    if spec.get("overhead"):
        add(total, amounts(spec["overhead"]))
    return total


def host_ports(pod: Obj) -> list[tuple[str, str, int]]:
    """``(host IP, protocol, port)`` of every host port; on the host's network a container port is one too."""
    spec = pod["spec"]
    found = []
    for container in (*(spec.get("containers") or ()), *(spec.get("initContainers") or ())):
        for port in container.get("ports") or ():
            number = port.get("hostPort") or (port.get("containerPort") if spec.get("hostNetwork") else 0)
            if number:
                found.append((port.get("hostIP") or "0.0.0.0", port.get("protocol") or "TCP", int(number)))
    return found


class PodInfo:
    """A pod with what the cycle needs of it. ``priority`` as admission resolved it."""

    __slots__ = ("key", "pod", "ports", "priority", "requests", "scoring", "uid")

    def __init__(self, pod: Obj) -> None:
        meta = pod["metadata"]
        self.pod = pod
        self.uid: str = meta.get("uid", "")
        self.key = f"{meta.get('namespace', '')}/{meta['name']}"
        self.requests = pod_requests(pod)
        self.scoring = pod_requests(pod, defaults=True)
        self.ports = host_ports(pod)
        self.priority: int = pod["spec"].get("priority") or 0

    def __repr__(self) -> str:
        return f"<PodInfo {self.key}>"


def is_terminal(pod: Obj) -> bool:
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")
