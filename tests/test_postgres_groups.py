"""Batches in PostgreSQL: what is noted, what counts it, and that nobody waits for an open transaction."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest
from psycopg import sql

import neoq
from neoq.filter import Filter
from neoq.held.group import BatchRules, Group
from neoq.job import Job
from neoq.outcome import Outcome, lease_of
from neoq.postgres.rows import BINARY, add_values
from neoq.record import Status
from neoq.store import Demand
from neoq.testing.cases.suite import eventually, prepared

RULES = BatchRules(7)


@pytest.fixture
def backend(postgres_url: str, schema: str) -> Iterator[neoq.PostgresBackend]:
    """A backend whose store is called here, as its engine calls it."""
    with neoq.PostgresBackend(postgres_url, schema=schema, autostart=False) as backend:
        backend.queues()
        yield backend


def member(holder: Job, n: int) -> Job:
    """Make a member of a batch."""
    job = prepared("q", {"n": n}, unique=False)
    job.group, job.producer = str(Group(holder.id or 0)), RULES.producer
    return job


def batch_of(backend: neoq.Backend, members: int) -> Job:
    """A sealed batch of so many members."""
    store = backend.store
    holder = store.open_batch(prepared("then", unique=False), RULES, token=store.new_token())
    store.add([member(holder, n) for n in range(members)], token=store.new_token())
    store.seal(holder.id or 0, RULES.producer)
    return holder


def claimed(backend: neoq.Backend, queue: str, limit: int = 100) -> list[Job]:
    """Claim jobs of a queue."""
    return backend.store.claim([Demand(queue, limit)]).jobs


def done(job: Job) -> Outcome:
    """The outcome of a job that has succeeded."""
    return Outcome(lease_of(job), Status.SUCCEEDED, started_at=time.time(), finished_at=time.time())


def notes(connection: psycopg.Connection[Any], backend: neoq.PostgresBackend) -> int:
    """How many notes are not counted."""
    table = sql.Identifier(backend.config.schema, "notes")
    [(number,)] = connection.execute(sql.SQL("select count(*) from {}").format(table)).fetchall()
    return int(number)


def test_one_note_for_a_call(backend: neoq.PostgresBackend, postgres_url: str) -> None:
    """The adds, the seal and the ends of a call are one note each, which a claim or a heartbeat counts."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        holder = batch_of(backend, 20)
        assert notes(connection, backend) == 2
        assert backend.store.settle([done(job) for job in claimed(backend, "q")]) == set()
        assert notes(connection, backend) == 3
        counts = backend.store.group(holder.id or 0)
        assert counts is not None
        assert (counts.members, counts.succeeded, counts.open) == (20, 20, False)
        assert [job.id for job in claimed(backend, "then")] == [holder.id]
        assert notes(connection, backend) == 0


def test_an_open_transaction_holds_up_no_other_end(backend: neoq.PostgresBackend, postgres_url: str) -> None:
    """A member whose handler's transaction is open delays neither other ends nor the count of them."""
    holder = batch_of(backend, 3)
    slow, *others = claimed(backend, "q")
    with closing(psycopg.connect(postgres_url)) as connection:
        assert backend.store.settle([done(slow)], transaction=connection) == set()
        assert backend.store.settle([done(job) for job in others]) == set()
        assert backend.store.tend() is False
        counts = backend.store.group(holder.id or 0)
        assert counts is not None
        assert counts.succeeded == 2
        assert claimed(backend, "then") == []
        connection.commit()
        assert [job.id for job in claimed(backend, "then")] == [holder.id]


def test_a_callback_that_a_transaction_has_locked(backend: neoq.PostgresBackend, postgres_url: str) -> None:
    """Nobody waits for a transaction that has the callback's row: it is released when that has ended."""
    holder = batch_of(backend, 1)
    with closing(psycopg.connect(postgres_url)) as connection:
        table = sql.Identifier(backend.config.schema, "jobs")
        connection.execute(sql.SQL("select from {} where id = %s for update").format(table), (holder.id,))
        backend.store.settle([done(job) for job in claimed(backend, "q")])
        assert backend.store.tend() is False
        assert claimed(backend, "then") == []
        connection.rollback()
    assert [job.id for job in claimed(backend, "then")] == [holder.id]


