"""Looks at very many jobs: by an index, kept for a while where they are dear, and broken off after a time."""

from __future__ import annotations

import re
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

import neoq
from neoq.clock import machine
from neoq.errors import LookTimeoutError
from neoq.filter import Filter, filter_of
from neoq.job import Job
from neoq.postgres import PostgresBackend, candidates
from neoq.postgres.candidates import candidates_query
from neoq.postgres.connections import Connections
from neoq.postgres.rows import tables_of
from neoq.postgres.statements import Statements
from neoq.redis import find as redis_find
from neoq.sqlite.file import SqliteFile
from neoq.store import Demand, QueueCounts
from neoq.testing.cases.suite import PATIENCE, Background, in_threads
from neoq.threads import kept
from neoq.threads.kept import Kept

RARE = [
    {"queue": "rare", "status": "dead"},
    {"queue": "rare", "status": "succeeded"},
    {"queue": "rare"},
    {"kind": "rare.kind"},
    {"queue": "q7", "kind": "rare.kind"},
    {"key": "rare-key"},
]


@pytest.fixture
def backend(postgres_url: str, new_schema: str) -> Iterator[PostgresBackend]:
    """A backend that runs nothing, opened."""
    with PostgresBackend(postgres_url, schema=new_schema, autostart=False) as backend:
        backend.queues()
        yield backend


