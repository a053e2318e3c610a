"""What goes past redis-py on a connection to Redis: whole replies, errors, the end, and the time limit."""

from __future__ import annotations

import runpy
import socket
import threading
from collections.abc import Callable, Iterator

import hiredis
import pytest
import redis

from neoq.redis import wire as redis_wire
from neoq.redis.backend import RedisBackend
from neoq.redis.wire import Beginning, DirectWire, Wire, wire_of

PATIENCE = 15.0


class Connection:
    """What a wire takes from a connection of redis-py."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._parser = redis.Connection()._parser

    def disconnect(self) -> None:
        self._sock.close()


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.settimeout(0.2)
    with ours, theirs:
        yield ours, theirs


def test_a_reply_in_pieces(ends: tuple[socket.socket, socket.socket]) -> None:
    """Replies are read as a whole, however they come, each for its command; errors among them."""
    ours, theirs = ends
    wire = wire_of(Connection(ours))
    assert isinstance(wire, DirectWire)

    def answer() -> None:
        for piece in (b"$3\r\na", b"b", b"c\r\n-NOSCRIPT no", b" matching script\r\n*2\r\n:1\r\n$-1\r\n"):
            theirs.sendall(piece)
            threading.Event().wait(0.01)

    server = threading.Thread(target=answer)
    server.start()
    first, second, third = wire.exchange([("GET", "a"), ("EVALSHA", "b", 0), ("LRANGE", "c", 0, 1)])
    server.join(PATIENCE)
    assert (first, third) == (b"abc", [1, None])
    assert isinstance(second, redis.exceptions.NoScriptError)
    assert theirs.recv(1000).startswith(b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n*3\r\n")


def test_no_reply_in_time(ends: tuple[socket.socket, socket.socket]) -> None:
    """A server that says nothing for as long as the connection may wait is a TimeoutError of redis-py."""
    wire = wire_of(Connection(ends[0]))
    with pytest.raises(redis.TimeoutError):
        wire.exchange([("PING",)])


def test_a_server_that_takes_nothing(ends: tuple[socket.socket, socket.socket]) -> None:
    """So is one that does not take what is sent."""
    wire = wire_of(Connection(ends[0]))
    with pytest.raises(redis.TimeoutError):
        wire.exchange([("SET", "a", b"x" * 50_000_000)])


def test_the_end_of_a_connection(ends: tuple[socket.socket, socket.socket]) -> None:
    """A connection that the server closes, in the midst of a reply too, is a ConnectionError of redis-py."""
    ours, theirs = ends
    wire = wire_of(Connection(ours))
    theirs.sendall(b"$3\r\na")
    theirs.shutdown(socket.SHUT_WR)
    with pytest.raises(redis.ConnectionError):
        wire.read()


@pytest.mark.parametrize(("managed", "raises"), [(False, False), (True, True)])
def test_a_master_no_more(ends: tuple[socket.socket, socket.socket], managed: bool, raises: bool) -> None:
    """Where sentinels say who is the master, one that has become a replica ends the connection."""
    ours, theirs = ends
    wire = wire_of(Connection(ours), managed=managed)
    theirs.sendall(b"-READONLY You can't write against a read only replica.\r\n")
    if raises:
        with pytest.raises(redis.ConnectionError):
            wire.read()
    else:
        assert isinstance(wire.read(), redis.ReadOnlyError)


@pytest.mark.parametrize("reply", [b"-LOADING Redis is loading\r\n", b"-NOAUTH Authentication required.\r\n"])
def test_errors_that_end_a_connection(ends: tuple[socket.socket, socket.socket], reply: bytes) -> None:
    """A server that is not ready for us is an error of the connection, as redis-py has it."""
    ours, theirs = ends
    wire = wire_of(Connection(ours))
    theirs.sendall(reply)
    with pytest.raises(redis.ConnectionError):
        wire.read()


def test_a_packed_beginning() -> None:
    """A command whose beginning was packed before goes over the wire as any other."""
    whole = ("EVALSHA", b"a" * 40, 2, b"k%1", b"k2", "x", 8, b"", b"more\r\n")
    assert Beginning(whole[:-2], 2).with_last(whole[-2:]) == hiredis.pack_command(whole)


def test_an_old_hiredis(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that packs no commands yet, which redis-py may bring along, is left to redis-py."""
    assert runpy.run_path(redis_wire.__file__)["PACKS"]
    monkeypatch.delattr(hiredis, "pack_command")
    assert not runpy.run_path(redis_wire.__file__)["PACKS"]


def test_without_hiredis(
    redis_url: str, redis_prefix: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where hiredis is missing, or redis-py does not show its socket, redis-py reads and writes."""
    monkeypatch.setattr(redis_wire, "hiredis", None)
    monkeypatch.setattr("neoq.redis.connection.PACKS", False)
    with RedisBackend(redis_url, prefix=redis_prefix()) as backend:
        ran = threading.Event()
        backend.listen("q", lambda _job: ran.set())
        assert backend.enqueue("q").duplicate is False
        assert ran.wait(PATIENCE)
        assert type(backend.store._redis._take()) is Wire
