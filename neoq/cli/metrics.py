"""The metrics of a worker: what its processes have counted, summed, and exposed by the supervisor alone.

The counters of a process that is gone stay in the sum, and no file is written. The levels of the store are
read by one process at a time, and only where somebody scrapes.
"""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from neoq.cli.probes import head_of
from neoq.metrics.figures import Figures, Key, add, of_message
from neoq.metrics.names import CHILD_EXITS, KIND_RUN, REASONS, STORE_UP, KnownKinds
from neoq.metrics.text import CONTENT_TYPE, text_of

KEPT = 5.0  # seconds for which levels are good
LIMIT = 2.5  # seconds that a scrape waits for them
AT_ONCE = 4  # scrapes
PATIENCE = 10.0  # seconds for a client to take its answer
AWAY: Figures = {(STORE_UP,): (0,)}


class Metrics:
    """The sum of what the processes have counted, and the levels as one of them has read them last."""

    def __init__(self, ask_for_levels: Callable[[], bool]) -> None:
        self._ask_for_levels = ask_for_levels
        self._changed = threading.Condition()
        self._counted: Figures = {}
        self._exits = Counter(dict.fromkeys(REASONS, 0))
        self._levels: Figures = {}
        self._asked_at = self._read_at = float("-inf")  # monotonic
        self._scrapes = 0
        self._kinds = KnownKinds()

    def note_counted(self, message: list[Any]) -> None:
        """A process tells what it has counted since it told last."""
        with self._changed:
            add(self._counted, {self._bounded(key): numbers for key, numbers in of_message(message).items()})

    def _bounded(self, key: Key) -> Key:
        """The same key with its kind, or "other": each process has first kinds of its own."""
        if key[0] != KIND_RUN:
            return key
        name, queue, kind, outcome = key
        return name, queue, self._kinds.name_of(kind), outcome

    def note_levels(self, message: list[Any]) -> None:
        """A process has read the levels of the store."""
        with self._changed:
            self._levels, self._read_at = of_message(message), time.monotonic()
            self._changed.notify_all()

    def note_exit(self, reason: str) -> None:
        """A process has ended."""
        with self._changed:
            self._exits[reason] += 1

    def serve(self, client: socket.socket, method: str) -> None:
        """Answer a scrape, in a thread of its own: it may be long, and its levels may be on their way."""
        with self._changed:
            self._scrapes += 1
            now = time.monotonic()
            if now - self._read_at >= KEPT and now - self._asked_at >= LIMIT and self._ask_for_levels():
                self._asked_at = now
        thread = threading.Thread(target=self._serve, args=(client, method), name="neoq-scrape", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no thread is to be had
            self._done(client)

    def _serve(self, client: socket.socket, method: str) -> None:
        try:
            client.settimeout(PATIENCE)
            code, kind, body = self._answer()
            client.sendall(head_of(code, kind, len(body)) + (body if method != "HEAD" else b""))
        except OSError:  # gone, or it does not read
            pass
        finally:
            self._done(client)

    def _done(self, client: socket.socket) -> None:
        client.close()
        with self._changed:
            self._scrapes -= 1

    def _answer(self) -> tuple[int, str, bytes]:
        if self._scrapes > AT_ONCE:
            return 503, CONTENT_TYPE, b"# too many scrapes at once\n"
        return 200, CONTENT_TYPE, text_of(self._figures())

    def _figures(self) -> Figures:
        with self._changed:
            read = self._changed.wait_for(lambda: self._read_at >= self._asked_at, LIMIT)
            fresh = time.monotonic() - self._read_at < KEPT + LIMIT  # else no process claims jobs, to ask it
            levels = (self._levels if fresh else {}) if read else AWAY
            exits: Figures = {(CHILD_EXITS, reason): (number,) for reason, number in self._exits.items()}
            return {**self._counted, **exits, **levels}
