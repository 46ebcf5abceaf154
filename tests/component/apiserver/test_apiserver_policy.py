"""Kinds, admission, authorization and subresources together, on a registry over the memory store (no HTTP)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from k3sd.apimachinery.errors import StatusError
from k3sd.apis import resources as r
from k3sd.apiserver.authn import Authenticator, PasswdFile
from k3sd.apiserver.authn.certificates import CertificateAuthenticator
from k3sd.apiserver.authn.tokens import TokenSigner
from k3sd.apiserver.authz import build_authorizer
from k3sd.apiserver.kinds.addresses import build_address
from k3sd.apiserver.kinds.services import ServiceStrategy
from k3sd.apiserver.registry import Registry
from k3sd.apiserver.request import UserInfo
from k3sd.apiserver.startup import make_startup_objects
from k3sd.client.api import DeleteOptions
from k3sd.client.inprocess import InProcessClient
from k3sd.config.settings import Settings
from tests.support.apiserver import open_registry, run_server

SETTINGS = Settings(service_cidr="10.43.0.0/28", service_node_port_range=(30000, 30003))


class Cluster:
    """A registry with its server-side parts, and a client for the administrator."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.admin = registry.client()

    def as_user(self, name: str, *groups: str) -> InProcessClient:
        return InProcessClient(self.registry, UserInfo(name, (*groups, "system:authenticated")), privileged=False)

    async def pod(self, name: str = "p", node: str = "", **spec: Any) -> dict[str, Any]:
        body = {"metadata": {"name": name, "labels": {"app": "a"}}, "spec": {**deepcopy(POD_SPEC), **spec}}
        if node:
            body["spec"]["nodeName"] = node
        return await self.admin.create(r.PODS, body, "default")

    async def service(self, name: str, **spec: Any) -> dict[str, Any]:
        spec.setdefault("ports", [{"port": 80}])
        return await self.admin.create(r.SERVICES, {"metadata": {"name": name}, "spec": spec}, "default")

    async def phase(self, name: str, phase: str, **status: Any) -> None:
        pod = deepcopy(await self.admin.get(r.PODS, name, "default"))
        pod["status"] = {**pod["status"], "phase": phase, **status}
        await self.admin.update(r.PODS, pod, subresource="status")


POD_SPEC = {"containers": [{"name": "c", "image": "busybox"}]}


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    from cryptography.hazmat.primitives.asymmetric import ec

    async with open_registry(replace(SETTINGS, data_dir=str(tmp_path))) as registry:
        authorizer = build_authorizer(registry.settings, registry)
        signer = TokenSigner(ec.generate_private_key(ec.SECP256R1()), [], SETTINGS.service_account_issuer)
        registry.authenticator = Authenticator(
            registry,
            signer,
            SETTINGS.api_audiences,
            CertificateAuthenticator(tmp_path / "none"),
            PasswdFile(tmp_path / "passwd"),
        )
        await make_startup_objects(registry)
        out = Cluster(registry)
        await out.admin.create(r.SERVICEACCOUNTS, {"metadata": {"name": "default"}}, "default")
        yield out
        assert authorizer.aggregator is not None
        await authorizer.aggregator.stop()


# Services


async def test_service_defaults_and_release(cluster: Cluster) -> None:
    service = await cluster.service(
        "a", type="NodePort", ports=[{"port": 80, "name": "t"}, {"port": 80, "name": "u", "protocol": "UDP"}]
    )
    spec = service["spec"]
    assert spec["clusterIPs"] == [spec["clusterIP"]]
    assert spec["ipFamilies"] == ["IPv4"]
    assert spec["ports"][0]["nodePort"] == spec["ports"][1]["nodePort"]
    with pytest.raises(StatusError, match="provided IP is already allocated"):
        await cluster.service("b", clusterIP=spec["clusterIP"])
    with pytest.raises(StatusError, match="provided port is already allocated"):
        await cluster.service("b", type="NodePort", ports=[{"port": 1, "nodePort": spec["ports"][0]["nodePort"]}])
    with pytest.raises(StatusError, match=r"The range of valid ports is 30000-30003"):
        await cluster.service("b", type="NodePort", ports=[{"port": 1, "nodePort": 80}])
    await cluster.admin.delete(r.SERVICES, "a", "default")
    again = await cluster.service("b", clusterIP=spec["clusterIP"])
    assert again["spec"]["clusterIP"] == spec["clusterIP"]


