"""``x-kubernetes-validations``: the CEL rules in the schema of a custom resource.

``compile_rules`` makes what ``validate`` runs; ``problems_of`` is what is wrong with the rules themselves. Sources:
``apiextensions-apiserver/pkg/apiserver/schema/cel``, ``apiextensions/validation``.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from k3sd.apimachinery.cel import CompileError, EvaluationError, Program, compile_expression
from k3sd.apimachinery.errors import FieldError, Obj, duplicate, forbidden_field, go_value, invalid, required
from k3sd.lib.cel.functions import duration, timestamp
from k3sd.lib.cel.parser import RESERVED
from k3sd.lib.cel.values import NONE, Optional

log = logging.getLogger(__name__)

KEY = "x-kubernetes-validations"
_PRESERVE = "x-kubernetes-preserve-unknown-fields"
_EMBEDDED = "x-kubernetes-embedded-resource"
_MAP_KEYS = "x-kubernetes-list-map-keys"
_NAMES = ("self", "oldSelf")
_REASONS = ("FieldValueInvalid", "FieldValueForbidden", "FieldValueRequired", "FieldValueDuplicate")
_HEAD: Obj = {
    "apiVersion": {"type": "string"},
    "kind": {"type": "string"},
    "metadata": {"type": "object", "properties": {"name": {"type": "string"}, "generateName": {"type": "string"}}},
}
BLOCKING = frozenset(
    ("FieldValueNotSupported", "FieldValueRequired", "FieldValueTooLong", "FieldValueTooMany", "FieldValueTypeInvalid")
)
NOT_CHECKED = FieldError(
    "FieldValueInvalid",
    "<nil>",
    "Invalid value: null: some validation rules were not checked because the object was invalid; correct the existing errors "
    "to complete validation",
)


def has_rules(schema: Any) -> bool:
    """There is a rule somewhere in the schema."""
    if not isinstance(schema, dict):
        return False
    if schema.get(KEY):
        return True
    inner = [*(schema.get("properties") or {}).values(), schema.get("items"), schema.get("additionalProperties")]
    return any(has_rules(part) for part in inner)


@dataclass(slots=True)
class Rule:
    """One rule. ``transition`` rules speak of the value before."""

    source: Obj
    program: Program
    message: Program | None
    transition: bool

    @property
    def words(self) -> str:
        """The message, or the rule itself."""
        return (self.source.get("message") or "").strip() or str(self.source["rule"]).strip()


@dataclass(slots=True)
class Rules:
    """The rules of a schema and of what is below it; branches without rules are left out."""

    schema: Obj
    plain: bool
    own: list[Rule]
    properties: dict[str, Rules] = field(default_factory=dict)
    items: Rules | None = None
    extra: Rules | None = None


def compile_rules(schema: Any, is_object: bool = True) -> Rules | None:
    """None where there are no rules. A rule that cannot be read (another server let it in) is logged and does not hold anybody
    up."""
    if not has_rules(schema):
        return None
    seen = _with_head(schema) if is_object or schema.get(_EMBEDDED) else schema
    own = []
    for source in schema.get(KEY) or ():
        try:
            own.append(_rule(source, seen))
        except CompileError as error:
            log.warning("the validation rule %r is not applied: %s", source.get("rule"), error)
    rules = Rules(seen, _is_plain(seen), own)
    for name, inner in (schema.get("properties") or {}).items():
        if (below := compile_rules(inner, False)) is not None:
            rules.properties[name] = below
    rules.items = compile_rules(schema.get("items"), False)
    rules.extra = compile_rules(schema.get("additionalProperties"), False)
    return rules


def _with_head(schema: Obj) -> Obj:
    properties = {**(schema.get("properties") or {})}
    for name, inner in _HEAD.items():
        properties[name] = {**properties.get(name, {}), **inner}
    return {**schema, "properties": properties}


def _rule(source: Obj, schema: Obj) -> Rule:
    program = compile_expression(source.get("rule", ""), _NAMES)
    text = (source.get("messageExpression") or "").strip()
    message = compile_expression(text, _NAMES) if text else None
    for compiled in (program, message):
        if compiled is not None:
            _check_fields(compiled, schema)
    transition = any(chain[0] == "oldSelf" for chain in program.chains)
    return Rule(source, program, message, transition)


def _check_fields(program: Program, schema: Obj) -> None:
    """What an expression selects from ``self`` must be declared. Raises CompileError."""
    for chain in sorted(program.chains):
        here: Any = schema
        for name in chain[1:]:
            if not isinstance(here, dict) or here.get(_PRESERVE) or here.get("x-kubernetes-int-or-string"):
                break
            properties, extra = here.get("properties"), here.get("additionalProperties")
            if properties is None and isinstance(extra, dict):
                here = extra
                continue
            names = {_escape(key): inner for key, inner in (properties or {}).items()}
            if name not in names:
                raise CompileError(f"undefined field '{name}'")
            here = names[name]


# Values

_ESCAPED = (("__", "__underscores__"), (".", "__dot__"), ("-", "__dash__"), ("/", "__slash__"))
_KEYWORDS = RESERVED | {"true", "false", "null", "in"}


def _escape(name: str) -> str:
    """A property's name as an identifier. Source: ``apiserver/pkg/cel/escaping.go``."""
    if name in _KEYWORDS:
        return f"__{name}__"
    for raw, escaped in _ESCAPED:
        name = name.replace(raw, escaped)
    return name


