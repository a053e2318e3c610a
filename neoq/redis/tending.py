"""What every worker looks after with its heartbeats: outboxes, totals of groups, groups to be stopped."""

from __future__ import annotations

import random

from neoq.redis.groups import Groups
from neoq.redis.outbox import Outbox
from neoq.redis.queues import RedisQueues

AT_ONCE = 200  # queues that one call looks at; the next one goes on after them
_PLACES = ("out", "tell", "halts")


class Tender:
    """Looks after queues in turn."""

    def __init__(self, queues: RedisQueues, groups: Groups, outbox: Outbox) -> None:
        self._queues = queues
        self._groups = groups
        self._outbox = outbox
        self._next = random.randrange(2**20)  # workers begin with different ones

    def tend(self) -> bool:
        """Look after some queues; whether there is more to do in them at once."""
        every = self._queues.all()
        if not every:
            return False
        start = self._next % len(every)
        some = [*every[start:], *every[:start]][:AT_ONCE]
        self._next = start + len(some)
        asked = [("EXISTS", *map(self._queues.keys(queue).key, _PLACES)) for queue in some]
        there = self._queues.redis.commands(asked)
        busy = [queue for queue, number in zip(some, there, strict=True) if number]
        if not busy:
            return False
        more = self._groups.tend(busy)
        return self._outbox.tend(busy) or more
