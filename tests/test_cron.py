"""Cron schedules: syntax, meaning of the fields, clock changes, names.

Three oracles that share no code with the module: tables of literal instants, brute-force searches, and
the cronsim package, which also follows Debian.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from pathlib import Path
from typing import NamedTuple
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim

from neoq.cron import Schedule
from neoq.errors import CronError

START = datetime(2026, 1, 1, 0, 0, 30, tzinfo=UTC)  # a Thursday
ROOT = Path(__file__).parent.parent


def at(text: str) -> datetime:
    """Read ``2026-03-08 07:00`` as an instant in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def ticks(schedule: Schedule, start: datetime, count: int) -> list[datetime]:
    """Return the next ticks, each from the one before."""
    found = []
    for _ in range(count):
        tick = schedule.next_after(start)
        assert tick is not None
        found.append(tick)
        start = tick
    return found


def ticks_between(schedule: Schedule, start: datetime, end: datetime) -> list[datetime]:
    """Return the ticks after ``start`` up to ``end``."""
    found = []
    while (tick := schedule.next_after(start)) is not None and tick <= end:
        found.append(tick)
        start = tick
    return found


# ------------------------------------------------------------------------------------------------ syntax

DAY_TRAPS = {
    "0 0 * * 0": ["01-04", "01-11"],
    "0 0 * * 7": ["01-04", "01-11"],
    "0 0 * * SUN": ["01-04", "01-11"],
    "0 0 * * sunday": ["01-04", "01-11"],
    "0 0 * * 1": ["01-05", "01-12"],
    "0 0 * * 1-5": ["01-02", "01-05", "01-06"],
    "0 0 * * MON-FRI": ["01-02", "01-05", "01-06"],
    "0 0 * * 0-7": ["01-02", "01-03", "01-04"],
    "0 0 * * 5-7": ["01-02", "01-03", "01-04", "01-09"],
    "0 0 * * SUN-TUE": ["01-04", "01-05", "01-06", "01-11"],
    "0 0 * * SAT-SUN": ["01-03", "01-04", "01-10"],
    "0 0 * * FRI-MON": ["01-02", "01-03", "01-04", "01-05", "01-09"],
    "0 0 * * 5-1": ["01-02", "01-03", "01-04", "01-05", "01-09"],
    "0 0 * * 7-2": ["01-04", "01-05", "01-06", "01-11"],
    "0 0 13 * FRI": ["01-02", "01-09", "01-13", "01-16"],
    "0 0 1,15 * MON": ["01-05", "01-12", "01-15", "01-19"],
    "0 0 */2 * MON": ["01-05", "01-19", "02-09"],
    "0 0 13 * */5": ["02-13", "03-13"],
    "0 0 ? * MON": ["01-05", "01-12"],
    "0 0 13 * ?": ["01-13", "02-13"],
    "0 0 1-31 * MON": ["01-02", "01-03", "01-04"],
    "0 0 * * MON/2": ["01-02", "01-05", "01-07"],
    "0 0 * * 7/3": ["01-03", "01-04", "01-07"],
    "0 0 * * MON-FRI/2": ["01-02", "01-05", "01-07"],
    "0 0 * * FRI-MON/2": ["01-02", "01-04", "01-09"],
    "0 0 1 JAN/3 *": ["04-01", "07-01", "10-01"],
    "0 0 1 NOV-FEB *": ["02-01", "11-01", "12-01"],
    "0 0 1 january,March *": ["03-01"],
    "0 0 28-3/2 * *": ["01-03", "01-28", "01-30", "02-01"],
    "0 0 30 2 MON": ["02-02", "02-09"],
    "0 */24 * * *": ["01-02", "01-03"],
    "0 0 */31 * *": ["02-01", "03-01"],
    "@daily": ["01-02", "01-03"],
    "@midnight": ["01-02", "01-03"],
    "@weekly": ["01-04", "01-11"],
    "@monthly": ["02-01", "03-01"],
    " 0\t00  * * 01 ": ["01-05", "01-12"],
}

TIME_TRAPS = {
    "* * * * *": ["00:01:00", "00:02:00"],
    "*/60 * * * *": ["01:00:00", "02:00:00"],
    "*/45 * * * *": ["00:45:00", "01:00:00", "01:45:00"],
    "55/5 * * * *": ["00:55:00", "01:55:00"],
    "58/5 * * * *": ["00:58:00", "01:58:00"],
    "5/15 * * * *": ["00:05:00", "00:20:00", "00:35:00", "00:50:00", "01:05:00"],
    "*/15,7 * * * *": ["00:07:00", "00:15:00"],
    "50-10/10 * * * *": ["00:10:00", "00:50:00", "01:00:00"],
    "0 22-4/3 * * *": ["01:00:00", "04:00:00", "22:00:00"],
    "00 08 * * *": ["08:00:00"],
    "@hourly": ["01:00:00", "02:00:00"],
    "@HOURLY": ["01:00:00", "02:00:00"],
    "* * * * * *": ["00:00:31", "00:00:32"],
    "*/10 * * * * *": ["00:00:40", "00:00:50", "00:01:00"],
    "50-5/5 * * * * *": ["00:00:50", "00:00:55", "00:01:00", "00:01:05", "00:01:50"],
    "15 30 9 * * *": ["09:30:15"],
    "@every 90s": ["00:01:30", "00:03:00"],
    "@every 1m30s": ["00:01:30", "00:03:00"],
    "@every 1h30m0s": ["01:30:00", "03:00:00"],
    "@EVERY 5S": ["00:00:35", "00:00:40"],
}


