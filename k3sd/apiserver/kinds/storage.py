"""Volumes, claims, storage classes, CSI objects. Source: ``ValidatePersistentVolume*``, ``pkg/apis/storage/validation``."""

from __future__ import annotations

from k3sd.apimachinery import quantity
from k3sd.apimachinery import validation as names
from k3sd.apimachinery.errors import FieldError, Obj, duplicate, forbidden_field, invalid, not_supported, required
from k3sd.apis import resources
from k3sd.apiserver.kinds import strategy
from k3sd.apiserver.kinds.podspec import validate_node_selector
from k3sd.apiserver.kinds.rules import (
    Errors,
    same,
    spec_diff,
    spec_of,
    validate_enum,
    validate_immutable,
    validate_label_selector,
    validate_names,
)
from k3sd.apiserver.kinds.volumes import validate_host_path, validate_source
from k3sd.apiserver.request import RequestContext
from k3sd.apiserver.strategy import Strategy

ACCESS_MODES = ("ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod")
RECLAIM_POLICIES = ("Delete", "Recycle", "Retain")
_NOT_SOURCES = frozenset(
    (
        "accessModes",
        "capacity",
        "claimRef",
        "mountOptions",
        "nodeAffinity",
        "persistentVolumeReclaimPolicy",
        "storageClassName",
        "volumeAttributesClassName",
        "volumeMode",
    )
)
CLAIM_IMMUTABLE = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims"
SOURCE_IMMUTABLE = "spec.persistentvolumesource is immutable after creation"


def _validate_modes(modes: list[str], field: str, errs: Errors) -> None:
    if not modes:
        errs.append(required(field, "at least 1 access mode is required"))
    for mode in modes:
        if mode not in ACCESS_MODES:
            errs.append(not_supported(field, mode, ACCESS_MODES))
    if "ReadWriteOncePod" in modes and len(modes) > 1:
        errs.append(forbidden_field(field, "may not use ReadWriteOncePod with other access modes"))


def _validate_volume_mode(mode: str | None, field: str, errs: Errors) -> None:
    if mode is not None and mode not in ("Block", "Filesystem"):
        errs.append(not_supported(field, mode, ["Block", "Filesystem"]))


@strategy(resources.PERSISTENTVOLUMES)
class VolumeStrategy(Strategy):
    def prepare_create(self, ctx: RequestContext, obj: Obj) -> None:
        obj["status"] = {"phase": "Pending"}

    def validate_create(self, ctx: RequestContext, obj: Obj) -> list[FieldError]:
        errs: Errors = []
        spec = spec_of(obj)
        _validate_modes(spec.get("accessModes") or [], "spec.accessModes", errs)
        capacity = spec.get("capacity") or {}
        if not capacity:
            errs.append(required("spec.capacity"))
        elif "storage" not in capacity or len(capacity) > 1:
            errs.append(not_supported("spec.capacity", capacity, ["storage"]))
        elif quantity.parse(capacity["storage"]) <= quantity.parse(0):
            errs.append(invalid("spec.capacity[storage]", str(capacity["storage"]), "must be greater than zero"))
        policy = spec.get("persistentVolumeReclaimPolicy")
        if policy and policy not in RECLAIM_POLICIES:
            errs.append(not_supported("spec.persistentVolumeReclaimPolicy", policy, RECLAIM_POLICIES))
        _validate_volume_mode(spec.get("volumeMode"), "spec.volumeMode", errs)
        source = {k: v for k, v in spec.items() if k not in _NOT_SOURCES}
        if "hostPath" in source and len(source) == 1:
            validate_host_path(source["hostPath"], "spec.hostPath", errs)
        else:
            validate_source(source, "spec", "", errs)
        if "local" in source and not (spec.get("nodeAffinity") or {}).get("required"):
            errs.append(required("spec.nodeAffinity", "Local volume requires node affinity"))
        hard = (spec.get("nodeAffinity") or {}).get("required")
        if hard is not None:
            validate_node_selector(hard, "spec.nodeAffinity.required", errs)
        if spec.get("storageClassName"):
            validate_names(names.dns1123_subdomain, spec["storageClassName"], "spec.storageClassName", errs)
        if (spec.get("hostPath") or {}).get("path") == "/" and policy == "Recycle":
            errs.append(
                forbidden_field("spec.persistentVolumeReclaimPolicy", "may not be 'recycle' for a hostPath mount of '/'")
            )
        return errs

    def validate_update(self, ctx: RequestContext, new: Obj, old: Obj) -> list[FieldError]:
        spec, old_spec = spec_of(new), spec_of(old)
        if spec == old_spec:
            return []
        errs: Errors = self.validate_create(ctx, new)
        source = {k: v for k, v in spec.items() if k not in _NOT_SOURCES}
        old_source = {k: v for k, v in old_spec.items() if k not in _NOT_SOURCES}
        if source != old_source and not _only_secrets_changed(source, old_source):
            errs.append(forbidden_field("spec.persistentvolumesource", f"{SOURCE_IMMUTABLE}\n{spec_diff(old_source, source)}"))
        validate_immutable(spec.get("volumeMode"), old_spec.get("volumeMode"), "spec.volumeMode", errs)
        if old_spec.get("nodeAffinity") and not same(spec.get("nodeAffinity"), old_spec["nodeAffinity"]):
            validate_immutable(spec.get("nodeAffinity"), old_spec["nodeAffinity"], "spec.nodeAffinity", errs)
        return errs


