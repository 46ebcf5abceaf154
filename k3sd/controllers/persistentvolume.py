"""Binds PersistentVolumeClaims to PersistentVolumes and asks external provisioners for new ones.

Source: ``pkg/controller/volume/persistentvolume`` (``pv_controller.go``, ``index.go``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from k3sd.apimachinery import quantity
from k3sd.apimachinery.errors import Obj, StatusError
from k3sd.apimachinery.selectors import label_selector_from
from k3sd.apis import resources
from k3sd.client.retry import update_with_retry
from k3sd.controllers.base import Context, Controller
from k3sd.controllers.objects import annotations_of, is_deleting, labels_of, name_of, namespace_of, uid_of

BIND_COMPLETED = "pv.kubernetes.io/bind-completed"
BOUND_BY_CONTROLLER = "pv.kubernetes.io/bound-by-controller"
SELECTED_NODE = "volume.kubernetes.io/selected-node"
PROVISIONERS = ("volume.beta.kubernetes.io/storage-provisioner", "volume.kubernetes.io/storage-provisioner")
DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"
VOLUME = "volume "
"""Prefix of queue keys of volumes; claims go by their plain key."""


def class_of(obj: Obj) -> str:
    legacy = annotations_of(obj).get("volume.beta.kubernetes.io/storage-class")
    return legacy if legacy is not None else str(obj["spec"].get("storageClassName") or "")


def claim_key(volume: Obj) -> str:
    reference = volume["spec"].get("claimRef") or {}
    return f"{reference.get('namespace')}/{reference.get('name')}" if reference else ""


def is_for(volume: Obj, claim: Obj) -> bool:
    """Whether the volume's claimRef names this claim (not a predecessor of the same name)."""
    reference = volume["spec"].get("claimRef")
    if not reference or claim_key(volume) != f"{namespace_of(claim)}/{name_of(claim)}":
        return False
    return not reference.get("uid") or reference["uid"] == uid_of(claim)


def fits(volume: Obj, claim: Obj) -> bool:
    """Class, access modes, mode, selector and size. Source: ``FindMatchingVolume``."""
    wanted, offered = claim["spec"], volume["spec"]
    if is_deleting(volume) or class_of(volume) != class_of(claim):
        return False
    if wanted.get("volumeMode", "Filesystem") != offered.get("volumeMode", "Filesystem"):
        return False
    if not set(wanted.get("accessModes") or ()) <= set(offered.get("accessModes") or ()):
        return False
    if wanted.get("selector") is not None and not label_selector_from(wanted["selector"]).matches(labels_of(volume)):
        return False
    if (wanted.get("volumeAttributesClassName") or "") != (offered.get("volumeAttributesClassName") or ""):
        return False
    return size_of(volume) >= request_of(claim)


def size_of(volume: Obj) -> quantity.Quantity:
    return quantity.parse((volume["spec"].get("capacity") or {}).get("storage") or 0)


def request_of(claim: Obj) -> quantity.Quantity:
    return quantity.parse(((claim["spec"].get("resources") or {}).get("requests") or {}).get("storage") or 0)


def find_volume(claim: Obj, volumes: Iterable[Obj]) -> Obj | None:
    """The volume reserved for the claim, else the smallest free one that fits."""
    best: Obj | None = None
    for volume in volumes:
        if volume["spec"].get("claimRef"):
            if is_for(volume, claim) and fits(volume, claim):
                return volume
            continue
        if fits(volume, claim) and (best is None or size_of(volume) < size_of(best)):
            best = volume
    return best


