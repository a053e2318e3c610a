"""Cron: ticks, once each, with the time for which they were meant."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import pytest

from neoq.backend import Backend
from neoq.cron import Schedule
from neoq.errors import CronError, ListenerExistsError
from neoq.job import Job
from neoq.outcome import Outcome
from neoq.record import Status
from neoq.retry import RetryPolicy
from neoq.store import Demand, Tick
from neoq.testing.cases.seam import how_it_ended
from neoq.testing.cases.suite import (
    Make,
    Seen,
    Suite,
    busy,
    ended,
    eventually,
    id_of,
    ignore,
    in_threads,
    needs,
    prepared,
)

SECOND = "@every 1s"
NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


def tick_of(job: Job) -> datetime:
    """The time for which a job of a cron was meant."""
    return datetime.fromisoformat(job.payload["scheduled_at"])


class CronCases(Suite):
    """listen_cron."""

    def test_ticks(self, backend: Backend, seen: Seen) -> None:
        """A job for each tick, never early, which carries its scheduled time and the cron's name."""
        name = Schedule(SECOND).queue_name

        def handler(job: Job) -> None:
            seen((tick_of(job), datetime.now(UTC), job.queue, job.fingerprint))

        backend.listen_cron(SECOND, handler)
        (first, *_), (second, *_) = seen.wait(2)
        assert second - first >= timedelta(seconds=1)
        for tick, ran_at, queue, fingerprint in seen.items:
            assert tick.utcoffset() == timedelta(0)
            assert tick.timestamp() % 1 == 0
            assert ran_at >= tick - timedelta(milliseconds=2)
            assert (queue, fingerprint) == (name, name)

    def test_a_failed_tick_is_not_retried(self, backend: Backend, seen: Seen) -> None:
        """A tick that fails is DEAD: the next tick is its retry."""

        def handler(job: Job) -> None:
            seen((tick_of(job), job.attempt))
            raise RuntimeError("this time")

        backend.listen_cron(SECOND, handler, queue="cron", retry=RetryPolicy(delay=0))
        (first, attempt), (second, again) = seen.wait(2)[:2]
        assert second > first
        assert (attempt, again) == (1, 1)
        eventually(lambda: len(backend.jobs("cron", Status.DEAD)) >= 2, "both are dead")

    def test_a_failed_tick_is_retried_where_asked(self, backend: Backend, seen: Seen) -> None:
        """With max_retries a tick that fails is tried again, for the same time."""

        def handler(job: Job) -> None:
            seen((tick_of(job), job.attempt))
            if job.attempt == 1:
                raise RuntimeError("this time")

        backend.listen_cron(SECOND, handler, queue="cron", max_retries=1, retry=RetryPolicy(delay=0))
        (first, attempt), (second, again) = seen.wait(2)[:2]
        assert first == second
        assert (attempt, again) == (1, 2)

    def test_a_tick_whose_predecessor_is_unfinished(
        self, backend: Backend, seen: Seen, gate: threading.Event
    ) -> None:
        """A tick that comes while the one before still runs is skipped and counted, and never made up for."""

        def handler(job: Job) -> None:
            seen(tick_of(job))
            busy(gate)

        backend.listen_cron(SECOND, handler, queue="cron")
        eventually(lambda: backend.stats().skipped_ticks >= 1, "a tick is skipped")
        assert len(seen.items) == 1
        gate.set()
        first, second = seen.wait(2)[:2]
        assert second - first >= timedelta(seconds=2)

    def test_a_cron_decorator(self, waiting: Backend) -> None:
        """Without a handler listen_cron is a decorator, which returns the function unchanged."""

        @waiting.listen_cron("@hourly")
        def handler(_job: Job) -> str:
            return "called"

        assert handler(Job("q")) == "called"
        with pytest.raises(ListenerExistsError):
            waiting.listen(Schedule("@hourly").queue_name, ignore)

    def test_a_cron_of_a_queue_that_is_not_run(self, waiting: Backend) -> None:
        """A cron ticks and is listed only where its queue runs, whenever it was registered."""
        waiting.listen_cron(SECOND, ignore, queue="before", catch_up=True)
        waiting.listen_cron(SECOND, ignore, queue="runs")
        waiting.start(queues=["runs"])
        waiting.listen_cron(SECOND, ignore, queue="after")
        waiting.listen("later", ignore)
        left_out = waiting.enqueue("later")
        eventually(lambda: waiting.stats().succeeded >= 2, "two ticks of the queue that runs")
        assert [one.queue for one in waiting.schedules()] == ["runs"]
        assert {job.queue for job in waiting.jobs(limit=1000)} == {"runs", "later"}
        found = waiting.get(id_of(left_out))
        assert found is not None
        assert found.status is Status.PENDING

    def test_a_name_that_is_taken(self, waiting: Backend) -> None:
        """Two crons of one description clash, and the error says to pass queue=, which helps."""
        waiting.listen_cron("*/5 * * * *", ignore)
        with pytest.raises(ListenerExistsError, match="queue=") as caught:
            waiting.listen_cron("*/5 * * * *", ignore)
        assert caught.value.queue == "every_5_minutes"
        waiting.listen_cron("*/5 * * * *", ignore, queue="another")
        with pytest.raises(ListenerExistsError):
            waiting.listen("every_5_minutes", ignore)

    @pytest.mark.parametrize(
        ("spec", "timezone"), [("61 * * * *", "UTC"), ("nonsense", "UTC"), ("@hourly", "Nowhere/Land")]
    )
    def test_a_bad_schedule_is_refused(self, waiting: Backend, spec: str, timezone: str) -> None:
        """A spec or timezone that is wrong is a CronError at once, and nobody listens."""
        with pytest.raises(CronError):
            waiting.listen_cron(spec, ignore, queue="cron", timezone=timezone)
        waiting.listen("cron", ignore)

    def test_a_cron_queue_is_a_queue(self, backend: Backend, seen: Seen) -> None:
        """The queue of a cron takes jobs of the user's own, too."""
        backend.listen_cron("@yearly", lambda job: seen(job.payload), queue="cron")
        ended(backend, backend.enqueue("cron", {"by hand": True}))
        assert seen.items == [{"by hand": True}]


