"""Times as the API writes them: RFC 3339 in UTC, seconds (``Time``) or microseconds (``MicroTime``)."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime

_RFC3339 = re.compile(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.(\d{1,9})\d*)?(Z|([+-])(\d\d):(\d\d))\Z")
_DURATION = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


_last = (0, "1970-01-01T00:00:00Z")


def now() -> str:
    """The current time as ``2026-01-01T00:00:00Z``."""
    global _last
    seconds, text = _last
    current = int(time.time())
    if current != seconds:
        text = from_epoch(current)
        _last = (current, text)
    return text


def now_micro() -> str:
    """The current time as ``2026-01-01T00:00:00.000000Z``."""
    return from_epoch_micro(time.time())


def from_epoch(seconds: float) -> str:
    """``seconds`` since 1970, cut to whole seconds."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def from_epoch_micro(seconds: float) -> str:
    """``seconds`` since 1970, cut to microseconds."""
    whole, micros = divmod(int(seconds * 1_000_000), 1_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)) + f".{micros:06d}Z"


def _fields(text: str) -> tuple[datetime, int]:
    """The UTC time to the second, and nanoseconds. ValueError unless ``text`` is RFC 3339."""
    match = _RFC3339.match(text)
    if not match:
        raise ValueError(f"{text!r} is not an RFC 3339 time such as 2026-01-01T00:00:00Z")
    year, month, day, hour, minute, second = (int(g) for g in match.groups()[:6])
    nanos = int((match[7] or "").ljust(9, "0")[:9])
    if match[8] != "Z" and (match[10], match[11]) != ("00", "00"):
        offset = (int(match[10]) * 3600 + int(match[11]) * 60) * (1 if match[9] == "+" else -1)
        stamp = datetime(year, month, day, hour, minute, second, tzinfo=UTC).timestamp() - offset
        return datetime.fromtimestamp(stamp, UTC), nanos
    return datetime(year, month, day, hour, minute, second, tzinfo=UTC), nanos


def parse(text: str) -> float:
    """Seconds since 1970 of an RFC 3339 time; ValueError for anything else."""
    when, nanos = _fields(text)
    return when.timestamp() + nanos / 1e9


def parse_parts(text: str) -> tuple[int, int]:
    """Whole seconds since 1970 and nanoseconds, exactly."""
    when, nanos = _fields(text)
    return round((when - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()), nanos


def _render(seconds: int) -> str:
    # time.strftime does not pad years before 1000.
    when = datetime(1970, 1, 1, tzinfo=UTC).timestamp() + seconds
    parts = time.gmtime(when)
    return f"{parts.tm_year:04d}-" + time.strftime("%m-%dT%H:%M:%S", parts)


def from_parts(seconds: int, nanos: int = 0, micro: bool = False) -> str:
    """The inverse of ``parse_parts``; ``micro`` writes six digits."""
    return f"{_render(seconds)}.{nanos // 1000:06d}Z" if micro else _render(seconds) + "Z"


def canonical(text: str) -> str:
    """A ``Time`` as the server stores it: UTC, whole seconds."""
    if len(text) == 20 and text[19] == "Z":
        _fields(text)
        return text
    return from_parts(*parse_parts(text))


def canonical_micro(text: str) -> str:
    """A ``MicroTime`` as the server stores it: UTC, six digits."""
    return from_parts(*parse_parts(text), micro=True)


def parse_duration(text: str) -> float:
    """Seconds of a Go duration such as ``1h30m`` or ``-1.5s``; ValueError for anything else."""
    body = text.lstrip("+-")
    if body == "0":
        return 0.0
    parts = _DURATION.findall(body)
    if not parts or "".join(number + unit for number, unit in parts) != body or len(text) - len(body) > 1:
        raise ValueError(f"{text!r} is not a duration such as 1h30m")
    seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    return -seconds if text.startswith("-") else seconds


def human_duration(seconds: float) -> str:
    """An age as kubectl prints it (``5m``, ``3h12m``, ``2d``). Source: ``apimachinery/pkg/util/duration.HumanDuration``."""
    s = int(seconds)
    if s < -1:
        return "<invalid>"
    if s < 0:
        return "0s"
    if s < 120:
        return f"{s}s"
    minutes = s // 60
    if minutes < 10:
        return f"{minutes}m{s % 60}s" if s % 60 else f"{minutes}m"
    if minutes < 180:
        return f"{minutes}m"
    hours = s // 3600
    if hours < 8:
        return f"{hours}h{minutes % 60}m" if minutes % 60 else f"{hours}h"
    if hours < 48:
        return f"{hours}h"
    days = hours // 24
    if hours < 192:
        return f"{days}d{hours % 24}h" if hours % 24 else f"{days}d"
    if hours < 24 * 365 * 2:
        return f"{days}d"
    years = hours // 24 // 365
    if hours < 24 * 365 * 8:
        rest = days % 365
        return f"{years}y{rest}d" if rest else f"{years}y"
    return f"{years}y"
