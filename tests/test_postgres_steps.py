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


def test_stale_success_drops_no_step(backend: PostgresBackend, postgres_url: str) -> None:
    """Of two jobs that have succeeded, the one whose lease was lost keeps its steps for who has it now."""
    backend.enqueue_many([Job("q", {"n": 1}), Job("q", {"n": 2})])
    one, other = claimed(backend)
    store = backend.store
    assert store.record([(lease_of(job), [Step("step:pay", b"1")]) for job in (one, other)]) == set()
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        schema = backend.config.schema
        connection.execute(f"update {schema}.jobs set token = token + 1 where id = {one.id}".encode())
    assert store.settle([succeeded(one), succeeded(other)]) == {one.id}
    assert [step.name for step in store.steps(one.id)] == ["step:pay"]
    assert store.steps(other.id) == []
    assert backend.get(other.id).status is Status.SUCCEEDED  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "steps",
    [
        ([Step("step:a", b"1")], [Step("step:a", b"2")]),
        ([Step("step:a", b"1", 2, 1)], [Step("step:a", b"2")]),
        ([Step("step:a", b"1")], [Step("save:a", b"2", lasting=False)]),
        ([Step("step:a", b"1"), Step("step:b", b"2")], [Step("save:a", b"3", 0, 0, False)]),
        ([Step("step:a", b"1"), Step("save:a", b"2", lasting=False)], []),
    ],
)
def test_steps_of_several_jobs_are_recorded_as_they_are(
    backend: PostgresBackend, steps: tuple[list[Step], list[Step]]
) -> None:
    """One call records all that the steps of several jobs say, and tells whose lease is not current."""
    backend.enqueue_many([Job("q", {"n": n}) for n in range(3)])
    one, other, lost = claimed(backend)
    store = backend.store
    late = lease_of(lost)._replace(token=1)
    records = [(lease_of(one), steps[0]), (late, [Step("step:a", b"0")]), (lease_of(other), steps[1])]
    assert store.record(records) == {lost.id}
    found = [[step._replace(at=None) for step in store.steps(job.id)] for job in (one, other, lost)]
    assert found == [*steps, []]


def test_one_job_may_be_given_twice(backend: PostgresBackend) -> None:
    """Of steps with one name in one call, the first is kept, or the last where it is a saved value."""
    backend.enqueue("q", {"n": 1})
    [job] = claimed(backend)
    lease = lease_of(job)
    given = [Step("step:a", b"1"), Step("step:a", b"2"), Step("save:a", b"3", lasting=False)]
    records = [(lease, [step]) for step in [*given, Step("save:a", b"4", lasting=False)]]
    assert backend.store.record(records) == set()
    assert [step[:2] for step in backend.store.steps(job.id)] == [("step:a", b"1"), ("save:a", b"4")]
