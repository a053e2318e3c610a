"""What operators and time do to the jobs of a SQLite file: each call is part of its caller's transaction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest

import orjson

from neoq.audit import KEPT, AuditEntry
from neoq.job import DuplicateJobError, Job
from neoq.record import Status
from neoq.series import KEPT as SERIES_KEPT
from neoq.series import Increment, starts
from neoq.sqlite import rules, spans
from neoq.sqlite.add import hash_of, move
from neoq.sqlite.ends import after_delete, before_revival, cancel
from neoq.sqlite.groups import facts, may_revive
from neoq.sqlite.rows import N_READY, kind_of, waiting_state
from neoq.sqlite.schema import DEAD, FINISHED
from neoq.sqlite.session import Session
from neoq.store import SCHEDULES_KEPT, Action, Changed, WorkerInfo, taken_by
from neoq.stored import NUMBER, numbers_in, report_of, restricted

PRUNED_AT_ONCE = 5000  # so that no commit blocks others for long
_HOLDERS = frozenset({"batch", "children"})  # held for the ends of others: they are cancelled first
_TOKENS_KEPT = 86400.0  # seconds
_POINT = "select numbers from neoq_series where seconds = ? and start = ? and queue = ?"


def change(session: Session, job_ids: Sequence[int], action: Action) -> Changed:
    """Cancel, retry or delete jobs."""
    session.index_new()
    operate = {"cancel": _cancel, "retry": _retry, "delete": _delete, "run": _run}[action]
    done, running, queues = set(), set(), set()
    uncertain = set()  # queues with an unreadable job: how it was counted is unknown
    for job in session.of_ids(job_ids):
        assert job.id is not None
        if job.unreadable is not None:
            uncertain.add(job.queue)
        try:
            changed = operate(session, job)
        except DuplicateJobError:
            if len(job_ids) == 1:
                raise
            continue
        if changed:
            done.add(job.id)
            queues.add(job.queue)
        elif action == "cancel" and job.status is Status.RUNNING:
            session.do("update neoq_jobs set cancel = 1 where id = ?", (job.id,))
            running.add(job.id)
    if uncertain:
        session.recount(uncertain)
    return Changed(frozenset(done), frozenset(running), frozenset(queues))


def _cancel(session: Session, job: Job) -> bool:
    if job.status is Status.RUNNING or job.finished:
        return False
    cancel(session, job)
    return True


def _count_out(session: Session, job: Job) -> None:
    """A job leaves the state that it had when it was read."""
    state = DEAD if job.status is Status.DEAD else FINISHED if job.finished else waiting_state(job)
    session.count(job.queue, kind_of(state, NUMBER[job.status]), -1)


def _retry(session: Session, job: Job) -> bool:
    if job.status in {Status.PENDING, Status.RETRYING}:
        if job.held is not None:
            return False
        move(session, job, min(session.now, job.due))  # type: ignore[type-var]
        return True
    before = facts(session, [job.id])[job.id] if job.counted and job.status is Status.DEAD else None
    if job.status is not Status.DEAD or (before is not None and not may_revive(session, before)):
        return False
    fingerprint_hash = hash_of(job)
    holder = None if fingerprint_hash is None else session.holder(job, fingerprint_hash)
    if holder is not None:
        raise taken_by(holder)
    if before is not None:
        before_revival(session, before)
    session.do(  # without its deadline, or one that has passed would kill it again
        "update neoq_jobs set state = 0, status = 0, holds = hash is not null, run_after = ?,"
        " finished_at = null, retries = 0, crashes = 0, deadline = null where id = ?",
        (session.now, job.id),
    )
    _count_out(session, job)
    session.count(job.queue, N_READY, 1)
    return True


def _run(session: Session, job: Job) -> bool:
    waits = job.status in {Status.PENDING, Status.RETRYING} and job.due > session.now  # type: ignore[operator]
    if waits and job.held is None:
        move(session, job, session.now)
        return True
    return False


def _delete(session: Session, job: Job) -> bool:
    if job.status is Status.RUNNING or job.held in _HOLDERS:
        return False
    before = facts(session, [job.id]).get(job.id) if job.counted or job.held else None
    session.do("delete from neoq_jobs where id = ?", (job.id,))
    _count_out(session, job)
    if before is not None:
        after_delete(session, before)
    return True


def set_paused(session: Session, queue: str, paused: bool) -> None:
    """Pause or resume a queue."""
    session.do("insert or replace into neoq_paused values (?,?)", (queue, paused))


def prune(session: Session) -> int:
    """Forget jobs that finished longer ago than retention; return how many, at most PRUNED_AT_ONCE."""
    session.do("delete from neoq_tokens where at < ?", (session.now - _TOKENS_KEPT,))
    spans.forget(session)
    rules.forget(session)
    if session.config.retention is None:
        return 0
    oldest = session.now - session.config.retention
    where = "state = 3 and finished_at <= ? order by finished_at limit ?"
    return len(session.drop(where, (oldest, PRUNED_AT_ONCE)))


def beat(session: Session, worker: WorkerInfo) -> None:
    """Record the heartbeat of a worker."""
    session.do(
        "insert or replace into neoq_processes"
        " (id, host, pid, started_at, beat_at, queues, running, kinds, version)"
        " values (:id, :host, :pid, :started_at, :beat_at, :queues, :running, :kinds, :version)",
        {
            "id": worker.id,
            "host": worker.host,
            "pid": worker.pid,
            "started_at": worker.started_at.timestamp(),
            "beat_at": session.now,
            "queues": orjson.dumps(worker.queues).decode(),
            "running": worker.running,
            "kinds": orjson.dumps(restricted(worker)).decode(),
            "version": worker.version,
        },
    )
    session.do("insert or replace into neoq_reports values (?,?)", (worker.id, report_of(worker)))


def list_schedules(session: Session, schedules: Mapping[str, bytes]) -> None:
    """Keep what a process says of its schedules."""
    rows = [(name, described, session.now) for name, described in schedules.items()]
    session.many("insert or replace into neoq_schedules values (?,?,?)", rows)
    session.do("delete from neoq_schedules where listed_at < ?", (session.now - SCHEDULES_KEPT,))


def leave(session: Session, workers: Iterable[str]) -> None:
    """Forget workers that are gone."""
    gone = [(worker,) for worker in workers]
    session.many("delete from neoq_processes where id = ?", gone)
    session.many("delete from neoq_reports where worker = ?", gone)


def add_audit(session: Session, entry: AuditEntry) -> None:
    """Keep what somebody did. Ids follow the time, so that those of forgotten entries do not come again."""
    session.do(
        "insert into neoq_audit select max(?, 1 + coalesce(max(id), 0)), ?,?,?,?,?,?,? from neoq_audit",
        (
            int(session.now * 1000),
            *(session.now, entry.user, entry.via, entry.action, entry.count, entry.queue, entry.what),
        ),
    )


def add_series(session: Session, increments: Sequence[Increment]) -> None:
    """Add to the series what a process has counted."""
    for seconds, start in starts(session.now).items():
        for queue, numbers in increments:
            place = (seconds, start, queue)
            kept = session.do(_POINT, place).fetchone()
            before = numbers_in(kept[0]) if kept else ()
            summed = [one + more for one, more in zip_longest(before, numbers, fillvalue=0.0)]
            told = (*place, orjson.dumps(summed).decode())
            session.do("insert or replace into neoq_series values (?,?,?,?)", told)


def forget_old(session: Session) -> None:
    """Forget what somebody did long ago, old series, and reports of workers that are gone."""
    for seconds, kept in SERIES_KEPT.items():
        where = (seconds, session.now - kept)
        session.do("delete from neoq_series where seconds = ? and start < ?", where)
    session.do("delete from neoq_audit where at < ?", (session.now - KEPT,))
    # An older neoq that has forgotten a worker knows nothing of its report.
    session.do("delete from neoq_reports where worker not in (select id from neoq_processes)")
