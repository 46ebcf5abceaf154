"""Which nodes a DaemonSet runs on, and what follows for its pods. Pure.

Source: ``pkg/controller/daemon`` (``daemon_controller.go``, ``update.go``, ``util/daemonset_util.go``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from k3sd.apimachinery.errors import Obj
from k3sd.apimachinery.resource import Resource
from k3sd.apis import resources
from k3sd.controllers.nodehealth import tolerates
from k3sd.controllers.objects import controller_reference, is_deleting, labels_of, name_of, scaled_value
from k3sd.controllers.pods import is_available, is_ready, phase_of, pod_from_template

RESOURCE: Resource = resources.DAEMONSETS
HASH = "controller-revision-hash"
_TOLERATED = (
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
)


def tolerations(pod_spec: Obj) -> list[Obj]:
    """The pod's own tolerations and those every daemon pod has. Source: ``AddOrUpdateDaemonPodTolerations``."""
    out = list(pod_spec.get("tolerations") or ())
    extra = list(_TOLERATED)
    if pod_spec.get("hostNetwork"):
        extra.append(("node.kubernetes.io/network-unavailable", "NoSchedule"))
    for key, effect in extra:
        wanted = {"key": key, "operator": "Exists", "effect": effect}
        out = [t for t in out if not (t.get("key") == key and t.get("effect") == effect)]
        out.append(wanted)
    return out


class Eligible(NamedTuple):
    """Whether a pod should be made for a node, and whether one there may go on."""

    run: bool
    stay: bool


def eligible(owner: Obj, node: Obj) -> Eligible:
    """Source: ``NodeShouldRunDaemonPod``."""
    spec = owner["spec"]["template"]["spec"]
    if spec.get("nodeName") and spec["nodeName"] != name_of(node):
        return Eligible(False, False)
    if not matches_node(spec, node):
        return Eligible(False, False)
    allowed = tolerations(spec)
    taints = (node.get("spec") or {}).get("taints") or ()
    untolerated = {t.get("effect") for t in taints if not any(tolerates(a, t) for a in allowed)}
    if "NoExecute" in untolerated:
        return Eligible(False, False)
    return Eligible("NoSchedule" not in untolerated, True)


def matches_node(spec: Obj, node: Obj) -> bool:
    """nodeSelector and required node affinity."""
    labels = labels_of(node)
    if any(labels.get(k) != v for k, v in (spec.get("nodeSelector") or {}).items()):
        return False
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    if required is None:
        return True
    return any(_term_matches(term, node) for term in required.get("nodeSelectorTerms") or ())


def _term_matches(term: Obj, node: Obj) -> bool:
    expressions, fields = term.get("matchExpressions") or (), term.get("matchFields") or ()
    if not expressions and not fields:
        return False
    names = {"metadata.name": name_of(node)}
    return all(_holds(e, labels_of(node)) for e in expressions) and all(_holds(f, names) for f in fields)


def _holds(requirement: Obj, values: Mapping[str, str]) -> bool:
    value = values.get(requirement["key"])
    wanted: Sequence[str] = requirement.get("values") or ()
    operator = requirement["operator"]
    if operator == "In":
        return value is not None and value in wanted
    if operator == "NotIn":
        return value is None or value not in wanted
    if operator == "Exists":
        return value is not None
    if operator == "DoesNotExist":
        return value is None
    try:
        number, limit = int(value or ""), int(wanted[0])
    except (ValueError, IndexError):
        return False
    return number > limit if operator == "Gt" else number < limit


def target_node(pod: Obj) -> str:
    """The node a daemon pod is on or meant for. Source: ``GetTargetNodeName``."""
    spec = pod["spec"]
    if spec.get("nodeName"):
        return str(spec["nodeName"])
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    for term in required.get("nodeSelectorTerms") or ():
        for requirement in term.get("matchFields") or ():
            if requirement.get("key") == "metadata.name" and requirement.get("operator") == "In":
                return str(requirement["values"][0])
    return ""


