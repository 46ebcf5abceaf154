"""Deployment, ReplicaSet, ReplicationController, StatefulSet, DaemonSet. Source: ``pkg/apis/apps/validation``."""

from __future__ import annotations

from collections.abc import Sequence

from k3sd.apimachinery import validation as names
from k3sd.apimachinery.errors import FieldError, Obj, forbidden_field, invalid, not_supported, required
from k3sd.apis import resources
from k3sd.apiserver.kinds import strategy
from k3sd.apiserver.kinds.pods import template_warnings
from k3sd.apiserver.kinds.podspec import validate_template, validate_template_metadata
from k3sd.apiserver.kinds.rules import (
    Errors,
    is_empty_selector,
    percent_of,
    same,
    spec_diff,
    spec_of,
    validate_enum,
    validate_immutable,
    validate_int_or_percent,
    validate_label_selector,
    validate_names,
    validate_non_negative,
    validate_template_labels,
)
from k3sd.apiserver.request import RequestContext
from k3sd.apiserver.strategy import Strategy

STATEFULSET_UPDATE_FORBIDDEN = (
    "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', "
    "'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden"
)


def validate_selector_and_template(spec: Obj, errs: Errors, kind: str) -> None:
    """The parts Deployment, ReplicaSet, StatefulSet and DaemonSet share; the template may only restart Always."""
    selector = spec.get("selector")
    if selector is None:
        errs.append(required("spec.selector"))
    else:
        validate_label_selector(selector, "spec.selector", errs)
        if is_empty_selector(selector):
            errs.append(invalid("spec.selector", selector, f"empty selector is invalid for {kind}"))
    template = spec.get("template") or {}
    if selector is not None and not is_empty_selector(selector):
        labels = (template.get("metadata") or {}).get("labels") or {}
        validate_template_labels(selector, labels, errs)
    if kind == "statefulset":
        # Its volumes are not all known here: upstream leaves the pod spec to the pods (ValidatePodTemplateSpecForStatefulSet).
        validate_template_metadata(template, "spec.template", errs)
    else:
        validate_template(template, "spec.template", errs)
    pod = template.get("spec") or {}
    if pod.get("restartPolicy") not in (None, "Always"):
        errs.append(not_supported("spec.template.spec.restartPolicy", pod["restartPolicy"], ["Always"]))
    if pod.get("activeDeadlineSeconds") is not None:
        errs.append(
            forbidden_field(
                "spec.template.spec.activeDeadlineSeconds", f"activeDeadlineSeconds in {_KIND_NAMES[kind]} is not Supported"
            )
        )


_KIND_NAMES = {
    "deployment": "ReplicaSet",
    "replicaset": "ReplicaSet",
    "statefulset": "StatefulSet",
    "daemonset": "DaemonSet",
    "replicationcontroller": "ReplicationController",
}


def validate_replica_status(status: Obj, errs: Errors) -> None:
    counts = ("replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas")
    _validate_counts(status, (*counts, "observedGeneration", "terminatingReplicas"), counts[1:], errs)


def _validate_counts(status: Obj, keys: Sequence[str], shares: Sequence[str], errs: Errors) -> None:
    """None of ``keys`` is negative, none of ``shares`` is more than all replicas, no more are available than ready."""
    for key in keys:
        validate_non_negative(status.get(key), f"status.{key}", errs)
    total = status.get("replicas") or 0
    for key in shares:
        value = status.get(key) or 0
        if value > total:
            errs.append(invalid(f"status.{key}", value, "cannot be greater than status.replicas"))
    if (status.get("availableReplicas") or 0) > (status.get("readyReplicas") or 0):
        errs.append(invalid("status.availableReplicas", status["availableReplicas"], "cannot be greater than readyReplicas"))


class _Workload(Strategy):
    has_generation = True
    kind_name = ""

    def validate_create(self, ctx: RequestContext, obj: Obj) -> list[FieldError]:
        errs: Errors = []
        self.validate_spec(spec_of(obj), errs)
        return errs

    def validate_update(self, ctx: RequestContext, new: Obj, old: Obj) -> list[FieldError]:
        errs: Errors = []
        if spec_of(new) != spec_of(old):
            self.validate_spec(spec_of(new), errs)
            self.validate_spec_update(spec_of(new), spec_of(old), errs)
        return errs

    def validate_spec(self, spec: Obj, errs: Errors) -> None:
        validate_selector_and_template(spec, errs, self.kind_name)

    def validate_spec_update(self, new: Obj, old: Obj, errs: Errors) -> None:
        validate_immutable(new.get("selector"), old.get("selector"), "spec.selector", errs)

    def warnings(self, ctx: RequestContext, obj: Obj, old: Obj | None) -> list[str]:
        template = spec_of(obj).get("template") or {}
        if old is not None and template == spec_of(old).get("template"):
            return []
        return template_warnings(template.get("spec") or {}, "spec.template.spec")


