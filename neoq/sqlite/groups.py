"""Groups of a SQLite file's jobs, and the held jobs that wait for them: part of the caller's transaction.

One process at a time writes, so an end is counted in the row of its group in the transaction that records it,
and the holder is made ready in the transaction of the last end. What concerns all jobs of a group is done in
pages by `tend`: ``todo`` has 1 where they are to be cancelled, 2 where they need not be kept any longer.
Once a group is ``complete``, all its jobs having ended, nothing more is counted in it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from neoq.held.group import BATCH, Batch, BatchRules, Group, closed, group_in
from neoq.job import Job
from neoq.record import FINISHED as FINISHED_STATUSES
from neoq.record import Status
from neoq.sqlite.file import SqliteFile
from neoq.sqlite.rows import N_HELD, N_KEPT, N_KEPT_DEAD, kind_of
from neoq.sqlite.schema import DEAD, HELD, IN_STATE, KEPT_DEAD, READY, SCHEDULED
from neoq.sqlite.session import Admission, Session
from neoq.stored import NUMBER, number_in

TENDED_AT_ONCE = 500  # jobs, so that no commit blocks others for long
CANCEL, LET_GO = 1, 2  # what is to be done for all jobs of a group

_FACTS = "select id, queue, key, batch, round, steps, turn, state, status from neoq_jobs where"
_COUNTED = "update neoq_groups set {0} = {0} + ? where job = ? and round = ? and complete = 0"
_ENDS = {Status.SUCCEEDED: 0, Status.DEAD: 1, Status.CANCELLED: 2}
_ADD_ENDS = (
    "update neoq_groups set succeeded = succeeded + ?, dead = dead + ?, cancelled = cancelled + ?"
    " where job = ? and round = ? and complete = 0"
)
_IS_COMPLETE = (
    "select due from neoq_groups where job = ? and round = ? and complete = 0 and open = 0"
    " and members <= succeeded + dead + cancelled and not (successes and dead)"
)
_KEEP = "update neoq_jobs set state = state + 5 where id = ? and state in (3, 4)"
_HOLD = (
    "update neoq_jobs set held = ?, round = coalesce(?, round), run_after = min(?, coalesce(deadline, ?))"
    " where id = ?"
)
_WATCH_TIME = (
    "insert into neoq_rules (queue, timers) select queue, 1 from neoq_jobs where id = ? and run_after < 9e999"
    " on conflict (queue) do update set timers = 1"
)


class Facts(NamedTuple):
    """What concerns others in a job's end: its place in groups and lines, and where it was."""

    job_id: int
    queue: str
    key: str | None
    group: str | None
    round: int | None
    steps: int | None
    turn: int | None
    state: int
    status: int


End = tuple[Facts, Status]


def facts(session: Session, ids: Sequence[int]) -> dict[int, Facts]:
    """The facts of jobs, by their ids."""
    return {row[0]: Facts(*row) for row in session.rows_of(_FACTS, ids)}


# -- members ----------------------------------------------------------------------------------------------


def admit(session: Session, job: Job, *, follows: bool) -> Job | None:
    """Let a job into its group, or return the member that it repeats; BatchClosedError for a closed group.

    A job that ``follows`` an outcome comes from inside, and is let in while the group is not complete.
    """
    group = group_in(job.group)
    if group is None or not _admission(session, group, job, follows=follows).named:
        return None
    row = session.do(
        "select job from neoq_named where holder = ? and queue = ? and fingerprint = ?",
        (group.holder, job.queue, job.fingerprint),
    ).fetchone()
    return None if row is None else duplicate_of(session, job, row[0])


def duplicate_of(session: Session, job: Job, job_id: int) -> Job:
    """A job that another one repeats; one that is known no more counts as cancelled."""
    for there in session.of_ids([job_id]):
        there.duplicate = True
        return there
    gone = job.as_record()
    gone.id, gone.status, gone.duplicate = job_id, Status.CANCELLED, True
    return gone


def _admission(session: Session, group: Group, job: Job, *, follows: bool) -> Admission:
    """What a group says that takes a job; BatchClosedError where it does not."""
    there = session.admissions.get(group.name)
    if there is None:
        row = session.do(
            "select producer, named, open, stopped or complete from neoq_groups where job = ? and round = ?",
            (group.holder, group.round),
        ).fetchone()
        if row is None:
            raise closed(group.holder)
        session.admissions[group.name] = there = Admission(*row)
    if there.closed or (not follows and (not there.open or there.producer != job.producer)):
        raise closed(group.holder)
    return there


def enter(session: Session, job: Job) -> None:
    """Count a job that was stored for its group."""
    group = group_in(job.group)
    if group is None:
        return
    session.join(group.holder, group.round)
    if session.admissions[group.name].named:
        session.do(
            "insert or replace into neoq_named values (?,?,?,?)",
            (group.holder, job.queue, job.fingerprint, job.id),
        )


