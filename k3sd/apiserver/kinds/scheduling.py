"""PriorityClasses. Source: ``pkg/apis/scheduling/validation``, ``pkg/apis/scheduling/types.go``."""

from __future__ import annotations

from k3sd.apimachinery.errors import FieldError, Obj, forbidden_field, invalid
from k3sd.apis import resources
from k3sd.apiserver.kinds import strategy
from k3sd.apiserver.kinds.rules import Errors, same, validate_enum
from k3sd.apiserver.request import RequestContext
from k3sd.apiserver.strategy import Strategy

HIGHEST_USER_PRIORITY = 1_000_000_000
SYSTEM_CLASSES = {
    "system-cluster-critical": (
        2_000_000_000,
        "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
    ),
    "system-node-critical": (2_000_001_000, "Used for system critical pods that must not be moved from their current node."),
}


def system_priority_classes() -> list[Obj]:
    """The two classes every cluster has."""
    return [
        {
            "kind": "PriorityClass",
            "apiVersion": "scheduling.k8s.io/v1",
            "metadata": {"name": name},
            "value": value,
            "description": text,
        }
        for name, (value, text) in SYSTEM_CLASSES.items()
    ]


@strategy(resources.PRIORITYCLASSES)
class PriorityClassStrategy(Strategy):
    has_status = False

    def prepare_create(self, ctx: RequestContext, obj: Obj) -> None:
        obj["metadata"]["generation"] = 1

    def prepare_update(self, ctx: RequestContext, new: Obj, old: Obj) -> None:
        new["metadata"]["generation"] = int(old["metadata"].get("generation") or 1)

    def validate_create(self, ctx: RequestContext, obj: Obj) -> list[FieldError]:
        errs: Errors = []
        name, value = obj["metadata"].get("name", ""), obj.get("value") or 0
        if name.startswith("system-"):
            known = SYSTEM_CLASSES.get(name)
            if known is None or known[0] != value:
                text = "priority class names with 'system-' prefix are reserved for system use only. error: "
                text += (
                    f"{name} is not a known system priority class"
                    if known is None
                    else f"value of {name} PriorityClass must be {known[0]}"
                )
                errs.append(forbidden_field("metadata.name", text))
        elif value > HIGHEST_USER_PRIORITY:
            errs.append(
                forbidden_field("value", f"maximum allowed value of a user defined priority is {HIGHEST_USER_PRIORITY}")
            )
        validate_enum(obj.get("preemptionPolicy"), ("Never", "PreemptLowerPriority"), "preemptionPolicy", errs, optional=True)
        return errs

    def validate_update(self, ctx: RequestContext, new: Obj, old: Obj) -> list[FieldError]:
        errs: Errors = []
        if (new.get("value") or 0) != (old.get("value") or 0):
            errs.append(forbidden_field("value", "may not be changed in an update."))
        if not same(new.get("preemptionPolicy"), old.get("preemptionPolicy")):
            errs.append(invalid("preemptionPolicy", new.get("preemptionPolicy"), "field is immutable"))
        return errs
