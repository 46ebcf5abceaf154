"""Defaults of apiextensions.k8s.io/v1. Source: ``pkg/apis/apiextensions/v1/defaults.go``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from k3sd.apimachinery.errors import Obj

CONSTANTS: dict[str, dict[str, Any]] = {
    "CustomResourceDefinitionSpec": {"conversion": {"strategy": "None"}},
    "ServiceReference": {"port": 443},
}


def _definition(obj: Obj) -> None:
    spec = obj["spec"]
    names = spec.setdefault("names", {})
    kind = names.get("kind", "")
    if kind:
        names["singular"] = names.get("singular") or kind.lower()
        names["listKind"] = names.get("listKind") or f"{kind}List"
    status = obj.setdefault("status", {})
    if not status.get("storedVersions"):
        stored = [v.get("name", "") for v in spec.get("versions") or () if v.get("storage")]
        if stored:
            status["storedVersions"] = stored[:1]


HOOKS: dict[str, Callable[[Obj], None]] = {"CustomResourceDefinition": _definition}