@pytest.fixture
def admin(postgres_url: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection of the test's own."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        yield connection


# -------------------------------------------------------------------------------------------------- Postgres


def fill_history(admin: psycopg.Connection[Any], schema: str) -> None:
    """20,000 jobs that succeeded, in 50 queues; of each rare sort three, and those of the queue are dead."""
    admin.execute(
        sql.SQL(
            "insert into {}.history (id, run_after, created_at, finished_at, retries, priority, status,"
            " uniqueness, crashes, codec, queue, kind, key, payload)"
            " select nextval({}::regclass), g, g, g, 0, 0, case when g % 6000 = 1 then 4 else 3 end, 0, 0, 1,"
            " case when g % 6000 < 2 and g > 9 then 'rare' else 'q' || (g % 50) end,"
            " case when g % 6000 = 7 then 'rare.kind' when g % 2 = 0 then 'kind' || (g % 3) end,"
            " case when g % 6000 = 9 then 'rare-key' end, '{{}}' from generate_series(1, 20000) g"
        ).format(sql.Identifier(schema), f"{schema}.job_ids")
    )


@pytest.mark.parametrize("filters", RARE, ids="+".join)
def test_rare_jobs_are_found_by_an_index(
    backend: PostgresBackend, admin: psycopg.Connection[Any], filters: dict[str, Any]
) -> None:
    """A few jobs among many that have ended are found by an index of them, and by nothing else."""
    fill_history(admin, schema := backend.config.schema)
    wanted = filter_of(filters, 0.0)
    query, values = candidates_query(Statements(schema), wanted, dict(tables_of(wanted))["history"], 100)
    with admin.transaction():
        for setting in ("enable_seqscan", "enable_bitmapscan", "enable_hashjoin", "enable_mergejoin"):
            admin.execute(f"set local {setting} = off".encode())
        plan = "\n".join(line for (line,) in admin.execute(f"explain {query}".encode(), values))
    index = "history_keys" if "key" in filters else "history_found"
    assert set(re.findall(r" using (\S+) on history", plan)) == {index}
    assert "Seq Scan" not in plan
    found = backend.jobs(limit=10, **filters)
    assert [job.id for job in found] == sorted((job.id for job in found), reverse=True)
    oldest = backend.jobs(limit=10, order="oldest", **filters)
    assert [job.id for job in oldest] == [job.id for job in reversed(found)]
    assert len(found) == {"status": 3, "queue": 6, "kind": 4, "key": 4}[list(filters)[-1]]
    pages = [backend.jobs(limit=1, after=job.id, **filters) for job in found]
    assert [job.id for page in pages for job in page] == [job.id for job in found[1:]]


def test_what_has_too_many_kinds_is_walked_through(
    backend: PostgresBackend, admin: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there are more queues and kinds than an index is asked for, the same jobs are found in steps."""
    fill_history(admin, backend.config.schema)
    expected = [job.id for job in backend.jobs(kind="rare.kind")]
    monkeypatch.setattr(candidates, "PLACES", 7)
    assert [job.id for job in backend.jobs(kind="rare.kind")] == expected
    assert len(expected) == 4


def test_the_rest_of_a_filter_is_looked_for_among_the_candidates(
    backend: PostgresBackend, admin: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What no index tells is checked of those that one does, in steps that reach all of them."""
    fill_history(admin, backend.config.schema)
    monkeypatch.setattr(candidates, "LOOKED_AMONG", 10)
    wanted = Filter(queue="q8", until=500.0, time="created")
    found: list[Job] = []
    page = backend.store.find(wanted, limit=3)
    found += page.jobs
    while page.rest is not None:
        page = backend.store.find(wanted, limit=3, after=page.rest)
        found += page.jobs
    assert [job.created for job in found] == [float(at) for at in range(458, 0, -50)]


def test_many_waiting_jobs_are_counted_once_in_a_while(
    backend: PostgresBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond some number the count of unfinished jobs is kept, with its time; all else stays exact."""
    monkeypatch.setattr("neoq.postgres.find.CHEAP", 3)
    backend.enqueue_many([Job("q", {"n": n}) for n in range(5)])
    [counts] = backend.queues()
    assert (counts.ready, counts.counted_at) == (5, None)
    began = machine.time()
    backend.enqueue("q", {"n": 5})
    [claimed] = backend.store.claim([Demand("q", 1)]).jobs
    backend.store.settle([neoq.outcome.succeeded(claimed)])
    backend.pause("q")
    [counts] = backend.queues()
    assert (counts.ready, counts.succeeded, counts.paused) == (5, 1, True)
    assert counts.oldest_due is not None
    assert counts.counted_at is not None
    assert began - PATIENCE < counts.counted_at.timestamp() <= began


def test_a_look_that_takes_too_long(
    backend: PostgresBackend, admin: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look is broken off after a time: with the last known counts, or an error that says what to do."""
    backend.enqueue("q")
    backend.queues()
    monkeypatch.setattr("neoq.postgres.connections.LOOK_SECONDS", 0.05)
    with PostgresBackend(backend.config.url, schema=backend.config.schema, autostart=False) as stranger:
        stranger.get(1)
        with admin.transaction():
            admin.execute(f"lock table {backend.config.schema}.jobs".encode())
            with pytest.raises(LookTimeoutError, match=r"broken off after 0\.05 s; filter by queue"):
                backend.jobs("q")
            with pytest.raises(LookTimeoutError, match="broken off"):
                stranger.queues()
            [counts] = backend.queues()
            assert (counts.ready, counts.counted_at is not None) == (1, True)
        assert len(backend.jobs("q")) == 1


# ---------------------------------------------------------------------------------------------------- SQLite


@pytest.fixture
def file(tmp_path: Path) -> Iterator[neoq.SqliteBackend]:
    """A backend on a file that has 20,000 jobs as `fill_history` makes them, and runs nothing."""
    with neoq.SqliteBackend(tmp_path / "jobs.db", autostart=False) as backend:
        backend.queues()
        connection = sqlite3.connect(tmp_path / "jobs.db")
        connection.execute(
            "with recursive numbers (g) as (select 1 union all select g + 1 from numbers where g < 20000)"
            " insert into neoq_jobs (state, status, queue, kind, key, run_after, created_at, finished_at,"
            " payload) select 3 + (g % 6000 = 1), 3 + (g % 6000 = 1),"
            " case when g % 6000 < 2 and g > 9 then 'rare' else 'q' || (g % 50) end,"
            " case when g % 6000 = 7 then 'rare.kind' when g % 2 = 0 then 'kind' || (g % 3) end,"
            " case when g % 6000 = 9 then 'rare-key' end, g, g, g, '{}' from numbers"
        )
        connection.execute("update neoq_counts set n = 20000 where queue = ''")
        connection.commit()
        connection.close()
        yield backend


@pytest.mark.parametrize("filters", RARE, ids="+".join)
def test_rare_jobs_are_found_by_an_index_of_a_file(
    file: neoq.SqliteBackend, monkeypatch: pytest.MonkeyPatch, filters: dict[str, Any]
) -> None:
    """A few jobs among many that have ended are found by an index of them, and no query reads the table."""
    queries: list[tuple[str, Any]] = []
    read = SqliteFile.read

    def noted(self: SqliteFile, statement: str, values: Any = (), **options: Any) -> list[Any]:
        queries.append((statement, values))
        return read(self, statement, values, **options)

    monkeypatch.setattr(SqliteFile, "read", noted)
    found = file.jobs(limit=10, **filters)
    monkeypatch.undo()
    plans = "\n".join(plan_of(file, *query) for query in queries)
    assert ("neoq_keys" if "key" in filters else "neoq_found") in plans or "neoq_dead" in plans
    assert "SCAN neoq_jobs" not in plans.replace("SCAN neoq_jobs USING", "")
    assert [job.id for job in found] == sorted((job.id for job in found), reverse=True)
    oldest = file.jobs(limit=10, order="oldest", **filters)
    assert [job.id for job in oldest] == [job.id for job in reversed(found)]
    assert len(found) == {"status": 3, "queue": 6, "kind": 4, "key": 4}[list(filters)[-1]]
    pages = [file.jobs(limit=1, after=job.id, **filters) for job in found]
    assert [job.id for page in pages for job in page] == [job.id for job in found[1:]]


def plan_of(backend: neoq.SqliteBackend, query: str, values: Any) -> str:
    """How SQLite would read a query."""
    connection = sqlite3.connect(backend.config.path)
    try:
        return "\n".join(row[3] for row in connection.execute(f"explain query plan {query}", values))
    finally:
        connection.close()


def test_a_look_at_a_file_that_takes_too_long(
    file: neoq.SqliteBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look at a file is broken off after a time, and the connection is as good as before."""
    expected = [job.id for job in file.jobs("rare")]
    monkeypatch.setattr("neoq.sqlite.candidates.LOOK_SECONDS", 0.0)
    monkeypatch.setattr("neoq.sqlite.limits.STEPS", 1)
    with pytest.raises(LookTimeoutError, match="broken off after 2 s; filter by queue"):
        file.jobs("rare", "succeeded")
    monkeypatch.undo()
    assert [job.id for job in file.jobs("rare")] == expected


# ----------------------------------------------------------------------------------------------------- Redis


@pytest.mark.parametrize(
    "filters", [{"kind": "rare"}, {"key": "rare"}, {"status": "retrying"}, {"error": "no"}]
)
def test_jobs_are_sifted_by_the_server(
    redis_url: str,
    redis_prefix: Callable[[], str],
    monkeypatch: pytest.MonkeyPatch,
    filters: dict[str, Any],
) -> None:
    """Of many jobs of a queue only those are sent that may be the wanted ones."""
    with neoq.RedisBackend(redis_url, prefix=redis_prefix(), autostart=False) as backend:
        plain = [Job("q", {"n": n}) for n in range(60)]
        keyed = Job("q", {"n": -1}, key="rare")
        tasks = [Job("q", {"n": -n}) for n in (2, 3, 4)]
        for number, job in enumerate(tasks):
            job.kind = "rare" if number else "other"
        backend.enqueue_many([*plain[:30], keyed, *tasks, *plain[30:]])
        read: list[int] = []
        snapshot = redis_find.snapshot_of

        def noted(name: int, *rest: Any) -> Job:
            read.append(name)
            return snapshot(name, *rest)

        monkeypatch.setattr(redis_find, "snapshot_of", noted)
        found = backend.jobs("q", **filters)
        assert len(read) == len(found) == {"kind": 2, "key": 1, "status": 0, "error": 0}[next(iter(filters))]


# ------------------------------------------------------------------------------------------------------ Kept


def test_what_is_cheap_is_found_out_at_each_call() -> None:
    """A cheap answer is never an old one."""
    answers = iter(range(3))
    asked = Kept(lambda: next(answers), lambda _: True)
    assert [asked.get() for _ in range(3)] == [(0, None), (1, None), (2, None)]


def test_what_is_dear_is_found_out_once_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many threads that ask at once for what is dear have one answer, and later ones until it is too old."""
    monkeypatch.setattr(kept, "KEPT_AT_LEAST", PATIENCE)
    answers = iter(range(20))
    asked = Kept(lambda: next(answers), lambda _: False)
    assert {answer for answer, _ in in_threads(8, lambda _: asked.get())} == {0}
    assert asked.get()[1] is not None
    monkeypatch.setattr(kept, "KEPT_AT_LEAST", 0.0)
    monkeypatch.setattr(kept, "SHARE", 1e9)
    asked = Kept(lambda: next(answers), lambda _: False)
    assert [asked.get()[0] for _ in range(3)] == [1, 2, 3]


def test_what_takes_too_long_is_what_it_was() -> None:
    """Where no new answer comes in time the last one is given, with its time, and asked for later again."""
    late = threading.Event()

    def find_out() -> list[QueueCounts]:
        if late.is_set():
            raise LookTimeoutError("too long")
        return [QueueCounts("q", ready=7)]

    asked = Kept(find_out, lambda _: True)
    late.set()
    with pytest.raises(LookTimeoutError):
        asked.get()
    late.clear()
    assert asked.get() == ([QueueCounts("q", ready=7)], None)
    late.set()
    answer, at = asked.get()
    assert (answer, at is not None) == ([QueueCounts("q", ready=7)], True)


def test_nobody_waits_long_for_what_another_thread_finds_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks while another thread finds it out has the last answer, or an error, after a time."""
    begun, may_end = threading.Event(), threading.Event()

    def find_out() -> int:
        begun.set()
        assert may_end.wait(PATIENCE)
        return 7

    asked = Kept(find_out, lambda _: True)
    monkeypatch.setattr(kept, "LOOK_SECONDS", 0.01)
    finder = Background(asked.get)
    assert begun.wait(PATIENCE)
    with pytest.raises(LookTimeoutError, match="another thread counts"):
        asked.get()
    may_end.set()
    assert finder.result() == (7, None)


def test_a_count_that_found_no_time_has_more_the_next_time(
    postgres_url: str, new_schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing is known and a count was broken off, the next one has twice as much time."""
    seconds: list[float | None] = []
    look = Connections.look

    def noted(self: Connections, *arguments: Any, **options: Any) -> list[Any]:
        seconds.append(options.get("seconds"))
        if len(seconds) < 3:
            raise LookTimeoutError("too long")
        return look(self, *arguments, **options)

    with PostgresBackend(postgres_url, schema=new_schema, autostart=False) as backend:
        backend.get(1)
        monkeypatch.setattr(Connections, "look", noted)
        for _ in range(2):
            with pytest.raises(LookTimeoutError):
                backend.queues()
        assert backend.queues() == []
    assert seconds == [None, 4.0, 8.0]