async def test_service_failed_create_leaks_nothing(cluster: Cluster) -> None:
    await cluster.service("a")
    for _ in range(30):
        with pytest.raises(StatusError) as caught:
            await cluster.service("a", type="NodePort")
        assert caught.value.reason == "AlreadyExists"
    ports = [(await cluster.service(f"n{i}", type="NodePort"))["spec"]["ports"][0]["nodePort"] for i in range(4)]
    assert sorted(ports) == [30000, 30001, 30002, 30003]
    with pytest.raises(StatusError, match="range is full"):
        await cluster.service("full", type="NodePort")


async def test_service_dry_run_takes_nothing(cluster: Cluster) -> None:
    for _ in range(30):
        body = {"metadata": {"name": "dry"}, "spec": {"ports": [{"port": 80}]}}
        made = await cluster.admin.create(r.SERVICES, body, "default", dry_run=True)
        assert made["spec"]["clusterIP"]


async def test_service_type_changes(cluster: Cluster) -> None:
    service = deepcopy(await cluster.service("a", type="NodePort"))
    service["spec"]["type"] = "ExternalName"
    service["spec"]["externalName"] = "example.com"
    service = deepcopy(await cluster.admin.update(r.SERVICES, service))
    assert not {"clusterIP", "clusterIPs", "ipFamilies"} & service["spec"].keys()
    assert "nodePort" not in service["spec"]["ports"][0]
    service["spec"]["type"] = "ClusterIP"
    del service["spec"]["externalName"]
    service = deepcopy(await cluster.admin.update(r.SERVICES, service))
    assert service["spec"]["clusterIP"]
    other = "10.43.0.14" if service["spec"]["clusterIP"] == "10.43.0.13" else "10.43.0.13"
    service["spec"]["clusterIP"] = other
    service["spec"]["clusterIPs"] = [other]
    with pytest.raises(StatusError, match="may not change once set"):
        await cluster.admin.update(r.SERVICES, service)


