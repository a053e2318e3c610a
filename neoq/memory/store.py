"""MemStore: what is done to jobs in memory, in terms of the table beside it."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import repeat
from typing import Any, ClassVar

from neoq.errors import UnsupportedError
from neoq.filter import ALL, Filter
from neoq.job import Job, call_of, data_of, is_special, queue_of
from neoq.job import plain as plain_job
from neoq.memory.ends import settle_succeeded
from neoq.memory.holding import HoldingMemStore
from neoq.memory.looking import counts, find
from neoq.memory.operate import Operator
from neoq.memory.queues import Plain, job_of, snapshot
from neoq.memory.room import Room
from neoq.memory.schedules import Schedules
from neoq.memory.state import QueueState
from neoq.memory.table import Table
from neoq.outcome import Lease, Outcome, Successes
from neoq.record import Status
from neoq.schedules import Listed
from neoq.store import (
    Action,
    Changed,
    Claimed,
    Demand,
    Extended,
    Notify,
    Page,
    QueueCounts,
    Reclaimed,
    Tick,
    WorkerInfo,
    must_not_meet,
    taken_by,
)
from neoq.threads.reentry import reentered
from neoq.times import to_datetime

_RUNNING = Status.RUNNING


class MemStore(HoldingMemStore):
    """The jobs of one process."""

    features: ClassVar[frozenset[str]] = frozenset({"local", "batches", "steps", "limits", "rates"})

    def open_store(self, notify: Notify) -> None:
        """Begin with no jobs at all."""
        self._notify = notify
        self._table = Table(self.config, self.clock, notify)
        self._operator = Operator(self._table)
        self._room = Room(self.config, self.context, self._table.uids)
        self._lock, self._queues, self._jobs = self._table.lock, self._table.queues, self._table.jobs
        self._leases = itertools.count(1)
        self._added: OrderedDict[bytes, list[int]] = OrderedDict()
        self._beats: dict[str, WorkerInfo] = {}
        self._schedules = Schedules()

    def close_store(self) -> None:
        """Stop the threads; what is left stays readable for the report."""
        self.stop_waiting()
        self._table.future.close()

    def stop_waiting(self) -> None:
        """End every add that waits for room."""
        with self._lock:
            self._room.closed = True
            for state in self._queues.values():
                state.ready.not_full.notify_all()

    # -- enqueue -----------------------------------------------------------------------------------------

    def add(self, jobs: Sequence[Job], *, token: bytes, transaction: Any = None) -> list[Job]:
        """Store jobs; see `Store.add`. Waits for room in a full queue, up to ``enqueue_timeout``."""
        if transaction is not None:
            raise UnsupportedError(
                "jobs in memory cannot join a transaction; enqueue after its commit, or use a backend that "
                "keeps jobs in that database"
            )
        if token or len(jobs) > 1 or jobs[0].group is not None:
            return self._add_batch(jobs, token)
        return [self._add_alone(jobs[0])]

    def add_plain(self, queue: str, data: bytes, now: float) -> Job:
        """The hot path of enqueue: each call and lookup here is paid by every job."""
        state = self._queues.get(queue)
        if state is None or state.hashed:
            return self.add((plain_job(queue, data, now),), token=b"")[0]
        ready, holders = state.ready, state.holders
        lock = self._lock
        if lock._is_owned():  # type: ignore[attr-defined]
            raise reentered()
        table = self._table
        if table.in_use:
            table.give_way()
        with lock:
            table.in_use = True
            try:
                if self._room.closed:
                    self._refuse_outsiders(queue)
                if data in holders:
                    return table.meet_plain(queue, data, now, state)
                if ready.length >= state.plenty and self._room.is_full(state, 1):
                    return self._add_alone(plain_job(queue, data, now))
                table.last_id = job_id = table.last_id + 1
                plain = job_id, queue, data, now
                was_empty = not ready.length
                ready.push_new(plain, now)
                holders[data] = job_id
            finally:
                table.in_use = False
        if was_empty:  # a runner that was woken for an earlier job finds this one too
            self._notify(queue, "ready")
        return job_of(plain)

    def add_call(self, queue: str, data: bytes, now: float, kind: str) -> Job:
        """As `add_plain`, for the call of a task."""
        state = self._queues.get(queue)
        if self._lock._is_owned():  # type: ignore[attr-defined]
            raise reentered()
        if state is None or state.ready.length + 1 > state.plenty:
            return self.add((call_of(queue, data, now, kind),), token=b"")[0]
        table = self._table
        if table.in_use:
            table.give_way()
        with self._lock:
            table.in_use = True
            try:
                if self._room.closed:
                    self._refuse_outsiders(queue)
                table.last_id = job_id = table.last_id + 1
                call = job_id, queue, data, now, kind
                was_empty = not state.ready.length
                state.ready.push_new(call, now)
            finally:
                table.in_use = False
        if was_empty:
            self._notify(queue, "ready")
        return job_of(call)

    def _add_alone(self, job: Job) -> Job:
        """One job; mostly it is more than a queue and a payload."""
        table = self._table
        if table.in_use:
            table.give_way()
        with self._lock:
            table.in_use = True
            try:
                if self._room.closed:
                    self._refuse_outsiders(job.queue)
                state = self._queues.get(job.queue) or self._table.new_queue(job.queue)
                if not job.waits and self._room.is_full(state, 1):  # a duplicate takes no room
                    self._room.wait(state, lambda: int(not self._room.is_held(job, state)))
                was_empty = not state.ready.length
                added = self._add_one(job, state)
            finally:
                table.in_use = False
        if was_empty:
            self._notify(job.queue, "ready")
        return added

    def _add_batch(self, jobs: Sequence[Job], token: bytes) -> list[Job]:
        empty: list[QueueState] = []
        table = self._table
        if table.in_use:
            table.give_way()
        with self._lock:
            table.in_use = True
            try:
                added = self._add_locked(jobs, token, empty, follows=False)
            finally:
                table.in_use = False
        for state in empty:
            self._notify(state.queue, "ready")
        return added

    def _add_locked(
        self, jobs: Sequence[Job], token: bytes, empty: list[QueueState], *, follows: bool
    ) -> list[Job]:
        # Not in the body of the `with`: an exception from a signal handler that lands on the backward jump
        # of a comprehension there would leave the lock taken (CPython 3.13).
        if self._room.closed and not follows:
            self._refuse_outsiders(jobs[0].queue)
        if token and token in self._added:
            return [snapshot(self._jobs[job_id]) for job_id in self._added[token] if job_id in self._jobs]
        queues = set(map(queue_of, jobs))
        states = {queue: self._queues.get(queue) or self._table.new_queue(queue) for queue in queues}
        special = [job for job in jobs if job.special] if any(map(is_special, jobs)) else []
        if not follows:  # who settles is who makes room, and must not wait for it
            self._room.make(jobs, states, special)
        if special:
            if follows:
                jobs = [job for job in jobs if self._table.groups.admits(job)]
                if not jobs:
                    return []
            else:
                self._table.groups.refuse_closed(special)
            self._table.refuse_duplicates(jobs, states)
        empty += [state for state in states.values() if not state.ready.length]
        if special or len(states) > 1 or states[jobs[0].queue].hashed:
            added = [self._add_one(job, states[job.queue]) for job in jobs]
        else:
            added = self._add_plain_batch(jobs, states[jobs[0].queue])
        if token:
            self._remember(token, added)
        return added

    def _add_one(self, job: Job, state: QueueState) -> Job:
        if job.special and job.uid is not None and (met := self._table.of_uids([job.uid]).get(job.uid)):
            if must_not_meet(job, met):
                raise taken_by(met, job.uid)
            met.duplicate = True
            return met
        if job.special and job.group is not None and (known := self._table.groups.known(job)):
            return known
        holder = state.holder_of(job) if job.unique else None
        return self._table.accept(job, state) if holder is None else self._table.meet(holder, job, state)

    def _add_plain_batch(self, jobs: Sequence[Job], state: QueueState) -> list[Job]:
        """The hot path of enqueue_many: jobs of one queue that are due now, and nothing but a payload.

        Whole lists go through loops that are written in C, which cost a fifth of Python's.
        """
        payloads: list[bytes] = list(map(data_of, jobs))
        if len(set(payloads)) < len(jobs) or not state.holders.keys().isdisjoint(payloads):
            return [self._add_one(job, state) for job in jobs]
        first = self._table.last_id + 1
        self._table.last_id += len(jobs)
        ids = list(range(first, first + len(jobs)))
        due: float = jobs[0].due  # type: ignore[assignment]  # and that of all
        plain: list[Plain] = list(zip(ids, repeat(state.queue), payloads, repeat(due), strict=False))
        state.ready.push_many(plain, due)
        self._jobs.update(zip(ids, plain, strict=True))
        state.holders.update(zip(payloads, ids, strict=True))
        for job, job_id in zip(jobs, ids, strict=True):
            job.id = job_id
        return list(jobs)

    # -- cron --------------------------------------------------------------------------------------------

    def add_tick(self, cron: str, tick: datetime, job: Job) -> Tick:
        """Record a tick and add its job; capacity does not hold it back."""
        at = tick.timestamp()
        with self._lock:
            ticks = self._schedules.ticks(cron)
            if not ticks.is_new(at):
                return Tick.EXISTS
            ticks.last = at
            state = self._queues.get(job.queue) or self._table.new_queue(job.queue)
            if state.holder_of(job) is not None:
                ticks.skipped += 1
                return Tick.SKIPPED
            ticks.job_id = self._table.accept(job, state).id
        self._notify(job.queue, "ready")
        return Tick.NEW

    def last_tick(self, cron: str) -> datetime | None:
        """The newest tick of a cron in this process."""
        with self._lock:
            return to_datetime(self._schedules.ticks(cron).last)

    def list_schedules(self, schedules: Mapping[str, bytes]) -> None:
        """Remember the schedules of this process."""
        with self._lock:
            self._schedules.keep(schedules)

    def schedules(self) -> list[Listed]:
        """The schedules of this process."""
        with self._lock:
            return self._schedules.listed()

    # -- claim and settle --------------------------------------------------------------------------------

    def claim(self, demand: Sequence[Demand]) -> Claimed:
        """Hand ready jobs over, best first."""
        claimed: list[Job] = []
        more = False
        with self._lock:
            now: Any = to_datetime(self.clock.time())  # that of the starts which a rate counts
            for queue, limit, kinds in demand:
                jobs, left = self._take(queue, limit, kinds)
                claimed += jobs
                more = more or left
            due = None if more else self._table.future.next_due()
        return Claimed(claimed, now if more else to_datetime(due), now)

    def take(self, queue: str, limit: int, kinds: frozenset[str] | None) -> tuple[list[Job], bool]:
        """The hot path of claim: one queue, and no times."""
        table, lock = self._table, self._lock
        if lock._is_owned():  # type: ignore[attr-defined]
            raise reentered()
        if table.in_use:
            table.give_way()
        with lock:
            table.in_use = True
            try:
                taken = self._take(queue, limit, kinds, ahead=False)
            finally:
                table.in_use = False
        return taken

    def _take(
        self, queue: str, limit: int, kinds: frozenset[str] | None, *, ahead: bool = True
    ) -> tuple[list[Job], bool]:
        state = self._queues.get(queue)
        if state is None:
            return [], False
        if state.blocked and self._room.may_have(state):
            state.ready.not_full.notify_all()
        if state.paused or not (state.ready.length or state.ready.aside):
            return [], False
        limited = state.limited
        if limited is not None:
            if not ahead and limited.limits.counts_claims:
                limit = 1  # a runner takes no job that it does not start at once
            limit = limited.may_claim(limit, state.running)
            if limit <= 0:
                return [], False
        waiting = state.ready.take(limit, kinds)
        if self._table.groups.stopping:
            waiting = self._table.without_stopped(waiting, state)
        taken = self._hand_out(waiting, next(self._leases))
        if state.frees_early:
            for job in taken:
                if job.unique == "until_started":
                    state.free(job)
        state.running += len(taken)
        if limited is not None:
            limited.claimed(taken)
            return taken, state.ready.length > 0 and limited.may_claim(1, state.running) > 0
        return taken, state.ready.length > 0

    def _hand_out(self, waiting: list[Job | Plain], token: int) -> list[Job]:
        """Waiting jobs as running ones."""
        jobs = []
        for entry in waiting:
            if isinstance(entry, Job):
                job = entry
            else:
                job = self._jobs[entry[0]] = job_of(entry)
            job.status = _RUNNING
            job.token = token
            jobs.append(job)
        return jobs

    def settle(self, outcomes: Sequence[Outcome], *, transaction: Any = None) -> set[int]:
        """Record how attempts ended; memory has no transactions to join."""
        if transaction is not None:
            raise UnsupportedError("jobs in memory cannot be completed inside a transaction")
        if isinstance(outcomes, Successes):
            stale = settle_succeeded(self._table, outcomes.jobs)
            self._finish_stopping()
            return stale
        stale = set()
        table = self._table
        if table.in_use:
            table.give_way()
        empty: list[QueueState] = []
        with self._lock:
            for outcome in outcomes:
                lease = outcome.lease
                job: Any = self._jobs.get(lease.job_id)
                if not isinstance(job, Job) or job.token != lease.token or job.status is not _RUNNING:
                    stale.add(lease.job_id)
                elif outcome.follow:
                    self._settle_with_follow(job, outcome, empty)
                else:
                    table.settle(job, self._queues[lease.queue], outcome)
        for state in empty:
            self._notify(state.queue, "ready")
        self._finish_stopping()
        return stale

    def _settle_with_follow(self, job: Job, outcome: Outcome, empty: list[QueueState]) -> None:
        """Record an outcome and add what follows it; nobody sees the one without the other."""
        groups = self._table.groups
        groups.expect(outcome)
        try:
            self._table.settle(job, self._queues[job.queue], outcome)
        except BaseException:  # as out of memory: it is tried again
            groups.expect_none()
            raise
        try:
            self._add_locked(outcome.follow, b"", empty, follows=True)
        finally:
            groups.added()

    def extend(self, leases: Sequence[Lease]) -> Extended:
        """Leases in memory do not expire; tell which are gone, and whose job was cancelled."""
        lost, cancelled = set(), set()
        with self._lock:
            for lease in leases:
                job = self._jobs.get(lease.job_id)
                if not isinstance(job, Job) or job.token != lease.token:
                    lost.add(lease.job_id)
                    continue
                if lease.progress is not None:
                    job.progress_report = lease.progress
                if job.cancel_asked:
                    cancelled.add(lease.job_id)
        return Extended(lost, cancelled)

    def reclaim(self) -> Reclaimed:
        """Nothing: a worker in memory dies with its jobs."""
        return Reclaimed([], [])

    def prune(self) -> int:
        """Forget finished jobs older than ``retention``."""
        return self._table.prune()

    def beat(self, worker: WorkerInfo) -> None:
        """Remember what this process serves."""
        self._beats[worker.id] = worker

    def workers(self) -> list[WorkerInfo]:
        """This process, once it listens."""
        worker = self.context.worker()
        return [worker] if worker.queues and self.context.is_running() else []

    # -- looking and operating ---------------------------------------------------------------------------

    def find(
        self, wanted: Filter = ALL, *, limit: int = 100, after: int | None = None, before: int | None = None
    ) -> Page:
        """Snapshots of jobs, newest first."""
        with self._lock:
            return find(self._table, wanted, limit, after, before)

    def counts(self) -> list[QueueCounts]:
        """Every queue that has or had jobs."""
        return counts(self._table)

    def change(self, job_ids: Iterable[int], action: Action) -> Changed:
        """Cancel, retry or delete jobs."""
        with self._lock:
            changed = self._operator.change(job_ids, action, self.clock.time())
        self._finish_stopping()
        return changed

    def set_paused(self, queue: str, paused: bool) -> None:
        """Hold a queue's jobs back, or let them go."""
        with self._lock:
            state = self._queues.get(queue) or self._table.new_queue(queue)
            state.paused = paused
        self._notify(queue, "pause" if paused else "ready")

    # -- future jobs -------------------------------------------------------------------------------------

    def next_due(self) -> float | None:
        """When the next future job or retry is due, in seconds since the epoch."""
        return self._table.next_due()

    def hold_timers(self, held: bool) -> None:
        """Leave it to the caller to call `release_due`, or not any more."""
        self._table.hold_timers(held)

    def release_due(self) -> None:
        """Make ready what is due by now."""
        self._table.release_due()
