"""Runners and what becomes of their outcomes: how many share the work, a lost lease, a store that refuses."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import neoq
from neoq.engine.interrupt import current_slot
from neoq.engine.pool import Runner
from neoq.engine.source import DirectSource
from neoq.outcome import Outcome
from neoq.sqlite.store import SqliteStore
from neoq.store import Claimed, Demand
from neoq.testing.cases import suite

PATIENCE = 10.0


def test_the_last_of_what_a_runner_took_alone_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Among very short jobs a runner calls nobody to help; when one of them is long, others are called."""
    monkeypatch.setattr("neoq.engine.pool.TINY_JOB", PATIENCE)  # whatever else this machine does
    met, later = threading.Event(), threading.Event()
    waits: list[Runner] = []
    with neoq.MemBackend(queue_capacity=None, autostart=False) as backend:

        @backend.listen("q", concurrency=2)
        def handler(job: neoq.Job) -> None:
            mine = next(
                runner for runner in backend.engine.pools["q"].runners if runner.slot is current_slot()
            )
            if waits and waits[0] is not mine:
                met.set()
            elif not waits and backend.engine.pools["q"].sole_runner is mine and not mine.ahead:
                waits.append(mine)
                if met.wait(PATIENCE):
                    later.set()

        backend.start()
        backend.enqueue("q")
        assert backend.drain(
            PATIENCE
        )  # one runner knows by now how short they are; the other is not there yet
        backend.enqueue_many(neoq.Job("q", {"n": n}) for n in range(5_000))
        assert later.wait(2 * PATIENCE), "nobody took what was behind it"


def test_claims_ahead_go_by_jobs_and_not_by_chunks() -> None:
    """One job that waited for the interpreter says little about how many can be claimed ahead."""
    with neoq.MemBackend(autostart=False) as backend:
        backend.listen("q", lambda _job: None, concurrency=8)
        pool = backend.engine.pools["q"]
        assert pool.fits_ahead() == 0  # nothing is known yet
        pool.learn(1, 0.005)
        assert pool.fits_ahead() == 1
        for _ in range(20):
            pool.learn(64, 64 * 20e-6)
        assert 200 <= pool.fits_ahead() <= 250  # of 20 microseconds each, 5 ms hold 250


def test_a_job_whose_lease_was_lost_is_given_back(tmp_path: Path) -> None:
    """A job that is stopped because others may have it is not cancelled: it is run again, uncharged."""
    attempts: list[int] = []
    first = threading.Event()
    with neoq.SqliteBackend(tmp_path / "jobs.db") as backend:

        @backend.listen("q", concurrency=1)
        def handler(job: neoq.Job) -> None:
            attempts.append(job.token)
            if len(attempts) == 1:
                first.set()
                for _ in range(1000):
                    time.sleep(0.01)

        job = backend.enqueue("q")
        assert first.wait(PATIENCE)
        assert job.id is not None
        backend.engine.abandon_leases({(job.id, attempts[0] + 1)})  # another attempt's
        backend.engine.abandon_leases({(job.id, attempts[0])})
        ended = backend.wait(job.id, PATIENCE)
    assert (ended.status, ended.retries, len(attempts)) == (neoq.Status.SUCCEEDED, 0, 2)


class RefusingStore(SqliteStore):
    """A store that can write no é."""

    def settle(self, outcomes: Sequence[Outcome], *, transaction: Any = None) -> set[int]:
        """Refuse a whole batch that has one."""
        if any(outcome.failure is not None and "é" in outcome.failure.message for outcome in outcomes):
            raise neoq.BackendError("é cannot be written")
        return super().settle(outcomes, transaction=transaction)


class Refusing(neoq.SqliteBackend):
    """A backend that has it."""

    store_class = RefusingStore


def test_an_outcome_that_the_store_refuses_holds_up_no_other(tmp_path: Path) -> None:
    """It is recorded without what the store cannot write, and its neighbours as they are."""
    with Refusing(tmp_path / "jobs.db") as backend:

        @backend.listen("q", concurrency=4, max_retries=0)
        def handler(job: neoq.Job) -> str:
            if job.payload["n"] == 2:
                raise ValueError("caf\u00e9")
            return "done"

        jobs = backend.enqueue_many([neoq.Job("q", {"n": n}) for n in range(5)])
        ended = [backend.wait(job.id or 0, PATIENCE) for job in jobs]
    assert [job.result for job in ended] == ["done", "done", None, "done", "done"]
    assert (ended[2].status, ended[2].error) == (neoq.Status.DEAD, "ValueError: caf\\xe9")


