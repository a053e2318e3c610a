"""Where a pool's jobs come from and its outcomes go: straight from and to a store that is in this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from neoq.job import Job
from neoq.outcome import Outcome
from neoq.store import Demand, DirectStore, Store

Settled = Callable[[Sequence[Outcome], set[int]], None]


class JobSource(Protocol):
    """Where a pool's jobs come from, and where their outcomes go."""

    def take(self, queue: str, limit: int) -> tuple[Sequence[Job], bool]:
        """Up to ``limit`` jobs to run now, and whether there are more."""

    def settle(self, outcomes: Sequence[Outcome]) -> None:
        """Take over outcomes, which are recorded now or soon."""

    def note_idle(self, queue: str) -> None:
        """A runner found nothing, and parks."""


class DirectSource:
    """A store whose claim and settle cost no round trip: the runners call it themselves.

    ``later`` takes over the outcomes that the store did not take. ``kinds_of`` a queue of tasks is what is
    claimed there.
    """

    def __init__(
        self,
        store: Store,
        settled: Settled,
        parked: Callable[[], None],
        later: Callable[[list[Outcome], Exception], None],
        *,
        kinds_of: Callable[[str], frozenset[str] | None],
    ) -> None:
        self._store = store
        self._direct = store if isinstance(store, DirectStore) else None
        self._kinds_of = kinds_of
        self._settled = settled
        self._parked = parked
        self._later = later

    def take(self, queue: str, limit: int) -> tuple[Sequence[Job], bool]:
        """Claim from the store."""
        if self._direct is not None:
            return self._direct.take(queue, limit, self._kinds_of(queue))
        jobs, due, now = self._store.claim([Demand(queue, limit, self._kinds_of(queue))])
        # Without jobs, what is due is a future job that the timer has not made ready yet: it notifies.
        return jobs, bool(jobs) and due is not None and due <= now

    def settle(self, outcomes: Sequence[Outcome]) -> None:
        """Record outcomes in the store."""
        try:
            stale = self._store.settle(outcomes)
        except Exception as error:
            self._later(list(outcomes), error)
        else:
            self._settled(outcomes, stale)

    def note_idle(self, queue: str) -> None:  # noqa: ARG002
        """Wake the threads that wait for quiet."""
        self._parked()
