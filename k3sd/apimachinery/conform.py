"""Make a decoded object what Go would make of it: unknown fields dropped and named, types checked, zero values as in Go.

``conform`` runs on every write. Each type is compiled once, when first met, into a closure over a table of checks; an object
that is in order passes through it without any path being built. Only when something is wrong does the slow walk run, which
knows paths and upstream's wording. Sources: ``sigs.k8s.io/json``, Go's ``encoding/json``, ``endpoints/handlers/rest.go``.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from typing import Any

from k3sd.apimachinery import quantity, timefmt
from k3sd.apimachinery.errors import StatusError, bad_request
from k3sd.apimachinery.schema import SCALARS, Field, Type, types

Check = Callable[[Any], Any]
"""Returns the canonical value, or None to leave the field out; raises ``_Odd`` when the slow walk must look."""

_MISSING: Any = object()
_SCHEMA_UNIONS = ("JSONSchemaPropsOrArray", "JSONSchemaPropsOrBool", "JSONSchemaPropsOrStringArray")
_SCHEMA = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps"
_OBJECT_META = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
_GO_SCALARS = {"bytes": "[]uint8", "double": "float64", "any": "interface {}", "object": "interface {}"}


class _Odd(Exception):
    """Something is unknown or wrong; raised without detail, because the slow walk finds it again with its path."""


_odd = _Odd()


def conform(obj: Any, type_: Type | str) -> list[str]:
    """Bring ``obj`` into the form of ``type_``, in place; the texts name what was unknown: ``unknown field "spec.x"``.

    Nulls and what Go's ``omitempty`` leaves out are removed, structs that Go always writes are added as ``{}``, quantities
    and times become canonical. Raises StatusError 400 for a value of the wrong type.
    """
    if isinstance(type_, str):
        type_ = types.get(type_)
    custom = _customs.get(type_.name)
    if custom is not None:
        return custom(obj)
    plan = _structs.get(type_.name) or _struct(type_.name)
    try:
        plan(obj)
    except _Odd:
        walk = _SlowWalk(obj, type_)
        walk.struct(type_, obj, "", "")
        try:
            plan(obj)
        except _Odd:
            raise walk.refuse("json: a null stands where a value is needed") from None
        return walk.unknown
    return []


_customs: dict[str, Callable[[Any], list[str]]] = {}


def register(type_name: str, check: Callable[[Any], list[str]]) -> None:
    """Let ``check`` do what ``conform`` promises, for a type that is not declared (a custom resource)."""
    _customs[type_name] = check


def unregister(type_name: str) -> None:
    _customs.pop(type_name, None)


def conform_metadata(obj: Any, path: str = "") -> list[str]:
    """The part of ``conform`` that holds for every object: kind and apiVersion are strings, metadata is ObjectMeta.

    ``path`` is where the object is embedded.
    """
    here = f"{path}.metadata" if path else "metadata"
    walk = _SlowWalk(obj, types.get(_OBJECT_META))
    if not isinstance(obj, dict):
        raise walk.refuse(f"json: cannot unmarshal {_json_name(obj)} into Go value of type map[string]interface {{}}")
    for name in ("kind", "apiVersion"):
        if not isinstance(obj.get(name, ""), str):
            raise walk.refuse(f"json: cannot unmarshal {_json_name(obj[name])} into Go struct field {name} of type string")
    if obj.get("metadata") is None:
        if not path:
            obj["metadata"] = {}
        return []
    plan = _struct(_OBJECT_META)
    try:
        plan(obj["metadata"])
    except _Odd:
        walk.struct(types.get(_OBJECT_META), obj["metadata"], here, here, ("", "v1.ObjectMeta"))
        plan(obj["metadata"])
    return walk.unknown


def _string(value: Any) -> Any:
    if type(value) is not str:
        raise _odd
    return value or None


def _bool(value: Any) -> Any:
    if type(value) is not bool:
        raise _odd
    return value or None


def _int32(value: Any) -> Any:
    if type(value) is not int or not -0x80000000 <= value <= 0x7FFFFFFF:
        raise _odd
    return value or None


def _pointer_int32(value: Any) -> Any:
    if type(value) is not int or not -0x80000000 <= value <= 0x7FFFFFFF:
        raise _odd
    return value


def _int64(value: Any) -> Any:
    if type(value) is not int or not -(1 << 63) <= value < 1 << 63:
        raise _odd
    return value or None


def _pointer_int64(value: Any) -> Any:
    if type(value) is not int or not -(1 << 63) <= value < 1 << 63:
        raise _odd
    return value


def _double(value: Any) -> Any:
    if type(value) is float or type(value) is int:
        return value
    raise _odd


def _bytes(value: Any) -> Any:
    if type(value) is not str:
        raise _odd
    try:
        base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        if "\n" not in value and "\r" not in value:
            raise _odd from None
        return _bytes(value.replace("\n", "").replace("\r", ""))
    return value or None


def _list_bytes(value: Any) -> Any:
    return _bytes(value) or ""


def _any(value: Any) -> Any:
    return value


def _object(value: Any) -> Any:
    if type(value) is not dict:
        raise _odd
    return value


def _quantity(value: Any) -> Any:
    try:
        if type(value) is str:
            return quantity.canonical(value)
        if type(value) in (int, float):
            return quantity.canonical(repr(value))
    except ValueError:
        pass
    raise _odd


def _time(value: Any) -> Any:
    if type(value) is not str:
        raise _odd
    if not value:
        return None
    try:
        return timefmt.canonical(value)
    except ValueError:
        raise _odd from None


def _micro_time(value: Any) -> Any:
    if type(value) is not str:
        raise _odd
    if not value:
        return None
    try:
        return timefmt.canonical_micro(value)
    except ValueError:
        raise _odd from None


def _int_or_string(value: Any) -> Any:
    if type(value) is str:
        return value
    return _pointer_int32(value)


def _schema_union(value: Any) -> Any:
    if type(value) is dict:
        return _struct(_SCHEMA)(value)
    if type(value) is list:
        for item in value:
            if type(item) is dict:
                _struct(_SCHEMA)(item)
            elif type(item) is not str:
                raise _odd
        return value
    if type(value) is bool:
        return value
    raise _odd


_SPECIAL: dict[str, Check] = {
    "Quantity": _quantity,
    "Time": _time,
    "MicroTime": _micro_time,
    "IntOrString": _int_or_string,
    "RawExtension": _any,
    "JSON": _any,
    "FieldsV1": _object,
    "Patch": _object,
    **dict.fromkeys(_SCHEMA_UNIONS, _schema_union),
}
_OMITEMPTY: dict[str, Check] = {
    "string": _string,
    "bool": _bool,
    "int32": _int32,
    "int64": _int64,
    "bytes": _bytes,
    "double": _double,
    "any": _any,
    "object": _object,
}
_KEEP: dict[str, Any] = {
    **_OMITEMPTY,
    "string": str,
    "bool": bool,
    "int32": _pointer_int32,
    "int64": _pointer_int64,
    "bytes": _list_bytes,
}
"""Checks that keep zero values. A type instead of a function is compared without a call."""

_structs: dict[str, Check] = {}


def _single(type_: str, keep: bool) -> Any:
    """The check of one value of this type, apart from its container."""
    if type_ in SCALARS:
        return (_KEEP if keep else _OMITEMPTY)[type_]
    declared = types.get(type_)
    if declared.scalar:
        return _SPECIAL.get(declared.short) or _any
    return _struct(type_)


def _list(item: Any, keep: bool) -> Check:
    if isinstance(item, type):

        def plain(value: Any) -> Any:
            if type(value) is not list:
                raise _odd
            for element in value:
                if type(element) is not item:
                    raise _odd
            return value if value or keep else None

        return plain

    def checked(value: Any) -> Any:
        if type(value) is not list:
            raise _odd
        for i, element in enumerate(value):
            result = item(element)
            if result is not element:
                value[i] = result
        return value if value or keep else None

    return checked


def _map(item: Any, keep: bool) -> Check:
    if isinstance(item, type):

        def plain(value: Any) -> Any:
            if type(value) is not dict:
                raise _odd
            for element in value.values():
                if type(element) is not item:
                    raise _odd
            return value if value or keep else None

        return plain

    def checked(value: Any) -> Any:
        if type(value) is not dict:
            raise _odd
        for key, element in value.items():
            result = item(element)
            if result is not element:
                value[key] = result
        return value if value or keep else None

    return checked


def _check(field: Field) -> Any:
    if not field.container:
        return _single(field.type, field.pointer or field.always)
    item = _single(field.type, True)
    if field.container == "list":
        return _list(item, field.always)
    if field.container == "maplist":
        item = _list(item, True)
    return _map(item, field.always)


def _fill(field: Field) -> Any:
    """What Go writes when the field is absent: a fresh value maker, a constant, or nothing."""
    if field.pointer or field.container:
        return _MISSING
    if field.type in SCALARS:
        zero = {"string": "", "bool": False, "int32": 0, "int64": 0}
        return zero.get(field.type, _MISSING) if field.always else _MISSING
    declared = types.get(field.type)
    if declared.short == "Quantity":
        return "0"
    if declared.short == "IntOrString":
        return 0
    if declared.scalar or field.omitzero:
        return _MISSING
    return declared.name


def _struct(name: str) -> Check:
    """The compiled check of a struct. Its table is built at the first call, so that types may refer to themselves."""
    found = _structs.get(name)
    if found is not None:
        return found
    checks: dict[str, Any] = {}
    constants: list[tuple[str, Any]] = []
    makers: list[tuple[str, Check]] = []
    get = checks.get
    ready = False

    def prepare() -> None:
        nonlocal ready
        for field in types.get(name).fields.values():
            checks[field.name] = _check(field)
            missing = _fill(field)
            if missing is _MISSING:
                continue
            if missing and isinstance(missing, str) and missing != "0":
                makers.append((field.name, _struct(missing)))
            else:
                constants.append((field.name, missing))
        ready = True

    def run(value: Any) -> Any:
        if type(value) is not dict:
            raise _odd
        if not ready:
            prepare()
        drop = None
        for key, element in value.items():
            check = get(key)
            if type(element) is check:
                continue
            if element is None:
                if check is None:
                    raise _odd
                result = None
            elif check is None or check is str or check is bool:
                raise _odd
            else:
                result = check(element)
                if result is element:
                    continue
            if result is None:
                drop = [key] if drop is None else [*drop, key]
            else:
                value[key] = result
        if drop is not None:
            for key in drop:
                del value[key]
        for key, constant in constants:
            if key not in value:
                value[key] = constant
        for key, maker in makers:
            if key not in value:
                value[key] = maker({})
        return value

    _structs[name] = run
    return run


class _SlowWalk:
    """Finds what the fast walk refused: drops unknown fields with their paths, raises for wrong types, replaces inner nulls."""

    def __init__(self, root: Any, type_: Type) -> None:
        self.unknown: list[str] = []
        known = isinstance(root, dict)
        self._kind = str((root.get("kind") if known else "") or type_.short)
        version = str((root.get("apiVersion") if known else "") or type_.name.rpartition(".")[0])
        self._version = version.rpartition("/")[2].rpartition(".")[2]
        self._expected = type_.short

    def refuse(self, text: str) -> StatusError:
        return bad_request(f'{self._kind} in version "{self._version}" cannot be handled as a {self._expected}: {text}')

    def struct(self, type_: Type, value: Any, path: str, go_path: str, where: tuple[str, str] = ("", "")) -> None:
        """``path`` is the field path with indices, ``go_path`` what Go prints, ``where`` the Go struct and wanted type."""
        if not isinstance(value, dict):
            raise self._type_error(value, where[0], go_path, where[1] or _go_type(type_.name))
        for key in list(value):
            field = type_.fields.get(key)
            here = f"{path}.{key}" if path else key
            if field is None:
                self.unknown.append(f'unknown field "{here}"')
                del value[key]
            elif value[key] is None:
                del value[key]
            else:
                value[key] = self._field(type_, field, value[key], here, f"{go_path}.{key}" if go_path else key)

    def _field(self, owner: Type, field: Field, value: Any, path: str, go: str) -> Any:
        name = _go_type(field.type)
        if field.container == "list":
            return self._list(owner, field, value, path, go, f"[]{name}")
        if field.container in ("map", "maplist"):
            inner = f"[]{name}" if field.container == "maplist" else name
            if not isinstance(value, dict):
                raise self._type_error(value, owner.short, go, f"map[string]{inner}")
            for key, item in list(value.items()):
                at = f"{path}.{key}"
                if field.container == "maplist":
                    value[key] = self._list(owner, field, item if item is not None else [], at, go, inner)
                    continue
                value[key] = self._one(owner, field, item, at, go)
                if value[key] is None and name in ("v1.Time", "v1.MicroTime"):
                    del value[key]
            return value
        return self._one(owner, field, value, path, go)

    def _list(self, owner: Type, field: Field, value: Any, path: str, go: str, wanted: str) -> Any:
        if not isinstance(value, list):
            raise self._type_error(value, owner.short, go, wanted)
        for i, item in enumerate(value):
            value[i] = self._one(owner, field, item, f"{path}[{i}]", go)
        return value

    def _one(self, owner: Type, field: Field, value: Any, path: str, go: str) -> Any:
        if value is None and field.type not in ("any", "object"):
            value = self._zero(field)
            if value is None:
                return None
        if field.type not in SCALARS:
            declared = types.get(field.type)
            if not declared.scalar:
                self.struct(declared, value, path, go, (owner.short, _go_type(field.type)))
                return value
            if declared.short in _SCHEMA_UNIONS:
                return self._union(owner, value, path, go)
        try:
            _call(_single(field.type, True), value)
        except _Odd:
            raise self._scalar_error(owner, field, value, go) from None
        return value

    def _union(self, owner: Type, value: Any, path: str, go: str) -> Any:
        schema = types.get(_SCHEMA)
        items = enumerate(value) if isinstance(value, list) else ()
        if isinstance(value, dict):
            self.struct(schema, value, path, go, (owner.short, "v1.JSONSchemaProps"))
        elif not isinstance(value, bool | list):
            raise self._type_error(value, owner.short, go, "v1.JSONSchemaProps")
        for i, item in items:
            if isinstance(item, dict):
                self.struct(schema, item, f"{path}[{i}]", go, (owner.short, "v1.JSONSchemaProps"))
            elif not isinstance(item, str):
                raise self._type_error(item, owner.short, go, "string")
        return value

    @staticmethod
    def _zero(field: Field) -> Any:
        """What a null inside a list or map is to Go: the zero value of its type."""
        if field.type in SCALARS:
            return {"string": "", "bool": False, "int32": 0, "int64": 0, "bytes": "", "double": 0.0}[field.type]
        short = types.get(field.type).short
        if short in _SPECIAL:
            return {"Quantity": "0", "IntOrString": 0, "FieldsV1": {}, "Patch": {}}.get(short)
        return {}

    def _type_error(self, value: Any, struct: str, go_path: str, wanted: str) -> StatusError:
        if not struct:
            return self.refuse(f"json: cannot unmarshal {_json_name(value)} into Go value of type {wanted}")
        return self.refuse(
            f"json: cannot unmarshal {_json_name(value, wanted)} into Go struct field {struct}.{go_path} of type {wanted}"
        )

    def _scalar_error(self, owner: Type, field: Field, value: Any, go: str) -> StatusError:
        short = field.type.rpartition(".")[2]
        if short == "Quantity":
            try:
                quantity.parse(value if isinstance(value, str) else repr(value))
            except ValueError as err:
                return self.refuse(str(err))
        if short in ("Time", "MicroTime") and isinstance(value, str):
            layout = "2006-01-02T15:04:05Z07:00" if short == "Time" else "2006-01-02T15:04:05.000000Z07:00"
            return self.refuse(f'parsing time "{value}" as "{layout}": cannot parse "{value}" as "2006"')
        if short in ("Time", "MicroTime"):
            return self.refuse(f"json: cannot unmarshal {_json_name(value)} into Go value of type string")
        if short == "IntOrString":
            return self.refuse(f"json: cannot unmarshal {_json_name(value, 'int32')} into Go value of type int32")
        if field.type == "bytes" and isinstance(value, str):
            return self.refuse(f"illegal base64 data at input byte {_base64_fault(value)}")
        return self._type_error(value, owner.short, go, _go_type(field.type))


def _call(check: Any, value: Any) -> None:
    if isinstance(check, type):
        if type(value) is not check:
            raise _odd
    else:
        check(value)


def _base64_fault(text: str) -> int:
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    body = text.rstrip("=") if text.endswith("=") else text
    return next((i for i, c in enumerate(body) if c not in alphabet), len(text) // 4 * 4)


def _go_type(type_: str) -> str:
    if type_ in SCALARS:
        return _GO_SCALARS.get(type_, type_)
    package, _, short = type_.rpartition(".")
    return f"{package.rpartition('.')[2]}.{short}"


def _json_name(value: Any, wanted: str = "") -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return f"number {value!r}" if wanted.startswith("int") else "number"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object" if isinstance(value, dict) else "null"