class TickCases(Suite):
    """add_tick and last_tick at the seam."""

    @pytest.fixture
    def crons(self, waiting: Backend) -> Backend:
        """A backend that runs nothing, with a listener for the jobs of a cron."""
        waiting.listen("cron", ignore)
        waiting.queues()
        return waiting

    def test_a_tick_is_new_once(self, crons: Backend) -> None:
        """The first to add a tick gets NEW and its job is stored; for everybody else it EXISTS."""
        job = prepared("cron", {"n": 1}, fingerprint="cron")
        assert crons.store.add_tick("cron", NOON, job) is Tick.NEW
        assert [stored.payload for stored in crons.jobs("cron")] == [{"n": 1}]
        self.end_all_of(crons)
        assert (
            crons.store.add_tick("cron", NOON, prepared("cron", {"n": 2}, fingerprint="cron")) is Tick.EXISTS
        )
        assert len(crons.jobs("cron")) == 1

    def test_a_tick_is_skipped_while_its_predecessor_is_unfinished(self, crons: Backend) -> None:
        """A tick whose predecessor waits or runs is SKIPPED; after its end the next one is NEW."""
        ticks = [NOON + timedelta(minutes=n) for n in range(4)]
        jobs = [prepared("cron", {"n": n}, fingerprint="cron") for n in range(4)]
        assert crons.store.add_tick("cron", ticks[0], jobs[0]) is Tick.NEW
        assert crons.store.add_tick("cron", ticks[1], jobs[1]) is Tick.SKIPPED
        [running] = crons.store.claim([Demand("cron", 1)]).jobs
        assert crons.store.add_tick("cron", ticks[2], jobs[2]) is Tick.SKIPPED
        crons.store.settle([how_it_ended(running, Status.SUCCEEDED)])
        assert crons.store.add_tick("cron", ticks[3], jobs[3]) is Tick.NEW
        assert [job.payload["n"] for job in crons.jobs("cron")] == [3, 0]

    def test_a_skipped_tick_is_dealt_with(self, crons: Backend) -> None:
        """A tick that was skipped is not added by another process after all."""
        for n in range(2):
            crons.store.add_tick(
                "cron", NOON + timedelta(minutes=n), prepared("cron", {"n": n}, fingerprint="cron")
            )
        self.end_all_of(crons)
        late = prepared("cron", {"n": 2}, fingerprint="cron")
        assert crons.store.add_tick("cron", NOON + timedelta(minutes=1), late) is Tick.EXISTS

    def test_crons_are_independent(self, crons: Backend) -> None:
        """The ticks of one cron say nothing about those of another."""
        assert crons.store.add_tick("one", NOON, prepared("cron", {"n": 1}, fingerprint="one")) is Tick.NEW
        assert crons.store.add_tick("two", NOON, prepared("cron", {"n": 2}, fingerprint="two")) is Tick.NEW

    def test_the_last_tick(self, crons: Backend) -> None:
        """last_tick() is the newest tick recorded, or None."""
        assert crons.store.last_tick("cron") is None
        for n in range(2):
            crons.store.add_tick(
                "cron", NOON + timedelta(minutes=n), prepared("cron", {"n": n}, fingerprint="cron")
            )
        assert crons.store.last_tick("cron") == NOON + timedelta(minutes=1)
        assert crons.store.last_tick("another") is None

    def test_one_winner_a_tick(self, crons: Backend) -> None:
        """Of many that add one tick at once exactly one gets NEW."""
        for n in range(10):
            tick = NOON + timedelta(minutes=n)

            def add(number: int, tick: datetime = tick) -> Tick:
                return crons.store.add_tick(
                    "cron", tick, prepared("cron", {"by": number}, fingerprint="cron")
                )

            assert sorted(in_threads(6, add)) == [Tick.EXISTS] * 5 + [Tick.NEW]
            self.end_all_of(crons)
        assert len(crons.jobs("cron")) == 10

    @staticmethod
    def end_all_of(backend: Backend) -> None:
        """End every job that can be claimed."""
        claimed = backend.store.claim([Demand("cron", 100)]).jobs
        outcomes: list[Outcome] = [how_it_ended(job, Status.SUCCEEDED) for job in claimed]
        assert backend.store.settle(outcomes) == set()


