"""The wake of one process: a connection on which the server calls it.

Whoever adds a job to a queue calls one worker that has nothing to do there, by name. A call that is lost
costs time, never a job: workers look all the same every few seconds, and at once when the connection is back.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import redis

from neoq.loop import Loop
from neoq.redis.connection import RedisConnection
from neoq.redis.errors import DRIVER_ERRORS
from neoq.redis.exchange import read, send

if TYPE_CHECKING:
    from neoq.config import SafeLogger

PING_EVERY = 15.0  # seconds; a connection that is silent for twice as long is dead
FIRST_PAUSE, LAST_PAUSE = 0.1, 2.0  # seconds between attempts to connect
REFUSED_PAUSE = 60.0  # and where the server does not let us hear it


class Wakes:
    """One thread that hears calls, and passes them on."""

    def __init__(
        self,
        connection: RedisConnection,
        channel: str,
        *,
        called: Callable[[str], None],
        back: Callable[[], None],
        log: SafeLogger,
    ) -> None:
        self._connection = connection
        self._channel = channel
        self._called = called
        self._back = back
        self._log = log
        self._lock = threading.Lock()
        self._loop = Loop("neoq-wakes", self._turn, log)
        self._ear: Any = None
        self._pause = FIRST_PAUSE
        self.hears = False

    def start(self) -> None:
        """Start the thread, once."""
        self._loop.start()

    def close(self) -> None:
        """Hear no more."""
        with self._lock:
            self._loop.close()
            ear = self._ear
        if ear is not None:
            try:
                send(ear, [("UNSUBSCRIBE",)])  # its answer ends the thread's wait
            except (redis.RedisError, OSError, AttributeError):
                pass
        self._loop.join(2.0)

    def _turn(self) -> float:
        """Hear until that ends; return how long to wait before the next attempt."""
        try:
            self._hear()
        except Exception as error:
            return 0.0 if self._loop.closing else self._pause_after(error)
        return 0.0

    def _pause_after(self, error: Exception) -> float:
        """Say what the matter is, and how many seconds until it is worth trying again."""
        if isinstance(error, redis.ResponseError):
            self._log.warning(
                "the server refuses to call us, so jobs are looked for every job_check_interval instead; "
                "let its user hear the channels %s*: %s",
                self._channel.rpartition(":")[0] + ":",
                error,
            )
            return REFUSED_PAUSE
        trace = not isinstance(error, (*DRIVER_ERRORS, OSError, ValueError, AttributeError))
        self._log.warning("the server's calls are not heard until it is back: %r", error, exc_info=trace)
        pause, self._pause = self._pause, min(2 * self._pause, LAST_PAUSE)
        return pause

    def _hear(self) -> None:
        client = self._connection.clients.new(socket_timeout=PING_EVERY)
        ear = self._connection.connection_of(client)
        try:
            send(ear, [("SUBSCRIBE", self._channel)])
            with self._lock:
                if self._loop.closing:
                    return
                self._ear = ear  # from now on its end is to be told of
            self._listen(ear)
        finally:
            with self._lock:
                self._ear = None
            self.hears = False
            ear.disconnect()
            client.close()

    def _listen(self, ear: Any) -> None:
        """Hear calls until we have unsubscribed; none that came before is lost."""
        asked = False
        while True:
            try:
                reply = read(ear)
            except redis.TimeoutError:
                if asked:
                    raise
                asked = True
                send(ear, [("PING",)])
                continue
            asked = False
            if isinstance(reply, Exception):
                raise reply
            kind, *rest = reply
            if kind == b"message":
                self._called(rest[1].decode())
            elif kind == b"subscribe":
                self.hears = True
                self._pause = FIRST_PAUSE
                self._back()
            elif kind == b"unsubscribe":
                return
