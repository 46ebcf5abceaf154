"""Defaults of apps/v1. Source: ``pkg/apis/apps/v1/defaults.go``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from k3sd.apimachinery.errors import Obj

CONSTANTS: dict[str, dict[str, Any]] = {
    "DaemonSetSpec": {"revisionHistoryLimit": 10},
    "DaemonSetUpdateStrategy": {"type": "RollingUpdate"},
    "DeploymentSpec": {"replicas": 1, "revisionHistoryLimit": 10, "progressDeadlineSeconds": 600},
    "DeploymentStrategy": {"type": "RollingUpdate"},
    "ReplicaSetSpec": {"replicas": 1},
    "StatefulSetPersistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain", "whenScaled": "Retain"},
    "StatefulSetSpec": {
        "podManagementPolicy": "OrderedReady",
        "replicas": 1,
        "revisionHistoryLimit": 10,
        "persistentVolumeClaimRetentionPolicy": {},
    },
}


def _rolling(max_unavailable: int | str, max_surge: int | str) -> Callable[[Obj], None]:
    def hook(obj: Obj) -> None:
        if obj["type"] == "RollingUpdate":
            rolling = obj.setdefault("rollingUpdate", {})
            rolling.setdefault("maxUnavailable", max_unavailable)
            rolling.setdefault("maxSurge", max_surge)

    return hook


def _stateful_strategy(obj: Obj) -> None:
    # The rolling update is only made where the type was not given, as upstream does.
    if not obj.get("type"):
        obj["type"] = "RollingUpdate"
        obj.setdefault("rollingUpdate", {})
    if obj["type"] == "RollingUpdate" and obj.get("rollingUpdate") is not None:
        obj["rollingUpdate"].setdefault("partition", 0)
        obj["rollingUpdate"].setdefault("maxUnavailable", 1)


HOOKS: dict[str, Callable[[Obj], None]] = {
    "DaemonSetUpdateStrategy": _rolling(1, 0),
    "DeploymentStrategy": _rolling("25%", "25%"),
    "StatefulSetUpdateStrategy": _stateful_strategy,
}