def _is_plain(schema: Any) -> bool:
    """JSON values of this schema are CEL's values as they are."""
    if not isinstance(schema, dict):
        return True
    if schema.get("type") == "number" or schema.get("format") in ("date-time", "duration", "byte"):
        return False
    properties = schema.get("properties") or {}
    if any(_escape(name) != name for name in properties):
        return False
    return all(_is_plain(p) for p in (*properties.values(), schema.get("items"), schema.get("additionalProperties")))


def _bound(value: Any, schema: Any) -> Any:
    """A value as CEL sees it: times and bytes parsed, names escaped, numbers that are doubles."""
    if not isinstance(schema, dict) or value is None:
        return value
    if isinstance(value, list):
        return [_bound(item, schema.get("items")) for item in value]
    if isinstance(value, Mapping):
        properties, extra = schema.get("properties"), schema.get("additionalProperties")
        if properties is None:
            return {key: _bound(item, extra) for key, item in value.items()}
        return {_escape(key): _bound(item, properties.get(key, extra)) for key, item in value.items()}
    if schema.get("type") == "number" and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, str):
        try:
            match schema.get("format"):
                case "date-time":
                    return timestamp(value)
                case "duration":
                    return duration(value)
                case "byte":
                    import base64

                    return base64.b64decode(value)
        except ValueError:
            return value  # the schema's own check says what is wrong
    return value


# Evaluation

_MISSING: Any = object()


def validate(rules: Rules, new: Any, old: Any = None) -> list[FieldError]:
    """What the rules say against ``new``. ``old`` is the object before an update: rules that fail on values that did not change
    are let pass then (ratcheting)."""
    return list(_walk(rules, new, _MISSING if old is None else old, ""))


def _walk(rules: Rules, new: Any, old: Any, path: str) -> Iterator[FieldError]:
    if new is None:
        return
    unchanged = old is not _MISSING and new == old
    for rule in rules.own:
        if rule.transition or not unchanged:
            yield from _run(rules, rule, new, old, path)
    if isinstance(new, Mapping):
        before = old if isinstance(old, Mapping) else {}
        for key, item in new.items():
            below = rules.properties.get(key)
            if below is None and key not in (rules.schema.get("properties") or {}):
                below = rules.extra
            if below is not None:
                known = key in (rules.schema.get("properties") or {})
                where = (f"{path}.{key}" if path else key) if known else f"{path}[{key}]"
                yield from _walk(below, item, before.get(key, _MISSING), where)
    elif isinstance(new, list) and rules.items is not None:
        keys = rules.schema.get(_MAP_KEYS)
        before_items = {_key(item, keys): item for item in old} if keys and isinstance(old, list) else {}
        for i, item in enumerate(new):
            yield from _walk(
                rules.items, item, before_items.get(_key(item, keys), _MISSING) if keys else _MISSING, f"{path}[{i}]"
            )


def _key(item: Any, keys: list[str]) -> tuple[Any, ...]:
    return tuple(item.get(key) for key in keys) if isinstance(item, Mapping) else (item,)


def _run(rules: Rules, rule: Rule, new: Any, old: Any, path: str) -> Iterator[FieldError]:
    optional = rule.source.get("optionalOldSelf") is True
    if rule.transition and old is _MISSING and not optional:
        return
    variables = {"self": new if rules.plain else _bound(new, rules.schema)}
    if rule.transition:
        before = old if rules.plain or old is _MISSING else _bound(old, rules.schema)
        variables["oldSelf"] = (NONE if old is _MISSING else Optional(before)) if optional else before
    kind = str(rules.schema.get("type", ""))
    try:
        if rule.program.evaluate(variables) is True:
            return
    except EvaluationError as error:
        text = f"{error} evaluating rule: {rule.words}"
        if str(error).startswith("no such overload"):
            signature = "call arguments did not match a supported operator, function or macro signature"
            text = f"'{error}': {signature} for rule: {rule.words}"
        elif str(error).startswith("operation cancelled"):
            text = f"no further validation rules will be run due to call cost exceeds limit for rule: {rule.words}"
        yield invalid(path or "<nil>", kind, text)
        return
    yield _failure(rule, _message(rule, variables), path, kind)


