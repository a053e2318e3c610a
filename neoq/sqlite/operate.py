"""What operators and time do to the jobs of a SQLite file: each call is part of its caller's transaction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import orjson

from neoq.job import DuplicateJobError, Job, Status
from neoq.sqlite.add import hash_of, move
from neoq.sqlite.ledger import Ledger
from neoq.sqlite.rows import N_CANCELLED, N_READY, kind_of
from neoq.sqlite.schema import DEAD, FINISHED, READY, SCHEDULED
from neoq.store import Action, Changed, WorkerInfo, taken_by
from neoq.stored import NUMBER

PRUNED_AT_ONCE = 5000  # so that no commit holds others up for long
_TOKENS_KEPT = 86400.0  # seconds


def change(ledger: Ledger, job_ids: Sequence[int], action: Action) -> Changed:
    """Cancel, retry or delete jobs."""
    ledger.sort_in()
    operate = {"cancel": _cancel, "retry": _retry, "delete": _delete}[action]
    done, running, queues = set(), set(), set()
    uncertain = set()  # what their unreadable jobs were counted as cannot be told
    for job in ledger.of_ids(job_ids):
        assert job.id is not None
        if job.unreadable is not None:
            uncertain.add(job.queue)
        try:
            changed = operate(ledger, job)
        except DuplicateJobError:
            if len(job_ids) == 1:
                raise
            continue
        if changed:
            done.add(job.id)
            queues.add(job.queue)
        elif action == "cancel" and job.status is Status.RUNNING:
            ledger.do("update neoq_jobs set cancel = 1 where id = ?", (job.id,))
            running.add(job.id)
    if uncertain:
        ledger.recount(uncertain)
    return Changed(frozenset(done), frozenset(running), frozenset(queues))


def _cancel(ledger: Ledger, job: Job) -> bool:
    if job.status is Status.RUNNING or job.finished:
        return False
    ledger.do(
        "update neoq_jobs set state = 3, status = 5, holds = 0, finished_at = ? where id = ?",
        (ledger.now, job.id),
    )
    _count_out(ledger, job)
    ledger.count(job.queue, N_CANCELLED, 1)
    return True


def _count_out(ledger: Ledger, job: Job) -> None:
    """A job leaves the state that it had when it was read."""
    if job.status is Status.DEAD:
        state = DEAD
    elif job.finished:
        state = FINISHED
    else:
        state = SCHEDULED if job.waits else READY
    ledger.count(job.queue, kind_of(state, NUMBER[job.status]), -1)


def _retry(ledger: Ledger, job: Job) -> bool:
    if job.status in {Status.PENDING, Status.RETRYING}:
        move(ledger, job, min(ledger.now, job.due))  # type: ignore[type-var]
        return True
    if job.status is not Status.DEAD:
        return False
    held = hash_of(job)
    holder = None if held is None else ledger.holder(job, held)
    if holder is not None:
        raise taken_by(holder)
    ledger.do(  # without its deadline, or one that has passed would kill it again
        "update neoq_jobs set state = 0, status = 0, holds = hash is not null, run_after = ?,"
        " finished_at = null, retries = 0, crashes = 0, deadline = null where id = ?",
        (ledger.now, job.id),
    )
    _count_out(ledger, job)
    ledger.count(job.queue, N_READY, 1)
    return True


def _delete(ledger: Ledger, job: Job) -> bool:
    if job.status is Status.RUNNING:
        return False
    ledger.do("delete from neoq_jobs where id = ?", (job.id,))
    _count_out(ledger, job)
    return True


def set_paused(ledger: Ledger, queue: str, paused: bool) -> None:
    """Hold a queue's jobs back, or let them go."""
    ledger.do("insert or replace into neoq_queues values (?,?)", (queue, paused))


def prune(ledger: Ledger) -> int:
    """Forget what finished longer ago than retention; return how many, at most PRUNED_AT_ONCE."""
    ledger.do("delete from neoq_tokens where at < ?", (ledger.now - _TOKENS_KEPT,))
    if ledger.config.retention is None:
        return 0
    oldest = ledger.now - ledger.config.retention
    where = "state = 3 and finished_at <= ? order by finished_at limit ?"
    return len(ledger.drop(where, (oldest, PRUNED_AT_ONCE)))


def beat(ledger: Ledger, worker: WorkerInfo) -> None:
    """Say that a worker is alive."""
    ledger.do(
        "insert or replace into neoq_workers values (?,?,?,?,?,?,?)",
        (
            worker.id,
            worker.host,
            worker.pid,
            worker.started_at.timestamp(),
            ledger.now,
            orjson.dumps(worker.queues).decode(),
            worker.running,
        ),
    )


def leave(ledger: Ledger, workers: Iterable[str]) -> None:
    """Forget workers that have ended."""
    ledger.many("delete from neoq_workers where id = ?", [(worker,) for worker in workers])
