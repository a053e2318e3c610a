"""The wake of one process: a connection on which the server calls it.

Whoever adds a job to a queue calls one worker that has nothing to do there, by name. A call that is lost
costs time, never a job: workers look all the same every few seconds, and at once when the connection is back.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import redis

from neoq.threads import join

if TYPE_CHECKING:
    from neoq.config import SafeLogger
    from neoq.redis_connection import RedisConnection

PING_EVERY = 15.0  # seconds; a connection that is silent for twice as long is dead
FIRST_PAUSE, LAST_PAUSE = 0.1, 2.0  # seconds between attempts to connect


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
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._ear: Any = None
        self.hears = False

    def start(self) -> None:
        """Start the thread, once."""
        with self._lock:
            if self._thread is None and not self._closing.is_set():
                self._thread = threading.Thread(target=self._run, name="neoq-wakes", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Hear no more."""
        with self._lock:
            self._closing.set()
            thread, ear = self._thread, self._ear
        if ear is not None:
            try:
                ear.send([("UNSUBSCRIBE",)])  # its answer ends the thread's wait
            except (redis.RedisError, OSError, AttributeError):
                pass
        join(thread, 2.0)

    def _run(self) -> None:
        pause = FIRST_PAUSE
        while not self._closing.is_set():
            try:
                self._hear()
                pause = FIRST_PAUSE
            except (redis.RedisError, OSError, ValueError, AttributeError) as error:
                if self._closing.is_set():
                    return
                self._log.warning("the server's calls are not heard until it is back: %s", error)
                self._closing.wait(pause)
                pause = min(2 * pause, LAST_PAUSE)

    def _hear(self) -> None:
        client = self._connection.new_client(socket_timeout=PING_EVERY)
        ear = self._connection.wire_of(client)
        try:
            ear.send([("SUBSCRIBE", self._channel)])
            with self._lock:
                self._ear = ear
            self._listen(ear)
        finally:
            with self._lock:
                self._ear = None
            self.hears = False
            ear.close()
            client.close()

    def _listen(self, ear: Any) -> None:
        asked = False
        while not self._closing.is_set():
            try:
                kind, *rest = ear.read()
            except redis.TimeoutError:
                if asked:
                    raise
                asked = True
                ear.send([("PING",)])
                continue
            asked = False
            if kind == b"message":
                self._called(rest[1].decode())
            elif kind == b"subscribe":
                self.hears = True
                self._back()
