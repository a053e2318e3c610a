"""What is done to the jobs of a SQLite file, each method inside a transaction of its caller."""

from __future__ import annotations

import itertools
import os
import re
import sqlite3
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import orjson

from neoq.job import CODEC, FINISHED, Job, Status
from neoq.sqlite_rows import (
    COLUMNS,
    N_CANCELLED,
    N_DEAD,
    N_READY,
    N_RETRYING,
    N_RUNNING,
    N_SCHEDULED,
    N_SUCCEEDED,
    NUMBER,
    PENDING,
    RETRYING,
    UNIQUENESS,
    job_of,
    kind_of,
)
from neoq.sqlite_schema import DIED, ENDED, READY, RUNS, WAITS
from neoq.store import (
    ROLLED_BACK,
    Action,
    Changed,
    Demand,
    Extended,
    Lease,
    Outcome,
    Reclaimed,
    Tick,
    WorkerInfo,
    taken_by,
)

if TYPE_CHECKING:
    from neoq.config import Config

HeldLease = tuple[int, int, float]  # a job's id, the token of its claim, and until when it is ours

_CLOCK_WAS_WRONG = 3 * 3600.0  # a tick that much older than the last one: the clock was set right
_TOKENS_KEPT = 86400.0  # seconds
_CHUNK = 500  # values of one "in (...)"
PRUNED_AT_ONCE = 5000  # so that no commit holds others up for long

_RUNNING_JOBS = "select id, token, cancel, run_after, progress, progress_text from neoq_jobs where place = 2"
_HOLDERS = f"select {COLUMNS} from neoq_jobs where holds = ?"  # noqa: S608
_INSERT = (
    "insert into neoq_jobs (id, queue, place, status, priority, run_after, created_at, uniqueness, holds,"
    " max_retries, deadline, fingerprint, kind, key, batch, meta, codec, payload)"
    " values (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
)
_CLAIM = (
    "update neoq_jobs set place = 2, status = 2, token = ?, worker = ?, lease_until = ?, ran_at = ?,"
    " progress = null, progress_text = null,"
    " holds = case when uniqueness = 2 then null else holds end where id = ?"
)
_SUCCEED = (
    "update neoq_jobs set place = 3, status = 3, holds = null, token = ?, worker = null, lease_until = null,"
    " cancel = 0, ran_at = coalesce(?, ran_at), finished_at = ?, result = ?,"
    " progress = coalesce(?, progress), progress_text = coalesce(?, progress_text) where id = ?"
)
_SETTLE = (
    "update neoq_jobs set place = ?, status = ?, token = 0, worker = null, lease_until = null, cancel = 0,"
    " retries = retries + ?, run_after = coalesce(?, run_after),"
    " ran_at = coalesce(?, case when retries = 0 then null else ran_at end),"
    " finished_at = ?, error = coalesce(?, error), traceback = coalesce(?, traceback), result = ?,"
    " progress = ?, progress_text = ?, holds = case when ? then null else holds end where id = ?"
)


def _text(value: str | None) -> str | None:
    """A text that UTF-8 can carry: an exception's message may hold anything."""
    return None if value is None else value.encode("utf-8", "replace").decode()


