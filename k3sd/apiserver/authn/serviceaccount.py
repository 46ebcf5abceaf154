"""Service account tokens as credentials: signature, audience, and that what they are bound to still exists.

Source: ``pkg/serviceaccount/claims.go::Validate``. A signature is verified once a token; the rest is looked up at every use, in
the watch cache, so that deleting an account, pod or secret ends its tokens at once.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from k3sd.apis import resources
from k3sd.apiserver.authn.tokens import LEEWAY_SECONDS, TokenIssuer
from k3sd.apiserver.request import UserInfo

if TYPE_CHECKING:
    from k3sd.apimachinery.resource import Resource
    from k3sd.apiserver.registry import Registry

Obj = dict[str, Any]
CACHE_TOKENS = 2048
MAX_TOKEN_BYTES = 16 * 1024


class ServiceAccountTokens:
    """``user`` answers for the API server's audiences, ``review`` for any."""

    def __init__(self, issuer: TokenIssuer, audiences: tuple[str, ...], registry: Registry) -> None:
        self.issuer = issuer
        self._audiences = audiences
        self._registry = registry
        self._verified: OrderedDict[bytes, Obj] = OrderedDict()

    def user(self, token: str) -> UserInfo | None:
        found = self.review(token, self._audiences)
        return found[0] if found is not None else None

    def review(self, token: str, audiences: tuple[str, ...]) -> tuple[UserInfo, tuple[str, ...]] | None:
        """``(user, the audiences that both sides name)``, or None. Used by TokenReview."""
        claims = self._claims(token)
        if claims is None:
            return None
        if claims["iss"] != self.issuer.issuer:
            user = self._legacy_user(claims, token)
            return (user, audiences) if user is not None else None
        said = claims.get("aud") or []
        common = tuple(a for a in audiences if a in ([said] if isinstance(said, str) else said))
        user = self._user(claims) if common else None
        return (user, common) if user is not None else None

    def _claims(self, token: str) -> Obj | None:
        if len(token) > MAX_TOKEN_BYTES:
            return None
        digest = hashlib.sha256(token.encode()).digest()
        claims = self._verified.get(digest)
        if claims is None:
            claims = self.issuer.verify(token)
            if claims is None:
                return None
            self._verified[digest] = claims
            if len(self._verified) > CACHE_TOKENS:
                self._verified.popitem(last=False)
        elif claims.get("exp", float("inf")) + LEEWAY_SECONDS < time.time():
            del self._verified[digest]
            return None
        return claims

    def _user(self, claims: Obj) -> UserInfo | None:
        private = claims.get("kubernetes.io") or {}
        namespace = private.get("namespace") or ""
        account = private.get("serviceaccount") or {}
        if not self._alive(resources.SERVICEACCOUNTS, account, namespace):
            return None
        extra: dict[str, tuple[str, ...]] = {}
        if claims.get("jti"):
            extra["authentication.kubernetes.io/credential-id"] = (f"JTI={claims['jti']}",)
        for kind, resource in (("secret", resources.SECRETS), ("pod", resources.PODS), ("node", resources.NODES)):
            bound = private.get(kind)
            if bound is None:
                continue
            # A pod's token names its node for information; only a token bound to the node itself ends with it.
            informative = kind == "node" and private.get("pod") is not None
            if not informative and not self._alive(resource, bound, "" if kind == "node" else namespace):
                return None
            if kind != "secret":
                extra[f"authentication.kubernetes.io/{kind}-name"] = (bound["name"],)
                extra[f"authentication.kubernetes.io/{kind}-uid"] = (bound.get("uid", ""),)
        return _account_user(namespace, account["name"], account.get("uid", ""), extra)

    def _alive(self, resource: Resource, bound: Obj, namespace: str) -> bool:
        current = self._registry.read(resource, bound.get("name", ""), namespace)
        return current is not None and current["metadata"].get("uid") == bound.get("uid")

    def _legacy_user(self, claims: Obj, token: str) -> UserInfo | None:
        """A token kept in a Secret of type kubernetes.io/service-account-token; the Secret must still hold it."""
        import base64

        prefix = "kubernetes.io/serviceaccount/"
        namespace, name = claims.get(f"{prefix}namespace", ""), claims.get(f"{prefix}service-account.name", "")
        uid = claims.get(f"{prefix}service-account.uid", "")
        secret = self._registry.read(resources.SECRETS, claims.get(f"{prefix}secret.name", ""), namespace)
        if secret is None or "deletionTimestamp" in secret["metadata"]:
            return None
        if base64.b64decode((secret.get("data") or {}).get("token", "")) != token.encode():
            return None
        if not self._alive(resources.SERVICEACCOUNTS, {"name": name, "uid": uid}, namespace):
            return None
        return _account_user(namespace, name, uid, {})


def _account_user(namespace: str, name: str, uid: str, extra: dict[str, tuple[str, ...]]) -> UserInfo:
    groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}")
    return UserInfo(f"system:serviceaccount:{namespace}:{name}", groups, uid, extra)
