"""Reading, ranking and building pods for the controllers that own them. Pure.

Source: ``pkg/controller/controller_utils.go``, ``pkg/api/v1/pod/util.go``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from k3sd.apimachinery import timefmt
from k3sd.apimachinery.errors import Obj
from k3sd.controllers.objects import annotations_of, condition_status, controller_of, find_condition, is_deleting, namespace_of
from k3sd.lib.jsonvalue import clone

DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"


def phase_of(pod: Obj) -> str:
    return str((pod.get("status") or {}).get("phase") or "")


def is_finished(pod: Obj) -> bool:
    """Succeeded or Failed."""
    return phase_of(pod) in ("Succeeded", "Failed")


def is_active(pod: Obj) -> bool:
    """Counts as a replica: neither finished nor being deleted."""
    return not is_finished(pod) and not is_deleting(pod)


def is_ready(pod: Obj) -> bool:
    return condition_status(pod, "Ready") == "True"


def ready_since(pod: Obj) -> float | None:
    """When the pod became Ready (epoch seconds); None when it is not."""
    condition = find_condition(pod, "Ready")
    if condition is None or condition.get("status") != "True":
        return None
    return timefmt.parse(condition["lastTransitionTime"]) if condition.get("lastTransitionTime") else 0.0


def available_in(pod: Obj, min_ready_seconds: int, now: float) -> float | None:
    """Seconds until the pod counts as available (0 when it does); None while it is not Ready. Source: ``IsPodAvailable``."""
    if min_ready_seconds <= 0:
        return 0.0 if is_ready(pod) else None
    since = ready_since(pod)
    if since is None:
        return None
    return max(0.0, since + min_ready_seconds - now)


def is_available(pod: Obj, min_ready_seconds: int, now: float) -> bool:
    return available_in(pod, min_ready_seconds, now) == 0.0


def restarts(pod: Obj) -> int:
    """The largest restart count of a container."""
    status = pod.get("status") or {}
    return max((int(c.get("restartCount") or 0) for c in status.get("containerStatuses") or ()), default=0)


def _epoch(text: str | None) -> float:
    return timefmt.parse(text) if text else 0.0


def deletion_cost(pod: Obj) -> int:
    try:
        return int(annotations_of(pod).get(DELETION_COST) or 0)
    except ValueError:
        return 0


def deletion_order(pod: Obj, rank: int, now: float) -> tuple[Any, ...]:
    """Sort key: pods that cost least come first. Source: ``ActivePodsWithRanks.Less``.

    Unassigned, then Pending, Unknown, Running; not ready; low deletion cost; crowded node (``rank`` related pods share
    it); ready for a short time; many restarts; young. Ages count on a logarithmic scale, ties fall by uid.
    """
    phases = {"Pending": 0, "Unknown": 1, "Running": 2}
    ready = is_ready(pod)
    return (
        bool(pod["spec"].get("nodeName")),
        phases.get(phase_of(pod), 0),
        ready,
        deletion_cost(pod),
        -rank,
        _log_age(now - (ready_since(pod) or 0.0)) if ready else 0,
        -restarts(pod),
        _log_age(now - _epoch(pod["metadata"].get("creationTimestamp"))),
        pod["metadata"].get("uid", ""),
    )


def _log_age(seconds: float) -> int:
    """The age in powers of two: similar ages are equal, so that the choice among them is not always the youngest."""
    return int(seconds).bit_length() if seconds > 0 else 0


def pods_to_delete(pods: Iterable[Obj], related: Iterable[Obj], count: int, now: float) -> list[Obj]:
    """The ``count`` pods whose loss matters least. ``related`` are pods of the same application, for spreading over nodes."""
    per_node: dict[str, int] = {}
    for pod in related:
        if is_active(pod):
            node = pod["spec"].get("nodeName", "")
            per_node[node] = per_node.get(node, 0) + 1
    pods = list(pods)
    if count < len(pods):
        pods.sort(key=lambda p: deletion_order(p, per_node.get(p["spec"].get("nodeName", ""), 0), now))
    return pods[:count]


def name_prefix(owner_name: str) -> str:
    """``generateName`` for pods of an owner; without the dash when that would be too long for a name."""
    prefix = f"{owner_name}-"
    return prefix if len(prefix) <= 253 else owner_name


def pod_from_template(template: Obj, owner: Obj, reference: Obj) -> Obj:
    """A pod of ``owner``. Source: ``GetPodFromTemplate``."""
    source = template.get("metadata") or {}
    metadata: Obj = {"generateName": name_prefix(owner["metadata"]["name"]), "namespace": namespace_of(owner)}
    for field in ("labels", "annotations", "finalizers"):
        if source.get(field):
            metadata[field] = clone(source[field])
    metadata["ownerReferences"] = [reference]
    return {"kind": "Pod", "apiVersion": "v1", "metadata": metadata, "spec": clone(template["spec"])}


def owner_index(obj: Obj) -> Iterable[str]:
    """Index function: the controller's uid, or ``orphan/<namespace>`` for objects without one."""
    reference = controller_of(obj)
    return (str(reference["uid"]),) if reference else (f"orphan/{namespace_of(obj)}",)


def template_labels(owner: Obj) -> Mapping[str, str]:
    return (owner["spec"]["template"].get("metadata") or {}).get("labels") or {}


def earliest(times: Iterable[float | None]) -> float | None:
    """The smallest of those that are not None."""
    return min((t for t in times if t is not None), default=None)
