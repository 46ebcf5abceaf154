"""Nodes with what is used on them, kept current from events; pods just decided on are assumed until the watch confirms them.

Source: ``pkg/scheduler/backend/cache``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from k3sd.scheduler.podinfo import PodInfo, Resources, amounts, is_terminal

Obj = dict[str, Any]


class NodeInfo:
    """One node: its allocatable resources, the pods on it, and their sums."""

    __slots__ = ("allocatable", "labels", "name", "node", "pods", "ports", "requested", "scoring", "taints", "unschedulable")

    def __init__(self, name: str) -> None:
        self.name = name
        self.node: Obj | None = None
        self.allocatable: Resources = {}
        self.labels: dict[str, str] = {}
        self.taints: list[Obj] = []
        self.unschedulable = False
        self.pods: dict[str, PodInfo] = {}
        self.requested: Resources = {}
        self.scoring: Resources = {}
        self.ports: dict[tuple[str, str, int], int] = {}

    def set_node(self, node: Obj | None) -> None:
        self.node = node
        if node is None:
            return
        spec = node.get("spec") or {}
        self.allocatable = amounts((node.get("status") or {}).get("allocatable"))
        self.labels = node["metadata"].get("labels") or {}
        self.taints = spec.get("taints") or []
        self.unschedulable = bool(spec.get("unschedulable"))

    def add(self, pod: PodInfo) -> None:
        self.pods[pod.uid] = pod
        _sum(self.requested, pod.requests, 1)
        _sum(self.scoring, pod.scoring, 1)
        for port in pod.ports:
            self.ports[port] = self.ports.get(port, 0) + 1

    def remove(self, uid: str) -> PodInfo | None:
        pod = self.pods.pop(uid, None)
        if pod is not None:
            _sum(self.requested, pod.requests, -1)
            _sum(self.scoring, pod.scoring, -1)
            for port in pod.ports:
                self.ports[port] -= 1
                if not self.ports[port]:
                    del self.ports[port]
        return pod

    def copy(self) -> NodeInfo:
        """An independent copy, for trying what preemption would change."""
        other = NodeInfo(self.name)
        other.set_node(self.node)
        for pod in self.pods.values():
            other.add(pod)
        return other


def _sum(into: Resources, more: Resources, sign: int) -> None:
    for name, value in more.items():
        into[name] = into.get(name, 0) + sign * value


class Cache:
    """All nodes by name. ``__iter__`` gives those that exist as Node objects; being single-threaded, it is the snapshot."""

    def __init__(self) -> None:
        self._nodes: dict[str, NodeInfo] = {}
        self._where: dict[str, str] = {}
        self._assumed: set[str] = set()

    def __iter__(self) -> Iterator[NodeInfo]:
        return (info for info in self._nodes.values() if info.node is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def get(self, name: str) -> NodeInfo | None:
        return self._nodes.get(name)

    def _info(self, name: str) -> NodeInfo:
        return self._nodes.setdefault(name, NodeInfo(name))

    def set_node(self, node: Obj) -> None:
        self._info(node["metadata"]["name"]).set_node(node)

    def remove_node(self, name: str) -> None:
        """Pods of it may still be known; the entry goes with the last of them."""
        info = self._nodes.get(name)
        if info is not None:
            info.set_node(None)
            if not info.pods:
                del self._nodes[name]

    def set_pod(self, pod: Obj) -> None:
        """A bound pod as the watch has it. A finished one holds nothing any more."""
        node = pod["spec"].get("nodeName") or ""
        uid = pod["metadata"]["uid"]
        if not node:
            return
        self._assumed.discard(uid)
        self.remove_pod(uid)
        if not is_terminal(pod):
            self._where[uid] = node
            self._info(node).add(PodInfo(pod))

    def remove_pod(self, uid: str) -> None:
        node = self._where.pop(uid, None)
        self._assumed.discard(uid)
        if node is not None and (info := self._nodes.get(node)) is not None:
            info.remove(uid)
            if info.node is None and not info.pods:
                del self._nodes[node]

    def assume(self, pod: PodInfo, node: str) -> None:
        """Count the pod on the node from now on, before the API server says so."""
        self._where[pod.uid] = node
        self._assumed.add(pod.uid)
        self._info(node).add(pod)

    def forget(self, uid: str) -> None:
        """The binding failed: undo ``assume`` unless the watch has confirmed it meanwhile."""
        if uid in self._assumed:
            self.remove_pod(uid)

    def has(self, uid: str) -> bool:
        return uid in self._where
