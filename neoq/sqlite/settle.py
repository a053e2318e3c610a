"""How attempts end in a SQLite file, well or not: each call is part of its caller's transaction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from neoq.job import FINISHED as FINISHED_STATUSES
from neoq.job import Job, Status
from neoq.sqlite.add import add_or_meet
from neoq.sqlite.ledger import Ledger
from neoq.sqlite.rows import (
    COLUMNS,
    LEASE_AT,
    N_RUNNING,
    N_SUCCEEDED,
    TOKEN_AT,
    WORKER_AT,
    job_of,
    kind_of,
)
from neoq.sqlite.schema import DEAD, FINISHED, READY, RUNNING, SCHEDULED
from neoq.store import ROLLED_BACK, Extended, Lease, Outcome, Reclaimed
from neoq.stored import NUMBER, number_in

HeldLease = tuple[int, int, float]  # a job's id, the token of its claim, and until when it is ours

_RUNNING_JOBS = (
    "select id, token, cancel, run_after, progress, progress_text from neoq_jobs where state = 2 and"
)
_SUCCEED = (
    "update neoq_jobs set state = 3, status = 3, holds = 0, token = ?, worker = null, lease_until = null,"
    " cancel = 0, ran_at = coalesce(?, ran_at), finished_at = ?, result = ?,"
    " progress = coalesce(?, progress), progress_text = coalesce(?, progress_text) where id = ?"
)
_SETTLE = (
    "update neoq_jobs set state = ?, status = ?, token = 0, worker = null, lease_until = null, cancel = 0,"
    " retries = retries + ?, run_after = coalesce(?, run_after),"
    " ran_at = coalesce(?, case when retries = 0 then null else ran_at end),"
    " finished_at = ?, error = coalesce(?, error), traceback = coalesce(?, traceback), result = ?,"
    " progress = ?, progress_text = ? where id = ?"
)
_TAKE_BACK = (
    "update neoq_jobs set state = ?, status = ?, crashes = ?, token = 0, worker = null, lease_until = null,"
    " cancel = 0, error = ?, finished_at = ? where id = ?"
)
_LET_GO = "update neoq_jobs set holds = 0 where id = ?"


def settle(ledger: Ledger, outcomes: Sequence[Outcome], *, completed: bool = False) -> set[int]:
    """Record outcomes; return the ids of the stale ones.

    A job ``completed`` inside its handler's transaction keeps its token as a negative number: the end of
    that attempt, which comes later, is no stale one.
    """
    ids = [outcome.lease.job_id for outcome in outcomes]
    running = {row[0]: row[1:] for row in ledger.rows_of(_RUNNING_JOBS, ids)}
    stale = set()
    succeeded = []
    for outcome in outcomes:
        lease = outcome.lease
        token, *kept = running.get(lease.job_id, (None,))
        if token != lease.token:
            if not _was_completed(ledger, lease):
                stale.add(lease.job_id)
            continue
        del running[lease.job_id]
        if outcome.failure is ROLLED_BACK:
            ledger.config.log.warning("job %s of %s failed: %s", *lease[:2], ROLLED_BACK.message)
        if outcome.status is Status.SUCCEEDED:
            succeeded.append(outcome)
        else:
            _settle_otherwise(ledger, outcome, *kept)
    _succeed(ledger, succeeded, completed)
    for outcome in outcomes:
        if outcome.follow and outcome.lease.job_id not in stale:
            for job in outcome.follow:
                add_or_meet(job, ledger)
    return stale


def _was_completed(ledger: Ledger, lease: Lease) -> bool:
    row = ledger.do("select token from neoq_jobs where id = ?", (lease.job_id,)).fetchone()
    return row is not None and lease.token > 0 and row[0] == -lease.token


def _succeed(ledger: Ledger, outcomes: list[Outcome], completed: bool) -> None:
    """Record successes, which most outcomes are."""
    kept = completed or ledger.config.retention != 0
    if kept:
        ledger.many(_SUCCEED, [_as_succeeded(outcome, completed) for outcome in outcomes])
    else:
        ledger.many("delete from neoq_jobs where id = ?", [(outcome.lease.job_id,) for outcome in outcomes])
    for queue, number in Counter(outcome.lease.queue for outcome in outcomes).items():
        ledger.count(queue, N_RUNNING, -number)
        if kept:
            ledger.count(queue, N_SUCCEEDED, number)


def _as_succeeded(outcome: Outcome, completed: bool) -> tuple[Any, ...]:
    lease = outcome.lease
    fraction, message = lease.progress or (None, None)
    token = -lease.token if completed else 0
    times = outcome.started_at, outcome.finished_at
    return token, *times, outcome.result, fraction, _text(message), lease.job_id


def _settle_otherwise(
    ledger: Ledger, outcome: Outcome, cancelled: int, run_after: float, *progress: Any
) -> None:
    lease, status = outcome.lease, outcome.status
    if status not in FINISHED_STATUSES and cancelled:  # cancelled as it ran: it is not tried again
        status = Status.CANCELLED
    ends = status in FINISHED_STATUSES
    run_after = (number_in(run_after) or 0.0) if outcome.run_after is None else outcome.run_after
    state = (
        (DEAD if status is Status.DEAD else FINISHED)
        if ends
        else SCHEDULED
        if run_after > ledger.now
        else READY
    )
    failure = outcome.failure
    fraction, message = (lease.progress or progress) if ends else (None, None)
    ledger.do(
        _SETTLE,
        (
            state,
            NUMBER[status],
            outcome.charged,
            outcome.run_after,
            outcome.started_at,
            (outcome.finished_at or ledger.now) if ends else None,
            None if failure is None else _text(f"{failure.type}: {failure.message}"),
            None if failure is None else _text(failure.traceback),
            outcome.result,
            fraction,
            _text(message),
            lease.job_id,
        ),
    )
    _leaves(ledger, lease.job_id, lease.queue, state, status)


def _leaves(ledger: Ledger, job_id: int, queue: str, state: int, status: Status) -> None:
    """A job that ran is in another state now."""
    if state in {FINISHED, DEAD}:
        ledger.do(_LET_GO, (job_id,))
    ledger.count(queue, N_RUNNING, -1)
    ledger.count(queue, kind_of(state, NUMBER[status]), 1)


def _text(value: str | None) -> str | None:
    """A text that UTF-8 can carry: an exception's message may hold anything."""
    return None if value is None else value.encode("utf-8", "replace").decode()


