"""Garbage in the tables of the SQL stores: what cannot be read is dead, and everything else goes on."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import neoq
from neoq import Backend, Status
from neoq.postgres.schema import SIGNS, TABLES, VERSION
from neoq.store import Demand
from neoq.testing import Faults
from tests.garbage import (
    PATIENCE,
    STORES,
    PostgresTarget,
    Siege,
    Spot,
    SqliteTarget,
    Target,
    dead,
    garbage,
    target_of,
)
from tests.postgres_server import fresh_schema

pytestmark = pytest.mark.usefixtures("autostart")

QUICK = {"heartbeat": 0.1, "lease": 2.0, "job_check_interval": 0.05}
SPOILT: list[tuple[str, Any]] = [
    ("meta", b"{"),
    ("meta", b"[1]"),
    ("payload", b"\xff"),
    ("payload", b"[1]"),
    ("uniqueness", 9),
    ("priority", 500),
    ("retries", -1),
    ("retries", 2**31 - 1),
    ("crashes", -1),
    ("crashes", 2**15 - 1),
]
OF_ANY_TYPE: list[tuple[str, Any]] = [
    ("run_after", "soon"),
    ("run_after", b"\xff"),
    ("created_at", "x"),
    ("priority", "high"),
    ("payload", 7),
    ("key", b"\xff\xff"),
    ("status", 7),
    ("max_retries", "many"),
    ("crashes", 2**62),
]


@pytest.fixture(params=["sqlite", "postgres"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Target:
    """A store with tables, of one test's own."""
    return target_of(request.param, request, tmp_path)


@pytest.fixture
def pair(target: Target) -> Iterator[tuple[Backend, Backend]]:
    """Two workers on it, which are started by hand."""
    backends = (target.connect(autostart=False, **QUICK), target.connect(autostart=False, **QUICK))
    yield backends
    for backend in backends:
        backend.shutdown(timeout=1)


@pytest.fixture(params=STORES)
def siege(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Siege]:
    """Two workers at work."""
    siege = Siege(target_of(request.param, request, tmp_path))
    yield siege
    siege.lift()


def jobs_table(target: Target) -> str:
    return "neoq_jobs" if isinstance(target, SqliteTarget) else "jobs"


def test_unreadable_jobs_are_dead_and_the_others_run(
    target: Target, pair: tuple[Backend, Backend], caplog: pytest.LogCaptureFixture
) -> None:
    """Jobs that cannot be read are dead with that as their error, named once, deletable; the others run."""
    spoilt = SPOILT + (OF_ANY_TYPE if isinstance(target, SqliteTarget) else [])
    one, other = pair
    bad = [one.enqueue("emails", {"n": number}, meta={"a": "b"}) for number in range(len(spoilt))]
    good = [one.enqueue("emails", {"n": f"good {number}"}) for number in range(5)]
    one.cancel(one.enqueue("emails", {"n": "sorts in what is new"}).id)
    for job, (column, value) in zip(bad, spoilt, strict=True):
        target.spoil(Spot(jobs_table(target), column), value, job.id)
    assert len(one.jobs(limit=1000)) == len(bad) + len(good) + 1
    with caplog.at_level(logging.ERROR, "neoq"):
        for backend in pair:
            backend.listen("emails", lambda job: None)
            backend.start()
        for job in good:
            assert one.wait(job.id, PATIENCE).status is Status.SUCCEEDED
        for job, (column, _) in zip(bad, spoilt, strict=True):
            assert f"Unreadable: {column} holds" in (dead(other, job).error or "")
        told = [record.getMessage() for record in caplog.records]
        for job in bad:
            assert sum(f"job {job.id} of emails" in message for message in told) == 1
    stats = one.stats()
    assert (stats.ready, stats.scheduled, stats.running, stats.dead) == (0, 0, 0, len(bad))
    assert one.drain(PATIENCE)
    for job in bad:
        assert other.delete(job.id)
        assert one.get(job.id) is None
    assert one.stats().dead == 0


