"""``Impersonate-*`` headers. Source: ``apiserver/pkg/endpoints/filters/impersonation``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING
from urllib.parse import unquote

from k3sd.apimachinery.errors import StatusError
from k3sd.apiserver.authz import refuse
from k3sd.apiserver.authz.rules import Query
from k3sd.apiserver.request import UserInfo

if TYPE_CHECKING:
    from k3sd.apiserver.authz import ChainAuthorizer

_PREFIX = "impersonate-"
_EXTRA = "impersonate-extra-"
_ACCOUNT = "system:serviceaccount:"


def impersonate(user: UserInfo, headers: Iterable[tuple[str, str]], authorizer: ChainAuthorizer) -> UserInfo:
    """The identity asked for by the header items, or ``user`` where none is. Raises 403 for what ``user`` may not be."""
    asked: dict[str, tuple[str, ...]] = {}
    for key, value in headers:
        key = key.lower()
        if key.startswith(_PREFIX):
            asked[key] = (*asked.get(key, ()), value)
    if not asked:
        return user
    name = asked.get("impersonate-user", ("",))[0]
    groups = asked.get("impersonate-group", ())
    uid = asked.get("impersonate-uid", ("",))[0]
    extra = {unquote(k[len(_EXTRA) :]): values for k, values in asked.items() if k.startswith(_EXTRA)}
    if not name:
        if groups or uid or extra:
            raise StatusError(400, "BadRequest", "requested groups, uid or extra without impersonating a user")
        return user
    account = name.split(":")[2:] if name.startswith(_ACCOUNT) and name.count(":") == 3 else []
    if account:
        _require(authorizer, user, Query("impersonate", "", "serviceaccounts", "", account[0], account[1]))
    else:
        _require(authorizer, user, Query("impersonate", "", "users", name=name))
    for group in groups:
        _require(authorizer, user, Query("impersonate", "", "groups", name=group))
    for key, values in extra.items():
        for value in values:
            _require(authorizer, user, Query("impersonate", "authentication.k8s.io", "userextras", key, name=value))
    if uid:
        _require(authorizer, user, Query("impersonate", "authentication.k8s.io", "uids", name=uid))
    if account and not groups:
        groups = ("system:serviceaccounts", f"system:serviceaccounts:{account[0]}")
    always = "system:unauthenticated" if name == "system:anonymous" else "system:authenticated"
    if "system:unauthenticated" not in groups and always not in groups:
        groups = (*groups, always)
    return UserInfo(name, groups, uid, extra)


def _require(authorizer: ChainAuthorizer, user: UserInfo, query: Query) -> None:
    decision = authorizer.check(user, query)
    if not decision.allowed:
        raise refuse(user, query, decision.reason)
