"""Names, labels, annotations and object metadata, in upstream's wording.

Sources: ``apimachinery/pkg/util/validation``, ``pkg/api/validate/content``, ``pkg/api/validation/objectmeta.go``. The format
functions return messages (empty: valid); the ``validate_*`` functions return field errors. Field paths are dotted text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from k3sd.apimachinery.errors import (
    FieldError,
    Obj,
    duplicate,
    forbidden_field,
    go_value,
    invalid,
    not_supported,
    required,
    too_long,
)

IMMUTABLE = "field is immutable"
ANNOTATIONS_LIMIT_BYTES = 256 * 1024
NameRule = Callable[[str], list[str]]

_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = rf"{_LABEL}(\.{_LABEL})*"
_LABEL_1035 = "[a-z]([-a-z0-9]*[a-z0-9])?"
_KEY = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_VALUE = f"({_KEY})?"
_ENV = "[-._a-zA-Z][-._a-zA-Z0-9]*"
_CONFIG_KEY = "[-._a-zA-Z0-9]+"
_HEADER = "[-A-Za-z0-9]+"
_PERCENT = "[0-9]+%"
_C_NAME = "[A-Za-z_][A-Za-z0-9_]*"
_REASON = "[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?"
_HTTP_PATH = r"[A-Za-z0-9/\-._~%!$&'()*+,;=:]+"

_label = re.compile(_LABEL).fullmatch
_subdomain = re.compile(_SUBDOMAIN).fullmatch
_label_1035 = re.compile(_LABEL_1035).fullmatch
_key = re.compile(_KEY).fullmatch
_value = re.compile(_VALUE).fullmatch

_KEY_TEXT = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character"


def regex_error(message: str, pattern: str, *examples: str) -> str:
    """Source: ``validation.RegexError``."""
    if not examples:
        return f"{message} (regex used for validation is '{pattern}')"
    listed = " or ".join(f"'{example}', " for example in examples)
    return f"{message} (e.g. {listed}regex used for validation is '{pattern}')"


def max_length(limit: int) -> str:
    return f"must be no more than {limit} characters"


def in_range(value: int, low: int, high: int) -> list[str]:
    return [] if low <= value <= high else [f"must be between {low} and {high}, inclusive"]


def _size(text: str) -> int:
    """Length in bytes, as Go counts."""
    return len(text) if text.isascii() else len(text.encode())


@lru_cache(maxsize=1024)
def _dns1123_label(value: str) -> tuple[str, ...]:
    errors = [max_length(63)] if _size(value) > 63 else []
    if not _label(value):
        if _subdomain(value):
            errors.append("must not contain dots")
        else:
            text = (
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and "
                "end with an alphanumeric character"
            )
            errors.append(regex_error(text, _LABEL, "my-name", "123-abc"))
    return tuple(errors)


def dns1123_label(value: str) -> list[str]:
    return list(_dns1123_label(value))


def dns1123_subdomain(value: str) -> list[str]:
    errors = [max_length(253)] if _size(value) > 253 else []
    if not _subdomain(value):
        text = (
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start "
            "and end with an alphanumeric character"
        )
        errors.append(regex_error(text, _SUBDOMAIN, "example.com"))
    return errors


def wildcard_dns1123_subdomain(value: str) -> list[str]:
    pattern = rf"\*\.{_SUBDOMAIN}"
    errors = [max_length(253)] if _size(value) > 253 else []
    if not re.fullmatch(pattern, value):
        text = (
            "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of "
            "lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character"
        )
        errors.append(regex_error(text, pattern, "*.example.com"))
    return errors


def dns1035_label(value: str) -> list[str]:
    errors = [max_length(63)] if _size(value) > 63 else []
    if not _label_1035(value):
        text = (
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic "
            "character, and end with an alphanumeric character"
        )
        errors.append(regex_error(text, _LABEL_1035, "my-name", "abc-123"))
    return errors


def qualified_name(value: str) -> list[str]:
    """A label key: an optional DNS prefix and ``/``, then a name. Source: ``content.IsLabelKey``."""
    return list(_qualified_name(value))


@lru_cache(maxsize=1024)
def _qualified_name(value: str) -> tuple[str, ...]:
    errors: list[str] = []
    parts = value.split("/")
    if len(parts) > 2:
        text = regex_error(_KEY_TEXT, _KEY, "MyName", "my.name", "123-abc")
        return (f"a valid label key {text} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",)
    if len(parts) == 2:
        if not parts[0]:
            errors.append("prefix part must be non-empty")
        else:
            errors += [f"prefix part {message}" for message in dns1123_subdomain(parts[0])]
    name = parts[-1]
    if not name:
        errors.append("name part must be non-empty")
    elif _size(name) > 63:
        errors.append("name part must be no more than 63 bytes")
    if not _key(name):
        errors.append("name part " + regex_error(_KEY_TEXT, _KEY, "MyName", "my.name", "123-abc"))
    return tuple(errors)


@lru_cache(maxsize=1024)
def _label_value(value: str) -> tuple[str, ...]:
    errors = ["must be no more than 63 bytes"] if _size(value) > 63 else []
    if not _value(value):
        text = (
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start "
            "and end with an alphanumeric character"
        )
        errors.append(regex_error(text, _VALUE, "MyValue", "my_value", "12345"))
    return tuple(errors)


def label_value(value: str) -> list[str]:
    return list(_label_value(value))


def path_segment_name(value: str) -> list[str]:
    """Source: ``content.IsPathSegmentName``."""
    if value in (".", ".."):
        return [f"may not be '{value}'"]
    return [f"may not contain '{c}'" for c in ("/", "%") if c in value]


def _change_dir(value: str) -> list[str]:
    if value in (".", ".."):
        return [f"must not be '{value}'"]
    return ["must not start with '..'"] if value.startswith("..") else []


def config_map_key(value: str) -> list[str]:
    errors = [max_length(253)] if _size(value) > 253 else []
    if not re.fullmatch(_CONFIG_KEY, value):
        text = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'"
        errors.append(regex_error(text, _CONFIG_KEY, "key.name", "KEY_NAME", "key-name"))
    return errors + _change_dir(value)


def env_var_name(value: str) -> list[str]:
    errors = []
    if not re.fullmatch(_ENV, value):
        text = (
            "a valid environment variable name must consist of alphabetic characters, digits, '_', '-', or '.', and must "
            "not start with a digit"
        )
        errors.append(regex_error(text, _ENV, "my.env-name", "MY_ENV.NAME", "MyEnvName1"))
    return errors + _change_dir(value)


def relaxed_env_var_name(value: str) -> list[str]:
    """The rule for container environment names: printable ASCII without ``=``."""
    if not value:
        return ["environment variable name must be non-empty"]
    if all(" " <= c <= "~" and c != "=" for c in value):
        return []
    return ["a valid environment variable name must consist only of printable ASCII characters other than '='"]


def c_identifier(value: str) -> list[str]:
    if re.fullmatch(_C_NAME, value):
        return []
    text = (
        "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric "
        "characters or '_'"
    )
    return [regex_error(text, _C_NAME, "my_name", "MY_NAME", "MyName")]


def http_header_name(value: str) -> list[str]:
    if re.fullmatch(_HEADER, value):
        return []
    text = "a valid HTTP header must consist of alphanumeric characters or '-'"
    return [regex_error(text, _HEADER, "X-Header-Name")]


def percent(value: str) -> list[str]:
    if re.fullmatch(_PERCENT, value):
        return []
    text = "a valid percent string must be a numeric string followed by an ending '%'"
    return [regex_error(text, _PERCENT, "1%", "93%")]


def port_number(value: int) -> list[str]:
    return in_range(value, 1, 65535)


def user_or_group_id(value: int) -> list[str]:
    return in_range(value, 0, 2**31 - 1)


def port_name(value: str) -> list[str]:
    errors = [max_length(15)] if _size(value) > 15 else []
    if not re.fullmatch("[-a-z0-9]+", value):
        errors.append("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)")
    if not re.search("[a-z]", value):
        errors.append("must contain at least one letter (a-z)")
    if "--" in value:
        errors.append("must not contain consecutive hyphens")
    if value.startswith("-") or value.endswith("-"):
        errors.append("must not begin or end with a hyphen")
    return errors


def domain_prefixed_path(value: str, field: str) -> list[FieldError]:
    """Source: ``validation.IsDomainPrefixedPath``."""
    if not value:
        return [required(field)]
    host, _, path = value.partition("/")
    if not host or not path:
        return [invalid(field, value, 'must be a domain-prefixed path (such as "acme.io/foo")')]
    errors = [invalid(field, host, message) for message in dns1123_subdomain(host)]
    if not re.fullmatch(_HTTP_PATH, path):
        errors.append(invalid(field, path, regex_error("Invalid path", _HTTP_PATH)))
    return errors


def fully_qualified_name(value: str, field: str) -> list[FieldError]:
    """Source: ``validation.IsFullyQualifiedName``."""
    if not value:
        return [required(field)]
    if messages := dns1123_subdomain(value):
        return [invalid(field, value, ",".join(messages))]
    if value.count(".") < 2:
        return [invalid(field, value, "should be a domain with at least three segments separated by dots")]
    return []


NAME_RULES: dict[str, NameRule] = {
    "dns1123-subdomain": dns1123_subdomain,
    "dns1123-label": dns1123_label,
    "dns1035-label": dns1035_label,
    "path-segment": path_segment_name,
}
"""The rules a ``Strategy.name_rule`` may name."""


def validate_labels(labels: Mapping[str, str] | None, field: str) -> list[FieldError]:
    errors: list[FieldError] = []
    for key, value in (labels or {}).items():
        errors += [invalid(field, key, message) for message in _qualified_name(key)]
        errors += [invalid(field, value, message) for message in _label_value(value)]
    return errors


def validate_annotations(annotations: Mapping[str, str] | None, field: str) -> list[FieldError]:
    errors: list[FieldError] = []
    total = 0
    for key, value in (annotations or {}).items():
        errors += [invalid(field, key, message) for message in _qualified_name(key.lower())]
        total += _size(key) + _size(value)
    if total > ANNOTATIONS_LIMIT_BYTES:
        errors.append(too_long(field, ANNOTATIONS_LIMIT_BYTES))
    return errors


def validate_owner_references(references: Sequence[Obj] | None, field: str) -> list[FieldError]:
    errors: list[FieldError] = []
    controller = ""
    for reference in references or ():
        version = str(reference.get("apiVersion") or "")
        kind = str(reference.get("kind") or "")
        if not version.rpartition("/")[2]:
            errors.append(invalid(f"{field}.apiVersion", version, "version must not be empty"))
        for name in ("kind", "name", "uid"):
            if not reference.get(name):
                errors.append(invalid(f"{field}.{name}", "", "must not be empty"))
        if (version, kind) == ("v1", "Event"):
            text = "/v1, Kind=Event is disallowed from being an owner"
            errors.append(invalid(field, reference, text))
        if reference.get("controller"):
            current = f"{kind}/{reference.get('name', '')}"
            if controller:
                text = (
                    'Only one reference can have Controller set to true. Found "true" in references for '
                    f"{controller} and {current}"
                )
                errors.append(invalid(field, list(references or ()), text))
            else:
                controller = current
    return errors


def validate_finalizers(finalizers: Sequence[str] | None, field: str) -> list[FieldError]:
    errors: list[FieldError] = []
    for name in finalizers or ():
        errors += [invalid(field, name, message) for message in _qualified_name(name)]
    if finalizers and "orphan" in finalizers and "foregroundDeletion" in finalizers:
        text = "finalizer orphan and foregroundDeletion cannot be both set"
        errors.append(invalid(field, list(finalizers), text))
    return errors


def validate_field_manager(manager: str, field: str) -> list[FieldError]:
    errors = [too_long(field, 128)] if _size(manager) > 128 else []
    for i, c in enumerate(manager):
        if not (c.isprintable() or c == " "):
            errors.append(invalid(field, manager, f"invalid character U+{ord(c):04X} (at position {i})"))
    return errors


def validate_managed_fields(entries: Sequence[Obj] | None, field: str) -> list[FieldError]:
    errors: list[FieldError] = []
    for i, entry in enumerate(entries or ()):
        at = f"{field}[{i}]"
        if entry.get("operation") not in ("Apply", "Update"):
            errors.append(invalid(f"{at}.operation", entry.get("operation", ""), "must be `Apply` or `Update`"))
        if entry.get("fieldsType", "FieldsV1") != "FieldsV1":
            errors.append(invalid(f"{at}.fieldsType", entry["fieldsType"], "must be `FieldsV1`"))
        errors += validate_field_manager(entry.get("manager", ""), f"{at}.manager")
        if len(entry.get("subresource", "")) > 256:
            errors.append(too_long(f"{at}.subresource", 256))
    return errors


def _common(meta: Mapping[str, Any], field: str) -> list[FieldError]:
    errors: list[FieldError] = []
    if labels := meta.get("labels"):
        errors += validate_labels(labels, f"{field}.labels")
    if annotations := meta.get("annotations"):
        errors += validate_annotations(annotations, f"{field}.annotations")
    if references := meta.get("ownerReferences"):
        errors += validate_owner_references(references, f"{field}.ownerReferences")
    return errors


def _mask_trailing_dash(name: str) -> str:
    return name[:-2] + "a" if len(name) > 1 and name.endswith("-") else name


def validate_object_meta(
    meta: Mapping[str, Any],
    namespaced: bool,
    name_rule: str | NameRule = "dns1123-subdomain",
    field: str = "metadata",
) -> list[FieldError]:
    """Metadata on creation, after name generation. Source: ``ValidateObjectMeta``."""
    rule = NAME_RULES[name_rule] if isinstance(name_rule, str) else name_rule
    errors: list[FieldError] = []
    if prefix := meta.get("generateName"):
        masked = prefix if rule is path_segment_name else _mask_trailing_dash(prefix)
        errors += [invalid(f"{field}.generateName", prefix, message) for message in rule(masked)]
    name = meta.get("name")
    if not name:
        errors.append(required(f"{field}.name", "name or generateName is required"))
    else:
        errors += [invalid(f"{field}.name", name, message) for message in rule(name)]
    namespace = meta.get("namespace")
    if namespaced:
        if not namespace:
            errors.append(required(f"{field}.namespace"))
        else:
            errors += [invalid(f"{field}.namespace", namespace, m) for m in _dns1123_label(namespace)]
    elif namespace:
        errors.append(forbidden_field(f"{field}.namespace", "not allowed on this type"))
    if (meta.get("generation") or 0) < 0:
        errors.append(invalid(f"{field}.generation", meta["generation"], "must be greater than or equal to 0"))
    errors += _common(meta, field)
    if finalizers := meta.get("finalizers"):
        errors += validate_finalizers(finalizers, f"{field}.finalizers")
    if managed := meta.get("managedFields"):
        errors += validate_managed_fields(managed, f"{field}.managedFields")
    return errors


def validate_object_meta_update(new: Mapping[str, Any], old: Mapping[str, Any], field: str = "metadata") -> list[FieldError]:
    """Metadata on update. Source: ``ValidateObjectMetaUpdate``."""
    errors: list[FieldError] = []
    if old.get("deletionTimestamp"):
        extra = sorted(set(new.get("finalizers") or ()) - set(old.get("finalizers") or ()))
        if extra:
            listed = ", ".join(go_value(name) for name in extra)
            text = f"no new finalizers can be added if the object is being deleted, found new finalizers []string{{{listed}}}"
            errors.append(forbidden_field(f"{field}.finalizers", text))
    if not new.get("resourceVersion"):
        errors.append(invalid(f"{field}.resourceVersion", "", "must be specified for an update"))
    if (new.get("generation") or 0) < (old.get("generation") or 0):
        errors.append(invalid(f"{field}.generation", new.get("generation") or 0, "must not be decremented"))
    for name in (
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ):
        if new.get(name) != old.get(name):
            errors.append(invalid(f"{field}.{name}", new.get(name), IMMUTABLE))
    errors += _common(new, field)
    if managed := new.get("managedFields"):
        errors += validate_managed_fields(managed, f"{field}.managedFields")
    return errors


def validate_immutable(new: object, old: object, field: str) -> list[FieldError]:
    """Source: ``ValidateImmutableField``."""
    return [] if new == old else [invalid(field, new, IMMUTABLE)]


def validate_nonnegative(value: int, field: str) -> list[FieldError]:
    return [] if value >= 0 else [invalid(field, value, "must be greater than or equal to 0")]


def validate_label_selector(selector: Mapping[str, Any] | None, field: str) -> list[FieldError]:
    """A ``LabelSelector`` object. Source: ``metav1validation.ValidateLabelSelector``."""
    errors: list[FieldError] = []
    if not selector:
        return errors
    errors += validate_labels(selector.get("matchLabels"), f"{field}.matchLabels")
    for i, expression in enumerate(selector.get("matchExpressions") or ()):
        at = f"{field}.matchExpressions[{i}]"
        operator, values = expression.get("operator", ""), expression.get("values") or []
        if operator in ("In", "NotIn"):
            if not values:
                errors.append(required(f"{at}.values", "must be specified when `operator` is 'In' or 'NotIn'"))
        elif operator in ("Exists", "DoesNotExist"):
            if values:
                text = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
                errors.append(forbidden_field(f"{at}.values", text))
        else:
            errors.append(invalid(f"{at}.operator", operator, "not a valid selector operator"))
        key = expression.get("key", "")
        errors += [invalid(f"{at}.key", key, message) for message in _qualified_name(key)]
        for j, value in enumerate(values):
            errors += [invalid(f"{at}.values[{j}]", value, message) for message in _label_value(value)]
    return errors


def validate_conditions(conditions: Iterable[Obj] | None, field: str) -> list[FieldError]:
    """``metav1.Condition`` lists. Source: ``metav1validation.ValidateConditions``."""
    errors: list[FieldError] = []
    seen: set[str] = set()
    for i, condition in enumerate(conditions or ()):
        at = f"{field}[{i}]"
        kind = condition.get("type", "")
        if kind in seen:
            errors.append(duplicate(f"{at}.type", kind))
        seen.add(kind)
        errors += [invalid(f"{at}.type", kind, message) for message in _qualified_name(kind)]
        if condition.get("status") not in ("True", "False", "Unknown"):
            errors.append(not_supported(f"{at}.status", condition.get("status", ""), ("True", "False", "Unknown")))
        if (condition.get("observedGeneration") or 0) < 0:
            text = "must be greater than or equal to zero"
            errors.append(invalid(f"{at}.observedGeneration", condition["observedGeneration"], text))
        if not condition.get("lastTransitionTime"):
            errors.append(required(f"{at}.lastTransitionTime"))
        reason = condition.get("reason", "")
        if not reason:
            errors.append(required(f"{at}.reason"))
        else:
            if not re.fullmatch(_REASON, reason):
                text = regex_error(
                    "a condition reason must start with alphabetic character, optionally followed by a string of "
                    "alphanumeric characters or '_,:', and must end with an alphanumeric character or '_'",
                    _REASON,
                    "my_name",
                    "MY_NAME",
                    "MyName",
                    "ReasonA,ReasonB",
                    "ReasonA:ReasonB",
                )
                errors.append(invalid(f"{at}.reason", reason, text))
            if len(reason) > 1024:
                errors.append(too_long(f"{at}.reason", 1024))
        if len(condition.get("message", "")) > 32768:
            errors.append(too_long(f"{at}.message", 32768))
    return errors
