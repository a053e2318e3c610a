"""Handlers that hang, spin, swallow, exit or shut down: what becomes of their jobs, and of others."""

from __future__ import annotations

import contextlib
import importlib
import logging
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import neoq
from neoq.engine import interrupt as timeouts
from tests.processes import running

PATIENCE = 10.0
SOON = neoq.RetryPolicy(delay=0.01)


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """What handlers that hang wait for: it comes at the end of the test, so that no thread is left behind."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def backend(release: threading.Event) -> Iterator[neoq.MemBackend]:
    backend = neoq.MemBackend(concurrency=1, max_retries=0, timeout=0.1, shutdown_timeout=5)
    yield backend
    release.set()
    backend.shutdown()


def ended(backend: neoq.Backend, job: neoq.Job) -> neoq.Job:
    """The job once it has ended."""
    assert job.id is not None
    return backend.wait(job.id, PATIENCE)


def until(holds: Callable[[], object], what: str) -> None:
    """Look again and again until something holds."""
    give_up = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < give_up, f"waited in vain until {what}"
        time.sleep(0.005)


def spin(seconds: float = PATIENCE) -> None:
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        pass


@contextlib.contextmanager
def switching_threads_often() -> Iterator[None]:
    """Let threads take turns after microseconds, so that they meet at every bytecode."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def hang(release: threading.Event) -> Callable[[neoq.Job], None]:
    """A handler that is blocked in C, where no interrupt lands."""

    def handler(job: neoq.Job) -> None:
        if job.payload.get("hang", True):
            release.wait(PATIENCE)

    return handler


# ------------------------------------------------------------------------------------ handlers that hang


def test_a_handler_that_sleeps_in_c_is_given_up_and_replaced(
    backend: neoq.MemBackend, caplog: pytest.LogCaptureFixture
) -> None:
    """A sleeper cannot be interrupted: its job dies all the same, and a new thread runs the next one."""
    asleep = threading.Event()

    @backend.listen("q")
    def handler(job: neoq.Job) -> None:
        if job.payload.get("sleep"):
            asleep.set()
            time.sleep(2.5)
            asleep.clear()

    stuck = backend.enqueue("q", {"sleep": True})
    behind = backend.enqueue("q", {"n": 1})
    dead = ended(backend, stuck)
    assert dead.status is neoq.Status.DEAD
    assert dead.error is not None
    assert dead.error.startswith("JobTimeout: ")
    assert ended(backend, behind).status is neoq.Status.SUCCEEDED
    assert asleep.is_set(), "the next job should not have waited for the sleeper"
    assert backend.stats().abandoned == 1
    # The job is settled before anything is logged, since a log may hang.
    until(lambda: "was abandoned" in caplog.text, "it is logged")
    (record,) = [record for record in caplog.records if "was abandoned" in record.getMessage()]
    assert "time.sleep(2.5)" in record.getMessage(), "the stack should say where it hangs"
    until(lambda: backend.stats().abandoned == 0, "the sleeper's thread has ended")
    assert backend.stats().processed == 2


def test_what_an_abandoned_handler_does_later_is_ignored(
    backend: neoq.MemBackend, release: threading.Event
) -> None:
    """A job that was given up stays dead, though its handler returns in the end, and is counted once."""
    returned = threading.Event()

    @backend.listen("q")
    def handler(job: neoq.Job) -> str:
        try:
            release.wait(PATIENCE)
            return "late"
        finally:
            returned.set()

    job = ended(backend, backend.enqueue("q"))
    release.set()
    assert returned.wait(PATIENCE)
    until(lambda: backend.stats().abandoned == 0, "the thread has ended")
    assert job.id is not None
    late = backend.get(job.id)
    assert late is not None
    assert (late.status, late.result) == (neoq.Status.DEAD, None)
    stats = backend.stats()
    assert (stats.processed, stats.failed, stats.dead, stats.running) == (1, 1, 1, 0)


def test_a_job_that_was_given_up_is_retried(backend: neoq.MemBackend, release: threading.Event) -> None:
    """A hung attempt is a failed one like any other: the next may succeed while the first still hangs."""
    attempts: list[int] = []

    @backend.listen("q", max_retries=1, retry=SOON)
    def handler(job: neoq.Job) -> None:
        attempts.append(job.attempt)
        if job.attempt == 1:
            release.wait(PATIENCE)

    job = ended(backend, backend.enqueue("q"))
    assert (job.status, job.retries, attempts) == (neoq.Status.SUCCEEDED, 1, [1, 2])
    assert not release.is_set()


