"""Spans in memory: fingerprints that are held for so long, whatever became of their jobs."""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING

from neoq.job import Job
from neoq.memory.queues import Key, Records
from neoq.record import FINISHED

if TYPE_CHECKING:
    from neoq.clock import Clock


class Spans:
    """The fingerprints of one queue whose jobs are unique for a span; callers hold the lock of the table."""

    def __init__(self, holders: dict[Key, int], records: Records, clock: Clock) -> None:
        self._holders = holders
        self._records = records
        self.hashed = False  # the holders go by their fingerprints
        self._clock = clock
        self._ends: list[tuple[float, int]] = []
        self._keys: dict[int, tuple[Key, str]] = {}  # of each job whose span is not over, and its fingerprint

    def begin(self, job: Job, key: Key) -> None:
        """Hold the fingerprint of a job that was accepted."""
        self.expire()
        self._keys[job.id] = key, job.fingerprint
        heappush(self._ends, ((job.created or 0.0) + (job.unique_for or 0.0), job.id))

    def fingerprint(self, job_id: int) -> str:
        """The fingerprint of a job whose span is not over."""
        return self._keys[job_id][1]

    def holds(self, job_id: int) -> bool:
        """Whether a job keeps its fingerprint although it has ended."""
        self.expire()
        return job_id in self._keys

    def expire(self) -> None:
        """Free the fingerprints whose span is over, if their jobs have ended."""
        now = self._clock.time()
        while self._ends and self._ends[0][0] <= now:
            job_id = heappop(self._ends)[1]
            key = self._keys.pop(job_id)[self.hashed]
            record = self._records.get(job_id)
            ended = record is None or (isinstance(record, Job) and record.status in FINISHED)
            if ended and self._holders.get(key) == job_id:
                del self._holders[key]
