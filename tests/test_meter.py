"""What a process counts of the attempts that end in it, and of the jobs that it enqueues."""

from __future__ import annotations

import threading
import time
from datetime import timedelta

import pytest

import neoq
from neoq.engine.meter import Meter, QueueTotals
from neoq.outcome import Lease, Outcome
from neoq.record import Status
from neoq.series import BUCKETS, Histogram
from neoq.testing import clock


def totals(backend: neoq.Backend, queue: str = "q") -> QueueTotals:
    return backend.engine.meter.totals()[queue]


def counted(backend: neoq.Backend, queue: str = "q") -> dict[str, int]:
    return {name: number for name, number in totals(backend, queue).outcomes.items() if number}


def histogram(*seconds: float) -> Histogram:
    counts = [0] * (len(BUCKETS) + 1)
    for one in seconds:
        counts[next((place for place, bound in enumerate(BUCKETS) if one <= bound), len(BUCKETS))] += 1
    return Histogram(tuple(counts), sum(seconds))


class TestHistogram:
    def test_adding_and_taking_away(self) -> None:
        """Histograms add up, and the difference is what came since."""
        one, other = histogram(0.2, 3.0), histogram(0.2, 7200.0)
        assert (one + other).counts == histogram(0.2, 0.2, 3.0, 7200.0).counts
        assert (one + other - one).counts == other.counts
        assert (one + other).sum == pytest.approx(7203.4)

    def test_quantiles(self) -> None:
        """A quantile lies in the bucket of the true one, is None without any, and never above 1800 s."""
        assert Histogram().quantile(0.5) is None
        many = histogram(*[0.2] * 90, *[3.0] * 10)
        assert 0.1 <= (many.quantile(0.5) or 0) <= 0.25
        assert 2.5 <= (many.quantile(0.95) or 0) <= 5
        assert histogram(9999.0).quantile(0.99) == 1800


def recorded(wait: float, run: float, queue: str = "q", status: Status = Status.SUCCEEDED) -> Outcome:
    lease = Lease(1, queue, 7, None, 1000.0)
    return Outcome(lease, status, 5000.0, True, 1000.0 + wait, 1000.0 + wait + run)


class TestMeter:
    def test_outcomes_of_a_batch(self) -> None:
        """Outcomes that are recorded together count by queue and in their buckets, whatever they are."""
        meter = Meter()
        waits = [0.004, 7000.0, 0.3, 0.3, 2.0, -5.0]
        batch = [recorded(wait, run) for wait, run in zip(waits, reversed(waits), strict=True)]
        others = [recorded(0.5, 0.5, status=Status.DEAD), recorded(1.0, 8.0, "other")]
        meter.note([*batch, *others], set())
        now = meter.totals()
        clear = [max(0.0, wait) for wait in waits]
        assert now["q"].waits.counts == histogram(*clear, 0.5).counts
        assert now["q"].runs_ok.counts == histogram(*clear).counts
        assert now["q"].runs_ok.sum == pytest.approx(sum(clear), abs=0.01)
        assert now["q"].runs_failed == histogram(0.5)
        assert (now["q"].outcomes["succeeded"], now["q"].outcomes["dead"]) == (6, 1)
        assert now["other"].runs_ok == histogram(8.0)

    def test_a_store_whose_clock_is_ahead(self) -> None:
        """Waits are measured by the store's clock, which is some seconds ahead."""
        meter = Meter()
        meter.note([recorded(-60.0, 1.0)], set(), 62.0)
        assert meter.totals()["q"].waits == histogram(2.0)

    def test_stale(self) -> None:
        """An outcome that was dropped counts as stale, and not as what it was."""
        meter = Meter()
        meter.note([recorded(1.0, 1.0)], {1})
        assert {name for name, number in meter.totals()["q"].outcomes.items() if number} == {"stale"}
        assert meter.totals()["q"].waits.count == 0

    def test_outcomes_by_queue(self) -> None:
        """Each attempt counts by what it came to, in its queue; an enqueue that met a duplicate does not."""
        backend = neoq.MemBackend()

        def handler(job: neoq.Job) -> None:
            how = job.payload["how"]
            if how == "snooze":
                raise neoq.Snooze(3600)
            if how == "discard":
                raise neoq.Discard("no")
            if how == "retry":
                raise neoq.Retry(after=3600)

        backend.listen("q", handler, max_retries=3)
        backend.listen("other", handler)
        with backend:
            for how in ("well", "snooze", "discard", "retry", "retry"):
                backend.enqueue("q", {"how": how})
            backend.enqueue_many([neoq.Job("other", {"how": "well", "n": n}) for n in range(5)])
        assert counted(backend) == {"succeeded": 1, "snoozed": 1, "dead": 1, "retried": 1}
        assert totals(backend).enqueued == 4
        assert totals(backend).waits.count == totals(backend).runs_ok.count + 2 == 4
        assert totals(backend).runs_failed.count == 2
        assert (counted(backend, "other"), totals(backend, "other").enqueued) == ({"succeeded": 5}, 5)

    def test_jobs_of_several_queues_that_are_enqueued_together(self) -> None:
        """Each counts in its queue."""
        backend = neoq.MemBackend(autostart=False)
        for queue in ("q", "other"):
            backend.listen(queue, lambda _job: None)
        with backend:
            backend.enqueue_many([neoq.Job(queue) for queue in ("q", "other")])
            backend.enqueue_many([neoq.Job("q", {"n": n}) for n in range(2)])
            assert (totals(backend).enqueued, totals(backend, "other").enqueued) == (3, 1)

    def test_waits_from_the_due_time(self) -> None:
        """A job has waited since it was due, and not since it was enqueued."""
        backend = neoq.MemBackend()
        backend.listen("q", lambda _job: None)
        with backend, clock(backend) as now:
            backend.pause("q")
            backend.enqueue("q", {"n": 1}, run_after=timedelta(hours=1))
            now.advance(hours=3)
            backend.resume("q")
            now.advance(1)
        assert totals(backend).waits == histogram(7200.0)
        assert totals(backend).runs_ok == histogram(0.0)

    def test_given_back_is_no_outcome(self) -> None:
        """A job that a shutdown interrupts and gives back counts as nothing."""
        backend = neoq.MemBackend()
        running = threading.Event()

        def handler(_job: neoq.Job) -> None:
            running.set()
            while True:
                time.sleep(0.001)

        backend.listen("q", handler)
        backend.enqueue("q", {})
        assert running.wait(30)
        backend.shutdown(0)
        assert counted(backend) == {}

    def test_shared_out_at_once(self) -> None:
        """What many threads count together is no less than what ran."""
        backend = neoq.MemBackend()
        backend.listen("q", lambda _job: None, concurrency=8)
        with backend:
            for start in range(0, 2000, 100):
                backend.enqueue_many([neoq.Job("q", {"n": n}) for n in range(start, start + 100)])
        now = totals(backend)
        assert (now.outcomes["succeeded"], now.enqueued, now.waits.count, now.runs_ok.count) == (2000,) * 4
