"""Kill -9 at every durable boundary: a child is killed before a certain call of its server or its store."""

from __future__ import annotations

import itertools
import os
import signal
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from neoq.backend import Backend
from neoq.postgres.backend import PostgresBackend
from neoq.postgres.connections import Connections
from neoq.redis import outbox
from neoq.redis.backend import RedisBackend
from neoq.redis.connection import RedisConnection
from neoq.sqlite.backend import SqliteBackend
from neoq.sqlite.store import SqliteStore
from tests.postgres_server import fresh_schema

Make = Callable[..., Backend]

SOON = {"lease": 0.3, "heartbeat": 0.1, "autostart": False, "max_crashes": 100}
_SQLITE = (
    *("open_batch", "add", "seal", "claim", "settle", "record", "tend"),
    *("change", "prune", "reclaim", "limit", "signal"),
)


@pytest.fixture(params=["sqlite", "postgres", "redis"])
def durable(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """How to open the same store, again and again."""
    if request.param == "sqlite":
        return lambda **options: SqliteBackend(tmp_path / "jobs.db", **(SOON | options))
    if request.param == "postgres":
        url, schema = request.getfixturevalue("postgres_url"), fresh_schema()
        return lambda **options: PostgresBackend(url, schema=schema, **(SOON | options))
    monkeypatch.setattr(outbox, "OVERDUE", 0.0)
    url, prefix = request.getfixturevalue("redis_url"), request.getfixturevalue("redis_prefix")()
    return lambda **options: RedisBackend(url, prefix=prefix, **(SOON | options))


def killed(make: Make, act: Callable[[Backend], None], before: int) -> bool:
    """Whether a child that does this was killed before a call of that number; else it has done it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the child uses nothing of the other threads
        pid = os.fork()
    if not pid:
        try:
            _act_and_die(make, act, before)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert status in {0, signal.SIGKILL}, "the child has failed: see its traceback above"
    return status != 0


def boundaries(was_killed: Callable[[int], bool]) -> int:
    """Kill before each call, until a child is done before it is killed; how many there were."""
    return next(before for before in itertools.count() if not was_killed(before))


def _act_and_die(make: Make, act: Callable[[Backend], None], before: int) -> None:
    backend = make()
    backend.queues()  # it opens the store
    numbers = itertools.count()

    def reached() -> None:
        if next(numbers) == before:
            os.kill(os.getpid(), signal.SIGKILL)

    if isinstance(backend, RedisBackend):
        _count_commands(reached)
    elif isinstance(backend, PostgresBackend):
        _count_calls(psycopg.Cursor, "execute", reached)
        _count_calls(Connections, "prepared", reached)
    else:
        for name in _SQLITE:
            _count_calls(SqliteStore, name, reached)
    act(backend)


def _count_calls(owner: type, name: str, reached: Callable[[], None]) -> None:
    plain = getattr(owner, name)

    def call(*arguments: Any, **keywords: Any) -> Any:
        reached()
        return plain(*arguments, **keywords)

    setattr(owner, name, call)


def _count_commands(reached: Callable[[], None]) -> None:
    plain = RedisConnection.exchange_once

    def exchange(connection: RedisConnection, commands: Any, near: Any) -> list[Any]:
        replies = []
        for command in commands:  # one at a time
            reached()
            replies += plain(connection, [command], near)
        return replies

    RedisConnection.exchange_once = exchange  # type: ignore[method-assign]
