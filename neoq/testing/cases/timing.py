"""When a job starts, and which one first."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from neoq.backend import Backend
from neoq.errors import InvalidJobError, PayloadError
from neoq.job import Job
from neoq.record import Status
from neoq.testing.cases.suite import (
    LATER,
    PATIENCE,
    Make,
    Seen,
    Suite,
    busy,
    ended,
    eventually,
    id_of,
    ignore,
    reached,
    unfinished_jobs,
)

CLOCKS_AGREE = 0.002  # seconds between this process's clock and the store's, on one machine


def due(job: Job) -> float:
    """When a job may start, in seconds since the epoch."""
    assert job.run_after is not None
    return job.run_after.timestamp()


class FutureCases(Suite):
    """A job starts at or after its run_after, never before, and is not forgotten."""

    def test_never_early(self, backend: Backend, seen: Seen) -> None:
        """No future job starts before its time, in a batch or alone."""
        backend.listen("q", lambda job: seen((job.payload["n"], time.time())), concurrency=4)
        jobs = backend.enqueue_many([Job("q", {"n": n}, run_after=n * 7 % 200 / 1000) for n in range(40)])
        jobs += [backend.enqueue("q", {"n": n}, run_after=n * 7 % 200 / 1000) for n in range(40, 80)]
        started = dict(seen.wait(80))
        early = {job: due(job) - started[job.payload["n"]] for job in jobs}
        assert max(early.values()) <= CLOCKS_AGREE
        assert len(seen.items) == 80

    def test_future_jobs_run_in_the_order_of_their_times(self, backend: Backend, seen: Seen) -> None:
        """Future jobs start by due time, not in the order of their enqueue."""
        backend.listen("q", lambda job: seen(job.payload["n"]), concurrency=1)
        backend.pause("q")  # until all are due: then only the order counts
        jobs = [backend.enqueue("q", {"n": n}, run_after=n / 50) for n in (3, 1, 4, 2, 0)]
        eventually(lambda: time.time() > max(map(due, jobs)) + CLOCKS_AGREE, "all are due")
        backend.resume("q")
        assert seen.wait(5) == [job.payload["n"] for job in sorted(jobs, key=due)]

    @pytest.mark.parametrize(
        "settings",
        [
            {"job_check_interval": LATER, "future_job_window": 0},
            {"job_check_interval": LATER, "future_job_window": 0.05},
            {"job_check_interval": LATER, "future_job_window": 30},
            {"job_check_interval": 0.05, "future_job_window": 0.01},
            {"job_check_interval": 0.02, "future_job_window": 30},
        ],
        ids=lambda settings: "-".join(str(value) for value in settings.values()),
    )
    def test_interval_and_window_make_no_job_late(
        self, make: Make, seen: Seen, settings: dict[str, Any]
    ) -> None:
        """An interval longer than the window, or a job enqueued inside it, is no reason to be late."""
        backend = make(**settings)
        backend.listen("q", lambda job: seen((job.payload["n"], time.time())))
        jobs = {n: backend.enqueue("q", {"n": n}, run_after=n / 1000) for n in (250, 20, 120)}
        started = dict(seen.wait(3))
        assert all(started[n] >= due(job) - CLOCKS_AGREE for n, job in jobs.items())

    @pytest.mark.parametrize("window", [0, 30, 86400])
    def test_a_nearer_job_overtakes(self, make: Make, seen: Seen, window: float) -> None:
        """A job due sooner than all the others is on time, though they were enqueued before it."""
        backend = make(job_check_interval=LATER, future_job_window=window)
        backend.listen("q", lambda job: seen(job.payload["n"]))
        backend.enqueue("q", {"n": 2}, run_after=LATER / 2)
        backend.enqueue("q", {"n": 1}, run_after=LATER / 4)
        backend.enqueue("q", {"n": 0}, run_after=0.05)
        assert seen.wait() == [0]

    def test_a_nearer_job_overtakes_from_another_queue(self, make: Make, seen: Seen) -> None:
        """The same holds across queues."""
        backend = make(job_check_interval=LATER)
        for queue in ("p", "q"):
            backend.listen(queue, lambda job: seen(job.queue))
        backend.enqueue("p", run_after=LATER / 2)
        backend.enqueue("q", run_after=0.05)
        assert seen.wait() == ["q"]

    def test_a_time_that_is_past_means_now(self, backend: Backend, seen: Seen) -> None:
        """A job whose run_after has passed runs at once, and keeps its run_after."""
        backend.listen("q", lambda job: seen(job.run_after))
        past = datetime(2001, 2, 3, 4, 5, 6, 789000, tzinfo=UTC)
        assert backend.enqueue("q", run_after=past).run_after == past
        assert seen.wait() == [past]

    @pytest.mark.parametrize("wrong_by", [3600.0, -3600.0], ids=["fast", "slow"])
    def test_a_deadline_by_a_wrong_clock(self, backend: Backend, wrong_by: float) -> None:
        """A worker whose clock is wrong lets jobs run until their deadlines, and no longer."""

        class Wrong:
            monotonic = staticmethod(time.monotonic)

            def time(self) -> float:
                return time.time() + wrong_by

        backend.clock = Wrong()

        def handler(job: Job) -> float:
            while job.payload["hangs"]:
                time.sleep(0.01)
            return job.remaining()

        backend.listen("q", handler, timeout=7200)
        done = ended(backend, backend.enqueue("q", {"hangs": False}, deadline=600))
        assert done.status is Status.SUCCEEDED
        assert done.result is not None
        assert 500 < done.result <= 601
        late = ended(backend, backend.enqueue("q", {"hangs": True}, deadline=0.5))
        assert (late.status, "DeadlineExceeded" in (late.error or "")) == (Status.DEAD, True)

    @pytest.mark.parametrize("year", [2100, 9999])
    def test_a_distant_time_is_accepted(self, backend: Backend, seen: Seen, year: int) -> None:
        """A job may wait for centuries, and keeps nobody else from running."""
        backend.listen("q", lambda job: seen(job.payload["n"]))
        distant = datetime(year, 12, 30, tzinfo=UTC)
        job = backend.enqueue("q", {"n": 1}, run_after=distant)
        assert job.run_after == distant
        ended(backend, backend.enqueue("q", {"n": 2}, run_after=0.05))
        assert seen.items == [2]
        assert [(left.id, left.run_after) for left in unfinished_jobs(backend)] == [(job.id, distant)]

    def test_times_can_be_given_in_three_ways(self, waiting: Backend) -> None:
        """run_after and deadline take a span as a number or a timedelta, or an aware datetime."""
        waiting.listen("q", ignore)
        zone = datetime.now(UTC).astimezone(tz=None).tzinfo
        then = datetime.now(zone) + timedelta(hours=1)
        ways: list[datetime | timedelta | float] = [
            3600,
            3600.0,
            timedelta(hours=1),
            then,
            then.astimezone(UTC),
        ]
        for n, way in enumerate(ways):
            job = waiting.enqueue("q", {"n": n}, run_after=way, deadline=way)
            for told in (job.run_after, job.deadline):
                assert told is not None
                assert told.utcoffset() == timedelta(0)
                assert abs(told - then) < timedelta(minutes=1)

    def test_a_naive_time_is_refused(self, waiting: Backend) -> None:
        """A datetime without a timezone is an InvalidJobError, and nothing is stored."""
        waiting.listen("q", ignore)
        naive = datetime(2030, 1, 1)  # noqa: DTZ001  # what is tested
        with pytest.raises(InvalidJobError):
            waiting.enqueue("q", run_after=naive)
        with pytest.raises(InvalidJobError):
            waiting.enqueue("q", deadline=naive)
        assert unfinished_jobs(waiting) == []

    def test_many_jobs_of_one_instant(self, backend: Backend, seen: Seen) -> None:
        """Hundreds of jobs due at the same instant all run, once."""
        backend.listen("q", lambda job: seen(job.payload["n"]), concurrency=2)
        instant = datetime.now(UTC) + timedelta(milliseconds=150)
        backend.enqueue_many([Job("q", {"n": n}, run_after=instant) for n in range(300)])
        assert sorted(seen.wait(300)) == list(range(300))

    def test_spans_count_from_the_enqueue(self, waiting: Backend) -> None:
        """A span given to a Job counts from its enqueue, not from its making."""
        waiting.listen("q", ignore)
        made = Job("q", run_after=LATER, deadline=LATER)
        before = datetime.now(UTC)
        eventually(lambda: datetime.now(UTC) > before + timedelta(milliseconds=20), "time passes")
        job = waiting.enqueue(made)
        assert job.run_after is not None
        assert job.deadline is not None
        assert job.run_after >= before + timedelta(seconds=LATER, milliseconds=15)
        assert job.deadline >= before + timedelta(seconds=LATER, milliseconds=15)


class OrderCases(Suite):
    """Larger priority first, then due time, then enqueue order."""

    def test_larger_priorities_first(self, waiting: Backend, seen: Seen) -> None:
        """Ready jobs run by priority."""
        waiting.listen("q", lambda job: seen(job.priority), concurrency=1)
        for priority in (0, -100, 5, 100, -5):
            waiting.enqueue("q", {"priority": priority}, priority=priority)
        waiting.start()
        assert seen.wait(5) == [100, 5, 0, -5, -100]

    def test_jobs_without_a_priority_go_before_lower_ones(self, waiting: Backend, seen: Seen) -> None:
        """What has no priority runs before what has a lower one and came earlier, also in a batch."""
        waiting.listen("q", lambda job: seen(job.payload["n"]), concurrency=1)
        waiting.enqueue("q", {"n": 4}, priority=-1)
        waiting.enqueue("q", {"n": 0})
        waiting.enqueue("q", {"n": 5}, priority=-2)
        waiting.enqueue_many([Job("q", {"n": n}) for n in (1, 2)])
        waiting.enqueue("q", {"n": 3})
        waiting.start()
        assert seen.wait(6) == list(range(6))

    @pytest.mark.parametrize("priority", [101, -101, 1000, 1.5, True, "1"])
    def test_a_priority_out_of_range_is_refused(self, waiting: Backend, priority: Any) -> None:
        """Priorities are integers from -100 to 100."""
        waiting.listen("q", ignore)
        with pytest.raises(InvalidJobError):
            waiting.enqueue("q", priority=priority)

    def test_then_the_earlier_due(self, waiting: Backend, seen: Seen) -> None:
        """Jobs of one priority run by due time; priority weighs more."""
        waiting.listen("q", lambda job: seen(job.payload["n"]), concurrency=1)
        for n, (ago, priority) in enumerate([(10, 0), (30, 0), (20, 0), (40, -1), (5, 1)]):
            waiting.enqueue("q", {"n": n}, run_after=-ago, priority=priority)
        waiting.start()
        assert seen.wait(5) == [4, 1, 2, 0, 3]

    def test_then_the_earlier_enqueued(self, waiting: Backend, seen: Seen) -> None:
        """Jobs of one priority and one due time run in the order of their enqueue."""
        waiting.listen("q", lambda job: seen(job.payload["n"]), concurrency=1)
        instant = datetime.now(UTC)
        for n in range(50):
            waiting.enqueue("q", {"n": n}, run_after=instant)
        waiting.start()
        assert seen.wait(50) == list(range(50))

    def test_jobs_for_now_run_in_the_order_of_their_enqueue(self, waiting: Backend, seen: Seen) -> None:
        """Jobs without a time are due when they are enqueued: first in, first out."""
        waiting.listen("q", lambda job: seen(job.payload["n"]), concurrency=1)
        for n in range(50):
            waiting.enqueue("q", {"n": n})
        waiting.start()
        assert seen.wait(50) == list(range(50))

    def test_a_batch_keeps_its_order(self, waiting: Backend, seen: Seen) -> None:
        """enqueue_many returns and runs jobs in the order given, after what was there before."""
        waiting.listen("q", lambda job: seen(job.payload["n"]), concurrency=1)
        waiting.enqueue("q", {"n": 0})
        jobs = waiting.enqueue_many([Job("q", {"n": n}) for n in range(1, 200)])
        assert [job.payload["n"] for job in jobs] == list(range(1, 200))
        waiting.enqueue("q", {"n": 200})
        waiting.start()
        assert seen.wait(201) == list(range(201))

    def test_a_batch_for_several_queues(self, waiting: Backend, seen: Seen) -> None:
        """A batch may be for several queues; each keeps its order."""
        for queue in ("p", "q"):
            waiting.listen(queue, lambda job: seen((job.queue, job.payload["n"])), concurrency=1)
        waiting.enqueue_many([Job("pq"[n % 2], {"n": n}) for n in range(20)])
        waiting.start()
        ran = seen.wait(20)
        assert [n for queue, n in ran if queue == "p"] == list(range(0, 20, 2))
        assert [n for queue, n in ran if queue == "q"] == list(range(1, 20, 2))

    def test_a_batch_with_a_bad_job_adds_nothing(self, waiting: Backend) -> None:
        """enqueue_many is all or nothing: one payload that is not JSON, and none is stored."""
        waiting.listen("q", ignore)
        jobs = [Job("q", {"n": n}) for n in range(5)] + [Job("q", {"n": object()}), Job("q", {"n": 6})]
        with pytest.raises(PayloadError):
            waiting.enqueue_many(jobs)
        assert unfinished_jobs(waiting) == []
        assert not waiting.enqueue("q", {"n": 0}).duplicate

    def test_an_empty_batch_is_nothing(self, waiting: Backend) -> None:
        """enqueue_many of no jobs returns none."""
        assert waiting.enqueue_many([]) == []

    def test_a_job_that_falls_due_takes_its_place(
        self, backend: Backend, seen: Seen, gate: threading.Event
    ) -> None:
        """A future job that has become due goes before ready ones of lower priority."""

        def handler(job: Job) -> None:
            seen(job.payload["n"])
            if job.payload["n"] == 0:
                busy(gate)

        backend.listen("q", handler, concurrency=1)
        backend.enqueue("q", {"n": 0})
        seen.wait()
        for n in (2, 3):
            backend.enqueue("q", {"n": n})
        urgent = backend.enqueue("q", {"n": 1}, priority=1, run_after=0.05)
        eventually(lambda: time.time() > due(urgent) + CLOCKS_AGREE, "it is due")
        eventually(lambda: [c.ready for c in backend.queues() if c.queue == "q"] == [3], "it is ready")
        gate.set()
        assert seen.wait(4) == [0, 1, 2, 3]

    def test_priority_holds_for_what_waits_behind_a_long_job(
        self, backend: Backend, seen: Seen, gate: threading.Event
    ) -> None:
        """No job is handed to a busy runner ahead of time: a later, more urgent one still goes first."""

        def handler(job: Job) -> None:
            seen(job.priority)
            busy(gate)

        backend.listen("q", handler, concurrency=1)
        backend.enqueue("q", {"n": 0}, priority=100)
        seen.wait()
        for n, priority in enumerate((0, 1, 2, 3), 1):
            backend.enqueue("q", {"n": n}, priority=priority)
        gate.set()
        assert seen.wait(5) == [100, 3, 2, 1, 0]


class RunnerCases(Suite):
    """How many run at once, and that each job runs once."""

    def test_concurrency_is_reached(self, backend: Backend) -> None:
        """So many jobs of a queue as its concurrency run side by side."""
        together = threading.Barrier(4)
        backend.listen("q", lambda _job: together.wait(PATIENCE) >= 0, concurrency=4)
        jobs = backend.enqueue_many([Job("q", {"n": n}) for n in range(8)])
        assert {ended(backend, job).result for job in jobs} == {True}

    def test_concurrency_is_not_exceeded(self, backend: Backend, seen: Seen, gate: threading.Event) -> None:
        """No more jobs of a queue run at once than its concurrency."""

        def handler(_job: Job) -> None:
            seen()
            busy(gate)

        backend.listen("q", handler, concurrency=3)
        backend.enqueue_many([Job("q", {"n": n}) for n in range(10)])
        seen.wait(3)
        seen.stays(3)
        gate.set()
        seen.wait(10)

    def test_a_busy_queue_holds_up_no_other(
        self, backend: Backend, seen: Seen, gate: threading.Event
    ) -> None:
        """While all runners of one queue are busy, another queue's jobs run."""
        backend.listen("p", lambda _job: busy(gate), concurrency=1)
        backend.listen("q", lambda job: seen(job.payload["n"]), concurrency=1)
        backend.enqueue_many([Job("p", {"n": n}) for n in range(5)])
        for n in range(3):
            backend.enqueue("q", {"n": n})
        assert seen.wait(3) == [0, 1, 2]

    def test_each_job_runs_once(self, backend: Backend, seen: Seen) -> None:
        """Of many jobs, enqueued from several threads while others run, each runs exactly once."""
        backend.listen("q", lambda job: seen(job.id), concurrency=4)

        def produce(start: int) -> None:
            for n in range(start, start + 100):
                backend.enqueue("q", {"n": n})
            backend.enqueue_many([Job("q", {"n": n}) for n in range(start + 100, start + 300)])

        threads = [threading.Thread(target=produce, args=(start * 1000,)) for start in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        ran = seen.wait(900)
        assert len(set(ran)) == 900
        assert backend.drain(PATIENCE)
        assert len(seen.items) == 900

    def test_a_handler_may_enqueue(self, backend: Backend, seen: Seen) -> None:
        """A handler can enqueue to its own queue and to others."""

        def handler(job: Job) -> None:
            backend.enqueue("child", {"n": job.payload["n"]})
            if job.payload["n"]:
                backend.enqueue("parent", {"n": job.payload["n"] - 1})

        backend.listen("parent", handler, concurrency=1)
        backend.listen("child", lambda job: seen(job.payload["n"]), concurrency=1)
        backend.enqueue("parent", {"n": 4})
        assert seen.wait(5) == [4, 3, 2, 1, 0]

    def test_a_handler_gets_the_job(self, backend: Backend, seen: Seen) -> None:
        """The job that a handler gets is the one that was accepted, now RUNNING."""
        backend.listen(
            "q", lambda job: seen((job.id, job.status, job.priority, job.run_after, job.created_at))
        )
        job = backend.enqueue("q", priority=5, run_after=0.02)
        assert seen.wait() == [(job.id, Status.RUNNING, 5, job.run_after, job.created_at)]

    def test_a_running_job_is_running(self, backend: Backend, seen: Seen, gate: threading.Event) -> None:
        """While its handler runs a job is RUNNING, with the time at which it started."""

        def handler(_job: Job) -> None:
            seen()
            busy(gate)

        before = datetime.now(UTC) - timedelta(milliseconds=2)
        backend.listen("q", handler)
        job = backend.enqueue("q")
        seen.wait()
        running = reached(backend, job, Status.RUNNING)
        assert running.ran_at is not None
        assert running.ran_at >= before
        gate.set()
        done = ended(backend, job)
        assert done.status is Status.SUCCEEDED
        assert done.ran_at is not None
        assert done.finished_at is not None
        assert before <= done.ran_at <= done.finished_at
        assert backend.get(id_of(job)) is not None
