"""A shutdown as its callers see it, and what became of each job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from neoq.job import Job
from neoq.outcome import Outcome


@dataclass
class ShutdownReport:
    """What became of the jobs: snapshots.

    ``finished`` ended while the backend was being shut down. ``interrupted`` still ran when the time was up,
    and were stopped, uncharged. ``given_back`` were handed to this process and not started (durable
    backends). ``lost`` will run nowhere: in memory every unfinished job, the interrupted,
    future and retrying ones included; on durable backends those whose outcome could not be recorded, as far
    as is known: they are run again. Where the store did not answer, the snapshots are those of this process.
    """

    finished: list[Job] = field(default_factory=list)
    interrupted: list[Job] = field(default_factory=list)
    given_back: list[Job] = field(default_factory=list)
    lost: list[Job] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{len(self.finished)} finished, {len(self.interrupted)} interrupted, "
            f"{len(self.given_back)} given back, {len(self.lost)} lost"
        )


class Ending(Protocol):
    """A shutdown, and what it notes of jobs that end meanwhile."""

    drained: bool

    def note(self, outcomes: Sequence[Outcome], stale: set[int]) -> None:
        """Outcomes are recorded; the stale ones were dropped."""

    def hurry(self) -> None:
        """Let running jobs end no longer: interrupt them."""

    def run(self) -> ShutdownReport:
        """Shut down, or wait until that is done; return the report."""
