"""Drain, shutdown and fork: nothing disappears silently."""

from __future__ import annotations

import logging
import os
import select
import signal
import threading
import time
import warnings
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from neoq.backend import Backend
from neoq.engine.report import ShutdownReport
from neoq.errors import BackendClosedError, NeoqError, ShutdownRequested
from neoq.job import Job
from neoq.record import Status
from neoq.retry import RetryPolicy
from neoq.store import Page
from neoq.testing.cases.suite import (
    LATER,
    PATIENCE,
    Background,
    Make,
    Seen,
    Suite,
    busy,
    ended,
    eventually,
    fail,
    hang,
    id_of,
    ignore,
    in_threads,
    needs,
    reached,
    unfinished_jobs,
    without,
)


def ids(jobs: list[Job]) -> list[int]:
    """The ids of jobs, sorted."""
    return sorted(id_of(job) for job in jobs)


def everything(report: ShutdownReport) -> list[list[Job]]:
    """The four lists of a report."""
    return [report.finished, report.interrupted, report.given_back, report.lost]


def held(seen: Seen, gate: threading.Event) -> Callable[[Job], None]:
    """Return a handler that reports its number, works until the gate opens, and tells what stopped it."""

    def handler(job: Job) -> None:
        seen(job.payload["n"])
        try:
            busy(gate)
        except BaseException as error:
            seen(type(error))
            raise

    return handler


class DrainCases(Suite):
    """drain()."""

    def test_drain_until_all_is_settled(self, backend: Backend) -> None:
        """drain() is True when every job that was ready has been settled."""
        backend.listen("q", ignore, concurrency=2)
        jobs = backend.enqueue_many([Job("q", {"n": n}) for n in range(100)])
        assert backend.drain(PATIENCE) is True
        assert {backend.get(id_of(job)).status for job in jobs} == {Status.SUCCEEDED}  # type: ignore[union-attr]

    def test_drain_with_nothing_to_do(self, backend: Backend) -> None:
        """drain() of a backend without jobs is True at once."""
        backend.listen("q", ignore)
        assert backend.drain(PATIENCE) is True
        assert backend.drain() is True

    def test_drain_waits_for_what_a_handler_enqueues(self, backend: Backend) -> None:
        """drain() waits for the jobs that the jobs enqueue, too."""

        def handler(job: Job) -> None:
            if job.payload["n"]:
                backend.enqueue("q", {"n": job.payload["n"] - 1})

        backend.listen("q", handler)
        backend.enqueue("q", {"n": 30})
        assert backend.drain(PATIENCE) is True
        assert len(backend.jobs("q", Status.SUCCEEDED)) == 31

    def test_drain_has_a_timeout(self, backend: Backend, seen: Seen, gate: threading.Event) -> None:
        """drain() is False when the time runs out before a running job ends, or a waiting one starts."""
        backend.listen("q", held(seen, gate), concurrency=1)
        for n in range(2):
            backend.enqueue("q", {"n": n})
        assert backend.drain(0.05) is False
        gate.set()
        assert backend.drain(PATIENCE) is True

    def test_what_drain_does_not_wait_for(self, backend: Backend) -> None:
        """drain() waits neither for future, nor for retrying, nor for paused jobs."""
        for queue in ("future", "paused"):
            backend.listen(queue, ignore)
        backend.listen("failing", fail, retry=RetryPolicy(delay=LATER))
        backend.pause("paused")
        backend.enqueue("future", run_after=LATER)
        backend.enqueue("paused")
        backend.enqueue("failing")
        assert backend.drain(PATIENCE) is True
        assert sorted(job.status.name for job in unfinished_jobs(backend)) == [
            "PENDING",
            "PENDING",
            "RETRYING",
        ]

    def test_drain_inside_a_handler(self, backend: Backend) -> None:
        """drain() inside a handler, which would wait for itself, raises."""
        backend.listen("q", lambda _job: backend.drain(), max_retries=0)
        dead = ended(backend, backend.enqueue("q"))
        assert dead.status is Status.DEAD
        assert dead.error is not None
        assert dead.error.startswith(NeoqError.__name__)

    def test_drain_before_the_start(self, waiting: Backend) -> None:
        """drain() of jobs that nobody runs yet raises instead of waiting for ever."""
        waiting.listen("q", ignore)
        waiting.enqueue("q")
        with pytest.raises(NeoqError):
            waiting.drain(PATIENCE)

    @needs("durable")
    def test_drain_and_queues_without_a_listener(self, backend: Backend) -> None:
        """drain() does not wait for queues that nobody here listens on."""
        backend.listen("q", ignore)
        backend.enqueue("nobody")
        assert backend.drain(PATIENCE) is True


