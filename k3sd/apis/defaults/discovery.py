"""Defaults of discovery.k8s.io/v1. Source: ``pkg/apis/discovery/v1/defaults.go``."""

from __future__ import annotations

from typing import Any

CONSTANTS: dict[str, dict[str, Any]] = {"EndpointPort": {"name": "", "protocol": "TCP"}}
