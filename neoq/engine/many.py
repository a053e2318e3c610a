"""Calls that take many jobs: a runner gathers them, calls the handler once, and settles each by itself.

While it gathers and while it calls, its jobs are in ``together``, so that heartbeats renew their leases. The
call runs under a job that stands for all of them: an interrupt (a timeout, a shutdown) is the call's. A job
that is cancelled meanwhile, or whose lease is lost, is only marked; the others go on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from neoq.checks import checked_choice, checked_int
from neoq.engine.attempt import Ending, Judged, abandoned, called, say_nothing
from neoq.engine.coroutines import is_coroutine_function, run_coroutine
from neoq.engine.interrupt import AttemptSlot, Interrupt, current_slot
from neoq.engine.listener import Listener, Middleware
from neoq.engine.pool import Runner
from neoq.errors import InvalidJobError, NeoqError
from neoq.job import Job, blank
from neoq.outcome import given_back
from neoq.times import to_seconds

if TYPE_CHECKING:
    from contextvars import Context

MOST, LONGEST = 10_000, 3600  # jobs of a call, and seconds to wait for them
Handler = Callable[[Any], Any]  # of a list of jobs


@dataclass(frozen=True)
class Many:
    """How the jobs of a call are gathered: at most ``size``, and no longer than ``wait`` after the first."""

    size: int
    wait: float
    by_key: bool


class ManyListener(Listener):
    """How a queue's jobs are run, many in a call."""

    many: Many
    call_many: Handler

    def replace(self, other: Listener) -> None:
        """Take over everything of another listener."""
        super().replace(other)
        if isinstance(other, ManyListener):
            self.many = other.many

    def wrap(self, middleware: Sequence[Middleware]) -> None:  # noqa: ARG002  # it is for one job
        """Make the call; middleware is around one job, and so around none of these."""
        self.call_many = _as_function(self.handler)
        self.call = self._call_one

    def _call_one(self, job: Job) -> None:
        """Call the handler for one job, as a test does that runs jobs by hand."""
        member = _Member(job.slot, job, None)  # type: ignore[arg-type]
        slot, job.slot = job.slot, member
        try:
            self.call_many([job])
        finally:
            job.slot = slot
        if member.error is not None:
            raise member.error


def _as_function(handler: Any) -> Handler:
    if not is_coroutine_function(handler):
        return handler  # type: ignore[no-any-return]
    return lambda jobs: run_coroutine(handler, jobs, current_slot())


class _Member:
    """The attempt of one job of a call, as its handler sees it: what a job asks of its slot."""

    def __init__(self, slot: AttemptSlot, job: Job, call: Job | None) -> None:
        self.job: Job | None = job
        self.max_progress = slot.max_progress
        self.on_report = slot.on_report
        self.error: BaseException | None = None
        self._slot = slot
        self._call = call or job

    def fail(self, job: Job, error: BaseException) -> None:  # noqa: ARG002
        """Let this job fail, once the call has returned."""
        self.error = error

    def asked_to_stop(self, job: Job) -> bool:
        """Whether the call is to end soon."""
        return job.cancel_asked or self._slot.asked_to_stop(self._call)

    def remaining(self) -> float:
        """Seconds until the call is interrupted."""
        return self._slot.remaining()

    def shield(self, job: Job) -> AbstractContextManager[None]:  # noqa: ARG002
        """Keep interrupts of the call out of a block."""
        return self._slot.shield(self._call)

    def complete(self, job: Job, connection: Any, result: Any) -> None:
        """Settle this job in a transaction of the handler's."""
        self._slot.complete(job, connection, result)

    def steps_of(self, job: Job, method: str) -> Any:
        """Refuse: steps are for a handler of one job."""
        raise NeoqError(
            f"job.{method}() is for a handler that takes one job; this one was given to listen_many()",
            queue=job.queue,
            job_id=job.id,
        )

    def members(self, job: Job) -> Any:
        """The members of the batch whose callback the job is."""
        return self._slot.members(job)

    def look_back(self, job: Job) -> None:
        """Learn how many retries the job had when it got on for the last time."""
        self._slot.look_back(job)


