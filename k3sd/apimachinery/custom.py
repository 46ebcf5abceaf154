"""Custom resources: a type whose schema came at run time, made to look like a declared one.

``register`` puts a type beside the built-in ones, so that decoding, defaulting, server-side apply and the generic registry see
its objects like any other: ``conform`` prunes them, ``apply_defaults`` fills them, ``apply`` follows their list types.
``validate`` is what a custom resource's strategy adds. Sources: ``apiextensions-apiserver/pkg/apiserver/schema`` (``pruning``,
``defaulting``, ``listtype``), ``kube-openapi/pkg/validation/validate`` (the wording).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from k3sd.apimachinery import conform, defaults, shape, timefmt
from k3sd.apimachinery.codec import clone
from k3sd.apimachinery.errors import (
    FieldError,
    Obj,
    duplicate,
    go_value,
    invalid,
    not_supported,
    required,
    too_long,
    too_many,
)
from k3sd.apimachinery.schema import META, Field, Type, types

_HEAD = ("kind", "apiVersion", "metadata")
_PRESERVE = "x-kubernetes-preserve-unknown-fields"
_EMBEDDED = "x-kubernetes-embedded-resource"
_INT_OR_STRING = "x-kubernetes-int-or-string"


def register(type_name: str, schema: Obj | None, *, has_status: bool) -> Type:
    """Make ``type_name`` known, replacing what it was. ``schema`` is the version's ``openAPIV3Schema`` (None: anything goes),
    ``has_status`` whether the status subresource is on."""
    fields = {"kind": Field("kind", (), "", "string"), "apiVersion": Field("apiVersion", (), "", "string")}
    fields["metadata"] = Field("metadata", (), "", f"{META}.ObjectMeta")
    if has_status:
        fields["status"] = Field("status", (), "", "object")
    declared = Type(type_name, "", True, False, fields)
    types.register(declared)
    conform.register(type_name, lambda obj: prune(obj, schema))
    defaults.register(type_name, lambda obj: set_defaults(obj, schema) if schema else None)
    shape.register(type_name, shape.of_schema(schema))
    return declared


def unregister(type_name: str) -> None:
    """Forget ``type_name``."""
    types.unregister(type_name)
    conform.unregister(type_name)
    defaults.unregister(type_name)
    shape.unregister(type_name)


# Pruning


def prune(obj: Any, schema: Obj | None) -> list[str]:
    """Drop what the schema does not know, in place; the texts name it. Metadata is made canonical as for any object."""
    unknown = conform.conform_metadata(obj)
    if schema is not None:
        _prune(obj, schema, "", unknown, is_object=True)
    return unknown


def _prune(value: Any, schema: Obj, path: str, unknown: list[str], is_object: bool = False) -> None:
    if isinstance(value, list):
        items = schema.get("items")
        if isinstance(items, dict):
            for i, item in enumerate(value):
                _prune(item, items, f"{path}[{i}]", unknown)
        return
    if not isinstance(value, dict):
        return
    properties, extra = schema.get("properties") or {}, schema.get("additionalProperties")
    keep_all = schema.get(_PRESERVE) or extra is True
    is_object = is_object or bool(schema.get(_EMBEDDED))
    if is_object and path:
        unknown += conform.conform_metadata(value, path)
    for key in list(value):
        if is_object and key in _HEAD:
            continue
        here = f"{path}.{key}" if path else key
        inner = properties.get(key)
        if inner is None and isinstance(extra, dict):
            inner = extra
        if inner is not None:
            if value[key] is None and not inner.get("nullable"):
                del value[key]
            else:
                _prune(value[key], inner, here, unknown)
        elif not keep_all:
            unknown.append(f'unknown field "{here}"')
            del value[key]


# Defaulting


def set_defaults(value: Any, schema: Obj) -> None:
    """Put the schema's defaults where nothing is, in place."""
    if isinstance(value, list):
        items = schema.get("items")
        if isinstance(items, dict):
            for item in value:
                set_defaults(item, items)
    elif isinstance(value, dict):
        properties, extra = schema.get("properties") or {}, schema.get("additionalProperties")
        for key, inner in properties.items():
            if key not in value and "default" in inner:
                value[key] = clone(inner["default"])
            if key in value:
                set_defaults(value[key], inner)
        if isinstance(extra, dict):
            for key, item in value.items():
                if key not in properties:
                    set_defaults(item, extra)


