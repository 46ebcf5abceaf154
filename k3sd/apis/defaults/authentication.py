"""Defaults of authentication.k8s.io/v1. Source: ``pkg/apis/authentication/v1/defaults.go``."""

from __future__ import annotations

from typing import Any

CONSTANTS: dict[str, dict[str, Any]] = {"TokenRequestSpec": {"expirationSeconds": 3600}}
