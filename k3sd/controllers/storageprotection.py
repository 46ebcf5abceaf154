"""Lets deleted claims and volumes go once nothing uses them.

Source: ``pkg/controller/volume/pvcprotection``, ``pkg/controller/volume/pvprotection``.
"""

from __future__ import annotations

from k3sd.apimachinery.errors import Obj, StatusError
from k3sd.apimachinery.resource import Resource
from k3sd.apis import resources
from k3sd.client.retry import update_with_retry
from k3sd.controllers.base import Context, Controller
from k3sd.controllers.objects import is_deleting, name_of, namespace_of, uid_of
from k3sd.controllers.pods import is_finished

CLAIM_FINALIZER = "kubernetes.io/pvc-protection"
VOLUME_FINALIZER = "kubernetes.io/pv-protection"


def claims_of(pod: Obj) -> list[str]:
    """Names of the claims a pod mounts, generic ephemeral volumes included."""
    out: list[str] = []
    for volume in pod["spec"].get("volumes") or ():
        source = volume.get("persistentVolumeClaim")
        if source is not None:
            out.append(str(source["claimName"]))
        elif volume.get("ephemeral") is not None:
            out.append(f"{name_of(pod)}-{volume['name']}")
    return out


def claim_index(pod: Obj) -> list[str]:
    """Index function: the keys of the claims a pod mounts."""
    return [f"{namespace_of(pod)}/{name}" for name in claims_of(pod)]


async def drop_finalizer(controller: Controller, resource: Resource, obj: Obj, finalizer: str) -> None:
    def change(target: Obj) -> None:
        kept = [f for f in target["metadata"].get("finalizers") or () if f != finalizer]
        if kept:
            target["metadata"]["finalizers"] = kept
        else:
            target["metadata"].pop("finalizers", None)

    try:
        await update_with_retry(
            controller.client,
            resource,
            name_of(obj),
            namespace_of(obj) or None,
            change,
            initial=obj,
            uid=uid_of(obj),
        )
    except StatusError as e:
        if e.code != 404:
            raise


class ClaimProtectionController(Controller):
    name = "persistentvolumeclaim-protection-controller"

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx)
        self.claims = self.informer(resources.PERSISTENTVOLUMECLAIMS, self._claim, lambda _, claim: self._claim(claim))
        self.pods = self.informer(resources.PODS, None, lambda _, pod: self._pod(pod), self._pod)
        self.pods.add_index("claim", claim_index)

    def _claim(self, claim: Obj) -> None:
        if is_deleting(claim) and CLAIM_FINALIZER in (claim["metadata"].get("finalizers") or ()):
            self.enqueue(claim)

    def _pod(self, pod: Obj) -> None:
        for key in claim_index(pod):
            claim = self.claims.get(key)
            if claim is not None:
                self._claim(claim)

    async def reconcile(self, key: str) -> None:
        claim = self.claims.get(key)
        if claim is None or not is_deleting(claim):
            return
        if any(p["spec"].get("nodeName") and not is_finished(p) for p in self.pods.by_index("claim", key)):
            return
        # The cache may not show a pod that was bound a moment ago.
        for pod in (await self.client.list(resources.PODS, namespace_of(claim))).items:
            if key in claim_index(pod) and pod["spec"].get("nodeName") and not is_finished(pod):
                return
        await drop_finalizer(self, resources.PERSISTENTVOLUMECLAIMS, claim, CLAIM_FINALIZER)


class VolumeProtectionController(Controller):
    name = "persistentvolume-protection-controller"

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx)
        self.volumes = self.informer(resources.PERSISTENTVOLUMES, self._volume, lambda _, volume: self._volume(volume))

    def _volume(self, volume: Obj) -> None:
        if is_deleting(volume) and VOLUME_FINALIZER in (volume["metadata"].get("finalizers") or ()):
            self.enqueue(volume)

    async def reconcile(self, key: str) -> None:
        volume = self.volumes.get(key)
        if volume is None or not is_deleting(volume) or (volume.get("status") or {}).get("phase") == "Bound":
            return
        await drop_finalizer(self, resources.PERSISTENTVOLUMES, volume, VOLUME_FINALIZER)