@pytest.mark.parametrize("when", [float("inf"), 1e300])
def test_a_job_that_is_parked_for_ever_waits(
    target: Target, pair: tuple[Backend, Backend], when: float
) -> None:
    """A job whose time was set beyond the calendar can be read, never comes due, and holds up no other."""
    backend = pair[0]
    parked = backend.enqueue("emails", {"n": "parked"})
    limited = backend.enqueue("emails", {"n": "limited"}, deadline=100)
    target.spoil(Spot(jobs_table(target), "run_after"), when, parked.id)
    target.spoil(Spot(jobs_table(target), "deadline"), when, limited.id)
    backend.listen("emails", lambda job: None)
    backend.start()
    assert backend.wait(limited.id, PATIENCE).status is Status.SUCCEEDED
    assert backend.wait(backend.enqueue("emails").id, PATIENCE).status is Status.SUCCEEDED
    found = backend.get(parked.id)
    assert found is not None
    assert (found.status, found.error) == (Status.PENDING, None)
    assert found.run_after is not None
    assert found.run_after.year == 9999
    assert backend.stats().ready == 0
    assert backend.retry(parked.id)
    assert backend.wait(parked.id, PATIENCE).status is Status.SUCCEEDED


def test_a_store_that_is_emptied_goes_on(siege: Siege) -> None:
    """Workers whose store was emptied by a reset script run new jobs, and so does one that comes later."""
    siege.reset(siege.target.reset)
    siege.reset(siege.target.reset)
    backend = siege.target.connect()
    backend.listen("others", lambda job: None)
    backend.start()
    assert backend.wait(backend.enqueue("others").id, PATIENCE).status is Status.SUCCEEDED
    backend.shutdown()


def test_a_sqlite_file_whose_tables_are_dropped_goes_on(tmp_path: Path) -> None:
    """Workers on a file whose tables were dropped make them anew, and so does a worker that comes later."""
    target = SqliteTarget(tmp_path / "jobs.db")
    siege = Siege(target)
    siege.reset(target.drop)
    siege.lift()
    target.drop()
    backend = target.connect(autostart=False)
    job = backend.enqueue("emails")
    assert [found.id for found in backend.jobs()] == [job.id]
    backend.shutdown()


def test_a_postgres_schema_whose_tables_are_dropped_is_made_anew(postgres_url: str) -> None:
    """Workers whose tables were dropped say what to do, and go on once it is done."""
    target = PostgresTarget(postgres_url, schema := fresh_schema())
    siege = Siege(target)
    target.drop()
    with pytest.raises(neoq.BackendError, match=r"neoq\.migrate\(url\)"):
        siege.workers[0].enqueue("siege", {"n": "lost"})
    neoq.migrate(postgres_url, schema=schema)
    siege.reset(lambda: None)
    siege.lift()


def test_a_worker_that_died_is_found_out_whatever_its_row_says(postgres_url: str) -> None:
    """The job of a dead worker is taken over, though its beat and its crashes are beyond all bounds."""
    target = PostgresTarget(postgres_url, fresh_schema())
    gone, alive = (target.connect(autostart=False, **QUICK) for _ in range(2))
    job = gone.enqueue("emails")
    assert [claimed.id for claimed in gone.store.claim([Demand("emails", 1)]).jobs] == [job.id]
    Faults(gone).drop_worker_lock()
    target.spoil(Spot("workers", "beat_at"), "infinity", None)
    target.spoil(Spot("jobs", "crashes"), 2**15 - 1, job.id)
    alive.prune()
    alive.listen("others", lambda job: None)
    alive.start()
    assert dead(alive, job).error is not None
    alive.shutdown()
    gone.shutdown(timeout=0)


def test_each_migration_leaves_a_sign() -> None:
    """The version of tables that do not tell it can be told by what each migration has made."""
    assert len(SIGNS) == VERSION
    assert "jobs" in TABLES


def test_workers_survive_garbage_of_any_kind(siege: Siege) -> None:
    """Whatever is written anywhere while two workers run, all other jobs end and every thread lives."""

    @settings(
        max_examples=12,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(st.tuples(st.sampled_from(siege.target.spots), garbage), min_size=4, max_size=12))
    def endure(pieces: list[tuple[Spot, Any]]) -> None:
        siege.endure(pieces)

    endure()
