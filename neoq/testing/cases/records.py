"""What a store keeps so that any process can tell: what workers run, the attempts of jobs, schedules."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest

from neoq.attempts import Attempt
from neoq.backend import Backend
from neoq.cron import Schedule
from neoq.engine.listener import Listener
from neoq.errors import Discard, Snooze
from neoq.job import Job
from neoq.record import Status
from neoq.retry import RetryPolicy
from neoq.store import QueueCounts, WorkerInfo
from neoq.testing.cases.suite import (
    LATER,
    Make,
    Suite,
    busy,
    ended,
    eventually,
    hang,
    ignore,
    needs,
    prepared,
    reached,
)
from neoq.version import __version__


def of_kind(kind: str | None, n: int, **options: Any) -> Job:
    """Make a job of a kind, ready for a store."""
    job = prepared("q", {"n": n}, **options)
    if kind is not None:
        job.kind, job.special = kind, True
    return job


def counts_of(backend: Backend) -> QueueCounts:
    """The counts of the queue of these cases."""
    [counts] = [counts for counts in backend.queues() if counts.queue == "q"]
    return counts


class KindCases(Suite):
    """Which kinds of job the workers run, and which nobody does."""

    @staticmethod
    def _worker(backend: Backend) -> WorkerInfo:
        [worker] = eventually(backend.workers, "it is known")
        return worker

    @pytest.fixture
    def two_kinds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Every listener runs jobs of two kinds, and no others."""
        monkeypatch.setattr(Listener, "kinds", frozenset({"b", "a"}))

    def _with_jobs(self, waiting: Backend, *jobs: Job) -> Backend:
        """A backend that listens on a queue which is paused, with these jobs in it."""
        waiting.pause("q")
        waiting.store.add(list(jobs), token=b"")
        waiting.listen("q", ignore)
        waiting.start()
        return waiting

    def test_a_worker_tells_its_version_and_that_it_runs_any_kind(self, backend: Backend) -> None:
        """workers() has None as the kinds of a queue whose handler runs every job, and neoq's version."""
        backend.listen("q", ignore)
        ended(backend, backend.enqueue("q"))
        worker = self._worker(backend)
        assert worker.kinds == {"q": None}
        assert worker.version == __version__

    @pytest.mark.usefixtures("two_kinds")
    def test_a_worker_tells_the_kinds_that_it_runs(self, backend: Backend) -> None:
        """workers() has the kinds of job that a process runs, for each of its queues."""
        backend.listen("q", ignore)
        backend.start()
        assert self._worker(backend).kinds == {"q": ("a", "b")}

    @pytest.mark.usefixtures("two_kinds")
    def test_kinds_that_nobody_knows_are_counted(self, waiting: Backend) -> None:
        """queues() has the waiting jobs of each kind that no live worker of their queue runs."""
        jobs = [
            of_kind("a", 0),
            of_kind("new", 1),
            of_kind("new", 2, run_after=LATER),
            of_kind("new", 3, priority=1),
            of_kind(None, 4),
        ]
        backend = self._with_jobs(waiting, *jobs)
        expected: Mapping[str, int] = {"new": 3, "(none)": 1}
        eventually(lambda: counts_of(backend).unknown == expected, "they are counted")

    def test_where_any_kind_is_run_none_is_unknown(
        self, waiting: Backend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The kinds of waiting jobs are not looked at where a worker runs jobs of every kind."""
        backend = self._with_jobs(waiting, of_kind("new", 0), of_kind(None, 1))
        self._worker(backend)
        monkeypatch.setattr(type(backend.store), "waiting_kinds", None)
        assert counts_of(backend).unknown == {}

    @pytest.mark.usefixtures("two_kinds")
    def test_a_kind_that_nobody_knows_is_logged_once(
        self, make: Make, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A worker logs each kind of waiting jobs that no live worker knows, once."""
        monkeypatch.setattr("neoq.engine.unknown.LOOK_EVERY", 0.01)
        backend = make(autostart=False)
        with caplog.at_level(logging.WARNING, "neoq"):
            self._with_jobs(backend, of_kind("old", 0), of_kind("old", 1), of_kind("a", 2))
            eventually(lambda: "no live worker knows it" in caplog.text, "it is logged")
            backend.store.add([of_kind("older", 3)], token=b"")
            eventually(lambda: "'older'" in caplog.text, "another kind is logged, too")
        told = [record.getMessage() for record in caplog.records if "no live" in record.getMessage()]
        assert told == [
            "2 jobs of kind 'old' wait in 'q': no live worker knows it",
            "1 jobs of kind 'older' wait in 'q': no live worker knows it",
        ]


class AttemptCases(Suite):
    """The attempts of a job that are over."""

    def test_each_failed_attempt_is_kept(self, backend: Backend) -> None:
        """attempts() has number, times, error and traceback of each attempt, and of that which succeeded."""

        def work(job: Job) -> None:
            if job.attempt < 3:
                raise ValueError(f"no {job.attempt}")

        backend.listen("q", work, retry=RetryPolicy(delay=0.01), max_retries=5)
        job = ended(backend, backend.enqueue("q"))
        assert job.status is Status.SUCCEEDED
        attempts = backend.attempts(job.id)
        assert [attempt.number for attempt in attempts] == [1, 2, 3]
        assert [attempt.error for attempt in attempts] == ["ValueError: no 1", "ValueError: no 2", None]
        for attempt in attempts[:2]:
            assert "in work" in (attempt.traceback or "")
        assert attempts[2].traceback is None
        times = [time for attempt in attempts for time in (attempt.started_at, attempt.finished_at)]
        assert None not in times
        assert times == sorted(times)  # type: ignore[type-var]
        assert times[-2:] == [job.ran_at, job.finished_at]

    def test_a_first_try_leaves_one_attempt(self, backend: Backend) -> None:
        """attempts() of a job that succeeded at once has that attempt, and keeps nothing for it."""
        backend.listen("q", ignore)
        job = ended(backend, backend.enqueue("q"))
        assert backend.attempts(job.id) == [Attempt(1, job.ran_at, job.finished_at)]
        assert job.failed_attempts is None

    def test_attempts_of_a_job_that_is_not_there(self, waiting: Backend) -> None:
        """attempts() is empty for a job that has not run, and for one of which nothing is known."""
        waiting.listen("q", ignore)
        assert waiting.attempts(waiting.enqueue("q").id) == []
        assert waiting.attempts(2**40) == []

    def test_dead_jobs_keep_their_attempts(self, backend: Backend) -> None:
        """A dead job that is retried by hand keeps its attempts, and the next one counts on."""
        fails = True

        def work(_job: Job) -> None:
            if fails:
                raise error

        error = Discard("not today")
        backend.listen("q", work)
        job = ended(backend, backend.enqueue("q"))
        [attempt] = backend.attempts(job.id)
        assert (attempt.number, attempt.error) == (1, "Discard: not today")
        fails = False
        assert backend.retry(job.id)
        reached(backend, job, Status.SUCCEEDED)
        assert [attempt.number for attempt in backend.attempts(job.id)] == [1, 2]

    def test_an_attempt_that_times_out_is_kept(self, backend: Backend, gate: threading.Event) -> None:
        """attempts() has an attempt that ran too long."""
        backend.listen("q", lambda _job: busy(gate), timeout=0.05, max_retries=0)
        job = ended(backend, backend.enqueue("q"))
        [attempt] = backend.attempts(job.id)
        assert (attempt.error or "").startswith("JobTimeout: ")

    def test_an_abandoned_attempt_is_kept(self, backend: Backend, gate: threading.Event) -> None:
        """attempts() has an attempt whose thread was abandoned, since it did not stop."""
        backend.listen("q", lambda _job: hang(gate), timeout=0.05, max_retries=0)
        job = ended(backend, backend.enqueue("q"))
        gate.set()
        [attempt] = backend.attempts(job.id)
        assert "did not stop when interrupted" in (attempt.error or "")

    def test_snoozed_attempts_are_not_kept(self, backend: Backend) -> None:
        """An attempt that was snoozed leaves nothing: it has not failed."""
        snoozed: list[bool] = []

        def work(_job: Job) -> None:
            if not snoozed:
                snoozed.append(True)
                raise Snooze(0.01)

        backend.listen("q", work)
        job = ended(backend, backend.enqueue("q"))
        assert [attempt.error for attempt in backend.attempts(job.id)] == [None]

    def test_the_newest_attempts_are_kept(self, backend: Backend) -> None:
        """attempts() has the newest 20, with the numbers that they had, and long texts are cut."""

        def work(job: Job) -> None:
            raise ValueError("\udcff" + "x" * 20_000 + f"\0 end {job.attempt}")

        backend.listen("q", work, retry=RetryPolicy(delay=0.0), max_retries=24)
        job = ended(backend, backend.enqueue("q"))
        attempts = backend.attempts(job.id)
        assert [attempt.number for attempt in attempts] == list(range(6, 26))
        for attempt in attempts:
            assert (attempt.error or "").endswith(f"end {attempt.number}")
            assert len(attempt.error or "") < 3000
            assert 0 < len(attempt.traceback or "") < 9000


class ScheduleCases(Suite):
    """The schedules that processes listen to."""

    def test_schedules_are_listed(self, backend: Backend) -> None:
        """schedules() tells spec, zone, queue and description of each schedule, and its next five ticks."""
        backend.listen_cron("30 9 * * MON-FRI", ignore, queue="reports", timezone="Europe/Paris")
        backend.listen_cron("@every 90s", ignore, queue="a rhythm")
        backend.start()
        rhythm, reports = eventually(backend.schedules, "they are listed")
        assert (reports.name, reports.queue) == ("reports", "reports")
        assert (reports.spec, reports.timezone) == ("30 9 * * MON-FRI", "Europe/Paris")
        assert reports.description == "At 09:30 AM, Monday through Friday"
        assert reports.last_tick is None
        assert len(reports.next_ticks) == 5
        schedule = Schedule(reports.spec, reports.timezone)
        for tick, following in pairwise(reports.next_ticks):
            assert schedule.next_after(tick) == following
        assert reports.next_ticks[0] > datetime.now(UTC)
        assert (rhythm.name, rhythm.spec) == ("a rhythm", "@every 90s")

    def test_the_last_tick_is_told(self, backend: Backend) -> None:
        """schedules() tells the newest tick of a schedule."""
        backend.listen_cron("0 0 1 1 *", ignore, queue="yearly")
        backend.start()
        eventually(backend.schedules, "it is listed")
        tick = datetime(2026, 1, 1, tzinfo=UTC)
        backend.store.add_tick("yearly", tick, prepared("yearly", fingerprint="yearly"))
        assert [info.last_tick for info in backend.schedules()] == [tick]

    def test_a_store_lists_what_it_is_told(self, waiting: Backend) -> None:
        """A schedule that is listed again takes the place of the one before, and others stay."""
        waiting.queues()
        waiting.store.list_schedules({"b": b"1", "a": b"2"})
        waiting.store.list_schedules({"b": b"3", "a": b"2"})
        assert waiting.store.schedules() == [("a", b"2", None, None, 0), ("b", b"3", None, None, 0)]

    def test_what_is_no_schedule_is_left_out(self, waiting: Backend) -> None:
        """schedules() leaves out what somebody else has listed, and shows no ticks where the spec is none."""
        waiting.queues()
        described = b'{"spec": "no", "timezone": "Mars", "description": "d", "queue": "q"}'
        waiting.store.list_schedules({"a": b"{", "b": b"[]", "c": b'{"spec": 1}', "d": described})
        [info] = waiting.schedules()
        assert (info.name, info.spec, info.next_ticks) == ("d", "no", ())

    @needs("shared")
    def test_schedules_are_seen_elsewhere(self, make: Make, join: Make) -> None:
        """schedules() lists what another process listens to, also after that has ended."""
        first = make()
        second = join(first, autostart=False)
        assert second.schedules() == []
        first.listen_cron("@hourly", ignore, queue="hourly")
        first.start()
        [info] = eventually(second.schedules, "it is listed")
        assert info.spec == "@hourly"
        first.shutdown()
        assert [info.name for info in second.schedules()] == ["hourly"]
