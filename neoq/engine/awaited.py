"""The jobs that threads of this process wait for, and how such a thread hears that its job has changed."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from neoq.job import Job
from neoq.outcome import Outcome
from neoq.record import FINISHED
from neoq.threads.lifecycle import await_change


@dataclass(eq=False)
class AwaitedJob:
    """What one thread waits for: the end of a job, or any change of it.

    ``seen`` is the job as that thread saw it last, ``outcome`` how it ended if that was in this process.
    """

    job_id: int
    every_change: bool
    changed: threading.Condition
    news: int = 0  # counted, so that the thread sees that it missed one
    seen: Job | None = None
    outcome: Outcome | None = None


def state_of(job: Job) -> tuple[Any, ...]:
    """What a thread that watches a job is to see."""
    return job.status, job.retries, job.crashes, job.progress()


class AwaitedJobs:
    """Every wait of this process; ``by_id`` is empty where nothing is waited for, and quick to look at."""

    def __init__(self, lock: threading.RLock) -> None:
        self._lock = lock
        self.by_id: dict[int, list[AwaitedJob]] = {}

    def __bool__(self) -> bool:
        return bool(self.by_id)

    def of(self, job_id: int) -> list[AwaitedJob]:
        """The waits for one job."""
        with self._lock:
            return list(self.by_id.get(job_id, ()))

    def ids(self, *, every_change: bool | None = None) -> list[int]:
        """The jobs that are waited for; those whose end, or whose every change, if that is given."""
        with self._lock:
            if every_change is None:
                return list(self.by_id)
            return [
                job_id
                for job_id, awaited in self.by_id.items()
                if any(one.every_change for one in awaited) is every_change
            ]

    @contextmanager
    def awaiting(self, job_id: int, *, every_change: bool) -> Iterator[AwaitedJob]:
        """Around a wait: inside, its thread hears of changes."""
        awaited = AwaitedJob(job_id, every_change, threading.Condition(self._lock))
        with self._lock:
            self.by_id.setdefault(job_id, []).append(awaited)
        try:
            yield awaited
        finally:
            with self._lock:
                left = self.by_id[job_id]
                left.remove(awaited)
                if not left:
                    del self.by_id[job_id]

    def wait(self, awaited: AwaitedJob, news: int, seconds: float) -> None:
        """Wait until something is known to have changed since ``news``, at most so long."""
        await_change(self._lock, awaited.changed, lambda: awaited.news == news, seconds)

    def note_outcomes(self, outcomes: Iterable[Outcome], stale: set[int]) -> None:
        """Outcomes were recorded here: remember the ends, which the store may not."""
        with self._lock:
            for outcome in outcomes:
                job_id = outcome.lease.job_id
                for awaited in () if job_id in stale else self.by_id.get(job_id, ()):
                    if outcome.status in FINISHED:
                        awaited.outcome = outcome
                    _tell(awaited)

    def note_changed(self, job_ids: Iterable[int] | None) -> None:
        """Let the threads that wait for these jobs look again; None: all."""
        with self._lock:
            for job_id in list(self.by_id) if job_ids is None else job_ids:
                for awaited in self.by_id.get(job_id, ()):
                    _tell(awaited)

    def note_found(self, job_ids: Sequence[int], found: Mapping[int, Job]) -> None:
        """The store was asked for these jobs: let those threads look for which this is news."""
        with self._lock:
            for job_id in job_ids:
                job = found.get(job_id)
                for awaited in self.by_id.get(job_id, ()):
                    if job is None or job.finished or _is_news(awaited, job):
                        _tell(awaited)


def _is_news(awaited: AwaitedJob, job: Job) -> bool:
    return awaited.every_change and awaited.seen is not None and state_of(job) != state_of(awaited.seen)


def _tell(awaited: AwaitedJob) -> None:
    awaited.news += 1
    awaited.changed.notify_all()
