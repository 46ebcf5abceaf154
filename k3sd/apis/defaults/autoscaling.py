"""Defaults of autoscaling. Source: ``pkg/apis/autoscaling/{v1,v2}/defaults.go``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from k3sd.apimachinery.errors import Obj

CONSTANTS: dict[str, dict[str, Any]] = {"HorizontalPodAutoscalerSpec": {"minReplicas": 1}}
_CPU_METRIC = {
    "type": "Resource",
    "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}},
}
CONSTANTS_V2: dict[str, dict[str, Any]] = {"HorizontalPodAutoscalerSpec": {"minReplicas": 1, "metrics": [_CPU_METRIC]}}
_PODS = {"type": "Pods", "value": 4, "periodSeconds": 15}
_PERCENT = {"type": "Percent", "value": 100, "periodSeconds": 15}


def _behavior(obj: Obj) -> None:
    up, down = obj.setdefault("scaleUp", {}), obj.setdefault("scaleDown", {})
    up.setdefault("stabilizationWindowSeconds", 0)
    up.setdefault("policies", [dict(_PODS), dict(_PERCENT)])
    down.setdefault("policies", [dict(_PERCENT)])
    up.setdefault("selectPolicy", "Max")
    down.setdefault("selectPolicy", "Max")


HOOKS_V2: dict[str, Callable[[Obj], None]] = {"HorizontalPodAutoscalerBehavior": _behavior}
