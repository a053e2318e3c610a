"""Charts: what they draw of a series, what they say of it, and that the numbers stand beside them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest

from neoq.dashboard import charts
from neoq.series import BUCKETS, OUTCOMES, Histogram, SeriesPoint

NOON = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def spans(seconds: float, number: int) -> Histogram:
    """So many durations in the bucket of one."""
    place = next(place for place, bound in enumerate((*BUCKETS, float("inf"))) if seconds <= bound)
    counts = [0] * (len(BUCKETS) + 1)
    counts[place] = number
    return Histogram(tuple(counts), seconds * number)


def point(
    minute: int, queue: str = "mails", wait: float = 0.02, run: float = 0.4, **outcomes: int
) -> SeriesPoint:
    number = sum(outcomes.values())
    counts = dict.fromkeys(OUTCOMES, 0) | outcomes
    return SeriesPoint(queue, NOON + minute * MINUTE, 60, counts, spans(wait, number), spans(run, number))


def slots(*points: SeriesPoint, minutes: int = 10) -> list[charts.Slot]:
    return charts.slots_of(points, NOON, NOON + (minutes - 1) * MINUTE)


def test_every_minute_has_a_slot_and_queues_are_added() -> None:
    """A slot stands for each minute, also where nothing ended; what queues did in one is added."""
    found = slots(point(1, succeeded=3), point(1, "shop", succeeded=4, dead=1), point(99, succeeded=5))
    assert len(found) == 10
    assert [slot.outcomes["succeeded"] for slot in found] == [0, 7, 0, 0, 0, 0, 0, 0, 0, 0]
    assert found[1].outcomes["dead"] == 1
    assert found[1].waits.count == 8
    assert found[2].start == NOON + 2 * MINUTE


def test_minutes_are_added_to_ten_minutes() -> None:
    """Points of a minute and of ten minutes fall into the same slots of ten minutes."""
    ten = SeriesPoint("mails", NOON, 600, {"succeeded": 100}, Histogram(), Histogram())
    found = charts.slots_of(
        [ten, point(12, succeeded=1), point(19, succeeded=2)], NOON, NOON + 29 * MINUTE, 600
    )
    assert [slot.outcomes["succeeded"] for slot in found] == [100, 3, 0]


def test_bars_say_what_they_stand_for() -> None:
    """A bar has its time and its numbers as a title; the legend has the sums, the table each minute."""
    chart = charts.outcomes(slots(point(1, succeeded=1200, dead=2), point(3, succeeded=5)), "Attempts", "a")
    assert "<title>12:01 UTC: 1,200 succeeded, 2 dead</title>" in chart
    assert "succeeded <b>1,205</b>" in chart
    assert 'aria-label="Attempts: 1,205 succeeded, 2 dead"' in chart
    assert "retried" not in chart
    rows = re.findall(r"<tr><th scope=\"row\"><time[^>]*>([\d:]+)</time></th>(.*?)</tr>", chart)
    assert [time for time, _ in rows] == ["12:03", "12:01"]
    assert re.findall(r">([\d,]+)<", rows[1][1]) == ["1,200", "2"]


def test_failures_have_a_plot_of_their_own() -> None:
    """What failed is drawn to its own scale, so that one dead job among thousands is seen."""
    chart = charts.outcomes(slots(point(1, succeeded=5000, dead=1)), "Attempts", "a")
    well, failed = chart.split("plot-failed")
    assert 'class="fill-succeeded" d="M11 0h8v100h-8Z"' in well
    assert "fill-dead" not in well.partition("<svg")[2]
    assert 'class="fill-dead" d="M11 0h8v100h-8Z"' in failed
    assert "plot-failed" not in charts.outcomes(slots(point(1, succeeded=1)), "Attempts", "a")


def test_a_small_number_is_still_drawn() -> None:
    """A bar that would be too low to be seen has a least height."""
    chart = charts.outcomes(slots(point(1, succeeded=100_000), point(2, succeeded=1)), "Attempts", "a")
    assert "M21 97.5h8v2.5h-8Z" in chart


def test_lines_show_quantiles_on_a_scale_of_powers() -> None:
    """The quantiles of each minute are lines on a logarithmic scale, and break where nothing ended."""
    found = slots(*(point(n, succeeded=10, run=0.4) for n in (0, 1, 2, 5)), point(8, succeeded=10, run=40))
    chart = charts.times(found, "runs", "Run time", "r")
    lines = dict(re.findall(r'<path class="line-(p\d+)" d="([^"]+)"', chart))
    assert set(lines) == {"p50", "p95", "p99"}
    assert lines["p50"].count("M") == 3
    assert lines["p50"].count("h10") == 2
    assert re.findall(r"<span>([\d,]+ m?s)</span>", chart) == ["100 s", "10 s", "1 s", "100 ms"]
    assert "12:08 UTC: p50" in chart
    assert "p99 <b>" in chart


def test_without_attempts_a_chart_says_so() -> None:
    """A chart of a time in which nothing ended says so, and has no plot."""
    for chart in (charts.outcomes(slots(), "Attempts", "a"), charts.times(slots(), "waits", "Wait", "w")):
        assert "No attempt has ended" in chart
        assert "<svg" not in chart


def test_nothing_of_a_chart_needs_an_inline_style() -> None:
    """Charts have classes only, which the Content-Security-Policy demands, and their words are escaped."""
    found = slots(point(1, succeeded=3, retried=1, lost=2), point(2, succeeded=1))
    whole = charts.outcomes(found, "<b>A</b>", "a") + charts.times(found, "waits", "<i>W</i>", "w")
    whole += charts.spark(found)
    assert not re.search(r"style=|fill=|stroke=|<b>A|<i>W", whole)


def test_a_small_chart_tells_well_from_failed() -> None:
    """The chart of a row has a path for what went well and one for what failed, and says both numbers."""
    chart = charts.spark(slots(point(1, succeeded=3, retried=1), point(2, dead=2)))
    assert 'aria-label="3 well, 3 failed in the last hour"' in chart
    paths = dict(re.findall(r'class="fill-(\w+)" d="([^"]*)"', chart))
    assert paths["succeeded"] == "M10 100v-75h9V100Z"
    assert paths["dead"] == "M10 25v-25h9V25ZM20 100v-50h9V100Z"
    assert "<svg" in charts.spark([])


@pytest.mark.parametrize(
    ("most", "bound"),
    [(1, 1), (2, 2), (3, 4), (5, 6), (7, 8), (11, 20), (61, 80), (262, 300), (12_345, 20_000)],
)
def test_the_bound_of_a_scale_is_a_round_number(most: int, bound: int) -> None:
    """The highest number of a scale is the next round one."""
    found = slots(point(1, succeeded=most))
    assert f"<span>{bound:,}</span>" in charts.outcomes(found, "Attempts", "a")
