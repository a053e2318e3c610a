"""One connection to a server as one thread uses it at a time: commands go out, replies come in.

redis-py makes the connection and says who we are; what is said afterwards goes past it, straight to the
socket and hiredis. Its own way costs more of the processor than everything else an enqueue does.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Sequence
from typing import Any

import redis

hiredis: Any
try:
    import hiredis

    if not hasattr(hiredis, "pack_command"):  # older than 2.2; redis-py only reads with it
        hiredis = None
except ImportError:  # redis-py does without
    hiredis = None

PACKS = hiredis is not None  # whether a `Beginning` can be made
_READ_AT_ONCE = 65536
_NOT_ENOUGH = object()  # what hiredis says where a reply has not come as a whole

Commands = Sequence[Sequence[Any]]


def wire_of(connection: Any, *, managed: bool = False) -> Wire:
    """A wire over a connection of redis-py that is connected, and says nothing more by itself.

    ``managed``: sentinels say where it leads, so that it is of no use once its server is no master.
    """
    sock = getattr(connection, "_sock", None)
    error_of = getattr(getattr(connection, "_parser", None), "parse_error", None)
    if hiredis is None or sock is None or error_of is None:
        return Wire(connection)
    return DirectWire(connection, sock, error_of, managed=managed)


class Wire:
    """A connection as redis-py reads and writes it."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    def exchange(self, commands: Commands) -> list[Any]:
        """The replies to commands, the server's errors among them; what it raises ends the connection."""
        self.send(commands)
        return [self.read() for _ in commands]

    def send(self, commands: Commands) -> None:
        """Send commands."""
        packed = [_packed(commands)] if hiredis else self.connection.pack_commands(commands)
        self.connection.send_packed_command(packed, check_health=False)

    def read(self) -> Any:
        """The next reply; redis.TimeoutError where none comes in time."""
        try:
            return self.connection.read_response(disconnect_on_error=False)
        except redis.ConnectionError:
            raise
        except redis.ResponseError as error:
            return error

    def close(self) -> None:
        """Break it off: what comes next on it answers nobody."""
        self.connection.disconnect()


class DirectWire(Wire):
    """A connection whose socket we read and write ourselves."""

    def __init__(self, connection: Any, sock: socket.socket, error_of: Any, *, managed: bool) -> None:
        super().__init__(connection)
        self._sock = sock
        self._managed = managed
        self._buffer = bytearray(_READ_AT_ONCE)
        self._reader = hiredis.Reader(
            protocolError=redis.exceptions.InvalidResponse, replyError=error_of, notEnoughData=_NOT_ENOUGH
        )
        _leave_timeouts_to_the_system(sock)

    def exchange(self, commands: Commands) -> list[Any]:
        """The replies to commands, the server's errors among them; what it raises ends the connection."""
        self.send(commands)
        if len(commands) == 1:
            return [self.read()]
        return [self.read() for _ in commands]

    def send(self, commands: Commands) -> None:
        """Send commands."""
        try:
            self._sock.sendall(_packed(commands))
        except (TimeoutError, BlockingIOError):
            raise redis.TimeoutError("Timeout writing to socket") from None

    def read(self) -> Any:
        """The next reply; redis.TimeoutError where none comes in time."""
        reader = self._reader
        reply = reader.gets()
        while reply is _NOT_ENOUGH:
            try:
                size = self._sock.recv_into(self._buffer)
            except (TimeoutError, BlockingIOError):
                raise redis.TimeoutError("Timeout reading from socket") from None
            if not size:
                raise redis.ConnectionError("Connection closed by server.")
            reader.feed(self._buffer, 0, size)
            reply = reader.gets()
        if isinstance(reply, redis.RedisError):
            if isinstance(reply, redis.ConnectionError):
                raise reply
            if self._managed and isinstance(reply, redis.ReadOnlyError):
                raise redis.ConnectionError("The previous master is now a slave")
        return reply


class Beginning:
    """A command that is sent very often, up to its last arguments, which differ: it is packed once."""

    def __init__(self, arguments: Sequence[Any], more: int) -> None:
        _, packed = _packed([arguments]).split(b"\r\n", 1)
        self._packed = b"*%d\r\n%b" % (len(arguments) + more, packed)

    def with_last(self, arguments: Sequence[bytes]) -> bytes:
        """The whole command, packed, which is sent as it is."""
        return self._packed + b"".join([b"$%d\r\n%b\r\n" % (len(one), one) for one in arguments])


def _packed(commands: Commands) -> bytes:
    """Commands as they go over the wire; redis-py would look at each argument before hiredis packs it."""
    if len(commands) == 1:
        command = commands[0]
        if command.__class__ is bytes:
            return command
        packed: bytes = hiredis.pack_command(tuple(command))
        return packed
    return b"".join([hiredis.pack_command(tuple(command)) for command in commands])


def _leave_timeouts_to_the_system(sock: socket.socket) -> None:
    """Let reads and writes time out without Python's asking before each of them whether it can be done."""
    seconds = sock.gettimeout()
    posix = os.name == "posix" and hasattr(os, "get_blocking")
    if type(sock) is not socket.socket or not posix or not seconds:
        return
    limit = struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))
    sock.settimeout(None)
    try:
        if os.get_blocking(sock.fileno()):  # not where gevent reads and writes
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
            return
    except OSError:
        pass
    sock.settimeout(seconds)
