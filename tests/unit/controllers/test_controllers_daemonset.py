from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from k3sd.apimachinery.errors import Obj
from k3sd.apis import resources
from k3sd.controllers import daemonrules as rules
from k3sd.controllers.daemonset import DaemonSetController
from tests.fakes.harness import Harness
from tests.fakes.kubelet import FakeKubelet


def template(image: str, **spec: Any) -> Obj:
    return {"metadata": {"labels": {"app": "agent"}}, "spec": {"containers": [{"name": "c", "image": image}], **spec}}


def daemon_set(pod: dict[str, Any] | None = None, **spec: Any) -> Obj:
    return {
        "kind": "DaemonSet",
        "apiVersion": "apps/v1",
        "metadata": {"name": "agent", "namespace": "shop"},
        "spec": {
            "selector": {"matchLabels": {"app": "agent"}},
            "template": template("v1", **(pod or {})),
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}},
            "revisionHistoryLimit": 10,
            **spec,
        },
    }


class Node(FakeKubelet):
    """Binds pods where their affinity says."""

    async def _start(self, pod: Obj) -> None:
        if not pod["spec"].get("nodeName"):
            pod = await self.harness.patch(resources.PODS, pod, {"spec": {"nodeName": rules.target_node(pod)}})
        await super()._start(pod)


@asynccontextmanager
async def cluster(nodes: int = 3) -> AsyncIterator[Harness]:
    async with Harness(DaemonSetController) as h:
        kubelet = Node(h)
        for i in range(nodes):
            await h.create(resources.NODES, {"metadata": {"name": f"n{i}", "labels": {}}, "spec": {}})
        yield h
        await kubelet.close()


def where(h: Harness) -> list[str]:
    return sorted(p["spec"]["nodeName"] for p in h.all_pods())


def images(h: Harness) -> list[str]:
    return sorted(p["spec"]["containers"][0]["image"] for p in h.all_pods())


async def test_one_pod_on_every_node_and_on_new_ones():
    async with cluster() as h:
        await h.create(resources.DAEMONSETS, daemon_set())
        await h.settle(5)
        assert where(h) == ["n0", "n1", "n2"]
        status = h.only(resources.DAEMONSETS)["status"]
        assert status == {
            "observedGeneration": 1,
            "desiredNumberScheduled": 3,
            "currentNumberScheduled": 3,
            "numberMisscheduled": 0,
            "numberReady": 3,
            "updatedNumberScheduled": 3,
            "numberAvailable": 3,
        }
        pod = h.all_pods()[0]
        assert {"key": "node.kubernetes.io/unschedulable", "operator": "Exists", "effect": "NoSchedule"} in pod["spec"][
            "tolerations"
        ]
        h.client.actions.clear()
        await h.settle(3600)
        assert h.client.actions == []
        await h.create(resources.NODES, {"metadata": {"name": "n3", "labels": {}}, "spec": {}})
        await h.settle(5)
        assert where(h) == ["n0", "n1", "n2", "n3"]


async def test_labels_and_taints_decide():
    async with cluster() as h:
        await h.create(resources.DAEMONSETS, daemon_set({"nodeSelector": {"color": "blue"}}))
        await h.settle(5)
        assert where(h) == []
        node = await h.client.get(resources.NODES, "n1")
        await h.patch(resources.NODES, node, {"metadata": {"labels": {"color": "blue"}}})
        await h.settle(5)
        assert where(h) == ["n1"]
        await h.patch(resources.NODES, node, {"spec": {"taints": [{"key": "x", "effect": "NoSchedule"}]}})
        await h.settle(5)
        assert where(h) == ["n1"]
        await h.patch(resources.NODES, node, {"metadata": {"labels": {"color": "green"}}})
        await h.settle(5)
        assert where(h) == []


async def test_a_failed_pod_is_replaced_with_backoff():
    async with cluster(1) as h:
        await h.create(resources.DAEMONSETS, daemon_set())
        await h.settle(5)
        (pod,) = h.all_pods()
        await h.status(resources.PODS, pod, phase="Failed")
        await h.settle(5)
        (again,) = h.all_pods()
        assert again["metadata"]["uid"] != pod["metadata"]["uid"]
        assert any(e["reason"] == "FailedDaemonPod" for e in h.all(resources.EVENTS))


async def test_rolling_update_and_rollback_restart_only_what_differs():
    async with cluster() as h:
        made = await h.create(resources.DAEMONSETS, daemon_set())
        await h.settle(5)
        least = 3

        def watch(*_: object) -> None:
            nonlocal least
            ready = [p for p in h.all_pods() if p["status"]["phase"] == "Running"]
            least = min(least, len(ready))

        h.informers.informer(resources.PODS).add_handler(watch, watch, watch)
        await h.patch(resources.DAEMONSETS, made, {"spec": {"template": template("v2")}})
        await h.settle(20)
        assert images(h) == ["v2"] * 3 and least == 2
        assert h.only(resources.DAEMONSETS)["status"]["updatedNumberScheduled"] == 3
        revisions = h.all(resources.CONTROLLERREVISIONS)
        assert sorted(r["revision"] for r in revisions) == [1, 2]
        await h.patch(resources.DAEMONSETS, made, {"spec": {"template": template("v1")}})
        await h.settle(20)
        assert images(h) == ["v1"] * 3
        assert sorted(r["revision"] for r in h.all(resources.CONTROLLERREVISIONS)) == [2, 3]


