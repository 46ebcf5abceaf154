"""Controllers whose caches are behind by up to half a second an event, and whose writes are sometimes refused."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from k3sd.apimachinery.errors import Obj, StatusError
from k3sd.apis import resources
from k3sd.controllers.daemonset import DaemonSetController
from k3sd.controllers.deployment import DeploymentController
from k3sd.controllers.endpointslice import EndpointSliceController
from k3sd.controllers.replicaset import ReplicaSetController
from k3sd.controllers.statefulset import StatefulSetController
from tests.fakes.harness import Harness, ready_status

SEEDS = range(5)


def disturb(h: Harness, rng: random.Random, *, refuse: float = 0.08) -> None:
    h.client.watch_lag = lambda: rng.choice((0.0, 0.0, 0.005, 0.1, 0.5))

    def react(verb, resource, obj, subresource) -> None:
        if rng.random() < refuse and resource is not resources.EVENTS:
            raise rng.choice([StatusError(409, "Conflict", "disturbed"), ConnectionError("disturbed")])

    h.client.on_write(react)


def calm(h: Harness) -> None:
    h.client.reactors.clear()
    h.client.watch_lag = None


def workload(kind: str, replicas: int, **spec: Any) -> Obj:
    template = {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "v1"}]}}
    return {
        "kind": kind,
        "apiVersion": "apps/v1",
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": template, **spec},
    }


async def mine(h: Harness, do) -> None:
    """A write of the test's own, which is not refused."""
    kept, h.client.reactors = h.client.reactors, []
    try:
        await do
    finally:
        h.client.reactors = kept


def ever(h: Harness, resource) -> set[str]:
    return {o["metadata"]["uid"] for _, r, type_, o, _ in h.client.history if r is resource and type_ == "ADDED"}


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_replica_set_makes_no_pod_too_many(seed: int):
    rng = random.Random(seed)
    async with Harness(ReplicaSetController) as h:
        await h.create(resources.REPLICASETS, workload("ReplicaSet", 10))
        disturb(h, rng)
        lost = 0
        for _ in range(60):
            await asyncio.sleep(rng.choice((0.0, 0.01, 1.0)))
            pods = h.all_pods()
            assert len(pods) <= 10
            if pods and rng.random() < 0.4:
                await mine(h, h.delete(resources.PODS, rng.choice(pods)))
                lost += 1
        await h.settle(3000)
        calm(h)
        await h.settle(3000)
        assert len(h.all_pods()) == 10
        assert len(ever(h, resources.PODS)) == 10 + lost


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_deployment_ends_where_it_should(seed: int):
    rng = random.Random(seed)
    async with Harness(DeploymentController, ReplicaSetController) as h:
        made = await h.create(resources.DEPLOYMENTS, workload("Deployment", 4))
        disturb(h, rng)
        for step in range(120):
            await asyncio.sleep(rng.choice((0.01, 0.5, 5.0)))
            for pod in h.all_pods():
                if rng.random() < 0.5 and pod["status"]["phase"] == "Pending":
                    await mine(h, h.status(resources.PODS, pod, **ready_status()))
            if step % 20 == 10:
                image = rng.choice(("v1", "v2", "v3"))
                template = {"spec": {"containers": [{"name": "c", "image": image}]}}
                patch = {"spec": {"template": template, "replicas": rng.randrange(1, 7)}}
                await mine(h, h.patch(resources.DEPLOYMENTS, made, patch))
        calm(h)
        for _ in range(40):
            for pod in h.all_pods():
                if pod["status"]["phase"] == "Pending":
                    await h.status(resources.PODS, pod, **ready_status())
            await h.settle(100)
        d = h.only(resources.DEPLOYMENTS)
        wanted = d["spec"]["replicas"]
        images = [p["spec"]["containers"][0]["image"] for p in h.all_pods()]
        assert images == [d["spec"]["template"]["spec"]["containers"][0]["image"]] * wanted
        assert d["status"]["availableReplicas"] == d["status"]["updatedReplicas"] == d["status"]["replicas"] == wanted
        templates = [s["spec"]["template"]["spec"]["containers"][0]["image"] for s in h.all(resources.REPLICASETS)]
        assert len(templates) == len(set(templates))


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_stateful_set_keeps_its_order(seed: int):
    rng = random.Random(seed)
    async with Harness(StatefulSetController) as h:
        await h.create(resources.STATEFULSETS, workload("StatefulSet", 5, serviceName="web"))
        disturb(h, rng)
        for _ in range(200):
            await asyncio.sleep(rng.choice((0.01, 0.5, 3.0)))
            pods = {p["metadata"]["name"]: p for p in h.all_pods()}
            unready = [n for n, p in pods.items() if p["status"]["phase"] != "Running"]
            # Nobody starts while one before him does not serve.
            assert len(unready) <= 1
            for name in unready:
                if rng.random() < 0.6:
                    await mine(h, h.status(resources.PODS, pods[name], **ready_status()))
        calm(h)
        await h.settle(3000)
        assert [p["metadata"]["name"] for p in h.all_pods()] == [f"web-{i}" for i in range(5)]
        assert len(h.all(resources.CONTROLLERREVISIONS)) == 1


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_daemon_set_has_one_pod_a_node(seed: int):
    rng = random.Random(seed)
    async with Harness(DaemonSetController) as h:
        await h.create(resources.DAEMONSETS, workload("DaemonSet", 1))
        disturb(h, rng)
        for i in range(8):
            await mine(h, h.create(resources.NODES, {"metadata": {"name": f"n{i}", "labels": {}}, "spec": {}}))
            await asyncio.sleep(rng.choice((0.0, 0.1, 2.0)))
        await h.settle(3000)
        calm(h)
        await h.settle(3000)
        assert len(h.all_pods()) == 8 == len(ever(h, resources.PODS))


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_service_has_one_slice(seed: int):
    rng = random.Random(seed)
    async with Harness(EndpointSliceController) as h:
        spec = {"selector": {"app": "web"}, "ipFamilies": ["IPv4"], "ports": [{"port": 80}]}
        await h.create(resources.SERVICES, {"metadata": {"name": "web", "namespace": "shop"}, "spec": spec})
        disturb(h, rng)
        for i in range(30):
            metadata = {"name": f"p{i}", "namespace": "shop", "labels": {"app": "web"}}
            pod = {"metadata": metadata, "spec": {"containers": [], "nodeName": "n1"}}
            await mine(h, h.create(resources.PODS, pod))
            await mine(h, h.status(resources.PODS, pod, **ready_status(ip=f"10.42.0.{i + 1}")))
            await asyncio.sleep(rng.choice((0.0, 0.01, 0.7)))
        await h.settle(3000)
        calm(h)
        await h.settle(3000)
        (one,) = h.all(resources.ENDPOINTSLICES)
        assert len(one["endpoints"]) == 30
        assert len(ever(h, resources.ENDPOINTSLICES)) == 1
