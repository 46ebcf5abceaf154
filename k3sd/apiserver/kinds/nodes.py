"""Nodes and RuntimeClasses. Source: ``ValidateNode``, ``ValidateNodeUpdate``, ``pkg/apis/node/validation``."""

from __future__ import annotations

from k3sd.apimachinery import validation as names
from k3sd.apimachinery.errors import FieldError, Obj, duplicate, forbidden_field, not_supported, required
from k3sd.apis import resources
from k3sd.apiserver.kinds import strategy
from k3sd.apiserver.kinds.podspec import TAINT_EFFECTS, validate_tolerations
from k3sd.apiserver.kinds.rules import (
    Errors,
    same,
    spec_of,
    validate_cidr,
    validate_immutable,
    validate_label_name,
    validate_labels,
    validate_names,
    validate_resource_name,
)
from k3sd.apiserver.request import RequestContext
from k3sd.apiserver.strategy import Strategy

_UPDATE_FORBIDDEN = (
    "node updates may only change labels, taints, or capacity (or configSource, if the DynamicKubeletConfig feature gate is "
    "enabled)"
)


@strategy(resources.NODES)
class NodeStrategy(Strategy):
    keeps_status_on_create = True

    def prepare_create(self, ctx: RequestContext, obj: Obj) -> None:
        if spec_of(obj).get("podCIDR") and not spec_of(obj).get("podCIDRs"):
            obj["spec"]["podCIDRs"] = [obj["spec"]["podCIDR"]]

    def validate_create(self, ctx: RequestContext, obj: Obj) -> list[FieldError]:
        errs: Errors = []
        spec = spec_of(obj)
        _validate_taints(spec.get("taints") or [], errs)
        for i, cidr in enumerate(spec.get("podCIDRs") or []):
            validate_cidr(cidr, f"spec.podCIDRs[{i}]", errs)
        return errs

    def validate_update(self, ctx: RequestContext, new: Obj, old: Obj) -> list[FieldError]:
        errs: Errors = []
        spec, old_spec = spec_of(new), spec_of(old)
        if spec == old_spec:
            return errs
        _validate_taints(spec.get("taints") or [], errs)
        if old_spec.get("podCIDRs") and not same(spec.get("podCIDRs"), old_spec["podCIDRs"]):
            errs.append(forbidden_field("spec.podCIDRs", 'node updates may not change podCIDR except from "" to valid'))
        for i, cidr in enumerate(spec.get("podCIDRs") or []):
            validate_cidr(cidr, f"spec.podCIDRs[{i}]", errs)
        if old_spec.get("providerID") and spec.get("providerID") != old_spec["providerID"]:
            errs.append(forbidden_field("spec.providerID", 'node updates may not change providerID except from "" to valid'))
        mutable = {"taints", "unschedulable", "podCIDR", "podCIDRs", "providerID", "configSource"}
        if any(not same(spec.get(k), old_spec.get(k)) for k in {*spec, *old_spec} - mutable):
            errs.append(forbidden_field("", _UPDATE_FORBIDDEN))
        return errs

    def validate_status(self, ctx: RequestContext, new: Obj, old: Obj) -> list[FieldError]:
        errs: Errors = []
        status = new.get("status") or {}
        seen: set[str] = set()
        for i, address in enumerate(status.get("addresses") or []):
            key = f"{address.get('type')}/{address.get('address')}"
            if key in seen:
                errs.append(duplicate(f"status.addresses[{i}]", address))
            seen.add(key)
        for key in ("capacity", "allocatable"):
            for name in status.get(key) or {}:
                validate_resource_name(name, f"status.{key}.{name}", errs)
        return errs

    def selectable_fields(self, obj: Obj) -> dict[str, str]:
        return {"spec.unschedulable": "true" if spec_of(obj).get("unschedulable") else "false"}


def _validate_taints(taints: list[Obj], errs: Errors) -> None:
    seen: set[tuple[str, str]] = set()
    for i, taint in enumerate(taints):
        path = f"spec.taints[{i}]"
        key, effect = taint.get("key", ""), taint.get("effect", "")
        validate_label_name(key, f"{path}.key", errs)
        validate_names(names.label_value, taint.get("value", ""), f"{path}.value", errs)
        if not effect:
            errs.append(required(f"{path}.effect"))
        elif effect not in TAINT_EFFECTS:
            errs.append(not_supported(f"{path}.effect", effect, TAINT_EFFECTS))
        if (key, effect) in seen:
            errs.append(duplicate(path, taint))
        seen.add((key, effect))


@strategy(resources.RUNTIMECLASSES)
class RuntimeClassStrategy(Strategy):
    has_status = False

    def validate_create(self, ctx: RequestContext, obj: Obj) -> list[FieldError]:
        errs: Errors = []
        handler = obj.get("handler", "")
        if not handler:
            errs.append(required("handler"))
        else:
            validate_names(names.dns1123_label, handler, "handler", errs)
        for name in (obj.get("overhead") or {}).get("podFixed") or {}:
            validate_resource_name(name, "overhead.podFixed", errs)
        scheduling = obj.get("scheduling") or {}
        validate_labels(scheduling.get("nodeSelector"), "scheduling.nodeSelector", errs)
        tolerations = scheduling.get("tolerations") or []
        validate_tolerations(tolerations, "scheduling.tolerations", errs)
        for i, toleration in enumerate(tolerations):
            if toleration in tolerations[:i]:
                errs.append(duplicate(f"scheduling.tolerations[{i}]", toleration))
        return errs

    def validate_update(self, ctx: RequestContext, new: Obj, old: Obj) -> list[FieldError]:
        errs: Errors = []
        validate_immutable(new.get("handler"), old.get("handler"), "handler", errs)
        return errs
