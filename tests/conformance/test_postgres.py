"""The conformance suite over jobs in PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg import sql

from neoq.backend import Backend
from neoq.job import Job
from neoq.postgres.backend import PostgresBackend
from neoq.testing import BackendConformance, Faults
from tests.raw_stores import dump_postgres, replace_in_postgres


class TestPostgresBackend(BackendConformance):
    """PostgresBackend keeps every promise of a durable, shared store that joins transactions."""

    features = PostgresBackend.features

    @pytest.fixture(autouse=True)
    def _server(self, postgres_url: str, empty_schema: Callable[[], str]) -> None:
        self._url = postgres_url
        self._empty_schema = empty_schema

    def make_backend(self, **options: Any) -> PostgresBackend:
        """Return a backend on a schema of its own."""
        return PostgresBackend(self._url, schema=self._empty_schema(), **options)

    def reopen(self, backend: Backend, **options: Any) -> PostgresBackend:
        """Return a backend on the schema of one that was shut down."""
        return self.another(backend, **options)

    def another(self, backend: Backend, **options: Any) -> PostgresBackend:
        """Return a second backend on the schema of a live one."""
        assert isinstance(backend, PostgresBackend)
        return PostgresBackend(self._url, schema=backend.config.schema, **options)

    def die(self, backend: Backend) -> None:
        """Free the lock of the backend's worker, as the server does when a process ends."""
        Faults(backend).drop_worker_lock()

    def spoil(self, backend: Backend, job: Job) -> bool:
        """Write into the table what is no JSON."""
        assert isinstance(backend, PostgresBackend)
        table = sql.Identifier(backend.config.schema, "jobs")
        with self.connection(backend) as connection:
            connection.execute(sql.SQL("update {} set meta = '{{' where id = %s").format(table), (job.id,))
        return True

    def dump(self, backend: Backend) -> list[bytes]:
        """Read all tables."""
        assert isinstance(backend, PostgresBackend)
        with self.connection(backend) as connection:
            return dump_postgres(connection, backend.config.schema)

    def damage(self, backend: Backend, old: bytes | str, new: bytes | str) -> bool:
        """Replace a value in the tables."""
        assert isinstance(backend, PostgresBackend)
        with self.connection(backend) as connection:
            return replace_in_postgres(connection, backend.config.schema, old, new)

    def connection(self, backend: Backend) -> psycopg.Connection[Any]:
        """Return a connection of the caller's own to the database."""
        return psycopg.connect(self._url)
