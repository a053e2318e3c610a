"""Filters of the templates: times, spans and sizes as people read them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from markupsafe import Markup

NONE = "\N{EN DASH}"
_UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


def duration(seconds: float | None) -> str:
    """A span of time, such as "3 min"."""
    if seconds is None:
        return NONE
    for unit, size in _UNITS:
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds * 1000:.0f} ms"


def exact(moment: datetime | None) -> str:
    """A time in UTC, to the second."""
    return NONE if moment is None else moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def ago(moment: datetime | None) -> str | Markup:
    """How long ago a time was, or in how long it will be, with the exact one in reach."""
    if moment is None:
        return NONE
    seconds = (datetime.now(UTC) - moment).total_seconds()
    text = f"{duration(seconds)} ago" if seconds >= 0 else f"in {duration(-seconds)}"
    return Markup('<time datetime="{}" title="{}">{}</time>').format(moment.isoformat(), exact(moment), text)


def size(number: int | None) -> str:
    """A number of bytes, such as "1.2 MB"."""
    if number is None:
        return NONE
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if number >= factor:
            return f"{number / factor:.1f} {unit}"
    return f"{number} bytes"


FILTERS: dict[str, Callable[..., Any]] = {"ago": ago, "exact": exact, "bytes": size, "duration": duration}
