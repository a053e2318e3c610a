"""What somebody else may write into a store: garbage in each field, and what has to go on all the same.

A `Target` knows how to spoil one kind of store. `Siege` runs two workers on it, and `Siege.endure` writes
garbage while they are at work, then looks whether every other job ends, every thread lives, and the store can
still be looked at. To try another store, write a `Target` for it.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import psycopg
import pytest
import redis
from hypothesis import strategies as st
from psycopg import sql

import neoq
from neoq import Backend, Job, Status
from neoq.audit import acting_as
from tests.postgres_server import fresh_schema

PATIENCE = 30.0
HEARTBEAT, LEASE = 0.1, 1.0
BYTES = [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"a":1}', b'{"a":"b"}', b'{"a":' * 2000, b"\0"]
BYTES += [b'{"s":"x"}', b'{"s":9,"n":{}}', b"1c10000", b"1:2:3", b"1:99999999999:1", b"100", b"000x"]
TEXTS = ["", "{", "infinity", "x" * 5000, "\n\x1b[31m", "../../etc/passwd", "1", "-1", '["q"]', "\N{SNOWMAN}"]
INTEGERS = [
    -1,
    0,
    1,
    2,
    3,
    7,
    101,
    -101,
    2**15 - 1,
    -(2**15),
    2**31 - 1,
    -(2**31),
    2**53,
    2**63 - 1,
    -(2**63),
]
FLOATS = [float("inf"), float("-inf"), float("nan"), 1e300, -1e300, 0.0, -1.0, 1e12]
garbage = st.one_of(
    st.none(),
    st.sampled_from(BYTES),
    st.sampled_from(TEXTS),
    st.sampled_from(INTEGERS),
    st.sampled_from(FLOATS),
    st.booleans(),
    st.binary(max_size=40),
    st.text(max_size=40),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.lists(st.one_of(st.none(), st.text(max_size=5)), max_size=3),
)


class Spot(NamedTuple):
    """A place for garbage: a column of a table, or a part of a key."""

    table: str
    column: str


class Target(Protocol):
    """A store that can be spoilt."""

    spots: list[Spot]

    def connect(self, **options: Any) -> Backend:
        """A backend on the store."""

    def spoil(self, spot: Spot, value: Any, job_id: int | None) -> None:
        """Put a value there, into what is of the job if the place has such; nothing if it is refused."""

    def reset(self) -> None:
        """Empty the store, as a test's reset script does."""


