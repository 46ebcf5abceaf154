"""The OpenAPI documents: whole, consistent, and with what clients look for."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from k3sd.apimachinery import openapi, wire
from k3sd.apimachinery.resource import Resource
from k3sd.apis import resources


@pytest.fixture(scope="module")
def v2() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(openapi.build_v2())
    return document


def _references(value: Any) -> set[str]:
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*(_references(v) for v in value.values()))
    return set().union(*(_references(v) for v in value)) if isinstance(value, list) else set()


def test_every_reference_leads_somewhere(v2: dict[str, Any]) -> None:
    known = {f"#/definitions/{name}" for name in v2["definitions"]}
    assert _references(v2) <= known
    for group, version in {(r.group, r.version) for r in resources.ALL}:
        v3 = json.loads(openapi.build_v3(group, version))
        known = {f"#/components/schemas/{name}" for name in v3["components"]["schemas"]}
        assert _references(v3) <= known, (group, version)


def test_every_kind_can_be_found_by_its_group_version_kind(v2: dict[str, Any]) -> None:
    found = set()
    for schema in v2["definitions"].values():
        for gvk in schema.get("x-kubernetes-group-version-kind", ()):
            found.add((gvk["group"], gvk["version"], gvk["kind"]))
    assert {(r.group, r.version, r.kind) for r in resources.ALL} <= found


def test_operation_ids_are_unique(v2: dict[str, Any]) -> None:
    ids = [op["operationId"] for item in v2["paths"].values() for key, op in item.items() if key != "parameters"]
    assert len(ids) == len(set(ids))
    assert {"listCoreV1NamespacedPod", "listCoreV1PodForAllNamespaces", "patchAppsV1NamespacedDeploymentScale"} <= set(ids)


def test_patches_say_what_they_take(v2: dict[str, Any]) -> None:
    patch = v2["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"]
    assert patch["x-kubernetes-group-version-kind"] == {"group": "apps", "version": "v1", "kind": "Deployment"}
    assert {"dryRun", "fieldManager", "fieldValidation", "force", "body"} == {p["name"] for p in patch["parameters"]}
    assert "application/apply-patch+yaml" in patch["consumes"]


def test_schemas_carry_merge_and_list_extensions(v2: dict[str, Any]) -> None:
    ports = v2["definitions"]["io.k8s.api.core.v1.Container"]["properties"]["ports"]
    assert ports["x-kubernetes-patch-merge-key"] == "containerPort"
    assert ports["x-kubernetes-list-map-keys"] == ["containerPort", "protocol"]
    strategy = v2["definitions"]["io.k8s.api.apps.v1.DeploymentSpec"]["properties"]["strategy"]
    assert strategy["x-kubernetes-patch-strategy"] == "retainKeys"
    assert v2["definitions"]["io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector"]["x-kubernetes-map-type"] == "atomic"


def test_v3_index_names_every_group_version_and_its_hash_is_stable() -> None:
    index = json.loads(openapi.v3_index())["paths"]
    assert set(index) == {openapi.v3_path(r.group, r.version) for r in resources.ALL}
    assert re.fullmatch(r"/openapi/v3/apis/apps/v1\?hash=[0-9A-F]{128}", index["apis/apps/v1"]["serverRelativeURL"])
    assert openapi.v3_index() == openapi.v3_index()
    assert openapi.v3_hash("apps", "v1") != openapi.v3_hash("apps", "v1", extra=b"crd")


def test_custom_resources_join_in() -> None:
    name = "com.example.v1.Widget"
    widget = Resource("example.com", "v1", "widgets", "Widget", True, resources.PODS.verbs, name, "widget")
    listed = {"type": "object", "properties": {"items": {"type": "array", "items": {"$ref": f"#/definitions/{name}"}}}}
    extra = [(name, {"type": "object"}), (f"{name}List", listed)]
    document = json.loads(openapi.build_v2([resources.PODS, widget], extra))
    assert document["definitions"][name] == {"type": "object"}
    assert "/apis/example.com/v1/namespaces/{namespace}/widgets/{name}" in document["paths"]
    assert _references(document) <= {f"#/definitions/{n}" for n in document["definitions"]}


def _fields(data: bytes) -> dict[int, list[Any]]:
    found: dict[int, list[Any]] = {}
    for number, _, value in wire.fields(data):
        found.setdefault(number, []).append(value)
    return found


def _named(data: bytes, number: int) -> dict[str, bytes]:
    pairs = [_fields(entry) for entry in _fields(data)[number]]
    return {pair[1][0].decode(): pair[2][0] for pair in pairs}


def test_the_protobuf_form_says_the_same(v2: dict[str, Any]) -> None:
    document = _fields(openapi.build_v2(protobuf=True))
    assert document[1] == [b"2.0"]
    schemas = _named(document[9][0], 1)
    assert set(schemas) == set(v2["definitions"])
    spec = _fields(schemas["io.k8s.api.apps.v1.DeploymentSpec"])
    assert sorted(name.decode() for name in spec[19]) == ["selector", "template"]
    properties = _named(spec[25][0], 1)
    assert set(properties) == set(v2["definitions"]["io.k8s.api.apps.v1.DeploymentSpec"]["properties"])
    replicas = _fields(properties["replicas"])
    assert replicas[2] == [b"int32"] and _fields(replicas[22][0])[1] == [b"integer"]
    extensions = _named(properties["strategy"], 31)
    assert _fields(extensions["x-kubernetes-patch-strategy"])[2] == [b'"retainKeys"\n']
    paths = _named(document[8][0], 2)
    assert set(paths) == set(v2["paths"])
    patch = _fields(_fields(paths["/api/v1/namespaces/{namespace}/pods/{name}"])[8][0])
    parameters = [_fields(_fields(item)[1][0]) for item in patch[8]]
    names = {_fields(_fields(p[2][0])[3][0])[4][0] for p in parameters if 2 in p}
    assert {b"dryRun", b"fieldManager", b"fieldValidation", b"force"} == names
