"""How a process that waits for jobs hears of their changes: by a subscription."""

from __future__ import annotations

import redis

from neoq.clock import machine
from neoq.messages import ids_in
from neoq.redis.connection import RedisConnection
from neoq.redis.errors import DRIVER_ERRORS
from neoq.redis.exchange import read, send

PING_EVERY = 15.0  # seconds; a connection that is silent for twice as long is dead


class RedisEar:
    """A connection that subscribes to the channel of changes."""

    def __init__(self, connection: RedisConnection, channel: str) -> None:
        self._redis = connection
        self._client = connection.clients.new()
        self._heard_at = self._pinged_at = machine.monotonic()
        try:
            self._connection = connection.connection_of(self._client)
        except (*DRIVER_ERRORS, OSError) as error:
            self._client.close()
            raise connection.wrapped(error) from error
        try:
            send(self._connection, [("SUBSCRIBE", channel)])
            reply = read(self._connection)
            if isinstance(reply, Exception):
                raise reply
        except (*DRIVER_ERRORS, OSError) as error:
            self.close()
            raise connection.wrapped(error) from error
        self._fresh = True

    def hear(self, seconds: float) -> set[int] | None:
        """Ids of jobs that have changed; None where any may have."""
        if self._fresh:
            self._fresh = False
            return None
        try:
            return self._hear(seconds)
        except (*DRIVER_ERRORS, OSError) as error:
            raise self._redis.wrapped(error) from error

    def _hear(self, seconds: float) -> set[int] | None:
        changed: set[int] | None = set()
        while self._connection.can_read(timeout=seconds):
            seconds = 0.0
            self._heard_at = machine.monotonic()
            reply = read(self._connection)
            if isinstance(reply, Exception):
                raise reply
            if reply[0] == b"message":
                ids = ids_in(reply[2].decode(errors="replace"))
                changed = None if changed is None or ids is None else changed | ids
        self._ping()
        return changed

    def _ping(self) -> None:
        now = machine.monotonic()
        if now - self._heard_at > 2 * PING_EVERY:
            raise redis.TimeoutError("no reply to a PING")
        if now - max(self._heard_at, self._pinged_at) > PING_EVERY:
            self._pinged_at = now
            send(self._connection, [("PING",)])

    def close(self) -> None:
        """Disconnect."""
        self._connection.disconnect()
        self._client.close()