async def test_service_update_keeps_what_was_left_out(cluster: Cluster) -> None:
    made = await cluster.service("a", type="NodePort")
    bare = {"metadata": {"name": "a", "namespace": "default"}, "spec": {"type": "NodePort", "ports": [{"port": 80}]}}
    kept = await cluster.admin.update(r.SERVICES, bare)
    assert kept["spec"] == made["spec"]
    assert kept["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]


async def test_concurrent_service_creates_get_distinct_numbers(cluster: Cluster) -> None:
    made = await asyncio.gather(*(cluster.service(f"s{i}", type="NodePort") for i in range(4)))
    assert len({s["spec"]["clusterIP"] for s in made}) == 4
    assert len({s["spec"]["ports"][0]["nodePort"] for s in made}) == 4


async def addresses(cluster: Cluster) -> dict[str, str]:
    """IPAddress to the Service it speaks for, once released ones are gone."""
    for _ in range(20):
        await asyncio.sleep(0)
    items = (await cluster.admin.list(r.IPADDRESSES)).items
    return {i["metadata"]["name"]: i["spec"]["parentRef"]["name"] for i in items}


async def test_addresses_are_objects(cluster: Cluster) -> None:
    before = await addresses(cluster)
    service = deepcopy(await cluster.service("a"))
    ip = service["spec"]["clusterIP"]
    assert await addresses(cluster) == {**before, ip: "a"}
    with pytest.raises(StatusError, match="already exists"):
        await cluster.service("a")
    assert await addresses(cluster) == {**before, ip: "a"}
    service["spec"] = {"type": "ExternalName", "externalName": "example.com"}
    await cluster.admin.update(r.SERVICES, service)
    assert await addresses(cluster) == before
    await cluster.service("b", clusterIP=ip)
    assert await addresses(cluster) == {**before, ip: "b"}
    await cluster.admin.delete(r.SERVICES, "b", "default")
    assert await addresses(cluster) == before


async def test_address_left_behind_is_taken_over_and_a_foreign_one_is_not(cluster: Cluster) -> None:
    await cluster.admin.create(r.IPADDRESSES, build_address("10.43.0.5", "default", "gone"))
    foreign = build_address("10.43.0.6", "default", "gateway")
    foreign["spec"]["parentRef"]["resource"] = "gateways"
    await cluster.admin.create(r.IPADDRESSES, foreign)
    with pytest.raises(StatusError, match="provided IP is already allocated"):
        await cluster.service("a", clusterIP="10.43.0.5")  # another server may be storing that Service now
    strategy = cluster.registry.strategies[r.SERVICES]
    assert isinstance(strategy, ServiceStrategy)
    strategy.claims.stale_seconds = 0
    assert (await cluster.service("a", clusterIP="10.43.0.5"))["spec"]["clusterIP"] == "10.43.0.5"
    with pytest.raises(StatusError, match="provided IP is already allocated"):
        await cluster.service("b", clusterIP="10.43.0.6")
    made = [await cluster.service(f"s{i}") for i in range(11)]
    assert "10.43.0.6" not in {s["spec"]["clusterIP"] for s in made}


async def test_headless_service(cluster: Cluster) -> None:
    service = await cluster.service("h", clusterIP="None")
    assert service["spec"]["clusterIPs"] == ["None"]
    assert service["spec"]["ipFamilies"] == ["IPv4"]


# Pods


async def test_pod_is_completed_by_the_server(cluster: Cluster) -> None:
    pod = await cluster.pod()
    assert pod["status"] == {"phase": "Pending", "qosClass": "BestEffort"}
    assert pod["metadata"]["generation"] == 1
    assert pod["spec"]["serviceAccountName"] == "default"
    assert pod["spec"]["priority"] == 0
    mount = pod["spec"]["containers"][0]["volumeMounts"][0]
    assert mount["mountPath"] == "/var/run/secrets/kubernetes.io/serviceaccount"


async def test_binding(cluster: Cluster) -> None:
    await cluster.pod()
    body = {"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}}
    answer = await cluster.admin.create(r.PODS, body, "default", name="p", subresource="binding")
    assert answer["status"] == "Success"
    pod = await cluster.admin.get(r.PODS, "p", "default")
    assert pod["spec"]["nodeName"] == "n1"
    assert pod["metadata"]["generation"] == 1
    assert [(c["type"], c["status"]) for c in pod["status"]["conditions"]] == [("PodScheduled", "True")]
    with pytest.raises(StatusError, match='pod p is already assigned to node "n1"') as caught:
        await cluster.admin.create(r.PODS, body, "default", name="p", subresource="binding")
    assert caught.value.code == 409


async def test_gated_pod_is_not_bound(cluster: Cluster) -> None:
    pod = await cluster.pod(schedulingGates=[{"name": "example.com/wait"}])
    assert pod["status"]["conditions"][0]["reason"] == "SchedulingGated"
    body = {"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}}
    with pytest.raises(StatusError, match=r"non-empty \.spec\.schedulingGates"):
        await cluster.admin.create(r.PODS, body, "default", name="p", subresource="binding")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": "other"}, ""),
        ({"command": ["x"]}, "pod updates may not change fields other than"),
        ({"name": "d"}, "pod updates may not change fields other than"),
    ],
)
async def test_pod_container_update(cluster: Cluster, change: dict[str, Any], message: str) -> None:
    pod = deepcopy(await cluster.pod())
    pod["spec"]["containers"][0].update(change)
    if message:
        with pytest.raises(StatusError, match=message):
            await cluster.admin.update(r.PODS, pod)
    else:
        assert (await cluster.admin.update(r.PODS, pod))["metadata"]["generation"] == 2


async def test_pod_deletion(cluster: Cluster) -> None:
    await cluster.pod("unscheduled")
    await cluster.admin.delete(r.PODS, "unscheduled", "default")
    with pytest.raises(StatusError, match="not found"):
        await cluster.admin.get(r.PODS, "unscheduled", "default")
    await cluster.pod("p", node="n1")
    await cluster.admin.delete(r.PODS, "p", "default")
    pod = await cluster.admin.get(r.PODS, "p", "default")
    assert pod["metadata"]["deletionGracePeriodSeconds"] == 30
    assert pod["metadata"]["generation"] == 2
    await cluster.admin.delete(r.PODS, "p", "default", DeleteOptions(grace_period_seconds=5))
    assert (await cluster.admin.get(r.PODS, "p", "default"))["metadata"]["deletionGracePeriodSeconds"] == 5
    await cluster.admin.delete(r.PODS, "p", "default", DeleteOptions(grace_period_seconds=0, uid=pod["metadata"]["uid"]))
    with pytest.raises(StatusError, match="not found"):
        await cluster.admin.get(r.PODS, "p", "default")


async def test_ephemeral_containers(cluster: Cluster) -> None:
    pod = deepcopy(await cluster.pod(node="n1"))
    pod["spec"]["ephemeralContainers"] = [{"name": "debug", "image": "busybox"}]
    with pytest.raises(StatusError, match="pod updates may not change fields"):
        await cluster.admin.update(r.PODS, deepcopy(pod))
    changed = deepcopy(await cluster.admin.update(r.PODS, deepcopy(pod), subresource="ephemeralcontainers"))
    assert changed["spec"]["ephemeralContainers"][0]["terminationMessagePolicy"] == "File"
    assert changed["metadata"]["generation"] == 2
    changed["spec"]["ephemeralContainers"] = []
    with pytest.raises(StatusError, match='existing ephemeral containers "debug" may not be removed'):
        await cluster.admin.update(r.PODS, changed, subresource="ephemeralcontainers")


async def test_resize(cluster: Cluster) -> None:
    limits = {"requests": {"cpu": "100m", "memory": "32Mi"}, "limits": {"cpu": "100m", "memory": "32Mi"}}
    pod = deepcopy(await cluster.pod(node="n1", containers=[{"name": "c", "image": "b", "resources": limits}]))
    assert pod["status"]["qosClass"] == "Guaranteed"
    pod["spec"]["containers"][0]["resources"] = {k: {"cpu": "200m", "memory": "32Mi"} for k in limits}
    with pytest.raises(StatusError, match="pod updates may not change fields"):
        await cluster.admin.update(r.PODS, deepcopy(pod))
    with pytest.raises(StatusError, match='pods "p" is forbidden: node "n1" not found'):
        await cluster.admin.update(r.PODS, deepcopy(pod), subresource="resize")
    node = deepcopy(await cluster.admin.create(r.NODES, {"metadata": {"name": "n1"}}))
    node["status"] = {**(node.get("status") or {}), "allocatable": {"cpu": "250m", "memory": "1Gi"}}
    node = deepcopy(await cluster.admin.update(r.NODES, node, subresource="status"))
    beyond = deepcopy(pod)
    beyond["spec"]["containers"][0]["resources"] = {k: {"cpu": "300m", "memory": "2Gi"} for k in limits}
    with pytest.raises(StatusError) as raised:
        await cluster.admin.update(r.PODS, beyond, subresource="resize")
    assert str(raised.value) == (
        'pods "p" is forbidden: node didn\'t have enough allocatable resources: '
        "cpu, requested: 300, allocatable: 250; memory, requested: 2147483648, allocatable: 1073741824"
    )
    assert (raised.value.code, raised.value.details["causes"]) == (403, [{"reason": "NodeCapacity"}])
    node["metadata"]["labels"] = {**(node["metadata"].get("labels") or {}), "kubernetes.io/os": "windows"}
    node = deepcopy(await cluster.admin.update(r.NODES, node))
    with pytest.raises(StatusError, match='pod resize is only supported on linux nodes, node "n1" is "windows"'):
        await cluster.admin.update(r.PODS, deepcopy(pod), subresource="resize")
    node["metadata"]["labels"]["kubernetes.io/os"] = "linux"
    await cluster.admin.update(r.NODES, node)
    changed = deepcopy(await cluster.admin.update(r.PODS, deepcopy(pod), subresource="resize"))
    assert changed["spec"]["containers"][0]["resources"]["limits"]["cpu"] == "200m"
    assert changed["metadata"]["generation"] == 2
    changed["spec"]["containers"][0]["resources"]["limits"]["cpu"] = "300m"
    with pytest.raises(StatusError, match="Pod QOS Class may not change as a result of resizing"):
        await cluster.admin.update(r.PODS, changed, subresource="resize")
    for names in (("c2",), ("c", "d")):
        changed["spec"]["containers"] = [{**pod["spec"]["containers"][0], "name": name} for name in names]
        with pytest.raises(StatusError, match=r"containers may not be (renamed or reordered|added or removed) on resize"):
            await cluster.admin.update(r.PODS, deepcopy(changed), subresource="resize")


def budget(**status: Any) -> dict[str, Any]:
    spec = {"minAvailable": 1, "selector": {"matchLabels": {"app": "a"}}}
    return {"metadata": {"name": "pdb"}, "spec": spec, "status": status}


async def test_eviction(cluster: Cluster) -> None:
    await cluster.pod(node="n1")
    await cluster.phase("p", "Running", conditions=[{"type": "Ready", "status": "True"}])
    made = deepcopy(await cluster.admin.create(r.PODDISRUPTIONBUDGETS, budget(), "default"))
    body = {"kind": "Eviction", "apiVersion": "policy/v1", "metadata": {"name": "p"}}

    async def evict() -> Any:
        return await cluster.admin.create(r.PODS, body, "default", name="p", subresource="eviction")

    with pytest.raises(StatusError) as caught:
        await evict()
    assert caught.value.details["causes"][0]["message"] == "The disruption budget pdb is still being processed by the server."
    made["status"] = {
        "observedGeneration": 1,
        "disruptionsAllowed": 0,
        "currentHealthy": 1,
        "desiredHealthy": 1,
        "expectedPods": 1,
    }
    made = deepcopy(await cluster.admin.update(r.PODDISRUPTIONBUDGETS, made, subresource="status"))
    with pytest.raises(StatusError) as caught:
        await evict()
    assert caught.value.code == 429
    assert caught.value.message == "Cannot evict pod as it would violate the pod's disruption budget."
    assert caught.value.details["causes"] == [
        {"reason": "DisruptionBudget", "message": "The disruption budget pdb needs 1 healthy pods and has 1 currently"}
    ]
    made["status"]["disruptionsAllowed"] = 1
    await cluster.admin.update(r.PODDISRUPTIONBUDGETS, made, subresource="status")
    assert (await evict())["status"] == "Success"
    pod = await cluster.admin.get(r.PODS, "p", "default")
    assert pod["metadata"]["deletionTimestamp"]
    assert any(c["type"] == "DisruptionTarget" for c in pod["status"]["conditions"])
    after = await cluster.admin.get(r.PODDISRUPTIONBUDGETS, "pdb", "default")
    assert after["status"]["disruptionsAllowed"] == 0
    assert list(after["status"]["disruptedPods"]) == ["p"]


# Workloads


async def test_scale(cluster: Cluster) -> None:
    template = {"metadata": {"labels": {"a": "b"}}, "spec": POD_SPEC}
    body = {"metadata": {"name": "d"}, "spec": {"replicas": 2, "selector": {"matchLabels": {"a": "b"}}, "template": template}}
    await cluster.admin.create(r.DEPLOYMENTS, body, "default")
    scale = deepcopy(await cluster.admin.get(r.DEPLOYMENTS, "d", "default", subresource="scale"))
    assert scale["spec"] == {"replicas": 2}
    assert scale["status"] == {"replicas": 0, "selector": "a=b"}
    scale["spec"]["replicas"] = 5
    scale = deepcopy(await cluster.admin.update(r.DEPLOYMENTS, scale, subresource="scale"))
    assert scale["spec"]["replicas"] == 5
    assert (await cluster.admin.get(r.DEPLOYMENTS, "d", "default"))["metadata"]["generation"] == 2
    scale["spec"]["replicas"] = -1
    with pytest.raises(StatusError, match="must be greater than or equal to 0"):
        await cluster.admin.update(r.DEPLOYMENTS, scale, subresource="scale")
    scale["spec"]["replicas"] = 1
    scale["metadata"]["resourceVersion"] = "1"
    with pytest.raises(StatusError) as caught:
        await cluster.admin.update(r.DEPLOYMENTS, scale, subresource="scale")
    assert caught.value.reason == "Conflict"


async def test_selector_is_immutable(cluster: Cluster) -> None:
    template = {"metadata": {"labels": {"a": "b", "c": "d"}}, "spec": POD_SPEC}
    body = {"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template}}
    made = deepcopy(await cluster.admin.create(r.DEPLOYMENTS, body, "default"))
    made["spec"]["selector"] = {"matchLabels": {"c": "d"}}
    with pytest.raises(StatusError, match="field is immutable"):
        await cluster.admin.update(r.DEPLOYMENTS, made)


async def test_job_selector_is_generated(cluster: Cluster) -> None:
    body = {"metadata": {"generateName": "j-"}, "spec": {"template": {"spec": {**POD_SPEC, "restartPolicy": "Never"}}}}
    job = await cluster.admin.create(r.JOBS, body, "default")
    meta, labels = job["metadata"], job["spec"]["template"]["metadata"]["labels"]
    assert job["spec"]["selector"] == {"matchLabels": {"batch.kubernetes.io/controller-uid": meta["uid"]}}
    assert labels["batch.kubernetes.io/job-name"] == meta["name"]
    assert labels["controller-uid"] == meta["uid"]


# Namespaces


async def test_namespace_waits_for_finalization(cluster: Cluster) -> None:
    await cluster.admin.create(r.NAMESPACES, {"metadata": {"name": "n"}})
    await cluster.admin.delete(r.NAMESPACES, "n")
    namespace = deepcopy(await cluster.admin.get(r.NAMESPACES, "n"))
    assert namespace["status"]["phase"] == "Terminating"
    assert namespace["metadata"]["labels"] == {"kubernetes.io/metadata.name": "n"}
    with pytest.raises(StatusError) as caught:
        await cluster.admin.create(r.CONFIGMAPS, {"metadata": {"name": "c"}}, "n")
    assert caught.value.code == 403
    assert caught.value.details["causes"][0]["reason"] == "NamespaceTerminating"
    namespace["spec"] = {}
    await cluster.admin.update(r.NAMESPACES, deepcopy(namespace))
    assert (await cluster.admin.get(r.NAMESPACES, "n"))["spec"]["finalizers"] == ["kubernetes"]
    await cluster.admin.update(r.NAMESPACES, namespace, subresource="finalize")
    with pytest.raises(StatusError, match='namespaces "n" not found'):
        await cluster.admin.get(r.NAMESPACES, "n")


async def test_namespace_of_a_cluster_wide_object_is_ignored(cluster: Cluster) -> None:
    made = await cluster.admin.create(r.PRIORITYCLASSES, {"metadata": {"name": "c", "namespace": "x"}, "value": 1})
    assert "namespace" not in made["metadata"]


async def test_missing_namespace(cluster: Cluster) -> None:
    with pytest.raises(StatusError, match='namespaces "nope" not found'):
        await cluster.admin.create(r.CONFIGMAPS, {"metadata": {"name": "c"}}, "nope")


# Configuration


async def test_secret_and_config_map_rules(cluster: Cluster) -> None:
    body = {"metadata": {"name": "s"}, "stringData": {"a": "b"}, "immutable": True}
    secret = deepcopy(await cluster.admin.create(r.SECRETS, body, "default"))
    assert secret["data"] == {"a": "Yg=="}
    assert "stringData" not in secret
    assert secret["type"] == "Opaque"
    secret["data"] = {"a": "Yw=="}
    with pytest.raises(StatusError, match="field is immutable when `immutable` is set"):
        await cluster.admin.update(r.SECRETS, secret)
    with pytest.raises(StatusError, match=r"data\[tls.key\]: Required value"):
        await cluster.admin.create(
            r.SECRETS, {"metadata": {"name": "t"}, "type": "kubernetes.io/tls", "data": {"tls.crt": ""}}, "default"
        )
    with pytest.raises(StatusError, match=r'data\[\]: Invalid value: ""'):
        await cluster.admin.create(r.CONFIGMAPS, {"metadata": {"name": "c"}, "data": {"": "x"}}, "default")


# Authorization


async def test_aggregated_roles_are_filled(cluster: Cluster) -> None:
    for _ in range(50):
        view = await cluster.admin.get(r.CLUSTERROLES, "view")
        admin = await cluster.admin.get(r.CLUSTERROLES, "admin")
        if len(admin.get("rules") or []) > len(view.get("rules") or []) > 5:
            break
        await asyncio.sleep(0)
    assert {"pods"} <= {x for rule in view["rules"] for x in rule["resources"]}
    assert not any("secrets" in rule["resources"] for rule in view["rules"])


async def test_rbac_takes_effect_with_the_write(cluster: Cluster) -> None:
    bob = cluster.as_user("bob")
    with pytest.raises(StatusError) as caught:
        await bob.get(r.PODS, "x", "default")
    assert caught.value.message == (
        'pods "x" is forbidden: User "bob" cannot get resource "pods" in API group "" in the namespace "default"'
    )
    role = {"metadata": {"name": "reader"}, "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]}
    await cluster.admin.create(r.ROLES, role, "default")
    ref = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"}
    subject = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "bob"}
    await cluster.admin.create(r.ROLEBINDINGS, {"metadata": {"name": "b"}, "roleRef": ref, "subjects": [subject]}, "default")
    with pytest.raises(StatusError, match='pods "x" not found'):
        await bob.get(r.PODS, "x", "default")
    await cluster.admin.delete(r.ROLEBINDINGS, "b", "default")
    with pytest.raises(StatusError, match="is forbidden"):
        await bob.get(r.PODS, "x", "default")


async def test_no_escalation(cluster: Cluster) -> None:
    api = "rbac.authorization.k8s.io"
    rules = [{"verbs": ["*"], "apiGroups": [api], "resources": ["roles", "rolebindings"]}]
    await cluster.admin.create(r.CLUSTERROLES, {"metadata": {"name": "granter"}, "rules": rules})
    ref = {"apiGroup": api, "kind": "ClusterRole", "name": "granter"}
    subjects = [{"apiGroup": api, "kind": "User", "name": "eve"}]
    # Verb "*" includes escalate and bind; take them away.
    rules[0]["verbs"] = ["create", "update", "get"]
    await cluster.admin.update(r.CLUSTERROLES, {"metadata": {"name": "granter"}, "rules": rules})
    await cluster.admin.create(r.CLUSTERROLEBINDINGS, {"metadata": {"name": "b"}, "roleRef": ref, "subjects": subjects})
    eve = cluster.as_user("eve")
    secrets = [{"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"]}]
    with pytest.raises(StatusError) as caught:
        await eve.create(r.ROLES, {"metadata": {"name": "r"}, "rules": secrets}, "default")
    assert caught.value.message == (
        'roles.rbac.authorization.k8s.io "r" is forbidden: user "eve" (groups=["system:authenticated"]) is attempting to grant '
        'RBAC permissions not currently held:\n{APIGroups:[""], Resources:["secrets"], Verbs:["get"]}'
    )
    admin_ref = {"apiGroup": api, "kind": "ClusterRole", "name": "cluster-admin"}
    with pytest.raises(StatusError, match="is attempting to grant RBAC permissions not currently held"):
        await eve.create(r.ROLEBINDINGS, {"metadata": {"name": "e"}, "roleRef": admin_ref, "subjects": subjects}, "default")
    await eve.create(r.ROLES, {"metadata": {"name": "r"}, "rules": [{**rules[0], "verbs": ["get"]}]}, "default")


async def test_access_reviews(cluster: Cluster) -> None:
    attributes = {"verb": "get", "resource": "pods", "namespace": "default"}
    bob = InProcessClient(cluster.registry, UserInfo("bob", ("system:authenticated",)))
    answer = await bob.create(r.SELFSUBJECTACCESSREVIEWS, {"spec": {"resourceAttributes": attributes}})
    assert answer["status"]["allowed"] is False
    spec = {"resourceAttributes": attributes, "user": "x", "groups": ["system:masters"]}
    assert (await bob.create(r.SUBJECTACCESSREVIEWS, {"spec": spec}))["status"]["allowed"] is True
    with pytest.raises(StatusError, match="at least one of user or group must be specified"):
        await bob.create(r.SUBJECTACCESSREVIEWS, {"spec": {"resourceAttributes": attributes}})
    with pytest.raises(StatusError, match=r"must match metadata\.namespace"):
        local = {"spec": {"resourceAttributes": {**attributes, "namespace": "other"}, "user": "x"}}
        await bob.create(r.LOCALSUBJECTACCESSREVIEWS, local, "default")
    rules = (await bob.create(r.SELFSUBJECTRULESREVIEWS, {"spec": {"namespace": "default"}}))["status"]
    assert any("/healthz" in rule["nonResourceURLs"] for rule in rules["nonResourceRules"])
    who = await bob.create(r.SELFSUBJECTREVIEWS, {})
    assert who["status"]["userInfo"]["username"] == "bob"


async def test_token_request_and_review(cluster: Cluster) -> None:
    pod = await cluster.pod(node="n1")
    ref = {"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": pod["metadata"]["uid"]}
    body = {"spec": {"expirationSeconds": 3607, "boundObjectRef": ref}}
    answer = await cluster.admin.create(r.SERVICEACCOUNTS, body, "default", name="default", subresource="token")
    review = await cluster.admin.create(r.TOKENREVIEWS, {"spec": {"token": answer["status"]["token"]}})
    user = review["status"]["user"]
    assert user["username"] == "system:serviceaccount:default:default"
    assert user["extra"]["authentication.kubernetes.io/pod-name"] == ["p"]
    assert user["extra"]["authentication.kubernetes.io/node-name"] == ["n1"]
    await cluster.admin.delete(r.PODS, "p", "default", DeleteOptions(grace_period_seconds=0))
    review = await cluster.admin.create(r.TOKENREVIEWS, {"spec": {"token": answer["status"]["token"]}})
    assert "authenticated" not in review["status"]
    with pytest.raises(StatusError, match="may not specify a duration less than 10 minutes"):
        short = {"spec": {"expirationSeconds": 60}}
        await cluster.admin.create(r.SERVICEACCOUNTS, short, "default", name="default", subresource="token")
    node = cluster.as_user("system:node:n2", "system:nodes")
    with pytest.raises(StatusError, match="no relationship found between node 'n2' and this object"):
        await node.create(r.SERVICEACCOUNTS, {"spec": {}}, "default", name="default", subresource="token")


async def test_certificate_approval_needs_the_signer(cluster: Cluster) -> None:
    request = certificate_request("system:masters")
    spec = {"request": request, "usages": ["client auth"], "signerName": "kubernetes.io/kube-apiserver-client"}
    with pytest.raises(StatusError, match="signer with system:masters group is not allowed"):
        await cluster.admin.create(r.CERTIFICATESIGNINGREQUESTS, {"metadata": {"name": "m"}, "spec": spec})
    spec["request"] = certificate_request("devs")
    made = deepcopy(await cluster.admin.create(r.CERTIFICATESIGNINGREQUESTS, {"metadata": {"name": "c"}, "spec": spec}))
    assert made["spec"]["username"] == "system:apiserver"
    made["status"] = {"conditions": [{"type": "Approved", "status": "True", "reason": "r", "message": "m"}]}
    eve = InProcessClient(cluster.registry, UserInfo("eve"), privileged=False)
    with pytest.raises(StatusError, match="is forbidden"):
        await eve.update(r.CERTIFICATESIGNINGREQUESTS, deepcopy(made), subresource="approval")
    approved = await cluster.admin.update(r.CERTIFICATESIGNINGREQUESTS, made, subresource="approval")
    assert approved["status"]["conditions"][0]["lastUpdateTime"]


def certificate_request(organization: str) -> str:
    import base64

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, "u"), x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization)]
    )
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    return base64.b64encode(request.public_bytes(serialization.Encoding.PEM)).decode()


