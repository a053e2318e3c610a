"""What the store in memory does for held jobs and recorded steps; see `neoq.held.seam`."""

from __future__ import annotations

import functools
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from neoq.errors import BackendClosedError, UnsupportedError
from neoq.held.group import BATCH, Batch, BatchRules
from neoq.held.limits import Limits, Line
from neoq.held.step import Step
from neoq.job import Job
from neoq.memory.config import MemConfig
from neoq.memory.limited import Limited
from neoq.memory.queues import snapshot
from neoq.memory.room import Room
from neoq.memory.table import Table
from neoq.outcome import Lease
from neoq.record import FINISHED, Status
from neoq.store import DirectStore, taken_by
from neoq.threads.boundary import entrance
from neoq.threads.reentry import guarded, reentered

_REMEMBERED_TOKENS = 1000


class HoldingMemStore(DirectStore):
    """Batches, steps and signals, in terms of the table."""

    config: MemConfig
    _table: Table
    _room: Room
    _added: OrderedDict[bytes, list[int]]

    @staticmethod
    def _guard(method: Callable[..., Any]) -> Callable[..., Any]:
        """Refuse what comes while this very thread holds the lock."""
        if method.__name__ in {"add_plain", "add_call", "take"}:  # the hot path, which looks by itself
            return entrance(method)
        if method.__name__ == "open_store":
            return guarded(method)

        def call(self: HoldingMemStore, *arguments: Any, **keywords: Any) -> Any:
            lock = getattr(self, "_lock", None)  # the store may not be open yet
            if lock is not None and lock._is_owned():
                raise reentered()
            return method(self, *arguments, **keywords)

        return functools.wraps(method)(entrance(call))

    def open_batch(self, then: Job, rules: BatchRules, *, token: bytes, transaction: Any = None) -> Job:
        """Store a callback, held, or take over the batch of its name."""
        _refuse_transaction(transaction)
        table = self._table
        with table.lock:
            if self._room.closed:
                self._refuse_outsiders(then.queue)
            if token and token in self._added:
                return snapshot(table.jobs[self._added[token][0]])
            if then.group is not None:
                table.groups.refuse_closed([then])
            if then.uid is not None and (met := table.of_uids([then.uid]).get(then.uid)):
                raise taken_by(met, then.uid)
            state = table.queues.get(then.queue) or table.new_queue(then.queue)
            holder = state.holder_of(then) if then.unique else None
            if holder is not None:
                opened = state.known(holder)
                if not rules.named or opened.held != "batch":
                    raise taken_by(opened)
                opened.duplicate = True
            else:
                opened = table.accept_held(then, state)
            table.groups.open(opened.id, rules)
            if token:
                self._remember(token, [opened])
            return opened

    def seal(self, job_id: int, producer: int, *, transaction: Any = None) -> None:
        """Take no more members from outside."""
        _refuse_transaction(transaction)
        with self._table.lock:
            self._table.groups.seal(job_id, producer)

    def group(self, job_id: int, round: int = BATCH) -> Batch | None:  # noqa: A002
        """The counts of a holder's group."""
        with self._table.lock:
            return self._table.groups.counts(job_id, round)

    def tend(self) -> bool:
        """Go on with what a thread that was interrupted has left."""
        self._finish_stopping()
        return False

    def _finish_stopping(self) -> None:
        """Cancel the jobs of stopped groups, in pages: others have the lock in between."""
        groups = self._table.groups
        while groups.stopping:
            with self._table.lock:
                groups.stop_some()

    def record(self, records: Sequence[tuple[Lease, Sequence[Step]]], *, transaction: Any = None) -> set[int]:
        """Record steps of running jobs, each under its lease."""
        _refuse_transaction(transaction)
        stale: set[int] = set()
        table = self._table
        with table.lock:
            for lease, steps in records:
                job = table.jobs.get(lease.job_id)
                if not isinstance(job, Job) or job.token != lease.token or job.status is not Status.RUNNING:
                    stale.add(lease.job_id)
                else:
                    table.steps.record(job, steps, self.clock.time())
        return stale

    def steps(self, job_id: int) -> list[Step]:
        """What a job has recorded."""
        with self._table.lock:
            return self._table.steps.of(job_id)

    def signal(self, to: int | tuple[str, str], step: Step, *, transaction: Any = None) -> bool:
        """Record a signal for an unfinished job, and make it due if it is held until then."""
        _refuse_transaction(transaction)
        table = self._table
        with table.lock:
            if isinstance(to, int):
                job_id: int | None = to
            else:
                state = table.queues.get(to[0])
                job_id = None if state is None else state.holder(to[1])
            entry = None if job_id is None else table.jobs.get(job_id)
            if entry is None:
                return False
            job = entry if isinstance(entry, Job) else table.queues[entry[1]].record(entry[0])
            if job is None or job.status in FINISHED:
                return False
            taken = table.steps.signal(job, step, self.clock.time())
            if taken and job.held == "signal" and table.steps.is_awaited(job.id, step.name):
                table.wake(job.id)
            return taken

    # -- limits ------------------------------------------------------------------------------------------

    def limit(self, queue: str, limits: Limits | None, *, by_listener: bool) -> Limits | None:
        """Set the limits of a queue."""
        table = self._table
        with table.lock:
            state = table.queues.get(queue) or table.new_queue(queue)
            if state.limited is None:
                if limits is None:
                    return None
                state.limited = Limited(queue, state.ready, state.records, self.clock, table.future)
                state.plenty = -math.inf  # until room is asked for
            limited = state.limited
            asked, before = limited.asked.get(by_listener), limited.limits
            if limits is None:
                limited.asked.pop(by_listener, None)
            else:
                limited.asked[by_listener] = limits
            freed = limited.apply(before, state.running)
            table.let_go([table.jobs[job_id] for job_id in freed])  # type: ignore[misc]  # ended: no tuples
            if not limited.asked:
                state.limited = None
        self._table.notify(queue, "ready")
        return asked if by_listener and asked != limits else None

    def limits(self) -> Mapping[str, Limits]:
        """The limits of each queue that has any."""
        with self._table.lock:
            states = self._table.queues.items()
            return {queue: state.limited.limits for queue, state in states if state.limited is not None}

    def lines(self, queue: str, *, limit: int = 1000) -> list[Line]:
        """The lines of a queue that wait or stand still."""
        with self._table.lock:
            state = self._table.queues.get(queue)
            limited = None if state is None else state.limited
            lines = None if limited is None else limited.lines
            return [] if lines is None else lines.shown(queue, limit)

    def _refuse_outsiders(self, queue: str) -> None:
        """While the backend shuts down only handlers that still count may enqueue."""
        if not self.context.may_enqueue_while_closing():
            raise BackendClosedError("this backend was shut down; make a new one", queue=queue)

    def _remember(self, token: bytes, added: list[Job]) -> None:
        self._added[token] = [job.id for job in added if job.id is not None]
        if len(self._added) > _REMEMBERED_TOKENS:
            self._added.popitem(last=False)


def _refuse_transaction(transaction: Any) -> None:
    if transaction is not None:
        raise UnsupportedError(
            "jobs in memory cannot join a transaction; do this after its commit, or use a backend that keeps "
            "jobs in that database"
        )
