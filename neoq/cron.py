"""Cron schedules: when a spec fires, and what its queue is called.

An *instant* is an aware datetime in UTC. A *reading* is the naive datetime that a clock on the wall shows.
APScheduler's CronTrigger computes readings, which have no gaps and no repeats. This module turns them into
instants.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from functools import cached_property
from typing import Any, NamedTuple
from zlib import crc32
from zoneinfo import ZoneInfo

from neoq.errors import CronError
from neoq.wording.remedies import of_cron

_Set = frozenset[int]
_MICROSECOND = timedelta(microseconds=1)
_FIRST, _LAST = datetime(1970, 1, 1, tzinfo=UTC), datetime(9900, 1, 1, tzinfo=UTC)
# Steps away from an instant whose next tick is not later: some tzinfos contradict themselves.
_STEPS = tuple(timedelta(minutes=minutes) for minutes in (1, 30, 60, 180, 1440, 2880))
_DAY = timedelta(days=1)
_MOST_READINGS = 5000  # tried for one tick, across a gap of at most a day

_WEEKDAYS = ("sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday")
_MONTHS = (
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)
_LONGEST_NAME = 200  # characters that a Job accepts as its queue
LONGEST_SPEC = 1000  # characters: one that lists every value of every field has some 600
_DAYS_IN_MONTH = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)

_MACROS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_UNITS = {"day": 86400, "hour": 3600, "minute": 60, "second": 1}


class Schedule:
    """A cron spec in a timezone: ``Schedule("30 9 * * MON-FRI", "Europe/Berlin")``.

    Five fields (minute first), six (second first), a short form such as ``@daily``, or ``@every 90s``.
    A spec or timezone that is wrong, or that could never fire, raises CronError here and never later.
    Schedules are immutable. Two schedules that mean the same are equal, however they are spelt.
    """

    def __init__(self, spec: str, timezone: str | tzinfo = "UTC") -> None:
        self.spec = spec
        self.timezone = _resolve_zone(timezone, spec)
        self._rule = _parse(spec, self.timezone)

    def next_after(self, instant: datetime) -> datetime | None:
        """Return the first tick strictly after an aware datetime, in UTC.

        Ticks begin in 1970. None is returned only from the year 9900 on.
        """
        if not isinstance(instant, datetime) or instant.utcoffset() is None:
            fix = "pass datetime.now(timezone.utc), or add a tzinfo"
            raise _error(self.spec, f"next_after needs an aware datetime, got {instant!r}; {fix}")
        instant = max(instant.astimezone(UTC), _FIRST - _MICROSECOND)
        return None if instant >= _LAST else self._later(instant)

    def _later(self, instant: datetime) -> datetime:
        """The next tick, which is later than ``instant``. Raises CronError if the tzinfo makes no sense."""
        after = instant
        try:
            for step in _STEPS:
                tick = self._rule.next_after(after)
                if tick > instant:
                    return tick
                after = instant + step
        except CronError:
            raise
        except Exception as error:
            raise self._senseless(f"{type(error).__name__}: {error}") from error
        raise self._senseless(f"after {instant:%Y-%m-%d %H:%M:%S} UTC it yields no later time")

    def _senseless(self, why: str) -> CronError:
        fix = "pass the name of a zone, such as 'Europe/Berlin'"
        return _error(
            self.spec, f"the timezone {self.timezone!r:.80} cannot be used ({why}); {fix}", "timezone"
        )

    @property
    def is_rhythm(self) -> bool:
        """Whether it recurs through the day (minute or hour begins with ``*``, or ``@every``)."""
        rule = self._rule
        return isinstance(rule, _Interval) or rule.texts[1].startswith("*") or rule.texts[2].startswith("*")

    @cached_property
    def description(self) -> str:
        """The schedule in English, whatever the locale: ``At 09:30 AM, Monday through Friday``."""
        return self._rule.describe()

    @cached_property
    def queue_name(self) -> str:
        """The description as a queue name, in ASCII: ``every_5_minutes``."""
        import inflection  # type: ignore[import-untyped, unused-ignore]

        name = re.sub(r"[^a-z0-9_]", "", inflection.underscore(self.description.replace(" ", "_")))
        return (
            name
            if len(name) <= _LONGEST_NAME
            else f"{name[: _LONGEST_NAME - 9].rstrip('_')}_{crc32(name.encode()):08x}"
        )

    def __eq__(self, other: object) -> bool:
        return self._rule == other._rule if isinstance(other, Schedule) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._rule)

    def __repr__(self) -> str:
        return f"Schedule({self.spec!r}, timezone={str(self.timezone)!r})"


@dataclass(frozen=True)
class _Interval:
    """``@every``: the multiples of a number of seconds since 1970, so that all processes agree on them."""

    seconds: int

    def next_after(self, instant: datetime) -> datetime:
        step = timedelta(seconds=self.seconds)
        return _FIRST + ((instant - _FIRST) // step + 1) * step

    def describe(self) -> str:
        unit, size = next((unit, size) for unit, size in _UNITS.items() if self.seconds % size == 0)
        return f"Every {unit}" if self.seconds == size else f"Every {self.seconds // size} {unit}s"


@dataclass(frozen=True)
class _Calendar:
    """The readings of a clock that match a spec, and the instants at which they count.

    ``sets`` are the values of the six fields. ``either`` means that a match of one of the two day fields is
    enough. With ``real_hours`` the schedule fires at every instant that shows a matching reading. Otherwise
    each reading fires once: at its first instant or, if the clock jumps over it, at the instant of the jump.
    """

    sets: tuple[_Set, ...]
    either: bool
    real_hours: bool
    zone_name: str
    zone: tzinfo = field(compare=False)
    texts: tuple[str, ...] = field(compare=False)
    triggers: tuple[Any, ...] = field(compare=False)

    def next_after(self, instant: datetime) -> datetime:
        return self._next_real(instant) if self.real_hours else self._next_fixed(instant)

    def _next_fixed(self, instant: datetime) -> datetime:
        start = self._shown(instant) + _MICROSECOND
        if self._fold(instant):  # the readings of this repeated hour fired when it came the first time
            start = self._shown(self._when_fold_is(0, instant))
        reading = self._first_reading(start)
        first, second = self._instants(reading)
        return first if first <= second else self._end_of_gap(reading)

    def _next_real(self, instant: datetime) -> datetime:
        shown = self._shown(instant)
        found = self._first_shown(shown + _MICROSECOND, instant)
        first, second = self._instants(shown)
        if instant == first < second:  # the clock will be turned back over this reading
            turn = self._when_fold_is(1, instant)
            if turn <= found:
                return self._first_shown(self._shown(turn), turn - _MICROSECOND)
        return found

    def _first_shown(self, start: datetime, instant: datetime) -> datetime:
        """Return the first instant after ``instant`` at which the clock shows a match from ``start`` on."""
        for _ in range(_MOST_READINGS):
            reading = self._first_reading(start)
            first, second = self._instants(reading)
            if first <= second:
                return first if first > instant else second
            start = max(self._shown(self._end_of_gap(reading)), start)
        raise ValueError("no matching time of day was found")

    def _first_reading(self, start: datetime) -> datetime:
        start = start.replace(tzinfo=UTC)
        found: datetime = min(trigger.get_next_fire_time(None, start) for trigger in self.triggers)
        return found.replace(tzinfo=None)

    def _instants(self, reading: datetime) -> tuple[datetime, datetime]:
        """Return both instants of a reading: mostly equal, rising if it repeats, falling if it is skipped.

        They come from the offsets a day before and a day after, since not every tzinfo supports fold.
        """
        about = reading.replace(tzinfo=UTC)
        before, after = about - self._offset(about - _DAY), about - self._offset(about + _DAY)
        if before == after:
            return before, after
        shows = [instant for instant in (before, after) if self._shown(instant) == reading]
        return (shows[0], shows[-1]) if shows else (before, after)

    def _offset(self, instant: datetime) -> timedelta:
        return self._shown(instant).replace(tzinfo=UTC) - instant

    def _fold(self, instant: datetime) -> int:
        """Whether the clock shows this reading for the second time."""
        first, second = self._instants(self._shown(instant))
        return int(first < second <= instant)

    def _shown(self, instant: datetime) -> datetime:
        return instant.astimezone(self.zone).replace(tzinfo=None, fold=0)

    def _end_of_gap(self, reading: datetime) -> datetime:
        late, early = self._instants(reading)
        return _first_second(early, late - early, lambda at: self._shown(at) > reading)

    def _when_fold_is(self, fold: int, instant: datetime) -> datetime:
        first, second = self._instants(self._shown(instant))
        start = instant.replace(microsecond=0)
        return _first_second(start, second - first, lambda at: self._fold(at) == fold)

    def describe(self) -> str:
        from cron_descriptor import DescriptionTypeEnum, ExpressionDescriptor, Options

        options = Options(locale_code="en_US", use_24hour_time_format=False)
        plain = map(_Field.plain, _FIELDS, self.texts, self.sets)
        descriptor = ExpressionDescriptor(" ".join(plain), options)
        text: str = descriptor.get_description()
        weekdays: str = descriptor.get_description(DescriptionTypeEnum.DAYOFWEEK)
        if not self.either:
            text = text.replace(", or on ", ", only on ")
        elif not weekdays.startswith(", or "):
            text = text.replace(weekdays, ", or" + weekdays[1:])
        return _in_english(text)


def _first_second(start: datetime, span: timedelta, holds: Callable[[datetime], bool]) -> datetime:
    """Return the first whole second in ``start .. start + span`` at which ``holds`` becomes true."""
    seconds = range(int(span.total_seconds()) + 1)
    index = bisect_left(seconds, True, key=lambda second: holds(start + timedelta(seconds=second)))
    return start + timedelta(seconds=index)


def _resolve_zone(zone: str | tzinfo, spec: str) -> tzinfo:
    if isinstance(zone, tzinfo) and not (isinstance(zone, ZoneInfo) and zone.key == "UTC"):
        return zone
    if str(zone) == "UTC":
        return UTC
    try:
        return ZoneInfo(str(zone))
    except (KeyError, ValueError, OSError) as error:
        fix = "use a name such as 'Europe/Berlin', or a tzinfo; if no name is known, pip install tzdata"
        raise _error(spec, f"unknown timezone {zone!r}; {fix}", "timezone") from error


def _error(spec: str, problem: str, field: str | None = None) -> CronError:
    return CronError(f"cron spec {spec!r}: {problem}", spec=spec, field=field)


class _Field(NamedTuple):
    name: str
    low: int
    high: int
    span: int
    accepts: str
    names: tuple[str, ...] = ()

    @property
    def all(self) -> _Set:
        return frozenset(range(self.low, self.low + self.span))

    def parse(self, text: str, spec: str) -> _Set:
        return frozenset(value for part in text.split(",") for value in self._part(part, spec))

    def _part(self, part: str, spec: str) -> list[int]:
        base, slash, step = part.partition("/")
        start, end = self._bounds(base, bool(slash), spec)
        every = self._step(step, spec) if slash else 1
        return [self.low + (value - self.low) % self.span for value in range(start, end + 1, every)]

    def _bounds(self, base: str, stepped: bool, spec: str) -> tuple[int, int]:
        if base == "*":
            return self.low, self.low + self.span - 1
        first, dash, last = base.partition("-")
        start = self._value(first, spec)
        if not dash and stepped:
            return start % 7 if self.high == 7 else start, self.low + self.span - 1
        end = self._value(last, spec) if dash else start
        return start, end if end >= start else end + self.span

    def _value(self, text: str, spec: str) -> int:
        value = self._named(text) if text.isalpha() else _number(text)
        if value is None or not self.low <= value <= self.high:
            raise self._error(text, spec, _advice(text))
        return value

    def _named(self, text: str) -> int | None:
        values = enumerate(self.names, self.low)
        return next((value for value, name in values if text.lower() in (name, name[:3])), None)

    def _step(self, text: str, spec: str) -> int:
        value = _number(text)
        if value is None or not 1 <= value <= self.span:
            longer = "for a longer interval use '@every 90m'"
            raise self._error("/" + text, spec, f"a step is 1-{self.span}; {longer}")
        return value

    def _error(self, value: str, spec: str, advice: str) -> CronError:
        takes = f"it takes {self.accepts}, a list (1,3), a range (1-5), a step (*/2) or * for all"
        return _error(spec, f"bad {self.name} {value!r}: {takes}; {advice}", self.name)

    def compact(self, values: _Set) -> str:
        """Write a set in as few ranges as possible: CronTrigger's cost is per range."""
        if values == self.all:
            return "*"
        ordered = sorted(values)
        low, high, step = ordered[0], ordered[-1], ordered[1] - ordered[0] if len(ordered) > 1 else 1
        if len(ordered) > 2 and ordered == list(range(low, high + 1, step)):
            return f"{low}-{high}/{step}"
        return _runs(ordered)

    def plain(self, text: str, values: _Set) -> str:
        """Write a field in a form that cron_descriptor, which checks nothing, describes correctly."""
        if values == self.all:
            return "*"
        text = re.sub("[A-Z]+", lambda name: str(self._named(name[0])), text)
        text = re.sub(r"\b0+(?=[0-9])", "", text)
        mixed_list = "," in text and ("/" in text or "*" in text)
        weekday_step = self.names is _WEEKDAYS and "/" in text and "*" not in text
        wrapped = self.high == 59 and "-" in text and values >= {0, 59}
        return _runs(sorted(values)) if mixed_list or weekday_step or wrapped else text


