"""Kubernetes protobuf from the same declarations as everything else: decode to wire-shaped JSON objects and encode from them.

Envelope: ``k8s\\0`` and a ``runtime.Unknown`` (``apimachinery/pkg/runtime/serializer/protobuf``). Messages are proto2 as gogo
writes them: every non-pointer field is present, so decoded zero values are left to ``codec.conform``. Sources: the
``generated.proto`` files.
"""

from __future__ import annotations

import base64
import datetime
import json
import struct
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from k3sd.apimachinery.errors import Obj, StatusError, bad_request
from k3sd.apimachinery.schema import META, Field, Type, types

MAGIC = b"k8s\x00"
MAX_DEPTH = 64
_MASK = (1 << 64) - 1


class ProtobufError(ValueError):
    """Bytes that are not a message of the type."""


# the wire


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ProtobufError("unexpected EOF")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & _MASK, at
        shift += 7


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def parse(data: bytes) -> list[tuple[int, int | bytes]]:
    """``(field number, value)`` in order; a value is an integer (varint, fixed) or bytes. Raises ProtobufError."""
    found: list[tuple[int, int | bytes]] = []
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind, number = tag & 7, tag >> 3
        if kind == 0:
            value, at = _varint(data, at)
            found.append((number, value))
            continue
        size = {1: 8, 5: 4}.get(kind, 0)
        if kind == 2:
            size, at = _varint(data, at)
        elif not size:
            raise ProtobufError(f"wire type {kind} is not supported")
        if at + size > len(data):
            raise ProtobufError("unexpected EOF")
        part = data[at : at + size]
        at += size
        found.append((number, part if kind == 2 else int.from_bytes(part, "little")))
    return found


def _write_varint(out: bytearray, value: int) -> None:
    value &= _MASK
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def _write_bytes(out: bytearray, number: int, data: bytes) -> None:
    _write_varint(out, number << 3 | 2)
    _write_varint(out, len(data))
    out += data


def _write_int(out: bytearray, number: int, value: int) -> None:
    _write_varint(out, number << 3)
    _write_varint(out, value)


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ProtobufError("wrong wire type: a length-delimited value was expected")
    return value


def _int(value: int | bytes) -> int:
    if isinstance(value, bytes):
        raise ProtobufError("wrong wire type: a number was expected")
    return _signed(value)


# types that are one message on the wire and a scalar or free-form value in JSON


def _parts(data: bytes) -> dict[int, int | bytes]:
    return dict(parse(data))


def _epoch(seconds: int) -> datetime.datetime:
    return datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=seconds)


def _decode_time(data: bytes) -> str | None:
    if not data:
        return None
    return _epoch(_int(_parts(data).get(1, 0))).isoformat() + "Z"


def _decode_micro_time(data: bytes) -> str | None:
    if not data:
        return None
    parts = _parts(data)
    return f"{_epoch(_int(parts.get(1, 0))).isoformat()}.{_int(parts.get(2, 0)) // 1000:06d}Z"


def _encode_time(value: Any) -> bytes:
    moment = datetime.datetime.fromisoformat(str(value).replace("Z", "+00:00"))
    delta = moment.replace(tzinfo=None) - (moment.utcoffset() or datetime.timedelta()) - datetime.datetime(1970, 1, 1)
    out = bytearray()
    _write_int(out, 1, delta.days * 86400 + delta.seconds)
    _write_int(out, 2, delta.microseconds * 1000)
    return bytes(out)


def _decode_quantity(data: bytes) -> str:
    return _bytes(_parts(data).get(1, b"0")).decode() or "0"


def _encode_quantity(value: Any) -> bytes:
    out = bytearray()
    _write_bytes(out, 1, str(value).encode())
    return bytes(out)


def _decode_int_or_string(data: bytes) -> int | str:
    parts = _parts(data)
    return _bytes(parts.get(3, b"")).decode() if _int(parts.get(1, 0)) == 1 else _int(parts.get(2, 0))


def _encode_int_or_string(value: Any) -> bytes:
    out = bytearray()
    text = isinstance(value, str)
    _write_int(out, 1, int(text))
    _write_int(out, 2, 0 if text else int(value))
    _write_bytes(out, 3, value.encode() if text else b"")
    return bytes(out)


def _decode_raw(data: bytes) -> Any:
    """RawExtension, FieldsV1 and JSON: JSON bytes in field 1; a RawExtension may also hold a whole protobuf object."""
    raw = _bytes(_parts(data).get(1, b""))
    if not raw:
        return None
    return decode_object(raw) if raw.startswith(MAGIC) else json.loads(raw)


def _encode_raw(value: Any) -> bytes:
    out = bytearray()
    _write_bytes(out, 1, json.dumps(value, separators=(",", ":")).encode())
    return bytes(out)


def _schema_props() -> Type:
    return types.get("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps")


def _decode_props_or_array(data: bytes) -> Any:
    schemas = [decode(_bytes(v), _schema_props()) for n, v in parse(data) if n == 2]
    single = [decode(_bytes(v), _schema_props()) for n, v in parse(data) if n == 1]
    return single[0] if single else schemas


