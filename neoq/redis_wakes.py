"""The wake of one process: a connection on which the server calls it.

Whoever adds a job to a queue calls one worker that has nothing to do there, by name. A call that is lost
costs time, never a job: workers look all the same every few seconds, and at once when this connection is back.
"""

from __future__ import annotations

import threading
import time
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
        self._ears: Any = None
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
            thread, ears = self._thread, self._ears
        if ears is not None:
            try:
                ears.unsubscribe()  # its answer ends the thread's wait
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
                if self.hears:
                    pause = FIRST_PAUSE
                    self._log.warning("the server's calls are not heard until it is back: %s", error)
                self.hears = False
                self._closing.wait(pause)
                pause = min(2 * pause, LAST_PAUSE)

    def _hear(self) -> None:
        client = self._connection.new_client()
        ears = client.pubsub()
        try:
            ears.subscribe(self._channel)
            with self._lock:
                self._ears = ears
            self._listen(ears)
        finally:
            with self._lock:
                self._ears = None
            ears.close()
            client.close()

    def _listen(self, ears: Any) -> None:
        heard = asked = time.monotonic()
        while not self._closing.is_set():
            message = ears.get_message(timeout=PING_EVERY)
            now = time.monotonic()
            if message is None:
                if now - heard > 2 * PING_EVERY:
                    raise redis.ConnectionError("it is silent")
                if now - asked >= PING_EVERY - 1:
                    asked = now
                    ears.ping()
                continue
            heard = now
            if message["type"] == "subscribe":
                self.hears = True
                self._back()
            elif message["type"] == "message":
                self._called(message["data"].decode())
