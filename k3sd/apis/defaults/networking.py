"""Defaults of networking.k8s.io/v1. Source: ``pkg/apis/networking/v1/defaults.go``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from k3sd.apimachinery.errors import Obj

CONSTANTS: dict[str, dict[str, Any]] = {
    "IngressClassParametersReference": {"scope": "Cluster"},
    "NetworkPolicyPort": {"protocol": "TCP"},
}


def _policy(obj: Obj) -> None:
    if not obj.get("policyTypes"):
        obj["policyTypes"] = ["Ingress", "Egress"] if obj.get("egress") else ["Ingress"]


HOOKS: dict[str, Callable[[Obj], None]] = {"NetworkPolicySpec": _policy}