def test_a_handler_that_swallows_every_exception_is_given_up(
    backend: neoq.MemBackend, release: threading.Event
) -> None:
    """A loop that eats BaseException is not stopped by any interrupt: it is left behind, once."""

    @backend.listen("q")
    def handler(job: neoq.Job) -> None:
        while not release.is_set():
            with contextlib.suppress(BaseException):
                while not release.is_set():
                    time.sleep(0.001)

    assert ended(backend, backend.enqueue("q", {"n": 1})).status is neoq.Status.DEAD
    assert backend.stats().abandoned == 1
    assert ended(backend, backend.enqueue("q", {"n": 2})).status is neoq.Status.DEAD
    assert backend.stats().abandoned == 2
    release.set()
    until(lambda: backend.stats().abandoned == 0, "both threads have ended")


def test_concurrency_is_never_lost_to_handlers_that_hang(
    backend: neoq.MemBackend, release: threading.Event
) -> None:
    """After several handlers hung, as many jobs run at once as before."""
    backend.listen("hangs", hang(release), concurrency=3)
    together = threading.Barrier(3)
    backend.listen("meets", lambda job: together.wait(PATIENCE), concurrency=3, timeout=None)
    for job in backend.enqueue_many([neoq.Job("hangs", {"n": n}) for n in range(3)]):
        assert ended(backend, job).status is neoq.Status.DEAD
    quick = backend.enqueue_many([neoq.Job("hangs", {"hang": False, "n": n}) for n in range(10)])
    assert {ended(backend, job).status for job in quick} == {neoq.Status.SUCCEEDED}
    meeting = backend.enqueue_many([neoq.Job("meets", {"n": n}) for n in range(3)])
    assert {ended(backend, job).status for job in meeting} == {neoq.Status.SUCCEEDED}


