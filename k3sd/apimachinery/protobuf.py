"""Kubernetes' protobuf encoding, driven by the same declarations as everything else.

An object travels as ``k8s\\0`` and a ``runtime.Unknown`` message that holds kind, apiVersion and the bytes of the type's own
message. Messages are read into wire-shaped dicts, and written from them byte for byte as upstream's generated code does: fields
in ascending order, non-pointer fields always, map keys sorted. Sources: ``k8s.io/api/*/generated.proto``,
``apimachinery/pkg/runtime/serializer/protobuf``.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from importlib import import_module
from typing import Any

from k3sd.apimachinery import timefmt
from k3sd.apimachinery.errors import Obj, StatusError, bad_request, go_value, unsupported_media_type
from k3sd.apimachinery.schema import META, SCALARS, Field, Type, types
from k3sd.apimachinery.wire import (
    BYTES,
    FIXED64,
    VARINT,
    WireError,
    field_bytes,
    field_double,
    field_int,
    field_text,
    fields,
    read_varint,
    signed,
)

MAGIC = b"k8s\0"
MEDIA_TYPE = "application/vnd.kubernetes.protobuf"
_MAX_DEPTH = 100
_SCHEMA = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps"
Decode = Callable[[Any, int], Any]
"""Reads a message; the integer is the depth."""
Encode = Callable[[Any], bytes]


def is_protobuf(body: bytes) -> bool:
    return body.startswith(MAGIC)


# Reading

_WIRE = {"string": BYTES, "bytes": BYTES, "bool": VARINT, "int32": VARINT, "int64": VARINT, "double": FIXED64}


def _double(value: int) -> float:
    import struct

    return float(struct.unpack("<d", value.to_bytes(8, "little"))[0])


_SCALAR_READERS: dict[str, Callable[[Any], Any]] = {
    "string": lambda v: v.decode("utf-8", "replace"),
    "bytes": lambda v: base64.b64encode(v).decode(),
    "bool": bool,
    "int32": signed,
    "int64": signed,
    "double": _double,
}


def _members(data: bytes) -> dict[int, Any]:
    """The last value of each field of a small message."""
    return {number: value for number, _, value in fields(data)}


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else ""


def _read_time(data: bytes, depth: int) -> Any:
    found = _members(data)
    return timefmt.from_parts(signed(found.get(1, 0)), 0) if data else None


def _read_micro_time(data: bytes, depth: int) -> Any:
    found = _members(data)
    return timefmt.from_parts(signed(found.get(1, 0)), signed(found.get(2, 0)), micro=True) if data else None


def _read_quantity(data: bytes, depth: int) -> Any:
    return _text(_members(data).get(1)) or "0"


def _read_int_or_string(data: bytes, depth: int) -> Any:
    found = _members(data)
    return _text(found.get(3)) if found.get(1) else signed(found.get(2, 0))


def _read_raw(data: bytes, depth: int) -> Any:
    """RawExtension, FieldsV1 and JSON hold JSON text; RawExtension may hold a whole protobuf object."""
    raw = _members(data).get(1, b"")
    if not isinstance(raw, bytes) or not raw:
        return None
    if is_protobuf(raw):
        return decode_object(raw)
    try:
        return json.loads(raw)
    except ValueError as err:
        raise WireError(f"embedded JSON: {err}") from None


def _read_schema_or_array(data: bytes, depth: int) -> Any:
    read = _decoder(_SCHEMA)
    one, many = None, []
    for number, _, value in fields(data):
        if number == 1 and isinstance(value, bytes):
            one = read(value, depth + 1)
        elif isinstance(value, bytes):
            many.append(read(value, depth + 1))
    return many if many else one


def _read_schema_or_bool(data: bytes, depth: int) -> Any:
    found = _members(data)
    return _decoder(_SCHEMA)(found[2], depth + 1) if 2 in found else bool(found.get(1))


def _read_schema_or_strings(data: bytes, depth: int) -> Any:
    one, many = None, []
    for number, _, value in fields(data):
        if number == 1 and isinstance(value, bytes):
            one = _decoder(_SCHEMA)(value, depth + 1)
        else:
            many.append(_text(value))
    return many if many else one


_SPECIAL_READERS: dict[str, Decode] = {
    "Time": _read_time,
    "MicroTime": _read_micro_time,
    "Quantity": _read_quantity,
    "IntOrString": _read_int_or_string,
    "RawExtension": _read_raw,
    "FieldsV1": _read_raw,
    "JSON": _read_raw,
    "JSONSchemaPropsOrArray": _read_schema_or_array,
    "JSONSchemaPropsOrBool": _read_schema_or_bool,
    "JSONSchemaPropsOrStringArray": _read_schema_or_strings,
}

_decoders: dict[str, Decode] = {}
_Tree = dict[int, Any]
"""Field by number, or the tree of an embedded message."""


def _tree(type_: Type) -> _Tree:
    root: _Tree = {}
    for field in type_.fields.values():
        if not field.number:
            continue
        node = root
        for number in field.number[:-1]:
            node = node.setdefault(number, {})
        node[field.number[-1]] = field
    return root


def _decoder(type_name: str) -> Decode:
    """The compiled reader of a type's message."""
    found = _decoders.get(type_name)
    if found is not None:
        return found
    type_ = types.get(type_name)
    special = _SPECIAL_READERS.get(type_.short) if type_.scalar else None
    if special is not None:
        _decoders[type_name] = special
        return special
    plans: dict[int, dict[int, Any]] = {}
    tree = _tree(type_)

    def read(data: bytes, depth: int) -> Any:
        if depth > _MAX_DEPTH:
            raise WireError("nested too deeply")
        out: Obj = {}
        _read_into(out, tree, plans, data, depth)
        return out

    _decoders[type_name] = read
    return read


