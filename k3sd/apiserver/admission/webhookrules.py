"""Which webhooks a request concerns, what they are asked, and what their answer means. Pure.

Source: ``apiserver/pkg/admission/plugin/webhook/{rules,generic,request,errors}``.
"""

from __future__ import annotations

import base64
import binascii
import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from k3sd.apimachinery.cel import CompileError, EvaluationError, Program, compile_expression
from k3sd.apimachinery.errors import Obj, StatusError, internal
from k3sd.apimachinery.resource import Resource
from k3sd.apimachinery.selectors import LabelSelector, label_selector_from
from k3sd.apiserver.request import Attributes
from k3sd.apiserver.webhookclient import CallFailed

OPTIONS_KINDS = {"CREATE": "CreateOptions", "UPDATE": "UpdateOptions", "DELETE": "DeleteOptions"}


class Hook:
    """One webhook of a configuration, prepared for matching."""

    __slots__ = (
        "client",
        "conditions",
        "dry_run_safe",
        "fails_closed",
        "name",
        "namespaces",
        "objects",
        "reinvokes",
        "rules",
        "timeout_seconds",
    )

    def __init__(self, hook: Obj) -> None:
        self.name: str = hook["name"]
        self.client: Obj = hook.get("clientConfig") or {}
        self.rules: list[Obj] = hook.get("rules") or []
        self.fails_closed = hook.get("failurePolicy") != "Ignore"
        self.dry_run_safe = hook.get("sideEffects") in ("None", "NoneOnDryRun")
        self.timeout_seconds = int(hook.get("timeoutSeconds") or 10)
        self.reinvokes = hook.get("reinvocationPolicy") == "IfNeeded"
        self.namespaces = _selector(hook.get("namespaceSelector"))
        self.objects = _selector(hook.get("objectSelector"))
        try:
            self.conditions = compile_conditions(hook.get("matchConditions") or (), CONDITION_NAMES)
        except CompileError:
            # Another server let in what this one cannot read: the webhook is asked once too often rather than bypassed.
            self.conditions = []

    def concerns(self, resource: Resource, subresource: str, operation: str, namespace: str) -> bool:
        return any(rule_matches(rule, resource, subresource, operation, namespace) for rule in self.rules)


def _selector(selector: Obj | None) -> LabelSelector | None:
    return label_selector_from(selector) if selector else None


def rule_matches(rule: Obj, resource: Resource, subresource: str, operation: str, namespace: str) -> bool:
    """``rules.Matcher``: operation, group, version, resource, scope."""
    if not {"*", operation} & set(rule.get("operations") or ()):
        return False
    if not {"*", resource.group} & set(rule.get("apiGroups") or ()):
        return False
    if not {"*", resource.version} & set(rule.get("apiVersions") or ()):
        return False
    scope = rule.get("scope", "*")
    # A Namespace object is cluster-scoped although its requests carry a namespace.
    namespaced = resource.namespaced and bool(namespace)
    if (scope == "Namespaced" and not namespaced) or (scope == "Cluster" and namespaced):
        return False
    for text in rule.get("resources") or ():
        plural, _, sub = text.partition("/")
        if plural in ("*", resource.plural) and sub in ("*", subresource):
            return True
    return False


CONDITION_NAMES = ("object", "oldObject", "request")
"""Variables of a webhook's match conditions."""


def conditions_match(conditions: Sequence[Program], variables: Mapping[str, Any]) -> bool:
    """``matchconditions.Matcher``: a condition that is false decides; otherwise an error does. Raises EvaluationError."""
    failed: EvaluationError | None = None
    for condition in conditions:
        try:
            value = condition.evaluate(variables)
        except EvaluationError as error:
            failed = failed or error
            continue
        if value is not True:
            return False
    if failed is not None:
        raise failed
    return True


def compile_conditions(conditions: Sequence[Obj], names: Sequence[str]) -> list[Program]:
    """Stored conditions have been compiled before; raises CompileError for what an older server let in."""
    return [compile_expression(c.get("expression", ""), names) for c in conditions]


