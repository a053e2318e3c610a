"""The times that come with the counts of a queue: how long its oldest jobs have waited, or run."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta

from neoq.backend import Backend
from neoq.job import Job
from neoq.record import Status
from neoq.retry import RetryPolicy
from neoq.testing.cases.operating import counts_of
from neoq.testing.cases.suite import LATER, Seen, Suite, busy, ended, eventually, fail, id_of, ignore, reached

EXACT = timedelta(milliseconds=2)  # a store may round times a little


def is_at(found: datetime | None, expected: datetime | None) -> bool:
    """Whether a time is the expected one."""
    return found is not None and expected is not None and abs(found - expected) <= EXACT


class CountCases(Suite):
    """oldest_due and oldest_started."""

    def test_the_oldest_ready_job_of_any_priority(self, waiting: Backend) -> None:
        """oldest_due is when the first of all ready jobs became due, whatever their priorities."""
        waiting.listen("q", ignore)
        urgent = waiting.enqueue("q", {"n": 0}, priority=7)
        assert is_at(counts_of(waiting, "q").oldest_due, urgent.run_after)
        first = waiting.enqueue("q", {"n": 1}, priority=-3)
        last = [waiting.enqueue("q", {"n": n}, priority=n % 3) for n in range(2, 8)]
        assert is_at(counts_of(waiting, "q").oldest_due, urgent.run_after)
        waiting.cancel(id_of(urgent))
        assert is_at(counts_of(waiting, "q").oldest_due, first.run_after)
        waiting.delete(id_of(first))
        assert is_at(counts_of(waiting, "q").oldest_due, last[0].run_after)
        waiting.cancel([id_of(job) for job in last])
        assert counts_of(waiting, "q").oldest_due is None

    def test_a_future_job_is_not_the_oldest(self, waiting: Backend) -> None:
        """A job counts for oldest_due when its time has come, with that time."""
        waiting.listen("q", ignore)
        waiting.enqueue("q", {"n": 0}, run_after=LATER)
        assert counts_of(waiting, "q").oldest_due is None
        soon = waiting.enqueue("q", {"n": 1}, run_after=0.02)
        eventually(lambda: counts_of(waiting, "q").ready == 1, "it is due")
        counts = counts_of(waiting, "q")
        assert is_at(counts.oldest_due, soon.run_after)
        assert counts.counted_at is None

    def test_the_longest_running_job(self, backend: Backend, seen: Seen, gate: threading.Event) -> None:
        """oldest_started is when the first of the running jobs was started, and None when all have ended."""

        def work(_job: Job) -> None:
            seen()
            busy(gate)

        backend.listen("q", work, concurrency=2)
        first = backend.enqueue("q", {"n": 0})
        seen.wait()
        began = reached(backend, first, Status.RUNNING).ran_at
        second = backend.enqueue("q", {"n": 1})
        seen.wait(2)
        counts = counts_of(backend, "q")
        assert is_at(counts.oldest_started, began)
        assert (counts.running, counts.oldest_due) == (2, None)
        gate.set()
        ended(backend, first)
        ended(backend, second)
        assert counts_of(backend, "q").oldest_started is None

    def test_what_has_ended_is_not_the_oldest(self, backend: Backend) -> None:
        """Neither a job that has ended nor one that waits for its next attempt is waiting or running."""
        backend.listen("q", fail, retry=RetryPolicy(delay=LATER))
        reached(backend, backend.enqueue("q", {"n": 0}), Status.RETRYING)
        reached(backend, backend.enqueue("q", {"n": 1}, max_retries=0), Status.DEAD)
        counts = counts_of(backend, "q")
        assert (counts.oldest_due, counts.oldest_started) == (None, None)
