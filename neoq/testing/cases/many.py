"""Calls that take many jobs, each of which keeps its own fate in the store."""

from __future__ import annotations

import threading
import time

import pytest

from neoq.backend import Backend
from neoq.job import Job
from neoq.record import Status
from neoq.retry import RetryPolicy
from neoq.testing.cases.durable import SHORT_LEASE
from neoq.testing.cases.suite import (
    PATIENCE,
    Make,
    Seen,
    Suite,
    busy,
    ended,
    eventually,
    id_of,
    ignore,
    needs,
    reached,
)

SOON = 0.05  # seconds that a call waits for more jobs


def numbered(count: int) -> list[Job]:
    """So many jobs, which know their numbers."""
    return [Job("q", {"n": n}) for n in range(count)]


def numbers_of(jobs: list[Job]) -> list[int]:
    """The numbers of the jobs of a call."""
    return [job.payload["n"] for job in jobs]


class ListenManyCases(Suite):
    """listen_many."""

    def test_no_more_jobs_than_the_size_of_a_call(self, waiting: Backend, seen: Seen) -> None:
        """All jobs are run once each, in calls of at most ``size``."""
        waiting.listen_many("q", lambda jobs: seen(numbers_of(jobs)), size=10, wait=SOON)
        jobs = waiting.enqueue_many(numbered(25))
        waiting.start()
        assert {ended(waiting, job).status for job in jobs} == {Status.SUCCEEDED}
        assert max(map(len, seen.items)) <= 10
        assert sorted(n for call in seen.items for n in call) == list(range(25))

    def test_a_call_waits_for_more_jobs(self, backend: Backend, seen: Seen) -> None:
        """Jobs that are enqueued one after another are in one call, which begins as soon as it is full."""
        backend.listen_many("q", lambda jobs: seen(len(jobs)), size=3, wait=60, concurrency=1)
        jobs = [backend.enqueue(job) for job in numbered(3)]
        assert ended(backend, jobs[0]).status is Status.SUCCEEDED
        assert seen.items == [3]

    def test_one_job_of_a_call_fails(self, waiting: Backend, seen: Seen) -> None:
        """job.fail() fails one job of a call, which is retried by itself; the others have succeeded."""

        def handler(jobs: list[Job]) -> None:
            for job in jobs:
                if job.payload["n"] == 1:
                    seen(job.attempt)
                    job.fail("refused")

        waiting.listen_many("q", handler, wait=SOON, max_retries=1, retry=RetryPolicy(delay=0.01))
        jobs = waiting.enqueue_many(numbered(3))
        waiting.start()
        ends = [ended(waiting, job) for job in jobs]
        assert [end.status for end in ends] == [Status.SUCCEEDED, Status.DEAD, Status.SUCCEEDED]
        assert ends[1].error == "RuntimeError: refused"
        assert seen.items == [1, 2]

    def test_a_call_that_raises(self, waiting: Backend, seen: Seen) -> None:
        """What the handler raises fails each job of the call."""

        def handler(_jobs: list[Job]) -> None:
            raise ConnectionError("away")

        waiting.listen_many("q", handler, wait=SOON, max_retries=0, on_error=lambda job, _error: seen(job.id))
        jobs = waiting.enqueue_many(numbered(3))
        waiting.start()
        ends = [ended(waiting, job) for job in jobs]
        assert [(end.status, end.error) for end in ends] == [(Status.DEAD, "ConnectionError: away")] * 3
        assert sorted(seen.wait(3)) == [job.id for job in jobs]

    def test_a_call_of_one_key(self, waiting: Backend, seen: Seen) -> None:
        """With by_key no call has jobs of two keys."""
        waiting.listen_many("q", lambda jobs: seen([job.key for job in jobs]), wait=SOON, by_key=True)
        jobs = waiting.enqueue_many(Job("q", {"n": n}, key=f"k{n % 3}") for n in range(9))
        waiting.start()
        for job in jobs:
            ended(waiting, job)
        assert all(len(set(keys)) == 1 for keys in seen.items)
        assert sorted(key for keys in seen.items for key in keys) == sorted(["k0", "k1", "k2"] * 3)

    def test_a_job_of_a_call_is_cancelled(self, waiting: Backend, seen: Seen) -> None:
        """A job that is cancelled in a call sees it, and is CANCELLED as it fails; the others go on."""

        def handler(jobs: list[Job]) -> None:
            seen()
            eventually(lambda: any(job.cancelled for job in jobs), "one is cancelled")
            for job in jobs:
                if job.cancelled:
                    job.fail("cancelled")

        waiting.listen_many("q", handler, size=3, wait=PATIENCE, concurrency=1)
        jobs = waiting.enqueue_many(numbered(3))
        waiting.start()
        seen.wait()
        assert waiting.cancel(id_of(jobs[1]))
        ends = [ended(waiting, job).status for job in jobs]
        assert ends == [Status.SUCCEEDED, Status.CANCELLED, Status.SUCCEEDED]

    def test_a_job_is_cancelled_before_its_call(self, backend: Backend, seen: Seen) -> None:
        """A job that is cancelled while others are waited for is not in the call."""
        backend.listen_many("q", lambda jobs: seen(numbers_of(jobs)), size=3, wait=60, concurrency=1)
        jobs = backend.enqueue_many(numbered(2))
        for job in jobs:
            reached(backend, job, Status.RUNNING)
        backend.cancel(id_of(jobs[0]))
        eventually(
            lambda: any(job.id == jobs[0].id and job.cancel_asked for job in backend.engine.held()),
            "its worker knows",
        )
        backend.enqueue("q", {"n": 2})
        assert seen.wait() == [[1, 2]]
        assert [ended(backend, job).status for job in jobs] == [Status.CANCELLED, Status.SUCCEEDED]

    @needs("shared")
    def test_the_leases_of_a_call(self, make: Make, join: Make, seen: Seen) -> None:
        """No other worker takes a job of a call that is gathered, and runs, for longer than a lease."""
        longer = SHORT_LEASE["lease"] * 1.5
        first = make(autostart=False, **SHORT_LEASE)

        def handler(jobs: list[Job]) -> None:
            seen(len(jobs))
            time.sleep(longer)

        first.listen_many("q", handler, size=10, wait=longer, concurrency=1)
        jobs = first.enqueue_many(numbered(3))
        first.start()
        for job in jobs:
            reached(first, job, Status.RUNNING)
        join(first, **SHORT_LEASE).listen_many("q", lambda jobs: seen(-len(jobs)), wait=0)
        ends = [ended(first, job) for job in jobs]
        assert {(end.status, end.crashes) for end in ends} == {(Status.SUCCEEDED, 0)}
        assert seen.items == [3]

    def test_a_shutdown_while_a_call_waits(self, backend: Backend) -> None:
        """Jobs that wait for more of their call are given back by a shutdown, or told to be lost."""
        backend.listen_many("q", ignore, size=10, wait=60)
        jobs = backend.enqueue_many(numbered(3))
        for job in jobs:
            reached(backend, job, Status.RUNNING)
        report = backend.shutdown()
        left = report.given_back if "durable" in self.features else report.lost
        assert {job.id for job in left} == {job.id for job in jobs}

    @pytest.mark.parametrize("size", [1, 3])
    def test_a_shutdown_in_a_call(self, waiting: Backend, size: int, gate: threading.Event) -> None:
        """Every job of a call that a shutdown interrupts is told to be interrupted."""
        began = Seen()

        def handler(jobs: list[Job]) -> None:
            began(numbers_of(jobs))
            busy(gate)

        waiting.listen_many("q", handler, size=size, wait=PATIENCE, concurrency=1)
        jobs = waiting.enqueue_many(numbered(size))
        waiting.start()
        assert began.wait() == [list(range(size))]
        assert {job.id for job in waiting.shutdown(timeout=0).interrupted} == {job.id for job in jobs}
