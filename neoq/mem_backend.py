"""MemBackend: jobs in this process's memory. No server, nothing to install, gone with the process."""

from __future__ import annotations

import functools
import itertools
import math
import os
import threading
from bisect import bisect_left, bisect_right
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import repeat
from typing import Any, ClassVar, Unpack

from neoq.backend import Backend
from neoq.boundary import entrance
from neoq.capacity import closed, new_of, no_room, refuse_too_many
from neoq.clock import machine
from neoq.config import Config, Settings, count, setting, span
from neoq.errors import BackendClosedError, UnsupportedError
from neoq.filter import ALL, Filter
from neoq.job import DuplicateJobError, Job, call_of, data_of, is_special, queue_of
from neoq.job import plain as plain_job
from neoq.memory.queues import FutureJobs, Key, Plain, QueueState, Records, job_of
from neoq.record import FINISHED, Status
from neoq.reentry import guarded, reentered
from neoq.store import (
    Action,
    Changed,
    Claimed,
    Demand,
    DirectStore,
    Extended,
    Lease,
    Notify,
    Outcome,
    Page,
    QueueCounts,
    Reclaimed,
    Successes,
    Tick,
    WorkerInfo,
    taken_by,
    warn_of_dropped,
)
from neoq.times import to_datetime

_PENDING, _RUNNING, _RETRYING = Status.PENDING, Status.RUNNING, Status.RETRYING
_SUCCEEDED, _DEAD, _CANCELLED = Status.SUCCEEDED, Status.DEAD, Status.CANCELLED
_WAITING = frozenset({_PENDING, _RETRYING})
_REMEMBERED_TOKENS = 1000
_LOOKED_AT_ONCE = 2000  # jobs, while others wait for the lock
_CLOCK_SLIPPED = 60.0  # seconds: a tick that much older than the last one is a new one, of a clock set back
_HANDED_OVER_AT_MOST = 2048  # far from its capacity, a queue is not full whatever the runners hold


@dataclass(frozen=True)
class MemConfig(Config):
    """The settings of `MemBackend`: those of every backend, bounded by default since memory is."""

    queue_capacity: int | None = setting(
        10_000, count(1, none=True), "Ready jobs a queue holds before its producers wait; None: no bound."
    )
    retention: float | None = setting(
        None, span(0.0, none=True), "How long finished jobs can be looked up; None: for ever."
    )
    max_finished: int | None = setting(
        1000, count(0, none=True), "Finished jobs that can be looked up, the newest; None: no bound."
    )
    max_dead: int | None = setting(
        10_000, count(1, none=True), "Dead jobs kept; the oldest goes, with a warning. None: no bound."
    )


