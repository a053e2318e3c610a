"""A real PostgreSQL server for the tests, and a schema or a database of its own for each test that asks.

It is the one that $NEOQ_TEST_POSTGRES_URL names, or one started here. A test without a server fails; it is
never skipped.
"""

from __future__ import annotations

import itertools
import os
import secrets
from collections.abc import Iterator
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest

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


@pytest.fixture
def postgres_server() -> Iterator[PostgresServer]:
    """A server of one test's own, to be stopped and started."""
    yield from started_server()
