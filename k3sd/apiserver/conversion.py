"""Conversion between the served versions of resources that share one store.

core/v1 Event <> events.k8s.io/v1 Event (``pkg/apis/events/v1/conversion.go``), autoscaling/v1 <> v2 HorizontalPodAutoscaler
(``pkg/apis/autoscaling/v1/conversion.go``). Functions take an object they may not change and return a new one that may share
parts.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from k3sd.apimachinery.errors import Obj

Converter = Callable[[Obj], Obj]

_EVENT_TO_EVENTS = {
    "involvedObject": "regarding",
    "message": "note",
    "reportingComponent": "reportingController",
    "source": "deprecatedSource",
    "firstTimestamp": "deprecatedFirstTimestamp",
    "lastTimestamp": "deprecatedLastTimestamp",
    "count": "deprecatedCount",
}
_EVENTS_TO_EVENT = {v: k for k, v in _EVENT_TO_EVENTS.items()}

METRICS_ANNOTATION = "autoscaling.alpha.kubernetes.io/metrics"
STATUS_METRICS_ANNOTATION = "autoscaling.alpha.kubernetes.io/current-metrics"
CONDITIONS_ANNOTATION = "autoscaling.alpha.kubernetes.io/conditions"
BEHAVIOR_ANNOTATION = "autoscaling.alpha.kubernetes.io/behavior"


def _renamed(obj: Obj, names: dict[str, str], api_version: str) -> Obj:
    out = {"kind": "Event", "apiVersion": api_version, "metadata": obj.get("metadata", {})}
    for key, value in obj.items():
        if key not in out:
            out[names.get(key, key)] = value
    return out


def event_to_events(obj: Obj) -> Obj:
    out = _renamed(obj, _EVENT_TO_EVENTS, "events.k8s.io/v1")
    if out.get("reportingInstance") == "":
        del out["reportingInstance"]
    if out.get("reportingController") == "":
        del out["reportingController"]
    for name in ("deprecatedFirstTimestamp", "deprecatedLastTimestamp"):
        if out.get(name, "") is None:
            del out[name]
    return out


def event_from_events(obj: Obj) -> Obj:
    out = _renamed(obj, _EVENTS_TO_EVENT, "v1")
    # Non-omitempty fields of core/v1 Event.
    out.setdefault("involvedObject", {})
    out.setdefault("source", {})
    for name in ("firstTimestamp", "lastTimestamp", "eventTime"):
        out.setdefault(name, None)
    out.setdefault("reportingComponent", "")
    out.setdefault("reportingInstance", "")
    return out


def hpa_v1_to_v2(obj: Obj) -> Obj:
    """The v2 form; what v1 cannot say comes from its annotations."""
    metadata = dict(obj.get("metadata") or {})
    annotations = dict(metadata.get("annotations") or {})
    spec = dict(obj.get("spec") or {})
    status = dict(obj.get("status") or {})
    metrics = []
    target = spec.pop("targetCPUUtilizationPercentage", None)
    if target is not None:
        metrics.append(
            {
                "type": "Resource",
                "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": target}},
            }
        )
    metrics += _from_annotation(annotations, METRICS_ANNOTATION, [])
    if metrics:
        spec["metrics"] = metrics
    behavior = _from_annotation(annotations, BEHAVIOR_ANNOTATION, None)
    if behavior:
        spec["behavior"] = behavior
    current = []
    utilization = status.pop("currentCPUUtilizationPercentage", None)
    if utilization is not None:
        current.append({"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": utilization}}})
    current += _from_annotation(annotations, STATUS_METRICS_ANNOTATION, [])
    if current:
        status["currentMetrics"] = current
    conditions = _from_annotation(annotations, CONDITIONS_ANNOTATION, None)
    if conditions:
        status["conditions"] = conditions
    _set_annotations(metadata, annotations)
    return {**obj, "apiVersion": "autoscaling/v2", "metadata": metadata, "spec": spec, "status": status}


def hpa_v2_to_v1(obj: Obj) -> Obj:
    """The v1 form; metrics other than CPU utilization, behaviour and conditions go to annotations as upstream writes them."""
    metadata = dict(obj.get("metadata") or {})
    annotations = dict(metadata.get("annotations") or {})
    spec = dict(obj.get("spec") or {})
    status = dict(obj.get("status") or {})
    rest = []
    for metric in spec.pop("metrics", None) or []:
        resource = metric.get("resource") or {}
        value = (resource.get("target") or {}).get("averageUtilization")
        if metric.get("type") == "Resource" and resource.get("name") == "cpu" and value is not None:
            spec["targetCPUUtilizationPercentage"] = value
        else:
            rest.append(metric)
    _to_annotation(annotations, METRICS_ANNOTATION, rest)
    _to_annotation(annotations, BEHAVIOR_ANNOTATION, spec.pop("behavior", None))
    rest = []
    for metric in status.pop("currentMetrics", None) or []:
        resource = metric.get("resource") or {}
        value = (resource.get("current") or {}).get("averageUtilization")
        if metric.get("type") == "Resource" and resource.get("name") == "cpu" and value is not None:
            status["currentCPUUtilizationPercentage"] = value
        else:
            rest.append(metric)
    _to_annotation(annotations, STATUS_METRICS_ANNOTATION, rest)
    _to_annotation(annotations, CONDITIONS_ANNOTATION, status.pop("conditions", None))
    _set_annotations(metadata, annotations)
    return {**obj, "apiVersion": "autoscaling/v1", "metadata": metadata, "spec": spec, "status": status}


def _from_annotation(annotations: dict[str, str], name: str, default: Any) -> Any:
    text = annotations.pop(name, "")
    if not text:
        return default
    try:
        return json.loads(text)
    except ValueError:  # upstream ignores what it cannot read and keeps no copy
        return default


def _to_annotation(annotations: dict[str, str], name: str, value: object) -> None:
    if value:
        annotations[name] = json.dumps(value, separators=(",", ":"))


def _set_annotations(metadata: Obj, annotations: dict[str, str]) -> None:
    if annotations:
        metadata["annotations"] = annotations
    else:
        metadata.pop("annotations", None)


_CONVERTERS: dict[tuple[str, str, str], Converter] = {
    ("Event", "v1", "events.k8s.io/v1"): event_to_events,
    ("Event", "events.k8s.io/v1", "v1"): event_from_events,
    ("HorizontalPodAutoscaler", "autoscaling/v1", "autoscaling/v2"): hpa_v1_to_v2,
    ("HorizontalPodAutoscaler", "autoscaling/v2", "autoscaling/v1"): hpa_v2_to_v1,
}


def converter(kind: str, source: str, target: str) -> Converter | None:
    """How ``kind`` gets from apiVersion ``source`` to ``target``; None when both are the same. Versions with equal fields
    need only the new ``apiVersion``."""
    if source == target:
        return None
    found = _CONVERTERS.get((kind, source, target))
    if found:
        return found

    def relabel(obj: Obj) -> Obj:
        return {**obj, "apiVersion": target}

    return relabel
