"""Volume sources of pods and PersistentVolumes. Source: ``pkg/apis/core/validation`` (``ValidateVolumes``)."""

from __future__ import annotations

from k3sd.apimachinery import quantity
from k3sd.apimachinery import validation as names
from k3sd.apimachinery.errors import Obj, duplicate, forbidden_field, invalid, not_supported, required
from k3sd.apiserver.kinds.containers import (
    FIELD_PATHS,
    VOLUME_FIELD_PATHS,
    VOLUME_RESOURCE_FIELDS,
    local_path,
    validate_field_ref,
    validate_resource_field_ref,
)
from k3sd.apiserver.kinds.rules import Errors, validate_label_selector, validate_names

HOST_PATH_TYPES = ("", "DirectoryOrCreate", "Directory", "FileOrCreate", "File", "Socket", "CharDevice", "BlockDevice")
_DOWNWARD_PATHS = VOLUME_FIELD_PATHS | (FIELD_PATHS & {"metadata.name", "metadata.namespace", "metadata.uid"})
_REQUIRED = {
    "awsElasticBlockStore": ("volumeID",),
    "azureDisk": ("diskName", "diskURI"),
    "azureFile": ("secretName", "shareName"),
    "cephfs": ("monitors",),
    "cinder": ("volumeID",),
    "flexVolume": ("driver",),
    "flocker": (),
    "gcePersistentDisk": ("pdName",),
    "gitRepo": ("repository",),
    "glusterfs": ("endpoints", "path"),
    "iscsi": ("targetPortal", "iqn"),
    "nfs": ("server", "path"),
    "photonPersistentDisk": ("pdID",),
    "portworxVolume": ("volumeID",),
    "quobyte": ("registry", "volume"),
    "rbd": ("monitors", "image"),
    "scaleIO": ("gateway", "system", "volumeName"),
    "storageos": (),
    "vsphereVolume": ("volumePath",),
    "csi": ("driver",),
    "local": ("path",),
    "fc": (),
}
"""Sources that are only carried along: their required fields."""


def validate_volumes(volumes: list[Obj], field: str, pod_name: str, errs: Errors) -> None:
    """Names unique, one source each, and the rules of the sources."""
    seen: set[str] = set()
    for i, volume in enumerate(volumes):
        path = f"{field}[{i}]"
        name = volume.get("name", "")
        if not name:
            errs.append(required(f"{path}.name"))
        else:
            validate_names(names.dns1123_label, name, f"{path}.name", errs)
            if name in seen:
                errs.append(duplicate(f"{path}.name", name))
            seen.add(name)
        validate_source(volume, path, pod_name, errs)


def validate_source(volume: Obj, field: str, pod_name: str, errs: Errors) -> None:
    kinds = [key for key in volume if key != "name" and volume[key] is not None]
    if not kinds:
        errs.append(required(field, "must specify a volume type"))
        return
    for kind in kinds[1:]:
        errs.append(forbidden_field(f"{field}.{kind}", "may not specify more than 1 volume type"))
    kind = kinds[0]
    source, path = volume[kind], f"{field}.{kind}"
    if kind == "emptyDir":
        limit = source.get("sizeLimit")
        if limit is not None and quantity.parse(limit) < quantity.parse(0):
            errs.append(forbidden_field(f"{path}.sizeLimit", "SizeLimit field must be a valid resource quantity"))
    elif kind == "hostPath":
        validate_host_path(source, path, errs)
    elif kind in ("configMap", "secret"):
        key = "name" if kind == "configMap" else "secretName"
        if not source.get(key):
            errs.append(required(f"{path}.{key}"))
        _validate_mode(source.get("defaultMode"), f"{path}.defaultMode", errs)
        validate_items(source.get("items") or [], f"{path}.items", errs)
    elif kind == "downwardAPI":
        _validate_mode(source.get("defaultMode"), f"{path}.defaultMode", errs)
        _validate_downward(source.get("items") or [], path, errs)
    elif kind == "projected":
        _validate_projected(source, path, errs)
    elif kind == "persistentVolumeClaim":
        if not source.get("claimName"):
            errs.append(required(f"{path}.claimName"))
    elif kind == "ephemeral":
        _validate_ephemeral(source, path, f"{pod_name}-{volume.get('name', '')}", errs)
    elif kind == "image":
        policy = source.get("pullPolicy")
        if policy and policy not in ("Always", "IfNotPresent", "Never"):
            errs.append(not_supported(f"{path}.pullPolicy", policy, ["Always", "IfNotPresent", "Never"]))
    else:
        for key in _REQUIRED.get(kind, ()):
            if not source.get(key):
                errs.append(required(f"{path}.{key}"))


def validate_host_path(source: Obj, path: str, errs: Errors) -> None:
    target = source.get("path", "")
    if not target:
        errs.append(required(f"{path}.path"))
    elif ".." in target.split("/"):
        errs.append(invalid(f"{path}.path", target, "must not contain '..'"))
    kind = source.get("type") or ""
    if kind not in HOST_PATH_TYPES:
        errs.append(not_supported(f"{path}.type", kind, [t for t in HOST_PATH_TYPES if t]))


