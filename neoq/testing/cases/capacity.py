"""Capacity: producers of a full queue wait; nobody else does."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime
from typing import Any

import pytest

from neoq.errors import BackendClosedError, QueueFullError, Retry
from neoq.held.limit_options import LimitOptions
from neoq.job import DuplicateJobError, Job
from neoq.record import Status
from neoq.retry import RetryPolicy
from neoq.store import Tick
from neoq.testing.cases.suite import (
    LATER,
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
    needs,
    prepared,
    reached,
    unfinished_jobs,
)

SOON = 0.02  # an enqueue_timeout for cases that run into it


class CapacityCases(Suite):
    """Capacity counts the ready, unstarted jobs of one queue, and holds back the callers that add to them."""

    def test_a_full_queue_is_an_error_in_the_end(self, make: Make) -> None:
        """A full queue makes enqueue wait for enqueue_timeout, and raise QueueFullError then."""
        backend = make(autostart=False, queue_capacity=2, enqueue_timeout=0.1)
        backend.listen("q", ignore)
        for n in range(2):
            backend.enqueue("q", {"n": n})
        began = time.monotonic()
        with pytest.raises(QueueFullError) as caught:
            backend.enqueue("q", {"n": 2})
        assert time.monotonic() - began >= 0.09
        assert caught.value.queue == "q"
        assert len(unfinished_jobs(backend)) == 2

    def test_no_timeout_at_all(self, make: Make) -> None:
        """With enqueue_timeout=0 a full queue is an error at once."""
        backend = make(autostart=False, queue_capacity=1, enqueue_timeout=0)
        backend.listen("q", ignore)
        backend.enqueue("q", {"n": 0})
        with pytest.raises(QueueFullError):
            backend.enqueue("q", {"n": 1})

    def test_a_listener_has_its_own_capacity(self, make: Make) -> None:
        """The capacity given to listen counts more than that of the backend, None lifts it."""
        backend = make(autostart=False, queue_capacity=2, enqueue_timeout=SOON)
        backend.listen("small", ignore, capacity=1)
        backend.listen("endless", ignore, capacity=None)
        backend.enqueue("small", {"n": 0})
        with pytest.raises(QueueFullError):
            backend.enqueue("small", {"n": 1})
        for n in range(5):
            backend.enqueue("endless", {"n": n})

    def test_a_blocked_producer_goes_on_when_there_is_room(
        self, make: Make, seen: Seen, gate: threading.Event
    ) -> None:
        """A producer of a full queue waits until a job of it has started."""
        backend = make(queue_capacity=1, enqueue_timeout=None)

        def handler(job: Job) -> None:
            seen(job.payload["n"])
            busy(gate)

        backend.listen("q", handler, concurrency=1)
        backend.enqueue("q", {"n": 0})
        seen.wait()
        backend.enqueue("q", {"n": 1})
        producer = Background(lambda: backend.enqueue("q", {"n": 2}))
        assert producer.blocks()
        gate.set()
        assert producer.result().payload == {"n": 2}
        assert seen.wait(3) == [0, 1, 2]

    def test_every_blocked_producer_goes_on(self, make: Make, seen: Seen) -> None:
        """Many producers of a small queue all get their jobs in, and each job runs once."""
        backend = make(queue_capacity=2, enqueue_timeout=None, job_check_interval=LATER)
        backend.listen("q", lambda job: seen(job.payload["n"]), concurrency=2)

        def produce(first: int) -> None:
            for n in range(first, first + 50):
                backend.enqueue("q", {"n": n})

        producers = [Background(lambda first=first: produce(first)) for first in range(0, 200, 50)]  # type: ignore[misc]
        for producer in producers:
            producer.result()
        assert sorted(seen.wait(200)) == list(range(200))

    def test_room_comes_from_jobs_that_were_handed_over(self, make: Make, seen: Seen) -> None:
        """A producer goes on when the last jobs have started that were handed to a runner ahead of time."""
        backend = make(queue_capacity=1, enqueue_timeout=None, job_check_interval=LATER)

        def handler(job: Job) -> None:
            if job.payload.get("slow"):
                time.sleep(0.03)  # long enough for the producer to look again, and find the queue still full
            seen(job.payload)

        backend.listen("q", handler, concurrency=1)
        backend.enqueue_many([Job("q", {"n": n}, run_after=0.02) for n in range(300)])  # so quick that
        seen.wait(300)  # several are handed over at once from here on
        backend.pause("q")
        backend.enqueue_many([Job("q", {"n": n, "slow": n == 0}, run_after=0.02) for n in range(5)])
        eventually(lambda: [c.ready for c in backend.queues() if c.queue == "q"] == [5], "it is full")
        producer = Background(lambda: backend.enqueue("q", {"last": True}))
        assert producer.blocks()
        backend.resume("q")
        producer.result()
        assert seen.wait(306)[-1] == {"last": True}

    @pytest.mark.parametrize("operation", ["cancel", "delete"])
    def test_room_comes_from_a_job_that_is_taken_away(self, make: Make, operation: str) -> None:
        """A waiting job that is cancelled or deleted leaves its room to a blocked producer."""
        backend = make(autostart=False, queue_capacity=1, enqueue_timeout=None)
        backend.listen("q", ignore)
        first = backend.enqueue("q", {"n": 0})
        producer = Background(lambda: backend.enqueue("q", {"n": 1}))
        assert producer.blocks()
        assert getattr(backend, operation)(id_of(first))
        assert producer.result().payload == {"n": 1}

    def test_a_batch_larger_than_the_capacity_fails_at_once(self, make: Make) -> None:
        """A batch that can never fit raises QueueFullError without waiting, and nothing of it is stored."""
        backend = make(autostart=False, queue_capacity=3, enqueue_timeout=None)
        backend.listen("q", ignore)
        with pytest.raises(QueueFullError):
            backend.enqueue_many([Job("q", {"n": n}) for n in range(4)])
        assert unfinished_jobs(backend) == []

    def test_a_batch_larger_than_the_capacity_fails_in_a_handler_too(self, make: Make, seen: Seen) -> None:
        """A batch that can never fit is an error in a handler too, which capacity does not hold back."""
        backend = make(queue_capacity=3, enqueue_timeout=None)
        backend.listen("p", ignore)

        def handler(_job: Job) -> None:
            try:
                backend.enqueue_many([Job("p", {"n": n}) for n in range(4)])
            except QueueFullError as error:
                seen(error.queue)
            else:
                seen("added")

        backend.listen("q", handler)
        backend.enqueue("q", {})
        assert seen.wait() == ["p"]

    def test_a_batch_waits_for_room_as_a_whole(self, make: Make) -> None:
        """A batch of which only a part would fit is stored whole or not at all."""
        backend = make(autostart=False, queue_capacity=3, enqueue_timeout=SOON)
        backend.listen("q", ignore)
        backend.enqueue_many([Job("q", {"n": n}) for n in range(2)])
        with pytest.raises(QueueFullError):
            backend.enqueue_many([Job("q", {"n": n}) for n in range(2, 4)])
        assert len(unfinished_jobs(backend)) == 2

    def test_one_full_queue_holds_a_batch_back(self, make: Make) -> None:
        """A batch for two queues of which one is full is stored in neither."""
        backend = make(autostart=False, queue_capacity=1, enqueue_timeout=SOON)
        for queue in ("p", "q"):
            backend.listen(queue, ignore)
        backend.enqueue("q", {"n": 0})
        with pytest.raises(QueueFullError) as caught:
            backend.enqueue_many([Job("p", {"n": 1}), Job("q", {"n": 1})])
        assert caught.value.queue == "q"
        assert len(unfinished_jobs(backend)) == 1

    def test_a_duplicate_takes_no_room(self, make: Make) -> None:
        """A full queue returns a duplicate at once, alone or in a batch."""
        backend = make(autostart=False, queue_capacity=1, enqueue_timeout=SOON)
        backend.listen("q", ignore)
        first = backend.enqueue("q", {"n": 0})
        met = [
            backend.enqueue("q", {"n": 0}),
            backend.enqueue("q", {"n": 0}, priority=1),
            *backend.enqueue_many([Job("q", {"n": 0})]),
            *backend.enqueue_many([Job("q", {"n": 0}) for _ in range(3)]),
        ]
        assert [(job.id, job.duplicate) for job in met] == [(first.id, True)] * 6

    def test_what_a_duplicate_does_in_a_full_queue(self, make: Make) -> None:
        """In a full queue, on_duplicate="raise" raises DuplicateJobError and "replace" replaces."""
        backend = make(autostart=False, queue_capacity=1, enqueue_timeout=SOON)
        backend.listen("q", ignore)
        first = backend.enqueue("q", {"n": 0}, fingerprint="f")
        for jobs in ([Job("q", {}, fingerprint="f", on_duplicate="raise")] * n for n in (1, 2)):
            with pytest.raises(DuplicateJobError) as caught:
                backend.enqueue_many(jobs)
            assert caught.value.job.id == first.id
        with pytest.raises(DuplicateJobError):
            backend.enqueue("q", fingerprint="f", on_duplicate="raise")
        replaced = backend.enqueue("q", {"n": 1}, fingerprint="f", on_duplicate="replace")
        assert (replaced.id, replaced.payload) == (first.id, {"n": 1})
        [replaced] = backend.enqueue_many([Job("q", {"n": 2}, fingerprint="f", on_duplicate="replace")])
        assert (replaced.id, replaced.payload) == (first.id, {"n": 2})

    @pytest.mark.parametrize("options", [{}, {"unique": True}], ids=str)
    def test_a_duplicate_by_its_uid_takes_no_room(self, make: Make, options: dict[str, Any]) -> None:
        """A full queue returns a job that has the uid, finished or not, alone or in a batch."""
        backend = make(autostart=False, queue_capacity=2, enqueue_timeout=SOON)
        backend.listen("q", ignore)
        done = backend.enqueue("q", {"n": 0}, uid="done")
        assert backend.cancel(id_of(done))
        [first, _] = backend.enqueue_many([Job("q", {"n": n}, uid=f"u{n}") for n in (1, 2)])
        many = [Job("q", {"n": 9}, uid=uid, **options) for uid in ("done", "u1", "u1")]
        met = [backend.enqueue("q", {"n": n}, uid="u1", **options) for n in (1, 9)]
        met += [backend.enqueue("q", {"n": 9}, uid="done", **options), *backend.enqueue_many(many)]
        assert [job.id for job in met] == [first.id, first.id, done.id, done.id, first.id, first.id]
        assert all(job.duplicate for job in met)
        with pytest.raises(DuplicateJobError, match="uid 'u1'"):
            backend.enqueue("q", {"n": 9}, uid="u1", on_duplicate="raise")
        with pytest.raises(QueueFullError):
            backend.enqueue_many([Job("q", {"n": 9}, uid="u1"), Job("q", {"n": 9}, uid="new")])
        assert len(unfinished_jobs(backend)) == 2

    def test_equal_uids_of_a_batch_take_one_place(self, make: Make) -> None:
        """Jobs of one batch that have the same uid are one job, and take the room of one."""
        backend = make(autostart=False, queue_capacity=1, enqueue_timeout=SOON)
        backend.listen("q", ignore)
        added = backend.enqueue_many([Job("q", {"n": n}, uid="a") for n in range(3)])
        assert [(job.id, job.duplicate) for job in added] == [
            (added[0].id, duplicate) for duplicate in (False, True, True)
        ]

    @pytest.mark.parametrize("number", [4, 120])
    def test_only_the_new_jobs_of_a_batch_take_room(self, make: Make, number: int) -> None:
        """Of a batch that mixes duplicates with new jobs only the new ones must find room."""
        backend = make(autostart=False, queue_capacity=number, enqueue_timeout=SOON)
        backend.listen("q", ignore)
        first = backend.enqueue_many([Job("q", {"n": n}) for n in range(number - 1)])
        twice = [Job("q", {"n": "new"}), Job("q", {"n": "new"})]
        added = backend.enqueue_many([*(Job("q", {"n": n}) for n in range(number - 1)), *twice])
        assert [job.duplicate for job in added] == [True] * (number - 1) + [False, True]
        assert [job.id for job in added[: number - 1]] == [job.id for job in first]
        with pytest.raises(QueueFullError):
            backend.enqueue_many([Job("q", {"n": 0}), Job("q", {"n": "another"})])
        assert len(unfinished_jobs(backend)) == number

    def test_a_batch_that_can_never_fit(self, make: Make) -> None:
        """A batch with more new jobs than a queue holds is refused at once; duplicates are not counted."""
        backend = make(autostart=False, queue_capacity=2, enqueue_timeout=SOON)
        backend.listen("q", ignore)
        backend.enqueue("q", {"n": 0})
        added = backend.enqueue_many([Job("q", {"n": n % 2}) for n in range(9)])
        assert [job.duplicate for job in added] == [True, False] + [True] * 7
        backend.enqueue_many([Job("q", {"n": n}, unique=False, run_after=LATER) for n in range(9)])
        with pytest.raises(QueueFullError, match="exceeds the capacity"):
            backend.enqueue_many([Job("q", {"n": n}) for n in range(9)])
        with pytest.raises(QueueFullError, match="exceeds the capacity"):
            backend.enqueue_many([Job("q", {"n": 0}, unique=False) for n in range(3)])

    def test_a_producer_that_waits_becomes_a_duplicate(self, make: Make) -> None:
        """A producer that waits for room goes on as a duplicate where its job was stored meanwhile."""
        backend = make(autostart=False, queue_capacity=1, enqueue_timeout=None)
        backend.listen("q", ignore)
        backend.enqueue("q", {"n": 0})
        producers = [Background(lambda: backend.enqueue("q", {"n": 1})) for _ in range(2)]
        assert all(producer.blocks() for producer in producers)
        future = backend.enqueue("q", {"n": 1}, run_after=LATER)
        assert [producer.result().id for producer in producers] == [future.id] * 2

    def test_future_jobs_do_not_count(self, make: Make) -> None:
        """Jobs that wait for their time take no room, and find room in a full queue."""
        backend = make(autostart=False, queue_capacity=1, enqueue_timeout=SOON)
        backend.listen("q", ignore)
        for n in range(3):
            backend.enqueue("q", {"n": n}, run_after=LATER)
        backend.enqueue("q", {"n": 3})
        backend.enqueue("q", {"n": 4}, run_after=LATER)
        backend.enqueue_many([Job("q", {"n": n}, run_after=LATER) for n in range(5, 9)])
        assert len(unfinished_jobs(backend)) == 9

    @needs("limits")
    @pytest.mark.parametrize("limits", [{"ordered": True}, {"per_key": 1}], ids=str)
    def test_jobs_in_line_count(
        self, make: Make, seen: Seen, gate: threading.Event, limits: LimitOptions
    ) -> None:
        """Jobs whose turn of their key has not come take room: they are due; the one that runs takes none."""
        backend = make(queue_capacity=2, enqueue_timeout=SOON)

        def handler(job: Job) -> None:
            seen(job.payload["n"])
            busy(gate)

        backend.listen("q", handler, concurrency=2, **limits)
        backend.enqueue("q", {"n": 0}, key="a")
        seen.wait()
        [_, last] = backend.enqueue_many([Job("q", {"n": n}, key="a") for n in (1, 2)])
        for jobs in ([Job("q", {"n": 3}, key="a")], [Job("q", {"n": n}, key="b") for n in (4, 5)]):
            with pytest.raises(QueueFullError):
                backend.enqueue_many(jobs)
        assert seen.items == [0]
        assert backend.cancel(id_of(last))
        backend.enqueue("q", {"n": 6}, key="a")
        with pytest.raises(QueueFullError):
            backend.enqueue("q", {"n": 7}, key="a")
        gate.set()
        assert seen.wait(3) == [0, 1, 6]
        backend.enqueue("q", {"n": 8}, key="a")

    @needs("limits")
    def test_future_jobs_of_a_key_do_not_count(self, make: Make, seen: Seen) -> None:
        """A job of a key that is for later takes no room until it joins its line; it needs none to join."""
        backend = make(queue_capacity=2, enqueue_timeout=SOON)
        backend.listen("q", lambda job: seen(job.payload["n"]), ordered=True)
        backend.pause("q")
        backend.enqueue_many([Job("q", {"n": n}, key="a", run_after=LATER) for n in range(3)])
        for n in (3, 4):
            backend.enqueue("q", {"n": n}, key="a")
        backend.enqueue_many([Job("q", {"n": n}, key="a", run_after=0.02) for n in (5, 6)])
        eventually(lambda: [c.ready for c in backend.queues() if c.queue == "q"] == [4], "they are due")
        with pytest.raises(QueueFullError):
            backend.enqueue("q", {"n": 7}, key="b")
        backend.resume("q")
        assert seen.wait(4) == [3, 4, 5, 6]
        backend.enqueue("q", {"n": 8}, key="a")

    def test_retrying_jobs_do_not_count(self, make: Make) -> None:
        """Jobs that wait for their next attempt take no room."""
        backend = make(queue_capacity=1, enqueue_timeout=5)
        backend.listen("q", fail, retry=RetryPolicy(delay=LATER))
        for n in range(3):
            reached(backend, backend.enqueue("q", {"n": n}), Status.RETRYING)
        backend.pause("q")
        assert not backend.enqueue("q", {"n": 3}).duplicate

    def test_running_jobs_do_not_count(self, make: Make, seen: Seen, gate: threading.Event) -> None:
        """Jobs that run take no room."""
        backend = make(queue_capacity=1, enqueue_timeout=SOON)

        def handler(_job: Job) -> None:
            seen()
            busy(gate)

        backend.listen("q", handler, concurrency=1)
        backend.enqueue("q", {"n": 0})
        seen.wait()
        backend.enqueue("q", {"n": 1})
        with pytest.raises(QueueFullError):
            backend.enqueue("q", {"n": 2})

    def test_a_handler_may_fill_its_own_queue(self, make: Make, seen: Seen) -> None:
        """A handler that enqueues into its own full queue does not wait for itself."""
        backend = make(queue_capacity=1, enqueue_timeout=None)

        def handler(job: Job) -> None:
            seen(job.payload["n"])
            if job.payload["n"] == 0:
                for n in (1, 2, 3):
                    backend.enqueue("q", {"n": n})
                backend.enqueue_many([Job("q", {"n": n}) for n in (4,)])

        backend.listen("q", handler, concurrency=1)
        backend.enqueue("q", {"n": 0})
        assert seen.wait(5) == [0, 1, 2, 3, 4]

    def test_a_handler_may_fill_another_queue(self, make: Make, seen: Seen) -> None:
        """No runner thread waits for room, in whatever queue."""
        backend = make(queue_capacity=1, enqueue_timeout=None)

        def handler(_job: Job) -> None:
            for n in range(3):
                backend.enqueue("full", {"n": n})

        backend.listen("full", lambda job: seen(job.payload["n"]), concurrency=1)
        backend.listen("q", handler)
        backend.pause("full")
        assert ended(backend, backend.enqueue("q")).status is Status.SUCCEEDED
        backend.resume("full")
        assert seen.wait(3) == [0, 1, 2]

    def test_jobs_fall_due_in_a_full_queue(self, make: Make, seen: Seen) -> None:
        """Future jobs of a full queue become ready all the same."""
        backend = make(queue_capacity=1, enqueue_timeout=SOON)
        backend.listen("q", lambda job: seen(job.payload["n"]))
        backend.pause("q")
        for n in range(4):
            backend.enqueue("q", {"n": n}, run_after=0.03)
        eventually(lambda: [c.ready for c in backend.queues() if c.queue == "q"] == [4], "all are ready")
        with pytest.raises(QueueFullError):
            backend.enqueue("q", {"n": 4})
        backend.resume("q")
        assert sorted(seen.wait(4)) == [0, 1, 2, 3]

    def test_a_retry_goes_into_a_full_queue(self, make: Make, seen: Seen) -> None:
        """A failed job comes back to a full queue without waiting."""
        backend = make(queue_capacity=1, enqueue_timeout=None)

        def handler(job: Job) -> None:
            if job.payload["n"] == 0 and job.attempt == 1:
                backend.enqueue("q", {"n": 1})
                raise Retry(after=0)
            seen(job.payload["n"])

        backend.listen("q", handler, concurrency=1)
        backend.enqueue("q", {"n": 0})
        assert sorted(seen.wait(2)) == [0, 1]

    def test_a_cron_tick_goes_into_a_full_queue(self, make: Make) -> None:
        """A tick is added to a full queue without waiting."""
        backend = make(autostart=False, queue_capacity=1, enqueue_timeout=None)
        backend.listen("q", ignore)
        backend.enqueue("q", {"n": 0})
        tick = datetime(2030, 1, 1, tzinfo=UTC)
        assert backend.store.add_tick("cron", tick, prepared("q", {"n": 1})) is Tick.NEW

    def test_a_full_queue_holds_up_no_other(self, make: Make, seen: Seen) -> None:
        """While a producer is blocked on one queue, another's jobs are enqueued, fall due and run."""
        backend = make(queue_capacity=1, enqueue_timeout=None)
        backend.listen("full", ignore)
        backend.listen("q", lambda job: seen(job.payload["n"]), concurrency=1)
        backend.pause("full")
        for n in range(3):
            backend.enqueue("full", {"n": n}, run_after=0.03)
        eventually(lambda: [c.ready for c in backend.queues() if c.queue == "full"] == [3], "it is full")
        producer = Background(lambda: backend.enqueue("full", {"n": 3}))
        assert producer.blocks()
        backend.enqueue("q", {"n": 2}, run_after=0.1)
        backend.enqueue("q", {"n": 1})
        assert sorted(seen.wait(2)) == [1, 2]
        backend.resume("full")
        producer.result()

    def test_shutdown_wakes_a_blocked_producer(self, make: Make) -> None:
        """An enqueue that waits for room ends with BackendClosedError at shutdown."""
        backend = make(autostart=False, queue_capacity=1, enqueue_timeout=None, job_check_interval=LATER)
        backend.listen("q", ignore)
        backend.enqueue("q", {"n": 0})
        producers = [
            Background(lambda: backend.enqueue("q", {"n": 1})),
            Background(lambda: backend.enqueue_many([Job("q", {"n": 2})])),
        ]
        assert all(producer.blocks() for producer in producers)
        backend.shutdown(timeout=1)
        for producer in producers:
            with pytest.raises(BackendClosedError):
                producer.result()
