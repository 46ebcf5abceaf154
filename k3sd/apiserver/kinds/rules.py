"""Small validation rules that many kinds share. Source: ``pkg/apis/core/validation``, ``apimachinery/pkg/util/validation``.

A rule appends to ``errs`` (``validate_*``) and leaves the object alone. Objects are decoded and defaulted: types are right,
required-by-schema fields may still be missing.
"""

from __future__ import annotations

import copy
import ipaddress
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import lru_cache
from typing import Any

from k3sd.apimachinery import quantity, selectors
from k3sd.apimachinery import validation as names
from k3sd.apimachinery.errors import (
    FieldError,
    Obj,
    duplicate,
    forbidden_field,
    go_value,
    invalid,
    not_supported,
    required,
)

Errors = list[FieldError]
NameRule = Callable[[str], list[str]]

IMMUTABLE = "field is immutable"
NON_NEGATIVE = "must be greater than or equal to 0"
MAX_INT32 = 2**31 - 1

_STANDARD_RESOURCES = frozenset(("cpu", "memory", "ephemeral-storage"))


def spec_of(obj: Obj) -> Obj:
    spec: Obj = obj.get("spec") or {}
    return spec


def meta_of(obj: Obj) -> Obj:
    meta: Obj = obj.get("metadata") or {}
    return meta


def same(a: object, b: object) -> bool:
    """Semantic equality: a missing value equals an empty map, list or string."""
    return a == b or (not a and not b and not isinstance(a, bool | int) and not isinstance(b, bool | int))


def validate_immutable(new: object, old: object, field: str, errs: Errors) -> None:
    """``ValidateImmutableField``."""
    if not same(new, old):
        errs.append(invalid(field, new, IMMUTABLE))


def validate_names(rule: NameRule, value: str, field: str, errs: Errors) -> None:
    """Every complaint of ``rule`` (``validation.dns1123_label`` and friends) as one error."""
    for text in rule(value):
        errs.append(invalid(field, value, text))


def validate_non_negative(value: int | None, field: str, errs: Errors) -> None:
    if value is not None and value < 0:
        errs.append(invalid(field, value, NON_NEGATIVE))


def validate_enum(value: object, allowed: Collection[str], field: str, errs: Errors, *, optional: bool = False) -> None:
    """Required unless ``optional``; NotSupported for anything outside ``allowed``."""
    if not value:
        if not optional:
            errs.append(required(field))
    elif value not in allowed:
        errs.append(not_supported(field, value, list(allowed)))


def validate_port(value: int, field: str, errs: Errors) -> None:
    """``IsValidPortNum``."""
    if not 1 <= value <= 65535:
        errs.append(invalid(field, value, "must be between 1 and 65535, inclusive"))


def validate_port_or_name(value: int | str, field: str, errs: Errors) -> None:
    """``ValidatePortNumOrName`` of an int-or-string."""
    if isinstance(value, str):
        validate_names(names.port_name, value, field, errs)
    else:
        validate_port(value, field, errs)


@lru_cache(maxsize=1024)
def ip_problem(value: str) -> str:
    """ "" for an IP address as Go parses it, else upstream's complaint."""
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
    return ""


def validate_ip(value: str, field: str, errs: Errors) -> None:
    if problem := ip_problem(value):
        errs.append(invalid(field, value, problem))


