"""What is seen of the jobs in memory: pages of them, and how many there are."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import replace

from neoq.filter import Filter
from neoq.job import Job
from neoq.memory.queues import Plain, oldest_due, oldest_started, snapshot
from neoq.memory.state import QueueState
from neoq.memory.table import Table, lines_of
from neoq.store import Page, QueueCounts
from neoq.times import to_datetime

_LOOKED_AT_ONCE = 2000  # jobs, while others wait for the lock


def find(table: Table, wanted: Filter, limit: int, after: int | None, before: int | None) -> Page:
    """Snapshots of jobs, newest first."""
    # Ids rise, and a job keeps its place.
    named = wanted.ids
    if wanted.group is not None and named is None:
        named = table.groups.ids(wanted.group)
    if wanted.uids is not None:
        named = [table.uids[uid] for uid in table.uids.keys() & wanted.uids]
    ids = list(table.jobs) if named is None else sorted(table.jobs.keys() & named)
    start = 0 if before is None else bisect_right(ids, before)
    end = len(ids) if after is None else bisect_left(ids, after)
    candidates = range(start, end) if before is not None else range(end - 1, start - 1, -1)
    most = _LOOKED_AT_ONCE if wanted.narrow else len(candidates)
    found: list[Job] = []
    looked = 0
    for place in candidates:
        if len(found) == limit or looked == most:
            break
        looked += 1
        entry = table.jobs[ids[place]]
        if isinstance(entry, Job) or wanted.queue in {None, entry[1]}:
            job = snapshot(entry)
            if wanted.matches(job):
                found.append(job)
    rest = ids[candidates[looked - 1]] if 0 < looked < len(candidates) else None
    return Page(found if before is None else found[::-1], rest)


def counts(table: Table) -> list[QueueCounts]:
    """Every queue that has or had jobs; called without the lock."""
    with table.lock:
        states = list(table.queues.values())
        counted = list(map(QueueState.counts, states))
        waiting = [state.ready.may_be_oldest() + _in_lines(state) for state in states]
        running = sum(counts.running for counts in counted)
        records = list(table.jobs.values()) if running else []
    started = oldest_started(records, running)  # without the lock: there may be many
    counted = [
        replace(
            counts,
            oldest_due=to_datetime(oldest_due(jobs, table.jobs)),
            oldest_started=to_datetime(started.get(counts.queue)),
        )
        for counts, jobs in zip(counted, waiting, strict=True)
    ]
    return sorted(counted, key=lambda counts: counts.queue)


def _in_lines(state: QueueState) -> list[Job | Plain]:
    """Of the jobs of each line one that waits and became due first."""
    lines = lines_of(state)
    return [] if lines is None else lines.heads()
