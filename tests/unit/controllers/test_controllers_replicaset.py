from __future__ import annotations

import pytest

from k3sd.apimachinery.errors import Obj, StatusError
from k3sd.apis import resources
from k3sd.controllers.objects import find_condition
from k3sd.controllers.pods import pods_to_delete
from k3sd.controllers.replicaset import ReplicaSetController, ReplicationControllerController
from tests.fakes.clock import EPOCH
from tests.fakes.harness import Harness


def replica_set(replicas: int = 3, name: str = "web", **spec) -> Obj:
    return {
        "kind": "ReplicaSet",
        "apiVersion": "apps/v1",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "c"}]}},
            **spec,
        },
    }


async def test_creates_replaces_and_scales():
    async with Harness(ReplicaSetController) as h:
        owner = await h.create(resources.REPLICASETS, replica_set(30))
        await h.settle(0.3)
        pods = h.all_pods()
        assert len(pods) == 30
        reference = pods[0]["metadata"]["ownerReferences"][0]
        assert (reference["kind"], reference["controller"], reference["blockOwnerDeletion"]) == ("ReplicaSet", True, True)
        assert pods[0]["metadata"]["generateName"] == "web-"
        await h.make_ready()
        await h.settle()
        status = h.only(resources.REPLICASETS)["status"]
        assert status == {
            "replicas": 30,
            "fullyLabeledReplicas": 30,
            "readyReplicas": 30,
            "availableReplicas": 30,
            "terminatingReplicas": 0,
            "observedGeneration": 1,
        }
        await h.delete(resources.PODS, pods[0])
        await h.settle()
        assert len(h.all_pods()) == 30
        await h.patch(resources.REPLICASETS, owner, {"spec": {"replicas": 2}})
        await h.settle()
        assert len(h.all_pods()) == 2
        assert h.only(resources.REPLICASETS)["status"]["terminatingReplicas"] == 28  # the unassigned one went at once
        h.client.actions.clear()
        await h.settle(3600)
        assert h.client.actions == []


async def test_a_finished_pod_is_replaced_and_a_foreign_condition_stays():
    async with Harness(ReplicaSetController) as h:
        owner = await h.create(resources.REPLICASETS, replica_set(1))
        await h.settle()
        await h.status(resources.REPLICASETS, owner, conditions=[{"type": "StatusUpdate", "status": "True"}])
        await h.status(resources.PODS, h.all_pods()[0], phase="Failed")
        await h.settle()
        assert len([p for p in h.all_pods() if p["status"]["phase"] != "Failed"]) == 1
        assert find_condition(h.only(resources.REPLICASETS), "StatusUpdate") is not None


async def test_adopts_a_matching_orphan_and_releases_a_stray():
    async with Harness(ReplicaSetController) as h:
        orphan = await h.create(
            resources.PODS, {"metadata": {"name": "lone", "namespace": "shop", "labels": {"app": "web"}}, "spec": {}}
        )
        await h.create(resources.REPLICASETS, replica_set(1))
        await h.settle()
        (pod,) = h.all_pods()
        assert pod["metadata"]["uid"] == orphan["metadata"]["uid"]
        assert pod["metadata"]["ownerReferences"][0]["name"] == "web"
        await h.patch(resources.PODS, pod, {"metadata": {"labels": {"app": "other"}}})
        await h.settle()
        released = [p for p in h.all_pods() if not p["metadata"].get("ownerReferences")]
        assert [p["metadata"]["name"] for p in released] == ["lone"]
        assert len(h.all_pods()) == 2


async def test_a_quota_costs_few_requests_and_shows_in_a_condition():
    async with Harness(ReplicaSetController) as h:
        refused = 0
        full = True

        def quota(verb, resource, obj, subresource) -> None:
            nonlocal refused
            if full and verb == "create" and resource is resources.PODS:
                refused += 1
                raise StatusError(403, "Forbidden", "exceeded quota: pods")

        h.client.on_write(quota)
        await h.create(resources.REPLICASETS, replica_set(100))
        await h.settle(0.004)
        assert refused <= 2
        await h.settle(1)
        condition = find_condition(h.only(resources.REPLICASETS), "ReplicaFailure")
        assert condition is not None and condition["reason"] == "FailedCreate" and "exceeded quota" in condition["message"]
        full = False
        await h.settle(60)
        assert len(h.all_pods()) == 100
        assert find_condition(h.only(resources.REPLICASETS), "ReplicaFailure") is None


async def test_min_ready_seconds_delays_availability():
    async with Harness(ReplicaSetController) as h:
        await h.create(resources.REPLICASETS, replica_set(1, minReadySeconds=10))
        await h.settle()
        await h.make_ready()
        await h.settle(5)
        assert "availableReplicas" not in h.only(resources.REPLICASETS)["status"]
        await h.settle(6)
        assert h.only(resources.REPLICASETS)["status"]["availableReplicas"] == 1


async def test_a_deleted_set_makes_no_pods():
    async with Harness(ReplicaSetController) as h:
        owner = await h.create(resources.REPLICASETS, replica_set(1))
        await h.settle()
        await h.delete(resources.REPLICASETS, owner, propagation_policy="Foreground")
        await h.settle()
        await h.delete(resources.PODS, h.all_pods()[0])
        await h.settle(60)
        assert h.all_pods() == []


async def test_a_replication_controller_is_the_same_with_a_plain_selector():
    async with Harness(ReplicationControllerController) as h:
        owner = replica_set(2)
        owner.update(kind="ReplicationController", apiVersion="v1")
        owner["spec"]["selector"] = {"app": "web"}
        await h.create(resources.REPLICATIONCONTROLLERS, owner)
        await h.settle()
        assert len(h.all_pods()) == 2
        assert h.all_pods()[0]["metadata"]["ownerReferences"][0]["kind"] == "ReplicationController"
        assert h.only(resources.REPLICATIONCONTROLLERS)["status"]["replicas"] == 2


def pod(name: str, node: str = "n1", ready: bool = True, restarts: int = 0, cost: str = "", phase: str = "Running") -> Obj:
    status = {
        "phase": phase,
        "conditions": [{"type": "Ready", "status": "True" if ready else "False", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
        "containerStatuses": [{"restartCount": restarts}],
    }
    annotations = {"controller.kubernetes.io/pod-deletion-cost": cost} if cost else {}
    return {
        "metadata": {"name": name, "uid": name, "annotations": annotations, "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"nodeName": node},
        "status": status,
    }


@pytest.mark.parametrize(
    ("pods", "first"),
    [
        ([pod("a"), pod("b", node="")], "b"),
        ([pod("a"), pod("b", phase="Pending")], "b"),
        ([pod("a"), pod("b", ready=False)], "b"),
        ([pod("a", cost="10"), pod("b", cost="-5")], "b"),
        ([pod("a", "n1"), pod("b", "n2"), pod("c", "n2")], "b"),
        ([pod("a"), pod("b", restarts=3)], "b"),
    ],
    ids=["unassigned", "pending", "not-ready", "cheap", "crowded", "restarts"],
)
def test_deletion_order(pods: list[Obj], first: str):
    assert pods_to_delete(pods, pods, 1, EPOCH)[0]["metadata"]["name"] == first