@strategy(resources.DEPLOYMENTS)
class DeploymentStrategy(_Workload):
    kind_name = "deployment"

    def validate_spec(self, spec: Obj, errs: Errors) -> None:
        validate_non_negative(spec.get("replicas"), "spec.replicas", errs)
        super().validate_spec(spec, errs)
        _validate_deployment_strategy(spec.get("strategy") or {}, errs)
        validate_non_negative(spec.get("minReadySeconds"), "spec.minReadySeconds", errs)
        validate_non_negative(spec.get("revisionHistoryLimit"), "spec.revisionHistoryLimit", errs)
        deadline = spec.get("progressDeadlineSeconds")
        validate_non_negative(deadline, "spec.progressDeadlineSeconds", errs)
        if deadline is not None and deadline <= (spec.get("minReadySeconds") or 0):
            errs.append(invalid("spec.progressDeadlineSeconds", deadline, "must be greater than minReadySeconds"))

    def validate_status(self, ctx: RequestContext, new: Obj, old: Obj) -> list[FieldError]:
        errs: Errors = []
        status, previous = new.get("status") or {}, old.get("status") or {}
        counts = ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas")
        others = ("unavailableReplicas", "collisionCount", "terminatingReplicas")
        _validate_counts(status, ("observedGeneration", *counts, *others), counts[1:], errs)
        count, before = status.get("collisionCount"), previous.get("collisionCount")
        if before is not None:
            if count is None:
                errs.append(invalid("status.collisionCount", 0, "cannot be set to nil"))
            elif count < before:
                errs.append(invalid("status.collisionCount", count, "cannot be decremented"))
        return errs


def _validate_deployment_strategy(value: Obj, errs: Errors) -> None:
    kind = value.get("type", "RollingUpdate")
    rolling = value.get("rollingUpdate")
    if kind == "Recreate":
        if rolling is not None:
            errs.append(
                forbidden_field("spec.strategy.rollingUpdate", "may not be specified when strategy `type` is 'Recreate'")
            )
    elif kind == "RollingUpdate":
        if rolling is None:
            errs.append(required("spec.strategy.rollingUpdate", "this should be defaulted and never be nil"))
        else:
            validate_rolling_update(rolling, "spec.strategy.rollingUpdate", errs)
    else:
        errs.append(not_supported("spec.strategy.type", kind, ["Recreate", "RollingUpdate"]))


def validate_rolling_update(rolling: Obj, field: str, errs: Errors, *, zero_text: str = "") -> None:
    """``ValidateRollingUpdateDeployment`` and, with ``zero_text``, the DaemonSet's twin."""
    unavailable, surge = rolling.get("maxUnavailable"), rolling.get("maxSurge")
    validate_int_or_percent(unavailable, f"{field}.maxUnavailable", errs)
    validate_int_or_percent(surge, f"{field}.maxSurge", errs)
    zero = (0, "0%", None)
    if unavailable in zero and surge in zero:
        errs.append(invalid(f"{field}.maxUnavailable", unavailable, zero_text or "may not be 0 when `maxSurge` is 0"))
    percent = percent_of(unavailable)
    if percent is not None and percent > 100:
        errs.append(invalid(f"{field}.maxUnavailable", unavailable, "must not be greater than 100%"))


@strategy(resources.REPLICASETS)
class ReplicaSetStrategy(_Workload):
    kind_name = "replicaset"

    def validate_spec(self, spec: Obj, errs: Errors) -> None:
        validate_non_negative(spec.get("replicas"), "spec.replicas", errs)
        validate_non_negative(spec.get("minReadySeconds"), "spec.minReadySeconds", errs)
        super().validate_spec(spec, errs)

    def validate_status(self, ctx: RequestContext, new: Obj, old: Obj) -> list[FieldError]:
        errs: Errors = []
        validate_replica_status(new.get("status") or {}, errs)
        return errs


