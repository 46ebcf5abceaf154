"""ValidatingAdmissionPolicy: rules in CEL, kept in the cluster, evaluated here; and what mutating policies share with it.

Source: ``apiserver/pkg/admission/plugin/policy/{generic,validating,matching}``. Policies and bindings are followed, and
compiled when they change; a request that none concerns costs a few look-ups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from k3sd.apimachinery.cel import CompileError, EvaluationError, Program, compile_expression
from k3sd.apimachinery.errors import Obj, StatusError, forbidden
from k3sd.apimachinery.resource import Resource
from k3sd.apimachinery.selectors import label_selector_from
from k3sd.apis import resources
from k3sd.apiserver.admission import webhookrules
from k3sd.apiserver.admission.plugin import Plugin
from k3sd.apiserver.admission.webhooks import EXEMPT
from k3sd.apiserver.follow import follow
from k3sd.apiserver.kinds.admissionregistration import policy_names
from k3sd.apiserver.kinds.reviews import user_obj
from k3sd.apiserver.request import Attributes

if TYPE_CHECKING:
    from k3sd.apiserver.registry import Registry

_CODES = {"Unauthorized": 401, "Forbidden": 403, "Invalid": 422, "RequestEntityTooLarge": 413}


class Matcher:
    """``MatchResources``: rules, selectors, exclusions. Absent rules match everything (bindings)."""

    def __init__(self, spec: Obj | None) -> None:
        spec = spec or {}
        self._rules: list[Obj] = spec.get("resourceRules") or []
        self._exclude: list[Obj] = spec.get("excludeResourceRules") or []
        self._namespaces = label_selector_from(spec["namespaceSelector"]) if spec.get("namespaceSelector") else None
        self._objects = label_selector_from(spec["objectSelector"]) if spec.get("objectSelector") else None

    def matches(self, attrs: Attributes, namespace: Obj | None) -> bool:
        ctx = attrs.ctx
        assert ctx.resource is not None
        if self._rules and not any(self._rule(rule, attrs) for rule in self._rules):
            return False
        if any(self._rule(rule, attrs) for rule in self._exclude):
            return False
        if self._objects is not None and not any(
            self._objects.matches((o.get("metadata") or {}).get("labels")) for o in (attrs.obj, attrs.old) if o is not None
        ):
            return False
        if self._namespaces is None or (namespace is None and ctx.resource is not resources.NAMESPACES):
            return True
        holder = (attrs.obj or attrs.old) if ctx.resource is resources.NAMESPACES else namespace
        return self._namespaces.matches(((holder or {}).get("metadata") or {}).get("labels"))

    @staticmethod
    def _rule(rule: Obj, attrs: Attributes) -> bool:
        ctx = attrs.ctx
        assert ctx.resource is not None
        if not webhookrules.rule_matches(rule, ctx.resource, ctx.subresource, attrs.operation, ctx.namespace):
            return False
        names = rule.get("resourceNames")
        return not names or (ctx.name or ((attrs.obj or {}).get("metadata") or {}).get("name")) in names


class Variables(Mapping[str, Any]):
    """``variables.x``: each computed once, when first used."""

    def __init__(self, programs: dict[str, Program], others: dict[str, Any]) -> None:
        self._programs = programs
        self._others = others
        self._values: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._values:
            program = self._programs[name]
            self._values[name] = program.evaluate({**self._others, "variables": self})
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._programs)

    def __len__(self) -> int:
        return len(self._programs)


class CompiledPolicy:
    """What every policy has, compiled. Raises CompileError for what validation would refuse today."""

    kind = ""

    def __init__(self, obj: Obj) -> None:
        spec: Obj = obj.get("spec") or {}
        self.name: str = obj["metadata"]["name"]
        self.fails_closed = spec.get("failurePolicy") != "Ignore"
        self.matcher = Matcher(spec.get("matchConstraints"))
        self.param_kind: Obj | None = spec.get("paramKind")
        names = policy_names(spec)
        self.conditions = webhookrules.compile_conditions(spec.get("matchConditions") or (), names)
        self.names = (*names, "variables")
        self.variables = {v["name"]: compile_expression(v["expression"], self.names) for v in spec.get("variables") or ()}

    def applies(self, variables: dict[str, Any]) -> bool:
        """The match conditions hold. Raises EvaluationError."""
        return webhookrules.conditions_match(self.conditions, variables)

    def with_variables(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {**variables, "variables": Variables(self.variables, variables)}


class Policy(CompiledPolicy):
    """A validating policy."""

    kind = "ValidatingAdmissionPolicy"

    def __init__(self, obj: Obj) -> None:
        super().__init__(obj)
        self.validations = [
            (
                item,
                compile_expression(item["expression"], self.names),
                compile_expression(text, self.names) if (text := (item.get("messageExpression") or "").strip()) else None,
            )
            for item in (obj.get("spec") or {}).get("validations") or ()
        ]

    def problems(self, variables: dict[str, Any]) -> Iterator[tuple[str, str]]:
        """``(message, reason)`` of every validation that does not hold."""
        try:
            if not self.applies(variables):
                return
        except EvaluationError as error:
            if self.fails_closed:
                yield f"match conditions resulted in error: {error}", "Invalid"
            return
        variables = self.with_variables(variables)
        for item, program, message in self.validations:
            reason = item.get("reason") or "Invalid"
            try:
                value = program.evaluate(variables)
            except EvaluationError as error:
                if self.fails_closed:
                    yield f"expression '{item['expression']}' resulted in error: {error}", reason
                continue
            if value is not True:
                yield self._message(item, message, variables), reason

    @staticmethod
    def _message(item: Obj, program: Program | None, variables: dict[str, Any]) -> str:
        """An expression that fails or says nothing falls back to the fixed message."""
        if program is not None:
            try:
                text = program.evaluate(variables)
            except EvaluationError:
                text = ""
            if isinstance(text, str) and text.strip() and "\n" not in text:
                return text.strip()
        fixed: str = (item.get("message") or "").strip()
        return fixed or f"failed expression: {item['expression'].strip()}"


P = TypeVar("P", bound=CompiledPolicy)


class PolicyPlugin(Plugin, Generic[P]):
    """Policies of one kind and their bindings."""

    policies: Resource
    bindings: Resource

    def __init__(self, registry: Registry, make: Callable[[Obj], P]) -> None:
        self._registry = registry
        self._make = make
        self._policies: dict[str, P | CompileError] = {}
        self._bindings: dict[str, dict[str, tuple[Matcher, Obj]]] = {}
        self._following = False

    def handles(self, resource: Resource, subresource: str, operation: str) -> bool:
        return resource not in EXEMPT

    def _on_policy(self, event: str, obj: Obj, old: Obj | None) -> None:
        name = obj["metadata"]["name"]
        if event == "DELETED":
            self._policies.pop(name, None)
            return
        try:
            self._policies[name] = self._make(obj)
        except CompileError as error:
            self._policies[name] = error

    def _on_binding(self, event: str, obj: Obj, old: Obj | None) -> None:
        name, spec = obj["metadata"]["name"], obj.get("spec") or {}
        bindings = self._bindings.setdefault(spec.get("policyName", ""), {})
        if event == "DELETED":
            bindings.pop(name, None)
            if not bindings:
                del self._bindings[spec.get("policyName", "")]
        else:
            bindings[name] = (Matcher(spec.get("matchResources")), spec)

    @property
    def idle(self) -> bool:
        """True when nothing is in force. The first request starts following: the cache runs by then."""
        if not self._following:
            self._following = True
            follow(self._registry, self.policies, self._on_policy)
            follow(self._registry, self.bindings, self._on_binding)
        return not self._bindings

    def concerned(self, attrs: Attributes) -> Iterator[tuple[P, str, Obj]]:
        """``(policy, name of the binding, its spec)`` of what matches the request, sorted by policy and binding."""
        namespace = self.namespace_of(attrs)
        for policy_name in sorted(self._bindings):
            policy = self._policies.get(policy_name)
            if policy is None or isinstance(policy, CompileError):
                continue  # refused when it is written; only an older server can have stored it
            if not policy.matcher.matches(attrs, namespace):
                continue
            for name, (matcher, spec) in sorted(self._bindings.get(policy_name, {}).items()):
                if matcher.matches(attrs, namespace):
                    yield policy, name, spec

    def namespace_of(self, attrs: Attributes) -> Obj | None:
        ctx = attrs.ctx
        if not ctx.namespace or ctx.resource is resources.NAMESPACES:
            return None
        return self._registry.read(resources.NAMESPACES, ctx.namespace)

    def variables(self, attrs: Attributes) -> dict[str, Any]:
        """What expressions see of the request as it is now."""
        return {
            "object": attrs.obj,
            "oldObject": attrs.old,
            "namespaceObject": self.namespace_of(attrs),
            "request": webhookrules.build_question(attrs, user_obj(attrs.ctx.user)).review["request"],
        }

    async def params(self, attrs: Attributes, policy: P, name: str, binding: Obj) -> list[Obj | None]:
        """The parameter objects a binding chooses; one None where the policy or the binding has no parameters."""
        ref, kind = binding.get("paramRef"), policy.param_kind
        if kind is None or ref is None:
            return [None]
        group, _, version = kind.get("apiVersion", "").rpartition("/")
        rows = (r for r in self._registry.served if (r.group, r.version, r.kind) == (group, version, kind.get("kind")))
        row = next(rows, None)
        found: list[Obj | None] = []
        if row is not None:
            where = (ref.get("namespace") or attrs.ctx.namespace) if row.namespaced else ""
            await self._registry.prepare(row, ref.get("name") or "", where)
            if ref.get("name"):
                obj = self._registry.read(row, ref["name"], where)
                found = [obj] if obj is not None else []
            else:
                selector = label_selector_from(ref.get("selector") or {})
                found = [o for o in self._registry.read_all(row, where) if selector.matches(o["metadata"].get("labels"))]
        elif policy.fails_closed:
            text = f"failed to configure binding: failed to find resource referenced by paramKind: '{kind.get('apiVersion')}'"
            raise self.refusal(attrs, policy, name, text, "Invalid")
        if not found and ref.get("parameterNotFoundAction") == "Deny" and policy.fails_closed:
            text = "failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction"
            raise self.refusal(attrs, policy, name, text, "Invalid")
        return found

    @staticmethod
    def refusal(attrs: Attributes, policy: CompiledPolicy, binding: str, message: str, reason: str) -> StatusError:
        resource = attrs.ctx.resource
        assert resource is not None
        meta = (attrs.obj or attrs.old or {}).get("metadata") or {}
        text = f"{policy.kind} '{policy.name}' with binding '{binding}' denied request: {message}"
        error = forbidden(resource.group, resource.plural, attrs.ctx.name or meta.get("name", ""), text)
        details = {**error.details, "causes": [{"message": text}]}
        return StatusError(_CODES.get(reason, 422), reason, error.message, details)


class ValidatingAdmissionPolicy(PolicyPlugin[Policy]):
    name = "ValidatingAdmissionPolicy"
    policies = resources.VALIDATINGADMISSIONPOLICIES
    bindings = resources.VALIDATINGADMISSIONPOLICYBINDINGS

    def __init__(self, registry: Registry) -> None:
        super().__init__(registry, Policy)

    async def validate(self, attrs: Attributes) -> None:
        if self.idle:
            return
        for policy, name, spec in list(self.concerned(attrs)):
            variables = self.variables(attrs)
            actions = spec.get("validationActions") or ()
            for params in await self.params(attrs, policy, name, spec):
                if policy.param_kind is not None:
                    variables["params"] = params
                for message, reason in policy.problems(variables):
                    if "Warn" in actions:
                        attrs.ctx.warnings.append(
                            f"Validation failed for ValidatingAdmissionPolicy '{policy.name}' with binding '{name}': {message}"
                        )
                    if "Deny" in actions:
                        raise self.refusal(attrs, policy, name, message, reason)
