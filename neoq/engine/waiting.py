"""Waiting: until everything is settled, or one job has finished or changed."""

from __future__ import annotations

import math
from collections.abc import Iterator

from neoq.clock import machine
from neoq.engine.awaited import AwaitedJob, state_of
from neoq.engine.interrupt import AttemptSlot, current_slot
from neoq.engine.quiet import await_quiet, is_quiet
from neoq.engine.runtime import Runtime
from neoq.errors import BackendClosedError, BackendError, BackendUnavailable, NeoqError
from neoq.job import Job
from neoq.threads.boundary import entrance
from neoq.threads.loop import has_late, revive

OUTCOME_ARRIVES_WITHIN = 1.0  # seconds until the outcome of a job that ran here is known here
WATCH_EVERY = 0.02  # seconds between looks at a job in memory that is watched


class Waiting:
    """What `Backend.drain`, `Backend.wait` and `Backend.watch` do."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def drain(self, timeout: float | None) -> bool:
        """Wait until `is_quiet`; False where the time ran out."""
        if self._runtime.manual_run is not None:
            self._runtime.manual_run()
            return True
        if not self._runtime.running and not is_quiet(self._runtime):
            raise NeoqError("drain() waits for jobs that nothing runs: call start() first")
        try:
            return await_quiet(self._runtime, math.inf if timeout is None else machine.monotonic() + timeout)
        except BackendError:
            if self._runtime.stopping is None or not self._runtime.stopping.drained:
                raise
            return True  # a shutdown has drained all, and closed the store as we looked

    def wait(self, job_id: int, timeout: float | None) -> Job:
        """Wait until a job has finished."""
        return self._await(job_id, _Limit(timeout))

    @entrance
    def watch(self, job_id: int, timeout: float | None) -> Iterator[Job]:
        """Yield a job now and at each change, until it has finished."""
        limit = _Limit(timeout)
        seen = self._await(job_id, limit, every_change=True)
        yield seen.snapshot()
        while not seen.finished:
            seen = self._await(job_id, limit, every_change=True, seen=seen)
            yield seen.snapshot()

    def _await(
        self, job_id: int, limit: _Limit, *, every_change: bool = False, seen: Job | None = None
    ) -> Job:
        """Wait until a job has finished; or, with ``every_change``, until it differs from what was seen."""
        if self._runtime.manual_run is not None:
            self._runtime.manual_run()
            limit = _Limit(0)  # nothing else happens while this thread waits
        slot = current_slot()
        asked = False
        with self._runtime.awaited.awaiting(job_id, every_change=every_change) as awaited:
            awaited.seen = seen
            while True:
                news = awaited.news
                job = self._look_for(awaited)
                if job is None:
                    return self._from_memory(awaited)
                if job.finished or (every_change and (seen is None or state_of(job) != state_of(seen))):
                    return job
                self._refuse_own(job, slot)
                awaited.seen = job
                if not asked and (lookout := self._runtime.lookout) is not None:
                    asked = True
                    if lookout.follow(awaited):  # it may have changed before a worker knew
                        continue
                limit.refuse_late(job)
                self._wait_for_news(awaited, news, limit, slot)

    def _wait_for_news(self, awaited: AwaitedJob, news: int, limit: _Limit, slot: AttemptSlot | None) -> None:
        """Wait until the job is worth a look, or time is up; in memory, also for a while and no more."""
        runtime = self._runtime
        every = runtime.config.job_check_interval
        if runtime.lookout is None and awaited.every_change:
            every = min(every, WATCH_EVERY)
        while (left := limit.left()) > 0:
            if slot is not None and slot.asked is not None:
                raise slot.asked
            if has_late():
                revive()
            runtime.awaited.wait(awaited, news, min(left, every))
            if runtime.lookout is None or awaited.news != news:
                return

    def _refuse_own(self, job: Job, slot: AttemptSlot | None) -> None:
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

    def _look_for(self, awaited: AwaitedJob) -> Job | None:
        """A job as its store has it; None where that does not know it, or was closed since the job ended."""
        try:
            return next(iter(self._runtime.store.of_ids([awaited.job_id])), None)
        except BackendUnavailable:
            if awaited.outcome is not None:
                return None
            if awaited.seen is None or self._runtime.stopping is not None:
                raise
            return awaited.seen  # the wait goes on: the lookout tells when the store is back
        except (BackendError, BackendClosedError):
            if awaited.outcome is None:
                raise
            return None

    def _from_memory(self, awaited: AwaitedJob) -> Job:
        """A job that its store no longer has: as it ended here while we waited, or an error."""
        seen, give_up = awaited.seen, machine.monotonic() + OUTCOME_ARRIVES_WITHIN
        while seen is not None and awaited.outcome is None and (left := give_up - machine.monotonic()) > 0:
            self._runtime.awaited.wait(awaited, awaited.news, left)  # the store prunes it a moment before
        outcome = awaited.outcome
        if outcome is None or seen is None:
            raise NeoqError(
                f"job {awaited.job_id} not found: it never existed, or it finished and was pruned "
                "(max_finished, retention)",
                job_id=awaited.job_id,
            )
        job = seen.snapshot()
        job.status, job.result_body = outcome.status, outcome.result
        job.started, job.finished_on = outcome.started_at, outcome.finished_at
        return job


class _Limit:
    """Until when a call waits."""

    def __init__(self, timeout: float | None) -> None:
        self._timeout = timeout
        self._give_up = math.inf if timeout is None else machine.monotonic() + timeout

    def left(self) -> float:
        """Seconds that are left."""
        return self._give_up - machine.monotonic()

    def refuse_late(self, job: Job) -> None:
        """TimeoutError where none are."""
        if self.left() <= 0:
            raise TimeoutError(f"job {job.id} of {job.queue} is {job.status.name} after {self._timeout} s")
