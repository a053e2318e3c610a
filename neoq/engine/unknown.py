"""Waiting jobs of kinds that no live worker knows: they are counted, and each kind is logged once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from neoq.clock import machine
from neoq.errors import LookTimeoutError
from neoq.threads.kept import CHEAP, Kept

if TYPE_CHECKING:
    from neoq.engine.listener import Listener
    from neoq.store import Store
    from neoq.wording.safe_logger import SafeLogger

LOOK_EVERY = 10.0  # seconds
NO_KIND = "(none)"


class Waiting(NamedTuple):
    """The kinds of waiting jobs that no live worker of their queue runs, and how many jobs were looked at."""

    unknown: Mapping[str, Mapping[str, int]]
    looked_at: int


def unknown_kinds(store: Store) -> Waiting:
    """How many jobs of each kind wait that no live worker of their queue runs, by queue.

    A queue where some worker runs jobs of any kind is left out, and so is one that nobody listens to.
    """
    known: dict[str, set[str] | None] = {}
    for worker in store.workers():
        for queue in worker.queues:
            kinds, before = worker.kinds.get(queue), known.get(queue, set())
            known[queue] = None if kinds is None or before is None else before.union(kinds)
    restricted = {queue: kinds for queue, kinds in known.items() if kinds is not None}
    unknown: dict[str, dict[str, int]] = {}
    waiting = store.waiting_kinds(sorted(restricted)) if restricted else {}
    for (queue, kind), number in waiting.items():
        if kind not in restricted[queue]:
            unknown.setdefault(queue, {})[kind or NO_KIND] = number
    return Waiting(unknown, sum(waiting.values()))


class UnknownKinds:
    """Logs each kind of waiting jobs that no live worker knows, once."""

    def __init__(self, store: Store, log: SafeLogger, listeners: Mapping[str, Listener]) -> None:
        self._log = log
        self._listeners = listeners
        self._due = -math.inf  # monotonic
        self._told: set[tuple[str, str]] = set()
        self._looked = Kept(lambda: unknown_kinds(store), lambda waiting: waiting.looked_at <= CHEAP)

    def by_queue(self) -> Mapping[str, Mapping[str, int]]:
        """How many jobs of each such kind wait in each queue; of many that wait not at each call anew."""
        try:
            return self._looked.get()[0].unknown
        except LookTimeoutError:  # nothing is known of them
            return {}

    def log_new(self) -> None:
        """Log the kinds that were not logged before, where some listener here does not run every kind."""
        now = machine.monotonic()
        if now < self._due or all(one.kinds is None for one in list(self._listeners.values())):
            return
        self._due = now + LOOK_EVERY
        for queue, kinds in self.by_queue().items():
            for kind, number in kinds.items():
                if (queue, kind) not in self._told:
                    self._told.add((queue, kind))
                    self._log.warning(
                        "%d jobs of kind %r wait in %r: no live worker knows it", number, kind, queue
                    )
