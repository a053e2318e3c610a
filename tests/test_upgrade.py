"""Stores whose tables an older neoq made: they are brought up to date while workers run and jobs come in."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

import neoq
from neoq.backend import Backend
from neoq.job import Job
from neoq.postgres import schema as postgres_schema
from neoq.record import Status
from neoq.sqlite.schema import MIGRATIONS
from neoq.stored import NUMBER
from neoq.testing.cases.suite import eventually, in_threads

pytestmark = pytest.mark.usefixtures("autostart")

FIRST_POSTGRES, FIRST_SQLITE = 4, 1  # the versions of the tables that the first users have
FAR = 4e9  # a time that does not come
NOW = 1e9
OLD = {  # the jobs that are there: status, retries, run_after, and when it ended
    "ready": (Status.PENDING, 0, NOW, None),
    "due": (Status.PENDING, 0, NOW + 1, None),
    "future": (Status.PENDING, 0, FAR, None),
    "retrying": (Status.RETRYING, 1, NOW, None),
    "running": (Status.RUNNING, 0, NOW, None),
    "succeeded": (Status.SUCCEEDED, 0, NOW, NOW + 5),
    "dead": (Status.DEAD, 3, NOW, NOW + 5),
    "cancelled": (Status.CANCELLED, 0, NOW, NOW + 5),
}
RUN = {"ready", "due", "retrying", "running"}
ADDED = 40  # jobs, by each of the threads


def old_postgres(url: str, schema: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the first tables, with jobs; the worker that had the running one is gone."""
    with psycopg.connect(url, autocommit=True) as connection:
        with monkeypatch.context() as old:
            old.setattr(postgres_schema, "VERSION", FIRST_POSTGRES)
            postgres_schema.migrate(connection, schema)
        connection.execute(sql.SQL("set search_path to {}").format(sql.Identifier(schema)))
        connection.execute(
            "insert into workers (number, id, host, pid, started_at, beat_at, queues, running, locked)"
            " values (4711, 'gone', 'host', 1, 1e9, 1e9, '{q}', 1, true)"
        )
        for name, (status, retries, run_after, ended) in OLD.items():
            columns = (
                "id, run_after, created_at, priority, status, uniqueness, codec, queue, payload, retries"
            )
            values = "nextval('job_ids'), %s, 1e9, 0, %s, 0, 1, 'q', %s, %s"
            given = [run_after, NUMBER[status], b'{"n": "%b"}' % name.encode(), retries]
            table = "history" if status in {Status.SUCCEEDED, Status.DEAD, Status.CANCELLED} else "jobs"
            if ended is not None:
                columns, values = f"{columns}, finished_at, crashes", f"{values}, {ended}, 0"
                connection.execute("insert into counters values ('q', %s, 1)", (NUMBER[status],))
            elif status is Status.RUNNING:
                columns, values = f"{columns}, token, worker, ran_at", f"{values}, 77, 4711, 1e9"
            connection.execute(f"insert into {table} ({columns}) values ({values})".encode(), given)


def old_sqlite(path: Path) -> None:
    """Make a file with the first tables, and jobs; the worker that had the running one is gone."""
    with closing(sqlite3.connect(path)) as connection:
        for statements in MIGRATIONS[:FIRST_SQLITE]:
            for statement in statements:
                connection.execute(statement)
        connection.execute("create table neoq_schema (version integer not null)")
        connection.execute("insert into neoq_schema values (?)", (FIRST_SQLITE,))
        for job_id, (name, (status, retries, run_after, ended)) in enumerate(OLD.items(), 1):
            state = {Status.RUNNING: 2, Status.DEAD: 4}.get(status, 3 if ended else int(name != "ready"))
            kind = {"ready": 0, "due": 1, "future": 1, "retrying": 2, "running": 3, "succeeded": 4, "dead": 5}
            worker = "host:1:gone" if status is Status.RUNNING else None
            connection.execute(
                "insert into neoq_jobs (id, state, status, queue, run_after, created_at, uniqueness, retries,"
                " payload, finished_at, worker, token, lease_until, ran_at)"
                " values (?,?,?,'q',?,1e9,0,?,?,?,?,77,1e9,1e9)",
                (
                    *(job_id, state, NUMBER[status], run_after, retries, b'{"n":"%b"}' % name.encode()),
                    *(ended, worker),
                ),
            )
            connection.execute(
                "insert into neoq_counts values ('q', ?, 1) on conflict do update set n = n + 1",
                (kind.get(name, 6),),
            )
        connection.execute("update neoq_counts set n = ? where queue = ''", (len(OLD),))
        connection.commit()