def takes_in(session: Session, job: Job) -> bool:
    """Let a job into its group and count it there, unless the group knows its jobs by their fingerprints."""
    group = group_in(job.group)
    if group is None or _admission(session, group, job, follows=False).named:
        return False
    session.join(group.holder, group.round)
    return True


def keeps(session: Session, group: str | None) -> bool:
    """Whether the jobs of a group stay as history when they have ended."""
    if (found := group_in(group)) is None:
        return False
    row = session.do(
        "select keeps from neoq_groups where job = ? and round = ?", (found.holder, found.round)
    ).fetchone()
    return row is not None and bool(row[0])


# -- batches ----------------------------------------------------------------------------------------------


def hold_batch(session: Session, job: Job, rules: BatchRules) -> None:
    """Hold a job that was stored, as the callback of a batch."""
    waits = job.due > session.now  # type: ignore[operator]  # accepted jobs have one
    before = SCHEDULED if waits else READY
    session.do("update neoq_jobs set state = ? where id = ?", (HELD, job.id))
    session.count(job.queue, kind_of(before, NUMBER[job.status]), -1)
    session.count(job.queue, N_HELD, 1)
    hold(session, job.id, "batch", BATCH, None)
    session.do(
        "insert into neoq_groups (job, round, due, producer, successes, stop_on_dead, named, open)"
        " values (?,?,?,?,?,?,?,1)",
        (job.id, BATCH, job.due, rules.producer, rules.successes, rules.stop_on_dead, rules.named),
    )
    job.held, job.holds = "batch", BATCH


def take_over(session: Session, job_id: int, rules: BatchRules) -> None:
    """Let another producer add to a batch."""
    session.do(
        "update neoq_groups set open = 1, producer = ?, successes = ?, stop_on_dead = ?"
        " where job = ? and round = ?",
        (rules.producer, rules.successes, rules.stop_on_dead, job_id, BATCH),
    )
    session.admissions.clear()


def seal(session: Session, job_id: int, producer: int) -> None:
    """Let a batch take no more members from outside."""
    row = session.do(
        "select producer from neoq_groups where job = ? and round = ?", (job_id, BATCH)
    ).fetchone()
    if row is None or row[0] != producer:
        raise closed(job_id)
    session.do("update neoq_groups set open = 0 where job = ? and round = ?", (job_id, BATCH))
    session.admissions.clear()
    release_if_complete(session, job_id, BATCH)


def counted(file: SqliteFile, job_id: int, number: int) -> Batch | None:
    """The counts of a group; None where there is none."""
    rows = file.read(
        "select members, succeeded, dead, cancelled, open, stopped from neoq_groups"
        " where job = ? and round = ?",
        (job_id, number),
    )
    for members, succeeded, dead, cancelled, is_open, stopped in rows:
        return Batch(members, succeeded, dead, cancelled, bool(is_open and not stopped), bool(stopped))
    return None


# -- held jobs --------------------------------------------------------------------------------------------


def open_round(session: Session, job_id: int, number: int) -> None:
    """Make the group of a gather, in which its children are counted."""
    session.do("insert or ignore into neoq_groups (job, round) values (?,?)", (job_id, number))
    session.admissions.clear()


def hold(session: Session, job_id: int, held: str, number: int | None, until: float | None) -> None:
    """Say of a job in the state HELD what it waits for, and until when at most."""
    forever = math.inf
    session.do(_HOLD, (held, number, forever if until is None else until, forever, job_id))
    session.do(_WATCH_TIME, (job_id,))


def release(session: Session, job_id: int, queue: str, due: float | None = None) -> None:
    """Make a held job ready, now or when it is due."""
    due = session.now if due is None else max(due, session.now)
    state = SCHEDULED if due > session.now else READY
    session.do(
        "update neoq_jobs set state = ?, held = null, run_after = ? where id = ?", (state, due, job_id)
    )
    session.count(queue, N_HELD, -1)
    session.count(queue, kind_of(state, NUMBER[Status.PENDING]), 1)
    session.released.add(queue)


def release_due(session: Session, queue: str) -> float | None:
    """Release held jobs of a queue whose time has come; return when the next one's does."""
    query = f"select id from neoq_jobs where {IN_STATE[HELD]} and queue = ? and run_after <= ? limit 500"  # noqa: S608
    for (job_id,) in session.do(query, (queue, session.now)).fetchall():
        release(session, job_id, queue)
    [due] = session.do(
        f"select min(run_after) from neoq_jobs where {IN_STATE[HELD]} and queue = ?",  # noqa: S608
        (queue,),
    ).fetchone()
    due = number_in(due)
    return None if due is None or due == math.inf else due