def build_pod(owner: Obj, node_name: str, hashed: str) -> Obj:
    """Bound to its node by affinity, so that the scheduler still checks resources and taints."""
    pod = pod_from_template(owner["spec"]["template"], owner, controller_reference(owner, RESOURCE))
    pod["metadata"].setdefault("labels", {})[HASH] = hashed
    generation = (owner["metadata"].get("annotations") or {}).get("deprecated.daemonset.template.generation")
    if generation:
        pod["metadata"]["labels"]["pod-template-generation"] = generation
    spec = pod["spec"]
    spec["tolerations"] = tolerations(spec)
    terms = [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node_name]}]}]
    affinity = spec.setdefault("affinity", {}).setdefault("nodeAffinity", {})
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    kept = [{**t, "matchFields": terms[0]["matchFields"]} for t in required.get("nodeSelectorTerms") or ()]
    affinity["requiredDuringSchedulingIgnoredDuringExecution"] = {"nodeSelectorTerms": kept or terms}
    return pod


@dataclass(slots=True)
class Changes:
    """Nodes that need a pod, pods to delete, and those among them that failed (they are replaced with backoff)."""

    create: list[str] = field(default_factory=list)
    delete: list[Obj] = field(default_factory=list)
    failed: list[Obj] = field(default_factory=list)


def by_node(pods: Iterable[Obj]) -> dict[str, list[Obj]]:
    out: dict[str, list[Obj]] = {}
    for pod in pods:
        out.setdefault(target_node(pod), []).append(pod)
    return out


def fenceposts(owner: Obj, desired: int) -> tuple[int, int]:
    """``(maxSurge, maxUnavailable)`` as numbers. Source: ``updatedDesiredNodeCounts``."""
    rolling = (owner["spec"].get("updateStrategy") or {}).get("rollingUpdate") or {}
    surge = scaled_value(rolling.get("maxSurge", 0), desired, round_up=True)
    unavailable = scaled_value(rolling.get("maxUnavailable", 1), desired, round_up=True)
    if surge == 0 and unavailable == 0:
        unavailable = 1
    return surge, unavailable


def place(owner: Obj, nodes: Iterable[Obj], pods: Mapping[str, Sequence[Obj]], hashed: str, now: float) -> Changes:
    """Pods to make and delete so that each eligible node has one. Source: ``podsShouldBeOnNode``."""
    out = Changes()
    min_ready = int(owner["spec"].get("minReadySeconds") or 0)
    known = set()
    for node in nodes:
        known.add(name_of(node))
        verdict = eligible(owner, node)
        here = list(pods.get(name_of(node), ()))
        if not here:
            if verdict.run:
                out.create.append(name_of(node))
            continue
        if not verdict.stay:
            out.delete += [p for p in here if not is_deleting(p)]
            continue
        running: list[Obj] = []
        for pod in here:
            if is_deleting(pod):
                continue
            if phase_of(pod) in ("Failed", "Succeeded"):
                (out.failed if phase_of(pod) == "Failed" else out.delete).append(pod)
            else:
                running.append(pod)
        if fenceposts(owner, 1)[0] == 0:
            # A pod that is being deleted still holds its node's place.
            if not running and not any(is_deleting(p) for p in here) and not _touches(out, here) and verdict.run:
                out.create.append(name_of(node))
            running.sort(key=_age)
            out.delete += running[1:]
            continue
        new = sorted((p for p in running if labels_of(p).get(HASH) == hashed), key=_age)
        old = sorted((p for p in running if labels_of(p).get(HASH) != hashed), key=_age)
        out.delete += new[1:] + old[1:]
        if new and old and is_available(new[0], min_ready, now):
            out.delete.append(old[0])
        if not running and not _touches(out, here) and verdict.run:
            out.create.append(name_of(node))
    # Pods of nodes that are gone are pod GC's; those never bound to one are ours.
    for node_name, left in pods.items():
        if node_name not in known:
            out.delete += [p for p in left if not p["spec"].get("nodeName") and not is_deleting(p)]
    return out