@pytest.mark.parametrize(("spec", "days"), DAY_TRAPS.items())
def test_day_fields(spec: str, days: list[str]) -> None:
    """Days fire as in Debian's cron: Sunday is 0 and 7, ranges wrap, of two restricted day fields either."""
    assert ticks(Schedule(spec), START, len(days)) == [at(f"2026-{day}") for day in days]


@pytest.mark.parametrize(("spec", "times"), TIME_TRAPS.items())
def test_time_fields(spec: str, times: list[str]) -> None:
    """Times of day fire as written: five fields begin with the minute, six with the second."""
    assert ticks(Schedule(spec), START, len(times)) == [at(f"2026-01-01 {text}") for text in times]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("@yearly", "2027-01-01"),
        ("@annually", "2027-01-01"),
        ("0 0 1 */12 *", "2027-01-01"),
        ("0 0 29 2 *", "2028-02-29"),
        ("0 0 29 2 */7", "2032-02-29"),
        ("0 0 29 FEB */6", "2032-02-29"),
    ],
)
def test_rare_days(spec: str, expected: str) -> None:
    """A day that comes once in years is found."""
    assert Schedule(spec).next_after(START) == at(expected)


BAD_SPECS = [
    ("61 * * * *", "minute", "'61'.*0-59"),
    ("60 * * * *", "minute", "'60'.*0-59"),
    ("0 24 * * *", "hour", "'24'.*0-23"),
    ("60 0 0 * * *", "second", "'60'"),
    ("0 0 0 * *", "day of month", "'0'.*1-31"),
    ("0 0 32 * *", "day of month", "'32'"),
    ("0 0 1 13 *", "month", "'13'.*1-12 or JAN-DEC"),
    ("0 0 1 0 *", "month", "'0'"),
    ("0 0 * * 8", "day of week", "'8'.*0 and 7 are Sunday"),
    ("*/0 * * * *", "minute", "'/0'.*1-60"),
    ("*/61 * * * *", "minute", "'/61'.*@every 90m"),
    ("*/ * * * *", "minute", "1-60"),
    ("*/x * * * *", "minute", "'/X'"),
    ("1/2/3 * * * *", "minute", "'/2/3'"),
    ("/5 * * * *", "minute", "stray"),
    ("0,,5 * * * *", "minute", "stray comma"),
    (",5 * * * *", "minute", "stray comma"),
    ("5, * * * *", "minute", "stray comma"),
    ("5- * * * *", "minute", "stray"),
    ("-5 * * * *", "minute", "stray"),
    ("1-2-3 * * * *", "minute", "'2-3'"),
    ("+5 * * * *", "minute", r"'\+5'"),
    ("1_0 * * * *", "minute", "'1_0'"),
    ("1.5 * * * *", "minute", "'1.5'"),
    ("*-5 * * * *", "minute", r"'\*'"),
    ("** * * * *", "minute", r"'\*\*'"),
    ("9999999999999999999 * * * *", "minute", "0-59"),
    ("0 0 L * *", "day of month", "L, W and #"),
    ("0 0 LW * *", "day of month", "L, W and #"),
    ("0 0 15W * *", "day of month", "L, W and #"),
    ("0 0 L-3 * *", "day of month", "L, W and #"),
    ("0 0 * * 5L", "day of week", "L, W and #"),
    ("0 0 * * FRIL", "day of week", "L, W and #"),
    ("0 0 * * MON#2", "day of week", "L, W and #"),
    ("0 0 lastish * *", "day of month", "'LASTISH'"),
    ("0 0 * * JAN", "day of week", "'JAN'"),
    ("0 0 * MON *", "month", "'MON'"),
    ("0 0 * * mond", "day of week", "'MOND'"),
    ("H * * * *", "minute", "'H'"),
    ("0 0 30 2 *", "day of month", "day of month 30 does not exist"),
    ("0 0 30,31 FEB *", "day of month", "never fires"),
    ("0 0 31 2,4,6,9,11 *", "day of month", "never fires"),
    ("0 0 30 2 */2", "day of month", "never fires"),
    ("* * * *", None, "4 fields"),
    ("* * * * * * *", None, "7 fields"),
    ("", None, "0 fields"),
    ("   ", None, "0 fields"),
    ("CRON_TZ=Asia/Tokyo 0 6 * * *", None, "timezone="),
    ("TZ=Asia/Tokyo 0 0 6 * * *", None, "timezone="),
    ("@fortnightly", None, "@daily"),
    ("@daily 5", None, "@daily"),
    ("@reboot", None, "@daily"),
    ("@every", "@every", "90s"),
    ("@every 0s", "@every", "1s"),
    ("@every 500ms", "@every", "1s"),
    ("@every 1.5h", "@every", "1h30m"),
    ("@every 90", "@every", "90s"),
    ("@every -5s", "@every", "1s"),
    ("@every 367d", "@every", "366d"),
    ("@every 5 minutes", "@every", "90s"),
    ("٣ * * * *", None, "ASCII"),
    ("1\u20135 * * * *", None, "ASCII"),
    ("0 0 * * \u017fun", None, "ASCII"),
    (None, None, "None"),
    (5, None, "5"),
]


