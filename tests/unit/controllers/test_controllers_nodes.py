"""Node IPAM, node lifecycle, taint eviction and pod GC."""

from __future__ import annotations

from typing import Any

import pytest

from k3sd.apimachinery import timefmt
from k3sd.apimachinery.errors import Obj
from k3sd.apis import resources
from k3sd.config.settings import Settings
from k3sd.controllers.nodehealth import eviction_interval, merge_taints, min_toleration_seconds
from k3sd.controllers.nodeipam import CIDRSet, NodeIPAMController
from k3sd.controllers.nodelifecycle import NodeLifecycleController
from k3sd.controllers.objects import condition_status, find_condition
from k3sd.controllers.podgc import PodGarbageCollector
from k3sd.controllers.tainteviction import TaintEvictionController
from tests.fakes.clock import wall_clock
from tests.fakes.harness import Harness, ready_status


async def node(h: Harness, name: str, ready: str = "True") -> Obj:
    made = await h.create(resources.NODES, {"kind": "Node", "apiVersion": "v1", "metadata": {"name": name}, "spec": {}})
    now = timefmt.from_epoch(wall_clock())
    condition = {"type": "Ready", "status": ready, "lastHeartbeatTime": now, "lastTransitionTime": now}
    await h.status(resources.NODES, made, conditions=[condition])
    lease = {"metadata": {"name": name, "namespace": "kube-node-lease"}, "spec": {"renewTime": now}}
    await h.create(resources.LEASES, lease)
    return made


