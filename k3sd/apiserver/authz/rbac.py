"""The RBAC authorizer: an index of roles and bindings that changes with the write that changes them.

Source: ``plugin/pkg/auth/authorizer/rbac/rbac.go``, ``pkg/registry/rbac/validation/rule.go``. A decision looks only at the
bindings of the asker's name and groups; decisions are remembered until any RBAC object changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from k3sd.apimachinery.errors import Obj
from k3sd.apis import resources
from k3sd.apiserver.authz.rules import Query, Rule
from k3sd.apiserver.follow import follow
from k3sd.apiserver.request import Decision, UserInfo

if TYPE_CHECKING:
    from k3sd.apiserver.registry import Registry

GROUP = "rbac.authorization.k8s.io"
_MAX_REMEMBERED = 2048


class Grant(NamedTuple):
    """One subject of one binding. ``namespace`` is empty for ClusterRoleBindings."""

    namespace: str
    binding: str
    role_kind: str
    role: str


def subject_key(subject: Obj, namespace: str) -> str:
    """How a subject is looked up: ``u:<user>`` or ``g:<group>``; a ServiceAccount is its user name."""
    kind, name = subject.get("kind"), subject.get("name", "")
    if kind == "ServiceAccount":
        return f"u:system:serviceaccount:{subject.get('namespace') or namespace}:{name}"
    return f"{'u' if kind == 'User' else 'g'}:{name}"


class RuleIndex:
    """Roles by name, grants by subject."""

    def __init__(self) -> None:
        self._roles: dict[tuple[str, str], tuple[Rule, ...]] = {}
        self._grants: dict[str, dict[Grant, None]] = {}
        self._remembered: dict[tuple[str, tuple[str, ...], Query], Decision] = {}

    def attach(self, registry: Registry) -> None:
        """Fill from the cache and follow it."""
        follow(registry, resources.CLUSTERROLES, self.on_role)
        follow(registry, resources.ROLES, self.on_role)
        follow(registry, resources.CLUSTERROLEBINDINGS, self.on_binding, with_old=True)
        follow(registry, resources.ROLEBINDINGS, self.on_binding, with_old=True)

    def on_role(self, event: str, obj: Obj, old: Obj | None) -> None:
        meta = obj["metadata"]
        key = (meta.get("namespace", ""), meta["name"])
        self._remembered.clear()
        if event == "DELETED":
            self._roles.pop(key, None)
        else:
            self._roles[key] = tuple(Rule.of(rule) for rule in obj.get("rules") or ())

    def on_binding(self, event: str, obj: Obj, old: Obj | None) -> None:
        self._remembered.clear()
        before = old if old is not None else (obj if event == "DELETED" else None)
        if before is not None:
            for key, grant in self._subjects(before):
                grants = self._grants.get(key)
                if grants is not None:
                    grants.pop(grant, None)
                    if not grants:
                        del self._grants[key]
        if event != "DELETED":
            for key, grant in self._subjects(obj):
                self._grants.setdefault(key, {})[grant] = None

    @staticmethod
    def _subjects(binding: Obj) -> Iterator[tuple[str, Grant]]:
        meta, ref = binding["metadata"], binding.get("roleRef") or {}
        namespace = meta.get("namespace", "")
        grant = Grant(namespace, meta["name"], ref.get("kind", ""), ref.get("name", ""))
        for subject in binding.get("subjects") or ():
            yield subject_key(subject, namespace), grant

    def role_rules(self, grant: Grant) -> tuple[Rule, ...] | None:
        """None when the role does not exist."""
        return self._roles.get(("" if grant.role_kind == "ClusterRole" else grant.namespace, grant.role))

    def rules_of(self, kind: str, namespace: str, name: str) -> tuple[Rule, ...] | None:
        return self._roles.get(("" if kind == "ClusterRole" else namespace, name))

    def grants(self, user: UserInfo, namespace: str) -> Iterator[tuple[str, Grant]]:
        """``(subject text, grant)``: the cluster-wide grants of the user, then those in ``namespace``."""
        local: list[tuple[str, Grant]] = []
        for key in (f"u:{user.name}", *(f"g:{group}" for group in user.groups)):
            for grant in self._grants.get(key, ()):
                text = ("User" if key[0] == "u" else "Group") + f' "{key[2:]}"'
                if not grant.namespace:
                    yield text, grant
                elif grant.namespace == namespace:
                    local.append((text, grant))
        yield from local

    def rules_for(self, user: UserInfo, namespace: str) -> list[Rule]:
        """``RulesFor``: everything the user may do in ``namespace`` (cluster-wide rules included)."""
        out: list[Rule] = []
        for _, grant in self.grants(user, namespace):
            out += self.role_rules(grant) or ()
        return out

    def check(self, user: UserInfo, query: Query) -> Decision:
        """``RBACAuthorizer.Authorize``."""
        key = (user.name, user.groups, query)
        decision = self._remembered.get(key)
        if decision is None:
            if len(self._remembered) >= _MAX_REMEMBERED:
                self._remembered.clear()
            decision = self._remembered[key] = self._decide(user, query)
        return decision

    def _decide(self, user: UserInfo, query: Query) -> Decision:
        missing: list[str] = []
        for subject, grant in self.grants(user, query.namespace):
            if query.path and grant.namespace:
                continue
            rules = self.role_rules(grant)
            if rules is None:
                kind = "role" if grant.role_kind == "Role" else "clusterrole"
                missing.append(f'{kind}.{GROUP} "{grant.role}" not found')
                continue
            if any(rule.allows(query) for rule in rules):
                role = f'{grant.role_kind} "{grant.role}"'
                return Decision(True, f"RBAC: allowed by {_binding_text(grant)} of {role} to {subject}")
        if not missing:
            return Decision(False)
        texts = list(dict.fromkeys(missing))
        return Decision(False, "RBAC: " + (texts[0] if len(texts) == 1 else "[" + ", ".join(texts) + "]"))


def _binding_text(grant: Grant) -> str:
    if grant.namespace:
        return f'RoleBinding "{grant.binding}/{grant.namespace}"'
    return f'ClusterRoleBinding "{grant.binding}"'
