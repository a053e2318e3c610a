"""A queue in memory that has limits: how many of its jobs may be claimed now."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from neoq.held.limits import Limits
from neoq.job import Job
from neoq.memory.lines import Lines
from neoq.record import Status

if TYPE_CHECKING:
    from neoq.clock import Clock
    from neoq.memory.future import FutureJobs
    from neoq.memory.queues import ReadyQueue, Records


class Limited:
    """The limits of one queue, and what they hold back; callers hold the lock of the table."""

    def __init__(
        self, queue: str, ready: ReadyQueue, records: Records, clock: Clock, future: FutureJobs
    ) -> None:
        self._queue = queue
        self._ready = ready
        self._records = records
        self._clock = clock
        self._future = future
        self._tat = 0.0
        self._alarm = 0.0  # the latest that was set
        self.asked: dict[bool, Limits] = {}  # by listeners (True), by an operator (False)
        self.lines: Lines | None = None

    @property
    def limits(self) -> Limits:
        """Those that hold now."""
        return self.asked.get(False) or self.asked.get(True) or Limits()

    def may_claim(self, limit: int, running: int) -> int:
        """How many of the ready jobs may be claimed now, at most ``limit``, beside those that run."""
        limits = self.limits
        if limits.max_running is not None:
            limit = min(limit, limits.max_running - running)
        if limits.rate is not None and limit > 0 and self._ready.length:
            limit = min(limit, limits.rate.allowed(self._tat, self._clock.time()))
            if limit == 0 and self._alarm < (earliest := limits.rate.earliest(self._tat)):
                self._alarm = earliest
                self._future.alarm(earliest, self._queue)
        return limit

    def claimed(self, jobs: Sequence[Job]) -> None:
        """Jobs were handed out, and have been counted as running."""
        rate = self.limits.rate
        if rate is not None and jobs:
            self._tat = rate.after(self._tat, self._clock.time(), len(jobs))
        if self.lines is not None:
            self.lines.claimed(jobs)

    def apply(self, before: Limits, running: int) -> list[int]:
        """Go over to the limits that were asked for; return dead jobs that hold their lines no more."""
        limits = self.limits
        self._alarm = 0.0  # the next one may be earlier
        if limits.aging != before.aging:
            self._ready.age(limits.aging)
        if limits.rate != before.rate:
            self._tat = 0.0  # what another rate has used up does not count
        freed: list[int] = []
        if self.lines is not None:
            freed = self.lines.change(limits)
            if not limits.by_key:
                self.lines = None
        elif limits.by_key:
            self.lines = Lines(self._ready, self._records, self._clock, self._let_go_on)
            self.lines.limits = limits
            self._form_lines(self.lines, running)
        return freed

    def _form_lines(self, lines: Lines, running: int) -> None:
        if running:
            for job in list(self._records.values()):
                if isinstance(job, Job) and job.status is Status.RUNNING and job.queue == self._queue:
                    lines.adopt(job)
        for entry in self._ready.empty_out():
            if isinstance(entry, Job) and entry.key is not None:
                lines.enter(entry)
            else:
                self._ready.push(entry)

    def _let_go_on(self, at: float, key: str) -> None:
        self._future.alarm(at, self._queue, key)
