"""Resources: does the pod fit, and which node is left least and most evenly allocated. Source: ``plugins/noderesources``."""

from __future__ import annotations

from typing import Any

from k3sd.scheduler.framework import MAX_SCORE, Plugin
from k3sd.scheduler.nodeinfo import NodeInfo
from k3sd.scheduler.podinfo import PodInfo

SCORED = ("cpu", "memory")


def insufficient(pod: PodInfo, node: NodeInfo) -> list[str]:
    """Names of the resources the node lacks for the pod; ``pods`` when it has its full number."""
    lacking = []
    if len(node.pods) + 1 > node.allocatable.get("pods", 0):
        lacking.append("pods")
    for name, need in pod.requests.items():
        if need > 0 and need > node.allocatable.get(name, 0) - node.requested.get(name, 0):
            lacking.append(name)
    return lacking


class ResourcesFit(Plugin):
    """NodeResourcesFit with the LeastAllocated strategy."""

    name = "NodeResourcesFit"
    scores = True

    def filter(self, pod: PodInfo, node: NodeInfo, state: Any) -> str:
        lacking = insufficient(pod, node)
        if not lacking:
            return ""
        return "Too many pods" if lacking[0] == "pods" else f"Insufficient {lacking[0]}"

    def score(self, pod: PodInfo, node: NodeInfo, state: Any) -> float:
        total = 0.0
        for name in SCORED:
            capacity = node.allocatable.get(name, 0)
            used = node.scoring.get(name, 0) + pod.scoring.get(name, 0)
            total += MAX_SCORE * (capacity - used) / capacity if 0 < used <= capacity else 0.0
        return total / len(SCORED)


class BalancedAllocation(Plugin):
    name = "NodeResourcesBalancedAllocation"
    scores = True

    def score(self, pod: PodInfo, node: NodeInfo, state: Any) -> float:
        fractions = []
        for name in SCORED:
            capacity = node.allocatable.get(name, 0)
            if capacity:
                used = node.requested.get(name, 0) + pod.requests.get(name, 0)
                fractions.append(min(used / capacity, 1.0))
        if len(fractions) < 2:
            return 0.0
        mean = sum(fractions) / len(fractions)
        deviation: float = (sum((f - mean) ** 2 for f in fractions) / len(fractions)) ** 0.5
        return MAX_SCORE * (1 - deviation)
