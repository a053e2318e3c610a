"""What a failed attempt leads to."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from neoq.backend import Backend
from neoq.errors import Discard, Retry, Snooze
from neoq.job import Job
from neoq.record import Status
from neoq.retry import RetryPolicy
from neoq.testing.cases.suite import (
    LATER,
    Make,
    Seen,
    Suite,
    ended,
    eventually,
    fail,
    id_of,
    ignore,
    reached,
    unfinished_jobs,
)

AT_ONCE = RetryPolicy(delay=0)
CLOCKS_AGREE = timedelta(milliseconds=2)


class UnspeakableError(Exception):
    """An exception whose message cannot be read."""

    def __str__(self) -> str:
        raise RuntimeError("no message")


class StrangeInterrupt(BaseException):
    """A BaseException that nobody knows."""


class RetryCases(Suite):
    """A failed job is tried again, later each time, until it is dead and kept."""

    def test_a_failed_job_is_tried_again(self, backend: Backend, seen: Seen) -> None:
        """Each attempt has its number, and the job counts its retries."""

        def handler(job: Job) -> str:
            seen((job.attempt, job.retries))
            if job.attempt < 3:
                raise RuntimeError("not yet")
            return "at last"

        backend.listen("q", handler, retry=AT_ONCE)
        done = ended(backend, backend.enqueue("q"))
        assert seen.items == [(1, 0), (2, 1), (3, 2)]
        assert (done.status, done.result, done.retries) == (Status.SUCCEEDED, "at last", 2)

    def test_an_attempt_waits_for_its_time(self, backend: Backend, seen: Seen) -> None:
        """The next attempt starts no earlier than the policy's delay after the failure."""

        def handler(_job: Job) -> None:
            seen(datetime.now(UTC))
            raise RuntimeError("again")

        backend.listen("q", handler, max_retries=2, retry=RetryPolicy(delay=timedelta(milliseconds=60)))
        backend.enqueue("q")
        first, second, third = seen.wait(3)
        assert second - first >= timedelta(milliseconds=60) - CLOCKS_AGREE
        assert third - second >= timedelta(milliseconds=60) - CLOCKS_AGREE

    def test_a_delay_may_depend_on_the_retries_so_far(self, backend: Backend) -> None:
        """A function given as delay is told how many retries were made."""
        asked = Seen()

        def delay(retries: int) -> float:
            asked(retries)
            return 0.0

        backend.listen("q", fail, max_retries=3, retry=RetryPolicy(delay=delay))
        ended(backend, backend.enqueue("q"))
        assert asked.items == [0, 1, 2]

    def test_a_delay_may_depend_on_the_error(self, backend: Backend) -> None:
        """A delay function with two arguments is given the exception of the attempt, too."""
        asked = Seen()

        def delay(retries: int, error: BaseException) -> float:
            asked((retries, str(error)))
            return 0.0

        backend.listen("q", fail, max_retries=1, retry=RetryPolicy(delay=delay))
        ended(backend, backend.enqueue("q"))
        assert asked.items == [(0, "it always fails")]

    def test_a_list_of_delays(self, backend: Backend) -> None:
        """Each retry has its delay from the list."""
        backend.listen("q", fail, max_retries=2, retry=RetryPolicy(delay=[0, 3600]))
        job = backend.enqueue("q")

        def failed_twice() -> Job | None:
            now = backend.get(id_of(job))
            return now if now is not None and now.retries == 2 else None

        failed = eventually(failed_twice, "the second failure")
        assert failed is not None
        assert failed.run_after is not None
        assert failed.ran_at is not None
        assert 3590 < (failed.run_after - failed.ran_at).total_seconds() < 3700

    def test_the_usual_delay(self, backend: Backend) -> None:
        """Without a policy the first retry waits 15 to 45 seconds."""
        backend.listen("q", fail)
        before = datetime.now(UTC)
        job = reached(backend, backend.enqueue("q"), Status.RETRYING)
        after = datetime.now(UTC)
        assert job.run_after is not None
        assert before + timedelta(seconds=15) <= job.run_after <= after + timedelta(seconds=45)

    def test_a_job_that_waits_for_a_retry_says_why(self, backend: Backend) -> None:
        """Between its attempts a job is RETRYING, with the error and traceback of the last one."""
        backend.listen("q", fail, retry=RetryPolicy(delay=LATER))
        job = reached(backend, backend.enqueue("q"), Status.RETRYING)
        assert (job.error, job.retries, job.finished_at) == ("RuntimeError: it always fails", 1, None)
        assert job.traceback is not None
        assert "def fail" in job.traceback or "in fail" in job.traceback
        assert job.ran_at is not None

    def test_after_max_retries_a_job_is_dead(self, backend: Backend, seen: Seen) -> None:
        """A job has one attempt and max_retries retries; then it is DEAD, and kept with its error."""

        def handler(job: Job) -> None:
            seen(job.attempt)
            raise ValueError(f"attempt {job.attempt}")

        backend.listen("q", handler, max_retries=2, retry=AT_ONCE)
        job = backend.enqueue("q", {"a": 1})
        dead = ended(backend, job)
        assert seen.items == [1, 2, 3]
        assert (dead.status, dead.error, dead.payload) == (Status.DEAD, "ValueError: attempt 3", {"a": 1})
        assert dead.finished_at is not None
        assert [found.id for found in backend.jobs(status=Status.DEAD)] == [job.id]

    def test_no_retries_at_all(self, backend: Backend, seen: Seen) -> None:
        """With max_retries=0 the first failure is the last."""

        def handler(_job: Job) -> None:
            seen()
            raise RuntimeError("once")

        backend.listen("q", handler, max_retries=0, retry=AT_ONCE)
        assert ended(backend, backend.enqueue("q")).status is Status.DEAD
        assert len(seen.items) == 1

    @pytest.mark.parametrize(("listener", "job"), [(5, 1), (0, 1), (1, 0)])
    def test_a_job_has_its_own_max_retries(
        self, backend: Backend, seen: Seen, listener: int, job: int
    ) -> None:
        """max_retries of the job counts more than that of the listener."""

        def handler(_job: Job) -> None:
            seen()
            raise RuntimeError("again")

        backend.listen("q", handler, max_retries=listener, retry=AT_ONCE)
        assert ended(backend, backend.enqueue("q", max_retries=job)).status is Status.DEAD
        assert len(seen.items) == job + 1

    def test_the_backends_max_retries(self, make: Make, seen: Seen) -> None:
        """Without any other, max_retries of the configuration counts."""
        backend = make(max_retries=1)

        def handler(_job: Job) -> None:
            seen()
            raise RuntimeError("again")

        backend.listen("q", handler, retry=AT_ONCE)
        assert ended(backend, backend.enqueue("q")).status is Status.DEAD
        assert len(seen.items) == 2

    def test_some_exceptions_are_never_retried(self, backend: Backend, seen: Seen) -> None:
        """An exception that the policy names, or a subclass of it, makes the job DEAD at once."""

        def handler(job: Job) -> None:
            seen(job.payload["n"])
            raise (KeyError("no") if job.payload["n"] else OSError("yes"))

        backend.listen("q", handler, max_retries=1, retry=RetryPolicy(delay=0, never=(LookupError,)))
        assert ended(backend, backend.enqueue("q", {"n": 1})).error == "KeyError: 'no'"
        assert ended(backend, backend.enqueue("q", {"n": 0})).error == "OSError: yes"
        assert seen.items == [1, 0, 0]

    @pytest.mark.parametrize(
        "error", [SystemExit, KeyboardInterrupt, GeneratorExit, StopIteration, StrangeInterrupt]
    )
    def test_a_runner_survives(self, backend: Backend, seen: Seen, error: type[BaseException]) -> None:
        """Whatever a handler raises fails its attempt; the runner goes on with the retry and the next job."""

        def handler(job: Job) -> None:
            seen((job.payload["n"], job.attempt))
            if job.payload["n"] == 0:
                raise error

        backend.listen("q", handler, concurrency=1, max_retries=1, retry=AT_ONCE)
        dead = ended(backend, backend.enqueue("q", {"n": 0}))
        assert dead.status is Status.DEAD
        assert dead.error is not None
        assert dead.error.startswith(error.__name__)
        assert ended(backend, backend.enqueue("q", {"n": 1})).status is Status.SUCCEEDED
        assert seen.items == [(0, 1), (0, 2), (1, 1)]

    @pytest.mark.parametrize(
        "error",
        [
            UnspeakableError(),
            ValueError("\ud800\x00\N{SNOWMAN}"),
            ValueError("x" * 200_000),
            ValueError(b"\xff"),
        ],
        ids=["no message", "no text column takes it", "long", "bytes"],
    )
    def test_an_error_of_any_message_is_recorded(self, backend: Backend, error: Exception) -> None:
        """A message that cannot be read, encoded or easily stored keeps no job from its end."""

        def handler(_job: Job) -> None:
            raise error

        backend.listen("q", handler, max_retries=0)
        dead = ended(backend, backend.enqueue("q"))
        assert dead.status is Status.DEAD
        assert dead.error is not None
        assert dead.error.startswith(type(error).__name__)

    def test_a_failed_job_holds_up_no_other(self, backend: Backend, seen: Seen) -> None:
        """While one job waits for its retry the others run."""

        def handler(job: Job) -> None:
            seen(job.payload["n"])
            if job.payload["n"] == 0:
                raise RuntimeError("later")

        backend.listen("q", handler, concurrency=1, retry=RetryPolicy(delay=LATER))
        for n in range(4):
            backend.enqueue("q", {"n": n})
        assert seen.wait(4) == [0, 1, 2, 3]

    def test_a_failed_attempt_is_told(self, make: Make) -> None:
        """on_error is called after each failed attempt, with the job and the exception."""
        told = Seen()
        backend = make(on_error=lambda job, error: told((job.id, job.attempt, str(error))))
        backend.listen("q", fail, max_retries=1, retry=AT_ONCE)
        job = backend.enqueue("q")
        ended(backend, job)
        assert told.wait(2) == [(job.id, 1, "it always fails"), (job.id, 2, "it always fails")]

    def test_a_listener_has_its_own_on_error(self, make: Make) -> None:
        """The on_error of a listener counts more than the backend's."""
        everybody, own = Seen(), Seen()
        backend = make(on_error=lambda job, _error: everybody(job.queue), max_retries=0)
        backend.listen("p", fail)
        backend.listen("q", fail, on_error=lambda job, _error: own(job.queue))
        for queue in ("p", "q"):
            ended(backend, backend.enqueue(queue))
        assert (everybody.wait(), own.wait()) == (["p"], ["q"])

    def test_an_on_error_that_fails_hurts_nobody(self, backend: Backend) -> None:
        """What on_error raises is logged; the job and the runner go on."""

        def on_error(_job: Job, _error: BaseException) -> None:
            raise RuntimeError("in on_error")

        backend.listen("q", fail, concurrency=1, max_retries=1, retry=AT_ONCE, on_error=on_error)
        for n in range(2):
            assert ended(backend, backend.enqueue("q", {"n": n})).error == "RuntimeError: it always fails"

    def test_success_is_no_error(self, make: Make) -> None:
        """on_error is not called for a success, a snooze or a discard."""
        told = Seen()
        backend = make(on_error=lambda job, error: told((job, error)))
        backend.listen("q", self._steers)
        for how in ("succeed", "snooze", "discard"):
            ended(backend, backend.enqueue("q", {"how": how}))
        assert told.items == []

    @staticmethod
    def _steers(job: Job) -> None:
        if job.payload["how"] == "snooze" and datetime.now(UTC) - (
            job.created_at or datetime.now(UTC)
        ) < timedelta(milliseconds=20):
            raise Snooze(0.03)
        if job.payload["how"] == "discard":
            raise Discard("enough")


