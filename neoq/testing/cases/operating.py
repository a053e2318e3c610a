"""Looking at jobs, and taking a hand in them."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from neoq.backend import Backend
from neoq.errors import InvalidJobError, NeoqError
from neoq.job import DuplicateJobError, Job
from neoq.record import Status
from neoq.retry import RetryPolicy
from neoq.store import QueueCounts
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
    reached,
    unfinished_jobs,
)

UNKNOWN = 2**40 + 7


def counts_of(backend: Backend, queue: str) -> QueueCounts:
    """The counts of one queue."""
    return next((counts for counts in backend.queues() if counts.queue == queue), QueueCounts(queue))


class CancelCases(Suite):
    """cancel() of a job that waits."""

    def test_cancel_a_ready_job(self, waiting: Backend, seen: Seen) -> None:
        """A job that waits for a runner is CANCELLED at once, and never runs."""
        waiting.listen("q", lambda job: seen(job.payload["n"]), concurrency=1)
        first, second = waiting.enqueue_many([Job("q", {"n": n}) for n in range(2)])
        assert waiting.cancel(id_of(first)) is True
        cancelled = waiting.get(id_of(first))
        assert cancelled is not None
        assert cancelled.status is Status.CANCELLED
        assert cancelled.finished_at is not None
        waiting.start()
        ended(waiting, second)
        assert seen.items == [1]

    def test_cancel_a_future_job(self, backend: Backend, seen: Seen) -> None:
        """A job that waits for its time is CANCELLED, and its time passes without a run."""
        backend.listen("q", lambda job: seen(job.payload["n"]), concurrency=1)
        job = backend.enqueue("q", {"n": 0}, run_after=0.05)
        cancelled = backend.cancel(id_of(job))
        last = backend.enqueue("q", {"n": 1}, run_after=0.15)
        ended(backend, last)
        assert reached(backend, job, Status.CANCELLED, Status.SUCCEEDED).status is (
            Status.CANCELLED if cancelled else Status.SUCCEEDED
        )
        assert seen.items == ([1] if cancelled else [0, 1])

    def test_cancel_a_retrying_job(self, backend: Backend) -> None:
        """A job that waits for its next attempt is CANCELLED."""
        backend.listen("q", fail, retry=RetryPolicy(delay=LATER))
        job = reached(backend, backend.enqueue("q"), Status.RETRYING)
        assert backend.cancel(id_of(job)) is True
        assert ended(backend, job).status is Status.CANCELLED
        assert unfinished_jobs(backend) == []

    def test_what_cannot_be_cancelled(self, backend: Backend) -> None:
        """cancel() of a job that has ended, or that nobody knows, is False and changes nothing."""
        backend.listen("q", ignore)
        backend.listen("failing", fail, max_retries=0)
        done = ended(backend, backend.enqueue("q"))
        dead = ended(backend, backend.enqueue("failing"))
        assert backend.cancel(id_of(done)) is False
        assert backend.cancel(id_of(dead)) is False
        assert backend.cancel(UNKNOWN) is False
        assert ended(backend, done).status is Status.SUCCEEDED
        assert ended(backend, dead).status is Status.DEAD


class RetryByHandCases(Suite):
    """retry(): a dead or waiting job, now."""

    def test_retry_a_dead_job(self, backend: Backend, seen: Seen) -> None:
        """A dead job runs again at once, with its old payload."""

        def handler(job: Job) -> None:
            seen(job.payload)
            if len(seen.items) == 1:
                raise RuntimeError("the first time")

        backend.listen("q", handler, max_retries=0)
        job = ended(backend, backend.enqueue("q", {"a": 1}))
        assert job.status is Status.DEAD
        assert backend.retry(id_of(job)) is True
        done = reached(backend, job, Status.SUCCEEDED)
        assert seen.items == [{"a": 1}] * 2
        assert done.finished_at is not None

    def test_a_dead_job_has_all_its_retries_again(self, backend: Backend, seen: Seen) -> None:
        """After retry() a job may fail as often as at first."""

        def handler(job: Job) -> None:
            seen(job.attempt)
            raise RuntimeError("again")

        backend.listen("q", handler, max_retries=1, retry=RetryPolicy(delay=0))
        job = ended(backend, backend.enqueue("q"))
        assert backend.retry(id_of(job)) is True
        assert seen.wait(4) == [1, 2, 1, 2]
        reached(backend, job, Status.DEAD)

    def test_retry_a_future_job(self, backend: Backend, seen: Seen) -> None:
        """A job that waits for its time runs now."""
        backend.listen("q", lambda job: seen(job.id))
        job = backend.enqueue("q", run_after=LATER)
        assert backend.retry(id_of(job)) is True
        assert ended(backend, job).status is Status.SUCCEEDED
        assert seen.items == [job.id]

    def test_retry_a_retrying_job(self, backend: Backend, seen: Seen) -> None:
        """A job that waits for its next attempt has it now."""

        def handler(job: Job) -> None:
            seen(job.id)
            if len(seen.items) == 1:
                raise RuntimeError("the first time")

        backend.listen("q", handler, retry=RetryPolicy(delay=LATER))
        job = reached(backend, backend.enqueue("q"), Status.RETRYING)
        assert backend.retry(id_of(job)) is True
        assert ended(backend, job).status is Status.SUCCEEDED

    def test_what_cannot_be_retried(self, backend: Backend, seen: Seen, gate: threading.Event) -> None:
        """retry() of a job that runs, succeeded, was cancelled or is unknown is False, and nothing runs."""

        def handler(job: Job) -> None:
            seen(job.payload["n"])
            if job.payload["n"] == 1:
                busy(gate)

        backend.listen("q", handler)
        done = ended(backend, backend.enqueue("q", {"n": 0}))
        running = backend.enqueue("q", {"n": 1})
        seen.wait(2)
        cancelled = backend.enqueue("q", {"n": 2}, run_after=LATER)
        backend.cancel(id_of(cancelled))
        assert [backend.retry(id_of(job)) for job in (done, running, cancelled)] == [False] * 3
        assert backend.retry(UNKNOWN) is False
        seen.stays(2)

    def test_retry_and_a_taken_fingerprint(self, backend: Backend) -> None:
        """retry() of a dead job whose fingerprint another has taken raises, and the job stays dead."""
        backend.listen("q", fail, max_retries=0)
        dead = reached(backend, backend.enqueue("q", {"a": 1}), Status.DEAD)
        holder = backend.enqueue("q", {"a": 1}, run_after=LATER)
        with pytest.raises(DuplicateJobError) as caught:
            backend.retry(id_of(dead))
        assert caught.value.job.id == holder.id
        assert ended(backend, dead).status is Status.DEAD
        backend.cancel(id_of(holder))
        assert backend.retry(id_of(dead)) is True


class ProgressCases(Suite):
    """What is left of the reports of a job that has ended."""

    def test_the_progress_of_a_job_that_has_succeeded(self, backend: Backend) -> None:
        """A job that has succeeded is done, whatever it reported last; its last message is kept."""
        backend.listen("q", lambda job: job.progress(0.75, "nearly"))
        assert ended(backend, backend.enqueue("q")).progress() == (1.0, "nearly")
        backend.listen("silent", ignore)
        assert ended(backend, backend.enqueue("silent")).progress() is None

    def test_the_progress_of_a_job_that_has_failed(self, backend: Backend) -> None:
        """A dead job keeps the last report of its last attempt."""

        def handler(job: Job) -> None:
            job.progress(0.75, "nearly")
            raise RuntimeError("it fails")

        backend.listen("q", handler, max_retries=0)
        assert ended(backend, backend.enqueue("q")).progress() == (0.75, "nearly")


class ManyCases(Suite):
    """cancel, retry and delete of many jobs in one call."""

    def test_many_at_once(self, waiting: Backend) -> None:
        """cancel, retry and delete take many ids, and return the set of those that were changed."""
        waiting.listen("q", ignore)
        waiting.listen("p", ignore)
        queues = ("p", "q")
        added = waiting.enqueue_many([Job(queues[n % 2], {"n": n}, run_after=LATER) for n in range(620)])
        ids = [id_of(job) for job in added]
        assert waiting.retry(iter(ids[:610])) == set(ids[:610])
        assert waiting.stats().ready == 610
        assert waiting.cancel([*ids[:600], UNKNOWN, ids[0]]) == set(ids[:600])
        assert waiting.cancel(tuple(ids)) == set(ids[600:])
        assert waiting.stats().cancelled == 620
        assert waiting.retry(ids) == set()
        assert waiting.delete({*ids, UNKNOWN}) == set(ids)
        assert waiting.jobs() == []
        assert waiting.cancel([]) == waiting.retry(()) == waiting.delete(iter(())) == set()

    def test_many_that_are_running(self, backend: Backend, seen: Seen, gate: threading.Event) -> None:
        """Of many ids, running jobs can be cancelled, and neither retried nor deleted."""

        def handler(_job: Job) -> None:
            seen()
            busy(gate)

        backend.listen("q", handler, concurrency=2)
        jobs = backend.enqueue_many([Job("q", {"n": n}) for n in range(2)])
        ids = [id_of(job) for job in jobs]
        seen.wait(2)
        assert backend.retry(ids) == backend.delete(ids) == set()
        assert backend.cancel(ids) == set(ids)
        assert {ended(backend, job).status for job in jobs} == {Status.CANCELLED}

    @pytest.mark.parametrize("number", [1, 7, 120])
    def test_many_of_which_some_are_taken(self, backend: Backend, number: int) -> None:
        """retry() of many leaves out those whose fingerprint is taken: by another job, or by one of them."""
        backend.listen("q", fail, max_retries=0)
        dead = backend.enqueue_many([Job("q", {"n": n}) for n in range(number)])
        twins = [ended(backend, backend.enqueue("q", fingerprint="twin", payload={"n": n})) for n in "ab"]
        for job in dead:
            ended(backend, job)
        backend.pause("q")
        taken = {id_of(job) for job in dead[::3]}
        holders = backend.enqueue_many([Job("q", {"n": n}, run_after=LATER) for n in range(0, number, 3)])
        assert {job.duplicate for job in holders} == {False}
        free = {id_of(job) for job in dead} - taken
        retried = backend.retry([id_of(job) for job in (*dead, *twins)])
        assert len(retried & {id_of(job) for job in twins}) == 1
        assert retried - {id_of(job) for job in twins} == free
        assert {job.id for job in backend.jobs(status=Status.DEAD, limit=200)} >= taken
        assert backend.retry([taken.pop()]) == set()

    @pytest.mark.parametrize("name", ["cancel", "retry", "delete"])
    def test_many_of_which_one_is_no_id(self, waiting: Backend, name: str) -> None:
        """One that is no id among many is an error, and nothing is changed."""
        waiting.listen("q", ignore)
        job = waiting.enqueue("q", run_after=LATER)
        for wrong in (str(job.id), job, None, 1.0):
            with pytest.raises(InvalidJobError, match=r"job\.id"):
                getattr(waiting, name)([job.id, wrong])
        assert waiting.get(id_of(job)) is not None
        assert waiting.stats().scheduled == 1


class DeleteCases(Suite):
    """delete(): as if the job had never been."""

    def test_delete_a_waiting_job(self, waiting: Backend, seen: Seen) -> None:
        """A waiting job that is deleted is unknown from then on, and never runs."""
        waiting.listen("q", lambda job: seen(job.payload["n"]), concurrency=1)
        jobs = waiting.enqueue_many([Job("q", {"n": n}) for n in range(3)])
        jobs.append(waiting.enqueue("q", {"n": 3}, run_after=0.01))
        for job in (jobs[0], jobs[3]):
            assert waiting.delete(id_of(job)) is True
            assert waiting.get(id_of(job)) is None
            assert waiting.delete(id_of(job)) is False
        waiting.start()
        for job in jobs[1:3]:
            ended(waiting, job)
        assert [job.id for job in waiting.jobs()] == [jobs[2].id, jobs[1].id]
        assert seen.items == [1, 2]

    def test_delete_a_job_that_has_ended(self, backend: Backend) -> None:
        """A job that succeeded or died can be deleted."""
        backend.listen("q", ignore)
        backend.listen("failing", fail, max_retries=0)
        for queue in ("q", "failing"):
            job = ended(backend, backend.enqueue(queue))
            assert backend.delete(id_of(job)) is True
            assert backend.get(id_of(job)) is None
        assert (counts_of(backend, "q").succeeded, counts_of(backend, "failing").dead) == (0, 0)

    def test_delete_a_running_job(self, backend: Backend, seen: Seen, gate: threading.Event) -> None:
        """A running job is not deleted, and goes on."""

        def handler(_job: Job) -> int:
            seen()
            busy(gate)
            return 1

        backend.listen("q", handler)
        job = backend.enqueue("q")
        seen.wait()
        assert backend.delete(id_of(job)) is False
        gate.set()
        assert ended(backend, job).result == 1

    def test_delete_an_unknown_job(self, backend: Backend) -> None:
        """delete() of an unknown id is False."""
        assert backend.delete(UNKNOWN) is False


class PauseCases(Suite):
    """pause() and resume() of a queue."""

    def test_a_paused_queue_runs_nothing(self, backend: Backend, seen: Seen) -> None:
        """A paused queue accepts jobs and starts none, while others go on; resume() lets them go."""
        for queue in ("p", "q"):
            backend.listen(queue, lambda job: seen((job.queue, job.payload["n"])), concurrency=1)
        backend.pause("p")
        for n in range(2):
            backend.enqueue("p", {"n": n})
        ended(backend, backend.enqueue("q", {"n": 0}))
        seen.stays(1)
        assert counts_of(backend, "p").paused is True
        assert counts_of(backend, "p").ready == 2
        assert counts_of(backend, "q").paused is False
        backend.resume("p")
        assert seen.wait(3) == [("q", 0), ("p", 0), ("p", 1)]
        assert counts_of(backend, "p").paused is False

    def test_a_running_job_goes_on(self, backend: Backend, seen: Seen, gate: threading.Event) -> None:
        """Pausing leaves what runs alone, and nothing that waits behind it is handed over."""

        def handler(job: Job) -> None:
            seen(job.payload["n"])
            busy(gate)

        backend.listen("q", handler, concurrency=1)
        jobs = [backend.enqueue("q", {"n": n}) for n in range(4)]
        seen.wait()
        backend.pause("q")
        gate.set()
        assert ended(backend, jobs[0]).status is Status.SUCCEEDED
        seen.stays(1)
        backend.resume("q")
        assert seen.wait(4) == [0, 1, 2, 3]

    def test_future_jobs_of_a_paused_queue(self, backend: Backend, seen: Seen) -> None:
        """A job that falls due in a paused queue waits for resume()."""
        backend.listen("q", lambda job: seen(job.payload["n"]))
        backend.pause("q")
        backend.enqueue("q", {"n": 0}, run_after=0.01)
        eventually(lambda: counts_of(backend, "q").ready == 1, "it is ready")
        seen.stays(0)
        backend.resume("q")
        assert seen.wait() == [0]

    def test_a_pause_is_not_counted(self, backend: Backend, seen: Seen) -> None:
        """Paused twice and resumed once is resumed; resuming what is not paused does nothing."""
        backend.listen("q", lambda job: seen(job.id))
        backend.resume("q")
        backend.pause("q")
        backend.pause("q")
        job = backend.enqueue("q")
        backend.resume("q")
        assert seen.wait() == [job.id]

    def test_a_pause_before_anything_else(self, backend: Backend, seen: Seen) -> None:
        """A queue can be paused before anybody listens on it."""
        backend.pause("q")
        backend.listen("q", lambda job: seen(job.id))
        job = backend.enqueue("q")
        seen.stays(0)
        backend.resume("q")
        assert seen.wait() == [job.id]


class LookingCases(Suite):
    """get, jobs, wait, queues, stats, workers, progress."""

    def test_get_an_unknown_job(self, backend: Backend) -> None:
        """get() of an id that nobody knows is None."""
        assert backend.get(UNKNOWN) is None

    @pytest.mark.parametrize(
        "look",
        [
            lambda backend: backend.get(UNKNOWN) is None,
            lambda backend: backend.jobs() == [],
            lambda backend: backend.stats().ready == 0,
            lambda backend: backend.queues() == [],
            lambda backend: backend.workers() == [],
            lambda backend: backend.prune() == 0,
            lambda backend: backend.cancel(UNKNOWN) is False,
            lambda backend: backend.retry(UNKNOWN) is False,
            lambda backend: backend.delete(UNKNOWN) is False,
            lambda backend: backend.pause("q") is None,
            lambda backend: backend.resume("q") is None,
            lambda backend: backend.drain() is True,
            lambda backend: backend.enqueue_many([]) == [],
            lambda backend: backend.shutdown().lost == [],
        ],
    )
    def test_the_first_call_of_a_process(self, waiting: Backend, look: Callable[[Backend], bool]) -> None:
        """Whatever call comes first, it opens the store."""
        assert look(waiting)

    def test_waiting_is_the_first_call(self, waiting: Backend) -> None:
        """wait() as the first call opens the store, and says that nothing is known of the job."""
        with pytest.raises(NeoqError, match="not found"):
            waiting.wait(UNKNOWN)

    def test_a_handler_that_waits_for_its_own_queue(self, backend: Backend) -> None:
        """wait() in a handler is an error for a job of its own queue that is unfinished, at once."""

        def work(job: Job) -> Any:
            if not job.payload.get("child"):
                delay = LATER if job.payload["later"] else None
                child = backend.enqueue("work", {"child": True}, run_after=delay, unique=False)
                return backend.wait(id_of(child)).id
            return None

        backend.listen("work", work, concurrency=1, max_retries=0)
        for later in (True, False):
            parent = ended(backend, backend.enqueue("work", {"later": later}))
            assert parent.status is Status.DEAD
            assert "queue of their own" in str(parent.error)

    def test_a_handler_that_waits_for_itself(self, backend: Backend) -> None:
        """wait() in a handler is an error for the job that it runs."""
        backend.listen("q", lambda job: backend.wait(job.id).id, max_retries=0)
        assert "its own job" in str(ended(backend, backend.enqueue("q")).error)

    def test_a_handler_that_waits_for_what_has_ended(self, backend: Backend) -> None:
        """wait() in a handler returns a job of its own queue that has ended."""
        backend.listen("q", lambda job: job.payload and backend.wait(job.payload["first"]).id, concurrency=1)
        first = ended(backend, backend.enqueue("q"))
        assert ended(backend, backend.enqueue("q", {"first": first.id})).result == first.id

    def test_a_handler_that_waits_for_another_queue(self, backend: Backend) -> None:
        """wait() in a handler waits for a job of another queue."""
        backend.listen(
            "parent", lambda _: backend.wait(id_of(backend.enqueue("child"))).result, concurrency=1
        )
        backend.listen("child", lambda _: "done", concurrency=1)
        assert ended(backend, backend.enqueue("parent")).result == "done"

    def test_an_id_beyond_all_ids(self, backend: Backend) -> None:
        """An id that does not fit into any store is unknown, too."""
        for job_id in (2**70, -(2**70), -1, 0):
            assert backend.get(job_id) is None
            assert not backend.cancel(job_id)
            assert not backend.retry(job_id)
            assert not backend.delete(job_id)

    @pytest.mark.parametrize("name", ["get", "wait", "cancel", "retry", "delete"])
    def test_an_id_that_is_none(self, waiting: Backend, name: str) -> None:
        """A job given for its id, or the text of an id, is an error that says what it takes."""
        waiting.listen("q", ignore)
        job = waiting.enqueue("q")
        for job_id in (job, str(job.id), 1.0, True, None):
            with pytest.raises(InvalidJobError, match=r"job\.id"):
                getattr(waiting, name)(job_id)

    def test_a_page_after_what_is_no_id(self, waiting: Backend) -> None:
        """jobs() refuses a job for the id of one, and what is no name of a queue."""
        waiting.listen("q", ignore)
        job: Any = waiting.enqueue("q")
        with pytest.raises(InvalidJobError, match=r"job\.id"):
            waiting.jobs(after=job)
        with pytest.raises(InvalidJobError, match="the queue is"):
            waiting.jobs(job)

    def test_a_snapshot_stands_still(self, waiting: Backend) -> None:
        """A job that was looked up does not change as the job in the store goes on."""
        waiting.listen("q", ignore)
        job = waiting.enqueue("q")
        before = waiting.get(id_of(job))
        waiting.start()
        assert ended(waiting, job).status is Status.SUCCEEDED
        assert before is not None
        assert (job.status, before.status, before.finished_at) == (Status.PENDING, Status.PENDING, None)

    def test_a_snapshot_cannot_do_what_a_handler_can(self, waiting: Backend) -> None:
        """remaining, progress and shield work inside the handler only, and say so."""
        waiting.listen("q", ignore)
        job = waiting.enqueue("q")
        for act in (job.remaining, job.shield, lambda: job.progress(0.5)):
            with pytest.raises(NeoqError):
                act()

    def test_jobs_come_newest_first(self, waiting: Backend) -> None:
        """jobs() lists the newest first, up to limit."""
        waiting.listen("q", ignore)
        made = [waiting.enqueue("q", {"n": n}).id for n in range(5)]
        assert [job.id for job in waiting.jobs()] == made[::-1]
        assert [job.id for job in waiting.jobs(limit=2)] == made[:2:-1]

    def test_jobs_are_paged_by_the_last_one_seen(self, waiting: Backend) -> None:
        """Paging by after shows each job once, though newer ones come in between."""
        waiting.listen("q", ignore)
        made = [id_of(job) for job in waiting.enqueue_many([Job("q", {"n": n}) for n in range(25)])]
        found: list[int] = []
        after = None
        for page in range(100):
            jobs = [id_of(job) for job in waiting.jobs(limit=4, after=after)]
            if not jobs:
                break
            found += jobs
            after = jobs[-1]
            waiting.enqueue("q", {"newer": page})
        assert found == made[::-1]

    def test_a_page_from_the_middle(self, waiting: Backend) -> None:
        """Paging works together with queue and status, and needs no job of that id any more."""
        for queue in ("p", "q"):
            waiting.listen(queue, ignore)
        made = [id_of(waiting.enqueue("pq"[n % 2], {"n": n})) for n in range(6)]
        waiting.delete(made[4])
        waiting.cancel(made[2])
        assert [job.id for job in waiting.jobs("p", after=made[4])] == [made[2], made[0]]
        assert [job.id for job in waiting.jobs("p", status=Status.PENDING, after=made[4])] == [made[0]]

    def test_jobs_are_listed_by_queue_and_status(
        self, backend: Backend, seen: Seen, gate: threading.Event
    ) -> None:
        """jobs() filters by queue, by status, and by both."""

        def work(_job: Job) -> None:
            seen()
            busy(gate)

        backend.listen("busy", work, concurrency=1)
        backend.listen("failing", fail, retry=RetryPolicy(delay=LATER))
        backend.listen("fine", ignore)
        expected = {
            Status.RUNNING: backend.enqueue("busy"),
            Status.RETRYING: reached(backend, backend.enqueue("failing"), Status.RETRYING),
            Status.DEAD: reached(
                backend, backend.enqueue("failing", max_retries=0, unique=False), Status.DEAD
            ),
            Status.SUCCEEDED: reached(backend, backend.enqueue("fine"), Status.SUCCEEDED),
            Status.PENDING: backend.enqueue("fine", run_after=LATER),
            Status.CANCELLED: backend.enqueue("fine", unique=False, run_after=LATER),
        }
        backend.cancel(id_of(expected[Status.CANCELLED]))
        seen.wait()
        for status, job in expected.items():
            assert [found.id for found in backend.jobs(status=status)] == [job.id]
            assert [found.id for found in backend.jobs(job.queue, status)] == [job.id]
            assert [found.status for found in backend.jobs(status=status)] == [status]
            assert backend.jobs("unknown", status) == []
        assert {job.queue for job in backend.jobs("fine")} == {"fine"}
        assert len(backend.jobs("fine")) == 3
        assert len(backend.jobs()) == 6

    def test_queues_count_their_jobs(self, backend: Backend, seen: Seen, gate: threading.Event) -> None:
        """queues() counts the jobs of each queue by where they are; stats() sums them up."""

        def work(_job: Job) -> None:
            seen()
            busy(gate)

        backend.listen("failing", fail, retry=RetryPolicy(delay=LATER))
        backend.listen("fine", ignore)
        backend.listen("slow", work, concurrency=1)
        for n in range(2):
            ended(backend, backend.enqueue("fine", {"n": n}))
        backend.enqueue("fine", run_after=LATER)
        reached(backend, backend.enqueue("failing", {"n": 0}), Status.RETRYING)
        reached(backend, backend.enqueue("failing", {"n": 1}, max_retries=0), Status.DEAD)
        backend.enqueue("slow", {"n": 0})
        seen.wait()
        for n in (1, 2, 3):
            backend.enqueue("slow", {"n": n})
        gone = backend.enqueue("slow", {"n": 4}, run_after=LATER)
        backend.cancel(id_of(gone))
        assert backend.queues() == [
            QueueCounts("failing", retrying=1, dead=1),
            QueueCounts("fine", scheduled=1, succeeded=2),
            QueueCounts("slow", ready=3, running=1, cancelled=1),
        ]
        stats = backend.stats()
        assert (stats.ready, stats.scheduled, stats.retrying, stats.running) == (3, 1, 1, 1)
        assert (stats.succeeded, stats.dead, stats.cancelled) == (2, 1, 1)
        assert (stats.processed, stats.failed) == (4, 2)
        assert stats.runners >= 3
        assert (stats.abandoned, stats.skipped_ticks) == (0, 0)

    def test_counts_return_to_nothing(self, backend: Backend) -> None:
        """After all kinds of detours no job is counted that is not there."""
        turns = Seen()

        def handler(job: Job) -> None:
            turns()
            if job.attempt <= job.payload["fails"]:
                raise RuntimeError("again")

        backend.listen("q", handler, retry=RetryPolicy(delay=0.001), max_retries=3)
        jobs = [
            backend.enqueue("q", {"fails": n % 3, "n": n}, run_after=n % 4 / 100, priority=n % 2)
            for n in range(60)
        ]
        for job in jobs[::7]:
            backend.cancel(id_of(job))
        for job in jobs[::5]:
            backend.retry(id_of(job))
        for job in jobs[::11]:
            backend.delete(id_of(job))
        eventually(lambda: counts_of(backend, "q").unfinished == 0, "nothing is left")
        left = counts_of(backend, "q")
        assert left.succeeded + left.cancelled + left.dead == len(backend.jobs("q", limit=1000))
        assert unfinished_jobs(backend) == []

    def test_wait_returns_the_job_when_it_has_ended(self, backend: Backend, gate: threading.Event) -> None:
        """wait() blocks until the job has ended, and returns it with its result."""

        def handler(_job: Job) -> int:
            busy(gate)
            return 7

        backend.listen("q", handler)
        job = backend.enqueue("q")
        waiter = Background(lambda: backend.wait(id_of(job)))
        assert waiter.blocks()
        gate.set()
        done = waiter.result()
        assert (done.id, done.status, done.result) == (job.id, Status.SUCCEEDED, 7)
        assert backend.wait(id_of(job), timeout=PATIENCE).result == 7

    def test_wait_knows_every_end(self, backend: Backend) -> None:
        """wait() returns dead and cancelled jobs, too, and sits out a retry."""
        backend.listen("q", fail, max_retries=1, retry=RetryPolicy(delay=0.02))
        assert backend.wait(id_of(backend.enqueue("q")), PATIENCE).status is Status.DEAD
        job = backend.enqueue("q", run_after=LATER)
        waiter = Background(lambda: backend.wait(id_of(job), PATIENCE))
        backend.cancel(id_of(job))
        assert waiter.result().status is Status.CANCELLED

    def test_wait_gives_up(self, backend: Backend) -> None:
        """wait() of a job that does not end in time is a TimeoutError."""
        backend.listen("q", ignore)
        job = backend.enqueue("q", run_after=LATER)
        with pytest.raises(TimeoutError):
            backend.wait(id_of(job), timeout=0.02)

    def test_wait_for_an_unknown_job(self, backend: Backend) -> None:
        """wait() for an id that nobody knows raises instead of waiting for ever."""
        backend.listen("q", ignore)
        with pytest.raises(NeoqError):
            backend.wait(UNKNOWN, timeout=PATIENCE)

    def test_progress_is_seen(self, backend: Backend, seen: Seen, gate: threading.Event) -> None:
        """What a handler reports with job.progress can be looked up while it runs."""

        def handler(job: Job) -> None:
            seen(job.progress(0.25, "resizing \N{SNOWMAN}"))
            busy(gate)

        backend.listen("q", handler)
        job = backend.enqueue("q")
        assert seen.wait() == [(0.25, "resizing \N{SNOWMAN}")]
        eventually(lambda: self._progress(backend, job) == (0.25, "resizing \N{SNOWMAN}"), "it is seen")

    @staticmethod
    def _progress(backend: Backend, job: Job) -> tuple[float, str] | None:
        found = backend.get(id_of(job))
        return None if found is None else found.progress()

    def test_the_last_progress_stays(self, backend: Backend) -> None:
        """After success the last progress can still be looked up."""
        backend.listen("q", lambda job: job.progress(1.0, "done") and None)
        assert ended(backend, backend.enqueue("q")).progress() == (1.0, "done")

    def test_this_process_is_a_worker(self, make: Make) -> None:
        """workers() tells of this process: where it runs, what it serves, that it lives."""
        before = datetime.now(UTC) - timedelta(seconds=1)
        backend = make()
        for queue in ("p", "q"):
            backend.listen(queue, ignore)
        ended(backend, backend.enqueue("q"))
        [worker] = eventually(
            lambda: [w for w in backend.workers() if w.pid == os.getpid() and set(w.queues) == {"p", "q"}],
            "it is known with both queues",
        )
        assert worker.host == socket.gethostname()
        assert before <= worker.started_at <= worker.beat_at <= datetime.now(UTC) + timedelta(seconds=1)

    def test_the_newest_finished_jobs_are_kept(self, make: Make) -> None:
        """With max_finished only so many of the succeeded and cancelled jobs can be looked up: the newest."""
        backend = make(max_finished=3)
        backend.listen("q", ignore, concurrency=1)
        jobs = [ended_or_gone(backend, backend.enqueue("q", {"n": n})) for n in range(6)]
        backend.prune()
        assert [job.id for job in backend.jobs("q")] == jobs[:2:-1]
        assert counts_of(backend, "q").succeeded == 3

    @needs("batches")
    def test_the_newest_are_kept_of_those_that_are_let_go(self, make: Make) -> None:
        """A callback that ends or is forgotten lets its members go: the newest jobs stay, and count."""
        backend = make(max_finished=8)
        backend.listen("then", ignore, concurrency=1)
        backend.listen("q", ignore, concurrency=1)
        for number in (0, 0, 0, 0, 60):
            with backend.batch(then=Job("then")) as batch:
                batch.enqueue_many(Job("q", {"n": n}) for n in range(number))
            ended_or_gone(backend, batch.callback)
            eventually(lambda: backend.prune() * 0 == 0 and len(backend.jobs()) <= 8, "the others are gone")
            assert len(backend.jobs()) == min(8, backend.stats().processed)
        assert sum(counts_of(backend, queue).succeeded for queue in ("q", "then")) == 8

    @needs("shared")
    def test_prune_keeps_what_its_own_settings_say(self, make: Make, join: Make) -> None:
        """prune() forgets what is beyond max_finished and max_dead here, whichever worker ran the jobs."""
        worker = make()
        worker.listen("q", ignore, concurrency=1)
        worker.listen("failing", fail, max_retries=0, concurrency=1)
        done = [id_of(ended(worker, worker.enqueue("q", {"n": n}))) for n in range(4)]
        dead = [id_of(ended(worker, worker.enqueue("failing", {"n": n}))) for n in range(3)]
        other = join(worker, autostart=False, max_finished=2, max_dead=1, retention=None)
        assert len(other.jobs()) == 7
        assert other.prune() == 4
        assert [job.id for job in other.jobs()] == [dead[-1], *done[:1:-1]]

    def test_finished_jobs_are_kept_for_a_time(self, make: Make) -> None:
        """Finished jobs older than retention are pruned; waiting and dead ones are not."""
        backend = make(retention=0.05)
        backend.listen("q", ignore)
        backend.listen("failing", fail, max_retries=0)
        waiting = backend.enqueue("q", {"n": 0}, run_after=LATER)
        dead = ended(backend, backend.enqueue("failing"))
        old = backend.enqueue("q", {"n": 1})
        eventually(lambda: backend.prune() * 0 == 0 and backend.get(id_of(old)) is None, "it is pruned")
        assert {job.id for job in backend.jobs()} == {waiting.id, dead.id}

    def test_a_job_of_which_nothing_is_kept(self, make: Make) -> None:
        """wait() returns the finished job with its result, also if finished jobs are forgotten at once."""
        backend = make(retention=0, max_finished=0)
        go_on = threading.Event()
        backend.listen("q", lambda _job: go_on.wait(PATIENCE) and [1])
        job = backend.enqueue("q")

        def wait(_number: int) -> Job:
            return backend.wait(id_of(job), PATIENCE)

        def let_it_end() -> None:
            awaited = backend.engine.awaited
            eventually(lambda: len([one for one in awaited.of(id_of(job)) if one.seen]) == 2, "both wait")
            go_on.set()

        ender = threading.Thread(target=let_it_end)
        ender.start()
        for done in in_threads(2, wait):
            assert (done.id, done.status, done.result) == (job.id, Status.SUCCEEDED, [1])
        ender.join()

    def test_the_newest_dead_jobs_are_kept(self, make: Make, caplog: pytest.LogCaptureFixture) -> None:
        """With max_dead only so many dead jobs are kept; the oldest goes, with a warning."""
        backend = make(max_dead=2)
        backend.listen("q", fail, concurrency=1, max_retries=0)
        dead = [ended(backend, backend.enqueue("q", {"n": n})).id for n in range(3)]
        backend.prune()
        assert [job.id for job in backend.jobs("q")] == dead[:0:-1]
        assert "max_dead" in caplog.text
        assert counts_of(backend, "q").dead == 2


def ended_or_gone(backend: Backend, job: Job) -> int:
    """Wait until a job has ended, also where it is forgotten at once."""

    def over() -> bool:
        found = backend.get(id_of(job))
        return found is None or found.finished

    eventually(over, f"{job} ends")
    return id_of(job)