def validate_cidr(value: str, field: str, errs: Errors) -> None:
    try:
        if "/" not in value:
            raise ValueError(value)
        ipaddress.ip_network(value, strict=False)
    except ValueError:
        errs.append(invalid(field, value, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"))


def validate_labels(labels: Mapping[str, str] | None, field: str, errs: Errors) -> None:
    if labels:
        errs += names.validate_labels(labels, field)


def validate_label_name(key: str, field: str, errs: Errors) -> None:
    validate_names(names.qualified_name, key, field, errs)


def validate_selector_requirement(req: Obj, field: str, errs: Errors, *, invalid_values: bool = False) -> None:
    """``ValidateLabelSelectorRequirement``."""
    op, values = req.get("operator", ""), req.get("values") or []
    if op in ("In", "NotIn"):
        if not values:
            errs.append(required(f"{field}.values", "must be specified when `operator` is 'In' or 'NotIn'"))
    elif op in ("Exists", "DoesNotExist"):
        if values:
            errs.append(
                forbidden_field(f"{field}.values", "may not be specified when `operator` is 'Exists' or 'DoesNotExist'")
            )
    else:
        errs.append(invalid(f"{field}.operator", op, "not a valid selector operator"))
    validate_label_name(req.get("key", ""), f"{field}.key", errs)
    if not invalid_values:
        for i, value in enumerate(values):
            validate_names(names.label_value, value, f"{field}.values[{i}]", errs)


def validate_label_selector(selector: Obj | None, field: str, errs: Errors, *, invalid_values: bool = False) -> None:
    """``ValidateLabelSelector``."""
    if selector is None:
        return
    validate_labels(selector.get("matchLabels"), f"{field}.matchLabels", errs)
    for i, req in enumerate(selector.get("matchExpressions") or []):
        validate_selector_requirement(req, f"{field}.matchExpressions[{i}]", errs, invalid_values=invalid_values)


def validate_template_labels(selector: Obj, labels: Mapping[str, str], errs: Errors) -> None:
    """The selector of a workload chooses its own pods."""
    try:
        chosen = selectors.label_selector_from(selector).matches(labels)
    except ValueError:
        errs.append(invalid("spec.selector", selector, "invalid label selector"))
        return
    if not chosen:
        errs.append(invalid("spec.template.metadata.labels", labels, "`selector` does not match template `labels`"))


def is_empty_selector(selector: Obj | None) -> bool:
    return not selector or not (selector.get("matchLabels") or selector.get("matchExpressions"))


def validate_quantity(value: Any, field: str, errs: Errors) -> None:
    """A parsed quantity must not be negative."""
    if quantity.parse(value) < quantity.parse(0):
        errs.append(invalid(field, value, NON_NEGATIVE))


def is_native_resource(name: str) -> bool:
    """``IsNativeResource``: no domain, or one of kubernetes.io."""
    return "/" not in name or name.partition("/")[0].endswith("kubernetes.io")


def is_extended_resource(name: str) -> bool:
    """``IsExtendedResourceName``."""
    if is_native_resource(name) or name.startswith("requests."):
        return False
    return not names.qualified_name(f"requests.{name}")


def validate_resource_name(name: str, field: str, errs: Errors) -> None:
    """``validateResourceName``: qualified, or one of the standard names."""
    for text in names.qualified_name(name):
        errs.append(invalid(field, name, text))
        return
    if "/" not in name and name not in STANDARD_RESOURCE_NAMES and not name.startswith(("hugepages-", "requests.hugepages-")):
        errs.append(invalid(field, name, "must be a standard resource type or fully qualified"))


STANDARD_QUOTA_NAMES = frozenset(
    [
        "cpu",
        "memory",
        "ephemeral-storage",
        "requests.cpu",
        "requests.memory",
        "requests.storage",
        "requests.ephemeral-storage",
        "limits.cpu",
        "limits.memory",
        "limits.ephemeral-storage",
        "pods",
        "resourcequotas",
        "services",
        "replicationcontrollers",
        "secrets",
        "persistentvolumeclaims",
        "configmaps",
        "services.nodeports",
        "services.loadbalancers",
    ]
)
STANDARD_RESOURCE_NAMES = STANDARD_QUOTA_NAMES | {"storage"}


def is_container_resource(name: str) -> bool:
    """``IsStandardContainerResourceName`` plus huge pages."""
    return name in _STANDARD_RESOURCES or name.startswith("hugepages-")


def validate_container_resource_name(name: str, field: str, errs: Errors) -> None:
    """``ValidateContainerResourceName``."""
    before = len(errs)
    for text in names.qualified_name(name):
        errs.append(invalid(field, name, text))
    if len(errs) > before:
        return
    if "/" not in name:
        if not is_container_resource(name):
            errs.append(invalid(field, name, "must be a standard resource for containers"))
    elif not is_native_resource(name) and not is_extended_resource(name):
        errs.append(invalid(field, name, "doesn't follow extended resource name standard"))


def validate_int_or_percent(value: int | str | None, field: str, errs: Errors) -> None:
    """``ValidatePositiveIntOrPercent``."""
    if value is None:
        return
    if isinstance(value, str):
        if not re.fullmatch(r"[0-9]+%", value):
            errs.append(
                invalid(
                    field,
                    value,
                    "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', "
                    "regex used for validation is '[0-9]+%')",
                )
            )
    else:
        validate_non_negative(value, field, errs)


def percent_of(value: object) -> int | None:
    """The number of a percent string, None for anything else."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]+%", value):
        return int(value[:-1])
    return None


def validate_unique(values: Iterable[Any], field: Callable[[int], str], errs: Errors) -> None:
    seen = set()
    for i, value in enumerate(values):
        if value in seen:
            errs.append(duplicate(field(i), value))
        seen.add(value)


def validate_name_references(refs: Iterable[Obj], field: str, errs: Errors) -> None:
    """LocalObjectReferences must carry a name."""
    for i, ref in enumerate(refs):
        if not ref.get("name"):
            errs.append(required(f"{field}[{i}].name"))


def spec_diff(old: Any, new: Any, path: str = "") -> str:
    """The changed leaves, one a line; stands for upstream's cmp.Diff behind Forbidden texts."""
    lines: list[str] = []
    _collect_diff(old, new, path, lines)
    return "\n".join(lines[:20])


def _collect_diff(old: Any, new: Any, path: str, lines: list[str]) -> None:
    if old == new:
        return
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            _collect_diff(old.get(key), new.get(key), f"{path}.{key}" if path else key, lines)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for i, (a, b) in enumerate(zip(old, new, strict=True)):
            _collect_diff(a, b, f"{path}[{i}]", lines)
    else:
        lines.append(f"  {path}: {_short(old)} -> {_short(new)}")


def _short(value: Any) -> str:
    text = go_value(value)
    return text if len(text) <= 200 else text[:200] + "..."


def clone(value: Any) -> Any:
    """A deep copy of JSON data (faster than copy.deepcopy for plain data)."""
    if isinstance(value, dict):
        return {k: clone(v) for k, v in value.items()}
    if isinstance(value, list):
        return [clone(v) for v in value]
    return value if isinstance(value, str | int | float | bool | None) else copy.copy(value)


def canonical(value: Any) -> str:
    """A comparable text of JSON data (for sets of objects)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
