"""Webhook configurations and admission policies. Source: ``pkg/apis/admissionregistration/validation``."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from k3sd.apimachinery import validation as names
from k3sd.apimachinery.cel import LIBRARY, MUTATIONS, CompileError, compile_expression
from k3sd.apimachinery.errors import FieldError, Obj, duplicate, invalid, not_supported, required
from k3sd.apis import resources
from k3sd.apiserver.kinds import strategy
from k3sd.apiserver.kinds.rules import (
    Errors,
    spec_of,
    validate_enum,
    validate_label_selector,
    validate_names,
    validate_port,
)
from k3sd.apiserver.request import RequestContext
from k3sd.apiserver.strategy import Strategy
from k3sd.lib.cel import Library

OPERATIONS = ("*", "CREATE", "UPDATE", "DELETE", "CONNECT")
_MAX_MATCH_CONDITIONS = 64
WEBHOOK_NAMES = ("object", "oldObject", "request")


def validate_client_config(config: Obj, path: str, errs: Errors) -> None:
    """``ValidateWebhookURL`` and ``ValidateWebhookService``: one of the two."""
    url = config.get("url")
    service: Obj = config.get("service") or {}
    if (url is None) == (config.get("service") is None):
        errs.append(required(path, "exactly one of url or service is required"))
        return
    if url is not None:
        parts = urlsplit(url)
        form = "; desired format: https://host[/path]"
        if parts.scheme != "https":
            errs.append(invalid(f"{path}.url", url, f"'https' is the only allowed URL scheme{form}"))
        if not parts.netloc:
            errs.append(invalid(f"{path}.url", url, f"host must be specified{form}"))
        if "@" in parts.netloc:
            errs.append(invalid(f"{path}.url", url, "user information is not permitted in the URL"))
        if parts.fragment:
            errs.append(invalid(f"{path}.url", parts.fragment, "fragments are not permitted in the URL"))
        if parts.query:
            errs.append(invalid(f"{path}.url", parts.query, "query parameters are not permitted in the URL"))
        return
    for key in ("name", "namespace"):
        if not service.get(key):
            errs.append(required(f"{path}.service.{key}"))
    validate_port(service.get("port", 443), f"{path}.service.port", errs)
    route = service.get("path")
    if route and not route.startswith("/"):
        errs.append(invalid(f"{path}.service.path", route, "must start with a '/'"))


def _validate_star(values: Sequence[str], path: str, what: str, errs: Errors) -> None:
    if not values:
        errs.append(required(path))
    elif "*" in values and len(values) > 1:
        errs.append(invalid(path, list(values), f"if '*' is present, must not specify other {what}"))
    for i, value in enumerate(values):
        if not value and what != "API groups":
            errs.append(required(f"{path}[{i}]"))


def validate_rule(rule: Obj, path: str, errs: Errors) -> None:
    """``validateRuleWithOperations``."""
    _validate_star(rule.get("operations") or [], f"{path}.operations", "operations", errs)
    for i, operation in enumerate(rule.get("operations") or []):
        if operation not in OPERATIONS:
            errs.append(not_supported(f"{path}.operations[{i}]", operation, OPERATIONS))
    _validate_star(rule.get("apiGroups") or [], f"{path}.apiGroups", "API groups", errs)
    _validate_star(rule.get("apiVersions") or [], f"{path}.apiVersions", "API versions", errs)
    listed = rule.get("resources") or []
    if not listed:
        errs.append(required(f"{path}.resources"))
    for i, resource in enumerate(listed):
        if not resource:
            errs.append(required(f"{path}.resources[{i}]"))
        elif resource == "*" and any(r != "*" and "/" not in r for r in listed):
            errs.append(
                invalid(f"{path}.resources", listed, "if '*' is present, must not specify other resources without subresources")
            )
        elif resource == "*/*" and len(listed) > 1:
            errs.append(invalid(f"{path}.resources", listed, "if '*/*' is present, must not specify other resources"))
    scope = rule.get("scope")
    if scope is not None and scope not in ("Cluster", "Namespaced", "*"):
        errs.append(not_supported(f"{path}.scope", scope, ["*", "Cluster", "Namespaced"]))


def validate_expression(text: str, path: str, known: Sequence[str], errs: Errors, library: Library = LIBRARY) -> None:
    """An expression must compile against the variables it may use."""
    try:
        compile_expression(text, known, library)
    except CompileError as error:
        errs.append(invalid(path, text, f"compilation failed: ERROR: <input>:1:1: {error}"))


def validate_match_conditions(conditions: Sequence[Obj], path: str, known: Sequence[str], errs: Errors) -> None:
    """Names unique, expressions that compile."""
    if len(conditions) > _MAX_MATCH_CONDITIONS:
        errs.append(
            FieldError(
                "FieldValueTooMany", path, f"Too many: {len(conditions)}: must have at most {_MAX_MATCH_CONDITIONS} items"
            )
        )
    seen: set[str] = set()
    for i, condition in enumerate(conditions):
        name = condition.get("name", "")
        if not (condition.get("expression") or "").strip():
            errs.append(required(f"{path}[{i}].expression"))
        else:
            validate_expression(condition["expression"], f"{path}[{i}].expression", known, errs)
        if not name:
            errs.append(required(f"{path}[{i}].name"))
        else:
            validate_names(names.qualified_name, name, f"{path}[{i}].name", errs)
            if name in seen:
                errs.append(duplicate(f"{path}[{i}].name", name))
        seen.add(name)


class _WebhookStrategy(Strategy):
    has_status = False
    has_generation = True
    mutating = False

    def validate_create(self, ctx: RequestContext, obj: Obj) -> list[FieldError]:
        errs: Errors = []
        seen: set[str] = set()
        for i, hook in enumerate(obj.get("webhooks") or []):
            path = f"webhooks[{i}]"
            name = hook.get("name", "")
            errs += names.fully_qualified_name(name, f"{path}.name")
            if name in seen:
                errs.append(duplicate(f"{path}.name", name))
            seen.add(name)
            self._validate_hook(hook, path, errs)
        return errs

    def validate_update(self, ctx: RequestContext, new: Obj, old: Obj) -> list[FieldError]:
        return self.validate_create(ctx, new)

    def _validate_hook(self, hook: Obj, path: str, errs: Errors) -> None:
        for i, rule in enumerate(hook.get("rules") or []):
            validate_rule(rule, f"{path}.rules[{i}]", errs)
        for key, allowed in (("failurePolicy", ("Fail", "Ignore")), ("matchPolicy", ("Equivalent", "Exact"))):
            validate_enum(hook.get(key), allowed, f"{path}.{key}", errs, optional=True)
        effects = hook.get("sideEffects")
        if effects is None:
            errs.append(required(f"{path}.sideEffects", "must specify one of None, NoneOnDryRun"))
        elif effects not in ("None", "NoneOnDryRun"):
            errs.append(not_supported(f"{path}.sideEffects", effects, ["None", "NoneOnDryRun"]))
        seconds = hook.get("timeoutSeconds")
        if seconds is not None and not 1 <= seconds <= 30:
            errs.append(invalid(f"{path}.timeoutSeconds", seconds, "the timeout value must be between 1 and 30 seconds"))
        for key in ("namespaceSelector", "objectSelector"):
            validate_label_selector(hook.get(key), f"{path}.{key}", errs)
        validate_client_config(hook.get("clientConfig") or {}, f"{path}.clientConfig", errs)
        versions = hook.get("admissionReviewVersions") or []
        if not versions:
            errs.append(required(f"{path}.admissionReviewVersions", "must specify one of v1, v1beta1"))
        elif not {"v1", "v1beta1"} & set(versions):
            errs.append(invalid(f"{path}.admissionReviewVersions", versions, "must include at least one of v1, v1beta1"))
        validate_match_conditions(hook.get("matchConditions") or [], f"{path}.matchConditions", WEBHOOK_NAMES, errs)
        if self.mutating:
            validate_enum(
                hook.get("reinvocationPolicy"), ("Never", "IfNeeded"), f"{path}.reinvocationPolicy", errs, optional=True
            )


@strategy(resources.VALIDATINGWEBHOOKCONFIGURATIONS)
class ValidatingWebhookStrategy(_WebhookStrategy):
    pass


@strategy(resources.MUTATINGWEBHOOKCONFIGURATIONS)
class MutatingWebhookStrategy(_WebhookStrategy):
    mutating = True


def _validate_match_resources(match: Obj, path: str, errs: Errors, *, needs_rules: bool) -> None:
    rules = match.get("resourceRules") or []
    if needs_rules and not rules:
        errs.append(required(f"{path}.resourceRules"))
    for key in ("resourceRules", "excludeResourceRules"):
        for i, rule in enumerate(match.get(key) or []):
            validate_rule(rule, f"{path}.{key}[{i}]", errs)
    for key in ("namespaceSelector", "objectSelector"):
        validate_label_selector(match.get(key), f"{path}.{key}", errs)
    validate_enum(match.get("matchPolicy"), ("Equivalent", "Exact"), f"{path}.matchPolicy", errs, optional=True)


def policy_names(spec: Obj) -> tuple[str, ...]:
    """Variables of a policy's expressions, but for its own."""
    names = ("object", "oldObject", "request", "namespaceObject")
    return (*names, "params") if spec.get("paramKind") else names


