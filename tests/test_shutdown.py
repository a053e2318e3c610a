"""Shutdown: bounded, from anywhere, and every accepted job has run or is in the report."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import neoq
from neoq.engine.signals import SECOND_SIGNAL
from tests.processes import ROOT, running

PATIENCE = 20.0
SLACK = 3.0  # seconds that a busy machine may add to a bound


def until(holds: Callable[[], object], what: str) -> None:
    give_up = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < give_up, f"waited in vain until {what}"
        time.sleep(0.005)


def ids(jobs: list[neoq.Job]) -> list[int]:
    return [job.id for job in jobs if job.id is not None]


def our_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("neoq-")]


# ------------------------------------------------------------------------------------------ what it reports


def test_an_idle_backend_shuts_down_at_once() -> None:
    """Without jobs shutdown takes no time, and its report is empty."""
    backend = neoq.MemBackend()
    backend.listen("q", lambda job: None)
    report = backend.shutdown()
    assert (report.finished, report.interrupted, report.given_back, report.lost) == ([], [], [], [])


def test_a_backend_that_was_never_used_can_be_shut_down() -> None:
    """A backend that nobody used is shut down all the same, and may then not be used."""
    backend = neoq.MemBackend()
    assert backend.shutdown().lost == []
    with pytest.raises(neoq.BackendClosedError):
        backend.listen("q", lambda job: None)


def test_no_thread_outlives_a_shutdown() -> None:
    """All threads of runners, future jobs and cron are joined when shutdown returns."""
    backend = neoq.MemBackend(concurrency=4)
    backend.listen("q", lambda job: None)
    backend.listen_cron("@every 1s", lambda job: None)
    backend.enqueue_many([neoq.Job("q", {"n": n}) for n in range(100)])
    backend.enqueue("q", {"n": "future"}, run_after=60)
    assert our_threads()
    backend.shutdown()
    assert our_threads() == []


def test_the_report_names_every_job_that_did_not_finish(caplog: pytest.LogCaptureFixture) -> None:
    """Running, ready, future and retrying jobs are in the report by what became of them, and in the log."""
    backend = neoq.MemBackend(concurrency=1)
    started, going = threading.Event(), threading.Event()

    @backend.listen("q")
    def handler(job: neoq.Job) -> None:
        started.set()
        assert going.wait(PATIENCE)

    @backend.listen("fails", max_retries=5)
    def fails(job: neoq.Job) -> None:
        raise ValueError("again")

    retrying = backend.enqueue("fails")
    until(lambda: backend.stats().retrying == 1, "it failed once")
    current = backend.enqueue("q", {"n": 1})
    assert started.wait(PATIENCE)
    ready = backend.enqueue("q", {"n": 2})
    future = backend.enqueue("q", {"n": 3}, run_after=60)
    ending = threading.Thread(target=going.wait)
    stopper: list[neoq.ShutdownReport] = []
    thread = threading.Thread(target=lambda: stopper.append(backend.shutdown()))
    ending.start()
    thread.start()
    until(lambda: closed(backend), "shutdown has begun")
    going.set()
    thread.join(PATIENCE)
    ending.join(PATIENCE)
    (report,) = stopper
    assert ids(report.finished) == [current.id]
    assert report.finished[0].status is neoq.Status.SUCCEEDED
    assert sorted(ids(report.lost)) == sorted(ids([retrying, ready, future]))
    assert report.interrupted == report.given_back == []
    said = " ".join(record.getMessage() for record in caplog.records)
    for job_id in ids(report.lost):
        assert f"{job_id} of" in said


def closed(backend: neoq.Backend) -> bool:
    try:
        backend.enqueue("q", {"n": "late"})
    except neoq.BackendClosedError:
        return True
    return False


def test_a_running_job_is_interrupted_when_the_time_is_up() -> None:
    """A handler that is still running at the end of the timeout gets ShutdownRequested, and cleans up."""
    backend = neoq.MemBackend(concurrency=1)
    seen: list[str] = []
    started = threading.Event()

    @backend.listen("q")
    def handler(job: neoq.Job) -> None:
        started.set()
        try:
            while True:
                time.sleep(0.001)
        except neoq.ShutdownRequested:
            seen.append("asked")
            raise

    job = backend.enqueue("q")
    assert started.wait(PATIENCE)
    report = backend.shutdown(timeout=0.05)
    assert seen == ["asked"]
    assert ids(report.interrupted) == [job.id]
    assert ids(report.lost) == [job.id]
    assert report.lost[0].retries == 0, "no attempt is charged"


@pytest.mark.parametrize("timeout", [None, 600.0])
def test_a_handler_that_hangs_does_not_hold_shutdown_up(timeout: float | None) -> None:
    """With a stuck handler shutdown takes its timeout and about a second, and reports the job."""
    backend = neoq.MemBackend(concurrency=1, shutdown_timeout=0.3)
    started, release = threading.Event(), threading.Event()

    @backend.listen("q", timeout=timeout)
    def handler(job: neoq.Job) -> None:
        started.set()
        release.wait(PATIENCE)

    job = backend.enqueue("q")
    assert started.wait(PATIENCE)
    began = time.monotonic()
    report = backend.shutdown()
    took = time.monotonic() - began
    release.set()
    assert 0.3 <= took < 0.3 + 1 + SLACK
    assert ids(report.lost) == [job.id]


def test_many_handlers_that_hang_take_no_longer_than_one() -> None:
    """The bound of shutdown is for all jobs together, not for each."""
    backend = neoq.MemBackend(concurrency=20, shutdown_timeout=0.3)
    release = threading.Event()
    backend.listen("q", lambda job: release.wait(PATIENCE), timeout=None)
    jobs = backend.enqueue_many([neoq.Job("q", {"n": n}) for n in range(40)])
    until(lambda: backend.stats().running == 20, "all runners hang")
    began = time.monotonic()
    report = backend.shutdown()
    took = time.monotonic() - began
    release.set()
    assert took < 0.3 + 1 + SLACK
    assert sorted(ids(report.lost)) == ids(jobs)


def test_a_drain_that_is_too_long_is_cut() -> None:
    """shutdown(drain=True) keeps to the same bound, and reports what it did not get to."""
    backend = neoq.MemBackend(concurrency=1, shutdown_timeout=0.3)
    backend.listen("q", lambda job: time.sleep(0.02))
    jobs = backend.enqueue_many([neoq.Job("q", {"n": n}) for n in range(500)])
    began = time.monotonic()
    report = backend.shutdown(drain=True)
    assert time.monotonic() - began < 0.3 + 1 + SLACK
    assert sorted(ids(report.finished) + ids(report.lost)) == ids(jobs)[-len(report.finished + report.lost) :]
    assert report.finished
    assert report.lost


def test_nothing_can_be_done_with_a_backend_after_its_shutdown() -> None:
    """enqueue, enqueue_many, listen, listen_cron and start raise BackendClosedError; looking still works."""
    backend = neoq.MemBackend()
    backend.listen("q", lambda job: None)
    job = backend.enqueue("q")
    assert backend.drain(PATIENCE)
    backend.shutdown()
    for call in (
        lambda: backend.enqueue("q"),
        lambda: backend.enqueue_many([neoq.Job("q")]),
        lambda: backend.listen("other", print),
        lambda: backend.listen_cron("* * * * *", print),
        backend.start,
    ):
        with pytest.raises(neoq.BackendClosedError):
            call()
    assert job.id is not None
    found = backend.get(job.id)
    assert found is not None
    assert found.status is neoq.Status.SUCCEEDED


def test_a_blocked_enqueue_ends_with_the_backend() -> None:
    """A producer that waits for room, however long it would, gets BackendClosedError at shutdown."""
    backend = neoq.MemBackend(concurrency=1, enqueue_timeout=None, shutdown_timeout=5)
    release, ended = threading.Event(), threading.Event()
    backend.listen("q", lambda job: release.wait(PATIENCE), capacity=1, timeout=None)
    backend.enqueue("q", {"n": 0})
    until(lambda: backend.stats().running == 1, "the first one runs")
    backend.enqueue("q", {"n": 1})

    def produce() -> None:
        with pytest.raises(neoq.BackendClosedError):
            backend.enqueue("q", {"n": 2})
        ended.set()

    producer = threading.Thread(target=produce, daemon=True)
    producer.start()
    assert not ended.wait(0.1)
    stopper = threading.Thread(target=backend.shutdown, daemon=True)
    stopper.start()
    assert ended.wait(PATIENCE), "it should not have to wait for the running job"
    release.set()
    stopper.join(PATIENCE)
    producer.join(PATIENCE)


# ------------------------------------------------------------------------------------- twice, and from all


def test_a_second_shutdown_returns_the_same_report() -> None:
    """Shutting down again does nothing, and says the same."""
    backend = neoq.MemBackend(autostart=False)
    backend.listen("q", lambda job: None)
    job = backend.enqueue("q")
    assert ids(backend.shutdown().lost) == ids(backend.shutdown().lost) == [job.id]


def test_many_threads_may_shut_down_at_once() -> None:
    """Of threads that shut down together each returns when it is done, with one report."""
    for _ in range(20):
        backend = neoq.MemBackend(concurrency=2)
        backend.listen("q", lambda job: time.sleep(0.005))
        backend.enqueue_many([neoq.Job("q", {"n": n}) for n in range(4)])
        reports: list[neoq.ShutdownReport] = []
        barrier = threading.Barrier(6)

        def stop(
            backend: neoq.Backend = backend,
            barrier: threading.Barrier = barrier,
            reports: list[neoq.ShutdownReport] = reports,
        ) -> None:
            barrier.wait(PATIENCE)
            reports.append(backend.shutdown())

        threads = [threading.Thread(target=stop, daemon=True) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()
        assert len(reports) == 6
        assert len({tuple(ids(report.lost)) for report in reports}) == 1


def test_every_job_accepted_before_a_shutdown_ran_or_is_in_its_report() -> None:
    """With four threads enqueueing through a shutdown, ids reconcile: run, finished or lost, each once."""
    for number in range(30):
        ran: list[int] = []
        accepted: list[list[int]] = [[] for _ in range(4)]
        backend = neoq.MemBackend(concurrency=2, max_finished=None, queue_capacity=[50, None][number % 2])
        backend.listen("q", lambda job, ran=ran: ran.append(job.id))
        barrier = threading.Barrier(5)

        def produce(
            mine: list[int], who: int, backend: neoq.Backend = backend, barrier: threading.Barrier = barrier
        ) -> None:
            barrier.wait(PATIENCE)
            n = 0
            with contextlib.suppress(neoq.BackendClosedError):
                while True:
                    n += 1
                    if n % 5:
                        jobs = [backend.enqueue("q", {"who": who, "n": n}, run_after=0.01 * (n % 2))]
                    else:
                        jobs = backend.enqueue_many(
                            [neoq.Job("q", {"who": who, "n": n, "k": k}) for k in range(3)]
                        )
                    mine += ids(jobs)

        threads = [
            threading.Thread(target=produce, args=(accepted[who], who), daemon=True) for who in range(4)
        ]
        for thread in threads:
            thread.start()
        barrier.wait(PATIENCE)
        time.sleep(0.001 * (number % 10))
        report = backend.shutdown()
        for thread in threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()
        everything = sorted(job_id for mine in accepted for job_id in mine)
        lost, finished = set(ids(report.lost)), set(ids(report.finished))
        assert set(everything) == set(ran) | lost, "accepted jobs are missing, or others appeared"
        assert not lost & set(ran)
        assert finished <= set(ran)
        assert len(ran) == len(set(ran))
        assert {job.status for job in report.lost} <= {neoq.Status.PENDING, neoq.Status.RETRYING}


# ------------------------------------------------------------------------------------------ with and atexit


def test_leaving_the_block_runs_what_is_ready() -> None:
    """A clean end of the with block drains before it shuts down."""
    ran: list[int] = []
    with neoq.MemBackend(concurrency=2) as backend:
        backend.listen("q", lambda job: ran.append(job.payload["n"]))
        backend.enqueue_many([neoq.Job("q", {"n": n}) for n in range(200)])
    assert sorted(ran) == list(range(200))


def test_leaving_the_block_by_an_exception_only_shuts_down() -> None:
    """An exception in the with block is not held up by the jobs that still wait."""
    ran: list[int] = []
    release = threading.Event()

    def use() -> None:
        with neoq.MemBackend(concurrency=1) as backend:

            @backend.listen("q")
            def handler(job: neoq.Job) -> None:
                release.wait(PATIENCE)
                ran.append(job.payload["n"])

            backend.enqueue_many([neoq.Job("q", {"n": n}) for n in range(50)])
            until(lambda: backend.stats().running == 1, "the first one runs")
            threading.Timer(0.05, release.set).start()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        use()
    assert ran == [0]


def test_a_script_that_just_ends_runs_what_it_accepted() -> None:
    """Without any shutdown the end of the program runs all ready jobs."""
    with running("ends", "plain") as child:
        assert child.ends_well() == ["end of the script", "ran 100"]


def test_a_script_that_ends_by_an_exception_runs_what_it_accepted() -> None:
    """A traceback in the main thread does not cost the jobs that were accepted before."""
    with running("ends", "raises") as child:
        assert child.rest() == ["end of the script", "ran 100"]
        assert child.exit_code() == 1
        assert "ZeroDivisionError" in child.errors


def test_sys_exit_runs_what_was_accepted() -> None:
    """sys.exit() ends a program as its last line does, and keeps its code."""
    with running("ends", "exits") as child:
        assert child.rest() == ["end of the script", "ran 100"]
        assert child.exit_code() == 7


def test_a_handler_may_enqueue_while_the_program_ends() -> None:
    """What handlers enqueue during the end is run too."""
    with running("ends", "fans_out") as child:
        assert child.ends_well() == ["end of the script", "ran 100"]


def test_a_handler_that_hangs_does_not_keep_the_program_alive() -> None:
    """At the end of the program a stuck handler is left behind after shutdown_timeout, and named."""
    with running("ends", "hangs") as child:
        child.until("end of the script")
        began = time.monotonic()
        child.ends_well(10)
        assert time.monotonic() - began < 0.5 + 1 + SLACK + 1  # and the interpreter's own end
        assert re.search(r"job \d+ of long", child.errors)
        assert "Traceback" not in child.errors


def test_nothing_is_written_when_a_program_ends_well() -> None:
    """The end of a program with all jobs done is silent on standard error."""
    with running("ends", "plain") as child:
        child.ends_well()
        assert child.errors == ""


def test_a_thread_that_outlives_the_main_thread_may_still_enqueue() -> None:
    """Jobs that a thread enqueues after the main thread's end are run or named as lost, without delay.

    CPython 3.12 starts no threads then, so there may be no runner for them.
    """
    with running("ends", "thread_goes_on") as child:
        child.until("end of the script")
        began = time.monotonic()
        lines = child.ends_well(30)
        assert time.monotonic() - began < SLACK + 2
        assert lines == ["ran 100"] or "lost 100" in child.errors


def test_importing_and_configuring_starts_nothing() -> None:
    """A program that only makes a backend and listens with autostart=False starts no thread, and ends."""
    code = (
        "import threading, neoq\n"
        "b = neoq.MemBackend(autostart=False)\n"
        "b.listen('q', print)\n"
        "b.listen_cron('* * * * *', print)\n"
        "print(threading.active_count())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert (done.stdout, done.stderr, done.returncode) == ("1\n", "", 0)


# ------------------------------------------------------------------------------------------------- signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_run_ends_at_a_signal(number: signal.Signals) -> None:
    """run() waits for SIGTERM or SIGINT, lets running jobs end, and returns its report."""
    with running("worker") as child:
        child.until("started")
        child.signal(number)
        assert child.ends_well() == [
            "job done",
            "1 finished, 0 interrupted, 0 given back, 1 lost",
            "after run",
        ]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_does_not_tear_the_shutdown(number: signal.Signals) -> None:
    """A signal sent again while run() shuts down does not end it with a traceback halfway."""
    with running("worker", "slow") as child:
        child.until("started")
        child.signal(number)
        time.sleep(0.1)
        child.signal(number)
        lines = child.ends_well()
        assert lines[-1] == "after run"
        assert "Traceback" not in child.errors


@pytest.mark.parametrize("url", ["memory://", "sqlite:///{}/jobs.db"], ids=["memory", "sqlite"])
def test_a_second_signal_interrupts_what_runs(url: str, tmp_path: Path) -> None:
    """A second signal interrupts the jobs that still run."""
    with running("worker", "endless", env={"NEOQ_URL": url.format(tmp_path)}) as child:
        child.until("started")
        child.signal(signal.SIGTERM)
        child.until("asked to stop")
        time.sleep(SECOND_SIGNAL)  # what comes earlier is the same signal, passed on
        child.signal(signal.SIGTERM)  # once: a third may come when run() has returned, and would kill
        lines = child.ends_well()
    assert "1 interrupted" in lines[-2]
    assert lines[-1] == "after run"
    if url.startswith("sqlite"):
        with neoq.connect(url.format(tmp_path), autostart=False) as backend:
            assert [(job.status, job.crashes) for job in backend.jobs()] == [(neoq.Status.PENDING, 0)] * 2


def test_ctrl_c_at_the_end_of_a_block_names_what_is_lost() -> None:
    """Ctrl-C while a with block waits for its jobs ends the wait: they are interrupted, and named as lost."""
    with running("ends", "drains") as child:
        child.until("draining")
        began = time.monotonic()
        child.signal(signal.SIGINT)
        child.rest()
        assert child.exit_code() in {1, 130, -signal.SIGINT}
        assert time.monotonic() - began < 1 + SLACK
        assert "shutdown lost 3 unfinished jobs" in child.errors
        assert "KeyboardInterrupt" in child.errors


def test_ctrl_c_at_the_end_of_a_script_names_what_is_lost() -> None:
    """Ctrl-C while a script that has ended waits for its jobs names them, without a traceback."""
    with running("ends", "leaves_long_jobs") as child:
        child.until("ending")
        child.signal(signal.SIGINT)
        child.rest()
        child.exit_code()
        assert "shutdown lost 3 unfinished jobs" in child.errors
        assert "Traceback" not in child.errors


@pytest.mark.skipif(
    (3, 12) <= sys.version_info < (3, 12, 2),
    reason="Python 3.12.0 and 3.12.1 start no thread once the main thread has ended (gh-113964)",
)
@pytest.mark.parametrize("url", ["memory://", "sqlite:///{}/jobs.db"], ids=["memory", "sqlite"])
def test_thread_pools_work_at_the_end_of_a_script(url: str, tmp_path: Path) -> None:
    """A job that runs as the interpreter ends may use a thread pool, and asyncio.to_thread."""
    with running("pools_at_exit", url.format(tmp_path)) as child:
        assert sorted(child.ends_well()) == ["parsed 3", "uploaded 3"]
        assert "Traceback" not in child.errors


@pytest.mark.parametrize("url", ["memory://", "sqlite:///{}/jobs.db"], ids=["memory", "sqlite"])
def test_what_is_enqueued_at_exit_is_accepted(url: str, tmp_path: Path) -> None:
    """A function that atexit calls may still enqueue."""
    with running("pools_at_exit", url.format(tmp_path), "late") as child:
        assert child.ends_well() == ["accepted parse"]


def test_ctrl_c_ends_a_plain_script() -> None:
    """Ctrl-C in a script that sleeps raises KeyboardInterrupt, and accepted jobs are run at its exit."""
    with running("ends", "waits_for_ctrl_c") as child:
        child.until("waiting")
        child.signal(signal.SIGINT)
        lines = child.rest()
        assert lines[-1] == "ran 100"
        assert child.exit_code() in {1, 130, -signal.SIGINT}
        assert "KeyboardInterrupt" in child.errors


def test_a_second_ctrl_c_ends_an_exit_that_takes_too_long() -> None:
    """A second Ctrl-C while the program ends does not wait for long jobs."""
    with running("ends", "long_job_and_ctrl_c") as child:
        child.until("waiting")
        child.signal(signal.SIGINT)
        child.until("interrupted")
        began = time.monotonic()
        while child.process.poll() is None and time.monotonic() - began < 14:
            time.sleep(0.3)
            child.signal(signal.SIGINT)
        assert child.exit_code(1) != 0
        assert time.monotonic() - began < 1 + SLACK + 2


def test_shutdown_in_a_signal_handler_never_deadlocks() -> None:
    """SIGTERM's handler shuts down while the main thread is anywhere inside enqueue: many rounds."""
    with running("signalled", "shutdown") as child:
        assert child.ends_well(50)[-1] == "all rounds reconciled"


def test_sys_exit_in_a_signal_handler_never_deadlocks() -> None:
    """SIGTERM's handler raises SystemExit in the middle of enqueue: shutdown works, and ids reconcile."""
    with running("signalled", "exception") as child:
        assert child.ends_well(50)[-1] == "all rounds reconciled"


def test_a_signal_handler_that_shuts_down_an_idle_main_thread() -> None:
    """Where the signal finds the main thread outside neoq, shutdown in its handler is complete on return."""
    with running("signalled", "idle") as child:
        assert child.ends_well() == ["complete: 0 finished, 0 interrupted, 0 given back, 1 lost"]