class SqliteTarget:
    """A SQLite file, whose columns take values of any type."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with self.connect() as backend:
            backend.queues()
        with closing(self._open()) as connection:
            tables = [name for (name,) in connection.execute(_SQLITE_TABLES)]
            self.spots = [
                Spot(table, column)
                for table in tables
                for (column,) in connection.execute("select name from pragma_table_info(?)", (table,))
                # A version that is too high is a newer neoq's, and a queue may be paused by anybody.
                if column not in {"version", "paused"}
            ]
            self._tables = tables

    def connect(self, **options: Any) -> Backend:
        return neoq.SqliteBackend(self._path, synchronous="off", **options)

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, isolation_level=None, timeout=10)

    def spoil(self, spot: Spot, value: Any, job_id: int | None) -> None:
        table, column = spot
        key = {"neoq_jobs": "id", "neoq_schema": "version"}.get(table)
        with closing(self._open()) as connection:
            key = key or connection.execute("select name from pragma_table_info(?)", (table,)).fetchone()[0]
            where = f"{key} = ?" if table == "neoq_jobs" else f"{key} = (select {key} from {table} limit 1)"
            values = (value, job_id) if table == "neoq_jobs" else (value,)
            shape = "cast(cast(? as blob) as text)" if isinstance(value, bytes) and len(value) % 2 else "?"
            with suppress(sqlite3.Error, OverflowError):
                connection.execute(f"update {table} set {column} = {shape} where {where}", values)

    def reset(self) -> None:
        with closing(self._open()) as connection:
            for table in self._tables:
                connection.execute(f"delete from {table}")

    def drop(self) -> None:
        """Drop every table."""
        with closing(self._open()) as connection:
            for table in self._tables:
                connection.execute(f"drop table if exists {table}")


_SQLITE_TABLES = "select name from sqlite_master where type = 'table' and name like 'neoq%'"


class PostgresTarget:
    """A schema of a PostgreSQL database, whose columns take what is of their type."""

    def __init__(self, url: str, schema: str) -> None:
        self._url, self._schema = url, schema
        with self.connect() as backend:
            backend.queues()
        with self._open() as connection:
            rows = connection.execute(
                "select table_name, column_name, udt_name from information_schema.columns"
                " where table_schema = %s and table_name in (select table_name from information_schema.tables"
                " where table_schema = %s and table_type = 'BASE TABLE')",
                (schema, schema),
            ).fetchall()
        self._types = {Spot(table, column): kind for table, column, kind in rows}
        self.spots = sorted(spot for spot in self._types if spot.column not in {"version", "paused"})
        self._tables = sorted({spot.table for spot in self._types})

    def connect(self, **options: Any) -> Backend:
        return neoq.PostgresBackend(self._url, schema=self._schema, **options)

    def _open(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self._url, autocommit=True)

    def spoil(self, spot: Spot, value: Any, job_id: int | None) -> None:
        table = sql.Identifier(self._schema, spot.table)
        column, kind = sql.Identifier(spot.column), self._types[spot]
        if kind == "bytea" and isinstance(value, str):
            value = value.encode("utf-8", "replace")
        shape = sql.SQL("%s" if isinstance(value, (bytes, list)) else "%s::text")
        of_job = job_id is not None and spot.table in {"jobs", "history"}
        where = sql.SQL("id = %s") if of_job else sql.SQL("ctid = (select min(ctid) from {})").format(table)
        query = sql.SQL("update {} set {} = {}::{} where {}").format(
            table, column, shape, sql.Identifier(kind), where
        )
        with self._open() as connection, suppress(psycopg.Error, ValueError):
            connection.execute("set lock_timeout = '2s'")
            connection.execute(query, (value, job_id) if of_job else (value,))

    def reset(self) -> None:
        names = sql.SQL(", ").join(sql.Identifier(self._schema, table) for table in self._tables)
        for tries in range(20, -1, -1):
            try:
                with self._open() as connection:
                    connection.execute(sql.SQL("truncate {} restart identity").format(names))
                return
            except psycopg.errors.DeadlockDetected:  # with the workers, who lock the tables in another order
                if not tries:
                    raise

    def drop(self) -> None:
        """Drop every table."""
        with self._open() as connection:
            for table in self._tables:
                connection.execute(
                    sql.SQL("drop table if exists {} cascade").format(sql.Identifier(self._schema, table))
                )


# The keys of a queue, by their type.
REDIS_HASHES = "jobs payloads life results progress uniq ticks steps limits turn busy pace spent".split()
REDIS_ZSETS = "ids ready wait retry lease done dead cancelled held lines paced tats idle".split()
REDIS_SETS = ["cancel", "crashed"]


class RedisTarget:
    """The keys under one prefix of a Redis server; the spots that are of a queue are those of the siege's.

    A spot is a key, and what is written there: garbage for the job, or in a place that is garbage.
    """

    _OF_ALL = ("queues", "workers", "crons", "schedules", "tick_jobs", "skips", "audit")
    _SCORES = (float("-inf"), -1.0, 0.0, 1.0, 1e9, 2e9, 1e300, float("inf"))

    def __init__(self, url: str, prefix: str) -> None:
        self._url, self._prefix = url, prefix
        self.spots = [
            Spot(name, what)
            for name in (*REDIS_HASHES, *REDIS_ZSETS, *REDIS_SETS)
            for what in ("job", "other")
        ]
        self.spots += [Spot(name, "other") for name in self._OF_ALL]
        self.spots += [Spot(name, "number") for name in ("seq", "numbers", "audit_ids")]

    def connect(self, **options: Any) -> Backend:
        return neoq.RedisBackend(self._url, prefix=self._prefix, **options)

    def _open(self) -> redis.Redis:
        return redis.Redis.from_url(self._url, protocol=2)

    def spoil(self, spot: Spot, value: Any, job_id: int | None) -> None:
        name, what = spot
        of_all = name in {*self._OF_ALL, "numbers", "audit_ids"}
        key = f"{{{self._prefix}}}:{name}" if of_all else f"{{{self._prefix}:siege}}:{name}"
        data = value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")
        with self._open() as client:
            if what == "number":
                client.set(key, data)
            elif name in REDIS_SETS:
                client.sadd(key, str(job_id) if what == "job" else data)
            elif name in REDIS_ZSETS or name == "audit":
                score = self._SCORES[len(data) % len(self._SCORES)]
                client.zadd(key, {self._member(name, job_id) if what == "job" else data: score})
            elif value is None and what == "job":
                client.hdel(key, str(job_id))
            else:
                client.hset(key, str(job_id).encode() if what == "job" else data[::-1], data)

    @staticmethod
    def _member(name: str, job_id: int | None) -> str:
        return {"wait": f"100{job_id}", "retry": f"100{job_id}", "lease": f"{job_id}:1:x"}.get(
            name, str(job_id)
        )

    def reset(self) -> None:
        with self._open() as client:
            for key in client.scan_iter(f"{{{self._prefix}[:}}]*", count=1000):
                client.delete(key)


STORES = ("sqlite", "postgres", "redis")


def target_of(store: str, request: pytest.FixtureRequest, tmp_path: Path) -> Target:
    """A store of one test's own."""
    if store == "sqlite":
        return SqliteTarget(tmp_path / "jobs.db")
    if store == "postgres":
        return PostgresTarget(request.getfixturevalue("postgres_url"), fresh_schema())
    return RedisTarget(request.getfixturevalue("redis_url"), request.getfixturevalue("redis_prefix")())


