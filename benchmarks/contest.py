"""A contest: what it measures, which contenders take part, and what neoq promises."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

PATIENCE = 120.0

Measures = dict[str, float]


class LeftOut(Exception):
    """What is measured cannot be had here; the message says why."""


@dataclass(frozen=True)
class Bar:
    """A promise: a metric of a contender, or its ratio to another's in the same round, and its limit."""

    promise: str
    metric: str
    at_least: float | None = None
    at_most: float | None = None
    contender: str = "neoq"
    against: str | None = None

    def reached(self, value: float) -> bool:
        if self.at_least is not None:
            return value >= self.at_least
        return self.at_most is not None and value <= self.at_most


@dataclass(frozen=True)
class Contest:
    """One measurement, made by each contender in turn, each time in a process of its own."""

    title: str
    contenders: tuple[str, ...]
    measure: Callable[[str, bool], Measures]
    bars: tuple[Bar, ...] = ()
    ratio: tuple[str, str] | None = (
        None  # the metric to compare in the table, and the contender to compare with
    )
    needs: str | None = None  # a package that the measurement needs
    long: bool = False
    server: str | None = None  # "postgres" or "redis": runs during the contest, emptied for each measurement
    among: Mapping[str, Any] | None = None  # the contenders by name, if not those in memory


class Handled:
    """The handler of all contenders: a no-op that notes which job it got."""

    def __init__(self, expected: int) -> None:
        self.expected = expected
        self.numbers: list[int] = []
        self.all = threading.Event()

    def note(self, payload: dict[str, Any]) -> None:
        self.numbers.append(payload["n"])
        if len(self.numbers) >= self.expected:
            self.all.set()

    def wait(self) -> None:
        """Wait until as many jobs ran as were enqueued."""
        if not self.all.wait(PATIENCE):
            raise RuntimeError(
                f"after {PATIENCE:.0f} s {len(self.numbers):,} of {self.expected:,} jobs have run"
            )

    def check(self) -> None:
        """Fail unless every job ran exactly once; called when the contender has stopped."""
        if sorted(self.numbers) != list(range(self.expected)):
            missing = self.expected - len(set(self.numbers))
            twice = len(self.numbers) - len(set(self.numbers))
            raise RuntimeError(f"of {self.expected:,} jobs {missing:,} never ran and {twice:,} ran again")


def payloads(count: int, start: int = 0) -> Iterator[dict[str, Any]]:
    """Small payloads, all different."""
    return ({"n": n, "to": "someone@example.com"} for n in range(start, start + count))


def percentile(values: list[float], share: float) -> float:
    """The value that this share of all values does not exceed."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def resident_bytes() -> int:
    """The resident memory of this process, after a garbage collection."""
    import gc

    import psutil

    gc.collect()
    return int(psutil.Process().memory_info().rss)
