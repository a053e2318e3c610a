"""A worker of one neoq on the store of another, which keeps what it does not know: it is refused."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import redis

from neoq import Job
from neoq.errors import BackendError
from neoq.redis.backend import RedisBackend
from neoq.redis.queues import LAYOUT
from neoq.sqlite.backend import SqliteBackend
from neoq.sqlite.schema import MIGRATIONS
from neoq.store import Demand

# The number of the migration that brought batches, steps and lines, by which an older worker must be stopped.
BEFORE_BATCHES = 4


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with the tables of a neoq that knew no batches."""
    with closing(sqlite3.connect(tmp_path / "jobs.db", isolation_level=None)) as connection:
        connection.execute("create table neoq_schema (version integer not null)")
        connection.execute("insert into neoq_schema values (?)", (BEFORE_BATCHES,))
        for statements in MIGRATIONS[:BEFORE_BATCHES]:
            for statement in statements:
                connection.execute(statement)
        connection.execute("insert into neoq_queues values ('paused', 1)")
    return tmp_path / "jobs.db"


def test_a_running_worker_of_a_neoq_without_batches(path: Path) -> None:
    """What it reads at each claim and reclaim is gone, so it opens the file anew, and is refused."""
    with closing(sqlite3.connect(path)) as older:
        older.execute("select queue from neoq_queues where paused = 1").fetchall()
        with SqliteBackend(path, autostart=False) as backend:
            backend.enqueue("q")
            assert [counts.queue for counts in backend.queues() if counts.paused] == ["paused"]
            for statement in (
                "select queue from neoq_queues where paused = 1",
                "select id, beat_at from neoq_workers",
            ):
                with pytest.raises(sqlite3.OperationalError, match="no such table: neoq_"):
                    older.execute(statement)
            [(version,)] = older.execute("select version from neoq_schema").fetchall()
            assert version > BEFORE_BATCHES


@pytest.mark.parametrize("table", ["neoq_paused", "neoq_processes"])
def test_tables_that_go_are_made_again(path: Path, table: str) -> None:
    """A table that had another name once is made anew where somebody has dropped it, under today's name."""
    with SqliteBackend(path, autostart=False) as backend:
        backend.enqueue("q")
        with closing(sqlite3.connect(path)) as connection:
            connection.execute(f"drop table {table}")
    with SqliteBackend(path, autostart=False) as backend:
        backend.pause("q")
        assert [counts.paused for counts in backend.queues() if counts.queue == "q"] == [True]
        assert backend.workers() == []


def test_a_running_worker_of_this_neoq(path: Path) -> None:
    """Where a newer neoq has renamed what this one claims by, this one claims nothing, and says why."""
    with SqliteBackend(path, autostart=False) as backend:
        [job] = backend.enqueue_many([Job("q")])
        with closing(sqlite3.connect(path)) as newer:
            newer.execute("alter table neoq_paused rename to neoq_of_a_newer")
            newer.execute("update neoq_schema set version = version + 1")
            newer.commit()
            with pytest.raises(BackendError, match="used by a newer neoq; upgrade this one"):
                backend.store.claim([Demand("q", 1)])
            assert newer.execute("select status from neoq_jobs where id = ?", (job.id,)).fetchall() == [(0,)]


@pytest.fixture
def prefix(redis_prefix: Callable[[], str]) -> str:
    """Where the keys of one test are."""
    return redis_prefix()


@pytest.fixture
def queues(redis_url: str, prefix: str) -> tuple[redis.Redis, str]:
    """A client, and the key of the queues of a store."""
    return redis.Redis.from_url(redis_url), f"{{{prefix}}}:queues"


def test_keys_of_an_older_neoq(redis_url: str, prefix: str, queues: tuple[redis.Redis, str]) -> None:
    """Jobs in Redis that were written down in another way are refused, and not changed."""
    client, key = queues
    for mark in ({}, {"": f"layout {LAYOUT - 1}"}):
        client.hset(key, mapping={"q": 0, **mark})
        backend = RedisBackend(redis_url, prefix=prefix, autostart=False)
        with pytest.raises(BackendError, match="of an older neoq"):
            backend.enqueue("q")
        with pytest.raises(BackendError, match="of an older neoq"):
            backend.jobs()
        assert client.hlen(key) == 1 + len(mark)
    client.close()


def test_keys_of_a_newer_neoq(redis_url: str, prefix: str, queues: tuple[redis.Redis, str]) -> None:
    """A worker that begins is refused where a newer neoq has written in another way."""
    client, key = queues
    with RedisBackend(redis_url, prefix=prefix, autostart=False) as backend:
        backend.enqueue("q")
        assert client.hget(key, "") == b"layout %d" % LAYOUT
        client.hset(key, "", f"layout {LAYOUT + 1}")
        with pytest.raises(
            BackendError, match=f"layout {LAYOUT + 1} and this neoq knows only {LAYOUT}.*upgrade"
        ):
            RedisBackend(redis_url, prefix=prefix, autostart=False).enqueue("q")
    client.close()


def test_a_mark_that_was_lost(redis_url: str, prefix: str, queues: tuple[redis.Redis, str]) -> None:
    """A server that was emptied has the mark again with the first queue."""
    client, key = queues
    with RedisBackend(redis_url, prefix=prefix, autostart=False) as backend:
        backend.enqueue("q")
        client.unlink(*client.scan_iter(f"{{{prefix}*"))
        backend.enqueue("q")
    assert client.hget(key, "") == b"layout %d" % LAYOUT
    client.close()
