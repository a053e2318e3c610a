"""How ready jobs of a SQLite file are taken: each call is part of its caller's transaction."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

from neoq.job import Job, Status
from neoq.sqlite.add import move
from neoq.sqlite.ledger import Ledger
from neoq.sqlite.rows import (
    COLUMNS,
    N_DEAD,
    N_READY,
    N_RETRYING,
    N_RUNNING,
    N_SCHEDULED,
    PENDING,
    RETRYING,
    job_of,
)
from neoq.store import Demand
from neoq.stored import mark_unreadable, number_in

_unreadable, _due = attrgetter("unreadable"), attrgetter("due")  # a loop in C for every job claimed
PARKED = (
    86400.0  # seconds: a ready job is not that far ahead, even where a clock was set; somebody put it off
)
_CLAIM = (
    "update neoq_jobs set state = 2, status = 2, token = ?, worker = ?, lease_until = ?, ran_at = ?,"
    " progress = null, progress_text = null where id = ?"
)
_LET_GO = "update neoq_jobs set holds = 0 where id = ?"
_BURY = (
    "update neoq_jobs set state = 4, status = 4, holds = 0, token = 0, worker = null, lease_until = null,"
    " cancel = 0, finished_at = ?, error = ? where id = ?"
)
_NEVER_DUE = f"select {COLUMNS} from neoq_jobs where state = 1 and queue = ? and"  # noqa: S608


def claim(
    ledger: Ledger, demands: Sequence[Demand], worker: str, buried: list[Job]
) -> tuple[list[Job], float | None]:
    """Take the best ready jobs; return them and when the next is due.

    Those that cannot be read are dead, and put among the ``buried``.
    """
    ledger.sort_in()
    paused = {queue for (queue,) in ledger.do("select queue from neoq_queues where paused = 1")}
    found: list[list[Job]] = []
    next_due: float | None = None
    for demand in demands:
        if demand.queue in paused or demand.limit < 1:
            continue
        due = _promote(ledger, demand.queue, buried)
        best = _best(ledger, demand)
        late = ledger.now + PARKED
        while best and (any(map(_unreadable, best)) or max(map(_due, best)) > late):
            _set_aside(ledger, best, late, buried)
            best = _best(ledger, demand)
        if len(best) > demand.limit:
            due, best = ledger.now, best[: demand.limit]
        if due is not None:
            next_due = due if next_due is None else min(due, next_due)
        found.append(best)
    taken, left = _apart(found)
    _take(ledger, taken, worker)
    return taken, ledger.now if left else next_due


def _set_aside(ledger: Ledger, jobs: list[Job], late: float, buried: list[Job]) -> None:
    """Take out of the ready ones what cannot be read, and what somebody has put off by hand."""
    _bury(ledger, [job for job in jobs if job.unreadable], N_READY, buried)
    for job in jobs:
        if not job.unreadable and job.due > late:  # type: ignore[operator]
            move(ledger, job, job.due)


def _bury(ledger: Ledger, jobs: list[Job], kind: int, buried: list[Job]) -> None:
    """Let jobs be dead that cannot be read, and are counted as of a kind."""
    ledger.many(_BURY, [(ledger.now, job.error, job.id) for job in jobs])
    for job in jobs:
        ledger.count(job.queue, kind, -1)
        ledger.count(job.queue, N_DEAD, 1)
    buried += jobs


def bury_never_due(ledger: Ledger, queues: Sequence[str]) -> list[Job]:
    """Let the jobs of queues be dead whose time is no number, for they would wait for ever; return them."""
    buried: list[Job] = []
    for queue in queues:
        rows = ledger.do(f"{_NEVER_DUE} run_after >= ''", (queue,)).fetchall()
        _bury(ledger, [job for row in rows if (job := job_of(row)).unreadable], N_SCHEDULED, buried)
    if buried:
        ledger.recount(queues)
    return buried


def _promote(ledger: Ledger, queue: str, buried: list[Job]) -> float | None:
    """Make ready what is due; return when the next will be."""
    head = "select min(run_after) from neoq_jobs where state = 1 and queue = ?"
    due: Any = ledger.do(head, (queue,)).fetchone()[0]
    if due.__class__ in {str, bytes}:  # numbers come before these
        return None
    if due is None or due > ledger.now:
        return due  # type: ignore[no-any-return]
    for status, kind in ((PENDING, N_SCHEDULED), (RETRYING, N_RETRYING)):
        moved = ledger.do(
            "update neoq_jobs set state = 0 where state = 1 and queue = ? and run_after <= ? and status = ?",
            (queue, ledger.now, status),
        ).rowcount
        ledger.count(queue, kind, -moved)
        ledger.count(queue, N_READY, moved)
    later: Any = ledger.do(head, (queue,)).fetchone()[0]
    if later.__class__ in {str, bytes}:
        return None
    if later is not None and later <= ledger.now:  # it is of no status that a waiting job has
        rows = ledger.do(f"{_NEVER_DUE} run_after <= ?", (queue, ledger.now)).fetchall()
        jobs = [mark_unreadable(job_of(row), "it waits, and its status is none of those") for row in rows]
        _bury(ledger, jobs, N_SCHEDULED, buried)
        ledger.recount([queue])
        later = ledger.do(head, (queue,)).fetchone()[0]
    return number_in(later)


def _best(ledger: Ledger, demand: Demand) -> list[Job]:
    kinds = tuple(demand.kinds or ())
    only = f" and kind in ({','.join('?' * len(kinds))})" if demand.kinds is not None else ""
    rows = ledger.do(
        f"select {COLUMNS} from neoq_jobs where state = 0 and queue = ?{only}"  # noqa: S608
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
        job.token = token
        job.waits = False
        job.progress_report = None
    for queue, number in Counter(job.queue for job in jobs).items():
        ledger.count(queue, N_READY, -number)
        ledger.count(queue, N_RUNNING, number)