class SignalCases(Suite):
    """Retry, Snooze and Discard: how a handler steers its job."""

    def test_retry_is_charged(self, backend: Backend, seen: Seen) -> None:
        """Retry fails the attempt; the next one comes after the time it names, whatever the policy says."""

        def handler(job: Job) -> None:
            seen((job.attempt, datetime.now(UTC)))
            if job.attempt == 1:
                raise Retry("not ready", after=timedelta(milliseconds=50))

        backend.listen("q", handler, retry=RetryPolicy(delay=LATER))
        done = ended(backend, backend.enqueue("q"))
        (first, failed_at), (second, ran_at) = seen.items
        assert (first, second, done.retries) == (1, 2, 1)
        assert ran_at - failed_at >= timedelta(milliseconds=50) - CLOCKS_AGREE

    def test_retry_without_a_time(self, backend: Backend) -> None:
        """Retry without a time waits as the policy says."""
        backend.listen("q", self.ask_again, retry=RetryPolicy(delay=LATER))
        before = datetime.now(UTC)
        job = reached(backend, backend.enqueue("q"), Status.RETRYING)
        assert job.run_after is not None
        assert job.run_after >= before + timedelta(seconds=LATER) - CLOCKS_AGREE
        assert job.error == "Retry: not ready"

    @staticmethod
    def ask_again(_job: Job) -> None:
        """Run a job whose handler raises Retry."""
        raise Retry("not ready")

    def test_retry_ends_with_max_retries(self, backend: Backend, seen: Seen) -> None:
        """Retry does not go on for ever: after max_retries the job is DEAD."""

        def handler(_job: Job) -> None:
            seen()
            raise Retry(after=0)

        backend.listen("q", handler, max_retries=2)
        assert ended(backend, backend.enqueue("q")).status is Status.DEAD
        assert len(seen.items) == 3

    def test_snooze_is_not_charged(self, backend: Backend, seen: Seen) -> None:
        """A job may snooze more often than it may be retried; it stays at its first attempt."""

        def handler(job: Job) -> None:
            seen((job.attempt, job.retries))
            if len(seen.items) <= 4:
                raise Snooze(0)

        backend.listen("q", handler, max_retries=1)
        done = ended(backend, backend.enqueue("q"))
        assert seen.items == [(1, 0)] * 5
        assert (done.status, done.retries) == (Status.SUCCEEDED, 0)

    def test_snooze_waits(self, backend: Backend, seen: Seen) -> None:
        """A snoozed job does not start before the time that it asked for."""

        def handler(_job: Job) -> None:
            seen(datetime.now(UTC))
            if len(seen.items) == 1:
                raise Snooze(timedelta(milliseconds=60))

        backend.listen("q", handler)
        backend.enqueue("q")
        first, second = seen.wait(2)
        assert second - first >= timedelta(milliseconds=60) - CLOCKS_AGREE

    @pytest.mark.parametrize("way", ["span", "time"])
    def test_a_snoozed_job_waits_as_a_future_job(self, backend: Backend, way: str) -> None:
        """While it snoozes a job is PENDING, holds its fingerprint and tells when it goes on."""
        until = datetime.now(UTC) + timedelta(seconds=LATER)

        def handler(_job: Job) -> None:
            raise Snooze(LATER if way == "span" else until)

        backend.listen("q", handler)
        job = backend.enqueue("q", {"a": 1})
        due = timedelta(seconds=LATER / 2) + datetime.now(UTC)
        snoozed = eventually(lambda: self._due_after(backend, job, due), "it snoozes")
        assert (snoozed.status, snoozed.retries, snoozed.error) == (Status.PENDING, 0, None)
        assert backend.enqueue("q", {"a": 1}).id == job.id

    @staticmethod
    def _due_after(backend: Backend, job: Job, due: datetime) -> Any:
        found = backend.get(id_of(job))
        return found if found is not None and found.run_after is not None and found.run_after > due else None

    def test_snooze_keeps_earlier_retries(self, backend: Backend, seen: Seen) -> None:
        """A snooze does not take back the retries made before."""

        def handler(job: Job) -> None:
            seen(job.attempt)
            if job.attempt == 1:
                raise RuntimeError("once")
            if len(seen.items) == 2:
                raise Snooze(0)

        backend.listen("q", handler, max_retries=1, retry=AT_ONCE)
        assert ended(backend, backend.enqueue("q")).status is Status.SUCCEEDED
        assert seen.items == [1, 2, 2]

    def test_discard_gives_up(self, backend: Backend, seen: Seen) -> None:
        """Discard makes the job DEAD without another attempt, and says why."""

        def handler(_job: Job) -> None:
            seen()
            raise Discard("the customer is gone")

        backend.listen("q", handler, max_retries=5, retry=AT_ONCE)
        dead = ended(backend, backend.enqueue("q"))
        assert (dead.status, dead.error) == (Status.DEAD, "Discard: the customer is gone")
        assert len(seen.items) == 1


