"""Uniqueness: one unfinished job for each fingerprint of a queue."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from neoq.backend import Backend
from neoq.errors import Retry
from neoq.job import DuplicateJobError, Job
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
    id_of,
    ignore,
    in_threads,
    reached,
    unfinished_jobs,
)


def fails_once(seen: Seen, after: float) -> Callable[[Job], None]:
    """Return a handler that reports each payload, and fails the first attempt."""

    def handler(job: Job) -> None:
        seen(job.payload)
        if job.attempt == 1:
            raise Retry(after=after)

    return handler


class UniqueCases(Suite):
    """A fingerprint is taken from enqueue until the job has ended, whatever happens between."""

    def test_a_ready_job_holds_its_fingerprint(self, waiting: Backend, seen: Seen) -> None:
        """An equal job is not stored while the first waits for a runner: the first is returned."""
        waiting.listen("q", lambda job: seen(job.id))
        first = waiting.enqueue("q", {"a": 1})
        second = waiting.enqueue("q", {"a": 1})
        assert (first.duplicate, second.duplicate, second.id) == (False, True, first.id)
        waiting.start()
        assert seen.wait() == [first.id]
        ended(waiting, first)
        assert [job.id for job in waiting.jobs("q")] == [first.id]

    def test_a_future_job_holds_its_fingerprint(self, backend: Backend) -> None:
        """An equal job is not stored while the first waits for its time, which stays as it is."""
        backend.listen("q", ignore)
        first = backend.enqueue("q", {"a": 1}, run_after=LATER)
        second = backend.enqueue("q", {"a": 1})
        assert (second.duplicate, second.id, second.run_after) == (True, first.id, first.run_after)
        assert [(job.id, job.run_after) for job in unfinished_jobs(backend)] == [(first.id, first.run_after)]

    def test_a_running_job_holds_its_fingerprint(
        self, backend: Backend, seen: Seen, gate: threading.Event
    ) -> None:
        """An equal job is not stored while the first runs."""

        def handler(job: Job) -> None:
            seen(job.id)
            busy(gate)

        backend.listen("q", handler)
        first = backend.enqueue("q", {"a": 1})
        seen.wait()
        second = backend.enqueue("q", {"a": 1})
        assert (second.duplicate, second.id, second.status) == (True, first.id, Status.RUNNING)
        gate.set()
        ended(backend, first)
        assert seen.items == [first.id]

    def test_a_retrying_job_holds_its_fingerprint(self, backend: Backend) -> None:
        """An equal job is not stored while the first waits for its next attempt."""
        backend.listen("q", fail, retry=RetryPolicy(delay=LATER))
        first = backend.enqueue("q", {"a": 1})
        reached(backend, first, Status.RETRYING)
        second = backend.enqueue("q", {"a": 1}, run_after=2 * LATER)
        assert (second.duplicate, second.id) == (True, first.id)
        assert [job.id for job in unfinished_jobs(backend)] == [first.id]

    def test_a_retrying_job_is_brought_forward(self, backend: Backend, seen: Seen) -> None:
        """An equal job brings one that waits for a retry forward to its own time: here, now."""
        backend.listen("q", fails_once(seen, LATER))
        first = backend.enqueue("q", {"a": 1})
        reached(backend, first, Status.RETRYING)
        assert backend.enqueue("q", {"a": 1}).duplicate
        assert len(seen.wait(2)) == 2
        assert ended(backend, first).status is Status.SUCCEEDED

    def test_a_retrying_job_is_brought_forward_to_a_time(self, backend: Backend, seen: Seen) -> None:
        """The new time may lie in the future, and is kept to."""
        backend.listen("q", fails_once(seen, LATER))
        first = backend.enqueue("q", {"a": 1})
        reached(backend, first, Status.RETRYING)
        second = backend.enqueue("q", {"a": 1}, run_after=0.1)
        seen.wait(2)
        done = ended(backend, first)
        assert done.ran_at is not None
        assert second.run_after is not None
        assert done.ran_at >= second.run_after - timedelta(milliseconds=1)

    def test_a_retrying_job_is_not_put_off(self, backend: Backend) -> None:
        """A later time of an equal job does not delay a retry."""
        backend.listen("q", fail, retry=RetryPolicy(delay=LATER))
        first = reached(backend, backend.enqueue("q", {"a": 1}), Status.RETRYING)
        backend.enqueue("q", {"a": 1}, run_after=2 * LATER)
        again = backend.get(id_of(first))
        assert again is not None
        assert again.run_after == first.run_after

    def test_success_frees_the_fingerprint(self, backend: Backend) -> None:
        """An equal job is a new one after the first succeeded."""
        backend.listen("q", ignore)
        first = ended(backend, backend.enqueue("q", {"a": 1}))
        second = backend.enqueue("q", {"a": 1})
        assert (second.duplicate, second.id != first.id) == (False, True)

    def test_death_frees_the_fingerprint(self, backend: Backend) -> None:
        """An equal job is a new one after the first died."""
        backend.listen("q", fail, max_retries=0)
        first = reached(backend, backend.enqueue("q", {"a": 1}), Status.DEAD)
        second = backend.enqueue("q", {"a": 1})
        assert (second.duplicate, second.id != first.id) == (False, True)

    def test_a_missed_deadline_frees_the_fingerprint(self, backend: Backend) -> None:
        """An equal job is a new one after the first died unstarted."""
        backend.listen("q", ignore)
        first = reached(backend, backend.enqueue("q", {"a": 1}, deadline=-1), Status.DEAD)
        second = backend.enqueue("q", {"a": 1})
        assert (second.duplicate, second.id != first.id) == (False, True)

    def test_cancelling_frees_the_fingerprint(self, backend: Backend) -> None:
        """An equal job is a new one after the first was cancelled."""
        backend.listen("q", ignore)
        first = backend.enqueue("q", {"a": 1}, run_after=LATER)
        assert backend.cancel(id_of(first))
        second = backend.enqueue("q", {"a": 1}, run_after=LATER)
        assert (second.duplicate, second.id != first.id) == (False, True)

    def test_cancelling_while_it_runs_frees_the_fingerprint(
        self, backend: Backend, seen: Seen, gate: threading.Event
    ) -> None:
        """An equal job is a new one after the first was cancelled as it ran."""

        def handler(job: Job) -> None:
            seen(job.id)
            busy(gate)

        backend.listen("q", handler)
        first = backend.enqueue("q", {"a": 1})
        seen.wait()
        backend.cancel(id_of(first))
        reached(backend, first, Status.CANCELLED)
        assert not backend.enqueue("q", {"a": 1}).duplicate

    def test_deleting_frees_the_fingerprint(self, backend: Backend) -> None:
        """An equal job is a new one after the first was deleted."""
        backend.listen("q", ignore)
        first = backend.enqueue("q", {"a": 1}, run_after=LATER)
        assert backend.delete(id_of(first))
        assert not backend.enqueue("q", {"a": 1}, run_after=LATER).duplicate

    def test_a_dead_job_that_is_retried_takes_its_fingerprint(self, backend: Backend) -> None:
        """After retry() of a dead job an equal one is a duplicate again."""
        backend.listen("q", fail, max_retries=0)
        first = reached(backend, backend.enqueue("q", {"a": 1}), Status.DEAD)
        backend.pause("q")
        assert backend.retry(id_of(first))
        second = backend.enqueue("q", {"a": 1})
        assert (second.duplicate, second.id) == (True, first.id)

    def test_until_started_holds_while_it_waits(self, waiting: Backend) -> None:
        """unique="until_started" holds the fingerprint of a job that waits."""
        waiting.listen("q", ignore)
        first = waiting.enqueue("q", {"a": 1}, unique="until_started")
        second = waiting.enqueue("q", {"a": 1}, unique="until_started")
        assert (second.duplicate, second.id) == (True, first.id)

    def test_until_started_frees_when_it_starts(
        self, backend: Backend, seen: Seen, gate: threading.Event
    ) -> None:
        """An equal job enqueued during the run is a new one, so that an event in between is not lost."""

        def handler(job: Job) -> None:
            seen(job.id)
            busy(gate)

        backend.listen("q", handler, concurrency=1)
        first = backend.enqueue("q", {"a": 1}, unique="until_started")
        seen.wait()
        second = backend.enqueue("q", {"a": 1}, unique="until_started")
        third = backend.enqueue("q", {"a": 1}, unique="until_started")
        assert (second.duplicate, third.duplicate, third.id) == (False, True, second.id)
        gate.set()
        assert seen.wait(2) == [first.id, second.id]

    def test_until_started_stays_free_for_retries(self, backend: Backend) -> None:
        """A job that has started once does not take its fingerprint back to wait for a retry."""
        backend.listen("q", fail, retry=RetryPolicy(delay=LATER))
        first = backend.enqueue("q", {"a": 1}, unique="until_started")
        reached(backend, first, Status.RETRYING)
        second = backend.enqueue("q", {"a": 1}, unique="until_started")
        assert (second.duplicate, second.id != first.id) == (False, True)
        reached(backend, second, Status.RETRYING)
        assert {job.id for job in unfinished_jobs(backend)} == {first.id, second.id}

    def test_unique_false_opts_out(self, waiting: Backend, seen: Seen) -> None:
        """Equal jobs with unique=False are all stored and all run."""
        waiting.listen("q", lambda job: seen(job.id))
        jobs = [waiting.enqueue("q", {"a": 1}, unique=False) for _ in range(3)]
        assert [job.duplicate for job in jobs] == [False] * 3
        waiting.start()
        assert sorted(seen.wait(3)) == sorted(id_of(job) for job in jobs)

    def test_unique_false_takes_no_fingerprint(self, waiting: Backend) -> None:
        """A job with unique=False neither meets a unique one nor stands in its way."""
        waiting.listen("q", ignore)
        waiting.enqueue("q", {"a": 1}, unique=False)
        unique = waiting.enqueue("q", {"a": 1})
        other = waiting.enqueue("q", {"a": 1}, unique=False)
        assert (unique.duplicate, other.duplicate, other.id != unique.id) == (False, False, True)
        again = waiting.enqueue("q", {"a": 1})
        assert (again.duplicate, again.id) == (True, unique.id)

    def test_the_end_of_one_that_opted_out_frees_nothing(
        self, backend: Backend, seen: Seen, gate: threading.Event
    ) -> None:
        """A job with unique=False that ends does not free the fingerprint of an equal, unique one."""

        def handler(job: Job) -> None:
            seen(job.id)
            if job.id == first.id:
                busy(gate)

        backend.listen("q", handler, concurrency=2)
        backend.pause("q")
        first = backend.enqueue("q", {"a": 1})
        backend.resume("q")
        seen.wait()
        ended(backend, backend.enqueue("q", {"a": 1}, unique=False))
        again = backend.enqueue("q", {"a": 1})
        assert (again.duplicate, again.id) == (True, first.id)

    def test_a_fingerprint_of_the_callers_own(self, waiting: Backend) -> None:
        """Jobs are equal by the fingerprint given, whatever their payloads."""
        waiting.listen("q", ignore)
        first = waiting.enqueue("q", {"a": 1}, fingerprint="one")
        second = waiting.enqueue("q", {"a": 2}, fingerprint="one")
        third = waiting.enqueue("q", {"a": 1}, fingerprint="two")
        assert (second.duplicate, second.id, third.duplicate) == (True, first.id, False)
        assert (first.fingerprint, second.payload) == ("one", {"a": 1})

    def test_the_fingerprint_of_another_job(self, waiting: Backend) -> None:
        """A fingerprint given that is the one computed for another job makes them equal, either way round."""
        waiting.listen("q", ignore)
        plain = waiting.enqueue("q", {"a": 1})
        own = waiting.enqueue("q", {"a": 2}, fingerprint=plain.fingerprint)
        assert (own.duplicate, own.id) == (True, plain.id)
        hashed = Job("q", {"b": 1}).fingerprint
        own = waiting.enqueue("q", {"b": 2}, fingerprint=hashed)
        plain = waiting.enqueue("q", {"b": 1})
        assert (own.duplicate, plain.duplicate, plain.id) == (False, True, own.id)
        assert not waiting.enqueue("q", {"b": 2}).duplicate

    def test_the_order_of_keys_does_not_matter(self, waiting: Backend) -> None:
        """Payloads that differ only in the order of their keys are equal, at every level."""
        waiting.listen("q", ignore)
        first = waiting.enqueue("q", {"a": 1, "b": {"c": 2, "d": (3,)}})
        second = waiting.enqueue("q", {"b": {"d": [3], "c": 2}, "a": 1})
        assert (second.duplicate, second.id, second.fingerprint) == (True, first.id, first.fingerprint)

    def test_meta_is_outside_the_fingerprint(self, waiting: Backend) -> None:
        """Jobs that differ only in meta are equal."""
        waiting.listen("q", ignore)
        waiting.enqueue("q", {"a": 1}, meta={"trace": "1"})
        assert waiting.enqueue("q", {"a": 1}, meta={"trace": "2"}).duplicate

    def test_queues_are_independent(self, waiting: Backend) -> None:
        """The same payload, or the same fingerprint, in another queue is another job."""
        for queue in ("p", "q"):
            waiting.listen(queue, ignore)
            assert not waiting.enqueue(queue, {"a": 1}).duplicate
            assert not waiting.enqueue(queue, {"a": 1}, fingerprint="own").duplicate

    def test_on_duplicate_raise(self, waiting: Backend) -> None:
        """on_duplicate="raise" raises an error that carries the job already there."""
        waiting.listen("q", ignore)
        first = waiting.enqueue("q", {"a": 1})
        with pytest.raises(DuplicateJobError) as caught:
            waiting.enqueue("q", {"a": 1}, on_duplicate="raise")
        assert (caught.value.job.id, caught.value.job_id, caught.value.queue) == (first.id, first.id, "q")
        assert [job.id for job in unfinished_jobs(waiting)] == [first.id]

    def test_on_duplicate_raise_is_quiet_for_a_new_job(self, waiting: Backend) -> None:
        """on_duplicate="raise" does nothing to a job that is the first of its kind."""
        waiting.listen("q", ignore)
        assert not waiting.enqueue("q", {"a": 1}, on_duplicate="raise").duplicate

    def test_replace_gives_a_ready_job_the_new_payload(self, waiting: Backend, seen: Seen) -> None:
        """on_duplicate="replace": the waiting job runs once, with what the newer one brought."""
        waiting.listen("q", lambda job: seen((job.id, job.payload, job.priority)))
        first = waiting.enqueue("q", {"v": 1}, fingerprint="one")
        second = waiting.enqueue("q", {"v": 2}, fingerprint="one", on_duplicate="replace", priority=9)
        assert (second.id, second.payload, second.priority) == (first.id, {"v": 2}, 9)
        waiting.start()
        assert seen.wait() == [(first.id, {"v": 2}, 9)]
        assert ended(waiting, first).payload == {"v": 2}
        assert seen.items == [(first.id, {"v": 2}, 9)]

    def test_replace_brings_a_future_job_forward(self, backend: Backend, seen: Seen) -> None:
        """The waiting job takes the new time, if it is earlier."""
        backend.listen("q", lambda job: seen(job.payload))
        backend.enqueue("q", {"v": 1}, fingerprint="one", run_after=LATER)
        backend.enqueue("q", {"v": 2}, fingerprint="one", on_duplicate="replace")
        assert seen.wait() == [{"v": 2}]

    def test_replace_puts_a_job_off(self, waiting: Backend, seen: Seen) -> None:
        """The waiting job takes the new time, if it is later (debounce)."""
        waiting.listen("q", lambda job: seen((job.payload, datetime.now(UTC))))
        waiting.enqueue("q", {"v": 1}, fingerprint="one")
        last = waiting.enqueue("q", {"v": 2}, fingerprint="one", on_duplicate="replace", run_after=0.15)
        waiting.start()
        [(payload, ran_at)] = seen.wait()
        assert payload == {"v": 2}
        assert last.run_after is not None
        assert ran_at >= last.run_after - timedelta(milliseconds=1)
        seen.stays(1)

    def test_replace_takes_the_new_deadline(self, waiting: Backend, seen: Seen) -> None:
        """The waiting job dies by the new deadline, and not by the old."""
        waiting.listen("q", lambda job: seen(job.payload))
        waiting.enqueue("q", {"v": 1}, fingerprint="one", deadline=-1)
        alive = waiting.enqueue("q", {"v": 2}, fingerprint="one", on_duplicate="replace", deadline=LATER)
        waiting.enqueue("q", {"v": 3}, fingerprint="two", deadline=LATER)
        dead = waiting.enqueue("q", {"v": 4}, fingerprint="two", on_duplicate="replace", deadline=-1)
        waiting.start()
        assert (ended(waiting, alive).status, ended(waiting, dead).status) == (Status.SUCCEEDED, Status.DEAD)
        assert seen.items == [{"v": 2}]

    def test_replace_leaves_a_running_job_alone(
        self, backend: Backend, seen: Seen, gate: threading.Event
    ) -> None:
        """A running job is returned with duplicate=True; its payload stays, and nothing runs after it."""

        def handler(job: Job) -> None:
            seen(job.payload)
            busy(gate)
            seen(job.payload)

        backend.listen("q", handler)
        first = backend.enqueue("q", {"v": 1}, fingerprint="one")
        seen.wait()
        second = backend.enqueue("q", {"v": 2}, fingerprint="one", on_duplicate="replace")
        assert (second.duplicate, second.id, second.payload) == (True, first.id, {"v": 1})
        gate.set()
        assert ended(backend, first).payload == {"v": 1}
        assert seen.items == [{"v": 1}, {"v": 1}]

    def test_replace_of_a_retrying_job(self, backend: Backend, seen: Seen) -> None:
        """A job that waits for a retry waits, too: it takes the new payload and time."""
        backend.listen("q", fails_once(seen, LATER))
        first = backend.enqueue("q", {"v": 1}, fingerprint="one")
        reached(backend, first, Status.RETRYING)
        second = backend.enqueue("q", {"v": 2}, fingerprint="one", on_duplicate="replace")
        assert second.id == first.id
        assert seen.wait(2) == [{"v": 1}, {"v": 2}]

    def test_replace_keeps_the_fingerprint(self, waiting: Backend) -> None:
        """After a replacement the fingerprint is still taken, by the same job, and freed with it."""
        waiting.listen("q", ignore)
        first = waiting.enqueue("q", {"v": 1}, fingerprint="one")
        waiting.enqueue("q", {"v": 2}, fingerprint="one", on_duplicate="replace")
        again = waiting.enqueue("q", {"v": 3}, fingerprint="one")
        assert (again.duplicate, again.id, again.payload) == (True, first.id, {"v": 2})
        waiting.start()
        ended(waiting, first)
        assert not waiting.enqueue("q", {"v": 4}, fingerprint="one").duplicate

    def test_replace_by_the_fingerprint_of_a_job(self, waiting: Backend) -> None:
        """A job found by its computed fingerprint keeps that after its payload is replaced, to its end."""
        waiting.listen("q", ignore)
        first = waiting.enqueue("q", {"v": 1})
        waiting.enqueue("q", {"v": 2}, fingerprint=first.fingerprint, on_duplicate="replace")
        again = waiting.enqueue("q", {"v": 1})
        assert (again.duplicate, again.id, again.payload) == (True, first.id, {"v": 2})
        assert again.fingerprint == first.fingerprint
        waiting.start()
        ended(waiting, first)
        assert not waiting.enqueue("q", {"v": 1}).duplicate

    def test_a_batch_meets_itself(self, waiting: Backend, seen: Seen) -> None:
        """Of equal jobs in one enqueue_many the later ones are duplicates of the first."""
        waiting.listen("q", lambda job: seen(job.payload["n"]), concurrency=1)
        one, two, again = waiting.enqueue_many([Job("q", {"n": n}) for n in (1, 2, 1)])
        assert [job.duplicate for job in (one, two, again)] == [False, False, True]
        assert (again.id, again.payload) == (one.id, {"n": 1})
        waiting.start()
        assert seen.wait(2) == [1, 2]
        ended(waiting, two)
        assert seen.items == [1, 2]

    def test_one_job_object_twice_in_a_batch(self, waiting: Backend) -> None:
        """The same Job object twice in one enqueue_many is stored once, and a duplicate of itself."""
        waiting.listen("q", ignore)
        job = Job("q", {"n": 1}, priority=2)
        first, second = waiting.enqueue_many([job, job])
        assert (first.duplicate, second.duplicate, second.id) == (False, True, first.id)
        assert [(stored.id, stored.payload) for stored in unfinished_jobs(waiting)] == [(first.id, {"n": 1})]

    def test_one_job_object_twice_that_is_not_unique(self, waiting: Backend) -> None:
        """The same Job object twice with unique=False is two jobs of one payload."""
        waiting.listen("q", ignore)
        job = Job("q", {"n": 1}, unique=False)
        first, second = waiting.enqueue_many([job, job])
        assert first.id != second.id
        stored = {stored.id: stored.payload for stored in unfinished_jobs(waiting)}
        assert stored == {first.id: {"n": 1}, second.id: {"n": 1}}

    def test_one_job_object_again(self, backend: Backend, seen: Seen) -> None:
        """A Job object, or a snapshot of a job that has ended, can be enqueued again: it is a new job."""
        backend.listen("q", lambda job: seen((job.id, job.payload, job.priority, job.attempt)))
        made = Job("q", {"n": 1}, priority=2)
        first = ended(backend, backend.enqueue(made))
        second = ended(backend, backend.enqueue(made))
        third = ended(backend, backend.enqueue(second))
        assert len({first.id, second.id, third.id}) == 3
        assert seen.items == [(job.id, {"n": 1}, 2, 1) for job in (first, second, third)]
        assert third.created_at is not None
        assert second.finished_at is not None
        assert third.created_at >= second.finished_at

    def test_a_batch_meets_what_is_stored(self, waiting: Backend) -> None:
        """A job of enqueue_many that is in the store already comes back in its place, as a duplicate."""
        waiting.listen("q", ignore)
        first = waiting.enqueue("q", {"n": 2})
        jobs = waiting.enqueue_many([Job("q", {"n": n}) for n in (1, 2, 3)])
        assert [job.duplicate for job in jobs] == [False, True, False]
        assert jobs[1].id == first.id
        assert len(unfinished_jobs(waiting)) == 3

    def test_a_batch_with_raise_that_meets_what_is_stored(self, waiting: Backend) -> None:
        """One on_duplicate="raise" that meets a job aborts the whole enqueue_many."""
        waiting.listen("q", ignore)
        first = waiting.enqueue("q", {"n": 2})
        jobs = [Job("q", {"n": 1}), Job("q", {"n": 2}, on_duplicate="raise"), Job("q", {"n": 3})]
        with pytest.raises(DuplicateJobError) as caught:
            waiting.enqueue_many(jobs)
        assert caught.value.job.id == first.id
        assert [job.id for job in unfinished_jobs(waiting)] == [first.id]

    def test_a_batch_with_raise_that_meets_itself(self, waiting: Backend) -> None:
        """One on_duplicate="raise" that equals an earlier job of its batch aborts the whole call."""
        waiting.listen("q", ignore)
        with pytest.raises(DuplicateJobError):
            waiting.enqueue_many([Job("q", {"n": n}, on_duplicate="raise") for n in (1, 2, 1)])
        assert unfinished_jobs(waiting) == []
        assert not waiting.enqueue("q", {"n": 1}).duplicate

    def test_a_batch_with_raise_that_meets_itself_by_hand(self, waiting: Backend) -> None:
        """So does one that gives the fingerprint which an earlier job of its batch has by its payload."""
        waiting.listen("q", ignore)
        first = Job("q", {"n": 1})
        with pytest.raises(DuplicateJobError):
            waiting.enqueue_many([first, Job("q", fingerprint=first.fingerprint, on_duplicate="raise")])
        assert unfinished_jobs(waiting) == []

    def test_an_aborted_batch_replaces_nothing(self, waiting: Backend) -> None:
        """A batch that is aborted has not touched the job that one of it would have replaced."""
        waiting.listen("q", ignore)
        waiting.enqueue("q", {"v": 1}, fingerprint="one")
        waiting.enqueue("q", {"n": 2})
        with pytest.raises(DuplicateJobError):
            waiting.enqueue_many(
                [
                    Job("q", {"v": 2}, fingerprint="one", on_duplicate="replace"),
                    Job("q", {"n": 2}, on_duplicate="raise"),
                ]
            )
        assert sorted(map(str, (job.payload for job in unfinished_jobs(waiting)))) == ["{'n': 2}", "{'v': 1}"]

    def test_one_of_many_threads_wins(self, waiting: Backend) -> None:
        """Of threads that enqueue equal jobs at once exactly one stores its own."""
        waiting.listen("q", ignore)
        for turn in range(20):
            jobs = in_threads(8, lambda _, turn=turn: waiting.enqueue("q", {"turn": turn}))  # type: ignore[misc]
            assert sorted(job.duplicate for job in jobs) == [False] + [True] * 7
            assert len({job.id for job in jobs}) == 1
        assert len(unfinished_jobs(waiting)) == 20

    def test_equal_jobs_never_run_side_by_side(self, backend: Backend) -> None:
        """However enqueueing and finishing meet, two jobs of one fingerprint never run at once."""
        alone = threading.Lock()
        met = Seen()

        def handler(job: Job) -> None:
            if not alone.acquire(blocking=False):
                met(job.id)
                return
            try:
                threading.Event().wait(0.001)
            finally:
                alone.release()

        backend.listen("q", handler, concurrency=4)
        in_threads(4, lambda _: [backend.enqueue("q", {"a": 1}) for _ in range(50)])
        eventually(lambda: not unfinished_jobs(backend), "all jobs end")
        assert met.items == []
        assert backend.drain(PATIENCE)

    def test_a_debounce_keeps_the_last_event(
        self, backend: Backend, seen: Seen, gate: threading.Event
    ) -> None:
        """With "replace" and unique="until_started" an event during the run is handled by another run."""

        def handler(job: Job) -> None:
            seen(job.payload["text"])
            busy(gate)

        def typed(text: str) -> Job:
            return backend.enqueue(
                "q",
                {"text": text},
                fingerprint="document-1",
                run_after=0.05,
                on_duplicate="replace",
                unique="until_started",
            )

        backend.listen("q", handler, concurrency=1)
        backend.pause("q")
        first = typed("h")
        assert typed("he").id == first.id
        backend.resume("q")
        assert seen.wait() == ["he"]
        assert not typed("hel").duplicate
        assert typed("hell").duplicate
        assert typed("hello").duplicate
        gate.set()
        assert seen.wait(2) == ["he", "hello"]

    def test_duplicates_are_counted(self, waiting: Backend) -> None:
        """stats().duplicates counts the enqueues of this process that stored nothing."""
        waiting.listen("q", ignore)
        assert waiting.stats().duplicates == 0
        waiting.enqueue("q", {"n": 0})
        waiting.enqueue("q", {"n": 0})
        waiting.enqueue("q", {"n": 0}, priority=1)
        waiting.enqueue("q", {"n": 0}, unique=False)
        waiting.enqueue_many([Job("q", {"n": n}) for n in (0, 1, 1, 2)])
        waiting.enqueue("q", {"n": 0}, on_duplicate="replace")
        assert waiting.stats().duplicates == 5

    def test_unique_as_a_setting(self, make: Make) -> None:
        """What a job does not say of unique its queue says, and where that does not, the backend."""
        backend = make(autostart=False, unique=False)
        backend.listen("all", ignore)
        backend.listen("once", ignore, unique=True)
        backend.listen("soon", ignore, unique="until_started")
        wanted = {"all": False, "once": True, "soon": "until_started"}
        for queue, unique in wanted.items():
            assert backend.enqueue(queue).unique == unique
            [many] = backend.enqueue_many([Job(queue, {"many": True})])
            assert many.unique == unique
            assert backend.enqueue(queue, run_after=LATER).duplicate is bool(unique)
            for own in (True, False, "until_started"):
                assert backend.enqueue(queue, {"n": str(own)}, unique=own).unique == own
                assert backend.enqueue(Job(queue, {"m": str(own)}, unique=own)).unique == own

    def test_a_queue_that_is_not_unique(self, waiting: Backend, seen: Seen) -> None:
        """Equal jobs of a queue that listens with unique=False are all stored and run."""
        waiting.listen("q", lambda job: seen(job.payload["n"]), unique=False)
        added = [waiting.enqueue("q", {"n": 0}) for _ in range(3)]
        added += waiting.enqueue_many([Job("q", {"n": 0}) for _ in range(3)])
        assert len({job.id for job in added}) == 6
        waiting.start()
        seen.wait(6)
        assert waiting.stats().duplicates == 0

    def test_a_job_that_enqueues_itself(self, backend: Backend, caplog: pytest.LogCaptureFixture) -> None:
        """A handler that meets its own job is warned of, once for its queue, with what to do about it."""
        backend.listen("poll", lambda job: backend.enqueue("poll", job.payload).id)
        for n in range(3):
            ended(backend, backend.enqueue("poll", {"n": n}))
        told = [record.message for record in caplog.records if "its own duplicate" in record.message]
        assert len(told) == 1
        assert "Snooze" in told[0]
        assert "until_started" in told[0]

    def test_a_job_that_meets_another(self, backend: Backend, caplog: pytest.LogCaptureFixture) -> None:
        """A handler that meets another job than its own is no reason for a warning."""
        backend.listen("q", ignore)
        backend.listen("p", lambda _job: backend.enqueue("q", run_after=LATER).id)
        for n in range(3):
            ended(backend, backend.enqueue("p", {"n": n}))
        assert "its own duplicate" not in caplog.text

    def test_a_job_that_enqueues_itself_anew(self, backend: Backend, seen: Seen) -> None:
        """In a queue that is unique until started a job may enqueue its equal."""

        def poll(job: Job) -> None:
            seen(job.id)
            if len(seen.items) < 3:
                backend.enqueue("poll", job.payload)

        backend.listen("poll", poll, unique="until_started")
        backend.enqueue("poll", {"account": 7})
        assert len(set(seen.wait(3))) == 3
