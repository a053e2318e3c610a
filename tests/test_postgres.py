"""PostgresBackend beyond the conformance suite: URL, bad days, plans, transactions."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from psycopg import sql

import neoq
from neoq import (
    BackendError,
    BackendUnavailable,
    ConfigError,
    DuplicateJobError,
    Job,
    PostgresBackend,
    StaleLeaseError,
    Status,
    UnsupportedError,
)
from neoq.filter import filter_of
from neoq.outcome import Lease, Outcome
from neoq.postgres.add import Adder
from neoq.postgres.arrays import Array, byteas, texts, uuids
from neoq.postgres.connections import Connections
from neoq.postgres.rows import ended_query, find_query, held
from neoq.postgres.scan import ScanHints, ScanReport
from neoq.postgres.schema import VERSION
from neoq.postgres.statements import Statements
from neoq.postgres.wake import Notifier, class_of
from neoq.store import Demand
from neoq.testing import Faults
from neoq.testing.cases.suite import PATIENCE, Background, Seen, ended, eventually, in_threads, prepared
from tests.pgbouncer import needs_pgbouncer
from tests.processes import running
from tests.servers import PostgresServer

pytestmark = pytest.mark.usefixtures("autostart")

Make = Callable[..., PostgresBackend]
QUICK = {"job_check_interval": 0.05, "heartbeat": 0.1, "lease": 5.0}


@pytest.fixture
def make(postgres_url: str, schema: str) -> Iterator[Make]:
    """Return how to open a backend on a schema of this test's own."""
    made: list[PostgresBackend] = []

    def make(url: str = postgres_url, **options: Any) -> PostgresBackend:
        made.append(PostgresBackend(url, **{"schema": schema, **QUICK, **options}))
        return made[-1]

    yield make
    for backend in reversed(made):
        backend.shutdown(timeout=1)


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[Any]]]:
    """The connections of neoq that are open, of those that are made in this test."""
    made: list[Any] = []
    connect = psycopg.connect

    def noted(*arguments: Any, **options: Any) -> Any:
        made.append(connect(*arguments, **options))
        return made[-1]

    with monkeypatch.context() as patch:
        patch.setattr("neoq.postgres.connections.psycopg.connect", noted)
        yield lambda: [
            connection
            for connection in made
            if not connection.closed and connection.info.get_parameters().get("application_name") == "neoq"
        ]


@pytest.fixture
def backend(make: Make) -> PostgresBackend:
    """A backend that runs nothing by itself, opened."""
    backend = make(autostart=False)
    backend.queues()
    return backend


@pytest.fixture
def admin(postgres_url: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection of the test's own."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        yield connection


def with_settings(url: str, **settings: str) -> str:
    """A URL with other settings of libpq."""
    given = psycopg.conninfo.conninfo_to_dict(url) | settings
    host, port = given.pop("host"), given.pop("port", 5432)
    user, name = given.pop("user", "postgres"), given.pop("dbname", "postgres")
    return f"postgresql://{user}@{host}:{port}/{name}?" + "&".join(f"{k}={v}" for k, v in given.items())


# -- URL and settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["postgresql", "postgres"])
def test_a_url_with_settings_of_both(scheme: str) -> None:
    """Of a URL's query our settings are ours, and the others are libpq's."""
    url = f"{scheme}://me:secret@db.example:5433/app?sslmode=require&schema=jobs&concurrency=3&connect_timeout=2"
    backend = neoq.connect(url, pool_size=4)
    assert isinstance(backend, PostgresBackend)
    config = backend.config
    assert (config.schema, config.concurrency, config.pool_size) == ("jobs", 3, 4)
    assert psycopg.conninfo.conninfo_to_dict(config.url) == {
        "user": "me", "password": "secret", "host": "db.example", "port": "5433", "dbname": "app",
        "sslmode": "require", "connect_timeout": "2",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("postgresql:///shop", {"dbname": "shop"}),
        ("postgresql:///shop?host=/run/pg&schema=jobs", {"dbname": "shop", "host": "/run/pg"}),
        ("postgres://?host=/run/pg&dbname=shop", {"dbname": "shop", "host": "/run/pg"}),
        ("postgresql://one:1,two:2/shop", {"dbname": "shop", "host": "one,two", "port": "1,2"}),
        ("POSTGRESQL://one/shop", {"dbname": "shop", "host": "one"}),
    ],
)
def test_a_url_without_one_host(url: str, wanted: dict[str, str]) -> None:
    """A URL may leave its host to libpq, name a socket, or several hosts."""
    backend = neoq.connect(url, autostart=False)
    assert isinstance(backend, PostgresBackend)
    assert psycopg.conninfo.conninfo_to_dict(backend.config.url) == wanted


def test_a_password_is_never_shown(caplog: pytest.LogCaptureFixture) -> None:
    """Neither repr() nor an error shows the password of the URL."""
    backend = neoq.connect("postgresql://me:secret@127.0.0.1:1/app", autostart=False)
    with pytest.raises(BackendUnavailable) as caught:
        backend.enqueue("q")
    assert "me@127.0.0.1:1/app" in repr(backend)
    assert "secret" not in f"{backend!r} {caught.value} {caplog.text}"


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        ("postgresql://host/db?schemas=x", "did you mean schema"),
        ("postgresql://host/db?sslmode=require&sslmode=disable", "sslmode is given twice"),
        ("postgresql://host/db?schema=", "schema is ''"),
        ("postgresql://[::1/db", "URL is not one that libpq"),
        ("postgresql://host/db?pool_size=0", "pool_size"),
        ("postgresql://host/db?synchronous=full", "synchronous is not a setting"),
    ],
)
def test_a_bad_url(url: str, advice: str) -> None:
    """What a URL cannot mean is a ConfigError that says what to write."""
    with pytest.raises(ConfigError, match=advice):
        neoq.connect(url)


def test_importing_neoq_imports_no_driver() -> None:
    """`import neoq` brings in no psycopg; naming PostgresBackend does."""
    program = (
        "import sys, neoq; assert 'psycopg' not in sys.modules\n"
        "neoq.PostgresBackend; assert 'psycopg' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)


# -- servers that cannot be used -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "advice"),
    [
        ({"port": "1"}, "nothing listens there"),
        ({"host": "no-such-host.invalid"}, "check the host"),
        ({"dbname": "no_such_database"}, "check the database"),
        ({"user": "nobody_of_that_name"}, "check the database and the user"),
        ({"sslmode": "require"}, "sslmode"),
    ],
)
def test_a_server_that_lets_nobody_in(postgres_url: str, settings: dict[str, str], advice: str) -> None:
    """Who cannot connect is told where to, why, and what to check; the driver's error is chained."""
    with pytest.raises(BackendUnavailable, match=advice) as caught:
        neoq.connect(with_settings(postgres_url, **settings), autostart=False).enqueue("q")
    assert isinstance(caught.value.__cause__, psycopg.OperationalError)
    assert not caught.value.outcome_unknown


def test_a_wrong_password(tmp_path: Any) -> None:
    """A wrong password is one clear error."""
    from tests.servers import started_server

    for server in started_server():
        hba = server.data / "pg_hba.conf"
        with psycopg.connect(server.url, autocommit=True) as admin:
            admin.execute("create role clerk login password 'right'")
            hba.write_text("host all clerk all scram-sha-256\nhost all all all trust\n")
            admin.execute("select pg_reload_conf()")
        for password, is_right in (("wrong", False), ("right", True)):
            url = server.url.replace("postgres@", f"clerk:{password}@", 1)
            backend = neoq.connect(url, autostart=False, migrate=False)
            expected = BackendError if is_right else BackendUnavailable
            with pytest.raises(
                expected, match="no tables" if is_right else "check the user and the password"
            ):
                backend.enqueue("q")


@pytest.mark.usefixtures("new_schema")
def test_a_newer_schema(make: Make, backend: PostgresBackend, admin: psycopg.Connection[Any]) -> None:
    """Tables that a newer neoq has made are refused, and not changed."""
    table = sql.Identifier(backend.config.schema, "migrations")
    admin.execute(sql.SQL("insert into {} (version) values (1000)").format(table))
    with pytest.raises(BackendError, match=r"version 1000.*upgrade"):
        make().enqueue("q")
    rows = admin.execute(sql.SQL("select version from {} order by 1").format(table)).fetchall()
    assert [version for (version,) in rows] == [*range(1, VERSION + 1), 1000]


