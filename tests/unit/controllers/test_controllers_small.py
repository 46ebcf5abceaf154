"""Controllers too small for a file of their own."""

from __future__ import annotations

import base64

import pytest

from k3sd.apimachinery import timefmt
from k3sd.apis import resources
from k3sd.controllers.ephemeralvolume import EphemeralVolumeController
from k3sd.controllers.objects import find_condition
from k3sd.controllers.servicecidrs import FINALIZER, ServiceCIDRController
from k3sd.controllers.tokencleaner import TokenCleaner
from k3sd.controllers.ttl import ANNOTATION, TTLController, seconds_for
from tests.fakes.clock import wall_clock
from tests.fakes.harness import Harness


async def test_a_service_cidr_is_ready_and_waits_for_its_addresses():
    async with Harness(ServiceCIDRController) as h:
        made = await h.create(resources.SERVICECIDRS, {"metadata": {"name": "extra"}, "spec": {"cidrs": ["10.99.0.0/24"]}})
        address = await h.create(resources.IPADDRESSES, {"metadata": {"name": "10.99.0.7"}})
        await h.settle()
        cidr = h.only(resources.SERVICECIDRS)
        ready = find_condition(cidr, "Ready")
        assert ready is not None and ready["status"] == "True" and cidr["metadata"]["finalizers"] == [FINALIZER]
        await h.delete(resources.SERVICECIDRS, made)
        await h.settle()
        ready = find_condition(h.only(resources.SERVICECIDRS), "Ready")
        assert ready is not None and (ready["status"], ready["reason"]) == ("False", "Terminating")
        await h.delete(resources.IPADDRESSES, address)
        await h.settle()
        assert h.all(resources.SERVICECIDRS) == []


async def test_ephemeral_volumes_get_claims():
    async with Harness(EphemeralVolumeController) as h:
        template = {"metadata": {"labels": {"a": "b"}}, "spec": {"resources": {"requests": {"storage": "1Gi"}}}}
        volumes = [{"name": "scratch", "ephemeral": {"volumeClaimTemplate": template}}]
        await h.create(resources.PODS, {"metadata": {"name": "p", "namespace": "shop"}, "spec": {"volumes": volumes}})
        await h.settle()
        claim = h.only(resources.PERSISTENTVOLUMECLAIMS)
        assert claim["metadata"]["name"] == "p-scratch" and claim["metadata"]["ownerReferences"][0]["kind"] == "Pod"
        assert claim["metadata"]["labels"] == {"a": "b"} and claim["spec"] == template["spec"]


async def test_bootstrap_tokens_expire():
    async with Harness(TokenCleaner) as h:
        for name, text in (("soon", timefmt.from_epoch(wall_clock() + 60)), ("never", ""), ("broken", "tomorrow")):
            data = {"expiration": base64.b64encode(text.encode()).decode()} if text else {}
            metadata = {"name": name, "namespace": "kube-system"}
            await h.create(resources.SECRETS, {"metadata": metadata, "type": "bootstrap.kubernetes.io/token", "data": data})
        await h.create(resources.SECRETS, {"metadata": {"name": "other", "namespace": "kube-system"}, "type": "Opaque"})
        await h.settle(30)
        assert [s["metadata"]["name"] for s in h.all(resources.SECRETS)] == ["never", "other", "soon"]
        await h.settle(60)
        assert [s["metadata"]["name"] for s in h.all(resources.SECRETS)] == ["never", "other"]


async def test_nodes_are_told_their_ttl():
    async with Harness(TTLController) as h:
        await h.create(resources.NODES, {"metadata": {"name": "n1"}})
        await h.settle()
        assert h.only(resources.NODES)["metadata"]["annotations"] == {ANNOTATION: "0"}


@pytest.mark.parametrize(("nodes", "seconds"), [(1, 0), (100, 0), (101, 15), (900, 30), (20000, 300)])
def test_ttl_steps(nodes: int, seconds: int):
    assert seconds_for(nodes) == seconds
