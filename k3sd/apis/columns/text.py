"""Texts that cells of several kinds are made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from k3sd.apimachinery import timefmt
from k3sd.apimachinery.errors import Obj
from k3sd.apimachinery.selectors import label_selector_from


def since(timestamp: str | None, now: float) -> str:
    """``translateTimestampSince``."""
    if not timestamp or timestamp.startswith("0001-01-01T00:00:00"):
        return "<unknown>"
    return timefmt.human_duration(now - timefmt.parse(timestamp))


def name(obj: Obj) -> str:
    return str((obj.get("metadata") or {}).get("name", ""))


def age(obj: Obj, now: float) -> str:
    return since((obj.get("metadata") or {}).get("creationTimestamp"), now)


def spec(obj: Obj) -> Obj:
    return obj.get("spec") or {}


def status(obj: Obj) -> Obj:
    return obj.get("status") or {}


def is_deleted(obj: Obj) -> bool:
    return bool((obj.get("metadata") or {}).get("deletionTimestamp"))


def labels(values: Mapping[str, str] | None) -> str:
    """``labels.FormatLabels``."""
    return ",".join(f"{k}={v}" for k, v in sorted((values or {}).items())) or "<none>"


def selector(value: Mapping[str, Any] | None, empty: str = "<none>", wrong: str = "<error>") -> str:
    """``metav1.FormatLabelSelector``."""
    if not value:
        return empty
    known = {key: value[key] for key in ("matchLabels", "matchExpressions") if key in value}
    try:
        return str(label_selector_from(known)) or empty
    except ValueError:
        return wrong


def containers(pod_spec: Obj | None) -> tuple[str, str]:
    """``layoutContainerCells``: names and images."""
    found = (pod_spec or {}).get("containers") or []
    return ",".join(c.get("name", "") for c in found), ",".join(c.get("image", "") for c in found)


def template_containers(obj: Obj) -> tuple[str, str]:
    return containers((spec(obj).get("template") or {}).get("spec"))


def replica_counts(obj: Obj, now: float) -> list[Any]:
    """Name, wanted, current and ready replicas, age, and the template's containers and images."""
    return [
        name(obj),
        spec(obj).get("replicas", 0),
        status(obj).get("replicas", 0),
        status(obj).get("readyReplicas", 0),
        age(obj, now),
        *template_containers(obj),
    ]


def has_condition(conditions: Iterable[Obj] | None, kind: str) -> bool:
    return next((c.get("status") == "True" for c in conditions or () if c.get("type") == kind), False)


def more(shown: list[str], total: int, empty: str = "<unset>") -> str:
    """``listWithMoreString``."""
    if total > len(shown):
        return f"{','.join(shown)} + {total - len(shown)} more..."
    return ",".join(shown) or empty


def boolean(value: bool | None) -> str:
    return "<unset>" if value is None else "True" if value else "False"
