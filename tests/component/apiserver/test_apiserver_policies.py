"""ValidatingAdmissionPolicy on the registry: matching, messages, parameters, actions."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from k3sd.apimachinery.errors import StatusError
from k3sd.apis import resources as r
from k3sd.apiserver.request import LOOPBACK, RequestContext
from k3sd.apiserver.startup import make_namespaces
from k3sd.client.inprocess import InProcessClient
from k3sd.config.settings import Settings
from tests.support.apiserver import open_registry

RULES = [{"operations": ["CREATE", "UPDATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}]


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[InProcessClient]:
    async with open_registry(Settings(data_dir=str(tmp_path))) as registry:
        await make_namespaces(registry)
        yield registry.client()


async def policy(
    client: InProcessClient, *validations: dict[str, Any], binding: dict[str, Any] | None = None, **spec: Any
) -> None:
    spec = {"matchConstraints": {"resourceRules": RULES}, "validations": list(validations), **spec}
    await client.create(r.VALIDATINGADMISSIONPOLICIES, {"metadata": {"name": "p"}, "spec": spec})
    bound = {"policyName": "p", "validationActions": ["Deny"], **(binding or {})}
    await client.create(r.VALIDATINGADMISSIONPOLICYBINDINGS, {"metadata": {"name": "b"}, "spec": bound})


async def make(client: InProcessClient, data: dict[str, str], name: str = "c", namespace: str = "default") -> Any:
    return await client.create(r.CONFIGMAPS, {"metadata": {"name": name}, "data": data}, namespace)


async def test_denial(client: InProcessClient) -> None:
    await policy(client, {"expression": "object.data.size() <= 1"})
    await make(client, {"a": "1"}, "fine")
    with pytest.raises(StatusError) as caught:
        await make(client, {"a": "1", "b": "2"})
    assert caught.value.message == (
        "configmaps \"c\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: failed expression: "
        "object.data.size() <= 1"
    )
    assert (caught.value.code, caught.value.reason) == (422, "Invalid")


@pytest.mark.parametrize(
    ("item", "message", "code"),
    [
        ({"message": "too big", "reason": "Forbidden"}, "too big", 403),
        ({"messageExpression": "'name ' + object.metadata.name", "message": "fixed"}, "name c", 422),
        ({"messageExpression": "object.nope", "message": "fixed"}, "fixed", 422),
        ({"messageExpression": "''"}, "failed expression: false", 422),
    ],
)
async def test_messages(client: InProcessClient, item: dict[str, Any], message: str, code: int) -> None:
    await policy(client, {"expression": "false", **item})
    with pytest.raises(StatusError) as caught:
        await make(client, {})
    assert caught.value.message.endswith(f"denied request: {message}")
    assert caught.value.code == code


@pytest.mark.parametrize("failure_policy", ["Fail", "Ignore"])
async def test_errors_follow_the_failure_policy(client: InProcessClient, failure_policy: str) -> None:
    await policy(client, {"expression": "object.nope == 1"}, failurePolicy=failure_policy)
    if failure_policy == "Ignore":
        await make(client, {})
    else:
        with pytest.raises(StatusError, match="resulted in error: no such key: nope"):
            await make(client, {})


async def test_variables_and_conditions(client: InProcessClient) -> None:
    await policy(
        client,
        {"expression": "variables.twice == 4"},
        variables=[
            {"name": "count", "expression": "size(object.data)"},
            {"name": "twice", "expression": "variables.count * 2"},
        ],
        matchConditions=[{"name": "not-exempt", "expression": "!object.metadata.name.startsWith('exempt')"}],
    )
    await make(client, {"a": "1", "b": "2"})
    await make(client, {}, "exempt-1")
    with pytest.raises(StatusError, match="failed expression"):
        await make(client, {"a": "1"}, "d")


async def test_parameters(client: InProcessClient) -> None:
    await make(client, {"max": "1"}, "limits")
    await policy(
        client,
        {"expression": "size(object.data) <= int(params.data.max)"},
        paramKind={"apiVersion": "v1", "kind": "ConfigMap"},
        binding={"paramRef": {"name": "limits", "namespace": "default", "parameterNotFoundAction": "Deny"}},
    )
    await make(client, {"a": "1"}, "one")
    with pytest.raises(StatusError, match="denied request"):
        await make(client, {"a": "1", "b": "2"}, "two")
    await client.delete(r.CONFIGMAPS, "limits", "default")
    with pytest.raises(StatusError, match="no params found for policy binding with `Deny`"):
        await make(client, {"a": "1"}, "three")


async def test_binding_selects_namespaces(client: InProcessClient) -> None:
    selector = {"matchLabels": {"kubernetes.io/metadata.name": "kube-public"}}
    await policy(client, {"expression": "false"}, binding={"matchResources": {"namespaceSelector": selector}})
    await make(client, {})
    with pytest.raises(StatusError, match="denied request"):
        await make(client, {}, namespace="kube-public")


async def test_warn_lets_pass(client: InProcessClient) -> None:
    await policy(client, {"expression": "false", "message": "mind"}, binding={"validationActions": ["Warn"]})
    ctx = RequestContext(LOOPBACK, "create", r.CONFIGMAPS, namespace="default", name="c")
    await client._registry.create(ctx, {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "c"}})
    assert ctx.warnings == ["Validation failed for ValidatingAdmissionPolicy 'p' with binding 'b': mind"]


async def test_old_object_and_end_of_a_binding(client: InProcessClient) -> None:
    await policy(client, {"expression": "oldObject == null || oldObject.data == object.data"})
    made = await make(client, {"a": "1"})
    changed = {**made, "metadata": {"name": "c", "namespace": "default"}, "data": {"a": "2"}}
    with pytest.raises(StatusError, match="denied request"):
        await client.update(r.CONFIGMAPS, dict(changed))
    await client.delete(r.VALIDATINGADMISSIONPOLICYBINDINGS, "b")
    await client.update(r.CONFIGMAPS, dict(changed))


@pytest.mark.parametrize("expression", ["object.", "nope == 1", "params.x == 1", "object.nope("])
async def test_expressions_are_compiled_when_written(client: InProcessClient, expression: str) -> None:
    with pytest.raises(StatusError, match="compilation failed"):
        await policy(client, {"expression": expression})
