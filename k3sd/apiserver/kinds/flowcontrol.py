"""FlowSchemas and PriorityLevelConfigurations. Source: ``pkg/apis/flowcontrol/validation``."""

from __future__ import annotations

from k3sd.apimachinery import validation as names
from k3sd.apimachinery.errors import FieldError, Obj, forbidden_field, invalid, not_supported, required
from k3sd.apis import resources
from k3sd.apiserver.kinds import strategy
from k3sd.apiserver.kinds.rules import Errors, spec_of, validate_names
from k3sd.apiserver.request import RequestContext
from k3sd.apiserver.strategy import Strategy

MAX_PRECEDENCE = 10000
MANDATORY = ("exempt", "catch-all")


@strategy(resources.FLOWSCHEMAS)
class FlowSchemaStrategy(Strategy):
    has_generation = True

    def validate_create(self, ctx: RequestContext, obj: Obj) -> list[FieldError]:
        errs: Errors = []
        spec, name = spec_of(obj), obj["metadata"].get("name", "")
        precedence = spec.get("matchingPrecedence") or 0
        if precedence <= 0:
            errs.append(invalid("spec.matchingPrecedence", precedence, "must be a positive value"))
        elif precedence > MAX_PRECEDENCE:
            errs.append(invalid("spec.matchingPrecedence", precedence, f"must not be greater than {MAX_PRECEDENCE}"))
        if precedence == 1 and name != "exempt":
            errs.append(
                invalid("spec.matchingPrecedence", precedence, "only the schema named 'exempt' may have matchingPrecedence 1")
            )
        level = (spec.get("priorityLevelConfiguration") or {}).get("name", "")
        if not level:
            errs.append(required("spec.priorityLevelConfiguration.name", "must reference a priority level"))
        else:
            validate_names(names.dns1123_subdomain, level, "spec.priorityLevelConfiguration.name", errs)
        method = spec.get("distinguisherMethod")
        if method is not None and method.get("type") not in ("ByNamespace", "ByUser"):
            errs.append(not_supported("spec.distinguisherMethod.type", method.get("type", ""), ["ByNamespace", "ByUser"]))
        for i, rule in enumerate(spec.get("rules") or []):
            _validate_flow_rule(rule, f"spec.rules[{i}]", errs)
        return errs

    def validate_update(self, ctx: RequestContext, new: Obj, old: Obj) -> list[FieldError]:
        return self.validate_create(ctx, new)

    def validate_status(self, ctx: RequestContext, new: Obj, old: Obj) -> list[FieldError]:
        return _validate_conditions(new)


def _validate_flow_rule(rule: Obj, path: str, errs: Errors) -> None:
    if not rule.get("subjects"):
        errs.append(required(f"{path}.subjects", "subjects must contain at least one value"))
    for i, subject in enumerate(rule.get("subjects") or []):
        where = f"{path}.subjects[{i}]"
        kind = subject.get("kind", "")
        fields = {"User": "user", "Group": "group", "ServiceAccount": "serviceAccount"}
        if kind not in fields:
            errs.append(not_supported(f"{where}.kind", kind, sorted(fields)))
            continue
        for other in fields.values():
            if other != fields[kind] and subject.get(other) is not None:
                errs.append(forbidden_field(f"{where}.{other}", f"{other} is forbidden when subject kind is not '{other}'"))
        value = subject.get(fields[kind])
        if value is None:
            errs.append(required(f"{where}.{fields[kind]}", f"{fields[kind]} is required when subject kind is '{kind}'"))
        elif not value.get("name"):
            errs.append(required(f"{where}.{fields[kind]}.name"))
    if not rule.get("resourceRules") and not rule.get("nonResourceRules"):
        errs.append(required(path, "at least one of resourceRules and nonResourceRules has to be non-empty"))
    for i, item in enumerate(rule.get("resourceRules") or []):
        where = f"{path}.resourceRules[{i}]"
        for key in ("verbs", "apiGroups", "resources"):
            values = item.get(key) or []
            if not values:
                errs.append(required(f"{where}.{key}", f"{where}.{key} must contain at least one value"))
            elif "*" in values and len(values) > 1:
                errs.append(invalid(f"{where}.{key}", values, "if '*' is present, must not specify other values"))
        if not item.get("namespaces") and not item.get("clusterScope"):
            errs.append(
                required(f"{where}.namespaces", "resource rules that are not cluster scoped must supply at least one namespace")
            )
    for i, item in enumerate(rule.get("nonResourceRules") or []):
        where = f"{path}.nonResourceRules[{i}]"
        for key in ("verbs", "nonResourceURLs"):
            if not item.get(key):
                errs.append(required(f"{where}.{key}"))


