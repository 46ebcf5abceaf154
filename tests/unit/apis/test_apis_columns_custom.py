"""JSON paths and cells of custom resources' columns."""

from __future__ import annotations

from typing import Any

import pytest

from k3sd.apimachinery import timefmt
from k3sd.apis.columns import custom

OBJ: dict[str, Any] = {
    "metadata": {"name": "a", "creationTimestamp": "2026-01-01T00:00:00Z", "labels": {"x.io/y": "z"}},
    "spec": {"n": 3, "list": [{"a": 1}, {"a": 2}], "on": True, "map": {"k": 1}},
    "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "X", "status": "False"}]},
}
PATHS: list[tuple[str, list[Any]]] = [
    (".spec.n", [3]),
    ("spec.n", [3]),
    ("{.spec.n}", [3]),
    (".spec.list[*].a", [1, 2]),
    (".spec.list[-1].a", [2]),
    (".spec.list[7].a", []),
    (".metadata.labels['x.io/y']", ["z"]),
    ('.status.conditions[?(@.type=="Ready")].status', ["True"]),
    (".status.conditions[?(@.type=='X')].status", ["False"]),
    (".missing.path", []),
    (r".metadata.labels.x\.io/y", ["z"]),
    (".spec..n", []),
]


@pytest.mark.parametrize(("path", "values"), PATHS, ids=[p for p, _ in PATHS])
def test_paths(path: str, values: list[Any]) -> None:
    assert custom.evaluate(path, OBJ) == values


def test_cells() -> None:
    columns = [
        {"name": "N", "type": "integer", "jsonPath": ".spec.n"},
        {"name": "On", "type": "boolean", "jsonPath": ".spec.on"},
        {"name": "Map", "type": "string", "jsonPath": ".spec.map"},
        {"name": "All", "type": "string", "jsonPath": ".spec.list[*].a"},
        {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
        {"name": "No", "type": "string", "jsonPath": ".spec.no", "priority": 1},
        {"name": "Wrong", "type": "integer", "jsonPath": ".metadata.name"},
    ]
    now = timefmt.parse("2026-01-02T00:00:00Z")
    assert custom.cells(columns, OBJ, now) == ["a", 3, True, '{"k":1}', "1,2", "24h", None, None]
    assert [c["name"] for c in custom.definitions(columns)][:2] == ["Name", "N"]
    assert custom.cells(None, OBJ, now) == ["a", "24h"]
    assert [c["name"] for c in custom.definitions(None)] == ["Name", "Age"]
