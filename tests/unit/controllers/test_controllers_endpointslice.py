"""EndpointSlices, their mirroring, and Endpoints."""

from __future__ import annotations

from typing import Any

import pytest

from k3sd.apimachinery.errors import Obj
from k3sd.apis import resources
from k3sd.controllers import slices
from k3sd.controllers.endpoints import EndpointsController, build_subsets
from k3sd.controllers.endpointslice import CONTROLLER, EndpointSliceController
from k3sd.controllers.endpointslicemirroring import CONTROLLER as MIRRORING
from k3sd.controllers.endpointslicemirroring import EndpointSliceMirroringController
from tests.fakes.harness import Harness, ready_status


def service(name: str = "web", **spec: Any) -> Obj:
    return {
        "kind": "Service",
        "apiVersion": "v1",
        "metadata": {"name": name, "namespace": "shop", "labels": {"team": "a"}},
        "spec": {
            "clusterIP": "10.43.0.7",
            "ipFamilies": ["IPv4"],
            "selector": {"app": "web"},
            "ports": [{"name": "http", "protocol": "TCP", "port": 80, "targetPort": "web"}],
            **spec,
        },
    }


def pod(name: str, port: int = 8080, **spec: Any) -> Obj:
    container = {"name": "c", "ports": [{"name": "web", "containerPort": port, "protocol": "TCP"}]}
    return {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {"name": name, "namespace": "shop", "labels": {"app": "web"}},
        "spec": {"containers": [container], "nodeName": "n1", **spec},
    }


async def running(h: Harness, name: str, ip: str, ready: bool = True, **kwargs: Any) -> Obj:
    made = await h.create(resources.PODS, pod(name, **kwargs))
    await h.status(resources.PODS, made, **ready_status(ready, ip=ip))
    return made


async def test_follows_pods_through_their_life():
    async with Harness(EndpointSliceController) as h:
        await h.create(resources.SERVICES, service())
        await h.settle()
        empty = h.only(resources.ENDPOINTSLICES)
        assert empty["endpoints"] == [] and empty["ports"] == []
        assert empty["metadata"]["labels"] == {
            "team": "a",
            "kubernetes.io/service-name": "web",
            "endpointslice.kubernetes.io/managed-by": CONTROLLER,
        }
        assert empty["metadata"]["ownerReferences"][0]["kind"] == "Service"
        a = await running(h, "a", "10.42.0.5")
        await running(h, "b", "10.42.0.6", ready=False)
        await h.settle()
        one = h.only(resources.ENDPOINTSLICES)
        assert one["ports"] == [{"name": "http", "protocol": "TCP", "port": 8080}]
        by_name = {e["targetRef"]["name"]: e for e in one["endpoints"]}
        assert by_name["a"]["conditions"] == {"ready": True, "serving": True, "terminating": False}
        assert by_name["b"]["conditions"] == {"ready": False, "serving": False, "terminating": False}
        assert by_name["a"]["addresses"] == ["10.42.0.5"] and by_name["a"]["nodeName"] == "n1"
        await h.delete(resources.PODS, a)
        await h.settle()
        by_name = {e["targetRef"]["name"]: e for e in h.only(resources.ENDPOINTSLICES)["endpoints"]}
        assert by_name["a"]["conditions"] == {"ready": False, "serving": True, "terminating": True}
        await h.delete(resources.PODS, a, grace_period_seconds=0)
        await h.settle()
        assert [e["targetRef"]["name"] for e in h.only(resources.ENDPOINTSLICES)["endpoints"]] == ["b"]
        h.client.actions.clear()
        await h.settle(3600)
        assert h.client.actions == []


async def test_named_ports_that_differ_make_separate_slices():
    async with Harness(EndpointSliceController) as h:
        await h.create(resources.SERVICES, service())
        await running(h, "a", "10.42.0.5", port=8080)
        await running(h, "b", "10.42.0.6", port=9090)
        await h.settle()
        found = {s["ports"][0]["port"]: s["endpoints"][0]["addresses"] for s in h.all(resources.ENDPOINTSLICES)}
        assert found == {8080: ["10.42.0.5"], 9090: ["10.42.0.6"]}


