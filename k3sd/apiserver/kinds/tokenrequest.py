"""``serviceaccounts/token``. Source: ``pkg/registry/core/serviceaccount/storage/token.go``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from k3sd.apimachinery import timefmt
from k3sd.apimachinery.errors import (
    Obj,
    bad_request,
    conflict,
    forbidden,
    internal,
    invalid,
    invalid_object,
    not_found,
)
from k3sd.apis import resources
from k3sd.apiserver.authn.tokens import EXTENDED_SECONDS, WARN_AFTER_SECONDS
from k3sd.apiserver.authz.node import node_name
from k3sd.apiserver.kinds.handlers import Handler
from k3sd.apiserver.kinds.rules import Errors
from k3sd.apiserver.request import RequestContext

if TYPE_CHECKING:
    from k3sd.apiserver.kinds import SubresourceHandler
    from k3sd.apiserver.registry import Registry

_BOUND_KINDS = {"Pod": resources.PODS, "Secret": resources.SECRETS, "Node": resources.NODES}


class TokenHandler(Handler):
    async def create(self, ctx: RequestContext, namespace: str, name: str, body: Obj) -> Obj:
        spec = body.get("spec") or {}
        seconds = spec.get("expirationSeconds") or 3600
        errors: Errors = []
        if seconds < 600:
            errors.append(invalid("spec.expirationSeconds", seconds, "may not specify a duration less than 10 minutes"))
        if seconds > 1 << 32:
            errors.append(invalid("spec.expirationSeconds", seconds, "may not specify a duration larger than 2^32 seconds"))
        if errors:
            raise invalid_object("authentication.k8s.io", "TokenRequest", name, errors)
        account = self.registry.read(resources.SERVICEACCOUNTS, name, namespace)
        if account is None:
            raise not_found("", "serviceaccounts", name)
        authenticator = self.registry.authenticator
        if authenticator is None:
            raise internal("this server has no token signer")
        audiences = spec.get("audiences") or list(authenticator.audiences)
        bound = self._bound(namespace, name, spec.get("boundObjectRef"))
        self._restrict_node(ctx, name, (spec.get("boundObjectRef") or {}).get("uid", ""), bound)
        extend = seconds == WARN_AFTER_SECONDS and "pod" in bound and set(audiences) <= set(authenticator.audiences)
        token, expires = authenticator.signer.mint(
            account,
            audiences,
            EXTENDED_SECONDS if extend else seconds,
            warn_after=seconds if extend else 0,
            bound=bound,
        )
        if extend:
            # Clients refresh by the short lifetime; only the token itself lives longer.
            expires += seconds - EXTENDED_SECONDS
        out_spec: Obj = {
            "audiences": list(audiences),
            "expirationSeconds": seconds,
            "boundObjectRef": spec.get("boundObjectRef"),
        }
        return {
            "kind": "TokenRequest",
            "apiVersion": "authentication.k8s.io/v1",
            "metadata": {"name": name, "namespace": namespace, "creationTimestamp": timefmt.now()},
            "spec": out_spec,
            "status": {"token": token, "expirationTimestamp": timefmt.from_epoch(expires)},
        }

    def _bound(self, namespace: str, account: str, ref: Obj | None) -> dict[str, Obj]:
        """The objects the token shall be bound to, by claim name."""
        if not ref:
            return {}
        kind, name, uid = ref.get("kind", ""), ref.get("name", ""), ref.get("uid", "")
        resource = _BOUND_KINDS.get(kind)
        if resource is None or ref.get("apiVersion") != "v1":
            raise bad_request(f"cannot bind token to object of type {ref.get('apiVersion', '')}, Kind={kind}")
        obj = self.registry.read(resource, name, "" if kind == "Node" else namespace)
        if obj is None:
            raise not_found("", resource.plural, name)
        if uid and obj["metadata"].get("uid") != uid:
            text = (
                f"the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been "
                "deleted and then recreated"
            )
            raise conflict("", resource.plural, name, text)
        out = {kind.lower(): obj}
        if kind == "Pod":
            spec = obj.get("spec") or {}
            if spec.get("serviceAccountName") != account:
                raise bad_request(
                    f'cannot bind token for serviceaccount "{account}" to pod running with different serviceaccount name.'
                )
            node = spec.get("nodeName")
            if node:
                out["node"] = self.registry.read(resources.NODES, node) or {"metadata": {"name": node}}
        return out

    def _restrict_node(self, ctx: RequestContext, name: str, uid: str, bound: dict[str, Obj]) -> None:
        """NodeRestriction's ``admitServiceAccount``: a node gets tokens for pods that run on it."""
        node = node_name(ctx.user)
        if not node:
            return
        pod = bound.get("pod")
        if pod is None:
            raise forbidden("", "serviceaccounts", name, "node requested token not bound to a pod")
        if not uid:
            raise forbidden("", "serviceaccounts", name, "node requested token with a pod binding without a uid")
        if (pod.get("spec") or {}).get("nodeName") != node:
            raise forbidden("", "serviceaccounts", name, "node requested token bound to a pod scheduled on a different node")


def handlers(registry: Registry) -> list[SubresourceHandler]:
    return [TokenHandler(registry, resources.SERVICEACCOUNTS, "token")]