async def test_claims_grow_only_where_their_class_allows(cluster: Cluster) -> None:
    await cluster.admin.create(r.STORAGECLASSES, {"metadata": {"name": "fixed"}, "provisioner": "example.com/p"})
    spec = {"accessModes": ["ReadWriteOnce"], "storageClassName": "fixed", "resources": {"requests": {"storage": "1Gi"}}}
    claim = deepcopy(await cluster.admin.create(r.PERSISTENTVOLUMECLAIMS, {"metadata": {"name": "c"}, "spec": spec}, "default"))
    assert claim["metadata"]["finalizers"] == ["kubernetes.io/pvc-protection"]
    claim["status"] = {"phase": "Bound", "capacity": {"storage": "1Gi"}}
    claim = deepcopy(await cluster.admin.update(r.PERSISTENTVOLUMECLAIMS, claim, subresource="status"))
    claim["spec"]["resources"]["requests"]["storage"] = "2Gi"
    with pytest.raises(StatusError, match="only dynamically provisioned pvc can be resized"):
        await cluster.admin.update(r.PERSISTENTVOLUMECLAIMS, deepcopy(claim))
    growing = {"metadata": {"name": "fixed"}, "provisioner": "example.com/p", "allowVolumeExpansion": True}
    await cluster.admin.update(r.STORAGECLASSES, growing)
    grown = deepcopy(await cluster.admin.update(r.PERSISTENTVOLUMECLAIMS, claim))
    grown["spec"]["accessModes"] = ["ReadWriteMany"]
    with pytest.raises(StatusError, match="spec is immutable after creation except resources.requests"):  # noqa: RUF043
        await cluster.admin.update(r.PERSISTENTVOLUMECLAIMS, grown)


