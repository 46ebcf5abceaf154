from __future__ import annotations

import pytest

from k3sd.apimachinery.errors import StatusError
from k3sd.apis import resources
from k3sd.controllers.namespace import NamespaceController, Remaining, build_conditions
from tests.fakes.harness import Harness


def conditions(namespace: dict) -> dict[str, tuple[str, str]]:
    return {c["type"]: (c["status"], c["message"]) for c in namespace["status"]["conditions"]}


async def terminating(h: Harness, finalizer: bool) -> dict:
    namespace = await h.create(resources.NAMESPACES, {"metadata": {"name": "shop"}})
    metadata = {"name": "web", "namespace": "shop"}
    if finalizer:
        metadata["finalizers"] = ["example.com/hold"]
    await h.create(resources.PODS, {"metadata": metadata, "spec": {}})
    await h.create(resources.CONFIGMAPS, {"metadata": {"name": "settings", "namespace": "shop"}})
    await h.create(resources.CONFIGMAPS, {"metadata": {"name": "settings", "namespace": "other"}})
    await h.delete(resources.NAMESPACES, namespace)
    return namespace


async def test_an_ordinary_namespace_is_gone_at_once_and_nothing_else():
    async with Harness(NamespaceController) as h:
        await terminating(h, finalizer=False)
        await h.settle(0.1)
        assert h.all(resources.NAMESPACES) == []
        assert h.all(resources.PODS) == []
        assert [c["metadata"]["namespace"] for c in h.all(resources.CONFIGMAPS)] == ["other"]


async def test_pods_go_first_and_conditions_say_what_is_left():
    async with Harness(NamespaceController) as h:
        await terminating(h, finalizer=True)
        await h.settle(60)
        assert len(h.all(resources.CONFIGMAPS, "shop")) == 1
        namespace = h.only(resources.NAMESPACES)
        assert namespace["status"]["phase"] == "Terminating"
        found = conditions(namespace)
        assert found["NamespaceContentRemaining"] == ("True", "Some resources are remaining: pods. has 1 resource instances")
        assert found["NamespaceFinalizersRemaining"] == (
            "True",
            "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances",
        )
        assert found["NamespaceDeletionDiscoveryFailure"][0] == "False"
        await h.patch(resources.PODS, h.only(resources.PODS), {"metadata": {"finalizers": None}})
        await h.settle(1)
        assert h.all(resources.NAMESPACES) == [] and h.all(resources.CONFIGMAPS, "shop") == []


async def test_a_kind_that_cannot_be_deleted_is_reported_and_retried():
    async with Harness(NamespaceController) as h:
        broken = True
        original = h.client.delete_collection

        async def delete_collection(resource, *args, **kwargs):
            if broken and resource is resources.CONFIGMAPS:
                raise StatusError(500, "InternalError", "disk on fire")
            return await original(resource, *args, **kwargs)

        h.client.delete_collection = delete_collection  # type: ignore[method-assign]
        await terminating(h, finalizer=False)
        await h.settle(5)
        status, message = conditions(h.only(resources.NAMESPACES))["NamespaceDeletionContentFailure"]
        assert status == "True" and "disk on fire" in message
        broken = False
        await h.settle(10)
        assert h.all(resources.NAMESPACES) == []


async def test_a_foreign_spec_finalizer_keeps_the_empty_namespace():
    async with Harness(NamespaceController) as h:
        metadata = {"name": "held"}
        namespace = await h.create(
            resources.NAMESPACES, {"metadata": metadata, "spec": {"finalizers": ["kubernetes", "example.com/x"]}}
        )
        await h.delete(resources.NAMESPACES, namespace)
        await h.settle(5)
        assert h.only(resources.NAMESPACES)["spec"]["finalizers"] == ["example.com/x"]


@pytest.mark.parametrize(
    ("remaining", "true"),
    [
        (Remaining(), []),
        (Remaining(errors=["x"]), ["NamespaceDeletionContentFailure"]),
        (Remaining({"pods.": 1}), ["NamespaceContentRemaining"]),
        (Remaining({"pods.": 1}, {"f": 1}), ["NamespaceContentRemaining", "NamespaceFinalizersRemaining"]),
    ],
)
def test_build_conditions(remaining: Remaining, true: list[str]):
    built = build_conditions(remaining)
    assert len(built) == 5
    assert [c["type"] for c in built if c["status"] == "True"] == true
