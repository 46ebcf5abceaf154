"""Dynamic resource allocation: claims, templates, classes, slices. Source: ``pkg/apis/resource/validation``."""

from __future__ import annotations

from k3sd.apimachinery import validation as names
from k3sd.apimachinery.errors import FieldError, Obj, duplicate, invalid, not_supported, required
from k3sd.apis import resources
from k3sd.apiserver.kinds import strategy
from k3sd.apiserver.kinds.podspec import validate_node_selector
from k3sd.apiserver.kinds.rules import Errors, same, spec_of, validate_immutable, validate_names
from k3sd.apiserver.request import RequestContext
from k3sd.apiserver.strategy import Strategy


def _validate_selectors(selectors: list[Obj], path: str, errs: Errors) -> None:
    for i, selector in enumerate(selectors):
        if selector.get("cel") is None:
            errs.append(required(f"{path}[{i}].cel"))
        elif not selector["cel"].get("expression"):
            errs.append(required(f"{path}[{i}].cel.expression"))


def _validate_exact(request: Obj, path: str, errs: Errors) -> None:
    if not request.get("deviceClassName"):
        errs.append(required(f"{path}.deviceClassName"))
    else:
        validate_names(names.dns1123_subdomain, request["deviceClassName"], f"{path}.deviceClassName", errs)
    _validate_selectors(request.get("selectors") or [], f"{path}.selectors", errs)
    mode, count = request.get("allocationMode"), request.get("count") or 0
    if mode == "All":
        if count:
            errs.append(invalid(f"{path}.count", count, "must not be specified when allocationMode is 'All'"))
    elif mode == "ExactCount":
        if count <= 0:
            errs.append(invalid(f"{path}.count", count, "must be greater than zero"))
    else:
        errs.append(not_supported(f"{path}.allocationMode", mode or "", ["All", "ExactCount"]))


def validate_claim_spec(spec: Obj, field: str, errs: Errors) -> None:
    """``validateResourceClaimSpec``."""
    devices = spec.get("devices") or {}
    seen: set[str] = set()
    for i, request in enumerate(devices.get("requests") or []):
        path, name = f"{field}.devices.requests[{i}]", request.get("name", "")
        validate_names(names.dns1123_label, name, f"{path}.name", errs)
        if name in seen:
            errs.append(duplicate(f"{path}.name", name))
        seen.add(name)
        exact, first = request.get("exactly"), request.get("firstAvailable") or []
        if exact is not None and first:
            errs.append(invalid(path, request, "exactly one of `exactly` or `firstAvailable` must be specified"))
        elif exact is None and not first:
            errs.append(required(path, "exactly one of `exactly` or `firstAvailable` is required"))
        elif exact is not None:
            _validate_exact(exact, f"{path}.exactly", errs)
        for j, sub in enumerate(first):
            validate_names(names.dns1123_label, sub.get("name", ""), f"{path}.firstAvailable[{j}].name", errs)
            seen.add(f"{name}/{sub.get('name', '')}")
            _validate_exact(sub, f"{path}.firstAvailable[{j}]", errs)
    for part in ("constraints", "config"):
        for i, entry in enumerate(devices.get(part) or []):
            for j, name in enumerate(entry.get("requests") or []):
                if name not in seen:
                    text = (
                        "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'"
                    )
                    errs.append(invalid(f"{field}.devices.{part}[{i}].requests[{j}]", name, text))


@strategy(resources.RESOURCECLAIMS)
class ClaimStrategy(Strategy):
    def validate_create(self, ctx: RequestContext, obj: Obj) -> list[FieldError]:
        errs: Errors = []
        validate_claim_spec(spec_of(obj), "spec", errs)
        return errs

    def validate_update(self, ctx: RequestContext, new: Obj, old: Obj) -> list[FieldError]:
        errs: Errors = []
        validate_immutable(spec_of(new), spec_of(old), "spec", errs)
        return errs

    def validate_status(self, ctx: RequestContext, new: Obj, old: Obj) -> list[FieldError]:
        errs: Errors = []
        status, previous = new.get("status") or {}, old.get("status") or {}
        reserved = status.get("reservedFor") or []
        for i, entry in enumerate(reserved):
            for key in ("resource", "name", "uid"):
                if not entry.get(key):
                    errs.append(required(f"status.reservedFor[{i}].{key}"))
            if entry.get("uid") in [e.get("uid") for e in reserved[:i]]:
                errs.append(duplicate(f"status.reservedFor[{i}].uid", entry.get("uid", "")))
        if reserved and status.get("allocation") is None:
            errs.append(invalid("status.reservedFor", reserved, "may not be specified when `allocated` is not set"))
        if previous.get("allocation") and status.get("allocation") and not same(status["allocation"], previous["allocation"]):
            validate_immutable(status["allocation"], previous["allocation"], "status.allocation", errs)
        return errs