def _runs(ordered: list[int]) -> str:
    starts = [value for value in ordered if value - 1 not in ordered]
    ends = [value for value in ordered if value + 1 not in ordered]
    return ",".join(f"{a}-{b}" if a < b else f"{a}" for a, b in zip(starts, ends, strict=True))


_FIELDS = (
    _Field("second", 0, 59, 60, "0-59"),
    _Field("minute", 0, 59, 60, "0-59"),
    _Field("hour", 0, 23, 24, "0-23"),
    _Field("day of month", 1, 31, 31, "1-31"),
    _Field("month", 1, 12, 12, "1-12 or JAN-DEC", _MONTHS),
    _Field("day of week", 0, 7, 7, "0-7 (0 and 7 are Sunday) or SUN-SAT", _WEEKDAYS),
)


def _parse(spec: str, zone: tzinfo) -> _Interval | _Calendar:
    if isinstance(spec, str) and len(spec) > LONGEST_SPEC:
        raise _error(f"{spec[:40]}...", f"it has {len(spec)} characters, and {LONGEST_SPEC} at most are read")
    if not isinstance(spec, str) or not spec.isascii():
        raise _error(spec, f"a spec is an ASCII string such as '*/5 * * * *'{of_cron(spec)}")
    words = spec.upper().replace("?", "*").split()
    if "=" in spec:
        raise _error(spec, "a spec cannot contain settings; pass the timezone as timezone=")
    if words and words[0] == "@EVERY":
        return _Interval(_parse_duration("".join(words[1:]).lower(), spec))
    if words and words[0].startswith("@"):
        words = _expand_macro(words, spec)
    if len(words) not in (5, 6):
        order = "minute hour day-of-month month day-of-week, or six with the second first"
        raise _error(spec, f"{len(words)} fields instead of 5 or 6; write {order}{of_cron(spec)}")
    texts = tuple(["0", *words][-6:])
    sets = [field.parse(text, spec) for field, text in zip(_FIELDS, texts, strict=True)]
    return _build(texts, sets, zone, spec)