def _encode_props_or_array(value: Any) -> bytes:
    out = bytearray()
    for number, item in [(2, v) for v in value] if isinstance(value, list) else [(1, value)]:
        _write_bytes(out, number, encode(item, _schema_props()))
    return bytes(out)


def _decode_props_or_bool(data: bytes) -> Any:
    parts = _parts(data)
    return decode(_bytes(parts[2]), _schema_props()) if 2 in parts else bool(_int(parts.get(1, 0)))


def _encode_props_or_bool(value: Any) -> bytes:
    out = bytearray()
    if isinstance(value, bool):
        _write_int(out, 1, int(value))
    else:
        _write_int(out, 1, 1)
        _write_bytes(out, 2, encode(value, _schema_props()))
    return bytes(out)


def _decode_props_or_strings(data: bytes) -> Any:
    parts = parse(data)
    single = [decode(_bytes(v), _schema_props()) for n, v in parts if n == 1]
    return single[0] if single else [_bytes(v).decode() for n, v in parts if n == 2]


def _encode_props_or_strings(value: Any) -> bytes:
    out = bytearray()
    if isinstance(value, list):
        for item in value:
            _write_bytes(out, 2, item.encode())
    else:
        _write_bytes(out, 1, encode(value, _schema_props()))
    return bytes(out)


_SPECIAL: dict[str, tuple[Callable[[bytes], Any], Callable[[Any], bytes]]] = {
    "Time": (_decode_time, _encode_time),
    "MicroTime": (_decode_micro_time, _encode_time),
    "Quantity": (_decode_quantity, _encode_quantity),
    "IntOrString": (_decode_int_or_string, _encode_int_or_string),
    "RawExtension": (_decode_raw, _encode_raw),
    "FieldsV1": (_decode_raw, _encode_raw),
    "JSON": (_decode_raw, _encode_raw),
    "JSONSchemaPropsOrArray": (_decode_props_or_array, _encode_props_or_array),
    "JSONSchemaPropsOrBool": (_decode_props_or_bool, _encode_props_or_bool),
    "JSONSchemaPropsOrStringArray": (_decode_props_or_strings, _encode_props_or_strings),
}


# messages by declaration


class _Plan:
    """How a type lies on the wire. ``fields`` by number; ``embedded``: number of an embedded message to its plan."""

    __slots__ = ("embedded", "fields")

    def __init__(self) -> None:
        self.fields: dict[int, Field] = {}
        self.embedded: dict[int, _Plan] = {}


@lru_cache(maxsize=1024)
def _plan(name: str) -> _Plan:
    top = _Plan()
    for field in types.get(name).fields.values():
        here = top
        for number in field.number[:-1]:
            here = here.embedded.setdefault(number, _Plan())
        if field.number:
            here.fields[field.number[-1]] = field
    return top


def decode(data: bytes, type_: Type) -> Obj:
    """The wire-shaped object of a message. Unknown fields are skipped. Raises ProtobufError."""
    out: Obj = {}
    _decode_into(out, data, _plan(type_.name), 0)
    return out


