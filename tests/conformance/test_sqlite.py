"""The conformance suite over jobs in a SQLite file."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from neoq.backend import Backend
from neoq.job import Job
from neoq.sqlite.backend import SqliteBackend
from neoq.testing import BackendConformance, Faults
from tests.raw_stores import dump_sqlite, replace_in_sqlite


class TestSqliteBackend(BackendConformance):
    """SqliteBackend keeps every promise of a durable, shared store that joins transactions."""

    features = SqliteBackend.features

    @pytest.fixture(autouse=True)
    def _directory(self, tmp_path: Path) -> Iterator[None]:
        self._directory_of_case = tmp_path
        self._files = 0
        yield
        for path in tmp_path.glob("*.db"):
            check_counts(path)

    def make_backend(self, **options: Any) -> SqliteBackend:
        """Return a backend on a new file."""
        self._files += 1
        return SqliteBackend(self._directory_of_case / f"{self._files}.db", **options)

    def reopen(self, backend: Backend, **options: Any) -> SqliteBackend:
        """Return a backend on the file of one that was shut down."""
        return self.another(backend, **options)

    def another(self, backend: Backend, **options: Any) -> SqliteBackend:
        """Return a second backend on the file of a live one."""
        assert isinstance(backend, SqliteBackend)
        return SqliteBackend(backend.config.path, **options)

    def die(self, backend: Backend) -> None:
        """Free the lock of the backend's worker, as the kernel does when a process ends."""
        Faults(backend).drop_worker_lock()

    def spoil(self, backend: Backend, job: Job) -> bool:
        """Write into the table what is no JSON."""
        connection = self.connection(backend)
        connection.execute("update neoq_jobs set meta = '{' where id = ?", (job.id,))
        connection.commit()
        connection.close()
        return True

    def dump(self, backend: Backend) -> list[bytes]:
        """Read all tables."""
        with closing(self.connection(backend)) as connection:
            return dump_sqlite(connection)

    def damage(self, backend: Backend, old: bytes | str, new: bytes | str) -> bool:
        """Replace a value in the tables."""
        with closing(self.connection(backend)) as connection:
            return replace_in_sqlite(connection, old, new)

    def connection(self, backend: Backend) -> sqlite3.Connection:
        """Return a connection of the caller's own to the file."""
        assert isinstance(backend, SqliteBackend)
        return sqlite3.connect(backend.config.path)


def check_counts(path: Path) -> None:
    """The counts that are kept agree with the jobs that are there."""
    connection = sqlite3.connect(path)
    try:
        kept = set(connection.execute("select queue, kind, n from neoq_counts where n <> 0 and queue <> ''"))
        counted = set(
            connection.execute(
                "select queue, case state when 0 then 0 when 1 then 1 + status when 2 then 3"
                " when 3 then case status when 3 then 4 else 6 end when 4 then 5 when 6 then 7 when 7 then 0"
                " when 8 then case status when 3 then 4 else 6 end when 9 then 5 end as kind, count(*)"
                " from neoq_jobs where id <= (select n from neoq_counts where queue = '') group by 1, 2"
                " union select queue, state, count(*) from neoq_jobs where state in (8, 9) group by 1, 2"
            )
        )
        assert kept == counted
        assert connection.execute("pragma integrity_check").fetchall() == [("ok",)]
    finally:
        connection.close()
