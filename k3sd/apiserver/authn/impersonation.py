"""``Impersonate-*`` headers. Source: ``apiserver/pkg/endpoints/filters/impersonation``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import unquote

from k3sd.apimachinery.errors import StatusError
from k3sd.apiserver.authn.certificates import all_values
from k3sd.apiserver.authz import refuse
from k3sd.apiserver.authz.rules import Query
from k3sd.apiserver.request import UserInfo

if TYPE_CHECKING:
    from k3sd.apiserver.authz import ChainAuthorizer

_PREFIX = "impersonate-"
_EXTRA = "impersonate-extra-"
_ACCOUNT = "system:serviceaccount:"


def impersonate(authorizer: ChainAuthorizer, user: UserInfo, headers: Mapping[str, str]) -> UserInfo:
    """The identity asked for, or ``user`` where none is. Raises 403 for what ``user`` may not be."""
    keys = [key for key in headers if key.lower().startswith(_PREFIX)]
    if not keys:
        return user
    name = headers.get("Impersonate-User", "")
    groups = all_values(headers, "Impersonate-Group")
    uid = headers.get("Impersonate-Uid", "")
    extra = {unquote(k[len(_EXTRA) :].lower()): all_values(headers, k) for k in keys if k.lower().startswith(_EXTRA)}
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
