"""Columns and cells of storage.k8s.io/v1."""

from __future__ import annotations

from typing import Any

from k3sd.apimachinery.errors import Obj
from k3sd.apis.columns.text import age, name, spec, status

COLUMNS = {
    "CSIDriver": (
        "Name=name|AttachRequired:boolean|PodInfoOnMount:boolean|StorageCapacity:boolean|TokenRequests|"
        "RequiresRepublish:boolean|Modes|Age"
    ),
    "CSINode": "Name=name|Drivers:integer|Age",
    "CSIStorageCapacity": "Name=name|StorageClassName|Capacity",
    "StorageClass": "Name=name|Provisioner|ReclaimPolicy|VolumeBindingMode|AllowVolumeExpansion|Age",
    "VolumeAttachment": "Name=name|Attacher=name|PV|Node|Attached:boolean|Age",
    "VolumeAttributesClass": "Name=name|DriverName|Age",
}


def _driver(obj: Obj, now: float) -> list[Any]:
    tokens = spec(obj).get("tokenRequests")
    return [
        name(obj),
        spec(obj).get("attachRequired", True),
        spec(obj).get("podInfoOnMount", False),
        spec(obj).get("storageCapacity", False),
        "<unset>" if tokens is None else ",".join(t.get("audience", "") for t in tokens),
        spec(obj).get("requiresRepublish", False),
        ",".join(spec(obj).get("volumeLifecycleModes") or ()) or "<none>",
        age(obj, now),
    ]


def _node(obj: Obj, now: float) -> list[Any]:
    return [name(obj), len(spec(obj).get("drivers") or ()), age(obj, now)]


def _capacity(obj: Obj, now: float) -> list[Any]:
    return [name(obj), obj.get("storageClassName", ""), obj.get("capacity", "<unset>")]


def _storage_class(obj: Obj, now: float) -> list[Any]:
    annotations = obj.get("metadata", {}).get("annotations") or {}
    keys = ("storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class")
    default = any(annotations.get(key) == "true" for key in keys)
    return [
        f"{name(obj)} (default)" if default else name(obj),
        obj.get("provisioner", ""),
        obj.get("reclaimPolicy", "Delete"),
        obj.get("volumeBindingMode", "Immediate"),
        obj.get("allowVolumeExpansion", False),
        age(obj, now),
    ]


def _attachment(obj: Obj, now: float) -> list[Any]:
    return [
        name(obj),
        spec(obj).get("attacher", ""),
        (spec(obj).get("source") or {}).get("persistentVolumeName", ""),
        spec(obj).get("nodeName", ""),
        status(obj).get("attached", False),
        age(obj, now),
    ]


def _attributes_class(obj: Obj, now: float) -> list[Any]:
    return [name(obj), obj.get("driverName", ""), age(obj, now)]


CELLS = {
    "CSIDriver": _driver,
    "CSINode": _node,
    "CSIStorageCapacity": _capacity,
    "StorageClass": _storage_class,
    "VolumeAttachment": _attachment,
    "VolumeAttributesClass": _attributes_class,
}
