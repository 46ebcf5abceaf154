"""PodDisruptionBudgets and ResourceQuotas."""

from __future__ import annotations

from typing import Any

import pytest

from k3sd.apimachinery.errors import Obj
from k3sd.apis import resources
from k3sd.controllers.disruption import DisruptionController
from k3sd.controllers.objects import find_condition
from k3sd.controllers.resourcequota import ResourceQuotaController, resources_of
from tests.fakes.harness import Harness, ready_status


async def pods(h: Harness, count: int, ready: int, owner: Obj | None = None) -> None:
    reference = []
    if owner is not None:
        metadata = owner["metadata"]
        reference = [
            {
                "apiVersion": "apps/v1",
                "kind": owner["kind"],
                "name": metadata["name"],
                "uid": metadata["uid"],
                "controller": True,
            }
        ]
    for i in range(count):
        metadata = {"name": f"p{i}", "namespace": "shop", "labels": {"app": "web"}, "ownerReferences": reference}
        made = await h.create(resources.PODS, {"metadata": metadata, "spec": {"nodeName": "n1"}})
        await h.status(resources.PODS, made, **ready_status(i < ready))


async def budget(h: Harness, **spec: Any) -> Obj:
    made = {"kind": "PodDisruptionBudget", "apiVersion": "policy/v1", "metadata": {"name": "b", "namespace": "shop"}}
    return await h.create(
        resources.PODDISRUPTIONBUDGETS, {**made, "spec": {"selector": {"matchLabels": {"app": "web"}}, **spec}}
    )


def counts(h: Harness) -> tuple[int, int, int, int]:
    status = h.only(resources.PODDISRUPTIONBUDGETS)["status"]
    return status["expectedPods"], status["desiredHealthy"], status["currentHealthy"], status["disruptionsAllowed"]


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [
        ({"minAvailable": 2}, (4, 2, 3, 1)),
        ({"minAvailable": "50%"}, (10, 5, 3, 0)),
        ({"maxUnavailable": 8}, (10, 2, 3, 1)),
        ({"maxUnavailable": "75%"}, (10, 2, 3, 1)),
    ],
)
async def test_what_a_budget_allows(spec: dict[str, Any], wanted: tuple[int, int, int, int]):
    async with Harness(DisruptionController) as h:
        owner = {"kind": "ReplicaSet", "metadata": {"name": "rs", "namespace": "shop"}, "spec": {"replicas": 10}}
        made = await h.create(resources.REPLICASETS, owner)
        await pods(h, 4, 3, made)
        await budget(h, **spec)
        await h.settle()
        assert counts(h) == wanted
        condition = find_condition(h.only(resources.PODDISRUPTIONBUDGETS), "DisruptionAllowed")
        assert condition is not None and condition["status"] == ("True" if wanted[3] else "False")
        assert h.only(resources.PODDISRUPTIONBUDGETS)["status"]["observedGeneration"] == 1


async def test_evicted_pods_count_as_gone_for_a_while():
    async with Harness(DisruptionController) as h:
        await pods(h, 3, 3)
        made = await budget(h, minAvailable=1)
        await h.settle()
        assert counts(h) == (3, 1, 3, 2)
        from k3sd.apimachinery import timefmt
        from tests.fakes.clock import wall_clock

        stamps = {"p0": timefmt.from_epoch(wall_clock()), "gone": timefmt.from_epoch(wall_clock())}
        await h.status(resources.PODDISRUPTIONBUDGETS, made, disruptedPods=stamps, disruptionsAllowed=1)
        await h.settle()
        assert counts(h) == (3, 1, 2, 1)
        assert list(h.only(resources.PODDISRUPTIONBUDGETS)["status"]["disruptedPods"]) == ["p0"]
        await h.settle(125)
        assert counts(h) == (3, 1, 3, 2)


async def test_a_quota_follows_what_comes_and_goes():
    async with Harness(ResourceQuotaController) as h:
        hard = {"pods": "5", "cpu": "2", "count/deployments.apps": "3", "secrets": "10", "services.nodeports": "1"}
        quota = {"metadata": {"name": "q", "namespace": "shop"}, "spec": {"hard": hard}}
        made = await h.create(resources.RESOURCEQUOTAS, quota)
        await h.settle()
        status = h.only(resources.RESOURCEQUOTAS)["status"]
        assert status["hard"] == hard and set(status["used"].values()) == {"0"}
        requests = {"resources": {"requests": {"cpu": "300m"}}}
        one = await h.create(
            resources.PODS,
            {"metadata": {"name": "p", "namespace": "shop"}, "spec": {"containers": [{"name": "c", **requests}]}},
        )
        await h.create(resources.DEPLOYMENTS, {"metadata": {"name": "d", "namespace": "shop"}, "spec": {}})
        await h.create(resources.SECRETS, {"metadata": {"name": "s", "namespace": "other"}})
        await h.settle(3)  # a count waits until nobody has charged the quota for a moment, and for the events of all kinds
        used = h.only(resources.RESOURCEQUOTAS)["status"]["used"]
        assert used == {"pods": "1", "cpu": "300m", "count/deployments.apps": "1", "secrets": "0", "services.nodeports": "0"}
        await h.status(resources.PODS, one, phase="Succeeded")
        await h.settle(3)
        assert h.only(resources.RESOURCEQUOTAS)["status"]["used"]["cpu"] == "0"
        await h.status(resources.RESOURCEQUOTAS, made, hard={"pods": "99"})
        await h.settle()
        assert h.only(resources.RESOURCEQUOTAS)["status"]["hard"] == hard
        await h.delete(resources.RESOURCEQUOTAS, made)
        await h.settle()
        controller = h.controllers[0]
        assert isinstance(controller, ResourceQuotaController) and controller._watches == {}


async def test_a_charge_outlives_the_moment_before_its_object_is_stored():
    async with Harness(ResourceQuotaController) as h:
        quota = {"metadata": {"name": "q", "namespace": "shop"}, "spec": {"hard": {"pods": "2", "secrets": "9"}}}
        made = await h.create(resources.RESOURCEQUOTAS, quota)
        gone = await h.create(resources.SECRETS, {"metadata": {"name": "s", "namespace": "shop"}})
        await h.settle(3)

        def used() -> Obj:
            found: Obj = h.only(resources.RESOURCEQUOTAS)["status"]["used"]
            return found

        assert used() == {"pods": "0", "secrets": "1"}
        for count in ("1", "2"):
            # Admission charges; something else in the namespace asks for a count meanwhile.
            await h.status(resources.RESOURCEQUOTAS, made, used={"pods": count, "secrets": "1"})
            if count == "1":
                await h.delete(resources.SECRETS, gone)
            await h.settle(0.8)
            assert used() == {"pods": count, "secrets": "1"}
        await h.create(resources.PODS, {"metadata": {"name": "p", "namespace": "shop"}, "spec": {"containers": []}})
        await h.settle(3)
        assert used() == {"pods": "1", "secrets": "0"}, "the second charge's object was never stored"


def test_names_lead_to_resources():
    names = [
        "requests.storage",
        "limits.memory",
        "configmaps",
        "count/jobs.batch",
        "gold.storageclass.storage.k8s.io/requests.storage",
    ]
    assert {r.plural for r in resources_of(names, resources.ALL)} == {"persistentvolumeclaims", "pods", "configmaps", "jobs"}
