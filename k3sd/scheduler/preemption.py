"""Which lower-priority pods would have to go for a pod to fit: pure. Source: ``framework/preemption``,
``plugins/defaultpreemption``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from k3sd.apimachinery.selectors import label_selector_from
from k3sd.scheduler.framework import Plugin, Unschedulable, first_reason
from k3sd.scheduler.nodeinfo import NodeInfo
from k3sd.scheduler.podinfo import PodInfo

Obj = dict[str, Any]


@dataclass(slots=True)
class Candidate:
    """A node and the pods to remove from it, most important first. ``violations``: victims whose budget does not allow it."""

    node: str
    victims: list[PodInfo]
    violations: int


def started(pod: PodInfo) -> str:
    """When it began to run, RFC 3339; one that has not begun counts as newest."""
    return (pod.pod.get("status") or {}).get("startTime") or "9"


def by_importance(pods: Sequence[PodInfo]) -> list[PodInfo]:
    """Higher priority first, then longer running."""
    return sorted(pods, key=lambda p: (-p.priority, started(p)))


def split_by_budget(pods: Sequence[PodInfo], budgets: Sequence[Obj]) -> tuple[list[PodInfo], list[PodInfo]]:
    """``(those whose eviction breaks a budget, the others)``; each budget's allowance is used up in order."""
    left = {id(b): (b.get("status") or {}).get("disruptionsAllowed") or 0 for b in budgets}
    selectors = {id(b): label_selector_from((b.get("spec") or {}).get("selector")) for b in budgets}
    violating: list[PodInfo] = []
    fine: list[PodInfo] = []
    for pod in pods:
        meta = pod.pod["metadata"]
        broken = False
        for budget in budgets:
            if budget["metadata"]["namespace"] != meta.get("namespace") or not selectors[id(budget)].matches(
                meta.get("labels")
            ):
                continue
            if meta["name"] in ((budget.get("status") or {}).get("disruptedPods") or {}):
                continue
            left[id(budget)] -= 1
            broken = broken or left[id(budget)] < 0
        (violating if broken else fine).append(pod)
    return violating, fine


def victims_on(
    pod: PodInfo, node: NodeInfo, others: Sequence[NodeInfo], plugins: Sequence[Plugin], budgets: Sequence[Obj]
) -> Candidate | None:  # fmt: skip
    """Remove all lower-priority pods, then give back as many as still fit, the important ones first. None when even that is not
    enough or nothing could be removed."""
    trial = node.copy()
    lower = [p for p in trial.pods.values() if p.priority < pod.priority]
    if not lower:
        return None
    for victim in lower:
        trial.remove(victim.uid)
    world = [trial if n.name == node.name else n for n in others]

    def fits() -> bool:
        return first_reason(pod, trial, [(p, p.prepare(pod, world)) for p in plugins]) is None

    if not fits():
        return None
    violating, fine = split_by_budget(by_importance(lower), budgets)
    victims: list[PodInfo] = []
    violations = 0
    for group, counts in ((violating, True), (fine, False)):
        for candidate in group:
            trial.add(candidate)
            if not fits():
                trial.remove(candidate.uid)
                victims.append(candidate)
                violations += counts
    return Candidate(node.name, by_importance(victims), violations) if victims else None


def choose(candidates: Sequence[Candidate]) -> Candidate:
    """Upstream's order: fewest budget violations, lowest highest victim, smallest sum of priorities, fewest victims, and the
    victims that started latest."""
    offset = 2**31

    def rank(c: Candidate) -> tuple[int, int, int, int]:
        return (c.violations, c.victims[0].priority, sum(v.priority + offset for v in c.victims), len(c.victims))

    best = min(rank(c) for c in candidates)
    return max((c for c in candidates if rank(c) == best), key=lambda c: min(started(v) for v in c.victims))


def find(
    pod: PodInfo, nodes: Sequence[NodeInfo], failure: Unschedulable, plugins: Sequence[Plugin], budgets: Sequence[Obj]
) -> Candidate | None:  # fmt: skip
    """The best node to make room on, or None."""
    if pod.pod["spec"].get("preemptionPolicy") == "Never":
        return None
    hopeful: Callable[[NodeInfo], bool] = lambda n: n.name in failure.reasons and failure.reasons[n.name][0].resolvable  # noqa: E731
    candidates = [c for n in nodes if hopeful(n) and (c := victims_on(pod, n, nodes, plugins, budgets)) is not None]
    return choose(candidates) if candidates else None
