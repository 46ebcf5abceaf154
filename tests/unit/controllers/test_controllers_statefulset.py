from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from k3sd.apimachinery.errors import Obj
from k3sd.apis import resources
from k3sd.controllers.statefulset import POD_INDEX, REVISION, StatefulSetController
from tests.fakes.harness import Harness, ready_status
from tests.fakes.kubelet import FakeKubelet


def template(image: str) -> Obj:
    return {"metadata": {"labels": {"app": "db"}}, "spec": {"containers": [{"name": "c", "image": image}]}}


def stateful_set(replicas: int = 3, **spec: Any) -> Obj:
    return {
        "kind": "StatefulSet",
        "apiVersion": "apps/v1",
        "metadata": {"name": "db", "namespace": "shop"},
        "spec": {
            "replicas": replicas,
            "serviceName": "db",
            "selector": {"matchLabels": {"app": "db"}},
            "template": template("v1"),
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
            **spec,
        },
    }


@asynccontextmanager
async def cluster(**kubelet: Any) -> AsyncIterator[Harness]:
    async with Harness(StatefulSetController) as h:
        node = FakeKubelet(h, **kubelet)
        yield h
        await node.close()


def images(h: Harness) -> dict[str, str]:
    return {p["metadata"]["name"]: p["spec"]["containers"][0]["image"] for p in h.all_pods()}


def order(h: Harness, verb: str) -> list[str]:
    return [key for v, what, key in h.client.actions if v == verb and what == "pods"]


async def test_pods_come_and_go_in_order_with_their_identity():
    async with cluster() as h:
        made = await h.create(resources.STATEFULSETS, stateful_set())
        await h.settle(0.3)
        assert list(images(h)) == ["db-0"]
        await h.settle(10)
        assert list(images(h)) == ["db-0", "db-1", "db-2"]
        pod = h.all_pods()[1]
        assert pod["metadata"]["labels"]["statefulset.kubernetes.io/pod-name"] == "db-1"
        assert pod["metadata"]["labels"][POD_INDEX] == "1"
        assert (pod["spec"]["hostname"], pod["spec"]["subdomain"]) == ("db-1", "db")
        status = h.only(resources.STATEFULSETS)["status"]
        revision = h.only(resources.CONTROLLERREVISIONS)
        assert pod["metadata"]["labels"][REVISION] == revision["metadata"]["name"] == status["currentRevision"]
        assert (status["replicas"], status["readyReplicas"], status["currentReplicas"]) == (3, 3, 3)
        h.client.actions.clear()
        await h.settle(3600)
        assert h.client.actions == []
        await h.patch(resources.STATEFULSETS, made, {"spec": {"replicas": 0}})
        await h.settle(10)
        assert h.all_pods() == []
        asked = list(dict.fromkeys(order(h, "delete")))
        assert asked == ["shop/db-2", "shop/db-1", "shop/db-0"]


async def test_an_unhealthy_pod_halts_scaling_but_not_in_parallel():
    async with cluster() as h:
        made = await h.create(resources.STATEFULSETS, stateful_set(1))
        await h.settle(5)
        await h.status(resources.PODS, h.all_pods()[0], **ready_status(False))
        await h.patch(resources.STATEFULSETS, made, {"spec": {"replicas": 3}})
        await h.settle(30)
        assert list(images(h)) == ["db-0"]
        await h.status(resources.PODS, h.all_pods()[0], **ready_status(True))
        await h.settle(10)
        assert len(images(h)) == 3
    async with cluster(healthy=lambda _: False) as h:
        await h.create(resources.STATEFULSETS, stateful_set(4, podManagementPolicy="Parallel"))
        await h.settle(0.2)
        assert len(images(h)) == 4