class LogCases(Suite):
    """What is logged, and what is not."""

    def test_a_failed_attempt_is_logged_once(
        self, backend: Backend, caplog: pytest.LogCaptureFixture
    ) -> None:
        """One record for each failed attempt, with job id, queue and attempt, in its text and as fields."""
        backend.listen("the queue", fail, max_retries=1, retry=AT_ONCE)
        job = backend.enqueue("the queue")
        ended(backend, job)
        records = [record for record in caplog.records if record.levelno >= logging.WARNING]
        assert [getattr(record, "attempt", None) for record in records] == [1, 2]
        for attempt, record in enumerate(records, 1):
            assert (getattr(record, "job_id", None), getattr(record, "queue", None)) == (job.id, "the queue")
            assert all(part in record.getMessage() for part in (str(job.id), "the queue", str(attempt)))
            assert record.name == "neoq"

    @pytest.mark.parametrize("handler", [ignore, SignalCases.ask_again], ids=["success", "retry"])
    def test_nothing_is_printed(
        self, backend: Backend, handler: Callable[[Job], None], capfd: pytest.CaptureFixture[str]
    ) -> None:
        """Nothing goes to standard output or error, and no log handler is installed."""
        backend.listen("q", handler, max_retries=0)
        ended(backend, backend.enqueue("q"))
        backend.shutdown(timeout=1)
        assert capfd.readouterr() == ("", "")
        assert logging.getLogger("neoq").handlers == []

    def test_success_is_quiet(self, backend: Backend, caplog: pytest.LogCaptureFixture) -> None:
        """A backend that is used and shut down as it should be says nothing above INFO."""
        backend.listen("q", ignore)
        backend.enqueue_many([Job("q", {"n": n}) for n in range(3)])
        backend.enqueue("q", {"n": 4}, run_after=0.02)
        eventually(lambda: not unfinished_jobs(backend), "all end")
        backend.shutdown(timeout=1)
        assert [record for record in caplog.records if record.levelno > logging.INFO] == []