@pytest.mark.parametrize(("spec", "field", "message"), BAD_SPECS)
def test_bad_spec(spec: str, field: str | None, message: str) -> None:
    """A bad spec is refused at once: the error names spec, field and value, and says what is accepted."""
    with pytest.raises(CronError, match=message) as caught:
        Schedule(spec)
    assert caught.value.spec == spec
    assert repr(spec) in str(caught.value)
    if field is not None:
        assert caught.value.field == field
        assert field in str(caught.value)


def test_impossible_spec_is_refused_quickly() -> None:
    """A spec that can never fire costs no search to the end of the calendar."""
    Schedule("* * * * *")
    began = time.perf_counter()
    for spec in ("0 0 30 2 *", "0 0 31 2,4,6,9,11 *", "*/0 * * * *"):
        with pytest.raises(CronError):
            Schedule(spec)
    assert time.perf_counter() - began < 0.1


@pytest.mark.parametrize(
    "spec", ["0 0 29 2 */7", "0 0 31 1,3 */6", "59 59 23 29 2 */3", "0 0 30 2 SUN", "* * * * * *"]
)
def test_rare_spec_is_found_quickly(spec: str) -> None:
    """The rarest possible tick is found in milliseconds."""
    schedule = Schedule(spec)
    began = time.perf_counter()
    ticks(schedule, START, 10)
    assert time.perf_counter() - began < 0.5


# --------------------------------------------------------------------------------------------- instants


def test_next_after_is_strict() -> None:
    """An instant at which it fired is not returned again, and the microsecond before it is enough."""
    schedule = Schedule("*/5 * * * *")
    tick = at("2026-01-01 00:05")
    assert schedule.next_after(tick) == at("2026-01-01 00:10")
    assert schedule.next_after(tick - timedelta(microseconds=1)) == tick
    assert schedule.next_after(tick + timedelta(microseconds=1)) == at("2026-01-01 00:10")


def test_next_after_takes_any_zone_and_returns_utc() -> None:
    """The instant counts, not the zone it is written in; the answer is in UTC."""
    tokyo = START.astimezone(ZoneInfo("Asia/Tokyo"))
    tick = Schedule("0 9 * * *", "Asia/Tokyo").next_after(tokyo)
    assert tick == at("2026-01-02 00:00")
    assert tick is not None
    assert tick.tzinfo is UTC


@pytest.mark.parametrize("instant", [START.replace(tzinfo=None), None, date(2026, 1, 1)])
def test_naive_datetime_is_refused(instant: datetime) -> None:
    """A naive datetime is refused, and the message holds the fix."""
    with pytest.raises(CronError, match=r"datetime\.now\(timezone\.utc\)"):
        Schedule("@daily").next_after(instant)


@pytest.mark.parametrize("spec", ["*/5 * * * *", "0 0 13 * FRI", "@every 7s"])
def test_ends_of_the_calendar(spec: str) -> None:
    """Past the end of the calendar there is no tick, and before its beginning the first is in 1970."""
    schedule = Schedule(spec)
    assert schedule.next_after(datetime.max.replace(tzinfo=UTC)) is None
    first = schedule.next_after(datetime.min.replace(tzinfo=UTC))
    assert first is not None
    assert first.year == 1970


def test_every_is_aligned_to_the_epoch() -> None:
    """Processes that start at different moments agree on the ticks of ``@every``, in every timezone."""
    for zone in ("UTC", "Asia/Kathmandu"):
        schedule = Schedule("@every 7m", zone)
        chains = [set(ticks(schedule, START + timedelta(seconds=n), 50)) for n in (0, 17, 61)]
        assert len(set.union(*chains)) <= 51
        assert all(tick.timestamp() % 420 == 0 for chain in chains for tick in chain)


# --------------------------------------------------------------------------------- brute force, in UTC


class RandomField(NamedTuple):
    text: str
    values: set[int]


