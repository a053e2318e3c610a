"""All that is known in memory of one queue; its callers hold the lock of the table."""

from __future__ import annotations

import threading

from neoq.job import Job, blank
from neoq.memory.limited import Limited
from neoq.memory.queues import Key, ReadyQueue, Records, job_of, snapshot
from neoq.memory.spans import Spans
from neoq.record import Status
from neoq.store import QueueCounts


class QueueState:
    """All that the memory backend knows of one queue."""

    def __init__(self, queue: str, lock: threading.RLock, records: Records) -> None:
        self.queue = queue
        self.records = records
        self.ready = ReadyQueue(lock, records)
        self.holders: dict[Key, int] = {}  # the id of the unfinished job of each fingerprint
        self.paused = False
        self.blocked: list[int] = []  # how many jobs each waiting producer needs room for
        self.scheduled = 0  # waiting for their time
        self.held = 0  # waiting for others to end, or for a signal
        self.retrying = 0  # waiting for their next attempt
        self.running = 0
        self.succeeded = 0
        self.dead = 0
        self.cancelled = 0
        self.hashed = False  # the keys of `holders` are fingerprints
        self.frees_early = False  # there are jobs that are unique until started
        self.limited: Limited | None = None  # what its limits hold back, if it has any
        self.spans: Spans | None = None  # fingerprints that are held longer than their jobs last
        self.plenty: float = 0  # up to so many ready jobs there is room, whatever the runners hold

    def key(self, job: Job) -> Key:
        """What stands for a job's fingerprint here: mostly the payload itself, which spares the hashing.

        A custom fingerprint could equal another job's hash only if it looks like one; from the first such
        on, this queue compares the real fingerprints.
        """
        own = job.own_fingerprint
        if self.hashed:
            return job.fingerprint
        if own is None:
            return job.body  # type: ignore[return-value]
        if len(own) == 32:
            self._hash()
        return own

    def _hash(self) -> None:
        """Compare fingerprints from now on."""
        hashed: dict[Key, int] = {}
        for job_id in self.holders.values():
            record = self.records.get(job_id)
            if record is not None:
                hashed[snapshot(record).fingerprint] = job_id
            elif self.spans is not None:  # it is known no more
                hashed[self.spans.fingerprint(job_id)] = job_id
        self.holders.clear()  # in place: a caller may have the dict in its hand
        self.holders.update(hashed)
        self.hashed = True
        if self.spans is not None:
            self.spans.hashed = True

    def holder_of(self, job: Job) -> int | None:
        """The job that has another one's fingerprint: one that is unfinished, or whose span is not over."""
        if self.spans is not None:
            self.spans.expire()
        return self.holders.get(self.key(job))

    def known(self, job_id: int) -> Job:
        """A job that has a fingerprint; where it is known no more, what stands for it."""
        record = self.records.get(job_id)
        if record is not None:
            return snapshot(record)
        job = blank(self.queue)
        job.id, job.status = job_id, Status.CANCELLED
        return job

    def holder(self, fingerprint: str) -> int | None:
        """The unfinished job that has a fingerprint."""
        if len(fingerprint) == 32 and not self.hashed and fingerprint not in self.holders:
            self._hash()  # it may be the hash of a payload
        return self.holders.get(fingerprint)

    def free(self, job: Job) -> None:
        """Give up a job's fingerprint, if it is still the one that has it."""
        if self.spans is not None and self.spans.holds(job.id):
            return
        key = self.key(job)
        if self.holders.get(key) == job.id:
            del self.holders[key]

    def record(self, job_id: int) -> Job | None:
        """A job's record, to be changed: one that is plain is so no longer."""
        job = self.records.get(job_id)
        if job.__class__ is not tuple:
            return job  # type: ignore[return-value]
        record = job_of(job)
        self.ready.swap(record)
        return record

    def waits(self, job: Job, one: int) -> None:
        """Count a job in (1) or out (-1) that waits for its time."""
        if job.held is not None:
            self.held += one
        elif job.status is Status.RETRYING:
            self.retrying += one
        else:
            self.scheduled += one

    def counts(self) -> QueueCounts:
        """The queue in numbers."""
        return QueueCounts(
            self.queue,
            ready=len(self.ready),
            scheduled=self.scheduled,
            retrying=self.retrying,
            running=self.running,
            succeeded=self.succeeded,
            dead=self.dead,
            cancelled=self.cancelled,
            paused=self.paused,
            held=self.held,
        )
