"""What jobs came to over time: points of a minute and of ten."""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import pytest

from neoq.backend import Backend
from neoq.errors import Discard, InvalidJobError, Retry, Snooze
from neoq.job import Job
from neoq.series import NOTHING, TEN_MINUTES, Histogram, Increment, SeriesPoint, increment
from neoq.testing.cases.suite import LATER, Make, Seen, Suite, eventually, needs, without

ONE, OTHER = Histogram((1, *[0] * 15), 0.001), Histogram((*[0] * 9, 2, *[0] * 6), 8.0)


def added(queue: str, number: int) -> Increment:
    """So many successes, each with a wait of nothing and two runs of some seconds."""
    return increment(queue, {"succeeded": number, "lost": 1}, ONE, OTHER)


def total(points: Iterable[SeriesPoint]) -> tuple[dict[str, int], Histogram, Histogram]:
    """All points in one: a minute may end while a case runs."""
    outcomes: dict[str, int] = {}
    waits = runs = NOTHING
    for point in points:
        for name, number in point.outcomes.items():
            outcomes[name] = outcomes.get(name, 0) + number
        waits, runs = waits + point.waits, runs + point.runs
    return {name: number for name, number in outcomes.items() if number}, waits, runs


def run_each_way(backend: Backend, seen: Seen) -> None:
    """Let a job of each outcome run, the one for later among them."""

    def handler(job: Job) -> None:
        seen(job.payload["how"])
        if job.payload["how"] == "retried":
            raise Retry("again", after=LATER)
        if job.payload["how"] == "snoozed":
            raise Snooze(LATER)
        if job.payload["how"] == "dead":
            raise Discard("never")

    backend.listen("q", handler)
    for how in ("succeeded", "retried", "snoozed", "dead"):
        backend.enqueue("q", {"how": how}, run_after=timedelta(seconds=0.05))
    seen.wait(4)


def expect_each_way(points: list[SeriesPoint]) -> bool:
    """Whether each of these jobs counts once, in the minute that it ended in."""
    outcomes, waits, runs = total(points)
    if outcomes != dict.fromkeys(("succeeded", "retried", "snoozed", "dead"), 1):
        return False
    assert {(point.queue, point.seconds) for point in points} == {("q", 60)}
    assert (waits.count, runs.count) == (4, 4)
    assert all(point.start <= datetime.now(UTC) and point.start.second == 0 for point in points)
    return True


class SeriesCases(Suite):
    """series()."""

    @without("durable")
    def test_what_ran_here(self, backend: Backend, seen: Seen) -> None:
        """A success, a retry, a snooze and a death count in the minute in which they end."""
        run_each_way(backend, seen)
        eventually(lambda: expect_each_way(backend.series()), "all four are counted")

    @needs("durable")
    def test_what_ran_before(self, make: Make, again: Make, seen: Seen) -> None:
        """What ran before a shutdown still counts after it, by outcome."""
        first = make()
        run_each_way(first, seen)
        first.shutdown()
        second = again(first, autostart=False)
        assert expect_each_way(second.series("q"))

    def test_additions(self, waiting: Backend) -> None:
        """What is added sums up by queue, in points of a minute and of ten."""
        assert waiting.series() == []
        waiting.store.add_series([added("q", 3), added("é :1", 1)], serial=1)
        waiting.store.add_series([added("q", 4)], serial=2)
        ten = waiting.store.series("q", time.time() - 60, TEN_MINUTES)
        for points in (waiting.series("q"), waiting.series("q", since=86400.0), ten):
            outcomes, waits, runs = total(points)
            assert outcomes == {"succeeded": 7, "lost": 2}
            assert (waits.counts, runs.counts) == ((ONE + ONE).counts, (OTHER + OTHER).counts)
            assert runs.sum == pytest.approx(16.0)
        assert {point.seconds for point in waiting.series(since=timedelta(days=1))} == {600}
        assert [point.queue for point in waiting.series()] == sorted(
            (point.queue for point in waiting.series()), key=lambda queue: queue != "q"
        )
        assert waiting.series("other") == []

    def test_since(self, waiting: Backend) -> None:
        """A point that has ended by then is left out; a naive time is refused."""
        assert waiting.series() == []
        waiting.store.add_series([added("q", 1)], serial=1)
        assert waiting.series(since=datetime.now(UTC) - timedelta(minutes=5))
        assert waiting.series(since=datetime.now(UTC) + timedelta(minutes=2)) == []
        with pytest.raises(InvalidJobError, match="naive"):
            waiting.series(since=datetime(2030, 1, 1))  # noqa: DTZ001  # that is the point

    def test_recent_points_stay(self, waiting: Backend) -> None:
        """prune() leaves points of today."""
        assert waiting.series() == []
        waiting.store.add_series([added("q", 1)], serial=1)
        waiting.store.prune()
        assert total(waiting.series())[0] == {"succeeded": 1, "lost": 1}

    @needs("shared")
    def test_two_backends(self, make: Make, join: Make) -> None:
        """What two processes add at the same time sums up."""
        first = make(autostart=False)
        second = join(first, autostart=False)
        assert first.series() == second.series() == []
        for serial in range(1, 4):
            for backend in (first, second):
                backend.store.add_series([added("q", serial)], serial=serial)
        assert total(first.series()) == total(second.series())
        assert total(first.series())[0] == {"succeeded": 12, "lost": 6}
