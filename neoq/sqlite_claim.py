"""How ready jobs of a SQLite file are taken: each call is part of its caller's transaction."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Sequence

from neoq.job import Job, Status
from neoq.sqlite_ledger import Ledger
from neoq.sqlite_rows import (
    COLUMNS,
    N_READY,
    N_RETRYING,
    N_RUNNING,
    N_SCHEDULED,
    PENDING,
    RETRYING,
    job_of,
)
from neoq.store import Demand

_CLAIM = (
    "update neoq_jobs set place = 2, status = 2, token = ?, worker = ?, lease_until = ?, ran_at = ?,"
    " progress = null, progress_text = null where id = ?"
)
_LET_GO = "update neoq_jobs set holds = 0 where id = ?"


def claim(ledger: Ledger, demands: Sequence[Demand], worker: str) -> tuple[list[Job], float | None]:
    """Take the best ready jobs; return them and when the next is due."""
    ledger.sort_in()
    paused = {queue for (queue,) in ledger.do("select queue from neoq_queues where paused = 1")}
    found: list[list[Job]] = []
    next_due: float | None = None
    for demand in demands:
        if demand.queue in paused or demand.limit < 1:
            continue
        due = _promote(ledger, demand.queue)
        best = _best(ledger, demand)
        if len(best) > demand.limit:
            due, best = ledger.now, best[: demand.limit]
        if due is not None:
            next_due = due if next_due is None else min(due, next_due)
        found.append(best)
    taken, left = _apart(found)
    _take(ledger, taken, worker)
    return taken, ledger.now if left else next_due


def _promote(ledger: Ledger, queue: str) -> float | None:
    """Make ready what is due; return when the next will be."""
    head = "select min(run_after) from neoq_jobs where place = 1 and queue = ?"
    due: float | None = ledger.do(head, (queue,)).fetchone()[0]
    if due is None or due > ledger.now:
        return due
    for status, kind in ((PENDING, N_SCHEDULED), (RETRYING, N_RETRYING)):
        moved = ledger.do(
            "update neoq_jobs set place = 0 where place = 1 and queue = ? and run_after <= ? and status = ?",
            (queue, ledger.now, status),
        ).rowcount
        ledger.count(queue, kind, -moved)
        ledger.count(queue, N_READY, moved)
    later: float | None = ledger.do(head, (queue,)).fetchone()[0]
    return later


def _best(ledger: Ledger, demand: Demand) -> list[Job]:
    kinds = tuple(demand.kinds or ())
    only = f" and kind in ({','.join('?' * len(kinds))})" if demand.kinds is not None else ""
    rows = ledger.do(
        f"select {COLUMNS} from neoq_jobs where place = 0 and queue = ?{only}"  # noqa: S608
        " order by priority desc, run_after, id limit ?",
        (demand.queue, *kinds, demand.limit + 1),
    ).fetchall()
    return [job_of(row) for row in rows]


def _apart(found: list[list[Job]]) -> tuple[list[Job], bool]:
    """What of the best jobs of each queue may be claimed together, and whether some is left.

    A job with a crash behind it is claimed alone, at its turn.
    """
    for jobs in found:
        if jobs and jobs[0].crashes:
            return [jobs[0]], sum(map(len, found)) > 1
    together = [list(itertools.takewhile(lambda job: not job.crashes, jobs)) for jobs in found]
    return [job for jobs in together for job in jobs], any(
        len(jobs) > len(kept) for jobs, kept in zip(found, together, strict=True)
    )


def _take(ledger: Ledger, jobs: list[Job], worker: str) -> None:
    token = int.from_bytes(os.urandom(7), "big") + 1  # an older claim's cannot equal it
    until = ledger.now + ledger.config.lease
    ledger.many(_CLAIM, [(token, worker, until, ledger.now, job.id) for job in jobs])
    ledger.many(_LET_GO, [(job.id,) for job in jobs if job.unique == "until_started"])
    for job in jobs:
        job.status = Status.RUNNING
        job.worker = worker
        job._token = token
        job._waits = False
        job._progress = None
    for queue, number in Counter(job.queue for job in jobs).items():
        ledger.count(queue, N_READY, -number)
        ledger.count(queue, N_RUNNING, number)