@strategy(resources.REPLICATIONCONTROLLERS)
class ReplicationControllerStrategy(Strategy):
    has_generation = True

    def validate_create(self, ctx: RequestContext, obj: Obj) -> list[FieldError]:
        errs: Errors = []
        spec = spec_of(obj)
        validate_non_negative(spec.get("minReadySeconds"), "spec.minReadySeconds", errs)
        validate_non_negative(spec.get("replicas"), "spec.replicas", errs)
        selector = spec.get("selector") or {}
        if not selector:
            errs.append(required("spec.selector"))
        template = spec.get("template")
        if template is None:
            errs.append(required("spec.template"))
            return errs
        labels = (template.get("metadata") or {}).get("labels") or {}
        if selector and any(labels.get(k) != v for k, v in selector.items()):
            errs.append(invalid("spec.template.metadata.labels", labels, "`selector` does not match template `labels`"))
        validate_template(template, "spec.template", errs)
        policy = (template.get("spec") or {}).get("restartPolicy")
        if policy not in (None, "Always"):
            errs.append(not_supported("spec.template.spec.restartPolicy", policy, ["Always"]))
        return errs

    def validate_update(self, ctx: RequestContext, new: Obj, old: Obj) -> list[FieldError]:
        return [] if spec_of(new) == spec_of(old) else self.validate_create(ctx, new)

    def validate_status(self, ctx: RequestContext, new: Obj, old: Obj) -> list[FieldError]:
        errs: Errors = []
        validate_replica_status(new.get("status") or {}, errs)
        return errs

    def default_orphan(self, obj: Obj) -> bool:
        return True

    def selectable_fields(self, obj: Obj) -> dict[str, str]:
        return {"status.replicas": str((obj.get("status") or {}).get("replicas") or 0)}


@strategy(resources.STATEFULSETS)
class StatefulSetStrategy(_Workload):
    kind_name = "statefulset"
    name_rule = "dns1123-subdomain"

    def validate_spec(self, spec: Obj, errs: Errors) -> None:
        validate_enum(spec.get("podManagementPolicy"), ("OrderedReady", "Parallel"), "spec.podManagementPolicy", errs)
        update = spec.get("updateStrategy") or {}
        rolling = update.get("rollingUpdate")
        kind = update.get("type", "")
        if not kind:
            errs.append(required("spec.updateStrategy"))
        elif kind == "OnDelete":
            if rolling is not None:
                errs.append(
                    invalid("spec.updateStrategy.rollingUpdate", rolling, "only allowed for updateStrategy 'RollingUpdate'")
                )
        elif kind == "RollingUpdate":
            if rolling is not None:
                validate_non_negative(rolling.get("partition"), "spec.updateStrategy.rollingUpdate.partition", errs)
                _validate_set_unavailable(rolling.get("maxUnavailable"), errs)
        else:
            errs.append(invalid("spec.updateStrategy", update, "must be 'RollingUpdate' or 'OnDelete'"))
        retention = spec.get("persistentVolumeClaimRetentionPolicy") or {}
        for key in ("whenDeleted", "whenScaled"):
            if retention.get(key) not in (None, "Retain", "Delete"):
                errs.append(
                    not_supported(f"spec.persistentVolumeClaimRetentionPolicy.{key}", retention[key], ["Delete", "Retain"])
                )
        validate_non_negative(spec.get("replicas"), "spec.replicas", errs)
        validate_non_negative(spec.get("minReadySeconds"), "spec.minReadySeconds", errs)
        validate_non_negative(spec.get("revisionHistoryLimit"), "spec.revisionHistoryLimit", errs)
        validate_non_negative((spec.get("ordinals") or {}).get("start"), "spec.ordinals.start", errs)
        if spec.get("serviceName"):
            validate_names(names.dns1123_label, spec["serviceName"], "spec.serviceName", errs)
        super().validate_spec(spec, errs)

    def validate_spec_update(self, new: Obj, old: Obj, errs: Errors) -> None:
        mutable = {
            "replicas",
            "ordinals",
            "template",
            "updateStrategy",
            "revisionHistoryLimit",
            "persistentVolumeClaimRetentionPolicy",
            "minReadySeconds",
        }
        if any(not same(new.get(k), old.get(k)) for k in {*new, *old} - mutable):
            errs.append(forbidden_field("spec", STATEFULSET_UPDATE_FORBIDDEN))

    def validate_status(self, ctx: RequestContext, new: Obj, old: Obj) -> list[FieldError]:
        errs: Errors = []
        status = new.get("status") or {}
        for key in (
            "replicas",
            "readyReplicas",
            "currentReplicas",
            "updatedReplicas",
            "availableReplicas",
            "observedGeneration",
            "collisionCount",
        ):
            validate_non_negative(status.get(key), f"status.{key}", errs)
        total = status.get("replicas") or 0
        for key in ("readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"):
            value = status.get(key) or 0
            if value > total:
                errs.append(invalid(f"status.{key}", value, "cannot be greater than status.replicas"))
        return errs