async def test_deleted_and_edited_slices_are_restored_and_others_left_alone():
    async with Harness(EndpointSliceController) as h:
        await h.create(resources.SERVICES, service())
        await running(h, "a", "10.42.0.5")
        await h.settle()
        await h.delete(resources.ENDPOINTSLICES, h.only(resources.ENDPOINTSLICES))
        await h.settle()
        one = h.only(resources.ENDPOINTSLICES)
        await h.client.update(resources.ENDPOINTSLICES, {**one, "endpoints": []})
        await h.settle()
        assert len(h.only(resources.ENDPOINTSLICES)["endpoints"]) == 1
        by_hand = {
            "metadata": {"name": "mine", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4",
            "endpoints": [],
        }
        await h.create(resources.ENDPOINTSLICES, by_hand)
        await h.settle()
        assert len(h.all(resources.ENDPOINTSLICES)) == 2


async def test_no_selector_and_external_names_get_none():
    async with Harness(EndpointSliceController, EndpointsController) as h:
        await h.create(resources.SERVICES, service("manual", selector=None))
        await h.create(resources.SERVICES, service("external", type="ExternalName", externalName="example.com"))
        await h.settle()
        assert h.all(resources.ENDPOINTSLICES) == [] and h.all(resources.ENDPOINTS) == []


async def test_publish_not_ready_headless_and_hostnames():
    async with Harness(EndpointSliceController, EndpointsController) as h:
        await h.create(resources.SERVICES, service(clusterIP="None", publishNotReadyAddresses=True, ports=[]))
        await running(h, "a", "10.42.0.5", ready=False, hostname="first", subdomain="web")
        await h.settle()
        one = h.only(resources.ENDPOINTSLICES)
        assert one["metadata"]["labels"]["service.kubernetes.io/headless"] == ""
        assert one["endpoints"][0]["conditions"]["ready"] is True and one["endpoints"][0]["hostname"] == "first"
        subset = h.only(resources.ENDPOINTS)["subsets"][0]
        assert subset["addresses"][0]["hostname"] == "first" and "ports" not in subset


async def test_a_stale_cache_makes_no_second_slice():
    async with Harness(EndpointSliceController) as h:
        await h.create(resources.SERVICES, service())
        await h.settle()
        controller = h.controllers[0]
        assert isinstance(controller, EndpointSliceController)
        h.client.close_watches(resources.ENDPOINTSLICES)
        await running(h, "a", "10.42.0.5")
        for _ in range(20):
            controller.queue.add("shop/web")
            await h.settle(0.01)
        await h.settle(5)
        assert len(h.all(resources.ENDPOINTSLICES)) == 1


async def test_endpoints_follow_pods_and_go_with_their_service():
    async with Harness(EndpointsController) as h:
        made = await h.create(resources.SERVICES, service())
        await h.create(resources.ENDPOINTS, {"metadata": {"name": "free", "namespace": "shop"}})
        await running(h, "a", "10.42.0.5")
        await running(h, "b", "10.42.0.6", ready=False)
        await h.settle()
        endpoints = await h.client.get(resources.ENDPOINTS, "web", "shop")
        (subset,) = endpoints["subsets"]
        assert [a["ip"] for a in subset["addresses"]] == ["10.42.0.5"]
        assert [a["ip"] for a in subset["notReadyAddresses"]] == ["10.42.0.6"]
        assert subset["ports"] == [{"name": "http", "port": 8080, "protocol": "TCP"}]
        await h.delete(resources.SERVICES, made)
        await h.settle()
        assert [e["metadata"]["name"] for e in h.all(resources.ENDPOINTS)] == ["free"]


async def test_hand_made_endpoints_are_mirrored():
    async with Harness(EndpointSliceMirroringController, EndpointSliceController) as h:
        await h.create(resources.SERVICES, service(selector=None))
        endpoints = await h.create(
            resources.ENDPOINTS,
            {
                "metadata": {"name": "web", "namespace": "shop", "labels": {"x": "y"}},
                "subsets": [{"addresses": [{"ip": "10.1.2.3"}], "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]}],
            },
        )
        await h.settle()
        one = h.only(resources.ENDPOINTSLICES)
        assert one["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"] == MIRRORING
        assert one["metadata"]["ownerReferences"][0]["kind"] == "Endpoints"
        assert one["endpoints"] == [{"addresses": ["10.1.2.3"], "conditions": {"ready": True}}]
        changed = {**endpoints, "subsets": [{**endpoints["subsets"][0], "addresses": [{"ip": "10.2.3.4"}]}]}
        await h.client.update(resources.ENDPOINTS, changed)
        await h.settle()
        assert h.only(resources.ENDPOINTSLICES)["endpoints"][0]["addresses"] == ["10.2.3.4"]
        await h.delete(resources.ENDPOINTS, endpoints)
        await h.settle()
        assert h.all(resources.ENDPOINTSLICES) == []


SKELETON = {"generateName": "web-", "namespace": "shop", "labels": {"a": "b"}, "ownerReferences": []}


def endpoints(first: int, last: int) -> list[Obj]:
    return [{"addresses": [f"10.0.{i // 250}.{i % 250}"], "targetRef": {"uid": str(i)}} for i in range(first, last)]


def stored(name: str, own: list[Obj]) -> Obj:
    return {"metadata": {**SKELETON, "name": name}, "addressType": "IPv4", "endpoints": own, "ports": []}


@pytest.mark.parametrize(
    ("existing", "wanted", "create", "update", "delete"),
    [
        ([], (0, 250), [100, 100, 50], {}, []),
        ([(0, 50)], (0, 50), [], {}, []),
        ([(0, 50)], (0, 60), [], {"s0": 60}, []),
        ([(0, 100), (100, 150)], (0, 160), [], {"s1": 60}, []),
        ([(0, 100), (100, 150)], (50, 150), [], {"s0": 50}, []),
        ([(0, 100), (100, 150)], (0, 100), [], {}, ["s1"]),
        ([(0, 90)], (0, 120), [30], {}, []),
        ([(0, 50), (50, 90)], (0, 0), [], {"s0": 0}, ["s1"]),
    ],
)
def test_plan_writes_little(existing, wanted, create, update, delete):
    old = [stored(f"s{i}", endpoints(*span)) for i, span in enumerate(existing)]
    group = slices.group_of("IPv4", [])
    result = slices.plan(old, {group: endpoints(*wanted)}, SKELETON, ["IPv4"])
    assert [len(s["endpoints"]) for s in result.create] == create
    assert {s["metadata"]["name"]: len(s["endpoints"]) for s in result.update} == update
    assert [s["metadata"]["name"] for s in result.delete] == delete


def test_endpoints_are_cut_at_a_thousand_ready_ones_first():
    pods = []
    for i in range(1010):
        one = pod(f"p{i}")
        one["metadata"]["uid"] = f"u{i:04}"
        one["status"] = {"phase": "Running", "podIP": f"10.42.{i // 250}.{i % 250}"}
        one["status"]["conditions"] = [{"type": "Ready", "status": "True" if i >= 20 else "False"}]
        pods.append(one)
    ((subset,), cut) = build_subsets(service(), pods)
    assert cut and len(subset["addresses"]) == 990 and len(subset["notReadyAddresses"]) == 10
