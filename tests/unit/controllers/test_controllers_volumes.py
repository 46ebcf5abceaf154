"""Binding of claims to volumes, and their protection."""

from __future__ import annotations

from typing import Any

import pytest

from k3sd.apimachinery.errors import Obj
from k3sd.apis import resources
from k3sd.controllers.persistentvolume import SELECTED_NODE, PersistentVolumeBinder, find_volume
from k3sd.controllers.storageprotection import ClaimProtectionController, VolumeProtectionController
from tests.fakes.harness import Harness


def volume(name: str, size: str = "1Gi", **spec: Any) -> Obj:
    base = {"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"], "storageClassName": "slow"}
    return {"metadata": {"name": name, "labels": {"disk": name}}, "spec": {**base, **spec}}


def claim(name: str = "data", size: str = "1Gi", **spec: Any) -> Obj:
    base = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}, "storageClassName": "slow"}
    return {"metadata": {"name": name, "namespace": "shop"}, "spec": {**base, **spec}}


async def test_a_claim_is_bound_and_its_volume_released():
    async with Harness(PersistentVolumeBinder) as h:
        made = await h.create(resources.PERSISTENTVOLUMECLAIMS, claim())
        await h.settle()
        assert h.only(resources.PERSISTENTVOLUMECLAIMS)["status"]["phase"] == "Pending"
        await h.create(resources.PERSISTENTVOLUMES, volume("v"))
        await h.settle()
        bound, one = h.only(resources.PERSISTENTVOLUMECLAIMS), h.only(resources.PERSISTENTVOLUMES)
        assert bound["spec"]["volumeName"] == "v" and bound["status"]["phase"] == "Bound"
        assert bound["status"]["capacity"] == {"storage": "1Gi"}
        assert one["spec"]["claimRef"]["uid"] == made["metadata"]["uid"] and one["status"]["phase"] == "Bound"
        h.client.actions.clear()
        await h.settle(3600)
        assert h.client.actions == []
        await h.delete(resources.PERSISTENTVOLUMECLAIMS, made)
        await h.settle()
        assert h.only(resources.PERSISTENTVOLUMES)["status"]["phase"] == "Released"
        await h.create(resources.PERSISTENTVOLUMECLAIMS, claim())
        await h.settle()
        assert h.only(resources.PERSISTENTVOLUMECLAIMS)["status"]["phase"] == "Pending"


async def test_two_claims_get_two_volumes():
    async with Harness(PersistentVolumeBinder) as h:
        for name in ("a", "b"):
            await h.create(resources.PERSISTENTVOLUMECLAIMS, claim(name))
            await h.create(resources.PERSISTENTVOLUMES, volume(f"v{name}"))
        await h.settle()
        names = {c["spec"].get("volumeName") for c in h.all(resources.PERSISTENTVOLUMECLAIMS)}
        assert names == {"va", "vb"}


async def test_waits_for_the_first_consumer_then_asks_the_provisioner():
    async with Harness(PersistentVolumeBinder) as h:
        one = {
            "metadata": {"name": "slow"},
            "provisioner": "rancher.io/local-path",
            "volumeBindingMode": "WaitForFirstConsumer",
        }
        await h.create(resources.STORAGECLASSES, one)
        made = await h.create(resources.PERSISTENTVOLUMECLAIMS, claim())
        await h.settle()
        assert [e["reason"] for e in h.all(resources.EVENTS)] == ["WaitForFirstConsumer"]
        await h.patch(resources.PERSISTENTVOLUMECLAIMS, made, {"metadata": {"annotations": {SELECTED_NODE: "n1"}}})
        await h.settle()
        annotations = h.only(resources.PERSISTENTVOLUMECLAIMS)["metadata"]["annotations"]
        assert annotations["volume.kubernetes.io/storage-provisioner"] == "rancher.io/local-path"
        reference = {"namespace": "shop", "name": "data", "uid": made["metadata"]["uid"]}
        await h.create(resources.PERSISTENTVOLUMES, volume("new", claimRef=reference))
        await h.settle()
        assert h.only(resources.PERSISTENTVOLUMECLAIMS)["status"]["phase"] == "Bound"


async def test_a_claim_without_class_gets_the_default_one_and_a_lost_volume_shows():
    async with Harness(PersistentVolumeBinder) as h:
        await h.create(resources.PERSISTENTVOLUMECLAIMS, claim(storageClassName=None))
        annotations = {"storageclass.kubernetes.io/is-default-class": "true"}
        await h.create(resources.STORAGECLASSES, {"metadata": {"name": "slow", "annotations": annotations}, "provisioner": "x"})
        one = await h.create(resources.PERSISTENTVOLUMES, volume("v"))
        await h.settle()
        assert h.only(resources.PERSISTENTVOLUMECLAIMS)["status"]["phase"] == "Bound"
        await h.delete(resources.PERSISTENTVOLUMES, one)
        other = await h.create(resources.PERSISTENTVOLUMES, volume("other", storageClassName="fast"))
        await h.patch(
            resources.PERSISTENTVOLUMECLAIMS, h.only(resources.PERSISTENTVOLUMECLAIMS), {"metadata": {"labels": {"a": "b"}}}
        )
        await h.settle()
        assert h.only(resources.PERSISTENTVOLUMECLAIMS)["status"]["phase"] == "Lost"
        assert (await h.client.get(resources.PERSISTENTVOLUMES, other["metadata"]["name"]))["status"]["phase"] == "Available"


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({"size": "3Gi"}, "m"),
        ({"size": "100Gi"}, None),
        ({"storageClassName": "fast"}, "f"),
        ({"accessModes": ["ReadWriteMany"]}, None),
        ({"volumeMode": "Block"}, None),
        ({"selector": {"matchLabels": {"disk": "l"}}}, "l"),
    ],
)
def test_find_volume(wanted: dict[str, Any], found: str | None):
    volumes = [volume("l", "10Gi"), volume("s", "1Gi"), volume("m", "5Gi"), volume("f", storageClassName="fast")]
    chosen = find_volume(claim(**wanted), volumes)
    assert (chosen["metadata"]["name"] if chosen else None) == found


async def test_used_claims_and_bound_volumes_stay():
    async with Harness(ClaimProtectionController, VolumeProtectionController) as h:
        made = claim()
        made["metadata"]["finalizers"] = ["kubernetes.io/pvc-protection"]
        made = await h.create(resources.PERSISTENTVOLUMECLAIMS, made)
        source = [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]
        user = {"metadata": {"name": "p", "namespace": "shop"}, "spec": {"nodeName": "n1", "volumes": source}}
        pod = await h.create(resources.PODS, user)
        await h.settle()
        await h.delete(resources.PERSISTENTVOLUMECLAIMS, made)
        await h.settle(60)
        assert len(h.all(resources.PERSISTENTVOLUMECLAIMS)) == 1
        await h.delete(resources.PODS, pod, grace_period_seconds=0)
        await h.settle()
        assert h.all(resources.PERSISTENTVOLUMECLAIMS) == []
        one = volume("v")
        one["metadata"]["finalizers"] = ["kubernetes.io/pv-protection"]
        one = await h.create(resources.PERSISTENTVOLUMES, one)
        await h.status(resources.PERSISTENTVOLUMES, one, phase="Bound")
        await h.delete(resources.PERSISTENTVOLUMES, one)
        await h.settle()
        assert len(h.all(resources.PERSISTENTVOLUMES)) == 1
        await h.status(resources.PERSISTENTVOLUMES, one, phase="Released")
        await h.settle()
        assert h.all(resources.PERSISTENTVOLUMES) == []
