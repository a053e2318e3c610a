"""What is asked of jobs in memory from outside: cancel, retry, run now, delete."""

from __future__ import annotations

from collections.abc import Iterable

from neoq.batch import taken_by
from neoq.job import DuplicateJobError, Job
from neoq.memory.queues import WAITING
from neoq.memory.state import QueueState
from neoq.memory.table import Table
from neoq.record import PENDING, Status
from neoq.store import Action, Changed

_RUNNING, _DEAD = Status.RUNNING, Status.DEAD


class Operator:
    """Changes jobs of a table whose lock its caller holds."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._acts = {"cancel": self._cancel, "retry": self._retry, "delete": self._delete, "run": self._run}

    def change(self, job_ids: Iterable[int], action: Action, now: float) -> Changed:
        """Cancel, retry, run or delete jobs."""
        operate = self._acts[action]
        table = self._table
        done, running, queues = set(), set(), set()
        ids = list(job_ids)
        for job_id in ids:
            entry = table.jobs.get(job_id)
            if entry is None:
                continue
            state = table.queues[entry.queue if isinstance(entry, Job) else entry[1]]
            job = state.record(job_id)
            assert job is not None
            try:
                changed = operate(job, state, now)
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

    def _cancel(self, job: Job, state: QueueState, now: float) -> bool:  # noqa: ARG002
        if job.status not in WAITING:
            return False
        self._table.cancel(job, state)
        return True

    def _retry(self, job: Job, state: QueueState, now: float) -> bool:
        table = self._table
        if job.status in WAITING:
            if job.held is not None:
                return job.held == "line"
            table.move(job, state, min(now, job.due))  # type: ignore[type-var]
            return True
        if job.status is not _DEAD or (job.counted and not table.groups.may_revive(job)):
            return False
        if job.unique:
            holder = state.holder_of(job)
            if holder not in {None, job.id}:
                raise taken_by(state.known(holder))
            state.holders[state.key(job)] = job.id
        state.dead -= 1
        table.dead.pop(job.id, None)
        if job.counted:
            table.groups.revive(job)
        job.status, job.due, job.finished_on, job.retries, job.crashes = PENDING, now, None, 0, 0
        job.expires = None  # or one that has passed would kill it again
        table.schedule(job, state)
        table.notify(job.queue, "ready")
        return True

    def _run(self, job: Job, state: QueueState, now: float) -> bool:
        if job.status not in WAITING or job.held is not None or job.due <= now:  # type: ignore[operator]
            return False
        self._table.move(job, state, now)
        return True

    def _delete(self, job: Job, state: QueueState, now: float) -> bool:  # noqa: ARG002
        if job.status is _RUNNING or job.held in {"batch", "children"}:
            return False
        table = self._table
        if job.status not in WAITING:
            return table.forget(job)
        if job.unique:
            state.free(job)
        table.withdraw(job, state, None)
        table.free_uid(job)
        table.drop_held(job)
        return True
