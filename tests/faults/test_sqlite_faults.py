"""One SQLite file under load, while workers die or stop, the disk fills, others lock it, and clocks go wrong.

Each ends with the accounting of every job: none that was accepted is lost, and none runs twice but those
that a killed worker had in its hands. Short here; `make faults` has the long forms.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import neoq
from tests.faults.accounting import eventually, load
from tests.processes import running

MINUTES = [pytest.mark.faults, pytest.mark.timeout(600)]
ROOM = 2**25  # bytes: far more than the write-ahead log takes before it is put into the database


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/jobs.db"


@pytest.mark.parametrize("seconds", [3, pytest.param(60, marks=MINUTES)])
def test_workers_killed_under_load(tmp_path: Path, url: str, seconds: int) -> None:
    """With a kill -9 each second no accepted job is lost, and only what the killed held runs twice."""
    with load(tmp_path, f"{url}?max_crashes=1000") as jobs:
        jobs.kill_each_second(seconds)
        jobs.account().check()


def test_a_killed_workers_job_comes_back(tmp_path: Path, url: str) -> None:
    """The job of a killed worker is run by another one long before its lease ends."""
    with load(tmp_path, url) as jobs, neoq.connect(url, autostart=False) as producer:
        first = jobs.worker(seconds=3600)
        producer.enqueue("q", {"n": 1})
        eventually(jobs.attempts, lambda: "it never started")
        jobs.worker(seconds=0)
        began = time.monotonic()
        jobs.kill(first)
        eventually(
            lambda: any(attempt.ended for attempt in jobs.attempts()[1]),
            jobs.complaints,
            producer.config.lease / 2,
        )
        print(f"recovered in {time.monotonic() - began:.2f} s")
        jobs.stop()
        [job] = producer.jobs()
        assert (job.status, job.crashes, job.retries) == (neoq.Status.SUCCEEDED, 1, 0)


def test_jobs_wait_for_the_next_worker(tmp_path: Path, url: str) -> None:
    """With no other worker alive the jobs of a killed one are run by the next that is started."""
    with load(tmp_path, url) as jobs, neoq.connect(url, autostart=False) as producer:
        first = jobs.worker(seconds=3600)
        added = producer.enqueue_many([neoq.Job("q", {"n": n}) for n in range(10)])
        eventually(lambda: len(jobs.attempts()) == 4, lambda: "four never started")
        jobs.kill(first)
        jobs.worker(seconds=0)
        eventually(
            lambda: producer.stats().succeeded == len(added), jobs.complaints, producer.config.lease / 2
        )
        jobs.stop()


def test_a_stopped_worker_loses_its_lease(tmp_path: Path, url: str) -> None:
    """What a worker settles that was stopped past its lease is refused; another has run the job."""
    short = {"lease": 1.0, "heartbeat": 0.2}
    program = (
        "import neoq, sys, time\n"
        "backend = neoq.connect(sys.argv[1], lease=1.0, heartbeat=0.2)\n"
        "def work(job):\n"
        "    print('running', flush=True)\n"
        "    time.sleep(0.5)\n"
        "    return 'zombie'\n"
        "backend.listen('q', work, concurrency=1)\n"
        "backend.run()\n"
    )
    with running([sys.executable, "-c", program], url) as zombie, neoq.connect(url, **short) as backend:
        job = backend.enqueue("q")
        assert job.id is not None
        zombie.until("running")
        zombie.stop_between_writes(tmp_path / "jobs.db")
        backend.listen("q", lambda _job: "second")
        assert backend.wait(job.id, timeout=30).result == "second"
        zombie.signal(signal.SIGCONT)
        eventually(
            lambda: any(word in zombie.errors for word in ("settled elsewhere", "lost", "no heartbeat")),
            lambda: f"it was not told: {zombie.errors}",
        )
        found = backend.get(job.id)
        assert found is not None
        assert (found.result, found.crashes) == ("second", 1)


@pytest.mark.parametrize("seconds", [3, pytest.param(60, marks=MINUTES)])
@pytest.mark.parametrize("wrong_by", [3600.0, -3600.0])
def test_a_clock_is_an_hour_wrong(tmp_path: Path, url: str, wrong_by: float, seconds: int) -> None:
    """A worker whose clock is wrong takes no job from others that live, and loses none of its own to them."""
    with load(tmp_path, f"{url}?lease=1&heartbeat=0.2") as jobs:
        jobs.worker(seconds=0.1)
        jobs.worker(seconds=0.1, wrong_by=wrong_by)
        jobs.producer(pause=0.03)
        time.sleep(seconds)
        accounting = jobs.account()
        accounting.check()
        assert accounting.doubled == 0
        assert len({tries[0].pid for tries in jobs.attempts().values()}) == 2


@pytest.mark.parametrize("seconds", [1.5, pytest.param(30, marks=MINUTES)])
def test_another_program_locks_the_file(tmp_path: Path, url: str, seconds: float) -> None:
    """While another program holds the write lock, longer than is waited for, nothing accepted is lost."""
    with load(tmp_path, f"{url}?busy_timeout=0.2") as jobs:
        jobs.worker()
        jobs.producer()
        connection = sqlite3.connect(tmp_path / "jobs.db", isolation_level=None, timeout=10)
        until = time.monotonic() + 2 * seconds
        while time.monotonic() < until:
            time.sleep(0.3)
            connection.execute("begin immediate")
            time.sleep(0.7)
            connection.execute("rollback")
        connection.close()
        jobs.account().check()


@contextmanager
def small_disk(directory: Path) -> Iterator[Path]:
    """A file system of its own with little room; skips where none can be mounted."""
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", str(directory)]
    try:
        mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError as missing:
        pytest.skip(f"a small disk cannot be mounted: {missing}")
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted: {mounted.stderr.strip()}")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


@pytest.mark.parametrize("times", [1, pytest.param(10, marks=MINUTES)])
def test_the_disk_is_full(tmp_path: Path, times: int) -> None:
    """On a full disk enqueues are refused, and what was accepted is run once there is room."""
    with small_disk(tmp_path / "disk") as disk, load(tmp_path, f"sqlite:///{disk}/jobs.db") as jobs:
        jobs.worker()
        jobs.producer(pause=0.01)
        for _ in range(times):
            time.sleep(0.5)
            with (disk / "ballast").open("wb", buffering=0) as ballast:
                fill(ballast.fileno())
            eventually(lambda: "refused" in jobs.accepted.read_text(), lambda: "nothing was refused")
            (disk / "ballast").unlink()
        jobs.account().check()


def fill(descriptor: int) -> None:
    """Write until there is no room."""
    size = 2**16
    while size:
        try:
            os.write(descriptor, bytes(size))
        except OSError:
            size //= 4
