"""What one job may say for itself: its own timeout, and the tick that it is for."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from neoq.backend import Backend
from neoq.errors import InvalidJobError, Retry, Snooze
from neoq.job import Job
from neoq.record import Status
from neoq.retry import RetryPolicy
from neoq.store import Demand, Tick
from neoq.testing.cases.suite import (
    LATER,
    Make,
    Seen,
    Suite,
    busy,
    ended,
    eventually,
    id_of,
    ignore,
    needs,
    prepared,
)

SHORT = 0.05  # a timeout that is meant to run out
NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


class OwnTimeoutCases(Suite):
    """A job's own timeout goes before its queue's."""

    def test_a_shorter_timeout_of_its_own(self, backend: Backend, gate: threading.Event) -> None:
        """A job runs no longer than its own timeout, and its error says that it was its own."""
        backend.listen("q", lambda _job: busy(gate), timeout=None, max_retries=0)
        dead = ended(backend, backend.enqueue("q", timeout=timedelta(seconds=SHORT)))
        assert (dead.status, dead.timeout) == (Status.DEAD, SHORT)
        assert dead.error == "JobTimeout: ran longer than its timeout of 0.05 s"

    def test_a_longer_timeout_of_its_own(self, backend: Backend, gate: threading.Event) -> None:
        """A job's own timeout may be longer than its queue's; other jobs keep the queue's."""

        def handler(job: Job) -> bool:
            if not job.payload["long"]:
                busy(gate)
            return 1e6 > job.remaining() > 60

        backend.listen("q", handler, timeout=SHORT, max_retries=0)
        long, short = backend.enqueue_many(
            [Job("q", {"long": True}, timeout=LATER), Job("q", {"long": False})]
        )
        assert ended(backend, long).result is True
        assert ended(backend, short).error == "JobTimeout: ran longer than the queue's timeout of 0.05 s"
        assert (long.timeout, short.timeout) == (LATER, None)

    def test_a_timeout_is_kept_until_the_end(self, backend: Backend) -> None:
        """A job keeps its timeout and its meta through a retry and a snooze."""
        met = Seen()

        def handler(job: Job) -> None:
            met((job.timeout, dict(job.meta), 0 < job.remaining() <= 30))
            if len(met.items) == 1:
                raise Retry(after=0)
            if len(met.items) == 2:
                raise Snooze(0)

        backend.listen("q", handler, retry=RetryPolicy(delay=0))
        job = backend.enqueue("q", {"a": 1}, timeout=30, meta={"a": "b"})
        done = ended(backend, job)
        assert met.items == [(30.0, {"a": "b"}, True)] * 3
        assert (job.timeout, done.timeout, dict(done.meta)) == (30.0, 30.0, {"a": "b"})

    def test_a_replacement_brings_its_timeout(self, waiting: Backend) -> None:
        """A job that replaces a waiting one brings its own timeout, or none."""
        waiting.listen("q", ignore)
        job = waiting.enqueue("q", timeout=30, fingerprint="f", run_after=LATER)
        for timeout in (40.0, None):
            waiting.enqueue(
                "q",
                timeout=timeout,
                fingerprint="f",
                run_after=LATER,
                on_duplicate="replace",
                meta={"a": "b"},
            )
            found = waiting.get(id_of(job))
            assert found is not None
            assert (found.timeout, dict(found.meta)) == (timeout, {"a": "b"})

    @pytest.mark.parametrize("timeout", [0, -1, True, "5", float("nan"), timedelta(0), 1e300], ids=repr)
    def test_a_bad_timeout_is_named(self, waiting: Backend, timeout: Any) -> None:
        """A timeout that is no span above zero is refused at enqueue."""
        waiting.listen("q", ignore)
        with pytest.raises(InvalidJobError, match="timeout is"):
            waiting.enqueue("q", timeout=timeout)
        assert waiting.jobs() == []

    @needs("durable")
    def test_a_timeout_outlives_the_process(self, make: Make, again: Make) -> None:
        """The next process finds a job with its timeout, also where it has no meta."""
        first = make()
        job = first.enqueue("q", timeout=30)
        first.shutdown(timeout=1)
        second = again(first)
        found = second.get(id_of(job))
        assert found is not None
        assert (found.timeout, dict(found.meta)) == (30.0, {})
        second.listen("q", lambda job: job.timeout)
        assert ended(second, job).result == 30.0


class ScheduledAtCases(Suite):
    """A job of a cron says for which tick it is."""

    def test_the_tick_of_a_job(self, waiting: Backend) -> None:
        """scheduled_at is the tick, as an aware datetime, for who runs the job and for who looks at it."""
        waiting.listen_cron("@every 1s", ignore)
        queue = next(iter(waiting.engine.listeners))
        waiting.start()

        def of_tick() -> Job | None:
            return next(iter(waiting.jobs(queue)), None)

        job = eventually(of_tick, "a tick")
        assert job is not None
        assert job.scheduled_at == datetime.fromisoformat(job.payload["scheduled_at"])

    def test_other_jobs_have_no_tick(self, waiting: Backend) -> None:
        """scheduled_at is None for a job that no cron has made, and for a new job like one of a cron."""
        waiting.listen("q", ignore)
        assert waiting.queues() == []
        tick = prepared("q", {"n": 1}, fingerprint="cron")
        tick.scheduled = NOON.timestamp()
        assert waiting.store.add_tick("cron", NOON, tick) is Tick.NEW
        [of_cron] = waiting.store.claim([Demand("q", 1)]).jobs
        assert of_cron.scheduled_at == NOON
        assert waiting.enqueue("q", {"n": 2}).scheduled_at is None
        again = waiting.enqueue(of_cron)
        assert (again.duplicate, again.scheduled_at) == (True, NOON)
        assert waiting.delete(id_of(of_cron)) is False
