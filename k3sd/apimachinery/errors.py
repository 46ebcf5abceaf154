"""API-visible failures as Kubernetes ``Status`` objects, in upstream's wording.

Source: ``staging/src/k8s.io/apimachinery/pkg/api/errors/errors.go``. Every error that may reach a client is a
``StatusError``; everything else is a bug and becomes a 500 at the request boundary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Obj = dict[str, Any]
"""A wire-shaped JSON object (camelCase keys)."""


class StatusError(Exception):
    """A Kubernetes ``Status`` failure; ``status`` is the wire object.

    ``reason`` is one of upstream's StatusReason strings, ``code`` the HTTP code. Raised by the API server, and by every
    client transport for an answer >= 400, so that in-process and HTTPS callers handle one type.
    """

    def __init__(self, code: int, reason: str, message: str, details: Obj | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details or {}
        self.continue_token = ""

    @property
    def status(self) -> Obj:
        metadata: Obj = {"continue": self.continue_token} if self.continue_token else {}
        out: Obj = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": metadata,
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "details": self.details,
            "code": self.code,
        }
        if not self.details:
            del out["details"]
        return out

    @classmethod
    def from_status(cls, status: Obj) -> StatusError:
        """The error behind a ``Status`` object received from a server."""
        return cls(
            int(status.get("code") or 500),
            str(status.get("reason") or "Unknown"),
            str(status.get("message") or ""),
            status.get("details") or {},
        )


@dataclass(frozen=True, slots=True)
class FieldError:
    """One cause of an Invalid error. Source: ``util/validation/field/errors.go``.

    ``type`` is upstream's ErrorType (``FieldValueInvalid``, ``FieldValueRequired``, ``FieldValueNotSupported``,
    ``FieldValueDuplicate``, ``FieldValueForbidden``, ``FieldValueNotFound``, ``FieldValueTooLong``, ``FieldValueTooMany``,
    ``FieldValueTypeInvalid``, ``InternalError``); ``detail`` is the full text after the field path.
    """

    type: str
    field: str
    detail: str

    def __str__(self) -> str:
        return f"{self.field}: {self.detail}"

    @property
    def cause(self) -> Obj:
        return {"reason": self.type, "message": self.detail, "field": self.field}


def go_value(value: object) -> str:
    """``value`` as Go's ``%v``/``%#v`` prints it in field errors (strings quoted, bools lower case)."""
    import json

    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if value is True or value is False:
        return "true" if value else "false"
    if value is None:
        return "null"
    if isinstance(value, dict | list):
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return str(value)


def invalid(field: str, value: object, detail: str) -> FieldError:
    return FieldError("FieldValueInvalid", field, f"Invalid value: {go_value(value)}: {detail}")


def required(field: str, detail: str = "") -> FieldError:
    return FieldError("FieldValueRequired", field, f"Required value: {detail}" if detail else "Required value")


def not_supported(field: str, value: object, supported: Sequence[str]) -> FieldError:
    """Upstream lists the valid values sorted and quoted."""
    values = ", ".join(go_value(s) for s in sorted(supported))
    return FieldError("FieldValueNotSupported", field, f"Unsupported value: {go_value(value)}: supported values: {values}")


def duplicate(field: str, value: object) -> FieldError:
    return FieldError("FieldValueDuplicate", field, f"Duplicate value: {go_value(value)}")


def forbidden_field(field: str, detail: str) -> FieldError:
    return FieldError("FieldValueForbidden", field, f"Forbidden: {detail}")


def too_long(field: str, limit: int) -> FieldError:
    return FieldError("FieldValueTooLong", field, f"Too long: may not be more than {limit} bytes")


def too_many(field: str, actual: int, limit: int) -> FieldError:
    return FieldError("FieldValueTooMany", field, f"Too many: {actual}: must have at most {limit} items")


def field_not_found(field: str, value: object) -> FieldError:
    return FieldError("FieldValueNotFound", field, f"Not found: {go_value(value)}")


