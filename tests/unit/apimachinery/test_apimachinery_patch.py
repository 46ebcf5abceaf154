"""Patches: RFC 6902, RFC 7386, and strategic merge by upstream's semantics."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k3sd.apimachinery import patch
from k3sd.apimachinery.errors import StatusError

POD = "io.k8s.api.core.v1.Pod"
DEPLOYMENT = "io.k8s.api.apps.v1.Deployment"

OPERATIONS: list[tuple[Any, list[dict[str, Any]], Any]] = [
    ({"a": 1}, [{"op": "add", "path": "/b", "value": 2}], {"a": 1, "b": 2}),
    ({"a": [1, 3]}, [{"op": "add", "path": "/a/1", "value": 2}], {"a": [1, 2, 3]}),
    ({"a": [1]}, [{"op": "add", "path": "/a/-", "value": 2}], {"a": [1, 2]}),
    ({"a": [1, 2]}, [{"op": "remove", "path": "/a/-1"}], {"a": [1]}),
    ({"a": {"b": 1}}, [{"op": "remove", "path": "/a/b"}], {"a": {}}),
    ({"a": 1}, [{"op": "replace", "path": "/a", "value": None}], {"a": None}),
    ({"a": 1}, [{"op": "move", "from": "/a", "path": "/b"}], {"b": 1}),
    ({"a": {"x": 1}}, [{"op": "copy", "from": "/a", "path": "/b"}], {"a": {"x": 1}, "b": {"x": 1}}),
    ({"a/b": {"~c": 1}}, [{"op": "replace", "path": "/a~1b/~0c", "value": 2}], {"a/b": {"~c": 2}}),
    ({"a": 1}, [{"op": "test", "path": "/a", "value": 1}], {"a": 1}),
    ({"a": 1}, [{"op": "test", "path": "/missing", "value": None}], {"a": 1}),
    ({}, [{"op": "add", "path": "/a", "value": {"b": []}}, {"op": "add", "path": "/a/b/0", "value": 1}], {"a": {"b": [1]}}),
]


@pytest.mark.parametrize(("obj", "operations", "result"), OPERATIONS, ids=[str(o[1])[:50] for o in OPERATIONS])
def test_json_patch(obj: Any, operations: list[dict[str, Any]], result: Any) -> None:
    before = copy.deepcopy(obj)
    assert patch.json_patch(obj, operations) == result
    assert obj == before


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "remove", "path": "/missing"},
        {"op": "replace", "path": "/missing", "value": 1},
        {"op": "add", "path": "/missing/x", "value": 1},
        {"op": "add", "path": "/l/9", "value": 1},
        {"op": "add", "path": "/l/x", "value": 1},
        {"op": "add", "path": "/a"},
        {"op": "test", "path": "/a", "value": True},
        {"op": "bogus", "path": "/a"},
        {"op": "add", "path": "a", "value": 1},
        {"op": "add", "path": 1, "value": 1},
    ],
)
def test_a_failing_operation_is_422(operation: dict[str, Any]) -> None:
    with pytest.raises(StatusError) as caught:
        patch.json_patch({"a": 1, "l": []}, [operation])
    assert caught.value.code == 422
    assert caught.value.message == "the server rejected our request due to an error in our request"


def test_json_patch_limits() -> None:
    with pytest.raises(StatusError) as caught:
        patch.json_patch({}, [{"op": "test", "path": "/a", "value": None}] * 10001)
    assert caught.value.code == 413
    assert caught.value.message == "The allowed maximum operations in a JSON patch is 10000, got 10001"
    doubling = [{"op": "copy", "from": "/a", "path": "/a/-"}] * 40
    with pytest.raises(StatusError, match="rejected"):
        patch.json_patch({"a": ["x" * 100]}, doubling)
    with pytest.raises(StatusError) as caught:
        patch.json_patch({}, {"op": "add"})
    assert caught.value.code == 400


RFC_7386 = [
    ({"a": "b"}, {"a": "c"}, {"a": "c"}),
    ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
    ({"a": "b"}, {"a": None}, {}),
    ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
    ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
    ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
    ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
    ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
    ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
    ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
]


@pytest.mark.parametrize(("target", "change", "result"), RFC_7386)
def test_merge_patch(target: Any, change: Any, result: Any) -> None:
    assert patch.merge_patch(target, change) == result


def test_merge_patch_must_be_an_object() -> None:
    with pytest.raises(StatusError, match="Invalid JSON Patch"):
        patch.merge_patch({}, [])


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(st.text(max_size=2), values, max_size=4)


def _nulls(value: Any) -> bool:
    return value is None or (isinstance(value, dict) and any(map(_nulls, value.values())))


@given(objects, objects)
def test_merge_patch_is_idempotent_and_pure(target: Any, change: Any) -> None:
    before = copy.deepcopy((target, change))
    once = patch.merge_patch(target, change)
    assert patch.merge_patch(once, change) == once
    assert (target, change) == before
    assert not any(_nulls(once[key]) for key in change if key in once and not isinstance(target.get(key), dict))


@given(objects, objects)
def test_merge_patch_reaches_any_object_without_nulls(source: Any, wanted: Any) -> None:
    def clean(value: Any) -> Any:
        return {k: clean(v) for k, v in value.items() if v is not None} if isinstance(value, dict) else value

    def difference(old: Any, new: Any) -> Any:
        if not (isinstance(old, dict) and isinstance(new, dict)):
            return new
        gone = {key: None for key in old if key not in new}
        return {**gone, **{key: difference(old.get(key), value) for key, value in new.items()}}

    wanted = clean(wanted)
    assert patch.merge_patch(source, difference(source, wanted)) == wanted


def pod(*names: str, **spec: Any) -> dict[str, Any]:
    return {"spec": {"containers": [{"name": name, "image": f"{name}:1"} for name in names], **spec}}


def containers(change: list[Any], obj: dict[str, Any] | None = None, **more: Any) -> list[Any]:
    result = patch.strategic_merge_patch(obj or pod("a", "b"), {"spec": {"containers": change, **more}}, POD)
    return result["spec"]["containers"]


def test_items_merge_by_key() -> None:
    assert containers([{"name": "b", "image": "b:2"}]) == [
        {"name": "a", "image": "a:1"},
        {"name": "b", "image": "b:2"},
    ]


def test_new_items_come_first_without_an_order() -> None:
    assert [c["name"] for c in containers([{"name": "c", "image": "c:1"}])] == ["c", "a", "b"]


def test_set_element_order() -> None:
    order = [{"name": "b"}, {"name": "c"}, {"name": "a"}]
    found = containers([{"name": "c", "image": "c:1"}], **{"$setElementOrder/containers": order})
    assert [c["name"] for c in found] == ["b", "c", "a"]
    only = {"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}}
    result = patch.strategic_merge_patch(pod("a", "x", "b"), only, POD)
    assert [c["name"] for c in result["spec"]["containers"]] == ["x", "b", "a"]
    with pytest.raises(StatusError, match="doesn't match"):
        containers([{"name": "z"}], **{"$setElementOrder/containers": order})


def test_delete_and_replace_items() -> None:
    assert [c["name"] for c in containers([{"name": "a", "$patch": "delete"}])] == ["b"]
    assert containers([{"name": "z"}, {"$patch": "replace"}]) == [{"name": "z"}]
    with pytest.raises(StatusError, match="does not contain declared merge key: name"):
        containers([{"image": "x"}])
    with pytest.raises(StatusError, match="unknown patch type"):
        containers([{"name": "a", "$patch": "bogus"}])


def test_nested_lists_merge_too() -> None:
    obj = pod("a")
    obj["spec"]["containers"][0].update(
        ports=[{"containerPort": 80, "name": "http"}], env=[{"name": "A", "value": "1"}], args=["x"]
    )
    change = {"name": "a", "ports": [{"containerPort": 81}], "env": [{"name": "A", "value": "2"}], "args": ["y"]}
    found = containers([change], obj)[0]
    assert found["ports"] == [{"containerPort": 81}, {"containerPort": 80, "name": "http"}]
    assert found["env"] == [{"name": "A", "value": "2"}]
    assert found["args"] == ["y"]


def test_primitive_lists_with_merge() -> None:
    obj = {"metadata": {"finalizers": ["a/a", "b/b"]}}
    result = patch.strategic_merge_patch(obj, {"metadata": {"finalizers": ["c/c", "b/b"]}}, POD)
    assert sorted(result["metadata"]["finalizers"]) == ["a/a", "b/b", "c/c"]
    change = {
        "metadata": {
            "$deleteFromPrimitiveList/finalizers": ["a/a"],
            "$setElementOrder/finalizers": ["b/b", "d/d"],
            "finalizers": ["d/d"],
        }
    }
    result = patch.strategic_merge_patch(obj, change, POD)
    assert result["metadata"]["finalizers"] == ["b/b", "d/d"]


def test_map_directives() -> None:
    obj = {"metadata": {"labels": {"a": "1", "b": "2"}}}
    replace = {"metadata": {"labels": {"$patch": "replace", "c": "3"}}}
    assert patch.strategic_merge_patch(obj, replace, POD)["metadata"]["labels"] == {"c": "3"}
    delete = {"metadata": {"labels": {"$patch": "delete"}}}
    assert patch.strategic_merge_patch(obj, delete, POD)["metadata"]["labels"] == {}
    null = {"metadata": {"labels": {"a": None, "z": None}}}
    assert patch.strategic_merge_patch(obj, null, POD)["metadata"]["labels"] == {"b": "2"}


def test_retain_keys() -> None:
    obj = {"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}}
    change = {"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}
    assert patch.strategic_merge_patch(obj, change, DEPLOYMENT)["spec"]["strategy"] == {"type": "Recreate"}
    bad = {"spec": {"strategy": {"$retainKeys": ["type"], "rollingUpdate": {}}}}
    with pytest.raises(StatusError, match="invalid patch format of retainKeys") as caught:
        patch.strategic_merge_patch(obj, bad, DEPLOYMENT)
    assert caught.value.code == 400


def test_volumes_switch_their_source() -> None:
    obj = {"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}}
    change = {"spec": {"volumes": [{"$retainKeys": ["name", "configMap"], "name": "v", "configMap": {"name": "c"}}]}}
    result = patch.strategic_merge_patch(obj, change, POD)
    assert result["spec"]["volumes"] == [{"name": "v", "configMap": {"name": "c"}}]


def test_strategic_merge_is_pure_and_new_content_has_no_directives_or_nulls() -> None:
    obj: dict[str, Any] = {"spec": {}}
    change = {"spec": {"containers": [{"name": "a", "x": None}, {"name": "b", "$patch": "delete"}], "nodeName": None}}
    before = copy.deepcopy(change)
    assert patch.strategic_merge_patch(obj, change, POD) == {"spec": {"containers": [{"name": "a"}]}}
    assert obj == {"spec": {}} and change == before


def test_conditions_merge_by_type() -> None:
    obj = {"status": {"conditions": [{"type": "Ready", "status": "False"}, {"type": "X", "status": "True"}]}}
    change = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
    result = patch.strategic_merge_patch(obj, change, POD)
    assert result["status"]["conditions"] == [{"type": "Ready", "status": "True"}, {"type": "X", "status": "True"}]


def test_deleted_items_leave_room_for_new_ones() -> None:
    """Upstream deletes in place, which decides the order; its own tests pin the result."""
    order = {"$setElementOrder/containers": [{"name": "b"}, {"name": "c"}]}
    change = [{"name": "c", "image": "c"}, {"name": "a", "$patch": "delete"}]
    assert [c["name"] for c in containers(change, pod("a", "b", "d"), **order)] == ["b", "d", "c"]
