"""What is the same of `listen_many` whatever the store; `neoq.testing.cases.many` has the rest."""

from __future__ import annotations

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
        schema = request.getfixturevalue("empty_schema")()
        url = f"{request.getfixturevalue('postgres_url')}?schema={schema}"
    else:
        prefix = request.getfixturevalue("redis_prefix")()
        url = f"{request.getfixturevalue('redis_url')}?prefix={prefix}"
    policy: dict[str, Any] = {"heartbeat": 0.1, "lease": 1.0, "shutdown_timeout": 5.0}
    made = neoq.connect(url, autostart=False, **policy)
    yield made
    made.shutdown()


def numbered(count: int, queue: str = "q") -> list[Job]:
    return [Job(queue, {"n": n}) for n in range(count)]


def statuses(backend: Backend, jobs: list[Job]) -> list[str]:
    return [str(found.status) for job in jobs if (found := backend.get(job.id)) is not None]


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