# Validation


def validate(obj: Obj, schema: Obj | None) -> list[FieldError]:
    """What of the object the schema forbids. Metadata is left to ``validate_object_meta``."""
    return list(_check(obj, schema, "", is_object=True)) if schema else []


_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
}


def _type_of(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    for name, kinds in _TYPES.items():
        if isinstance(value, kinds):
            return name
    return "null"


def _fits(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _TYPES.get(kind, (object,)))


def _check(value: Any, schema: Obj, path: str, is_object: bool = False) -> Iterator[FieldError]:
    if value is None and schema.get("nullable"):
        return
    kind = schema.get("type")
    if schema.get(_INT_OR_STRING):
        if not isinstance(value, str) and not _fits(value, "integer"):
            yield _wrong_type(path, value, "integer,string")
            return
    elif kind and not _fits(value, kind):
        yield _wrong_type(path, value, kind)
        return
    if "enum" in schema and value not in schema["enum"]:
        yield not_supported(path, value, [v if isinstance(v, str) else str(v) for v in schema["enum"]])
    if isinstance(value, str):
        yield from _check_string(value, schema, path)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield from _check_number(value, schema, path)
    elif isinstance(value, list):
        yield from _check_list(value, schema, path)
    elif isinstance(value, dict):
        yield from _check_map(value, schema, path, is_object or bool(schema.get(_EMBEDDED)))
    yield from _check_junctors(value, schema, path)


def _body(path: str) -> str:
    return f"{path} in body" if path else "<nil> in body"


def _wrong_type(path: str, value: Any, wanted: str) -> FieldError:
    found = go_value(_type_of(value))
    return FieldError("FieldValueTypeInvalid", path, f"Invalid value: {found}: {_body(path)} must be of type {wanted}: {found}")


@lru_cache(maxsize=256)
def _pattern(text: str) -> re.Pattern[str] | None:
    """RE2 is nearly a subset of Python's syntax; what Python cannot compile is not checked."""
    try:
        return re.compile(text.replace(r"\z", r"\Z"))
    except re.error:
        return None


def _check_string(value: str, schema: Obj, path: str) -> Iterator[FieldError]:
    size = len(value)
    if size > schema.get("maxLength", math.inf):
        yield too_long(path, schema["maxLength"])
    if size < schema.get("minLength", 0):
        yield invalid(path, value, f"{_body(path)} should be at least {schema['minLength']} chars long")
    pattern = _pattern(schema["pattern"]) if "pattern" in schema else None
    if pattern is not None and not pattern.search(value):
        yield invalid(path, value, f"{_body(path)} should match '{schema['pattern']}'")
    kind = schema.get("format", "")
    if kind and not _has_format(value, kind):
        yield invalid(path, value, f"{_body(path)} must be of type {kind}: {go_value(value)}")


def _has_format(value: str, kind: str) -> bool:
    """The formats upstream checks that have one reading; the others are accepted."""
    import base64
    import ipaddress
    import uuid
    from datetime import date

    try:
        match kind:
            case "date-time" | "datetime":
                timefmt.parse(value)
            case "date":
                date.fromisoformat(value)
            case "duration":
                timefmt.parse_duration(value)
            case "byte":
                base64.b64decode(value, validate=True)
            case "ipv4":
                ipaddress.IPv4Address(value)
            case "ipv6":
                ipaddress.IPv6Address(value)
            case "cidr":
                ipaddress.ip_interface(value)
            case "uuid":
                uuid.UUID(value)
    except ValueError:
        return False
    return True


def _check_number(value: float, schema: Obj, path: str) -> Iterator[FieldError]:
    body = _body(path)
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None:
        if schema.get("exclusiveMinimum"):
            if value <= low:
                yield invalid(path, value, f"{body} should be greater than {_number(low)}")
        elif value < low:
            yield invalid(path, value, f"{body} should be greater than or equal to {_number(low)}")
    if high is not None:
        if schema.get("exclusiveMaximum"):
            if value >= high:
                yield invalid(path, value, f"{body} should be less than {_number(high)}")
        elif value > high:
            yield invalid(path, value, f"{body} should be less than or equal to {_number(high)}")
    step = schema.get("multipleOf")
    if step and not math.isclose(value / step, round(value / step), abs_tol=1e-9):
        yield invalid(path, value, f"{body} should be a multiple of {_number(step)}")


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else str(value)


def _check_list(value: list[Any], schema: Obj, path: str) -> Iterator[FieldError]:
    if len(value) > schema.get("maxItems", math.inf):
        yield too_many(path, len(value), schema["maxItems"])
    if len(value) < schema.get("minItems", 0):
        yield invalid(path, len(value), f"{_body(path)} should have at least {schema['minItems']} items")
    items = schema.get("items")
    if isinstance(items, dict):
        for i, item in enumerate(value):
            yield from _check(item, items, f"{path}[{i}]")
    yield from _check_unique(value, schema, path)


def _check_unique(value: list[Any], schema: Obj, path: str) -> Iterator[FieldError]:
    """``listtype.ValidateListSetsAndMaps``."""
    kind = schema.get("x-kubernetes-list-type")
    seen: list[Any] = []
    for i, item in enumerate(value):
        if kind == "map" and isinstance(item, dict):
            item = {key: item[key] for key in schema.get("x-kubernetes-list-map-keys") or () if key in item}
        elif kind != "set":
            return
        if item in seen:
            yield duplicate(f"{path}[{i}]", item)
        seen.append(item)


def _check_map(value: Obj, schema: Obj, path: str, is_object: bool) -> Iterator[FieldError]:
    if len(value) > schema.get("maxProperties", math.inf):
        yield too_many(path, len(value), schema["maxProperties"])
    if len(value) < schema.get("minProperties", 0):
        yield invalid(path, len(value), f"{_body(path)} should have at least {schema['minProperties']} properties")
    for name in schema.get("required") or ():
        if name not in value:
            yield required(f"{path}.{name}" if path else name)
    properties, extra = schema.get("properties") or {}, schema.get("additionalProperties")
    for key, item in value.items():
        if is_object and key in _HEAD:
            continue
        inner = properties.get(key, extra)
        if isinstance(inner, dict):
            yield from _check(item, inner, f"{path}.{key}" if path else key)


def _check_junctors(value: Any, schema: Obj, path: str) -> Iterator[FieldError]:
    """allOf, anyOf, oneOf, not."""
    for part in schema.get("allOf") or ():
        yield from _check(value, part, path)
    if (parts := schema.get("anyOf")) and not any(_valid(value, part) for part in parts):
        yield invalid(path, value, f"{go_value(path)} must validate at least one schema (anyOf)")
    if parts := schema.get("oneOf"):
        found = sum(_valid(value, part) for part in parts)
        if found != 1:
            text = "Found none valid" if not found else f"Found {found} valid alternatives"
            yield invalid(path, value, f"{go_value(path)} must validate one and only one schema (oneOf). {text}")
    if (part := schema.get("not")) is not None and _valid(value, part):
        yield invalid(path, value, f"{go_value(path)} must not validate the schema (not)")


def _valid(value: Any, schema: Obj) -> bool:
    return next(_check(value, schema, ""), None) is None