def _validate_set_unavailable(value: int | str | None, errs: Errors) -> None:
    if value is None:
        return
    field = "spec.updateStrategy.rollingUpdate.maxUnavailable"
    validate_int_or_percent(value, field, errs)
    if value in (0, "0%"):
        errs.append(invalid(field, value, "cannot be 0"))
    percent = percent_of(value)
    if percent is not None and percent > 100:
        errs.append(invalid(field, value, "must not be greater than 100%"))


@strategy(resources.DAEMONSETS)
class DaemonSetStrategy(_Workload):
    kind_name = "daemonset"

    def prepare_create(self, ctx: RequestContext, obj: Obj) -> None:
        obj["metadata"]["generation"] = 1
        _set_template_generation(obj, 1)

    def prepare_update(self, ctx: RequestContext, new: Obj, old: Obj) -> None:
        generation = _template_generation(old)
        if spec_of(new).get("template") != spec_of(old).get("template"):
            generation += 1
        _set_template_generation(new, generation)

    def validate_spec(self, spec: Obj, errs: Errors) -> None:
        super().validate_spec(spec, errs)
        validate_non_negative(spec.get("minReadySeconds"), "spec.minReadySeconds", errs)
        validate_non_negative(spec.get("revisionHistoryLimit"), "spec.revisionHistoryLimit", errs)
        update = spec.get("updateStrategy") or {}
        kind, rolling = update.get("type", ""), update.get("rollingUpdate")
        if kind == "RollingUpdate":
            if rolling is None:
                errs.append(required("spec.updateStrategy.rollingUpdate"))
                return
            path = "spec.updateStrategy.rollingUpdate"
            validate_rolling_update(rolling, path, errs, zero_text="cannot be 0 when maxSurge is 0")
            zero = (0, "0%", None)
            if rolling.get("maxUnavailable") not in zero and rolling.get("maxSurge") not in zero:
                errs.append(
                    invalid(f"{path}.maxSurge", rolling.get("maxSurge"), "may not be set when maxUnavailable is non-zero")
                )
        elif kind != "OnDelete":
            errs.append(not_supported("spec.updateStrategy.type", kind, ["OnDelete", "RollingUpdate"]))

    def validate_status(self, ctx: RequestContext, new: Obj, old: Obj) -> list[FieldError]:
        errs: Errors = []
        status = new.get("status") or {}
        for key in (
            "currentNumberScheduled",
            "numberMisscheduled",
            "desiredNumberScheduled",
            "numberReady",
            "observedGeneration",
            "updatedNumberScheduled",
            "numberAvailable",
            "numberUnavailable",
            "collisionCount",
        ):
            validate_non_negative(status.get(key), f"status.{key}", errs)
        return errs


_TEMPLATE_GENERATION = "deprecated.daemonset.template.generation"


def _template_generation(obj: Obj) -> int:
    text = (obj["metadata"].get("annotations") or {}).get(_TEMPLATE_GENERATION, "")
    return int(text) if text.isdigit() else 0


def _set_template_generation(obj: Obj, generation: int) -> None:
    obj["metadata"].setdefault("annotations", {})[_TEMPLATE_GENERATION] = str(max(generation, 1))


@strategy(resources.CONTROLLERREVISIONS)
class ControllerRevisionStrategy(Strategy):
    has_status = False

    def validate_create(self, ctx: RequestContext, obj: Obj) -> list[FieldError]:
        errs: Errors = []
        validate_non_negative(obj.get("revision"), "revision", errs)
        if obj.get("data") is None:
            errs.append(required("data", "data is mandatory"))
        return errs

    def validate_update(self, ctx: RequestContext, new: Obj, old: Obj) -> list[FieldError]:
        errs: Errors = []
        validate_non_negative(new.get("revision"), "revision", errs)
        if new.get("data") != old.get("data"):
            errs.append(invalid("data", new.get("data"), "field is immutable\n" + spec_diff(old.get("data"), new.get("data"))))
        return errs
