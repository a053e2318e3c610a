"""The ends of jobs in memory: the hot path of settle, for those that have succeeded."""

from __future__ import annotations

from collections.abc import Sequence

from neoq.job import Job
from neoq.memory.state import QueueState
from neoq.memory.table import Table, lines_of
from neoq.record import Status

_RUNNING, _SUCCEEDED = Status.RUNNING, Status.SUCCEEDED


def settle_succeeded(table: Table, jobs: Sequence[Job]) -> set[int]:
    """Record that jobs of one queue have succeeded, each in its own record, as `claim` handed it out.

    Return the ids of the stale ones. Called without the lock.
    """
    stale: set[int] = set()
    records, finished = table.jobs, table.finished
    state = table.queues[jobs[0].queue]
    hold, hashed = state.holders.pop, state.hashed
    settled, counted = 0, []
    if table.in_use:
        table.give_way()
    with table.lock:
        table.in_use = True
        ready = state.ready.length
        try:
            for job in jobs:
                if records.get(job.id) is not job or job.status is not _RUNNING:
                    stale.add(job.id)
                    continue
                if not (job.special or hashed):
                    hold(job.body, None)  # type: ignore[arg-type]
                elif job.unique:
                    state.free(job)
                job.status = _SUCCEEDED
                job.slot = job.parsed = None
                settled += 1
                if job.special and job.counted:
                    counted.append(job)
                else:
                    finished.append(job)
        finally:  # also of those before one that raises, as out of memory
            state.running -= settled
            state.succeeded += settled
            try:
                if counted:
                    _have_ended(table, counted, state)
            finally:
                table.in_use = False
        table.drop_surplus()
    # Whoever takes one of several ready jobs wakes the next runner, unless a limit held the others back.
    if state.limited and state.ready.length and (not ready or state.limited.limits.counts_claims):
        table.notify(state.queue, "ready")
    return stale


def _have_ended(table: Table, jobs: list[Job], state: QueueState) -> None:
    """Do what the ends of jobs that have succeeded mean for others."""
    lines, groups, finished = lines_of(state), table.groups, table.finished
    knows = table.steps.knows if table.steps.knows_any() else None
    lone: list[Job] = []
    members: list[Job] = []
    if knows is None and not groups.any():  # then each has had a turn, and that is all
        lone, jobs = list(jobs), []
    for job in jobs:
        if job.holds is not None or (knows is not None and knows(job.id)):
            table.ended(job, state)
        elif job.group is None:
            lone.append(job)
        elif lines is not None:
            table.ended(job, state)
        else:
            members.append(job)
    finished.extend(groups.succeeded(members))
    if lines is not None:
        lines.leave_all(lone)
    for job in lone:  # they concern nobody any more
        job.counted = False
    finished.extend(lone)
