"""wait and watch: how the end and the progress of a job reach the threads that wait, in any process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from neoq.backend import Backend
from neoq.errors import NeoqError
from neoq.job import Job
from neoq.record import Status
from neoq.testing.cases.suite import (
    LATER,
    PATIENCE,
    Background,
    Make,
    Seen,
    Suite,
    eventually,
    fail,
    id_of,
    ignore,
    in_threads,
    needs,
)

RARELY = 3600.0  # seconds between heartbeats, where these are not to help


def report_and_wait(seen: Seen, gate: threading.Event) -> Callable[[Job], None]:
    """A handler that reports some progress, and ends when the gate opens."""

    def handler(job: Job) -> None:
        job.progress(0.25, "a quarter")
        seen()
        while not gate.wait(0.01):
            pass

    return handler


def watched(backend: Backend, job: Job, timeout: float = PATIENCE) -> list[Job]:
    """All that a watch yields."""
    return list(backend.watch(id_of(job), timeout))


class WatchCases(Suite):
    """Watching one job."""

    def test_a_watch_from_the_beginning_to_the_end(
        self, waiting: Backend, seen: Seen, gate: threading.Event
    ) -> None:
        """watch() yields the job as it is, then as it runs, with its progress, and at last as it ended."""
        waiting.listen("q", report_and_wait(seen, gate))
        job = waiting.enqueue("q")
        snapshots = waiting.watch(id_of(job), PATIENCE)
        first = next(snapshots)
        assert (first.status, first.progress()) == (Status.PENDING, None)
        waiting.start()
        found = [next(snapshot for snapshot in snapshots if snapshot.progress() is not None)]
        assert (found[0].status, found[0].progress()) == (Status.RUNNING, (0.25, "a quarter"))
        gate.set()
        found += list(snapshots)
        assert [snapshot.status for snapshot in found] == [Status.RUNNING, Status.SUCCEEDED]
        assert found[-1].progress() == (1.0, "a quarter")

    def test_a_watch_sees_attempts_that_fail(self, waiting: Backend) -> None:
        """watch() yields a job that waits for its next attempt, and ends when it is dead."""
        waiting.listen("q", fail, max_retries=0)
        snapshots = waiting.watch(id_of(waiting.enqueue("q")), PATIENCE)
        assert next(snapshots).status is Status.PENDING
        waiting.start()
        last = list(snapshots)[-1]
        assert last.status is Status.DEAD
        assert last.error is not None

    def test_a_watch_of_a_finished_job(self, backend: Backend) -> None:
        """watch() yields a finished job once."""
        backend.listen("q", ignore)
        job = backend.wait(id_of(backend.enqueue("q")), PATIENCE)
        assert [snapshot.status for snapshot in watched(backend, job)] == [Status.SUCCEEDED]

    def test_a_watch_of_a_job_that_is_not_there(self, backend: Backend) -> None:
        """watch() raises NeoqError for a job of which nothing is known."""
        backend.listen("q", ignore)
        with pytest.raises(NeoqError, match="not found"):
            next(backend.watch(12345))

    def test_a_watch_ends_in_time(self, waiting: Backend) -> None:
        """watch() raises TimeoutError after its timeout, however often it has yielded."""
        waiting.listen("q", ignore)
        snapshots = waiting.watch(id_of(waiting.enqueue("q", run_after=LATER)), 0.05)
        assert next(snapshots).status is Status.PENDING
        with pytest.raises(TimeoutError, match="PENDING"):
            next(snapshots)

    def test_a_watch_and_a_wait_end_when_the_job_is_cancelled(self, waiting: Backend) -> None:
        """wait() and watch() end when somebody cancels the waiting job."""
        waiting.listen("q", ignore)
        job = waiting.enqueue("q", run_after=LATER)
        waiter = Background(lambda: waiting.wait(id_of(job), PATIENCE))
        watcher = Background(lambda: watched(waiting, job))
        assert waiter.blocks()
        assert watcher.blocks()
        waiting.cancel(id_of(job))
        assert waiter.result().status is Status.CANCELLED
        assert [snapshot.status for snapshot in watcher.result()] == [Status.PENDING, Status.CANCELLED]

    def test_a_watch_that_is_left(self, backend: Backend, seen: Seen, gate: threading.Event) -> None:
        """A watch that nobody reads on leaves nothing behind: nothing is awaited any more."""
        backend.listen("q", report_and_wait(seen, gate))
        snapshots = backend.watch(id_of(backend.enqueue("q")), PATIENCE)
        next(snapshots)
        assert not backend.engine.awaited


class FarWaitCases(Suite):
    """Waiting in one process for what another does."""

    @needs("shared")
    def test_a_process_that_runs_no_jobs_waits(self, make: Make, join: Make) -> None:
        """wait() returns in a process that only enqueues, as soon as another process has run the job."""
        worker = make()
        worker.listen("q", lambda job: job.payload)
        other = join(worker, autostart=False)
        for number in range(5):
            job = other.enqueue("q", {"n": number})
            assert other.wait(id_of(job), PATIENCE).result == {"n": number}

    @needs("shared")
    def test_many_threads_wait(self, make: Make, join: Make, gate: threading.Event) -> None:
        """Many threads wait at once for jobs of another process, and each gets its own."""
        worker = make()
        worker.listen("q", lambda job: gate.wait(PATIENCE) and job.payload["n"], concurrency=4)
        other = join(worker, autostart=False)
        jobs = other.enqueue_many([Job("q", {"n": n}) for n in range(50)])

        def wait(at: int) -> Any:
            return other.wait(id_of(jobs[at]), PATIENCE).result

        waiter = Background(lambda: in_threads(len(jobs), wait))
        eventually(lambda: len(other.engine.awaited.ids()) == len(jobs), "all wait")
        gate.set()
        assert waiter.result() == list(range(50))

    @needs("shared")
    def test_progress_is_seen_elsewhere_at_once(
        self, make: Make, join: Make, seen: Seen, gate: threading.Event
    ) -> None:
        """A report of progress is soon seen in another process, long before the next heartbeat."""
        worker = make(heartbeat=RARELY / 2, lease=RARELY)
        worker.listen("q", report_and_wait(seen, gate))
        other = join(worker, autostart=False)
        job = other.enqueue("q")

        def look() -> Any:
            found = other.get(id_of(job))
            return found is not None and found.progress()

        assert eventually(look, "progress is seen") == (0.25, "a quarter")

    @needs("shared")
    def test_a_watch_of_a_job_that_another_process_runs(
        self, make: Make, join: Make, seen: Seen, gate: threading.Event
    ) -> None:
        """watch() yields what a job does in another process, to its end."""
        worker = make()
        worker.listen("q", report_and_wait(seen, gate))
        other = join(worker, autostart=False)
        snapshots = other.watch(id_of(other.enqueue("q")), PATIENCE)
        found = next(snapshot for snapshot in snapshots if snapshot.progress() is not None)
        assert (found.status, found.progress()) == (Status.RUNNING, (0.25, "a quarter"))
        gate.set()
        assert list(snapshots)[-1].status is Status.SUCCEEDED

    @needs("shared")
    def test_a_wait_ends_when_another_process_cancels(self, make: Make, join: Make) -> None:
        """wait() ends when another process cancels the job, or deletes it."""
        first = make()
        second = join(first, autostart=False)
        cancelled, deleted = first.enqueue_many([Job("q", {"n": n}) for n in range(2)])
        waiter = Background(lambda: first.wait(id_of(cancelled), PATIENCE))
        other = Background(lambda: first.wait(id_of(deleted), PATIENCE))
        assert waiter.blocks()
        assert other.blocks()
        assert second.cancel(id_of(cancelled))
        assert waiter.result().status is Status.CANCELLED
        assert second.delete(id_of(deleted))
        with pytest.raises(NeoqError, match="not found"):
            other.result()
