"""Defaults of admissionregistration.k8s.io/v1. Source: ``pkg/apis/admissionregistration/v1/defaults.go``."""

from __future__ import annotations

from typing import Any

_MATCH: dict[str, Any] = {"matchPolicy": "Equivalent", "namespaceSelector": {}, "objectSelector": {}}
_WEBHOOK: dict[str, Any] = {"failurePolicy": "Fail", **_MATCH, "timeoutSeconds": 10}
_RULE = {"scope": "*"}

CONSTANTS: dict[str, dict[str, Any]] = {
    "MatchResources": _MATCH,
    "MutatingAdmissionPolicySpec": {"failurePolicy": "Fail"},
    "MutatingWebhook": {**_WEBHOOK, "reinvocationPolicy": "Never"},
    "NamedRuleWithOperations": _RULE,
    "RuleWithOperations": _RULE,
    "ServiceReference": {"port": 443},
    "ValidatingAdmissionPolicySpec": {"failurePolicy": "Fail"},
    "ValidatingWebhook": _WEBHOOK,
}
