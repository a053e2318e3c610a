"""The jobs in memory: each record, its queue, and what becomes of it; under one lock."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Sequence
from time import sleep
from typing import TYPE_CHECKING

from neoq.held.group import BATCH
from neoq.job import Job, plain
from neoq.memory.future import FutureJobs
from neoq.memory.groups import Groups
from neoq.memory.lines import Lines
from neoq.memory.queues import WAITING, Key, Plain, Records, snapshot
from neoq.memory.spans import Spans
from neoq.memory.state import QueueState
from neoq.memory.steps import Steps
from neoq.memory.surplus import Surplus
from neoq.outcome import Outcome
from neoq.record import FINISHED, Held, Status
from neoq.store import Notify, refuse_taken_uids, taken_by

if TYPE_CHECKING:
    from neoq.clock import Clock
    from neoq.config import Config

_PENDING, _RUNNING, _DEAD = Status.PENDING, Status.RUNNING, Status.DEAD
_SUCCEEDED, _CANCELLED = Status.SUCCEEDED, Status.CANCELLED
_YIELDS = 10  # then it blocks: whoever has the lock may be at something long


class Table:
    """The records of all jobs in one process. Its callers hold ``lock``, but for what says otherwise."""

    def __init__(self, config: Config, clock: Clock, notify: Notify) -> None:
        self._config = config
        self._clock = clock
        self.notify = notify
        # It knows its owner: code that Python runs in the middle is refused, and does not wait for itself.
        self.lock = threading.RLock()
        self.in_use = False  # a hint: somebody holds the lock, most likely
        self.queues: dict[str, QueueState] = {}
        self.jobs: Records = {}
        self.uids: dict[str, int] = {}
        surplus = Surplus(config, self.jobs, self.uids, self.queues, self.forget)
        self.finished, self.dead, self.drop_surplus = surplus.finished, surplus.dead, surplus.drop
        # At random: in another process that keeps jobs in memory an id of this one is of nobody's job.
        # Below 2**30 Python adds and hashes integers in a fraction of the time.
        self.last_id = int.from_bytes(os.urandom(4), "big") >> 3
        self.future = FutureJobs(
            self.lock,
            self.jobs,
            clock,
            interval=config.job_check_interval,
            window=config.future_job_window,
            release=self.release_due,
            log=config.log,
        )
        self.groups = Groups(self.jobs, wake=self.wake, stop=self.stop, let_go=self.let_go)
        self.steps = Steps()

    def give_way(self) -> None:
        """Let the holder of the lock go on before this thread asks for it; called where `in_use` is set.

        A thread that blocks on a lock is handed it while another one has the interpreter. That one meets the
        lock at its next call and blocks in turn: from then on every call switches threads twice, and the rate
        falls to a fifth. A thread that yields the interpreter instead mostly finds the lock free.
        """
        if self.lock._is_owned():  # type: ignore[attr-defined]  # this thread is the holder
            return
        for _ in range(_YIELDS):
            sleep(0)
            if not self.in_use:
                return

    def new_queue(self, queue: str) -> QueueState:
        """The state of a queue that is new here."""
        state = self.queues[queue] = QueueState(queue, self.lock, self.jobs)
        return state

    def accept_held(self, then: Job, state: QueueState) -> Job:
        """Store the callback of a batch."""
        then.special = then.counted = True
        then.held, then.holds, then.waits = "batch", BATCH, False
        return self.accept(then, state)

    def accept(self, job: Job, state: QueueState) -> Job:
        """Store a job that is new to its queue: a record of it, so that the caller's is a snapshot."""
        self.last_id = job.id = self.last_id + 1
        record = job.as_record()
        key = state.key(record) if record.unique else None
        if record.unique == "until_started":
            state.frees_early = True
        if record.special and job.held is not None:
            record.holds = job.holds
            self.hold(record, state, job.held, None)
        elif record.waits:
            self.schedule(record, state)
        else:
            _make_ready(record, state)
        if key is not None:
            state.holders[key] = job.id
            if record.unique_for is not None:
                state.spans = state.spans or Spans(state.holders, state.records, self._clock)
                state.spans.begin(record, key)
        if record.uid is not None:
            self.uids[record.uid] = job.id
        if record.group is not None:
            self.groups.join(record)
        return job

    def schedule(self, job: Job, state: QueueState) -> None:
        """Let a waiting job become ready when it is due, which may be now."""
        if job.due > self._clock.time():  # type: ignore[operator]  # accepted jobs have one
            state.waits(job, 1)
            self.future.push(job)
        else:
            job.waits = False
            _make_ready(job, state)

    def move(self, holder: Job, state: QueueState, run_after: float | None, new: Job | None = None) -> Job:
        """Put a waiting job at another time; its entry at the old one counts no more."""
        record = self.stand_in(holder, state)
        lines = lines_of(state)
        if lines is not None:
            later = run_after > self._clock.time()  # type: ignore[operator]
            lines.moved(holder, later=later, other_key=new is not None and new.key != holder.key)
        record.special = True
        record.held = None
        if new is not None:
            record.replace_by(new)
        record.due = run_after
        self.schedule(record, state)
        self.notify(record.queue, "ready")
        return record

    def meet(self, holder_id: int, job: Job | None, state: QueueState) -> Job:
        """Enqueue a job (None: a plain one) whose fingerprint an unfinished one has."""
        if job is not None and job.on_duplicate == "raise":
            raise taken_by(state.known(holder_id))
        replaces = job is not None and job.on_duplicate == "replace"
        if replaces:
            state.record(holder_id)
        holder = self.jobs.get(holder_id)
        if isinstance(holder, Job) and holder.status in WAITING and holder.held in {None, "line"}:
            due = self._clock.time() if job is None else job.due
            if replaces and job is not None:
                if job.max_delay is not None:
                    due = min(job.due or 0.0, (holder.created or 0.0) + job.max_delay)
                self.move(holder, state, due, job)
            elif holder.status is Status.RETRYING and due < holder.due:  # type: ignore[operator]
                self.move(holder, state, due)
        met = state.known(holder_id)
        met.duplicate = True
        return met

    def meet_plain(self, queue: str, data: bytes, now: float, state: QueueState) -> Job:
        """Enqueue a plain job whose payload an unfinished one had a moment ago."""
        job = plain(queue, data, now)
        holder = state.holder_of(job)
        if holder is not None:
            return self.meet(holder, None, state)
        added = self.accept(job, state)
        self.notify(queue, "ready")
        return added

    def refuse_duplicates(self, jobs: Sequence[Job], states: dict[str, QueueState]) -> None:
        """Raise for the first on_duplicate="raise" that meets a job, stored or earlier in the batch."""
        refuse_taken_uids(jobs, self.of_uids(job.uid for job in jobs))
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
                if (holder := state.holder_of(job)) is not None:
                    raise taken_by(state.known(holder))
                if (job.queue, key) in earlier:
                    raise taken_by(earlier[job.queue, key].snapshot())
            earlier[job.queue, key] = job

    def stand_in(self, record: Job, state: QueueState) -> Job:
        """Replace a waiting record by a copy, so that what points at the old one is void."""
        copy = record.snapshot()
        self.withdraw(record, state, copy)
        return copy

    def withdraw(self, record: Job, state: QueueState, copy: Job | None) -> None:
        """Take a waiting job out of where it waits; the entry itself is swept out later."""
        if record.waits:
            state.waits(record, -1)
            self.future.void(record.id, copy)
        elif record.held == "line" and (lines := lines_of(state)) is not None:
            lines.withdraw(record, copy)
        elif record.held is None:
            state.ready.void(record.id, copy)
        else:
            state.waits(record, -1)
            if copy is None:
                del self.jobs[record.id]
            else:
                self.jobs[record.id] = copy

    def hold(self, job: Job, state: QueueState, why: Held, until: float | None) -> None:
        """Let a job wait for what is no time; it is due ``until`` then at the latest, and at its deadline."""
        times = [at for at in (until, job.expires) if at is not None]
        if times and min(times) <= self._clock.time():
            job.due = min(times)
            self.schedule(job, state)
            return
        job.held, job.counted, job.special, job.waits = why, True, True, False
        state.waits(job, 1)
        if times:
            self.future.push(job, min(times))
        else:
            self.jobs[job.id] = job

    def wake(self, job_id: int) -> None:
        """Make a held job due, if it is still held: what it waited for has come."""
        job = self.jobs.get(job_id)
        if not isinstance(job, Job) or job.held is None:
            return
        state, now = self.queues[job.queue], self._clock.time()
        record = self.stand_in(job, state)
        record.due = max(now, record.due or 0.0) if record.held == "batch" else now
        record.held = None
        self.schedule(record, state)
        self.notify(record.queue, "ready")

    def stop(self, job_id: int) -> None:
        """Cancel a job of a stopped group: one that runs is asked to end."""
        job = self.jobs.get(job_id)
        if not isinstance(job, Job):
            return
        if job.status in WAITING:
            self.cancel(job, self.queues[job.queue])
        elif job.status is _RUNNING and not job.cancel_asked:
            job.cancel_asked = True
            self.notify(job.queue, "cancel")

    def without_stopped(self, waiting: list[Job | Plain], state: QueueState) -> list[Job | Plain]:
        """Of jobs that were ready those that may run: jobs of stopped groups are cancelled."""
        may_run = []
        for entry in waiting:
            if isinstance(entry, Job) and entry.counted and self.groups.is_stopped(entry):
                entry.finished_on = self._clock.time()
                self.finish(entry, state, _CANCELLED)
            else:
                may_run.append(entry)
        return may_run

    def cancel(self, job: Job, state: QueueState) -> None:
        """Cancel a job that waits."""
        record = self.stand_in(job, state)
        record.held = None
        record.finished_on = self._clock.time()
        self.finish(record, state, _CANCELLED)

    def finish(self, job: Job, state: QueueState, status: Status) -> None:
        """Give a job its final status, and its fingerprint free."""
        job.status = status
        if job.unique:
            state.free(job)
        if status is _SUCCEEDED:
            state.succeeded += 1
        elif status is _DEAD:
            state.dead += 1
        else:
            state.cancelled += 1
        if job.counted:
            self.ended(job, state)
        else:
            self._let_go_of([job])

    def ended(self, job: Job, state: QueueState) -> None:
        """Do what the end of a job means for others."""
        if job.status is not _DEAD:
            self.steps.drop(job.id)
        if (lines := lines_of(state)) is not None:
            lines.ended(job)
        if not (self.groups.ended(job) or (lines is not None and lines.holds(job))):
            self._let_go_of([job])

    def let_go(self, jobs: Sequence[Job]) -> None:
        """Keep jobs that have ended as long as the settings say, but those that a group or line needs."""
        free = []
        queue, lines = "", None
        for job in jobs:
            if job.counted:
                if job.queue != queue:  # mostly it is that of all
                    queue, lines = job.queue, lines_of(self.queues[job.queue])
                if self.groups.keeps(job) or (lines is not None and lines.holds(job)):
                    continue
                if job.status is not _DEAD and job.holds is None:
                    job.counted = False  # it can be forgotten, and concerns nobody any more
            free.append(job)
        self._let_go_of(free)

    def _let_go_of(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            if job.status is _DEAD:
                self.dead[job.id] = None
            else:
                self.finished.append(job)
        self.drop_surplus()

    def forget(self, job: Job) -> bool:
        """Remove a job that has ended from all that can be looked up."""
        if self.jobs.pop(job.id, None) is None:
            return False
        self.free_uid(job)
        self.drop_held(job)
        state = self.queues[job.queue]
        if job.status is _SUCCEEDED:
            state.succeeded -= 1
        elif job.status is _CANCELLED:
            state.cancelled -= 1
        elif job.status is _DEAD:
            state.dead -= 1
            self.dead.pop(job.id, None)
        return True

    def drop_held(self, job: Job) -> None:
        """Forget what a job that was deleted has recorded, and what it waited for."""
        if job.counted:
            self.steps.drop(job.id)
            self.groups.forget(job)
            if (lines := lines_of(self.queues[job.queue])) is not None:
                lines.leave(job)

    def settle(self, job: Job, state: QueueState, outcome: Outcome) -> None:
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
        self.jobs[job.id] = record  # not sooner: what raises before, as out of memory, has changed nothing
        state.running -= 1
        if outcome.holds is not None:
            record.holds, record.counted, record.special = outcome.holds, True, True
        if outcome.steps:
            self.steps.record(record, outcome.steps, self._clock.time())
        if outcome.status in FINISHED:
            record.finished_on = outcome.finished_at
            self.finish(record, state, outcome.status)
        elif job.cancel_asked:  # cancelled as it ran: it is not tried again
            record.finished_on = outcome.finished_at
            self.finish(record, state, _CANCELLED)
        else:
            self._let_wait(record, state, outcome)
        if state.limited is not None and state.ready.length:  # it may have been what held others back
            self.notify(record.queue, "ready")

    def _let_wait(self, record: Job, state: QueueState, outcome: Outcome) -> None:
        """Let a job that is not over wait for its next attempt."""
        if outcome.steps:  # many jobs of several steps may wait for long
            record = self.jobs[record.id] = record.slim()
        record.status = outcome.status
        if record.progress_report is not None:
            record.progress_report = None
        if outcome.run_after is not None:
            record.due = outcome.run_after
        if (lines := lines_of(state)) is not None:
            lines.pause(record)
        if outcome.holds is not None or outcome.awaits is not None:
            self._suspend(record, state, outcome)
        else:
            self.schedule(record, state)
        self.notify(record.queue, "ready")

    def _suspend(self, job: Job, state: QueueState, outcome: Outcome) -> None:
        """Hold a job until the ends of its children or a signal, as its attempt has said."""
        why: Held = "signal" if outcome.holds is None else "children"
        if outcome.holds is not None:
            come = self.groups.gather(job.id, outcome.holds)
        else:
            come = self.steps.awaits(job.id, outcome.awaits or "")
        if come:
            job.due = self._clock.time()
            self.schedule(job, state)
        else:
            self.hold(job, state, why, outcome.run_after)

    def prune(self) -> int:
        """Forget finished jobs older than ``retention``."""
        retention = self._config.retention
        if retention is None:
            return 0
        oldest = self._clock.time() - retention
        pruned = 0
        with self.lock:
            while self.finished:
                if (self.finished[0].finished_on or 0.0) > oldest:
                    break
                pruned += self.forget(self.finished.popleft())
        return pruned

    def next_due(self) -> float | None:
        """When the next future job or retry is due, in seconds since the epoch."""
        with self.lock:
            return self.future.next_due()

    def hold_timers(self, held: bool) -> None:
        """Leave it to the caller to call `release_due`, or not any more."""
        with self.lock:
            self.future.hold(held)

    def release_due(self) -> None:
        """Make ready what is due by now; the timer calls it."""
        with self.lock:
            due = self.future.pop_due()
            for job in due:
                state = self.queues[job.queue]
                state.waits(job, -1)
                if job.held is not None:
                    job.held, job.due = None, self._clock.time()
                _make_ready(job, state)
            let_go = self.future.pop_alarms()
            for queue, key in let_go:
                lines = lines_of(self.queues[queue])
                if key and lines is not None:
                    lines.look(key)
        for queue in {job.queue for job in due} | {queue for queue, _ in let_go}:
            self.notify(queue, "ready")

    def free_uid(self, job: Job) -> None:
        """Let another job have the uid of one that is forgotten."""
        if job.uid is not None:
            self.uids.pop(job.uid, None)

    def of_uids(self, uids: Iterable[str | None]) -> dict[str, Job]:
        """Snapshots of the jobs that have these uids."""
        return {uid: snapshot(self.jobs[self.uids[uid]]) for uid in uids if uid in self.uids}


def _make_ready(job: Job, state: QueueState) -> None:
    """Let a job that is due run, or wait in its line."""
    lines = None if job.key is None else lines_of(state)
    if lines is None:
        state.ready.push(job)
    else:
        lines.enter(job)


def lines_of(state: QueueState) -> Lines | None:
    """The lines of a queue, if the jobs of a key form one."""
    return None if state.limited is None else state.limited.lines
