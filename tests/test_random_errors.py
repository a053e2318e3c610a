"""Random exceptions out of each call of the store: no accepted job is lost, and no thread of neoq ends."""

from __future__ import annotations

import errno
import random
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import neoq
from neoq.errors import BackendUnavailable
from neoq.testing.cases.suite import eventually
from tests.postgres_server import fresh_schema

pytestmark = pytest.mark.usefixtures("autostart")

CALLS = ["claim", "settle", "extend", "beat", "reclaim", "prune", "add_tick", "last_tick", "counts", "find"]
IN_MEMORY = ["claim", "settle", "add_tick", "last_tick", "release_due"]
LONG = [pytest.mark.faults, pytest.mark.timeout(600)]
ERRORS: list[Callable[[], Exception]] = [
    MemoryError,
    lambda: OSError(errno.EMFILE, "Too many open files"),
    lambda: RuntimeError("can't start new thread"),
    lambda: ValueError("a record of another version"),
    lambda: BackendUnavailable("it is away"),
]
IN_A_ROW = 4  # errors of a call; with each the pause before the next try doubles, from 0.1 s
THREADS = {"neoq-heartbeat", "neoq-settler", "neoq-fetcher", "neoq-cron", "neoq-watchdog"}


class RandomErrors:
    """Makes calls of one store raise at random, as long as it is asked to, and never too often in a row."""

    def __init__(self, backend: neoq.Backend, seed: int, often: float) -> None:
        calls = IN_MEMORY if "local" in backend.features else CALLS
        self.raised: dict[str, int] = dict.fromkeys(calls, 0)
        self.on = True
        self._in_a_row: Counter[str] = Counter()
        self._random = random.Random(seed)
        self._often = often
        for name in calls:
            setattr(backend.store, name, self._wrapped(name, getattr(backend.store, name)))

    def _wrapped(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if self.on and self._in_a_row[name] < IN_A_ROW and self._random.random() < self._often:
                self.raised[name] += 1
                self._in_a_row[name] += 1
                make = self._random.choice(ERRORS)
                raise make()
            self._in_a_row[name] = 0
            return real(*arguments, **options)

        return call


def check(url: str, seed: int, jobs: int, **options: Any) -> None:
    before = set(threading.enumerate())
    ran: list[int] = []

    def handler(job: neoq.Job) -> int:
        ran.append(job.payload["n"])
        if job.payload["n"] % 7 == 0 and job.attempt == 1:
            raise ValueError("one of seven")
        return int(job.payload["n"])

    with neoq.connect(url, job_check_interval=0.05, heartbeat=0.05, **options) as backend:
        faults = RandomErrors(backend, seed, 0.3)
        backend.listen("q", handler, concurrency=4, retry=neoq.RetryPolicy(delay=0.01))
        backend.listen_cron("@every 1s", lambda job: None, queue="ticks")
        backend.start()
        accepted = []
        for n in range(jobs):
            job = backend.enqueue("q", {"n": n})
            assert job.id is not None
            accepted.append(job.id)
        eventually(lambda: len(set(ran)) > jobs // 2, "half of them have run in spite of it all")
        # The heartbeats of a durable store go on; in memory there are no calls but for jobs and ticks.
        enough = 2 if url == "memory://" else 5
        eventually(lambda: sum(faults.raised.values()) > enough, "some calls have raised")
        faults.on = False
        for job_id in accepted:
            assert backend.wait(job_id, timeout=30).status is neoq.Status.SUCCEEDED
        assert set(ran) == set(range(jobs))
        alive = {thread.name for thread in set(threading.enumerate()) - before}
        assert alive >= {"neoq-watchdog", "neoq-cron"} if url == "memory://" else alive >= THREADS


@pytest.mark.parametrize("jobs", [60, pytest.param(3000, marks=LONG)])
@pytest.mark.parametrize("seed", [5, 6])
def test_random_errors_in_memory(seed: int, jobs: int) -> None:
    """Whatever calls of the store in memory raise, each job that was accepted ends."""
    check("memory://", seed, jobs, max_finished=None)


@pytest.mark.parametrize("jobs", [60, pytest.param(3000, marks=LONG)])
@pytest.mark.parametrize("seed", [1, 2])
def test_random_errors_of_a_sqlite_store(tmp_path: Path, seed: int, jobs: int) -> None:
    """Whatever calls of SQLite raise, each job that was accepted ends, and the threads live on."""
    check(f"sqlite:///{tmp_path}/jobs.db", seed, jobs)


@pytest.mark.parametrize("jobs", [60, pytest.param(3000, marks=LONG)])
def test_random_errors_of_a_postgres_store(postgres_url: str, jobs: int) -> None:
    """So it is with PostgreSQL."""
    check(postgres_url, 3, jobs, schema=fresh_schema())


@pytest.mark.parametrize("jobs", [60, pytest.param(3000, marks=LONG)])
def test_random_errors_of_a_redis_store(redis_url: str, redis_prefix: Callable[[], str], jobs: int) -> None:
    """So it is with Redis."""
    check(redis_url, 4, jobs, prefix=redis_prefix())