class ManyRunner(Runner):
    """One thread that calls a handler with many jobs."""

    _ready: Sequence[Job] = ()  # the jobs of the call that runs

    def called_with(self, job: Job) -> Sequence[Job]:
        """All jobs of the call, for the one that stands for them."""
        return self._ready or [job]

    def _learn(self) -> None:
        """Always take as many as a call may have: they are one piece of work."""
        self._chunk = 0

    def _work(self, context: Context) -> bool:
        """Call the handler until the thread is to end; False: a call has spoiled the context."""
        pool, slot, listener = self.pool, self.slot, self.pool.listener
        assert isinstance(listener, ManyListener)
        spoiled = listener.surroundings.spoiled
        while True:
            self._size = listener.many.size
            if not self.ahead and not self._next_chunk():
                return True
            self._gather(listener.many)
            if pool.stopping:
                self._give_back()
                continue
            for jobs in _calls(list(self.together), listener.many.by_key):
                self._call(jobs, listener)
                if slot.abandoned:
                    return True  # another thread has this place by now
            if context and spoiled(context):
                return False

    def _gather(self, many: Many) -> None:
        """Take up to ``size`` jobs, and wait for them no longer than ``wait`` after the first."""
        clock = self.pool.clock
        until = clock.monotonic() + many.wait
        while True:
            while self.ahead and len(self.together) < many.size:
                try:
                    self.together.append(self.ahead.popleft())
                except IndexError:  # another runner took it
                    break
            missing, left = many.size - len(self.together), until - clock.monotonic()
            if not self.together or missing <= 0 or left <= 0 or self.pool.stopping:
                return
            self._size = missing
            if not self._take():
                self._park(left)

    def _give_back(self) -> None:
        jobs, self.together = [*self.together, *self.ahead], []
        self.ahead.clear()
        if jobs:
            self.pool.source.settle([given_back(job) for job in jobs])

    def _call(self, jobs: list[Job], listener: ManyListener) -> None:
        """Call the handler with those jobs that may still start, and settle each."""
        slot, watchdog = self.slot, self.pool.watchdog
        if self.pool.stopping:
            self._give_back()
            return
        started, ready = listener.clock.time(), []
        for job in jobs:
            if job.cancel_asked or (job.expires is not None and started + job.clock_skew >= job.expires):
                self._settle(job, Ending(job, listener, slot, watchdog).not_started(started))
            else:
                ready.append(job)
        if not ready:
            return
        call, self._ready = _standing_for(ready), ready
        members = [_Member(slot, job, call) for job in ready]
        until = slot.plan(call, listener.timeout, started)
        for job, member in zip(ready, members, strict=True):
            job.slot, job.started = member, started
        if until < watchdog.wakes_at:
            watchdog.expect(until)
        _, error, asked = called(slot, call, listener.call_many, list(ready))
        if slot.abandoned:
            return
        for job, member in zip(ready, members, strict=True):
            job.slot = slot
            self._end(job, listener, started, member.error if error is None else error, asked)
        self._ready = ()

    def _end(
        self,
        job: Job,
        listener: ManyListener,
        started: float,
        error: BaseException | None,
        asked: Interrupt | None,
    ) -> None:
        if self.slot.abandoned:
            return
        if error is None and not job.completed:
            job.finished_on = listener.clock.time()
            self.together.remove(job)
            self.done.append(job)
            return
        ending = Ending(job, listener, self.slot, self.pool.watchdog)
        self._settle(job, ending.otherwise(started, error, asked, None))

    def _settle(self, job: Job, outcome: Any) -> None:
        if outcome is None or job not in self.together:  # the thread that replaced this one settles it
            return
        self.together.remove(job)
        self.processed += 1
        self.pool.source.settle([outcome])

    def settle_abandoned(self, job: Job, asked: Interrupt) -> Judged:
        """Settle every job of an abandoned call.

        Where the call had returned, and what follows hangs for one of its jobs, the others are given back.
        """
        jobs, self.together = self.together, []
        over, listener = job in jobs, self.pool.listener
        judged: list[Judged] = []
        for one in jobs:
            if over and one is not job:
                judged.append((given_back(one), None, say_nothing))
                continue
            judged.append(abandoned(one, listener, self.slot, asked))
            if judged[-1][1] is not None or self.slot.uncounted:
                listener.failed()
        self.pool.source.settle([outcome for outcome, _, _ in judged])
        for one, (_, error, say) in zip(jobs, judged, strict=True):
            say()
            if error is not None:
                self.pool.run_callback(listener.call_on_error, one, error)
        return judged[-1][0], None, say_nothing


def checked_many(size: Any, wait: Any, by_key: Any) -> Many:
    """How jobs are gathered. Raises InvalidJobError for a wrong argument of `Backend.listen_many`."""
    checked_choice("by_key", by_key, (True, False))
    seconds = to_seconds("wait", wait)
    if not 0 <= seconds <= LONGEST:
        raise InvalidJobError(f"wait is {wait!r}; it takes seconds (or a timedelta) from 0 to {LONGEST}")
    return Many(checked_int("size", size, 1, MOST), seconds, by_key)


def calling_many(listener: Listener, many: Many) -> ManyListener:
    """A listener whose handler takes many jobs."""
    made = ManyListener.__new__(ManyListener)
    made.__dict__.update(listener.__dict__)
    made.many = many
    made.wrap(())
    return made


def _standing_for(jobs: list[Job]) -> Job:
    """The job under which a call runs, by the number of the first."""
    first = jobs[0]
    call = blank(first.queue)
    call.id, call.body, call.due, call.created = first.id, b"{}", first.due, first.created
    call.clock_skew = first.clock_skew
    return call


def _calls(jobs: list[Job], by_key: bool) -> Iterator[list[Job]]:
    """The jobs of each call: all of them, or those of one key."""
    if not by_key:
        yield jobs
        return
    of_key: dict[str | None, list[Job]] = {}
    for job in jobs:
        of_key.setdefault(job.key, []).append(job)
    yield from of_key.values()