async def test_rolling_update_goes_down_and_back_to_the_same_revision():
    async with cluster() as h:
        made = await h.create(resources.STATEFULSETS, stateful_set())
        await h.settle(10)
        first = h.only(resources.STATEFULSETS)["status"]["currentRevision"]
        await h.patch(resources.STATEFULSETS, made, {"spec": {"template": template("v2")}})
        await h.settle(1)
        status = h.only(resources.STATEFULSETS)["status"]
        assert status["currentRevision"] == first != status["updateRevision"]
        await h.settle(20)
        assert set(images(h).values()) == {"v2"}
        asked = list(dict.fromkeys(order(h, "delete")))
        assert asked == ["shop/db-2", "shop/db-1", "shop/db-0"]
        status = h.only(resources.STATEFULSETS)["status"]
        assert status["currentRevision"] == status["updateRevision"] and status["updatedReplicas"] == 3
        await h.patch(resources.STATEFULSETS, made, {"spec": {"template": template("v1")}})
        await h.settle(20)
        assert h.only(resources.STATEFULSETS)["status"]["currentRevision"] == first
        assert sorted(r["revision"] for r in h.all(resources.CONTROLLERREVISIONS)) == [2, 3]


async def test_partition_keeps_the_lower_pods_on_the_old_revision():
    async with cluster() as h:
        rolling = {"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}
        made = await h.create(resources.STATEFULSETS, stateful_set(updateStrategy=rolling))
        await h.settle(10)
        await h.patch(resources.STATEFULSETS, made, {"spec": {"template": template("v2")}})
        await h.settle(20)
        assert images(h) == {"db-0": "v1", "db-1": "v1", "db-2": "v2"}
        await h.delete(resources.PODS, h.all_pods()[0])
        await h.settle(10)
        assert images(h)["db-0"] == "v1"
        status = h.only(resources.STATEFULSETS)["status"]
        assert (status["currentReplicas"], status["updatedReplicas"]) == (2, 1)


async def test_on_delete_waits_for_the_operator():
    async with cluster() as h:
        made = await h.create(resources.STATEFULSETS, stateful_set(2, updateStrategy={"type": "OnDelete"}))
        await h.settle(10)
        await h.patch(resources.STATEFULSETS, made, {"spec": {"template": template("v2")}})
        await h.settle(10)
        assert set(images(h).values()) == {"v1"}
        await h.delete(resources.PODS, h.all_pods()[0])
        await h.settle(10)
        assert images(h) == {"db-0": "v2", "db-1": "v1"}


async def test_a_failed_pod_is_replaced():
    async with cluster() as h:
        await h.create(resources.STATEFULSETS, stateful_set(1))
        await h.settle(5)
        (pod,) = h.all_pods()
        await h.status(resources.PODS, pod, phase="Failed")
        await h.settle(5)
        (again,) = h.all_pods()
        assert again["metadata"]["uid"] != pod["metadata"]["uid"] and again["status"]["phase"] == "Running"


async def test_claims_are_made_once_and_stay():
    async with cluster() as h:
        templates = [{"metadata": {"name": "data"}, "spec": {"resources": {"requests": {"storage": "1Gi"}}}}]
        made = await h.create(resources.STATEFULSETS, stateful_set(2, volumeClaimTemplates=templates))
        await h.settle(10)
        claims = h.all(resources.PERSISTENTVOLUMECLAIMS)
        assert [c["metadata"]["name"] for c in claims] == ["data-db-0", "data-db-1"]
        volume = h.all_pods()[1]["spec"]["volumes"][0]
        assert volume == {"name": "data", "persistentVolumeClaim": {"claimName": "data-db-1"}}
        await h.patch(resources.STATEFULSETS, made, {"spec": {"replicas": 1}})
        await h.settle(10)
        assert len(h.all(resources.PERSISTENTVOLUMECLAIMS)) == 2


@pytest.mark.parametrize("start", [0, 5])
async def test_ordinals_start(start: int):
    async with cluster() as h:
        await h.create(resources.STATEFULSETS, stateful_set(2, ordinals={"start": start}))
        await h.settle(10)
        assert list(images(h)) == [f"db-{start}", f"db-{start + 1}"]