def test_ends_beyond_one_page(backend: neoq.PostgresBackend) -> None:
    """More notes than are counted at once are counted in order, by as many heartbeats as it takes."""
    holder = batch_of(backend, 520)
    jobs = claimed(backend, "q", 1000)
    for job in jobs:
        backend.store.settle([done(job)])
    assert claimed(backend, "then") == []
    eventually(lambda: not backend.store.tend(), "all is counted")
    counts = backend.store.group(holder.id or 0)
    assert counts is not None
    assert counts.succeeded == 520
    assert [job.id for job in claimed(backend, "then")] == [holder.id]


def test_members_and_seal_of_a_transaction(backend: neoq.PostgresBackend, postgres_url: str) -> None:
    """A batch, its members and its seal are there after the commit of the caller's transaction."""
    store = backend.store
    for end in ("rollback", "commit"):
        with closing(psycopg.connect(postgres_url)) as connection:
            then = prepared("then", unique=False)
            holder = store.open_batch(then, RULES, token=store.new_token(), transaction=connection)
            store.add([member(holder, 1)], token=store.new_token(), transaction=connection)
            store.seal(holder.id or 0, RULES.producer, transaction=connection)
            assert store.group(holder.id or 0) is None
            getattr(connection, end)()
    store.settle([done(job) for job in claimed(backend, "q")])
    assert [job.id for job in claimed(backend, "then")] == [holder.id]


def test_the_callback_begins_at_once(postgres_url: str, new_schema: str) -> None:
    """The last end wakes the process that listens for the callback, although nobody polls."""
    options: dict[str, Any] = {"schema": new_schema, "job_check_interval": 60}
    ended: dict[str, float] = {}
    with (
        neoq.PostgresBackend(postgres_url, **options) as one,
        neoq.PostgresBackend(postgres_url, **options) as other,
    ):
        one.listen("member", lambda job: ended.update(member=time.monotonic()))
        other.listen("callback", lambda job: ended.update(callback=time.monotonic()))
        one.start()
        other.start()
        with one.batch(then=Job("callback")) as batch:
            batch.enqueue_many(Job("member", {"n": n}) for n in range(5))
        one.wait(batch.id, 30)
    assert ended["callback"] - ended["member"] < 5


def test_old_workers_leave_members_alone(backend: neoq.PostgresBackend, postgres_url: str) -> None:
    """The claim of an older neoq takes no job of a group, whose end it would not note."""
    batch_of(backend, 1)
    [plain] = backend.store.add([prepared("q", {"plain": 1})], token=b"")
    with psycopg.connect(postgres_url) as connection:
        claim = sql.SQL("select id from {}.claim(1, 7, array['q'], array[9], null, null, null, null)")
        rows = connection.execute(claim.format(sql.Identifier(backend.config.schema))).fetchall()
        assert [job_id for (job_id,) in rows if job_id is not None] == [plain.id]


def test_a_held_job_in_the_view(backend: neoq.PostgresBackend, postgres_url: str) -> None:
    """The view for people shows why a job is held, and no time that a driver cannot read."""
    holder = batch_of(backend, 1)
    with psycopg.connect(postgres_url) as connection:
        view = sql.SQL("select held, run_after from {} where id = %s")
        name = sql.Identifier(backend.config.schema, "all_jobs")
        assert connection.execute(view.format(name), (holder.id,)).fetchall() == [("batch", None)]


def test_stopped_groups_do_not_wait_for_each_other(backend: neoq.PostgresBackend) -> None:
    """A stopped group whose last job runs on does not keep those of another from being cancelled."""
    store = backend.store
    first = batch_of(backend, 1)
    [runs_on] = claimed(backend, "q")
    second = batch_of(backend, 2)
    store.change([first.id or 0, second.id or 0], "cancel")
    members = Filter(group=Group(second.id or 0).name)
    eventually(
        lambda: not store.tend() and {job.status for job in store.find(members).jobs} == {Status.CANCELLED},
        "the other group is cancelled",
    )
    assert store.extend([lease_of(runs_on)]).cancelled == {runs_on.id}


def test_prints_are_made_for_named_batches_only() -> None:
    """What a producer adds to a batch without a name has no prints; what is unknown has them."""
    jobs = [member(Job("then"), n) for n in range(2)]
    assert add_values(jobs, [], BINARY, unnamed={RULES.producer})["prints"] is None
    assert add_values(jobs, [], BINARY, unnamed={8})["prints"] is not None
