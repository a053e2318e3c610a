"""Series: what the jobs of each queue came to, minute by minute, and how long they waited and ran."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from neoq.times import to_datetime

__all__ = ["BUCKETS", "OUTCOMES", "Histogram", "SeriesPoint"]

# Upper bounds in seconds; one more bucket holds whatever is longer.
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
OUTCOMES = ("succeeded", "retried", "dead", "cancelled", "snoozed", "lost")
MINUTE, TEN_MINUTES = 60, 600  # seconds: how long a point lasts
KEPT = {MINUTE: 8 * 3600.0, TEN_MINUTES: 3 * 86400.0}  # seconds: how long points are kept
_WAITS = len(OUTCOMES)
_RUNS = _WAITS + len(BUCKETS) + 1
_SUMS = _RUNS + len(BUCKETS) + 1
WIDTH = _SUMS + 2  # of the numbers in an increment


@dataclass(frozen=True, slots=True)
class Histogram:
    """Durations counted by `BUCKETS`: ``counts`` has one more, for what is longer; ``sum`` is in seconds."""

    counts: tuple[int, ...] = (0,) * (len(BUCKETS) + 1)
    sum: float = 0.0

    @property
    def count(self) -> int:
        """How many durations it holds."""
        return sum(self.counts)

    def quantile(self, q: float) -> float | None:
        """The duration that a share ``q`` of them does not exceed, as its bucket tells; None without any.

        It lies within a bucket of the true one, and never above the longest bound, 1800 s.
        """
        wanted, below, lower = q * self.count, 0, 0.0
        if not any(self.counts):
            return None
        for number, bound in zip(self.counts, BUCKETS, strict=False):
            if number and below + number >= wanted:
                return lower + (bound - lower) * max(0.0, wanted - below) / number
            below, lower = below + number, bound
        return lower

    def __add__(self, other: Histogram) -> Histogram:
        """Both together."""
        counts = tuple(map(int.__add__, self.counts, other.counts))
        return Histogram(counts, self.sum + other.sum)

    def __sub__(self, earlier: Histogram) -> Histogram:
        """What came since an earlier one."""
        counts = tuple(map(int.__sub__, self.counts, earlier.counts))
        return Histogram(counts, self.sum - earlier.sum)


NOTHING = Histogram()


@dataclass(frozen=True, slots=True)
class SeriesPoint:
    """What the attempts of one queue came to that ended in one minute, or in ten.

    ``outcomes`` has a number for each of `OUTCOMES`. ``waits`` are times from when a job was due until its
    attempt began, ``runs`` from there to its end.
    """

    queue: str
    start: datetime
    seconds: int
    outcomes: Mapping[str, int] = field(hash=False)
    waits: Histogram
    runs: Histogram


class Increment(NamedTuple):
    """What a process adds to the points of a queue, as `WIDTH` numbers to be added one by one.

    They are the outcomes in the order of `OUTCOMES`, the buckets of waits and those of runs, and both sums.
    """

    queue: str
    numbers: tuple[float, ...]


def increment(queue: str, outcomes: Mapping[str, int], waits: Histogram, runs: Histogram) -> Increment:
    """What to add for these."""
    counted = (outcomes.get(name, 0) for name in OUTCOMES)
    return Increment(queue, (*counted, *waits.counts, *runs.counts, waits.sum, runs.sum))


def starts(now: float) -> dict[int, int]:
    """When the points begin that take what is added now, by the seconds that they last."""
    return {seconds: int(now // seconds) * seconds for seconds in KEPT}


def point_of(queue: str, start: float | None, seconds: int, numbers: Sequence[Any]) -> SeriesPoint | None:
    """A point as a store has it; None where another program has written something else."""
    begins = to_datetime(start)
    if begins is None or len(numbers) != WIDTH or not all(map(_counts, numbers)):
        return None
    whole = tuple(map(int, numbers[:_SUMS]))
    return SeriesPoint(
        queue,
        begins,
        seconds,
        dict(zip(OUTCOMES, whole, strict=False)),
        Histogram(whole[_WAITS:_RUNS], float(numbers[_SUMS])),
        Histogram(whole[_RUNS:], float(numbers[_SUMS + 1])),
    )


def _counts(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value) and value >= 0


def in_order(points: Iterable[SeriesPoint | None]) -> list[SeriesPoint]:
    """Points, oldest first; those of one time by queue."""
    return sorted(
        (point for point in points if point is not None), key=lambda point: (point.start, point.queue)
    )


class RecentSeries:
    """Series in the memory of this process."""

    def __init__(self) -> None:
        self._points: dict[tuple[int, int, str], tuple[float, ...]] = {}

    def add(self, increments: Iterable[Increment], now: float) -> None:
        """Add to the points of now, and forget old ones."""
        points = self._points
        for queue, numbers in increments:
            for seconds, start in starts(now).items():
                place = (seconds, start, queue)
                before = points.get(place, (0,) * WIDTH)
                points[place] = tuple(map(_sum, before, numbers))
        for place in list(points):
            if place[1] < now - KEPT[place[0]]:
                points.pop(place, None)

    def since(self, queue: str | None, since: float, seconds: int) -> list[SeriesPoint]:
        """Points that last so long and end after a time."""
        return in_order(
            point_of(name, start, lasts, numbers)
            for (lasts, start, name), numbers in list(self._points.items())
            if lasts == seconds and start + seconds > since and queue in {None, name}
        )


def _sum(one: float, other: float) -> float:
    return one + other