async def beat(h: Harness, *names: str, seconds: float) -> None:
    """Renew leases every 10 s."""
    for _ in range(int(seconds // 10)):
        for name in names:
            now = timefmt.from_epoch_micro(wall_clock())
            await h.client.patch(resources.LEASES, name, {"spec": {"renewTime": now}}, "kube-node-lease")
        await h.settle(10)


async def pod(h: Harness, name: str, node_name: str = "n1", tolerations: list[Any] | None = None, **metadata: Any) -> Obj:
    made = await h.create(
        resources.PODS,
        {
            "kind": "Pod",
            "apiVersion": "v1",
            "metadata": {"name": name, "namespace": "shop", **metadata},
            "spec": {"nodeName": node_name, "tolerations": tolerations or []},
        },
    )
    await h.status(resources.PODS, made, **ready_status())
    return made


def taints(h: Harness, name: str) -> set[str]:
    live = next(n for n in h.all(resources.NODES) if n["metadata"]["name"] == name)
    return {f"{t['key'].rpartition('/')[2]}:{t['effect']}" for t in live["spec"].get("taints") or ()}


async def test_nodes_get_distinct_shares_and_give_them_back():
    async with Harness(NodeIPAMController, settings=Settings(cluster_cidr="10.42.0.0/22")) as h:
        await h.create(resources.NODES, {"metadata": {"name": "old"}, "spec": {"podCIDR": "10.42.1.0/24"}})
        for i in range(3):
            await h.create(resources.NODES, {"metadata": {"name": f"n{i}"}, "spec": {}})
        await h.settle()
        found = {n["metadata"]["name"]: n["spec"].get("podCIDR") for n in h.all(resources.NODES)}
        assert sorted(found.values()) == ["10.42.0.0/24", "10.42.1.0/24", "10.42.2.0/24", "10.42.3.0/24"]
        late = await h.create(resources.NODES, {"metadata": {"name": "late"}, "spec": {}})
        await h.settle()
        assert "podCIDR" not in (await h.client.get(resources.NODES, "late"))["spec"]
        await h.delete(resources.NODES, await h.client.get(resources.NODES, "n1"))
        await h.settle(60)
        assert (await h.client.get(resources.NODES, late["metadata"]["name"]))["spec"]["podCIDRs"] == [found["n1"]]


def test_cidr_set_ipv6_and_bounds():
    assert CIDRSet("fd00::/56").allocate() == "fd00::/64"
    with pytest.raises(ValueError, match="larger than the whole"):
        CIDRSet("10.0.0.0/25")
    one = CIDRSet("10.0.0.0/24", 25)
    assert [one.allocate() for _ in range(3)] == ["10.0.0.0/25", "10.0.0.128/25", None]
    assert not one.occupy("192.168.0.0/24")


async def test_a_silent_node_becomes_unknown_tainted_and_its_pods_not_ready_then_recovers():
    async with Harness(NodeLifecycleController) as h:
        silent = await node(h, "n1")
        await node(h, "n2")
        await pod(h, "web")
        await beat(h, "n1", "n2", seconds=120)
        assert condition_status(await h.client.get(resources.NODES, "n1"), "Ready") == "True"
        await beat(h, "n2", seconds=30)
        assert taints(h, "n1") == set()
        await beat(h, "n2", seconds=20)
        live = await h.client.get(resources.NODES, "n1")
        condition = find_condition(live, "Ready")
        assert condition is not None and condition["status"] == "Unknown" and condition["reason"] == "NodeStatusUnknown"
        assert condition_status(live, "DiskPressure") == "Unknown"
        assert taints(h, "n1") == {"unreachable:NoSchedule", "unreachable:NoExecute"}
        assert condition_status(h.only(resources.PODS), "Ready") == "False"
        now = timefmt.from_epoch(wall_clock())
        await h.status(resources.NODES, silent, conditions=[{"type": "Ready", "status": "True", "lastHeartbeatTime": now}])
        await beat(h, "n1", "n2", seconds=10)
        assert taints(h, "n1") == set() and taints(h, "n2") == set()


async def test_coming_and_going_of_a_node_is_told():
    async with Harness(NodeLifecycleController) as h:
        made = await node(h, "n1")
        await h.settle(5)
        await h.delete(resources.NODES, made)
        await h.settle(5)
        told = [(e["reason"], e["message"], e["source"]["component"]) for e in h.all(resources.EVENTS)]
        assert told == [
            ("RegisteredNode", "Node n1 event: Registered Node n1 in Controller", "node-controller"),
            ("RemovingNode", "Node n1 event: Removing Node n1 from Controller", "node-controller"),
        ]


async def test_the_only_node_is_not_evicted_from():
    async with Harness(NodeLifecycleController) as h:
        await node(h, "n1")
        await h.settle(600)
        assert taints(h, "n1") == {"unreachable:NoSchedule"}


async def test_conditions_and_cordon_become_taints_and_foreign_ones_stay():
    async with Harness(NodeLifecycleController) as h:
        one = await node(h, "n1", ready="False")
        await h.patch(
            resources.NODES, one, {"spec": {"unschedulable": True, "taints": [{"key": "mine", "effect": "NoSchedule"}]}}
        )
        await h.settle(1)
        assert taints(h, "n1") == {"mine:NoSchedule", "not-ready:NoSchedule", "unschedulable:NoSchedule"}
        now = timefmt.from_epoch(wall_clock())
        ok = [{"type": "Ready", "status": "True", "lastHeartbeatTime": now}, {"type": "DiskPressure", "status": "True"}]
        await h.status(resources.NODES, one, conditions=ok)
        await h.patch(resources.NODES, one, {"spec": {"unschedulable": None}})
        await h.settle(1)
        assert taints(h, "n1") == {"mine:NoSchedule", "disk-pressure:NoSchedule"}


async def test_pods_leave_a_tainted_node_as_their_tolerations_say():
    async with Harness(TaintEvictionController) as h:
        one = await node(h, "n1")
        await pod(h, "now")
        await pod(h, "later", tolerations=[{"key": "k", "operator": "Exists", "tolerationSeconds": 20}])
        await pod(h, "never", tolerations=[{"operator": "Exists"}])
        taint = {"key": "k", "value": "v", "effect": "NoExecute"}
        await h.patch(resources.NODES, one, {"spec": {"taints": [taint]}})
        await h.settle(1)
        assert [p["metadata"]["name"] for p in h.all_pods()] == ["later", "never"]
        gone = next(p for p in h.all(resources.PODS) if p["metadata"]["name"] == "now")
        condition = find_condition(gone, "DisruptionTarget")
        assert condition is not None and condition["reason"] == "DeletionByTaintManager"
        await h.settle(18)
        assert len(h.all_pods()) == 2
        await h.settle(2)
        assert [p["metadata"]["name"] for p in h.all_pods()] == ["never"]


async def test_an_eviction_is_cancelled_when_the_taint_goes():
    async with Harness(TaintEvictionController) as h:
        one = await node(h, "n1")
        await pod(h, "later", tolerations=[{"key": "k", "operator": "Exists", "tolerationSeconds": 20}])
        await h.patch(resources.NODES, one, {"spec": {"taints": [{"key": "k", "effect": "NoExecute"}]}})
        await h.settle(10)
        await h.patch(resources.NODES, one, {"spec": {"taints": None}})
        await h.settle(60)
        assert len(h.all_pods()) == 1
        assert any("Cancelling deletion" in e["message"] for e in h.all(resources.EVENTS))


async def test_pod_gc():
    settings = Settings(controller_manager_args={"terminated-pod-gc-threshold": ("2",)})
    async with Harness(PodGarbageCollector, settings=settings) as h:
        one = await node(h, "n1")
        for i in range(4):
            finished = await pod(h, f"done{i}")
            await h.status(resources.PODS, finished, phase="Succeeded")
            await h.settle(1)
        assert [p["metadata"]["name"] for p in h.all_pods()] == ["done2", "done3"]
        await pod(h, "running")
        unbound = await h.create(
            resources.PODS, {"metadata": {"name": "unbound", "namespace": "shop", "finalizers": ["x/y"]}, "spec": {}}
        )
        await h.delete(resources.PODS, unbound)
        await h.delete(resources.NODES, one)
        await h.settle(30)
        assert "running" in [p["metadata"]["name"] for p in h.all_pods()]
        await h.settle(15)
        assert h.all_pods() == []


@pytest.mark.parametrize(
    ("tolerations", "seconds"),
    [
        ([], 0.0),
        ([{"key": "k", "operator": "Equal", "value": "v", "effect": "NoExecute"}], None),
        ([{"key": "k", "value": "other"}], 0.0),
        ([{"operator": "Exists", "tolerationSeconds": 5}, {"key": "k", "operator": "Exists", "tolerationSeconds": 3}], 3.0),
        ([{"operator": "Exists", "tolerationSeconds": -1}], 0.0),
        ([{"operator": "Exists", "effect": "NoSchedule"}], 0.0),
    ],
)
def test_min_toleration_seconds(tolerations: list[Obj], seconds: float | None):
    assert min_toleration_seconds([{"key": "k", "value": "v", "effect": "NoExecute"}], tolerations) == seconds


def test_merge_taints_keeps_times_of_those_that_stay():
    old = [{"key": "node.kubernetes.io/not-ready", "effect": "NoExecute", "timeAdded": "then"}]
    wanted = [("node.kubernetes.io/not-ready", "NoExecute")]
    assert merge_taints(old, wanted, "now") == old


def test_a_zone_mostly_gone_is_left_alone():
    def nodes(ready: int, gone: int) -> list[Obj]:
        states = ["True"] * ready + ["Unknown"] * gone
        return [{"metadata": {}, "status": {"conditions": [{"type": "Ready", "status": s}]}} for s in states]

    assert eviction_interval(nodes(3, 1)) == 10
    assert eviction_interval(nodes(1, 4)) == float("inf")
    assert eviction_interval(nodes(20, 40)) == 100
