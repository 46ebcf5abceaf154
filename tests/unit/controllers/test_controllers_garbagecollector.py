from __future__ import annotations

from typing import Any

import pytest

from k3sd.apimachinery.errors import Obj
from k3sd.apimachinery.resource import Resource
from k3sd.apis import resources
from k3sd.controllers.garbagecollector import GarbageCollector
from tests.fakes.harness import Harness


def reference(owner: Obj, block: bool = True, **changes: Any) -> Obj:
    metadata = owner["metadata"]
    out = {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": metadata["name"],
        "uid": metadata["uid"],
        "blockOwnerDeletion": block,
    }
    return {**out, **changes}


async def make(h: Harness, resource: Resource, name: str, *owners: Obj, **metadata: Any) -> Obj:
    meta: Obj = {"name": name, "ownerReferences": list(owners), **metadata}
    if not owners:
        del meta["ownerReferences"]
    if resource.namespaced:
        meta["namespace"] = "shop"
    return await h.create(resource, {"metadata": meta, "spec": {}})


def names(h: Harness, *which: Resource) -> list[str]:
    return [o["metadata"]["name"] for r in which for o in h.all(r)]


async def family(h: Harness) -> tuple[Obj, Obj, Obj]:
    """A deployment, its set, its pod."""
    grand = await make(h, resources.DEPLOYMENTS, "d")
    parent = await make(h, resources.REPLICASETS, "rs", reference(grand))
    child = await make(h, resources.PODS, "p", reference(parent))
    await h.settle()
    return grand, parent, child


async def test_background_deletes_what_is_left_behind():
    async with Harness(GarbageCollector) as h:
        grand, _, _ = await family(h)
        assert names(h, resources.REPLICASETS, resources.PODS) == ["rs", "p"]
        await h.delete(resources.DEPLOYMENTS, grand, propagation_policy="Background")
        await h.settle(5)
        assert names(h, resources.DEPLOYMENTS, resources.REPLICASETS, resources.PODS) == []
        gc = h.controllers[0]
        assert isinstance(gc, GarbageCollector) and gc.graph.nodes == {}


async def test_foreground_keeps_the_owner_until_its_dependents_are_gone():
    async with Harness(GarbageCollector) as h:
        grand, _, child = await family(h)
        await h.patch(resources.PODS, child, {"metadata": {"finalizers": ["x/hold"]}})
        await h.delete(resources.DEPLOYMENTS, grand, propagation_policy="Foreground")
        await h.settle(30)
        assert names(h, resources.DEPLOYMENTS, resources.REPLICASETS, resources.PODS) == ["d", "rs", "p"]
        assert all(o["metadata"]["deletionTimestamp"] for r in (resources.REPLICASETS, resources.PODS) for o in h.all(r))
        await h.patch(resources.PODS, child, {"metadata": {"finalizers": None}})
        await h.settle(5)
        assert names(h, resources.DEPLOYMENTS, resources.REPLICASETS, resources.PODS) == []


async def test_orphan_sets_dependents_free():
    async with Harness(GarbageCollector) as h:
        grand, _, _ = await family(h)
        await h.delete(resources.DEPLOYMENTS, grand, propagation_policy="Orphan")
        await h.settle(60)
        assert names(h, resources.DEPLOYMENTS) == []
        assert "ownerReferences" not in h.only(resources.REPLICASETS)["metadata"]
        assert names(h, resources.PODS) == ["p"]


async def test_a_dependent_that_does_not_block_is_not_waited_for():
    async with Harness(GarbageCollector) as h:
        owner = await make(h, resources.REPLICASETS, "rs")
        await make(h, resources.PODS, "p", reference(owner, block=False), finalizers=["x/hold"])
        await h.settle()
        await h.delete(resources.REPLICASETS, owner, propagation_policy="Foreground")
        await h.settle(5)
        assert names(h, resources.REPLICASETS) == []
        assert h.only(resources.PODS)["metadata"]["deletionTimestamp"]


