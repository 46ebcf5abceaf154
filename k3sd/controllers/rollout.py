"""The arithmetic of a Deployment's rollout. Pure.

Source: ``pkg/controller/deployment/util/deployment_util.go``, ``rolling.go``, ``sync.go``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from k3sd.apimachinery import timefmt
from k3sd.apimachinery.errors import Obj
from k3sd.controllers.objects import annotations_of, find_condition, name_of, scaled_value
from k3sd.lib.jsonvalue import clone

HASH_LABEL = "pod-template-hash"
REVISION = "deployment.kubernetes.io/revision"
REVISION_HISTORY = "deployment.kubernetes.io/revision-history"
DESIRED = "deployment.kubernetes.io/desired-replicas"
MAX_REPLICAS = "deployment.kubernetes.io/max-replicas"
NO_DEADLINE = 2**31 - 1
_NOT_COPIED = frozenset(
    {
        "kubectl.kubernetes.io/last-applied-configuration",
        REVISION,
        REVISION_HISTORY,
        DESIRED,
        MAX_REPLICAS,
        "deprecated.deployment.rollback.to",
    }
)
_HASH_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"


def replicas_of(obj: Obj) -> int:
    return int(obj["spec"].get("replicas", 1))


def count(obj: Obj, field: str) -> int:
    """An integer of the status."""
    return int((obj.get("status") or {}).get(field) or 0)


def total_replicas(sets: Iterable[Obj]) -> int:
    """What the sets ask for."""
    return sum(replicas_of(s) for s in sets)


def total(sets: Iterable[Obj], field: str) -> int:
    return sum(count(s, field) for s in sets)


def is_rolling(deployment: Obj) -> bool:
    return bool((deployment["spec"].get("strategy") or {}).get("type", "RollingUpdate") == "RollingUpdate")


def fenceposts(deployment: Obj) -> tuple[int, int]:
    """``(maxSurge, maxUnavailable)`` as numbers; never both zero. Source: ``ResolveFenceposts``."""
    if not is_rolling(deployment):
        return 0, 0
    rolling = (deployment["spec"].get("strategy") or {}).get("rollingUpdate") or {}
    wanted = replicas_of(deployment)
    surge = scaled_value(rolling.get("maxSurge", "25%"), wanted, round_up=True)
    unavailable = scaled_value(rolling.get("maxUnavailable", "25%"), wanted, round_up=False)
    if surge == 0 and unavailable == 0:
        unavailable = 1
    return surge, unavailable


def max_unavailable(deployment: Obj) -> int:
    wanted = replicas_of(deployment)
    if not is_rolling(deployment) or wanted == 0:
        return 0
    return min(fenceposts(deployment)[1], wanted)


def template_hash(template: Obj, collisions: int | None) -> str:
    """The ``pod-template-hash`` of a template; ``collisions`` makes another one of it. Source: ``ComputeHash``."""
    text = json.dumps(template, sort_keys=True, separators=(",", ":")) + (str(collisions) if collisions else "")
    number = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
    out = []
    for _ in range(10):
        number, digit = divmod(number, len(_HASH_ALPHABET))
        out.append(_HASH_ALPHABET[digit])
    return "".join(out)


def template_without_hash(template: Obj) -> Obj:
    out = clone(template)
    labels = (out.get("metadata") or {}).get("labels") or {}
    labels.pop(HASH_LABEL, None)
    return out


def same_template(a: Obj, b: Obj) -> bool:
    """Source: ``EqualIgnoreHash``."""
    if a["spec"] != b["spec"]:
        return False
    one, other = template_without_hash(a), template_without_hash(b)
    for template in (one, other):
        metadata = {k: v for k, v in (template.get("metadata") or {}).items() if v and k != "creationTimestamp"}
        template["metadata"] = metadata
    return one == other


def created(obj: Obj) -> tuple[str, str]:
    """Sort key: oldest first, ties by name."""
    return obj["metadata"].get("creationTimestamp") or "", name_of(obj)


def find_new_set(deployment: Obj, sets: Iterable[Obj]) -> Obj | None:
    """The oldest set with the deployment's template. Source: ``FindNewReplicaSet``."""
    template = deployment["spec"]["template"]
    return next((s for s in sorted(sets, key=created) if same_template(s["spec"]["template"], template)), None)


def revision_of(obj: Obj) -> int:
    try:
        return int(annotations_of(obj).get(REVISION) or 0)
    except ValueError:
        return 0


