"""Which queues are known to hold nothing for this process, so that claims leave them alone for a while."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from neoq.clock import machine
from neoq.redis.queues import RedisQueues

LOOK_EVERY = 10  # times job_check_interval: how often an idle queue is claimed from without a wake
LOOK_EVERY_AT_LEAST = 60  # as above, if there are many such queues


class IdleQueue(NamedTuple):
    """A queue that held no ready job when it was claimed from."""

    due: float | None  # on the server's clock, when the next job is due
    looked_at: float  # monotonic


class IdleQueues:
    """The queues that held no ready job; a change makes a queue leave them."""

    def __init__(self, queues: RedisQueues, interval: float, hears: Callable[[], bool]) -> None:
        self._queues = queues
        self._interval = interval
        self._hears = hears
        self._idle: dict[str, IdleQueue] = {}
        self._changes: dict[str, int] = {}

    def mark_changed(self, queue: str) -> None:
        """Something has changed in a queue: claim from it again."""
        self._changes[queue] = self._changes.get(queue, 0) + 1
        self._idle.pop(queue, None)

    def changes(self, queue: str) -> int:
        """How many changes there were; a claim passes it to `learn`."""
        return self._changes.get(queue, 0)

    def learn(self, queue: str, due: float | None, changes: int) -> None:
        """A claim found no more jobs; ignored if the queue has changed since the claim was sent."""
        if self.changes(queue) == changes:
            self._idle[queue] = IdleQueue(due, machine.monotonic())

    def forget(self, queue: str) -> None:
        """A queue may hold more jobs."""
        self._idle.pop(queue, None)

    def due(self, queue: str) -> float | None:
        """When the next job of an idle queue is due, if that is known."""
        idle = self._idle.get(queue)
        return None if idle is None else idle.due

    def known_empty(self, queue: str) -> bool:
        """Whether it is too early to claim from a queue again."""
        idle = self._idle.get(queue)
        if idle is None or (idle.due is not None and idle.due <= self._queues.time()):
            return False
        times = min(max(LOOK_EVERY, 5 * len(self._idle)), LOOK_EVERY_AT_LEAST) if self._hears() else 1
        return machine.monotonic() - idle.looked_at < times * self._interval

    def back_off(self, queue: str) -> float:
        """Leave a queue alone that the server refuses to claim from; return when to try again."""
        due = self._queues.time() + self._interval
        self._idle[queue] = IdleQueue(due, machine.monotonic())
        return due
