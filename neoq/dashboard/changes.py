"""Changes: what may be done to jobs, to which of them, and how to ask for it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from neoq.job import Job
from neoq.line import JobLine
from neoq.record import Status

if TYPE_CHECKING:
    from neoq.backend import Backend
    from neoq.store import QueueCounts

LEVELS = {  # where a job is in its life, and the status that it has there
    "ready": "pending",
    "scheduled": "pending",
    "held": "pending",
    "retrying": "retrying",
    "running": "running",
    "succeeded": "succeeded",
    "dead": "dead",
    "cancelled": "cancelled",
}
_WAITING = (Status.PENDING, Status.RETRYING)
_ENDED = (Status.SUCCEEDED, Status.DEAD, Status.CANCELLED)


@dataclass(frozen=True)
class Change:
    """One change: its name is the right that it takes. ``usual`` statuses are meant where none is named."""

    name: str
    label: str
    past: str
    possible: tuple[Status, ...]
    usual: tuple[Status, ...]
    method: str  # of the backend
    warning: str = ""  # what to think of before

    def statuses(self, wanted: str | None) -> tuple[Status, ...]:
        """The statuses of jobs that it changes, of those that are wanted."""
        if wanted is None:
            return self.usual
        return tuple(status for status in self.possible if status == wanted)

    def apply(self, backend: Backend, ids: list[int]) -> set[int]:
        """Change jobs; the ids of those that it changed."""
        changed: set[int] = getattr(backend, self.method)(ids)
        return changed

    def why_not(self, status: Status) -> str | None:
        """Why a job of a status cannot be changed; None where it can."""
        if status in self.possible:
            return None
        if status is Status.RUNNING:
            return "it is running; cancel it first" if self.name == "delete" else "it is running already"
        if status in _ENDED:
            return f"it has ended: {status}"
        return f"it is {status}"


CHANGES = {
    change.name: change
    for change in (
        Change(
            "retry", "Retry", "retried", (Status.DEAD, *_WAITING), (Status.DEAD, Status.RETRYING), "retry"
        ),
        Change("run", "Run now", "made ready", _WAITING, _WAITING, "retry"),
        Change(
            "cancel",
            "Cancel",
            "cancelled",
            (*_WAITING, Status.RUNNING),
            (*_WAITING, Status.RUNNING),
            "cancel",
            "A running job is interrupted.",
        ),
        Change(
            "delete",
            "Delete",
            "deleted",
            (*_WAITING, *_ENDED),
            (*_WAITING, *_ENDED),
            "delete",
            "A deleted job cannot be brought back.",
        ),
    )
}


def number_of(counts: Iterable[QueueCounts], statuses: Collection[str]) -> int:
    """How many jobs of some statuses there are."""
    levels = [level for level, status in LEVELS.items() if status in statuses]
    return sum(getattr(one, level) for one in counts for level in levels)


def state_of(job: Job | JobLine) -> str:
    """A job's state as a form carries it, so that the form of an older one is recognised."""
    waits = job.status in _WAITING and job.run_after is not None
    due = int(job.run_after.timestamp() * 1000) if waits and job.run_after else 0
    return f"{job.status.value}.{job.attempt}.{job.crashes}.{due}"


def told_state(state: str) -> str:
    """The status in what `state_of` wrote."""
    return state.partition(".")[0]
