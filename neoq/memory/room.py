"""Room in the queues in memory: whether there is some, and how producers wait for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Sequence
from functools import partial
from typing import TYPE_CHECKING

from neoq.capacity import closed, new_of, no_room, refuse_too_many
from neoq.clock import machine
from neoq.job import Job, data_of
from neoq.memory.state import QueueState

if TYPE_CHECKING:
    from neoq.config import Config
    from neoq.store import StoreContext

_HANDED_OVER_AT_MOST = 2048  # far from its capacity, a queue is not full whatever the runners hold


class Room:
    """Counts what fits; its callers hold the lock of the table. ``closed`` ends every wait."""

    def __init__(self, config: Config, context: StoreContext, uids: Container[str | None]) -> None:
        self._config = config
        self._context = context
        self._uids = uids
        self.closed = False

    def is_full(self, state: QueueState, wanted: int) -> bool:
        """Whether a queue has no room for as many more jobs."""
        capacity = self._context.capacity_of(state.queue)
        if capacity is None:
            state.plenty = math.inf
            return False
        state.plenty = capacity - _HANDED_OVER_AT_MOST if state.limited is None else -math.inf
        if len(state.ready) + wanted <= state.plenty:
            return False
        return len(state.ready) + wanted + self._context.handed_over(state.queue) > capacity

    def make(self, jobs: Sequence[Job], states: dict[str, QueueState], special: list[Job]) -> None:
        """Wait until every queue of a batch has room for its part of it."""
        wanted = dict.fromkeys(states, 0)
        if len(states) == 1:
            wanted[jobs[0].queue] = len(jobs) - sum(job.waits for job in special)
        else:
            for job in jobs:
                wanted[job.queue] += not job.waits
        capacities = {
            queue: math.inf if (most := self._context.capacity_of(queue)) is None else most
            for queue in states
        }
        if all(n <= capacities[queue] and not self.is_full(states[queue], n) for queue, n in wanted.items()):
            return
        count_new = partial(self._new_of, jobs, states, not special)
        wanted = count_new()
        refuse_too_many(wanted, capacities)
        if self._context.in_runner():  # a handler that waited for itself would wait for ever
            return
        while full := [queue for queue, n in wanted.items() if n and self.is_full(states[queue], n)]:
            self.wait(states[full[0]], lambda: count_new()[full[0]])
            wanted = count_new()

    def may_have(self, state: QueueState) -> bool:
        """Whether to wake producers: asked by a runner that has started all that was handed to it before."""
        capacity = self._context.capacity_of(state.queue)
        return capacity is None or len(state.ready) + min(state.blocked) <= capacity

    def wait(self, state: QueueState, wanted: Callable[[], int]) -> None:
        """Wait, with the lock released, until a full queue has room again for as many as are ``wanted``."""
        number = wanted()
        if not number or self._context.in_runner():  # a handler that waited for itself would wait for ever
            return
        timeout = self._config.enqueue_timeout
        give_up = math.inf if timeout is None else machine.monotonic() + timeout
        state.blocked.append(number)
        try:
            while not self.closed and (number_now := wanted()) and self.is_full(state, number_now):
                left = give_up - machine.monotonic()
                if left <= 0:
                    raise no_room(state.queue, self._context.capacity_of(state.queue) or 0, timeout)
                state.ready.not_full.wait(min(left, self._config.job_check_interval))
        finally:
            state.blocked.remove(number)
        if self.closed:
            raise closed(state.queue)

    def is_held(self, job: Job, state: QueueState) -> bool:
        """Whether an unfinished job has this one's fingerprint, or any job its uid."""
        return job.uid in self._uids or (bool(job.unique) and state.key(job) in state.holders)

    def _new_of(self, jobs: Sequence[Job], states: dict[str, QueueState], plain: bool) -> dict[str, int]:
        """How many ready jobs a batch brings each queue, duplicates aside; ``plain``: none is special."""
        state = states[jobs[0].queue]
        if plain and len(states) == 1 and not state.hashed:  # asked at every look at a full queue
            return {state.queue: len(set(map(data_of, jobs)).difference(state.holders))}
        held = [place for place, job in enumerate(jobs) if self.is_held(job, states[job.queue])]
        return new_of(jobs, states, held)
