"""Events, both faces: core/v1 and events.k8s.io/v1. Source: ``pkg/apis/core/validation/events.go``."""

from __future__ import annotations

from k3sd.apimachinery import validation as names
from k3sd.apimachinery.errors import FieldError, Obj, invalid, required
from k3sd.apis import resources
from k3sd.apiserver.kinds import strategy
from k3sd.apiserver.kinds.rules import Errors, validate_immutable, validate_names
from k3sd.apiserver.request import RequestContext
from k3sd.apiserver.strategy import Strategy

_REFERENCE = ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")
_LIMITS = {"reportingController": 128, "reportingInstance": 128, "action": 128, "reason": 128, "note": 1024}


def _reference_fields(prefix: str, ref: Obj) -> dict[str, str]:
    return {f"{prefix}.{key}": ref.get(key, "") for key in _REFERENCE}


@strategy(resources.EVENTS)
class CoreEventStrategy(Strategy):
    """The old face is lenient: upstream checks only that the namespaces agree."""

    has_status = False
    allow_create_on_update = True

    def validate_create(self, ctx: RequestContext, obj: Obj) -> list[FieldError]:
        errs: Errors = []
        _validate_namespaces(obj, obj.get("involvedObject") or {}, "involvedObject", errs)
        return errs

    def validate_update(self, ctx: RequestContext, new: Obj, old: Obj) -> list[FieldError]:
        return self.validate_create(ctx, new)

    def selectable_fields(self, obj: Obj) -> dict[str, str]:
        source = (obj.get("source") or {}).get("component", "")
        controller = obj.get("reportingComponent", "")
        return {
            **_reference_fields("involvedObject", obj.get("involvedObject") or {}),
            "reason": obj.get("reason", ""),
            "reportingComponent": controller or source,
            "source": source or controller,
            "type": obj.get("type", ""),
        }


@strategy(resources.EVENTS_EVENTS)
class EventStrategy(Strategy):
    """The new face: who reports, what was done and when are required; only the series may change."""

    has_status = False
    allow_create_on_update = True

    def validate_create(self, ctx: RequestContext, obj: Obj) -> list[FieldError]:
        errs: Errors = []
        _validate_namespaces(obj, obj.get("regarding") or {}, "involvedObject", errs)
        _validate_v1(obj, errs)
        if not obj.get("eventTime"):
            errs.append(required("eventTime"))
        if obj.get("deprecatedSource"):
            errs.append(invalid("source", obj["deprecatedSource"], "needs to be unset"))
        for key, field in (("deprecatedFirstTimestamp", "firstTimestamp"), ("deprecatedLastTimestamp", "lastTimestamp")):
            if obj.get(key):
                errs.append(invalid(field, obj[key], "needs to be unset"))
        if obj.get("deprecatedCount"):
            errs.append(invalid("count", obj["deprecatedCount"], "needs to be unset"))
        return errs

    def validate_update(self, ctx: RequestContext, new: Obj, old: Obj) -> list[FieldError]:
        errs: Errors = []
        _validate_v1(new, errs)
        for key, field in (
            ("regarding", "involvedObject"),
            ("reason", "reason"),
            ("note", "message"),
            ("deprecatedSource", "source"),
            ("type", "type"),
            ("eventTime", "eventTime"),
            ("action", "action"),
            ("related", "related"),
            ("reportingController", "reportingController"),
            ("reportingInstance", "reportingInstance"),
        ):
            validate_immutable(new.get(key), old.get(key), field, errs)
        return errs

    def selectable_fields(self, obj: Obj) -> dict[str, str]:
        return {
            **_reference_fields("regarding", obj.get("regarding") or {}),
            "reason": obj.get("reason", ""),
            "reportingController": obj.get("reportingController", ""),
            "type": obj.get("type", ""),
        }


def _validate_namespaces(event: Obj, ref: Obj, field: str, errs: Errors) -> None:
    """``legacyValidateEvent``: an event about a namespaced object lives beside it, any other in default or kube-system."""
    namespace = event["metadata"].get("namespace", "")
    about = ref.get("namespace", "")
    if not about:
        if namespace not in ("", "default", "kube-system"):
            errs.append(invalid(f"{field}.namespace", about, "does not match event.namespace"))
    elif about != namespace:
        errs.append(invalid(f"{field}.namespace", about, "does not match event.namespace"))


def _validate_v1(event: Obj, errs: Errors) -> None:
    controller = event.get("reportingController", "")
    if not controller:
        errs.append(required("reportingController"))
    else:
        validate_names(names.qualified_name, controller, "reportingController", errs)
    for key in ("reportingInstance", "action", "reason"):
        if not event.get(key):
            errs.append(required(key))
    for key, limit in _LIMITS.items():
        value = event.get(key) or ""
        if len(value) > limit:
            errs.append(invalid("message" if key == "note" else key, "", f"can have at most {limit} characters"))
    if event.get("type") not in ("Normal", "Warning"):
        errs.append(invalid("type", "", f"has invalid value: {event.get('type', '')}"))
    series = event.get("series")
    if series is not None:
        if (series.get("count") or 0) < 2:
            errs.append(invalid("series.count", "", "should be at least 2"))
        if not series.get("lastObservedTime"):
            errs.append(required("series.lastObservedTime"))
