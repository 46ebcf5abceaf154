"""Image volumes from a real containerd."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from k3sd.config.settings import Settings
from k3sd.kubelet.cri.client import CRIClient, CRIError
from k3sd.kubelet.images import ImageManager
from k3sd.kubelet.imagevolumes import ImageVolumes
from k3sd.kubelet.sources import Sources
from k3sd.kubelet.tokens import TokenManager
from k3sd.kubelet.volumes.manager import VolumeManager
from k3sd.kubelet.volumes.plan import ImageVolume, LayerMount, VolumeError
from k3sd.lib import mounts
from tests.component.kubelet.conftest import BUSYBOX_IMAGE
from tests.support.fakeclient import FakeClient

pytestmark = pytest.mark.root
Obj = dict[str, Any]


def pod(reference: str, policy: str = "IfNotPresent") -> Obj:
    volume = {"name": "v", "image": {"reference": reference, "pullPolicy": policy}}
    container = {"name": "c", "volumeMounts": [{"name": "v", "mountPath": "/v", "subPath": "etc"}]}
    return {
        "metadata": {"name": "p", "namespace": "ns", "uid": "image-volume"},
        "spec": {"containers": [container], "volumes": [volume]},
    }


async def test_an_image_as_a_volume(node_settings: Settings, tmp_path: Path) -> None:
    client: Any = FakeClient()
    events: list[str] = []

    async def secret(namespace: str, name: str) -> Obj:
        raise AssertionError("no secret is needed")

    async with CRIClient(node_settings.containerd_socket) as cri:
        images = ImageVolumes(cri, ImageManager(cri, secret), node_settings.snapshotter, lambda *e: events.append(e[2]))
        sources, tokens = Sources(client), TokenManager(client)
        manager = VolumeManager(client, sources, "n1", tmp_path, tokens, images=images)
        try:
            a_pod = pod(BUSYBOX_IMAGE)
            for _ in range(2):
                paths = await manager.mount_pod(a_pod)
            path = Path(paths["v"])
            assert "nobody:x:65534" in (path / "etc/passwd").read_text() and os.access(path / "bin/busybox", os.R_OK)
            assert os.statvfs(path).f_flag & os.ST_RDONLY and os.statvfs(path).f_flag & os.ST_NOSUID
            with pytest.raises(OSError, match="Read-only"):
                (path / "x").write_text("")
            (mount,) = await manager.container_mounts(a_pod, a_pod["spec"]["containers"][0])
            assert mount.read_only and (Path(mount.host_path) / "passwd").exists()
            assert events == ["Pulled", "Pulled"]
            key = "k3sd-volume-image-volume-v"
            assert await cri.view_snapshot(node_settings.snapshotter, key, await cri.image_chain_id(BUSYBOX_IMAGE))
            await manager.remove_pod("image-volume")
            assert not mounts.mount_points(os.path.realpath(tmp_path)) and not list((tmp_path / "pods").iterdir())
            await images.drop("image-volume", "v")
            for reference, policy, reason in (
                ("docker.io/library/absent:1", "Never", "ErrImageNeverPull"),
                ("127.0.0.1:1/absent:1", "Always", "ErrImagePull"),
            ):
                with pytest.raises(VolumeError) as caught:
                    await manager.mount_pod(pod(reference, policy))
                assert caught.value.reason == reason
            with pytest.raises(CRIError) as absent:
                await cri.image_chain_id("docker.io/library/absent:1")
            assert absent.value.not_found
        finally:
            await manager.stop()
            await sources.stop()
            mounts.unmount_below(os.path.realpath(tmp_path))


def test_several_layers_are_an_overlay(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text(name)
    lower = f"lowerdir={tmp_path}/a:{tmp_path}/b"
    volume = ImageVolume(tmp_path / "v/x", LayerMount("overlay", "overlay", ("index=off", lower)))
    try:
        path = Path(volume.set_up())
        assert sorted(os.listdir(path)) == ["a", "b"] and volume.set_up() == str(path)
        assert len(mounts.mount_points(os.path.realpath(path))) == 1
    finally:
        mounts.unmount_below(os.path.realpath(tmp_path))
