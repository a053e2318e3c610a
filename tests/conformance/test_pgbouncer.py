"""The conformance suite over jobs in PostgreSQL behind a PgBouncer in transaction mode.

No session lasts there, so there is no LISTEN, no session lock and no prepared statement.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

import neoq
from neoq.testing.cases.suite import Background
from tests.conformance.test_postgres import TestPostgresBackend as OnPostgres
from tests.pgbouncer import needs_pgbouncer
from tests.postgres_server import fresh_schema

pytestmark = pytest.mark.usefixtures("autostart")

PATIENCE = 10.0


@needs_pgbouncer
@pytest.mark.faults  # it takes as long as the suite itself
class TestBehindPgBouncer(OnPostgres):
    """PostgresBackend keeps every promise behind a PgBouncer."""

    @pytest.fixture(autouse=True)
    def _server(self, pgbouncer_url: str, empty_schema: Callable[[], str]) -> None:
        self._url = pgbouncer_url
        self._empty_schema = empty_schema


@needs_pgbouncer
def test_jobs_go_through_pgbouncer(pgbouncer_url: str) -> None:
    """Behind a PgBouncer one process runs what another one enqueues, alone and in a caller's transaction."""
    import psycopg

    ran: list[int] = []
    schema = fresh_schema()
    with (
        neoq.PostgresBackend(pgbouncer_url, schema=schema, job_check_interval=0.05) as worker,
        neoq.PostgresBackend(pgbouncer_url, schema=schema) as producer,
    ):
        worker.listen("q", lambda job: ran.append(job.payload["n"]), concurrency=1)
        jobs = [producer.enqueue("q", {"n": n}) for n in range(20)]
        with psycopg.connect(pgbouncer_url, prepare_threshold=None) as connection:
            jobs.append(producer.enqueue("q", {"n": 20}, transaction=connection))
        for job in jobs:
            producer.wait(job.id or 0, PATIENCE)
    assert sorted(ran) == list(range(21))


@needs_pgbouncer
def test_an_open_transaction_behind_pgbouncer(pgbouncer_url: str) -> None:
    """A call that meets a fingerprint of an open transaction waits by itself: others go on."""
    import psycopg

    with neoq.PostgresBackend(pgbouncer_url, schema=fresh_schema(), autostart=False) as backend:
        backend.enqueue("q", {"n": 0})
        with psycopg.connect(pgbouncer_url, prepare_threshold=None) as connection:
            first = backend.enqueue("q", {"n": 1}, transaction=connection)
            met = Background(lambda: backend.enqueue("q", {"n": 1}))
            others = [Background(lambda n=n: backend.enqueue("q", {"n": n})) for n in range(2, 10)]
            for other in others:
                other.result()
            assert met.blocks()
            connection.commit()
        second = met.result()
    assert (second.id, second.duplicate) == (first.id, True)