def _only_secrets_changed(new: Obj, old: Obj) -> bool:
    """A CSI volume's expand and publish secrets may be added later."""
    a, b = new.get("csi"), old.get("csi")
    if a is None or b is None:
        return False
    late = ("controllerExpandSecretRef", "nodeExpandSecretRef")
    return all(same(a.get(k), b.get(k)) or (k in late and b.get(k) is None) for k in {*a, *b})


def validate_claim_spec(spec: Obj, field: str, errs: Errors) -> None:
    """``ValidatePersistentVolumeClaimSpec``; also of templates in pods and StatefulSets."""
    _validate_modes(spec.get("accessModes") or [], f"{field}.accessModes", errs)
    validate_label_selector(spec.get("selector"), f"{field}.selector", errs)
    size = ((spec.get("resources") or {}).get("requests") or {}).get("storage")
    if size is None:
        errs.append(required(f"{field}.resources[storage]"))
    elif quantity.parse(size) <= quantity.parse(0):
        errs.append(invalid(f"{field}.resources[storage]", str(size), "must be greater than zero"))
    if spec.get("storageClassName"):
        validate_names(names.dns1123_subdomain, spec["storageClassName"], f"{field}.storageClassName", errs)
    _validate_volume_mode(spec.get("volumeMode"), f"{field}.volumeMode", errs)
    for key in ("dataSource", "dataSourceRef"):
        source = spec.get(key)
        if source is None:
            continue
        path = f"{field}.{key}"
        for part in ("name", "kind"):
            if not source.get(part):
                errs.append(required(f"{path}.{part}"))
        if not source.get("apiGroup") and source.get("kind") != "PersistentVolumeClaim":
            errs.append(
                invalid(path, source.get("kind", ""), "must be 'PersistentVolumeClaim' when referencing the default apiGroup")
            )


@strategy(resources.PERSISTENTVOLUMECLAIMS)
class ClaimStrategy(Strategy):
    def prepare_create(self, ctx: RequestContext, obj: Obj) -> None:
        obj["status"] = {"phase": "Pending"}

    def validate_create(self, ctx: RequestContext, obj: Obj) -> list[FieldError]:
        errs: Errors = []
        validate_claim_spec(spec_of(obj), "spec", errs)
        return errs

    def validate_update(self, ctx: RequestContext, new: Obj, old: Obj) -> list[FieldError]:
        errs: Errors = []
        spec, old_spec = spec_of(new), spec_of(old)
        if spec == old_spec:
            return errs
        validate_claim_spec(spec, "spec", errs)
        mutable = {"resources", "volumeAttributesClassName"}
        if not old_spec.get("volumeName"):
            # The controller binds a claim, and gives the default class to one that waits for it.
            mutable.add("volumeName")
        if old_spec.get("storageClassName") is None:
            mutable.add("storageClassName")
        changed = [k for k in {*spec, *old_spec} - mutable if not same(spec.get(k), old_spec.get(k))]
        limits, old_limits = ((s.get("resources") or {}).get("limits") for s in (spec, old_spec))
        if changed or not same(limits, old_limits):
            errs.append(forbidden_field("spec", f"{CLAIM_IMMUTABLE}\n{spec_diff(old_spec, spec)}"))
        size, old_size = (((s.get("resources") or {}).get("requests") or {}).get("storage", 0) for s in (spec, old_spec))
        phase = (old.get("status") or {}).get("phase")
        if size != old_size:
            if phase != "Bound":
                errs.append(forbidden_field("spec", f"{CLAIM_IMMUTABLE}\n{spec_diff(old_spec, spec)}"))
            elif quantity.parse(size) < quantity.parse(old_size):
                allocated = ((old.get("status") or {}).get("capacity") or {}).get("storage", old_size)
                if quantity.parse(size) < quantity.parse(allocated):
                    errs.append(
                        forbidden_field("spec.resources.requests.storage", "field can not be less than status.capacity")
                    )
        return errs


