"""Even spread over topology domains: the pod's own constraints, else upstream's soft defaults. Source:
``plugins/podtopologyspread``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from k3sd.apimachinery.selectors import LabelSelector, Requirement, label_selector_from
from k3sd.scheduler.framework import MAX_SCORE, Plugin
from k3sd.scheduler.nodeinfo import NodeInfo
from k3sd.scheduler.plugins.node import node_selected, tolerates_all
from k3sd.scheduler.podinfo import PodInfo

Obj = dict[str, Any]
DEFAULTS = (("kubernetes.io/hostname", 3), ("topology.kubernetes.io/zone", 5))


@dataclass(slots=True)
class Constraint:
    """One constraint with the matching pods counted per domain (domain value to number)."""

    key: str
    max_skew: int
    hard: bool
    min_domains: int
    selector: LabelSelector
    honor_affinity: bool
    honor_taints: bool
    counts: dict[str, int]

    @property
    def minimum(self) -> int:
        if len(self.counts) < self.min_domains:
            return 0
        return min(self.counts.values(), default=0)


def _own(pod: Obj) -> list[Constraint]:
    labels = pod["metadata"].get("labels") or {}
    found = []
    for raw in pod["spec"].get("topologySpreadConstraints") or ():
        selector = label_selector_from(raw.get("labelSelector"))
        keys = [key for key in raw.get("matchLabelKeys") or () if key in labels]
        if keys and not selector.nothing:
            extra = [Requirement(key, "in", (labels[key],)) for key in keys]
            selector = LabelSelector([*selector.requirements, *extra])
        found.append(
            Constraint(
                raw["topologyKey"],
                raw["maxSkew"],
                raw["whenUnsatisfiable"] == "DoNotSchedule",
                raw.get("minDomains") or 1,
                selector,
                raw.get("nodeAffinityPolicy") != "Ignore",
                raw.get("nodeTaintsPolicy") == "Honor",
                {},
            )
        )
    return found


def _default(pod: Obj) -> list[Constraint]:
    """Siblings of the same controller spread softly; upstream finds them by the selectors of services and workloads, which for
    a controller's pods are a subset of its template's labels: the owner reference says the same without looking those up."""
    labels = pod["metadata"].get("labels") or {}
    if not labels or not pod["metadata"].get("ownerReferences"):
        return []
    selector = LabelSelector([Requirement(key, "in", (value,)) for key, value in sorted(labels.items())])
    return [Constraint(key, skew, False, 1, selector, True, False, {}) for key, skew in DEFAULTS]


class PodTopologySpread(Plugin):
    name = "PodTopologySpread"
    weight = 2
    scores = True

    def prepare(self, pod: PodInfo, nodes: Sequence[NodeInfo]) -> list[Constraint]:
        constraints = _own(pod.pod)
        if not constraints and len(nodes) > 1:
            constraints = _default(pod.pod)
        namespace = pod.pod["metadata"].get("namespace")
        for node in nodes if constraints else ():
            for constraint in constraints:
                domain = node.labels.get(constraint.key)
                if domain is None or not self._counts(pod, node, constraint):
                    continue
                matching = sum(
                    1
                    for other in node.pods.values()
                    if other.pod["metadata"].get("namespace") == namespace
                    and "deletionTimestamp" not in other.pod["metadata"]
                    and constraint.selector.matches(other.pod["metadata"].get("labels"))
                )
                constraint.counts[domain] = constraint.counts.get(domain, 0) + matching
        return constraints

    @staticmethod
    def _counts(pod: PodInfo, node: NodeInfo, constraint: Constraint) -> bool:
        if constraint.honor_affinity and not node_selected(pod.pod, node):
            return False
        hard = [t for t in node.taints if t.get("effect") in ("NoSchedule", "NoExecute")]
        return not constraint.honor_taints or tolerates_all(pod.pod, hard)

    def filter(self, pod: PodInfo, node: NodeInfo, state: list[Constraint]) -> str:
        for constraint in state:
            if not constraint.hard:
                continue
            domain = node.labels.get(constraint.key)
            if domain is None:
                return "node(s) didn't match pod topology spread constraints (missing required label)"
            own = 1 if constraint.selector.matches(pod.pod["metadata"].get("labels")) else 0
            if constraint.counts.get(domain, 0) + own - constraint.minimum > constraint.max_skew:
                return "node(s) didn't match pod topology spread constraints"
        return ""

    def score(self, pod: PodInfo, node: NodeInfo, state: list[Constraint]) -> float:
        total = 0.0
        for constraint in state:
            domain = node.labels.get(constraint.key)
            if not constraint.hard and domain is not None:
                total += constraint.counts.get(domain, 0) + constraint.max_skew - 1
        return total

    def normalize(self, scores: dict[str, float], state: list[Constraint]) -> dict[str, float]:
        low, high = min(scores.values(), default=0.0), max(scores.values(), default=0.0)
        if high == 0:
            return dict.fromkeys(scores, float(MAX_SCORE))
        return {name: MAX_SCORE * (high + low - value) / high for name, value in scores.items()}
