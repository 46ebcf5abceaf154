"""Who may speak to the kubelet: client certificates and TokenReview, then SubjectAccessReview on ``nodes/<subresource>``.

Source: Kubernetes 1.36, ``pkg/kubelet/server/auth.go`` and K3s's kubelet defaults (anonymous off, webhook modes, cache times).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from k3sd.apis import resources
from k3sd.client.api import Client

Obj = dict[str, Any]

AUTHENTICATED_SECONDS = 120.0
ALLOWED_SECONDS = 300.0
DENIED_SECONDS = 30.0
CACHE_ENTRIES = 1024
_VERBS = {"POST": "create", "GET": "get", "HEAD": "get", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_PREFIXES = {"/stats": "stats", "/metrics": "metrics", "/logs": "log", "/spec": "spec", "/checkpoint": "checkpoint"}
_FINE_PREFIXES = {"/healthz": "healthz", "/pods": "pods", "/runningpods": "pods", "/configz": "configz"}


class Unauthenticated(Exception):
    """Neither a client certificate nor a valid token."""


@dataclass(frozen=True, slots=True)
class User:
    name: str
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: Mapping[str, Sequence[str]] = field(default_factory=dict)


def certificate_user(certificate: Mapping[str, Any] | None) -> User | None:
    """The user of a verified client certificate in ``ssl``'s form: common name and organizations."""
    if not certificate:
        return None
    pairs = [pair for relative in certificate.get("subject", ()) for pair in relative]
    name = next((value for key, value in pairs if key == "commonName"), "")
    groups = tuple(value for key, value in pairs if key == "organizationName")
    return User(name, groups=(*groups, "system:authenticated")) if name else None


def subresources(path: str) -> tuple[str, ...]:
    """The subresources of ``nodes`` that allow ``path``, the most particular first (``NodeRequestAttributesGetter``)."""
    for prefix, subresource in _PREFIXES.items():
        if path == prefix or path.startswith(prefix + "/"):
            return (subresource,)
    for prefix, subresource in _FINE_PREFIXES.items():
        if path.rstrip("/") == prefix or path.startswith(prefix + "/"):
            return (subresource, "proxy")
    return ("proxy",)


class Authorizer:
    """Answers are kept for K3s's times; a failing API server is not kept and lets its error through."""

    def __init__(self, client: Client, node_name: str, *, now: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._node_name = node_name
        self._now = now
        self._users: dict[bytes, tuple[float, User | None]] = {}
        self._decisions: dict[tuple[User, str, str], tuple[float, bool]] = {}

    async def authenticate(self, certificate: Mapping[str, Any] | None, authorization: str) -> User:
        """Raises Unauthenticated, or what the client raises when the API cannot be asked."""
        user = certificate_user(certificate)
        if user is not None:
            return user
        scheme, _, token = authorization.partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            raise Unauthenticated
        # The token itself is not kept.
        key = hashlib.sha256(token.encode()).digest()
        known = self._users.get(key)
        if known is None or known[0] < self._now():
            user = await self._review(token)
            _remember(self._users, key, (self._now() + AUTHENTICATED_SECONDS, user))
        else:
            user = known[1]
        if user is None:
            raise Unauthenticated
        return user

    async def authorize(self, user: User, method: str, path: str) -> tuple[bool, str]:
        """Whether ``user`` may, and the subresource that was asked about last."""
        if "system:masters" in user.groups:
            return True, ""
        verb = _VERBS.get(method, method.lower())
        wanted = subresources(path)
        for subresource in wanted:
            if await self._may(user, verb, subresource):
                return True, subresource
        return False, wanted[-1]

    async def _review(self, token: str) -> User | None:
        review = {"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "spec": {"token": token}}
        status: Obj = (await self._client.create(resources.TOKENREVIEWS, review)).get("status") or {}
        if not status.get("authenticated"):
            return None
        user: Obj = status.get("user") or {}
        return User(
            str(user.get("username", "")),
            str(user.get("uid", "")),
            tuple(user.get("groups") or ()),
            {key: tuple(values) for key, values in (user.get("extra") or {}).items()},
        )

    async def _may(self, user: User, verb: str, subresource: str) -> bool:
        # Extra is part of what is asked but rarely decides; its owner is known by name, uid and groups.
        key = (User(user.name, user.uid, user.groups, _Frozen(user.extra)), verb, subresource)
        known = self._decisions.get(key)
        if known is not None and known[0] >= self._now():
            return known[1]
        spec: Obj = {
            "user": user.name,
            "uid": user.uid,
            "groups": list(user.groups),
            "extra": {name: list(values) for name, values in user.extra.items()},
            "resourceAttributes": {
                "verb": verb,
                "version": "v1",
                "resource": "nodes",
                "subresource": subresource,
                "name": self._node_name,
            },
        }
        review = {"kind": "SubjectAccessReview", "apiVersion": "authorization.k8s.io/v1", "spec": spec}
        status: Obj = (await self._client.create(resources.SUBJECTACCESSREVIEWS, review)).get("status") or {}
        allowed = bool(status.get("allowed"))
        until = self._now() + (ALLOWED_SECONDS if allowed else DENIED_SECONDS)
        _remember(self._decisions, key, (until, allowed))
        return allowed


class _Frozen(dict[str, Sequence[str]]):
    """A mapping usable in a key."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(tuple(sorted((key, tuple(values)) for key, values in self.items())))


def _remember(cache: dict[Any, Any], key: Any, value: Any) -> None:
    if len(cache) >= CACHE_ENTRIES:
        del cache[next(iter(cache))]
    cache[key] = value
