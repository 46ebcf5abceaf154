"""Cycles as tables: a pod, nodes, and where it goes or why nowhere."""

from __future__ import annotations

from typing import Any

import pytest

from k3sd.scheduler import preemption
from k3sd.scheduler.framework import Unschedulable, schedule
from k3sd.scheduler.nodeinfo import Cache
from k3sd.scheduler.plugins import default_plugins
from k3sd.scheduler.podinfo import PodInfo, host_ports, pod_requests

Obj = dict[str, Any]


def node(name: str = "n1", cpu: str = "2", pods: str = "110", labels: dict[str, str] | None = None, **spec: Any) -> Obj:
    labels = {"kubernetes.io/hostname": name} | (labels or {})
    return {
        "metadata": {"name": name, "labels": labels},
        "spec": spec,
        "status": {"allocatable": {"cpu": cpu, "memory": "4Gi", "pods": pods}},
    }


def pod(
    name: str = "p", cpu: str = "100m", labels: dict[str, str] | None = None, ports: list[Obj] | None = None, **spec: Any
) -> Obj:
    container: Obj = {"name": "c", "resources": {"requests": {"cpu": cpu}}, "ports": ports or []}
    meta = {"name": name, "namespace": "ns", "uid": f"uid-{name}", "labels": labels or {}}
    return {"metadata": meta, "spec": {"containers": [container]} | spec, "status": {}}


def world(nodes: list[Obj], bound: list[tuple[Obj, str]] | None = None) -> Cache:
    cache = Cache()
    for item in nodes:
        cache.set_node(item)
    for item, where in bound or []:
        item["spec"]["nodeName"] = where
        cache.set_pod(item)
    return cache


def place(item: Obj, cache: Cache) -> str:
    return schedule(PodInfo(item), list(cache), default_plugins(), choose=min)


TAINT = {"key": "k", "value": "v", "effect": "NoSchedule"}
NEAR, FAR = "podAffinity", "podAntiAffinity"
ZONES = [node("a", labels={"z": "1"}), node("b", labels={"z": "2"})]


def required(kind: str, app: str, key: str = "z") -> Obj:
    term = {"topologyKey": key, "labelSelector": {"matchLabels": {"app": app}}}
    return {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}


def spread(when: str = "DoNotSchedule") -> list[Obj]:
    selector = {"matchLabels": {"app": "x"}}
    return [{"topologyKey": "z", "maxSkew": 1, "whenUnsatisfiable": when, "labelSelector": selector}]


@pytest.mark.parametrize(
    ("item", "nodes", "bound", "where"),
    [
        (pod(), [node("n1"), node("n2")], [(pod("o", cpu="1"), "n1")], "n2"),
        (pod(nodeSelector={"disk": "ssd"}), [node("n1"), node("n2", labels={"disk": "ssd"})], [], "n2"),
        (pod(tolerations=[{"key": "k", "operator": "Exists"}]), [node("n1", taints=[TAINT])], [], "n1"),
        (pod(labels={"app": "x"}, affinity=required(NEAR, "y")), ZONES, [(pod("o", labels={"app": "y"}), "b")], "b"),
        (pod(labels={"app": "x"}, affinity=required(NEAR, "x")), ZONES, [], "a"),
        (pod(labels={"app": "x"}, affinity=required(FAR, "x")), ZONES, [(pod("o", labels={"app": "x"}), "a")], "b"),
        (pod(labels={"app": "x"}), ZONES, [(pod("o", labels={"app": "y"}, affinity=required(FAR, "x")), "a")], "b"),
        (pod(labels={"app": "x"}, topologySpreadConstraints=spread()), ZONES, [(pod("o", labels={"app": "x"}), "a")], "b"),
        (pod(ports=[{"hostPort": 80, "containerPort": 1}]), [node("n1"), node("n2")],
         [(pod("o", ports=[{"hostPort": 80, "containerPort": 1, "hostIP": "127.0.0.1"}]), "n1")], "n2"),
    ],
    ids=["least-allocated", "selector", "tolerated", "affinity", "affinity-first", "anti", "existing-anti", "spread", "ports"],
)  # fmt: skip
def test_places(item: Obj, nodes: list[Obj], bound: list[tuple[Obj, str]], where: str) -> None:
    assert place(item, world(nodes, bound)) == where


