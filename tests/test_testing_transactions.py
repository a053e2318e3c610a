"""The testing kit with ``transaction=``: on any backend jobs run at the commit, and go with a rollback."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy
from sqlalchemy.orm import Session

import neoq
from neoq import testing
from neoq.errors import UnsupportedError

pytest_plugins = ["pytester"]


@pytest.fixture(params=["memory", "sqlite"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[neoq.Backend]:
    backend = neoq.MemBackend() if request.param == "memory" else neoq.SqliteBackend(tmp_path / "jobs.db")
    yield backend
    backend.shutdown(0)


@pytest.fixture
def rows(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """The application's own file."""
    connection = sqlite3.connect(tmp_path / "rows.db")
    connection.execute("create table orders (id integer)")
    connection.commit()
    yield connection
    connection.close()


@pytest.fixture
def seen(backend: neoq.Backend) -> list[Any]:
    seen: list[Any] = []
    backend.listen("q", lambda job: seen.append(job.payload["n"]))
    return seen


def test_inline_runs_at_the_commit(backend: neoq.Backend, rows: sqlite3.Connection, seen: list[Any]) -> None:
    """Inside the transaction the job waits; commit() runs it before it returns."""
    with testing.inline(backend):
        rows.execute("insert into orders values (1)")
        job = backend.enqueue("q", {"n": 1}, transaction=rows)
        assert job.status is neoq.Status.PENDING
        backend.enqueue("q", {"n": 2})
        assert seen == [2]
        rows.commit()
        assert seen == [2, 1]
        found = backend.get(job.id)
        assert found is not None
        assert found.status is neoq.Status.SUCCEEDED
    assert sys.getprofile() is None


def test_inline_forgets_at_a_rollback(
    backend: neoq.Backend, rows: sqlite3.Connection, seen: list[Any]
) -> None:
    """A rollback takes the job away, and the next transaction begins anew."""
    with testing.inline(backend):
        job = backend.enqueue("q", {"n": 1}, transaction=rows)
        rows.rollback()
        assert backend.get(job.id) is None
        with rows:
            rows.execute("insert into orders values (1)")
            backend.enqueue_many([neoq.Job("q", {"n": n}) for n in (2, 3)], transaction=rows)
            assert seen == []
        assert seen == [2, 3]


def test_a_savepoint_that_is_rolled_back(
    backend: neoq.Backend, rows: sqlite3.Connection, seen: list[Any]
) -> None:
    """A job of a savepoint goes with it, though the transaction is committed."""
    with testing.inline(backend):
        backend.enqueue("q", {"n": 1}, transaction=rows)
        rows.execute("savepoint s")
        backend.enqueue("q", {"n": 2}, transaction=rows)
        rows.execute("rollback to s")
        rows.commit()
    assert seen == [1]


def test_commit_raises_what_the_handler_raises(backend: neoq.Backend, rows: sqlite3.Connection) -> None:
    """The handler's exception comes out where the transaction is committed."""
    backend.listen("bad", lambda job: 1 / 0, max_retries=0)
    with testing.inline(backend):
        backend.enqueue("bad", transaction=rows)
        with pytest.raises(ZeroDivisionError):
            rows.commit()
        assert [job.status for job in backend.jobs("bad")] == [neoq.Status.DEAD]


def test_what_is_not_committed_is_gone(
    backend: neoq.Backend, rows: sqlite3.Connection, seen: list[Any]
) -> None:
    """A transaction that is open at the end of the block counts as rolled back."""
    with testing.inline(backend):
        job = backend.enqueue("q", {"n": 1}, transaction=rows)
    assert backend.get(job.id) is None
    rows.commit()
    assert seen == []
    assert sys.getprofile() is None


