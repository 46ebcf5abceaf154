"""CEL rules in schemas of custom resources."""

from __future__ import annotations

from typing import Any

import pytest

from k3sd.apimachinery import customrules

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "spec": {
            "type": "object",
            "properties": {
                "min": {"type": "integer"},
                "max": {"type": "integer"},
                "ratio": {"type": "number"},
                "when": {"type": "string", "format": "date-time"},
                "for": {"type": "string", "format": "duration"},
                "a-b": {"type": "integer"},
                "ports": {
                    "type": "array",
                    "x-kubernetes-list-type": "map",
                    "x-kubernetes-list-map-keys": ["name"],
                    "items": {
                        "type": "object",
                        "properties": {"name": {"type": "string"}, "port": {"type": "integer"}},
                    },
                },
                "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            },
        }
    },
}


def with_rules(**rules: Any) -> dict[str, Any]:
    """The schema with rules at ``spec`` (or ``root``, ``port``, ``label``)."""
    import copy

    schema = copy.deepcopy(SCHEMA)
    spec = schema["properties"]["spec"]
    places = {
        "root": schema,
        "spec": spec,
        "port": spec["properties"]["ports"]["items"],
        "label": spec["properties"]["labels"]["additionalProperties"],
        "max": spec["properties"]["max"],
    }
    for name, found in rules.items():
        places[name][customrules.KEY] = found if isinstance(found, list) else [found]
    return schema


def check(schema: dict[str, Any], spec: dict[str, Any], old: dict[str, Any] | None = None) -> list[str]:
    def obj(spec: dict[str, Any]) -> dict[str, Any]:
        return {"apiVersion": "a/v1", "kind": "K", "metadata": {"name": "n"}, "spec": spec}

    rules = customrules.compile_rules(schema)
    assert rules is not None
    return [str(e) for e in customrules.validate(rules, obj(spec), obj(old) if old is not None else None)]


@pytest.mark.parametrize(
    ("rules", "spec", "errors"),
    [
        ({"spec": {"rule": "self.min <= self.max"}}, {"min": 1, "max": 2}, []),
        (
            {"spec": {"rule": "self.min <= self.max"}},
            {"min": 3, "max": 2},
            ['spec: Invalid value: "object": failed rule: self.min <= self.max'],
        ),
        (
            {
                "spec": {
                    "rule": "self.min <= self.max",
                    "message": "wrong way",
                    "reason": "FieldValueForbidden",
                    "fieldPath": ".min",
                }
            },
            {"min": 3, "max": 2},
            ["spec.min: Forbidden: wrong way"],
        ),
        (
            {"spec": {"rule": "false", "messageExpression": "'max is ' + string(self.max)", "message": "fixed"}},
            {"max": 2},
            ['spec: Invalid value: "object": max is 2'],
        ),
        (
            {"spec": {"rule": "false", "messageExpression": "string(self.min)", "message": "fixed"}},
            {"max": 2},
            ['spec: Invalid value: "object": fixed'],
        ),
        (
            {"spec": {"rule": "self.min > 1"}},
            {},
            ['spec: Invalid value: "object": no such key: min evaluating rule: self.min > 1'],
        ),
        ({"spec": {"rule": "self.ratio > 1.5"}}, {"ratio": 2}, []),
        ({"spec": {"rule": "self.when > timestamp('2020-01-01T00:00:00Z')"}}, {"when": "2021-01-01T00:00:00Z"}, []),
        ({"spec": {"rule": "self.__for__ > duration('1m')"}}, {"for": "2m"}, []),
        ({"spec": {"rule": "self.a__dash__b == 1"}}, {"a-b": 1}, []),
        ({"root": {"rule": "self.metadata.name == self.spec.labels.name"}}, {"labels": {"name": "n"}}, []),
        (
            {"port": {"rule": "self.port < 10"}},
            {"ports": [{"name": "a", "port": 1}, {"name": "b", "port": 11}]},
            ['spec.ports[1]: Invalid value: "object": failed rule: self.port < 10'],
        ),
        (
            {"label": {"rule": "self.size() < 3"}},
            {"labels": {"x": "long"}},
            ['spec.labels[x]: Invalid value: "string": failed rule: self.size() < 3'],
        ),
        ({"max": {"rule": "self < 3"}}, {"max": 3}, ['spec.max: Invalid value: "integer": failed rule: self < 3']),
    ],
)
def test_rules(rules: Any, spec: dict[str, Any], errors: list[str]) -> None:
    assert check(with_rules(**rules), spec) == errors


