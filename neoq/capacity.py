"""Capacity: the errors of a full queue, and how producers wait for room in a shared store."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from neoq.clock import machine
from neoq.errors import BackendClosedError, QueueFullError
from neoq.job import Job
from neoq.store import StoreContext

LOOK_EVERY = 0.05  # seconds between two checks of a full queue


def wanted_of(jobs: Sequence[Job], queues: Iterable[str]) -> dict[str, int]:
    """For each of these queues, how many jobs of a batch are ready at once."""
    numbers = dict.fromkeys(queues, 0)
    for job in jobs:
        if job.queue in numbers and not job.waits:
            numbers[job.queue] += 1
    return numbers


def bounds_of(jobs: Sequence[Job], context: StoreContext) -> dict[str, int]:
    """The capacity of each queue that may hold a batch back.

    A runner never waits for room: for it, only queues that can never hold the batch count.
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

    Duplicates are the jobs at these places of the batch, and jobs that equal an earlier one of the batch, by
    fingerprint or uid.
    """
    numbers = dict.fromkeys(queues, 0)
    seen: set[tuple[str, str]] = set()
    for place, job in enumerate(jobs):
        if job.queue not in numbers or place in duplicates:
            continue
        names = _names_of(job)
        if seen.isdisjoint(names):
            seen.update(names)
            numbers[job.queue] += not job.waits
    return numbers


def _names_of(job: Job) -> list[tuple[str, str]]:
    """What a job is compared by; no queue has the empty name."""
    names = [(job.queue, job.fingerprint)] if job.unique else []
    return names if job.uid is None else [*names, ("", job.uid)]


def refuse_too_many(wanted: Mapping[str, int], capacities: Mapping[str, float]) -> None:
    """Raise QueueFullError for a batch that can never fit."""
    for queue, number in wanted.items():
        if number > capacities[queue]:
            raise too_many(queue, number, int(capacities[queue]))


def too_many(queue: str, number: int, capacity: int) -> QueueFullError:
    """The error for a batch that can never fit."""
    return QueueFullError(
        f"a batch of {number:,} jobs exceeds the capacity of queue {queue!r} ({capacity:,}); enqueue them in "
        "parts, or raise the capacity",
        queue=queue,
    )


def no_room(queue: str, capacity: int, seconds: float | None = None) -> QueueFullError:
    """The error for a queue without room, after a wait of ``seconds``."""
    waited = "" if seconds is None else f" and stayed full for {seconds:g} s"
    return QueueFullError(
        f"queue {queue!r} is at its capacity of {capacity:,} ready jobs{waited}; add runners (concurrency), "
        "raise the capacity, or enqueue less",
        queue=queue,
    )


def full_queue(
    jobs: Sequence[Job],
    capacities: Mapping[str, int],
    duplicates: Collection[int],
    ready_of: Callable[[str], int],
    context: StoreContext,
) -> str | None:
    """The name of a queue that has no room for its jobs of a batch; None if all queues have room.

    ``capacities`` come from `bounds_of`. ``duplicates`` are the places of jobs that the store already has.
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
    """The error for a producer that waits while its backend shuts down."""
    return BackendClosedError(
        f"the backend was shut down while enqueue waited for room in queue {queue!r}", queue=queue
    )


class Room:
    """Where the producers of one process wait for room.

    They check again at once when this process claims, and every LOOK_EVERY seconds, since other processes
    claim as well.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting = 0
        self.refusing = False

    def refuse(self) -> None:
        """End all waits, and refuse new ones."""
        with self._changed:
            self.refusing = True
            self._changed.notify_all()

    def make_known(self) -> None:
        """Wake the producers: jobs were claimed, so there may be room."""
        if self._waiting:
            with self._changed:
                self._changed.notify_all()

    def wait(self, queue: str, capacity: int, timeout: float | None, give_up: float | None) -> None:
        """Wait until the next check is due.

        Raises QueueFullError at ``give_up`` (monotonic; None: never), which is ``timeout`` seconds after the
        first check, and BackendClosedError when the backend is shut down.
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
        """Add jobs as soon as there is room; wait for it up to ``timeout`` seconds (None: for ever).

        ``try_to_add`` returns the jobs that it added, or the name of a full queue. Raises as `wait` does.
        """
        give_up = None if timeout is None else machine.monotonic() + timeout
        while True:
            added, full = try_to_add()
            if full is None:
                return added
            self.wait(full, capacities[full], timeout, give_up)

    def pause(self, seconds: float) -> None:
        """Sleep, for another reason than room; return at once when the backend is shut down."""
        with self._changed:
            self.refusing or self._changed.wait(seconds)
