"""PodDisruptionBudgets. Source: ``pkg/apis/policy/validation``."""

from __future__ import annotations

from k3sd.apimachinery import validation as names
from k3sd.apimachinery.errors import FieldError, Obj, invalid, not_supported
from k3sd.apis import resources
from k3sd.apiserver.kinds import strategy
from k3sd.apiserver.kinds.rules import (
    Errors,
    percent_of,
    spec_of,
    validate_int_or_percent,
    validate_label_selector,
    validate_non_negative,
)
from k3sd.apiserver.request import RequestContext
from k3sd.apiserver.strategy import Strategy


@strategy(resources.PODDISRUPTIONBUDGETS)
class DisruptionBudgetStrategy(Strategy):
    has_generation = True

    def validate_create(self, ctx: RequestContext, obj: Obj) -> list[FieldError]:
        errs: Errors = []
        spec = spec_of(obj)
        if spec.get("minAvailable") is not None and spec.get("maxUnavailable") is not None:
            errs.append(invalid("spec", spec, "minAvailable and maxUnavailable cannot be both set"))
        for key in ("minAvailable", "maxUnavailable"):
            value = spec.get(key)
            validate_int_or_percent(value, f"spec.{key}", errs)
            percent = percent_of(value)
            if percent is not None and percent > 100:
                errs.append(invalid(f"spec.{key}", value, "must not be greater than 100%"))
        validate_label_selector(spec.get("selector"), "spec.selector", errs, invalid_values=True)
        policy = spec.get("unhealthyPodEvictionPolicy")
        if policy is not None and policy not in ("AlwaysAllow", "IfHealthyBudget"):
            errs.append(not_supported("spec.unhealthyPodEvictionPolicy", policy, ["AlwaysAllow", "IfHealthyBudget"]))
        return errs

    def validate_update(self, ctx: RequestContext, new: Obj, old: Obj) -> list[FieldError]:
        return self.validate_create(ctx, new)

    def validate_status(self, ctx: RequestContext, new: Obj, old: Obj) -> list[FieldError]:
        errs: Errors = []
        status = new.get("status") or {}
        errs += names.validate_conditions(status.get("conditions"), "status.conditions")
        for key in ("disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"):
            validate_non_negative(status.get(key), f"status.{key}", errs)
        return errs