def random_part(rng: random.Random, low: int, high: int) -> RandomField:
    """Draw a part of a field together with the values it means."""
    size = high - low + 1
    first, length, step = rng.randint(low, high), rng.randint(0, size - 1), rng.randint(1, max(1, size // 2))
    run = [low + (first - low + n) % size for n in range(length + 1)]
    everything = range(low, high + 1)
    return rng.choice(
        [
            RandomField("*", set(everything)),
            RandomField(f"*/{step}", set(everything[::step])),
            RandomField(f"{first}", {first}),
            RandomField(f"{first}/{step}", set(range(first, high + 1, step))),
            RandomField(f"{run[0]}-{run[-1]}", set(run)),
            RandomField(f"{run[0]}-{run[-1]}/{step}", set(run[::step])),
        ]
    )


def random_field(rng: random.Random, low: int, high: int) -> RandomField:
    """Draw a field of one to three parts."""
    parts = [random_part(rng, low, high) for _ in range(rng.choice([1, 1, 1, 2, 3]))]
    return RandomField(",".join(part.text for part in parts), set().union(*(part.values for part in parts)))


RANGES = [(0, 59), (0, 59), (0, 23), (1, 31), (1, 12), (0, 6)]


def random_fields(rng: random.Random) -> list[RandomField]:
    """Draw all six fields."""
    return [random_field(rng, low, high) for low, high in RANGES]


def brute_force(fields: list[RandomField], start: datetime) -> Iterator[datetime]:
    """Yield what a spec means in UTC by looking at each day in turn."""
    second, minute, hour, day, month, weekday = fields
    both = day.text.startswith("*") or weekday.text.startswith("*")
    join = all if both else any
    for days in range(366 * 9):
        midnight = start.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=days)
        matches = join([midnight.day in day.values, midnight.isoweekday() % 7 in weekday.values])
        if midnight.month in month.values and matches:
            for h, m, s in itertools.product(
                sorted(hour.values), sorted(minute.values), sorted(second.values)
            ):
                tick = midnight.replace(hour=h, minute=m, second=s)
                if tick > start:
                    yield tick


@pytest.mark.parametrize("seed", range(20))
def test_random_specs_equal_brute_force(seed: int) -> None:
    """Random specs of six fields fire exactly when a search through the calendar says."""
    rng = random.Random(seed)
    compared = 0
    for _ in range(25):
        fields = random_fields(rng)
        start = START + timedelta(
            seconds=rng.randrange(4 * 365 * 86400), microseconds=rng.choice([0, 1, 999_999])
        )
        expected = list(itertools.islice(brute_force(fields, start), 5))
        if len(expected) == 5:
            spec = " ".join(field.text for field in fields)
            assert ticks(Schedule(spec), start, 5) == expected, (spec, start)
            compared += 1
    assert compared > 15


# ----------------------------------------------------------------------------------------- clock changes

# Around each of them the clock is set forward or back: at 02:00, by half an hour, at midnight.
CHANGES = [
    ("America/New_York", at("2026-03-08 07:00")),
    ("America/New_York", at("2026-11-01 06:00")),
    ("Europe/Berlin", at("2026-03-29 01:00")),
    ("Europe/Berlin", at("2026-10-25 01:00")),
    ("Australia/Lord_Howe", at("2026-04-04 15:00")),
    ("Australia/Lord_Howe", at("2026-10-03 15:30")),
    ("America/Santiago", at("2026-04-05 03:00")),
    ("America/Santiago", at("2026-09-06 04:00")),
]


class Case(NamedTuple):
    zone: str
    spec: str
    start: str
    expected: list[str]


CLOCK_CASES = [
    # the hour from 02:00 to 03:00 is left out in New York on 8 March: 03:00 is 07:00 UTC
    Case("America/New_York", "30 2 * * *", "2026-03-07 12:00", ["03-08 07:00", "03-09 06:30"]),
    Case("America/New_York", "5,10,30 2 * * *", "2026-03-08 00:00", ["03-08 07:00", "03-09 06:05"]),
    Case(
        "America/New_York", "30 2,3 * * *", "2026-03-08 00:00", ["03-08 07:00", "03-08 07:30", "03-09 06:30"]
    ),
    Case("America/New_York", "0 2,3 * * *", "2026-03-08 00:00", ["03-08 07:00", "03-09 06:00"]),
    Case("America/New_York", "*/20 30 2 * * *", "2026-03-08 00:00", ["03-08 07:00", "03-09 06:30"]),
    Case("America/New_York", "30 1 * * *", "2026-03-08 00:00", ["03-08 06:30", "03-09 05:30"]),
    Case("America/New_York", "30 2 8 3 *", "2026-03-08 07:00", ["2027-03-08 07:30"]),
    Case(
        "America/New_York", "*/30 * * * *", "2026-03-08 06:00", ["03-08 06:30", "03-08 07:00", "03-08 07:30"]
    ),
    Case(
        "America/New_York", "0 */2 * * *", "2026-03-08 04:00", ["03-08 05:00", "03-08 08:00", "03-08 10:00"]
    ),
    Case("America/New_York", "*/30 2 * * *", "2026-03-07 12:00", ["03-09 06:00", "03-09 06:30"]),
    Case("America/New_York", "30 * * * *", "2026-03-08 06:00", ["03-08 06:30", "03-08 07:30"]),
    # the hour from 01:00 to 02:00 comes twice on 1 November: from 05:00 and from 06:00 UTC
    Case("America/New_York", "30 1 * * *", "2026-10-31 12:00", ["11-01 05:30", "11-02 06:30"]),
    Case("America/New_York", "30 1 * * *", "2026-11-01 06:10", ["11-02 06:30"]),
    Case(
        "America/New_York",
        "0,30 1,2 * * *",
        "2026-11-01 04:00",
        ["11-01 05:00", "11-01 05:30", "11-01 07:00"],
    ),
    Case("America/New_York", "0 2 * * *", "2026-11-01 06:59:59", ["11-01 07:00", "11-02 07:00"]),
    Case("America/New_York", "0-59 0-59 1 * * *", "2026-11-01 05:59:58", ["11-01 05:59:59", "11-02 06:00"]),
    Case("America/New_York", "30 * * * *", "2026-11-01 05:00", ["11-01 05:30", "11-01 06:30", "11-01 07:30"]),
    Case(
        "America/New_York", "*/30 1 * * *", "2026-11-01 05:10", ["11-01 05:30", "11-01 06:00", "11-01 06:30"]
    ),
    Case("America/New_York", "*/30 1 * * *", "2026-11-01 06:30", ["11-02 06:00", "11-02 06:30"]),
    Case("America/New_York", "15 */2 * * *", "2026-11-01 04:00", ["11-01 04:15", "11-01 07:15"]),
    Case("America/New_York", "* * 1 1-7 11 */7", "2026-11-01 05:59:59", ["11-01 06:00", "11-01 06:00:01"]),
    Case("America/New_York", "*/40 59 * * * *", "2026-11-01 05:59:00", ["11-01 05:59:40", "11-01 06:59:00"]),
    Case(
        "America/New_York", "*/30 1 1-7 11 */7", "2026-11-01 06:30", ["2027-11-07 05:00", "2027-11-07 05:30"]
    ),
    # Lord Howe Island goes from 02:00 to 02:30 and back from 02:00 to 01:30
    Case("Australia/Lord_Howe", "15 2 * * *", "2026-10-03 00:00", ["10-03 15:30", "10-04 15:15"]),
    Case(
        "Australia/Lord_Howe",
        "*/15 * * * *",
        "2026-10-03 15:14",
        ["10-03 15:15", "10-03 15:30", "10-03 15:45"],
    ),
    Case("Australia/Lord_Howe", "0 * * * *", "2026-10-03 14:00", ["10-03 14:30", "10-03 16:00"]),
    Case("Australia/Lord_Howe", "45 1 * * *", "2026-04-04 00:00", ["04-04 14:45", "04-05 15:15"]),
    Case(
        "Australia/Lord_Howe", "45 * * * *", "2026-04-04 14:00", ["04-04 14:45", "04-04 15:15", "04-04 16:15"]
    ),
    Case("Australia/Lord_Howe", "0 * * * *", "2026-04-04 14:00", ["04-04 15:30", "04-04 16:30"]),
    # Santiago has no midnight on 6 September, and 23:00 twice on 4 April
    Case("America/Santiago", "0 0 * * *", "2026-09-05 12:00", ["09-06 04:00", "09-07 03:00"]),
    Case("America/Santiago", "30 0 6 9 *", "2026-09-05 12:00", ["09-06 04:00", "2027-09-06 03:30"]),
    Case("America/Santiago", "@daily", "2026-09-05 12:00", ["09-06 04:00", "09-07 03:00"]),
    Case("America/Santiago", "@weekly", "2026-09-05 12:00", ["09-06 04:00", "09-13 03:00"]),
    Case("America/Santiago", "@hourly", "2026-09-06 02:30", ["09-06 03:00", "09-06 04:00", "09-06 05:00"]),
    Case("America/Santiago", "30 23 * * *", "2026-04-04 12:00", ["04-05 02:30", "04-06 03:30"]),
    Case("America/Santiago", "30 * * * *", "2026-04-05 02:00", ["04-05 02:30", "04-05 03:30", "04-05 04:30"]),
    # Samoa left out 30 December 2011 as a whole
    Case("Pacific/Apia", "0 12 * * *", "2011-12-29 00:00", ["12-29 22:00", "12-30 10:00", "12-30 22:00"]),
    Case("Pacific/Apia", "0 */12 * * *", "2011-12-29 23:00", ["12-30 10:00", "12-30 22:00"]),
]


@pytest.mark.parametrize("case", CLOCK_CASES, ids=lambda case: f"{case.zone}: {case.spec} after {case.start}")
def test_clock_changes(case: Case) -> None:
    """A fixed time that is skipped runs after the gap, one that repeats runs once, `*` follows real hours."""
    expected = [at(text if text[:2] == "20" else f"{case.start[:4]}-{text}") for text in case.expected]
    assert ticks(Schedule(case.spec, case.zone), at(case.start), len(expected)) == expected


@pytest.mark.parametrize(("zone", "change"), CHANGES)
def test_no_tick_depends_on_where_the_search_starts(zone: str, change: datetime) -> None:
    """Around a clock change every instant leads to the same ticks, and none is returned twice."""
    rng = random.Random(str(change))
    for spec in (
        "*/20 * * * *",
        "10,40 0-3,23 * * *",
        "0 */2 * * *",
        "*/7 0,1,2 * * *",
        "*/25 15 0-3,23 * * *",
    ):
        schedule = Schedule(spec, zone)
        chain = ticks_between(schedule, change - timedelta(hours=30), change + timedelta(hours=60))
        assert chain == sorted(set(chain))
        for _ in range(60):
            instant = change + timedelta(seconds=rng.randint(-8000, 8000), microseconds=rng.choice([0, 0, 1]))
            assert schedule.next_after(instant) == chain[bisect_right(chain, instant)], (spec, instant)


@pytest.mark.parametrize(("zone", "change"), CHANGES)
def test_starred_specs_follow_the_clock_minute_by_minute(zone: str, change: datetime) -> None:
    """A spec whose minute or hour begins with `*` fires in every real minute that matches, in no other."""
    rng = random.Random(f"{zone} {change}")
    start, end = change - timedelta(hours=6), change + timedelta(hours=6)
    instants = [start + timedelta(minutes=n) for n in range(1, 721)]
    clock = [(instant, instant.astimezone(ZoneInfo(zone))) for instant in instants]
    for _ in range(12):
        minute, hour = random_field(rng, 0, 59), random_field(rng, 0, 23)
        if minute.text[0] != "*" and hour.text[0] != "*":
            minute = RandomField(f"*/30,{minute.text}", minute.values | {0, 30})
        expected = [i for i, shown in clock if shown.hour in hour.values and shown.minute in minute.values]
        spec = f"{minute.text} {hour.text} * * *"
        assert ticks_between(Schedule(spec, zone), start, end) == expected, spec


def comparable_spec(rng: random.Random) -> str:
    """Draw a spec of five fields that cronsim reads alike: no wrapping range, no step that may reach 7."""
    while True:
        fields = random_fields(rng)[1:]
        parts = [part for field in fields for part in field.text.split(",")]
        bounds = [part.split("/")[0].split("-") for part in parts]
        wraps = any(len(pair) == 2 and int(pair[0]) > int(pair[1]) for pair in bounds)
        weekday_steps = "/" in fields[4].text and not fields[4].text.startswith("*/")
        single_range_step = any(len(p) == 2 and p[0] == p[1] for p in bounds)
        if not (wraps or weekday_steps or single_range_step):
            return " ".join(field.text for field in fields)


# It steps by whole hours where half an hour is left out, and starts a day at a midnight that is left out.
CRONSIM_MISREADS_STARS = {"Australia/Lord_Howe", "America/Santiago"}


def cronsim_ticks(spec: str, start: datetime, zone: str, end: datetime) -> list[datetime]:
    """Return what cronsim makes of a spec."""
    found: list[datetime] = []
    for local in CronSim(spec, start.astimezone(ZoneInfo(zone))):
        tick = local.astimezone(UTC)
        if tick > end:
            return found
        if tick > start and tick not in found:  # it counts each time in a gap once more
            found.append(tick)
    return found


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("zone", "change"), [*CHANGES, ("UTC", START)])
def test_random_specs_equal_cronsim(zone: str, change: datetime, seed: int) -> None:
    """Random specs fire around clock changes as cronsim says, which follows Debian too."""
    rng = random.Random(f"{zone} {change} {seed}")
    start, end = change - timedelta(hours=20), change + timedelta(hours=40)
    for _ in range(12):
        minute, hour, *days = comparable_spec(rng).split()
        spec = rng.choice(
            [f"{minute} {hour} * * *", f"{minute} 0-3,23 * * *", " ".join([minute, hour, *days])]
        )
        starred = minute.startswith("*") or spec.split()[1].startswith("*")
        if starred and zone in CRONSIM_MISREADS_STARS:
            continue
        try:
            ours = ticks_between(Schedule(spec, zone), start, end)
        except CronError:
            continue  # a day that never comes: cronsim searches for it
        if len(ours) <= 400:
            assert ours == cronsim_ticks(spec, start, zone, end), spec


