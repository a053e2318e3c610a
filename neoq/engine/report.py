"""What became of each job when a backend was shut down."""

from __future__ import annotations

from dataclasses import dataclass, field

from neoq.job import Job


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
