"""Server-side apply and managed fields, by structured-merge-diff's and the field manager's semantics."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k3sd.apimachinery import apply as ssa
from k3sd.apimachinery import fieldset
from k3sd.apimachinery.conform import conform
from k3sd.apimachinery.errors import StatusError
from k3sd.apis import resources

DEPLOYMENT = resources.DEPLOYMENTS.type_name
CONFIG_MAP = resources.CONFIGMAPS.type_name
T1, T2 = "2026-01-01T00:00:01Z", "2026-01-01T00:00:02Z"
Obj = dict[str, Any]


def deployment(**spec: Any) -> Obj:
    container = {"name": "web", "image": "nginx:1", "ports": [{"containerPort": 80}]}
    body = {"selector": {"matchLabels": {"a": "b"}}, "template": {"spec": {"containers": [container]}}, **spec}
    obj = {"kind": "Deployment", "apiVersion": "apps/v1", "metadata": {"name": "d", "namespace": "n"}, "spec": body}
    conform(obj, DEPLOYMENT)
    return obj


def created(manager: str = "kubectl-create", **spec: Any) -> Obj:
    obj = deployment(**spec)
    ssa.update_managed_fields(None, obj, manager, "Update", "", "apps/v1", DEPLOYMENT, T1)
    return obj


def config(**spec: Any) -> Obj:
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "namespace": "n"}, "spec": spec}


def fields(obj: Obj, manager: str) -> Obj:
    found = [e for e in obj["metadata"].get("managedFields", []) if e["manager"] == manager]
    assert len(found) == 1, (manager, obj["metadata"].get("managedFields"))
    tree: Obj = found[0]["fieldsV1"]
    return tree


def test_create_owns_what_was_set_beyond_the_empty_object() -> None:
    obj = created(replicas=2)
    entry = obj["metadata"]["managedFields"][0]
    assert {k: v for k, v in entry.items() if k != "fieldsV1"} == {
        "manager": "kubectl-create",
        "operation": "Update",
        "apiVersion": "apps/v1",
        "time": T1,
        "fieldsType": "FieldsV1",
    }
    key, port = 'k:{"name":"web"}', 'k:{"containerPort":80,"protocol":"TCP"}'
    assert entry["fieldsV1"] == {
        "f:spec": {
            "f:replicas": {},
            "f:selector": {},
            "f:template": {
                "f:spec": {
                    "f:containers": {
                        key: {
                            ".": {},
                            "f:name": {},
                            "f:image": {},
                            "f:resources": {},
                            "f:ports": {".": {}, port: {".": {}, "f:containerPort": {}}},
                        }
                    }
                }
            },
        }
    }


def test_fields_are_kept_sorted() -> None:
    """A client that reads the object as maps writes them sorted and expects the same text from both readings."""

    def text(obj: Obj) -> str:
        return json.dumps(obj["metadata"]["managedFields"])

    def resorted(obj: Obj) -> str:
        return json.dumps([{**e, "fieldsV1": json.loads(json.dumps(e["fieldsV1"], sort_keys=True))} for e in entries(obj)])

    def entries(obj: Obj) -> list[Obj]:
        return list(obj["metadata"]["managedFields"])

    live = created(replicas=2)
    assert text(live) == resorted(live)
    new = copy.deepcopy(live)
    new["spec"].update(paused=True, minReadySeconds=3)
    ssa.update_managed_fields(live, new, "kubectl-create", "Update", "", "apps/v1", DEPLOYMENT, T2)
    assert text(new) == resorted(new)
    applied = ssa.apply(None, config(revisionHistoryLimit=3, minReadySeconds=1, paused=False), DEPLOYMENT, "me", False, time=T1)
    assert text(applied) == resorted(applied)


def test_update_moves_changed_fields_and_forgets_removed_ones() -> None:
    live = created(replicas=2, paused=True)
    new = copy.deepcopy(live)
    new["spec"]["replicas"] = 3
    del new["spec"]["paused"]
    ssa.update_managed_fields(live, new, "scaler", "Update", "", "apps/v1", DEPLOYMENT, T2)
    assert fields(new, "scaler") == {"f:spec": {"f:replicas": {}}}
    assert not {"f:replicas", "f:paused"} & set(fields(new, "kubectl-create")["f:spec"])
    times = {e["manager"]: e["time"] for e in new["metadata"]["managedFields"]}
    assert times == {"kubectl-create": T1, "scaler": T2}


def test_an_update_that_changes_nothing_changes_no_entry() -> None:
    live = created()
    new = copy.deepcopy(live)
    new["metadata"]["resourceVersion"] = "9"
    ssa.update_managed_fields(live, new, "other", "Update", "", "apps/v1", DEPLOYMENT, T2)
    assert new["metadata"]["managedFields"] == live["metadata"]["managedFields"]


def test_objects_without_managed_fields_stay_without() -> None:
    live = deployment()
    new = deployment(replicas=3)
    ssa.update_managed_fields(live, new, "other", "Update", "", "apps/v1", DEPLOYMENT)
    assert "managedFields" not in new["metadata"]


def test_subresources_have_entries_of_their_own_and_resets_are_not_owned() -> None:
    live = created()
    new = copy.deepcopy(live)
    new["status"] = {"replicas": 1}
    main = copy.deepcopy(new)
    ssa.update_managed_fields(live, main, "m", "Update", "", "apps/v1", DEPLOYMENT, T2, {"f:status": {}})
    assert [e["manager"] for e in main["metadata"]["managedFields"]] == ["kubectl-create"]
    ssa.update_managed_fields(live, new, "m", "Update", "status", "apps/v1", DEPLOYMENT, T2)
    entry = next(e for e in new["metadata"]["managedFields"] if e["manager"] == "m")
    assert entry["subresource"] == "status" and entry["fieldsV1"] == {"f:status": {"f:replicas": {}}}


def test_the_oldest_updates_are_merged() -> None:
    live: Obj = {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "c"}, "data": {}}
    ssa.update_managed_fields(None, live, "first", "Update", "", "v1", CONFIG_MAP, T1)
    for i in range(15):
        new = copy.deepcopy(live)
        new["data"][f"k{i}"] = "v"
        time = f"2026-01-01T00:01:{i:02d}Z"
        manager = f"m{i}"
        ssa.update_managed_fields(live if i else None, new, manager, "Update", "", "v1", CONFIG_MAP, time)
        live = new
    managers = [e["manager"] for e in live["metadata"]["managedFields"]]
    assert len(managers) == 10 and managers[0] == "ancient-changes"
    assert {"f:k0", "f:k5"} <= set(fields(live, "ancient-changes")["f:data"])


def test_apply_creates() -> None:
    new = ssa.apply(None, config(replicas=2), DEPLOYMENT, "me", False, time=T1)
    assert new["spec"]["replicas"] == 2 and new["metadata"]["name"] == "d"
    assert fields(new, "me") == {"f:spec": {"f:replicas": {}}}
    assert new["metadata"]["managedFields"][0]["operation"] == "Apply"


def test_one_conflict_reads_as_upstream() -> None:
    live = created("kubectl-client-side-apply", replicas=2)
    with pytest.raises(StatusError) as caught:
        ssa.apply(live, config(replicas=5), DEPLOYMENT, "me", False)
    error = caught.value
    assert (error.code, error.reason) == (409, "Conflict")
    assert error.message == (
        'Apply failed with 1 conflict: conflict with "kubectl-client-side-apply" using apps/v1: .spec.replicas'
    )
    assert error.details["causes"] == [
        {
            "reason": "FieldManagerConflict",
            "message": 'conflict with "kubectl-client-side-apply" using apps/v1',
            "field": ".spec.replicas",
        }
    ]


def test_several_conflicts_read_as_upstream() -> None:
    live = created(replicas=2)
    template = {"spec": {"containers": [{"name": "web", "image": "nginx:2"}]}}
    with pytest.raises(StatusError) as caught:
        ssa.apply(live, config(replicas=5, template=template), DEPLOYMENT, "me", False)
    assert caught.value.message == (
        'Apply failed with 2 conflicts: conflicts with "kubectl-create" using apps/v1:\n- .spec.replicas\n'
        '- .spec.template.spec.containers[name="web"].image'
    )


def test_force_takes_over_and_equal_values_are_shared() -> None:
    live = created(replicas=2)
    shared = ssa.apply(live, config(replicas=2), DEPLOYMENT, "me", False, time=T2)
    assert "f:replicas" in fields(shared, "me")["f:spec"]
    assert "f:replicas" in fields(shared, "kubectl-create")["f:spec"]
    forced = ssa.apply(live, config(replicas=5), DEPLOYMENT, "me", True, time=T2)
    assert forced["spec"]["replicas"] == 5
    assert "f:replicas" not in fields(forced, "kubectl-create")["f:spec"]


def test_what_is_no_longer_applied_goes_unless_somebody_else_owns_it() -> None:
    first = ssa.apply(None, config(replicas=2, paused=True, minReadySeconds=3), DEPLOYMENT, "me", False, time=T1)
    both = ssa.apply(first, config(paused=True), DEPLOYMENT, "other", False, time=T1)
    second = ssa.apply(both, config(replicas=2), DEPLOYMENT, "me", False, time=T2)
    assert "minReadySeconds" not in second["spec"]
    assert second["spec"]["paused"] is True
    assert fields(second, "me") == {"f:spec": {"f:replicas": {}}}


def test_list_items_are_owned_by_key() -> None:
    def containers(*names: str) -> Obj:
        return config(template={"spec": {"containers": [{"name": n, "image": n} for n in names]}})

    first = ssa.apply(None, containers("a", "b"), DEPLOYMENT, "me", False, time=T1)
    other = ssa.apply(first, containers("c"), DEPLOYMENT, "other", False, time=T1)
    assert [c["name"] for c in other["spec"]["template"]["spec"]["containers"]] == ["a", "b", "c"]
    less = ssa.apply(other, containers("b"), DEPLOYMENT, "me", False, time=T2)
    assert [c["name"] for c in less["spec"]["template"]["spec"]["containers"]] == ["b", "c"]


def test_maps_are_owned_by_key_and_sets_by_value() -> None:
    def config_map(data: Obj, finalizers: list[str]) -> Obj:
        metadata = {"name": "c", "finalizers": finalizers}
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}

    first = ssa.apply(None, config_map({"a": "1", "b": "2"}, ["x/y"]), CONFIG_MAP, "me", False, time=T1)
    assert fields(first, "me") == {
        "f:metadata": {"f:finalizers": {'v:"x/y"': {}}},
        "f:data": {"f:a": {}, "f:b": {}},
    }
    second = ssa.apply(first, config_map({"b": "2"}, ["z/z"]), CONFIG_MAP, "me", False, time=T2)
    assert second["data"] == {"b": "2"} and second["metadata"]["finalizers"] == ["z/z"]


def test_atomic_fields_conflict_as_a_whole() -> None:
    live = created()
    with pytest.raises(StatusError, match=r"\.spec\.selector"):
        ssa.apply(live, config(selector={"matchLabels": {"x": "y"}}), DEPLOYMENT, "me", False)


def test_the_first_apply_to_an_unmanaged_object() -> None:
    live = deployment(replicas=2)
    new = ssa.apply(live, config(replicas=2), DEPLOYMENT, "me", False, time=T2)
    assert "f:replicas" in fields(new, "before-first-apply")["f:spec"]
    with pytest.raises(StatusError, match=r'conflict with "before-first-apply" using apps/v1: \.spec\.replicas'):
        ssa.apply(live, config(replicas=3), DEPLOYMENT, "me", False)


def test_applying_again_is_no_write() -> None:
    first = ssa.apply(None, config(replicas=2), DEPLOYMENT, "me", False, time=T1)
    again = ssa.apply(first, config(replicas=2), DEPLOYMENT, "me", False, time=T2)
    assert again == first
    later = copy.deepcopy(first)
    later["metadata"]["managedFields"][0]["time"] = T2
    assert ssa.same_but_times(first, later)
    later["spec"]["replicas"] = 3
    assert not ssa.same_but_times(first, later)


def test_the_live_object_stays_as_it_is() -> None:
    live = created(replicas=2)
    before = copy.deepcopy(live)
    ssa.apply(live, config(replicas=5, minReadySeconds=1), DEPLOYMENT, "me", True)
    assert live == before


def test_wrong_objects_are_refused() -> None:
    with pytest.raises(StatusError, match=r"\.spec\.foo: field not declared in schema"):
        ssa.apply(None, config(foo=1), DEPLOYMENT, "me", False)
    with pytest.raises(StatusError, match=r"\.spec\.replicas: expected numeric \(int or float\), got \"3\""):
        ssa.apply(None, config(replicas="3"), DEPLOYMENT, "me", False)
    twice = config(template={"spec": {"containers": [{"name": "a"}, {"name": "a"}]}})
    with pytest.raises(StatusError, match=r"containers: duplicate entries for key \[name=\"a\"\]"):
        ssa.apply(None, twice, DEPLOYMENT, "me", False)
    managed = config()
    managed["metadata"]["managedFields"] = []
    with pytest.raises(StatusError, match="must be nil"):
        ssa.apply(None, managed, DEPLOYMENT, "me", False)
    with pytest.raises(StatusError, match="Incorrect version specified in apply patch"):
        ssa.apply(None, config(), DEPLOYMENT, "me", False, api_version="apps/v2")


def test_kubectl_keeps_the_last_applied_annotation() -> None:
    live = deployment()
    live["metadata"]["annotations"] = {"kubectl.kubernetes.io/last-applied-configuration": "{}"}
    new = ssa.apply(live, config(replicas=1), DEPLOYMENT, "kubectl", True)
    annotation = new["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"]
    assert '"replicas":1' in annotation


def test_custom_resources_follow_their_schema() -> None:
    item = {"type": "object", "properties": {"id": {"type": "string"}, "n": {"type": "integer"}}}
    schema = {
        "type": "object",
        "properties": {
            "spec": {
                "type": "object",
                "properties": {
                    "items": {
                        "type": "array",
                        "x-kubernetes-list-type": "map",
                        "x-kubernetes-list-map-keys": ["id"],
                        "items": item,
                    },
                    "loose": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                },
            }
        },
    }
    shape = ssa.of_schema(schema)
    body = {"apiVersion": "e.com/v1", "kind": "W", "metadata": {"name": "w"}}
    one = {**body, "spec": {"items": [{"id": "a", "n": 1}], "loose": {"x": {"y": 1}}}}
    first = ssa.apply(None, one, shape, "me", False, time=T1)
    assert fields(first, "me")["f:spec"] == {
        "f:items": {'k:{"id":"a"}': {".": {}, "f:id": {}, "f:n": {}}},
        "f:loose": {"f:x": {".": {}, "f:y": {}}},
    }
    with pytest.raises(StatusError, match=r"\.spec\.unknown: field not declared in schema"):
        ssa.apply(first, {**body, "spec": {"unknown": 1}}, shape, "me", False)
    free = ssa.apply(None, {**body, "anything": [1]}, ssa.of_schema(None), "me", False)
    assert free["anything"] == [1]


trees = st.recursive(
    st.just({}),
    lambda inner: st.dictionaries(st.sampled_from(["f:a", "f:b", "f:c", "."]), inner, max_size=3),
    max_leaves=12,
).map(lambda t: _clean(t))


def _clean(tree: Obj) -> Obj:
    """Well-formed: "." is a leaf and stands only beside others."""
    out = {k: ({} if k == "." else _clean(v)) for k, v in tree.items()}
    return {} if list(out) == ["."] else out


def members(tree: Obj) -> set[str]:
    return set(fieldset.paths({k: v for k, v in tree.items() if k != "."}))


@given(trees, trees)
def test_set_algebra(a: Obj, b: Obj) -> None:
    before = copy.deepcopy((a, b))
    assert members(fieldset.union(a, b)) == members(a) | members(b)
    assert members(fieldset.difference(a, b)) == members(a) - members(b)
    assert members(fieldset.intersection(a, b)) == members(a) & members(b)
    assert (a, b) == before


data = st.dictionaries(st.sampled_from("abcd"), st.sampled_from("xyz"), max_size=4)


@given(data, data)
def test_apply_then_apply_gives_exactly_the_second(first: Obj, second: Obj) -> None:
    def body(values: Obj) -> Obj:
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": values}

    one = ssa.apply(None, body(first), CONFIG_MAP, "me", False)
    two = ssa.apply(one, body(second), CONFIG_MAP, "me", False)
    assert (two.get("data") or {}) == second


def test_items_that_occur_twice_are_owned_as_a_whole() -> None:
    """Environment variables may be given twice; nobody can then own a part of one."""
    env = [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}, {"name": "B", "value": "3"}]
    container = {"name": "web", "image": "i", "env": env}
    live = created(template={"spec": {"containers": [container]}})
    tree = fields(live, "kubectl-create")["f:spec"]["f:template"]["f:spec"]["f:containers"]['k:{"name":"web"}']["f:env"]
    assert tree['k:{"name":"A"}'] == {} and "f:value" in tree['k:{"name":"B"}']
    new = copy.deepcopy(live)
    new["spec"]["template"]["spec"]["containers"][0]["env"][1]["value"] = "9"
    ssa.update_managed_fields(live, new, "editor", "Update", "", "apps/v1", DEPLOYMENT, T2)
    assert 'k:{"name":"A"}' in str(fields(new, "editor")) and "f:value" not in str(fields(new, "editor"))
    other = config(template={"spec": {"containers": [{"name": "web", "env": [{"name": "C", "value": "4"}]}]}})
    applied = ssa.apply(live, other, DEPLOYMENT, "me", False)
    assert [e["name"] for e in applied["spec"]["template"]["spec"]["containers"][0]["env"]] == ["A", "A", "B", "C"]


def test_applying_null_to_a_struct_gives_it_up_without_removing_what_others_set() -> None:
    first = ssa.apply(None, config(strategy={"type": "Recreate"}), DEPLOYMENT, "me", False, time=T1)
    both = ssa.apply(first, config(strategy={"rollingUpdate": {"maxSurge": 1}}), DEPLOYMENT, "other", False, time=T1)
    last = ssa.apply(both, config(strategy=None), DEPLOYMENT, "me", False, time=T2)
    assert last["spec"]["strategy"] == {"rollingUpdate": {"maxSurge": 1}}
