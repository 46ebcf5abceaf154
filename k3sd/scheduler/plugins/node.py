"""Plugins that look at one node alone: name, unschedulable, taints, node selector and affinity, host ports, images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from k3sd.scheduler.framework import MAX_SCORE, Plugin, scale_to_max
from k3sd.scheduler.nodeinfo import NodeInfo
from k3sd.scheduler.podinfo import PodInfo

Obj = dict[str, Any]
UNSCHEDULABLE_TAINT = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}


class NodeName(Plugin):
    name = "NodeName"
    resolvable = False

    def filter(self, pod: PodInfo, node: NodeInfo, state: Any) -> str:
        wanted = pod.pod["spec"].get("nodeName")
        return "" if not wanted or wanted == node.name else "node(s) didn't match the requested node name"


class NodeUnschedulable(Plugin):
    name = "NodeUnschedulable"
    resolvable = False

    def filter(self, pod: PodInfo, node: NodeInfo, state: Any) -> str:
        if not node.unschedulable or tolerates_all(pod.pod, [UNSCHEDULABLE_TAINT]):
            return ""
        return "node(s) were unschedulable"


def tolerates(toleration: Obj, taint: Obj) -> bool:
    """``v1helper.ToleratesTaint``, including the numeric operators of newer releases being absent: Exists and Equal."""
    if toleration.get("effect") and toleration["effect"] != taint.get("effect"):
        return False
    if toleration.get("key") and toleration["key"] != taint.get("key"):
        return False
    operator = toleration.get("operator") or "Equal"
    if operator == "Exists":
        return True
    return operator == "Equal" and bool(toleration.get("key")) and (toleration.get("value") or "") == (taint.get("value") or "")


def tolerates_all(pod: Obj, taints: Sequence[Obj]) -> bool:
    return all(any(tolerates(t, taint) for t in pod["spec"].get("tolerations") or ()) for taint in taints)


class TaintToleration(Plugin):
    name = "TaintToleration"
    weight = 3
    scores = True
    resolvable = False

    def filter(self, pod: PodInfo, node: NodeInfo, state: Any) -> str:
        tolerations = pod.pod["spec"].get("tolerations") or ()
        for taint in node.taints:
            if taint.get("effect") in ("NoSchedule", "NoExecute") and not any(tolerates(t, taint) for t in tolerations):
                return f"node(s) had untolerated taint(s) {{{taint['key']}: {taint.get('value') or ''}}}"
        return ""

    def score(self, pod: PodInfo, node: NodeInfo, state: Any) -> float:
        soft = [t for t in pod.pod["spec"].get("tolerations") or () if t.get("effect") in (None, "", "PreferNoSchedule")]
        return sum(
            1.0
            for taint in node.taints
            if taint.get("effect") == "PreferNoSchedule" and not any(tolerates(t, taint) for t in soft)
        )

    def normalize(self, scores: dict[str, float], state: Any) -> dict[str, float]:
        return scale_to_max(scores, reverse=True)


def requirement_matches(requirement: Obj, values: Mapping[str, str]) -> bool:
    """One node selector requirement (``component-helpers/scheduling/corev1/nodeaffinity``)."""
    key, operator, wanted = requirement["key"], requirement["operator"], requirement.get("values") or []
    value = values.get(key)
    match operator:
        case "In":
            return value is not None and value in wanted
        case "NotIn":
            return value is None or value not in wanted
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt" | "Lt":
            try:
                number, limit = int(value or ""), int(wanted[0])
            except (ValueError, IndexError):
                return False
            return number > limit if operator == "Gt" else number < limit
    return False


def term_matches(term: Obj, node: NodeInfo) -> bool:
    """A term without any requirement matches nothing."""
    expressions, fields = term.get("matchExpressions") or (), term.get("matchFields") or ()
    if not expressions and not fields:
        return False
    return all(requirement_matches(r, node.labels) for r in expressions) and all(
        requirement_matches(r, {"metadata.name": node.name}) for r in fields
    )


def node_selected(pod: Obj, node: NodeInfo) -> bool:
    """nodeSelector and required node affinity together."""
    spec = pod["spec"]
    if any(node.labels.get(key) != value for key, value in (spec.get("nodeSelector") or {}).items()):
        return False
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    if required is None:
        return True
    return any(term_matches(term, node) for term in required.get("nodeSelectorTerms") or ())


class NodeAffinity(Plugin):
    name = "NodeAffinity"
    weight = 2
    scores = True
    resolvable = False

    def filter(self, pod: PodInfo, node: NodeInfo, state: Any) -> str:
        return "" if node_selected(pod.pod, node) else "node(s) didn't match Pod's node affinity/selector"

    def score(self, pod: PodInfo, node: NodeInfo, state: Any) -> float:
        affinity = (pod.pod["spec"].get("affinity") or {}).get("nodeAffinity") or {}
        preferred = affinity.get("preferredDuringSchedulingIgnoredDuringExecution") or ()
        return float(sum(p["weight"] for p in preferred if term_matches(p["preference"], node)))

    def normalize(self, scores: dict[str, float], state: Any) -> dict[str, float]:
        return scale_to_max(scores)


def port_conflicts(port: tuple[str, str, int], used: Mapping[tuple[str, str, int], int]) -> bool:
    """0.0.0.0 conflicts with every address of the same protocol and port."""
    address, protocol, number = port
    if address == "0.0.0.0":
        return any(p == protocol and n == number for _, p, n in used)
    return port in used or ("0.0.0.0", protocol, number) in used


class NodePorts(Plugin):
    name = "NodePorts"

    def filter(self, pod: PodInfo, node: NodeInfo, state: Any) -> str:
        if any(port_conflicts(port, node.ports) for port in pod.ports):
            return "node(s) didn't have free ports for the requested pod ports"
        return ""


class ImageLocality(Plugin):
    """Prefers nodes that have the images already, by size."""

    name = "ImageLocality"
    scores = True
    _MIN, _MAX = 23 * 1024 * 1024, 1000 * 1024 * 1024

    def prepare(self, pod: PodInfo, nodes: Sequence[NodeInfo]) -> dict[str, float]:
        wanted = {_with_tag(c.get("image") or "") for c in pod.pod["spec"].get("containers") or ()}
        found: dict[str, dict[str, int]] = {}
        for node in nodes if len(nodes) > 1 else ():
            for image in ((node.node or {}).get("status") or {}).get("images") or ():
                for name in wanted.intersection(image.get("names") or ()):
                    found.setdefault(name, {})[node.name] = image.get("sizeBytes") or 0
        sums: dict[str, float] = {}
        for holders in found.values():
            spread = len(holders) / len(nodes)
            for node_name, size in holders.items():
                sums[node_name] = sums.get(node_name, 0.0) + size * spread
        return sums

    def score(self, pod: PodInfo, node: NodeInfo, state: dict[str, float]) -> float:
        top = self._MAX * max(1, len(pod.pod["spec"].get("containers") or ()))
        value = min(max(state.get(node.name, 0.0), self._MIN), top)
        return MAX_SCORE * (value - self._MIN) / (top - self._MIN)


def _with_tag(image: str) -> str:
    return image if ":" in image.rsplit("/", 1)[-1] or "@" in image else f"{image}:latest"
