"""The testing kit: jobs by hand, lists of what was enqueued, and a clock that a test moves."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import neoq
from neoq import testing

pytest_plugins = ["pytester"]


@pytest.fixture
def backend() -> Iterator[neoq.MemBackend]:
    backend = neoq.MemBackend(shutdown_timeout=5)
    yield backend
    backend.shutdown(0)


def test_inline_runs_a_job_at_once_in_the_callers_thread(backend: neoq.MemBackend) -> None:
    """Enqueue returns the job after its run, which was in this very thread."""
    backend.listen("q", lambda job: [threading.current_thread().name, job.payload["n"]])
    with testing.inline(backend):
        job = backend.enqueue("q", {"n": 1})
    assert (job.status, job.result) == (neoq.Status.SUCCEEDED, [threading.current_thread().name, 1])


def test_a_coroutine_may_use_steps_inline_in_a_test_that_is_one(backend: neoq.MemBackend) -> None:
    """Its handler has its job in the thread of its own that runs it there."""

    async def handler(job: neoq.Job) -> object:
        return [job.step("a", lambda: 5), neoq.current_job() is job]

    async def test() -> object:
        with testing.inline(backend):
            return backend.enqueue("q").result

    backend.listen("q", handler)
    assert asyncio.run(test()) == [5, True]


def test_inline_raises_what_the_handler_raises(backend: neoq.MemBackend) -> None:
    """The handler's own exception comes out of enqueue, and the job is settled as failed."""
    backend.listen("q", lambda job: 1 / 0, max_retries=0)
    with testing.inline(backend), pytest.raises(ZeroDivisionError):
        backend.enqueue("q")
    assert [job.status for job in backend.jobs("q")] == [neoq.Status.DEAD]


def test_inline_obeys_signals(backend: neoq.MemBackend) -> None:
    """A signal steers the job and is not raised."""

    @backend.listen("q")
    def handler(job: neoq.Job) -> None:
        raise neoq.Discard("no more")

    with testing.inline(backend):
        assert backend.enqueue("q").status is neoq.Status.DEAD


def test_inline_runs_what_a_handler_enqueues(backend: neoq.MemBackend) -> None:
    """A job that a handler enqueues runs at once, and current_job() is right on both levels."""
    seen: list[Any] = []

    @backend.listen("outer")
    def outer(job: neoq.Job) -> None:
        assert backend.enqueue("inner").status is neoq.Status.SUCCEEDED
        seen.append(neoq.current_job() is job)

    backend.listen("inner", lambda job: seen.append(neoq.current_job() is job))
    with testing.inline(backend):
        backend.enqueue("outer")
    assert seen == [True, True]
    assert neoq.current_job() is None


def test_inline_runs_jobs_of_enqueue_many_in_order(backend: neoq.MemBackend) -> None:
    """A bulk enqueue runs its jobs in order before it returns them."""
    seen: list[int] = []
    backend.listen("q", lambda job: seen.append(job.payload["n"]))
    with testing.inline(backend):
        jobs = backend.enqueue_many([neoq.Job("q", {"n": n}) for n in range(5)])
    assert seen == [0, 1, 2, 3, 4]
    assert {job.status for job in jobs} == {neoq.Status.SUCCEEDED}


def test_after_inline_jobs_run_in_threads_again(backend: neoq.MemBackend) -> None:
    """The end of the block gives the backend back as it was."""
    backend.listen("q", lambda job: threading.current_thread().name)
    with testing.inline(backend):
        backend.enqueue("q")
    assert backend.wait(backend.enqueue("q").id, 5).result.startswith("neoq-runner-q-")


def test_enqueued_lists_what_was_enqueued_and_runs_nothing(backend: neoq.MemBackend) -> None:
    """The list holds each new job, duplicates left out; none runs, and all are dropped in the end."""
    ran = threading.Event()
    backend.listen("q", lambda job: ran.set())
    with testing.enqueued(backend) as jobs:
        backend.enqueue("q", {"n": 1})
        backend.enqueue("q", {"n": 1})
        backend.enqueue_many([neoq.Job("q", {"n": n}) for n in (2, 3)])
        backend.enqueue("q", {"n": 4}, run_after=60)
    assert [job.payload["n"] for job in jobs] == [1, 2, 3, 4]
    assert backend.jobs() == []
    assert backend.drain(5)
    assert not ran.is_set()


