"""Waiting: until everything is settled, or one job has finished."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

from neoq.clock import machine
from neoq.engine.interrupt import Slot, current_slot
from neoq.engine.runtime import AwaitedJob, Runtime
from neoq.errors import (
    BackendClosedError,
    BackendError,
    NeoqError,
)
from neoq.job import Job

OUTCOME_ARRIVES_WITHIN = 1.0  # seconds until the outcome of a job that ran here is known here


class Waiting:
    """What `Backend.drain` and `Backend.wait` do."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def drain(self, timeout: float | None) -> bool:
        """Wait until `is_quiet`; False where the time ran out."""
        if self._runtime.by_hand is not None:
            self._runtime.by_hand()
            return True
        if not self._runtime.running and not self._runtime.is_quiet():
            raise NeoqError("drain() waits for jobs that nothing runs: call start() first")
        try:
            return self._runtime.await_quiet(math.inf if timeout is None else machine.monotonic() + timeout)
        except BackendError:
            if self._runtime.stopping is None or not self._runtime.stopping.drained:
                raise
            return True  # a shutdown has drained all, and closed the store as we looked

    def wait(self, job_id: int, timeout: float | None) -> Job:
        """Wait until a job has finished."""
        if self._runtime.by_hand is not None:
            self._runtime.by_hand()
            timeout = 0  # nothing else happens while this thread waits
        slot = current_slot()
        give_up = math.inf if timeout is None else machine.monotonic() + timeout
        with self._runtime.waiting(), self._awaiting(job_id) as awaited:
            while True:
                seen = self._runtime.changes
                job = self._look_for(job_id, awaited)
                if job is None:
                    return self._from_memory(job_id, awaited)
                if job.finished:
                    return job
                self._refuse_own(job, slot)
                awaited.seen = job
                if slot is not None and slot.asked is not None:
                    raise slot.asked
                left = give_up - machine.monotonic()
                if left <= 0:
                    raise TimeoutError(f"job {job_id} of {job.queue} is {job.status.name} after {timeout} s")
                self._runtime.wait_for_change(left, seen)

    def _refuse_own(self, job: Job, slot: Slot | None) -> None:
        """Raise where a handler would wait for its own job, or for a runner of its own queue."""
        own = None if slot is None else slot.job
        if own is None or own.queue != job.queue or not self._runtime.in_runner():
            return
        if own.id == job.id:
            raise NeoqError(
                "wait() inside a handler would wait for its own job to end", queue=job.queue, job_id=job.id
            )
        raise NeoqError(
            f"wait() inside a handler of queue {job.queue!r} would wait for job {job.id} of the same queue, "
            "whose runners may all be waiting like that; put the jobs that are waited for into a queue of "
            "their own",
            queue=job.queue,
            job_id=job.id,
        )

    def _look_for(self, job_id: int, awaited: AwaitedJob) -> Job | None:
        """A job as its store has it; None where that does not know it, or was closed since the job ended."""
        try:
            return next(iter(self._runtime.store.of_ids([job_id])), None)
        except (BackendError, BackendClosedError):
            if awaited.outcome is None:
                raise
            return None

    @contextmanager
    def _awaiting(self, job_id: int) -> Iterator[AwaitedJob]:
        with self._runtime.changing:
            awaited = self._runtime.awaited.setdefault(job_id, AwaitedJob())
            awaited.waiters += 1
        try:
            yield awaited
        finally:
            with self._runtime.changing:
                awaited.waiters -= 1
                if not awaited.waiters:
                    del self._runtime.awaited[job_id]

    def _from_memory(self, job_id: int, awaited: AwaitedJob) -> Job:
        """A job that its store no longer has: as it ended here while we waited, or an error."""
        if awaited.seen is not None:
            with self._runtime.changing:  # the store prunes it a moment before its outcome arrives
                self._runtime.changed.wait_for(lambda: awaited.outcome, OUTCOME_ARRIVES_WITHIN)
        outcome = awaited.outcome
        if outcome is None or awaited.seen is None:
            raise NeoqError(
                f"job {job_id} not found: it never existed, or it finished and was pruned "
                "(max_finished, retention)",
                job_id=job_id,
            )
        job = awaited.seen.snapshot()
        job.status, job.result_body = outcome.status, outcome.result
        job.started, job.finished_on = outcome.started_at, outcome.finished_at
        return job
