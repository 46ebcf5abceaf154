"""Admission plugins as tables: what they add, what they refuse and in which words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from k3sd.apimachinery.errors import StatusError
from k3sd.apis import resources
from k3sd.apiserver.admission import build_chain
from k3sd.apiserver.admission.limits import LimitRanger
from k3sd.apiserver.admission.namespaces import NamespaceLifecycle
from k3sd.apiserver.admission.noderestriction import NodeRestriction, label_allowed
from k3sd.apiserver.admission.pods import DefaultTolerationSeconds, PodPriority, RuntimeClass, TaintNodesByCondition
from k3sd.apiserver.admission.quota import ResourceQuota
from k3sd.apiserver.admission.serviceaccount import TOKEN_PATH, ServiceAccount
from k3sd.apiserver.request import LOOPBACK, Attributes, RequestContext, UserInfo
from k3sd.config.settings import Settings

Obj = dict[str, Any]


class FakeRegistry:
    """Objects by (resource, namespace, name)."""

    def __init__(self, *objects: tuple[Any, Obj]) -> None:
        self.objects = {(r, o["metadata"].get("namespace", ""), o["metadata"]["name"]): o for r, o in objects}
        self.written: list[Obj] = []

    def read(self, resource: Any, name: str, namespace: str = "") -> Obj | None:
        return self.objects.get((resource, namespace, name))

    def read_all(self, resource: Any, namespace: str = "") -> Iterator[Obj]:
        return (o for (r, ns, _), o in self.objects.items() if r is resource and (not namespace or ns == namespace))

    async def modify(self, ctx: RequestContext, change: Any) -> None:
        current = self.read(ctx.resource, ctx.name, ctx.namespace)
        assert current is not None
        self.written.append(change(current))


def ns(phase: str = "Active", **meta: Any) -> tuple[Any, Obj]:
    return resources.NAMESPACES, {"metadata": {"name": "ns", **meta}, "status": {"phase": phase}}


ACCOUNT = (resources.SERVICEACCOUNTS, {"metadata": {"name": "default", "namespace": "ns"}})


def pod(resources_: Obj | None = None, **spec: Any) -> Obj:
    container: Obj = {"name": "c", "image": "i", "resources": resources_ or {}}
    return {"metadata": {"name": "p", "namespace": "ns"}, "spec": {"containers": [container]} | spec}


def attrs(
    obj: Obj | None, resource: Any = resources.PODS, operation: Any = "CREATE", *, old: Obj | None = None, **ctx: Any
) -> Attributes:
    fields = {"user": LOOPBACK, "verb": operation.lower(), "resource": resource, "namespace": "ns"} | ctx
    return Attributes(RequestContext(**fields), operation, obj, old)


def refusal(error: pytest.ExceptionInfo[StatusError]) -> str:
    return error.value.message


@pytest.mark.parametrize(
    ("objects", "code", "message"),
    [
        ([], 404, 'namespaces "ns" not found'),
        ([ns("Terminating")], 403, "unable to create new content in namespace ns because it is being terminated"),
    ],
    ids=["missing", "terminating"],
)
async def test_namespace_lifecycle(objects: list[Any], code: int, message: str) -> None:
    plugin = NamespaceLifecycle(FakeRegistry(*objects))  # type: ignore[arg-type]
    with pytest.raises(StatusError) as error:
        await plugin.admit(attrs(pod()))
    assert (error.value.code, message in refusal(error)) == (code, True)


async def test_terminating_namespace_says_so_in_a_cause() -> None:
    plugin = NamespaceLifecycle(FakeRegistry(ns("Terminating")))  # type: ignore[arg-type]
    with pytest.raises(StatusError) as error:
        await plugin.admit(attrs(pod()))
    assert [c["reason"] for c in error.value.details["causes"]] == ["NamespaceTerminating"]


async def test_service_account_gets_a_token_mounted_once() -> None:
    plugin = ServiceAccount(FakeRegistry(ACCOUNT), Settings())  # type: ignore[arg-type]
    item = pod()
    await plugin.admit(attrs(item))
    spec = item["spec"]
    assert spec["serviceAccountName"] == "default"
    (volume,) = spec["volumes"]
    assert volume["name"].startswith("kube-api-access-")
    assert [m["mountPath"] for m in spec["containers"][0]["volumeMounts"]] == [TOKEN_PATH]
    await plugin.admit(attrs(item))
    assert len(spec["volumes"]) == 1


@pytest.mark.parametrize(
    ("account", "of_pod", "mounted"),
    [(None, None, True), (False, None, False), (False, True, True), (True, False, False)],
    ids=["default", "account-no", "pod-yes-beats-account", "pod-no-beats-account"],
)
async def test_automount(account: bool | None, of_pod: bool | None, mounted: bool) -> None:
    owner: Obj = {"metadata": {"name": "default", "namespace": "ns"}}
    if account is not None:
        owner["automountServiceAccountToken"] = account
    item = pod() if of_pod is None else pod(automountServiceAccountToken=of_pod)
    await ServiceAccount(FakeRegistry((resources.SERVICEACCOUNTS, owner)), Settings()).admit(attrs(item))  # type: ignore[arg-type]
    assert ("volumes" in item["spec"]) is mounted


async def test_missing_service_account() -> None:
    plugin = ServiceAccount(FakeRegistry(), Settings())  # type: ignore[arg-type]
    with pytest.raises(StatusError) as error:
        await plugin.admit(attrs(pod()))
    text = 'pods "p" is forbidden: error looking up service account ns/default: serviceaccount "default" not found'
    assert refusal(error) == text


CLASSES = [
    (resources.PRIORITYCLASSES, {"metadata": {"name": "high"}, "value": 1000, "preemptionPolicy": "Never"}),
    (resources.PRIORITYCLASSES, {"metadata": {"name": "usual"}, "value": 5, "globalDefault": True}),
]


@pytest.mark.parametrize(
    ("spec", "priority", "policy"),
    [({"priorityClassName": "high"}, 1000, "Never"), ({}, 5, "PreemptLowerPriority")],
    ids=["named", "default"],
)
async def test_priority(spec: Obj, priority: int, policy: str) -> None:
    item = pod(**spec)
    await PodPriority(FakeRegistry(*CLASSES)).admit(attrs(item))  # type: ignore[arg-type]
    assert (item["spec"]["priority"], item["spec"]["preemptionPolicy"]) == (priority, policy)


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ({"priorityClassName": "none"}, "no PriorityClass with name none was found"),
        ({"priority": 7}, "the integer value of priority (7) must not be provided in pod spec"),
    ],
)
async def test_priority_refused(spec: Obj, text: str) -> None:
    with pytest.raises(StatusError) as error:
        await PodPriority(FakeRegistry()).admit(attrs(pod(**spec)))  # type: ignore[arg-type]
    assert text in refusal(error)


@pytest.mark.parametrize(
    ("given", "added"),
    [
        ([], 2),
        ([{"operator": "Exists"}], 0),
        ([{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"}], 1),
        ([{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoSchedule"}], 2),
    ],
    ids=["none", "everything", "one", "another-effect"],
)
async def test_default_tolerations(given: list[Obj], added: int) -> None:
    item = pod(tolerations=given)
    await DefaultTolerationSeconds().admit(attrs(item))
    assert len(item["spec"]["tolerations"]) == len(given) + added


async def test_new_nodes_are_tainted() -> None:
    node: Obj = {"metadata": {"name": "n"}, "spec": {}}
    await TaintNodesByCondition().admit(attrs(node, resources.NODES))
    assert node["spec"]["taints"] == [{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]


async def test_runtime_class() -> None:
    sandbox = {
        "metadata": {"name": "box"},
        "overhead": {"podFixed": {"cpu": "10m"}},
        "scheduling": {"nodeSelector": {"kind": "box"}, "tolerations": [{"key": "box", "operator": "Exists"}]},
    }
    plugin = RuntimeClass(FakeRegistry((resources.RUNTIMECLASSES, sandbox)))  # type: ignore[arg-type]
    item = pod(runtimeClassName="box")
    await plugin.admit(attrs(item))
    assert item["spec"]["overhead"] == {"cpu": "10m"}
    assert item["spec"]["nodeSelector"] == {"kind": "box"}
    with pytest.raises(StatusError, match='RuntimeClass "none" not found'):
        await plugin.admit(attrs(pod(runtimeClassName="none")))


def limits(**item: Any) -> tuple[Any, Obj]:
    return resources.LIMITRANGES, {
        "metadata": {"name": "l", "namespace": "ns"},
        "spec": {"limits": [{"type": "Container"} | item]},
    }


async def test_limit_defaults() -> None:
    plugin = LimitRanger(FakeRegistry(limits(default={"cpu": "1"}, defaultRequest={"cpu": "100m"})))  # type: ignore[arg-type]
    item = pod()
    await plugin.admit(attrs(item))
    assert item["spec"]["containers"][0]["resources"] == {"requests": {"cpu": "100m"}, "limits": {"cpu": "1"}}
    note = item["metadata"]["annotations"]["kubernetes.io/limit-ranger"]
    assert note == "LimitRanger plugin set: cpu request for container c; cpu limit for container c"


@pytest.mark.parametrize(
    ("item", "text"),
    [
        (limits(min={"cpu": "200m"}), "minimum cpu usage per Container is 200m, but request is 100m"),
        (limits(max={"cpu": "150m"}), "maximum cpu usage per Container is 150m, but limit is 200m"),
        (
            limits(maxLimitRequestRatio={"cpu": "1"}),
            "cpu max limit to request ratio per Container is 1, but provided ratio is 2.000000",
        ),
        (limits(max={"memory": "1Gi"}), "maximum memory usage per Container is 1Gi.  No limit is specified"),
    ],
    ids=["min", "max", "ratio", "unspecified"],
)
async def test_limits_refuse(item: tuple[Any, Obj], text: str) -> None:
    plugin = LimitRanger(FakeRegistry(item))  # type: ignore[arg-type]
    wanted = {"requests": {"cpu": "100m"}, "limits": {"cpu": "200m"}}
    with pytest.raises(StatusError) as error:
        await plugin.validate(attrs(pod(wanted)))
    assert text in refusal(error)


def quota(hard: Obj, used: Obj, name: str = "q", **spec: Any) -> tuple[Any, Obj]:
    meta = {"name": name, "namespace": "ns", "resourceVersion": "1"}
    return resources.RESOURCEQUOTAS, {"metadata": meta, "spec": {"hard": hard, **spec}, "status": {"hard": hard, "used": used}}


async def test_quota_charges_and_refuses() -> None:
    registry = FakeRegistry(quota({"pods": "2", "requests.cpu": "1"}, {"pods": "1", "requests.cpu": "500m"}))
    plugin = ResourceQuota(registry)  # type: ignore[arg-type]
    await plugin.validate(attrs(pod({"requests": {"cpu": "100m"}})))
    assert registry.written[-1]["status"]["used"] == {"pods": "2", "requests.cpu": "600m"}
    with pytest.raises(StatusError) as error:
        await plugin.validate(attrs(pod({"requests": {"cpu": "600m"}})))
    text = "exceeded quota: q, requested: requests.cpu=600m, used: requests.cpu=500m, limited: requests.cpu=1"
    assert refusal(error) == f'pods "p" is forbidden: {text}'
    with pytest.raises(StatusError, match=r"failed quota: q: must specify requests\.cpu for: c"):
        await plugin.validate(attrs(pod()))


async def test_quota_charges_all_or_none() -> None:
    registry = FakeRegistry(quota({"pods": "2"}, {"pods": "1"}, "a"), quota({"pods": "1"}, {"pods": "1"}, "b"))
    with pytest.raises(StatusError, match="exceeded quota: b"):
        await ResourceQuota(registry).validate(attrs(pod()))  # type: ignore[arg-type]
    assert registry.written == []


async def test_quota_dry_run_and_scopes_charge_nothing() -> None:
    registry = FakeRegistry(quota({"pods": "1"}, {"pods": "0"}))
    await ResourceQuota(registry).validate(attrs(pod(), dry_run=True))  # type: ignore[arg-type]
    scoped = FakeRegistry(quota({"pods": "0"}, {"pods": "0"}, scopes=["Terminating"]))
    await ResourceQuota(scoped).validate(attrs(pod()))  # type: ignore[arg-type]
    assert registry.written == scoped.written == []


KUBELET = UserInfo("system:node:n1", ("system:nodes",))


@pytest.mark.parametrize(
    ("obj", "resource", "operation", "extra", "text"),
    [
        ({"metadata": {"name": "n2"}}, resources.NODES, "CREATE", {}, 'node "n1" is not allowed to modify node "n2"'),
        (pod(), resources.PODS, "CREATE", {}, 'node "n1" can only create mirror pods'),
        (
            {"metadata": {"name": "n2"}},
            resources.LEASES,
            "CREATE",
            {"namespace": "kube-node-lease"},
            "can only access lease with the same name",
        ),
    ],
    ids=["other-node", "plain-pod", "other-lease"],
)
async def test_node_restriction(obj: Obj, resource: Any, operation: str, extra: Obj, text: str) -> None:
    with pytest.raises(StatusError) as error:
        await NodeRestriction(FakeRegistry()).admit(attrs(obj, resource, operation, user=KUBELET, **extra))  # type: ignore[arg-type]
    assert text in refusal(error)


@pytest.mark.parametrize(
    ("label", "allowed"),
    [("disk", True), ("example.com/x", True), ("kubernetes.io/hostname", True), ("node.kubernetes.io/x", True),
     ("node-role.kubernetes.io/control-plane", False), ("x.node-restriction.kubernetes.io/y", False)],
)  # fmt: skip
def test_node_labels(label: str, allowed: bool) -> None:
    assert label_allowed(label) is allowed


def test_config_maps_meet_only_the_cheap_plugins() -> None:
    chain = build_chain(FakeRegistry(), Settings())  # type: ignore[arg-type]
    names = [p.name for p in chain if p.handles(resources.CONFIGMAPS, "", "CREATE")]
    assert names == [
        "NamespaceLifecycle",
        "MutatingAdmissionPolicy",
        "MutatingAdmissionWebhook",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionWebhook",
        "ResourceQuota",
    ]
