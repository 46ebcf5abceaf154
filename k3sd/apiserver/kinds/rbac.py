"""Roles and bindings: validation, and no more power given than the giver has.

Source: ``pkg/apis/rbac/validation``, ``pkg/registry/rbac/{role,clusterrole,rolebinding,clusterrolebinding}/policybased``.
"""

from __future__ import annotations

from k3sd.apimachinery import validation as names
from k3sd.apimachinery.errors import FieldError, Obj, forbidden, invalid, not_found, not_supported, required
from k3sd.apis import resources
from k3sd.apiserver.authz import MASTERS
from k3sd.apiserver.authz.rules import Query, Rule, compact, covers
from k3sd.apiserver.kinds import strategy
from k3sd.apiserver.kinds.rules import Errors, validate_label_selector, validate_names
from k3sd.apiserver.request import Decision, RequestContext
from k3sd.apiserver.strategy import Strategy

GROUP = "rbac.authorization.k8s.io"
_EVERYTHING = (Rule(["*"], ["*"], ["*"]), Rule(["*"], urls=["*"]))


class _PolicyStrategy(Strategy):
    has_status = False
    name_rule = "path-segment"

    def may(self, ctx: RequestContext, verb: str, plural: str, name: str) -> bool:
        """True when escalation checks do not apply to the asker, or ``verb`` (escalate, bind) frees from them."""
        authorizer = self.registry.authorizer
        if ctx.privileged or MASTERS in ctx.user.groups or authorizer is None:
            return True
        namespace = ctx.namespace if plural == "roles" or self.resource.namespaced else ""
        decision: Decision = authorizer.check(ctx.user, Query(verb, GROUP, plural, "", namespace, name))
        return decision.allowed

    def require_cover(self, ctx: RequestContext, name: str, wanted: list[Rule]) -> None:
        """``ConfirmNoEscalation``: raises 403 with the rules the asker lacks."""
        authorizer = self.registry.authorizer
        assert authorizer is not None
        missing = covers(authorizer.rbac.rules_for(ctx.user, ctx.namespace), wanted)
        if missing:
            groups = " ".join(f'"{g}"' for g in ctx.user.groups)
            text = "\n".join(sorted(str(rule) for rule in compact(missing)))
            raise forbidden(
                GROUP,
                self.resource.plural,
                name,
                f'user "{ctx.user.name}" (groups=[{groups}]) is attempting to grant RBAC permissions '
                f"not currently held:\n{text}",
            )


@strategy(resources.ROLES, resources.CLUSTERROLES)
class RoleStrategy(_PolicyStrategy):
    def validate_create(self, ctx: RequestContext, obj: Obj) -> list[FieldError]:
        errs: Errors = []
        self._validate(obj, errs)
        if not errs:
            self._check(ctx, obj, None)
        return errs

    def validate_update(self, ctx: RequestContext, new: Obj, old: Obj) -> list[FieldError]:
        errs: Errors = []
        self._validate(new, errs)
        if not errs and any(new.get(k) != old.get(k) for k in ("rules", "aggregationRule")):
            self._check(ctx, new, old)
        return errs

    def _validate(self, role: Obj, errs: Errors) -> None:
        for i, rule in enumerate(role.get("rules") or ()):
            path = f"rules[{i}]"
            if not rule.get("verbs"):
                errs.append(required(f"{path}.verbs", "verbs must contain at least one value"))
            urls = rule.get("nonResourceURLs")
            if urls:
                if self.resource.namespaced:
                    text = "namespaced rules cannot apply to non-resource URLs"
                    errs.append(invalid(f"{path}.nonResourceURLs", urls, text))
                if rule.get("apiGroups") or rule.get("resources") or rule.get("resourceNames"):
                    text = "rules cannot apply to both regular resources and non-resource URLs"
                    errs.append(invalid(f"{path}.nonResourceURLs", urls, text))
                continue
            if not rule.get("apiGroups"):
                errs.append(required(f"{path}.apiGroups", "resource rules must supply at least one api group"))
            if not rule.get("resources"):
                errs.append(required(f"{path}.resources", "resource rules must supply at least one resource"))
        aggregation = role.get("aggregationRule")
        if aggregation is not None:
            chosen = aggregation.get("clusterRoleSelectors") or []
            if not chosen:
                errs.append(
                    required(
                        "aggregationRule.clusterRoleSelectors",
                        "at least one clusterRoleSelector required if aggregationRule is non-nil",
                    )
                )
            for i, selector in enumerate(chosen):
                validate_label_selector(selector, f"aggregationRule.clusterRoleSelectors[{i}]", errs)

    def _check(self, ctx: RequestContext, role: Obj, old: Obj | None) -> None:
        name = role["metadata"].get("name", "")
        if self.may(ctx, "escalate", self.resource.plural, name):
            return
        wanted = [Rule.of(r) for r in role.get("rules") or ()]
        if role.get("aggregationRule") and (old is None or role["aggregationRule"] != old.get("aggregationRule")):
            # Whoever decides what is summed up can come to hold anything.
            wanted += _EVERYTHING
        self.require_cover(ctx, name, wanted)


