"""How attempts end in a SQLite file, well or not: each call is part of its caller's transaction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from neoq.job import Job
from neoq.outcome import ROLLED_BACK, Lease, Outcome, crashed
from neoq.record import FINISHED as FINISHED_STATUSES
from neoq.record import Status
from neoq.sqlite import groups, steps
from neoq.sqlite.add import follow
from neoq.sqlite.ends import after
from neoq.sqlite.rows import (
    COLUMNS,
    LEASE_AT,
    N_KEPT,
    N_RUNNING,
    N_SUCCEEDED,
    TOKEN_AT,
    WORKER_AT,
    job_of,
    kind_of,
)
from neoq.sqlite.schema import DEAD, FINISHED, HELD, KEPT, READY, RUNNING, SCHEDULED
from neoq.sqlite.session import Session
from neoq.store import Extended, Reclaimed
from neoq.stored import NUMBER, number_in

HeldLease = tuple[int, int, float]  # a job's id, the token of its claim, and until when it is ours

_RUNNING_JOBS = (
    "select id, token, cancel, run_after, progress, progress_text, batch is not null or round is not null"
    " or steps is not null or turn is not null from neoq_jobs where state = 2 and"
)
_SUCCEED = (  # by place: for each of many jobs a tuple is quicker than a dict
    "update neoq_jobs set state = 3, status = 3, holds = 0, token = ?, worker = null, lease_until = null,"
    " cancel = 0, ran_at = coalesce(?, ran_at), finished_at = ?, result = ?,"
    " progress = coalesce(?, progress), progress_text = coalesce(?, progress_text) where id = ?"
)
_SUCCEED_KEPT = _SUCCEED.replace("state = 3", "state = 8")
_SETTLE = (
    "update neoq_jobs set state = :state, status = :status, token = 0, worker = null, lease_until = null,"
    " cancel = 0, retries = retries + :charged, run_after = coalesce(:run_after, run_after),"
    " ran_at = coalesce(:started, case when retries = 0 then null else ran_at end), finished_at = :finished,"
    " error = coalesce(:error, error), traceback = coalesce(:traceback, traceback),"
    " attempts = coalesce(:attempts, attempts), result = :result,"
    " progress = :progress, progress_text = :progress_text where id = :id"
)
_TAKE_BACK = (
    "update neoq_jobs set state = ?, status = ?, crashes = ?, token = 0, worker = null, lease_until = null,"
    " cancel = 0, error = ?, attempts = ?, finished_at = ? where id = ?"
)
_NONE = (None, None)  # of a job that does not run
_LET_GO = "update neoq_jobs set holds = 0 where id = ?"


def settle(
    session: Session,
    outcomes: Sequence[Outcome],
    undone: Callable[[Outcome], None],
    *,
    completed: bool = False,
) -> set[int]:
    """Record outcomes; return the ids of the stale ones.

    A job ``completed`` inside its handler's transaction keeps its token as a negative number, so that the
    outcome of that attempt, which comes later, is not stale.
    """
    ids = [outcome.lease.job_id for outcome in outcomes]
    running = {row[0]: row[1:] for row in session.rows_of(_RUNNING_JOBS, ids)}
    stale = set()
    succeeded, counted, following = list[Outcome](), [], list[Job]()
    for outcome in outcomes:
        lease = outcome.lease
        token, *kept, counts = running.get(lease.job_id, _NONE)
        if token != lease.token:
            if not _was_completed(session, lease):
                stale.add(lease.job_id)
            continue
        del running[lease.job_id]
        if outcome.failure is ROLLED_BACK:
            undone(outcome)
        if counts or outcome.holds is not None or outcome.awaits is not None or outcome.steps:
            counted.append((outcome, kept))
            continue
        following += outcome.follow
        if outcome.status is Status.SUCCEEDED:
            succeeded.append(outcome)
        else:
            _settle_otherwise(session, outcome, *kept)
    _succeed(session, succeeded, completed)
    if counted:
        _settle_counted(session, counted, completed)
    if following:  # they may have the fingerprints of jobs that have succeeded
        follow(session, following)
    return stale


def _settle_counted(
    session: Session, counted: Sequence[tuple[Outcome, Sequence[Any]]], completed: bool
) -> None:
    """Record outcomes of jobs that have a group, steps or a turn, or that are held from now on."""
    before = groups.facts(session, [outcome.lease.job_id for outcome, _ in counted])
    ends, kept, others = list[groups.End](), list[Outcome](), list[Outcome]()
    keeping = {group: groups.keeps(session, group) for group in {job.group for job in before.values()}}
    for outcome, state in counted:
        job = before[outcome.lease.job_id]
        status = outcome.status
        if outcome.steps:
            steps.insert(session, job.job_id, outcome.steps)
            job = job._replace(steps=1)
        if status is Status.SUCCEEDED:
            (kept if keeping[job.group] else others).append(outcome)
        else:
            status = _settle_otherwise(session, outcome, *state)
        ends.append((job, status))
    _succeed(session, others, completed)
    _succeed(session, kept, completed, KEPT)
    for (outcome, _), (job, status) in zip(counted, ends, strict=True):
        if status is Status.PENDING:
            _hold(session, outcome)
        follow(session, outcome.follow)
        if status is Status.PENDING and outcome.holds is not None:
            groups.release_if_complete(session, job.job_id, outcome.holds)
    after(session, ends)


def _hold(session: Session, outcome: Outcome) -> None:
    """Hold a job until its children have ended, or its signal has come."""
    job_id, queue = outcome.lease.job_id, outcome.lease.queue
    if outcome.holds is not None:
        groups.open_round(session, job_id, outcome.holds)
        groups.hold(session, job_id, "children", outcome.holds, outcome.run_after)
    elif outcome.awaits is not None:
        groups.hold(session, job_id, outcome.awaits, None, outcome.run_after)
        if steps.awaits(session, job_id, outcome.awaits):
            groups.release(session, job_id, queue)


def _was_completed(session: Session, lease: Lease) -> bool:
    row = session.do("select token from neoq_jobs where id = ?", (lease.job_id,)).fetchone()
    return row is not None and lease.token > 0 and row[0] == -lease.token


def _succeed(session: Session, outcomes: list[Outcome], completed: bool, state: int = FINISHED) -> None:
    """Record successes, which most outcomes are."""
    kept = completed or session.config.retention != 0 or state == KEPT
    if kept:
        session.many(
            _SUCCEED if state == FINISHED else _SUCCEED_KEPT,
            [_as_succeeded(outcome, completed) for outcome in outcomes],
        )
    else:
        session.many("delete from neoq_jobs where id = ?", [(outcome.lease.job_id,) for outcome in outcomes])
    for queue, number in Counter(outcome.lease.queue for outcome in outcomes).items():
        session.count(queue, N_RUNNING, -number)
        if kept:
            session.count(queue, N_SUCCEEDED, number)
        if state == KEPT:
            session.count(queue, N_KEPT, number)


def _as_succeeded(outcome: Outcome, completed: bool) -> tuple[Any, ...]:
    lease = outcome.lease
    fraction, message = lease.progress or (None, None)
    token = -lease.token if completed else 0
    times = outcome.started_at, outcome.finished_at
    return token, *times, outcome.result, fraction, _text(message), lease.job_id


def _settle_otherwise(
    session: Session, outcome: Outcome, cancelled: int, run_after: float, *progress: Any
) -> Status:
    lease, status = outcome.lease, outcome.status
    if status not in FINISHED_STATUSES and cancelled:  # cancelled as it ran: it is not tried again
        status = Status.CANCELLED
    ends = status in FINISHED_STATUSES
    run_after = (number_in(run_after) or 0.0) if outcome.run_after is None else outcome.run_after
    state = (
        (DEAD if status is Status.DEAD else FINISHED)
        if ends
        else HELD
        if outcome.holds is not None or outcome.awaits is not None
        else SCHEDULED
        if run_after > session.now
        else READY
    )
    failure = outcome.failure
    fraction, message = (lease.progress or progress) if ends else (None, None)
    session.do(
        _SETTLE,
        {
            "id": lease.job_id,
            "state": state,
            "status": NUMBER[status],
            "charged": outcome.charged,
            "run_after": outcome.run_after,
            "started": outcome.started_at,
            "finished": (outcome.finished_at or session.now) if ends else None,
            "error": None if failure is None else _text(f"{failure.type}: {failure.message}"),
            "traceback": None if failure is None else _text(failure.traceback),
            "attempts": outcome.failed_attempts,
            "result": outcome.result,
            "progress": fraction,
            "progress_text": _text(message),
        },
    )
    _leaves(session, lease.job_id, lease.queue, state, status)
    return status


def _leaves(session: Session, job_id: int, queue: str, state: int, status: Status) -> None:
    """Count a job that ran in its new state."""
    if state in {FINISHED, DEAD}:
        session.do(_LET_GO, (job_id,))
    session.count(queue, N_RUNNING, -1)
    session.count(queue, kind_of(state, NUMBER[status]), 1)


def _text(value: str | None) -> str | None:
    """A text that UTF-8 can carry: an exception's message may hold anything."""
    return None if value is None else value.encode("utf-8", "replace").decode()


