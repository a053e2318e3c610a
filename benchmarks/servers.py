"""A Postgres and a Redis (Valkey) of our own for a while, from the binaries of their packages.

Both as they come: Postgres with fsync and synchronous_commit on, Redis without persistence. Each
measurement begins on an empty one.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent))  # the tests start the same servers


@contextmanager
def postgres() -> Iterator[str]:
    """A Postgres server; what is yielded is the URL of its first database."""
    from tests.servers import started_server

    for server in started_server(settings={}):
        yield server.url


@contextmanager
def redis() -> Iterator[str]:
    """A Valkey server, which speaks as Redis does."""
    from tests.servers import running_server

    with running_server() as server:
        yield server.url


SERVERS = {"postgres": postgres, "redis": redis}


def emptied(server: str, url: str) -> str:
    """The URL of a server with nothing on it: of a new database, or the same after a flush."""
    if server == "redis":
        import redis as driver

        with driver.Redis.from_url(url) as client:
            client.flushall()
            client.config_resetstat()
            client.slowlog_reset()
        return url
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("drop database if exists bench with (force)")
        connection.execute("create database bench")
        connection.execute("checkpoint")
    return url.removesuffix("/postgres") + "/bench"


def another(url: str) -> str:
    """The URL of a second place on the server of a measurement, as empty as the first."""
    if url.startswith("redis"):
        return url.removesuffix("/0") + "/1"
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("drop database if exists bench2 with (force)")
        connection.execute("create database bench2")
    return url.removesuffix("/bench") + "/bench2"


class PostgresSeen:
    """What a measurement cost a Postgres server."""

    def __init__(self, url: str) -> None:
        import psycopg

        self.connection = psycopg.connect(url, autocommit=True)
        self.wal = self.position()
        self.commits = self.transactions()

    def position(self) -> int:
        return self.number("select pg_current_wal_insert_lsn() - '0/0'::pg_lsn")

    def transactions(self) -> int:
        self.number("select 1 from pg_stat_force_next_flush()")
        return self.number(
            "select sum(xact_commit + xact_rollback) from pg_stat_database where datname = current_database()"
        )

    def number(self, query: str) -> int:
        row = self.connection.execute(query).fetchone()
        assert row is not None
        return int(row[0])

    def per_job(self, count: int) -> dict[str, float]:
        return {"WAL bytes/job": (self.position() - self.wal) / count}

    def per_second(self, seconds: float) -> dict[str, float]:
        """Since this was asked last; sessions that idle have told of their transactions a second later."""
        before, self.commits = self.commits, self.transactions()
        return {"transactions/s": (self.commits - before) / seconds}

    def at_the_end(self) -> dict[str, float]:
        return {}


class RedisSeen:
    """What a measurement cost a Redis server."""

    def __init__(self, url: str) -> None:
        import redis as driver

        self.client = driver.Redis.from_url(url)
        self.client.config_set("slowlog-log-slower-than", 200)
        self.client.config_set("slowlog-max-len", 10_000)
        self.commands = self.processed()

    def processed(self) -> int:
        """How many so far, those that scripts call included."""
        return int(self.client.info("stats")["total_commands_processed"])

    def slowest(self) -> dict[str, float]:
        """The longest that one command or script held the server."""
        entries = self.client.slowlog_get(10_000)
        return {"slowest ms": max((entry["duration"] for entry in entries), default=0) / 1e3}

    def per_job(self, count: int) -> dict[str, float]:
        before, self.commands = self.commands, self.processed()
        return {"commands/job": (self.commands - before) / count, **self.slowest()}

    def per_second(self, seconds: float) -> dict[str, float]:
        """Since this was asked last."""
        before, self.commands = self.commands, self.processed()
        return {"commands/s": (self.commands - before) / seconds}

    def at_the_end(self) -> dict[str, float]:
        return self.slowest()


def look_at(url: str) -> PostgresSeen | RedisSeen:
    """Begin to watch what a measurement costs the server."""
    return RedisSeen(url) if url.startswith("redis") else PostgresSeen(url)
