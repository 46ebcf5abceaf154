"""Defaults of scheduling.k8s.io/v1. Source: ``pkg/apis/scheduling/v1/defaults.go``."""

from __future__ import annotations

from typing import Any

CONSTANTS: dict[str, dict[str, Any]] = {"PriorityClass": {"preemptionPolicy": "PreemptLowerPriority"}}
