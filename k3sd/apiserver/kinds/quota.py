"""ResourceQuotas and LimitRanges. Source: ``ValidateResourceQuota``, ``ValidateLimitRange``."""

from __future__ import annotations

from k3sd.apimachinery import quantity
from k3sd.apimachinery import validation as names
from k3sd.apimachinery.errors import FieldError, Obj, duplicate, forbidden_field, invalid, required
from k3sd.apis import resources
from k3sd.apiserver.kinds import strategy
from k3sd.apiserver.kinds.rules import (
    STANDARD_QUOTA_NAMES,
    Errors,
    is_container_resource,
    is_extended_resource,
    same,
    spec_of,
    validate_resource_name,
)
from k3sd.apiserver.request import RequestContext
from k3sd.apiserver.strategy import Strategy

_SCOPES = (
    "Terminating",
    "NotTerminating",
    "BestEffort",
    "NotBestEffort",
    "PriorityClass",
    "CrossNamespacePodAffinity",
    "VolumeAttributesClass",
)
_COMPUTE = frozenset(("pods", *(p + r for p in ("", "requests.", "limits.") for r in ("cpu", "memory", "ephemeral-storage"))))
_WHOLE = STANDARD_QUOTA_NAMES - _COMPUTE - {"requests.storage"} | {"pods"}


@strategy(resources.RESOURCEQUOTAS)
class ResourceQuotaStrategy(Strategy):
    def validate_create(self, ctx: RequestContext, obj: Obj) -> list[FieldError]:
        errs: Errors = []
        spec = spec_of(obj)
        for name, value in (spec.get("hard") or {}).items():
            path = f"spec.hard[{name}]"
            _validate_quota_name(name, path, errs)
            _validate_quota_value(name, value, path, errs)
        _validate_scopes(spec, errs)
        return errs

    def validate_update(self, ctx: RequestContext, new: Obj, old: Obj) -> list[FieldError]:
        errs = self.validate_create(ctx, new)
        if not same(sorted(spec_of(new).get("scopes") or []), sorted(spec_of(old).get("scopes") or [])):
            errs.append(invalid("spec.scopes", spec_of(new).get("scopes"), "field is immutable"))
        return errs

    def validate_status(self, ctx: RequestContext, new: Obj, old: Obj) -> list[FieldError]:
        errs: Errors = []
        for key in ("hard", "used"):
            for name, value in ((new.get("status") or {}).get(key) or {}).items():
                path = f"status.{key}[{name}]"
                _validate_quota_name(name, path, errs)
                _validate_quota_value(name, value, path, errs)
        return errs


def _validate_quota_name(name: str, field: str, errs: Errors) -> None:
    problems = names.qualified_name(name)
    errs += [invalid(field, name, text) for text in problems]
    if not problems and "/" not in name and name not in STANDARD_QUOTA_NAMES:
        errs.append(invalid(field, name, "must be a standard resource for quota"))


def _validate_quota_value(name: str, value: object, field: str, errs: Errors) -> None:
    parsed = quantity.parse(str(value))
    if parsed < quantity.parse(0):
        errs.append(invalid(field, str(value), "must be greater than or equal to 0"))
    if (name in _WHOLE or name.startswith("count/") or is_extended_resource(name)) and parsed.milli() % 1000:
        errs.append(invalid(field, str(value), "must be an integer"))


def _validate_scopes(spec: Obj, errs: Errors) -> None:
    scopes = list(spec.get("scopes") or [])
    hard = spec.get("hard") or {}
    for i, scope in enumerate(scopes):
        if scope not in _SCOPES:
            errs.append(invalid("spec.scopes", scopes, "unsupported scope"))
        elif scope in scopes[:i]:
            errs.append(duplicate(f"spec.scopes[{i}]", scope))
        _validate_scope_resources(scope, hard, scopes, "spec.scopes", errs)
    if {"BestEffort", "NotBestEffort"} <= set(scopes) or {"Terminating", "NotTerminating"} <= set(scopes):
        errs.append(invalid("spec.scopes", scopes, "conflicting scopes"))
    for req in (spec.get("scopeSelector") or {}).get("matchExpressions") or []:
        path = "spec.scopeSelector.matchExpressions"
        scope, operator, values = req.get("scopeName", ""), req.get("operator", ""), req.get("values") or []
        if scope not in _SCOPES:
            errs.append(invalid(f"{path}.scopeName", scope, "unsupported scope"))
        _validate_scope_resources(scope, hard, scope, f"{path}.scopeName", errs)
        if scope in _SCOPES[:4] and operator != "Exists":
            errs.append(
                invalid(
                    f"{path}.operator",
                    operator,
                    "must be 'Exist' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, "
                    "ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or "
                    "ResourceQuotaScopeCrossNamespacePodAffinity",
                )
            )
        if operator in ("In", "NotIn") and not values:
            errs.append(
                required(f"{path}.values", "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector")
            )
        elif operator in ("Exists", "DoesNotExist") and values:
            errs.append(
                invalid(
                    f"{path}.values", values, "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector"
                )
            )
        elif operator not in ("In", "NotIn", "Exists", "DoesNotExist"):
            errs.append(invalid(f"{path}.operator", operator, "not a valid selector operator"))


