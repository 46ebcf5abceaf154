"""The protobuf codec: known bytes, and every kind there and back."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k3sd.apimachinery import protobuf
from k3sd.apimachinery.conform import conform
from k3sd.apimachinery.errors import StatusError
from k3sd.apimachinery.schema import SCALARS, Field, types
from k3sd.apis import resources

SAMPLES: dict[str, Any] = {
    "string": "text",
    "bool": True,
    "int32": -7,
    "int64": 3546343826724305833,
    "bytes": "Aw==",
    "double": 1.5,
    "Time": "2026-01-02T03:04:05Z",
    "MicroTime": "2026-01-02T03:04:05.123456Z",
    "Quantity": "1500m",
    "IntOrString": "25%",
    "RawExtension": {"apiVersion": "x/v1", "kind": "Y", "spec": {"a": [1, None]}},
    "JSON": {"any": ["thing", 1.5]},
    "FieldsV1": {"f:metadata": {"f:name": {}}},
}


def sample(field: Field, depth: int) -> Any:
    """A value for the field; nothing is left out but what would recurse."""
    short = field.type.rpartition(".")[2]
    if field.type in SCALARS or short in SAMPLES:
        value = SAMPLES[short]
    elif short == "JSONSchemaPropsOrBool":
        value = True
    elif short == "JSONSchemaPropsOrArray":
        value = [{"type": "string"}, {"type": "integer"}]
    elif short == "JSONSchemaPropsOrStringArray":
        value = ["a", "b"]
    else:
        value = filled(field.type, depth + 1)
    if field.container == "list":
        return [value, value]
    if field.container == "map":
        return {"k1": value, "k2": value}
    return {"k": [value]} if field.container == "maplist" else value


def filled(type_name: str, depth: int = 0) -> dict[str, Any]:
    type_ = types.get(type_name)
    if depth > 12 or (depth > 6 and type_.short == "JSONSchemaProps"):
        return {}
    return {f.name: sample(f, depth) for f in type_.fields.values() if f.number}


@pytest.mark.parametrize("resource", resources.ALL, ids=[f"{r.plural}.{r.api_version}" for r in resources.ALL])
def test_every_kind_there_and_back(resource: Any) -> None:
    obj = {"kind": resource.kind, "apiVersion": resource.api_version, **filled(resource.type_name)}
    assert conform(obj, resource.type_name) == []
    body = protobuf.encode_object(obj)
    again = protobuf.decode_object(body)
    assert conform(again, resource.type_name) == []
    assert again == obj
    assert protobuf.encode_object(again) == body


@pytest.mark.parametrize("resource", resources.ALL, ids=[f"{r.plural}.{r.api_version}" for r in resources.ALL])
def test_empty_objects_there_and_back(resource: Any) -> None:
    obj = {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": {"name": "x"}}
    conform(obj, resource.type_name)
    again = protobuf.decode_object(protobuf.encode_object(obj))
    conform(again, resource.type_name)
    assert again == obj


def test_known_bytes() -> None:
    obj = {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "n", "namespace": "a"}, "data": {"k": "v"}}
    meta = bytes.fromhex("0a016e" "1200" "1a0161" "2200" "2a00" "3200" "3800" "4200")  # fmt: skip
    raw = bytes([0x0A, len(meta)]) + meta + bytes.fromhex("1206" "0a016b" "120176")  # fmt: skip
    type_meta = bytes.fromhex("0a027631" "1209436f6e6669674d6170")  # fmt: skip
    expected = b"k8s\0" + bytes([0x0A, len(type_meta)]) + type_meta + bytes([0x12, len(raw)]) + raw + b"\x1a\0\x22\0"
    assert protobuf.encode_object(obj) == expected
    decoded = protobuf.decode_object(expected)
    conform(decoded, resources.CONFIGMAPS.type_name)
    assert decoded == obj


def test_embedded_messages_share_the_object() -> None:
    volume = {"name": "v", "configMap": {"name": "c", "defaultMode": 420}}
    body = protobuf.encode(volume, "io.k8s.api.core.v1.Volume")
    assert body == bytes.fromhex("0a0176" "120b" "9a01" "08" "0a030a0163" "18a403")  # fmt: skip
    decoded = protobuf.decode(body, "io.k8s.api.core.v1.Volume")
    assert decoded == volume


def test_int_or_string_and_times() -> None:
    port = {"port": 80, "targetPort": "http"}
    type_name = "io.k8s.api.core.v1.ServicePort"
    assert protobuf.decode(protobuf.encode(port, type_name), type_name)["targetPort"] == "http"
    port["targetPort"] = 8080
    assert protobuf.decode(protobuf.encode(port, type_name), type_name)["targetPort"] == 8080
    event = {"eventTime": "0001-01-01T00:00:00.000001Z"}
    type_name = "io.k8s.api.events.v1.Event"
    assert protobuf.decode(protobuf.encode(event, type_name), type_name)["eventTime"] == event["eventTime"]


def test_options_and_lists_are_known() -> None:
    options = {"kind": "DeleteOptions", "apiVersion": "apps/v1", "gracePeriodSeconds": 0, "dryRun": ["All"]}
    assert protobuf.decode_object(protobuf.encode_object(options)) == options
    pods = {"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "7"}, "items": [{}, {}]}
    decoded = protobuf.decode_object(protobuf.encode_object(pods))
    assert len(decoded["items"]) == 2 and decoded["metadata"]["resourceVersion"] == "7"


def test_unknown_kinds_and_foreign_bodies_are_refused() -> None:
    with pytest.raises(StatusError) as caught:
        protobuf.decode_object(protobuf.envelope("example.com/v1", "Widget", b""))
    assert caught.value.code == 415
    with pytest.raises(StatusError) as caught:
        protobuf.decode_object(b'{"kind":"Pod"}')
    assert caught.value.code == 400


@given(st.binary(max_size=200))
def test_garbage_is_a_bad_request(body: bytes) -> None:
    for data in (protobuf.envelope("v1", "Pod", body), protobuf.MAGIC + body):
        try:
            protobuf.decode_object(data)
        except StatusError as err:
            assert err.code in (400, 415)


def test_deep_nesting_is_refused() -> None:
    name = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps"
    body = b""
    for _ in range(400):
        body = protobuf.field_bytes(28, body)  # not: a schema inside a schema
    with pytest.raises(StatusError, match="nested too deeply"):
        protobuf.decode(body, name)
