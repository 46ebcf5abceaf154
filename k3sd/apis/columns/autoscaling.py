"""Columns and cells of autoscaling."""

from __future__ import annotations

from typing import Any

from k3sd.apimachinery.errors import Obj
from k3sd.apis.columns.text import age, name, spec, status

COLUMNS = {
    "HorizontalPodAutoscaler": "Name=name|Reference|Targets|MinPods|MaxPods|Replicas|Age",
    "Scale": "Name|Desired:integer|Available:integer|Age",
}
_SOURCES = {
    "External": "external",
    "Pods": "pods",
    "Object": "object",
    "Resource": "resource",
    "ContainerResource": "containerResource",
}


def _metric(metric: Obj, current: Obj) -> str:
    """One metric of ``formatHPAMetrics``."""
    source = _SOURCES.get(metric.get("type", ""))
    if source is None:
        return "<unknown type>"
    target = (metric.get(source) or {}).get("target") or {}
    now = (current.get(source) or {}).get("current") or {}
    average = target.get("averageValue")
    if source in ("resource", "containerResource"):
        resource = metric[source].get("name", "")
        if average is not None:
            return f"{resource}: {now.get('averageValue', '<unknown>')}/{average}"
        used, wanted = now.get("averageUtilization"), target.get("averageUtilization")
        left = f"{used}%" if used is not None else "<unknown>"
        return f"{resource}: {left}/{f'{wanted}%' if wanted is not None else '<auto>'}"
    if source == "pods":
        return f"{now.get('averageValue', '<unknown>')}/{average}"
    if average is not None:
        return f"{now.get('averageValue', '<unknown>')}/{average} (avg)"
    return f"{now.get('value', '<unknown>')}/{target.get('value')}"


def _targets(obj: Obj) -> str:
    metrics, current = spec(obj).get("metrics") or [], status(obj).get("currentMetrics") or []
    if not metrics and "targetCPUUtilizationPercentage" in spec(obj):
        used = status(obj).get("currentCPUUtilizationPercentage")
        left = f"{used}%" if used is not None else "<unknown>"
        return f"cpu: {left}/{spec(obj)['targetCPUUtilizationPercentage']}%"
    texts = [_metric(m, current[i] if i < len(current) else {}) for i, m in enumerate(metrics)]
    if len(texts) > 2:
        return f"{', '.join(texts[:2])} + {len(texts) - 2} more..."
    return ", ".join(texts) or "<none>"


def _autoscaler(obj: Obj, now: float) -> list[Any]:
    target = spec(obj).get("scaleTargetRef") or {}
    minimum = spec(obj).get("minReplicas")
    return [
        name(obj),
        f"{target.get('kind', '')}/{target.get('name', '')}",
        _targets(obj),
        "<unset>" if minimum is None else str(minimum),
        spec(obj).get("maxReplicas", 0),
        status(obj).get("currentReplicas", 0),
        age(obj, now),
    ]


def _scale(obj: Obj, now: float) -> list[Any]:
    return [name(obj), spec(obj).get("replicas", 0), status(obj).get("replicas", 0), age(obj, now)]


CELLS = {"HorizontalPodAutoscaler": _autoscaler, "Scale": _scale}
