"""Defaults of resource.k8s.io/v1. Source: ``pkg/apis/resource/v1/defaults.go``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from k3sd.apimachinery import timefmt
from k3sd.apimachinery.errors import Obj

_REQUEST = {"allocationMode": "ExactCount"}
CONSTANTS: dict[str, dict[str, Any]] = {
    "DeviceSubRequest": _REQUEST,
    "DeviceToleration": {"operator": "Equal"},
    "ExactDeviceRequest": _REQUEST,
    "NodeAllocatableResourceMapping": {"allocationMultiplier": "1"},
}


def _count(obj: Obj) -> None:
    if obj["allocationMode"] == "ExactCount" and not obj.get("count"):
        obj["count"] = 1


def _taint(obj: Obj) -> None:
    obj.setdefault("timeAdded", timefmt.now())


HOOKS: dict[str, Callable[[Obj], None]] = {
    "DeviceSubRequest": _count,
    "DeviceTaint": _taint,
    "ExactDeviceRequest": _count,
}
