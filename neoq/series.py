"""Series: what the jobs of each queue came to, minute by minute, and how long they waited and ran."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

__all__ = ["BUCKETS", "OUTCOMES", "Histogram", "SeriesPoint"]

# Upper bounds in seconds; one more bucket holds whatever is longer.
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
OUTCOMES = ("succeeded", "retried", "dead", "cancelled", "snoozed", "lost")
MINUTE, TEN_MINUTES = 60, 600  # seconds: how long a point lasts
_EMPTY = (0,) * (len(BUCKETS) + 1)


@dataclass(frozen=True, slots=True)
class Histogram:
    """Durations counted by `BUCKETS`: ``counts`` has one more, for what is longer; ``sum`` is in seconds."""

    counts: tuple[int, ...] = _EMPTY
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
