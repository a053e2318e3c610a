"""Workers on one SQLite file that are killed with -9 while they work: no accepted job is lost.

The reckoning: what was accepted has finished, and what ran twice was running, or had run and was not
settled, in a worker as that was killed. Short here; `make faults` does it for a minute.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest

import neoq
from tests.processes import Child, running

WORKER = Path(__file__).with_name("sqlite_worker.py")
PATIENCE = 40.0


def worker(stack: ExitStack, database: Path, record: Path, seconds: float) -> Child:
    """A worker process that is ready."""
    child = stack.enter_context(running([sys.executable, WORKER], str(database), str(record), str(seconds)))
    child.until("ready")
    return child


def stop(child: Child) -> None:
    """Ask a worker to end, and demand that it does so well."""
    child.signal(signal.SIGTERM)
    try:
        child.process.wait(5)
    except (
        subprocess.TimeoutExpired
    ):  # CPython may miss a signal that comes just as its main thread lies down
        child.signal(signal.SIGTERM)
    assert child.exit_code() == 0, child.errors


def kill(child: Child) -> None:
    child.signal(signal.SIGKILL)
    assert child.exit_code() == -signal.SIGKILL


def attempts(record: Path, word: str) -> Counter[int]:
    lines = record.read_text().splitlines() if record.exists() else []
    return Counter(int(line.split()[1]) for line in lines if line.startswith(word))


def eventually(holds: object, what: str, seconds: float = PATIENCE) -> None:
    give_up = time.monotonic() + seconds
    while not holds():  # type: ignore[operator]
        assert time.monotonic() < give_up, what
        time.sleep(0.02)


def reckon(tmp_path: Path, seconds: float, pause: float) -> dict[str, int]:
    """Kill one of two workers again and again while jobs are enqueued; return what became of the jobs."""
    database, record = tmp_path / "jobs.db", tmp_path / "record"
    accepted, kills, doubt = 0, 0, 0
    with ExitStack() as stack, neoq.SqliteBackend(database, autostart=False) as producer:
        workers = [worker(stack, database, record, 0.002) for _ in range(2)]
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            next_kill = time.monotonic() + pause
            while time.monotonic() < next_kill:
                accepted += len(
                    producer.enqueue_many([neoq.Job("q", {"n": accepted + n}) for n in range(20)])
                )
                producer.enqueue("q", {"n": accepted})
                accepted += 1
                time.sleep(0.01)
            kill(workers[kills % 2])
            # What this worker held: running, claimed ahead, or run and not settled.
            held = len({job.id for job in producer.jobs("q", neoq.Status.RUNNING, limit=10_000)})
            doubt += held
            workers[kills % 2] = worker(stack, database, record, 0.002)
            kills += 1
        eventually(
            lambda: sum(c.unfinished for c in producer.queues()) == 0, f"not finished: {producer.stats()}"
        )
        succeeded = producer.stats().succeeded
        for child in workers:
            stop(child)
    ended = attempts(record, "end")
    started = attempts(record, "start")
    return {
        "accepted": accepted,
        "succeeded": succeeded,
        "lost": accepted - len(ended),
        "started twice": sum(number - 1 for number in started.values()),
        "ended twice": sum(number - 1 for number in ended.values()),
        "held at kills": doubt,
        "kills": kills,
    }


def check(reckoning: dict[str, int]) -> None:
    assert reckoning["lost"] == 0, reckoning
    assert reckoning["succeeded"] == reckoning["accepted"], reckoning
    assert reckoning["started twice"] <= reckoning["held at kills"], reckoning


def test_workers_killed_under_load(tmp_path: Path) -> None:
    """Of the jobs accepted while workers are killed none is lost, and only those in their hands run twice."""
    check(reckon(tmp_path, seconds=3.0, pause=1.0))


@pytest.mark.faults
@pytest.mark.timeout(300)
def test_workers_killed_for_a_minute(tmp_path: Path) -> None:
    """The same for a minute, with a kill each second."""
    reckoning = reckon(tmp_path, seconds=60.0, pause=1.0)
    print(reckoning)
    check(reckoning)


def test_a_killed_workers_job_comes_back(tmp_path: Path) -> None:
    """The job of a killed worker is run by another one long before its lease ends."""
    database, record = tmp_path / "jobs.db", tmp_path / "record"
    with ExitStack() as stack, neoq.SqliteBackend(database, autostart=False) as producer:
        first = worker(stack, database, record, 3600)
        producer.enqueue("q", {"n": 1})
        eventually(lambda: attempts(record, "start")[1] == 1, "it starts")
        second = worker(stack, database, record, 0)
        began = time.monotonic()
        kill(first)
        eventually(lambda: attempts(record, "end")[1] == 1, "it ends", producer.config.lease / 2)
        print(f"recovered in {time.monotonic() - began:.2f} s")
        stop(second)
        [job] = producer.jobs()
        assert (job.status, job.crashes, job.retries) == (neoq.Status.SUCCEEDED, 1, 0)


def test_jobs_wait_for_the_next_worker(tmp_path: Path) -> None:
    """With no other worker alive the jobs of a killed one are run by the next that is started."""
    database, record = tmp_path / "jobs.db", tmp_path / "record"
    with ExitStack() as stack, neoq.SqliteBackend(database, autostart=False) as producer:
        first = worker(stack, database, record, 3600)
        jobs = producer.enqueue_many([neoq.Job("q", {"n": n}) for n in range(10)])
        eventually(lambda: len(attempts(record, "start")) == 4, "four start")
        kill(first)
        second = worker(stack, database, record, 0)
        eventually(lambda: len(attempts(record, "end")) == len(jobs), "all end", producer.config.lease / 2)
        stop(second)
        assert producer.stats().succeeded == len(jobs)


def test_a_stopped_worker_loses_its_lease(tmp_path: Path) -> None:
    """What a worker settles that was stopped past its lease is refused; another has run the job."""
    database = tmp_path / "jobs.db"
    short = {"lease": 1.0, "heartbeat": 0.2}
    program = (
        "import neoq, sys, time\n"
        "backend = neoq.SqliteBackend(sys.argv[1], lease=1.0, heartbeat=0.2)\n"
        "def work(job):\n"
        "    print('running', flush=True)\n"
        "    time.sleep(0.5)\n"
        "    return 'zombie'\n"
        "backend.listen('q', work, concurrency=1)\n"
        "backend.run()\n"
    )
    with ExitStack() as stack, neoq.SqliteBackend(database, **short) as backend:
        job = backend.enqueue("q")
        zombie = stack.enter_context(running([sys.executable, "-c", program], str(database)))
        zombie.until("running")
        zombie.signal(signal.SIGSTOP)
        backend.listen("q", lambda _job: "second")
        assert job.id is not None
        assert backend.wait(job.id, timeout=PATIENCE).result == "second"
        zombie.signal(signal.SIGCONT)
        eventually(lambda: "settled elsewhere" in zombie.errors or "lost" in zombie.errors, "it is told")
        found = backend.get(job.id)
        assert found is not None
        assert (found.result, found.crashes) == ("second", 1)
        stop(zombie)
