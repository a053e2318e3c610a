"""Capacity: what a full queue tells its producers, and how they wait for room in a store that is shared."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from neoq.clock import machine
from neoq.errors import BackendClosedError, QueueFullError
from neoq.job import Job
from neoq.store import StoreContext

LOOK_EVERY = 0.05  # seconds between looks whether a full queue has room again


def wanted_of(jobs: Sequence[Job], queues: Iterable[str]) -> dict[str, int]:
    """How many jobs of a batch are ready at once, of each of these queues."""
    numbers = dict.fromkeys(queues, 0)
    for job in jobs:
        if job.queue in numbers and not job.waits:
            numbers[job.queue] += 1
    return numbers


def bounds_of(jobs: Sequence[Job], context: StoreContext) -> dict[str, int]:
    """The capacity of each queue that may hold a batch back.

    A runner never waits for room. It is held back only by a queue that can never hold the batch.
    """
    if len(jobs) == 1 and context.capacity_of(jobs[0].queue) is None:
        return {}
    queues = {job.queue for job in jobs}
    capacities = {queue: limit for queue in queues if (limit := context.capacity_of(queue)) is not None}
    if capacities and context.in_runner():
        wanted = wanted_of(jobs, capacities)
        return {queue: limit for queue, limit in capacities.items() if wanted[queue] > limit}
    return capacities


def new_of(jobs: Sequence[Job], queues: Iterable[str], duplicates: Collection[int]) -> dict[str, int]:
    """As `wanted_of`, without duplicates, which take no room.

    Those are the jobs at these places of the batch, and those that are equal to an earlier one of it.
    """
    numbers = dict.fromkeys(queues, 0)
    seen: set[tuple[str, str]] = set()
    for place, job in enumerate(jobs):
        if job.queue not in numbers:
            continue
        if job.unique:
            name = job.queue, job.fingerprint
            if place in duplicates or name in seen:
                continue
            seen.add(name)
        numbers[job.queue] += not job.waits
    return numbers


def refuse_too_many(wanted: Mapping[str, int], capacities: Mapping[str, float]) -> None:
    """Raise QueueFullError for a batch that can never fit."""
    for queue, number in wanted.items():
        if number > capacities[queue]:
            raise too_many(queue, number, int(capacities[queue]))


def too_many(queue: str, number: int, capacity: int) -> QueueFullError:
    """The error for a batch that can never fit."""
    return QueueFullError(
        f"{number:,} jobs at once are more than queue {queue!r} holds ({capacity:,}); enqueue them in parts, "
        "or raise its capacity",
        queue=queue,
    )


def no_room(queue: str, capacity: int, seconds: float | None = None) -> QueueFullError:
    """The error for a queue without room; ``seconds`` that were waited for it."""
    waited = "" if seconds is None else f", and no room came within {seconds:g} s"
    return QueueFullError(
        f"queue {queue!r} holds all {capacity:,} jobs that it may{waited}; add runners (concurrency), raise "
        "its capacity, or enqueue less",
        queue=queue,
    )


def full_queue(
    jobs: Sequence[Job],
    capacities: Mapping[str, int],
    duplicates: Collection[int],
    ready_of: Callable[[str], int],
    context: StoreContext,
) -> str | None:
    """The name of a queue that has no room for what a batch brings it; None where all of them have.

    ``capacities`` are those of `bounds_of`, ``duplicates`` the places of jobs that meet one in the store, and
    ``ready_of`` counts the ready jobs of a queue there. Raises QueueFullError for a batch that can never fit.
    """
    if not capacities:
        return None
    wanted = new_of(jobs, capacities, duplicates)
    refuse_too_many(wanted, capacities)
    if context.in_runner():  # a handler that waited for room might wait for itself
        return None
    for queue, number in wanted.items():
        if number and ready_of(queue) + context.handed_over(queue) + number > capacities[queue]:
            return queue
    return None


def closed(queue: str) -> BackendClosedError:
    """The error for a producer whose backend is shut down as it waits."""
    return BackendClosedError(
        f"the backend was shut down while enqueue waited for room in queue {queue!r}", queue=queue
    )


class Room:
    """Where the producers of one process wait for room.

    They look again every LOOK_EVERY seconds, since others may have made some, and at once when this process
    claims.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting = 0
        self.refusing = False

    def refuse(self) -> None:
        """Let nobody wait any more."""
        with self._changed:
            self.refusing = True
            self._changed.notify_all()

    def make_known(self) -> None:
        """Jobs were claimed: there may be room."""
        if self._waiting:
            with self._changed:
                self._changed.notify_all()

    def wait(self, queue: str, capacity: int, timeout: float | None, give_up: float | None) -> None:
        """Wait until it is worth looking again.

        Raises QueueFullError where it is ``give_up`` (monotonic; None: never), ``timeout`` seconds after the
        first look, and BackendClosedError where the backend is shut down.
        """
        with self._changed:
            left = LOOK_EVERY if give_up is None else give_up - machine.monotonic()
            if left <= 0 and not self.refusing:
                raise no_room(queue, capacity, timeout)
            self._waiting += 1
            try:
                self.refusing or self._changed.wait(min(left, LOOK_EVERY))
            finally:
                self._waiting -= 1
            if self.refusing:
                raise closed(queue)

    def add(
        self,
        try_to_add: Callable[[], tuple[list[Job], str | None]],
        capacities: Mapping[str, int],
        timeout: float | None,
    ) -> list[Job]:
        """Add jobs where there is room, or wait for it up to ``timeout`` seconds (None: for ever).

        ``try_to_add`` returns the jobs that it has added, or the name of a queue that is full. Raises as
        `wait` does.
        """
        give_up = None if timeout is None else machine.monotonic() + timeout
        while True:
            added, full = try_to_add()
            if full is None:
                return added
            self.wait(full, capacities[full], timeout, give_up)

    def pause(self, seconds: float) -> None:
        """Wait for something else than room; not where the backend is shut down."""
        with self._changed:
            self.refusing or self._changed.wait(seconds)