@pytest.mark.parametrize(
    ("item", "nodes", "message"),
    [
        (pod(), [], "no nodes available to schedule pods"),
        (pod(cpu="3"), [node("n1"), node("n2")], "0/2 nodes are available: 2 Insufficient cpu."),
        (pod(), [node(pods="0")], "0/1 nodes are available: 1 Too many pods."),
        (pod(), [node(unschedulable=True)], "0/1 nodes are available: 1 node(s) were unschedulable."),
        (pod(), [node(taints=[TAINT])], "0/1 nodes are available: 1 node(s) had untolerated taint(s) {k: v}."),
        (
            pod(cpu="3", nodeSelector={"z": "1"}),
            ZONES,
            "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) didn't match Pod's node affinity/selector.",
        ),
    ],
    ids=["none", "cpu", "pods", "cordoned", "taint", "mixed"],
)
def test_says_why_not(item: Obj, nodes: list[Obj], message: str) -> None:
    with pytest.raises(Unschedulable) as failure:
        place(item, world(nodes))
    assert failure.value.message == message


def test_preemption_takes_the_fewest_and_least_important() -> None:
    bound = [
        (pod("low", cpu="1", priority=1), "n1"),
        (pod("lower", cpu="1", priority=0), "n1"),
        (pod("high", cpu="2", priority=50), "n2"),
    ]
    cache = world([node("n1"), node("n2")], bound)
    item = PodInfo(pod("new", cpu="1", priority=10))
    with pytest.raises(Unschedulable) as failure:
        schedule(item, list(cache), default_plugins())
    found = preemption.find(item, list(cache), failure.value, default_plugins(), [])
    assert found is not None
    assert (found.node, [v.key for v in found.victims]) == ("n1", ["ns/lower"])


def test_budget_is_respected_where_there_is_a_choice() -> None:
    bound = [(pod("a", cpu="2", labels={"app": "a"}), "n1"), (pod("b", cpu="2"), "n2")]
    cache = world([node("n1"), node("n2")], bound)
    budget = {
        "metadata": {"namespace": "ns", "name": "b"},
        "spec": {"selector": {"matchLabels": {"app": "a"}}},
        "status": {"disruptionsAllowed": 0},
    }
    item = PodInfo(pod("new", cpu="1", priority=10))
    with pytest.raises(Unschedulable) as failure:
        schedule(item, list(cache), default_plugins())
    found = preemption.find(item, list(cache), failure.value, default_plugins(), [budget])
    assert found is not None
    assert found.node == "n2"


def test_requests() -> None:
    item = pod(cpu="100m", overhead={"cpu": "10m"})
    item["spec"]["initContainers"] = [
        {"name": "side", "restartPolicy": "Always", "resources": {"requests": {"cpu": "50m"}}},
        {"name": "init", "resources": {"requests": {"cpu": "300m"}}},
    ]
    assert pod_requests(item)["cpu"] == 360


def test_host_network_uses_container_ports() -> None:
    assert host_ports(pod(hostNetwork=True, ports=[{"containerPort": 53, "protocol": "UDP"}])) == [("0.0.0.0", "UDP", 53)]


def test_assumed_pods_count_until_forgotten() -> None:
    cache = world([node(cpu="1")])
    first = PodInfo(pod("a", cpu="1"))
    cache.assume(first, "n1")
    with pytest.raises(Unschedulable):
        place(pod("b", cpu="1"), cache)
    cache.forget(first.uid)
    assert place(pod("b", cpu="1"), cache) == "n1"
