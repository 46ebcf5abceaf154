"""OpenAPI v2 in the protobuf form kubectl up to 1.2x asks for: gnostic's ``openapi.v2.Document``.

Takes the same pieces as the JSON document, one at a time. Source: ``gnostic-models/openapiv2/OpenAPIv2.proto``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from k3sd.apimachinery.errors import Obj
from k3sd.apimachinery.wire import field_bytes, field_double, field_int, field_text

_METHODS = {"get": 2, "put": 3, "post": 4, "delete": 5, "options": 6, "head": 7, "patch": 8}
_NUMBERS = {"multipleOf": 6, "maximum": 7, "minimum": 9}
_FLAGS = {"exclusiveMaximum": 8, "exclusiveMinimum": 10, "uniqueItems": 16, "readOnly": 27}
_COUNTS = {"maxLength": 11, "minLength": 12, "maxItems": 14, "minItems": 15, "maxProperties": 17, "minProperties": 18}


def _any(value: Any) -> bytes:
    """An ``Any`` holds YAML text, and JSON is YAML."""
    return field_text(2, json.dumps(value, separators=(",", ":")) + "\n")


def _named(number: int, name: str, value: bytes) -> bytes:
    return field_bytes(number, field_text(1, name) + field_bytes(2, value))


def _extensions(number: int, obj: Obj) -> bytes:
    return b"".join(_named(number, key, _any(value)) for key, value in obj.items() if key.startswith("x-"))


def schema(obj: Obj) -> bytes:
    """A ``Schema`` message."""
    out = bytearray()
    for key, number in (("$ref", 1), ("format", 2), ("title", 3), ("description", 4), ("pattern", 13)):
        if key in obj:
            out += field_text(number, obj[key])
    if "default" in obj:
        out += field_bytes(5, _any(obj["default"]))
    for key, number in _NUMBERS.items():
        if key in obj:
            out += field_double(number, float(obj[key]))
    for key, number in (*_FLAGS.items(), *_COUNTS.items()):
        if obj.get(key):
            out += field_int(number, int(obj[key]))
    for name in obj.get("required", ()):
        out += field_text(19, name)
    for value in obj.get("enum", ()):
        out += field_bytes(20, _any(value))
    if "additionalProperties" in obj:
        extra = obj["additionalProperties"]
        item = field_int(2, int(extra)) if isinstance(extra, bool) else field_bytes(1, schema(extra))
        out += field_bytes(21, item)
    if "type" in obj:
        kinds = obj["type"] if isinstance(obj["type"], list) else [obj["type"]]
        out += field_bytes(22, b"".join(field_text(1, kind) for kind in kinds))
    if "items" in obj:
        out += field_bytes(23, field_bytes(1, schema(obj["items"])))
    for part in obj.get("allOf", ()):
        out += field_bytes(24, schema(part))
    if "properties" in obj:
        out += field_bytes(25, b"".join(_named(1, name, schema(value)) for name, value in obj["properties"].items()))
    out += _extensions(31, obj)
    return bytes(out)


def _parameter(obj: Obj) -> bytes:
    """A ``ParametersItem``."""
    if obj["in"] == "body":
        body = field_text(2, obj["name"]) + field_text(3, "body")
        if obj.get("required"):
            body += field_int(4, 1)
        body += field_bytes(5, schema(obj["schema"]))
        return field_bytes(1, field_bytes(1, body))
    is_path = obj["in"] == "path"
    out = field_int(1, 1) if obj.get("required") else b""
    out += field_text(2, obj["in"]) + field_text(3, obj.get("description", "")) + field_text(4, obj["name"])
    out += field_text(5 if is_path else 6, obj["type"])
    if obj.get("uniqueItems"):
        out += field_int(19 if is_path else 20, 1)
    return field_bytes(1, field_bytes(2, field_bytes(4 if is_path else 3, out)))


def _operation(obj: Obj) -> bytes:
    out = b"".join(field_text(1, tag) for tag in obj.get("tags", ()))
    out += field_text(3, obj.get("description", "")) + field_text(5, obj.get("operationId", ""))
    out += b"".join(field_text(6, media) for media in obj.get("produces", ()))
    out += b"".join(field_text(7, media) for media in obj.get("consumes", ()))
    out += b"".join(field_bytes(8, _parameter(parameter)) for parameter in obj.get("parameters", ()))
    responses = b""
    for code, response in obj.get("responses", {}).items():
        body = field_text(1, response["description"])
        if "schema" in response:
            body += field_bytes(2, field_bytes(1, schema(response["schema"])))
        responses += _named(1, code, field_bytes(1, body))
    out += field_bytes(9, responses)
    out += b"".join(field_text(10, scheme) for scheme in obj.get("schemes", ()))
    return out + _extensions(13, obj)


def _path_item(obj: Obj) -> bytes:
    out = b"".join(field_bytes(_METHODS[key], _operation(value)) for key, value in obj.items() if key in _METHODS)
    return out + b"".join(field_bytes(9, _parameter(parameter)) for parameter in obj.get("parameters", ()))


def document(version: str, paths: Iterable[tuple[str, Obj]], definitions: Iterable[tuple[str, Obj]]) -> bytes:
    """The whole ``Document``."""
    info = field_text(1, "Kubernetes") + field_text(2, version)
    path_bytes = b"".join([_named(2, path, _path_item(item)) for path, item in paths])
    schema_bytes = b"".join([_named(1, name, schema(value)) for name, value in definitions])
    return field_text(1, "2.0") + field_bytes(2, info) + field_bytes(8, path_bytes) + field_bytes(9, schema_bytes)