class MemStore(DirectStore):
    """The jobs of one process."""

    features: ClassVar[frozenset[str]] = frozenset({"local"})

    @staticmethod
    def _guard(method: Callable[..., Any]) -> Callable[..., Any]:
        """Refuse what comes while this very thread holds the lock."""
        if method.__name__ in {"add_plain", "add_call"}:  # the hot path, which looks by itself
            return entrance(method)
        if method.__name__ == "open_store":
            return guarded(method)

        def call(self: MemStore, *arguments: Any, **keywords: Any) -> Any:
            lock = getattr(self, "_lock", None)  # the store may not be open yet
            if lock is not None and lock._is_owned():
                raise reentered()
            return method(self, *arguments, **keywords)

        return functools.wraps(method)(entrance(call))

    def open_store(self, notify: Notify) -> None:
        """Begin with no jobs at all."""
        self._notify = notify
        # It knows its owner: code that Python runs in the middle is refused, and does not wait for itself.
        self._lock = threading.RLock()
        self._queues: dict[str, QueueState] = {}
        self._jobs: Records = {}
        self._finished: deque[Job] = deque()
        self._dead: OrderedDict[int, None] = OrderedDict()
        # At random: in another process that keeps jobs in memory an id of this one is of nobody's job.
        # Below 2**30 Python adds and hashes integers in a fraction of the time.
        self._last_id = int.from_bytes(os.urandom(4), "big") >> 3
        self._leases = itertools.count(1)
        self._ticks: dict[str, float] = {}
        self._added: OrderedDict[bytes, list[int]] = OrderedDict()
        self._refusing = False
        self._future = FutureJobs(
            self._lock,
            self._jobs,
            self.clock,
            interval=self.config.job_check_interval,
            window=self.config.future_job_window,
            release=self.release_due,
            log=self.config.log,
        )
        self._beats: dict[str, WorkerInfo] = {}

    def close_store(self) -> None:
        """Stop the threads; what is left stays readable for the report."""
        self.stop_waiting()
        self._future.close()

    def stop_waiting(self) -> None:
        """End every add that waits for room."""
        with self._lock:
            self._refusing = True
            for state in self._queues.values():
                state.ready.not_full.notify_all()

    # -- enqueue ----------------------------------------------------------------------------------------

    def add(self, jobs: Sequence[Job], *, token: bytes, transaction: Any = None) -> list[Job]:
        """Store jobs; see `Store.add`. Waits for room in a full queue, up to ``enqueue_timeout``."""
        if transaction is not None:
            raise UnsupportedError(
                "jobs in memory cannot join a transaction; enqueue after its commit, or use a backend that "
                "keeps jobs in that database"
            )
        return self._add_batch(jobs, token) if token or len(jobs) > 1 else [self._add_alone(jobs[0])]

    def add_plain(self, queue: str, data: bytes, now: float) -> Job:
        """The hot path of enqueue: each call and lookup here is paid by every job."""
        state = self._queues.get(queue)
        if state is None or state.hashed:
            return self.add((plain_job(queue, data, now),), token=b"")[0]
        ready, holders = state.ready, state.holders
        lock = self._lock
        if lock._is_owned():  # type: ignore[attr-defined]
            raise reentered()
        with lock:
            if self._refusing:
                self._refuse_outsiders(queue)
            if data in holders:
                return self._meet(holders[data], None, state)
            if ready.length >= state.plenty and self._is_full(state, 1):
                return self._add_alone(plain_job(queue, data, now))
            self._last_id = job_id = self._last_id + 1
            plain = job_id, queue, data, now
            was_empty = not ready.length
            ready.push_new(plain, now)
            holders[data] = job_id
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
        with self._lock:
            if self._refusing:
                self._refuse_outsiders(queue)
            self._last_id = job_id = self._last_id + 1
            call = job_id, queue, data, now, kind
            was_empty = not state.ready.length
            state.ready.push_new(call, now)
        if was_empty:
            self._notify(queue, "ready")
        return job_of(call)

    def _add_alone(self, job: Job) -> Job:
        """One job; mostly it is more than a queue and a payload."""
        with self._lock:
            if self._refusing:
                self._refuse_outsiders(job.queue)
            state = self._queues.get(job.queue) or self._new_queue(job.queue)
            if not job.waits and self._is_full(state, 1):  # a duplicate takes no room
                self._wait_for_room(state, lambda: int(not self._is_held(job, state)))
            was_empty = not state.ready.length
            added = self._add_one(job, state)
        if was_empty:
            self._notify(job.queue, "ready")
        return added

    def _is_held(self, job: Job, state: QueueState) -> bool:
        """Whether an unfinished job has this one's fingerprint."""
        return bool(job.unique) and state.key(job) in state.holders

    def _add_batch(self, jobs: Sequence[Job], token: bytes, *, follows: bool = False) -> list[Job]:
        empty: list[QueueState] = []
        with self._lock:
            added = self._add_locked(jobs, token, empty, follows)
        for state in empty:
            self._notify(state.queue, "ready")
        return added

    def _add_locked(
        self, jobs: Sequence[Job], token: bytes, empty: list[QueueState], follows: bool
    ) -> list[Job]:
        # Not in the body of the `with`: an exception from a signal handler that lands on the backward jump
        # of a comprehension there would leave the lock taken (CPython 3.13).
        if self._refusing and not follows:
            self._refuse_outsiders(jobs[0].queue)
        if token and token in self._added:
            return [_snapshot(self._jobs[job_id]) for job_id in self._added[token] if job_id in self._jobs]
        queues = set(map(queue_of, jobs))
        states = {queue: self._queues.get(queue) or self._new_queue(queue) for queue in queues}
        special = [job for job in jobs if job.special] if any(map(is_special, jobs)) else []
        if not follows:  # who settles is who makes room, and must not wait for it
            self._make_room(jobs, states, special)
        if special:
            self._refuse_duplicates(jobs, states)
        empty += [state for state in states.values() if not state.ready.length]
        if special or len(states) > 1 or states[jobs[0].queue].hashed:
            added = [self._add_one(job, states[job.queue]) for job in jobs]
        else:
            added = self._add_plain_batch(jobs, states[jobs[0].queue])
        if token:
            self._remember(token, added)
        return added

    def _refuse_outsiders(self, queue: str) -> None:
        """While the backend shuts down only handlers that still count may enqueue."""
        if not self.context.may_still_add():
            raise BackendClosedError("this backend was shut down; make a new one", queue=queue)

    def _add_one(self, job: Job, state: QueueState) -> Job:
        holder = state.holders.get(state.key(job)) if job.unique else None
        return self._accept(job, state) if holder is None else self._meet(holder, job, state)

    def _add_plain_batch(self, jobs: Sequence[Job], state: QueueState) -> list[Job]:
        """The hot path of enqueue_many: jobs of one queue that are due now, and nothing but a payload.

        Whole lists go through loops that are written in C, which cost a fifth of Python's.
        """
        payloads: list[bytes] = list(map(data_of, jobs))
        if len(set(payloads)) < len(jobs) or not state.holders.keys().isdisjoint(payloads):
            return [self._add_one(job, state) for job in jobs]
        first = self._last_id + 1
        self._last_id += len(jobs)
        ids = list(range(first, first + len(jobs)))
        due: float = jobs[0].due  # type: ignore[assignment]  # and that of all
        plain: list[Plain] = list(zip(ids, repeat(state.queue), payloads, repeat(due), strict=False))
        state.ready.push_many(plain, due)
        self._jobs.update(zip(ids, plain, strict=True))
        state.holders.update(zip(payloads, ids, strict=True))
        for job, job_id in zip(jobs, ids, strict=True):
            job.id = job_id
        return list(jobs)

    def _accept(self, job: Job, state: QueueState) -> Job:
        """Store a job that is new to its queue: a record of it, so that the caller's is a snapshot."""
        self._last_id = job.id = self._last_id + 1
        record = job.as_record()
        key = state.key(record) if record.unique else None
        if record.unique == "until_started":
            state.frees_early = True
        if record.waits:
            self._schedule(record, state)
        else:
            state.ready.push(record)
        if key is not None:
            state.holders[key] = job.id
        return job

    def _schedule(self, job: Job, state: QueueState) -> None:
        """Let a waiting job become ready when it is due, which may be now."""
        if job.due > self.clock.time():  # type: ignore[operator]  # accepted jobs have one
            state.waits(job, 1)
            self._future.push(job)
        else:
            job.waits = False
            state.ready.push(job)

    def _meet(self, holder_id: int, job: Job | None, state: QueueState) -> Job:
        """Enqueue a job (None: a plain one) whose fingerprint an unfinished one has."""
        if job is not None and job.on_duplicate == "raise":
            raise taken_by(_snapshot(self._jobs[holder_id]))
        replaces = job is not None and job.on_duplicate == "replace"
        if replaces:
            state.record(holder_id)
        holder = self._jobs[holder_id]
        if isinstance(holder, Job) and holder.status is not _RUNNING:
            due = self.clock.time() if job is None else job.due
            if replaces:
                holder = self._move(holder, state, due, job)
            elif holder.status is _RETRYING and due < holder.due:  # type: ignore[operator]
                holder = self._move(holder, state, due)
        met = _snapshot(holder)
        met.duplicate = True
        return met

    def _move(self, holder: Job, state: QueueState, run_after: float | None, new: Job | None = None) -> Job:
        """Put a waiting job at another time; its entry at the old one counts no more."""
        record = self._stand_in(holder, state)
        record.due = run_after
        record.special = True
        if new is not None:
            record.replace_by(new)
        self._schedule(record, state)
        self._wake_soon(record.queue)
        return record

    def _stand_in(self, record: Job, state: QueueState) -> Job:
        """Replace a waiting record by a copy, so that what points at the old one is void."""
        copy = record.snapshot()
        self._withdraw(record, state, copy)
        return copy

    def _withdraw(self, record: Job, state: QueueState, copy: Job | None) -> None:
        """Take a waiting job out of where it waits; the entry itself is swept out later."""
        if record.waits:
            state.waits(record, -1)
            self._future.void(record.id, copy)
        else:
            state.ready.void(record.id, copy)

    def _wake_soon(self, queue: str) -> None:
        self._notify(queue, "ready")

    def _refuse_duplicates(self, jobs: Sequence[Job], states: dict[str, QueueState]) -> None:
        """Raise for the first on_duplicate="raise" that meets a job, stored or earlier in the batch."""
        if all(job.on_duplicate != "raise" for job in jobs):
            return
        earlier: dict[tuple[str, Key], Job] = {}
        unique = [job for job in jobs if job.unique]
        for job in unique:  # all before the first is used: a job's key may change those of its whole queue
            states[job.queue].key(job)
        for job in unique:
            state = states[job.queue]
            key = state.key(job)
            if job.on_duplicate == "raise":
                if (holder := state.holders.get(key)) is not None:
                    raise taken_by(_snapshot(self._jobs[holder]))
                if (job.queue, key) in earlier:
                    raise taken_by(earlier[job.queue, key].snapshot())
            earlier[job.queue, key] = job

    def _remember(self, token: bytes, added: list[Job]) -> None:
        self._added[token] = [job.id for job in added if job.id is not None]
        if len(self._added) > _REMEMBERED_TOKENS:
            self._added.popitem(last=False)

    def _new_queue(self, queue: str) -> QueueState:
        state = self._queues[queue] = QueueState(queue, self._lock, self._jobs)
        return state

    # -- capacity ---------------------------------------------------------------------------------------

    def _is_full(self, state: QueueState, wanted: int) -> bool:
        capacity = self.context.capacity_of(state.queue)
        if capacity is None:
            state.plenty = math.inf
            return False
        state.plenty = capacity - _HANDED_OVER_AT_MOST
        if len(state.ready) + wanted <= state.plenty:
            return False
        return len(state.ready) + wanted + self.context.handed_over(state.queue) > capacity

    def _make_room(self, jobs: Sequence[Job], states: dict[str, QueueState], special: list[Job]) -> None:
        """Wait until every queue of a batch has room for its part of it."""
        wanted = dict.fromkeys(states, 0)
        if len(states) == 1:
            wanted[jobs[0].queue] = len(jobs) - sum(job.waits for job in special)
        else:
            for job in jobs:
                wanted[job.queue] += not job.waits
        capacities = {
            queue: math.inf if (most := self.context.capacity_of(queue)) is None else most for queue in states
        }
        if all(n <= capacities[queue] and not self._is_full(states[queue], n) for queue, n in wanted.items()):
            return
        wanted = self._new_of(jobs, states)
        refuse_too_many(wanted, capacities)
        if self.context.in_runner():  # a handler that waited for itself would wait for ever
            return
        while full := [queue for queue, n in wanted.items() if n and self._is_full(states[queue], n)]:
            self._wait_for_room(states[full[0]], partial(self._new_in, full[0], jobs, states))
            wanted = self._new_of(jobs, states)

    def _new_of(self, jobs: Sequence[Job], states: dict[str, QueueState]) -> dict[str, int]:
        """How many ready jobs a batch brings each queue, duplicates aside."""
        held = [place for place, job in enumerate(jobs) if self._is_held(job, states[job.queue])]
        return new_of(jobs, states, held)

    def _new_in(self, queue: str, jobs: Sequence[Job], states: dict[str, QueueState]) -> int:
        return self._new_of(jobs, states)[queue]

    def _may_have_room(self, state: QueueState) -> bool:
        """Whether to wake producers: asked by a runner that has started all that was handed to it before."""
        capacity = self.context.capacity_of(state.queue)
        return capacity is None or state.ready.length + min(state.blocked) <= capacity

    def _wait_for_room(self, state: QueueState, wanted: Callable[[], int]) -> None:
        """Wait, with the lock released, until a full queue has room again for as many as are ``wanted``."""
        number = wanted()
        if not number or self.context.in_runner():  # a handler that waited for itself would wait for ever
            return
        timeout = self.config.enqueue_timeout
        give_up = math.inf if timeout is None else machine.monotonic() + timeout
        state.blocked.append(number)
        try:
            while not self._refusing and (number_now := wanted()) and self._is_full(state, number_now):
                left = give_up - machine.monotonic()
                if left <= 0:
                    raise no_room(state.queue, self.context.capacity_of(state.queue) or 0, timeout)
                state.ready.not_full.wait(min(left, self.config.job_check_interval))
        finally:
            state.blocked.remove(number)
        if self._refusing:
            raise closed(state.queue)

    # -- cron -------------------------------------------------------------------------------------------

    def add_tick(self, cron: str, tick: datetime, job: Job) -> Tick:
        """Record a tick and add its job; capacity does not hold it back."""
        at = tick.timestamp()
        with self._lock:
            last = self._ticks.get(cron)
            if last is not None and 0 <= last - at < _CLOCK_SLIPPED:
                return Tick.EXISTS
            self._ticks[cron] = at
            state = self._queues.get(job.queue) or self._new_queue(job.queue)
            if state.key(job) in state.holders:
                return Tick.SKIPPED
            self._accept(job, state)
        self._notify(job.queue, "ready")
        return Tick.NEW

    def last_tick(self, cron: str) -> datetime | None:
        """The newest tick of a cron in this process."""
        with self._lock:
            at = self._ticks.get(cron)
        return to_datetime(at)

    # -- claim and settle -------------------------------------------------------------------------------

    def claim(self, demand: Sequence[Demand]) -> Claimed:
        """Hand ready jobs over, best first."""
        claimed: list[Job] = []
        more = False
        with self._lock:
            for queue, limit, kinds in demand:
                jobs, left = self._take(queue, limit, kinds)
                claimed += jobs
                more = more or left
            due = None if more else self._future.next_due()
        now: Any = to_datetime(self.clock.time())
        return Claimed(claimed, now if more else to_datetime(due), now)

    def _take(self, queue: str, limit: int, kinds: frozenset[str] | None) -> tuple[list[Job], bool]:
        state = self._queues.get(queue)
        if state is None:
            return [], False
        if state.blocked and self._may_have_room(state):
            state.ready.not_full.notify_all()
        if state.paused or not (state.ready.length or state.ready.aside):
            return [], False
        taken = self._hand_out(state.ready.take(limit, kinds), next(self._leases))
        if state.frees_early:
            for job in taken:
                if job.unique == "until_started":
                    state.free(job)
        state.running += len(taken)
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
            return self._settle_succeeded(outcomes.jobs)
        stale: set[int] = set()
        with self._lock:
            for outcome in outcomes:
                lease = outcome.lease
                job: Any = self._jobs.get(lease.job_id)
                if not isinstance(job, Job) or job.token != lease.token or job.status is not _RUNNING:
                    stale.add(lease.job_id)
                    continue
                self._settle_one(job, self._queues[lease.queue], outcome)
        for outcome in outcomes:
            if outcome.follow and outcome.lease.job_id not in stale:
                self._add_batch(outcome.follow, b"", follows=True)
        return stale

    def _settle_succeeded(self, jobs: Sequence[Job]) -> set[int]:
        """The hot path of settle: a job's own record, as `claim` handed it out."""
        stale: set[int] = set()
        records, finished = self._jobs, self._finished
        state = self._queues[jobs[0].queue]
        hold, hashed = state.holders.pop, state.hashed
        settled = 0
        with self._lock:
            try:
                for job in jobs:
                    if records.get(job.id) is not job or job.status is not _RUNNING:
                        stale.add(job.id)
                        continue
                    if not (job.special or hashed):
                        hold(job.body, None)  # type: ignore[arg-type]
                    elif job.unique:
                        state.free(job)
                    job.status = _SUCCEEDED
                    job.slot = job.parsed = None
                    finished.append(job)
                    settled += 1
            finally:  # also of those before one that raises, as out of memory
                state.running -= settled
                state.succeeded += settled
            self._drop_finished()
        return stale

    def _drop_finished(self) -> None:
        """Forget the oldest of too many finished jobs."""
        limit = self.config.max_finished
        if limit is None:
            return
        queue, dropped = "", 0
        oldest, forget = self._finished.popleft, self._jobs.pop
        for _ in range(len(self._finished) - limit):
            job = oldest()
            if job.status is not _SUCCEEDED:
                self._forget(job)
                continue
            if job.queue != queue:  # mostly it is that of all
                self._count_dropped(queue, dropped)
                queue, dropped = job.queue, 0
            dropped += forget(job.id, None) is not None
        self._count_dropped(queue, dropped)

    def _count_dropped(self, queue: str, dropped: int) -> None:
        if dropped:
            self._queues[queue].succeeded -= dropped

    def _settle_one(self, job: Job, state: QueueState, outcome: Outcome) -> None:
        """Settle an attempt: with a fresh record, since the handler may still hold the old one."""
        record = job.snapshot()
        record.retries += outcome.charged
        record.cancel_asked = False
        record.token = 0
        record.result_body = outcome.result
        record.progress_report = outcome.lease.progress or job.progress_report
        if outcome.started_at is not None:
            record.started = outcome.started_at
        if outcome.failure is not None:
            record.error = f"{outcome.failure.type}: {outcome.failure.message}"
            record.traceback = outcome.failure.traceback
            record.failed_attempts = outcome.failed_attempts or record.failed_attempts
        self._jobs[job.id] = record  # not sooner: what raises before, as out of memory, has changed nothing
        state.running -= 1
        if outcome.status in FINISHED:
            record.finished_on = outcome.finished_at
            self._finish(record, state, outcome.status)
        elif job.cancel_asked:  # cancelled as it ran: it is not tried again
            record.finished_on = outcome.finished_at
            self._finish(record, state, _CANCELLED)
        else:
            record.status = outcome.status
            record.progress_report = None
            if outcome.run_after is not None:
                record.due = outcome.run_after
            self._schedule(record, state)
            self._wake_soon(record.queue)

    def _finish(self, job: Job, state: QueueState, status: Status) -> None:
        job.status = status
        if job.unique:
            state.free(job)
        if status is _DEAD:
            state.dead += 1
            self._dead[job.id] = None
            self._drop_dead()
            return
        if status is _SUCCEEDED:
            state.succeeded += 1
        else:
            state.cancelled += 1
        self._finished.append(job)
        self._drop_finished()

    def _drop_dead(self) -> None:
        limit = self.config.max_dead
        if limit is not None and len(self._dead) > limit:
            oldest: Any = self._jobs[next(iter(self._dead))]
            warn_of_dropped(self.config, oldest.id, oldest.queue)
            self._forget(oldest)

    def _forget(self, job: Job) -> bool:
        """Remove a job that has ended from all that can be looked up."""
        if self._jobs.pop(job.id, None) is None:
            return False
        state = self._queues[job.queue]
        if job.status is _SUCCEEDED:
            state.succeeded -= 1
        elif job.status is _CANCELLED:
            state.cancelled -= 1
        elif job.status is _DEAD:
            state.dead -= 1
            self._dead.pop(job.id, None)
        return True

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
        retention = self.config.retention
        if retention is None:
            return 0
        oldest = self.clock.time() - retention
        pruned = 0
        with self._lock:
            while self._finished:
                if (self._finished[0].finished_on or 0.0) > oldest:
                    break
                pruned += self._forget(self._finished.popleft())
        return pruned

    def beat(self, worker: WorkerInfo) -> None:
        """Remember what this process serves."""
        self._beats[worker.id] = worker

    def workers(self) -> list[WorkerInfo]:
        """This process, once it listens."""
        worker = self.context.worker()
        return [worker] if worker.queues and self.context.is_running() else []

    # -- looking and operating --------------------------------------------------------------------------

    def find(
        self, wanted: Filter = ALL, *, limit: int = 100, after: int | None = None, before: int | None = None
    ) -> Page:
        """Snapshots of jobs, newest first."""
        with self._lock:
            return self._find(wanted, limit, after, before)

    def _find(self, wanted: Filter, limit: int, after: int | None, before: int | None) -> Page:
        # Ids rise, and a job keeps its place.
        ids = list(self._jobs) if wanted.ids is None else sorted(self._jobs.keys() & wanted.ids)
        start = 0 if before is None else bisect_right(ids, before)
        end = len(ids) if after is None else bisect_left(ids, after)
        candidates = range(start, end) if before is not None else range(end - 1, start - 1, -1)
        most = _LOOKED_AT_ONCE if wanted.narrow else len(candidates)
        found: list[Job] = []
        looked = 0
        for place in candidates:
            if len(found) == limit or looked == most:
                break
            looked += 1
            entry = self._jobs[ids[place]]
            if isinstance(entry, Job) or wanted.queue in {None, entry[1]}:
                job = _snapshot(entry)
                if wanted.matches(job):
                    found.append(job)
        rest = ids[candidates[looked - 1]] if 0 < looked < len(candidates) else None
        return Page(found if before is None else found[::-1], rest)

    def counts(self) -> list[QueueCounts]:
        """Every queue that has or had jobs."""
        with self._lock:
            states = list(self._queues.values())
            counted = list(map(QueueState.counts, states))
        return sorted(counted, key=lambda counts: counts.queue)

    def change(self, job_ids: Iterable[int], action: Action) -> Changed:
        """Cancel, retry or delete jobs."""
        with self._lock:
            return self._change(job_ids, action)

    def _change(self, job_ids: Iterable[int], action: Action) -> Changed:
        operate = {"cancel": self._cancel, "retry": self._retry, "delete": self._delete}[action]
        done, running, queues = set(), set(), set()
        ids = list(job_ids)
        for job_id in ids:
            entry = self._jobs.get(job_id)
            if entry is None:
                continue
            state = self._queues[entry.queue if isinstance(entry, Job) else entry[1]]
            job = state.record(job_id)
            assert job is not None
            try:
                changed = operate(job, state)
            except DuplicateJobError:
                if len(ids) == 1:
                    raise
                continue
            if changed:
                done.add(job_id)
                queues.add(job.queue)
            elif action == "cancel" and job.status is _RUNNING:
                job.cancel_asked = True
                running.add(job_id)
        return Changed(frozenset(done), frozenset(running), frozenset(queues))

    def _cancel(self, job: Job, state: QueueState) -> bool:
        if job.status not in _WAITING:
            return False
        record = self._stand_in(job, state)
        record.finished_on = self.clock.time()
        self._finish(record, state, _CANCELLED)
        return True

    def _retry(self, job: Job, state: QueueState) -> bool:
        now = self.clock.time()
        if job.status in _WAITING:
            self._move(job, state, min(now, job.due))  # type: ignore[type-var]
            return True
        if job.status is not _DEAD:
            return False
        if job.unique:
            holder = state.holders.get(key := state.key(job))
            if holder is not None:
                raise taken_by(_snapshot(self._jobs[holder]))
            state.holders[key] = job.id
        state.dead -= 1
        self._dead.pop(job.id, None)
        job.status, job.due, job.finished_on, job.retries, job.crashes = _PENDING, now, None, 0, 0
        job.expires = None  # or one that has passed would kill it again
        self._schedule(job, state)
        self._wake_soon(job.queue)
        return True

    def _delete(self, job: Job, state: QueueState) -> bool:
        if job.status is _RUNNING:
            return False
        if job.status in _WAITING:
            if job.unique:
                state.free(job)
            self._withdraw(job, state, None)
            return True
        return self._forget(job)

    def set_paused(self, queue: str, paused: bool) -> None:
        """Hold a queue's jobs back, or let them go."""
        with self._lock:
            state = self._queues.get(queue) or self._new_queue(queue)
            state.paused = paused
        self._notify(queue, "pause" if paused else "ready")

    # -- future jobs ------------------------------------------------------------------------------------

    def next_due(self) -> float | None:
        """When the next future job or retry is due, in seconds since the epoch."""
        with self._lock:
            return self._future.next_due()

    def hold_timers(self, held: bool) -> None:
        """Leave it to the caller to call `release_due`, or not any more."""
        with self._lock:
            self._future.hold(held)

    def release_due(self) -> None:
        """Make ready what is due by now; the timer calls it."""
        with self._lock:
            due = self._future.pop_due()
            for job in due:
                state = self._queues[job.queue]
                state.waits(job, -1)
                state.ready.push(job)
        for queue in {job.queue for job in due}:
            self._notify(queue, "ready")


def _snapshot(job: Job | Plain) -> Job:
    return job.snapshot() if isinstance(job, Job) else job_of(job)


class MemBackend(Backend):
    """Jobs in memory: ``MemBackend(job_check_interval=1.0, future_job_window=30.0)``.

    Takes every setting of `Config` as a keyword. What has not run when the process ends is lost, and the
    report of `shutdown` lists it. Safe to use from many threads; after a fork the child starts empty.

    Raises ConfigError for a setting that is unknown or out of range.
    """

    config_class = MemConfig
    store_class = MemStore
    store: MemStore

    def __init__(self, **options: Unpack[Settings]) -> None:
        super().__init__(**options)