def max_revision(sets: Iterable[Obj]) -> int:
    return max((revision_of(s) for s in sets), default=0)


def set_annotations(annotations: dict[str, str], deployment: Obj, revision: str, exists: bool) -> None:
    """Bring a new set's annotations up to date, in place. Source: ``SetNewReplicaSetAnnotations``."""
    for key, value in annotations_of(deployment).items():
        if key not in _NOT_COPIED:
            annotations[key] = value
    old = annotations.get(REVISION, "")
    try:
        old_number = int(old or 0)
    except ValueError:
        return
    if old_number < int(revision):
        annotations[REVISION] = revision
        if old:
            history = annotations.get(REVISION_HISTORY, "")
            parts = [p for p in history.split(",") if p]
            if old not in parts:
                annotations[REVISION_HISTORY] = ",".join([*parts, old])
    if not exists:
        set_replica_annotations(annotations, replicas_of(deployment), replicas_of(deployment) + fenceposts(deployment)[0])


def set_replica_annotations(annotations: dict[str, str], desired: int, maximum: int) -> None:
    annotations[DESIRED] = str(desired)
    annotations[MAX_REPLICAS] = str(maximum)


def new_set_replicas(deployment: Obj, sets: Sequence[Obj], new: Obj | None) -> int:
    """How large the new set may be now. Source: ``NewRSNewReplicas``."""
    wanted = replicas_of(deployment)
    if not is_rolling(deployment):
        return wanted
    have = replicas_of(new) if new is not None else 0
    room = wanted + fenceposts(deployment)[0] - total_replicas(sets)
    if room <= 0:
        return have
    return have + min(room, wanted - have)


class Scale(NamedTuple):
    """One set and the size it gets."""

    target: Obj
    replicas: int


def scale_down_old(deployment: Obj, sets: Sequence[Obj], old: Sequence[Obj], new: Obj) -> list[Scale]:
    """How much of the old sets can go without losing availability. Source: ``reconcileOldReplicaSets``."""
    old_count = total_replicas(old)
    if old_count == 0:
        return []
    min_available = replicas_of(deployment) - max_unavailable(deployment)
    new_unavailable = replicas_of(new) - count(new, "availableReplicas")
    most = total_replicas(sets) - min_available - new_unavailable
    if most <= 0:
        return []
    sizes = {name_of(s): replicas_of(s) for s in old}
    ordered = sorted(old, key=created)
    # First replicas that serve nobody: they cost no availability.
    cleaned = 0
    for one in ordered:
        if cleaned >= most:
            break
        size, available = sizes[name_of(one)], count(one, "availableReplicas")
        if size == 0 or size <= available:
            continue
        step = min(most - cleaned, size - available)
        sizes[name_of(one)] = size - step
        cleaned += step
    # Then healthy ones, as far as what is available exceeds the minimum.
    # A set's status may still count pods that its new size has condemned.
    spare = sum(min(count(s, "availableReplicas"), replicas_of(s)) for s in sets) - min_available
    for one in ordered:
        if spare <= 0:
            break
        step = min(sizes[name_of(one)], spare)
        sizes[name_of(one)] -= step
        spare -= step
    return [Scale(s, sizes[name_of(s)]) for s in old if sizes[name_of(s)] != replicas_of(s)]


def scale_proportionally(deployment: Obj, active: Sequence[Obj], allowed: int) -> list[Scale]:
    """Spread a change of size over all active sets by their share; the rest goes to the largest.

    Source: ``scale`` and ``GetProportion``.
    """
    current = total_replicas(active)
    change = allowed - current
    if change > 0:
        ordered = sorted(active, key=lambda s: (-replicas_of(s), _Reverse(created(s))))
    else:
        ordered = sorted(active, key=lambda s: (-replicas_of(s), created(s)))
    sizes: dict[str, int] = {}
    added = 0
    for one in ordered:
        sizes[name_of(one)] = replicas_of(one)
        if change:
            share = _proportion(one, deployment, change, added)
            sizes[name_of(one)] += share
            added += share
    if ordered and change - added:
        largest = name_of(ordered[0])
        sizes[largest] = max(0, sizes[largest] + change - added)
    return [Scale(s, sizes[name_of(s)]) for s in ordered]


class _Reverse(tuple[str, ...]):
    """Sorts the other way round (newest first)."""

    def __lt__(self, other: tuple[str, ...]) -> bool:
        return tuple(self) > tuple(other)