def _read_into(out: Obj, tree: _Tree, plans: dict[int, dict[int, Any]], data: bytes, depth: int) -> None:
    plan = plans.setdefault(id(tree), {})
    for number, wire_type, value in fields(data):
        entry = tree.get(number)
        if entry is None:
            continue  # a field this version does not know
        if isinstance(entry, dict):
            if not isinstance(value, bytes):
                raise WireError(f"field {number} is no message")
            _read_into(out, entry, plans, value, depth)
            continue
        put = plan.get(number)
        if put is None:
            put = plan[number] = _putter(entry)
        put(out, wire_type, value, depth)


def _putter(field: Field) -> Callable[[Obj, int, Any, int], None]:
    name = field.name
    read = _value_reader(field)
    packable = field.type in ("bool", "int32", "int64")
    expected = _WIRE.get(field.type, BYTES)

    def one(value: Any, wire_type: int, depth: int) -> Any:
        if wire_type != expected:
            raise WireError(f"field {name!r} has wire type {wire_type}")
        return read(value, depth + 1)

    def put_one(out: Obj, wire_type: int, value: Any, depth: int) -> None:
        result = one(value, wire_type, depth)
        if result is not None:
            out[name] = result

    def put_list(out: Obj, wire_type: int, value: Any, depth: int) -> None:
        items = out.setdefault(name, [])
        if packable and wire_type == BYTES:
            at = 0
            while at < len(value):
                number, at = read_varint(value, at)
                items.append(read(number, depth + 1))
        else:
            items.append(one(value, wire_type, depth))

    def put_map(out: Obj, wire_type: int, value: Any, depth: int) -> None:
        if wire_type != BYTES:
            raise WireError(f"field {name!r} has wire type {wire_type}")
        key, item = "", None
        for number, inner_type, inner in fields(value):
            if number == 1:
                key = _text(inner)
            elif number == 2:
                item = _text_list(inner) if field.container == "maplist" else one(inner, inner_type, depth)
        found = out.setdefault(name, {})
        item = _zero(field) if item is None else item
        if item is not None:
            found[key] = item

    def put_wrapped(out: Obj, wire_type: int, value: Any, depth: int) -> None:
        out[name] = _text_list(value)

    if field.container in ("map", "maplist"):
        return put_map
    if field.container == "list":
        return put_wrapped if field.wrapped else put_list
    return put_one


def _text_list(data: Any) -> list[str]:
    return [_text(value) for _, _, value in fields(data)] if isinstance(data, bytes) else []


def _zero(field: Field) -> Any:
    if field.container == "maplist":
        return []
    if field.type in SCALARS:
        return {"string": "", "bytes": "", "bool": False, "int32": 0, "int64": 0, "double": 0.0}[field.type]
    return _decoder(field.type)(b"", 0)


