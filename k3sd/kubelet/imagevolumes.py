"""Image volumes: the files of an image as a volume, from the runtime's snapshots.

containerd 1.6 and 1.7 know no image volumes in CRI, so the kubelet mounts a read-only view of the unpacked layers itself.
Source: Kubernetes 1.36, ``pkg/kubelet/kubelet_pods.go`` (``pullImageVolumes``), KEP-4639.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from k3sd.kubelet import credentials
from k3sd.kubelet.cri.client import CRIClient, CRIError
from k3sd.kubelet.failures import StartError
from k3sd.kubelet.images import ImageManager
from k3sd.kubelet.podinfo import Obj
from k3sd.kubelet.volumes.plan import LayerMount, VolumeError


class ImageVolumes:
    """``record`` gets pod, type, reason and message of pull events."""

    def __init__(
        self, cri: CRIClient, images: ImageManager, snapshotter: str, record: Callable[[Obj, str, str, str], None]
    ) -> None:
        self._cri = cri
        self._images = images
        self._snapshotter = snapshotter
        self._record = record

    async def view(self, pod: Obj, volume_name: str, source: Obj) -> LayerMount:
        reference = str(source.get("reference") or "")
        wanted = {"name": volume_name, "image": reference, "imagePullPolicy": source.get("pullPolicy")}
        try:
            await self._images.ensure(pod, wanted, None, lambda *event: self._record(pod, *event))
            chain = await self._cri.image_chain_id(credentials.normalize(reference))
            mounts = await self._cri.view_snapshot(self._snapshotter, _key(pod["metadata"]["uid"], volume_name), chain)
        except StartError as error:
            raise VolumeError(error.reason, error.message) from error
        except CRIError as error:
            raise VolumeError("FailedMount", str(error)) from error
        if len(mounts) != 1:
            raise VolumeError("FailedMount", f"snapshotter {self._snapshotter} gives {len(mounts)} mounts for one image")
        return LayerMount(mounts[0].type, mounts[0].source, tuple(mounts[0].options))

    async def drop(self, uid: str, volume_name: str) -> None:
        try:
            await self._cri.remove_snapshot(self._snapshotter, _key(uid, volume_name))
        except CRIError as error:
            raise OSError(errno.EIO, f"releasing image volume {volume_name} of pod {uid}: {error}") from error


def _key(uid: str, volume_name: str) -> str:
    return f"k3sd-volume-{uid}-{volume_name}"