def _proportion(one: Obj, deployment: Obj, change: int, added: int) -> int:
    size = replicas_of(one)
    if size == 0 or change == 0 or change == added:
        return 0
    base = annotations_of(one).get(MAX_REPLICAS)
    maximum = int(base) if base and base.isdigit() and int(base) > 0 else count(deployment, "replicas")
    if maximum <= 0:
        return 0
    allowed = replicas_of(deployment) + fenceposts(deployment)[0]
    exact = size * allowed / maximum
    # Go's math.Round: halves away from zero.
    fraction = int(exact + 0.5) - size
    left = change - added
    return min(fraction, left) if change > 0 else max(fraction, left)


def is_scaling(deployment: Obj, sets: Iterable[Obj]) -> bool:
    """Whether an active set was made for another size. Source: ``isScalingEvent``."""
    for one in sets:
        if replicas_of(one) > 0:
            desired = annotations_of(one).get(DESIRED)
            if desired is not None and desired.isdigit() and int(desired) != replicas_of(deployment):
                return True
    return False


def is_saturated(deployment: Obj, new: Obj) -> bool:
    """The new set is all there is to be. Source: ``IsSaturated``."""
    desired = annotations_of(new).get(DESIRED)
    wanted = replicas_of(deployment)
    return (
        replicas_of(new) == wanted
        and desired is not None
        and desired.isdigit()
        and int(desired) == wanted
        and count(new, "availableReplicas") == wanted
    )


def is_complete(deployment: Obj, status: Obj) -> bool:
    """Source: ``DeploymentComplete``."""
    wanted = replicas_of(deployment)
    return (
        int(status.get("updatedReplicas") or 0) == wanted
        and int(status.get("replicas") or 0) == wanted
        and int(status.get("availableReplicas") or 0) == wanted
        and int(status.get("observedGeneration") or 0) >= int(deployment["metadata"].get("generation") or 0)
    )


def is_progressing(old: Obj, new: Obj) -> bool:
    """Source: ``DeploymentProgressing``."""

    def value(status: Obj, field: str) -> int:
        return int(status.get(field) or 0)

    old_old = value(old, "replicas") - value(old, "updatedReplicas")
    new_old = value(new, "replicas") - value(new, "updatedReplicas")
    return (
        value(new, "updatedReplicas") > value(old, "updatedReplicas")
        or new_old < old_old
        or value(new, "readyReplicas") > value(old, "readyReplicas")
        or value(new, "availableReplicas") > value(old, "availableReplicas")
    )


def has_deadline(deployment: Obj) -> bool:
    seconds = deployment["spec"].get("progressDeadlineSeconds")
    return seconds is not None and int(seconds) != NO_DEADLINE


def deadline_in(deployment: Obj, now: float) -> float | None:
    """Seconds until the progress deadline by the stored Progressing condition (negative when passed); None without one."""
    condition = find_condition(deployment, "Progressing")
    if condition is None or not has_deadline(deployment) or not condition.get("lastUpdateTime"):
        return None
    return timefmt.parse(condition["lastUpdateTime"]) + int(deployment["spec"]["progressDeadlineSeconds"]) - now


def is_timed_out(deployment: Obj, status: Obj, now: float) -> bool:
    """Source: ``DeploymentTimedOut``. ``status`` is the new status with its conditions."""
    condition = find_condition({"status": status}, "Progressing")
    if condition is None or not has_deadline(deployment):
        return False
    if condition.get("reason") == "NewReplicaSetAvailable":
        return False
    if condition.get("reason") == "ProgressDeadlineExceeded":
        return True
    since = timefmt.parse(condition["lastUpdateTime"]) if condition.get("lastUpdateTime") else now
    return since + int(deployment["spec"]["progressDeadlineSeconds"]) < now


def to_clean_up(deployment: Obj, old: Sequence[Obj]) -> list[Obj]:
    """Old sets beyond the history limit, oldest revision first. Source: ``cleanupDeployment``."""
    limit = deployment["spec"].get("revisionHistoryLimit")
    if limit is None or int(limit) == NO_DEADLINE:
        return []
    cleanable = [s for s in old if not s["metadata"].get("deletionTimestamp")]
    surplus = len(cleanable) - int(limit)
    if surplus <= 0:
        return []
    cleanable.sort(key=lambda s: (revision_of(s), created(s)))
    return [
        s
        for s in cleanable[:surplus]
        if replicas_of(s) == 0
        and count(s, "replicas") == 0
        and int(s["metadata"].get("generation") or 0) <= count(s, "observedGeneration")
    ]