@strategy(resources.RESOURCECLAIMTEMPLATES)
class ClaimTemplateStrategy(Strategy):
    has_status = False

    def validate_create(self, ctx: RequestContext, obj: Obj) -> list[FieldError]:
        errs: Errors = []
        validate_claim_spec(spec_of(obj).get("spec") or {}, "spec.spec", errs)
        return errs

    def validate_update(self, ctx: RequestContext, new: Obj, old: Obj) -> list[FieldError]:
        errs: Errors = []
        validate_immutable(spec_of(new), spec_of(old), "spec", errs)
        return errs


@strategy(resources.DEVICECLASSES)
class DeviceClassStrategy(Strategy):
    has_status = False
    has_generation = True

    def validate_create(self, ctx: RequestContext, obj: Obj) -> list[FieldError]:
        errs: Errors = []
        _validate_selectors(spec_of(obj).get("selectors") or [], "spec.selectors", errs)
        return errs

    def validate_update(self, ctx: RequestContext, new: Obj, old: Obj) -> list[FieldError]:
        return self.validate_create(ctx, new)


@strategy(resources.RESOURCESLICES)
class ResourceSliceStrategy(Strategy):
    has_status = False
    has_generation = True

    def validate_create(self, ctx: RequestContext, obj: Obj) -> list[FieldError]:
        errs: Errors = []
        spec = spec_of(obj)
        driver, pool = spec.get("driver", ""), spec.get("pool") or {}
        if not driver:
            errs.append(required("spec.driver"))
        else:
            validate_names(names.dns1123_subdomain, driver, "spec.driver", errs)
        if not pool.get("name"):
            errs.append(required("spec.pool.name"))
        if (pool.get("resourceSliceCount") or 0) <= 0:
            errs.append(
                invalid("spec.pool.resourceSliceCount", pool.get("resourceSliceCount") or 0, "must be greater than zero")
            )
        if (pool.get("generation") or 0) < 0:
            errs.append(invalid("spec.pool.generation", pool["generation"], "must be greater than or equal to zero"))
        places = [k for k in ("nodeName", "nodeSelector", "allNodes", "perDeviceNodeSelection") if spec.get(k)]
        if len(places) != 1 and not spec.get("sharedCounters"):
            text = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required"
            errs.append(invalid("spec", places, text) if places else required("spec", text))
        if spec.get("nodeSelector"):
            validate_node_selector(spec["nodeSelector"], "spec.nodeSelector", errs)
        seen: set[str] = set()
        for i, device in enumerate(spec.get("devices") or []):
            name = device.get("name", "")
            validate_names(names.dns1123_label, name, f"spec.devices[{i}].name", errs)
            if name in seen:
                errs.append(duplicate(f"spec.devices[{i}].name", name))
            seen.add(name)
        return errs

    def validate_update(self, ctx: RequestContext, new: Obj, old: Obj) -> list[FieldError]:
        errs = self.validate_create(ctx, new)
        spec, old_spec = spec_of(new), spec_of(old)
        for key in ("driver", "nodeName"):
            validate_immutable(spec.get(key), old_spec.get(key), f"spec.{key}", errs)
        pool, old_pool = (s.get("pool") or {} for s in (spec, old_spec))
        validate_immutable(pool.get("name"), old_pool.get("name"), "spec.pool.name", errs)
        return errs

    def selectable_fields(self, obj: Obj) -> dict[str, str]:
        return {"spec.nodeName": spec_of(obj).get("nodeName", ""), "spec.driver": spec_of(obj).get("driver", "")}
