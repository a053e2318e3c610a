"""A real PostgreSQL server for the tests, and a schema or a database of its own for each test that asks.

It is the one that $NEOQ_TEST_POSTGRES_URL names, or one started here. A test without a server fails; it is
never skipped.
"""

from __future__ import annotations

import itertools
import os
import secrets
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from psycopg import sql

from tests.servers import PostgresServer, started_server


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The URL of an empty database, for this session alone."""
    given = os.environ.get("NEOQ_TEST_POSTGRES_URL")
    if not given:
        for server in started_server():
            yield server.url
        return
    name = f"neoq_test_{secrets.token_hex(4)}"
    with psycopg.connect(given, autocommit=True) as admin:
        admin.execute(f"create database {name}")  # type: ignore[arg-type]
        yield urlunsplit(urlsplit(given)._replace(path=f"/{name}"))
        admin.execute(f"drop database {name} with (force)")  # type: ignore[arg-type]


_numbers = itertools.count(1)


@pytest.fixture
def new_schema() -> str:
    """The name of a schema that nobody has used."""
    return fresh_schema()


def fresh_schema() -> str:
    """Return the name of a schema that nobody has used."""
    return f"neoq_{os.getpid()}_{next(_numbers)}"


ROUNDS = 50  # a schema that was emptied so often is left: what autovacuum has not cleared yet adds up
LARGE = 2**20  # bytes of a table: one that was so large is slow to look through, though it is empty now
TABLES = """
    select relname, relkind = 'S', pg_relation_size(oid) from pg_class
    where relnamespace = (select oid from pg_namespace where nspname = %s) and relkind in ('r', 'S')
        and relname <> 'migrations'
    order by relname <> 'jobs', 1
"""  # the jobs first: they have triggers that write into other tables


class Schemas:
    """Names of schemas without a job: one that a test has used is emptied and comes again.

    To make the tables and functions takes the server longer than most tests do. Whatever else a test changes
    stays: one that touches more than rows takes a `new_schema`.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._used: deque[tuple[str, int]] = deque()
        self._connection: psycopg.Connection[Any] | None = None

    def take(self) -> tuple[str, int]:
        """Return a name, and how often the schema was emptied."""
        while self._used:
            name, rounds = self._used.popleft()
            if rounds < ROUNDS and self._empty(name):
                return name, rounds + 1
        return fresh_schema(), 0

    def give_back(self, name: str, rounds: int) -> None:
        """Take back a schema whose backends are shut down."""
        self._used.append((name, rounds))

    def close(self) -> None:
        """Disconnect."""
        if self._connection is not None:
            self._connection.close()

    def _empty(self, schema: str) -> bool:
        """Whether there are tables, none was large, and nobody has held a lock on a row of them."""
        if self._connection is None:
            self._connection = psycopg.connect(self._url)
        try:
            with self._connection.transaction():
                return self._empty_in(self._connection, schema)
        except psycopg.errors.LockNotAvailable:
            return False
        except psycopg.OperationalError:  # a test has ended all sessions
            self.close()
            self._connection = None
            return False

    def _empty_in(self, connection: psycopg.Connection[Any], schema: str) -> bool:
        connection.execute("set local lock_timeout = '2s'")
        found = connection.execute(TABLES, (schema,)).fetchall()
        if not found or max(size for *_, size in found) > LARGE:
            return False
        empty = [
            sql.SQL("select setval({}, 1, false)").format(sql.Literal(f"{schema}.{name}"))
            if is_sequence
            else sql.SQL("delete from {}").format(sql.Identifier(schema, name))
            for name, is_sequence, _ in found
        ]
        connection.execute(sql.SQL("; ").join(empty))
        return True


@pytest.fixture(scope="module")
def schemas(postgres_url: str) -> Iterator[Schemas]:
    """The schemas that the tests of a module use in turn."""
    schemas = Schemas(postgres_url)
    yield schemas
    schemas.close()


@pytest.fixture
def empty_schema(schemas: Schemas) -> Iterator[Callable[[], str]]:
    """Gives names of schemas in which there is no job; its backends must be shut down before it ends."""
    taken: list[tuple[str, int]] = []

    def take() -> str:
        taken.append(schemas.take())
        return taken[-1][0]

    yield take
    for name, rounds in taken:
        schemas.give_back(name, rounds)


@pytest.fixture
def schema(request: pytest.FixtureRequest) -> str:
    """A schema without a job: a new one for a test that asks for it, as it changes more than rows."""
    if "new_schema" in request.fixturenames:
        return str(request.getfixturevalue("new_schema"))
    return str(request.getfixturevalue("empty_schema")())


@pytest.fixture
def postgres_server() -> Iterator[PostgresServer]:
    """A server of one test's own, to be stopped and started."""
    yield from started_server()