@strategy(resources.STORAGECLASSES)
class StorageClassStrategy(Strategy):
    has_status = False

    def validate_create(self, ctx: RequestContext, obj: Obj) -> list[FieldError]:
        errs: Errors = []
        provisioner = obj.get("provisioner", "")
        if not provisioner:
            errs.append(required("provisioner"))
        else:
            validate_names(names.qualified_name, provisioner.lower(), "provisioner", errs)
        for key in obj.get("parameters") or {}:
            if not key:
                errs.append(invalid("parameters", key, "field must not be empty"))
        validate_enum(obj.get("reclaimPolicy"), ("Delete", "Retain"), "reclaimPolicy", errs)
        validate_enum(obj.get("volumeBindingMode"), ("Immediate", "WaitForFirstConsumer"), "volumeBindingMode", errs)
        for i, term in enumerate(obj.get("allowedTopologies") or []):
            for j, req in enumerate(term.get("matchLabelExpressions") or []):
                path = f"allowedTopologies[{i}].matchLabelExpressions[{j}]"
                validate_names(names.qualified_name, req.get("key", ""), f"{path}.key", errs)
                if not req.get("values"):
                    errs.append(required(f"{path}.values"))
        return errs

    def validate_update(self, ctx: RequestContext, new: Obj, old: Obj) -> list[FieldError]:
        errs: Errors = []
        for key, text in (
            ("parameters", "updates to parameters are forbidden."),
            ("provisioner", "updates to provisioner are forbidden."),
            ("reclaimPolicy", "updates to reclaimPolicy are forbidden."),
        ):
            if not same(new.get(key), old.get(key)):
                errs.append(forbidden_field(key, text))
        validate_immutable(new.get("volumeBindingMode"), old.get("volumeBindingMode"), "volumeBindingMode", errs)
        return errs


@strategy(resources.VOLUMEATTRIBUTESCLASSES)
class AttributesClassStrategy(Strategy):
    has_status = False

    def validate_create(self, ctx: RequestContext, obj: Obj) -> list[FieldError]:
        errs: Errors = []
        if not obj.get("driverName"):
            errs.append(required("driverName"))
        else:
            validate_names(names.qualified_name, obj["driverName"].lower(), "driverName", errs)
        if not obj.get("parameters"):
            errs.append(required("parameters", "must contain at least one key/value pair"))
        return errs

    def validate_update(self, ctx: RequestContext, new: Obj, old: Obj) -> list[FieldError]:
        errs: Errors = []
        for key in ("driverName", "parameters"):
            if not same(new.get(key), old.get(key)):
                errs.append(forbidden_field(key, f"updates to {key} are forbidden."))
        return errs


def _validate_driver_name(name: str, field: str, errs: Errors) -> None:
    if not name:
        errs.append(required(field))
        return
    if len(name) > 63:
        errs.append(FieldError("FieldValueTooLong", field, "Too long: may not be more than 63 bytes"))
    validate_names(names.dns1123_subdomain, name.lower(), field, errs)


@strategy(resources.CSIDRIVERS)
class CSIDriverStrategy(Strategy):
    has_status = False

    def validate_create(self, ctx: RequestContext, obj: Obj) -> list[FieldError]:
        errs: Errors = []
        spec = spec_of(obj)
        _validate_driver_name(obj["metadata"].get("name", ""), "metadata.name", errs)
        for key in ("attachRequired", "podInfoOnMount", "storageCapacity"):
            if spec.get(key) is None:
                errs.append(required(f"spec.{key}"))
        for i, mode in enumerate(spec.get("volumeLifecycleModes") or []):
            if mode not in ("Persistent", "Ephemeral"):
                errs.append(not_supported(f"spec.volumeLifecycleModes[{i}]", mode, ["Ephemeral", "Persistent"]))
        policy = spec.get("fsGroupPolicy")
        if policy is not None and policy not in ("ReadWriteOnceWithFSType", "File", "None"):
            errs.append(not_supported("spec.fsGroupPolicy", policy, ["File", "None", "ReadWriteOnceWithFSType"]))
        seen: set[str] = set()
        for i, request in enumerate(spec.get("tokenRequests") or []):
            audience = request.get("audience", "")
            if audience in seen:
                errs.append(duplicate(f"spec.tokenRequests[{i}].audience", audience))
            seen.add(audience)
            seconds = request.get("expirationSeconds")
            if seconds is not None and seconds < 600:
                errs.append(
                    invalid(
                        f"spec.tokenRequests[{i}].expirationSeconds", seconds, "may not specify a duration less than 10 minutes"
                    )
                )
        return errs

    def validate_update(self, ctx: RequestContext, new: Obj, old: Obj) -> list[FieldError]:
        errs: Errors = []
        for key in ("attachRequired", "volumeLifecycleModes"):
            validate_immutable(spec_of(new).get(key), spec_of(old).get(key), f"spec.{key}", errs)
        return errs + self.validate_create(ctx, new)


