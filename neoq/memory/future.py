"""Where jobs in memory wait for their time: in two heaps, and by one timer.

All of it is guarded by the one lock of its backend; see `neoq.memory.queues`.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

from neoq.job import Job
from neoq.memory.queues import SPARE, Records, is_void
from neoq.threads.loop import Logger, Loop

if TYPE_CHECKING:
    from neoq.clock import Clock

Entry = tuple[float, int, Job]


class FutureJobs:
    """Jobs whose time has not come.

    Far ones lie in a heap that the scheduler thread looks at every ``interval``; those due within the
    window move to the near heap, whose head has one armed timer. So a wake costs what is due, and a
    million waiting jobs cost no thread.
    """

    def __init__(
        self,
        lock: threading.RLock,
        records: Records,
        clock: Clock,
        *,
        interval: float,
        window: float,
        release: Callable[[], None],
        log: Logger,
    ) -> None:
        self._lock = lock
        self._records = records
        self._clock = clock
        self._interval = interval
        self._horizon = max(window, 2 * interval)  # whatever the window, nobody is promoted too late
        self._release = release
        self._far: list[Entry] = []
        self._near: list[Entry] = []
        self._alarms: list[tuple[float, str, str]] = []  # when a limit lets go on a queue, or a line of it
        self._serial = itertools.count()
        self._void = 0
        self._timer = HeadTimer(clock, release, log)
        self._scheduler = Loop("neoq-scheduler", self._watch, log)
        self._drift = clock.time() - clock.monotonic()
        self._held = False

    def push(self, job: Job, at: float | None = None) -> None:
        """Record a job, and let it wait for its time, or for another one."""
        job.waits = True
        due: float = job.due if at is None else at  # type: ignore[assignment]
        entry = (due, next(self._serial), job)
        heap = self._far if due - self._clock.time() > self._horizon else self._near
        self._records[job.id] = job
        heappush(heap, entry)
        if heap is self._near and self._near[0] is entry:
            self._arm()
        if not self._scheduler.wanted:
            self._start()

    def pop_due(self) -> list[Job]:
        """Remove and return the jobs whose time has come, in its order."""
        now = self._clock.time()
        self._promote(now)
        due = []
        near = self._near
        while near and near[0][0] <= now:
            job = heappop(near)[-1]
            if self._void and is_void(job, self._records):
                self._void -= 1
            else:
                job.waits = False
                due.append(job)
        self._arm()
        return due

    def alarm(self, at: float, queue: str, key: str = "") -> None:
        """Have `pop_alarms` tell at a time that jobs of a queue, or of one line in it, may go on."""
        heappush(self._alarms, (at, queue, key))
        self._arm()
        if not self._scheduler.wanted:
            self._start()

    def pop_alarms(self) -> set[tuple[str, str]]:
        """Remove and return the queues and lines whose time has come."""
        now, come = self._clock.time(), set()
        while self._alarms and self._alarms[0][0] <= now:
            come.add(heappop(self._alarms)[1:])
        self._arm()
        return come

    def _promote(self, now: float) -> None:
        far, near, until = self._far, self._near, now + self._horizon
        while far and far[0][0] <= until:
            heappush(near, heappop(far))

    def next_due(self) -> float | None:
        """When the next one is due, or None (a void entry may be taken for one)."""
        return min((heap[0][0] for heap in (self._near, self._far, self._alarms) if heap), default=None)

    def void(self, job_id: int, record: Job | None) -> None:
        """Count one entry out, whose job has another record now, or none."""
        if record is None:
            del self._records[job_id]
        else:
            self._records[job_id] = record
        self._void += 1
        if self._void > SPARE and self._void * 2 > len(self._far) + len(self._near):
            for heap in (self._far, self._near):
                heap[:] = [entry for entry in heap if not is_void(entry[-1], self._records)]
                heapify(heap)
            self._void = 0

    def hold(self, held: bool) -> None:
        """Let nobody but the caller of `pop_due` look at the time, or go on."""
        self._held = held
        self._timer.arm(None)
        if not held and (self._near or self._far or self._alarms):
            self._start()
            self._arm()

    def close(self) -> None:
        """Stop both threads and wait for them; called without the lock."""
        self._timer.cancel()
        self._scheduler.close()
        self._timer.join(1.0)
        self._scheduler.join(1.0)

    def _arm(self) -> None:
        if not self._held:
            heads = [heap[0][0] for heap in (self._near, self._alarms) if heap]
            self._timer.arm(min(heads, default=None))

    def _start(self) -> None:
        if self._held:
            return
        self._arm()
        self._timer.start()
        self._scheduler.start()

    def _watch(self) -> float:
        """Promote far jobs, and notice a wall clock that was set, every ``interval``."""
        with self._lock:
            self._promote(self._clock.time())
            drift = self._clock.time() - self._clock.monotonic()
            jumped, self._drift = abs(drift - self._drift) > 0.001, drift
            if jumped or self._near or self._alarms:
                self._arm()
        return self._interval


class HeadTimer(Loop):
    """One timer for the head of a heap: it can be set to another time while it waits.

    A Timer for each job would be a thread for each job.
    """

    def __init__(self, clock: Clock, release: Callable[[], None], log: Logger) -> None:
        super().__init__("neoq-timer", self._look, log)
        self._clock = clock
        self._release = release
        self._due: float | None = None

    def arm(self, due: float | None) -> None:
        """Fire at ``due`` (seconds since the epoch), or never."""
        self._due = due
        self.wake()

    def cancel(self) -> None:
        """Let the thread end."""
        self.close()

    def _look(self) -> float | None:
        """Release the head if its time has come; the wall clock is read at each turn."""
        due = self._due
        left = None if due is None else due - self._clock.time()
        if left is not None and left <= 0:
            self._release()
            return 0.0
        return left
