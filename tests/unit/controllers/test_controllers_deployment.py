from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from k3sd.apimachinery.errors import Obj, StatusError
from k3sd.apis import resources
from k3sd.controllers import rollout
from k3sd.controllers.deployment import DeploymentController
from k3sd.controllers.objects import find_condition
from k3sd.controllers.replicaset import ReplicaSetController
from tests.fakes.harness import Harness
from tests.fakes.kubelet import FakeKubelet


def deployment(replicas: int = 3, image: str = "v1", **spec: Any) -> Obj:
    return {
        "kind": "Deployment",
        "apiVersion": "apps/v1",
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "template": template(image),
            "progressDeadlineSeconds": 600,
            "revisionHistoryLimit": 10,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
            **spec,
        },
    }


def template(image: str) -> Obj:
    return {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]}}


@asynccontextmanager
async def cluster(**kubelet: Any) -> AsyncIterator[Harness]:
    async with Harness(DeploymentController, ReplicaSetController) as h:
        node = FakeKubelet(h, **kubelet)
        yield h
        await node.close()


def sizes(h: Harness) -> dict[str, int]:
    """Image -> size of its set."""
    return {
        s["spec"]["template"]["spec"]["containers"][0]["image"]: s["spec"]["replicas"] for s in h.all(resources.REPLICASETS)
    }


async def set_image(h: Harness, image: str) -> None:
    await h.patch(resources.DEPLOYMENTS, h.only(resources.DEPLOYMENTS), {"spec": {"template": template(image)}})


async def test_rolls_out_and_reports():
    async with cluster() as h:
        await h.create(resources.DEPLOYMENTS, deployment(30))
        await h.settle(0.3)
        assert len(h.all_pods()) == 30
        await h.settle(5)
        d, s = h.only(resources.DEPLOYMENTS), h.only(resources.REPLICASETS)
        assert d["metadata"]["annotations"][rollout.REVISION] == "1"
        assert s["metadata"]["name"] == "web-" + s["metadata"]["labels"]["pod-template-hash"]
        assert s["spec"]["selector"]["matchLabels"]["pod-template-hash"] == s["metadata"]["labels"]["pod-template-hash"]
        assert {k: v for k, v in d["status"].items() if k != "conditions"} == {
            "observedGeneration": 1,
            "replicas": 30,
            "updatedReplicas": 30,
            "readyReplicas": 30,
            "availableReplicas": 30,
            "terminatingReplicas": 0,
        }
        available, progressing = find_condition(d, "Available"), find_condition(d, "Progressing")
        assert available is not None and available["reason"] == "MinimumReplicasAvailable"
        assert progressing is not None and progressing["reason"] == "NewReplicaSetAvailable"
        h.client.actions.clear()
        await h.settle(7200)
        assert h.client.actions == []


async def test_a_rolling_update_keeps_within_its_bounds():
    async with cluster() as h:
        await h.create(resources.DEPLOYMENTS, deployment(10))
        await h.settle(5)
        least, most = 10, 0

        def watch(*_: object) -> None:
            nonlocal least, most
            most = max(most, sum(sizes(h).values()))
            least = min(least, sum(find_condition(p, "Ready") is not None for p in h.all_pods()))

        for resource in (resources.REPLICASETS, resources.PODS):
            h.informers.informer(resource).add_handler(watch, watch, watch)
        await set_image(h, "v2")
        await h.settle(20)
        assert sizes(h) == {"v1": 0, "v2": 10}
        assert most <= 13 and least >= 8
        d = h.only(resources.DEPLOYMENTS)
        assert d["metadata"]["annotations"][rollout.REVISION] == "2"
        assert d["status"]["updatedReplicas"] == 10 and d["status"]["replicas"] == 10


async def test_rolling_back_reuses_the_set_and_its_history():
    async with cluster() as h:
        await h.create(resources.DEPLOYMENTS, deployment(2))
        await h.settle(5)
        await set_image(h, "v2")
        await h.settle(10)
        await set_image(h, "v1")
        await h.settle(10)
        assert sizes(h) == {"v1": 2, "v2": 0}
        old = next(s for s in h.all(resources.REPLICASETS) if s["spec"]["replicas"] == 2)
        assert old["metadata"]["annotations"][rollout.REVISION] == "3"
        assert old["metadata"]["annotations"][rollout.REVISION_HISTORY] == "1"


async def test_a_huge_adopted_revision_is_counted_on():
    async with cluster() as h:
        huge = "3546343826724305832"
        labels = {"app": "web", "pod": "x"}
        owner = {
            "kind": "ReplicaSet",
            "apiVersion": "apps/v1",
            "metadata": {
                "name": "old",
                "namespace": "shop",
                "labels": labels,
                "annotations": {rollout.REVISION: huge},
            },
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "v0"}]}},
            },
        }
        await h.create(resources.REPLICASETS, owner)
        await h.settle(5)
        await h.create(resources.DEPLOYMENTS, deployment(1))
        await h.settle(20)
        assert sizes(h) == {"v0": 0, "v1": 1}
        assert h.only(resources.DEPLOYMENTS)["metadata"]["annotations"][rollout.REVISION] == "3546343826724305833"


