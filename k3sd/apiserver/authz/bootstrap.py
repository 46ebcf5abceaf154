"""Default RBAC objects: built from ``bootstrap_policy``, reconciled at start.

Source: ``pkg/registry/rbac/rest/storage_rbac.go``, ``pkg/registry/rbac/reconciliation``. An existing object whose annotation
``rbac.authorization.kubernetes.io/autoupdate`` is ``false`` is left alone; otherwise missing rules, subjects, labels and
annotations are added and nothing is taken away. A binding with another role is replaced.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

from k3sd.apimachinery.errors import Obj, StatusError
from k3sd.apimachinery.resource import Resource
from k3sd.apis import resources
from k3sd.apiserver.authz.rbac import GROUP
from k3sd.apiserver.authz.rules import Rule, covers
from k3sd.apiserver.kinds.rules import clone
from k3sd.apiserver.request import LOOPBACK, RequestContext

if TYPE_CHECKING:
    from k3sd.apiserver.registry import Registry

log = logging.getLogger(__name__)

AUTO_UPDATE = "rbac.authorization.kubernetes.io/autoupdate"
API_VERSION = f"{GROUP}/v1"
_AGGREGATE = "rbac.authorization.k8s.io/aggregate-to-"
_VERBS = {"read": ("get", "list", "watch"), "write": ("create", "delete", "deletecollection", "patch", "update")}


def parse_rule(line: str) -> Obj:
    """One rule line of a role table."""
    words = line.split()
    verbs = sorted({v for word in words[0].split(",") for v in _VERBS.get(word, (word,))})
    if len(words) == 2:
        return {"verbs": verbs, "nonResourceURLs": words[1].split(",")}
    groups = ["" if g == "core" else g for g in words[1].split(",")]
    rule: Obj = {"verbs": verbs, "apiGroups": groups, "resources": words[2].split(",")}
    if len(words) > 3:
        rule["resourceNames"] = words[3].removeprefix("=").split(",")
    return rule


def _metadata(name: str, *, k3s: bool = False) -> Obj:
    namespace, found, rest = name.partition("/")
    meta: Obj = {"name": rest, "namespace": namespace} if found else {"name": name}
    if not k3s:
        meta["annotations"] = {AUTO_UPDATE: "true"}
        meta["labels"] = {"kubernetes.io/bootstrapping": "rbac-defaults"}
    return meta


def parse_roles(table: str, *, k3s: bool = False) -> Iterator[Obj]:
    """ClusterRoles, and Roles where names have a namespace."""
    role: Obj | None = None
    for line in table.splitlines():
        if line.startswith(" "):
            assert role is not None
            role["rules"].append(parse_rule(line))
            continue
        if role is not None:
            yield role
        name, *marks = line.split()
        meta = _metadata(name, k3s=k3s)
        kind = "Role" if "namespace" in meta else "ClusterRole"
        role = {"kind": kind, "apiVersion": API_VERSION, "metadata": meta, "rules": []}
        for mark in marks:
            if mark[0] == "+":
                meta["labels"][_AGGREGATE + mark[1:]] = "true"
            else:
                role["aggregationRule"] = {"clusterRoleSelectors": [{"matchLabels": {_AGGREGATE + mark[1:]: "true"}}]}
    if role is not None:
        yield role


def _subject(word: str) -> Obj:
    kind, _, name = word.partition(":")
    if kind == "sa":
        namespace, _, account = name.partition("/")
        return {"kind": "ServiceAccount", "name": account, "namespace": namespace}
    return {"apiGroup": GROUP, "kind": kind.capitalize(), "name": name}


def build_binding(name: str, role: str, subjects: list[str], *, k3s: bool = False) -> Obj:
    meta = _metadata(name, k3s=k3s)
    role_kind, _, role_name = role.partition("/")
    out: Obj = {
        "kind": "RoleBinding" if "namespace" in meta else "ClusterRoleBinding",
        "apiVersion": API_VERSION,
        "metadata": meta,
        "roleRef": {"apiGroup": GROUP, "kind": role_kind, "name": role_name},
    }
    if subjects:
        out["subjects"] = [_subject(s) for s in subjects]
    return out


def parse_bindings(table: str, *, k3s: bool = False) -> Iterator[Obj]:
    for line in table.splitlines():
        name, role, *subjects = line.split()
        yield build_binding(name, role, subjects, k3s=k3s)


def default_objects() -> Iterator[Obj]:
    """All default roles, then all default bindings."""
    from k3sd.apiserver.authz import bootstrap_policy as policy

    yield from parse_roles(policy.CLUSTER_ROLES)
    controllers = list(parse_roles(policy.CONTROLLER_ROLES))
    yield from controllers
    yield from parse_roles(policy.K3S_CLUSTER_ROLES, k3s=True)
    yield from parse_roles(policy.NAMESPACE_ROLES)
    yield from parse_bindings(policy.CLUSTER_ROLE_BINDINGS)
    for role in controllers:
        name = role["metadata"]["name"]
        account = name.removeprefix("system:controller:")
        yield build_binding(name, f"ClusterRole/{name}", [f"sa:kube-system/{account}"])
    yield from parse_bindings(policy.K3S_CLUSTER_ROLE_BINDINGS, k3s=True)
    yield from parse_bindings(policy.NAMESPACE_ROLE_BINDINGS)


def reconcile_role(live: Obj, wanted: Obj) -> Obj | None:
    """The role to write, None when ``live`` is as it should be. ``computeReconciledRole``."""
    new = _reconcile_meta(live, wanted)
    if wanted.get("aggregationRule"):
        have = (live.get("aggregationRule") or {}).get("clusterRoleSelectors") or []
        missing = [s for s in wanted["aggregationRule"]["clusterRoleSelectors"] if s not in have]
        if missing:
            new = new or dict(live)
            new["aggregationRule"] = {"clusterRoleSelectors": [*have, *missing]}
        return new
    have_rules = [Rule.of(r) for r in live.get("rules") or ()]
    missing_rules = covers(have_rules, [Rule.of(r) for r in wanted["rules"]])
    if missing_rules:
        new = new or dict(live)
        new["rules"] = [*(live.get("rules") or ()), *(r.to_obj() for r in missing_rules)]
    return new


def reconcile_binding(live: Obj, wanted: Obj) -> Obj | None:
    """The binding to write, None when ``live`` is as it should be. The roles must be the same."""
    new = _reconcile_meta(live, wanted)
    have = live.get("subjects") or []
    missing = [s for s in wanted.get("subjects") or () if s not in have]
    if missing:
        new = new or dict(live)
        new["subjects"] = [*have, *missing]
    return new


def _reconcile_meta(live: Obj, wanted: Obj) -> Obj | None:
    changed: Obj = {}
    for key in ("labels", "annotations"):
        merged = {**(wanted["metadata"].get(key) or {}), **(live["metadata"].get(key) or {})}
        if merged != (live["metadata"].get(key) or {}):
            changed[key] = merged
    return {**live, "metadata": {**live["metadata"], **changed}} if changed else None


_ROWS: dict[str, Resource] = {
    "ClusterRole": resources.CLUSTERROLES,
    "Role": resources.ROLES,
    "ClusterRoleBinding": resources.CLUSTERROLEBINDINGS,
    "RoleBinding": resources.ROLEBINDINGS,
}


async def reconcile(registry: Registry) -> None:
    """Bring the default objects in. Namespaces kube-system and kube-public must exist. Raises what the store raises."""
    found: dict[bool, list[Obj]] = {True: [], False: []}
    for obj in default_objects():
        found[obj["kind"].endswith("Binding")].append(obj)
    for group in (found[False], found[True]):
        await asyncio.gather(*(_ensure(registry, obj) for obj in group))


async def _ensure(registry: Registry, wanted: Obj) -> None:
    resource = _ROWS[wanted["kind"]]
    meta = wanted["metadata"]
    namespace, name = meta.get("namespace", ""), meta["name"]
    ctx = RequestContext(LOOPBACK, "create", resource, namespace=namespace, name=name, privileged=True)
    live = registry.read(resource, name, namespace)
    try:
        if live is None:
            await registry.create(ctx, wanted)
            return
        if (live["metadata"].get("annotations") or {}).get(AUTO_UPDATE) == "false":
            return
        binding = wanted["kind"].endswith("Binding")
        if binding and live["roleRef"] != wanted["roleRef"]:
            from k3sd.apiserver.options import DeleteRequest

            ctx.verb = "delete"
            await registry.delete(ctx, DeleteRequest())
            ctx.verb = "create"
            await registry.create(ctx, wanted)
            return
        new = reconcile_binding(live, wanted) if binding else reconcile_role(live, wanted)
        if new is not None:
            ctx.verb = "update"
            await registry.update(ctx, clone(new))
    except StatusError as error:
        if error.reason not in ("AlreadyExists", "Conflict"):
            raise
        # Another server of the cluster is doing the same; what it wrote is as good.
        log.debug("default %s %s: %s", wanted["kind"], name, error)