def _parse_duration(text: str, spec: str) -> int:
    sizes = {unit[0]: size for unit, size in _UNITS.items()}
    parts = re.findall(r"([0-9]{1,9})([dhms])", text)
    seconds = sum(int(count) * sizes[unit] for count, unit in parts)
    if "".join(count + unit for count, unit in parts) != text or not 1 <= seconds <= 366 * sizes["d"]:
        takes = "1s to 366d in whole d, h, m and s: '@every 90s', '@every 1h30m'"
        raise _error(spec, f"bad interval {text!r}; @every takes {takes}", "@every")
    return seconds


def _expand_macro(words: list[str], spec: str) -> list[str]:
    macro = " ".join(words).lower()
    if macro in _MACROS:
        return _MACROS[macro].split()
    raise _error(spec, f"unknown macro; use one of {', '.join(_MACROS)} or '@every 90s'")


def _number(text: str) -> int | None:
    return int(text) if re.fullmatch("[0-9]{1,9}", text) else None  # int() alone reads "+5" and "1_0" too


def _advice(text: str) -> str:
    if not text:
        return "remove the stray comma, dash or slash"
    if re.fullmatch(r"L|LW|[0-9]+[LW]|[A-Z]{3}L|.*#.*", text):
        return "L, W and # are not supported: list all possible days, and return early on the others"
    return "correct or remove it"