# --------------------------------------------------------------------------------------------- timezones


@pytest.mark.parametrize("zone", ["Mars/Olympus", "", "../etc/passwd", "Europe", "\0", None, 5])
def test_unknown_timezone_is_refused(zone: str) -> None:
    """A timezone that is not known is refused at once, by name."""
    with pytest.raises(CronError, match="unknown timezone") as caught:
        Schedule("@daily", zone)
    assert caught.value.field == "timezone"
    assert repr(zone) in str(caught.value)


@pytest.mark.parametrize(
    "zone",
    ["Asia/Tokyo", ZoneInfo("Asia/Tokyo"), ZoneInfo.no_cache("Asia/Tokyo"), timezone(timedelta(hours=9))],
)
def test_timezone_by_name_or_tzinfo(zone: str) -> None:
    """A timezone is given by its name or as a tzinfo."""
    assert Schedule("0 9 * * *", zone).next_after(START) == at("2026-01-02 00:00")


class Foldless(tzinfo):
    """A tzinfo of the older kind, as that of dateutil: it knows what the clock shows, and nothing of fold."""

    key = zone = "Asia/Tokyo"  # which it is not

    def __init__(self, name: str) -> None:
        self._zone = ZoneInfo(name)

    def fromutc(self, when: datetime) -> datetime:
        return self._zone.fromutc(when.replace(tzinfo=self._zone)).replace(tzinfo=self, fold=0)

    def utcoffset(self, when: datetime | None) -> timedelta | None:
        return None if when is None else self._zone.utcoffset(when.replace(tzinfo=self._zone, fold=0))

    def dst(self, when: datetime | None) -> timedelta | None:
        return None if when is None else self._zone.dst(when.replace(tzinfo=self._zone, fold=0))

    def tzname(self, when: datetime | None) -> str:
        return "somewhere"