@pytest.mark.parametrize("error", [MemoryError(), ValueError("a mistake of the store's")], ids=repr)
def test_an_outcome_that_memory_does_not_take_at_once_is_settled_again(error: Exception) -> None:
    """What the store in memory raises, as out of memory, loses neither a success nor a failure."""
    with neoq.MemBackend(max_retries=0, autostart=False) as backend:
        settle, failed = backend.store.settle, []

        def failing(outcomes: Sequence[Outcome], **options: Any) -> set[int]:
            if len(failed) < 3:  # those of the runners, and one of the settler's
                failed.append(len(outcomes))
                raise error
            return settle(outcomes, **options)

        backend.store.settle = failing  # type: ignore[method-assign]

        @backend.listen("q")
        def handler(job: neoq.Job) -> int:
            return 1 // int(job.payload["n"])

        jobs = [backend.enqueue("q", {"n": n}) for n in (1, 0)]
        backend.start()
        assert [backend.wait(job.id, PATIENCE).status.name for job in jobs] == ["SUCCEEDED", "DEAD"]
        assert backend.drain(PATIENCE)
        assert backend.stats().running == 0
    assert len(failed) == 3


def test_a_runner_that_fails_as_it_parks_is_not_called() -> None:
    """A store that raises as a runner looks once more before it waits does not break a later enqueue."""
    failed, runs = threading.Event(), threading.Semaphore(0)
    with neoq.MemBackend(autostart=False) as backend:
        take = backend.store.take

        def failing(*wanted: Any) -> tuple[Sequence[neoq.Job], bool]:
            if backend.engine.pools["q"].idle and not failed.is_set():
                failed.set()
                raise MemoryError
            return take(*wanted)

        backend.store.take = failing  # type: ignore[method-assign]
        backend.listen("q", lambda _job: runs.release())
        backend.start()
        backend.enqueue("q", {"n": 0})
        assert failed.wait(PATIENCE)
        for n in range(1, 4):
            backend.enqueue("q", {"n": n})
        assert all(runs.acquire(timeout=PATIENCE) for _ in range(4))


def test_a_failure_whose_description_hangs_is_counted() -> None:
    """An attempt that ends over its thread's head, since its exception hangs when read, has failed, once."""
    gate = threading.Lock()

    class HangsWhenRead(Exception):
        def __str__(self) -> str:
            with gate:
                return "read"

    def handler(_job: neoq.Job) -> None:
        raise HangsWhenRead

    with gate, neoq.MemBackend(max_retries=0) as backend:
        backend.listen("q", handler, timeout=0.05)
        job = backend.enqueue("q")
        assert backend.wait(job.id, PATIENCE).status is neoq.Status.DEAD
        assert backend.stats().failed == 1


class Nameless(type):
    """Its classes tell nobody their names."""

    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise RuntimeError("no name")


class WithoutName(Exception, metaclass=Nameless):
    pass


class ExitsWhenRead(Exception):
    def __str__(self) -> str:
        raise SystemExit("no message")


class ExitsWhenFormatted(Exception):
    @property
    def __notes__(self) -> list[str]:
        raise SystemExit("no notes")


class ExitsWhenDiscarded(neoq.Discard):
    def __str__(self) -> str:
        raise SystemExit("no reason")


class NobodysKind(type):
    """Nobody can ask what belongs to its classes."""

    def __instancecheck__(cls, instance: object) -> bool:
        raise SystemExit("no answer")


class Never(Exception, metaclass=NobodysKind):
    pass


@pytest.mark.parametrize(
    "error",
    [WithoutName(), ExitsWhenRead(), ExitsWhenFormatted(), ExitsWhenDiscarded()],
    ids=lambda error: type.__dict__["__name__"].__get__(type(error)),
)
def test_an_exception_that_cannot_be_read_ends_its_attempt_only(error: Exception) -> None:
    """Whatever an exception does as it is described and logged: its job fails, and the runner lives on."""
    with neoq.MemBackend() as backend:

        @backend.listen("q", concurrency=1, max_retries=0, retry=neoq.RetryPolicy(never=(Never,)))
        def handler(job: neoq.Job) -> None:
            if "fail" in job.payload:
                raise error

        failed = backend.enqueue("q", {"fail": True})
        assert backend.wait(failed.id or 0, PATIENCE).status is neoq.Status.DEAD
        after = backend.enqueue("q")
        assert backend.wait(after.id or 0, PATIENCE).status is neoq.Status.SUCCEEDED