def _build(texts: tuple[str, ...], sets: list[_Set], zone: tzinfo, spec: str) -> _Calendar:
    either = not texts[3].startswith("*") and not texts[5].startswith("*")
    sets[3], sets[5], either = _settle_days(sets[3], sets[4], sets[5], either)
    if not sets[3]:
        never = f"never fires: day of month {texts[3]} does not exist in month {texts[4]}; use another day"
        raise _error(spec, never, "day of month")
    starred = texts[1].startswith("*") or texts[2].startswith("*")
    real_hours = starred and not isinstance(zone, timezone)  # a fixed offset never changes its clock
    return _Calendar(tuple(sets), either, real_hours, str(zone), zone, texts, _triggers(sets, either))


def _settle_days(days: _Set, months: _Set, weekdays: _Set, either: bool) -> tuple[_Set, _Set, bool]:
    """Drop the days that never come, and write equivalent specs in the same form."""
    all_days, all_weekdays = _FIELDS[3].all, _FIELDS[5].all
    longest = max(_DAYS_IN_MONTH[month - 1] for month in months)
    days = frozenset(day for day in days if day <= longest)
    if len(days) == longest:
        days = all_days
    if either and not days:
        return all_days, weekdays, False
    if either and (days == all_days or weekdays == all_weekdays):
        return all_days, all_weekdays, False
    return days, weekdays, either