class Lmt(Foldless):
    """A tzinfo as that of pytz: by itself it knows its first offset only."""

    def utcoffset(self, when: datetime | None) -> timedelta:
        return timedelta(hours=-4, minutes=-56)


@pytest.mark.parametrize("kind", [Foldless, Lmt])
@pytest.mark.parametrize("case", CLOCK_CASES, ids=lambda case: f"{case.zone}: {case.spec} after {case.start}")
def test_clock_changes_of_a_tzinfo_that_ignores_fold(case: Case, kind: type[Foldless]) -> None:
    """A tzinfo is used as it is, and gives the ticks of the zone's name even where it knows no fold."""
    expected = [at(text if text[:2] == "20" else f"{case.start[:4]}-{text}") for text in case.expected]
    assert ticks(Schedule(case.spec, kind(case.zone)), at(case.start), len(expected)) == expected


class Senseless(tzinfo):
    """A tzinfo whose clock shows whatever ``shows`` makes of the time."""

    def __init__(self, shows: Callable[[datetime], datetime]) -> None:
        self._shows = shows

    def fromutc(self, when: datetime) -> datetime:
        return self._shows(when)

    def utcoffset(self, when: datetime | None) -> timedelta:
        return timedelta()

    def dst(self, when: datetime | None) -> timedelta:
        return timedelta()

    def tzname(self, when: datetime | None) -> str:
        return "nowhere"


def _raise(_: datetime) -> datetime:
    raise KeyError("nowhere")