def _qualified(resource: str, group: str) -> str:
    return f"{resource}.{group}" if group else resource


def _details(name: str, group: str, resource: str) -> Obj:
    details: Obj = {}
    if name:
        details["name"] = name
    if group:
        details["group"] = group
    if resource:
        details["kind"] = resource
    return details


def not_found(group: str, resource: str, name: str) -> StatusError:
    """``details.kind`` carries the *resource* (plural), as upstream does."""
    return StatusError(
        404, "NotFound", f"{_qualified(resource, group)} {go_value(name)} not found", _details(name, group, resource)
    )


def already_exists(group: str, resource: str, name: str) -> StatusError:
    return StatusError(
        409,
        "AlreadyExists",
        f"{_qualified(resource, group)} {go_value(name)} already exists",
        _details(name, group, resource),
    )


def conflict(group: str, resource: str, name: str, detail: str = "") -> StatusError:
    """Optimistic-lock failure; the default detail is upstream's ``OptimisticLockErrorMsg``."""
    detail = detail or ("the object has been modified; please apply your changes to the latest version and try again")
    return StatusError(
        409,
        "Conflict",
        f"Operation cannot be fulfilled on {_qualified(resource, group)} {go_value(name)}: {detail}",
        _details(name, group, resource),
    )


def invalid_object(group: str, kind: str, name: str, errors: Sequence[FieldError]) -> StatusError:
    """422 for the ``kind`` (``details.kind`` is the kind here, as upstream does)."""
    texts = list(dict.fromkeys(str(e) for e in errors))
    text = texts[0] if len(texts) == 1 else "[" + ", ".join(texts) + "]"
    details = _details(name, group, kind)
    details["causes"] = [e.cause for e in errors]
    return StatusError(422, "Invalid", f"{_qualified(kind, group)} {go_value(name)} is invalid: {text}", details)


def forbidden(group: str, resource: str, name: str, detail: str) -> StatusError:
    if not resource:
        message = f"forbidden: {detail}"
    elif not name:
        message = f"{_qualified(resource, group)} is forbidden: {detail}"
    else:
        message = f"{_qualified(resource, group)} {go_value(name)} is forbidden: {detail}"
    return StatusError(403, "Forbidden", message, _details(name, group, resource))


def bad_request(message: str) -> StatusError:
    return StatusError(400, "BadRequest", message)


def unauthorized(message: str = "Unauthorized") -> StatusError:
    return StatusError(401, "Unauthorized", message)


def method_not_supported(group: str, resource: str, action: str) -> StatusError:
    return StatusError(
        405,
        "MethodNotAllowed",
        f"{action} is not supported on resources of kind {go_value(_qualified(resource, group))}",
        _details("", group, resource),
    )


def not_acceptable(message: str) -> StatusError:
    return StatusError(406, "NotAcceptable", message)


def unsupported_media_type(message: str) -> StatusError:
    return StatusError(415, "UnsupportedMediaType", message)


def gone(message: str) -> StatusError:
    """410 ``Expired``: a watch or continue token older than the kept history."""
    return StatusError(410, "Expired", message)


def too_large(message: str) -> StatusError:
    return StatusError(413, "RequestEntityTooLarge", message)


def too_many_requests(message: str, retry_after_seconds: int = 0) -> StatusError:
    details: Obj = {"retryAfterSeconds": retry_after_seconds} if retry_after_seconds else {}
    return StatusError(429, "TooManyRequests", message, details)


def timeout(message: str, retry_after_seconds: int = 0) -> StatusError:
    details: Obj = {"retryAfterSeconds": retry_after_seconds} if retry_after_seconds else {}
    return StatusError(504, "Timeout", message, details)


def internal(message: str) -> StatusError:
    return StatusError(500, "InternalError", f"Internal error occurred: {message}", {"causes": [{"message": message}]})


def service_unavailable(message: str) -> StatusError:
    return StatusError(503, "ServiceUnavailable", message)
