"""Storage and ingress defaults. Sources: ``plugin/pkg/admission/storage/*``,
``plugin/pkg/admission/network/defaultingressclass``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from k3sd.apimachinery import quantity
from k3sd.apimachinery.errors import forbidden
from k3sd.apis import resources
from k3sd.apiserver.admission.plugin import Plugin
from k3sd.apiserver.request import Attributes

if TYPE_CHECKING:
    from k3sd.apimachinery.resource import Resource
    from k3sd.apiserver.registry import Registry

Obj = dict[str, Any]
DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"
DEFAULT_CLASS_BETA = "storageclass.beta.kubernetes.io/is-default-class"
DEFAULT_INGRESS = "ingressclass.kubernetes.io/is-default-class"


def newest_default(registry: Registry, resource: Resource, *annotations: str) -> Obj | None:
    """The default class: among several the newest, then the first by name."""
    marked = [
        c
        for c in registry.read_all(resource)
        if any((c["metadata"].get("annotations") or {}).get(a) == "true" for a in annotations)
    ]
    marked.sort(key=lambda c: str(c["metadata"]["name"]))
    return max(marked, key=lambda c: str(c["metadata"].get("creationTimestamp") or "")) if marked else None


class DefaultStorageClass(Plugin):
    name = "DefaultStorageClass"
    resources = (resources.PERSISTENTVOLUMECLAIMS,)

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def admit(self, attrs: Attributes) -> None:
        claim = attrs.obj
        assert claim is not None
        annotations = claim["metadata"].get("annotations") or {}
        if claim["spec"].get("storageClassName") is not None or "volume.beta.kubernetes.io/storage-class" in annotations:
            return
        found = newest_default(self._registry, resources.STORAGECLASSES, DEFAULT_CLASS, DEFAULT_CLASS_BETA)
        if found is not None:
            claim["spec"]["storageClassName"] = found["metadata"]["name"]


class DefaultIngressClass(Plugin):
    name = "DefaultIngressClass"
    resources = (resources.INGRESSES,)

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def admit(self, attrs: Attributes) -> None:
        ingress = attrs.obj
        assert ingress is not None
        spec: Obj = ingress.setdefault("spec", {})
        annotations = ingress["metadata"].get("annotations") or {}
        if spec.get("ingressClassName") is not None or "kubernetes.io/ingress.class" in annotations:
            return
        found = newest_default(self._registry, resources.INGRESSCLASSES, DEFAULT_INGRESS)
        if found is not None:
            spec["ingressClassName"] = found["metadata"]["name"]


class PersistentVolumeClaimResize(Plugin):
    """A claim grows only where its class says that its volumes can."""

    name = "PersistentVolumeClaimResize"
    resources = (resources.PERSISTENTVOLUMECLAIMS,)
    operations = ("UPDATE",)

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def validate(self, attrs: Attributes) -> None:
        claim, old = attrs.obj, attrs.old
        assert claim is not None and old is not None
        size, old_size = (((c["spec"].get("resources") or {}).get("requests") or {}).get("storage", 0) for c in (claim, old))
        if quantity.parse(size) <= quantity.parse(old_size):
            return
        name = claim["metadata"]["name"]
        if (old.get("status") or {}).get("phase") != "Bound":
            raise forbidden("", "persistentvolumeclaims", name, "Only bound persistent volume claims can be expanded")
        chosen = claim["spec"].get("storageClassName") or ""
        found = self._registry.read(resources.STORAGECLASSES, chosen) if chosen else None
        if found is None or not found.get("allowVolumeExpansion"):
            text = "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must "
            text += "support resize"
            raise forbidden("", "persistentvolumeclaims", name, text)


class StorageObjectInUseProtection(Plugin):
    """Claims and volumes carry a finalizer until nobody uses them; the protection controllers take it away."""

    name = "StorageObjectInUseProtection"
    resources = (resources.PERSISTENTVOLUMECLAIMS, resources.PERSISTENTVOLUMES)

    async def admit(self, attrs: Attributes) -> None:
        obj = attrs.obj
        assert obj is not None
        suffix = "pvc" if attrs.ctx.resource is resources.PERSISTENTVOLUMECLAIMS else "pv"
        finalizer = f"kubernetes.io/{suffix}-protection"
        finalizers: list[str] = obj["metadata"].setdefault("finalizers", [])
        if finalizer not in finalizers:
            finalizers.append(finalizer)
