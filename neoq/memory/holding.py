"""What the store in memory does for held jobs and recorded steps; see `neoq.held.seam`."""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from neoq.errors import BackendClosedError, UnsupportedError
from neoq.held.group import BATCH, Batch, BatchRules
from neoq.held.step import Step
from neoq.job import Job
from neoq.memory.config import MemConfig
from neoq.memory.room import Room
from neoq.memory.table import Table, snapshot
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
            holder = state.holders.get(state.key(then)) if then.unique else None
            if holder is not None:
                job = state.record(holder)
                assert job is not None
                if not rules.named or job.held != "batch":
                    raise taken_by(job.snapshot())
                opened = job.snapshot()
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