def extend(session: Session, leases: Sequence[Lease]) -> Extended:
    """Renew leases."""
    lost, cancelled = set(), set()
    until = session.now + session.config.lease
    for lease in leases:
        row = session.do(
            "select token, cancel, state from neoq_jobs where id = ?", (lease.job_id,)
        ).fetchone()
        if row is None or row[2] != RUNNING or row[0] != lease.token:
            if not _was_completed(session, lease):
                lost.add(lease.job_id)
            continue
        fraction, message = lease.progress or (None, None)
        session.do(
            "update neoq_jobs set lease_until = ?, progress = coalesce(?, progress),"
            " progress_text = coalesce(?, progress_text) where id = ?",
            (until, fraction, _text(message), lease.job_id),
        )
        if row[1]:
            cancelled.add(lease.job_id)
    return Extended(lost, cancelled)


def reclaim(session: Session, dead_workers: set[str], not_renewed: set[HeldLease]) -> Reclaimed:
    """Take the jobs of workers that died, and those whose leases are still as they were seen."""
    reclaimed = Reclaimed([], [])
    for row in session.do(f"select {COLUMNS} from neoq_jobs where state = 2").fetchall():  # noqa: S608
        worker, lease = row[WORKER_AT], (row[0], row[TOKEN_AT], row[LEASE_AT])
        if worker in dead_workers or lease in not_renewed:
            _take_back(session, job_of(row), reclaimed)
    for worker in dead_workers:
        session.do("delete from neoq_processes where id = ?", (worker,))
        session.do("delete from neoq_reports where worker = ?", (worker,))
    return reclaimed


