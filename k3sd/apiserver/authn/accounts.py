"""Who a service account token speaks for: its bound objects must still be the ones it was made for.

Source: ``pkg/serviceaccount`` (``claims.go``, ``legacy.go``), ``pkg/registry/core/serviceaccount/storage/token.go``.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, NamedTuple

from k3sd.apimachinery import timefmt
from k3sd.apimachinery.errors import Obj
from k3sd.apimachinery.resource import Resource
from k3sd.apis import resources
from k3sd.apiserver.authn.tokens import LEGACY_ISSUER, TokenInvalid, TokenSigner
from k3sd.apiserver.request import UserInfo

if TYPE_CHECKING:
    from k3sd.apiserver.registry import Registry

CREDENTIAL_ID = "authentication.kubernetes.io/credential-id"
_DELETED_LEEWAY_SECONDS = 60
_BOUND: dict[str, Resource] = {"pod": resources.PODS, "secret": resources.SECRETS, "node": resources.NODES}
_LEGACY = "kubernetes.io/serviceaccount/"


class Dependency(NamedTuple):
    """An object a token rests on, as it was when the token was verified: the same key must hold the same creation (or, where
    ``exact``, the same revision)."""

    resource: Resource
    namespace: str
    name: str
    mark: int
    exact: bool = False


class Verified(NamedTuple):
    user: UserInfo
    audiences: tuple[str, ...]
    expires: float
    dependencies: tuple[Dependency, ...]


def account_user(namespace: str, name: str, uid: str, extra: dict[str, tuple[str, ...]] | None = None) -> UserInfo:
    """``serviceaccount.UserInfo``."""
    groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated")
    return UserInfo(f"system:serviceaccount:{namespace}:{name}", groups, uid, extra or {})


class AccountTokens:
    """Verifies tokens against the cache."""

    def __init__(self, registry: Registry, signer: TokenSigner, audiences: tuple[str, ...]) -> None:
        self._registry = registry
        self._signer = signer
        self._audiences = audiences

    def verify(self, token: str) -> Verified:
        """Raises TokenInvalid. ``audiences`` are the token's; a legacy token has those of the API server."""
        claims = self._signer.verify(token)
        if claims.get("iss") == LEGACY_ISSUER:
            return self._legacy(token, claims)
        if claims.get("iss") != self._signer.issuer:
            raise TokenInvalid("token was issued by somebody else")
        return self._bound(claims)

    def still_valid(self, verified: Verified) -> bool:
        """True while every object behind a verified token is the one it was. No parsing, no I/O."""
        for dep in verified.dependencies:
            ep = self._registry.endpoint(dep.resource)
            entry = ep.cache.get(ep.key(dep.namespace, dep.name))
            if entry is None or (entry.revision if dep.exact else entry.create_revision) != dep.mark:
                return False
        return True

    def _object(self, resource: Resource, namespace: str, name: str, uid: str, what: str) -> tuple[Obj, Dependency]:
        ep = self._registry.endpoint(resource)
        entry = ep.cache.get(ep.key(namespace, name))
        if entry is None:
            raise TokenInvalid(f"{what} has been deleted")
        obj = entry.obj
        meta = obj["metadata"]
        if uid and meta.get("uid") != uid:
            raise TokenInvalid(f"the {what} UID does not match")
        deleted = meta.get("deletionTimestamp")
        if deleted and timefmt.parse(deleted) + _DELETED_LEEWAY_SECONDS < timefmt.parse(timefmt.now()):
            raise TokenInvalid(f"{what} has been deleted")
        return obj, Dependency(resource, namespace, name, entry.create_revision)

    def _bound(self, claims: Obj) -> Verified:
        private = claims.get("kubernetes.io")
        if not isinstance(private, dict) or not isinstance(private.get("serviceaccount"), dict):
            raise TokenInvalid("token has no service account")
        namespace, account = str(private.get("namespace", "")), private["serviceaccount"]
        name = str(account.get("name", ""))
        if claims.get("sub") != f"system:serviceaccount:{namespace}:{name}":
            raise TokenInvalid("token subject does not match its service account")
        extra: dict[str, tuple[str, ...]] = {}
        if claims.get("jti"):
            extra[CREDENTIAL_ID] = (f"JTI={claims['jti']}",)
        sa, dep = self._object(resources.SERVICEACCOUNTS, namespace, name, str(account.get("uid", "")), "service account")
        deps = [dep]
        for kind, resource in _BOUND.items():
            ref = private.get(kind)
            if not isinstance(ref, dict):
                continue
            ref_name, uid = str(ref.get("name", "")), str(ref.get("uid", ""))
            if kind != "node" or "pod" not in private:
                _, dep = self._object(resource, "" if kind == "node" else namespace, ref_name, uid, kind)
                deps.append(dep)
            if kind != "secret":
                extra[f"authentication.kubernetes.io/{kind}-name"] = (ref_name,)
                extra[f"authentication.kubernetes.io/{kind}-uid"] = (uid,)
        user = account_user(namespace, name, sa["metadata"].get("uid", ""), extra)
        audiences = claims.get("aud") or ()
        audiences = (audiences,) if isinstance(audiences, str) else tuple(str(a) for a in audiences)
        return Verified(user, audiences, float(claims.get("exp", 0)), tuple(deps))

    def _legacy(self, token: str, claims: Obj) -> Verified:
        """A token from a ``kubernetes.io/service-account-token`` Secret: good while the Secret holds it."""
        namespace, name = str(claims.get(_LEGACY + "namespace", "")), str(claims.get(_LEGACY + "service-account.name", ""))
        secret_name, uid = str(claims.get(_LEGACY + "secret.name", "")), str(claims.get(_LEGACY + "service-account.uid", ""))
        if not (namespace and name and secret_name and uid):
            raise TokenInvalid("legacy token lacks claims")
        if claims.get("sub") != f"system:serviceaccount:{namespace}:{name}":
            raise TokenInvalid("token subject does not match its service account")
        secret, _ = self._object(resources.SECRETS, namespace, secret_name, "", "secret")
        if base64.b64decode((secret.get("data") or {}).get("token", "")) != token.encode():
            raise TokenInvalid("token does not match the server's copy")
        _, dep = self._object(resources.SERVICEACCOUNTS, namespace, name, uid, "service account")
        ep = self._registry.endpoint(resources.SECRETS)
        entry = ep.cache.get(ep.key(namespace, secret_name))
        assert entry is not None
        exact = Dependency(resources.SECRETS, namespace, secret_name, entry.revision, True)
        return Verified(account_user(namespace, name, uid), self._audiences, 0.0, (dep, exact))