def _value_reader(field: Field) -> Decode:
    if field.type in SCALARS:
        scalar = _SCALAR_READERS[field.type]
        return lambda value, depth: scalar(value)
    return _decoder(field.type)


def decode(body: bytes, type_: Type | str) -> Obj:
    """The message of this type. StatusError 400 for malformed bytes."""
    name = type_ if isinstance(type_, str) else type_.name
    try:
        obj: Obj = _decoder(name)(body, 0)
    except WireError as err:
        raise bad_request(f"unable to decode protobuf {name.rpartition('.')[2]}: {err}") from None
    return obj


def type_of(api_version: str, kind: str) -> Type | None:
    """The declared type with this apiVersion and kind: resources, lists, subresources, options."""
    group, _, version = api_version.rpartition("/")
    package: str = import_module("k3sd.apis.resources").package(group, version)
    for name in (f"{package}.{kind}", f"{META}.{kind}"):
        if types.has(name):
            found = types.get(name)
            if "kind" in found.fields and not found.fields["kind"].number:
                return found
    return None


def decode_object(body: bytes) -> Obj:
    """An object in the ``k8s\\0`` envelope, with its kind and apiVersion. StatusError 400 or 415."""
    if not is_protobuf(body):
        raise bad_request("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")
    try:
        unknown = _members(body[len(MAGIC) :])
        meta = _members(unknown.get(1, b""))
    except (WireError, TypeError) as err:
        raise bad_request(f"unable to decode protobuf envelope: {err}") from None
    api_version, kind = _text(meta.get(1)), _text(meta.get(2))
    type_ = type_of(api_version, kind) if api_version and kind else None
    if type_ is None:
        text = f"no kind {go_value(kind)} is registered for version {go_value(api_version)} in the protobuf scheme"
        raise bad_request(text) if not kind else unsupported_media_type(text)
    obj: Obj = {"kind": kind, "apiVersion": api_version}
    obj.update(decode(unknown.get(2, b""), type_))
    return obj


# Writing

_SCALAR_WRITERS: dict[str, Callable[[int, Any], bytes]] = {
    "string": field_text,
    "bytes": lambda number, value: field_bytes(number, base64.b64decode(value)),
    "bool": lambda number, value: field_int(number, 1 if value else 0),
    "int32": field_int,
    "int64": field_int,
    "double": lambda number, value: field_double(number, float(value)),
}
_ZEROS: dict[str, Any] = {"string": "", "bool": False, "int32": 0, "int64": 0, "double": 0.0}


def _write_time(value: Any) -> bytes:
    if not value:
        return b""
    seconds, _ = timefmt.parse_parts(value)
    return field_int(1, seconds) + field_int(2, 0)


