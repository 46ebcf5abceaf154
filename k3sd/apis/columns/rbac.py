"""Columns and cells of rbac.authorization.k8s.io/v1."""

from __future__ import annotations

from typing import Any

from k3sd.apimachinery.errors import Obj
from k3sd.apis.columns.text import age, name

_BINDING = "Name=name|Role|Age|Users+|Groups+|ServiceAccounts+"
COLUMNS = {"ClusterRoleBinding": _BINDING, "RoleBinding": _BINDING}


def _binding(obj: Obj, now: float) -> list[Any]:
    role = obj.get("roleRef") or {}
    users: list[str] = []
    groups: list[str] = []
    accounts: list[str] = []
    for subject in obj.get("subjects") or ():
        who = subject.get("name", "")
        if subject.get("kind") == "ServiceAccount":
            accounts.append(f"{subject['namespace']}/{who}" if subject.get("namespace") else who)
        elif subject.get("kind") == "User":
            users.append(who)
        elif subject.get("kind") == "Group":
            groups.append(who)
    return [
        name(obj),
        f"{role.get('kind', '')}/{role.get('name', '')}",
        age(obj, now),
        ", ".join(users),
        ", ".join(groups),
        ", ".join(accounts),
    ]


CELLS = {"ClusterRoleBinding": _binding, "RoleBinding": _binding}
