"""Lines as PostgreSQL keeps them: nobody waits for an open transaction, no time is infinite."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql

import neoq
from neoq.filter import Filter
from neoq.held.limits import Limits
from neoq.held.step import Step
from neoq.job import Job
from neoq.outcome import Outcome, lease_of
from neoq.postgres.scan import LookFloors
from neoq.postgres.statements import Statements
from neoq.record import Status
from neoq.store import Demand
from neoq.testing.cases.suite import prepared


@pytest.fixture
def backend(postgres_url: str, schema: str) -> Iterator[neoq.PostgresBackend]:
    """A backend whose store is called here, as its engine calls it."""
    with neoq.PostgresBackend(postgres_url, schema=schema, autostart=False) as backend:
        backend.listen("q", print)
        backend.queues()
        yield backend


def add(backend: neoq.PostgresBackend, key: str, **options: Any) -> Job:
    job = prepared("q", **{"key": key, **({} if options else {"unique": False}), **options})
    [job] = backend.store.add([job], token=backend.store.new_token())
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


def test_a_replacement_of_another_key_leaves_the_line(backend: neoq.PostgresBackend) -> None:
    """A job that has its turn and gets another key makes room in its line, and waits in the other."""
    backend.store.limit("q", Limits(ordered=True), by_listener=True)
    add(backend, "b")
    [first] = claim(backend)
    add(backend, "a", fingerprint="f")
    [job] = claim(backend)
    later = Outcome(lease_of(job), Status.RETRYING, run_after=time.time() + 600)
    assert backend.store.settle([later]) == set()
    other = add(backend, "a")
    assert claim(backend) == []
    assert add(backend, "b", fingerprint="f", on_duplicate="replace").id == job.id
    assert [found.id for found in claim(backend)] == [other.id]
    assert backend.store.settle([Outcome(lease_of(first), Status.SUCCEEDED)]) == set()
    assert [found.id for found in claim(backend)] == [job.id]


def test_a_replacement_for_later_leaves_the_line(backend: neoq.PostgresBackend) -> None:
    """A job that has its turn, has not started, and is put off gives its turn to the next one of its key."""
    backend.store.limit("q", Limits(per_key=1, max_running=1), by_listener=True)
    add(backend, "b")
    [first] = claim(backend)
    add(backend, "a", fingerprint="f")
    other = add(backend, "a")
    assert claim(backend) == []
    assert add(backend, "a", fingerprint="f", on_duplicate="replace", run_after=600).duplicate
    assert backend.store.settle([Outcome(lease_of(first), Status.SUCCEEDED)]) == set()
    assert [found.id for found in claim(backend)] == [other.id]


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


@pytest.mark.usefixtures("new_schema")
def test_a_claim_that_fails_in_a_limited_queue_keeps_the_others(
    backend: neoq.PostgresBackend, postgres_url: str
) -> None:
    """Jobs that a claim has taken are handed over, although it fails in a queue with limits after that."""
    backend.store.limit("q", Limits(max_running=1), by_listener=True)
    job = prepared("plain", unique=False)
    [job] = backend.store.add([job], token=backend.store.new_token())
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        function = sql.Identifier(backend.config.schema, "limited_claim")
        connection.execute(sql.SQL("alter function {} rename to broken").format(function))
    demand = [Demand("q", 1), Demand("plain", 1)]
    assert [found.id for found in backend.store.claim(demand).jobs] == [job.id]
    with pytest.raises(neoq.BackendError):
        backend.store.claim(demand)


def test_a_line_in_which_a_job_waits_is_not_looked_at_again(
    backend: neoq.PostgresBackend, postgres_url: str
) -> None:
    """Jobs that were there before the limits come to their lines, and only new lines are looked at."""
    jobs = [add(backend, key) for key in "aabb"]
    backend.store.limit("q", Limits(ordered=True), by_listener=True)
    assert [found.id for found in claim(backend)] == [jobs[0].id, jobs[2].id]
    later = [add_unlined(backend, postgres_url, key) for key in "ac"]
    assert [found.id for found in claim(backend)] == [later[1]]
    looks = sql.SQL("select last_value from {}").format(sql.Identifier(backend.config.schema, "looks_id_seq"))
    with psycopg.connect(postgres_url) as connection:
        assert connection.execute(looks).fetchall() == [(3,)]


def test_keys_that_come_or_go_together_share_a_note(backend: neoq.PostgresBackend, postgres_url: str) -> None:
    """A batch of jobs notes its lines in one row, and so do those that end together: rows cost more."""
    backend.store.limit("q", Limits(ordered=True), by_listener=True)
    jobs = [prepared("q", key=key, unique=False) for key in "aabc"]
    backend.store.add(jobs, token=backend.store.new_token())
    assert notes_of(backend, postgres_url) == [(["a", "b", "c"], False)]
    claimed = claim(backend)
    assert sorted(job.key or "" for job in claimed) == ["a", "b", "c"]
    assert notes_of(backend, postgres_url) == []
    ended = [Outcome(lease_of(job), Status.SUCCEEDED) for job in claimed]
    assert backend.store.settle(ended) == set()
    assert notes_of(backend, postgres_url) == [(["a", "b", "c"], True)]
    assert [job.id for job in claim(backend)] == [jobs[1].id]


def notes_of(backend: neoq.PostgresBackend, postgres_url: str) -> list[tuple[Any, ...]]:
    """What is noted of lines to look at."""
    looks = sql.SQL("select keys, freed from {}").format(sql.Identifier(backend.config.schema, "looks"))
    with psycopg.connect(postgres_url) as connection:
        return connection.execute(looks).fetchall()


def test_a_claim_gets_by_without_triggers(backend: neoq.PostgresBackend, postgres_url: str) -> None:
    """No trigger looks at rows that are updated: for one, the server locks each row of a claim again."""
    kinds = "select tgtype & 16 from pg_trigger where tgrelid = %s::regclass"
    with psycopg.connect(postgres_url) as connection:
        found = connection.execute(kinds, (f"{backend.config.schema}.jobs",)).fetchall()
    assert set(found) == {(0,)}


@pytest.mark.parametrize("key", ["b", "c", None])
@pytest.mark.parametrize("turn", [True, False])
def test_a_job_that_is_replaced_by_one_of_another_key_changes_lines(
    backend: neoq.PostgresBackend, turn: bool, key: str | None
) -> None:
    """It runs in its new line, or in none; whoever was behind it has the turn."""
    backend.store.limit("q", Limits(ordered=True), by_listener=True)
    other = add(backend, "b")
    if not turn:
        add(backend, "a")
    job = add(backend, "a", fingerprint="1")
    behind = add(backend, "a")
    claimed = claim(backend)
    if turn:
        assert [found.id for found in claimed] == [other.id, job.id]
        retry = Outcome(lease_of(claimed[1]), Status.RETRYING, run_after=time.time() + 600)
        assert backend.store.settle([retry]) == set()
    add(backend, key, fingerprint="1", on_duplicate="replace")  # type: ignore[arg-type]
    now = {found.id for found in claim(backend)}
    assert now == ({behind.id} if turn else set()) | (set() if key == "b" else {job.id})
    for lease in map(lease_of, claimed):
        backend.store.settle([Outcome(lease, Status.SUCCEEDED)])
    assert now | {found.id for found in claim(backend)} >= {job.id, behind.id}


def add_unlined(backend: neoq.PostgresBackend, postgres_url: str, key: str) -> int | None:
    """Add a job of a key that is not in its line yet, as one that was due only now."""
    job = add(backend, key, run_after=600, unique=False)
    due = sql.SQL("update {} set run_after = 1, own_due = null where id = %s").format(
        sql.Identifier(backend.config.schema, "jobs")
    )
    with psycopg.connect(postgres_url) as connection:
        connection.execute(due, (job.id,))
    return job.id


def test_jobs_of_a_key_are_found_by_indexes(backend: neoq.PostgresBackend, postgres_url: str) -> None:
    """Jobs of a key are found in their line, with their turn, and where there are no lines."""
    backend.store.limit("q", Limits(ordered=True), by_listener=True)
    ids = {add(backend, "a").id for _ in range(3)}
    assert len(claim(backend)) == 1
    ids |= {add(backend, "a", run_after=600, unique=False).id}
    add(backend, "b")
    wanted = Filter(key="a", statuses=frozenset({Status.PENDING, Status.RUNNING}))
    assert {job.id for job in backend.store.find(wanted, limit=10).jobs} == ids
    query = Statements(backend.config.schema).some_of_key.format("key = %s")
    with psycopg.connect(postgres_url) as connection:
        connection.execute("set enable_seqscan = off")
        rows = connection.execute(f"explain (costs off) {query}".encode(), ["a", 1] * 3).fetchall()
    plan = "\n".join(line for (line,) in rows)
    assert all(index in plan for index in ("jobs_keys", "jobs_line", "jobs_turns")), plan


def finish(backend: neoq.PostgresBackend, jobs: list[Job]) -> None:
    now = time.time()
    backend.store.settle([Outcome(lease_of(job), Status.SUCCEEDED, finished_at=now) for job in jobs])


@pytest.mark.usefixtures("new_schema")
def test_claims_step_over_no_dead_rows_twice(backend: neoq.PostgresBackend, postgres_url: str) -> None:
    """While a transaction is open, a claim of a limited queue begins behind the dead rows of earlier ones."""
    backend.store.limit("q", Limits(per_key=2), by_listener=True)
    schema = backend.config.schema
    with psycopg.connect(postgres_url) as pinned, psycopg.connect(postgres_url, autocommit=True) as other:
        pinned.execute("set transaction isolation level repeatable read")
        pinned.execute("select pg_current_xact_id()")
        for n in range(40):
            backend.enqueue_many(Job("q", {"n": n}, key=f"{n} {one}", unique=False) for one in range(10))
            finish(backend, claim(backend))
        statement = sql.SQL(
            "explain (analyze, buffers, format json) select * from {}.limited_claim("
            "1, 1, 'q', 5, null, false, %s, %s, %s)"
        ).format(sql.Identifier(schema))

        def pages(*known: Any) -> int:
            other.execute(
                sql.SQL("select * from {}.limited_claim(1, 1, 'q', 5, null, false, %s, %s, %s)").format(
                    sql.Identifier(schema)
                ),
                known,
            )
            [(plan,)] = other.execute(statement, known).fetchall()
            return int(plan[0]["Plan"]["Shared Hit Blocks"])

        last = sql.SQL("select last_value from {}").format(sql.Identifier(schema, "looks_id_seq"))
        [(number,)] = other.execute(last).fetchall()
        assert pages(number, [0], [time.time() - 0.1]) < pages(0, None, None) / 2


def test_what_comes_before_a_floor_is_found(
    backend: neoq.PostgresBackend, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job of a key that is committed late, and due before what was claimed, is found all the same."""
    for name, value in (("LONG_IN_LIMITED", -1.0), ("FULL_SCAN_EVERY", 0.2), ("LATE", 0.0)):
        monkeypatch.setattr(f"neoq.postgres.scan.{name}", value)  # each look counts as a long one
    backend.store.limit("q", Limits(ordered=True), by_listener=True)
    with psycopg.connect(postgres_url) as connection:
        late = backend.enqueue("q", {"late": 0}, key="late", transaction=connection)
        for n in range(5):
            backend.enqueue("q", {"n": n}, key=f"other {n}")
            finish(backend, claim(backend))
        connection.commit()
    found: list[Job] = []
    give_up = time.monotonic() + 10.0
    while not found and time.monotonic() < give_up:
        claimed = backend.store.claim([Demand("q", 50)])
        found = claimed.jobs
        assert found or claimed.next_due is not None  # or a worker would sleep on
    assert [job.id for job in found] == [late.id]


def test_a_worker_comes_back_for_what_lies_before_its_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look that began at a floor says when all is looked at again; two slow ones in a row set a floor."""
    monkeypatch.setattr("neoq.postgres.scan.LATE", 0.0)
    looks = LookFloors()
    starts = []
    for number, seconds in enumerate((9.0, 0.0, 9.0, 0.1, 0.1, 0.1), 1):
        start = looks.start("q")
        starts.append(start)
        looks.learn("q", start, number, seconds)
    assert starts == [0, 0, 0, 0, 0, 4]
    assert looks.next_full_look("q", 0) is None
    assert 1.0 < (looks.next_full_look("q", 4) or 0.0) <= 2.0
