"""Stores that outlive a process, and stores that several share: at least once, never twice at a time."""

from __future__ import annotations

import os
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from neoq.attempts import one_more
from neoq.backend import Backend
from neoq.errors import JobCancelled
from neoq.job import DuplicateJobError, Job
from neoq.outcome import WORKER_DIED, Failure
from neoq.record import Status
from neoq.retry import RetryPolicy
from neoq.store import Demand, Reclaimed, Tick
from neoq.testing.cases.seam import claim, how_it_ended, lease_of, look, numbers
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
    id_of,
    ignore,
    in_threads,
    needs,
    prepared,
    reached,
    unfinished_jobs,
)
from neoq.testing.faults import Faults

SHORT_LEASE = {"lease": 0.6, "heartbeat": 0.1}


class DurableCases(Suite):
    """What is there after the process is gone."""

    def spoil(self, backend: Backend, job: Job) -> bool:  # noqa: ARG002
        """Damage the stored record of a job that waits, as others might; False where nothing was done."""
        return False

    @needs("durable")
    def test_a_record_that_cannot_be_read(self, waiting: Backend, seen: Seen) -> None:
        """A job that cannot be read is dead with that as its error, can be deleted, and stops no other."""
        jobs = [waiting.enqueue("q", {"n": n}) for n in range(3)]
        if not self.spoil(waiting, jobs[1]):
            pytest.skip("the suite of this backend does not override spoil()")
        assert {job.id for job in waiting.jobs()} == {job.id for job in jobs}
        waiting.stats()
        waiting.listen("q", lambda job: seen(job.id))
        waiting.start()
        assert sorted(seen.wait(2)) == [jobs[0].id, jobs[2].id]
        dead = reached(waiting, jobs[1], Status.DEAD)
        assert dead.error is not None
        assert dead.error.startswith("Unreadable: ")
        assert waiting.delete(id_of(dead))
        assert waiting.get(id_of(dead)) is None

    @needs("durable")
    def test_a_waiting_job_is_kept(self, make: Make, again: Make) -> None:
        """A waiting job is found as it was by the next process, and runs there."""
        first = make()
        options: dict[str, Any] = {"priority": 7, "max_retries": 3, "meta": {"a": "b"}, "key": "k"}
        job = first.enqueue("q", {"n": [1, "\N{SNOWMAN}"]}, run_after=0.3, deadline=LATER, **options)
        first.shutdown(timeout=1)
        second = again(first)
        found = second.get(id_of(job))
        assert found is not None
        for name in (
            "queue",
            "payload",
            "fingerprint",
            "status",
            "run_after",
            "deadline",
            "created_at",
            *options,
        ):
            assert getattr(found, name) == getattr(job, name), name
        second.listen("q", ignore)
        assert ended(second, job).status is Status.SUCCEEDED

    @needs("durable")
    def test_what_has_ended_is_kept(self, make: Make, again: Make) -> None:
        """Dead jobs with their errors, and results, are found by the next process."""
        first = make()
        first.listen("q", lambda _job: [1])
        first.listen("failing", fail, max_retries=0)
        done = ended(first, first.enqueue("q"))
        dead = ended(first, first.enqueue("failing", {"a": 1}))
        first.shutdown(timeout=1)
        second = again(first)
        assert ended(second, done).result == [1]
        assert ended(second, dead).error == "RuntimeError: it always fails"
        second.listen("failing", ignore)
        assert second.retry(id_of(dead))
        assert reached(second, dead, Status.SUCCEEDED).payload == {"a": 1}

    @needs("durable")
    def test_a_fingerprint_is_kept(self, make: Make, again: Make) -> None:
        """An unfinished job holds its fingerprint for the next process, whether it waits or retries."""
        first = make()
        first.listen("q", fail, retry=RetryPolicy(delay=LATER))
        waiting = first.enqueue("q", {"n": 1}, run_after=LATER)
        retrying = reached(first, first.enqueue("q", {"n": 2}), Status.RETRYING)
        first.shutdown(timeout=1)
        second = again(first)
        for job in (waiting, retrying):
            with pytest.raises(DuplicateJobError) as caught:
                second.enqueue("q", job.payload, on_duplicate="raise")
            assert caught.value.job.id == job.id
        assert ended_retry(second, retrying) == (1, "RuntimeError: it always fails")

    @needs("durable")
    def test_a_pause_is_kept(self, make: Make, again: Make, seen: Seen) -> None:
        """A paused queue is paused for the next process."""
        first = make()
        first.pause("q")
        first.enqueue("q")
        first.shutdown(timeout=1)
        second = again(first)
        second.listen("q", lambda job: seen(job.id))
        second.listen("p", ignore)
        ended(second, second.enqueue("p"))
        seen.stays(0)
        second.resume("q")
        seen.wait()

    @needs("durable")
    def test_a_tick_is_kept(self, make: Make, again: Make) -> None:
        """A tick recorded by one process exists for the next."""
        tick = datetime(2030, 1, 1, tzinfo=UTC)
        first = make(autostart=False)
        first.queues()
        assert first.store.add_tick("cron", tick, prepared("cron", fingerprint="cron")) is Tick.NEW
        first.shutdown(timeout=1)
        second = again(first, autostart=False)
        second.queues()
        assert second.store.last_tick("cron") == tick
        assert second.store.add_tick("cron", tick, prepared("cron", fingerprint="cron")) is Tick.EXISTS

    @needs("durable")
    def test_shutdown_gives_back(self, make: Make, again: Make, seen: Seen, gate: threading.Event) -> None:
        """What shutdown interrupted or did not start runs in the next process, uncharged."""
        first = make()

        def work(_job: Job) -> None:
            seen()
            busy(gate)

        first.listen("q", work, concurrency=1, max_retries=0)
        jobs = [first.enqueue("q", {"n": n}) for n in range(5)]
        seen.wait()
        report = first.shutdown(timeout=0.05)
        assert report.lost == []
        assert [job.id for job in report.interrupted] == [jobs[0].id]
        second = again(first)
        assert [job.retries for job in unfinished_jobs(second)] == [0] * 5
        ran = Seen()
        second.listen("q", lambda job: ran(job.payload["n"]), concurrency=1)
        assert ran.wait(5) == [0, 1, 2, 3, 4]