def test_enqueued_inside_inline_lets_jobs_run(backend: neoq.MemBackend) -> None:
    """Inside another helper it only makes the list."""
    backend.listen("q", lambda job: job.payload["n"])
    with testing.inline(backend), testing.enqueued(backend) as jobs:
        assert backend.enqueue("q", {"n": 7}).result == 7
    assert [job.payload["n"] for job in jobs] == [7]


def test_the_clock_runs_a_day_of_jobs_retries_and_ticks_in_their_order(backend: neoq.MemBackend) -> None:
    """A day of future jobs, retries and cron ticks runs in the order of their times, without sleeping."""
    start = datetime(2030, 1, 1, tzinfo=UTC)
    seen: list[tuple[str, datetime]] = []

    with testing.clock(backend, start) as clock:

        def note(name: str) -> None:
            seen.append((name, clock.now))

        @backend.listen("flaky", retry=neoq.RetryPolicy(delay=3600))
        def flaky(job: neoq.Job) -> None:
            note(f"flaky {job.attempt}")
            if job.attempt < 3:
                raise neoq.Retry

        backend.listen("later", lambda job: note("later"))
        backend.listen_cron("0 */6 * * *", lambda job: note("tick"), queue="sweep")
        backend.enqueue("flaky")
        backend.enqueue("later", run_after=timedelta(hours=7, minutes=30))
        before = time.monotonic()
        assert clock.advance(hours=24) == 8
        assert time.monotonic() - before < 10
    hours = [(name, (at - start) / timedelta(hours=1)) for name, at in seen]
    assert hours == [
        ("flaky 1", 0),
        ("flaky 2", 1),
        ("flaky 3", 2),
        ("tick", 6),
        ("later", 7.5),
        ("tick", 12),
        ("tick", 18),
        ("tick", 24),
    ]


def test_nothing_runs_while_the_clock_stands(backend: neoq.MemBackend) -> None:
    """Without advance no job starts; drain runs what is ready at that instant."""
    ran: list[str] = []
    backend.listen("q", lambda job: ran.append(job.payload["is"]))
    with testing.clock(backend) as clock:
        backend.enqueue("q", {"is": "now"})
        backend.enqueue("q", {"is": "later"}, run_after=0.001)
        assert ran == []
        assert backend.drain()
        assert ran == ["now"]
        clock.advance(0.001)
        assert ran == ["now", "later"]


def test_a_job_never_sees_the_clock_before_its_time(backend: neoq.MemBackend) -> None:
    """Each job finds the clock at its run_after exactly."""
    off: list[float] = []
    with testing.clock(backend) as clock:
        backend.listen("q", lambda job: off.append((clock.now - job.run_after).total_seconds()))
        for n in range(100):
            backend.enqueue("q", {"n": n}, run_after=(n * 37) % 100)
        clock.advance(hours=1)
    assert len(off) == 100
    assert max(map(abs, off)) < 1e-5


def test_a_deadline_is_met_by_the_virtual_clock(backend: neoq.MemBackend) -> None:
    """A job that is paused past its deadline dies when it would start."""
    backend.listen("q", lambda job: None)
    with testing.clock(backend) as clock:
        job = backend.enqueue("q", deadline=60)
        backend.pause("q")
        clock.advance(minutes=2)
        backend.resume("q")
        clock.advance()
        assert backend.get(job.id).status is neoq.Status.DEAD


def test_the_clock_does_not_go_back(backend: neoq.MemBackend) -> None:
    """A time in the past of the clock is refused."""
    with testing.clock(backend) as clock, pytest.raises(ValueError, match="does not go back"):
        clock.run_until(clock.now - timedelta(seconds=1))


