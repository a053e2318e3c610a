"""The charts of a page: of one queue or of all, over the last hour or the last day."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from neoq.dashboard import charts
from neoq.dashboard.board import Board, Span
from neoq.dashboard.charts import Slot

if TYPE_CHECKING:
    from markupsafe import Markup

    from neoq.dashboard.request import Request
    from neoq.series import SeriesPoint

_SPANS: dict[Span, tuple[timedelta, int]] = {
    "hour": (timedelta(minutes=59), 60),
    "day": (timedelta(hours=23, minutes=50), 600),
}
_NAMES: dict[Span, str] = {"hour": "Last hour", "day": "Last day"}
_PER = {60: "minute", 600: "ten minutes"}
_SMALL = 120  # seconds of a slot in the chart of a row


def data_of(request: Request, board: Board, wanted: Callable[[str], bool]) -> dict[str, Any]:
    """What charts.html shows of the queues that are wanted; they are drawn only where it does."""
    chosen: Span = next((span for span in _SPANS if span == request.query.get("span")), "hour")
    others = {name: value for name, value in request.query.items() if name != "span"}
    return {
        "charts": lambda: _drawn(board, wanted, chosen),
        "spans": [
            {
                "name": _NAMES[span],
                "here": span == chosen,
                "url": request.url(request.path, {**others, "span": None if span == "hour" else span}),
            }
            for span in _SPANS
        ],
    }


def slots(board: Board, wanted: Callable[[str], bool], span: Span = "hour") -> list[Slot]:
    """What ended in each minute of the last hour, or in each ten minutes of the last day."""
    points, queues = _points(board, wanted, span)
    back, seconds = _SPANS[span]

    def make() -> list[Slot]:
        until = datetime.now(UTC)
        mine = [point for point in points if point.queue in queues]
        return charts.slots_of(mine, until - back, until, seconds)

    return board.made(("slots", span, queues), points, make)


def small(board: Board, wanted: Callable[[str], bool]) -> dict[str, Markup]:
    """A small chart of the last hour for each queue in which something ended."""
    points, queues = _points(board, wanted, "hour")

    def make() -> dict[str, Markup]:
        until = datetime.now(UTC)
        found: dict[str, list[SeriesPoint]] = {queue: [] for queue in queues}
        for point in points:
            if point.queue in queues:
                found[point.queue].append(point)
        since = until - _SPANS["hour"][0]
        return {
            queue: charts.spark(charts.slots_of(mine, since, until, _SMALL)) for queue, mine in found.items()
        }

    return board.made(("small", queues), points, make)


def _points(
    board: Board, wanted: Callable[[str], bool], span: Span
) -> tuple[list[SeriesPoint], frozenset[str]]:
    """What the store has of a span of time, and the queues in it that are wanted."""
    points = board.series(span).value
    return points, frozenset(queue for queue in {point.queue for point in points} if wanted(queue))


def _drawn(board: Board, wanted: Callable[[str], bool], span: Span) -> list[Markup]:
    """Three charts: what the attempts came to, how long jobs waited, and how long they ran."""
    found = slots(board, wanted, span)
    per = _PER[_SPANS[span][1]]
    points, queues = _points(board, wanted, span)
    return board.made(
        ("drawn", span, queues),
        points,
        lambda: [
            charts.outcomes(found, f"Attempts per {per}", "attempts"),
            charts.times(found, "waits", "Wait, from when a job was due", "waits"),
            charts.times(found, "runs", "Run time", "runs"),
        ],
    )
