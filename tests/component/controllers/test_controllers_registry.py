"""All controllers together on the real registry and a real database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from k3sd.apimachinery.errors import Obj, StatusError
from k3sd.apimachinery.resource import Resource
from k3sd.apis import resources
from k3sd.apiserver.registry import Registry
from k3sd.client.api import DeleteOptions
from k3sd.client.informer import InformerFactory
from k3sd.client.inprocess import InProcessClient
from k3sd.controllers import run_controllers


@asynccontextmanager
async def controllers(registry: Registry) -> AsyncIterator[InProcessClient]:
    client = registry.client()
    informers = InformerFactory(client)
    task = asyncio.create_task(run_controllers(client, informers, registry.settings))
    try:
        yield client
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await informers.stop()


async def until(client: InProcessClient, resource: Resource, namespace: str, holds: Callable[[list[Obj]], bool]) -> list[Obj]:
    """The objects as soon as ``holds`` says yes of them."""
    async with asyncio.timeout(10):
        page = await client.list(resource, namespace)
        items = {o["metadata"]["name"]: o for o in page.items}
        if holds(list(items.values())):
            return list(items.values())
        async for event in client.watch(resource, namespace, resource_version=page.resource_version):
            items.pop(event.object["metadata"]["name"], None)
            if event.type != "DELETED":
                items[event.object["metadata"]["name"]] = event.object
            if holds(list(items.values())):
                return list(items.values())
    raise AssertionError("the watch ended")


async def namespace(client: InProcessClient, name: str = "shop") -> None:
    await client.create(resources.NAMESPACES, {"metadata": {"name": name}})
    await until(client, resources.SERVICEACCOUNTS, name, lambda found: len(found) == 1)
    await until(client, resources.CONFIGMAPS, name, lambda found: len(found) == 1)


def deployment(replicas: int) -> Obj:
    return {
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "c", "image": "example.com/web:1"}]},
            },
        },
    }


async def ready(client: InProcessClient, pods: list[Obj]) -> None:
    for pod in pods:
        status = {"phase": "Running", "podIP": "10.42.0.9", "podIPs": [{"ip": "10.42.0.9"}]}
        status["conditions"] = [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]
        await client.patch(resources.PODS, pod["metadata"]["name"], {"status": status}, "shop", subresource="status")


async def test_a_deployment_behind_a_service_rolls_out_and_its_namespace_goes(registry: Registry):
    async with controllers(registry) as client:
        await namespace(client)
        ports = [{"port": 80, "targetPort": 8080}]
        service = {"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": ports}}
        await client.create(resources.SERVICES, service, "shop")
        await client.create(resources.DEPLOYMENTS, deployment(30), "shop")
        pods = await until(client, resources.PODS, "shop", lambda found: len(found) == 30)
        assert pods[0]["spec"]["serviceAccountName"] == "default"
        await ready(client, pods)
        (done,) = await until(
            client, resources.DEPLOYMENTS, "shop", lambda found: found[0]["status"].get("availableReplicas") == 30
        )
        reasons = {c["type"]: c["reason"] for c in done["status"]["conditions"]}
        assert reasons == {"Available": "MinimumReplicasAvailable", "Progressing": "NewReplicaSetAvailable"}
        (one,) = await until(client, resources.ENDPOINTSLICES, "shop", lambda f: len(f[0].get("endpoints") or ()) == 30)
        assert one["ports"][0]["port"] == 8080 and one["metadata"]["generateName"] == "web-"
        await until(
            client,
            resources.ENDPOINTS,
            "shop",
            lambda f: any(len(subset.get("addresses") or ()) == 30 for e in f for subset in e.get("subsets") or ()),
        )
        await client.delete(resources.NAMESPACES, "shop")
        await until(client, resources.NAMESPACES, "", lambda found: not any(n["metadata"]["name"] == "shop" for n in found))
        for resource in (resources.PODS, resources.REPLICASETS, resources.ENDPOINTSLICES, resources.SERVICES):
            assert (await client.list(resource, "shop")).items == []


async def test_nothing_is_written_by_a_restart(registry: Registry):
    async with controllers(registry) as client:
        await namespace(client)
        await client.create(resources.DEPLOYMENTS, deployment(3), "shop")
        pods = await until(client, resources.PODS, "shop", lambda found: len(found) == 3)
        await ready(client, pods)
        await until(client, resources.DEPLOYMENTS, "shop", lambda f: f[0]["status"].get("availableReplicas") == 3)
        await until(client, resources.EVENTS, "shop", lambda found: len(found) >= 4)
    before = registry.cache.revision
    async with controllers(registry) as client:
        # A later namespace is served only once every controller of it runs.
        await namespace(client, "other")
        names = [o["metadata"]["name"] for o in (await client.list(resources.PODS, "shop")).items]
        assert sorted(names) == sorted(p["metadata"]["name"] for p in pods)
    # The namespace, its account and its ConfigMap.
    assert registry.cache.revision == before + 3


@pytest.mark.parametrize(("policy", "left"), [("Orphan", ["ReplicaSet", "Pod"]), ("Foreground", []), ("Background", [])])
async def test_propagation(registry: Registry, policy: str, left: list[str]):
    async with controllers(registry) as client:
        await namespace(client)
        await client.create(resources.DEPLOYMENTS, deployment(1), "shop")
        await until(client, resources.PODS, "shop", lambda found: len(found) == 1)
        await client.delete(resources.DEPLOYMENTS, "web", "shop", DeleteOptions(propagation_policy=policy))
        await until(client, resources.DEPLOYMENTS, "shop", lambda found: not found)
        kinds = (resources.REPLICASETS, resources.PODS)
        for resource in kinds:
            await until(client, resource, "shop", lambda f, r=resource: (r.kind in left) == bool(f))


async def test_a_namespace_in_deletion_takes_nothing_new_and_reports(registry: Registry):
    async with controllers(registry) as client:
        await namespace(client)
        held = {"metadata": {"name": "held", "finalizers": ["example.com/hold"]}}
        await client.create(resources.CONFIGMAPS, held, "shop")
        await client.delete(resources.NAMESPACES, "shop")
        found = await until(
            client,
            resources.NAMESPACES,
            "",
            lambda f: any((n.get("status") or {}).get("conditions") for n in f if n["metadata"]["name"] == "shop"),
        )
        shop = next(n for n in found if n["metadata"]["name"] == "shop")
        true = [c["type"] for c in shop["status"]["conditions"] if c["status"] == "True"]
        assert true == ["NamespaceContentRemaining", "NamespaceFinalizersRemaining"]
        with pytest.raises(StatusError, match="because it is being terminated"):
            await client.create(resources.CONFIGMAPS, {"metadata": {"name": "late"}}, "shop")
        await client.patch(resources.CONFIGMAPS, "held", {"metadata": {"finalizers": None}}, "shop")
        await until(client, resources.NAMESPACES, "", lambda f: not any(n["metadata"]["name"] == "shop" for n in f))


async def test_a_job_runs_and_is_collected(registry: Registry):
    async with controllers(registry) as client:
        await namespace(client)
        template = {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "example.com/w:1"}]}}
        spec = {"completions": 3, "parallelism": 3, "completionMode": "Indexed", "template": template}
        await client.create(resources.JOBS, {"metadata": {"name": "work"}, "spec": spec}, "shop")
        pods = await until(client, resources.PODS, "shop", lambda found: len(found) == 3)
        for pod in pods:
            status = {"status": {"phase": "Succeeded"}}
            await client.patch(resources.PODS, pod["metadata"]["name"], status, "shop", subresource="status")
        (job,) = await until(
            client, resources.JOBS, "shop", lambda f: any(c["type"] == "Complete" for c in f[0]["status"].get("conditions", ()))
        )
        assert job["status"]["completedIndexes"] == "0-2" and job["status"]["succeeded"] == 3
        await client.delete(resources.JOBS, "work", "shop", DeleteOptions(propagation_policy="Background"))
        await until(client, resources.PODS, "shop", lambda found: not found)