def release_if_complete(session: Session, job_id: int, number: int) -> None:
    """Release the holder of a group if all its jobs have ended."""
    session.write_joined()
    row = session.do(_IS_COMPLETE, (job_id, number)).fetchone()
    if row is None:
        return
    session.do("update neoq_groups set complete = 1 where job = ? and round = ?", (job_id, number))
    session.admissions.clear()
    holder = session.do(
        "select queue from neoq_jobs"
        " where id = ? and state = 6 and round = ? and held in ('batch', 'children')",
        (job_id, number),
    ).fetchone()
    if holder is not None:
        release(session, job_id, holder[0], number_in(row[0]))


# -- ends -------------------------------------------------------------------------------------------------


def count_ends(session: Session, ends: Iterable[End]) -> None:
    """Count ends in the groups of the jobs that have ended, and keep these where they are to be."""
    tally: dict[tuple[int, int], list[int]] = {}
    known: dict[str | None, tuple[Group | None, bool]] = {}
    for job, status in ends:
        if job.group not in known:
            known[job.group] = group_in(job.group), keeps(session, job.group)
        group, kept = known[job.group]
        if group is not None and status in _ENDS:
            tally.setdefault((group.holder, group.round), [0, 0, 0])[_ENDS[status]] += 1
            if kept:
                keep(session, job, status)
    if tally:
        session.write_joined()
    for place, numbers in tally.items():
        if session.do(_ADD_ENDS, (*numbers, *place)).rowcount:
            if numbers[1]:
                _stop_at_dead(session, *place)
            release_if_complete(session, *place)


def keep(session: Session, job: Facts, status: Status) -> None:
    """Keep a job that has ended as history, whatever the settings say."""
    kept = session.do(_KEEP, (job.job_id,)).rowcount
    session.count(job.queue, N_KEPT_DEAD if status is Status.DEAD else N_KEPT, kept)


def _stop_at_dead(session: Session, job_id: int, number: int) -> None:
    row = session.do(
        "select stop_on_dead and not stopped from neoq_groups where job = ? and round = ?", (job_id, number)
    ).fetchone()
    if row[0]:
        _stop(session, job_id, number)


def _stop(session: Session, job_id: int, number: int) -> None:
    """Let no job of a group start any more; `tend` cancels them."""
    session.do(
        "update neoq_groups set stopped = 1, todo = todo | ?, tended = '', tended_id = 0"
        " where job = ? and round = ?",
        (CANCEL, job_id, number),
    )
    session.admissions.clear()
    session.stops = True


def end_holder(session: Session, job_id: int, status: Status | None) -> None:
    """A job that holds or has held groups has ended; None: it is deleted."""
    query = "select round from neoq_groups where job = ? and not complete and not stopped"
    for (number,) in session.do(query, (job_id,)).fetchall():
        _stop(session, job_id, number)
    if status is not Status.DEAD:
        session.do(
            "update neoq_groups set keeps = 0, todo = todo | ?, tended = '', tended_id = 0 where job = ?",
            (LET_GO, job_id),
        )
    session.admissions.clear()


def delete_member(session: Session, job: Facts) -> None:
    """A job of a group is deleted: that counts as cancelled."""
    group = group_in(job.group)
    if group is None:
        return
    place = group.holder, group.round
    if job.state in {DEAD, KEPT_DEAD}:
        session.do(_COUNTED.format("dead"), (-1, *place))
        session.do(_COUNTED.format("cancelled"), (1, *place))
        release_if_complete(session, *place)
    elif not _has_ended(job):
        session.do(_COUNTED.format("cancelled"), (1, *place))
        release_if_complete(session, *place)


def _has_ended(job: Facts) -> bool:
    return job.status in {NUMBER[status] for status in FINISHED_STATUSES}


def may_revive(session: Session, job: Facts) -> bool:
    """Whether a dead job may run again: not where its group was stopped before all had ended."""
    group = group_in(job.group)
    return (
        group is None
        or session.do(
            "select 1 from neoq_groups where job = ? and round = ? and stopped and not complete",
            (group.holder, group.round),
        ).fetchone()
        is None
    )


def revive_member(session: Session, job: Facts) -> None:
    """A dead job of a group runs again: its end is taken back, if the group is not complete."""
    if (group := group_in(job.group)) is not None:
        session.do(_COUNTED.format("dead"), (-1, group.holder, group.round))


def stopped(session: Session, jobs: Iterable[Job]) -> list[Job]:
    """Those of some jobs whose groups are stopped: they do not start."""
    found = []
    known: dict[str | None, bool] = {None: False}
    for job in jobs:
        if job.group not in known:
            known[job.group] = _is_stopped(session, job.group)
        if known[job.group]:
            found.append(job)
    return found


def _is_stopped(session: Session, name: str | None) -> bool:
    group = group_in(name)
    if group is None:
        return False
    row = session.do(
        "select stopped from neoq_groups where job = ? and round = ?", (group.holder, group.round)
    ).fetchone()
    return row is not None and bool(row[0])
