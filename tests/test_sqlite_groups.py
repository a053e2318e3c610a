"""Groups in a SQLite file: an end is counted in the transaction that records it, or not at all."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from neoq.held.step import Step
from neoq.job import Job
from neoq.outcome import lease_of
from neoq.sqlite.backend import SqliteBackend
from neoq.store import Demand
from tests.processes import PROGRAMS


def test_a_kill_in_the_last_end_of_a_batch(tmp_path: Path) -> None:
    """Killed before any statement of the last settle, both the end and the callback are there, or neither."""
    program = [sys.executable, str(PROGRAMS / "dies_in_a_file.py"), str(tmp_path)]
    said = subprocess.run(program, check=True, capture_output=True, text=True, timeout=60).stdout.splitlines()
    assert len(said) > 10  # statements
    *died, whole = said
    assert set(died) <= {"1 False 1", "2 True 1"}
    assert "1 False 1" in died
    assert whole == "2 True 1"


def test_rows_that_somebody_has_written(tmp_path: Path) -> None:
    """Steps and limits that are none are left out: the others count, and the queue goes on."""
    path = tmp_path / "jobs.db"
    with SqliteBackend(path, autostart=False) as backend:
        backend.enqueue("q", {"n": 1})
        backend.enqueue("q", {"n": 2})
        [job] = backend.store.claim([Demand("q", 1)]).jobs
        assert backend.store.record([(lease_of(job), [Step("step:a", b"1"), Step("step:b", b"2")])]) == set()
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("update neoq_steps set data = 7 where name = 'step:a'")
            connection.execute("insert into neoq_rules (queue, listener) values ('q', '{\"per_key\": ')")
            connection.commit()
        assert [step.name for step in backend.store.steps(job.id)] == ["step:b"]
        assert backend.store.limits() == {}
        assert len(backend.store.claim([Demand("q", 1)]).jobs) == 1


def test_jobs_of_all_sorts_that_come_in_one_call(tmp_path: Path) -> None:
    """Jobs that are stored together have ids in their order, and those that are duplicates are met."""
    with SqliteBackend(tmp_path / "jobs.db", autostart=False) as backend:
        plain = [Job("q", {"n": n % 30}) for n in range(40)]
        ranked = [Job("q", {"n": n}, priority=n % 2) for n in range(20, 60)]
        keyed = [Job("q", {"n": n}, key="a") for n in range(50, 70)]
        jobs = [job for some in zip(plain, ranked, strict=True) for job in some] + keyed
        added = backend.enqueue_many(jobs)
        first: dict[int, int | None] = {}
        for job in added:
            assert first.setdefault(job.payload["n"], job.id) == job.id
        assert len(first) == 70
        assert list(first.values()) == sorted(first.values())  # type: ignore[type-var]
        assert [job.duplicate for job in added].count(True) == len(added) - 70
        assert backend.queues()[0].ready == 70
        with backend.batch(then=Job("then")) as batch:
            members = batch.enqueue_many(Job("members", {"n": n % 25}, unique=True) for n in range(50))
        assert len({job.id for job in members}) == 25
        counted = backend.store.group(batch.id)
        assert counted is not None
        assert counted.members == 25
