"""Acting as somebody else: the ``Impersonate-*`` headers, each part authorized. Source: ``filters/impersonation.go``."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import unquote

from k3sd.apimachinery.errors import bad_request, forbidden
from k3sd.apimachinery.resource import Resource
from k3sd.apis import resources
from k3sd.apiserver.request import Authorizer, RequestContext, UserInfo

PREFIX = "impersonate-"
_SA = "system:serviceaccount:"


def _virtual(plural: str, group: str = "") -> Resource:
    """Users, groups, uids and extras exist for authorization only."""
    return Resource(group, "v1", plural, plural, False, (), "")


_USERS, _GROUPS = _virtual("users"), _virtual("groups")
_UIDS, _EXTRAS = _virtual("uids", "authentication.k8s.io"), _virtual("userextras", "authentication.k8s.io")


def impersonate(user: UserInfo, headers: Iterable[tuple[str, str]], authorizer: Authorizer) -> UserInfo:
    """The identity to act as: ``user`` itself without such headers. Raises StatusError 400 or 403.

    ``headers``: all (name, value) pairs of the request, repeated names included.
    """
    name, uid = "", ""
    groups: list[str] = []
    extra: dict[str, list[str]] = {}
    for key, value in headers:
        key = key.lower()
        if not key.startswith(PREFIX):
            continue
        if key == "impersonate-user":
            name = value
        elif key == "impersonate-group":
            groups.append(value)
        elif key == "impersonate-uid":
            uid = value
        elif key.startswith("impersonate-extra-"):
            extra.setdefault(unquote(key.removeprefix("impersonate-extra-")), []).append(value)
    if not name:
        if groups or uid or extra:
            raise bad_request("requested impersonation without impersonating a user")
        return user
    if name.startswith(_SA) and name.count(":") == 3:
        namespace, account = name.removeprefix(_SA).split(":")
        _check(user, authorizer, resources.SERVICEACCOUNTS, account, namespace)
        if not groups:
            groups = ["system:serviceaccounts", f"system:serviceaccounts:{namespace}"]
    else:
        _check(user, authorizer, _USERS, name)
    for group in groups:
        _check(user, authorizer, _GROUPS, group)
    if uid:
        _check(user, authorizer, _UIDS, uid)
    for key, values in extra.items():
        for value in values:
            _check(user, authorizer, _EXTRAS, value, subresource=key)
    if name != "system:anonymous" and "system:authenticated" not in groups:
        groups.append("system:authenticated")
    return UserInfo(name, tuple(groups), uid, {key: tuple(values) for key, values in extra.items()})


def _check(
    user: UserInfo, authorizer: Authorizer, resource: Resource, name: str, namespace: str = "", subresource: str = ""
) -> None:
    ctx = RequestContext(user, "impersonate", resource, subresource, namespace, name)
    decision = authorizer.authorize(ctx)
    if not decision.allowed:
        where = f' in the namespace "{namespace}"' if namespace else " at the cluster scope"
        plural = resource.plural + (f"/{subresource}" if subresource else "")
        detail = f'User "{user.name}" cannot impersonate resource "{plural}" in API group "{resource.group}"{where}'
        raise forbidden(resource.group, resource.plural, name, detail + (f": {decision.reason}" if decision.reason else ""))