class _PolicyStrategy(Strategy):
    has_generation = True

    def validate_create(self, ctx: RequestContext, obj: Obj) -> list[FieldError]:
        errs: Errors = []
        spec = spec_of(obj)
        match = spec.get("matchConstraints")
        if match is None:
            errs.append(required("spec.matchConstraints"))
        else:
            _validate_match_resources(match, "spec.matchConstraints", errs, needs_rules=True)
        kind = spec.get("paramKind")
        if kind is not None:
            for key in ("apiVersion", "kind"):
                if not kind.get(key):
                    errs.append(required(f"spec.paramKind.{key}"))
        validate_enum(spec.get("failurePolicy"), ("Fail", "Ignore"), "spec.failurePolicy", errs)
        known = policy_names(spec)
        validate_match_conditions(spec.get("matchConditions") or [], "spec.matchConditions", known, errs)
        seen: set[str] = set()
        for i, variable in enumerate(spec.get("variables") or []):
            path, name = f"spec.variables[{i}]", variable.get("name", "")
            if not name:
                errs.append(required(f"{path}.name", "name is not specified"))
            elif not name.isidentifier():
                errs.append(invalid(f"{path}.name", name, "name is not a valid CEL identifier"))
            elif name in seen:
                errs.append(duplicate(f"{path}.name", name))
            seen.add(name)
            if not (variable.get("expression") or "").strip():
                errs.append(required(f"{path}.expression", "expression is not specified"))
            else:
                validate_expression(variable["expression"], f"{path}.expression", (*known, "variables"), errs)
        self.validate_actions(spec, errs)
        return errs

    def validate_actions(self, spec: Obj, errs: Errors) -> None:
        """What the policy does when it matches."""

    def validate_update(self, ctx: RequestContext, new: Obj, old: Obj) -> list[FieldError]:
        return self.validate_create(ctx, new) if spec_of(new) != spec_of(old) else []


