"""CustomResourceDefinitions: served before their writer is answered, gone with everything they held."""

from __future__ import annotations

import copy
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from k3sd.apimachinery.errors import StatusError
from k3sd.apimachinery.resource import Resource
from k3sd.apis import columns, resources
from k3sd.apiserver.options import ListOptions
from k3sd.apiserver.request import LOOPBACK, RequestContext
from tests.component.apiserver.conftest import Http
from tests.support import kubectl
from tests.support.apiserver import TestServer, run_server, until

BASE = "/apis/example.com/v1/namespaces/default/widgets"
CRD: dict[str, Any] = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "widgets.example.com"},
    "spec": {
        "group": "example.com",
        "scope": "Namespaced",
        "names": {"plural": "widgets", "kind": "Widget", "shortNames": ["wd"]},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "subresources": {
                    "status": {},
                    "scale": {"specReplicasPath": ".spec.size", "statusReplicasPath": ".status.size"},
                },
                "selectableFields": [{"jsonPath": ".spec.color"}],
                "additionalPrinterColumns": [{"name": "Size", "type": "integer", "jsonPath": ".spec.size"}],
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            "spec": {
                                "type": "object",
                                "required": ["size"],
                                "properties": {
                                    "size": {"type": "integer", "minimum": 1},
                                    "color": {"type": "string", "default": "red"},
                                },
                            },
                            "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                        },
                    }
                },
            },
            {
                "name": "v1beta1",
                "served": True,
                "storage": False,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
            },
        ],
    },
}


def widget(name: str = "a", **spec: Any) -> dict[str, Any]:
    return {"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": name}, "spec": {"size": 1, **spec}}


@pytest.fixture
async def crd(server: TestServer) -> dict[str, Any]:
    return await server.registry.client().create(resources.CUSTOMRESOURCEDEFINITIONS, copy.deepcopy(CRD))


async def test_a_definition_is_served_at_once(crd: dict[str, Any], http: Http) -> None:
    assert {c["type"]: c["status"] for c in crd["status"]["conditions"]} == {"NamesAccepted": "True", "Established": "True"}
    status, _, created = await http("POST", BASE, widget(bogus=1))
    assert status == 201 and created["spec"] == {"size": 1, "color": "red"}
    _, _, listed = await http("GET", "/apis/example.com/v1")
    assert [r["name"] for r in listed["resources"]] == ["widgets", "widgets/scale", "widgets/status"]
    _, _, group = await http("GET", "/apis/example.com")
    assert group["preferredVersion"]["version"] == "v1"
    _, _, openapi = await http("GET", "/openapi/v3/apis/example.com/v1")
    assert "com.example.v1.Widget" in openapi["components"]["schemas"]
    assert "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta" in openapi["components"]["schemas"]


async def test_objects_are_held_to_their_schema(crd: dict[str, Any], http: Http) -> None:
    status, _, answer = await http("POST", BASE, widget(size=0))
    assert status == 422
    assert answer["message"] == (
        'Widget.example.com "a" is invalid: spec.size: Invalid value: 0: spec.size in body should be greater than or equal to 1'
    )
    status, _, answer = await http("POST", f"{BASE}?fieldValidation=Strict", widget(bogus=1))
    assert status == 400 and answer["message"].endswith('strict decoding error: unknown field "spec.bogus"')
    await http("POST", BASE, widget())
    media = {"Content-Type": "application/strategic-merge-patch+json"}
    status, _, answer = await http("PATCH", f"{BASE}/a", {"spec": {"size": 2}}, headers=media)
    assert status == 415 and "application/merge-patch+json" in answer["message"]


async def test_status_is_apart_and_generation_counts_the_spec(crd: dict[str, Any], http: Http) -> None:
    await http("POST", BASE, {**widget(), "status": {"x": 1}})
    media = {"Content-Type": "application/merge-patch+json"}
    _, _, patched = await http("PATCH", f"{BASE}/a/status", {"status": {"x": 2}, "spec": {"size": 9}}, headers=media)
    assert patched["status"] == {"x": 2} and patched["spec"]["size"] == 1 and patched["metadata"]["generation"] == 1
    _, _, patched = await http("PATCH", f"{BASE}/a", {"spec": {"size": 9}, "status": {"x": 3}}, headers=media)
    assert patched["status"] == {"x": 2} and patched["metadata"]["generation"] == 2