def test_transition_rules_need_what_was_there() -> None:
    schema = with_rules(
        max={"rule": "self >= oldSelf", "message": "may not shrink"}, port={"rule": "self.port == oldSelf.port"}
    )
    assert check(schema, {"max": 1}) == []
    assert check(schema, {"max": 1}, {}) == []
    assert check(schema, {"max": 1}, {"max": 2}) == ['spec.max: Invalid value: "integer": may not shrink']
    old = {"ports": [{"name": "a", "port": 1}, {"name": "b", "port": 2}]}
    assert check(schema, {"ports": [{"name": "b", "port": 2}, {"name": "c", "port": 3}]}, old) == []
    assert len(check(schema, {"ports": [{"name": "b", "port": 9}]}, old)) == 1


def test_optional_old_self() -> None:
    schema = with_rules(max={"rule": "oldSelf.hasValue() || self == 1", "optionalOldSelf": True})
    assert check(schema, {"max": 1}) == []
    assert len(check(schema, {"max": 2})) == 1
    assert check(schema, {"max": 2}, {"max": 1}) == []


def test_what_did_not_change_is_let_pass() -> None:
    schema = with_rules(max={"rule": "self < 3"})
    assert check(schema, {"max": 5, "min": 1}, {"max": 5}) == []
    assert len(check(schema, {"max": 6}, {"max": 5})) == 1


@pytest.mark.parametrize(
    ("rules", "error"),
    [
        (
            {"spec": {"rule": "self.nope == 1"}},
            "s.properties[spec].x-kubernetes-validations[0].rule: Invalid value: "
            'apiextensions.ValidationRule{Rule:"self.nope == 1", '
            'Message:"", MessageExpression:"", Reason:(*apiextensions.FieldValueErrorReason)(nil), FieldPath:"", '
            "OptionalOldSelf:(*bool)(nil)}: compilation failed: ERROR: <input>:1:1: undefined field 'nope'",
        ),
        ({"spec": {"rule": "self.min >"}}, "compilation failed: ERROR: <input>:1:1: Syntax error"),
        (
            {"spec": {"rule": "true", "messageExpression": "self.nope"}},
            "messageExpression compilation failed: ERROR: <input>:1:1: undefined",
        ),
        ({"spec": {"rule": " "}}, "s.properties[spec].x-kubernetes-validations[0].rule: Required value: rule is not specified"),
        (
            {"spec": {"rule": "true", "reason": "No"}},
            '.reason: Unsupported value: "No": supported values: "FieldValueDuplicate"',
        ),
    ],
)
def test_problems(rules: Any, error: str) -> None:
    (found,) = customrules.problems_of(with_rules(**rules), "s")
    assert error in str(found)


def test_old_self_below_a_list_without_identity() -> None:
    schema = with_rules(port={"rule": "self.port == oldSelf.port"})
    assert not list(customrules.problems_of(schema, "s"))
    del schema["properties"]["spec"]["properties"]["ports"]["x-kubernetes-list-type"]
    (found,) = customrules.problems_of(schema, "s")
    assert (
        "oldSelf cannot be used on the uncorrelatable portion of the schema within s.properties[spec].properties[ports]"
        in str(found)
    )


def test_known_fields_are_found_everywhere() -> None:
    schema = with_rules(
        root={"rule": "self.spec.labels.any == 'x' && has(self.metadata.name) && self.spec.ports.all(p, p.port > 0)"}
    )
    assert not list(customrules.problems_of(schema, "s"))
