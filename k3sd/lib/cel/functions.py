"""The functions of CEL itself and of cel-go's extensions: strings, lists, sets, math, regex, encoders, optional values, times.

A function raises TypeError or ValueError for arguments it has no overload for; the caller words that.
Source: cel-spec ``doc/langdef.md`` (standard definitions), cel-go ``ext``.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from functools import lru_cache
from itertools import pairwise
from typing import Any

from k3sd.lib.cel.nodes import in_order
from k3sd.lib.cel.values import (
    NONE,
    EvaluationError,
    Opaque,
    Optional,
    Type,
    bounded,
    compare,
    contains,
    equal,
    is_int,
    is_number,
    type_name,
)


def need(value: Any, kind: type) -> Any:
    """The value if it is of the kind. Raises TypeError."""
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise TypeError(kind)
    return value


def _size(value: Any) -> int:
    if isinstance(value, str | bytes | list | Mapping):
        return len(value)
    raise TypeError("size")


# Conversions


def _double_text(value: float) -> str:
    if math.isnan(value) or math.isinf(value):
        return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
    return repr(value).removesuffix(".0")


def _string(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return _double_text(value)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, datetime):
        return _timestamp_text(value)
    if isinstance(value, timedelta):
        return _duration_text(value)
    if isinstance(value, str | int | Opaque):
        return str(value)
    raise TypeError("string")


def _int(value: Any) -> int:
    if isinstance(value, datetime):
        return int(value.timestamp())
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise TypeError("int")
    return int(bounded(int(value)))


def _uint(value: Any) -> int:
    found = _int(value)
    if found < 0:
        raise EvaluationError("unsigned integer overflow")
    return found


def _double(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise TypeError("double")
    return float(value)


def _bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    words = {"1": True, "t": True, "true": True, "TRUE": True, "True": True, "T": True}
    words.update({"0": False, "f": False, "false": False, "FALSE": False, "False": False, "F": False})
    if value not in words:
        raise ValueError(value)
    return words[value]


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else bytes(need(value, str).encode())


_INSTANT = re.compile(r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?([Zz]|[+-]\d\d:\d\d)")
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_UNITS = {"ns": 1e-3, "us": 1.0, "µs": 1.0, "μs": 1.0, "ms": 1e3, "s": 1e6, "m": 6e7, "h": 3.6e9}


def timestamp(value: Any) -> datetime:
    """RFC 3339 text (or seconds since 1970) as an instant; microseconds at the finest. Raises ValueError."""
    if isinstance(value, datetime):
        return value
    if is_int(value):
        return datetime.fromtimestamp(value, UTC)
    found = _INSTANT.fullmatch(need(value, str))
    if found is None:
        raise ValueError(value)
    day, clock, fraction, zone = found.groups()
    text = f"{day}T{clock}.{(fraction or '0').ljust(6, '0')[:6]}{'+00:00' if zone in 'Zz' else zone}"
    return datetime.fromisoformat(text).astimezone(UTC)


def duration(value: Any) -> timedelta:
    """Text as Go writes durations (``1h30m``). Raises ValueError."""
    if isinstance(value, timedelta):
        return value
    if is_int(value):
        return timedelta(seconds=value)
    text = need(value, str)
    body = text[1:] if text[:1] in ("+", "-") else text
    if body == "0":
        return timedelta()
    parts = list(_PART.finditer(body))
    if not parts or "".join(p[0] for p in parts) != body:
        raise ValueError(value)
    total = timedelta(microseconds=sum(float(p[1]) * _UNITS[p[2]] for p in parts))
    return -total if text[0] == "-" else total


def _timestamp_text(value: datetime) -> str:
    text = value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S")
    fraction = f".{value.microsecond:06d}".rstrip("0") if value.microsecond else ""
    return f"{text}{fraction}Z"


def _duration_text(value: timedelta) -> str:
    return _double_text(round(value.total_seconds(), 6)) + "s"


def _zone(name: str | None) -> tzinfo:
    if not name:
        return UTC
    if found := re.fullmatch(r"([+-]?)(\d\d):(\d\d)", name):
        offset = timedelta(hours=int(found[2]), minutes=int(found[3]))
        return timezone(-offset if found[1] == "-" else offset)
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        return ZoneInfo(name)
    except ZoneInfoNotFoundError as error:
        raise ValueError(name) from error


def _of_time(moment: Callable[[datetime], int], whole: Callable[[timedelta], int] | None = None) -> Callable[..., int]:
    """A getter: a part of an instant (in a zone), or a duration in whole units."""

    def get(value: Any, zone: Any = None) -> int:
        if isinstance(value, timedelta) and whole is not None and zone is None:
            return whole(value)
        return moment(need(value, datetime).astimezone(_zone(zone)))

    return get


def _truncated(value: timedelta, unit: int) -> int:
    return int(value / timedelta(milliseconds=unit))


# Strings


@lru_cache(maxsize=256)
def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text)


def _compiled(pattern: Any) -> re.Pattern[str]:
    try:
        return _pattern(need(pattern, str))
    except re.error as error:
        raise EvaluationError(f"error parsing regexp: {error}") from error


def _matches(value: Any, pattern: Any) -> bool:
    return _compiled(pattern).search(need(value, str)) is not None


def _find(value: Any, pattern: Any) -> str:
    found = _compiled(pattern).search(need(value, str))
    return found[0] if found else ""


def _find_all(value: Any, pattern: Any, limit: int = -1) -> list[str]:
    found = [m[0] for m in _compiled(pattern).finditer(need(value, str))]
    return found if limit < 0 else found[:limit]


def _replace(value: Any, old: Any, new: Any, count: int = -1) -> str:
    return str(need(value, str).replace(need(old, str), need(new, str), count))


def _split(value: Any, separator: Any, count: int = -1) -> list[str]:
    text, by = need(value, str), need(separator, str)
    if count == 0:
        return []
    parts: list[str] = (text.split(by) if by else list(text)) if count < 0 else text.split(by, count - 1)
    return parts


def _substring(value: Any, start: int, end: int | None = None) -> str:
    text = need(value, str)
    stop = len(text) if end is None else end
    if not 0 <= start <= stop <= len(text):
        raise ValueError("index out of range")
    return str(text[start:stop])


def _char_at(value: Any, at: int) -> str:
    text = need(value, str)
    if not 0 <= at <= len(text):
        raise ValueError("index out of range")
    return str(text[at : at + 1])


def _index_of(value: Any, what: Any, start: int | None = None, *, last: bool = False) -> int:
    if isinstance(value, list):
        places = [i for i, entry in enumerate(value) if equal(entry, what)]
        return (places[-1] if last else places[0]) if places else -1
    text, part = need(value, str), need(what, str)
    if last:
        return int(text.rfind(part, 0, len(text) if start is None else start + len(part)))
    return int(text.find(part, start or 0))


def _reverse(value: Any) -> Any:
    return value[::-1] if isinstance(value, str | list) else need(value, str)


_QUOTED = {"\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v", "\\": "\\\\", '"': '\\"'}


def _quote(value: Any) -> str:
    return '"' + "".join(_QUOTED.get(c, c) for c in need(value, str)) + '"'


_VERB = re.compile(r"%(?:(%)|(?:\.(\d+))?([sdfebxXo]))")


def _format(template: Any, arguments: Any) -> str:
    values = iter(need(arguments, list))
    text = need(template, str)

    def one(match: re.Match[str]) -> str:
        if match[1]:
            return "%"
        try:
            value = next(values)
        except StopIteration:
            raise EvaluationError(f"index {len(arguments)} out of range") from None
        return _verb(match[3], int(match[2]) if match[2] else 6, value)

    if re.search(r"%(?!%|(?:\.\d+)?[sdfebxXo])", text.replace("%%", "")):
        raise EvaluationError("could not parse formatting clause: unrecognized formatting clause")
    return _VERB.sub(one, text)


def _verb(verb: str, precision: int, value: Any) -> str:
    if verb == "s":
        return _shown(value)
    if verb in "fe":
        number = _double(value)
        return f"{number:.{precision}f}" if verb == "f" else f"{number:.{precision}e}"
    if verb in "xX" and isinstance(value, str | bytes):
        text = (value if isinstance(value, bytes) else value.encode()).hex()
        return text.upper() if verb == "X" else text
    if isinstance(value, bool) and verb == "b":
        return "1" if value else "0"
    if verb == "d" and isinstance(value, float) and not value.is_integer():
        raise TypeError("double")
    number = need(int(value) if isinstance(value, float) else value, int)
    return format(number, verb)


def _shown(value: Any) -> str:
    """As ``%s`` writes a value, lists and maps included."""
    if value is None:
        return "null"
    if isinstance(value, list):
        return "[" + ", ".join(map(_shown, value)) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k}: {v}" for k, v in sorted((_shown(k), _shown(v)) for k, v in value.items())) + "}"
    if isinstance(value, Type):
        return value.name
    return _string(value)


# Lists and sets


def _sorted(value: Any) -> bool:
    return all(not compare(">", a, b) for a, b in pairwise(need(value, list)))


def _extreme(op: str) -> Callable[[Any], Any]:
    def pick(value: Any) -> Any:
        items = need(value, list)
        if not items:
            raise EvaluationError(f"{'min' if op == '<' else 'max'} called on empty list")
        best = items[0]
        for item in items[1:]:
            if compare(op, item, best):
                best = item
        return best

    return pick


def _sum(value: Any) -> Any:
    items = need(value, list)
    if any(isinstance(i, timedelta) for i in items):
        return sum(items, timedelta())
    if not all(is_number(i) for i in items):
        raise TypeError("sum")
    return bounded(sum(items))


def _distinct(value: Any) -> list[Any]:
    out: list[Any] = []
    for item in need(value, list):
        if not contains(item, out):
            out.append(item)
    return out


def _flatten(value: Any, depth: int = 1) -> list[Any]:
    out: list[Any] = []
    for item in need(value, list):
        out += _flatten(item, depth - 1) if isinstance(item, list) and depth > 0 else [item]
    return out


def _slice(value: Any, start: int, end: int) -> list[Any]:
    items: list[Any] = need(value, list)
    if not 0 <= start <= end <= len(items):
        raise EvaluationError(f"cannot slice({start}, {end}), list is length {len(items)}")
    return items[start:end]


def _end(place: int) -> Callable[[Any], Optional]:
    return lambda value: Optional(value[place]) if need(value, list) else NONE


def _includes(a: Any, b: Any) -> bool:
    return all(contains(item, need(a, list)) for item in need(b, list))


# Numbers


def _chosen(pick: Callable[[str], Callable[[Any], Any]], op: str) -> Callable[..., Any]:
    def run(*values: Any) -> Any:
        items = values[0] if len(values) == 1 and isinstance(values[0], list) else list(values)
        if not all(is_number(v) for v in items):
            raise TypeError("math")
        return pick(op)(items)

    return run


def _round(value: Any) -> float:
    number = need(value, float)
    return float(math.floor(number + 0.5) if number >= 0 else math.ceil(number - 0.5))


def _number(value: Any) -> Any:
    if not is_number(value):
        raise TypeError("math")
    return value


# Optional values


def _non_zero(value: Any) -> Optional:
    zero = value is None or value is False or (is_number(value) and value == 0)
    empty = isinstance(value, str | bytes | list | Mapping) and not value
    return NONE if zero or empty or value == timedelta() else Optional(value)


def _value(value: Any) -> Any:
    if not need(value, Optional).present:
        raise EvaluationError("optional.none() dereference")
    return value.value


def _or(value: Any, other: Any) -> Optional:
    return value if need(value, Optional).present else need(other, Optional)  # type: ignore[no-any-return]


def _or_value(value: Any, other: Any) -> Any:
    return value.value if need(value, Optional).present else other


def _decode(text: Any) -> bytes:
    value = need(text, str)
    return base64.b64decode(value + "=" * (-len(value) % 4), validate=True)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "size": _size,
    "string": _string,
    "int": _int,
    "uint": _uint,
    "double": _double,
    "bool": _bool,
    "bytes": _bytes,
    "timestamp": timestamp,
    "duration": duration,
    "dyn": lambda value: value,
    "type": lambda value: Type(type_name(value)),
    "matches": _matches,
    "optional.of": Optional,
    "optional.none": lambda: NONE,
    "optional.ofNonZeroValue": _non_zero,
    "strings.quote": _quote,
    "base64.encode": lambda value: base64.b64encode(need(value, bytes)).decode(),
    "base64.decode": _decode,
    "lists.range": lambda count: list(range(need(count, int))),
    "sets.contains": _includes,
    "sets.equivalent": lambda a, b: _includes(a, b) and _includes(b, a),
    "sets.intersects": lambda a, b: any(contains(item, need(b, list)) for item in need(a, list)),
    "math.greatest": _chosen(_extreme, ">"),
    "math.least": _chosen(_extreme, "<"),
    "math.abs": lambda value: abs(_number(value)),
    "math.ceil": lambda value: float(math.ceil(need(value, float))),
    "math.floor": lambda value: float(math.floor(need(value, float))),
    "math.round": _round,
    "math.trunc": lambda value: float(math.trunc(need(value, float))),
    "math.sign": lambda value: type(_number(value))((value > 0) - (value < 0)),
    "math.sqrt": lambda value: math.sqrt(value) if _number(value) >= 0 else math.nan,
    "math.isNaN": lambda value: math.isnan(need(value, float)),
    "math.isInf": lambda value: math.isinf(need(value, float)),
    "math.isFinite": lambda value: math.isfinite(need(value, float)),
}
METHODS: dict[str, Callable[..., Any]] = {
    "size": _size,
    "matches": _matches,
    "contains": lambda value, part: need(part, str) in need(value, str),
    "startsWith": lambda value, part: need(value, str).startswith(need(part, str)),
    "endsWith": lambda value, part: need(value, str).endswith(need(part, str)),
    "charAt": _char_at,
    "indexOf": _index_of,
    "lastIndexOf": lambda value, what, start=None: _index_of(value, what, start, last=True),
    "lowerAscii": lambda value: need(value, str).lower(),
    "upperAscii": lambda value: need(value, str).upper(),
    "replace": _replace,
    "reverse": _reverse,
    "split": _split,
    "substring": _substring,
    "trim": lambda value: need(value, str).strip(),
    "format": _format,
    "join": lambda value, by="": by.join(need(value, list)),
    "find": _find,
    "findAll": _find_all,
    "isSorted": _sorted,
    "sum": _sum,
    "min": _extreme("<"),
    "max": _extreme(">"),
    "distinct": _distinct,
    "flatten": _flatten,
    "slice": _slice,
    "sort": lambda value: in_order(need(value, list)),
    "first": _end(0),
    "last": _end(-1),
    "hasValue": lambda value: need(value, Optional).present,
    "value": _value,
    "or": _or,
    "orValue": _or_value,
    "getFullYear": _of_time(lambda t: t.year),
    "getMonth": _of_time(lambda t: t.month - 1),
    "getDate": _of_time(lambda t: t.day),
    "getDayOfMonth": _of_time(lambda t: t.day - 1),
    "getDayOfWeek": _of_time(lambda t: t.isoweekday() % 7),
    "getDayOfYear": _of_time(lambda t: t.timetuple().tm_yday - 1),
    "getHours": _of_time(lambda t: t.hour, lambda d: _truncated(d, 3_600_000)),
    "getMinutes": _of_time(lambda t: t.minute, lambda d: _truncated(d, 60_000)),
    "getSeconds": _of_time(lambda t: t.second, lambda d: _truncated(d, 1000)),
    "getMilliseconds": _of_time(lambda t: t.microsecond // 1000, lambda d: _truncated(d, 1)),
}
