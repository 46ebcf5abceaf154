"""Questions to the API server: access reviews, token review, self reviews; ComponentStatus.

Source: ``pkg/registry/{authorization,authentication}``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from k3sd.apimachinery import timefmt
from k3sd.apimachinery.errors import FieldError, Obj, bad_request, invalid, invalid_object, not_found, required
from k3sd.apis import resources
from k3sd.apiserver.authz.rules import Query, compact
from k3sd.apiserver.kinds.handlers import Handler
from k3sd.apiserver.request import RequestContext, UserInfo
from k3sd.datastore.backend import DatastoreError

if TYPE_CHECKING:
    from k3sd.apiserver.kinds import SubresourceHandler
    from k3sd.apiserver.registry import Registry

_EXACTLY_ONE = "exactly one of nonResourceAttributes or resourceAttributes must be specified"


def user_obj(user: UserInfo) -> Obj:
    """``authentication.k8s.io/v1 UserInfo``."""
    out: Obj = {"username": user.name}
    if user.uid:
        out["uid"] = user.uid
    if user.groups:
        out["groups"] = list(user.groups)
    if user.extra:
        out["extra"] = {k: list(v) for k, v in user.extra.items()}
    return out


class _Review(Handler):
    """Answers with the request and a status."""

    def answer(self, body: Obj, status: Obj) -> Obj:
        meta = dict(body.get("metadata") or {})
        return {
            "kind": self.resource.kind,
            "apiVersion": self.resource.api_version,
            "metadata": meta,
            **({"spec": body["spec"]} if "spec" in body else {}),
            "status": status,
        }

    def refuse(self, errors: list[FieldError]) -> Exception:
        return invalid_object(self.resource.group, self.resource.kind, "", errors)


class AccessReview(_Review):
    """SelfSubjectAccessReview, SubjectAccessReview and LocalSubjectAccessReview."""

    async def create(self, ctx: RequestContext, namespace: str, name: str, body: Obj) -> Obj:
        spec = body.get("spec") or {}
        errors: list[FieldError] = []
        resource, path = spec.get("resourceAttributes"), spec.get("nonResourceAttributes")
        if resource is not None and path is not None:
            errors.append(
                invalid("spec.nonResourceAttributes", path, "cannot be specified in combination with resourceAttributes")
            )
        elif resource is None and path is None:
            errors.append(required("spec.resourceAttributes", _EXACTLY_ONE))
        own = self.resource.plural == "selfsubjectaccessreviews"
        if not own and not spec.get("user") and not spec.get("groups"):
            errors.append(invalid("spec.user", "", "at least one of user or group must be specified"))
        if self.resource.plural == "localsubjectaccessreviews" and resource is not None:
            given = resource.get("namespace", "")
            if given != namespace:
                errors.append(invalid("spec.resourceAttributes.namespace", given, "must match metadata.namespace"))
        if errors:
            raise self.refuse(errors)
        user = ctx.user if own else _subject(spec)
        query, selector = _query(resource, path)
        authorizer = self.registry.authorizer
        assert authorizer is not None
        decision = authorizer.check(user, query, selector)
        status: Obj = {"allowed": decision.allowed}
        if decision.reason:
            status["reason"] = decision.reason
        return self.answer(body, status)


def _subject(spec: Obj) -> UserInfo:
    extra = {k: tuple(v) for k, v in (spec.get("extra") or {}).items()}
    return UserInfo(spec.get("user", ""), tuple(spec.get("groups") or ()), spec.get("uid", ""), extra)


def _query(resource: Obj | None, path: Obj | None) -> tuple[Query, str]:
    if resource is None:
        path = path or {}
        return Query(path.get("verb", ""), path=path.get("path", "") or "/"), ""
    requirements = (resource.get("fieldSelector") or {}).get("requirements") or []
    selector = (resource.get("fieldSelector") or {}).get("rawSelector", "") or ",".join(
        f"{r.get('key')}={(r.get('values') or [''])[0]}" for r in requirements if r.get("operator") == "In"
    )
    keys = ("verb", "group", "resource", "subresource", "namespace", "name")
    return Query(*(resource.get(k, "") for k in keys)), selector


class RulesReview(_Review):
    async def create(self, ctx: RequestContext, namespace: str, name: str, body: Obj) -> Obj:
        where = (body.get("spec") or {}).get("namespace", "")
        if not where:
            raise bad_request("no namespace on request")
        authorizer = self.registry.authorizer
        assert authorizer is not None
        rules = compact(authorizer.rbac.rules_for(ctx.user, where))
        status = {
            "resourceRules": [r.to_obj() for r in rules if r.resources],
            "nonResourceRules": [r.to_obj() for r in rules if r.urls],
            "incomplete": False,
        }
        return self.answer(body, status)


class SelfReview(_Review):
    async def create(self, ctx: RequestContext, namespace: str, name: str, body: Obj) -> Obj:
        out = self.answer(body, {"userInfo": user_obj(ctx.user)})
        out["metadata"].setdefault("creationTimestamp", timefmt.now())
        return out


class TokenReview(_Review):
    async def create(self, ctx: RequestContext, namespace: str, name: str, body: Obj) -> Obj:
        spec = body.get("spec") or {}
        if not spec.get("token"):
            raise bad_request("token is required for TokenReview in authentication")
        authenticator = self.registry.authenticator
        assert authenticator is not None
        asked = tuple(spec.get("audiences") or ())
        found = authenticator.authenticate_token(spec["token"], asked)
        if found is None:
            return self.answer(body, {"user": {}, "error": "[invalid bearer token, token lookup failed]"})
        user, audiences = found
        return self.answer(body, {"authenticated": True, "user": user_obj(user), "audiences": list(audiences)})


class ComponentStatuses(Handler):
    """Deprecated upstream; says whether the datastore answers, for clients that still ask (``kubectl get cs``)."""

    async def get(self, ctx: RequestContext, namespace: str, name: str) -> Obj:
        try:
            await self.registry.backend.revision()
            condition = {"type": "Healthy", "status": "True", "message": "ok"}
        except DatastoreError as error:
            condition = {"type": "Healthy", "status": "False", "message": str(error), "error": str(error)}
        item: Obj = {
            "kind": "ComponentStatus",
            "apiVersion": "v1",
            "metadata": {"name": "etcd-0"},
            "conditions": [condition],
        }
        if name:
            if name != "etcd-0":
                raise not_found("", "componentstatuses", name)
            return item
        return {"kind": "ComponentStatusList", "apiVersion": "v1", "metadata": {}, "items": [item]}


def handlers(registry: Registry) -> list[SubresourceHandler]:
    return [
        AccessReview(registry, resources.SELFSUBJECTACCESSREVIEWS, ""),
        AccessReview(registry, resources.SUBJECTACCESSREVIEWS, ""),
        AccessReview(registry, resources.LOCALSUBJECTACCESSREVIEWS, ""),
        RulesReview(registry, resources.SELFSUBJECTRULESREVIEWS, ""),
        SelfReview(registry, resources.SELFSUBJECTREVIEWS, ""),
        TokenReview(registry, resources.TOKENREVIEWS, ""),
        ComponentStatuses(registry, resources.COMPONENTSTATUSES, ""),
    ]