def ended_retry(backend: Backend, job: Job) -> tuple[int, str | None]:
    """The retries and the error of a job that waits for its next attempt."""
    found = look(backend, job)
    assert found.status is Status.RETRYING
    return found.retries, found.error


def looks_for_leases(backend: Backend, seconds: float) -> threading.Event:
    """Set once a backend has looked for leases that ran out, so many seconds from now or later."""
    looked, reclaim, due = threading.Event(), backend.store.reclaim, time.monotonic() + seconds

    def look() -> Reclaimed:
        late = time.monotonic() >= due
        reclaimed = reclaim()
        if late:
            looked.set()
        return reclaimed

    backend.store.reclaim = look  # type: ignore[method-assign]
    return looked


class LeaseCases(Suite):
    """What happens to the jobs of workers that die."""

    def die(self, backend: Backend) -> None:
        """Let the process of a backend die, as far as the store can tell.

        The claims of these cases come from backends without threads, so that nothing renews them: for a
        store that judges by leases alone there is nothing to do here.
        """

    @staticmethod
    def _open(backend: Backend) -> Backend:
        """Open the store of a backend that starts nothing by itself."""
        backend.queues()
        return backend

    @staticmethod
    def _reclaim(backend: Backend) -> Reclaimed:
        """Reclaim until something comes of it."""
        found: list[Reclaimed] = []

        def look_once() -> bool:
            reclaimed = backend.store.reclaim()
            found.append(reclaimed)
            return bool(reclaimed.returned or reclaimed.dead)

        eventually(look_once, "something is reclaimed")
        return found[-1]

    @needs("shared")
    def test_an_expired_lease(self, make: Make, join: Make) -> None:
        """The job of a worker that died is claimable after reclaim, with one crash and no retry charged."""
        first = self._open(make(autostart=False, **SHORT_LEASE))
        first.store.add([prepared("q", {"n": 0})], token=b"")
        [job] = claim(first)
        second = join(first, autostart=False, **SHORT_LEASE)
        second.queues()
        assert claim(second) == []
        self.die(first)
        reclaimed = self._reclaim(second)
        assert (numbers(reclaimed.returned), reclaimed.dead) == ([0], [])
        [again] = claim(second)
        assert (again.id, again.crashes, again.retries) == (job.id, 1, 0)
        assert second.store.add([prepared("q", {"n": 0})], token=b"")[0].duplicate

    @needs("shared")
    def test_a_worker_that_lost_its_lease(self, make: Make, join: Make) -> None:
        """A worker that was taken for dead learns that its lease is lost, and its outcome is dropped."""
        first = self._open(make(autostart=False, **SHORT_LEASE))
        first.store.add([prepared("q", {"n": 0})], token=b"")
        [old] = claim(first)
        second = join(first, autostart=False, **SHORT_LEASE)
        second.queues()
        self.die(first)
        self._reclaim(second)
        [new] = claim(second)
        assert second.store.extend([lease_of(old)]).lost == {old.id}
        assert second.store.settle([how_it_ended(old, Status.SUCCEEDED, result=b'"old"')]) == {old.id}
        assert second.store.settle([how_it_ended(new, Status.SUCCEEDED, result=b'"new"')]) == set()
        assert look(second, new).result == "new"

    @needs("shared")
    def test_a_wait_outlives_a_worker(self, make: Make, join: Make) -> None:
        """wait() goes on when the worker dies that has the job, until another worker has run it."""
        first = self._open(make(autostart=False, **SHORT_LEASE))
        [job] = first.store.add([prepared("q", {"n": 0})], token=b"")
        claim(first)
        other = join(first, autostart=False)
        waiter = Background(lambda: other.wait(id_of(job), PATIENCE))
        assert waiter.blocks()
        second = join(first, **SHORT_LEASE)
        second.listen("q", lambda _job: "second")
        self.die(first)
        assert waiter.result().result == "second"

    @needs("shared")
    def test_a_renewed_lease(self, make: Make, join: Make) -> None:
        """A lease that is renewed in time is left alone however long the job takes."""
        first = self._open(make(autostart=False, **SHORT_LEASE))
        first.store.add([prepared("q", {"n": 0})], token=b"")
        [job] = claim(first)
        second = join(first, autostart=False, **SHORT_LEASE)
        second.queues()
        until = time.monotonic() + 3 * SHORT_LEASE["lease"]
        late = False
        while time.monotonic() < until:
            began = time.monotonic()
            assert first.store.extend([lease_of(job)]).lost == set() or late
            assert second.store.reclaim() == ([], []) or late
            time.sleep(0.05)
            late = late or time.monotonic() - began > SHORT_LEASE["lease"] / 2
        assert late or first.store.settle([how_it_ended(job, Status.SUCCEEDED)]) == set()

    @needs("shared")
    def test_a_job_that_kills_its_workers(self, make: Make, join: Make) -> None:
        """A job whose worker died max_crashes times is DEAD, and says so."""
        first = self._open(make(autostart=False, max_crashes=2, **SHORT_LEASE))
        first.store.add([prepared("q", {"n": 0})], token=b"")
        for crash in (1, 2):
            worker = join(first, autostart=False, max_crashes=2, **SHORT_LEASE)
            worker.queues()
            [job] = claim(worker)
            self.die(worker)
            reclaimed = self._reclaim(first)
            assert (len(reclaimed.returned), len(reclaimed.dead)) == ((1, 0) if crash == 1 else (0, 1))
        dead = look(first, job)
        assert (dead.status, dead.crashes) == (Status.DEAD, 2)
        assert dead.error
        assert claim(first) == []
        assert not first.store.add([prepared("q", {"n": 0})], token=b"")[0].duplicate

    @needs("shared")
    def test_the_attempt_of_a_worker_that_died_is_kept(self, make: Make, join: Make) -> None:
        """attempts() has an attempt whose worker died, after those before it: when and where it ran."""
        first = self._open(make(autostart=False, **SHORT_LEASE))
        first.store.add([prepared("q", {"n": 0})], token=b"")
        worker = join(first, autostart=False, **SHORT_LEASE)
        worker.queues()
        [job] = claim(worker)
        before = one_more(None, "ValueError: no", None, started=1.0, finished=2.0, worker="w")
        failure = Failure("ValueError", "no", "")
        again = how_it_ended(
            job, Status.RETRYING, run_after=time.time(), charged=True, failure=failure, failed_attempts=before
        )
        assert worker.store.settle([again]) == set()
        began = datetime.now(UTC) - timedelta(seconds=1)
        [job] = claim(worker)
        self.die(worker)
        self._reclaim(first)
        earlier, crashed = first.attempts(id_of(job))
        assert (earlier.number, earlier.error, earlier.worker) == (1, "ValueError: no", "w")
        assert (crashed.number, crashed.traceback) == (2, None)
        assert crashed.error == WORKER_DIED
        assert crashed.worker == worker.engine.worker_id
        assert began <= crashed.started_at <= crashed.finished_at <= datetime.now(UTC) + timedelta(seconds=1)  # type: ignore[operator]
        [job] = claim(first)
        assert first.store.settle([how_it_ended(job, Status.SUCCEEDED)]) == set()
        assert [attempt.number for attempt in first.attempts(id_of(job))] == [1, 2, 3]

    @needs("shared")
    def test_a_job_with_a_crash_is_claimed_alone(self, make: Make, join: Make) -> None:
        """A job with a crash behind it is never claimed together with others, which it could condemn."""
        first = self._open(make(autostart=False, **SHORT_LEASE))
        first.store.add([prepared("q", {"n": 0})], token=b"")
        worker = join(first, autostart=False, **SHORT_LEASE)
        worker.queues()
        claim(worker)
        self.die(worker)
        self._reclaim(first)
        first.store.add([prepared("q", {"n": n}) for n in (1, 2, 3)], token=b"")
        batches = []
        while batch := first.store.claim([Demand("q", 10)]).jobs:
            batches.append(numbers(batch))
        assert [0] in batches
        assert sorted(n for batch in batches for n in batch) == [0, 1, 2, 3]

    @needs("shared")
    def test_a_live_worker_keeps_its_job(
        self, make: Make, join: Make, seen: Seen, gate: threading.Event
    ) -> None:
        """A job that runs longer than a lease stays with its worker: its heartbeats renew the lease."""
        settings = {"lease": 2.0, "heartbeat": 0.1}
        first = make(**settings)

        def work(job: Job) -> str:
            seen(job.attempt)
            busy(gate)
            return "done"

        first.listen("q", work)
        job = first.enqueue("q")
        seen.wait()
        second = join(first, **settings)
        looked = looks_for_leases(second, 1.25 * settings["lease"])
        second.listen("q", work)
        seen.stays(1)
        assert looked.wait(PATIENCE)
        gate.set()
        assert ended(second, job).result == "done"
        assert seen.items == [1]

    @needs("shared")
    def test_a_job_that_has_ended_keeps_its_lease(self, make: Make, join: Make, seen: Seen) -> None:
        """A job whose end is not recorded yet, since its worker is behind with that, is run by no other."""
        settings = {"lease": 2.0, "heartbeat": 0.1}
        first = make(**settings)
        with Faults(first).paused("settle"):
            first.listen("q", lambda job: seen(job.attempt))
            job = first.enqueue("q")
            seen.wait()
            second = join(first, **settings)
            looked = looks_for_leases(second, 2.25 * settings["lease"])
            second.listen("q", lambda job: seen(job.attempt))
            assert looked.wait(PATIENCE)
        assert ended(second, job).status is Status.SUCCEEDED
        assert seen.items == [1]