async def test_versions_tables_and_field_selectors(crd: dict[str, Any], http: Http) -> None:
    await http("POST", BASE, widget("a"))
    await http("POST", BASE, widget("b", color="blue", size=7))
    _, _, other = await http("GET", f"{BASE.replace('/v1/', '/v1beta1/')}/a")
    assert other["apiVersion"] == "example.com/v1beta1" and other["spec"]["size"] == 1
    _, _, found = await http("GET", f"{BASE}?fieldSelector=spec.color%3Dblue")
    assert [o["metadata"]["name"] for o in found["items"]] == ["b"]
    accept = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io"}
    _, _, table = await http("GET", BASE, headers=accept)
    assert [c["name"] for c in table["columnDefinitions"]] == ["Name", "Size"]
    assert [row["cells"] for row in table["rows"]] == [["a", 1], ["b", 7]]


async def test_scale_goes_through_the_paths(crd: dict[str, Any], http: Http) -> None:
    await http("POST", BASE, widget(size=2))
    _, _, scale = await http("GET", f"{BASE}/a/scale")
    assert scale["kind"] == "Scale" and scale["spec"] == {"replicas": 2} and scale["status"] == {"replicas": 0}
    media = {"Content-Type": "application/merge-patch+json"}
    status, _, scale = await http("PATCH", f"{BASE}/a/scale", {"spec": {"replicas": 5}}, headers=media)
    assert status == 200 and scale["spec"] == {"replicas": 5}
    _, _, obj = await http("GET", f"{BASE}/a")
    assert obj["spec"]["size"] == 5


