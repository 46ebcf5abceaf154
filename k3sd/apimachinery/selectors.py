"""Label and field selectors. Sources: ``apimachinery/pkg/labels/selector.go``, ``pkg/fields/selector.go``.

Parsing raises ValueError with upstream's wording; the API server turns it into a 400.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from k3sd.apimachinery.errors import go_value
from k3sd.apimachinery.validation import label_value, qualified_name

_OBJECT_OPERATORS = {"In": "in", "NotIn": "notin", "Exists": "exists", "DoesNotExist": "!"}
_SPECIAL = "=!(),><"


class Requirement(NamedTuple):
    """One term; ``op`` is ``in``, ``notin``, ``=``, ``==``, ``!=``, ``exists``, ``!``, ``gt`` or ``lt``."""

    key: str
    op: str
    values: tuple[str, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        value = labels.get(self.key)
        op = self.op
        if op in ("=", "==", "in"):
            return value is not None and value in self.values
        if op in ("!=", "notin"):
            return value is None or value not in self.values
        if op == "exists":
            return value is not None
        if op == "!":
            return value is None
        number = _integer(value)
        if number is None:
            return False
        return number > int(self.values[0]) if op == "gt" else number < int(self.values[0])

    def __str__(self) -> str:
        if self.op == "exists":
            return self.key
        if self.op == "!":
            return f"!{self.key}"
        if self.op in ("in", "notin"):
            return f"{self.key} {self.op} ({','.join(sorted(self.values))})"
        sign = {"gt": ">", "lt": "<"}.get(self.op, self.op)
        return f"{self.key}{sign}{self.values[0]}"


def _integer(text: str | None) -> int | None:
    digits = (text or "").removeprefix("-").removeprefix("+")
    return int(text or "") if digits.isascii() and digits.isdigit() else None


class LabelSelector:
    """A conjunction of requirements. Empty matches everything; ``NOTHING`` matches nothing."""

    __slots__ = ("_equal", "_nothing", "_rest", "requirements")

    def __init__(self, requirements: Sequence[Requirement] = (), *, nothing: bool = False) -> None:
        self.requirements = tuple(sorted(requirements, key=lambda r: r.key))
        self._nothing = nothing
        # Equality terms are by far the most frequent: they are compared without a call.
        simple = [r for r in self.requirements if r.op in ("=", "==", "in") and len(r.values) == 1]
        self._equal = tuple((r.key, r.values[0]) for r in simple)
        self._rest = tuple(r for r in self.requirements if r not in simple)

    @property
    def empty(self) -> bool:
        """True when everything matches."""
        return not self.requirements and not self._nothing

    @property
    def nothing(self) -> bool:
        """True when no object can match, because the selector was absent."""
        return self._nothing

    def matches(self, labels: Mapping[str, str] | None) -> bool:
        if self._nothing:
            return False
        labels = labels or {}
        for key, value in self._equal:
            if labels.get(key) != value:
                return False
        return all(r.matches(labels) for r in self._rest)

    def __str__(self) -> str:
        return ",".join(str(r) for r in self.requirements)

    def __repr__(self) -> str:
        return f"LabelSelector({'<nothing>' if self._nothing else str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LabelSelector) and self.requirements == other.requirements and self._nothing == other._nothing

    def __hash__(self) -> int:
        return hash((self.requirements, self._nothing))


EVERYTHING = LabelSelector()
NOTHING = LabelSelector(nothing=True)


def _requirement(key: str, op: str, values: Sequence[str]) -> Requirement:
    """Source: ``labels.NewRequirement``."""
    errors = []
    if messages := qualified_name(key):
        errors.append(f"key: Invalid value: {go_value(key)}: {'; '.join(messages)}")
    shown = go_value(list(values))
    if op in ("in", "notin") and not values:
        errors.append(f"values: Invalid value: {shown}: for 'in', 'notin' operators, values set can't be empty")
    if op in ("gt", "lt"):
        if len(values) != 1:
            errors.append(f"values: Invalid value: {shown}: for 'Gt', 'Lt' operators, exactly one value is required")
        for i, value in enumerate(values):
            if _integer(value) is None:
                errors.append(
                    f"values[{i}]: Invalid value: {go_value(value)}: for 'Gt', 'Lt' operators, the value must be an integer"
                )
    for i, value in enumerate(values):
        if messages := label_value(value):
            errors.append(f"values[{i}][{key}]: Invalid value: {go_value(value)}: {'; '.join(messages)}")
    if errors:
        raise ValueError(errors[0] if len(errors) == 1 else f"[{', '.join(errors)}]")
    return Requirement(key, op, tuple(values))


def _tokens(text: str) -> Iterator[str]:
    """Operators and identifiers; whitespace separates, ``""`` ends."""
    i, n = 0, len(text)
    while i < n:
        c = text[i]
        if c.isspace():
            i += 1
        elif c in "(),":
            yield c
            i += 1
        elif c in "=!<>":
            two = text[i : i + 2]
            token = two if two in ("==", "!=") else c
            yield token
            i += len(token)
        else:
            start = i
            while i < n and not text[i].isspace() and text[i] not in _SPECIAL:
                i += 1
            yield text[start:i]
    while True:
        yield ""


class _Parser:
    """Source: ``labels.Parser``: the same grammar, one token of look-ahead."""

    def __init__(self, text: str) -> None:
        self._stream = _tokens(text)
        self._token = next(self._stream)

    def _next(self) -> str:
        token, self._token = self._token, next(self._stream)
        return token

    @staticmethod
    def _is_word(token: str) -> bool:
        return bool(token) and token[0] not in _SPECIAL

    def parse(self) -> list[Requirement]:
        found: list[Requirement] = []
        if not self._token:
            return found
        while True:
            if not (self._is_word(self._token) or self._token == "!"):
                raise ValueError(f"found '{self._token}', expected: !, identifier, or 'end of string'")
            try:
                found.append(self._requirement())
            except ValueError as err:
                raise ValueError(f"unable to parse requirement: {err}") from None
            token = self._next()
            if not token:
                return found
            if token != ",":
                raise ValueError(f"found '{token}', expected: ',' or 'end of string'")
            if not (self._is_word(self._token) or self._token == "!"):
                raise ValueError(f"found '{self._token}', expected: identifier after ','")

    def _requirement(self) -> Requirement:
        absent = self._token == "!"
        if absent:
            self._next()
        key = self._next()
        if not self._is_word(key):
            raise ValueError(f"found '{key}', expected: identifier")
        if absent:
            return _requirement(key, "!", ())
        if self._token in ("", ","):
            return _requirement(key, "exists", ())
        op = self._next()
        if op in ("in", "notin"):
            return _requirement(key, op, self._values())
        if op in ("=", "==", "!=", ">", "<"):
            value = self._next() if self._is_word(self._token) else ""
            if not value and self._token not in ("", ","):
                raise ValueError(f"found '{self._token}', expected: identifier")
            return _requirement(key, {">": "gt", "<": "lt"}.get(op, op), (value,))
        raise ValueError(f"found '{op}', expected: in, notin, =, ==, !=, gt, lt")

    def _values(self) -> list[str]:
        token = self._next()
        if token != "(":
            raise ValueError(f"found '{token}' expected: '('")
        values: list[str] = []
        while True:
            if self._is_word(self._token):
                values.append(self._next())
            else:
                values.append("")
            token = self._next()
            if token == ")":
                return sorted(set(values))
            if token != ",":
                raise ValueError(f"found '{token}', expected: ',' or ')'")


@lru_cache(maxsize=256)
def parse_label_selector(text: str) -> LabelSelector:
    """The selector written as ``app=web,tier in (a, b),!canary``; the empty text selects everything."""
    return LabelSelector(_Parser(text).parse()) if text else EVERYTHING


def label_selector_from(obj: Mapping[str, Any] | None) -> LabelSelector:
    """The selector of a ``LabelSelector`` object or of a plain label map; None selects nothing, ``{}`` everything.

    Source: ``metav1.LabelSelectorAsSelector``. A map with no key but matchLabels/matchExpressions is a LabelSelector.
    """
    if obj is None:
        return NOTHING
    if not obj:
        return EVERYTHING
    if not all(key in ("matchLabels", "matchExpressions") and not isinstance(v, str) for key, v in obj.items()):
        return LabelSelector([Requirement(k, "=", (v,)) for k, v in obj.items()])
    found = [Requirement(k, "=", (v,)) for k, v in (obj.get("matchLabels") or {}).items()]
    for expression in obj.get("matchExpressions") or ():
        op = _OBJECT_OPERATORS.get(expression.get("operator", ""))
        if op is None:
            raise ValueError(f"{go_value(expression.get('operator', ''))} is not a valid label selector operator")
        found.append(_requirement(expression.get("key", ""), op, expression.get("values") or ()))
    return LabelSelector(found)


class FieldSelector:
    """A conjunction of ``field = value`` and ``field != value`` terms; ``op`` is ``=`` or ``!=``."""

    __slots__ = ("requirements",)

    def __init__(self, requirements: Sequence[tuple[str, str, str]] = ()) -> None:
        self.requirements = tuple(requirements)

    @property
    def empty(self) -> bool:
        return not self.requirements

    def matches(self, fields: Mapping[str, str]) -> bool:
        """A field that is not in ``fields`` counts as empty."""
        return all((fields.get(name, "") == value) == (op == "=") for name, op, value in self.requirements)

    def value_of(self, field: str) -> str | None:
        """The only value ``field`` may have (``metadata.name=x``), or None."""
        for name, op, value in self.requirements:
            if name == field and op == "=":
                return value
        return None

    def __str__(self) -> str:
        return ",".join(f"{name}{op}{_escape(value)}" for name, op, value in self.requirements)


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace(",", "\\,").replace("=", "\\=")


def _split_terms(text: str) -> list[str]:
    terms, start, slash = [], 0, False
    for i, c in enumerate(text):
        if slash:
            slash = False
        elif c == "\\":
            slash = True
        elif c == ",":
            terms.append(text[start:i])
            start = i + 1
    return [*terms, text[start:]]


def _unescape(value: str) -> str:
    if not any(c in value for c in "\\,="):
        return value
    out, slash = [], False
    for c in value:
        if slash:
            if c not in "\\,=":
                raise ValueError(f"invalid field selector: invalid escape sequence: \\{c}")
            out.append(c)
            slash = False
        elif c == "\\":
            slash = True
        elif c in ",=":
            raise ValueError(f"invalid field selector: unescaped character in value: {c}")
        else:
            out.append(c)
    if slash:
        raise ValueError("invalid field selector: invalid escape sequence: \\")
    return "".join(out)


@lru_cache(maxsize=256)
def parse_field_selector(text: str) -> FieldSelector:
    """The selector written as ``metadata.name=a,status.phase!=Failed``; the empty text selects everything."""
    found = []
    for term in sorted(_split_terms(text)):
        if not term:
            continue
        at = min((i for i in (term.find("="), term.find("!=")) if i >= 0), default=-1)
        if at < 0:
            raise ValueError(f"invalid selector: '{text}'; can't understand '{term}'")
        sign = next(s for s in ("!=", "==", "=") if term.startswith(s, at))
        found.append((term[:at], "!=" if sign == "!=" else "=", _unescape(term[at + len(sign) :])))
    return FieldSelector(found)