class SharedCases(Suite):
    """Several processes on one store."""

    @needs("shared")
    def test_one_enqueues_and_another_runs(self, make: Make, join: Make, seen: Seen) -> None:
        """A job enqueued by one process runs in another that listens, and both can wait for it."""
        first = make()
        second = join(first)

        def work(job: Job) -> str:
            seen(job.payload)
            return "result"

        second.listen("q", work)
        job = first.enqueue("q", {"n": 1})
        assert first.wait(id_of(job), timeout=PATIENCE).result == "result"
        assert seen.items == [{"n": 1}]

    @needs("shared")
    def test_future_jobs_of_another(self, make: Make, join: Make, seen: Seen) -> None:
        """A future job of one process is on time in another."""
        first = make()
        second = join(first)
        second.listen("q", lambda job: seen((job.run_after, datetime.now(UTC))))
        first.enqueue("q", run_after=0.15)
        [(due, ran_at)] = seen.wait()
        assert ran_at >= due - timedelta(milliseconds=2)

    @needs("shared")
    def test_each_job_runs_once_in_all(self, make: Make, join: Make, seen: Seen) -> None:
        """Two processes that serve one queue share its jobs: each runs once."""
        first = make()
        second = join(first)
        for backend in (first, second):
            backend.listen("q", lambda job: seen(job.payload["n"]), concurrency=2)
        first.enqueue_many([Job("q", {"n": n}) for n in range(100)])
        for n in range(100, 200):
            second.enqueue("q", {"n": n})
        assert sorted(seen.wait(200)) == list(range(200))
        assert first.drain(PATIENCE)
        assert second.drain(PATIENCE)
        assert len(seen.items) == 200

    @needs("shared")
    def test_a_fingerprint_holds_everywhere(self, make: Make, join: Make) -> None:
        """Of processes that enqueue equal jobs at once one stores its own."""
        first = make()
        both = (first, join(first))
        for n in range(10):
            jobs = in_threads(4, lambda at, n=n: both[at % 2].enqueue("q", {"n": n}))  # type: ignore[misc]
            assert sorted(job.duplicate for job in jobs) == [False, True, True, True]
        assert len(unfinished_jobs(first)) == 10

    @needs("shared")
    def test_a_pause_holds_everywhere(self, make: Make, join: Make, seen: Seen) -> None:
        """A queue paused by one process is paused in another, and resumed from there."""
        first = make()
        second = join(first)
        second.listen("q", lambda job: seen(job.payload["n"]))
        first.pause("q")
        first.enqueue("q", {"n": 1})
        seen.stays(0)
        first.resume("q")
        assert seen.wait() == [1]

    @needs("shared")
    def test_cancel_reaches_who_runs_it(
        self, make: Make, join: Make, seen: Seen, gate: threading.Event
    ) -> None:
        """A job that runs in another process is interrupted there when it is cancelled here."""
        first = make()
        second = join(first)

        def work(_job: Job) -> None:
            seen()
            try:
                busy(gate)
            except BaseException as error:
                seen(type(error))
                raise

        second.listen("q", work)
        job = first.enqueue("q")
        seen.wait()
        assert first.cancel(id_of(job)) is True
        assert seen.wait(2)[1] is JobCancelled
        assert reached(first, job, Status.CANCELLED).finished_at is not None

    @needs("shared")
    def test_progress_is_seen_elsewhere(
        self, make: Make, join: Make, seen: Seen, gate: threading.Event
    ) -> None:
        """Progress reported in one process is seen in another while the job runs."""
        first = make()
        second = join(first)

        def work(job: Job) -> None:
            job.progress(0.5, "half")
            seen()
            busy(gate)

        second.listen("q", work)
        job = first.enqueue("q")
        seen.wait()
        eventually(lambda: look(first, job).progress() == (0.5, "half"), "it is seen")

    @needs("shared")
    def test_workers_know_each_other(self, make: Make, join: Make) -> None:
        """workers() lists every backend that listens on the store."""
        first = make()
        second = join(first)
        first.listen("p", ignore)
        second.listen("q", ignore)
        eventually(lambda: {w.queues for w in first.workers()} >= {("p",), ("q",)}, "both are known")
        assert {worker.pid for worker in second.workers()} == {os.getpid()}
        assert len({worker.id for worker in second.workers()}) == 2

    @needs("shared")
    def test_a_job_nobody_here_knows(self, make: Make, join: Make) -> None:
        """reclaim() gives back the jobs of a dead worker whatever queues this process knows."""
        first = make(autostart=False, **SHORT_LEASE)
        first.queues()
        first.store.add([prepared("theirs", {"n": 0})], token=b"")
        claim(first, queue="theirs")
        second = join(first, **SHORT_LEASE)
        second.listen("ours", ignore)
        ended(second, second.enqueue("ours"))
        eventually(
            lambda: [job.crashes for job in second.jobs("theirs", Status.PENDING)] == [1], "it is given back"
        )


