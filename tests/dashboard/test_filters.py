"""How times, spans, sizes and numbers are written."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from neoq.dashboard import filters

NOW = datetime(2026, 3, 4, 12, 30, 15, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "now"),
        (-0.4, "now"),
        (-12.9, "12 s ago"),
        (-60, "1 min ago"),
        (-3599, "59 min ago"),
        (-7200, "2 h ago"),
        (-86400 * 3, "3 d ago"),
        (300, "in 5 min"),
        (-86400 * 40, "23 Jan 2026"),
    ],
)
def test_times_are_relative_with_the_exact_one_in_reach(seconds: float, words: str) -> None:
    """A time is written relative to now, the date beyond a month; its title and datetime are exact."""
    when = NOW + timedelta(seconds=seconds)
    text = filters.ago({"now": NOW}, when)
    assert f">{words}</time>" in text
    assert f'title="{when:%Y-%m-%d %H:%M:%S} UTC"' in text
    assert f'datetime="{when:%Y-%m-%dT%H:%M:%S}' in text


def test_times_of_other_zones_and_no_time_at_all_are_written() -> None:
    """An exact time is in UTC whatever its zone; no time is a dash; the first and last ones are no error."""
    elsewhere = NOW.astimezone(timezone(timedelta(hours=5)))
    assert ">2026-03-04 12:30:15 UTC</time>" in filters.exact(elsewhere)
    assert ">12:30</time>" in filters.clock(elsewhere)
    assert filters.exact(None) == filters.ago({}, None) == filters.NOTHING
    for edge in (datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)):
        assert "<time" in filters.ago({"now": NOW}, edge)


@pytest.mark.parametrize(
    ("span", "words"),
    [
        (None, "—"),
        (0, "0 ms"),
        (0.0004, "< 1 ms"),
        (0.34, "340 ms"),
        (0.9996, "1.0 s"),
        (1.24, "1.2 s"),
        (59.7, "1 min"),
        (184, "3 min 4 s"),
        (timedelta(days=2, hours=5, minutes=9), "2 d 5 h"),
        (-3, "-3.0 s"),
    ],
)
def test_spans_have_two_units_at_most(span: float | timedelta | None, words: str) -> None:
    """A span is written in its two largest units."""
    assert filters.duration(span) == words


@pytest.mark.parametrize(
    ("count", "words"),
    [(None, "—"), (0, "0 B"), (812, "812 B"), (1400, "1.4 KB"), (999_600, "1.0 MB"), (250_000_000, "250 MB")],
)
def test_sizes_have_a_unit_that_fits(count: int | None, words: str) -> None:
    """A number of bytes is written in a unit that leaves two or three digits."""
    assert filters.size(count) == words


def test_numbers_are_exact() -> None:
    """A whole number is written to its last digit, also one that a browser's script would change."""
    assert filters.number(2**53 + 1) == "9,007,199,254,740,993"
    assert filters.number(3.14159) == "3.14"
    assert filters.number(None) == "—"
    assert filters.level(10_000, more=True) == "10,000+"
    assert "zero" in filters.level(0)
    assert "not known" in filters.level(None)
