"""Points in time and spans, as users give them and as stores keep them: seconds since the epoch."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

from neoq.errors import InvalidJobError

When = datetime | timedelta | float
Asked = tuple[float | None, float | None]  # a point in time, or a span counted from the enqueue
_EARLIEST, LATEST = (datetime(year, 12, 30, tzinfo=UTC).timestamp() for year in (1, 9999))

SOONEST, SLOWEST = 5.0, 3600.0  # seconds, of `later_and_later`


def to_datetime(epoch: float | None) -> datetime | None:
    """Seconds since the epoch as an aware datetime in UTC; the end of the calendar for what lies beyond."""
    if epoch is None:
        return None
    try:
        return datetime.fromtimestamp(epoch, UTC)
    except (ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(within_calendar(epoch), UTC)


def within_calendar(epoch: float) -> float:
    """A time that a datetime can hold: somebody may have parked a job until infinity."""
    if isinstance(epoch, float) and math.isnan(
        epoch
    ):  # no number, which PostgreSQL takes for later than all others
        return LATEST
    return float(min(max(epoch, _EARLIEST), LATEST))


def epoch_or_span(name: str, when: When) -> Asked:
    """A point in time as (seconds since the epoch, None), a span as (None, seconds)."""
    if not isinstance(when, datetime):
        return None, to_seconds(name, when)
    if when.utcoffset() is None:
        raise InvalidJobError(
            f"{name} is the naive datetime {when!r}; give it a timezone: "
            "datetime.now(timezone.utc) + ..., or .replace(tzinfo=zoneinfo.ZoneInfo('Europe/Paris'))"
        )
    try:
        at = when.timestamp()
    except OverflowError:
        at = math.inf
    if not _EARLIEST <= at <= LATEST:
        raise InvalidJobError(f"{name} is {when!r}, at the very end of the calendar")
    return at, None


def add_span(name: str, now: float, span: float) -> float:
    """``now`` plus a span in seconds, where that is a time that a datetime can hold."""
    if not 0 <= now + span <= LATEST:
        raise InvalidJobError(f"{name} is {span!r} seconds from now, outside the years 1970 to 9999")
    return now + span


def to_seconds(name: str, span: timedelta | float) -> float:
    """A timedelta, or a number of seconds, as a finite float."""
    if isinstance(span, timedelta):
        return span.total_seconds()
    try:
        if not isinstance(span, bool) and isinstance(span, (int, float)) and math.isfinite(span):
            return float(span)
    except OverflowError:  # an int beyond all floats
        raise InvalidJobError(f"{name} is more seconds than a calendar has") from None
    raise InvalidJobError(
        f"{name} is {span!r}; it takes a timedelta, a number of seconds, or where it is a point in time an "
        "aware datetime"
    )


def latest(at: float) -> float:
    """A point in time, or the end of the calendar where it lies beyond."""
    return min(at, LATEST)


def later_and_later(since: float | None, now: float) -> float:
    """When to try again what waits since then for somebody's help: after a tenth of that time."""
    return now + min(max((now - (now if since is None else since)) / 10, SOONEST), SLOWEST)
