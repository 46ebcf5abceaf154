"""Defaults of apiregistration.k8s.io/v1. Source: ``kube-aggregator/pkg/apis/apiregistration/v1/defaults.go``."""

from __future__ import annotations

from typing import Any

CONSTANTS: dict[str, dict[str, Any]] = {"ServiceReference": {"port": 443}}