def test_tables_that_become_newer(
    make: Make, admin: psycopg.Connection[Any], new_schema: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker that runs warns once when a newer neoq has brought the tables up to its date, and goes on."""
    backend = make()
    backend.listen("q", lambda job: job.payload["n"])
    ended(backend, backend.enqueue("q", {"n": 0}))
    assert "newer neoq" not in caplog.text
    admin.execute(f'insert into "{new_schema}".migrations (version) values (1000)')
    eventually(lambda: "newer neoq (version 1000" in caplog.text, "it warns")
    [seen] = backend.workers()
    eventually(lambda: backend.workers()[0].beat_at > seen.beat_at, "its heart beats on")
    assert ended(backend, backend.enqueue("q", {"n": 1})).result == 1
    assert caplog.text.count("newer neoq") == 1
    admin.execute(f'drop table "{new_schema}".migrations')
    [seen] = backend.workers()
    eventually(lambda: backend.workers()[0].beat_at > seen.beat_at, "its heart beats without that table, too")


def test_without_the_right_to_create(
    make: Make, postgres_url: str, new_schema: str, admin: psycopg.Connection[Any]
) -> None:
    """Who may not make tables is told so, and nothing is half made; with migrate() by another it works."""
    role = f"clerk_{new_schema}"
    admin.execute(sql.SQL("create role {} login").format(sql.Identifier(role)))
    url = with_settings(postgres_url, user=role)
    with pytest.raises(BackendError, match=r"may not make neoq's tables.*grant create"):
        make(url).enqueue("q")
    with pytest.raises(BackendError, match=r"no tables of neoq.*neoq\.migrate"):
        make(url, migrate=False).enqueue("q")
    assert admin.execute("select 1 from pg_namespace where nspname = %s", (new_schema,)).fetchall() == []

    neoq.migrate(postgres_url, schema=new_schema)
    names = {"schema": sql.Identifier(new_schema), "role": sql.Identifier(role)}
    with pytest.raises(BackendError, match=r"needs usage on the schema.*has the grants"):
        make(url, migrate=False).enqueue("q")
    for grant in (
        "grant usage on schema {schema} to {role}",
        "grant select, insert, update, delete on all tables in schema {schema} to {role}",
        "grant usage, select on all sequences in schema {schema} to {role}",
    ):
        admin.execute(sql.SQL(grant).format(**names))
    clerk = make(url, migrate=False)
    clerk.listen("q", lambda job: job.payload["n"])
    assert ended(clerk, clerk.enqueue("q", {"n": 7})).result == 7
    clerk.shutdown()
    for revoke in ("drop owned by {role}", "drop role {role}"):
        admin.execute(sql.SQL(revoke).format(**names))


def test_a_worker_of_an_older_neoq_lives_on(make: Make, postgres_url: str, new_schema: str) -> None:
    """After the migration a worker that sends no report still records its heartbeat, and is listed."""
    backend = make()
    assert backend.workers() == []
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(
            sql.SQL(
                "select {}(p_number => null, p_id => 'old', p_host => 'h', p_pid => 1, p_started => 1,"
                " p_queues => '{{q}}', p_running => 1, p_locked => false, p_kinds => '{{}}',"
                " p_version => '1')"
            ).format(sql.Identifier(new_schema, "beat"))
        )
    [worker] = backend.workers()
    assert (worker.id, worker.threads, worker.memory, worker.abandoned) == ("old", (), None, 0)


def test_migration_from_the_first_schema(
    make: Make, postgres_url: str, new_schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jobs that were stored under the first version of the tables are there after the migration."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        from neoq.postgres import schema as postgres_schema

        with monkeypatch.context() as old:
            old.setattr("neoq.postgres.schema.VERSION", 1)
            postgres_schema.migrate(connection, new_schema)
        connection.execute(
            sql.SQL(
                "insert into {} (id, run_after, created_at, priority, status, uniqueness, codec, queue,"
                " payload) values (nextval({}::regclass), 1, 1, 0, 0, 0, 1, 'q', '{{\"n\":1}}')"
            ).format(sql.Identifier(new_schema, "jobs"), f"{new_schema}.job_ids")
        )
    backend = make()
    assert [job.payload for job in backend.jobs()] == [{"n": 1}]
    backend.listen("q", lambda job: job.payload["n"])
    assert ended(backend, backend.jobs()[0]).result == 1


def test_a_migration_that_fails_leaves_nothing(
    make: Make, new_schema: str, admin: psycopg.Connection[Any]
) -> None:
    """Tables are made all or none: where one cannot be, the schema is as it was."""
    admin.execute(sql.SQL("create schema {}").format(sql.Identifier(new_schema)))
    admin.execute(sql.SQL("create table {} (a int)").format(sql.Identifier(new_schema, "ticks")))
    with pytest.raises(BackendError, match='"ticks" already exists'):
        make().enqueue("q")
    tables = admin.execute("select tablename from pg_tables where schemaname = %s", (new_schema,)).fetchall()
    assert tables == [("ticks",)]


def test_many_begin_at_once(make: Make) -> None:
    """Of many that open a new schema at once one makes the tables, and all can use them."""
    backends = [make(autostart=False) for _ in range(6)]
    in_threads(6, lambda n: backends[n].enqueue("q", {"n": n}))
    assert backends[0].stats().ready == 6


# -- plans -----------------------------------------------------------------------------------------------


def fill(admin: psycopg.Connection[Any], schema: str, number: int, run_after: str = "g / 1000.0") -> None:
    """Put waiting jobs into a table whose statistics know nothing of them."""
    statement = (
        "insert into {} (id, run_after, created_at, priority, status, uniqueness, codec, queue, payload)"
        f" select nextval({{}}::regclass), {run_after}, 1, g % 3, 0, 0, 1, 'q', '{{{{}}}}'"
        " from generate_series(1, {}) g"
    )
    admin.execute(
        sql.SQL(statement).format(sql.Identifier(schema, "jobs"), f"{schema}.job_ids", sql.Literal(number))
    )


def test_claims_go_by_the_index(backend: PostgresBackend, admin: psycopg.Connection[Any]) -> None:
    """However many jobs wait, a claim reads no more of them than it takes, and sorts nothing."""
    schema = backend.config.schema
    fill(admin, schema, 30_000)
    backend.store.claim([Demand("q", 1)])
    [(source, settings)] = admin.execute(
        "select prosrc, proconfig from pg_proc"
        " where proname = 'claim' and pronamespace = %s::regnamespace order by pronargs desc limit 1",
        (schema,),
    ).fetchall()
    for setting in settings:
        name, _, value = setting.partition("=")
        admin.execute("select set_config(%s, %s, false)", (name, value.replace('"', "")))
    pick = source[source.index("select ctid as row, crashes") :]
    pick = pick[: pick.index("skip locked")] + "skip locked"
    for name, value in (
        ("p_queues[i]", "'q'"),
        ("v_level", "2::smallint"),
        ("v_now", "1e9::float8"),
        ("v_from", "'-infinity'::float8"),
        ("v_left", "100"),
        ("p_kinds", "null::text[]"),
        ("p_counted", "true"),
    ):
        pick = pick.replace(name, value)
    plan = "\n".join(row[0] for row in admin.execute(f"explain (analyze, costs off) {pick}"))  # type: ignore[arg-type]
    assert "Index Scan using jobs_waiting" in plan
    assert "Sort" not in plan
    assert "Seq Scan" not in plan
    assert "rows=100" in plan.replace("rows=100.00", "rows=100")


def test_jobs_are_found_by_their_end(backend: PostgresBackend, admin: psycopg.Connection[Any]) -> None:
    """Few jobs that ended in a span of time are found by an index at once, among any number of others."""
    schema = backend.config.schema
    statement = (
        "insert into {} (id, run_after, created_at, finished_at, retries, priority, status, uniqueness,"
        " crashes, codec, queue, payload) select nextval({}::regclass), g, g, g, 0, 0,"
        " 3 + (g % 100 = 0)::int, 0, 0, 1, 'q', '{{}}' from generate_series(1, 30000) g"
    )
    admin.execute(sql.SQL(statement).format(sql.Identifier(schema, "history"), f"{schema}.job_ids"))
    admin.execute(sql.SQL("analyze {}").format(sql.Identifier(schema, "history")))
    wanted = filter_of({"since": at(99), "until": at(102)}, 0.0)
    query, values = ended_query(Statements(schema), wanted) or ("", [])
    plan = admin.execute(f"explain (costs off) {query}".encode(), values).fetchall()  # type: ignore[arg-type]
    scans = re.findall(r"(\S+ Scan)(?: using (\S+))? on history", "\n".join(line for (line,) in plan))
    assert scans == [("Index Scan", "history_died"), ("Index Scan", "history_ended")]
    found = backend.store.find(wanted, limit=2)
    assert [job.created for job in found.jobs] == [101.0, 100.0]
    assert [job.created for job in backend.store.find(wanted, limit=2, after=found.rest).jobs] == [99.0]
    assert backend.store.find(filter_of({"until": at(102), "status": "dead"}, 0.0)).rest is None


def test_a_list_reads_the_beginnings_of_payloads(backend: PostgresBackend) -> None:
    """A brief look leaves results and tracebacks in the server, and all but a kilobyte of each payload."""
    statements = Statements(backend.config.schema)
    for query in (statements.brief_unfinished, statements.brief_finished):
        assert not {"payload", "traceback", "result", "attempts"} & set(re.split(r"[\s,]+", query))
    backend.enqueue("q", {"text": "x" * 100_000})
    [job] = backend.store.find_brief(limit=1).jobs
    assert job.body == b'{"text":"' + b"x" * 1016


def at(seconds: float) -> datetime:
    """A time since the epoch."""
    return datetime.fromtimestamp(seconds, UTC)


def test_no_statement_reads_the_whole_table(
    connections: Callable[[], list[Any]], backend: PostgresBackend, admin: psycopg.Connection[Any]
) -> None:
    """Adding, claiming, settling and extending touch only their rows, whatever the statistics say."""
    if admin.info.server_version < 150_000:
        pytest.skip("an older server tells of its reads in its own time")
    schema = backend.config.schema
    fill(admin, schema, 30_000)

    def whole_reads() -> int:
        for connection in connections():  # or they would tell of it in their own time
            connection.execute("select pg_stat_force_next_flush()")
            connection.execute("select 1")
        with psycopg.connect(backend.config.url, autocommit=True) as connection:
            [(number,)] = connection.execute(
                "select seq_scan from pg_stat_user_tables where schemaname = %s and relname = 'jobs'",
                (schema,),
            ).fetchall()
            return int(number)

    before = whole_reads()
    for n in range(7):
        backend.enqueue_many([Job("q", {"n": n, "m": m}) for m in range(10)])
        backend.enqueue("q", {"again": 1})
        jobs = backend.store.claim([Demand("q", 100), Demand("other", 100)]).jobs
        backend.store.extend([neoq.outcome.lease_of(job) for job in jobs])
        retried = [neoq.outcome.given_back(job) for job in jobs[:5]]
        backend.store.settle([neoq.outcome.succeeded(job) for job in jobs[5:]] + retried)
    assert whole_reads() == before


def test_prune_reads_only_what_it_forgets(backend: PostgresBackend, admin: psycopg.Connection[Any]) -> None:
    """However many jobs have ended since, prune reads only those that ended before: the index has them."""
    history = sql.Identifier(schema := backend.config.schema, "history")
    backend.enqueue_many([Job("q", {"n": n}) for n in range(30)])
    backend.store.settle([neoq.outcome.succeeded(job) for job in backend.store.claim([Demand("q", 30)]).jobs])
    columns = [
        name
        for (name,) in admin.execute(
            "select column_name from information_schema.columns where table_schema = %s"
            " and table_name = 'history' and column_name <> 'id'",
            (schema,),
        )
    ]
    copied = sql.SQL(", ").join(map(sql.Identifier, columns))
    admin.execute(
        sql.SQL(
            "insert into {0} (id, {1}) select 1000000 + g, {1} from {0}, generate_series(1, 10000) g"
            " where id = (select min(id) from {0})"
        ).format(history, copied)
    )
    admin.execute(
        sql.SQL(
            "update {0} set finished_at = 0 where id in (select id from {0} order by id limit 10)"
        ).format(history)
    )
    admin.execute(sql.SQL("analyze {}").format(history))
    with admin.transaction():
        [(gone,)] = admin.execute(sql.SQL("select {}.prune(3600, 500)").format(sql.Identifier(schema)))
        [(read,)] = admin.execute(
            "select seq_tup_read + idx_tup_fetch from pg_stat_xact_user_tables"
            " where schemaname = %s and relname = 'history'",
            (schema,),
        )
    assert gone == 10
    assert read < 100


def test_ten_thousand_of_one_fingerprint(backend: PostgresBackend) -> None:
    """Ten thousand enqueues of one fingerprint are one job, and quick."""
    first = backend.enqueue("q", {"n": 1})
    in_threads(4, lambda _: [backend.enqueue("q", {"n": 1}) for _ in range(250)])
    for _ in range(9):
        jobs = backend.enqueue_many([Job("q", {"n": 1}) for _ in range(1000)])
        assert {(job.id, job.duplicate) for job in jobs} == {(first.id, True)}
    assert backend.stats().ready == 1


def test_five_hundred_queues(make: Make) -> None:
    """One process serves five hundred queues in one statement."""
    backend = make(autostart=False, concurrency=1)
    seen = Seen()
    names = [f"queue {n}" for n in range(500)]
    backend.enqueue_many([Job(name, {"n": 1}) for name in names])
    claimed = backend.store.claim([Demand(name, 1) for name in names])
    assert sorted(job.queue for job in claimed.jobs) == sorted(names)
    backend.store.settle([neoq.outcome.given_back(job) for job in claimed.jobs])
    for name in names[:20]:
        backend.listen(name, lambda job: seen(job.queue))
    backend.start()
    assert sorted(seen.wait(20)) == sorted(names[:20])


def test_a_payload_of_a_mebibyte(make: Make) -> None:
    """A payload of max_payload bytes goes through, and comes back as it was."""
    backend = make()
    backend.listen("q", lambda job: len(job.payload["text"]))
    text = "\N{SNOWMAN}" * ((2**20 - 100) // 3)
    done = ended(backend, backend.enqueue("q", {"text": text}))
    assert (done.result, done.payload["text"] == text) == (len(text), True)


def test_claims_that_begin_where_the_last_ended(
    make: Make, monkeypatch: pytest.MonkeyPatch, postgres_url: str
) -> None:
    """While dead rows are in their way claims begin behind them: nothing is left out, priorities hold."""
    monkeypatch.setattr("neoq.postgres.scan.LONG", -1.0)  # each search counts as a long one
    monkeypatch.setattr("neoq.postgres.scan.FULL_SCAN_SHARE", 1e9)
    backend = make(autostart=False)
    past = time.time() - 100

    def enqueue(n: int, **options: Any) -> None:
        at = datetime.fromtimestamp(past + n, UTC)
        backend.enqueue("q", {"n": n}, **{"run_after": at, **options})

    def claim(limit: int = 10) -> list[int]:
        return [job.payload["n"] for job in backend.store.claim([Demand("q", limit)]).jobs]

    for n in range(4):
        enqueue(n)
    enqueue(10, priority=-1)
    assert claim(2) == [0, 1]
    enqueue(11, priority=5)
    assert claim(2) == [11, 2]
    assert claim() == [3, 10]
    enqueue(12)
    backend.enqueue("q", {"n": 13})
    assert claim() == [12, 13]
    backend.enqueue("q", {"n": 14})
    enqueue(15, priority=2)
    enqueue(16, priority=-5)
    enqueue(17, priority=4)
    assert claim() == [17, 15, 14, 16]
    enqueue(-50)  # before all that was ever claimed
    claimed = backend.store.claim([Demand("q", 10)])
    assert claimed.jobs == []
    assert claimed.next_due is not None
    assert (claimed.next_due - claimed.now).total_seconds() <= 1.0
    assert eventually(claim, "it is found when all is searched again") == [-50]


def test_a_reclaimed_job_is_found_at_once(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that reclaims a job claims it, though its claims begin behind dead rows."""
    monkeypatch.setattr("neoq.postgres.scan.LONG", -1.0)  # each search counts as a long one
    monkeypatch.setattr("neoq.postgres.scan.FULL_SCAN_EVERY", 60.0)
    leaver, backend = make(autostart=False), make(autostart=False)
    leaver.enqueue("q", {"n": 0})
    assert len(leaver.store.claim([Demand("q", 1)]).jobs) == 1
    backend.enqueue("q", {"n": 1})
    assert [job.payload["n"] for job in backend.store.claim([Demand("q", 10)]).jobs] == [1]
    leaver.shutdown()
    eventually(lambda: backend.store.reclaim().returned, "it is reclaimed")
    assert [job.payload["n"] for job in backend.store.claim([Demand("q", 10)]).jobs] == [0]


def test_one_slow_scan_changes_nothing() -> None:
    """Claims begin behind dead rows only after two slow scans: one was slow because the server was busy."""
    hints = ScanHints()
    for seconds, hinted in ((9.0, False), (0.0, False), (9.0, False), (0.1, True)):
        hints.learn({}, None, [ScanReport("q", 0, 1.0, seconds)])
        assert bool(hints.of(["q"], None)) is hinted


def test_a_claim_of_other_kinds_does_not_begin_there(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A claim of other kinds finds what the claims before it passed over for its kind."""
    monkeypatch.setattr("neoq.postgres.scan.LONG", -1.0)  # each search counts as a long one
    backend = make(autostart=False)
    long_ago = datetime.fromtimestamp(time.time() - 100, UTC)
    backend.enqueue("q", run_after=long_ago, kind="other")
    assert backend.store.claim([Demand("q", 1, frozenset({"mine"}))]).jobs == []
    assert [job.kind for job in backend.store.claim([Demand("q", 1, frozenset({"other"}))]).jobs] == ["other"]


def buried(backend: PostgresBackend, number: int) -> list[Job]:
    """Let jobs die one after another; they are returned in that order."""
    jobs = []
    for n in range(number):
        backend.enqueue("q", {"n": n})
        [job] = backend.store.claim([Demand("q", 1)]).jobs
        dead = neoq.outcome.succeeded(job)._replace(status=Status.DEAD, finished_at=1000.0 + n)
        backend.store.settle([dead])
        jobs.append(job)
    return jobs


def dead_of(backend: PostgresBackend) -> list[int]:
    """Which of the jobs that died are kept."""
    return sorted(job.payload["n"] for job in backend.jobs(status=Status.DEAD))


def test_several_drop_dead_jobs_at_once(
    backend: PostgresBackend, admin: psycopg.Connection[Any], postgres_url: str
) -> None:
    """Processes that find too many dead jobs at one time drop the excess once."""
    buried(backend, 8)
    trim = f'select count(*) from "{backend.config.schema}".trim_history(true, 5)'
    with psycopg.connect(postgres_url) as first, psycopg.connect(postgres_url) as second:
        assert first.execute(trim).fetchall() == [(3,)]
        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.append(second.execute(trim).fetchall()))
        thread.start()
        pid = second.info.backend_pid

        def waits() -> bool:
            rows = admin.execute("select wait_event_type from pg_stat_activity where pid = %s", (pid,))
            return not thread.is_alive() or rows.fetchall() == [("Lock",)]

        eventually(waits, "the second waits for the first")
        first.commit()
        thread.join(PATIENCE)
        second.commit()
        assert found == [[(0,)]]
    assert dead_of(backend) == [3, 4, 5, 6, 7]


def test_a_dead_job_that_is_being_deleted(
    backend: PostgresBackend, admin: psycopg.Connection[Any], postgres_url: str
) -> None:
    """While somebody deletes one of the oldest dead jobs no younger one is dropped in its place."""
    oldest = buried(backend, 6)[0]
    schema = backend.config.schema
    with psycopg.connect(postgres_url) as other:
        other.execute(f"select * from \"{schema}\".change(array[{oldest.id}], array[null::uuid], 'delete')")
        admin.execute(Statements(schema).trim, {"dead": True, "limit": 5})
    assert dead_of(backend) == [1, 2, 3, 4, 5]


# -- other processes -------------------------------------------------------------------------------------


def test_a_notification_wakes_another_process(make: Make) -> None:
    """A worker that looks once an hour starts a job at once that another process enqueues."""
    worker = make(job_check_interval=3600, heartbeat=60, lease=600)
    seen = Seen()
    worker.listen("q", lambda job: seen(job.payload["n"]))
    ended(worker, worker.enqueue("q", {"n": 0}))
    program = (
        "import sys, neoq\n"
        "with neoq.PostgresBackend(sys.argv[1], schema=sys.argv[2]) as backend:\n"
        "    for n in (1, 2, 3): backend.enqueue('q', {'n': n})\n"
        "    backend.enqueue('q', {'n': 4}, run_after=0.2)\n"
        "    backend.enqueue_many([neoq.Job('q', {'n': n}) for n in (5, 6)])\n"
    )
    with running([sys.executable, "-c", program, worker.config.url, worker.config.schema]) as child:
        child.ends_well()
    assert sorted(seen.wait(7)) == [0, 1, 2, 3, 4, 5, 6]


def test_a_transaction_wakes_another(make: Make, postgres_url: str) -> None:
    """The commit of a transaction wakes workers that look once an hour."""
    worker = make(job_check_interval=3600, heartbeat=60, lease=600)
    seen = Seen()
    worker.listen("q", lambda job: seen(job.payload["n"]))
    ended(worker, worker.enqueue("q", {"n": 0}))
    with psycopg.connect(postgres_url) as connection:
        worker.enqueue("q", {"n": 1}, transaction=connection)
        seen.stays(1)
    seen.wait(2)


def test_a_killed_worker(make: Make) -> None:
    """The job of a worker killed with -9 runs in another one soon, with one crash behind it."""
    backend = make(heartbeat=0.2, lease=30.0)
    program = (
        "import sys, time, neoq\n"
        "backend = neoq.PostgresBackend(sys.argv[1], schema=sys.argv[2], heartbeat=0.2)\n"
        "backend.listen('q', lambda job: (print('started', flush=True), time.sleep(600)))\n"
        "time.sleep(600)\n"
    )
    backend.queues()
    with running([sys.executable, "-c", program, backend.config.url, backend.config.schema]) as child:
        job = backend.enqueue("q")
        child.until("started")
        seen = Seen()
        backend.listen("q", lambda job: seen(job.crashes))
        seen.stays(0)
        os.kill(child.pid, signal.SIGKILL)
        child.process.wait(PATIENCE)
        assert seen.wait() == [1]
        assert ended(backend, job).status is Status.SUCCEEDED


def test_a_fork_leaves_the_parents_sessions_alone(connections: Callable[[], list[Any]], make: Make) -> None:
    """A child of a fork has connections of its own, and its end closes none of the parent's."""
    backend = make()
    seen = Seen()
    backend.listen("q", lambda job: seen(job.payload["n"]) or os.getpid())
    ended(backend, backend.enqueue("q", {"n": 0}))
    sessions = connections()
    pid = os.fork()
    if not pid:
        code = 1
        try:
            done = ended(backend, backend.enqueue("q", {"n": 1}))
            code = 0 if done.status is Status.SUCCEEDED else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert all(not connection.closed for connection in sessions)
    done = ended(backend, backend.enqueue("q", {"n": 2}))
    assert done.result is None or done.status is Status.SUCCEEDED
    assert 2 in seen.items or done.result != os.getpid()


@pytest.mark.usefixtures("new_schema")
def test_a_shutdown_while_a_claim_hangs(make: Make, admin: psycopg.Connection[Any]) -> None:
    """A claim that takes longer than a shutdown may is broken off: its jobs are as they were before."""
    producer, worker = make(autostart=False), make()
    job = producer.enqueue("q")
    name = producer.config.schema
    admin.execute(
        f'create function "{name}".hang() returns trigger language plpgsql as'
        " $$ begin perform pg_sleep(600); return new; end $$"
    )
    admin.execute(
        f'create trigger hang before update on "{name}".jobs for each row execute function "{name}".hang()'
    )
    worker.listen("q", lambda _job: None)
    sleeping = f"select pid from pg_stat_activity where wait_event = 'PgSleep' and query like '%{name}%'"
    eventually(lambda: admin.execute(sleeping).fetchall(), "its claim hangs")
    worker.shutdown(timeout=0.5)
    eventually(lambda: not admin.execute(sleeping).fetchall(), "it is broken off")
    found = producer.get(job.id or 0)
    assert found is not None
    assert (found.status, found.crashes) == (Status.PENDING, 0)


def test_a_worker_that_has_left_killed_nobody(make: Make, backend: PostgresBackend) -> None:
    """What a worker still held when it left in good order is ready again with no crash charged."""
    leaver = make(autostart=False)
    leaver.enqueue("q")
    assert len(leaver.store.claim([Demand("q", 1)]).jobs) == 1
    leaver.shutdown()
    [job] = eventually(lambda: backend.store.reclaim().returned, "it is reclaimed")
    assert (job.status, job.crashes) == (Status.PENDING, 0)


def test_who_has_just_come_calls_nobody_dead(
    make: Make, admin: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failover all locks are free: who comes then gives the living time to return."""
    worker = make(autostart=False)
    worker.enqueue("q")
    assert len(worker.store.claim([Demand("q", 1)]).jobs) == 1
    Faults(worker).drop_worker_lock()
    workers = sql.Identifier(worker.config.schema, "workers")
    admin.execute(sql.SQL("update {} set locked = true, beat_at = beat_at - 10").format(workers))
    may_judge = (
        "select clock_timestamp() - pg_postmaster_start_time() > '1 s' and not exists"
        " (select from pg_locks where locktype = 'advisory' and classid = %s::oid)"
    )
    lock = (class_of(worker.config.schema),)
    eventually(lambda: admin.execute(may_judge, lock).fetchall() == [(True,)], "the lock is free")
    now = time.monotonic()
    monkeypatch.setattr("neoq.postgres.wake.machine", SimpleNamespace(monotonic=lambda: now))
    newcomer = make(autostart=False)
    newcomer.queues()
    assert newcomer.store.reclaim() == ([], [])
    monkeypatch.undo()
    [job] = eventually(lambda: newcomer.store.reclaim().returned, "it is reclaimed")
    assert job.crashes == 1


# -- bad days --------------------------------------------------------------------------------------------


def sessions_of(admin: psycopg.Connection[Any]) -> list[int]:
    """The sessions that neoq has."""
    rows = admin.execute("select pid from pg_stat_activity where application_name = 'neoq'").fetchall()
    return [pid for (pid,) in rows]


def test_sessions_that_are_terminated(make: Make, postgres_url: str) -> None:
    """Sessions that an administrator ends are opened again: each job runs, once, and none is lost."""
    url = with_settings(postgres_url, application_name="neoq_terminated")
    backend = make(url)
    seen = Seen()
    backend.listen("q", lambda job: seen(job.payload["n"]), concurrency=4)
    stop = threading.Event()

    def terminate() -> None:
        with psycopg.connect(postgres_url, autocommit=True) as admin:
            while not stop.wait(0.05):
                admin.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity"
                    " where application_name = 'neoq_terminated' order by random() limit 1"
                )

    thread = threading.Thread(target=terminate)
    thread.start()
    accepted = []
    try:
        for n in range(300):
            try:
                backend.enqueue("q", {"n": n})
                accepted.append(n)
            except BackendUnavailable:
                pass
    finally:
        stop.set()
        thread.join()
    eventually(lambda: set(accepted) <= set(seen.items), "all that were accepted have run")
    assert backend.drain(PATIENCE)
    assert backend.stats().running == 0


def test_a_server_that_restarts_under_load(
    postgres_server: PostgresServer, new_schema: str, caplog: pytest.LogCaptureFixture
) -> None:
    """While the server is away handlers go on; their outcomes are kept, and every accepted job ends."""
    seen = Seen()
    with PostgresBackend(postgres_server.url, schema=new_schema, **QUICK) as backend:
        gate = threading.Event()

        def work(job: Job) -> int:
            seen(job.payload["n"])
            if job.payload["n"] == 0:
                gate.wait(PATIENCE)
            return int(job.payload["n"])

        backend.listen("q", work, concurrency=4)
        slow = backend.enqueue("q", {"n": 0})
        seen.wait()
        accepted, refused = [], 0
        for how in (signal.SIGQUIT, signal.SIGINT):
            for n in range(len(accepted) + refused + 1, len(accepted) + refused + 51):
                backend.enqueue("q", {"n": n})
                accepted.append(n)
            postgres_server.stop(how)
            with pytest.raises(BackendUnavailable):
                backend.enqueue("q", {"n": 10**6})
            if how is signal.SIGQUIT:
                gate.set()  # it ends while there is no server
                eventually(lambda: "outcomes wait for the store" in caplog.text, "its outcome is kept")
            postgres_server.start()
        assert ended(backend, slow).result == 0
        eventually(lambda: set(seen.items) >= {0, *accepted}, "all have run")
        assert backend.drain(PATIENCE)
        assert {counts.queue: counts.unfinished for counts in backend.queues()} == {"q": 0}


def test_an_enqueue_that_waits_for_the_server(postgres_server: PostgresServer, new_schema: str) -> None:
    """With wait_for_server an enqueue waits while the server is away, and no longer than that."""
    with PostgresBackend(postgres_server.url, schema=new_schema, wait_for_server=PATIENCE) as backend:
        backend.queues()
        postgres_server.stop()
        with (
            PostgresBackend(postgres_server.url, schema=new_schema) as hasty,
            pytest.raises(BackendUnavailable),
        ):
            hasty.enqueue("q")
        jobs: list[Job] = []
        waiter = threading.Thread(target=lambda: jobs.append(backend.enqueue("q", {"n": 1})))
        waiter.start()
        waiter.join(0.1)
        assert waiter.is_alive()
        postgres_server.start()
        waiter.join(PATIENCE)
        assert [job.id for job in backend.jobs()] == [job.id for job in jobs]


def test_a_server_that_comes_later(postgres_server: PostgresServer, new_schema: str) -> None:
    """A backend whose server could not be reached connects at the next call."""
    postgres_server.stop()
    backend = PostgresBackend(postgres_server.url, schema=new_schema, autostart=False)
    with pytest.raises(BackendUnavailable, match="nothing listens there"):
        backend.enqueue("q")
    postgres_server.start()
    with backend:
        assert backend.enqueue("q").id


@pytest.mark.parametrize("owes", [False, True])
def test_who_leaves_in_good_order_is_not_looked_after(
    make: Make, admin: psycopg.Connection[Any], new_schema: str, owes: bool
) -> None:
    """A worker that has settled all it claimed leaves nothing to reclaim, which would search all the jobs."""
    backend = make(autostart=False)
    backend.enqueue("q")
    [job] = backend.store.claim([Demand("q", 1)]).jobs
    if not owes:
        backend.store.settle([Outcome(Lease(job.id or 0, "q", job.token, None), Status.SUCCEEDED)])
    backend.shutdown()
    [(left,)] = admin.execute(f'select count(*) from "{new_schema}".workers').fetchall()
    assert bool(left) is owes


def test_a_lost_claim_is_given_back(backend: PostgresBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs of a claim whose reply was lost run nowhere: the next claim takes them again."""
    backend.enqueue_many([Job("q", {"n": n}) for n in range(3)])
    real, claim = Connections.execute, Statements(backend.config.schema).claim

    def lose(connections: Connections, statement: str, values: Any = ()) -> Any:
        rows = real(connections, statement, values)
        if statement == claim:
            raise BackendUnavailable("the reply was lost", outcome_unknown=True)
        return rows

    with monkeypatch.context() as patch:
        patch.setattr(Connections, "execute", lose)
        with pytest.raises(BackendUnavailable):
            backend.store.claim([Demand("q", 10)])
    assert [job.payload["n"] for job in backend.store.claim([Demand("q", 10)]).jobs] == [0, 1, 2]


@pytest.mark.parametrize("many", [False, True])
def test_a_lost_reply_of_an_enqueue(
    backend: PostgresBackend, monkeypatch: pytest.MonkeyPatch, many: bool
) -> None:
    """An enqueue that was committed, and whose reply was lost, is not repeated: its token tells."""
    backend.enqueue("q", {"first": 1})

    lost: list[int] = []
    add = Connections.prepared

    def prepared_add(connections: Connections, connection: Any, name: bytes, *arguments: Any) -> Any:
        result = add(connections, connection, name, *arguments)
        if b"add" in name and not lost:
            lost.append(1)
            connection.close()
            raise psycopg.OperationalError("the connection was lost")
        return result

    monkeypatch.setattr(Connections, "prepared", prepared_add)
    execute = psycopg.Cursor.execute

    def cursor_execute(cursor: Any, statement: Any, *arguments: Any, **options: Any) -> Any:
        result = execute(cursor, statement, *arguments, **options)
        if ".add(" in str(statement) and not lost:
            lost.append(1)
            cursor.connection.close()
            raise psycopg.OperationalError("the connection was lost")
        return result

    monkeypatch.setattr(psycopg.Cursor, "execute", cursor_execute)
    jobs = (
        backend.enqueue_many([Job("q", {"n": n}, unique=False) for n in range(3)])
        if many
        else [backend.enqueue("q", {"n": 1})]
    )
    assert lost
    assert [job.id for job in backend.jobs()] == sorted((job.id or 0 for job in jobs), reverse=True) + [
        job.id for job in backend.jobs() if "first" in job.payload
    ]


@pytest.mark.parametrize("committed", [True, False])
@pytest.mark.parametrize("what", ["spans", "bounded", "batch"])
def test_a_lost_reply_to_a_commit(
    make: Make, monkeypatch: pytest.MonkeyPatch, what: str, *, committed: bool
) -> None:
    """What was added in a transaction whose commit was not answered is there once, and is no duplicate."""
    backend = make(autostart=False, queue_capacity=100 if what == "bounded" else None)
    if what == "bounded":
        backend.listen("q", lambda _job: None)
    there = backend.enqueue("q", {"n": 9})
    lost: list[int] = []
    plain = psycopg.Connection.transaction

    @contextmanager
    def transaction(connection: Any, *arguments: Any, **options: Any) -> Iterator[Any]:
        with plain(connection, *arguments, **options) as context:
            yield context
            if not lost and not committed:
                connection.close()
        if not lost:
            lost.append(1)
            connection.close()
            raise psycopg.OperationalError("the connection was lost")

    monkeypatch.setattr(psycopg.Connection, "transaction", transaction)
    if what == "batch":
        batch = backend.batch(then=Job("q", {"n": 0}))
        batch.__enter__()
        ids = [batch.id]
    else:
        span = timedelta(minutes=1) if what == "spans" else True
        jobs = [Job("q", {"n": n}, unique=span) for n in (0, 1)]
        added = backend.enqueue_many([*jobs, Job("q", {"n": 9})])
        assert [job.duplicate for job in added] == [False, False, True]
        ids = [job.id for job in added[:2]]
    assert lost
    assert sorted(job.id for job in backend.jobs()) == sorted([there.id, *ids])


def waiting_for_a_lock(admin: psycopg.Connection[Any], number: int) -> None:
    """Wait until so many sessions of neoq wait for a lock."""
    query = (
        "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and application_name = 'neoq'"
    )
    eventually(lambda: admin.execute(query).fetchall() == [(number,)], f"{number} sessions wait")


def test_callers_hold_up_no_worker(make: Make, postgres_url: str, admin: psycopg.Connection[Any]) -> None:
    """While callers hold every connection that they may have, jobs are claimed, renewed and settled."""
    worker, other = make(pool_size=2), make(autostart=False)
    worker.listen("q", lambda job: job.payload["n"])
    ended(worker, worker.enqueue("q", {"n": 0}))
    with psycopg.connect(postgres_url) as connection:
        other.enqueue("held", transaction=connection)
        calls = [Background(lambda: worker.enqueue_many([Job("held"), Job("q", {"n": 2})])) for _ in range(2)]
        waiting_for_a_lock(admin, 2)
        assert ended(other, other.enqueue("q", {"n": 1})).result == 1
        [seen] = other.workers()
        eventually(lambda: other.workers()[0].beat_at > seen.beat_at, "its heart beats")
    for call in calls:
        call.result()


def test_a_wait_for_a_connection_ends(
    make: Make, monkeypatch: pytest.MonkeyPatch, postgres_url: str, admin: psycopg.Connection[Any]
) -> None:
    """A call that waits in vain for a connection says what to do, and that nothing was sent."""
    monkeypatch.setattr("neoq.postgres.connections.PLACE_COMES", 0.05)
    backend = make(autostart=False, pool_size=2)
    backend.queues()
    with psycopg.connect(postgres_url) as connection:
        connection.execute(f'lock table "{backend.config.schema}".jobs')
        calls = [Background(backend.jobs) for _ in range(2)]
        waiting_for_a_lock(admin, 2)
        with pytest.raises(BackendUnavailable, match=r"all 2 connections .*raise pool_size") as caught:
            backend.enqueue_many([Job("q", {"n": n}) for n in range(2)])
        assert not caught.value.outcome_unknown
    for call in calls:
        call.result()
    backend.enqueue_many([Job("q", {"n": n}) for n in range(2)])
    assert backend.stats().ready == 2


@pytest.mark.parametrize("limit", [1, 3])
def test_few_connections(
    make: Make, postgres_url: str, new_schema: str, admin: psycopg.Connection[Any], limit: int
) -> None:
    """With three connections a process does its work; with too few it says so, and stores nothing twice."""
    role = sql.Identifier(f"few_{new_schema}")
    admin.execute(sql.SQL("create role {} login connection limit {}").format(role, limit))
    admin.execute(sql.SQL("create schema {} authorization {}").format(sql.Identifier(new_schema), role))
    backend = make(with_settings(postgres_url, user=f"few_{new_schema}"))
    stored: list[int] = []
    refused: list[str] = []

    def produce(number: int) -> None:
        for n in range(5):
            try:
                stored.append(backend.enqueue("q", {"n": 10 * number + n}).id or 0)
            except BackendUnavailable as error:
                refused.append(str(error))

    ran = Seen()
    backend.queues()
    if limit > 2:
        backend.listen("q", lambda job: ran(job.payload["n"]), concurrency=4)
    in_threads(4, produce)
    assert len(stored) + len(refused) == 20
    assert all("too many connections" in words and "raise max_connections" in words for words in refused)
    if limit > 2 and stored:
        assert len(set(ran.wait(len(stored)))) == len(stored)
    backend.shutdown(timeout=5)
    query = sql.SQL("select count(*) from {}").format(sql.Identifier(new_schema, "all_jobs"))
    assert admin.execute(query).fetchone() == (len(stored),)
    admin.execute(sql.SQL("drop owned by {} cascade").format(role))
    admin.execute(sql.SQL("drop role {}").format(role))


# -- enqueues that meet others -----------------------------------------------------------------------------


def test_new_queues_with_a_capacity(make: Make) -> None:
    """More threads than connections enqueue into new queues with a capacity, and none waits for ever."""
    backend = make(autostart=False, pool_size=2, queue_capacity=10)
    in_threads(6, lambda n: [backend.enqueue(f"q{n}-{m}") for m in range(10)])
    assert len(backend.queues()) == 60


def test_an_open_transaction_with_a_duplicate_of_a_running_job(make: Make, postgres_url: str) -> None:
    """A job settles while a caller's transaction is open that has enqueued its duplicate."""
    backend = make()
    began, go_on = threading.Event(), threading.Event()

    @backend.listen("q")
    def run(job: Job) -> None:
        began.set()
        go_on.wait(PATIENCE)

    first = backend.enqueue("q", {"n": 1})
    assert began.wait(PATIENCE)
    with psycopg.connect(postgres_url) as connection:
        assert backend.enqueue("q", {"n": 1}, transaction=connection).duplicate
        go_on.set()
        assert backend.wait(first.id, PATIENCE).status is Status.SUCCEEDED


@pytest.mark.parametrize("joins", [False, True])
def test_a_holder_that_is_forgotten(
    make: Make, admin: psycopg.Connection[Any], new_schema: str, monkeypatch: pytest.MonkeyPatch, joins: bool
) -> None:
    """A job whose holder ends and is forgotten before it could be read is added after it."""
    backend = make(autostart=False, retention=0)
    first = backend.enqueue("q", {"n": 1})

    def late(*arguments: Any, **options: Any) -> Any:
        admin.execute(f'delete from "{new_schema}".jobs where id = {first.id}')
        return find_query(*arguments, **options)

    monkeypatch.setattr("neoq.postgres.add.find_query", late)
    with psycopg.connect(admin.info.dsn) as other:
        second = backend.enqueue("q", {"n": 1}, transaction=other if joins else None)
    assert not second.duplicate
    assert [job.id for job in backend.jobs()] == [second.id]


def test_a_new_connection_that_breaks(
    backend: PostgresBackend, admin: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An enqueue whose new connection breaks at once takes another."""
    connect = Connections.connect

    def broken(connections: Connections) -> Any:
        connection = connect(connections)
        monkeypatch.undo()
        admin.execute("select pg_terminate_backend(%s)", (connection.info.backend_pid,))
        return connection

    monkeypatch.setattr(Connections, "connect", broken)
    assert [backend.enqueue("q", {"n": n}).duplicate for n in range(2)] == [False, False]


def test_a_connection_that_breaks_at_its_first_statement(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a connection breaks before anything of ours was sent, nothing is in doubt."""
    connections = Connections(postgres_url, size=1)

    def breaks(connection: psycopg.Connection[Any], *_: Any, **__: Any) -> Any:
        connection.close()
        raise psycopg.OperationalError("the connection was lost")

    monkeypatch.setattr(psycopg.Connection, "execute", breaks)
    with pytest.raises(BackendUnavailable) as caught, connections.use():
        pass
    assert not caught.value.outcome_unknown


# -- transactions of other libraries ---------------------------------------------------------------------


def test_sqlalchemy(backend: PostgresBackend, postgres_url: str) -> None:
    """A job joins the transaction of an SQLAlchemy Connection or Session: with its commit or not at all."""
    from sqlalchemy import create_engine
    from sqlalchemy.orm import Session

    engine = create_engine(postgres_url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.connect() as connection:
        backend.enqueue("q", {"n": 1}, transaction=connection)
        connection.rollback()
        backend.enqueue("q", {"n": 2}, transaction=connection)
        backend.enqueue_many([Job("q", {"n": 3}), Job("q", {"n": 2})], transaction=connection)
        assert backend.stats().ready == 0
        connection.commit()
    with Session(engine) as session:
        backend.enqueue("q", {"n": 4}, transaction=session)
        session.rollback()
        backend.enqueue("q", {"n": 5, "text": "100 %s"}, meta={"a": "b"}, run_after=5, transaction=session)
        session.commit()
    engine.dispose()
    assert sorted(job.payload["n"] for job in backend.jobs()) == [2, 3, 5]
    other = create_engine("sqlite://")
    with (
        other.connect() as connection,
        pytest.raises(UnsupportedError, match="SQLAlchemy connection to sqlite"),
    ):
        backend.enqueue("q", transaction=connection)
    other.dispose()


def test_a_span_in_a_session(backend: PostgresBackend, postgres_url: str) -> None:
    """unique=timedelta in an SQLAlchemy Session never was after a rollback, and holds after a commit."""
    from sqlalchemy import create_engine
    from sqlalchemy.orm import Session

    engine, hour = create_engine(of_sqlalchemy(postgres_url)), timedelta(hours=1)
    with Session(engine) as session:
        for end in (session.rollback, session.commit):
            job = backend.enqueue("q", {"n": 1}, unique=hour, transaction=session)
            assert not job.duplicate
            end()
        assert backend.cancel(job.id)
        met = backend.enqueue("q", {"n": 1}, unique=hour, transaction=session)
    engine.dispose()
    assert (met.id, met.duplicate, met.status) == (job.id, True, Status.CANCELLED)


DJANGO = """
import sys, django, psycopg
from django.conf import settings
given = psycopg.conninfo.conninfo_to_dict(sys.argv[1])
place = {
    "ENGINE": "django.db.backends.postgresql", "NAME": given.get("dbname", "postgres"),
    "USER": given.get("user"), "PASSWORD": given.get("password", ""),
    "HOST": given["host"], "PORT": given.get("port", "")}
other = psycopg.conninfo.conninfo_to_dict(sys.argv[3])["dbname"]
settings.configure(DATABASES={"default": place, "other": {**place, "NAME": other}})
django.setup()
from django.db import connection, connections, transaction
import neoq
with neoq.PostgresBackend(sys.argv[1], schema=sys.argv[2], autostart=False) as backend:
    try:
        with transaction.atomic():
            backend.enqueue("q", {"n": 1}, transaction=connection)
            raise KeyError
    except KeyError:
        pass
    with transaction.atomic():
        backend.enqueue("q", {"n": 2}, transaction=connection, meta={"a": "b"})
        assert backend.enqueue("q", {"n": 2}, transaction=connection).duplicate
        try:
            backend.enqueue("q", {"n": 2}, transaction=connection, on_duplicate="raise")
        except neoq.DuplicateJobError as error:
            assert error.job.payload == {"n": 2}
        backend.enqueue("q", {"n": 3}, transaction=connection)
        assert backend.stats().ready == 0
    print(sorted(job.payload["n"] for job in backend.jobs()))
    try:
        backend.enqueue("q", {"n": 4}, transaction=connection)
    except neoq.UnsupportedError as error:
        print(error)
    with transaction.atomic(using="other"):
        try:
            backend.enqueue("q", {"n": 5}, transaction=connections["other"])
        except neoq.UnsupportedError as error:
            print(error)
"""


def test_django(backend: PostgresBackend, admin: psycopg.Connection[Any], other_url: str) -> None:
    """A job joins the transaction of a Django connection; elsewhere it is refused."""
    if admin.info.server_version < 140_000:
        pytest.skip("Django asks for PostgreSQL 14")
    given = [backend.config.url, backend.config.schema, other_url]
    with running([sys.executable, "-c", DJANGO, *given]) as child:
        found, refusal, elsewhere = child.ends_well()
    assert found == "[2, 3]"
    assert "transaction.atomic" in refusal
    assert "only in one database" in elsewhere


class OfPsycopg2(Exception):
    """An error as psycopg2 raises them, from psycopg's."""

    def __init__(self, error: psycopg.Error) -> None:
        super().__init__(str(error))
        self.pgcode = error.sqlstate
        self.diag = error.diag


class OnPsycopg2:
    """An SQLAlchemy connection whose errors are psycopg2's."""

    def __init__(self, connection: Any) -> None:
        self.dialect, self.connection = connection.dialect, connection.connection
        self._connection = connection

    def exec_driver_sql(self, statement: str, values: tuple[Any, ...]) -> Any:
        from sqlalchemy.exc import DBAPIError

        try:
            return self._connection.exec_driver_sql(statement, values)
        except DBAPIError as error:
            error.orig = OfPsycopg2(error.orig)  # type: ignore[arg-type]
            raise


def test_errors_of_psycopg2(backend: PostgresBackend, postgres_url: str) -> None:
    """Where SQLAlchemy or Django use psycopg2 its errors mean what psycopg's do."""
    from sqlalchemy import create_engine

    there = backend.enqueue("q", {"n": 1})
    engine = create_engine(postgres_url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        transaction = OnPsycopg2(connection)
        with pytest.raises(DuplicateJobError) as caught:
            backend.enqueue("q", {"n": 1}, on_duplicate="raise", transaction=transaction)
        assert caught.value.job.id == there.id
        backend.enqueue("q", {"n": 2}, transaction=transaction)
    with engine.connect() as connection:
        connection.exec_driver_sql("set transaction read only")
        with pytest.raises(BackendUnavailable, match="takes no writes"):
            backend.enqueue("q", {"n": 3}, transaction=OnPsycopg2(connection))
    engine.dispose()
    assert sorted(job.payload["n"] for job in backend.jobs()) == [1, 2]


def test_temporary_tables_of_the_callers(backend: PostgresBackend, postgres_url: str) -> None:
    """Temporary tables of a caller's that are named as ours take no job: its session finds ours."""
    schema = sql.Identifier(backend.config.schema)
    with psycopg.connect(postgres_url) as connection:
        for table in ("jobs", "history", "counters", "queues", "workers"):
            name = sql.Identifier(table)
            connection.execute(
                sql.SQL("create temp table {1} (like {0}.{1} including all)").format(schema, name)
            )
        job = backend.enqueue("q", {"n": 1}, transaction=connection)
        assert backend.enqueue("q", {"n": 1}, transaction=connection).id == job.id
    assert [job.payload for job in backend.jobs()] == [{"n": 1}]


def test_what_is_no_transaction(backend: PostgresBackend, admin: psycopg.Connection[Any]) -> None:
    """A connection in autocommit, and what is no connection, are refused with what to use."""
    with pytest.raises(UnsupportedError, match=r"connection\.transaction"):
        backend.enqueue("q", transaction=admin)
    with pytest.raises(UnsupportedError, match="psycopg Connection, an SQLAlchemy"):
        backend.enqueue("q", transaction=object())
    with admin.transaction():
        backend.enqueue("q", transaction=admin)
    assert backend.stats().ready == 1


def test_a_row_factory_of_the_callers(backend: PostgresBackend, postgres_url: str) -> None:
    """A connection that makes dicts of rows, or prepares nothing, may be joined all the same."""
    from psycopg.rows import dict_row

    with psycopg.connect(postgres_url, row_factory=dict_row, prepare_threshold=None) as connection:  # type: ignore[arg-type]
        job = backend.enqueue("q", {"n": 1}, transaction=connection)
        assert backend.enqueue("q", {"n": 1}, transaction=connection).id == job.id
    assert [job.id for job in backend.jobs()] == [job.id]


def test_a_duplicate_does_not_break_the_transaction(backend: PostgresBackend, postgres_url: str) -> None:
    """A DuplicateJobError leaves the caller's transaction as it was before."""
    there = backend.enqueue("q", {"n": 1})
    with psycopg.connect(postgres_url) as connection:
        backend.enqueue("q", {"n": 2}, transaction=connection)
        with pytest.raises(DuplicateJobError) as caught:
            backend.enqueue("q", {"n": 1}, on_duplicate="raise", transaction=connection)
        assert caught.value.job.id == there.id
        backend.enqueue("q", {"n": 3}, transaction=connection)
    assert sorted(job.payload["n"] for job in backend.jobs()) == [1, 2, 3]


def test_two_transactions_of_one_fingerprint(backend: PostgresBackend, postgres_url: str) -> None:
    """Who meets a fingerprint of a transaction that is open waits, and others do not wait with it."""
    with psycopg.connect(postgres_url) as connection:
        first = backend.enqueue("q", {"n": 1}, transaction=connection)
        second: list[Job] = []
        waiter = threading.Thread(target=lambda: second.append(backend.enqueue("q", {"n": 1})))
        waiter.start()
        in_threads(4, lambda n: [backend.enqueue("q", {"n": n, "m": m}) for m in range(20)])
        assert waiter.is_alive()
        connection.commit()
        waiter.join(PATIENCE)
    assert (second[0].id, second[0].duplicate) == (first.id, True)


def test_a_stale_lease_completes_nothing(
    make: Make, backend: PostgresBackend, admin: psycopg.Connection[Any], postgres_url: str
) -> None:
    """job.complete() under a lease that was lost raises, so that the handler's transaction is undone."""
    backend.enqueue("q", {"n": 1})
    worker = make()
    seen = Seen()

    def handler(job: Job) -> None:
        with (
            job.shield(),
            psycopg.connect(postgres_url) as connection,
        ):  # or a heartbeat might be the first to tell
            admin.execute(f'update "{backend.config.schema}".jobs set token = token + 1')
            try:
                job.complete(connection)
            except StaleLeaseError:
                seen("stale")
                raise

    worker.listen("q", handler)
    assert seen.wait() == ["stale"]


def test_an_end_before_the_commit(make: Make, postgres_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """A handler may return before its transaction commits: other jobs' outcomes do not wait for it."""
    backend = make()
    connection = psycopg.connect(postgres_url)

    def handler(job: Job) -> None:
        if job.payload["n"] == 0:
            job.complete(connection, result="by hand")

    backend.listen("q", handler, concurrency=1)
    slow = backend.enqueue("q", {"n": 0})
    for n in range(1, 5):
        assert ended(backend, backend.enqueue("q", {"n": n})).status is Status.SUCCEEDED
    assert backend.get(slow.id or 0).status is Status.RUNNING  # type: ignore[union-attr]
    connection.commit()
    connection.close()
    assert ended(backend, slow).result == "by hand"
    backend.shutdown()
    assert "still open" not in caplog.text


# -- transactions of other databases ------------------------------------------------------------------------


@pytest.fixture
def other_url(postgres_url: str, new_schema: str, admin: psycopg.Connection[Any]) -> Iterator[str]:
    """The URL of another database of the server, which has neoq's tables in a schema of the same name."""
    name = f"other_{new_schema}"
    admin.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
    url = with_settings(postgres_url, dbname=name)
    neoq.migrate(url, schema=new_schema)
    yield url
    admin.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


def of_sqlalchemy(url: str) -> str:
    """The URL as SQLAlchemy takes it."""
    return url.replace("postgresql://", "postgresql+psycopg://")


def test_a_transaction_of_another_database(backend: PostgresBackend, other_url: str) -> None:
    """A transaction of another database that has neoq's tables is refused, and no job is stored there."""
    from sqlalchemy import create_engine
    from sqlalchemy.orm import Session

    engine = create_engine(of_sqlalchemy(other_url))
    with psycopg.connect(other_url) as one, engine.connect() as two, Session(engine) as three:
        for transaction in (one, two, three):
            with pytest.raises(UnsupportedError, match=r"database 'other_.*only in one database"):
                backend.enqueue("q", transaction=transaction)
            with pytest.raises(UnsupportedError, match="only in one database"):
                backend.enqueue_many([Job("q")], transaction=transaction)
    engine.dispose()
    other = PostgresBackend(other_url, schema=backend.config.schema, autostart=False)
    assert (backend.jobs(), other.jobs()) == ([], [])
    other.shutdown()


def test_completed_in_another_database(make: Make, other_url: str) -> None:
    """job.complete() in a transaction of another database is refused, and the attempt fails."""
    backend = make()

    def handler(job: Job) -> None:
        with psycopg.connect(other_url) as connection:
            job.complete(connection)

    backend.listen("q", handler, max_retries=0)
    job = ended(backend, backend.enqueue("q"))
    assert job.status is Status.DEAD
    assert "only in one database" in str(job.error)


def test_a_transaction_of_another_server(
    backend: PostgresBackend, postgres_server: PostgresServer, new_schema: str
) -> None:
    """A transaction of a database of the same name on another server is refused."""
    neoq.migrate(postgres_server.url, schema=new_schema)
    with psycopg.connect(postgres_server.url) as connection:
        for _ in range(2):
            with pytest.raises(
                UnsupportedError, match=r"on another server at 127\.0\.0\.1:.* in one database"
            ):
                backend.enqueue("q", transaction=connection)
    assert backend.jobs() == []


def test_transactions_after_a_failover(postgres_server: PostgresServer, new_schema: str) -> None:
    """Once another server has taken the place of the first, transactions of it are joined."""
    with PostgresBackend(postgres_server.url, schema=new_schema, autostart=False) as backend:
        for n in range(2):
            with psycopg.connect(postgres_server.url.replace("127.0.0.1", "localhost")) as connection:
                for m in range(2):
                    backend.enqueue("q", {"n": n, "m": m}, transaction=connection)
            assert backend.stats().ready == 2 * n + 2
            postgres_server.stop()
            postgres_server.start()


@needs_pgbouncer
def test_transactions_and_a_pgbouncer(make: Make, postgres_url: str, pgbouncer_url: str) -> None:
    """A transaction through a PgBouncer and one to the server itself are of one database."""
    for ours, theirs in ((postgres_url, pgbouncer_url), (pgbouncer_url, postgres_url)):
        backend = make(ours, autostart=False)
        with psycopg.connect(theirs, prepare_threshold=None) as connection:
            backend.enqueue("q", {"ours": ours}, transaction=connection)
    assert backend.stats().ready == 2


# -- settings of the session --------------------------------------------------------------------------------

TEXT = "a\\b'c\" {NULL} \\x41 \N{LATIN SMALL LETTER E WITH ACUTE}"
SETTINGS = {
    "standard_conforming_strings": "off",
    "array_nulls": "off",
    "bytea_output": "escape",
    "extra_float_digits": "-15",
    "DateStyle": "SQL,DMY",
    "IntervalStyle": "sql_standard",
    "TimeZone": "Asia/Kathmandu",
    "search_path": "pg_temp",
    "default_transaction_isolation": "serializable",
    "lock_timeout": "1s",
    "statement_timeout": "5s",
    "transform_null_equals": "on",
    "client_min_messages": "error",
}


def with_all_settings(url: str) -> str:
    """A URL whose sessions are set to everything that is odd."""
    options = "%20".join(f"-c%20{name}%3D{value.replace(',', '%2C')}" for name, value in SETTINGS.items())
    return with_settings(url, options=options, client_encoding="LATIN1")


def psycopg_connection(url: str) -> Any:
    return psycopg.connect(url)


def client_side_binding(url: str) -> Any:
    """A connection that writes values into the statements, as Django does."""
    return psycopg.connect(url, cursor_factory=psycopg.ClientCursor)


def sqlalchemy_connection(url: str) -> Any:
    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool

    return create_engine(of_sqlalchemy(url), poolclass=NullPool).connect()


@pytest.mark.parametrize("connect", [psycopg_connection, client_side_binding, sqlalchemy_connection])
def test_settings_of_a_callers_session(make: Make, postgres_url: str, connect: Callable[[str], Any]) -> None:
    """Whatever a caller's session is set to, a job that joins it is stored, found and completed as it is."""
    backend = make(queue_capacity=100)
    values: dict[str, Any] = {"text": TEXT, "nothing": None, "number": 0.1}
    url = with_all_settings(postgres_url)

    def handler(job: Job) -> None:
        connection = connect(url)
        job.complete(connection, {"text": TEXT})
        connection.commit()
        connection.close()

    now = time.time()
    connection = connect(url)
    jobs = backend.enqueue_many(
        [
            Job("q", {"n": 1, **values}, meta={"text": TEXT}, key=TEXT, priority=3, max_retries=5),
            Job("q", {"n": 2, **values}, run_after=datetime.fromtimestamp(now + 1000.123456, UTC)),
        ],
        transaction=connection,
    )
    [again, replaced] = [
        backend.enqueue("q", job.payload, transaction=connection, on_duplicate=how)
        for job, how in zip(jobs, ("return", "replace"), strict=True)
    ]
    plain = backend.enqueue("q", {"n": 3, **values}, transaction=connection)
    connection.commit()
    connection.close()
    assert again.duplicate
    assert replaced.duplicate
    found = {job.id: job for job in backend.jobs()}
    for job in (*jobs, again, plain):
        there = found[job.id]
        assert (job.payload, job.meta, job.key) == (there.payload, there.meta, there.key)
        assert (job.priority, job.max_retries, job.unique) == (
            there.priority,
            there.max_retries,
            there.unique,
        )
        assert (job.created_at, job.fingerprint) == (there.created_at, there.fingerprint)
    assert jobs[1].run_after == datetime.fromtimestamp(now + 1000.123456, UTC)
    backend.listen("q", handler)
    assert ended(backend, jobs[0]).result == {"text": TEXT}


def test_settings_of_our_sessions(make: Make, postgres_url: str) -> None:
    """Whatever the server or the role sets for our sessions, jobs are stored, run and ticked."""
    backend = make(with_all_settings(postgres_url), queue_capacity=100)
    values: dict[str, Any] = {"text": TEXT, "nothing": None, "number": 0.1}
    backend.listen("q", lambda job: job.payload)
    ticks = Seen()
    backend.listen_cron("@every 1s", lambda job: ticks(job.payload["scheduled_at"]), queue="ticks")
    jobs = [backend.enqueue("q", {"n": 1, **values})]
    jobs += backend.enqueue_many([Job("q", {"n": n, **values}, meta={"text": TEXT}) for n in (2, 3)])
    assert [ended(backend, job).result for job in jobs] == [job.payload for job in jobs]
    assert ticks.wait()


# -- docs/postgres.md ---------------------------------------------------------------------------------------


def sql_of_the_page() -> list[str]:
    """The blocks of SQL in docs/postgres.md, in order."""
    page = (Path(__file__).parents[1] / "docs" / "postgres.md").read_text(encoding="utf-8")
    return re.findall(r"```sql\n(.*?)```", page, re.DOTALL)


@pytest.fixture
def roles(postgres_url: str, new_schema: str, admin: psycopg.Connection[Any]) -> Iterator[dict[str, str]]:
    """The URLs of a database for the roles of docs/postgres.md, which have the grants that stand there."""
    grants = [block for block in sql_of_the_page() if block.startswith("grant")]
    assert len(grants) == 4
    names = {name: f"{name}_{new_schema}" for name in ("neoq_worker", "neoq_producer", "neoq_reader")}
    database = sql.Identifier(f"rights_{new_schema}")
    admin.execute(sql.SQL("create database {}").format(database))
    owner = with_settings(postgres_url, dbname=f"rights_{new_schema}")
    neoq.migrate(owner)
    for role in names.values():
        admin.execute(sql.SQL("create role {} login").format(sql.Identifier(role)))
    with psycopg.connect(owner, autocommit=True) as connection:
        for block in grants:
            for name, role in names.items():
                block = re.sub(rf"\b{name}\b", role, block)  # noqa: PLW2901
            connection.execute(block)  # type: ignore[call-overload]
    yield {name: with_settings(owner, user=role) for name, role in names.items()}
    admin.execute(sql.SQL("drop database {} with (force)").format(database))
    for role in names.values():
        admin.execute(sql.SQL("drop role {}").format(sql.Identifier(role)))


def of_role(url: str, **options: Any) -> PostgresBackend:
    """A backend of a role."""
    return PostgresBackend(url, migrate=False, **{**QUICK, **options})  # type: ignore[arg-type]


def test_the_grants_of_the_page(roles: dict[str, str]) -> None:
    """With the grants of the page and no others a worker, a producer and a reader can do their work."""
    with (
        of_role(roles["neoq_worker"], max_finished=50, max_dead=50) as worker,
        of_role(roles["neoq_producer"], autostart=False) as producer,
        of_role(roles["neoq_reader"], autostart=False) as reader,
    ):
        worker.listen("q", lambda job: job.payload["n"])
        worker.listen("bad", lambda job: 1 / job.payload["n"], max_retries=0)
        ticks = Seen()
        worker.listen_cron("@every 1s", ticks, queue="ticks")
        job = producer.enqueue("q", {"n": 1})
        assert producer.wait(job.id, PATIENCE).result == 1
        producer.enqueue_many([Job("later", {"n": n}, run_after=60, priority=n) for n in range(3)])
        assert producer.enqueue("later", {"n": 0}).duplicate
        assert producer.enqueue("later", {"n": 0}, on_duplicate="replace", priority=5).duplicate
        with psycopg.connect(roles["neoq_producer"]) as connection:
            joined = producer.enqueue("q", {"n": 2}, transaction=connection)
        assert producer.wait(joined.id, PATIENCE).result == 2
        with producer.batch(then=Job("q", {"n": 3}), name="import") as batch:
            batch.enqueue("q", {"n": 4})
        assert producer.wait(batch.id, PATIENCE).result == 3
        dead = ended(worker, producer.enqueue("bad", {"n": 0}))
        assert worker.retry(dead.id)
        later = worker.jobs("later")
        assert [worker.cancel(later[0].id), worker.delete(later[1].id)] == [True, True]
        worker.pause("later")
        ticks.wait()
        worker.prune()
        assert reader.get(job.id).status is Status.SUCCEEDED  # type: ignore[union-attr]
        assert reader.stats().cancelled == 1
        assert {counts.queue for counts in reader.queues() if counts.paused} == {"later"}
        eventually(reader.workers, "the reader sees the worker")
        assert reader.jobs("q")
        with psycopg.connect(roles["neoq_reader"]) as connection:
            rows = connection.execute("select count(*) from neoq.all_jobs where queue = 'q'").fetchall()
            assert rows == [(4,)]


def test_the_queries_of_the_page(postgres_url: str, new_schema: str, admin: psycopg.Connection[Any]) -> None:
    """The page's queries show what waits and what died, and its last statement removes all that neoq made."""
    everything = (
        "select count(*) from pg_class c join pg_namespace n on n.oid = relnamespace where nspname = 'neoq'"
    )
    database = f"page_{new_schema}"
    admin.execute(sql.SQL("create database {}").format(sql.Identifier(database)))
    url = with_settings(postgres_url, dbname=database)
    listed, waiting, dead, vacuum = [block for block in sql_of_the_page() if block.startswith("select")]
    (removal,) = [block for block in sql_of_the_page() if block.startswith("drop")]
    try:
        with PostgresBackend(url, autostart=False, **QUICK) as backend:  # type: ignore[arg-type]
            backend.listen("emails", fail, max_retries=0)
            failed = backend.enqueue("emails", {"to": "nobody"})
            backend.start()
            assert failed.id is not None
            backend.wait(failed.id, timeout=20)
            backend.enqueue("later", run_after=3600)
            backend.enqueue("unheard", {"n": 1})
            with psycopg.connect(url, autocommit=True) as connection:
                rows: list[Any] = connection.execute(listed).fetchall()  # type: ignore[call-overload]
                assert [row[:4] for row in rows] == [(failed.id, "emails", "dead", "nobody")]
                rows = connection.execute(waiting).fetchall()  # type: ignore[call-overload]
                assert [row[:4] for row in rows] == [("later", 0, 1, 0), ("unheard", 1, 0, 0)]
                assert rows[0][4] == 0 < rows[1][4] < 60
                rows = connection.execute(dead).fetchall()  # type: ignore[call-overload]
                assert [row[:3] for row in rows] == [("emails", "ValueError: no address", 1)]
                [row] = connection.execute(vacuum).fetchall()  # type: ignore[call-overload]
                assert row[3] is not None
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(removal)  # type: ignore[call-overload]
            assert connection.execute(everything).fetchone() == (0,)
    finally:
        admin.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(database)))


def fail(job: Job) -> None:
    raise ValueError("no address")


def test_what_the_grants_do_not_allow(roles: dict[str, str]) -> None:
    """A reader may change nothing, and a producer may not delete, and each is told what it would need."""
    with (
        of_role(roles["neoq_producer"], autostart=False) as producer,
        of_role(roles["neoq_reader"], autostart=False) as reader,
    ):
        job = producer.enqueue("q")
        for call in (
            lambda: reader.enqueue("q", {"n": 2}),
            lambda: reader.enqueue_many([Job("new")]),
            lambda: reader.cancel(job.id),
            lambda: reader.delete(job.id),
            lambda: reader.pause("q"),
            lambda: producer.cancel(job.id),
            lambda: producer.pause("q"),
        ):
            with pytest.raises(BackendError, match=r"permission denied.*has the grants"):
                call()
        assert producer.get(job.id).status is Status.PENDING  # type: ignore[union-attr]


# -- tables for people -------------------------------------------------------------------------------------


def test_the_view_of_all_jobs(make: Make, admin: psycopg.Connection[Any], new_schema: str) -> None:
    """The view has each job, unfinished or not, in plain SQL types."""
    backend = make()
    backend.listen("good", lambda job: {"sum": job.payload["n"] + 1})
    backend.listen("bad", lambda job: 1 / job.payload["n"], max_retries=0)
    good = ended(backend, backend.enqueue("good", {"n": 1}, meta={"a": "b"}, timeout=30))
    bad = ended(backend, backend.enqueue("bad", {"n": 0}, timeout=30))
    later = backend.enqueue(Job("later", run_after=60, deadline=90, key="x", priority=7))
    columns = "id, queue, status, payload, result, meta, error, created_at, run_after, finished_at"
    rows = {row[0]: row[1:] for row in admin.execute(f'select {columns} from "{new_schema}".all_jobs')}
    assert rows.keys() == {good.id, bad.id, later.id}
    for job in (good, bad, later):
        *plain, created_at, run_after, finished_at = rows[job.id]
        assert plain == [
            job.queue, str(job.status), job.payload, job.result, dict(job.meta) or None, job.error
        ]  # fmt: skip
        for shown, wanted in (
            (created_at, job.created_at), (run_after, job.run_after), (finished_at, job.finished_at)
        ):  # fmt: skip
            assert shown == wanted or abs(shown - wanted) <= timedelta(microseconds=1)  # as each rounds
    query = f"""
        select key, priority, deadline, retries, crashes, worker
        from "{new_schema}".all_jobs where id = %s
    """
    assert admin.execute(query, (later.id,)).fetchone() == ("x", 7, later.deadline, 0, 0, None)


def test_the_view_shows_what_runs_and_where(
    make: Make, admin: psycopg.Connection[Any], new_schema: str
) -> None:
    """The view names the worker that runs a job."""
    backend = make()
    begun, go_on = threading.Event(), threading.Event()
    backend.listen("q", lambda _job: begun.set() or go_on.wait(PATIENCE))
    job = backend.enqueue("q")
    assert begun.wait(PATIENCE)
    query = f'select status, worker, started_at is not null from "{new_schema}".all_jobs where id = %s'
    assert admin.execute(query, (job.id,)).fetchone() == ("running", backend.workers()[0].id, True)
    go_on.set()


@pytest.mark.parametrize(
    ("column", "value", "shown", "wanted"),
    [
        ("payload", "'\\xff'", "payload", None),
        ("payload", "'{\"n\":'", "payload", None),
        ("payload", '\'{"n":"\\\\u0000"}\'', "payload", None),
        ("payload", "convert_to(repeat('[', 100000), 'UTF8')", "payload", None),
        ("meta", "'no'", "meta", None),
        ("status", "77", "status", "unknown"),
        ("run_after", "'NaN'", "run_after", None),
        ("run_after", "'Infinity'", "run_after::text", "infinity"),
        ("run_after", "1e300", "run_after::text", "infinity"),
        ("created_at", "-1e300", "created_at::text", "-infinity"),
    ],
)
def test_the_view_and_bad_rows(
    backend: PostgresBackend,
    admin: psycopg.Connection[Any],
    column: str,
    value: str,
    shown: str,
    wanted: str | None,
) -> None:
    """What cannot be shown of a row is null, and the others are as they were."""
    schema = backend.config.schema
    jobs = backend.enqueue_many([Job("q", {"n": n}, meta={"a": "b"}) for n in range(2)])
    admin.execute(f'update "{schema}".jobs set {column} = {value} where id = {jobs[0].id}')
    rows = admin.execute(f'select {shown}, queue from "{schema}".all_jobs order by id').fetchall()
    assert rows[0] == (wanted, "q")
    [whole] = admin.execute(
        f'select payload, meta, status from "{schema}".all_jobs where id = {jobs[1].id}'
    ).fetchall()
    assert whole == ({"n": 1}, {"a": "b"}, "pending")
    admin.execute(f'delete from "{schema}".jobs')


# -- locks of others ---------------------------------------------------------------------------------------


def impatient(admin: psycopg.Connection[Any], schema: str) -> None:
    """Let the functions that wait for others wait for a moment only."""
    functions = """
        select p.oid::regprocedure from pg_proc p join pg_namespace n on n.oid = pronamespace
        where nspname = %s and array_to_string(proconfig, ' ') like '%%lock_timeout%%'
    """
    for (function,) in admin.execute(functions, (schema,)).fetchall():
        admin.execute(f"alter function {function} set lock_timeout = '50ms'")


@pytest.mark.parametrize("behind", ["postgres_url", pytest.param("pgbouncer_url", marks=needs_pgbouncer)])
@pytest.mark.usefixtures("new_schema")
def test_a_locked_table(
    make: Make,
    postgres_url: str,
    request: pytest.FixtureRequest,
    behind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While somebody has locked a table, whoever looks or changes is told so in bounded time, and by whom."""
    monkeypatch.setattr("neoq.postgres.connections.LOCK_PATIENCE", "50ms")
    backend = make(request.getfixturevalue(behind), autostart=False)
    schema = backend.config.schema
    job = backend.enqueue("q")
    with psycopg.connect(postgres_url, application_name="vacuuming") as other:
        impatient(other, schema)
        other.commit()
        other.execute(f'lock table "{schema}".jobs, "{schema}".queues, "{schema}".workers')
        told = rf"table {schema}\.\w+ is locked by session {other.info.backend_pid} \(vacuuming\)"
        for call in (
            lambda: backend.get(job.id),
            backend.jobs,
            backend.stats,
            backend.queues,
            backend.workers,
            lambda: backend.cancel(job.id),
            lambda: backend.retry(job.id),
            lambda: backend.delete(job.id),
            lambda: backend.enqueue_many([Job("q", {"n": n}) for n in range(2)]),
        ):
            with pytest.raises(BackendUnavailable, match=told) as caught:
                call()
            assert not caught.value.outcome_unknown
    assert backend.cancel(job.id)


@pytest.mark.usefixtures("new_schema")
def test_a_lock_that_is_no_fingerprint(make: Make, postgres_url: str, admin: psycopg.Connection[Any]) -> None:
    """A wait in vain is blamed on a fingerprint where it is one, and else on a lock."""
    backend = make(autostart=False)
    schema = backend.config.schema
    job = backend.enqueue("q")
    impatient(admin, schema)
    with psycopg.connect(postgres_url) as other:
        other.execute(f'select from "{schema}".jobs for update')
        with pytest.raises(BackendUnavailable, match=r"holds a lock .*pg_locks"):
            backend.cancel(job.id)
    with psycopg.connect(postgres_url) as other:
        backend.enqueue("q", {"n": 1}, transaction=other)
        with pytest.raises(BackendUnavailable, match="holds that fingerprint"):
            backend.enqueue("q", {"n": 1})


# -- clocks ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [3600.0, -3600.0])
def test_a_clock_that_is_wrong(make: Make, shift: float) -> None:
    """A machine whose clock is an hour wrong enqueues for now, and retries, when the server's clock says."""
    backend = make()

    class Shifted:
        monotonic = staticmethod(time.monotonic)

        def time(self) -> float:
            return time.time() + shift

    backend.clock = Shifted()
    attempts = Seen()

    def handler(job: Job) -> None:
        attempts(job.attempt)
        if job.attempt == 1:
            raise neoq.Retry(after=0.1)

    backend.listen("q", handler)
    now = backend.enqueue("q", {"n": 1})
    later = backend.enqueue("q", {"n": 2}, run_after=0.1)
    for job in (now, later):
        done = ended(backend, job)
        assert done.status is Status.SUCCEEDED
        assert done.finished_at is not None
        assert abs(done.finished_at.timestamp() - time.time()) < 600


@pytest.mark.parametrize(
    ("array", "values"),
    [
        (texts, []),
        (texts, ["a", "a", "a"]),
        (texts, ["a", "\N{SNOWMAN}", ""]),
        (texts, ["a", None, "a"]),
        (texts, [None, None]),
        (byteas, [b"", b"\0", b"a" * 300]),
        (byteas, [None, b"a"]),
        (uuids, []),
        (uuids, [bytes(16), bytes(range(16))]),
        (uuids, [None, bytes(16)]),
    ],
)
def test_arrays(postgres_url: str, array: Callable[[Any], Array], values: list[Any]) -> None:
    """The server reads what was written: nothing, one value over and over, many, and nulls."""
    with closing(Connections(postgres_url, size=1)) as connections, connections.use() as connection:
        [(read,)] = connection.execute("select %s", (array(values),)).fetchall()
    assert [value.bytes if isinstance(value, uuid.UUID) else value for value in read] == values


def add_together(backend: PostgresBackend, jobs: list[Job]) -> list[Job | None]:
    """Add jobs of several callers in one commit."""
    schema = backend.config.schema
    with closing(Connections(backend.config.url, size=2)) as connections:
        notifier = Notifier(connections, schema, backend.config.log)
        adder = Adder(connections, Statements(schema), notifier, forgets=False)
        with closing(notifier), closing(adder):
            return adder.add_together([(job, held(job), b"") for job in jobs])


def test_one_commit_of_several(backend: PostgresBackend) -> None:
    """Of jobs that are added in one commit each is its own, and a duplicate is the job that was there."""
    there = backend.enqueue("a", {"n": 0})
    jobs = [prepared(queue, {"n": n}) for n in range(3) for queue in "ab"]
    added = add_together(backend, [*jobs, prepared("b", {"n": 0})])
    assert added[0] is None  # it met the one that was there
    assert [job is None for job in (added[1], added[6])].count(True) == 1  # and one of these the other
    stored = {
        job.id: (job.queue, job.payload, job.created_at) for job in backend.jobs() if job.id != there.id
    }
    assert stored == {job.id: (job.queue, job.payload, job.created_at) for job in added if job is not None}


@pytest.fixture
def latin(postgres_url: str, new_schema: str, admin: psycopg.Connection[Any]) -> Iterator[str]:
    """The URL of a database that cannot hold all of Unicode."""
    name = sql.Identifier(f"latin_{new_schema}")
    admin.execute(sql.SQL("create database {} encoding 'LATIN1' locale 'C' template template0").format(name))
    yield with_settings(postgres_url, dbname=f"latin_{new_schema}")
    admin.execute(sql.SQL("drop database {} with (force)").format(name))


def test_one_commit_with_what_cannot_be_stored(latin: str, new_schema: str) -> None:
    """A job that the server refuses fails by itself: those that share its commit are stored."""
    with PostgresBackend(latin, schema=new_schema, autostart=False) as backend:
        assert backend.stats().ready == 0
        jobs = [prepared("q\N{SNOWMAN}", {"n": 1}), prepared("q", {"n": 2})]
        assert add_together(backend, jobs) == [None, None]  # each is to be added by itself
        calls: dict[int, Any] = {}

        def enqueue(number: int) -> None:
            try:
                calls[number] = backend.enqueue("q" if number % 4 else "q\N{SNOWMAN}", {"n": number})
            except BackendError as error:
                calls[number] = error

        in_threads(16, enqueue)
        assert [n for n, outcome in sorted(calls.items()) if isinstance(outcome, BackendError)] == [
            0,
            4,
            8,
            12,
        ]
        assert backend.stats().ready == 12


def test_an_error_that_cannot_be_stored(latin: str, new_schema: str) -> None:
    """A job that failed with words which the database cannot hold ends, with an error in plain ones."""

    def handler(job: Job) -> None:
        raise ValueError("\N{SNOWMAN} and \0 and \udc80")

    with PostgresBackend(latin, schema=new_schema, **QUICK) as backend:
        backend.listen("q", handler, max_retries=0)
        job = ended(backend, backend.enqueue("q"))
    assert (job.status, job.error) == (Status.DEAD, r"ValueError: \u2603 and \x00 and \udc80")


def test_a_server_that_ends_idle_sessions(
    connections: Callable[[], list[Any]], make: Make, admin: psycopg.Connection[Any], postgres_url: str
) -> None:
    """The session that says a worker is alive lasts where the server ends those that idle."""
    if admin.info.server_version < 140_000:
        pytest.skip("PostgreSQL 14 began to end idle sessions")
    worker = make(with_settings(postgres_url, options="-cidle_session_timeout%3D1h"), autostart=False)
    worker.queues()
    assert worker.store.claim([Demand("q", 1)]).jobs == []
    [(holder,)] = admin.execute(
        "select pid from pg_locks where locktype = 'advisory' and classid = %s::oid",
        (class_of(worker.config.schema),),
    ).fetchall()
    [connection] = [one for one in connections() if one.info.backend_pid == holder]
    assert connection.execute("show idle_session_timeout").fetchall() == [("0",)]


def test_the_keys_of_prepared_adds(backend: PostgresBackend) -> None:
    """An id that the server gave is the job's, through each way of adding."""
    one = backend.enqueue("q", {"n": 1})
    [two] = backend.enqueue_many([Job("q", {"n": 2})])
    [three] = backend.store.add([prepared("q", {"n": 3})], token=b"")
    several = in_threads(8, lambda n: backend.enqueue("q", {"m": n}))
    for job in (one, two, three, *several):
        found = backend.get(job.id or 0)
        assert found is not None
        assert (found.payload, found.run_after, found.created_at, found.fingerprint) == (
            job.payload, job.run_after, job.created_at, job.fingerprint,
        )  # fmt: skip
