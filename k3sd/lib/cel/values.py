"""What CEL computes with: JSON values, and the types JSON has not. Equality, order and arithmetic over them.

Source: google/cel-spec ``doc/langdef.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

INT_MIN, INT_MAX = -(1 << 63), (1 << 63) - 1


class CompileError(Exception):
    """The expression is malformed or names what does not exist."""


class EvaluationError(Exception):
    """The expression has no value for these variables: a missing key, a type that does not fit, a division by zero."""


class Type:
    """A type as a value: ``type(x) == string``."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Type) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)


class Optional:
    """A value that may be absent."""

    __slots__ = ("present", "value")

    def __init__(self, value: Any = None, *, present: bool = True) -> None:
        self.value = value
        self.present = present

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Optional) and self.present == other.present and equal(self.value, other.value)

    def __hash__(self) -> int:
        return hash(self.present)


NONE = Optional(present=False)


class Opaque:
    """Base of values a library brings (quantities, URLs). ``type`` is the type's name in CEL."""

    type = ""


TYPE_NAMES = ("bool", "bytes", "double", "int", "list", "map", "null_type", "string", "type", "uint")
_KINDS: tuple[tuple[type, str], ...] = (
    (int, "int"),
    (float, "double"),
    (str, "string"),
    (list, "list"),
    (bytes, "bytes"),
    (Mapping, "map"),
    (datetime, "google.protobuf.Timestamp"),
    (timedelta, "google.protobuf.Duration"),
    (Optional, "optional_type"),
    (Type, "type"),
)


def is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def type_name(value: Any) -> str:
    if value is None:
        return "null_type"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, Opaque):
        return value.type
    for kind, name in _KINDS:
        if isinstance(value, kind):
            return name
    return type(value).__name__


def boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise EvaluationError("no such overload")


def negative(value: Any) -> Any:
    if isinstance(value, timedelta):
        return -value
    if not is_number(value):
        raise EvaluationError("no such overload: -_")
    return bounded(-value)


def bounded(value: Any) -> Any:
    if is_int(value) and not INT_MIN <= value <= INT_MAX:
        raise EvaluationError("integer overflow")
    return value


def equal(a: Any, b: Any) -> bool:
    """CEL equality: numbers compare by value, everything else only with its own type."""
    if is_number(a) and is_number(b):
        return bool(a == b)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return len(a) == len(b) and all(k in b and equal(v, b[k]) for k, v in a.items())
    return type_name(a) == type_name(b) and bool(a == b)


def contains(item: Any, holder: Any) -> bool:
    if isinstance(holder, list):
        return any(equal(item, entry) for entry in holder)
    if isinstance(holder, Mapping):
        return item in holder
    raise EvaluationError("no such overload: @in")


_ORDERED = (int, float, str, bytes, datetime, timedelta)


def compare(op: str, a: Any, b: Any) -> bool:
    if (not (is_number(a) and is_number(b)) and type_name(a) != type_name(b)) or not isinstance(a, _ORDERED):
        raise EvaluationError(f"no such overload: _{op}_ applied to ({type_name(a)}, {type_name(b)})")
    left: Any = a
    if op == "<":
        return bool(left < b)
    if op == "<=":
        return bool(left <= b)
    return bool(left > b if op == ">" else left >= b)


def arithmetic(op: str, a: Any, b: Any) -> Any:
    kinds = type_name(a), type_name(b)
    if op == "+" and kinds[0] == kinds[1] and kinds[0] in ("string", "list", "bytes"):
        return a + b
    if isinstance(a, datetime | timedelta):
        return _time_arithmetic(op, a, b)
    if isinstance(b, datetime) and isinstance(a, timedelta):
        return _time_arithmetic(op, b, a)
    if kinds not in (("int", "int"), ("double", "double")) or (op == "%" and kinds[0] != "int"):
        raise EvaluationError(f"no such overload: _{op}_ applied to ({kinds[0]}, {kinds[1]})")
    if op == "+":
        return bounded(a + b)
    if op == "-":
        return bounded(a - b)
    if op == "*":
        return bounded(a * b)
    if kinds[0] == "double":
        return a / b if b else float("nan") if a == 0 else float("inf") if (a > 0) == (str(b)[0] != "-") else float("-inf")
    if b == 0:
        raise EvaluationError("division by zero" if op == "/" else "modulus by zero")
    # Truncated towards zero, as in Go.
    quotient = abs(a) // abs(b)
    quotient = quotient if (a < 0) == (b < 0) else -quotient
    return bounded(quotient if op == "/" else a - quotient * b)


def _time_arithmetic(op: str, a: datetime | timedelta, b: Any) -> Any:
    try:
        if op == "+" and isinstance(a, timedelta) and isinstance(b, datetime | timedelta):
            return b + a
        if op == "+" and isinstance(a, datetime) and isinstance(b, timedelta):
            return a + b
        if op == "-" and isinstance(a, datetime) and isinstance(b, datetime | timedelta):
            return a - b
        if op == "-" and isinstance(a, timedelta) and isinstance(b, timedelta):
            return a - b
    except OverflowError as error:
        raise EvaluationError("timestamp overflow") from error
    raise EvaluationError(f"no such overload: _{op}_ applied to ({type_name(a)}, {type_name(b)})")
