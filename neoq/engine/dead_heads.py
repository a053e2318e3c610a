"""Dead heads: jobs that are dead and hold the lines of their keys, of which the log tells once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from neoq.record import Status

if TYPE_CHECKING:
    from neoq.engine.interrupt import AttemptSlot
    from neoq.job import Job
    from neoq.outcome import Outcome
    from neoq.wording.safe_logger import SafeLogger


def holds_line(job: Job, slot: AttemptSlot, outcome: Outcome) -> bool:
    """Whether the jobs behind a job that is dead now wait for it."""
    return outcome.status is Status.DEAD and job.key is not None and job.queue in slot.dead_hold


def log_held_line(log: SafeLogger, job: Job) -> None:
    """Say that a line stands still behind a dead job, and what to do."""
    log.critical(
        "job %s of %s is dead and holds the line of key %s: retry or delete it, and its line goes on",
        job.id,
        job.queue,
        job.key,
    )


def say_with_line(say: Callable[[], None], log: SafeLogger, job: Job) -> None:
    """Log how an attempt ended, and that its job holds a line."""
    say()
    log_held_line(log, job)
