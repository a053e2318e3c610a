"""Queues to which this process enqueues and no live worker listens: each is named once, after a minute."""

from __future__ import annotations

from typing import TYPE_CHECKING

from neoq.clock import machine
from neoq.threads.loop import Loop

if TYPE_CHECKING:
    from neoq.errors import BackendError
    from neoq.store import Store
    from neoq.wording.safe_logger import SafeLogger

LOOK_EVERY = 30.0  # seconds between an enqueue and the first of two looks, and between these


class Unheard:
    """Looks at the workers of a store, in a thread, and warns of a queue that none had at two looks."""

    def __init__(self, store: Store, log: SafeLogger) -> None:
        self._store = store
        self._log = log
        self._noted: set[str] = set()
        self._look_at: dict[str, float] = {}  # monotonic, of queues that no look has found yet
        self._missing: set[str] = set()  # at the first look
        self._loop = Loop("neoq-unheard", self._turn, log, away=self._say_away, on_demand=True)

    def note(self, queue: str) -> None:
        """Something is enqueued to a queue that this process does not run."""
        if queue not in self._noted:
            self._look_at[queue] = machine.monotonic() + LOOK_EVERY
            self._noted.add(queue)
            self._loop.wake()

    def close(self) -> None:
        """Look no more."""
        self._loop.close(1.0)

    def _say_away(self, error: BackendError, pause: float) -> None:
        self._log.debug("the workers of the store are looked at again in %.1f s: %s", pause, error)

    def _turn(self) -> float | None:
        waiting = dict(self._look_at)
        if not waiting:
            return None
        now = machine.monotonic()
        if now >= min(waiting.values()):
            heard = {name for worker in self._store.workers() for name in worker.queues}
            for queue, at in waiting.items():
                if now >= at:
                    self._judge(queue, heard, now)
            return 0.0
        return min(waiting.values()) - now

    def _judge(self, queue: str, heard: set[str], now: float) -> None:
        if queue not in heard and queue not in self._missing:
            self._missing.add(queue)
            self._look_at[queue] = now + LOOK_EVERY
            return
        del self._look_at[queue]
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
