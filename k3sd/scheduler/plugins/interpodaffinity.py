"""Pod affinity and anti-affinity, also that of pods already running. Source: ``plugins/interpodaffinity``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from k3sd.apimachinery.selectors import LabelSelector, Requirement, label_selector_from
from k3sd.scheduler.framework import MAX_SCORE, Plugin
from k3sd.scheduler.nodeinfo import NodeInfo
from k3sd.scheduler.podinfo import PodInfo

Obj = dict[str, Any]
Domain = tuple[str, str]


@dataclass(slots=True)
class Term:
    """One affinity term, resolved: which pods it means and over which topology key."""

    key: str
    selector: LabelSelector
    namespaces: frozenset[str]
    all_namespaces: bool
    weight: int = 0

    def matches(self, pod: Obj) -> bool:
        meta = pod["metadata"]
        return (self.all_namespaces or meta.get("namespace") in self.namespaces) and self.selector.matches(meta.get("labels"))


@dataclass(slots=True)
class State:
    affinity: list[Term] = field(default_factory=list)
    anti_affinity: list[Term] = field(default_factory=list)
    affinity_counts: dict[tuple[int, str], int] = field(default_factory=dict)
    anti_counts: dict[tuple[int, str], int] = field(default_factory=dict)
    existing_anti: set[Domain] = field(default_factory=set)
    score: dict[Domain, int] = field(default_factory=dict)


def _terms(pod: Obj, kind: str, mode: str) -> Iterable[Term]:
    """``kind``: podAffinity or podAntiAffinity; ``mode``: required or preferred."""
    affinity = (pod["spec"].get("affinity") or {}).get(kind) or {}
    for raw in affinity.get(f"{mode}DuringSchedulingIgnoredDuringExecution") or ():
        term = raw["podAffinityTerm"] if mode == "preferred" else raw
        labels = pod["metadata"].get("labels") or {}
        selector = label_selector_from(term.get("labelSelector"))
        extra = [Requirement(k, "in", (labels[k],)) for k in term.get("matchLabelKeys") or () if k in labels]
        extra += [Requirement(k, "notin", (labels[k],)) for k in term.get("mismatchLabelKeys") or () if k in labels]
        if extra and not selector.nothing:
            selector = LabelSelector([*selector.requirements, *extra])
        namespaces = frozenset(term.get("namespaces") or ())
        everywhere = term.get("namespaceSelector") == {}
        if not namespaces and term.get("namespaceSelector") is None:
            namespaces = frozenset([pod["metadata"].get("namespace", "")])
        yield Term(term["topologyKey"], selector, namespaces, everywhere, raw.get("weight", 0) if mode == "preferred" else 0)


def has_affinity(pod: Obj) -> bool:
    affinity = pod["spec"].get("affinity") or {}
    return bool(affinity.get("podAffinity") or affinity.get("podAntiAffinity"))


class InterPodAffinity(Plugin):
    name = "InterPodAffinity"
    weight = 2
    scores = True

    def prepare(self, pod: PodInfo, nodes: Sequence[NodeInfo]) -> State | None:
        state = State()
        mine = has_affinity(pod.pod)
        state.affinity = list(_terms(pod.pod, "podAffinity", "required"))
        state.anti_affinity = list(_terms(pod.pod, "podAntiAffinity", "required"))
        soft = [*_terms(pod.pod, "podAffinity", "preferred")]
        soft += [
            Term(t.key, t.selector, t.namespaces, t.all_namespaces, -t.weight)
            for t in _terms(pod.pod, "podAntiAffinity", "preferred")
        ]
        touched = mine
        for node in nodes:
            for other in node.pods.values():
                if mine:
                    self._count(state, soft, node, other.pod)
                if has_affinity(other.pod):
                    touched = True
                    self._existing(state, pod.pod, node, other.pod)
        return state if touched else None

    @staticmethod
    def _count(state: State, soft: list[Term], node: NodeInfo, other: Obj) -> None:
        all_match = bool(state.affinity) and all(t.matches(other) for t in state.affinity)
        for index, term in enumerate(state.affinity):
            domain = node.labels.get(term.key)
            if all_match and domain is not None:
                key = (index, domain)
                state.affinity_counts[key] = state.affinity_counts.get(key, 0) + 1
        for index, term in enumerate(state.anti_affinity):
            domain = node.labels.get(term.key)
            if domain is not None and term.matches(other):
                state.anti_counts[(index, domain)] = state.anti_counts.get((index, domain), 0) + 1
        for term in soft:
            domain = node.labels.get(term.key)
            if domain is not None and term.matches(other):
                state.score[(term.key, domain)] = state.score.get((term.key, domain), 0) + term.weight

    @staticmethod
    def _existing(state: State, pod: Obj, node: NodeInfo, other: Obj) -> None:
        for term in _terms(other, "podAntiAffinity", "required"):
            domain = node.labels.get(term.key)
            if domain is not None and term.matches(pod):
                state.existing_anti.add((term.key, domain))
        for kind, sign in (("podAffinity", 1), ("podAntiAffinity", -1)):
            for term in _terms(other, kind, "preferred"):
                domain = node.labels.get(term.key)
                if domain is not None and term.matches(pod):
                    key = (term.key, domain)
                    state.score[key] = state.score.get(key, 0) + sign * term.weight

    def filter(self, pod: PodInfo, node: NodeInfo, state: State | None) -> str:
        if state is None:
            return ""
        for index, term in enumerate(state.affinity):
            domain = node.labels.get(term.key)
            if domain is None:
                return "node(s) didn't match pod affinity rules"
            if not state.affinity_counts.get((index, domain)) and not self._first_of_its_kind(pod.pod, state):
                return "node(s) didn't match pod affinity rules"
        for index, term in enumerate(state.anti_affinity):
            domain = node.labels.get(term.key)
            if domain is not None and state.anti_counts.get((index, domain)):
                return "node(s) didn't match pod anti-affinity rules"
        if any(node.labels.get(key) == domain for key, domain in state.existing_anti):
            return "node(s) didn't satisfy existing pods anti-affinity rules"
        return ""

    @staticmethod
    def _first_of_its_kind(pod: Obj, state: State) -> bool:
        """A pod that wants to be near its own kind may be the first one anywhere."""
        return not state.affinity_counts and all(term.matches(pod) for term in state.affinity)

    def score(self, pod: PodInfo, node: NodeInfo, state: State | None) -> float:
        if state is None:
            return 0.0
        return float(sum(weight for (key, domain), weight in state.score.items() if node.labels.get(key) == domain))

    def normalize(self, scores: dict[str, float], state: State | None) -> dict[str, float]:
        low, high = min(scores.values(), default=0.0), max(scores.values(), default=0.0)
        if high == low:
            return dict.fromkeys(scores, 0.0)
        return {name: MAX_SCORE * (value - low) / (high - low) for name, value in scores.items()}
