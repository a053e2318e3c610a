"""Queues to which this process enqueues and no live worker listens: each is named once."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from neoq.clock import machine
from neoq.errors import BackendError

if TYPE_CHECKING:
    from neoq.config import SafeLogger
    from neoq.store import Store

LOOK_AFTER = 60.0  # seconds between an enqueue and a look, and between two looks


class Unheard:
    """Looks at the workers of a store, and warns of a queue that none had at two looks, a minute apart."""

    def __init__(self, store: Store, log: SafeLogger) -> None:
        self._store = store
        self._log = log
        self._since: dict[str, float] = {}  # monotonic, of the last look; infinite where no more is needed
        self._missing: set[str] = set()  # at the last look

    def note(self, queue: str) -> None:
        """Something is enqueued to a queue that this process does not listen to."""
        now = machine.monotonic()
        if now - self._since.setdefault(queue, now) >= LOOK_AFTER:
            self._since[queue] = now
            try:
                heard = {name for worker in self._store.workers() for name in worker.queues}
            except BackendError:  # the enqueue that follows says so
                return
            self._judge(queue, heard)

    def _judge(self, queue: str, heard: set[str]) -> None:
        if queue not in heard and queue not in self._missing:
            self._missing.add(queue)
            return
        self._since[queue] = math.inf
        if queue in heard:
            return
        from neoq.wording.remedies import nearest

        near = nearest(queue, heard)
        known = ", ".join(map(repr, sorted(heard))) or "none"
        self._log.warning(
            "no live worker has listened to queue %r for a minute, so its jobs wait; %s",
            queue,
            f"the queues that are listened to are {known}" if near is None else f"did you mean {near!r}?",
        )