def _message(rule: Rule, variables: Mapping[str, Any]) -> str:
    """An expression that fails or says nothing falls back to the fixed message."""
    if rule.message is not None:
        try:
            text = rule.message.evaluate(variables)
        except EvaluationError:
            text = ""
        if isinstance(text, str) and text.strip() and "\n" not in text:
            return text.strip()
    fixed = (rule.source.get("message") or "").strip()
    return fixed or f"failed rule: {str(rule.source['rule']).strip()}"


def _failure(rule: Rule, text: str, path: str, kind: str) -> FieldError:
    where = path + str(rule.source.get("fieldPath") or "")
    where = where.removeprefix(".") or "<nil>"
    match rule.source.get("reason"):
        case "FieldValueForbidden":
            return forbidden_field(where, text)
        case "FieldValueRequired":
            return required(where, text)
        case "FieldValueDuplicate":
            return duplicate(where, kind)
    return invalid(where, kind, text)


# The rules themselves


def problems_of(schema: Any, path: str, is_object: bool = True, uncorrelatable: str = "") -> Iterator[FieldError]:
    """What is wrong with the rules of a schema. ``uncorrelatable`` is the list above whose items have no identity."""
    if not has_rules(schema):
        return
    seen = _with_head(schema) if is_object or schema.get(_EMBEDDED) else schema
    for i, source in enumerate(schema.get(KEY) or ()):
        yield from _problems_of_rule(source, seen, f"{path}.{KEY}[{i}]", uncorrelatable)
    for name, inner in (schema.get("properties") or {}).items():
        yield from problems_of(inner, f"{path}.properties[{name}]", False, uncorrelatable)
    yield from problems_of(schema.get("additionalProperties"), f"{path}.additionalProperties", False, uncorrelatable)
    if schema.get("x-kubernetes-list-type") != "map" and schema.get("items"):
        uncorrelatable = uncorrelatable or f"{path}.items"
    yield from problems_of(schema.get("items"), f"{path}.items", False, uncorrelatable)


def _problems_of_rule(source: Obj, schema: Obj, path: str, uncorrelatable: str) -> Iterator[FieldError]:
    text = source.get("rule") or ""
    if not text.strip():
        yield required(f"{path}.rule", "rule is not specified")
        return
    message = source.get("message") or ""
    if message and not message.strip():
        yield invalid(f"{path}.message", message, "message must be non-empty if specified")
    elif "\n" in message.strip():
        yield invalid(f"{path}.message", message, "message must not contain line breaks")
    if (reason := source.get("reason")) is not None and reason not in _REASONS:
        supported = ", ".join(go_value(r) for r in sorted(_REASONS))
        yield FieldError(
            "FieldValueNotSupported", f"{path}.reason", f"Unsupported value: {go_value(reason)}: supported values: {supported}"
        )
    try:
        program = compile_expression(text, _NAMES)
        _check_fields(program, schema)
    except CompileError as error:
        yield FieldError("FieldValueInvalid", f"{path}.rule", f"Invalid value: {_go_rule(source)}: {_compile_text(error)}")
        return
    expression = (source.get("messageExpression") or "").strip()
    if expression:
        try:
            _check_fields(compile_expression(expression, _NAMES), schema)
        except CompileError as error:
            where = f"{path}.messageExpression"
            text_of = f"messageExpression {_compile_text(error)}"
            yield FieldError("FieldValueInvalid", where, f"Invalid value: {_go_rule(source)}: {text_of}")
    if uncorrelatable and any(chain[0] == "oldSelf" for chain in program.chains):
        where = f"oldSelf cannot be used on the uncorrelatable portion of the schema within {uncorrelatable}"
        yield invalid(f"{path}.rule", text, where)


def _compile_text(error: CompileError) -> str:
    return f"compilation failed: ERROR: <input>:1:1: {error}"


def _go_rule(source: Obj) -> str:
    """The rule as ``%#v`` writes it."""
    texts = [f"{name}:{go_value(source.get(key) or '')}" for name, key in _GO_FIELDS[:3]]
    # A pointer that is set prints its address upstream, which says nothing: its value stands here.
    reason, flag = source.get("reason"), source.get("optionalOldSelf")
    texts.append(f"Reason:{'(*apiextensions.FieldValueErrorReason)(nil)' if reason is None else go_value(reason)}")
    texts.append(f"FieldPath:{go_value(source.get('fieldPath') or '')}")
    texts.append(f"OptionalOldSelf:{'(*bool)(nil)' if flag is None else go_value(flag)}")
    return f"apiextensions.ValidationRule{{{', '.join(texts)}}}"


_GO_FIELDS = (("Rule", "rule"), ("Message", "message"), ("MessageExpression", "messageExpression"))