def _triggers(sets: list[_Set], either: bool) -> tuple[Any, ...]:
    from apscheduler.triggers.cron import CronTrigger  # type: ignore[import-untyped, unused-ignore]

    second, minute, hour, day, month, weekday = map(_Field.compact, _FIELDS, sets)
    if weekday != "*":  # CronTrigger counts weekdays from Monday, cron from Sunday; the names are the same
        weekday = ",".join(_WEEKDAYS[value][:3] for value in sorted(sets[5]))
    clock = {"second": second, "minute": minute, "hour": hour, "month": month, "timezone": UTC}
    pairs = [(day, "*"), ("*", weekday)] if either else [(day, weekday)]
    return tuple(CronTrigger(day=day, day_of_week=weekday, **clock) for day, weekday in pairs)


def _in_english(text: str) -> str:
    """Translate back the month and weekday names, which cron_descriptor takes from the process's locale."""
    english = _local_names()
    names = "|".join(map(re.escape, english))
    return re.sub(rf"(?<!\w)(?:{names})(?!\w)", lambda match: english[match[0]], text)


def _local_names() -> dict[str, str]:
    days = {date(2023, 1, 1 + n).strftime("%A"): name.capitalize() for n, name in enumerate(_WEEKDAYS)}
    return days | {date(2023, 1 + n, 1).strftime("%B"): name.capitalize() for n, name in enumerate(_MONTHS)}