class Question(NamedTuple):
    """An AdmissionReview to send; ``uid`` must come back."""

    uid: str
    review: Obj


def build_question(attrs: Attributes, user: Obj) -> Question:
    """``CreateV1AdmissionReview``."""
    ctx, resource = attrs.ctx, attrs.ctx.resource
    assert resource is not None
    uid = str(uuid.uuid4())
    gvk = {"group": resource.group, "version": resource.version, "kind": resource.kind}
    if attrs.operation == "CONNECT" and attrs.obj is not None:
        gvk = {"group": "", "version": "v1", "kind": attrs.obj.get("kind", "")}
    gvr = {"group": resource.group, "version": resource.version, "resource": resource.plural}
    name = ctx.name or ((attrs.obj or {}).get("metadata") or {}).get("name", "")
    request: Obj = {
        "uid": uid,
        "kind": gvk,
        "resource": gvr,
        "requestKind": gvk,
        "requestResource": gvr,
        "operation": attrs.operation,
        "userInfo": user,
        "object": attrs.obj,
        "oldObject": attrs.old,
        "dryRun": ctx.dry_run,
    }
    for key, value in (("name", name), ("namespace", ctx.namespace), ("subResource", ctx.subresource)):
        if value:
            request[key] = value
    if ctx.subresource:
        request["requestSubResource"] = ctx.subresource
    kind = OPTIONS_KINDS.get(attrs.operation)
    request["options"] = {"kind": kind, "apiVersion": "meta.k8s.io/v1", **attrs.options} if kind else None
    return Question(uid, {"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": request})


class Verdict(NamedTuple):
    """A proper answer. ``patch`` are JSON Patch operations."""

    allowed: bool
    status: Obj
    patch: list[Any]
    warnings: list[str]


def parse_answer(body: bytes, uid: str, *, mutating: bool) -> Verdict:
    """``VerifyAdmissionResponse``. Raises CallFailed."""
    try:
        review = json.loads(body)
    except ValueError as error:
        raise CallFailed(f"couldn't decode the answer: {error}") from error
    response = review.get("response") if isinstance(review, dict) else None
    if not isinstance(response, dict):
        raise CallFailed("webhook response was absent")
    if (review.get("kind"), review.get("apiVersion")) != ("AdmissionReview", "admission.k8s.io/v1"):
        raise CallFailed("expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview")
    if response.get("uid") != uid:
        raise CallFailed(f'expected response.uid="{uid}", got "{response.get("uid", "")}"')
    patch: Any = []
    if response.get("patch"):
        if not mutating:
            raise CallFailed("validating webhook may not return a patch")
        if response.get("patchType") != "JSONPatch":
            raise CallFailed('webhook returned response.patch but not response.patchType "JSONPatch"')
        try:
            patch = json.loads(base64.b64decode(response["patch"]))
        except (ValueError, binascii.Error) as error:
            raise CallFailed(f"couldn't decode the patch: {error}") from error
    warnings = [str(w) for w in response.get("warnings") or ()]
    return Verdict(bool(response.get("allowed")), response.get("status") or {}, patch, warnings)


def denial(name: str, status: Obj) -> StatusError:
    """``ToStatusErr``."""
    text = f'admission webhook "{name}" denied the request'
    if status.get("message"):
        text += f": {status['message']}"
    elif status.get("reason"):
        text += f": {status['reason']}"
    else:
        text += " without explanation"
    code = int(status.get("code") or 0)
    return StatusError(code if code >= 400 else 400, status.get("reason") or "", text, status.get("details") or {})


def call_error(name: str, error: CallFailed) -> StatusError:
    return internal(f'failed calling webhook "{name}": failed to call webhook: {error}')


def condition_error(name: str, error: EvaluationError) -> StatusError:
    return internal(f'failed calling webhook "{name}": match conditions could not be evaluated: {error}')


def dry_run_refusal(name: str) -> StatusError:
    return StatusError(
        400,
        "BadRequest",
        f'the server rejected our request for an unknown reason: admission webhook "{name}" does not support dry run',
    )