def test_a_store_in_the_same_file_joins(tmp_path: Path) -> None:
    """A backend that can join the transaction does so, and runs the job at the commit."""
    path = tmp_path / "jobs.db"
    with neoq.SqliteBackend(path) as backend, testing.inline(backend):
        seen: list[Any] = []
        backend.listen("q", lambda job: seen.append(job.id))
        connection = sqlite3.connect(path)
        job = backend.enqueue("q", transaction=connection)
        assert seen == []
        connection.commit()
        assert seen == [job.id]
        backend.enqueue("q", {"n": 2}, transaction=connection)
        connection.rollback()
        assert len(backend.jobs()) == 1
        connection.close()


def test_enqueued_lists_what_stays(backend: neoq.Backend, rows: sqlite3.Connection) -> None:
    """The list has a job at once, and loses it at a rollback."""
    backend.listen("q", lambda job: None)
    with testing.enqueued(backend) as jobs:
        backend.enqueue("q", {"n": 1}, transaction=rows)
        assert [job.payload["n"] for job in jobs] == [1]
        rows.commit()
        backend.enqueue("q", {"n": 2}, transaction=rows)
        rows.rollback()
        assert [job.payload["n"] for job in jobs] == [1]
    assert backend.jobs() == []


def test_enqueued_inside_inline(backend: neoq.Backend, rows: sqlite3.Connection, seen: list[Any]) -> None:
    """Nested, the outer block runs the job at the commit, and both know of a rollback."""
    with testing.inline(backend), testing.enqueued(backend) as jobs:
        backend.enqueue("q", {"n": 1}, transaction=rows)
        rows.rollback()
        backend.enqueue("q", {"n": 2}, transaction=rows)
        rows.commit()
        assert seen == [2]
        assert [job.payload["n"] for job in jobs] == [2]


def test_the_clock_takes_transactions(rows: sqlite3.Connection) -> None:
    """With the clock the job is ready from the commit on, and runs as time passes."""
    seen: list[int] = []
    with neoq.MemBackend() as backend, testing.clock(backend) as clock:
        backend.listen("q", lambda job: seen.append(job.payload["n"]))
        backend.enqueue("q", {"n": 1}, transaction=rows)
        clock.advance(1)
        assert seen == []
        rows.commit()
        clock.advance(1)
        assert seen == [1]


def test_tasks_wait_for_the_commit(backend: neoq.Backend, rows: sqlite3.Connection) -> None:
    """A call with using(transaction=...) runs at the commit."""
    seen: list[int] = []

    @backend.task(name="note")
    def note(n: int) -> None:
        seen.append(n)

    with testing.inline(backend):
        note.using(transaction=rows).enqueue(5)
        assert seen == []
        rows.commit()
        assert seen == [5]


def test_what_is_no_transaction_is_refused(backend: neoq.Backend, tmp_path: Path) -> None:
    """What is no connection, and a connection that is in no transaction, are refused as elsewhere."""
    backend.listen("q", lambda job: None)
    alone = sqlite3.connect(tmp_path / "rows.db", isolation_level=None)
    with testing.inline(backend):
        for transaction in (object(), alone):
            with pytest.raises(UnsupportedError):
                backend.enqueue("q", transaction=transaction)
    assert backend.jobs() == []
    alone.close()


@pytest.mark.parametrize("autocommit", [False, True])
def test_psycopg(backend: neoq.Backend, seen: list[Any], postgres_url: str, autocommit: bool) -> None:
    """The same with a psycopg connection, by commit() or by a block; its rows survive."""
    with testing.inline(backend), psycopg.connect(postgres_url, autocommit=autocommit) as connection:
        if not autocommit:
            backend.enqueue("q", {"n": 1}, transaction=connection)
            connection.rollback()
            backend.enqueue("q", {"n": 2}, transaction=connection)
            assert seen == []
            connection.commit()
            assert seen == [2]
            assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        with connection.transaction():
            backend.enqueue("q", {"n": 3}, transaction=connection)
        assert seen[-1] == 3
        with connection.transaction(force_rollback=True):
            backend.enqueue("q", {"n": 4}, transaction=connection)
        assert seen[-1] == 3