def _write_micro_time(value: Any) -> bytes:
    if not value:
        return b""
    seconds, nanos = timefmt.parse_parts(value)
    return field_int(1, seconds) + field_int(2, nanos // 1000 * 1000)


def _write_int_or_string(value: Any) -> bytes:
    if isinstance(value, str):
        return field_int(1, 1) + field_int(2, 0) + field_text(3, value)
    return field_int(1, 0) + field_int(2, value or 0) + field_text(3, "")


def _write_raw(value: Any) -> bytes:
    if value is None:
        return b""
    return field_bytes(1, json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode())


def _write_schema_or_array(value: Any) -> bytes:
    write = _encoder(_SCHEMA)
    if isinstance(value, list):
        return b"".join(field_bytes(2, write(item)) for item in value)
    return field_bytes(1, write(value))


def _write_schema_or_bool(value: Any) -> bytes:
    if isinstance(value, bool):
        return field_int(1, int(value))
    return field_int(1, 1) + field_bytes(2, _encoder(_SCHEMA)(value))


def _write_schema_or_strings(value: Any) -> bytes:
    if isinstance(value, list):
        return b"".join(field_text(2, item) for item in value)
    return field_bytes(1, _encoder(_SCHEMA)(value))


_SPECIAL_WRITERS: dict[str, Encode] = {
    "Time": _write_time,
    "MicroTime": _write_micro_time,
    "Quantity": lambda value: field_text(1, str(value or "0")),
    "IntOrString": _write_int_or_string,
    "RawExtension": _write_raw,
    "FieldsV1": _write_raw,
    "JSON": _write_raw,
    "JSONSchemaPropsOrArray": _write_schema_or_array,
    "JSONSchemaPropsOrBool": _write_schema_or_bool,
    "JSONSchemaPropsOrStringArray": _write_schema_or_strings,
}

_encoders: dict[str, Encode] = {}


def _encoder(type_name: str) -> Encode:
    """The compiled writer of a type's message."""
    found = _encoders.get(type_name)
    if found is not None:
        return found
    type_ = types.get(type_name)
    special = _SPECIAL_WRITERS.get(type_.short) if type_.scalar else None
    if special is not None:
        _encoders[type_name] = special
        return special
    steps: list[Encode] = []
    ready = False

    def write(obj: Any) -> bytes:
        nonlocal ready
        if not ready:
            steps.extend(_steps(_tree(type_)))
            ready = True
        obj = obj or {}
        return b"".join([step(obj) for step in steps])

    _encoders[type_name] = write
    return write


def _steps(tree: _Tree) -> list[Encode]:
    return [
        _embedded(number, tree[number]) if isinstance(tree[number], dict) else _writer(tree[number], number)
        for number in sorted(tree)
    ]


def _embedded(number: int, tree: _Tree) -> Encode:
    inner = _steps(tree)
    return lambda obj: field_bytes(number, b"".join([step(obj) for step in inner]))


def _writer(field: Field, number: int) -> Encode:
    """Writes one field of an object, or nothing."""
    name = field.name
    value_writer: Callable[[int, Any], bytes]
    if field.type in SCALARS:
        value_writer = _SCALAR_WRITERS[field.type]
    else:
        message = _encoder(field.type)

        def value_writer(at: int, value: Any) -> bytes:
            return field_bytes(at, message(value))

    if field.container == "list":
        if field.wrapped:
            return lambda obj: (
                field_bytes(number, b"".join(field_text(1, item) for item in obj[name])) if obj.get(name) else b""
            )
        return lambda obj: b"".join([value_writer(number, item) for item in obj.get(name) or ()])
    if field.container:
        return _map_writer(field, number, value_writer)
    if field.pointer or field.type == "bytes":
        return lambda obj: b"" if obj.get(name) is None else value_writer(number, obj[name])
    zero = _ZEROS.get(field.type)
    return lambda obj: value_writer(number, zero if obj.get(name) is None else obj[name])


def _map_writer(field: Field, number: int, value_writer: Callable[[int, Any], bytes]) -> Encode:
    name = field.name

    def entry(key: str, value: Any) -> bytes:
        if field.container == "maplist":
            item = field_bytes(2, b"".join(field_text(1, text) for text in value))
        else:
            item = value_writer(2, value)
        return field_bytes(number, field_text(1, key) + item)

    return lambda obj: b"".join([entry(key, value) for key, value in sorted((obj.get(name) or {}).items())])


def encode(obj: Obj, type_: Type | str) -> bytes:
    """The message of ``obj``, which has gone through ``conform``."""
    return _encoder(type_ if isinstance(type_, str) else type_.name)(obj)


def envelope(api_version: str, kind: str, raw: bytes) -> bytes:
    """``k8s\\0`` and the ``runtime.Unknown`` around a message."""
    meta = field_text(1, api_version) + field_text(2, kind)
    return MAGIC + field_bytes(1, meta) + field_bytes(2, raw) + field_text(3, "") + field_text(4, "")


def encode_object(obj: Obj) -> bytes:
    """An object with its kind and apiVersion in the envelope. StatusError 406 for a kind that has no protobuf form."""
    api_version, kind = str(obj.get("apiVersion") or ""), str(obj.get("kind") or "")
    type_ = type_of(api_version, kind)
    if type_ is None:
        raise StatusError(406, "NotAcceptable", f"{kind} in {api_version} has no protobuf form: accept application/json")
    return envelope(api_version, kind, encode(obj, type_))


def watch_event(kind: str, obj: Obj) -> bytes:
    """One frame of a protobuf watch: four bytes of length, then the bare ``WatchEvent`` with the enveloped object."""
    event = field_text(1, kind) + field_bytes(2, field_bytes(1, encode_object(obj)))
    return len(event).to_bytes(4, "big") + event


__all__ = ["MEDIA_TYPE", "decode", "decode_object", "encode", "encode_object", "is_protobuf", "type_of", "watch_event"]