def _touches(changes: Changes, pods: Sequence[Obj]) -> bool:
    """Whether one of ``pods`` is about to be deleted: its successor comes when it is gone."""
    return any(p in changes.failed or p in changes.delete for p in pods)


def _age(pod: Obj) -> tuple[bool, str, str]:
    """Oldest first, bound before unbound."""
    return not pod["spec"].get("nodeName"), pod["metadata"].get("creationTimestamp") or "", name_of(pod)


def roll(owner: Obj, nodes: Sequence[Obj], pods: Mapping[str, Sequence[Obj]], hashed: str, now: float) -> Changes:
    """Which old pods to replace now, and where to surge. Source: ``rollingUpdate``."""
    out = Changes()
    min_ready = int(owner["spec"].get("minReadySeconds") or 0)
    eligible_nodes = [n for n in nodes if eligible(owner, n).run]
    surge, unavailable_limit = fenceposts(owner, len(eligible_nodes))
    unavailable = surging = 0
    healthy_old: list[Obj] = []
    unhealthy_old: list[Obj] = []
    surge_nodes: list[str] = []
    for node in eligible_nodes:
        here = [p for p in pods.get(name_of(node), ()) if not is_deleting(p)]
        new = next((p for p in here if labels_of(p).get(HASH) == hashed), None)
        old = next((p for p in here if labels_of(p).get(HASH) != hashed), None)
        if surge:
            if new is not None and old is not None:
                surging += 1
            elif old is not None and new is None:
                if is_available(old, min_ready, now):
                    surge_nodes.append(name_of(node))
                else:
                    # It serves nobody: replacing it needs no surge.
                    unhealthy_old.append(old)
            continue
        if new is not None:
            if not is_available(new, min_ready, now):
                unavailable += 1
        elif old is not None:
            if is_available(old, min_ready, now):
                healthy_old.append(old)
            else:
                unavailable += 1
                unhealthy_old.append(old)
        else:
            unavailable += 1
    if surge:
        out.delete = unhealthy_old
        out.create = surge_nodes[: max(0, surge - surging)]
    else:
        out.delete = unhealthy_old + healthy_old[: max(0, unavailable_limit - unavailable)]
    return out


def compute_status(
    owner: Obj, status: Obj, nodes: Iterable[Obj], pods: Mapping[str, Sequence[Obj]], hashed: str, now: float
) -> None:
    """Fill in the counts, in place. Source: ``updateDaemonSetStatus``."""
    min_ready = int(owner["spec"].get("minReadySeconds") or 0)
    desired = current = misscheduled = ready = updated = available = 0
    for node in nodes:
        verdict = eligible(owner, node)
        here = [p for p in pods.get(name_of(node), ()) if not is_deleting(p)]
        if not verdict.run:
            misscheduled += bool(here)
            continue
        desired += 1
        if not here:
            continue
        current += 1
        # With a surge the newest tells whether the node is updated, any tells whether it serves.
        ready_ones = [p for p in here if is_ready(p)]
        ready += bool(ready_ones)
        available += any(is_available(p, min_ready, now) for p in ready_ones)
        updated += any(labels_of(p).get(HASH) == hashed for p in here)
    status["observedGeneration"] = owner["metadata"].get("generation", 0)
    status["desiredNumberScheduled"] = desired
    status["currentNumberScheduled"] = current
    status["numberMisscheduled"] = misscheduled
    status["numberReady"] = ready
    for field_name, value in (
        ("updatedNumberScheduled", updated),
        ("numberAvailable", available),
        ("numberUnavailable", desired - available),
    ):
        if value:
            status[field_name] = value
        else:
            status.pop(field_name, None)
