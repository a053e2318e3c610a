"""How ready jobs of a SQLite file are taken: each call is part of its caller's transaction."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Collection, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

from neoq.held.limits import Limits
from neoq.job import Job
from neoq.record import Status
from neoq.sqlite.add import move
from neoq.sqlite.ends import after, cancel_stopped
from neoq.sqlite.groups import facts, release_due
from neoq.sqlite.lines import meet, meet_next, started
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
from neoq.sqlite.rules import in_force, start, starts_now
from neoq.sqlite.session import Session
from neoq.store import Demand
from neoq.stored import mark_unreadable, number_in

_unreadable, _due, _group = (
    attrgetter("unreadable"),
    attrgetter("due"),
    attrgetter("group"),
)  # a loop in C for every job claimed
MEETS_AT_ONCE = 20  # times that a claim looks on, where it has met jobs whose turn it is not
PARKED = (
    86400.0  # seconds: a ready job that is due so much later was put off by a script, not by a changed clock
)
_CLAIM = (
    "update neoq_jobs set state = 2, status = 2, token = ?, worker = ?, lease_until = ?, ran_at = ?,"
    " progress = null, progress_text = null where id = ?"
)
_RULES = (
    "select queue, 1, 0, null, null from neoq_paused where paused = 1"
    " union all select queue, 0, timers, listener, operator from neoq_rules"
    " where timers = 1 or listener is not null or operator is not null"
)
_LEVELS = (
    "with recursive level (priority) as ("
    " select max(priority) from neoq_jobs where state = 0 and queue = ?"
    " union all select (select max(priority) from neoq_jobs where state = 0 and queue = ?"
    " and priority < level.priority) from level where priority is not null)"
    " select priority from level where priority is not null"
)
_LET_GO = "update neoq_jobs set holds = 0 where id = ?"
_END_UNREADABLE = (
    "update neoq_jobs set state = 4, status = 4, holds = 0, token = 0, worker = null, lease_until = null,"
    " cancel = 0, finished_at = ?, error = ? where id = ?"
)
_NEVER_DUE = f"select {COLUMNS} from neoq_jobs where state = 1 and queue = ? and"  # noqa: S608


class Rules(NamedTuple):
    """What a claim minds of queues: which are paused, or have held jobs due by time; and limits."""

    paused: set[str]
    timers: set[str]
    limits: dict[str, Limits]


_NO_RULES = Rules(set(), set(), {})


def claim(
    session: Session, demands: Sequence[Demand], worker: str, ended: list[Job]
) -> tuple[list[Job], float | None, Collection[str]]:
    """Take the best ready jobs; return them, when the next is due, and which queues have limits.

    Jobs that cannot be read are dead now, and added to ``ended``.
    """
    session.index_new()
    rules = _rules(session)
    found: list[list[Job]] = []
    next_due: float | None = None
    for demand in demands:
        if demand.queue in rules.paused or demand.limit < 1:
            continue
        best, due = _of_queue(session, demand, rules, ended)
        next_due = _sooner(due, next_due)
        found.append(best)
    taken, left = _apart(found)
    _take(session, taken, worker)
    if rules.limits:
        _note_starts(session, taken, rules)
    return taken, session.now if left else next_due, rules.limits.keys()


def _rules(session: Session) -> Rules:
    rows = session.do(_RULES).fetchall()
    if not rows:
        return _NO_RULES
    return Rules(
        {queue for queue, paused, *_ in rows if paused},
        {queue for queue, _, timers, *_ in rows if timers},
        {queue: limits for queue, _, _, *texts in rows if (limits := in_force(*texts)) is not None},
    )


def _of_queue(
    session: Session, demand: Demand, rules: Rules, ended: list[Job]
) -> tuple[list[Job], float | None]:
    """The best ready jobs of a queue, at most as many as are wanted; and when to look again."""
    due = _promote(session, demand.queue, ended)
    if demand.queue in rules.timers:
        due = _sooner(due, release_due(session, demand.queue))
    limits = rules.limits.get(demand.queue)
    again: float | None = session.now
    if limits is None:
        best = _readable(session, demand, None, ended)
    else:
        room, again = _room(session, demand, limits)
        if room == 0:
            return [], _sooner(due, again) if session.counted(demand.queue, N_READY) else due
        demand = demand._replace(limit=room)
        best = _with_turns(session, demand, limits, ended)
    if any(map(_group, best)) and (stopped := cancel_stopped(session, best)):
        due = session.now  # others may be behind these
        best = [job for job in best if job not in stopped]
    if len(best) > demand.limit:
        due, best = _sooner(due, again), best[: demand.limit]
    return best, due


def _readable(session: Session, demand: Demand, aging: float | None, ended: list[Job]) -> list[Job]:
    """The best ready jobs of a queue, and one more, where there is; all of them can be read."""
    best = _best(session, demand, aging)
    late = session.now + PARKED
    while best and (any(map(_unreadable, best)) or max(map(_due, best)) > late):
        _set_aside(session, best, late, ended)
        best = _best(session, demand, aging)
    return best


def _with_turns(session: Session, demand: Demand, limits: Limits, ended: list[Job]) -> list[Job]:
    """As `_readable`, of jobs that have their turn, where those of a key form a line."""
    light = limits.by_key and limits.aging is None and demand.kinds is None
    for _ in range(MEETS_AT_ONCE):
        if light and not meet_next(session, limits, (demand.queue, demand.limit + 1), session.now + PARKED):
            continue
        best = _readable(session, demand, limits.aging, ended)
        if not limits.by_key or meet(session, limits, best):
            return best
    session.released.add(demand.queue)  # there are more
    return []


def _room(session: Session, demand: Demand, limits: Limits) -> tuple[int, float | None]:
    """How many jobs of a limited queue may be claimed now; and when to look again if there are more."""
    room, again = demand.limit, session.now
    if limits.rate is not None:
        number, when = starts_now(session, (demand.queue, ""), limits.rate)
        if number < room:
            room, again = number, when + number * limits.rate.spacing
    if limits.max_running is not None:
        free = max(0, limits.max_running - session.counted(demand.queue, N_RUNNING))
        if free <= room:
            return free, None  # when one of them has ended
    return room, again


def _note_starts(session: Session, jobs: list[Job], rules: Rules) -> None:
    for queue, limits in rules.limits.items():
        of_queue = [job for job in jobs if job.queue == queue]
        if of_queue and limits.rate is not None:
            start(session, (queue, ""), limits.rate, len(of_queue))
        started(session, limits, of_queue)


def _sooner(one: float | None, other: float | None) -> float | None:
    return one if other is None else other if one is None else min(one, other)


def _set_aside(session: Session, jobs: list[Job], late: float, ended: list[Job]) -> None:
    """Take jobs out of the ready ones that cannot be read, or that a script has put off."""
    _end_unreadable(session, [job for job in jobs if job.unreadable], N_READY, ended)
    for job in jobs:
        if not job.unreadable and job.due > late:  # type: ignore[operator]
            move(session, job, job.due)


def _end_unreadable(session: Session, jobs: list[Job], kind: int, ended: list[Job]) -> None:
    """Let jobs of a kind be dead that cannot be read."""
    session.many(_END_UNREADABLE, [(session.now, job.error, job.id) for job in jobs])
    for job in jobs:
        session.count(job.queue, kind, -1)
        session.count(job.queue, N_DEAD, 1)
    if jobs:
        before = facts(session, [job.id for job in jobs])
        after(session, [(before[job.id], Status.DEAD) for job in jobs if job.id in before])
    ended += jobs


def end_never_due(session: Session, queues: Sequence[str]) -> list[Job]:
    """Let jobs of queues be dead whose time is no number: they would wait for ever; return them."""
    ended: list[Job] = []
    for queue in queues:
        rows = session.do(f"{_NEVER_DUE} run_after >= ''", (queue,)).fetchall()
        _end_unreadable(session, [job for row in rows if (job := job_of(row)).unreadable], N_SCHEDULED, ended)
    if ended:
        session.recount(queues)
    return ended


def _promote(session: Session, queue: str, ended: list[Job]) -> float | None:
    """Make ready what is due; return when the next will be."""
    head = "select min(run_after) from neoq_jobs where state = 1 and queue = ?"
    due: Any = session.do(head, (queue,)).fetchone()[0]
    if due.__class__ in {str, bytes}:  # numbers come before these
        return None
    if due is None or due > session.now:
        return due  # type: ignore[no-any-return]
    for status, kind in ((PENDING, N_SCHEDULED), (RETRYING, N_RETRYING)):
        moved = session.do(
            "update neoq_jobs set state = 0 where state = 1 and queue = ? and run_after <= ? and status = ?",
            (queue, session.now, status),
        ).rowcount
        session.count(queue, kind, -moved)
        session.count(queue, N_READY, moved)
    later: Any = session.do(head, (queue,)).fetchone()[0]
    if later.__class__ in {str, bytes}:
        return None
    if later is not None and later <= session.now:  # it is of no status that a waiting job has
        rows = session.do(f"{_NEVER_DUE} run_after <= ?", (queue, session.now)).fetchall()
        jobs = [mark_unreadable(job_of(row), "it waits, and its status is none of those") for row in rows]
        _end_unreadable(session, jobs, N_SCHEDULED, ended)
        session.recount([queue])
        later = session.do(head, (queue,)).fetchone()[0]
    return number_in(later)


def _best(session: Session, demand: Demand, aging: float | None) -> list[Job]:
    kinds = tuple(demand.kinds or ())
    only = f" and kind in ({','.join('?' * len(kinds))})" if demand.kinds is not None else ""
    if aging is not None:
        return _best_aged(session, demand, only, aging)
    rows = session.do(
        f"select {COLUMNS} from neoq_jobs where state = 0 and queue = ?{only}"  # noqa: S608
        " order by priority desc, run_after, id limit ?",
        (demand.queue, *kinds, demand.limit + 1),
    ).fetchall()
    return [job_of(row) for row in rows]


def _best_aged(session: Session, demand: Demand, only: str, aging: float) -> list[Job]:
    """The best where a job counts as one level higher for each ``aging`` that it has waited.

    The oldest of a level is its best, so it is enough to look at the first of each.
    """
    now, found = session.now, list[Job]()
    for (priority,) in session.do(_LEVELS, (demand.queue, demand.queue)).fetchall():
        rows = session.do(
            f"select {COLUMNS} from neoq_jobs where state = 0 and queue = ? and priority = ?{only}"  # noqa: S608
            " order by run_after, id limit ?",
            (demand.queue, priority, *(demand.kinds or ()), demand.limit + 1),
        ).fetchall()
        found += [job_of(row) for row in rows]
    found.sort(key=lambda job: (-(job.priority + (now - job.due) // aging), job.due, job.id))  # type: ignore[operator]
    return found[: demand.limit + 1]


def _apart(found: list[list[Job]]) -> tuple[list[Job], bool]:
    """Those of the best jobs that may be claimed together, and whether some are left.

    A job that has crashed a worker is claimed alone, at its turn.
    """
    for jobs in found:
        if jobs and jobs[0].crashes:
            return [jobs[0]], sum(map(len, found)) > 1
    together = [list(itertools.takewhile(lambda job: not job.crashes, jobs)) for jobs in found]
    return [job for jobs in together for job in jobs], any(
        len(jobs) > len(kept) for jobs, kept in zip(found, together, strict=True)
    )


def _take(session: Session, jobs: list[Job], worker: str) -> None:
    token = int.from_bytes(os.urandom(7), "big") + 1  # an older claim's cannot equal it
    until = session.now + session.config.lease
    session.many(_CLAIM, [(token, worker, until, session.now, job.id) for job in jobs])
    session.many(_LET_GO, [(job.id,) for job in jobs if job.unique == "until_started"])
    for job in jobs:
        job.status = Status.RUNNING
        job.worker = worker
        job.token = token
        job.waits = False
        job.progress_report = None
        if job.held is not None:
            job.held = None
    for queue, number in Counter(job.queue for job in jobs).items():
        session.count(queue, N_READY, -number)
        session.count(queue, N_RUNNING, number)
