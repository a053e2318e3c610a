"""Where claims from a queue may begin while dead rows lie before its first job.

PostgreSQL keeps every dead row that some open transaction might still see, and each claim would walk over
all the jobs that have run since that began. So where a claim turns out slow, the next ones begin where it
ended. What they pass over (a job given back, one whose own transaction was long) is found by a claim from
the beginning, which comes as often as a tenth of the time allows.
"""

from __future__ import annotations

import time
from typing import NamedTuple

MANY = 32  # jobs; claims of fewer always begin at the beginning
SLOW = 0.01, 30e-6  # seconds that a claim may take, and that each of its jobs may
SHARE = 10  # of the time go by, for each that a claim from the beginning took
BEFORE = 0.05  # seconds before the last job's due time: transactions that ran beside its own may still commit


class Place(NamedTuple):
    """Where in a queue to begin: at a due time of one priority."""

    priority: int
    since: float


class _Trail(NamedTuple):
    place: Place
    until: float  # monotonic, when it is time to begin at the beginning


class Trails:
    """The queues whose claims begin elsewhere than at the beginning."""

    def __init__(self) -> None:
        self._trails: dict[str, _Trail] = {}

    def place(self, queue: str) -> Place | None:
        """Where the next claim begins; None for the beginning."""
        trail = self._trails.get(queue)
        if trail is None:
            return None
        if time.monotonic() >= trail.until:
            del self._trails[queue]
            return None
        return trail.place

    def ended(self, queue: str, begun: Place | None, last: Place | None, jobs: int, seconds: float) -> None:
        """A claim has ended; ``last`` is None where it found fewer jobs than it could take."""
        trail = self._trails.get(queue)
        if last is None or jobs < MANY:
            return
        further = Place(last.priority, last.since - BEFORE)
        if begun is not None:
            if trail is not None:
                self._trails[queue] = _Trail(further, trail.until)
        elif seconds > SLOW[0] + SLOW[1] * jobs:
            self._trails[queue] = _Trail(further, time.monotonic() + SHARE * seconds)

    def seconds_left(self, queue: str) -> float:
        """How long the claims of a queue still begin elsewhere."""
        trail = self._trails.get(queue)
        return 0.0 if trail is None else max(0.0, trail.until - time.monotonic())