def test_at_max_abandoned_a_queue_claims_no_more_and_says_so(
    release: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    """With too many stuck threads a queue stops and logs it as CRITICAL; other queues go on."""
    with neoq.MemBackend(
        concurrency=1, max_retries=0, timeout=0.05, shutdown_timeout=5, max_abandoned=2
    ) as backend:
        backend.listen("q", hang(release))
        backend.listen("other", lambda job: None)
        first = backend.enqueue_many([neoq.Job("q", {"n": n}) for n in range(2)])
        assert {ended(backend, job).status for job in first} == {neoq.Status.DEAD}
        until(lambda: critical(caplog), "it is said at CRITICAL")
        waiting = backend.enqueue("q", {"hang": False})
        assert waiting.id is not None
        assert ended(backend, backend.enqueue("other")).status is neoq.Status.SUCCEEDED
        assert backend.get(waiting.id).status is neoq.Status.PENDING  # type: ignore[union-attr]
        assert backend.stats().abandoned == 2
        assert "'q'" in critical(caplog)[0] or " q " in critical(caplog)[0]
        release.set()
        assert ended(backend, waiting).status is neoq.Status.SUCCEEDED, (
            "it should go on once the threads ended"
        )
        until(lambda: backend.stats().abandoned == 0, "the gauge has gone down")


def test_with_many_runners_max_abandoned_holds_too(
    release: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    """Of many runners that hang no more are left behind than there are runners beside max_abandoned."""
    with neoq.MemBackend(concurrency=4, max_retries=0, timeout=0.05, max_abandoned=2) as backend:
        backend.listen("q", hang(release))
        jobs = backend.enqueue_many([neoq.Job("q", {"n": n}) for n in range(12)])
        until(lambda: critical(caplog), "it is said at CRITICAL")
        until(lambda: backend.stats().running == 0, "every attempt is settled")
        assert backend.stats().abandoned <= 2 + 4
        assert backend.stats().dead <= 2 + 4
        release.set()
        statuses = {ended(backend, job).status for job in jobs}
        assert neoq.Status.SUCCEEDED in statuses, "the rest should run once the threads ended"


def critical(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.CRITICAL]


@pytest.mark.parametrize("timeout", [None, 600.0])
def test_a_handler_that_hangs_can_be_cancelled(
    backend: neoq.MemBackend, release: threading.Event, timeout: float | None
) -> None:
    """Cancelling a job that hangs settles it after the grace, on a queue without a timeout too."""
    backend.listen("q", hang(release), timeout=timeout)
    job = backend.enqueue("q")
    until(lambda: backend.stats().running == 1, "it runs")
    assert job.id is not None
    backend.cancel(job.id)
    assert ended(backend, job).status is neoq.Status.CANCELLED
    assert ended(backend, backend.enqueue("q", {"hang": False})).status is neoq.Status.SUCCEEDED


def test_a_deadline_gives_up_a_handler_that_hangs(backend: neoq.MemBackend, release: threading.Event) -> None:
    """A job still stuck at its deadline is DEAD, and not tried again."""
    backend.listen("q", hang(release), timeout=None, max_retries=5, retry=SOON)
    job = ended(backend, backend.enqueue("q", deadline=0.1))
    assert job.status is neoq.Status.DEAD
    assert job.error is not None
    assert job.error.startswith("DeadlineExceeded: ")


def test_what_the_watchdog_does_for_one_job_does_not_stop_it_for_others(
    backend: neoq.MemBackend, release: threading.Event
) -> None:
    """on_error that blocks after a hung job does not keep other jobs from being interrupted."""
    in_on_error = threading.Event()

    def on_error(job: neoq.Job, error: BaseException) -> None:
        in_on_error.set()
        release.wait(PATIENCE)

    backend.listen("hangs", hang(release), on_error=on_error)
    backend.listen("spins", lambda job: spin())
    backend.enqueue("hangs")
    assert in_on_error.wait(PATIENCE)
    assert ended(backend, backend.enqueue("spins")).status is neoq.Status.DEAD
    assert not release.is_set()


class FullDisk(logging.Handler):
    """A logging handler that raises."""

    def emit(self, record: logging.LogRecord) -> None:
        raise OSError("no space left on device")


@pytest.mark.parametrize("end", ["hangs", "raises", "spins"])
def test_a_log_that_cannot_be_written_costs_nothing_but_lines(release: threading.Event, end: str) -> None:
    """With a logging handler that raises, jobs are interrupted, given up and settled as ever."""
    logger = logging.Logger("full disk")  # noqa: LOG001  # one that nobody else has
    logger.addHandler(FullDisk())
    handlers = {"hangs": hang(release), "raises": lambda job: 1 / 0, "spins": lambda job: spin()}
    with neoq.MemBackend(
        concurrency=1, max_retries=0, timeout=0.05, shutdown_timeout=5, logger=logger
    ) as backend:
        backend.listen("q", handlers[end])
        backend.listen("other", lambda job: spin())
        assert ended(backend, backend.enqueue("q")).status is neoq.Status.DEAD
        assert ended(backend, backend.enqueue("other")).status is neoq.Status.DEAD
        release.set()


# ------------------------------------------------------------------------- handlers that can be stopped


def test_a_handler_that_spins_is_interrupted(backend: neoq.MemBackend) -> None:
    """Python code is stopped at its timeout, and its thread goes on with the next job."""
    threads: list[str] = []

    @backend.listen("q")
    def handler(job: neoq.Job) -> None:
        threads.append(threading.current_thread().name)
        if job.payload.get("spin"):
            spin()

    job = ended(backend, backend.enqueue("q", {"spin": True}))
    assert job.status is neoq.Status.DEAD
    assert job.error is not None
    assert job.error.startswith("JobTimeout: ")
    assert ended(backend, backend.enqueue("q")).status is neoq.Status.SUCCEEDED
    assert len(set(threads)) == 1
    assert backend.stats().abandoned == 0


def test_the_finally_block_of_an_interrupted_handler_runs(backend: neoq.MemBackend) -> None:
    """A handler that is interrupted cleans up before its job is settled."""
    steps: list[str] = []

    @backend.listen("q")
    def handler(job: neoq.Job) -> None:
        try:
            spin()
        except Exception:
            steps.append("an interrupt is no Exception")
        finally:
            steps.append("cleaned up")

    ended(backend, backend.enqueue("q"))
    assert steps == ["cleaned up"]


@pytest.mark.parametrize(
    "error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), BaseException("all")], ids=repr
)
def test_whatever_a_handler_raises_its_runner_lives_on(
    backend: neoq.MemBackend, error: BaseException
) -> None:
    """SystemExit and its like fail the job, and the same thread runs the next one."""
    threads: list[int] = []

    @backend.listen("q")
    def handler(job: neoq.Job) -> None:
        threads.append(threading.get_ident())
        if job.payload.get("raise"):
            raise error

    job = ended(backend, backend.enqueue("q", {"raise": True}))
    assert job.status is neoq.Status.DEAD
    assert job.error is not None
    assert job.error.startswith(type(error).__name__)
    assert ended(backend, backend.enqueue("q")).status is neoq.Status.SUCCEEDED
    assert len(set(threads)) == 1


@pytest.mark.parametrize("error", [ValueError("x"), SystemExit(3), KeyboardInterrupt()], ids=repr)
def test_whatever_on_error_raises_its_runner_lives_on(backend: neoq.MemBackend, error: BaseException) -> None:
    """A callback that fails costs neither the job's outcome nor the runner."""

    def on_error(job: neoq.Job, problem: BaseException) -> None:
        raise error

    @backend.listen("q", on_error=on_error)
    def handler(job: neoq.Job) -> None:
        if job.payload.get("raise"):
            raise ValueError("the job's own")

    job = ended(backend, backend.enqueue("q", {"raise": True}))
    assert job.error == "ValueError: the job's own"
    assert ended(backend, backend.enqueue("q")).status is neoq.Status.SUCCEEDED


def test_what_sys_exit_in_a_thread_leaves_is_retried(backend: neoq.MemBackend) -> None:
    """sys.exit() in a handler is a failed attempt, and is tried again."""

    @backend.listen("q", max_retries=1, retry=SOON)
    def handler(job: neoq.Job) -> None:
        if job.attempt == 1:
            sys.exit("enough")

    job = ended(backend, backend.enqueue("q"))
    assert (job.status, job.retries, job.error) == (neoq.Status.SUCCEEDED, 1, "SystemExit: enough")


# ----------------------------------------------------------------- handlers that turn on their own backend


def test_a_handler_may_shut_its_own_backend_down(backend: neoq.MemBackend) -> None:
    """shutdown() in a handler neither waits for that handler nor interrupts it; everybody else is awaited."""
    reports: list[neoq.ShutdownReport] = []
    all_there, other_ran, finished = (threading.Event() for _ in range(3))

    @backend.listen("other", timeout=None)
    def other(job: neoq.Job) -> None:
        other_ran.set()
        time.sleep(0.2)

    @backend.listen("q", timeout=None)
    def handler(job: neoq.Job) -> str:
        assert all_there.wait(PATIENCE)
        assert other_ran.wait(PATIENCE)
        reports.append(backend.shutdown())
        finished.set()
        return "done"

    meanwhile = backend.enqueue("other")
    backend.enqueue("q", {"n": 1})
    behind = backend.enqueue("q", {"n": 2})
    all_there.set()
    assert finished.wait(PATIENCE)
    (report,) = reports
    assert [job.id for job in report.finished] == [meanwhile.id]
    assert behind.id in {job.id for job in report.lost}
    with pytest.raises(neoq.BackendClosedError):
        backend.enqueue("q", {"n": 3})


def test_a_handler_may_enqueue_into_its_own_full_queue(backend: neoq.MemBackend) -> None:
    """A runner never waits for room: a handler that fans out into its own full queue does not deadlock."""
    small = neoq.MemBackend(enqueue_timeout=None, shutdown_timeout=5)
    ran: list[int] = []

    @small.listen("q", concurrency=1, capacity=1)
    def handler(job: neoq.Job) -> None:
        if "n" not in job.payload:
            for n in range(50):
                small.enqueue("q", {"n": n})
        else:
            ran.append(job.payload["n"])

    small.enqueue("q")
    assert small.drain(PATIENCE)
    assert sorted(ran) == list(range(50))
    small.shutdown()


def test_a_handler_may_enqueue_batches_into_its_own_full_queue() -> None:
    """enqueue_many in a handler does not wait for room either."""
    with neoq.MemBackend(enqueue_timeout=None, shutdown_timeout=5) as backend:
        ran: list[int] = []

        @backend.listen("q", concurrency=1, capacity=5)
        def handler(job: neoq.Job) -> None:
            if "n" not in job.payload:
                for start in range(0, 50, 5):
                    backend.enqueue_many([neoq.Job("q", {"n": n}) for n in range(start, start + 5)])
            else:
                ran.append(job.payload["n"])

        backend.enqueue("q")
        assert backend.drain(PATIENCE)
        assert sorted(ran) == list(range(50))


def test_two_full_queues_may_feed_each_other() -> None:
    """Handlers of two full queues that enqueue into each other do not wait for each other."""
    with neoq.MemBackend(enqueue_timeout=None, shutdown_timeout=5) as backend:
        ran: list[str] = []

        def passes_on(to: str) -> Callable[[neoq.Job], None]:
            def handler(job: neoq.Job) -> None:
                ran.append(job.queue)
                if job.payload["left"]:
                    for twin in range(2):
                        backend.enqueue(
                            to, {"left": job.payload["left"] - 1, "twin": [job.payload["twin"], twin]}
                        )

            return handler

        backend.listen("ping", passes_on("pong"), concurrency=1, capacity=1)
        backend.listen("pong", passes_on("ping"), concurrency=1, capacity=1)
        backend.enqueue("ping", {"left": 6, "twin": []})
        assert backend.drain(PATIENCE)
        assert len(ran) == 2**7 - 1


def test_a_handler_may_cancel_itself(backend: neoq.MemBackend) -> None:
    """A handler that cancels its own job sees job.cancelled, and may end as it likes."""
    seen: list[bool] = []

    @backend.listen("q")
    def handler(job: neoq.Job) -> None:
        assert job.id is not None
        backend.cancel(job.id)
        seen.append(job.cancelled)

    job = ended(backend, backend.enqueue("q"))
    assert seen == [True]
    assert job.status in {neoq.Status.CANCELLED, neoq.Status.SUCCEEDED}


# ----------------------------------------------------------------------------------- interrupts at the edge


def test_a_timeout_that_comes_as_a_job_ends_never_hits_the_next() -> None:
    """Of thousands of jobs that end just at their timeout none is interrupted while it has time left."""
    strays: list[str] = []
    timed_out = 0

    def handler(job: neoq.Job) -> None:
        nonlocal timed_out
        rng = random.Random(job.id)
        edge = rng.uniform(-0.3e-3, 0.3e-3)
        try:
            time.sleep(max(0.0, job.remaining() - 0.5e-3))
            while job.remaining() > edge:
                pass
            if rng.random() < 0.3:
                raise ValueError("on time")
        except neoq.JobTimeout:
            timed_out += 1
            if (left := job.remaining()) > 0:
                strays.append(f"job {job.id} had {left:.6f} s left")
            raise

    count = 3_000
    died: list[Any] = []
    before, threading.excepthook = threading.excepthook, died.append
    try:
        with (
            switching_threads_often(),
            neoq.MemBackend(max_retries=0, max_dead=None, logger="tests.edge") as backend,
        ):
            logging.getLogger("tests.edge").disabled = True
            backend.listen("q", handler, concurrency=4, timeout=0.003)
            backend.enqueue_many([neoq.Job("q", {"n": n}) for n in range(count)])
            assert backend.drain(40), backend.stats()
            stats = backend.stats()
            dead = backend.jobs(status=neoq.Status.DEAD, limit=count)
    finally:
        threading.excepthook = before
        logging.getLogger("tests.edge").disabled = False
    assert not strays, f"{len(strays)} strays, the first: {strays[:3]}"
    assert not died
    assert {job.error.partition(":")[0] for job in dead if job.error} <= {"JobTimeout", "ValueError"}
    assert (stats.processed, stats.failed, stats.dead) == (count, len(dead), len(dead))
    assert stats.abandoned == 0
    assert timed_out > 20, "the test straddled nothing"


def test_an_interrupt_inside_enqueue_leaves_nothing_half_done() -> None:
    """A handler that is interrupted as it enqueues leaves each job whole or not at all, and no lock taken."""
    with running("interrupted_producers") as child:
        rounds = child.ends_well(45)
    assert rounds
    for line in rounds:
        assert line.endswith("lost [] ghosts []"), rounds


@pytest.mark.parametrize("how", ["one by one", "batches"])
def test_no_job_is_left_lying_by_a_signal_handler_that_raises(how: str) -> None:
    """Whenever a signal handler raises as the main thread enqueues, all that is stored is run, too."""
    with running("alarmed", how) as child:
        assert child.ends_well(45) == ["drained"]


def test_an_interrupt_waits_for_the_end_of_an_import(backend: neoq.MemBackend, tmp_path: Path) -> None:
    """A handler that is interrupted as it imports ends once that is done, and the module can be imported."""
    (tmp_path / "neoq_tests_slow.py").write_text("import time\nfor _ in range(20):\n    time.sleep(0.01)\n")
    sys.path.insert(0, str(tmp_path))
    behind = threading.Event()

    @backend.listen("imports", timeout=0.05, max_retries=0)
    def handler(job: neoq.Job) -> None:
        importlib.import_module("neoq_tests_slow")
        for _ in range(1000):
            time.sleep(0.01)
        behind.set()

    try:
        job = ended(backend, backend.enqueue("imports"))
        assert (job.error or "").startswith("JobTimeout")
        assert not behind.is_set()
        assert "neoq_tests_slow" in sys.modules
        assert backend.stats().abandoned == 0
    finally:
        sys.path.remove(str(tmp_path))
        sys.modules.pop("neoq_tests_slow", None)


def test_who_enqueues_just_before_the_raise_waits_for_it(
    backend: neoq.MemBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A handler that was outside at the look, and enqueues before the raise, stops at the door."""
    looked, at_the_door = threading.Event(), threading.Event()
    is_inside = timeouts.must_not_interrupt

    def look_and_be_slow(ident: int) -> bool:
        inside = is_inside(ident)
        looked.set()
        give_up = time.monotonic() + PATIENCE
        while time.monotonic() < give_up and not at_the_door.is_set():
            if sys._current_frames()[ident].f_code is timeouts.AttemptSlot.deliver.__code__:
                at_the_door.set()
        return inside

    monkeypatch.setattr(timeouts, "must_not_interrupt", look_and_be_slow)

    def handler(job: neoq.Job) -> None:
        looked.wait(PATIENCE)
        backend.enqueue("sink", run_after=60)

    backend.listen("q", handler)
    backend.listen("sink", lambda job: None)
    job = ended(backend, backend.enqueue("q"))
    assert job.error is not None
    assert job.error.startswith("JobTimeout")
    assert at_the_door.is_set()
    assert backend.jobs("sink") == []


def test_ctrl_c_while_a_wait_takes_its_lock_back_is_ctrl_c(
    backend: neoq.MemBackend, release: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a signal handler raises inside `drain` comes out of it, not an error about a lock."""
    changed = backend.engine.changed

    def wait_and_be_interrupted(timeout: float) -> None:
        changed.release()  # as threading.Condition does
        raise KeyboardInterrupt

    backend.listen("q", hang(release), timeout=None)
    job = backend.enqueue("q")
    monkeypatch.setattr(changed, "wait", wait_and_be_interrupted)
    with pytest.raises(KeyboardInterrupt):
        backend.drain()
    monkeypatch.undo()
    release.set()
    assert ended(backend, job).status is neoq.Status.SUCCEEDED


class Interrupted(list[Any]):
    """A list that loses what is taken from it to an exception, once."""

    def pop(self, *at: Any) -> Any:  # type: ignore[override]
        item = super().pop(*at)
        if self.breaks:
            self.breaks = False
            raise KeyboardInterrupt
        return item

    breaks = True


def test_ctrl_c_while_a_runner_is_called_loses_no_call(backend: neoq.MemBackend) -> None:
    """Where Ctrl-C comes between taking a runner out and calling it, its job and all later ones run."""
    backend.listen("q", lambda job: None)
    ended(backend, backend.enqueue("q"))
    pool = backend.engine.pools["q"]
    until(lambda: pool.runners[0].parked, "the runner is parked")
    pool.idle = Interrupted(pool.idle)
    with pytest.raises(KeyboardInterrupt):
        backend.enqueue("q", {"n": 1})
    assert backend.drain(PATIENCE)
    ended(backend, backend.enqueue("q", {"n": 2}))
    assert backend.stats().succeeded == 3


def test_ctrl_c_while_a_runner_is_made_leaves_its_place_free(
    backend: neoq.MemBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where Ctrl-C comes before a runner is there, one is made for the job within job_check_interval."""
    backend.listen("q", lambda job: None)

    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    pool = backend.engine.pools["q"]
    with monkeypatch.context() as patched:
        patched.setattr(pool, "runner_class", interrupted)
        with pytest.raises(KeyboardInterrupt):
            backend.enqueue("q", {"n": 1})
    assert (pool.spare, pool.waking) == (1, False)
    assert backend.drain(PATIENCE)
    assert backend.stats().succeeded == 1


def test_a_call_that_nobody_heard_is_made_up_for(backend: neoq.MemBackend) -> None:
    """Where a signal handler raises in the middle of a call, the watchdog calls a runner for the job."""
    backend.listen("q", lambda job: None)
    ended(backend, backend.enqueue("q"))
    pool = backend.engine.pools["q"]
    until(lambda: pool.runners[0].parked, "the runner is parked")
    pool.waking = True  # as an exception leaves it that comes before anybody is called
    assert ended(backend, backend.enqueue("q", {"n": 1})).status is neoq.Status.SUCCEEDED


@pytest.mark.parametrize("run_after", [None, 3600.0])
def test_ctrl_c_while_a_job_is_queued_leaves_no_ghost(
    backend: neoq.MemBackend, monkeypatch: pytest.MonkeyPatch, run_after: float | None
) -> None:
    """A job whose enqueue is broken off before it is queued is not stored, and holds no fingerprint."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    backend.listen("q", lambda job: None)
    with monkeypatch.context() as patched:
        patched.setattr("neoq.memory.queues.ReadyQueue.push", interrupted)
        patched.setattr("neoq.memory.future.FutureJobs.push", interrupted)
        with pytest.raises(KeyboardInterrupt):
            backend.enqueue("q", {"n": 1}, priority=1, run_after=run_after)
    assert backend.jobs() == []
    assert not backend.enqueue("q", {"n": 1}).duplicate


def test_an_interrupt_that_comes_as_a_job_begins_spoils_nothing() -> None:
    """Of jobs whose deadline comes just as they start, each ends, and everything still works afterwards."""
    with running("born_late") as child:
        assert child.ends_well(45) == ["every job ended", "a job runs", "a job is interrupted"]


# ------------------------------------------------------------------------- a queue in trouble, and others


def test_a_full_queue_delays_no_other_queues_future_jobs_or_cron(
    backend: neoq.MemBackend, release: threading.Event
) -> None:
    """While one queue is full and its producer waits, future jobs and ticks of other queues come on time."""
    ticked, ran = threading.Event(), threading.Event()
    backend.listen("full", hang(release), capacity=1, timeout=None)
    backend.listen("other", lambda job: ran.set())
    backend.listen_cron("@every 1s", lambda job: ticked.set(), queue="ticks")
    for n in range(2):
        backend.enqueue("full", {"n": n})
        until(lambda: backend.stats().running >= 1, "the first one runs")
    for n in range(5):  # due while there is no room
        backend.enqueue("full", {"later": n}, run_after=0.05)
    producer = threading.Thread(
        target=enqueue_or_be_closed, args=(backend, "full", {"waits": True}), daemon=True
    )
    producer.start()
    backend.enqueue("other", run_after=0.2)
    assert ran.wait(PATIENCE)
    assert ticked.wait(PATIENCE)
    assert producer.is_alive()
    full = next(counts for counts in backend.queues() if counts.queue == "full")
    assert (full.ready, full.scheduled, full.running) == (6, 0, 1), "promotion should not wait for room"
    release.set()
    producer.join(PATIENCE)
    assert backend.drain(PATIENCE)


def enqueue_or_be_closed(backend: neoq.Backend, queue: str, payload: dict[str, Any]) -> None:
    with contextlib.suppress(neoq.BackendClosedError):
        backend.enqueue(queue, payload)


def test_a_queue_whose_handlers_all_hang_delays_no_other(
    backend: neoq.MemBackend, release: threading.Event
) -> None:
    """Each queue has threads of its own: one that hangs without a timeout holds nobody else up."""
    backend.listen("hangs", hang(release), concurrency=2, timeout=None)
    backend.listen("other", lambda job: None)
    backend.enqueue_many([neoq.Job("hangs", {"n": n}) for n in range(20)])
    others = backend.enqueue_many([neoq.Job("other", {"n": n}, run_after=0.01 * n) for n in range(10)])
    assert {ended(backend, job).status for job in others} == {neoq.Status.SUCCEEDED}
