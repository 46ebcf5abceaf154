"""Defaults of flowcontrol.apiserver.k8s.io/v1. Source: ``pkg/apis/flowcontrol/v1/defaults.go``."""

from __future__ import annotations

from typing import Any

CONSTANTS: dict[str, dict[str, Any]] = {
    "ExemptPriorityLevelConfiguration": {"nominalConcurrencyShares": 0, "lendablePercent": 0},
    "FlowSchemaSpec": {"matchingPrecedence": 1000},
    "LimitedPriorityLevelConfiguration": {"nominalConcurrencyShares": 30, "lendablePercent": 0},
    "QueuingConfiguration": {"handSize": 8, "queues": 64, "queueLengthLimit": 50},
}