SENSELESS: list[Callable[[datetime], datetime]] = [
    lambda when: when.replace(year=2020),
    lambda when: when.replace(hour=3, minute=7),
    lambda when: when + timedelta(hours=random.randrange(-20, 20)),
    lambda when: when - 2 * (when - START.replace(tzinfo=when.tzinfo)),
    lambda when: when + timedelta(days=400),
    lambda when: when.replace(minute=0, second=0, microsecond=0),
    _raise,
]


@pytest.mark.parametrize("spec", ["30 2 * * *", "*/30 * * * *", "0 0 29 2 *"])
@pytest.mark.parametrize("shows", SENSELESS)
def test_a_senseless_tzinfo_gives_later_ticks_or_an_error(
    spec: str, shows: Callable[[datetime], datetime]
) -> None:
    """Whatever a tzinfo makes of the time, each tick is later than asked, or there is a CronError."""
    schedule = Schedule(spec, Senseless(shows))
    tick = START
    for _ in range(20):
        try:
            later = schedule.next_after(tick)
        except CronError as error:
            assert error.field == "timezone"  # noqa: PT017
            return
        assert later is not None
        assert later > tick
        tick = later


# ------------------------------------------------------------------------------------ names and identity

NAMES = {
    "*/5 * * * *": "every_5_minutes",
    "* * * * *": "every_minute",
    "* * * * * *": "every_second",
    "*/10 * * * * *": "every_10_seconds",
    "0 * * * *": "every_hour",
    "0 */2 * * *": "every_2_hours",
    "0 0 * * *": "at_1200_am",
    "30 9 * * 1-5": "at_0930_am_monday_through_friday",
    "30 9 * * MON-FRI": "at_0930_am_monday_through_friday",
    "30 14 * 3 monday": "at_0230_pm_only_on_monday_only_in_march",
    "0 0 * * 0": "at_1200_am_only_on_sunday",
    "0 0 * * 7": "at_1200_am_only_on_sunday",
    "0 0 1 * *": "at_1200_am_on_day_1_of_the_month",
    "0 0 13 * FRI": "at_1200_am_on_day_13_of_the_month_or_on_friday",
    "0 0 13 * 1-5": "at_1200_am_on_day_13_of_the_month_or_monday_through_friday",
    "0 0 */2 * MON": "at_1200_am_every_2_days_only_on_monday",
    "0 0 1-31 * MON": "at_1200_am",
    "0 0 ? * MON": "at_1200_am_only_on_monday",
    "0 0 * * FRI-MON": "at_1200_am_friday_through_monday",
    "0 0 * * MON/2": "at_1200_am_only_on_monday_wednesday_and_friday",
    "0 0 * * FRI/2": "at_1200_am_only_on_friday",
    "0 0 * * */2": "at_1200_am_every_2_days_of_the_week",
    "0 22-4 * * *": "at_0_minutes_past_the_hour_between_1000_pm_and_0459_am",
    "50-10 3 * * *": "at_0_through_10_and_50_through_59_minutes_past_the_hour_at_0300_am",
    "0 0 1 NOV-FEB *": "at_1200_am_on_day_1_of_the_month_november_through_february",
    "0 0 1 JAN/3 *": "at_1200_am_on_day_1_of_the_month_every_3_months",
    "*/15,7 * * * *": "at_0_7_15_30_and_45_minutes_past_the_hour",
    "*,5 * * * *": "every_minute",
    "00 08 * * *": "at_0800_am",
    "5 0 0 1 1 *": "at_120005_am_on_day_1_of_the_month_only_in_january",
    "@daily": "at_1200_am",
    "@weekly": "at_1200_am_only_on_sunday",
    "@monthly": "at_1200_am_on_day_1_of_the_month",
    "@yearly": "at_1200_am_on_day_1_of_the_month_only_in_january",
    "@hourly": "every_hour",
    "@every 90s": "every_90_seconds",
    "@every 1m30s": "every_90_seconds",
    "@every 1m": "every_minute",
    "@every 1h30m": "every_90_minutes",
    "@every 36h": "every_36_hours",
    "@every 2d": "every_2_days",
}


@pytest.mark.parametrize(("spec", "name"), NAMES.items())
def test_queue_name(spec: str, name: str) -> None:
    """The queue is named after the English description."""
    assert Schedule(spec).queue_name == name


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("*/5 * * * *", "Every 5 minutes"),
        ("30 9 * * MON-FRI", "At 09:30 AM, Monday through Friday"),
        ("0 0 13 * FRI", "At 12:00 AM, on day 13 of the month, or on Friday"),
        ("0 0 13 * */5", "At 12:00 AM, on day 13 of the month, every 5 days of the week"),
        ("@every 90s", "Every 90 seconds"),
    ],
)
def test_description(spec: str, text: str) -> None:
    """The description is an English sentence with the clock of twelve hours."""
    assert Schedule(spec).description == text


def test_every_valid_spec_has_a_name() -> None:
    """Whatever is accepted is described, and named in ASCII with a length that a queue may have."""
    rng = random.Random(9)
    described = 0
    for _ in range(300):
        try:
            schedule = Schedule(" ".join(field.text for field in random_fields(rng)))
        except CronError:
            continue
        described += 1
        assert schedule.description.isascii()
        assert set(schedule.queue_name) <= set("abcdefghijklmnopqrstuvwxyz0123456789_"), schedule
        assert 0 < len(schedule.queue_name) <= 200
        assert "__" not in schedule.queue_name, schedule
    assert described > 250