@strategy(resources.CSINODES)
class CSINodeStrategy(Strategy):
    has_status = False

    def validate_create(self, ctx: RequestContext, obj: Obj) -> list[FieldError]:
        errs: Errors = []
        seen: set[str] = set()
        for i, driver in enumerate(spec_of(obj).get("drivers") or []):
            path = f"spec.drivers[{i}]"
            name = driver.get("name", "")
            _validate_driver_name(name, f"{path}.name", errs)
            if name in seen:
                errs.append(duplicate(f"{path}.name", name))
            seen.add(name)
            if not driver.get("nodeID"):
                errs.append(required(f"{path}.nodeID"))
            count = (driver.get("allocatable") or {}).get("count")
            if count is not None and count < 0:
                errs.append(invalid(f"{path}.allocatable.count", count, "must be greater than or equal to 0"))
            for key in driver.get("topologyKeys") or []:
                validate_names(names.qualified_name, key, path, errs)
        return errs

    def validate_update(self, ctx: RequestContext, new: Obj, old: Obj) -> list[FieldError]:
        errs = self.validate_create(ctx, new)
        before = {d.get("name"): d for d in spec_of(old).get("drivers") or []}
        for i, driver in enumerate(spec_of(new).get("drivers") or []):
            previous = before.get(driver.get("name"))
            if previous is not None:
                for key in ("nodeID", "topologyKeys"):
                    validate_immutable(driver.get(key), previous.get(key), f"spec.drivers[{i}].{key}", errs)
        return errs


@strategy(resources.CSISTORAGECAPACITIES)
class CapacityStrategy(Strategy):
    has_status = False

    def validate_create(self, ctx: RequestContext, obj: Obj) -> list[FieldError]:
        errs: Errors = []
        validate_label_selector(obj.get("nodeTopology"), "nodeTopology", errs)
        name = obj.get("storageClassName", "")
        if not name:
            errs.append(required("storageClassName"))
        else:
            validate_names(names.dns1123_subdomain, name, "storageClassName", errs)
        for key in ("capacity", "maximumVolumeSize"):
            if obj.get(key) is not None and quantity.parse(obj[key]) < quantity.parse(0):
                errs.append(invalid(key, str(obj[key]), "must be greater than or equal to 0"))
        return errs

    def validate_update(self, ctx: RequestContext, new: Obj, old: Obj) -> list[FieldError]:
        errs = self.validate_create(ctx, new)
        for key in ("nodeTopology", "storageClassName"):
            validate_immutable(new.get(key), old.get(key), key, errs)
        return errs


@strategy(resources.VOLUMEATTACHMENTS)
class AttachmentStrategy(Strategy):
    def validate_create(self, ctx: RequestContext, obj: Obj) -> list[FieldError]:
        errs: Errors = []
        spec = spec_of(obj)
        if not spec.get("attacher"):
            errs.append(required("spec.attacher"))
        else:
            _validate_driver_name(spec["attacher"], "spec.attacher", errs)
        source = spec.get("source") or {}
        volume, inline = source.get("persistentVolumeName"), source.get("inlineVolumeSpec")
        if volume is not None and inline is not None:
            errs.append(invalid("spec.source", source, "must specify exactly one of inlineVolumeSpec and persistentVolumeName"))
        elif volume is None and inline is None:
            errs.append(required("spec.source", "must specify exactly one of inlineVolumeSpec and persistentVolumeName"))
        elif volume is not None and not volume:
            errs.append(required("spec.source.persistentVolumeName", "must specify non empty persistentVolumeName"))
        if not spec.get("nodeName"):
            errs.append(required("spec.nodeName"))
        else:
            validate_names(names.dns1123_subdomain, spec["nodeName"], "spec.nodeName", errs)
        return errs

    def validate_update(self, ctx: RequestContext, new: Obj, old: Obj) -> list[FieldError]:
        errs: Errors = []
        if not same(spec_of(new), spec_of(old)):
            errs.append(invalid("spec", spec_of(new), "field is immutable"))
        return errs