@strategy(resources.VALIDATINGADMISSIONPOLICIES)
class ValidatingPolicyStrategy(_PolicyStrategy):
    def validate_actions(self, spec: Obj, errs: Errors) -> None:
        validations = spec.get("validations") or []
        if not validations and not spec.get("auditAnnotations"):
            errs.append(required("spec.validations", "validations or auditAnnotations must contain at least one item"))
        for i, item in enumerate(validations):
            path = f"spec.validations[{i}]"
            if not (item.get("expression") or "").strip():
                errs.append(required(f"{path}.expression", "expression is not specified"))
            else:
                validate_expression(item["expression"], f"{path}.expression", (*policy_names(spec), "variables"), errs)
            if (item.get("messageExpression") or "").strip():
                where = f"{path}.messageExpression"
                validate_expression(item["messageExpression"], where, (*policy_names(spec), "variables"), errs)
            if "message" in item and item["message"] and not item["message"].strip():
                errs.append(invalid(f"{path}.message", item["message"], "message must be non-empty if specified"))
            elif "\n" in (item.get("message") or ""):
                errs.append(invalid(f"{path}.message", item["message"], "message must not contain line breaks"))
            reasons = ("Unauthorized", "Forbidden", "Invalid", "RequestEntityTooLarge")
            validate_enum(item.get("reason"), reasons, f"{path}.reason", errs, optional=True)
        for i, item in enumerate(spec.get("auditAnnotations") or []):
            for key in ("key", "valueExpression"):
                if not item.get(key):
                    errs.append(required(f"spec.auditAnnotations[{i}].{key}"))