async def test_recreate_never_runs_two_templates_at_once():
    async with cluster(grace=5.0) as h:
        await h.create(resources.DEPLOYMENTS, deployment(3, strategy={"type": "Recreate"}))
        await h.settle(10)
        mixed = False

        def watch(*_: object) -> None:
            nonlocal mixed
            images = {p["spec"]["containers"][0]["image"] for p in h.client.all(resources.PODS)}
            mixed = mixed or len(images) > 1

        h.informers.informer(resources.PODS).add_handler(watch, watch, watch)
        await set_image(h, "v2")
        await h.settle(30)
        assert sizes(h) == {"v1": 0, "v2": 3} and not mixed
        assert h.only(resources.DEPLOYMENTS)["status"]["availableReplicas"] == 3


async def test_old_sets_beyond_the_history_limit_go():
    async with cluster() as h:
        await h.create(resources.DEPLOYMENTS, deployment(1, revisionHistoryLimit=0))
        await h.settle(5)
        await set_image(h, "v2")
        await h.settle(20)
        assert sizes(h) == {"v2": 1}


async def test_scaling_while_rolling_spreads_over_all_sets():
    async with cluster(healthy=lambda p: p["spec"]["containers"][0]["image"] != "broken") as h:
        rolling = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 3, "maxUnavailable": 2}}
        await h.create(resources.DEPLOYMENTS, deployment(10, strategy=rolling))
        await h.settle(5)
        await set_image(h, "broken")
        await h.settle(10)
        assert sizes(h) == {"v1": 8, "broken": 5}
        await h.patch(resources.DEPLOYMENTS, h.only(resources.DEPLOYMENTS), {"spec": {"replicas": 30}})
        await h.settle(10)
        assert sizes(h) == {"v1": 20, "broken": 13}


async def test_paused_scales_but_does_not_roll():
    async with cluster() as h:
        d = await h.create(resources.DEPLOYMENTS, deployment(2))
        await h.settle(5)
        await h.patch(resources.DEPLOYMENTS, d, {"spec": {"paused": True}})
        await set_image(h, "v2")
        await h.settle(5)
        assert sizes(h) == {"v1": 2}
        condition = find_condition(h.only(resources.DEPLOYMENTS), "Progressing")
        assert condition is not None and condition["reason"] == "DeploymentPaused"
        await h.patch(resources.DEPLOYMENTS, d, {"spec": {"replicas": 4}})
        await h.settle(5)
        assert sizes(h) == {"v1": 4}
        await h.patch(resources.DEPLOYMENTS, d, {"spec": {"paused": None}})
        await h.settle(20)
        assert sizes(h) == {"v1": 0, "v2": 4}


async def test_a_rollout_that_stands_still_times_out():
    async with cluster(healthy=lambda _: False) as h:
        await h.create(resources.DEPLOYMENTS, deployment(1, progressDeadlineSeconds=30))
        await h.settle(20)
        condition = find_condition(h.only(resources.DEPLOYMENTS), "Progressing")
        assert condition is not None and condition["status"] == "True"
        await h.settle(20)
        condition = find_condition(h.only(resources.DEPLOYMENTS), "Progressing")
        assert condition is not None and condition["reason"] == "ProgressDeadlineExceeded"
        assert condition["message"].endswith("has timed out progressing.")


async def test_a_name_collision_makes_another_hash():
    async with cluster() as h:
        d = deployment(1)
        hashed = rollout.template_hash(d["spec"]["template"], None)
        await h.create(
            resources.REPLICASETS,
            {
                "kind": "ReplicaSet",
                "apiVersion": "apps/v1",
                "metadata": {"name": f"web-{hashed}", "namespace": "shop"},
                "spec": {"replicas": 0, "selector": {"matchLabels": {"x": "y"}}, "template": template("other")},
            },
        )
        await h.create(resources.DEPLOYMENTS, d)
        await h.settle(10)
        assert h.only(resources.DEPLOYMENTS)["status"]["collisionCount"] == 1
        assert h.only(resources.DEPLOYMENTS)["status"]["availableReplicas"] == 1


async def test_a_foreign_condition_stays_and_a_pod_failure_is_passed_on():
    async with cluster() as h:

        def quota(verb, resource, obj, subresource) -> None:
            if verb == "create" and resource is resources.PODS:
                raise StatusError(403, "Forbidden", "exceeded quota: pods")

        h.client.on_write(quota)
        d = await h.create(resources.DEPLOYMENTS, deployment(1))
        await h.settle(2)
        await h.status(resources.DEPLOYMENTS, d, conditions=[{"type": "StatusUpdate", "status": "True"}])
        await h.settle(2)
        d = h.only(resources.DEPLOYMENTS)
        assert find_condition(d, "StatusUpdate") is not None
        failure = find_condition(d, "ReplicaFailure")
        assert failure is not None and failure["reason"] == "FailedCreate"


@pytest.mark.parametrize(
    ("surge", "unavailable", "replicas", "wanted"),
    [("25%", "25%", 10, (3, 2)), (0, 0, 5, (0, 1)), ("0%", "10%", 5, (0, 1)), (1, 0, 3, (1, 0)), ("30%", "30%", 1, (1, 0))],
)
def test_fenceposts(surge: Any, unavailable: Any, replicas: int, wanted: tuple[int, int]):
    rolling = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}
    assert rollout.fenceposts(deployment(replicas, strategy=rolling)) == wanted


def test_hashes_are_stable_and_label_safe():
    one = rollout.template_hash(template("v1"), None)
    assert one == rollout.template_hash(template("v1"), None) != rollout.template_hash(template("v2"), None)
    assert one != rollout.template_hash(template("v1"), 1) and one.isalnum() and len(one) == 10