def test_a_policy_that_cannot_be_asked_is_replaced_by_the_default() -> None:
    """Where the classes of ``never`` give no answer, a failed job waits for its next attempt."""
    with neoq.MemBackend() as backend:
        backend.listen("q", lambda job: 1 / 0, retry=neoq.RetryPolicy(never=(Never,)))
        job = backend.enqueue("q")
        give_up = time.monotonic() + PATIENCE
        while backend.stats().failed == 0 and time.monotonic() < give_up:
            time.sleep(0.001)
        backend.shutdown(PATIENCE)
        snapshot = backend.get(job.id or 0)
    assert snapshot is not None
    assert (snapshot.status, snapshot.retries) == (neoq.Status.RETRYING, 1)


def test_a_job_snoozed_to_the_end_of_time_can_be_looked_at() -> None:
    """A snooze to a datetime is held to the calendar like one of so many seconds."""
    far = datetime.max.replace(tzinfo=UTC)
    with neoq.MemBackend() as backend:
        started = threading.Event()

        @backend.listen("q")
        def handler(job: neoq.Job) -> None:
            started.set()
            raise neoq.Snooze(far)

        job = backend.enqueue("q")
        assert started.wait(PATIENCE)
        backend.shutdown(PATIENCE)
        snapshot = backend.get(job.id or 0)
    assert snapshot is not None
    assert snapshot.run_after is not None
    assert snapshot.run_after < far


def test_a_future_job_that_waits_for_its_timer_is_no_reason_to_look_again() -> None:
    """A runner that found nothing is not told of more: it would keep the others from looking, and park."""

    class Store:
        def claim(self, demand: Sequence[Demand]) -> Claimed:
            now = datetime.now(UTC)
            return Claimed([], now - timedelta(milliseconds=1), now)

    source = DirectSource(Store(), *[lambda *_: None] * 3, kinds_of=lambda _: None)  # type: ignore[arg-type, list-item]
    assert source.take("q", 10) == ([], False)


def test_a_worker_with_nothing_to_run_says_so() -> None:
    """run() of a backend that listens on no queue warns, and still ends at a signal."""
    said: list[str] = []

    class Stopping(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())
            signal.raise_signal(signal.SIGTERM)

    logger = logging.getLogger("tests.nothing_to_run")
    logger.addHandler(Stopping())
    neoq.MemBackend(logger=logger).run()
    assert [line.partition(":")[0] for line in said] == ["run() has nothing to run"]


def test_a_worker_in_memory_says_what_it_runs(caplog: pytest.LogCaptureFixture) -> None:
    """run() says in memory what a worker says on any store; one that only runs by itself is quiet."""
    caplog.set_level("INFO", "neoq")
    with neoq.MemBackend() as quiet:
        quiet.listen("q", lambda _job: None)
        quiet.wait(quiet.enqueue("q").id, 10)
    assert caplog.messages == []
    backend = neoq.MemBackend()

    @backend.listen("emails", concurrency=3)
    def stop(_job: neoq.Job) -> None:
        signal.raise_signal(signal.SIGTERM)

    backend.enqueue("emails", run_after=0.1)
    backend.run()
    begun, asked, ended = caplog.messages
    assert begun.endswith("runs jobs in memory: queues emails (3 at once); crons none")
    assert asked.startswith("asked to stop: ")
    assert ended.startswith("stopped; ")


def test_a_queue_that_nobody_listens_to_is_named_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A queue to which no worker listens is named once, by a thread of its own, with the near name."""
    monkeypatch.setattr("neoq.engine.unheard.LOOK_EVERY", 0.01)
    url = f"sqlite:///{tmp_path}/jobs.db"
    with neoq.connect(url) as worker, neoq.connect(url) as producer:
        worker.listen("emails", lambda _job: None)
        suite.eventually(worker.workers, "a worker")
        looked_by: list[str] = []
        workers = producer.store.workers

        def look() -> Any:
            looked_by.append(threading.current_thread().name)
            return workers()

        monkeypatch.setattr(producer.store, "workers", look)
        for n in range(3):
            for queue in ("emails", "email"):
                producer.enqueue(queue, {"n": n})

        def lines() -> list[str]:
            return [line for line in caplog.messages if "no live worker" in line]

        suite.eventually(lines, "the warning")
        producer.enqueue("other")
        suite.eventually(lambda: lines()[1:], "another one")
        producer.enqueue("email", {"n": 3})
    said = lines()
    assert ["'email'" in said[0], "'other'" in said[1]] == [True, True]
    assert len(said) == 2
    assert set(looked_by) == {"neoq-unheard"}
    assert said[0].endswith("did you mean 'emails'?")
