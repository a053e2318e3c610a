"""A handler of `listen_many` is called with many jobs, and each of them keeps its own fate."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import neoq
from neoq import Backend, Job
from neoq.errors import InvalidJobError, NeoqError
from neoq.testing import inline
from neoq.testing.cases.suite import eventually


@pytest.fixture(params=["memory", "sqlite", "postgres", "redis"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    """A backend of each kind, whose leases are short."""
    if request.param == "memory":
        url = "memory://"
    elif request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/jobs.db"
    elif request.param == "postgres":
        url = f"{request.getfixturevalue('postgres_url')}?schema=s{os.urandom(6).hex()}"
    else:
        url = f"{request.getfixturevalue('redis_url')}?prefix=p{os.urandom(6).hex()}"
    policy: dict[str, Any] = {"heartbeat": 0.1, "lease": 1.0, "shutdown_timeout": 5.0}
    made = neoq.connect(url, autostart=False, **policy)
    yield made
    made.shutdown()


def numbered(count: int, queue: str = "q") -> list[Job]:
    return [Job(queue, {"n": n}) for n in range(count)]


def statuses(backend: Backend, jobs: list[Job]) -> list[str]:
    return [str(found.status) for job in jobs if (found := backend.get(job.id)) is not None]


def test_a_call_has_no_more_jobs_than_its_size(backend: Backend) -> None:
    """All jobs are run, once each, in calls of at most `size`."""
    calls: list[list[int]] = []
    backend.listen_many(
        "q", lambda jobs: calls.append([job.payload["n"] for job in jobs]), size=10, wait=0.05
    )
    jobs = backend.enqueue_many(numbered(35))
    backend.start()
    assert backend.drain(20)
    assert max(map(len, calls)) <= 10
    assert sorted(n for call in calls for n in call) == list(range(35))
    assert statuses(backend, jobs) == ["succeeded"] * 35


def test_a_call_waits_for_more_jobs_that_come_in_time(backend: Backend) -> None:
    """Jobs that are enqueued one after the other are in one call, which begins as soon as it is full."""
    calls: list[int] = []
    backend.listen_many("q", lambda jobs: calls.append(len(jobs)), size=3, wait=60, concurrency=1)
    backend.start()
    jobs = [backend.enqueue("q", {"n": n}) for n in range(3)]
    assert backend.wait(jobs[0].id, timeout=20).status == "succeeded"
    assert calls == [3]


def test_one_fails_and_the_others_have_succeeded(backend: Backend) -> None:
    """job.fail() fails one job of a call, by its own retries; the others are done."""
    failures: list[int] = []

    @backend.listen_many("q", size=10, wait=0.05, max_retries=1, retry=neoq.RetryPolicy(delay=0.01))
    def handle(jobs: list[Job]) -> None:
        for job in jobs:
            if job.payload["n"] == 1:
                failures.append(job.attempt)
                job.fail("refused")

    jobs = backend.enqueue_many(numbered(3))
    backend.start()
    assert backend.wait(jobs[1].id, timeout=20).status == "dead"
    assert backend.drain(20)
    assert statuses(backend, jobs) == ["succeeded", "dead", "succeeded"]
    assert backend.get(jobs[1].id).error == "RuntimeError: refused"  # type: ignore[union-attr]
    assert failures == [1, 2]


def test_what_the_handler_raises_fails_all(backend: Backend) -> None:
    """Each job of a call that raises is retried or dead by itself."""
    errors: list[int] = []

    def handle(jobs: list[Job]) -> None:
        raise ConnectionError("away")

    backend.listen_many(
        "q", handle, wait=0.05, max_retries=0, on_error=lambda job, error: errors.append(job.id)
    )
    jobs = backend.enqueue_many(numbered(3))
    backend.start()
    assert backend.drain(20)
    eventually(lambda: statuses(backend, jobs) == ["dead"] * 3, "all are dead")
    assert sorted(errors) == sorted(job.id for job in jobs)


def test_a_call_of_one_key(backend: Backend) -> None:
    """With by_key no call has jobs of two keys."""
    calls: list[set[str | None]] = []
    backend.listen_many("q", lambda jobs: calls.append({job.key for job in jobs}), wait=0.05, by_key=True)
    backend.enqueue_many(Job("q", {"n": n}, key=f"k{n % 3}") for n in range(9))
    backend.start()
    assert backend.drain(20)
    assert all(len(keys) == 1 for keys in calls)
    assert set.union(*calls) == {"k0", "k1", "k2"}


def test_a_call_that_takes_too_long_is_interrupted(backend: Backend) -> None:
    """The timeout is that of a call; all its jobs have failed by it."""

    def handle(jobs: list[Job]) -> None:
        while True:
            time.sleep(0.01)

    backend.listen_many("q", handle, wait=0.05, timeout=0.2, max_retries=0)
    jobs = backend.enqueue_many(numbered(3))
    backend.start()
    eventually(lambda: statuses(backend, jobs) == ["dead"] * 3, "all are dead")
    assert backend.get(jobs[2].id).error.startswith("JobTimeout")  # type: ignore[union-attr]


@pytest.mark.leaves_threads
def test_a_call_that_hangs_is_settled_without_its_thread(backend: Backend) -> None:
    """Where the thread does not heed its interrupt, its jobs fail all the same, and others are run."""
    hang = threading.Event()
    backend.listen_many("q", lambda jobs: hang.wait(30), wait=0.05, timeout=0.1, max_retries=0, concurrency=1)
    jobs = backend.enqueue_many(numbered(3))
    backend.start()
    eventually(lambda: statuses(backend, jobs) == ["dead"] * 3, "all are dead")
    hang.set()


def test_a_job_that_is_cancelled_meanwhile_sees_it_and_the_others_go_on(backend: Backend) -> None:
    """Cancelling one job of a call interrupts nobody."""
    running, seen = threading.Event(), threading.Event()

    @backend.listen_many("q", wait=0.05)
    def handle(jobs: list[Job]) -> None:
        running.set()
        eventually(lambda: any(job.cancelled for job in jobs), "one is cancelled")
        seen.set()
        for job in jobs:
            if job.cancelled:
                job.fail("cancelled")

    jobs = backend.enqueue_many(numbered(3))
    backend.start()
    assert running.wait(20)
    assert backend.cancel(jobs[1].id)
    assert seen.wait(20)
    eventually(lambda: "running" not in statuses(backend, jobs), "all have ended")
    assert statuses(backend, jobs) == ["succeeded", "cancelled", "succeeded"]


def test_a_job_cancelled_while_the_call_gathers_does_not_run(backend: Backend) -> None:
    """What is cancelled before the call begins is not in it."""
    calls: list[list[int]] = []
    gathered = threading.Event()

    @backend.listen_many("q", size=3, wait=60, concurrency=1)
    def handle(jobs: list[Job]) -> None:
        calls.append([job.payload["n"] for job in jobs])
        gathered.set()

    backend.start()
    jobs = backend.enqueue_many(numbered(2))
    eventually(lambda: statuses(backend, jobs) == ["running"] * 2, "both are taken")
    backend.cancel(jobs[0].id)
    eventually(lambda: _is_marked(backend, jobs[0]), "the worker knows")
    backend.enqueue("q", {"n": 2})
    assert gathered.wait(20)
    assert calls == [[1, 2]]
    assert backend.drain(20)
    assert statuses(backend, jobs) == ["cancelled", "succeeded"]


def _is_marked(backend: Backend, job: Job) -> bool:
    return any(one.id == job.id and one.cancel_asked for one in backend.engine.held())


def test_leases_are_renewed_while_it_gathers_and_while_it_runs(backend: Backend) -> None:
    """No other worker takes a job of a call that lasts longer than a lease."""
    calls: list[int] = []

    @backend.listen_many("q", size=10, wait=1.2, concurrency=1)
    def handle(jobs: list[Job]) -> None:
        calls.append(len(jobs))
        began = last_beat()
        eventually(lambda: last_beat() > began + 1.2, "more than a lease has gone by")

    def last_beat() -> float:
        return max(worker.beat_at.timestamp() for worker in backend.workers())

    jobs = backend.enqueue_many(numbered(3))
    backend.start()
    assert backend.wait(jobs[0].id, timeout=20).status == "succeeded"
    assert backend.drain(20)
    assert calls == [3]
    assert [job.crashes for job in backend.jobs()] == [0, 0, 0]


def test_a_shutdown_gives_back_what_it_gathers(backend: Backend, tmp_path: Path) -> None:
    """Jobs that wait for others to come are given back by a shutdown, uncharged."""
    backend.listen_many("q", lambda jobs: None, size=10, wait=60)
    backend.start()
    jobs = backend.enqueue_many(numbered(3))
    eventually(lambda: statuses(backend, jobs) == ["running"] * 3, "all are taken")
    report = backend.shutdown()
    given_back = report.given_back if "durable" in type(backend).features else report.lost
    assert {job.id for job in given_back} == {job.id for job in jobs}


def test_the_report_of_a_shutdown_has_every_job_of_a_call(backend: Backend) -> None:
    """All jobs of a call that the shutdown interrupts are interrupted ones."""
    began, never = threading.Event(), threading.Event()

    def handle(jobs: list[Job]) -> None:
        began.set()
        while not never.wait(0.01):
            pass

    jobs = backend.enqueue_many(numbered(3)) if "durable" in type(backend).features else []
    backend.listen_many("q", handle, size=3, wait=0.5)
    jobs = jobs or backend.enqueue_many(numbered(3))
    backend.start()
    assert began.wait(20)
    report = backend.shutdown(0)
    assert {job.id for job in report.interrupted} == {job.id for job in jobs}


def test_a_coroutine_takes_many(backend: Backend) -> None:
    """A coroutine function may be the handler."""
    seen: list[int] = []

    async def handle(jobs: list[Job]) -> None:
        seen.extend(job.payload["n"] for job in jobs)

    backend.listen_many("q", handle, wait=0.05)
    backend.enqueue_many(numbered(3))
    backend.start()
    assert backend.drain(20)
    assert sorted(seen) == [0, 1, 2]


def test_inline_calls_it_with_one_job() -> None:
    """A test that runs jobs inline runs each at once, and sees what it raises."""
    seen: list[list[int]] = []

    def handle(jobs: list[Job]) -> None:
        seen.append([job.payload["n"] for job in jobs])
        if jobs[0].payload["n"] == 1:
            jobs[0].fail(ValueError("no"))

    with neoq.MemBackend() as backend:
        backend.listen_many("q", handle)
        with inline(backend):
            backend.enqueue("q", {"n": 0})
            with pytest.raises(ValueError, match="no"):
                backend.enqueue("q", {"n": 1})
    assert seen == [[0], [1]]


def test_steps_are_for_one_job(backend: Backend) -> None:
    """A handler of many jobs has no steps, and one of one job has no fail()."""
    backend.listen_many("many", lambda jobs: jobs[0].step("a", int), wait=0.0, max_retries=0)
    backend.listen("one", lambda job: job.fail("no"), max_retries=0)
    many, one = backend.enqueue("many", {}), backend.enqueue("one", {})
    backend.start()
    assert "job.step() is for a handler that takes one job" in (backend.wait(many.id, timeout=20).error or "")
    assert "job.fail() is for listen_many()" in (backend.wait(one.id, timeout=20).error or "")


@pytest.mark.parametrize("options", [{"size": 0}, {"wait": -1}, {"wait": 4000}, {"by_key": 1}])
def test_wrong_options_are_refused(options: dict[str, Any]) -> None:
    """An InvalidJobError names what is wrong."""
    with neoq.MemBackend() as backend, pytest.raises((InvalidJobError, NeoqError), match=next(iter(options))):
        backend.listen_many("q", lambda jobs: None, **options)