async def test_a_second_owner_keeps_the_object():
    async with Harness(GarbageCollector) as h:
        one = await make(h, resources.REPLICATIONCONTROLLERS, "one")
        two = await make(h, resources.REPLICATIONCONTROLLERS, "two")
        await make(h, resources.PODS, "p", reference(one), reference(two))
        await h.settle()
        await h.delete(resources.REPLICATIONCONTROLLERS, one, propagation_policy="Foreground")
        await h.settle(5)
        assert names(h, resources.REPLICATIONCONTROLLERS) == ["two"]
        assert [r["name"] for r in h.only(resources.PODS)["metadata"]["ownerReferences"]] == ["two"]


async def test_a_circle_blocks_nobody():
    async with Harness(GarbageCollector) as h:
        a = await make(h, resources.PODS, "a")
        b = await make(h, resources.PODS, "b", reference(a))
        c = await make(h, resources.PODS, "c", reference(b))
        await h.patch(resources.PODS, a, {"metadata": {"ownerReferences": [reference(c)]}})
        await h.settle()
        await h.delete(resources.PODS, a, propagation_policy="Foreground")
        await h.settle(30)
        assert names(h, resources.PODS) == []


@pytest.mark.parametrize("change", [{"uid": "never-was"}, {"name": "other"}], ids=["uid of a predecessor", "no such name"])
async def test_an_owner_that_never_was_is_absent(change: dict[str, str]):
    async with Harness(GarbageCollector) as h:
        owner = await make(h, resources.CONFIGMAPS, "owner")
        await make(h, resources.CONFIGMAPS, "dependent", reference(owner, **change))
        await h.settle(5)
        assert names(h, resources.CONFIGMAPS) == ["owner"]


async def test_an_unserved_owner_kind_and_a_namespaced_owner_of_a_cluster_object_delete_nothing():
    async with Harness(GarbageCollector) as h:
        owner = await make(h, resources.CONFIGMAPS, "owner")
        await make(h, resources.CONFIGMAPS, "a", reference(owner, apiVersion="example.com/v1", kind="Widget"))
        await make(h, resources.CLUSTERROLES, "b", reference(owner))
        await h.delete(resources.CONFIGMAPS, owner)
        await h.settle(60)
        assert names(h, resources.CONFIGMAPS, resources.CLUSTERROLES) == ["a", "b"]
        assert [e["reason"] for e in h.all(resources.EVENTS)] == ["OwnerRefInvalidNamespace"]


async def test_owners_deleted_before_the_collector_started_are_noticed():
    h = Harness(GarbageCollector)
    owner = await make(h, resources.REPLICASETS, "rs")
    await make(h, resources.PODS, "p", reference(owner))
    await h.delete(resources.REPLICASETS, owner)
    async with h:
        await h.settle(5)
        assert names(h, resources.PODS) == []


async def test_custom_resources_take_part_once_their_definition_is_established():
    async with Harness(GarbageCollector) as h:
        definition = await h.create(
            resources.CUSTOMRESOURCEDEFINITIONS,
            {
                "metadata": {"name": "widgets.example.com"},
                "spec": {
                    "group": "example.com",
                    "scope": "Namespaced",
                    "names": {"plural": "widgets", "kind": "Widget"},
                    "versions": [{"name": "v1", "served": True, "storage": True}],
                },
            },
        )
        await h.status(resources.CUSTOMRESOURCEDEFINITIONS, definition, conditions=[{"type": "Established", "status": "True"}])
        await h.settle()
        gc = h.controllers[0]
        assert isinstance(gc, GarbageCollector)
        widgets = gc.catalog.by_kind("example.com/v1", "Widget")
        assert widgets is not None
        owner = await make(h, widgets, "w")
        await make(h, resources.CONFIGMAPS, "c", reference(owner))
        await h.settle()
        await h.delete(widgets, owner)
        await h.settle(5)
        assert names(h, resources.CONFIGMAPS) == []


async def test_plain_objects_are_not_kept():
    async with Harness(GarbageCollector) as h:
        for i in range(50):
            await make(h, resources.CONFIGMAPS, f"c{i}")
        await h.settle()
        gc = h.controllers[0]
        assert isinstance(gc, GarbageCollector) and gc.graph.nodes == {}
