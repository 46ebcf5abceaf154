"""Cron expressions and the times they name. Pure. Source: ``robfig/cron`` (standard parser), as CronJobs use it.

Five fields (minute, hour, day of month, month, day of week), ``@hourly`` and friends, ``@every 5m``. ``?`` is ``*``. When both
days are restricted, either matches.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo

_MONTHS = {m: i + 1 for i, m in enumerate(["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"])}
_DAYS = {d: i for i, d in enumerate(["sun", "mon", "tue", "wed", "thu", "fri", "sat"])}
_DESCRIPTORS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
SEARCH_YEARS = 5


class ScheduleError(ValueError):
    """The expression is not one; the message says which part."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """A parsed expression in a time zone. ``every`` seconds, when not 0, replaces the fields."""

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    any_day: bool
    any_weekday: bool
    zone: tzinfo
    every: int = 0

    def next(self, after: float) -> float | None:
        """The first time strictly after ``after`` (epoch seconds); None when there is none within five years."""
        if self.every:
            return float(int(after) + self.every)
        moment = datetime.fromtimestamp(after, UTC).astimezone(self.zone).replace(second=0, microsecond=0, fold=0)
        moment += timedelta(minutes=1)
        limit = moment.year + SEARCH_YEARS
        while moment.year <= limit:
            if moment.month not in self.months:
                year, month = (moment.year + 1, 1) if moment.month == 12 else (moment.year, moment.month + 1)
                moment = moment.replace(year=year, month=month, day=1, hour=0, minute=0)
            elif not self._day_matches(moment):
                moment = moment.replace(hour=0, minute=0) + timedelta(days=1)
            elif moment.hour not in self.hours:
                moment = moment.replace(minute=0) + timedelta(hours=1)
            elif moment.minute not in self.minutes:
                moment += timedelta(minutes=1)
            else:
                found = moment.timestamp()
                # A local time that a clock change skips does not exist; one that it repeats is taken once.
                exists = datetime.fromtimestamp(found, self.zone).replace(tzinfo=None) == moment.replace(tzinfo=None)
                if exists and found > after:
                    return found
                moment += timedelta(minutes=1)
        return None

    def _day_matches(self, moment: datetime) -> bool:
        day = moment.day in self.days
        weekday = (moment.weekday() + 1) % 7 in self.weekdays
        if self.any_day or self.any_weekday:
            return day and weekday
        return day or weekday


def _value(text: str, names: dict[str, int], expression: str) -> int:
    if text.lower() in names:
        return names[text.lower()]
    if not text.isdigit():
        raise ScheduleError(f"failed to parse int from {text}: in {expression!r}")
    return int(text)


def _field(text: str, low: int, high: int, names: dict[str, int]) -> tuple[frozenset[int], bool]:
    """The values of one field, and whether it is unrestricted."""
    values: set[int] = set()
    star = False
    for part in text.split(","):
        span, slash, step_text = part.partition("/")
        step = _value(step_text, {}, text) if slash else 1
        if step <= 0:
            raise ScheduleError(f"step of range should be a positive number: {part}")
        if span in ("*", "?"):
            first, last = low, high
            star = star or step == 1
        else:
            start, dash, end = span.partition("-")
            first = _value(start, names, text)
            last = _value(end, names, text) if dash else (high if slash else first)
        if high == 6 and names is _DAYS and last == 7 and first == 7:
            first = last = 0
        if first < low:
            raise ScheduleError(f"beginning of range ({first}) below minimum ({low}): {part}")
        if last > high:
            raise ScheduleError(f"end of range ({last}) above maximum ({high}): {part}")
        if first > last:
            raise ScheduleError(f"beginning of range ({first}) beyond end of range ({last}): {part}")
        values.update(range(first, last + 1, step))
    return frozenset(values), star


def parse(expression: str, time_zone: str = "") -> Schedule:
    """Parse ``expression`` in an IANA zone (UTC when empty). Raises ScheduleError."""
    zone: tzinfo = UTC
    if time_zone:
        from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

        try:
            zone = ZoneInfo(time_zone)
        except (ZoneInfoNotFoundError, ValueError) as e:
            raise ScheduleError(f"unknown time zone {time_zone}") from e
    text = expression.strip()
    nothing: frozenset[int] = frozenset()
    if text.startswith("@every "):
        from k3sd.apimachinery.timefmt import parse_duration

        try:
            seconds = int(parse_duration(text.removeprefix("@every ").strip()))
        except ValueError as e:
            raise ScheduleError(f"failed to parse duration {text}: {e}") from e
        return Schedule(nothing, nothing, nothing, nothing, nothing, True, True, zone, max(1, seconds))
    if text.startswith("@"):
        if text not in _DESCRIPTORS:
            raise ScheduleError(f"unrecognized descriptor: {text}")
        text = _DESCRIPTORS[text]
    fields = text.split()
    if len(fields) != 5:
        raise ScheduleError(f"expected exactly 5 fields, found {len(fields)}: {fields}")
    minutes, _ = _field(fields[0], 0, 59, {})
    hours, _ = _field(fields[1], 0, 23, {})
    days, any_day = _field(fields[2], 1, 31, {})
    months, _ = _field(fields[3], 1, 12, _MONTHS)
    weekdays, any_weekday = _field(fields[4], 0, 6, _DAYS)
    return Schedule(minutes, hours, days, months, weekdays, any_day, any_weekday, zone)