def _validate_scope_resources(scope: str, hard: Obj, value: object, field: str, errs: Errors) -> None:
    for name in hard:
        allowed = name == "pods" if scope == "BestEffort" else name in _COMPUTE or "/" in name
        if scope in ("Terminating", "NotTerminating", "NotBestEffort", "BestEffort") and not allowed:
            errs.append(invalid(field, value, f"unsupported scope applied to resource: {name}"))
            return


@strategy(resources.LIMITRANGES)
class LimitRangeStrategy(Strategy):
    has_status = False

    def validate_create(self, ctx: RequestContext, obj: Obj) -> list[FieldError]:
        errs: Errors = []
        seen: set[str] = set()
        for i, limit in enumerate(spec_of(obj).get("limits") or []):
            path = f"spec.limits[{i}]"
            kind = limit.get("type", "")
            if kind not in ("Container", "Pod", "PersistentVolumeClaim") and "/" not in kind:
                errs.append(invalid(f"{path}.type", kind, "must be a standard limit type or fully qualified"))
            if kind in seen:
                errs.append(duplicate(f"{path}.type", kind))
            seen.add(kind)
            _validate_limit(limit, kind, path, errs)
        return errs

    def validate_update(self, ctx: RequestContext, new: Obj, old: Obj) -> list[FieldError]:
        return self.validate_create(ctx, new)


def _validate_limit(limit: Obj, kind: str, path: str, errs: Errors) -> None:
    parts = {key: limit.get(key) or {} for key in ("max", "min", "default", "defaultRequest", "maxLimitRequestRatio")}
    keys = dict.fromkeys(name for part in parts.values() for name in part)
    for key, part in parts.items():
        for name in part:
            where = f"{path}.{key}[{name}]"
            if kind == "Container" and not (is_container_resource(name) or "/" in name):
                errs.append(invalid(where, name, "must be a standard resource for containers"))
            else:
                validate_resource_name(name, where, errs)
    if kind == "Pod":
        for key in ("default", "defaultRequest"):
            if parts[key]:
                errs.append(forbidden_field(f"{path}.{key}", "may not be specified when `type` is 'Pod'"))
    if kind == "PersistentVolumeClaim" and "storage" not in parts["min"] and "storage" not in parts["max"]:
        errs.append(required(f"{path}.limits", "either minimum or maximum storage value is required, but neither was provided"))
    for name in keys:
        _validate_limit_values(name, {k: v.get(name) for k, v in parts.items()}, path, errs)


def _validate_limit_values(name: str, values: dict[str, object], path: str, errs: Errors) -> None:
    parsed = {k: quantity.parse(str(v)) for k, v in values.items() if v is not None}
    text = {k: str(v) for k, v in values.items() if v is not None}

    def above(low: str, high: str, field: str, message: str) -> None:
        if low in parsed and high in parsed and parsed[low] > parsed[high]:
            errs.append(invalid(f"{path}.{field}[{name}]", text[field], message))

    above("min", "max", "min", f"min value {text.get('min')} is greater than max value {text.get('max')}")
    request = text.get("defaultRequest")
    above(
        "min",
        "defaultRequest",
        "defaultRequest",
        f"min value {text.get('min')} is greater than default request value {request}",
    )
    above(
        "defaultRequest",
        "max",
        "defaultRequest",
        f"default request value {request} is greater than max value {text.get('max')}",
    )
    above(
        "defaultRequest",
        "default",
        "defaultRequest",
        f"default request value {request} is greater than default limit value {text.get('default')}",
    )
    above("min", "default", "default", f"min value {text.get('min')} is greater than default value {text.get('default')}")
    above("default", "max", "default", f"default value {text.get('default')} is greater than max value {text.get('max')}")
    ratio = parsed.get("maxLimitRequestRatio")
    if ratio is not None:
        where, shown = f"{path}.maxLimitRequestRatio[{name}]", text["maxLimitRequestRatio"]
        low, high = parsed.get("min"), parsed.get("max")
        if ratio < quantity.parse(1):
            errs.append(invalid(where, shown, f"ratio {shown} is less than 1"))
        elif low is not None and high is not None and low.milli() and high.milli() / low.milli() < ratio.milli() / 1000:
            errs.append(invalid(where, shown, f"ratio {shown} is greater than max/min = {high.milli() / low.milli():f}"))
    fixed = is_extended_resource(name) or name.startswith("hugepages-")
    if fixed and "default" in parsed and "defaultRequest" in parsed and parsed["default"] != parsed["defaultRequest"]:
        message = f"default value {text['default']} must equal to defaultRequest value {request} in {name}"
        errs.append(invalid(f"{path}.defaultRequest[{name}]", request, message))
