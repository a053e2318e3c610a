"""How jobs get into queues of a bounded capacity in PostgreSQL: where there is room, or once there is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from neoq.capacity import Room, bounds_of, new_of, no_room, refuse_too_many, wanted_of
from neoq.job import Job
from neoq.postgres.add import Adder
from neoq.postgres.connections import Connections
from neoq.postgres.spans import SpanAdder
from neoq.postgres.statements import Statements
from neoq.postgres.transactions import Transaction
from neoq.store import StoreContext


class BoundedAdder:
    """Adds the jobs of one process where there is room for them."""

    def __init__(
        self,
        connections: Connections,
        statements: Statements,
        adder: Adder,
        spans: SpanAdder,
        *,
        room: Room,
        context: StoreContext,
        patience: float | None,
    ) -> None:
        self._connections = connections
        self._statements = statements
        self._adder = adder
        self._spans = spans
        self._room = room
        self._context = context
        self._patience = patience

    def _full_queue(
        self, joined: Transaction, jobs: Sequence[Job], capacities: Mapping[str, int]
    ) -> str | None:
        """The name of a queue that has no room for its part of a batch; None if all have room.

        No other process adds to these queues before this transaction ends. Raises QueueFullError if a queue
        can never have so much room.
        """
        if self._short_of_room(joined, wanted_of(jobs, capacities), capacities) is None:
            return None
        new = new_of(jobs, capacities, self._adder.duplicates(joined, jobs))
        refuse_too_many(new, capacities)
        return None if self._context.in_runner() else self._short_of_room(joined, new, capacities)

    def _short_of_room(
        self, execute: Transaction, wanted: Mapping[str, int], capacities: Mapping[str, int]
    ) -> str | None:
        for queue in sorted(capacities):
            if wanted[queue]:
                free = capacities[queue] - self._context.handed_over(queue) - wanted[queue]
                [(ready,)] = execute(
                    self._statements.ready_within, {"queue": queue, "limit": max(0, free)}, "n"
                )
                if ready > free:
                    return queue
        return None

    def join(self, joined: Transaction, jobs: Sequence[Job]) -> list[Job]:
        """Add inside a caller's transaction, and wait for no room: that transaction may be what blocks it."""
        capacities = bounds_of(jobs, self._context)
        if capacities:
            full = self._full_queue(joined, jobs, capacities)
            if full is not None:
                raise no_room(full, capacities[full])
        return self._spans.join(joined, jobs)

    def add(self, jobs: Sequence[Job], token: bytes, capacities: dict[str, int]) -> list[Job]:
        """Add where there is room, or wait for it."""
        self._adder.name_queues({job.queue for job in jobs})  # on a connection of its own: before ours

        def try_to_add() -> tuple[list[Job], str | None]:
            full: str | None = None

            def add(joined: Transaction) -> list[Job]:
                nonlocal full
                full = self._full_queue(joined, jobs, capacities)
                return [] if full is not None else self._spans.join(joined, jobs, token)

            added = self._adder.committed(token, add)
            if full is None:
                self._adder.remember(token, added)
            return added, full

        return self._room.add(try_to_add, capacities, self._patience)