@strategy(resources.PRIORITYLEVELCONFIGURATIONS)
class PriorityLevelStrategy(Strategy):
    has_generation = True

    def validate_create(self, ctx: RequestContext, obj: Obj) -> list[FieldError]:
        errs: Errors = []
        spec, name = spec_of(obj), obj["metadata"].get("name", "")
        kind = spec.get("type", "")
        limited, exempt = spec.get("limited"), spec.get("exempt")
        if kind == "Exempt":
            if name != "exempt":
                errs.append(invalid("spec.type", kind, "must be 'Limited' for every priority level but 'exempt'"))
            if limited is not None:
                errs.append(forbidden_field("spec.limited", "must be nil if the type is not Limited"))
        elif kind == "Limited":
            if name == "exempt":
                errs.append(invalid("spec.type", kind, "must be 'Exempt' for the priority level 'exempt'"))
            if exempt is not None:
                errs.append(forbidden_field("spec.exempt", "must be nil if the type is Limited"))
            if limited is None:
                errs.append(required("spec.limited", "must not be empty when type is Limited"))
            else:
                _validate_limited(limited, errs)
        else:
            errs.append(not_supported("spec.type", kind, ["Exempt", "Limited"]))
        return errs

    def validate_update(self, ctx: RequestContext, new: Obj, old: Obj) -> list[FieldError]:
        return self.validate_create(ctx, new)

    def validate_status(self, ctx: RequestContext, new: Obj, old: Obj) -> list[FieldError]:
        return _validate_conditions(new)


def _validate_limited(limited: Obj, errs: Errors) -> None:
    shares = limited.get("nominalConcurrencyShares")
    if shares is not None and shares < 0:
        errs.append(invalid("spec.limited.nominalConcurrencyShares", shares, "must be a non-negative integer"))
    lendable = limited.get("lendablePercent")
    if lendable is not None and not 0 <= lendable <= 100:
        errs.append(invalid("spec.limited.lendablePercent", lendable, "must be between 0 and 100, inclusive"))
    response = limited.get("limitResponse") or {}
    kind, queuing = response.get("type", ""), response.get("queuing")
    path = "spec.limited.limitResponse"
    if kind == "Reject":
        if queuing is not None:
            errs.append(forbidden_field(f"{path}.queuing", "must be nil if limited.limitResponse.type is not Limited"))
    elif kind == "Queue":
        if queuing is None:
            errs.append(required(f"{path}.queuing", "must not be empty if limited.limitResponse.type is Limited"))
        else:
            for key in ("queueLengthLimit", "queues", "handSize"):
                if (queuing.get(key) or 0) <= 0:
                    errs.append(invalid(f"{path}.queuing.{key}", queuing.get(key) or 0, "must be positive"))
            if (queuing.get("handSize") or 0) > (queuing.get("queues") or 0) > 0:
                text = f"should not be greater than queues ({queuing['queues']})"
                errs.append(invalid(f"{path}.queuing.handSize", queuing["handSize"], text))
    else:
        errs.append(not_supported(f"{path}.type", kind, ["Queue", "Reject"]))


def _validate_conditions(obj: Obj) -> list[FieldError]:
    errs: Errors = []
    seen: set[str] = set()
    for i, condition in enumerate((obj.get("status") or {}).get("conditions") or []):
        kind = condition.get("type", "")
        if not kind:
            errs.append(required(f"status.conditions[{i}].type"))
        elif kind in seen:
            errs.append(FieldError("FieldValueDuplicate", f"status.conditions[{i}].type", f'Duplicate value: "{kind}"'))
        seen.add(kind)
    return errs