class TransactionCases(Suite):
    """Jobs that join the caller's own transaction."""

    def connection(self, backend: Backend) -> Any:
        """Return a connection of the caller's own to the store, with commit, rollback and close."""
        raise NotImplementedError(f"{type(self).__name__} must say how to connect to the store of {backend}")

    @needs("transactions")
    def test_a_duplicate_in_a_transaction_takes_no_room(self, make: Make) -> None:
        """Inside a caller's transaction a full queue returns a duplicate, too."""
        backend = make(autostart=False, queue_capacity=1)
        first = backend.enqueue("q", {"n": 0})
        connection = self.connection(backend)
        met = backend.enqueue("q", {"n": 0}, transaction=connection)
        connection.commit()
        connection.close()
        assert (met.id, met.duplicate) == (first.id, True)

    @needs("transactions")
    def test_a_job_waits_for_the_commit(self, backend: Backend, seen: Seen) -> None:
        """A job enqueued in a transaction runs after its commit, not before."""
        connection = self.connection(backend)
        backend.listen("q", lambda job: seen(job.payload["n"]))
        backend.enqueue("q", {"n": 1}, transaction=connection)
        backend.enqueue_many([Job("q", {"n": 2})], transaction=connection)
        seen.stays(0)
        assert unfinished_jobs(backend) == []
        connection.commit()
        assert sorted(seen.wait(2)) == [1, 2]
        connection.close()

    @needs("transactions")
    def test_a_job_goes_with_the_rollback(self, backend: Backend) -> None:
        """A job enqueued in a transaction that is rolled back has never been."""
        connection = self.connection(backend)
        backend.listen("q", ignore)
        backend.enqueue("q", {"n": 1}, transaction=connection)
        connection.rollback()
        connection.close()
        assert not backend.enqueue("q", {"n": 1}, run_after=LATER).duplicate

    @needs("transactions")
    def test_completed_with_the_commit(self, backend: Backend) -> None:
        """A job completed in the handler's own transaction has succeeded with its commit."""

        def handler(job: Job) -> None:
            connection = self.connection(backend)
            job.complete(connection, result=[1])
            connection.commit()
            connection.close()

        backend.listen("q", handler)
        done = ended(backend, backend.enqueue("q"))
        assert (done.status, done.result) == (Status.SUCCEEDED, [1])

    @needs("transactions")
    def test_not_completed_with_the_rollback(self, backend: Backend, seen: Seen) -> None:
        """A job completed in a transaction that is rolled back, and whose handler fails, is tried again."""

        def handler(job: Job) -> None:
            seen(job.attempt)
            if job.attempt == 1:
                connection = self.connection(backend)
                job.complete(connection)
                connection.rollback()
                connection.close()
                raise RuntimeError("after all")

        backend.listen("q", handler, retry=RetryPolicy(delay=0))
        assert ended(backend, backend.enqueue("q")).status is Status.SUCCEEDED
        assert seen.items == [1, 2]

    @needs("transactions")
    def test_a_return_after_the_rollback(self, backend: Backend, seen: Seen) -> None:
        """A job completed in a transaction that is rolled back has failed, though its handler returns."""

        def handler(job: Job) -> None:
            seen((job.attempt, job.error))
            connection = self.connection(backend)
            job.complete(connection, result=job.attempt)
            if job.attempt == 1:
                connection.rollback()
            else:
                connection.commit()
            connection.close()

        backend.listen("q", handler, retry=RetryPolicy(delay=0))
        done = ended(backend, backend.enqueue("q"))
        assert (done.status, done.result, done.retries) == (Status.SUCCEEDED, 2, 1)
        assert [attempt for attempt, _ in seen.items] == [1, 2]
        assert "rolled back" in seen.items[1][1]
        backend.shutdown()
        counted = backend.engine.meter.totals()["q"].outcomes
        assert (counted["succeeded"], counted["retried"], counted["stale"]) == (1, 1, 0)

    @needs("transactions")
    def test_a_waiter_is_told(self, backend: Backend) -> None:
        """wait() returns for a job that was enqueued in a transaction, once it was committed and has run."""
        connection = self.connection(backend)
        backend.listen("q", lambda _job: 1)
        job = backend.enqueue("q", transaction=connection)
        connection.commit()
        connection.close()
        assert Background(lambda: backend.wait(id_of(job), PATIENCE)).result().result == 1