@strategy(resources.MUTATINGADMISSIONPOLICIES)
class MutatingPolicyStrategy(_PolicyStrategy):
    has_status = False

    def validate_actions(self, spec: Obj, errs: Errors) -> None:
        mutations = spec.get("mutations") or []
        if not mutations:
            errs.append(required("spec.mutations", "mutations must contain at least one item"))
        validate_enum(spec.get("reinvocationPolicy"), ("Never", "IfNeeded"), "spec.reinvocationPolicy", errs)
        for i, item in enumerate(mutations):
            path, kind = f"spec.mutations[{i}]", item.get("patchType", "")
            fields = {"ApplyConfiguration": "applyConfiguration", "JSONPatch": "jsonPatch"}
            if kind not in fields:
                errs.append(not_supported(f"{path}.patchType", kind, sorted(fields)) if kind else required(f"{path}.patchType"))
            elif not ((item.get(fields[kind]) or {}).get("expression") or "").strip():
                errs.append(required(f"{path}.{fields[kind]}.expression"))
            else:
                known = (*policy_names(spec), "variables")
                expression = item[fields[kind]]["expression"]
                validate_expression(expression, f"{path}.{fields[kind]}.expression", known, errs, MUTATIONS)


class _PolicyBindingStrategy(Strategy):
    has_status = False
    has_generation = True
    has_actions = True

    def validate_create(self, ctx: RequestContext, obj: Obj) -> list[FieldError]:
        errs: Errors = []
        spec = spec_of(obj)
        if not spec.get("policyName"):
            errs.append(required("spec.policyName"))
        else:
            validate_names(names.dns1123_subdomain, spec["policyName"], "spec.policyName", errs)
        param = spec.get("paramRef")
        if param is not None:
            if bool(param.get("name")) == (param.get("selector") is not None):
                errs.append(invalid("spec.paramRef.name", param.get("name", ""), "name and selector are mutually exclusive"))
            validate_label_selector(param.get("selector"), "spec.paramRef.selector", errs)
            validate_enum(
                param.get("parameterNotFoundAction"), ("Allow", "Deny"), "spec.paramRef.parameterNotFoundAction", errs
            )
        if spec.get("matchResources") is not None:
            _validate_match_resources(spec["matchResources"], "spec.matchResources", errs, needs_rules=False)
        if self.has_actions:
            actions = spec.get("validationActions") or []
            if not actions:
                errs.append(required("spec.validationActions", "at least one validation action is required"))
            for i, action in enumerate(actions):
                if action not in ("Audit", "Deny", "Warn"):
                    errs.append(not_supported(f"spec.validationActions[{i}]", action, ["Audit", "Deny", "Warn"]))
                elif action in actions[:i]:
                    errs.append(duplicate(f"spec.validationActions[{i}]", action))
            if {"Deny", "Warn"} <= set(actions):
                text = (
                    "must not contain both Deny and Warn (repeating the same validation failure information in the API "
                    "response and headers serves no purpose)"
                )
                errs.append(invalid("spec.validationActions", actions, text))
        return errs

    def validate_update(self, ctx: RequestContext, new: Obj, old: Obj) -> list[FieldError]:
        return self.validate_create(ctx, new)


@strategy(resources.VALIDATINGADMISSIONPOLICYBINDINGS)
class ValidatingPolicyBindingStrategy(_PolicyBindingStrategy):
    pass


@strategy(resources.MUTATINGADMISSIONPOLICYBINDINGS)
class MutatingPolicyBindingStrategy(_PolicyBindingStrategy):
    has_actions = False
