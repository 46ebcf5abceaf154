"""The protobuf codec: known bytes, round trips of every declared type, bad input."""

from __future__ import annotations

from typing import Any

import pytest

from k3sd.apimachinery import protobuf, schema
from k3sd.apimachinery.errors import StatusError
from k3sd.apimachinery.schema import Field, types
from k3sd.apis import resources

Obj = dict[str, Any]


def envelope(api_version: str, kind: str, message: bytes) -> bytes:
    def field(number: int, data: bytes) -> bytes:
        return bytes([number << 3 | 2, len(data)]) + data

    meta = field(1, api_version.encode()) + field(2, kind.encode())
    return b"k8s\0" + field(1, meta) + field(2, message) + field(3, b"") + field(4, b"")


def test_a_config_map_as_the_go_client_sends_it() -> None:
    # 1: ObjectMeta{1 name "x", 2 generateName "", 3 namespace "", 4 selfLink "", 5 uid "", 6 rv "", 7 generation 0, 8 time {}}
    meta = bytes.fromhex("0a017812001a0022002a00320038004200")
    message = bytes([0x0A, len(meta)]) + meta + bytes.fromhex("12060a0161120162")
    obj = protobuf.decode_object(envelope("v1", "ConfigMap", message))
    assert obj["kind"] == "ConfigMap"
    assert obj["metadata"]["name"] == "x"
    assert "creationTimestamp" not in obj["metadata"]
    assert obj["data"] == {"a": "b"}


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        ("Quantity", "100m", "0a043130306d"),
        ("IntOrString", 80, "080010501a00"),
        ("IntOrString", "http", "080110001a0468747470"),
        ("Time", "2026-01-02T03:04:05Z", "08a5ebdcca061000"),
        ("MicroTime", "2026-01-02T03:04:05.000006Z", "08a5ebdcca0610f02e"),
        ("RawExtension", {"a": 1}, "0a077b2261223a317d"),
        ("JSONSchemaPropsOrBool", True, "0801"),
    ],
)
def test_special_types(kind: str, value: Any, message: str) -> None:
    decode, encode = protobuf._SPECIAL[kind]
    assert encode(value).hex() == message
    assert decode(bytes.fromhex(message)) == value


SAMPLES: dict[str, Any] = {
    "string": "s", "int32": -3, "int64": 1 << 40, "bool": True, "bytes": "aGVsbG8=", "double": 1.5, "any": {"x": 1},
    "object": {"x": 1},
    "Time": "2026-01-02T03:04:05Z", "MicroTime": "2026-01-02T03:04:05.000006Z", "Quantity": "1Gi", "IntOrString": "50%",
    "RawExtension": {"kind": "X"}, "FieldsV1": {"f:spec": {}}, "JSON": [1, "a"], "JSONSchemaPropsOrArray": [{"type": "string"}],
    "JSONSchemaPropsOrBool": False, "JSONSchemaPropsOrStringArray": ["a"], "Patch": {},
}  # fmt: skip


def sample(field: Field, depth: int) -> Any:
    short = field.type.rpartition(".")[2]
    if short in SAMPLES:
        one: Any = SAMPLES[short]
    else:
        one = build(field.type, depth + 1) if depth < 5 else {}
    if field.container == "list":
        return [one, one]
    if field.container == "map":
        return {"k": one}
    if field.container == "maplist":
        return {"k": [one]}
    return one


def build(name: str, depth: int = 0) -> Obj:
    return {f.name: sample(f, depth) for f in types.get(name).fields.values() if f.number}


@pytest.mark.parametrize("row", resources.ALL, ids=lambda r: f"{r.api_version}/{r.plural}")
def test_every_kind_survives_a_round_trip(row: Any) -> None:
    type_ = schema.types.get(row.type_name)
    obj = build(row.type_name)
    assert protobuf.decode(protobuf.encode(obj, type_), type_) == obj


def test_objects_without_a_resource_of_their_own() -> None:
    for api_version, kind in (
        ("v1", "DeleteOptions"),
        ("autoscaling/v1", "Scale"),
        ("authentication.k8s.io/v1", "TokenRequest"),
        ("policy/v1", "Eviction"),
    ):
        obj = {"kind": kind, "apiVersion": api_version}
        assert protobuf.decode_object(protobuf.encode_object(obj)) == obj


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"{}", "does not appear to be a protobuf message"),
        (envelope("v1", "Nope", b""), 'no kind "Nope" is registered for version "v1"'),
        (envelope("v1", "Pod", b"\x0a\x7f"), "unexpected EOF"),
        (envelope("v1", "Pod", b"\x0b"), "wire type 3 is not supported"),
    ],
    ids=["json", "kind", "cut", "group"],
)
def test_bad_bodies(body: bytes, text: str) -> None:
    with pytest.raises(StatusError) as error:
        protobuf.decode_object(body)
    assert error.value.code == 400
    assert text in error.value.message