class CatchUpCases(Suite):
    """Ticks that were missed while nothing ran."""

    @needs("durable")
    @pytest.mark.parametrize("catch_up", [True, False])
    def test_missed_ticks(self, make: Make, again: Make, seen: Seen, catch_up: bool) -> None:
        """catch_up=True enqueues one tick, the latest missed, never a backlog; without it there is none."""
        first = make(autostart=False)
        first.listen("cron", ignore)
        first.queues()
        long_ago = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=50)
        assert first.store.add_tick("cron", long_ago, prepared("cron", fingerprint="cron")) is Tick.NEW
        TickCases.end_all_of(first)
        first.shutdown(timeout=1)
        backend = again(first)
        backend.listen_cron("30 * * * *", lambda job: seen(tick_of(job)), queue="cron", catch_up=catch_up)
        backend.listen("q", ignore)
        ended(backend, backend.enqueue("q"))
        if catch_up:
            [tick] = seen.wait(1)
            assert datetime.now(UTC) - tick < timedelta(hours=1, minutes=1)
        seen.stays(int(catch_up))

    @needs("shared")
    def test_a_fleet_ticks_once(self, make: Make, join: Make, seen: Seen) -> None:
        """With several processes on one store each tick is run by one of them."""
        first = make()
        second = join(first)
        for backend in (first, second):
            backend.listen_cron(SECOND, lambda job: seen(tick_of(job)), queue="cron")
        ticks = seen.wait(3)
        assert len(set(ticks)) == len(ticks)
        assert ticks == sorted(ticks)