def test_long_names_are_cut_and_stay_different() -> None:
    """A name too long for a queue is cut, and ends in a checksum that keeps two of them apart."""
    listed = "1,3,7,12,13,19,22,31,33,44,50,58"
    names = {
        Schedule(f"{listed} {listed} 1,2,5,9 1,3,7,9 1,2,5 {weekday}").queue_name for weekday in range(7)
    }
    assert len(names) == 7
    assert all(190 < len(name) <= 200 for name in names)


LOCALE_PROBE = """
import calendar, json, locale, sys
locale.setlocale(locale.LC_ALL, sys.argv[1])
from neoq.cron import Schedule
specs = json.loads(sys.argv[2])
print(json.dumps([calendar.day_name[0], [Schedule(spec).queue_name for spec in specs]]))
"""


def foreign_locale(folder: Path) -> str | None:
    """Compile a German locale, or return None where that cannot be done."""
    if not shutil.which("localedef"):
        return None
    command = ["localedef", "-i", "de_DE", "-f", "UTF-8", str(folder / "de_DE.UTF-8")]
    done = subprocess.run(command, capture_output=True, check=False, timeout=60)
    return "de_DE.UTF-8" if done.returncode == 0 else None


def test_names_do_not_follow_the_locale_of_the_process(tmp_path: Path) -> None:
    """A host set to German names its queues as every other host does."""
    locale = foreign_locale(tmp_path)
    if locale is None:
        pytest.skip("no foreign locale can be compiled here")
    specs = ["30 14 * 3 MON", "0 0 1 NOV-FEB *", "0 0 13 * FRI-MON", "*/5 * * * *", "0 0 * 1,5,10 TUE,WED"]
    done = subprocess.run(
        [sys.executable, "-c", LOCALE_PROBE, locale, json.dumps(specs)],
        env={
            **os.environ,
            "LOCPATH": str(tmp_path),
            "LC_ALL": locale,
            "LANGUAGE": "de",
            "PYTHONPATH": str(ROOT),
        },
        capture_output=True,
        check=True,
        timeout=60,
        text=True,
    )
    assert json.loads(done.stdout) == ["Montag", [Schedule(spec).queue_name for spec in specs]]


def test_local_names_are_put_back_into_english(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only whole names are replaced, so that a short one inside a longer one does no harm."""
    names = {"一月": "January", "十一月": "November", "März": "March", "di": "Tuesday"}
    monkeypatch.setattr("neoq.cron._local_names", lambda: names)
    from neoq.cron import _in_english

    text = "At 12:00 AM, on day 1, only on di, only in März, 一月 and 十一月"
    assert _in_english(text) == "At 12:00 AM, on day 1, only on Tuesday, only in March, January and November"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("@daily", "0 0 * * *"),
        ("0 0 * * *", "0 0 0 * * *"),
        ("0 0 * * 0", "0 0 * * SUN"),
        ("0 0 * * 7", "0 0 ? * sunday"),
        ("0 0 * * 6-7", "0 0 * * SAT,SUN"),
        ("*/20 * * * *", "0,20,40 * * * *"),
        ("0 0 1-31 * MON", "0 0 * * *"),
        ("0 0 30 2 MON", "0 0 * 2 MON"),
        ("0 0 1-29 2 *", "0 0 * 2 *"),
        ("@every 90s", "@every 1m30s"),
    ],
)
def test_equal_meaning_is_equal(one: str, other: str) -> None:
    """Two spellings of one schedule are equal and hash alike."""
    assert Schedule(one) == Schedule(other)
    assert hash(Schedule(one)) == hash(Schedule(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Schedule("@daily"), Schedule("@hourly")),
        (Schedule("@daily"), Schedule("@daily", "Asia/Tokyo")),
        (Schedule("0 0 13 * FRI"), Schedule("0 0 13 * */5")),
        (Schedule("0 0-23 * * *", "Europe/Berlin"), Schedule("0 * * * *", "Europe/Berlin")),
        (Schedule("@every 60s"), Schedule("* * * * *")),
        (Schedule("@daily"), "@daily"),
    ],
)
def test_different_meaning_is_unequal(one: Schedule, other: object) -> None:
    """Another time, another timezone, another rule or another type is another schedule."""
    assert one != other


def test_zones_by_name_and_by_object_are_equal() -> None:
    """It does not matter whether the timezone came as a name or as an object."""
    assert Schedule("@daily", "UTC") == Schedule("@daily", ZoneInfo("UTC")) == Schedule("@daily", UTC)
    assert Schedule("@daily", "Asia/Tokyo") == Schedule("@daily", ZoneInfo.no_cache("Asia/Tokyo"))


def test_what_it_was_made_from() -> None:
    """A schedule keeps its spec as written and its timezone, and its repr shows both."""
    schedule = Schedule("@Daily", "Asia/Tokyo")
    assert (schedule.spec, str(schedule.timezone)) == ("@Daily", "Asia/Tokyo")
    assert repr(schedule) == "Schedule('@Daily', timezone='Asia/Tokyo')"
    assert repr(Schedule("@hourly")) == "Schedule('@hourly', timezone='UTC')"


def test_importing_the_module_loads_no_library() -> None:
    """The libraries behind the schedules are loaded with the first spec, not with the module."""
    code = (
        "import sys, neoq.cron; heavy = {'apscheduler', 'cron_descriptor', 'inflection'}; "
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=60
    )
