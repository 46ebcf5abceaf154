"""Makes the claims of pods' generic ephemeral volumes. Source: ``pkg/controller/volume/ephemeral``."""

from __future__ import annotations

from k3sd.apimachinery.errors import Obj, StatusError
from k3sd.apis import resources
from k3sd.client.informer import object_key
from k3sd.controllers.base import Context, Controller
from k3sd.controllers.objects import (
    controller_reference,
    has_cause,
    is_controlled_by,
    is_deleting,
    name_of,
    namespace_of,
)
from k3sd.controllers.storageprotection import claim_index
from k3sd.lib.jsonvalue import clone


class EphemeralVolumeController(Controller):
    name = "ephemeral-volume-controller"

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx)
        self.recorder = ctx.recorder("ephemeral_volume")
        self.pods = self.informer(resources.PODS, self._pod)
        self.pods.add_index("claim", claim_index)
        self.claims = self.informer(resources.PERSISTENTVOLUMECLAIMS, None, None, self._claim_gone)

    def _pod(self, pod: Obj) -> None:
        if not is_deleting(pod) and any(v.get("ephemeral") for v in pod["spec"].get("volumes") or ()):
            self.enqueue(pod)

    def _claim_gone(self, claim: Obj) -> None:
        for pod in self.pods.by_index("claim", object_key(claim)):
            self._pod(pod)

    async def reconcile(self, key: str) -> None:
        pod = self.pods.get(key)
        if pod is None or is_deleting(pod):
            return
        for volume in pod["spec"].get("volumes") or ():
            if volume.get("ephemeral"):
                await self._ensure(pod, volume)

    async def _ensure(self, pod: Obj, volume: Obj) -> None:
        name, namespace = f"{name_of(pod)}-{volume['name']}", namespace_of(pod)
        claim = self.claims.get(f"{namespace}/{name}")
        if claim is not None:
            if not is_controlled_by(claim, pod):
                message = f'PVC "{namespace}/{name}" was not created for pod "{namespace}/{name_of(pod)}" (pod is not owner)'
                self.recorder.event(pod, "Warning", "EphemeralVolumeConflict", message)
            return
        template = volume["ephemeral"].get("volumeClaimTemplate") or {}
        source = template.get("metadata") or {}
        metadata: Obj = {
            "name": name,
            "namespace": namespace,
            "ownerReferences": [controller_reference(pod, resources.PODS)],
        }
        for field in ("labels", "annotations"):
            if source.get(field):
                metadata[field] = clone(source[field])
        made = {
            "kind": "PersistentVolumeClaim",
            "apiVersion": "v1",
            "metadata": metadata,
            "spec": clone(template.get("spec") or {}),
        }
        try:
            await self.client.create(resources.PERSISTENTVOLUMECLAIMS, made, namespace)
        except StatusError as e:
            if e.reason == "AlreadyExists" or has_cause(e, "NamespaceTerminating"):
                return
            self.recorder.event(pod, "Warning", "EphemeralVolumeCreationFailed", e.message)
            raise
