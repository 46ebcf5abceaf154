"""MutatingAdmissionPolicy on the registry: merges, JSON patches, variables, parameters, failures, reinvocation."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from k3sd.apimachinery.errors import StatusError
from k3sd.apis import resources as r
from k3sd.apiserver.startup import make_namespaces
from k3sd.client.inprocess import InProcessClient
from k3sd.config.settings import Settings
from tests.support.apiserver import open_registry

RULES = [
    {
        "operations": ["CREATE", "UPDATE"],
        "apiGroups": ["", "apps"],
        "apiVersions": ["v1"],
        "resources": ["configmaps", "deployments"],
    }
]


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[InProcessClient]:
    async with open_registry(Settings(data_dir=str(tmp_path))) as registry:
        await make_namespaces(registry)
        yield registry.client()


def merging(expression: str) -> dict[str, Any]:
    return {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}}


def patching(expression: str) -> dict[str, Any]:
    return {"patchType": "JSONPatch", "jsonPatch": {"expression": expression}}


async def policy(
    client: InProcessClient, *mutations: dict[str, Any], name: str = "p", binding: dict[str, Any] | None = None, **spec: Any
) -> None:
    spec = {
        "matchConstraints": {"resourceRules": RULES},
        "mutations": list(mutations),
        "reinvocationPolicy": "Never",
        "failurePolicy": "Fail",
        **spec,
    }
    await client.create(r.MUTATINGADMISSIONPOLICIES, {"metadata": {"name": name}, "spec": spec})
    bound = {"policyName": name, **(binding or {})}
    await client.create(r.MUTATINGADMISSIONPOLICYBINDINGS, {"metadata": {"name": name}, "spec": bound})


async def make(client: InProcessClient, data: dict[str, str], name: str = "c") -> Any:
    return await client.create(r.CONFIGMAPS, {"metadata": {"name": name}, "data": data}, "default")


async def test_configuration_is_merged(client: InProcessClient) -> None:
    await policy(client, merging("Object{metadata: Object.metadata{labels: {'a': 'b'}}, data: {'added': object.data.x + '!'}}"))
    made = await make(client, {"x": "1"})
    assert made["data"] == {"x": "1", "added": "1!"} and made["metadata"]["labels"] == {"a": "b"}
    assert (await client.get(r.CONFIGMAPS, "c", "default"))["data"] == made["data"]


async def test_deployment(client: InProcessClient) -> None:
    await policy(
        client,
        merging(
            "Object{spec: Object.spec{replicas: 1337, template: Object.spec.template{spec: Object.spec.template.spec{"
            "containers: object.spec.template.spec.containers.map(c, "
            "Object.spec.template.spec.containers{name: c.name, imagePullPolicy: 'Never'})}}}}"
        ),
    )
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "one", "image": "i"}]}}
    spec = {"selector": {"matchLabels": {"a": "b"}}, "template": template}
    made = await client.create(r.DEPLOYMENTS, {"metadata": {"name": "d"}, "spec": spec}, "default")
    assert made["spec"]["replicas"] == 1337
    (container,) = made["spec"]["template"]["spec"]["containers"]
    assert container["imagePullPolicy"] == "Never" and container["image"] == "i"


async def test_json_patch_with_variables_and_conditions(client: InProcessClient) -> None:
    await policy(
        client,
        patching(
            "[JSONPatch{op: 'test', path: '/data/x', value: '1'}, JSONPatch{op: 'add', path: '/metadata/labels', "
            "value: {'n': 'm'}}, JSONPatch{op: 'add', path: variables.path, value: '2'}]"
        ),
        variables=[{"name": "path", "expression": "'/metadata/labels/' + jsonpatch.escapeKey('a/b')"}],
        matchConditions=[{"name": "named", "expression": "object.metadata.name != 'other'"}],
    )
    assert (await make(client, {"x": "1"}))["metadata"]["labels"] == {"n": "m", "a/b": "2"}
    assert "labels" not in (await make(client, {"x": "1"}, "other"))["metadata"]
    with pytest.raises(
        StatusError, match=r"MutatingAdmissionPolicy 'p' with binding 'p' denied request: JSON Patch: .*/data/x"
    ):
        await make(client, {"x": "9"}, "fails")


async def test_parameters(client: InProcessClient) -> None:
    await make(client, {"value": "v"}, "param")
    await policy(
        client,
        merging("Object{data: {'p': params.data.value}}"),
        paramKind={"apiVersion": "v1", "kind": "ConfigMap"},
        binding={"paramRef": {"name": "param", "namespace": "default", "parameterNotFoundAction": "Deny"}},
    )
    assert (await make(client, {}))["data"] == {"p": "v"}


@pytest.mark.parametrize("failure_policy", ["Fail", "Ignore"])
async def test_errors_follow_the_failure_policy(client: InProcessClient, failure_policy: str) -> None:
    await policy(client, merging("Object{data: {'p': object.nope}}"), failurePolicy=failure_policy)
    if failure_policy == "Ignore":
        assert (await make(client, {"x": "1"}))["data"] == {"x": "1"}
    else:
        with pytest.raises(StatusError, match="resulted in error: no such key: nope"):
            await make(client, {"x": "1"})


async def test_what_is_owned_as_a_whole_cannot_be_merged(client: InProcessClient) -> None:
    await policy(client, merging("Object{spec: Object.spec{selector: Object.spec.selector{matchLabels: {'x': 'y'}}}}"))
    spec = {
        "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "one", "image": "i"}]}},
    }
    with pytest.raises(StatusError, match=r"may not mutate atomic arrays, maps or structs: \.spec\.selector"):
        await client.create(r.DEPLOYMENTS, {"metadata": {"name": "d"}, "spec": spec}, "default")


@pytest.mark.parametrize(("reinvocation", "seen"), [("Never", "1"), ("IfNeeded", "2")])
async def test_reinvocation(client: InProcessClient, reinvocation: str, seen: str) -> None:
    count = "[JSONPatch{op: 'add', path: '/data/seen', value: string(size(object.data.filter(k, k != 'seen')))}]"
    await policy(client, patching(count), name="a", reinvocationPolicy=reinvocation)
    await policy(client, merging("Object{data: {'added': 'x'}}"), name="b")
    assert (await make(client, {"x": "1"}))["data"] == {"x": "1", "added": "x", "seen": seen}


async def test_expressions_are_compiled_when_written(client: InProcessClient) -> None:
    with pytest.raises(StatusError, match="compilation failed: ERROR: <input>:1:1: undeclared reference to 'nope'"):
        await policy(client, merging("Object{data: nope}"))
