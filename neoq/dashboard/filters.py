"""How times, spans, sizes and numbers are written on a page; each is a filter for templates.

A time is written relative to now, with the exact one in reach. The script of the pages goes on counting, and
turns exact times into the reader's own zone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from jinja2 import pass_context
from markupsafe import Markup, escape

NOTHING = Markup('<span class="muted">—</span>')
_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
_SIZES = ("B", "KB", "MB", "GB", "TB")
_MONTH = 30 * 86400


@pass_context
def ago(context: Mapping[str, Any], when: datetime | None) -> Markup:
    """A time relative to ``now`` of the template, or of the clock; a dash for None."""
    return ago_at(when, context.get("now") or datetime.now(UTC))


def ago_at(when: datetime | None, now: datetime) -> Markup:
    """A time relative to another: "12 s ago", "in 5 min"; the date alone beyond a month."""
    if when is None:
        return NOTHING
    return _time(when, relative((when - now).total_seconds(), when), "ago")


def relative(seconds: float, when: datetime) -> str:
    """The words for a time that is so many seconds ahead; negative: that is over."""
    away = abs(seconds)
    if away >= _MONTH:
        return when.astimezone(UTC).strftime("%-d %b %Y") if when.year > 1 else str(when.date())
    if away < 1:
        return "now"
    words = _largest(away)
    return f"in {words}" if seconds > 0 else f"{words} ago"


def exact(when: datetime | None) -> Markup:
    """A time to the second, in UTC."""
    return NOTHING if when is None else _time(when, utc(when), "exact")


def clock(when: datetime) -> Markup:
    """The hour and minute of a time; the date and hour are in reach."""
    return _time(when, when.astimezone(UTC).strftime("%H:%M"), "clock")


def utc(when: datetime) -> str:
    """A time to the second, as it is copied."""
    return when.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _time(when: datetime, words: str, kind: str) -> Markup:
    return Markup('<time datetime="{}" title="{}" data-{}>{}</time>').format(
        when.astimezone(UTC).isoformat(timespec="milliseconds"), utc(when), kind, words
    )


def duration(span: float | timedelta | None) -> str:
    """A span in its two largest units: "340 ms", "1.2 s", "3 min 4 s", "2 d 5 h"."""
    if span is None:
        return "—"
    seconds = span.total_seconds() if isinstance(span, timedelta) else float(span)
    if seconds < 0:
        return f"-{duration(-seconds)}"
    if seconds < 0.9995:
        return _milliseconds(seconds * 1000)
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for place, (size, unit) in enumerate(_UNITS):
        if whole >= size:
            count, rest = divmod(whole, size)
            below = _UNITS[place + 1] if place + 1 < len(_UNITS) else None
            more = f" {rest // below[0]} {below[1]}" if below and rest // below[0] else ""
            return f"{count:,} {unit}{more}"
    return "0 s"


def _milliseconds(span: float) -> str:
    if span == 0:
        return "0 ms"
    return "< 1 ms" if span < 0.95 else f"{span:.0f} ms"


def _largest(seconds: float) -> str:
    size, unit = next(one for one in _UNITS if seconds >= one[0])
    return f"{int(seconds // size)} {unit}"


def size(count: int | None) -> str:
    """A number of bytes: "812 B", "1.4 MB"."""
    if count is None:
        return "—"
    amount, unit = float(count), 0
    while amount >= 999.5 and unit < len(_SIZES) - 1:
        amount, unit = amount / 1000, unit + 1
    return f"{amount:.0f} {_SIZES[unit]}" if unit == 0 or amount >= 99.5 else f"{amount:.1f} {_SIZES[unit]}"


def number(count: float | None) -> str:
    """A number to the unit, in groups of three; one with a fraction to three digits."""
    if count is None:
        return "—"
    if isinstance(count, int) or abs(count) >= 100 or count == int(count):
        return f"{round(count):,}"
    return f"{count:.3g}"


def level(count: int | None, *, more: bool = False) -> Markup:
    """A number for a table, where a zero stands back; ``more``: it was counted no further."""
    if count is None:
        return Markup('<span class="zero" title="not known">?</span>')
    words = f"{number(count)}+" if more else number(count)
    return Markup('<span class="zero">0</span>') if count == 0 and not more else escape(words)


FILTERS: dict[str, Callable[..., Any]] = {
    "ago": ago,
    "exact": exact,
    "clock": clock,
    "duration": duration,
    "bytes": size,
    "number": number,
    "level": level,
}
"""For an environment of Jinja: ``env.filters.update(FILTERS)``."""
