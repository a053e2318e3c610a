"""Starts a Postgres and a Redis (Valkey) server for the benchmarks, from the binaries of their packages.

Both have their default settings: Postgres with fsync and synchronous_commit on, Redis without persistence.
Each measurement begins with an empty server.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent))  # the tests start the same servers


@contextmanager
def postgres() -> Iterator[str]:
    """Run a Postgres server; yield the URL of its first database."""
    from tests.servers import started_server

    for server in started_server(settings={}):
        yield server.url


@contextmanager
def redis() -> Iterator[str]:
    """Run a Valkey server, which speaks the protocol of Redis."""
    from tests.servers import running_server

    with running_server() as server:
        yield server.url


SERVERS = {"postgres": postgres, "redis": redis}


def emptied(server: str, url: str) -> str:
    """The URL of an empty server: a new database on Postgres, the same URL after a flush on Redis."""
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
    """The URL of a second empty database on the server of a measurement."""
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
        """The cost since the last call; idle sessions report their transactions after a second."""
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
        """The number of commands so far, including those that scripts call."""
        return int(self.client.info("stats")["total_commands_processed"])

    def slowest(self) -> dict[str, float]:
        """The longest time that one command or script blocked the server."""
        entries = self.client.slowlog_get(10_000)
        return {"slowest ms": max((entry["duration"] for entry in entries), default=0) / 1e3}

    def per_job(self, count: int) -> dict[str, float]:
        before, self.commands = self.commands, self.processed()
        return {"commands/job": (self.commands - before) / count, **self.slowest()}

    def per_second(self, seconds: float) -> dict[str, float]:
        """The cost since the last call."""
        before, self.commands = self.commands, self.processed()
        return {"commands/s": (self.commands - before) / seconds}

    def at_the_end(self) -> dict[str, float]:
        return self.slowest()


def look_at(url: str) -> PostgresSeen | RedisSeen:
    """Begin to measure what a measurement costs the server."""
    return RedisSeen(url) if url.startswith("redis") else PostgresSeen(url)
