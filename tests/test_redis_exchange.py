"""Commands and replies on the connections of redis-py that a store keeps."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import redis

from neoq.errors import BackendUnavailable
from neoq.redis.address import Address
from neoq.redis.client import connection_of_pool
from neoq.redis.connection import RedisConnection
from neoq.redis.exchange import exchange


@pytest.fixture
def connection(redis_url: str) -> Iterator[RedisConnection]:
    connection = RedisConnection(
        Address.of(redis_url),
        socket_timeout=10.0,
        wait_replicas=0,
        tls={},
        sentinel={"password": None},
        log=logging.getLogger("neoq"),  # type: ignore[arg-type]
    )
    connection.open()
    yield connection
    connection.close()


def test_errors_are_replies(redis_url: str) -> None:
    """An error of the server stands in the place of its reply, and the replies after it are read."""
    with redis.Redis.from_url(redis_url) as client:
        connection = connection_of_pool(client.connection_pool)
        replies = exchange(connection, [("ECHO", "a"), ("EVALSHA", b"a" * 40, 0), ("ECHO", b"\xff")])
        client.connection_pool.release(connection)
    assert (replies[0], replies[2]) == (b"a", b"\xff")
    assert isinstance(replies[1], redis.exceptions.NoScriptError)


def test_a_connection_is_kept(connection: RedisConnection) -> None:
    """Commands of one thread go over one connection."""
    assert len({connection.command("CLIENT", "ID") for _ in range(3)}) == 1


def test_a_connection_that_the_server_closed(connection: RedisConnection, redis_url: str) -> None:
    """A command goes over a new connection, unless it must not be repeated: then its outcome is unknown."""
    first = connection.command("CLIENT", "ID")
    with redis.Redis.from_url(redis_url) as client:
        client.execute_command("CLIENT", "KILL", "ID", first)
        second = connection.command("CLIENT", "ID")
        assert second != first
        client.execute_command("CLIENT", "KILL", "ID", second)
    with pytest.raises(BackendUnavailable) as raised:
        connection.call(connection.scripts.beat, [b"workers"], ["w", b""], again=False)
    assert raised.value.outcome_unknown
