"""One scheduling cycle as a pure function: filter all nodes, score those left, choose. Plugins are small classes.

Source: ``pkg/scheduler/schedule_one.go``, ``framework/interface.go``.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from k3sd.scheduler.nodeinfo import NodeInfo
from k3sd.scheduler.podinfo import PodInfo

Obj = dict[str, Any]
MAX_SCORE = 100


class Plugin:
    """A filter, a score or both. ``prepare`` runs once a cycle (upstream's PreFilter and PreScore) and returns state handed
    to the others; ``filter`` returns a reason the node does not fit, or an empty string; ``score`` a number, ``normalize``
    brings all
    to 0..100."""

    name = ""
    weight = 1
    scores = False
    resolvable = True
    """False when removing pods from the node cannot help (upstream's UnschedulableAndUnresolvable)."""

    def prepare(self, pod: PodInfo, nodes: Sequence[NodeInfo]) -> Any:
        return None

    def filter(self, pod: PodInfo, node: NodeInfo, state: Any) -> str:
        return ""

    def score(self, pod: PodInfo, node: NodeInfo, state: Any) -> float:
        return 0.0

    def normalize(self, scores: dict[str, float], state: Any) -> dict[str, float]:
        return scores


@dataclass(slots=True)
class Unschedulable(Exception):
    """No node fits. ``reasons``: node name to (plugin, reason); ``early`` says why not even nodes were looked at."""

    total: int
    reasons: dict[str, tuple[Plugin, str]] = field(default_factory=dict)
    early: str = ""

    @property
    def message(self) -> str:
        """kube-scheduler's sentence (``FitError.Error``)."""
        if not self.total:
            return "no nodes available to schedule pods"
        counts = Counter(reason for _, reason in self.reasons.values())
        parts = sorted(f"{count} {reason}" for reason, count in counts.items())
        text = ", ".join(parts) if parts else self.early
        return f"0/{self.total} nodes are available: {text}."

    @property
    def plugins(self) -> set[str]:
        return {plugin.name for plugin, _ in self.reasons.values()}


def first_reason(pod: PodInfo, node: NodeInfo, plugins: Iterable[tuple[Plugin, Any]]) -> tuple[Plugin, str] | None:
    """The first plugin that refuses the node, with its reason."""
    for plugin, state in plugins:
        if reason := plugin.filter(pod, node, state):
            return plugin, reason
    return None


def schedule(
    pod: PodInfo, nodes: Sequence[NodeInfo], plugins: Sequence[Plugin], choose: Callable[[list[str]], str] = random.choice
) -> str:  # fmt: skip
    """The name of the best node. Raises Unschedulable. ``choose`` breaks ties."""
    prepared = [(plugin, plugin.prepare(pod, nodes)) for plugin in plugins]
    failed = Unschedulable(len(nodes))
    fitting: list[NodeInfo] = []
    for node in nodes:
        refusal = first_reason(pod, node, prepared)
        if refusal is None:
            fitting.append(node)
        else:
            failed.reasons[node.name] = refusal
    if not fitting:
        raise failed
    if len(fitting) == 1:
        return fitting[0].name
    totals = {node.name: 0.0 for node in fitting}
    for plugin, state in prepared:
        if not plugin.scores:
            continue
        raw = {node.name: plugin.score(pod, node, state) for node in fitting}
        for name, value in plugin.normalize(raw, state).items():
            totals[name] += plugin.weight * value
    best = max(totals.values())
    return choose([name for name, value in totals.items() if value == best])


def scale_to_max(scores: dict[str, float], reverse: bool = False) -> dict[str, float]:
    """Upstream's ``DefaultNormalizeScore``."""
    top = max(scores.values(), default=0)
    if top == 0:
        return dict.fromkeys(scores, float(MAX_SCORE)) if reverse else scores
    scaled = {name: MAX_SCORE * value / top for name, value in scores.items()}
    return {name: MAX_SCORE - value for name, value in scaled.items()} if reverse else scaled
