"""Lines as PostgreSQL keeps them: nobody waits for an open transaction, no time is infinite."""

from __future__ import annotations

import math
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

import neoq
from neoq.held.limits import Limits
from neoq.held.step import Step
from neoq.job import Job
from neoq.outcome import Outcome, lease_of
from neoq.record import Status
from neoq.store import Demand
from neoq.testing.cases.suite import prepared


@pytest.fixture
def backend(postgres_url: str, new_schema: str) -> Iterator[neoq.PostgresBackend]:
    """A backend whose store is called here, as its engine calls it."""
    with neoq.PostgresBackend(postgres_url, schema=new_schema, autostart=False) as backend:
        backend.listen("q", print)
        backend.queues()
        yield backend


def add(backend: neoq.PostgresBackend, key: str) -> Job:
    [job] = backend.store.add([prepared("q", key=key, unique=False)], token=backend.store.new_token())
    return job


def claim(backend: neoq.PostgresBackend) -> list[Job]:
    return backend.store.claim([Demand("q", 50)]).jobs


def test_pruning_waits_for_nobody(backend: neoq.PostgresBackend, postgres_url: str) -> None:
    """Pruning leaves out what a caller's open transaction has locked as a job of a line ended."""
    backend.store.limit("q", Limits(ordered=True), by_listener=True)
    add(backend, "a")
    [first] = claim(backend)
    assert backend.store.settle([Outcome(lease_of(first), Status.SUCCEEDED)]) == set()
    add(backend, "a")
    [job] = claim(backend)
    with psycopg.connect(postgres_url) as connection:
        done = [Outcome(lease_of(job), Status.SUCCEEDED)]
        assert backend.store.settle(done, transaction=connection) == set()
        backend.store.prune()  # else it gives up after ten seconds
        connection.commit()
    backend.store.prune()


def test_a_job_that_was_held_for_ever_has_a_place_in_its_line(
    backend: neoq.PostgresBackend, postgres_url: str
) -> None:
    """A job that comes to its line after a signal without a timeout has been due since that."""
    add(backend, "a")
    [job] = claim(backend)
    backend.store.limit("q", Limits(per_key=1), by_listener=True)
    assert claim(backend) == []
    waits = Outcome(lease_of(job), Status.PENDING, charged=False, awaits="signal:x")
    assert backend.store.settle([waits]) == set()
    add(backend, "a")
    assert len(claim(backend)) == 1
    assert backend.store.signal(job.id or 0, Step("signal:x", b"{}", 0, 0, True, 0.0))
    assert claim(backend) == []
    jobs = sql.Identifier(backend.config.schema, "jobs")
    with psycopg.connect(postgres_url) as connection:
        query = sql.SQL("select own_due from {} where held = 4").format(jobs)
        [(due,)] = connection.execute(query).fetchall()
    assert due < math.inf