async def test_pod_security_by_namespace_label(cluster: Cluster) -> None:
    with pytest.raises(StatusError, match="must be one of privileged, baseline, restricted"):
        labels = {"pod-security.kubernetes.io/enforce": "strict"}
        await cluster.admin.create(r.NAMESPACES, {"metadata": {"name": "s", "labels": labels}})
    labels = {"pod-security.kubernetes.io/enforce": "baseline"}
    await cluster.admin.create(r.NAMESPACES, {"metadata": {"name": "s", "labels": labels}})
    await cluster.admin.create(r.SERVICEACCOUNTS, {"metadata": {"name": "default"}}, "s")
    body = {"metadata": {"name": "p"}, "spec": {**deepcopy(POD_SPEC), "hostNetwork": True}}
    with pytest.raises(StatusError) as caught:
        await cluster.admin.create(r.PODS, deepcopy(body), "s")
    assert caught.value.message == (
        'pods "p" is forbidden: violates PodSecurity "baseline:latest": host namespaces (hostNetwork=true)'
    )
    await cluster.admin.create(r.PODS, body, "default")


async def test_concurrent_creates_share_a_quota(tmp_path: Path, store: str) -> None:
    """Who comes in time gets the last unit; nobody is sent away because somebody else was faster with the quota."""
    async with run_server(tmp_path, store) as server:
        client = server.registry.client()
        quota = {"metadata": {"name": "q"}, "spec": {"hard": {"configmaps": "20"}}}
        made = await client.create(r.RESOURCEQUOTAS, quota, "default")
        made = {**made, "status": {"hard": {"configmaps": "20"}, "used": {"configmaps": "0"}}}
        await client.update(r.RESOURCEQUOTAS, made, subresource="status")

        async def create(number: int) -> str:
            try:
                await client.create(r.CONFIGMAPS, {"metadata": {"name": f"c{number}"}}, "default")
            except StatusError as error:
                return error.reason
            return "created"

        answers = await asyncio.gather(*(create(i) for i in range(30)))
        assert (answers.count("created"), answers.count("Forbidden")) == (20, 10)
        shown = await client.get(r.RESOURCEQUOTAS, "q", "default")
        assert shown["status"]["used"] == {"configmaps": "20"}