def extend(ledger: Ledger, leases: Sequence[Lease]) -> Extended:
    """Renew leases."""
    lost, cancelled = set(), set()
    until = ledger.now + ledger.config.lease
    for lease in leases:
        row = ledger.do("select token, cancel, state from neoq_jobs where id = ?", (lease.job_id,)).fetchone()
        if row is None or row[2] != RUNNING or row[0] != lease.token:
            if not _was_completed(ledger, lease):
                lost.add(lease.job_id)
            continue
        fraction, message = lease.progress or (None, None)
        ledger.do(
            "update neoq_jobs set lease_until = ?, progress = coalesce(?, progress),"
            " progress_text = coalesce(?, progress_text) where id = ?",
            (until, fraction, _text(message), lease.job_id),
        )
        if row[1]:
            cancelled.add(lease.job_id)
    return Extended(lost, cancelled)


def reclaim(ledger: Ledger, dead_workers: set[str], not_renewed: set[HeldLease]) -> Reclaimed:
    """Take the jobs of workers that died, and those whose leases are still as they were seen."""
    reclaimed = Reclaimed([], [])
    for row in ledger.do(f"select {COLUMNS} from neoq_jobs where state = 2").fetchall():  # noqa: S608
        worker, lease = row[WORKER_AT], (row[0], row[TOKEN_AT], row[LEASE_AT])
        if worker in dead_workers or lease in not_renewed:
            _take_back(ledger, job_of(row), reclaimed)
    for worker in dead_workers:
        ledger.do("delete from neoq_workers where id = ?", (worker,))
    return reclaimed


def _take_back(ledger: Ledger, job: Job, reclaimed: Reclaimed) -> None:
    job.crashes += 1
    state, ended = READY, True
    if job.cancel_asked:
        job.status, state = Status.CANCELLED, FINISHED
    elif job.crashes >= ledger.config.max_crashes:
        job.status, state = Status.DEAD, DEAD
        job.error = f"WorkerDied: {job.crashes} workers died while they ran it (max_crashes)"
        reclaimed.dead.append(job)
    else:
        job.status, ended = (Status.RETRYING if job.retries else Status.PENDING), False
        reclaimed.returned.append(job)
    job.worker, job.token = None, 0
    job.finished_on = ledger.now if ended else None
    ledger.do(_TAKE_BACK, (state, NUMBER[job.status], job.crashes, job.error, job.finished_on, job.id))
    _leaves(ledger, job.id, job.queue, state, job.status)
