"""Small readings and edits of API objects that many controllers need. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from k3sd.apimachinery.errors import Obj, StatusError
from k3sd.apimachinery.resource import Resource


def name_of(obj: Obj) -> str:
    return str(obj["metadata"]["name"])


def namespace_of(obj: Obj) -> str:
    """Empty for cluster scope."""
    return str(obj["metadata"].get("namespace") or "")


def uid_of(obj: Obj) -> str:
    return str(obj["metadata"].get("uid") or "")


def labels_of(obj: Obj) -> Mapping[str, str]:
    return obj["metadata"].get("labels") or {}


def annotations_of(obj: Obj) -> Mapping[str, str]:
    return obj["metadata"].get("annotations") or {}


def is_deleting(obj: Obj) -> bool:
    return bool(obj["metadata"].get("deletionTimestamp"))


def version_of(obj: Obj) -> str:
    return str(obj["metadata"].get("resourceVersion") or "")


def controller_of(obj: Obj) -> Obj | None:
    """The owner reference that has ``controller: true``. Source: ``metav1.GetControllerOf``."""
    for reference in obj["metadata"].get("ownerReferences") or ():
        if reference.get("controller"):
            return reference  # type: ignore[no-any-return]
    return None


def is_controlled_by(obj: Obj, owner: Obj) -> bool:
    reference = controller_of(obj)
    return reference is not None and reference.get("uid") == uid_of(owner)


def controller_reference(owner: Obj, resource: Resource) -> Obj:
    """Source: ``metav1.NewControllerRef``."""
    return {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "name": name_of(owner),
        "uid": uid_of(owner),
        "controller": True,
        "blockOwnerDeletion": True,
    }


def find_condition(obj: Obj, type_: str) -> Obj | None:
    for condition in (obj.get("status") or {}).get("conditions") or ():
        if condition.get("type") == type_:
            return condition  # type: ignore[no-any-return]
    return None


def condition_status(obj: Obj, type_: str) -> str:
    """``True``, ``False``, ``Unknown``, or empty when the condition is absent."""
    condition = find_condition(obj, type_)
    return str(condition.get("status") or "") if condition else ""


def set_condition(status: Obj, condition: Obj, now: str, *, keep_reason: bool = False) -> bool:
    """Set one condition by type and leave the others alone; whether anything changed.

    ``lastTransitionTime`` moves only when the status does. With ``keep_reason`` an unchanged status and reason leave the
    whole condition as it is.
    """
    conditions: list[Obj] = status.setdefault("conditions", [])
    for i, old in enumerate(conditions):
        if old.get("type") != condition["type"]:
            continue
        if keep_reason and old.get("status") == condition["status"] and old.get("reason") == condition.get("reason"):
            return False
        same = old.get("status") == condition["status"]
        new = {**condition, "lastTransitionTime": old.get("lastTransitionTime", now) if same else now}
        if all(old.get(k) == v for k, v in new.items()):
            return False
        conditions[i] = {**old, **new}
        return True
    conditions.append({**condition, "lastTransitionTime": now})
    return True


def remove_condition(status: Obj, type_: str) -> bool:
    conditions = status.get("conditions") or []
    kept = [c for c in conditions if c.get("type") != type_]
    if len(kept) == len(conditions):
        return False
    if kept:
        status["conditions"] = kept
    else:
        del status["conditions"]
    return True


def set_count(status: Obj, field: str, value: int) -> None:
    """Set an integer that upstream omits when it is zero."""
    if value:
        status[field] = value
    else:
        status.pop(field, None)


def scaled_value(value: int | str | None, total: int, *, round_up: bool) -> int:
    """An int-or-percent against ``total``. Source: ``intstr.GetScaledValueFromIntOrPercent``."""
    if value is None:
        return 0
    if isinstance(value, str):
        percent = int(value.removesuffix("%"))
        if not value.endswith("%"):
            return percent
        return -(-percent * total // 100) if round_up else percent * total // 100
    return int(value)


def has_cause(error: StatusError, reason: str) -> bool:
    """Whether the Status names this cause (``NamespaceTerminating``, ``DisruptionBudget``)."""
    causes: Any = error.details.get("causes") or ()
    return any(cause.get("reason") == reason for cause in causes)