def test_after_the_clock_the_wall_counts_again(backend: neoq.MemBackend) -> None:
    """Jobs enqueued after the block start by the wall's time, in threads, and crons go on."""
    ticked = threading.Event()
    backend.listen("q", lambda job: None)
    backend.listen_cron("@every 1s", lambda job: ticked.set(), queue="ticks")
    with testing.clock(backend, datetime(2031, 1, 1, tzinfo=UTC)) as clock:
        clock.advance(hours=1)
    ticked.clear()
    assert backend.wait(backend.enqueue("q", run_after=0.05).id, 5).status is neoq.Status.SUCCEEDED
    assert ticked.wait(10)


def test_waiting_for_a_future_job_does_not_hang_a_test(backend: neoq.MemBackend) -> None:
    """Inside the clock's block wait() raises at once where the job needs time to pass."""
    backend.listen("q", lambda job: None)
    with testing.clock(backend):
        job = backend.enqueue("q", run_after=60)
        with pytest.raises(TimeoutError):
            backend.wait(job.id)


def test_only_memory_has_a_virtual_clock() -> None:
    """Another backend is refused, with what to use instead."""
    with pytest.raises(neoq.UnsupportedError, match="MemBackend"), testing.clock(object()):  # type: ignore[arg-type]
        pass


def test_no_thread_runs_a_job_once_the_block_has_begun(backend: neoq.MemBackend) -> None:
    """Threads that are busy as the block begins end the jobs that they hold before it does."""
    inside: list[bool] = []
    block_runs = False
    backend.listen("q", lambda job: inside.append(block_runs), concurrency=3)
    for delay in range(40):
        backend.enqueue_many([neoq.Job("q", {"n": n}) for n in range(400)])
        time.sleep(delay % 5 / 1000)
        with testing.enqueued(backend):
            block_runs = True
            time.sleep(0.002)  # for a thread that would not rest
            block_runs = False
        assert backend.drain(10)
    assert len(inside) == 40 * 400
    assert not any(inside)


def test_a_durable_backend_claims_nothing_inside_the_block(tmp_path: Path) -> None:
    """The thread that fetches jobs rests as well: what was enqueued in the block is dropped at its end."""
    backend = neoq.connect(f"sqlite:///{tmp_path}/jobs.db", job_check_interval=0.01, autostart=True)
    backend.listen("q", lambda job: None)
    backend.wait(backend.enqueue("q").id or 0, 10)
    with testing.enqueued(backend) as jobs:
        for n in range(5):
            backend.enqueue("q", {"n": n})
            time.sleep(0.02)  # for a thread that would not rest
        assert [backend.get(job.id or 0).status for job in jobs] == [neoq.Status.PENDING] * 5  # type: ignore[union-attr]
    assert [backend.get(job.id or 0) for job in jobs] == [None] * 5
    backend.shutdown(5)


def test_a_job_that_does_not_end_leaves_the_backend_as_it_was(backend: neoq.MemBackend) -> None:
    """Where threads do not come to rest the block is refused, and afterwards they work as before."""
    backend = neoq.MemBackend(shutdown_timeout=0.05)
    started, release = threading.Event(), threading.Event()

    @backend.listen("q")
    def handler(job: neoq.Job) -> str:
        started.set()
        release.wait(10)
        return threading.current_thread().name

    first = backend.enqueue("q")
    assert started.wait(10)
    with pytest.raises(neoq.NeoqError, match="still run in threads"), testing.clock(backend):
        pass
    release.set()
    backend.wait(first.id or 0, 10)
    second = backend.enqueue("q", {"n": 2})
    assert backend.wait(second.id or 0, 10).result != threading.current_thread().name
    backend.shutdown(5)


def test_inline_tells_each_thread_of_its_own_job(backend: neoq.MemBackend) -> None:
    """Two threads that enqueue at once each get what their own job raises."""
    started, failed = threading.Event(), threading.Event()
    raised: list[str] = []

    @backend.listen("q", max_retries=0)
    def handler(job: neoq.Job) -> None:
        if job.payload["who"] == "good":
            started.set()
            assert failed.wait(10)
        else:
            raise ValueError("bad")

    def enqueue(who: str) -> None:
        try:
            backend.enqueue("q", {"who": who})
        except ValueError:
            raised.append(who)

    with testing.inline(backend):
        good = threading.Thread(target=enqueue, args=("good",))
        good.start()
        assert started.wait(10)
        enqueue("bad")
        failed.set()
        good.join()
    assert raised == ["bad"]


