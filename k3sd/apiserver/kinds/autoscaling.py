"""HorizontalPodAutoscalers. Source: ``pkg/apis/autoscaling/validation``."""

from __future__ import annotations

from k3sd.apimachinery import quantity
from k3sd.apimachinery import validation as names
from k3sd.apimachinery.errors import FieldError, Obj, forbidden_field, invalid, not_supported, required
from k3sd.apis import resources
from k3sd.apiserver.kinds import strategy
from k3sd.apiserver.kinds.rules import Errors, spec_of, validate_label_selector, validate_names
from k3sd.apiserver.request import RequestContext
from k3sd.apiserver.strategy import Strategy

METRIC_TYPES = ("ContainerResource", "External", "Object", "Pods", "Resource")
_SOURCES = {
    "Object": "object",
    "Pods": "pods",
    "Resource": "resource",
    "ContainerResource": "containerResource",
    "External": "external",
}


@strategy(resources.HORIZONTALPODAUTOSCALERS, resources.HORIZONTALPODAUTOSCALERS_V1)
class AutoscalerStrategy(Strategy):
    def validate_create(self, ctx: RequestContext, obj: Obj) -> list[FieldError]:
        errs: Errors = []
        spec = spec_of(obj)
        low, high = spec.get("minReplicas"), spec.get("maxReplicas") or 0
        if low is not None and low < 1:
            errs.append(invalid("spec.minReplicas", low, "must be greater than or equal to 1"))
        if high < 1:
            errs.append(invalid("spec.maxReplicas", high, "must be greater than 0"))
        if low is not None and high < low:
            errs.append(invalid("spec.maxReplicas", high, "must be greater than or equal to `minReplicas`"))
        target = spec.get("scaleTargetRef") or {}
        for key in ("kind", "name"):
            if not target.get(key):
                errs.append(required(f"spec.scaleTargetRef.{key}"))
            else:
                validate_names(names.path_segment_name, target[key], f"spec.scaleTargetRef.{key}", errs)
        percent = spec.get("targetCPUUtilizationPercentage")
        if percent is not None and percent < 1:
            errs.append(invalid("spec.targetCPUUtilizationPercentage", percent, "must be greater than 0"))
        for i, metric in enumerate(spec.get("metrics") or []):
            _validate_metric(metric, f"spec.metrics[{i}]", errs)
        behavior = spec.get("behavior") or {}
        for direction in ("scaleUp", "scaleDown"):
            if behavior.get(direction):
                _validate_scaling(behavior[direction], f"spec.behavior.{direction}", errs)
        return errs

    def validate_update(self, ctx: RequestContext, new: Obj, old: Obj) -> list[FieldError]:
        return self.validate_create(ctx, new)


def _validate_metric(metric: Obj, path: str, errs: Errors) -> None:
    kind = metric.get("type", "")
    if not kind:
        errs.append(required(f"{path}.type", "must specify a metric source type"))
    elif kind not in METRIC_TYPES:
        errs.append(not_supported(f"{path}.type", kind, METRIC_TYPES))
    present = [k for k in _SOURCES.values() if metric.get(k) is not None]
    expected = _SOURCES.get(kind, "")
    for other in present:
        if other != expected and kind in _SOURCES:
            errs.append(forbidden_field(f"{path}.{other}", "must populate the given metric source only"))
    if kind in _SOURCES and expected not in present:
        errs.append(required(f"{path}.{expected}", "must populate information for the given metric source"))
        return
    source = metric.get(expected) or {}
    where = f"{path}.{expected}"
    if kind in ("Resource", "ContainerResource"):
        if not source.get("name"):
            errs.append(required(f"{where}.name", "must specify a resource name"))
        if kind == "ContainerResource" and not source.get("container"):
            errs.append(required(f"{where}.container", "must specify a container"))
    elif kind in ("Object", "Pods", "External"):
        identifier = source.get("metric") or {}
        if not identifier.get("name"):
            errs.append(required(f"{where}.metric.name", "must specify a metric name"))
        validate_label_selector(identifier.get("selector"), f"{where}.metric.selector", errs)
    if kind in _SOURCES:
        _validate_target(source.get("target") or {}, f"{where}.target", errs)


def _validate_target(target: Obj, path: str, errs: Errors) -> None:
    kind = target.get("type", "")
    if not kind:
        errs.append(required(f"{path}.type", "must specify a metric target type"))
    elif kind not in ("Utilization", "Value", "AverageValue"):
        errs.append(invalid(f"{path}.type", kind, "must be either Utilization, Value, or AverageValue"))
    for key in ("value", "averageValue"):
        if target.get(key) is not None and quantity.parse(target[key]) <= quantity.parse(0):
            errs.append(invalid(f"{path}.{key}", str(target[key]), "must be positive"))
    percent = target.get("averageUtilization")
    if percent is not None and percent < 1:
        errs.append(invalid(f"{path}.averageUtilization", percent, "must be greater than 0"))


def _validate_scaling(rules: Obj, path: str, errs: Errors) -> None:
    window = rules.get("stabilizationWindowSeconds")
    if window is not None and not 0 <= window <= 3600:
        text = "must be greater than or equal to zero" if window < 0 else "must be less than or equal to 3600"
        errs.append(invalid(f"{path}.stabilizationWindowSeconds", window, text))
    choice = rules.get("selectPolicy")
    if choice is not None and choice not in ("Max", "Min", "Disabled"):
        errs.append(not_supported(f"{path}.selectPolicy", choice, ["Disabled", "Max", "Min"]))
    policies = rules.get("policies")
    if policies is not None and not policies:
        errs.append(required(f"{path}.policies", "must specify at least one Policy"))
    for i, policy in enumerate(policies or []):
        where = f"{path}.policies[{i}]"
        if policy.get("type") not in ("Pods", "Percent"):
            errs.append(not_supported(f"{where}.type", policy.get("type", ""), ["Percent", "Pods"]))
        if (policy.get("value") or 0) <= 0:
            errs.append(invalid(f"{where}.value", policy.get("value") or 0, "must be greater than zero"))
        period = policy.get("periodSeconds") or 0
        if not 0 < period <= 1800:
            text = "must be greater than zero" if period <= 0 else "must be less than or equal to 1800"
            errs.append(invalid(f"{where}.periodSeconds", period, text))