@strategy(resources.ROLEBINDINGS, resources.CLUSTERROLEBINDINGS)
class BindingStrategy(_PolicyStrategy):
    def validate_create(self, ctx: RequestContext, obj: Obj) -> list[FieldError]:
        errs: Errors = []
        self._validate(obj, errs)
        if not errs:
            self._check(ctx, obj)
        return errs

    def validate_update(self, ctx: RequestContext, new: Obj, old: Obj) -> list[FieldError]:
        errs: Errors = []
        self._validate(new, errs)
        if new.get("roleRef") != old.get("roleRef"):
            errs.append(invalid("roleRef", new.get("roleRef"), "cannot change roleRef"))
        if not errs and new.get("subjects") != old.get("subjects"):
            self._check(ctx, new)
        return errs

    def _validate(self, binding: Obj, errs: Errors) -> None:
        ref = binding.get("roleRef") or {}
        if ref.get("apiGroup") != GROUP:
            errs.append(not_supported("roleRef.apiGroup", ref.get("apiGroup", ""), [GROUP]))
        kinds = ["ClusterRole", "Role"] if self.resource.namespaced else ["ClusterRole"]
        if ref.get("kind") not in kinds:
            errs.append(not_supported("roleRef.kind", ref.get("kind", ""), kinds))
        if not ref.get("name"):
            errs.append(required("roleRef.name"))
        else:
            validate_names(names.path_segment_name, ref["name"], "roleRef.name", errs)
        for i, subject in enumerate(binding.get("subjects") or ()):
            self._validate_subject(subject, f"subjects[{i}]", errs)

    def _validate_subject(self, subject: Obj, path: str, errs: Errors) -> None:
        kind, group, name = subject.get("kind", ""), subject.get("apiGroup", ""), subject.get("name", "")
        if not name:
            errs.append(required(f"{path}.name"))
        if kind == "ServiceAccount":
            if name:
                validate_names(names.dns1123_subdomain, name, f"{path}.name", errs)
            if group:
                errs.append(not_supported(f"{path}.apiGroup", group, [""]))
            if not self.resource.namespaced and not subject.get("namespace"):
                errs.append(required(f"{path}.namespace"))
        elif kind in ("User", "Group"):
            if group != GROUP:
                errs.append(not_supported(f"{path}.apiGroup", group, [GROUP]))
        else:
            errs.append(not_supported(f"{path}.kind", kind, ["Group", "ServiceAccount", "User"]))

    def _check(self, ctx: RequestContext, binding: Obj) -> None:
        ref = binding["roleRef"]
        plural = "roles" if ref["kind"] == "Role" else "clusterroles"
        if self.may(ctx, "bind", plural, ref["name"]):
            return
        authorizer = self.registry.authorizer
        assert authorizer is not None
        rules = authorizer.rbac.rules_of(ref["kind"], ctx.namespace, ref["name"])
        if rules is None:
            raise not_found(GROUP, plural, ref["name"])
        self.require_cover(ctx, binding["metadata"].get("name", ""), list(rules))
