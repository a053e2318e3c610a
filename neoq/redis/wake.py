"""The subscriber of one process: a connection on which the server wakes it.

A script that adds jobs to a queue publishes to one worker that is idle there. A lost wake costs time and
never a job: workers poll as well every few seconds, and at once after a reconnect.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import redis

from neoq.redis.connection import RedisConnection
from neoq.redis.errors import DRIVER_ERRORS
from neoq.redis.exchange import read, send
from neoq.threads.loop import Loop

if TYPE_CHECKING:
    from neoq.wording.safe_logger import SafeLogger

PING_EVERY = 15.0  # seconds; a connection that is silent for twice as long is dead
FIRST_PAUSE, LAST_PAUSE = 0.1, 2.0  # seconds between attempts to connect
REFUSED_PAUSE = 60.0  # after a denied SUBSCRIBE


class Subscriber:
    """One thread that receives wakes, and passes them on."""

    def __init__(
        self,
        connection: RedisConnection,
        channel: str,
        asks: str,
        *,
        on_wake: Callable[[str], None],
        on_ask: Callable[[str], None],
        on_reconnect: Callable[[], None],
        log: SafeLogger,
    ) -> None:
        self._connection = connection
        self._channel = channel
        self._asks = asks  # the channel of all workers
        self._on_wake = on_wake
        self._on_ask = on_ask
        self._on_reconnect = on_reconnect
        self._log = log
        self._lock = threading.Lock()
        self._loop = Loop("neoq-wakes", self._turn, log)
        self._current: Any = None
        self._pause = FIRST_PAUSE
        self.subscribed = False

    def start(self) -> None:
        """Start the thread, once."""
        self._loop.start()

    def close(self) -> None:
        """Unsubscribe, and end the thread."""
        with self._lock:
            self._loop.close()
            if self._current is not None:  # the thread disconnects only after this: a send would reconnect
                try:
                    send(self._current, [("UNSUBSCRIBE",)])  # the reply ends the thread's wait
                except (redis.RedisError, OSError):
                    pass
        self._loop.join(2.0)

    def _turn(self) -> float:
        """Listen until the connection ends; return how long to wait before the next attempt."""
        try:
            self._listen()
        except Exception as error:
            return 0.0 if self._loop.closing else self._pause_after(error)
        return 0.0

    def _pause_after(self, error: Exception) -> float:
        """Log the error; return how many seconds to wait before the next attempt."""
        if isinstance(error, redis.ResponseError):
            self._log.warning(
                "Redis denied SUBSCRIBE, so jobs are found by polling every job_check_interval; "
                "grant this user the channels %s*: %s",
                self._channel.rpartition(":")[0] + ":",
                error,
            )
            return REFUSED_PAUSE
        trace = not isinstance(error, (*DRIVER_ERRORS, OSError, ValueError, AttributeError))
        self._log.warning("lost the pub/sub connection; reconnecting: %r", error, exc_info=trace)
        pause, self._pause = self._pause, min(2 * self._pause, LAST_PAUSE)
        return pause

    def _listen(self) -> None:
        client = self._connection.clients.new(socket_timeout=PING_EVERY)
        connection = self._connection.connection_of(client)
        try:
            send(connection, [("SUBSCRIBE", self._asks, self._channel)])
            with self._lock:
                if self._loop.closing:
                    return
                self._current = connection  # from now on `close` unsubscribes
            self._receive(connection)
        finally:
            with self._lock:
                self._current = None
            self.subscribed = False
            connection.disconnect()
            client.close()

    def _receive(self, connection: Any) -> None:
        """Receive wakes until we have unsubscribed; no earlier wake is lost."""
        asked, own = False, self._channel.encode()
        while True:
            try:
                reply = read(connection)
            except redis.TimeoutError:
                if asked:
                    raise
                asked = True
                send(connection, [("PING",)])
                continue
            asked = False
            if isinstance(reply, Exception):
                raise reply
            kind, *rest = reply
            if kind == b"message" and rest[0] == own:
                self._on_wake(rest[1].decode())
            elif kind == b"message":
                self._on_ask(rest[1].decode(errors="replace"))
            elif kind == b"subscribe" and rest[0] == own:
                self.subscribed = True
                self._pause = FIRST_PAUSE
                self._on_reconnect()
            elif kind == b"unsubscribe":
                return