class ShutdownCases(Suite):
    """shutdown()."""

    def test_of_an_idle_backend(self, backend: Backend) -> None:
        """shutdown() of a backend that has done its work reports nothing."""
        backend.listen("q", ignore)
        ended(backend, backend.enqueue("q"))
        assert backend.drain(PATIENCE)
        assert everything(backend.shutdown(timeout=5)) == [[], [], [], []]

    def test_of_a_backend_never_used(self, backend: Backend) -> None:
        """shutdown() of a backend that was never used reports nothing, and closes it."""
        assert everything(backend.shutdown()) == [[], [], [], []]
        with pytest.raises(BackendClosedError):
            backend.listen("q", ignore)

    def test_it_waits_for_what_runs(self, backend: Backend, seen: Seen, gate: threading.Event) -> None:
        """A running job is waited for, and reported as finished."""
        backend.listen("q", held(seen, gate))
        job = backend.enqueue("q", {"n": 0})
        seen.wait()
        stopping = Background(lambda: backend.shutdown(timeout=PATIENCE))
        assert stopping.blocks()
        gate.set()
        report = stopping.result()
        assert (ids(report.finished), seen.items) == ([job.id], [0])
        assert [done.status for done in report.finished] == [Status.SUCCEEDED]
        assert everything(report)[1:] == [[], [], []]

    def test_it_starts_nothing_more(self, backend: Backend, seen: Seen, gate: threading.Event) -> None:
        """Jobs that wait behind a running one are not started any more."""
        backend.listen("q", held(seen, gate), concurrency=1)
        jobs = [backend.enqueue("q", {"n": n}) for n in range(4)]
        seen.wait()
        stopping = Background(lambda: backend.shutdown(timeout=PATIENCE))
        assert stopping.blocks()
        gate.set()
        report = stopping.result()
        assert seen.items == [0]
        assert ids(report.finished) == [jobs[0].id]
        if "durable" not in self.features:
            assert ids(report.lost) == ids(jobs[1:])
        assert report.interrupted == []

    def test_it_interrupts_what_runs_too_long(
        self, backend: Backend, seen: Seen, gate: threading.Event
    ) -> None:
        """When the time is up ShutdownRequested is raised in what still runs, and the job is not charged."""
        backend.listen("q", held(seen, gate), max_retries=0)
        job = backend.enqueue("q", {"n": 0})
        seen.wait()
        report = backend.shutdown(timeout=0.05)
        assert seen.wait(2) == [0, ShutdownRequested]
        assert (ids(report.interrupted), report.finished) == ([job.id], [])
        [interrupted] = report.interrupted
        assert (interrupted.status, interrupted.retries, interrupted.error) == (Status.PENDING, 0, None)
        assert ids(report.lost) == ([] if "durable" in self.features else [job.id])

    def test_it_does_not_wait_for_what_hangs(
        self, backend: Backend, seen: Seen, gate: threading.Event, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A handler that does not heed the interrupt is left behind, reported and logged."""

        def handler(_job: Job) -> None:
            seen()
            hang(gate)

        backend.listen("q", handler)
        job = backend.enqueue("q")
        seen.wait()
        report = Background(lambda: backend.shutdown(timeout=0.05)).result()
        assert ids(report.interrupted) == [job.id]
        assert any(str(job.id) in r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING)

    @without("durable")
    def test_what_memory_loses(self, backend: Backend, caplog: pytest.LogCaptureFixture) -> None:
        """Where nothing outlives the process every unfinished job is reported as lost, and in the log."""
        for queue in ("future", "paused"):
            backend.listen(queue, ignore)
        backend.listen("failing", fail, retry=RetryPolicy(delay=LATER))
        backend.pause("paused")
        jobs = [
            backend.enqueue("future", run_after=LATER),
            backend.enqueue("paused"),
            reached(backend, backend.enqueue("failing"), Status.RETRYING),
        ]
        caplog.clear()
        report = backend.shutdown(timeout=1)
        assert everything(report)[:3] == [[], [], []]
        assert ids(report.lost) == ids(jobs)
        [warning] = [record for record in caplog.records if record.levelno >= logging.WARNING]
        assert all(str(job.id) in warning.getMessage() for job in jobs)

    @without("durable")
    def test_what_memory_loses_without_a_start(self, waiting: Backend) -> None:
        """A backend that was never started reports the jobs that it accepted as lost."""
        waiting.listen("q", ignore)
        jobs = waiting.enqueue_many([Job("q", {"n": n}) for n in range(3)])
        assert ids(waiting.shutdown(timeout=1).lost) == ids(jobs)

    def test_it_is_idempotent(self, backend: Backend) -> None:
        """A second shutdown() returns the report of the first."""
        backend.listen("q", ignore)
        backend.enqueue("q", run_after=LATER)
        first = backend.shutdown(timeout=1)
        assert [ids(jobs) for jobs in everything(backend.shutdown())] == [
            ids(jobs) for jobs in everything(first)
        ]

    def test_many_may_call_it(self, backend: Backend, seen: Seen, gate: threading.Event) -> None:
        """Of threads that shut down at once all return, when it is done, with the same report."""
        backend.listen("q", held(seen, gate))
        job = backend.enqueue("q", {"n": 0})
        seen.wait()
        stopping = Background(lambda: in_threads(4, lambda _: backend.shutdown(timeout=PATIENCE)))
        assert stopping.blocks()
        gate.set()
        assert [ids(report.finished) for report in stopping.result()] == [[job.id]] * 4

    def test_afterwards_it_is_closed(self, backend: Backend) -> None:
        """After shutdown() the backend takes no jobs, no listeners and no orders."""
        backend.listen("q", ignore)
        ended(backend, backend.enqueue("q"))
        backend.shutdown(timeout=1)
        calls: list[Callable[[], object]] = [
            lambda: backend.enqueue("q", {"n": 1}),
            lambda: backend.enqueue_many([Job("q", {"n": 2})]),
            lambda: backend.listen("p", ignore),
            lambda: backend.listen_cron("@hourly", ignore),
            backend.start,
        ]
        for call in calls:
            with pytest.raises(BackendClosedError):
                call()

    def test_it_may_drain(self, backend: Backend, seen: Seen, gate: threading.Event) -> None:
        """shutdown(drain=True) runs what is ready first, and no future jobs."""
        backend.listen("q", held(seen, gate), concurrency=1)
        jobs = [backend.enqueue("q", {"n": n}) for n in range(5)]
        backend.enqueue("q", {"n": 5}, run_after=LATER)
        seen.wait()
        stopping = Background(lambda: backend.shutdown(timeout=PATIENCE, drain=True))
        assert stopping.blocks()
        gate.set()
        report = stopping.result()
        assert seen.items == [0, 1, 2, 3, 4]
        assert ids(report.finished) == ids(jobs)

    def test_draining_ends_in_time(self, backend: Backend, seen: Seen, gate: threading.Event) -> None:
        """shutdown(drain=True) gives up when its time is over."""
        backend.listen("q", held(seen, gate), concurrency=1)
        job = backend.enqueue("q", {"n": 0})
        backend.enqueue("q", {"n": 1})
        seen.wait()
        report = Background(lambda: backend.shutdown(timeout=0.1, drain=True)).result()
        assert ids(report.interrupted) == [job.id]
        assert seen.items == [0, ShutdownRequested]

    @pytest.mark.parametrize("timeout", [1e10, 1e300, timedelta.max])
    def test_the_longest_timeouts(
        self, make: Make, seen: Seen, gate: threading.Event, timeout: timedelta | float
    ) -> None:
        """Each call that waits takes a timeout longer than a thread may wait, and ends when it is time."""
        backend = make(queue_capacity=1, enqueue_timeout=timedelta(days=366), concurrency=1)
        backend.listen("q", held(seen, gate))
        job = backend.enqueue("q", {"n": 0})
        seen.wait()
        backend.pause("full")
        backend.listen("full", ignore)
        backend.enqueue("full", {"n": 0})
        producer = Background(lambda: backend.enqueue("full", {"n": 1}))
        waiter = Background(lambda: backend.wait(id_of(job), timeout))
        assert producer.blocks()
        backend.resume("full")
        producer.result()
        drain = Background(lambda: backend.drain(timeout))
        assert drain.blocks()
        assert waiter.blocks()
        stopping = [Background(lambda: backend.shutdown(timeout, drain=True)) for _ in range(2)]
        assert all(stop.blocks() for stop in stopping)
        gate.set()
        assert waiter.result().status is Status.SUCCEEDED
        assert drain.result() is True
        assert [stop.result().lost for stop in stopping] == [[], []]

    def test_a_wait_ends_with_a_job_that_ends_at_the_shutdown(
        self, backend: Backend, seen: Seen, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A wait for a job that ends as its backend shuts down returns it, though the store is closed."""
        backend.listen("q", held(seen, gate))
        job = backend.enqueue("q", {"n": 0})
        seen.wait()
        waiters: set[int] = set()
        closed = threading.Event()
        find = backend.store.find

        def wait() -> Job:
            waiters.add(threading.get_ident())
            return backend.wait(id_of(job))

        def find_late(*arguments: Any, **options: Any) -> Page:
            if gate.is_set() and threading.get_ident() in waiters:
                closed.wait(PATIENCE)
            return find(*arguments, **options)

        waiter = Background(wait)
        assert waiter.blocks()
        monkeypatch.setattr(backend.store, "find", find_late)
        gate.set()
        backend.shutdown()
        closed.set()
        assert waiter.result().status is Status.SUCCEEDED

    def test_a_handler_may_call_it(self, backend: Backend, seen: Seen) -> None:
        """A handler that shuts its own backend down is neither awaited nor interrupted by it."""

        def handler(job: Job) -> str:
            backend.shutdown(timeout=1)
            seen(job.cancelled)
            time.sleep(0.05)
            return "to the end"

        backend.listen("q", handler)
        backend.enqueue("q")
        assert seen.wait() == [False]
        eventually(self._no_threads_left, "its threads end")

    @staticmethod
    def _no_threads_left() -> bool:
        return not any(thread.name.startswith("neoq-") for thread in threading.enumerate())

    def test_a_handler_may_enqueue_meanwhile(
        self, backend: Backend, seen: Seen, gate: threading.Event
    ) -> None:
        """A job that is waited for may enqueue to the end; what it adds is not lost without a word."""

        def handler(job: Job) -> None:
            seen(job.payload["n"])
            busy(gate)
            seen(id_of(backend.enqueue("q", {"n": job.payload["n"] + 1})))

        backend.listen("q", handler)
        job = backend.enqueue("q", {"n": 0})
        seen.wait()
        stopping = Background(lambda: backend.shutdown(timeout=PATIENCE))
        assert stopping.blocks()
        gate.set()
        report = stopping.result()
        assert ids(report.finished) == [job.id]
        _, child = seen.wait(2)
        assert ids(report.lost) == ([] if "durable" in self.features else [child])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform does not fork")
class ForkCases(Suite):
    """After os.fork."""

    def test_the_child_begins_afresh(self, backend: Backend, seen: Seen) -> None:
        """The child of a fork uses the backend as if it were new; the parent's goes on as before."""

        def handler(job: Job) -> int:
            seen(job.payload["n"])
            return int(job.payload["n"]) + 1

        backend.listen("q", handler, concurrency=2)
        ended(backend, backend.enqueue("q", {"n": 0}))
        kept = backend.enqueue("q", {"n": 1}, run_after=LATER)

        def child() -> str:
            job = backend.enqueue("q", {"n": 2})
            done = backend.wait(id_of(job), timeout=PATIENCE)
            future = [job.payload["n"] for job in unfinished_jobs(backend)]
            backend.shutdown(timeout=1)
            return f"{done.result} {future}"

        expected = "3 [1]" if "durable" in self.features else "3 []"
        assert in_child(child) == expected
        assert ended(backend, backend.enqueue("q", {"n": 3})).result == 4
        assert [job.id for job in unfinished_jobs(backend)] == [kept.id]

    def test_a_busy_parent(self, backend: Backend, seen: Seen, gate: threading.Event) -> None:
        """A fork while jobs run and producers are at work takes no lock with it into the child."""
        backend.listen("q", held(seen, gate), concurrency=1)
        backend.listen("p", ignore, concurrency=1)
        job = backend.enqueue("q", {"n": 0})
        seen.wait()
        stop = threading.Event()

        def produce() -> None:
            n = 0
            while not stop.wait(0.0005):
                backend.enqueue("p", {"n": (n := n + 1)}, run_after=n % 2 / 1000)

        producer = Background(produce)

        def child() -> str:
            job = backend.enqueue("p", {"child": True})
            status = backend.wait(id_of(job), timeout=PATIENCE).status.name
            backend.shutdown(timeout=1)
            return status

        try:
            assert [in_child(child) for _ in range(3)] == ["SUCCEEDED"] * 3
        finally:
            stop.set()
        producer.result()
        gate.set()
        assert ended(backend, job).status is Status.SUCCEEDED


def in_child(work: Callable[[], str]) -> str:
    """Run ``work`` in a forked child, and return what it returned."""
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about forking with threads, which is the point
        pid = os.fork()
    if pid == 0:
        _answer(work, write)
    os.close(write)
    try:
        ready, _, _ = select.select([read], [], [], 2 * PATIENCE)
        if not ready:
            os.kill(pid, signal.SIGKILL)
        with os.fdopen(read, "rb") as pipe:
            answer = pipe.read().decode()
    finally:
        os.waitpid(pid, 0)
    assert answer, "the child did not answer"
    return answer


def _answer(work: Callable[[], str], write: int) -> None:
    """Write what ``work`` returns, and end this process whatever happens."""
    try:
        try:
            answer = work()
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}"
        os.write(write, answer.encode())
    finally:
        os._exit(0)