def _take_back(session: Session, job: Job, reclaimed: Reclaimed) -> None:
    before = groups.facts(session, [job.id])[job.id] if job.counted else None
    job.crashes += 1
    job.failed_attempts = crashed(job, session.now)
    state, ended = READY, True
    if job.cancel_asked:
        job.status, state = Status.CANCELLED, FINISHED
    elif _crashes_in_vain(session, job) >= session.config.max_crashes:
        job.status, state = Status.DEAD, DEAD
        job.error = f"WorkerDied: {job.crashes} workers died while they ran it (max_crashes)"
        reclaimed.dead.append(job)
    else:
        job.status, ended = (Status.RETRYING if job.retries else Status.PENDING), False
        reclaimed.returned.append(job)
    job.worker, job.token = None, 0
    job.finished_on = session.now if ended else None
    ends = job.error, job.failed_attempts, job.finished_on
    session.do(_TAKE_BACK, (state, NUMBER[job.status], job.crashes, *ends, job.id))
    _leaves(session, job.id, job.queue, state, job.status)
    if before is not None:
        after(session, [(before, job.status)])


def _crashes_in_vain(session: Session, job: Job) -> int:
    """How often a worker of a job has died since it got on."""
    return job.crashes - steps.crashes_then(session, job.id) if job.steps else job.crashes