def check_upgrade(make: Callable[[], Backend]) -> None:
    """Begin to work on old tables with two backends at once, and look at what became of each job."""
    ran: Counter[object] = Counter()

    def begin(number: int) -> Backend:
        backend = make()
        backend.listen("q", lambda job: ran.update([job.payload["n"]]), concurrency=2)
        backend.start()
        for n in range(ADDED // 2):
            backend.enqueue("q", {"n": number * ADDED + n})
        backend.enqueue_many([Job("q", {"n": number * ADDED + n}) for n in range(ADDED // 2, ADDED)])
        return backend

    one, other = in_threads(2, begin)
    try:
        expected = Counter[object](RUN) + Counter(range(2 * ADDED))
        eventually(lambda: sum(ran.values()) >= sum(expected.values()), "all have run")
        eventually(lambda: one.queues()[0].unfinished == 1, "nothing but the job of the future is left")
        assert ran == expected
        [counts] = other.queues()
        assert (counts.succeeded, counts.dead, counts.cancelled) == (1 + len(RUN) + 2 * ADDED, 1, 1)
        assert [job.payload["n"] for job in one.jobs("q", "dead")] == ["dead"]
        assert [job.payload["n"] for job in one.jobs("q", "cancelled")] == ["cancelled"]
        assert [job.payload["n"] for job in one.jobs("q", "pending")] == ["future"]
        assert one.count(queue="q", status="succeeded") == counts.succeeded
        assert other.retry_all(queue="q", status="dead") == 1
        eventually(lambda: ran["dead"] == 1, "the dead job has run again")
    finally:
        one.shutdown(timeout=5)
        other.shutdown(timeout=5)


def test_tables_of_the_first_neoq_on_postgres(
    postgres_url: str, new_schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jobs in every state that the first tables have are there, and run once, after workers have begun."""
    old_postgres(postgres_url, new_schema, monkeypatch)
    check_upgrade(lambda: neoq.PostgresBackend(postgres_url, schema=new_schema, heartbeat=0.1, lease=5.0))


DEFINITIONS = {  # of all that is made in a schema, but for the names that the server finds itself
    "functions": "select pg_get_functiondef(oid) from pg_proc where pronamespace = %s::regnamespace",
    "indexes": "select indexdef from pg_indexes where schemaname = %s",
    "triggers": """
        select pg_get_triggerdef(t.oid) from pg_trigger t join pg_class c on c.oid = tgrelid
        where not tgisinternal and relnamespace = %s::regnamespace
    """,
    "tables": """
        select concat_ws(' ', relname, attname, atttypid::regtype, attnotnull, reloptions)
        from pg_attribute join pg_class c on c.oid = attrelid
        where attnum > 0 and not attisdropped and relkind in ('r', 'v') and relnamespace = %s::regnamespace
    """,
    "views": "select definition from pg_views where schemaname = %s",
}


def defined(connection: psycopg.Connection[Any], schema: str) -> dict[str, list[str]]:
    """The texts of all that is defined in a schema."""
    return {
        name: sorted(text.replace(schema, "S") for (text,) in connection.execute(query, (schema,)))
        for name, query in DEFINITIONS.items()
    }


@pytest.mark.parametrize("version", range(FIRST_POSTGRES, postgres_schema.VERSION))
def test_what_is_defined_on_postgres_does_not_depend_on_where_it_began(
    version: int, postgres_url: str, new_schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tables and functions of a database that was brought up to date are those of a fresh one."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        with monkeypatch.context() as old:
            old.setattr(postgres_schema, "VERSION", version)
            postgres_schema.migrate(connection, new_schema)
        postgres_schema.migrate(connection, new_schema)
        postgres_schema.migrate(connection, f"{new_schema}_fresh")
        assert defined(connection, new_schema) == defined(connection, f"{new_schema}_fresh")


def test_functions_on_postgres_are_written_down_whole(postgres_url: str, new_schema: str) -> None:
    """The text of each is in one of the files: nobody has to put it together to read it."""
    files = Path(postgres_schema.__file__).parent.glob("sql/*.sql")
    texts = [file.read_text(encoding="utf-8") for file in files]
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        postgres_schema.migrate(connection, new_schema)
        query = "select proname, prosrc from pg_proc where pronamespace = %s::regnamespace"
        functions = dict(connection.execute(query, (new_schema,)).fetchall())
    assert functions.pop("leave_turn").count(f"{new_schema}.looks") == 1  # which has the schema's name in it
    assert [name for name, source in functions.items() if not any(source in text for text in texts)] == []


def test_tables_of_the_first_neoq_in_a_file(tmp_path: Path) -> None:
    """The same holds for a file."""
    old_sqlite(tmp_path / "jobs.db")
    check_upgrade(lambda: neoq.SqliteBackend(tmp_path / "jobs.db", heartbeat=0.1, lease=1.0))