def test_sqlalchemy(backend: neoq.Backend, seen: list[Any], tmp_path: Path) -> None:
    """The same with an SQLAlchemy Connection and a Session, and their savepoints."""
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path / 'rows.db'}")
    with testing.inline(backend):
        with engine.begin() as connection:
            backend.enqueue("q", {"n": 1}, transaction=connection)
            assert seen == []
        assert seen == [1]
        with engine.connect() as connection:
            backend.enqueue("q", {"n": 2}, transaction=connection)
            connection.rollback()
        with Session(engine) as session:
            backend.enqueue("q", {"n": 3}, transaction=session)
            savepoint = session.begin_nested()
            backend.enqueue("q", {"n": 4}, transaction=session)
            savepoint.rollback()
            session.commit()
        assert seen == [1, 3]
    engine.dispose()


DJANGO = """
import django
from django.conf import settings
settings.configure(
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "rows.db"}}, INSTALLED_APPS=[],
)
django.setup()
from django.db import connection, transaction
from django.test import TestCase, TransactionTestCase
import neoq
from neoq import testing
backend = neoq.MemBackend()
seen = []
backend.listen("q", lambda job: seen.append(job.payload["n"]))

class InATransaction(TestCase):
    def test_captured(self):
        with testing.inline(backend):
            with self.captureOnCommitCallbacks(execute=True), transaction.atomic():
                backend.enqueue("q", {"n": 1}, transaction=connection)
                self.assertEqual(seen, [])
            self.assertEqual(seen, [1])
            with self.captureOnCommitCallbacks(execute=True):
                try:
                    with transaction.atomic():
                        job = backend.enqueue("q", {"n": 2}, transaction=connection)
                        raise ZeroDivisionError
                except ZeroDivisionError:
                    pass
            self.assertEqual(seen, [1])
            self.assertIsNone(backend.get(job.id))

class WithCommits(TransactionTestCase):
    def test_committed(self):
        seen.clear()
        with testing.inline(backend):
            with transaction.atomic():
                backend.enqueue("q", {"n": 3}, transaction=connection)
                self.assertEqual(seen, [])
            self.assertEqual(seen, [3])

from django.test.runner import DiscoverRunner
suite = __import__("unittest").TestSuite([InATransaction("test_captured"), WithCommits("test_committed")])
runner = DiscoverRunner(verbosity=0)
old = runner.setup_databases()
result = runner.run_suite(suite)
runner.teardown_databases(old)
backend.shutdown()
raise SystemExit(not result.wasSuccessful())
"""


def test_django(tmp_path: Path) -> None:
    """Inside Django's TestCase jobs run with the captured callbacks, elsewhere at the end of atomic()."""
    program = tmp_path / "program.py"
    program.write_text(DJANGO, encoding="utf-8")
    run = subprocess.run(
        [sys.executable, str(program)], cwd=tmp_path, capture_output=True, text=True, timeout=50, check=False
    )
    assert run.returncode == 0, run.stderr


def test_the_fixture_begins_and_ends_empty(pytester: pytest.Pytester) -> None:
    """A backend of a module keeps no job from one test to the next."""
    pytester.makepyfile(
        """
        import neoq

        backend = neoq.MemBackend(autostart=False)
        backend.listen("q", lambda job: None)

        def test_one(neoq_testing):
            jobs = neoq_testing.enqueued(backend)
            assert backend.jobs() == []
            backend.enqueue("q", run_after=60)
            assert len(jobs) == 1

        def test_two(neoq_testing):
            neoq_testing.inline(backend)
            assert backend.jobs() == []
            backend.enqueue("q")
            assert len(backend.jobs()) == 1

        def test_three(neoq_testing):
            assert backend.jobs() == []
            backend.enqueue("q")
            neoq_testing.clock(backend)
            assert backend.jobs() == []
        """
    )
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=3)
