"""Steps and signals in PostgreSQL, where a transaction of the caller's may stay open for long."""

from __future__ import annotations

import time
from collections.abc import Iterator

import psycopg
import pytest

from neoq.held.step import Step
from neoq.job import Job
from neoq.outcome import Outcome, lease_of, succeeded
from neoq.postgres.backend import PostgresBackend
from neoq.record import Status
from neoq.store import Demand
from tests.postgres_server import fresh_schema


@pytest.fixture
def backend(postgres_url: str) -> Iterator[PostgresBackend]:
    """Return a backend on a schema of its own."""
    backend = PostgresBackend(postgres_url, schema=fresh_schema())
    yield backend
    backend.shutdown()


def claimed(backend: PostgresBackend) -> list[Job]:
    """Claim what is ready."""
    return backend.store.claim([Demand("q", 10)]).jobs


def test_open_step_delays_no_other_settle(backend: PostgresBackend, postgres_url: str) -> None:
    """A step that was recorded in a transaction that is still open delays the settle of its own job only."""
    backend.enqueue_many([Job("q", {"n": 1}), Job("q", {"n": 2})])
    one, other = claimed(backend)
    store = backend.store
    with psycopg.connect(postgres_url) as connection:
        assert store.record([(lease_of(one), [Step("step:pay", b"1")])], transaction=connection) == set()
        assert store.settle([succeeded(one), succeeded(other)]) == set()
        assert backend.get(other.id).status is Status.SUCCEEDED  # type: ignore[union-attr]
        assert backend.get(one.id).status is Status.RUNNING  # type: ignore[union-attr]
    store.settle([])
    assert backend.get(one.id).status is Status.SUCCEEDED  # type: ignore[union-attr]
    assert store.steps(one.id) == []


def test_open_signal_delays_nothing(backend: PostgresBackend, postgres_url: str) -> None:
    """A signal whose transaction is open delays no settle of its job, and is heeded once it is committed."""
    backend.enqueue("q", {"n": 1}, fingerprint="order-1")
    [job] = claimed(backend)
    store = backend.store
    signal = Step("signal:paid", b"{}")
    with psycopg.connect(postgres_url) as connection:
        assert store.signal(("q", "order-1"), signal, transaction=connection)
        assert store.settle([Outcome(lease_of(job), Status.PENDING, awaits=signal.name)]) == set()
        assert not store.tend()
        assert claimed(backend) == []
    assert store.tend()
    [job] = claimed(backend)
    assert (job.steps, job.counted) == (1, True)
    assert store.settle([succeeded(job)]) == set()
    assert store.steps(job.id) == []


def test_locked_job_heeds_its_signal_later(backend: PostgresBackend, postgres_url: str) -> None:
    """A signal to a job whose row a transaction has locked waits for nothing, and is heeded after its end."""
    backend.enqueue("q", {"n": 1})
    [job] = claimed(backend)
    store = backend.store
    store.settle([Outcome(lease_of(job), Status.PENDING, awaits="signal:paid")])
    with psycopg.connect(postgres_url) as connection:
        connection.execute(f"select from {backend.config.schema}.jobs for update")  # type: ignore[arg-type]
        began = time.monotonic()
        assert store.signal(job.id, Step("signal:paid", b"{}"))
        assert time.monotonic() - began < 5
    assert store.tend()
    assert len(claimed(backend)) == 1
