# ruff: noqa: ARG002  # what is not there uses no argument
"""The part of the seam for held jobs, steps and limits: what a store offers beyond plain jobs.

A store that has the feature "batches" keeps held jobs and groups, "steps" recorded steps and signals, and
"limits" lines and spans, "rates" the limits of whole queues and the rates. Without the feature these
methods raise UnsupportedError.

A held job is PENDING and not claimable. `Record.held` says what it waits for: "batch" or "children" (the
ends of a group), "signal", or "line" (its turn). Except for a line, held jobs count in `QueueCounts.held`,
not in ``ready``, and take no capacity. A held job is due when what it waits for has come, or at the
``run_after`` of its outcome, if it has one; a deadline is a due time, too. What has become due is an ordinary
ready job, whose ``due`` is the time at which it was released. The callback of a batch has no such time: its
own ``due`` is the earliest at which it is due once it is released. Held jobs are left as they are by "run",
"retry" and by an enqueue that would replace them; a holder is not deleted while it is held.

Ends. A job that has a `Record.group` ends once: as SUCCEEDED, DEAD or CANCELLED, or by being deleted, which
counts as cancelled. Its end is counted for its group in the same atomic step, or durably so that it will be
counted once. `Store.add`, and `Outcome.follow`, count the jobs of a group that they store, in their own
atomic step. A group is complete when it is sealed and all its jobs have ended; with ``successes`` also none
may be DEAD. A retry of a DEAD job of a group that is not complete takes its end back; later it is a plain
retry. What is told of a group that is complete, or whose holder has ended, changes nothing.

A holder that ends while its group is not complete, or that is cancelled, stops the group: no job of it
starts any more, those that wait are CANCELLED, those that run are asked to stop, and no job is added to it.
A group's jobs stay as history, whatever the settings keep, until its holder has SUCCEEDED, was cancelled or
deleted.

Limits. Jobs of one key in a queue with `Limits.by_key` form a line: at most `Limits.slots` of them are
ready or running, and the next one is made ready when one of them frees its slot, with the time of that as
its ``due``, behind what is due by then. In an ordered line a job keeps its turn through RETRYING, a snooze
and a give-back, and a DEAD one does with ``hold_dead``, until it is retried or deleted; else these free the
slot. Jobs in a line are due, and count as ready. A job for later joins its line when it is due. Within a
line: priority, due, id.

Spans. A job with `Record.unique_for` holds its fingerprint until it has ended, and for so many seconds
after it was accepted, whatever became of it. A duplicate of one that is known no more is a CANCELLED job
with its id. With `Record.max_delay` a replacement is due at most so many seconds after the first of them
was accepted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from neoq.errors import UnsupportedError
from neoq.held.group import BATCH, Batch, BatchRules
from neoq.held.limits import Limits, Line
from neoq.held.step import Step

if TYPE_CHECKING:
    from neoq.job import Job
    from neoq.outcome import Lease


class HoldingStore:
    """What a store does for held jobs, steps and limits."""

    features: ClassVar[frozenset[str]]

    def open_batch(self, then: Job, rules: BatchRules, *, token: bytes, transaction: Any = None) -> Job:
        """Store the callback of a batch, held; or take over the batch of its name.

        The callback of a named batch has its name as fingerprint. If an unfinished job has that, and it is a
        held callback, it is returned with ``duplicate=True``, the batch is open again, and from then on
        ``rules.producer`` is its producer. Raises DuplicateJobError where that job is anything else.
        Members are added by `Store.add`: each has its ``group`` and its ``producer``. It raises
        BatchClosedError, and adds nothing, where the batch is not open or has another producer; a member
        whose fingerprint a member of a named batch has, ended or not, is returned with ``duplicate=True``.
        """
        raise self._unsupported("batches")

    def seal(self, job_id: int, producer: int, *, transaction: Any = None) -> None:
        """Add no more members from outside: release the callback when all have ended.

        A second seal by the same producer changes nothing. Raises BatchClosedError for another producer.
        """
        raise self._unsupported("batches")

    def group(self, job_id: int, round: int = BATCH) -> Batch | None:  # noqa: A002
        """The counts of a holder's group; None where there is none. They never exceed the members."""
        raise self._unsupported("batches")

    def tend(self) -> bool:
        """Do what follows from what was recorded; whether there is more to do at once.

        Every worker calls this with each heartbeat, for all queues: count ends that were only noted, deliver
        jobs that follow an outcome, cancel the jobs of stopped groups in pages.
        """
        return False

    def record(self, records: Sequence[tuple[Lease, Sequence[Step]]], *, transaction: Any = None) -> set[int]:
        """Record steps, each only under its current lease; return the ids of the stale ones.

        A lasting step whose name is there already is left as it is: repeating this is harmless.
        """
        raise self._unsupported("steps")

    def steps(self, job_id: int) -> list[Step]:
        """What a job has recorded, in that order, and the signals to it. Empty for a job that has none.

        They are kept until the job has SUCCEEDED, is CANCELLED, or is forgotten.
        """
        raise self._unsupported("steps")

    def signal(self, to: int | tuple[str, str], step: Step, *, transaction: Any = None) -> bool:
        """Record a signal, a step whose name begins with "signal:", for an unfinished job; whether it was.

        ``to`` is the job's id, or its queue and fingerprint. The first of a name wins: False for another one,
        for a job that has ended or is DEAD, for none, and beyond `MOST_SIGNALS`. A job that is held until
        this signal comes (see ``Outcome.awaits``) is due at once.
        """
        raise self._unsupported("steps")

    def limit(self, queue: str, limits: Limits | None, *, by_listener: bool) -> Limits | None:
        """Set the limits of a queue; return those that a listener has set before, if they were others.

        Those set by an operator (``by_listener`` False) override those of listeners, until they are None.
        """
        raise self._unsupported("limits")

    def limits(self) -> Mapping[str, Limits]:
        """The limits that hold now, of each queue that has any."""
        raise self._unsupported("limits")

    def lines(self, queue: str, *, limit: int = 1000) -> list[Line]:
        """The lines of a queue in which a job waits or that stand still: those that stand still first."""
        raise self._unsupported("limits")

    def _unsupported(self, feature: str) -> UnsupportedError:
        return UnsupportedError(
            f"{type(self).__name__} has no {feature}; the stores of memory, SQLite, Postgres and Redis have"
        )
