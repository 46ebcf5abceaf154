"""Defaults of rbac.authorization.k8s.io/v1. Source: ``pkg/apis/rbac/v1/defaults.go``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from k3sd.apimachinery.errors import Obj

_GROUP = "rbac.authorization.k8s.io"
CONSTANTS: dict[str, dict[str, Any]] = {"RoleRef": {"apiGroup": _GROUP}}


def _subject(obj: Obj) -> None:
    if not obj.get("apiGroup") and obj.get("kind") in ("User", "Group"):
        obj["apiGroup"] = _GROUP


HOOKS: dict[str, Callable[[Obj], None]] = {"Subject": _subject}
