"""Custom resources by their structural schema: pruning, defaults, validation, and the same face as declared types."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from k3sd.apimachinery import apply, custom, defaults
from k3sd.apimachinery.conform import conform
from k3sd.apimachinery.errors import StatusError
from k3sd.apimachinery.schema import types

NAME = "com.example.v1.Widget"
SPEC: dict[str, Any] = {
    "type": "object",
    "required": ["size"],
    "properties": {
        "size": {"type": "integer", "minimum": 1, "maximum": 10},
        "color": {"type": "string", "enum": ["red", "blue"], "default": "red"},
        "cron": {"type": "string", "pattern": "^a+$", "maxLength": 3},
        "port": {"x-kubernetes-int-or-string": True},
        "note": {"type": "string", "nullable": True},
        "tags": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set", "maxItems": 3},
        "parts": {
            "type": "array",
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["id"],
            "items": {"type": "object", "properties": {"id": {"type": "string"}, "n": {"type": "integer", "default": 1}}},
        },
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        "one": {"type": "object", "properties": {"a": {}, "b": {}}, "oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
        "pod": {"type": "object", "x-kubernetes-embedded-resource": True, "x-kubernetes-preserve-unknown-fields": True},
        "when": {"type": "string", "format": "date-time"},
    },
}
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"spec": SPEC, "status": {"type": "object"}}}


@pytest.fixture(autouse=True)
def _widget() -> Iterator[None]:
    custom.register(NAME, SCHEMA, has_status=True)
    yield
    custom.unregister(NAME)


def widget(**spec: Any) -> dict[str, Any]:
    return {"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": {"size": 1, **spec}}


def test_it_looks_like_a_declared_type() -> None:
    assert types.get(NAME).is_kind and "status" in types.get(NAME).fields
    custom.unregister(NAME)
    assert not types.has(NAME)


def test_pruning() -> None:
    obj = widget(bogus=1, parts=[{"id": "a", "x": 1}], free={"any": {"thing": None}}, labels={"k": "v"}, color=None, note=None)
    obj["metadata"]["bogus"] = 1
    obj["top"] = 1
    assert conform(obj, NAME) == [
        'unknown field "metadata.bogus"',
        'unknown field "spec.bogus"',
        'unknown field "spec.parts[0].x"',
        'unknown field "top"',
    ]
    assert obj["spec"] == {
        "size": 1,
        "parts": [{"id": "a"}],
        "free": {"any": {"thing": None}},
        "labels": {"k": "v"},
        "note": None,
    }


def test_embedded_objects_keep_their_head_and_have_real_metadata() -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "nonsense": 1}, "spec": {"x": 1}}
    obj = widget(pod=pod)
    assert conform(obj, NAME) == ['unknown field "spec.pod.metadata.nonsense"']
    assert pod == {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"x": 1}}


def test_wrong_metadata_is_refused() -> None:
    obj = widget()
    obj["metadata"]["labels"] = {"a": 1}
    with pytest.raises(StatusError, match=r"into Go struct field ObjectMeta\.metadata\.labels"):
        conform(obj, NAME)
    with pytest.raises(StatusError):
        conform([], NAME)


def test_defaults() -> None:
    obj = widget(parts=[{"id": "a"}])
    defaults.default_type(obj, NAME)
    assert obj["spec"]["color"] == "red" and obj["spec"]["parts"] == [{"id": "a", "n": 1}]


FAULTS = [
    ({"size": 0}, "spec.size: Invalid value: 0: spec.size in body should be greater than or equal to 1"),
    ({"size": 11}, "spec.size: Invalid value: 11: spec.size in body should be less than or equal to 10"),
    ({"size": "x"}, 'spec.size: Invalid value: "string": spec.size in body must be of type integer: "string"'),
    ({"color": "green"}, 'spec.color: Unsupported value: "green": supported values: "blue", "red"'),
    ({"cron": "b"}, "spec.cron: Invalid value: \"b\": spec.cron in body should match '^a+$'"),
    ({"cron": "aaaa"}, "spec.cron: Too long: may not be more than 3 bytes"),
    ({"port": []}, 'spec.port: Invalid value: "array": spec.port in body must be of type integer,string: "array"'),
    ({"tags": ["a", "a"]}, 'spec.tags[1]: Duplicate value: "a"'),
    ({"tags": list("abcd")}, "spec.tags: Too many: 4: must have at most 3 items"),
    ({"parts": [{"id": "a"}, {"id": "a"}]}, 'spec.parts[1]: Duplicate value: {"id":"a"}'),
    ({"labels": {"k": 1}}, 'spec.labels.k: Invalid value: "integer": spec.labels.k in body must be of type string: "integer"'),
    (
        {"one": {}},
        'spec.one: Invalid value: {}: "spec.one" must validate one and only one schema (oneOf). Found none valid',
    ),
    ({"when": "now"}, 'spec.when: Invalid value: "now": spec.when in body must be of type date-time: "now"'),
]


@pytest.mark.parametrize(("spec", "text"), FAULTS, ids=[t.partition(":")[0] + str(i) for i, (_, t) in enumerate(FAULTS)])
def test_validation(spec: dict[str, Any], text: str) -> None:
    assert [str(e) for e in custom.validate(widget(**spec), SCHEMA)] == [text]


def test_what_is_required_and_what_is_fine() -> None:
    obj = widget(port="http", note=None, one={"a": 1}, when="2026-01-01T00:00:00Z", tags=["a"])
    assert custom.validate(obj, SCHEMA) == []
    del obj["spec"]["size"]
    assert [str(e) for e in custom.validate(obj, SCHEMA)] == ["spec.size: Required value"]
    assert custom.validate({"anything": 1}, None) == []


def test_server_side_apply_follows_the_list_types() -> None:
    first = apply.apply(None, widget(parts=[{"id": "a"}, {"id": "b"}]), NAME, "me", False)
    second = apply.apply(first, widget(parts=[{"id": "b"}]), NAME, "me", False)
    assert second["spec"]["parts"] == [{"id": "b"}]
