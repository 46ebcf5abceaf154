"""Columns and cells of admissionregistration.k8s.io/v1."""

from __future__ import annotations

from typing import Any

from k3sd.apimachinery.errors import Obj
from k3sd.apis.columns.text import age, name, selector, spec

_WEBHOOKS = "Name=name|Webhooks:integer|Age"
_BINDING = "Name=name|PolicyName|ParamRef|Age"
COLUMNS = {
    "MutatingAdmissionPolicy": "Name=name|Mutations:integer|ParamKind|Age",
    "MutatingAdmissionPolicyBinding": _BINDING,
    "MutatingWebhookConfiguration": _WEBHOOKS,
    "ValidatingAdmissionPolicy": "Name=name|Validations:integer|ParamKind|Age",
    "ValidatingAdmissionPolicyBinding": _BINDING,
    "ValidatingWebhookConfiguration": _WEBHOOKS,
}


def _webhooks(obj: Obj, now: float) -> list[Any]:
    return [name(obj), len(obj.get("webhooks") or ()), age(obj, now)]


def _policy(obj: Obj, now: float) -> list[Any]:
    param = spec(obj).get("paramKind")
    text = f"{param.get('apiVersion', '')}/{param.get('kind', '')}" if param else "<unset>"
    rules = spec(obj).get("validations") or spec(obj).get("mutations") or ()
    return [name(obj), len(rules), text, age(obj, now)]


def _binding(obj: Obj, now: float) -> list[Any]:
    param = spec(obj).get("paramRef") or {}
    text = "<unset>"
    if param.get("name"):
        text = f"{param.get('namespace') or '*'}/{param['name']}"
    elif param.get("selector") is not None:
        text = selector(param["selector"])
    return [name(obj), spec(obj).get("policyName", ""), text, age(obj, now)]


CELLS = {
    "MutatingAdmissionPolicy": _policy,
    "MutatingAdmissionPolicyBinding": _binding,
    "MutatingWebhookConfiguration": _webhooks,
    "ValidatingAdmissionPolicy": _policy,
    "ValidatingAdmissionPolicyBinding": _binding,
    "ValidatingWebhookConfiguration": _webhooks,
}