class PersistentVolumeBinder(Controller):
    name = "persistentvolume-binder-controller"
    workers = 1
    """One at a time: two claims must not be given one volume."""

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx)
        self.recorder = ctx.recorder("persistentvolume-controller")
        self.claims = self.informer(resources.PERSISTENTVOLUMECLAIMS, self.enqueue, self.enqueue_update, self._claim_gone)
        self.volumes = self.informer(
            resources.PERSISTENTVOLUMES, self._volume, lambda _, volume: self._volume(volume), self._volume
        )
        self.classes = self.informer(resources.STORAGECLASSES, self._class, lambda _, one: self._class(one))

    def _claim_gone(self, claim: Obj) -> None:
        name = claim["spec"].get("volumeName")
        if name:
            self.queue.add(VOLUME + name)

    def _volume(self, volume: Obj) -> None:
        self.queue.add(VOLUME + name_of(volume))
        key = claim_key(volume)
        if key:
            self.queue.add(key)
        else:
            # A free volume may be what a claim waits for.
            for claim in self.claims.list():
                if not claim["spec"].get("volumeName") and class_of(claim) == class_of(volume):
                    self.enqueue(claim)

    def _class(self, one: Obj) -> None:
        for claim in self.claims.list():
            if not claim["spec"].get("volumeName"):
                self.enqueue(claim)

    async def reconcile(self, key: str) -> None:
        if key.startswith(VOLUME):
            await self._sync_volume(key.removeprefix(VOLUME))
        else:
            await self._sync_claim(key)

    # -- claims

    async def _sync_claim(self, key: str) -> None:
        claim = self.claims.get(key)
        if claim is None:
            return
        name = claim["spec"].get("volumeName")
        if name:
            await self._sync_named(claim, name)
        elif not is_deleting(claim):
            await self._sync_unbound(claim)

    async def _sync_named(self, claim: Obj, name: str) -> None:
        volume = self.volumes.get(name)
        bound = BIND_COMPLETED in annotations_of(claim)
        if volume is None:
            if bound:
                await self._claim_status(claim, "Lost", None)
                message = "Bound claim has lost its PersistentVolume. Data on the volume is lost!"
                self.recorder.event(claim, "Warning", "ClaimLost", message)
            else:
                await self._claim_status(claim, "Pending", None)
        elif not volume["spec"].get("claimRef") or is_for(volume, claim):
            await self._bind(volume, claim)
        elif bound:
            await self._claim_status(claim, "Lost", None)
            message = "Bound claim has lost reference to its PersistentVolume. Data on the volume is lost!"
            self.recorder.event(claim, "Warning", "ClaimMisbound", message)
        else:
            await self._claim_status(claim, "Pending", None)

    async def _sync_unbound(self, claim: Obj) -> None:
        if claim["spec"].get("storageClassName") is None and await self._assign_default_class(claim):
            return
        one = self.classes.get(class_of(claim)) if class_of(claim) else None
        waits = one is not None and one.get("volumeBindingMode") == "WaitForFirstConsumer"
        waits = waits and SELECTED_NODE not in annotations_of(claim)
        volume = find_volume(claim, self.volumes.list())
        if volume is not None and (not waits or volume["spec"].get("claimRef")):
            await self._bind(volume, claim)
            return
        await self._claim_status(claim, "Pending", None)
        if waits:
            message = "waiting for first consumer to be created before binding"
            self.recorder.event(claim, "Normal", "WaitForFirstConsumer", message)
        elif one is not None and one.get("provisioner") != "kubernetes.io/no-provisioner":
            await self._ask_provisioner(claim, str(one["provisioner"]))
        else:
            message = "no persistent volumes available for this claim and no storage class is set"
            self.recorder.event(claim, "Normal", "FailedBinding", message)

    async def _assign_default_class(self, claim: Obj) -> bool:
        """A claim made before there was a default class gets it now. Source: ``assignDefaultStorageClass``."""
        default = [c for c in self.classes.list() if annotations_of(c).get(DEFAULT_CLASS) == "true"]
        if not default or annotations_of(claim).get("volume.beta.kubernetes.io/storage-class") is not None:
            return False
        newest = max(default, key=lambda c: (c["metadata"].get("creationTimestamp") or "", name_of(c)))
        await self._edit_claim(claim, lambda o: o["spec"].update(storageClassName=name_of(newest)))
        return True

    async def _ask_provisioner(self, claim: Obj, provisioner: str) -> None:
        def change(obj: Obj) -> None:
            obj["metadata"].setdefault("annotations", {}).update({key: provisioner for key in PROVISIONERS})

        await self._edit_claim(claim, change)
        message = (
            f"Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the "
            "system administrator. If volume creation is delayed, please verify that the provisioner is running and "
            "correctly registered."
        )
        self.recorder.event(claim, "Normal", "ExternalProvisioning", message)

    async def _bind(self, volume: Obj, claim: Obj) -> None:
        """Volume first: from then on nobody else takes it, whatever happens to us."""
        reference = {
            "kind": "PersistentVolumeClaim",
            "apiVersion": "v1",
            "namespace": namespace_of(claim),
            "name": name_of(claim),
            "uid": uid_of(claim),
        }

        def take(obj: Obj) -> None:
            old = obj["spec"].get("claimRef")
            if old and not is_for(obj, claim):
                raise StatusError(409, "Conflict", f"persistent volume {name_of(obj)} was taken by {claim_key(obj)}")
            if not old:
                obj["metadata"].setdefault("annotations", {})[BOUND_BY_CONTROLLER] = "yes"
            if not old or not old.get("uid"):
                obj["spec"]["claimRef"] = {**(old or {}), **reference}

        volume = await update_with_retry(
            self.client, resources.PERSISTENTVOLUMES, name_of(volume), None, take, initial=volume, uid=uid_of(volume)
        )
        await self._volume_phase(volume, "Bound")

        def give(obj: Obj) -> None:
            annotations = obj["metadata"].setdefault("annotations", {})
            if obj["spec"].get("volumeName") != name_of(volume):
                obj["spec"]["volumeName"] = name_of(volume)
                annotations[BOUND_BY_CONTROLLER] = "yes"
            annotations[BIND_COMPLETED] = "yes"

        claim = await self._edit_claim(claim, give)
        await self._claim_status(claim, "Bound", volume)

    async def _edit_claim(self, claim: Obj, change: Callable[[Obj], object]) -> Obj:
        return await update_with_retry(
            self.client,
            resources.PERSISTENTVOLUMECLAIMS,
            name_of(claim),
            namespace_of(claim),
            change,
            initial=claim,
            uid=uid_of(claim),
        )

    async def _claim_status(self, claim: Obj, phase: str, volume: Obj | None) -> None:
        def change(obj: Obj) -> None:
            status = obj.setdefault("status", {})
            status["phase"] = phase
            if volume is not None:
                status["accessModes"] = list(volume["spec"].get("accessModes") or ())
                status.setdefault("capacity", dict(volume["spec"].get("capacity") or {}))
                if volume["spec"].get("volumeAttributesClassName"):
                    status["currentVolumeAttributesClassName"] = volume["spec"]["volumeAttributesClassName"]

        await update_with_retry(
            self.client,
            resources.PERSISTENTVOLUMECLAIMS,
            name_of(claim),
            namespace_of(claim),
            change,
            subresource="status",
            initial=claim,
            uid=uid_of(claim),
        )

    # -- volumes

    async def _sync_volume(self, name: str) -> None:
        volume = self.volumes.get(name)
        if volume is None:
            return
        reference = volume["spec"].get("claimRef")
        if not reference or not reference.get("uid"):
            await self._volume_phase(volume, "Available")
            return
        claim = self.claims.get(claim_key(volume))
        if claim is None or uid_of(claim) != reference["uid"]:
            claim = await self._read_claim(volume)
        if claim is None or uid_of(claim) != reference["uid"]:
            # Deleting the storage itself is the external provisioner's business; it waits for this phase.
            await self._volume_phase(volume, "Released")
        elif claim["spec"].get("volumeName") == name:
            await self._volume_phase(volume, "Bound")

    async def _read_claim(self, volume: Obj) -> Obj | None:
        """The cache may not have a claim made a moment ago; releasing its volume would lose it."""
        reference = volume["spec"]["claimRef"]
        try:
            return await self.client.get(resources.PERSISTENTVOLUMECLAIMS, reference["name"], reference["namespace"])
        except StatusError as e:
            if e.code != 404:
                raise
        return None

    async def _volume_phase(self, volume: Obj, phase: str) -> None:
        if (volume.get("status") or {}).get("phase") == phase:
            return
        now = self.ctx.now()

        def change(obj: Obj) -> None:
            status = obj.setdefault("status", {})
            if status.get("phase") != phase:
                status["phase"] = phase
                status["lastPhaseTransitionTime"] = now

        await update_with_retry(
            self.client,
            resources.PERSISTENTVOLUMES,
            name_of(volume),
            None,
            change,
            subresource="status",
            initial=volume,
            uid=uid_of(volume),
        )