def test_the_clock_takes_no_time_that_says_nothing(backend: neoq.MemBackend) -> None:
    """A naive datetime, and a span that is no number, are refused."""
    naive = datetime(2040, 1, 1)  # noqa: DTZ001
    with pytest.raises(ValueError, match="naive"), testing.clock(backend, naive):
        pass
    with testing.clock(backend) as clock:
        with pytest.raises(ValueError, match="naive"):
            clock.run_until(naive)
        for span in (float("nan"), float("inf")):
            with pytest.raises(ValueError, match="cannot advance"):
                clock.advance(span)


def test_the_plugin_offers_a_fixture(pytester: pytest.Pytester) -> None:
    """A test that names the fixture ``neoq_testing`` gets the helpers, beside the module ``neoq``."""
    pytester.makepyfile(
        """
        import threading

        import neoq

        def test_it(neoq_testing):
            backend = neoq_testing.backend()
            backend.listen("q", lambda job: threading.current_thread().name)
            neoq_testing.inline(backend)
            jobs = neoq_testing.enqueued(backend)
            assert backend.enqueue("q").result == threading.current_thread().name
            assert len(jobs) == 1

        def test_time(neoq_testing):
            backend = neoq_testing.backend()
            backend.listen("q", lambda job: None)
            clock = neoq_testing.clock(backend)
            job = backend.enqueue("q", run_after=3600)
            clock.advance(hours=1)
            assert backend.get(job.id).status is neoq.Status.SUCCEEDED
        """
    )
    result = pytester.runpytest_subprocess("-W", "error")
    result.assert_outcomes(passed=2)


def test_inline_runs_a_duplicate_that_is_brought_forward(backend: neoq.MemBackend) -> None:
    """Inline, an enqueue that brings a retrying job forward returns it as it is after its run."""

    def handler(job: neoq.Job) -> None:
        if job.attempt == 1:
            raise neoq.Retry(after=3600)

    backend.listen("q", handler)
    with testing.inline(backend):
        first = backend.enqueue("q")
        assert first.status is neoq.Status.RETRYING
        again = backend.enqueue("q")
        assert (again.id, again.status, again.duplicate) == (first.id, neoq.Status.SUCCEEDED, True)


def test_inline_runs_members_callbacks_and_what_waits() -> None:
    """Inline, members run as they are added, their callback as the block ends, and a wait at its signal."""
    ran: list[str] = []

    def parent(job: neoq.Job) -> None:
        ran.append(str(job.call("child", neoq.Job("member"))))
        ran.append(str(job.wait_for("go")))

    with neoq.MemBackend() as backend, testing.inline(backend):
        backend.listen("member", lambda _: ran.append("member"))
        backend.listen("then", lambda job: ran.append(f"then {job.batch and job.batch.succeeded}"))
        backend.listen("parent", parent)
        with backend.batch(then=neoq.Job("then")) as batch:
            batch.enqueue("member")
            assert ran == ["member"]
        assert ran == ["member", "then 1"]
        job, queue = backend.enqueue("parent"), "parent"
        assert ran[2:] == ["member", "None"]
        assert backend.jobs(queue)[0].held == "signal"
        backend.signal(job, "go", {"by": "ada"})
    assert ran[4:] == ["None", "{'by': 'ada'}"]


def test_a_clock_moves_sleeps_and_timeouts() -> None:
    """A clock of the test's moves a job that sleeps, and one that waits for a signal up to a time."""

    def drip(job: neoq.Job) -> Any:
        job.sleep("first", timedelta(days=3))
        return job.wait_for("answer", timeout=timedelta(days=7))

    with neoq.MemBackend() as backend, testing.clock(backend) as clock:
        backend.listen("drip", drip)
        queue = backend.enqueue("drip").queue
        clock.advance(days=2.9)
        assert backend.jobs(queue)[0].status is neoq.Status.PENDING
        clock.advance(days=0.2)
        assert backend.jobs(queue)[0].held == "signal"
        clock.advance(days=6.8)
        assert backend.jobs(queue)[0].held == "signal"
        clock.advance(days=0.3)
        assert backend.jobs(queue)[0].status is neoq.Status.SUCCEEDED