async def test_a_revision_has_sorted_data_and_the_annotations():
    """Clients find the present revision by comparing bytes with Go's encoding; ``rollout history`` shows the change cause."""
    async with cluster(nodes=1) as h:
        obj = daemon_set({"restartPolicy": "Always", "dnsPolicy": "Default"})
        obj["metadata"]["annotations"] = {"kubernetes.io/change-cause": "first"}
        await h.create(resources.DAEMONSETS, obj)
        await h.settle()
        [revision] = h.all(resources.CONTROLLERREVISIONS)
        assert json.dumps(revision["data"]) == json.dumps(revision["data"], sort_keys=True)
        assert revision["data"]["spec"]["template"] == {"$patch": "replace", **obj["spec"]["template"]}
        assert revision["metadata"]["annotations"] == {"kubernetes.io/change-cause": "first"}


async def test_a_revision_of_equal_data_takes_over():
    async with cluster(1) as h:
        await h.create(resources.DAEMONSETS, daemon_set())
        await h.settle(5)
        first = h.only(resources.CONTROLLERREVISIONS)
        twin = {**first, "metadata": {**first["metadata"], "name": "twin", "resourceVersion": ""}, "revision": 2}
        await h.create(resources.CONTROLLERREVISIONS, twin)
        await h.delete(resources.CONTROLLERREVISIONS, first)
        await h.settle(5)
        node = h.informers.informer(resources.NODES).get("n0")
        assert node is not None
        await h.patch(resources.NODES, node, {"metadata": {"labels": {"a": "b"}}})
        await h.settle(5)
        assert [r["metadata"]["name"] for r in h.all(resources.CONTROLLERREVISIONS)] == ["twin"]


async def test_surge_starts_the_new_pod_first():
    async with cluster(1) as h:
        rolling = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}
        made = await h.create(resources.DAEMONSETS, daemon_set(updateStrategy=rolling))
        await h.settle(5)
        await h.patch(resources.DAEMONSETS, made, {"spec": {"template": template("v2")}})
        await h.settle(0.3)
        assert images(h) == ["v1", "v2"]
        await h.settle(10)
        assert images(h) == ["v2"]


async def test_on_delete():
    async with cluster(1) as h:
        made = await h.create(resources.DAEMONSETS, daemon_set(updateStrategy={"type": "OnDelete"}))
        await h.settle(5)
        await h.patch(resources.DAEMONSETS, made, {"spec": {"template": template("v2")}})
        await h.settle(10)
        assert images(h) == ["v1"]
        await h.delete(resources.PODS, h.all_pods()[0])
        await h.settle(10)
        assert images(h) == ["v2"]


async def test_min_ready_seconds():
    async with cluster(1) as h:
        await h.create(resources.DAEMONSETS, daemon_set(minReadySeconds=10))
        await h.settle(5)
        assert h.only(resources.DAEMONSETS)["status"]["numberUnavailable"] == 1
        await h.settle(10)
        assert h.only(resources.DAEMONSETS)["status"]["numberAvailable"] == 1


def node(**metadata: Any) -> Obj:
    return {"metadata": {"name": "n1", "labels": {"zone": "a", "cpus": "8"}, **metadata}, "spec": {}}


@pytest.mark.parametrize(
    ("requirement", "holds"),
    [
        ({"key": "zone", "operator": "In", "values": ["a", "b"]}, True),
        ({"key": "zone", "operator": "NotIn", "values": ["a"]}, False),
        ({"key": "gpu", "operator": "DoesNotExist"}, True),
        ({"key": "zone", "operator": "Exists"}, True),
        ({"key": "cpus", "operator": "Gt", "values": ["4"]}, True),
        ({"key": "cpus", "operator": "Lt", "values": ["4"]}, False),
        ({"key": "zone", "operator": "Gt", "values": ["4"]}, False),
    ],
)
def test_node_affinity(requirement: Obj, holds: bool):
    terms = {"nodeSelectorTerms": [{"matchExpressions": [requirement]}]}
    spec = {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}}
    assert rules.matches_node(spec, node()) is holds


def test_own_affinity_is_kept_beside_the_node():
    terms = {"nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "Exists"}]}]}
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}
    owner = daemon_set({"affinity": affinity})
    owner["metadata"]["uid"] = "u"
    pod = rules.build_pod(owner, "n1", "h")
    (term,) = pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert term["matchExpressions"][0]["key"] == "zone" and rules.target_node(pod) == "n1"