async def test_a_changed_schema_holds_at_once(server: TestServer, crd: dict[str, Any], http: Http) -> None:
    changed = copy.deepcopy(crd)
    schema = changed["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    schema["properties"]["spec"]["properties"]["extra"] = {"type": "string"}
    await server.registry.client().update(resources.CUSTOMRESOURCEDEFINITIONS, changed)
    _, _, created = await http("POST", BASE, widget(extra="x"))
    assert created["spec"]["extra"] == "x"


async def test_defaults_of_a_grown_schema_are_read_from_storage(server: TestServer, crd: dict[str, Any], http: Http) -> None:
    client = server.registry.client()
    _, _, stored = await http("POST", BASE, widget("a", color="blue"))
    row = server.registry.served.find("example.com", "v1", "widgets")
    assert row is not None
    changed = copy.deepcopy(crd)
    properties = changed["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    properties["extra"] = {"type": "string", "default": "new"}
    del properties["color"]
    await client.update(resources.CUSTOMRESOURCEDEFINITIONS, changed)
    expected = {**stored, "spec": {"size": 1, "extra": "new"}}
    for _ in range(3):  # the connection's short way included
        assert (await http("GET", f"{BASE}/a"))[2] == expected
        assert (await http("GET", BASE))[2]["items"] == [expected]
    assert (await http("GET", f"{BASE}?labelSelector=!none"))[2]["items"] == [expected]
    watch = await server.registry.watch(
        RequestContext(LOOPBACK, "watch", row, namespace="default"), ListOptions.from_query({"resourceVersion": ""}, True)
    )
    assert [(t, item.obj) for t, item in await watch.next()] == [("ADDED", expected)]
    await client.patch(row, "a", {"metadata": {"labels": {"x": "y"}}}, "default")
    ((change, item),) = await watch.next()
    assert change == "MODIFIED" and item.obj["spec"] == {"size": 1, "extra": "new"}
    watch.close()
    entry = server.registry.endpoint(row).cache.list()[0]
    assert b'"extra":"new"' in entry.raw, "a write stores what was read"
    _, _, created = await http("POST", BASE, widget("b"))
    item = server.registry.get(RequestContext(LOOPBACK, "get", row, namespace="default", name="b"))
    assert item.obj == created
    assert item is server.registry.endpoint(row).cache.get("/registry/example.com/widgets/default/b"), "bytes that fit stay"


async def test_what_another_storage_version_left_is_served_in_this_one(
    server: TestServer, crd: dict[str, Any], http: Http
) -> None:
    await http("POST", BASE, widget("a"))
    changed = copy.deepcopy(crd)
    for version in changed["spec"]["versions"]:
        version["storage"] = not version["storage"]
    await server.registry.client().update(resources.CUSTOMRESOURCEDEFINITIONS, changed)
    for version in ("v1", "v1beta1"):
        _, _, listed = await http("GET", f"/apis/example.com/{version}/widgets")
        assert [i["apiVersion"] for i in listed["items"]] == [f"example.com/{version}"]
    await http("POST", BASE, widget("b"))
    row = server.registry.served.find("example.com", "v1", "widgets")
    assert row is not None
    stored = [json.loads(e.raw)["apiVersion"] for e in server.registry.endpoint(row).cache.list()]
    assert stored == ["example.com/v1", "example.com/v1beta1"]


async def test_rules_of_the_schema(server: TestServer, crd: dict[str, Any], http: Http) -> None:
    changed = copy.deepcopy(crd)
    spec = changed["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    spec["x-kubernetes-validations"] = [{"rule": "self.nope > 1"}]
    with pytest.raises(StatusError, match="compilation failed: ERROR: <input>:1:1: undefined field 'nope'"):
        await server.registry.client().update(resources.CUSTOMRESOURCEDEFINITIONS, copy.deepcopy(changed))
    spec["x-kubernetes-validations"] = [
        {"rule": "self.size < 5", "message": "too large"},
        {"rule": "self.color == oldSelf.color", "message": "color is immutable", "fieldPath": ".color"},
    ]
    await server.registry.client().update(resources.CUSTOMRESOURCEDEFINITIONS, changed)
    status, _, answer = await http("POST", BASE, widget(size=5))
    assert status == 422 and answer["message"].endswith('is invalid: spec: Invalid value: "object": too large')
    _, _, obj = await http("POST", BASE, widget())
    obj["spec"]["color"] = "blue"
    status, _, answer = await http("PUT", f"{BASE}/a", obj)
    assert status == 422 and answer["message"].endswith('spec.color: Invalid value: "object": color is immutable')


async def test_deleting_a_definition_deletes_its_objects(server: TestServer, crd: dict[str, Any], http: Http) -> None:
    client = server.registry.client()
    held = widget("held")
    held["metadata"]["finalizers"] = ["example.com/hold"]
    await http("POST", BASE, widget("a"))
    await http("POST", BASE, held)
    await client.delete(resources.CUSTOMRESOURCEDEFINITIONS, "widgets.example.com")
    row = server.registry.served.find("example.com", "v1", "widgets")
    assert row is not None
    await until(server.registry, row, lambda: server.registry.read(row, "a", "default") is None)
    assert (await http("GET", f"{BASE}/held"))[0] == 200
    media = {"Content-Type": "application/merge-patch+json"}
    await http("PATCH", f"{BASE}/held", {"metadata": {"finalizers": None}}, headers=media)
    definitions = resources.CUSTOMRESOURCEDEFINITIONS
    await until(server.registry, definitions, lambda: server.registry.read(definitions, "widgets.example.com") is None)
    assert server.registry.served.find("example.com", "v1", "widgets") is None
    with pytest.raises(StatusError) as caught:
        await client.get(resources.CUSTOMRESOURCEDEFINITIONS, "widgets.example.com")
    assert caught.value.code == 404
    assert (await http("GET", f"{BASE}/held"))[0] == 404
    assert [c["name"] for c in columns.table_columns(row)] == ["Name", "Created At"]


async def test_a_callers_own_row_leads_to_the_served_one(server: TestServer, crd: dict[str, Any], http: Http) -> None:
    await http("POST", BASE, widget())
    own = Resource("example.com", "v1", "widgets", "Widget", True, (), "")
    found = await server.registry.client().list(own)
    assert [o["metadata"]["name"] for o in found.items] == ["a"]


@pytest.mark.parametrize("program", kubectl.find(), ids=kubectl.name)
async def test_kubectl_treats_them_like_its_own(server: TestServer, crd: dict[str, Any], program: str) -> None:
    async def run(*args: str, body: Any = None) -> str:
        _, out, _ = await server.kubectl(*args, stdin=json.dumps(body) if body else "", program=program)
        return out

    assert await run("apply", "-f", "-", body=widget()) == "widget.example.com/a created\n"
    assert await run("apply", "-f", "-", body=widget(size=2)) == "widget.example.com/a configured\n"
    assert await run("apply", "-f", "-", body=widget(size=2)) == "widget.example.com/a unchanged\n"
    assert (await run("get", "wd")).split() == ["NAME", "SIZE", "a", "2"]
    assert "size" in await run("explain", "widgets.spec")
    assert await run("scale", "widget", "a", "--replicas=4") == "widget.example.com/a scaled\n"
    assert await run("get", "widget", "a", "-o", "jsonpath={.spec.size}") == "4"
    await run("delete", "crd", "widgets.example.com")


@pytest.fixture
async def folder(tmp_path: Path) -> AsyncIterator[Path]:
    yield tmp_path


async def test_definitions_are_served_again_after_a_restart(folder: Path) -> None:
    async with run_server(folder, "sqlite") as first:
        client = first.registry.client()
        await client.create(resources.CUSTOMRESOURCEDEFINITIONS, copy.deepcopy(CRD))
        row = first.registry.served.find("example.com", "v1", "widgets")
        assert row is not None
        await client.create(row, widget(), "default")
    async with run_server(folder, "sqlite") as second:
        row = second.registry.served.find("example.com", "v1", "widgets")
        assert row is not None
        assert (await second.registry.client().get(row, "a", "default"))["spec"] == {"size": 1, "color": "red"}