def _decode_into(out: Obj, data: bytes, plan: _Plan, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ProtobufError("message is nested too deeply")
    for number, raw in parse(data):
        field = plan.fields.get(number)
        if field is None:
            inner = plan.embedded.get(number)
            if inner is not None:
                _decode_into(out, _bytes(raw), inner, depth + 1)
            continue
        name = field.name
        if field.container == "list":
            items = out.setdefault(name, [])
            if field.wrapped:
                items.extend(_decode_value(v, field, depth) for n, v in parse(_bytes(raw)) if n == 1)
            elif isinstance(raw, bytes) and field.type in ("int32", "int64", "bool"):
                _unpack(items, raw, field.type)
            else:
                items.append(_decode_value(raw, field, depth))
        elif field.container in ("map", "maplist"):
            key, value = _decode_entry(_bytes(raw), field, depth)
            out.setdefault(name, {})[key] = value
        else:
            value = _decode_value(raw, field, depth)
            if value is not None:
                out[name] = value


def _unpack(items: list[Any], raw: bytes, kind: str) -> None:
    at = 0
    while at < len(raw):
        value, at = _varint(raw, at)
        items.append(bool(value) if kind == "bool" else _signed(value))


def _decode_entry(data: bytes, field: Field, depth: int) -> tuple[str, Any]:
    key = ""
    value: Any = None
    for number, raw in parse(data):
        if number == 1:
            key = _bytes(raw).decode()
        elif number == 2 and field.container == "maplist":
            value = [_decode_value(v, field, depth) for n, v in parse(_bytes(raw)) if n == 1]
        elif number == 2:
            value = _decode_value(raw, field, depth)
    if value is None:
        value = [] if field.container == "maplist" else "" if field.type in ("string", "bytes") else None
    return key, value


def _decode_value(raw: int | bytes, field: Field, depth: int) -> Any:
    kind = field.type
    if kind == "string":
        return _bytes(raw).decode()
    if kind in ("int32", "int64"):
        return _int(raw)
    if kind == "bool":
        return bool(_int(raw))
    if kind == "bytes":
        return base64.b64encode(_bytes(raw)).decode()
    if kind == "double":
        return struct.unpack("<d", (_int(raw) & _MASK).to_bytes(8, "little"))[0]
    special = _SPECIAL.get(kind.rpartition(".")[2])
    if special is not None:
        return special[0](_bytes(raw))
    out: Obj = {}
    _decode_into(out, _bytes(raw), _plan(kind), depth + 1)
    return out


def encode(obj: Obj, type_: Type) -> bytes:
    """The message of an object, fields in number order. Fields the type does not declare are left out."""
    out = bytearray()
    _encode_from(out, obj, _plan(type_.name))
    return bytes(out)


def _encode_from(out: bytearray, obj: Obj, plan: _Plan) -> None:
    for number in sorted((*plan.fields, *plan.embedded)):
        field = plan.fields.get(number)
        if field is None:
            inner = bytearray()
            _encode_from(inner, obj, plan.embedded[number])
            if inner:
                _write_bytes(out, number, bytes(inner))
            continue
        value = obj.get(field.name)
        if value is None:
            continue
        if field.container == "list":
            _encode_list(out, number, value, field)
        elif field.container in ("map", "maplist"):
            for key in sorted(value):
                _write_bytes(out, number, _encode_entry(key, value[key], field))
        else:
            _encode_value(out, number, value, field)


def _encode_list(out: bytearray, number: int, value: list[Any], field: Field) -> None:
    if field.wrapped:
        inner = bytearray()
        for item in value:
            _encode_value(inner, 1, item, field)
        _write_bytes(out, number, bytes(inner))
        return
    for item in value:
        _encode_value(out, number, item, field)


def _encode_entry(key: str, value: Any, field: Field) -> bytes:
    entry = bytearray()
    _write_bytes(entry, 1, key.encode())
    if field.container == "maplist":
        inner = bytearray()
        for item in value or ():
            _encode_value(inner, 1, item, field)
        _write_bytes(entry, 2, bytes(inner))
    elif value is not None:
        _encode_value(entry, 2, value, field)
    return bytes(entry)


def _encode_value(out: bytearray, number: int, value: Any, field: Field) -> None:
    kind = field.type
    if kind == "string":
        _write_bytes(out, number, value.encode())
    elif kind in ("int32", "int64", "bool"):
        _write_int(out, number, int(value))
    elif kind == "bytes":
        _write_bytes(out, number, base64.b64decode(value))
    elif kind == "double":
        _write_varint(out, number << 3 | 1)
        out += struct.pack("<d", value)
    elif (special := _SPECIAL.get(kind.rpartition(".")[2])) is not None:
        _write_bytes(out, number, special[1](value))
    else:
        inner = bytearray()
        _encode_from(inner, value, _plan(kind))
        _write_bytes(out, number, bytes(inner))


# objects


def type_of(api_version: str, kind: str) -> Type | None:
    """The declared type of an object, also of those without a resource of their own: options, lists, Scale, TokenRequest."""
    from k3sd.apis import resources

    row = resources.by_kind(api_version, kind)
    if row is not None:
        return types.get(row.type_name)
    group, _, version = api_version.rpartition("/")
    package = "core" if not group else group.split(".")[0]
    for name in (f"io.k8s.api.{package}.{version}.{kind}", f"{META}.{kind}"):
        if types.has(name):
            return types.get(name)
    return None


def decode_object(body: bytes) -> Obj:
    """A whole object from its envelope, with kind and apiVersion. Raises StatusError 400."""
    if not body.startswith(MAGIC):
        raise bad_request("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")
    try:
        unknown = _parts(body[len(MAGIC) :])
        meta = _parts(_bytes(unknown.get(1, b"")))
        api_version, kind = _bytes(meta.get(1, b"")).decode(), _bytes(meta.get(2, b"")).decode()
        type_ = type_of(api_version, kind)
        if type_ is None:
            raise bad_request(f'no kind "{kind}" is registered for version "{api_version}"')
        return {"kind": kind, "apiVersion": api_version} | decode(_bytes(unknown.get(2, b"")), type_)
    except (ProtobufError, UnicodeDecodeError, ValueError, OverflowError) as error:
        if isinstance(error, StatusError):
            raise
        raise bad_request(f"unable to decode the protobuf body: {error}") from error


def encode_object(obj: Obj) -> bytes:
    """The envelope with the message. Raises KeyError for a kind without a declaration."""
    type_ = type_of(obj["apiVersion"], obj["kind"])
    if type_ is None:
        raise KeyError(f"{obj['apiVersion']}, {obj['kind']}")
    meta, unknown = bytearray(), bytearray()
    _write_bytes(meta, 1, obj["apiVersion"].encode())
    _write_bytes(meta, 2, obj["kind"].encode())
    _write_bytes(unknown, 1, bytes(meta))
    _write_bytes(unknown, 2, encode(obj, type_))
    _write_bytes(unknown, 3, b"")
    _write_bytes(unknown, 4, b"")
    return MAGIC + bytes(unknown)
