"""Deadlines, timeouts and the cancelling of what runs."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from neoq.backend import Backend
from neoq.errors import DeadlineExceeded, JobCancelled, JobInterrupted, JobTimeout
from neoq.job import Job
from neoq.record import Status
from neoq.retry import RetryPolicy
from neoq.testing.cases.suite import (
    LATER,
    PATIENCE,
    Make,
    Seen,
    Suite,
    busy,
    ended,
    eventually,
    fail,
    hang,
    id_of,
    reached,
)

SHORT = 0.05  # a timeout that is meant to run out
SPANS = (0.1, 1.0, 8.0)  # deadlines that are meant to pass in a run: the later ones where it starts late


def reports(seen: Seen, gate: threading.Event) -> Callable[[Job], None]:
    """Return a handler that works until the gate opens, and reports that it started and what stopped it."""

    def handler(job: Job) -> None:
        seen(job.attempt)
        try:
            busy(gate)
        except BaseException as error:
            seen(type(error))
            raise

    return handler


class DeadlineCases(Suite):
    """A job that has not started, or not ended, by its deadline is DEAD."""

    def test_a_deadline_that_is_past(self, backend: Backend, seen: Seen) -> None:
        """A deadline already past is accepted; the job dies without a run."""
        backend.listen("q", lambda job: seen(job.id))
        job = backend.enqueue("q", deadline=datetime.now(UTC) - timedelta(seconds=1))
        dead = ended(backend, job)
        assert dead.status is Status.DEAD
        assert dead.error is not None
        assert dead.error.startswith("DeadlineExceeded: ")
        assert (dead.retries, seen.items) == (0, [])

    def test_a_deadline_that_passes_as_it_waits(
        self, backend: Backend, seen: Seen, gate: threading.Event
    ) -> None:
        """A job whose deadline passes while it waits for a runner never runs."""
        backend.listen("q", reports(seen, gate), concurrency=1)
        backend.enqueue("q", {"n": 0})
        seen.wait()
        late = backend.enqueue("q", {"n": 1}, deadline=SHORT)
        assert late.deadline is not None
        eventually(lambda: datetime.now(UTC) > late.deadline, "the deadline passes")  # type: ignore[operator]
        gate.set()
        assert ended(backend, late).status is Status.DEAD
        assert seen.items == [1]

    def test_a_deadline_before_the_retry(self, backend: Backend, seen: Seen) -> None:
        """A job whose deadline passes while it waits for a retry is not tried again."""

        def handler(_job: Job) -> None:
            seen()
            raise RuntimeError("again")

        def beyond_the_deadline(_retries: int) -> float:
            return span + 0.05

        backend.listen("q", handler, retry=RetryPolicy(delay=beyond_the_deadline))
        for span in SPANS:
            dead = ended(backend, backend.enqueue("q", deadline=span))
            assert dead.status is Status.DEAD
            if seen.items:
                break
        assert len(seen.items) == 1
        assert (dead.error or "").startswith("DeadlineExceeded: still waiting at its deadline ")

    def test_a_deadline_that_passes_as_it_runs(
        self, backend: Backend, seen: Seen, gate: threading.Event
    ) -> None:
        """A job still running at its deadline is interrupted, and DEAD whatever retries it has left."""
        backend.listen("q", reports(seen, gate), max_retries=5, retry=RetryPolicy(delay=LATER))
        for span in SPANS:
            dead = ended(backend, backend.enqueue("q", deadline=span))
            if seen.items:
                break
        assert seen.wait(2) == [1, DeadlineExceeded]
        assert dead.status is Status.DEAD
        assert dead.error is not None
        assert dead.error.startswith("DeadlineExceeded: ")
        seen.stays(2)

    def test_a_deadline_that_is_kept(self, backend: Backend, seen: Seen) -> None:
        """A job that ends before its deadline is not concerned."""
        backend.listen("q", lambda job: seen(job.remaining()), timeout=None)
        assert ended(backend, backend.enqueue("q", deadline=LATER)).status is Status.SUCCEEDED
        assert LATER - 60 < seen.items[0] <= LATER


class TimeoutCases(Suite):
    """Code that runs too long is interrupted, and where that is impossible, left behind."""

    def test_a_handler_that_runs_too_long(self, backend: Backend, seen: Seen, gate: threading.Event) -> None:
        """JobTimeout is raised inside the handler, and the attempt has failed."""
        backend.listen("q", reports(seen, gate), timeout=SHORT, max_retries=0)
        dead = ended(backend, backend.enqueue("q"))
        assert seen.wait(2) == [1, JobTimeout]
        assert dead.status is Status.DEAD
        assert dead.error is not None
        assert dead.error.startswith("JobTimeout: ")

    def test_a_timeout_is_retried(self, backend: Backend, seen: Seen, gate: threading.Event) -> None:
        """An attempt that timed out is tried again like any that failed."""

        def handler(job: Job) -> None:
            seen(job.attempt)
            if job.attempt == 1:
                busy(gate)

        backend.listen("q", handler, timeout=SHORT, retry=RetryPolicy(delay=0))
        done = ended(backend, backend.enqueue("q"))
        assert (done.status, seen.items[:2]) == (Status.SUCCEEDED, [1, 2])
        assert done.retries == len(seen.items) - 1

    def test_the_backends_timeout(self, make: Make, seen: Seen, gate: threading.Event) -> None:
        """A listener without a timeout of its own has the backend's; timeout=None is none at all."""
        backend = make(timeout=SHORT, max_retries=0)
        backend.listen("p", reports(seen, gate))
        backend.listen("q", lambda job: job.remaining() == math.inf, timeout=None)
        assert ended(backend, backend.enqueue("p")).status is Status.DEAD
        assert ended(backend, backend.enqueue("q")).result is True

    def test_the_time_that_remains(self, backend: Backend, seen: Seen) -> None:
        """job.remaining() tells the seconds until the attempt is interrupted, and counts down."""

        def handler(job: Job) -> None:
            first = job.remaining()
            eventually(lambda: job.remaining() < first, "time passes")
            seen(first)

        backend.listen("q", handler, timeout=100)
        backend.enqueue("q")
        assert 50 < seen.wait()[0] <= 100

    def test_except_exception_cannot_eat_it(self, backend: Backend, gate: threading.Event) -> None:
        """A handler that catches every Exception is interrupted all the same."""

        def handler(_job: Job) -> None:
            while not gate.is_set():
                try:
                    busy(gate)
                except Exception:  # noqa: S112  # what is tested
                    continue

        backend.listen("q", handler, timeout=SHORT, max_retries=0)
        assert ended(backend, backend.enqueue("q")).status is Status.DEAD
        assert backend.stats().abandoned == 0

    def test_an_interrupted_runner_goes_on(self, backend: Backend, gate: threading.Event) -> None:
        """After an interrupt its runner takes the next job, in which no interrupt lands."""

        def handler(job: Job) -> None:
            if job.deadline is not None:
                busy(gate)

        backend.listen("q", handler, concurrency=1, timeout=None, max_retries=0)
        for n in range(1, 6):
            late = backend.enqueue("q", {"n": -n}, deadline=n * 0.03)
            after = backend.enqueue("q", {"n": n})
            assert (ended(backend, late).status, ended(backend, after).status) == (
                Status.DEAD,
                Status.SUCCEEDED,
            )

    def test_an_interrupt_belongs_to_its_attempt(self, backend: Backend) -> None:
        """Of jobs that end just as their time is up each has one of two ends, and no neighbour suffers."""

        def handler(job: Job) -> None:
            if job.deadline is not None:
                end = job.deadline.timestamp() + job.payload["n"] % 7 / 5000 - 0.0006
                while time.time() < end:
                    pass

        backend.listen("q", handler, concurrency=1, timeout=None, max_retries=0)
        timed = []
        others = []
        for n in range(40):
            timed.append(backend.enqueue("q", {"n": n}, deadline=(n + 1) * 0.01))
            others += [backend.enqueue("q", {"n": n, "other": other}) for other in range(3)]
        assert all(
            job.error is None or "DeadlineExceeded" in job.error for job in (ended(backend, j) for j in timed)
        )
        assert [(job.status, job.error) for job in (ended(backend, other) for other in others)] == [
            (Status.SUCCEEDED, None)
        ] * len(others)

    def test_a_handler_that_hangs_is_left_behind(
        self, backend: Backend, gate: threading.Event, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Code blocked in C cannot be interrupted: its attempt has failed, its place goes to a new thread.

        The stuck thread is counted, logged with its stack, and what it does later is ignored.
        """
        late = Seen()

        def handler(job: Job) -> str:
            try:
                if job.payload["n"] == 0:
                    hang(gate)
            except JobTimeout:
                late(job.id)
            return "result"

        backend.listen("q", handler, concurrency=1, timeout=SHORT, retry=RetryPolicy(delay=0))
        stuck = backend.enqueue("q", {"n": 0}, max_retries=0)
        dead = ended(backend, stuck)
        assert dead.status is Status.DEAD
        assert dead.error is not None
        assert dead.error.startswith("JobTimeout: ")
        assert backend.stats().abandoned == 1
        eventually(lambda: "in handler" in caplog.text, "where it hangs is logged")
        assert ended(backend, backend.enqueue("q", {"n": 1})).result == "result"

        def hanging() -> list[int | None]:
            threads = [one for worker in backend.workers() for one in worker.threads]
            return [one.job_id for one in threads if one.abandoned]

        eventually(lambda: hanging() == [stuck.id], "the worker tells which thread hangs, and in what")
        assert [worker.abandoned for worker in backend.workers()] == [1]

        gate.set()
        late.wait()
        eventually(lambda: backend.stats().abandoned == 0, "the stuck thread comes back and ends")
        again = backend.get(id_of(stuck))
        assert again is not None
        assert (again.status, again.result, again.error) == (Status.DEAD, None, dead.error)

    def test_concurrency_is_not_lost_to_what_hangs(
        self, backend: Backend, seen: Seen, gate: threading.Event
    ) -> None:
        """With every runner of a queue hung and left behind, as many jobs as before run side by side."""
        together = threading.Barrier(3)

        def handler(job: Job) -> None:
            seen()
            if job.payload["hang"]:
                hang(gate)
            else:
                together.wait(PATIENCE)

        backend.listen("q", handler, concurrency=3)
        hung = backend.enqueue_many([Job("q", {"hang": True, "n": n}) for n in range(3)])
        seen.wait(3)
        for job in hung:
            backend.cancel(id_of(job))
        jobs = backend.enqueue_many([Job("q", {"hang": False, "n": n}) for n in range(3)])
        assert [ended(backend, job).status for job in jobs] == [Status.SUCCEEDED] * 3
        assert backend.stats().abandoned == 3

    def test_a_handler_that_swallows_the_interrupt(self, backend: Backend, gate: threading.Event) -> None:
        """A handler that catches everything and goes on is left behind as one that hangs."""

        def handler(job: Job) -> None:
            while job.payload["n"] == 0 and not gate.is_set():
                try:
                    busy(gate)
                except BaseException:  # noqa: S112  # what is tested
                    continue

        backend.listen("q", handler, concurrency=1, timeout=SHORT, retry=RetryPolicy(delay=0))
        assert ended(backend, backend.enqueue("q", {"n": 0}, max_retries=0)).status is Status.DEAD
        assert ended(backend, backend.enqueue("q", {"n": 1})).status is Status.SUCCEEDED

    def test_an_on_error_that_hangs_costs_neither_job_nor_place(
        self, make: Make, gate: threading.Event, caplog: pytest.LogCaptureFixture
    ) -> None:
        """An on_error that hangs in C is left behind after the timeout; its job ends as it had failed."""
        backend = make(max_retries=0, on_error=lambda _job, _error: hang(gate))

        @backend.listen("q", concurrency=1, timeout=SHORT)
        def handler(job: Job) -> str:
            if job.payload["n"] == 0:
                raise RuntimeError("it failed")
            return "result"

        dead = ended(backend, backend.enqueue("q", {"n": 0}))
        assert (dead.status, dead.error) == (Status.DEAD, "RuntimeError: it failed")
        assert backend.stats().abandoned == 1
        eventually(lambda: "in hang" in caplog.text, "where it hangs is logged")
        assert ended(backend, backend.enqueue("q", {"n": 1})).result == "result"
        gate.set()
        eventually(lambda: backend.stats().abandoned == 0, "the stuck thread comes back and ends")

    def test_an_on_error_that_takes_too_long_is_interrupted(
        self, make: Make, gate: threading.Event, caplog: pytest.LogCaptureFixture
    ) -> None:
        """An on_error has the queue's timeout for itself, as the handler had, and is interrupted then."""
        backend = make(max_retries=0, on_error=lambda _job, _error: busy(gate))
        backend.listen("q", fail, concurrency=1, timeout=SHORT)
        for n in range(2):
            dead = ended(backend, backend.enqueue("q", {"n": n}))
            assert (dead.status, dead.error) == (Status.DEAD, "RuntimeError: it always fails")
        assert backend.stats().abandoned == 0
        assert f"on_error of queue q failed for job {dead.id}" in caplog.text

    def test_a_job_that_hangs_ends_though_on_error_hangs_too(self, make: Make, gate: threading.Event) -> None:
        """An attempt that was left behind is settled before on_error is told of it."""
        backend = make(max_retries=0, on_error=lambda _job, _error: hang(gate))
        backend.listen("q", lambda _job: hang(gate), concurrency=1, timeout=SHORT)
        dead = ended(backend, backend.enqueue("q"))
        assert dead.status is Status.DEAD
        assert dead.error is not None
        assert dead.error.startswith("JobTimeout: ")

    def test_an_abandoned_attempt_is_retried(
        self, backend: Backend, seen: Seen, gate: threading.Event
    ) -> None:
        """An attempt that was left behind is tried again, even while its first thread still hangs."""

        def handler(job: Job) -> int:
            seen(job.attempt)
            if job.attempt == 1:
                hang(gate)
            return job.attempt

        backend.listen("q", handler, concurrency=1, timeout=SHORT, retry=RetryPolicy(delay=0))
        done = ended(backend, backend.enqueue("q"))
        assert (done.status, done.result) == (Status.SUCCEEDED, done.retries + 1)
        gate.set()
        eventually(lambda: backend.stats().abandoned == 0, "the stuck thread ends")
        again = backend.get(id_of(done))
        assert again is not None
        assert (again.result, again.retries) == (done.result, done.retries)

    def test_too_many_stuck_threads(
        self, make: Make, seen: Seen, gate: threading.Event, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A queue that left max_abandoned threads behind claims no more, and says so at CRITICAL."""
        backend = make(max_abandoned=1, max_retries=0)

        def handler(job: Job) -> None:
            seen(job.payload["n"])
            hang(gate)

        backend.listen("q", handler, concurrency=1, timeout=SHORT)
        ended(backend, backend.enqueue("q", {"n": 0}))
        waiting = backend.enqueue("q", {"n": 1})
        eventually(lambda: any(r.levelno == logging.CRITICAL for r in caplog.records), "it is said")
        seen.stays(1)
        found = backend.get(id_of(waiting))
        assert found is not None
        assert found.status is Status.PENDING

    def test_a_shield_holds_the_interrupt_back(self, backend: Backend, seen: Seen) -> None:
        """No interrupt lands inside job.shield(); one that came meanwhile is raised at its end."""

        def handler(job: Job) -> None:
            with job.shield():
                eventually(lambda: job.cancelled, "the job is asked to stop")
                seen("shielded")
            seen("never")

        backend.listen("q", handler, timeout=SHORT, max_retries=0)
        dead = ended(backend, backend.enqueue("q"))
        assert dead.error is not None
        assert dead.error.startswith("JobTimeout: ")
        assert seen.items == ["shielded"]

    def test_a_shield_that_was_not_needed(self, backend: Backend) -> None:
        """A shield under which nothing happens changes nothing, nested or not."""

        def handler(job: Job) -> str:
            with job.shield(), job.shield():
                pass
            return "done"

        backend.listen("q", handler)
        assert ended(backend, backend.enqueue("q")).result == "done"


class CancelRunningCases(Suite):
    """cancel() of a job that runs."""

    def test_a_running_job_is_interrupted(self, backend: Backend, seen: Seen, gate: threading.Event) -> None:
        """JobCancelled is raised inside the handler; the job is CANCELLED and not tried again."""
        backend.listen("q", reports(seen, gate), retry=RetryPolicy(delay=0))
        job = backend.enqueue("q")
        seen.wait()
        assert backend.cancel(id_of(job)) is True
        done = reached(backend, job, Status.CANCELLED)
        assert seen.wait(2) == [1, JobCancelled]
        assert done.finished_at is not None
        seen.stays(2)

    def test_a_running_job_can_see_it(self, backend: Backend, seen: Seen) -> None:
        """job.cancelled turns true in the handler of a job that is cancelled."""

        def handler(job: Job) -> None:
            with job.shield():
                seen(job.cancelled)
                eventually(lambda: job.cancelled, "the job is asked to stop")
                seen(job.cancelled)

        backend.listen("q", handler)
        job = backend.enqueue("q")
        seen.wait()
        backend.cancel(id_of(job))
        assert seen.wait(2) == [False, True]
        reached(backend, job, Status.CANCELLED)

    def test_a_job_that_fails_as_it_is_cancelled(
        self, backend: Backend, seen: Seen, gate: threading.Event
    ) -> None:
        """A job that was cancelled and raises something else is not tried again."""

        def handler(job: Job) -> None:
            seen(job.attempt)
            try:
                busy(gate)
            except JobInterrupted:
                raise RuntimeError("while cleaning up") from None

        backend.listen("q", handler, retry=RetryPolicy(delay=0))
        job = backend.enqueue("q")
        seen.wait()
        backend.cancel(id_of(job))
        reached(backend, job, Status.CANCELLED)
        seen.stays(1)

    def test_a_hung_job_is_cancelled(self, backend: Backend, seen: Seen, gate: threading.Event) -> None:
        """A cancelled job that hangs in C is left behind like one that timed out."""

        def handler(job: Job) -> None:
            seen(job.payload["n"])
            if job.payload["n"] == 0:
                hang(gate)

        backend.listen("q", handler, concurrency=1)
        job = backend.enqueue("q", {"n": 0})
        seen.wait()
        backend.cancel(id_of(job))
        reached(backend, job, Status.CANCELLED)
        assert ended(backend, backend.enqueue("q", {"n": 1})).status is Status.SUCCEEDED

    def test_only_that_job_is_cancelled(self, backend: Backend, seen: Seen, gate: threading.Event) -> None:
        """Cancelling one running job leaves its neighbours alone."""

        def handler(job: Job) -> int:
            seen(job.payload["n"])
            busy(gate)
            return 1

        backend.listen("q", handler, concurrency=3)
        jobs = [backend.enqueue("q", {"n": n}) for n in range(3)]
        seen.wait(3)
        backend.cancel(id_of(jobs[1]))
        reached(backend, jobs[1], Status.CANCELLED)
        gate.set()
        assert [ended(backend, job).result for job in jobs] == [1, None, 1]