def _validate_mode(mode: int | None, field: str, errs: Errors) -> None:
    if mode is not None and not 0 <= mode <= 0o777:
        errs.append(invalid(field, mode, "must be a number between 0 and 0777 (octal), both inclusive"))


def _relative(path: str) -> list[str]:
    """``validateLocalNonReservedPath``."""
    errs = local_path(path)
    if path.startswith("..") and not path.startswith("../"):
        errs.append("must not start with '..'")
    return errs


def validate_items(items: list[Obj], field: str, errs: Errors) -> None:
    """KeyToPath lists."""
    for i, item in enumerate(items):
        path = f"{field}[{i}]"
        if not item.get("key"):
            errs.append(required(f"{path}.key"))
        if not item.get("path"):
            errs.append(required(f"{path}.path"))
        else:
            validate_names(_relative, item["path"], f"{path}.path", errs)
        _validate_mode(item.get("mode"), f"{path}.mode", errs)


def _validate_downward(items: list[Obj], field: str, errs: Errors) -> None:
    for i, item in enumerate(items):
        path = f"{field}.items[{i}]" if not field.endswith("]") else f"{field}[{i}]"
        if not item.get("path"):
            errs.append(required(f"{path}.path"))
        else:
            validate_names(_relative, item["path"], f"{path}.path", errs)
        field_ref, resource_ref = item.get("fieldRef"), item.get("resourceFieldRef")
        if field_ref is not None:
            validate_field_ref(field_ref, _DOWNWARD_PATHS, f"{path}.fieldRef", errs)
            if resource_ref is not None:
                errs.append(invalid(path, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously"))
        elif resource_ref is not None:
            validate_resource_field_ref(resource_ref, VOLUME_RESOURCE_FIELDS, f"{path}.resourceFieldRef", errs, volume=True)
        else:
            errs.append(required(path, "one of fieldRef and resourceFieldRef is required"))
        _validate_mode(item.get("mode"), f"{path}.mode", errs)


def _validate_projected(source: Obj, field: str, errs: Errors) -> None:
    _validate_mode(source.get("defaultMode"), f"{field}.defaultMode", errs)
    paths: set[str] = set()
    for i, item in enumerate(source.get("sources") or []):
        path = f"{field}.sources[{i}]"
        kinds = [key for key in item if item[key] is not None]
        if not kinds:
            errs.append(required(path, "must specify at least one projected volume source"))
            continue
        for kind in kinds[1:]:
            errs.append(forbidden_field(f"{path}.{kind}", "may not specify more than 1 volume type"))
        kind, value = kinds[0], item[kinds[0]]
        if kind in ("configMap", "secret"):
            if not value.get("name"):
                errs.append(required(f"{path}.{kind}.name"))
            validate_items(value.get("items") or [], f"{path}.{kind}.items", errs)
            targets = [v.get("path", "") for v in value.get("items") or []]
        elif kind == "downwardAPI":
            _validate_downward(value.get("items") or [], f"{path}.downwardAPI", errs)
            targets = [v.get("path", "") for v in value.get("items") or []]
        elif kind == "serviceAccountToken":
            _validate_token_source(value, f"{path}.serviceAccountToken", errs)
            targets = [value.get("path", "")]
        elif kind == "clusterTrustBundle":
            validate_label_selector(value.get("labelSelector"), f"{path}.clusterTrustBundle.labelSelector", errs)
            if bool(value.get("name")) == bool(value.get("signerName")):
                errs.append(required(f"{path}.clusterTrustBundle", "either name or signerName must be specified"))
            targets = [value.get("path", "")]
        else:
            targets = []
        for target in targets:
            if target and target in paths:
                errs.append(invalid(path, target, f"conflicting duplicate paths: {target}"))
            paths.add(target)


def _validate_token_source(value: Obj, field: str, errs: Errors) -> None:
    seconds = value.get("expirationSeconds", 3600)
    if seconds < 600:
        errs.append(invalid(f"{field}.expirationSeconds", seconds, "may not specify a duration less than 10 minutes"))
    if seconds > 1 << 32:
        errs.append(invalid(f"{field}.expirationSeconds", seconds, "may not specify a duration larger than 2^32 seconds"))
    if not value.get("path"):
        errs.append(required(f"{field}.path"))
    else:
        validate_names(_relative, value["path"], f"{field}.path", errs)


def _validate_ephemeral(source: Obj, field: str, claim: str, errs: Errors) -> None:
    from k3sd.apiserver.kinds.storage import validate_claim_spec

    template = source.get("volumeClaimTemplate")
    if template is None:
        errs.append(required(f"{field}.volumeClaimTemplate"))
        return
    for text in names.dns1123_subdomain(claim):
        errs.append(invalid(f"{field}.name", claim, f'PVC name "{claim}": {text}'))
    validate_claim_spec(template.get("spec") or {}, f"{field}.volumeClaimTemplate.spec", errs)