class Ledger:
    """The jobs, inside one transaction; it keeps the counts of neoq_counts along with what it changes."""

    def __init__(self, cursor: sqlite3.Cursor, config: Config, now: float) -> None:
        self._do = cursor.execute
        self._many = cursor.executemany
        self._cursor = cursor
        self._config = config
        self.now = now
        self._changes: dict[tuple[str, int], int] = {}
        self._last_id: int | None = None

    def _count(self, queue: str, kind: int, one: int) -> None:
        key = queue, kind
        self._changes[key] = self._changes.get(key, 0) + one

    def close(self) -> None:
        """Write the counts, and drop what is more than may be kept."""
        config = self._config
        if config.max_finished is not None or config.max_dead is not None:
            kinds = {kind for _, kind in self._changes}
            self._write_counts()
            if config.max_finished is not None and kinds & {N_SUCCEEDED, N_CANCELLED}:
                self._drop_oldest(ENDED, (N_SUCCEEDED, N_CANCELLED), config.max_finished)
            if config.max_dead is not None and N_DEAD in kinds:
                self._drop_dead(config.max_dead)
        self._write_counts()

    def _drop_dead(self, limit: int) -> None:
        for job_id, queue in self._drop_oldest(DIED, (N_DEAD,), limit):
            self._config.log.warning(
                "dead job %s of %s is dropped: max_dead is %d; look at dead jobs, retry or delete them",
                job_id,
                queue,
                limit,
            )

    def _write_counts(self) -> None:
        changes = [(queue, kind, n) for (queue, kind), n in self._changes.items() if n]
        self._changes.clear()
        if changes:
            self._many(
                "insert into neoq_counts values (?,?,?)"
                " on conflict (queue, kind) do update set n = n + excluded.n",
                changes,
            )

    def _drop_oldest(self, place: int, kinds: tuple[int, ...], limit: int) -> list[tuple[int, str]]:
        marks = ",".join("?" * len(kinds))
        [(there,)] = self._do(f"select sum(n) from neoq_counts where kind in ({marks})", kinds)  # noqa: S608
        excess = (there or 0) - limit
        return (
            self._drop(f"place = {place} order by finished_at, id limit ?", (excess,)) if excess > 0 else []
        )

    def _drop(self, where: str, values: tuple[Any, ...]) -> list[tuple[int, str]]:
        """Delete jobs; return their ids and queues."""
        rows = self._do(f"select id, queue, place, status from neoq_jobs where {where}", values).fetchall()  # noqa: S608
        self._many("delete from neoq_jobs where id = ?", [row[:1] for row in rows])
        for _, queue, place, status in rows:
            self._count(queue, kind_of(place, status), -1)
        return [row[:2] for row in rows]

    # -- add --------------------------------------------------------------------------------------------

    def add(self, jobs: Sequence[Job], token: bytes = b"") -> list[Job]:
        """Store jobs; see `Store.add`."""
        if token:
            known = self._do("select ids from neoq_tokens where token = ?", (token,)).fetchone()
            if known is not None:
                found = {job.id: job for job in self.of_ids(orjson.loads(known[0]))}
                return [found[job_id] for job_id in orjson.loads(known[0]) if job_id in found]
        added = [self._insert_or_meet(job) for job in jobs]
        if token:
            ids = orjson.dumps([job.id for job in added]).decode()
            self._do("insert into neoq_tokens values (?,?,?)", (token, ids, self.now))
        return added

    def of_ids(self, ids: Sequence[int]) -> list[Job]:
        """The jobs of these ids that exist."""
        found = []
        for start in range(0, len(ids), _CHUNK):
            chunk = ids[start : start + _CHUNK]
            marks = ",".join("?" * len(chunk))
            found += self._do(f"select {COLUMNS} from neoq_jobs where id in ({marks})", chunk).fetchall()  # noqa: S608
        return [job_of(row) for row in found]

    def _insert_or_meet(self, job: Job) -> Job:
        holder = self._holder(job, held := _hash_of(job))
        if holder is not None:
            return self._meet(job, holder)
        self._insert(job, held)
        return job

    def _insert(self, job: Job, held: int | None) -> None:
        waits = job._run_after > self.now  # type: ignore[operator]  # accepted jobs have one
        job_id = self._next_id()
        self._do(
            _INSERT,
            (
                job_id,
                job.queue,
                WAITS if waits else READY,
                PENDING,
                job.priority,
                job._run_after,
                job._created_at,
                UNIQUENESS[job.unique],
                held,
                job.max_retries,
                job._deadline,
                job._own_fingerprint,
                job.kind,
                job.key,
                job.group,
                orjson.dumps(dict(job.meta)) if job.meta else None,
                CODEC,
                job._data,
            ),
        )
        job.id = job_id
        self._count(job.queue, N_SCHEDULED if waits else N_READY, 1)

    def _next_id(self) -> int:
        """An id that no job ever had. The last one stands among the counts, which are written anyway."""
        if self._last_id is None:
            row = self._do("select n from neoq_counts where queue = '' and kind = 0").fetchone()
            self._last_id = row[0] if row else 0
        self._last_id += 1
        self._count("", 0, 1)
        return self._last_id

    def _holder(self, job: Job, held: int | None) -> Job | None:
        """The unfinished job that has the fingerprint of this one."""
        if held is None:
            return None
        for row in self._do(_HOLDERS, (held,)).fetchall():
            holder = job_of(row)
            if holder.queue == job.queue and holder.fingerprint == job.fingerprint:
                return holder
        return None

    def _meet(self, job: Job, holder: Job) -> Job:
        """Enqueue a job whose fingerprint an unfinished one has."""
        if job.on_duplicate == "raise":
            raise taken_by(holder)
        if holder.status is not Status.RUNNING:
            if job.on_duplicate == "replace":
                self._replace(holder, job)
            elif holder.status is Status.RETRYING and job._run_after < holder._run_after:  # type: ignore[operator]
                self._move(holder, job._run_after)
            [holder] = self.of_ids([holder.id])
        holder.duplicate = True
        return holder

    def _replace(self, holder: Job, new: Job) -> None:
        self._do(
            "update neoq_jobs set payload = ?, codec = ?, deadline = ?, priority = ?, max_retries = ?,"
            " meta = ?, key = ?, fingerprint = ? where id = ?",
            (
                new._data,
                CODEC,
                new._deadline,
                new.priority,
                new.max_retries,
                orjson.dumps(dict(new.meta)) if new.meta else None,
                new.key,
                holder._own_fingerprint if new._data == holder._data else holder.fingerprint,
                holder.id,
            ),
        )
        self._move(holder, new._run_after)

    def _move(self, job: Job, run_after: float | None) -> None:
        """Put a waiting job at another time."""
        before = WAITS if job._waits else READY
        after = WAITS if run_after > self.now else READY  # type: ignore[operator]
        self._do("update neoq_jobs set place = ?, run_after = ? where id = ?", (after, run_after, job.id))
        self._count(job.queue, kind_of(before, NUMBER[job.status]), -1)
        self._count(job.queue, kind_of(after, NUMBER[job.status]), 1)

    def full_queue(self, wanted: dict[str, int], capacities: dict[str, int]) -> str | None:
        """The name of a queue that has no room for its part of a batch."""
        self._write_counts()
        for queue, capacity in capacities.items():
            ready = self._do(
                "select coalesce((select n from neoq_counts where queue = ? and kind = ?), 0)"
                " + (select count(*) from neoq_jobs where place = 1 and queue = ? and run_after <= ?)",
                (queue, N_READY, queue, self.now),
            ).fetchone()[0]
            if wanted[queue] and ready + wanted[queue] > capacity:
                return queue
        return None

    # -- cron -------------------------------------------------------------------------------------------

    def add_tick(self, cron: str, tick: datetime, job: Job) -> Tick:
        """Record a tick and add its job."""
        at = tick.timestamp()
        row = self._do("select tick from neoq_ticks where cron = ?", (cron,)).fetchone()
        if row is not None and 0 <= row[0] - at < _CLOCK_WAS_WRONG:
            return Tick.EXISTS
        self._do("insert or replace into neoq_ticks values (?,?)", (cron, at))
        if self._holder(job, held := _hash_of(job)) is not None:
            return Tick.SKIPPED
        self._insert(job, held)
        return Tick.NEW

    # -- claim ------------------------------------------------------------------------------------------

    def claim(self, demands: Sequence[Demand], worker: str) -> tuple[list[Job], float | None]:
        """Take the best ready jobs; return them and when the next is due."""
        paused = {queue for (queue,) in self._do("select queue from neoq_queues where paused = 1")}
        found: list[list[Job]] = []
        next_due: float | None = None
        for demand in demands:
            if demand.queue in paused or demand.limit < 1:
                continue
            due = self._promote(demand.queue)
            best = self._best(demand)
            if len(best) > demand.limit:
                due, best = self.now, best[: demand.limit]
            if due is not None:
                next_due = due if next_due is None else min(due, next_due)
            found.append(best)
        taken, left = _apart(found)
        self._take(taken, worker)
        return taken, self.now if left else next_due

    def _promote(self, queue: str) -> float | None:
        """Make ready what is due; return when the next will be."""
        head = "select min(run_after) from neoq_jobs where place = 1 and queue = ?"
        due: float | None = self._do(head, (queue,)).fetchone()[0]
        if due is None or due > self.now:
            return due
        for status, kind in ((PENDING, N_SCHEDULED), (RETRYING, N_RETRYING)):
            moved = self._do(
                "update neoq_jobs set place = 0"
                " where place = 1 and queue = ? and run_after <= ? and status = ?",
                (queue, self.now, status),
            ).rowcount
            self._count(queue, kind, -moved)
            self._count(queue, N_READY, moved)
        later: float | None = self._do(head, (queue,)).fetchone()[0]
        return later

    def _best(self, demand: Demand) -> list[Job]:
        kinds = tuple(demand.kinds or ())
        only = f" and kind in ({','.join('?' * len(kinds))})" if demand.kinds is not None else ""
        rows = self._do(
            f"select {COLUMNS} from neoq_jobs where place = 0 and queue = ?{only}"  # noqa: S608
            " order by priority desc, run_after, id limit ?",
            (demand.queue, *kinds, demand.limit + 1),
        ).fetchall()
        return [job_of(row) for row in rows]

    def _take(self, jobs: list[Job], worker: str) -> None:
        token = int.from_bytes(os.urandom(7), "big") + 1  # an older claim's cannot equal it
        until = self.now + self._config.lease
        self._many(_CLAIM, [(token, worker, until, self.now, job.id) for job in jobs])
        for job in jobs:
            job.status = Status.RUNNING
            job.worker = worker
            job._token = token
            job._waits = False
            job._progress = None
        for queue, number in Counter(job.queue for job in jobs).items():
            self._count(queue, N_READY, -number)
            self._count(queue, N_RUNNING, number)

    # -- settle -----------------------------------------------------------------------------------------

    def settle(self, outcomes: Sequence[Outcome], *, completed: bool = False) -> set[int]:
        """Record outcomes; return the ids of the stale ones.

        A job ``completed`` inside its handler's transaction keeps its token as a negative number: the end of
        that attempt, which comes later, is no stale one.
        """
        running = self._running([outcome.lease.job_id for outcome in outcomes])
        stale = set()
        succeeded = []
        for outcome in outcomes:
            lease = outcome.lease
            token, *kept = running.get(lease.job_id, (None,))
            if token != lease.token:
                if not self._was_completed(lease):
                    stale.add(lease.job_id)
                continue
            del running[lease.job_id]
            if outcome.failure is ROLLED_BACK:
                self._config.log.warning("job %s of %s failed: %s", *lease[:2], ROLLED_BACK.message)
            if outcome.status is Status.SUCCEEDED:
                succeeded.append(outcome)
            else:
                self._settle_otherwise(outcome, *kept)
        self._succeed(succeeded, completed)
        for outcome in outcomes:
            if outcome.follow and outcome.lease.job_id not in stale:
                for job in outcome.follow:
                    self._insert_or_meet(job)
        return stale

    def _running(self, ids: list[int]) -> dict[int, tuple[Any, ...]]:
        """Of the jobs that run: token, whether to be cancelled, when it was due, and progress."""
        rows: list[tuple[Any, ...]] = []
        for start in range(0, len(ids), _CHUNK):
            chunk = ids[start : start + _CHUNK]
            marks = ",".join("?" * len(chunk))
            rows += self._do(f"{_RUNNING_JOBS} and id in ({marks})", chunk).fetchall()
        return {row[0]: row[1:] for row in rows}

    def _was_completed(self, lease: Lease) -> bool:
        row = self._do("select token from neoq_jobs where id = ?", (lease.job_id,)).fetchone()
        return row is not None and lease.token > 0 and row[0] == -lease.token

    def _succeed(self, outcomes: list[Outcome], completed: bool) -> None:
        """Record successes, which most outcomes are."""
        kept = completed or self._config.retention != 0
        if kept:
            self._many(_SUCCEED, [_as_succeeded(outcome, completed) for outcome in outcomes])
        else:
            self._many(
                "delete from neoq_jobs where id = ?", [(outcome.lease.job_id,) for outcome in outcomes]
            )
        for queue, number in Counter(outcome.lease.queue for outcome in outcomes).items():
            self._count(queue, N_RUNNING, -number)
            if kept:
                self._count(queue, N_SUCCEEDED, number)

    def _settle_otherwise(self, outcome: Outcome, cancelled: int, run_after: float, *progress: Any) -> None:
        lease, status = outcome.lease, outcome.status
        if status not in FINISHED and cancelled:  # cancelled as it ran: it is not tried again
            status = Status.CANCELLED
        ends = status in FINISHED
        run_after = run_after if outcome.run_after is None else outcome.run_after
        place = (
            (DIED if status is Status.DEAD else ENDED) if ends else WAITS if run_after > self.now else READY
        )
        failure = outcome.failure
        fraction, message = (lease.progress or progress) if ends else (None, None)
        self._do(
            _SETTLE,
            (
                place,
                NUMBER[status],
                outcome.charged,
                outcome.run_after,
                outcome.started_at,
                (outcome.finished_at or self.now) if ends else None,
                None if failure is None else _text(f"{failure.type}: {failure.message}"),
                None if failure is None else _text(failure.traceback),
                outcome.result,
                fraction,
                _text(message),
                ends,
                lease.job_id,
            ),
        )
        self._count(lease.queue, N_RUNNING, -1)
        self._count(lease.queue, kind_of(place, NUMBER[status]), 1)

    def extend(self, leases: Sequence[Lease]) -> Extended:
        """Renew leases."""
        lost, cancelled = set(), set()
        until = self.now + self._config.lease
        for lease in leases:
            row = self._do(
                "select token, cancel, place from neoq_jobs where id = ?", (lease.job_id,)
            ).fetchone()
            if row is None or row[2] != RUNS or row[0] != lease.token:
                if not self._was_completed(lease):
                    lost.add(lease.job_id)
                continue
            fraction, message = lease.progress or (None, None)
            self._do(
                "update neoq_jobs set lease_until = ?, progress = coalesce(?, progress),"
                " progress_text = coalesce(?, progress_text) where id = ?",
                (until, fraction, _text(message), lease.job_id),
            )
            if row[1]:
                cancelled.add(lease.job_id)
        return Extended(lost, cancelled)

    # -- reclaim ----------------------------------------------------------------------------------------

    def reclaim(self, dead_workers: set[str], not_renewed: set[HeldLease]) -> Reclaimed:
        """Take the jobs of workers that died, and those whose leases are still as they were seen."""
        reclaimed = Reclaimed([], [])
        for row in self._do(f"select {COLUMNS} from neoq_jobs where place = 2").fetchall():  # noqa: S608
            job = job_of(row)
            if job.worker in dead_workers or (job.id, job._token, row[-1]) in not_renewed:
                self._take_back(job, reclaimed)
        for worker in dead_workers:
            self._do("delete from neoq_workers where id = ?", (worker,))
        return reclaimed

    def _take_back(self, job: Job, reclaimed: Reclaimed) -> None:
        job.crashes += 1
        error, place, ended = job.error, READY, True
        if job._cancel:
            job.status, place = Status.CANCELLED, ENDED
        elif job.crashes >= self._config.max_crashes:
            job.status, place = Status.DEAD, DIED
            error = f"WorkerDied: {job.crashes} workers died while they ran it (max_crashes)"
            reclaimed.dead.append(job)
        else:
            job.status, ended = (Status.RETRYING if job.retries else Status.PENDING), False
            reclaimed.returned.append(job)
        job.error, job.worker, job._token = error, None, 0
        job._finished_at = self.now if ended else None
        self._do(
            "update neoq_jobs set place = ?, status = ?, crashes = ?, token = 0, worker = null,"
            " lease_until = null, cancel = 0, error = ?, finished_at = ?, "
            " holds = case when ? then null else holds end where id = ?",
            (place, NUMBER[job.status], job.crashes, error, job._finished_at, ended, job.id),
        )
        self._count(job.queue, N_RUNNING, -1)
        self._count(job.queue, kind_of(place, NUMBER[job.status]), 1)

    def prune(self) -> int:
        """Forget what finished longer ago than retention; return how many, at most PRUNED_AT_ONCE."""
        self._do("delete from neoq_tokens where at < ?", (self.now - _TOKENS_KEPT,))
        if self._config.retention is None:
            return 0
        oldest = self.now - self._config.retention
        where = "place = 3 and finished_at <= ? order by finished_at limit ?"
        return len(self._drop(where, (oldest, PRUNED_AT_ONCE)))

    def beat(self, worker: WorkerInfo) -> None:
        """Say that a worker is alive."""
        self._do(
            "insert or replace into neoq_workers values (?,?,?,?,?,?,?)",
            (
                worker.id,
                worker.host,
                worker.pid,
                worker.started_at.timestamp(),
                self.now,
                orjson.dumps(worker.queues).decode(),
                worker.running,
            ),
        )

    def leave(self, worker: str) -> None:
        """Forget a worker that has ended."""
        self._do("delete from neoq_workers where id = ?", (worker,))

    # -- operating --------------------------------------------------------------------------------------

    def change(self, job_ids: Sequence[int], action: Action) -> Changed:
        """Cancel, retry or delete jobs."""
        operate = {"cancel": self._cancel, "retry": self._retry, "delete": self._delete}[action]
        done, running, queues = set(), set(), set()
        for job in self.of_ids(job_ids):
            assert job.id is not None
            if operate(job):
                done.add(job.id)
                queues.add(job.queue)
            elif action == "cancel" and job.status is Status.RUNNING:
                self._do("update neoq_jobs set cancel = 1 where id = ?", (job.id,))
                running.add(job.id)
        return Changed(frozenset(done), frozenset(running), frozenset(queues))

    def _cancel(self, job: Job) -> bool:
        if job.status is Status.RUNNING or job.finished:
            return False
        self._do(
            "update neoq_jobs set place = 3, status = 5, holds = null, finished_at = ? where id = ?",
            (self.now, job.id),
        )
        self._count_out(job)
        self._count(job.queue, N_CANCELLED, 1)
        return True

    def _count_out(self, job: Job) -> None:
        """A job leaves the place that it had when it was read."""
        if job.status is Status.DEAD:
            place = DIED
        elif job.finished:
            place = ENDED
        else:
            place = WAITS if job._waits else READY
        self._count(job.queue, kind_of(place, NUMBER[job.status]), -1)

    def _retry(self, job: Job) -> bool:
        if job.status in {Status.PENDING, Status.RETRYING}:
            self._move(job, min(self.now, job._run_after))  # type: ignore[type-var]
            return True
        if job.status is not Status.DEAD:
            return False
        holder = self._holder(job, held := _hash_of(job))
        if holder is not None:
            raise taken_by(holder)
        self._do(  # without its deadline, or one that has passed would kill it again
            "update neoq_jobs set place = 0, status = 0, holds = ?, run_after = ?, finished_at = null,"
            " retries = 0, crashes = 0, deadline = null where id = ?",
            (held, self.now, job.id),
        )
        self._count_out(job)
        self._count(job.queue, N_READY, 1)
        return True

    def _delete(self, job: Job) -> bool:
        if job.status is Status.RUNNING:
            return False
        self._do("delete from neoq_jobs where id = ?", (job.id,))
        self._count_out(job)
        return True

    def set_paused(self, queue: str, paused: bool) -> None:
        """Hold a queue's jobs back, or let them go."""
        self._do("insert or replace into neoq_queues values (?,?)", (queue, paused))


def _as_succeeded(outcome: Outcome, completed: bool) -> tuple[Any, ...]:
    lease = outcome.lease
    fraction, message = lease.progress or (None, None)
    token = -lease.token if completed else 0
    times = outcome.started_at, outcome.finished_at
    return token, *times, outcome.result, fraction, _text(message), lease.job_id


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


_COMPUTED = re.compile("[0-9a-f]{32}").fullmatch


def _hash_of(job: Job) -> int | None:
    """A hash of queue and fingerprint, 32 bits; None for a job that need not be unique."""
    if not job.unique:
        return None
    name = job.fingerprint
    if job._own_fingerprint is None or _COMPUTED(name):  # a hash of both already
        return int(name[:8], 16) - 2**31
    data = f"{job.queue}\0{name}".encode()
    return int.from_bytes(blake2b(data, digest_size=4).digest(), "big", signed=True)