class Siege:
    """Two workers at work on a store, which others spoil."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._before = set(threading.enumerate())
        self._gate = threading.Event()
        self._number = 0
        self.workers = [
            target.connect(heartbeat=HEARTBEAT, lease=LEASE, job_check_interval=0.1, concurrency=4)
            for _ in range(2)
        ]
        for worker in self.workers:
            worker.listen("siege", self._handle)
            worker.start()
        self._end(self._enqueue(4))

    def _handle(self, job: Job) -> None:
        if job.payload.get("waits"):
            self._gate.wait(PATIENCE)
        if job.payload.get("fails"):
            raise RuntimeError("as it was asked to")

    def _enqueue(self, count: int, **options: Any) -> list[Job]:
        jobs = []
        for _ in range(count):
            self._number += 1
            jobs.append(self.workers[self._number % 2].enqueue("siege", {"n": self._number}, **options))
        return jobs

    def _end(self, jobs: list[Job]) -> None:
        give_up = time.monotonic() + PATIENCE
        for job in jobs:
            found = self.workers[0].get(job.id)
            while found is None or not found.finished:
                assert time.monotonic() < give_up, f"{job} does not end: {found} {found and found.error}"
                time.sleep(0.01)
                found = self.workers[1].get(job.id)

    def endure(self, pieces: list[tuple[Spot, Any]]) -> None:
        """Spoil the store in these places, and see that all else goes on."""
        self._gate.clear()
        front = self.workers[0]
        victims = [
            front.enqueue("siege", {"n": f"victim {self._number}"}, run_after=0.05, meta={"a": "b"}, key="k"),
            front.enqueue(
                "siege", {"n": f"far {self._number}"}, run_after=3600, fingerprint=f"mine {self._number}"
            ),
            front.enqueue("siege", {"n": f"busy {self._number}", "waits": True}),
            front.enqueue("siege", {"n": f"dead {self._number}", "fails": True}, max_retries=0),
            *self._enqueue(2, priority=5),
            *self._enqueue(1, run_after=0.02),
        ]
        bystanders = self._enqueue(3)
        for number, (spot, value) in enumerate(pieces):
            self.target.spoil(spot, value, victims[number % len(victims)].id)
        front.resume("siege")
        self._gate.set()
        self._end(bystanders + self._enqueue(3, run_after=0.01) + self._enqueue(3))
        for worker in self.workers:
            worker.store.reclaim()
            worker.prune()
            worker.stats()
            worker.workers()
            worker.schedules()
            worker.audit()
            worker.series()
            worker.series(since=86400)
            with acting_as("ada"):
                worker.resume("siege")
            for job in worker.jobs(limit=1000):
                assert isinstance(job.payload, dict)
                repr((job, job.error, job.result, job.meta, job.run_after, job.created_at, job.deadline))
        self.check_threads()

    def check_threads(self) -> None:
        """See that the threads of both workers live."""
        alive = [thread.name for thread in set(threading.enumerate()) - self._before]
        for part in ("heartbeat", "fetcher", "watchdog"):
            number = sum(name == f"neoq-{part}" for name in alive)
            assert number == 2, f"{number} of 2 threads named {part} live: {alive}"

    def reset(self, how: Callable[[], None]) -> None:
        """Empty the store while the workers run, and see that they go on."""
        how()
        self._end(self._enqueue(4))
        self.check_threads()

    def lift(self) -> None:
        """End it."""
        self._gate.set()
        for worker in self.workers:
            worker.shutdown(timeout=2)


def dead(backend: Backend, job: Job) -> Job:
    """Wait until a job is dead, and return its snapshot."""
    give_up = time.monotonic() + PATIENCE
    while True:
        found = backend.get(job.id)
        if found is not None and found.status is Status.DEAD:
            return found
        assert time.monotonic() < give_up, f"{found} does not die"
        time.sleep(0.01)
