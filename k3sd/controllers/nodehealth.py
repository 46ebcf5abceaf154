"""What a node's conditions mean for its taints, and a zone's health for evictions. Pure.

Source: ``pkg/controller/nodelifecycle/node_lifecycle_controller.go``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from k3sd.apimachinery.errors import Obj
from k3sd.controllers.objects import condition_status, labels_of

NOT_READY = "node.kubernetes.io/not-ready"
UNREACHABLE = "node.kubernetes.io/unreachable"
UNSCHEDULABLE = "node.kubernetes.io/unschedulable"
_PRESSURE = {
    "MemoryPressure": "node.kubernetes.io/memory-pressure",
    "DiskPressure": "node.kubernetes.io/disk-pressure",
    "PIDPressure": "node.kubernetes.io/pid-pressure",
    "NetworkUnavailable": "node.kubernetes.io/network-unavailable",
}
_MANAGED = frozenset({NOT_READY, UNREACHABLE, UNSCHEDULABLE, *_PRESSURE.values()})
MONITORED = ("Ready", "MemoryPressure", "DiskPressure", "PIDPressure")
ZONE = "topology.kubernetes.io/zone"
REGION = "topology.kubernetes.io/region"


def wanted_taints(node: Obj, evict: bool) -> list[tuple[str, str]]:
    """The managed taints (key, effect) that fit the node's conditions; NoExecute ones only with ``evict``."""
    out: list[tuple[str, str]] = []
    ready = condition_status(node, "Ready")
    key = {"False": NOT_READY, "Unknown": UNREACHABLE, "": NOT_READY}.get(ready)
    if key is not None:
        out.append((key, "NoSchedule"))
        if evict and ready:
            out.append((key, "NoExecute"))
    out += [(taint, "NoSchedule") for type_, taint in _PRESSURE.items() if condition_status(node, type_) == "True"]
    if (node.get("spec") or {}).get("unschedulable"):
        out.append((UNSCHEDULABLE, "NoSchedule"))
    return out


def merge_taints(current: Sequence[Obj], wanted: Sequence[tuple[str, str]], now: str) -> list[Obj]:
    """``current`` with the managed taints exchanged; foreign ones and times of those that stay are kept."""
    out = [t for t in current if t.get("key") not in _MANAGED or (t["key"], t.get("effect")) in wanted]
    have = {(t.get("key"), t.get("effect")) for t in out}
    for key, effect in wanted:
        if (key, effect) not in have:
            out.append({"key": key, "effect": effect, "timeAdded": now})
    return out


def unknown_conditions(node: Obj, now: str) -> list[Obj]:
    """The conditions of a node that is not heard of any more."""
    conditions: list[Obj] = list((node.get("status") or {}).get("conditions") or ())
    for type_ in MONITORED:
        index = next((i for i, c in enumerate(conditions) if c.get("type") == type_), None)
        if index is None:
            reason, message = "NodeStatusNeverUpdated", "Kubelet never posted node status."
            created = node["metadata"].get("creationTimestamp", now)
            conditions.append(
                {
                    "type": type_,
                    "status": "Unknown",
                    "lastHeartbeatTime": created,
                    "lastTransitionTime": now,
                    "reason": reason,
                    "message": message,
                }
            )
        elif conditions[index].get("status") != "Unknown":
            conditions[index] = {
                **conditions[index],
                "status": "Unknown",
                "reason": "NodeStatusUnknown",
                "message": "Kubelet stopped posting node status.",
                "lastTransitionTime": now,
            }
    return conditions


def zone_of(node: Obj) -> str:
    labels = labels_of(node)
    return f"{labels.get(REGION, '')}:{labels.get(ZONE, '')}"


def eviction_interval(nodes: Iterable[Obj], *, interval: float = 10.0, large: int = 50, threshold: float = 0.55) -> float:
    """Seconds between NoExecute taints in a zone: infinite when so much of it is gone that it looks like our own fault.

    Source: ``ComputeZoneState``, ``setLimiterInZone``.
    """
    states = [condition_status(n, "Ready") == "True" for n in nodes]
    ready, gone = states.count(True), states.count(False)
    if gone > 2 and gone / (gone + ready) >= threshold:
        return interval * 10 if len(states) > large else float("inf")
    return interval


def min_toleration_seconds(taints: Sequence[Obj], tolerations: Sequence[Mapping[str, object]]) -> float | None:
    """How long a pod may stay beside NoExecute ``taints``: 0 not at all, None for ever. Source: ``getMinTolerationTime``."""
    least: float | None = None
    for taint in taints:
        matching = [t for t in tolerations if tolerates(t, taint)]
        if not matching:
            return 0.0
        for toleration in matching:
            seconds = toleration.get("tolerationSeconds")
            if seconds is not None:
                value = max(0.0, float(str(seconds)))
                least = value if least is None else min(least, value)
    return least


def tolerates(toleration: Mapping[str, object], taint: Obj) -> bool:
    """Source: ``Toleration.ToleratesTaint``."""
    if toleration.get("effect") and toleration["effect"] != taint.get("effect"):
        return False
    if toleration.get("key") and toleration["key"] != taint.get("key"):
        return False
    operator = toleration.get("operator") or "Equal"
    if operator == "Exists":
        return True
    return bool(toleration.get("key")) and (toleration.get("value") or "") == (taint.get("value") or "")
