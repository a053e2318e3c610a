"""What follows from the end of a job of a SQLite file that concerns others: part of its transaction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from neoq.job import Job
from neoq.record import FINISHED, Status
from neoq.sqlite import groups, lines
from neoq.sqlite.groups import CANCEL, LET_GO, TENDED_AT_ONCE, End, Facts
from neoq.sqlite.rows import N_CANCELLED, N_KEPT, N_KEPT_DEAD, kind_of, waiting_state
from neoq.sqlite.schema import KEPT, KEPT_DEAD
from neoq.sqlite.session import DROP_STEPS, Session
from neoq.stored import NUMBER

_CANCEL = "update neoq_jobs set state = 3, status = 5, holds = 0, held = null, finished_at = ? where id = ?"
_BEGIN_ANEW = "update neoq_steps set retries = 0, crashes = 0 where job = ?"  # they count from 0 again
_DROPS_STEPS = frozenset({Status.SUCCEEDED, Status.CANCELLED})
_MEMBERS = (
    "select id, batch from neoq_jobs where batch is not null and (batch, id) > (?, ?) and batch < ?"
    " order by batch, id limit ?"
)


def after(session: Session, ends: Sequence[End]) -> None:
    """Do what follows from ends of attempts or jobs, after these were recorded; the facts are from before."""
    for job, status in ends:
        if job.round is not None and status in FINISHED:
            groups.end_holder(session, job.job_id, status)
        if job.steps is not None and status in _DROPS_STEPS:
            session.do(DROP_STEPS, (job.job_id,))
    groups.count_ends(session, ends)
    lines.leave(session, ends)


def after_delete(session: Session, job: Facts) -> None:
    """Do what follows from the deletion of a job, which has ended or has not."""
    if job.state in {KEPT, KEPT_DEAD}:
        session.count(job.queue, N_KEPT if job.state == KEPT else N_KEPT_DEAD, -1)
    if job.round is not None:
        groups.end_holder(session, job.job_id, None)
    if job.steps is not None:
        session.do(DROP_STEPS, (job.job_id,))
    groups.delete_member(session, job)
    if job.turn is not None:
        lines.fill(session, job.queue, job.key)


def before_revival(session: Session, job: Facts) -> None:
    """A dead job is about to run again."""
    if job.state == KEPT_DEAD:
        session.count(job.queue, N_KEPT_DEAD, -1)
    if job.steps is not None:
        session.do(_BEGIN_ANEW, (job.job_id,))
    groups.revive_member(session, job)


def cancel(session: Session, job: Job) -> None:
    """Let a job be cancelled that neither runs nor has ended."""
    assert job.id is not None
    before = groups.facts(session, [job.id])[job.id] if job.counted or job.held else None
    session.do(_CANCEL, (session.now, job.id))
    session.count(job.queue, kind_of(waiting_state(job), NUMBER[job.status]), -1)
    session.count(job.queue, N_CANCELLED, 1)
    if before is not None:
        after(session, [(before, Status.CANCELLED)])


def cancel_stopped(session: Session, jobs: Iterable[Job]) -> list[Job]:
    """Cancel those of ready jobs whose groups are stopped; return these."""
    stopped = groups.stopped(session, jobs)
    for job in stopped:
        cancel(session, job)
    return stopped


def tend(session: Session) -> bool:
    """Do a page of what is to be done for all jobs of some group; whether there is more to do."""
    row = session.do(
        "select job, round, todo, keeps, tended, tended_id from neoq_groups where todo > 0 limit 1"
    ).fetchone()
    if row is None:
        return False
    session.index_new()
    holder, number, todo, keeps, *start = row
    name = f"{holder}/{number}/"
    task = CANCEL if todo & CANCEL else LET_GO
    beyond = f"{name[:-1]}0"  # "0" comes after "/"
    found = session.do(_MEMBERS, (start[0] or name, start[1], beyond, TENDED_AT_ONCE)).fetchall()
    ids = [job_id for job_id, _ in found]
    if task == CANCEL:
        _cancel_members(session, ids)
    else:
        _let_go(session, ids)
    if len(found) == TENDED_AT_ONCE:
        session.do(
            "update neoq_groups set tended = ?, tended_id = ? where job = ? and round = ?",
            (found[-1][1], ids[-1], holder, number),
        )
        return True
    session.do(
        "update neoq_groups set todo = todo & ~?, tended = '', tended_id = 0 where job = ? and round = ?",
        (task, holder, number),
    )
    if task == LET_GO and not keeps:
        _forget(session, holder, number)
    return True


def _cancel_members(session: Session, ids: Sequence[int]) -> None:
    running = []
    for job in session.of_ids(ids):
        if job.status is Status.RUNNING:
            running.append((job.id,))
        elif not job.finished:
            cancel(session, job)
    session.many("update neoq_jobs set cancel = 1 where id = ?", running)


def _let_go(session: Session, ids: Sequence[int]) -> None:
    """Let jobs that have ended be history as others are."""
    for job in groups.facts(session, ids).values():
        if job.state in {KEPT, KEPT_DEAD} and job.turn is None:
            session.do("update neoq_jobs set state = state - 5 where id = ?", (job.job_id,))
            session.count(job.queue, N_KEPT if job.state == KEPT else N_KEPT_DEAD, -1)


def _forget(session: Session, holder: int, number: int) -> None:
    """Forget what a group knows of its members; and the group, if its holder is no more."""
    session.do("delete from neoq_named where holder = ?", (holder,))
    if session.do("select 1 from neoq_jobs where id = ?", (holder,)).fetchone() is None:
        session.do("delete from neoq_groups where job = ? and round = ?", (holder, number))
