"""Jobs that are to be added, in parts: each of one queue, and as a script takes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from neoq.job import Job
from neoq.redis.keys import MOST
from neoq.redis.rows import record_of
from neoq.redis.scripts import AT_ONCE
from neoq.store import taken_by
from neoq.times import latest

TOGETHER = MOST  # jobs of one queue that are added all or none
BYTES_AT_ONCE = 256 * 1024  # of payload in one script, unless one job has more
MEETS = {"return": b"r", "raise": b"e", "replace": b"p"}


class Part:
    """Some jobs of one queue in a batch, and their places in it.

    After the part was added, its jobs are those in the store: a duplicate is replaced by the job that holds
    its fingerprint.
    """

    def __init__(self, queue: str, places: list[int], jobs: list[Job]) -> None:
        self.queue = queue
        self.places = places
        self.jobs = jobs

    def pieces(self) -> list[Part]:
        """The part in pieces of one script each."""
        ends, size, start = [], 0, 0
        for at, job in enumerate(self.jobs):
            size += len(job.body or b"")
            if at > start and (at - start == AT_ONCE or size > BYTES_AT_ONCE):
                ends.append(at)
                start, size = at, len(job.body or b"")
        if not ends:
            return [self]
        return [
            Part(self.queue, self.places[start:end], self.jobs[start:end])
            for start, end in pairwise([0, *ends, len(self.jobs)])
        ]


def count_spans(job: Job, now: float) -> None:
    """Count a job's spans from the time on the server's clock, which decides when they end."""
    for asked, name in ((job.asked_run_after, "due"), (job.asked_deadline, "expires")):
        if asked[1] is not None:
            setattr(job, name, latest(now + asked[1]))


def is_for_add(job: Job, group: str | None = None) -> bool:
    """Whether only add.lua knows what to do with a job; others know of one ``group``."""
    if job.group != group:
        return True
    usual = job.uid is None and job.key is None and job.unique_for is None and job.max_delay is None
    return not usual


def described(job: Job, meets: bytes, *, named: bool = False) -> tuple[Any, ...]:
    """A job as add.lua takes it; ``meets`` says what becomes of it where it is a duplicate.

    A member of a ``named`` batch is known by its fingerprint.
    """
    if job.unique_for is not None:
        meets += b"u%.6f" % job.unique_for
    if job.max_delay is not None:
        meets += b"d%.6f" % job.max_delay
    record, _, payload = record_of(job)
    return (
        meets,
        int(job.waits),
        repr(job.due),
        record,
        payload or b"",
        job.uid or "",
        job.fingerprint if named else "",
    )


def parts_of(jobs: Sequence[Job]) -> Iterator[Part]:
    """Jobs by queue, in parts that are added all or none."""
    by_queue: dict[str, Part] = {}
    seen: set[int] = set()
    for place, job in enumerate(jobs):
        part = by_queue.get(job.queue)
        if part is None:
            part = by_queue[job.queue] = Part(job.queue, [], [])
        part.places.append(place)
        part.jobs.append(job.snapshot() if id(job) in seen else job)  # one Job may be in a batch twice
        seen.add(id(job))
    for part in by_queue.values():
        for start in range(0, len(part.jobs), TOGETHER):
            end = start + TOGETHER
            yield Part(part.queue, part.places[start:end], part.jobs[start:end])


def must_be_free(part: Part) -> list[bytes]:
    """The fingerprints of the jobs that must not be duplicates: otherwise none of the part is added."""
    return [job.fingerprint.encode() for job in part.jobs if must_be_new(job)]


def must_be_new(job: Job) -> bool:
    """Whether nothing is added where a job is a duplicate."""
    return bool(job.unique) and job.on_duplicate == "raise"


def refuse_twins(parts: list[Part]) -> None:
    """An on_duplicate="raise" that equals an earlier job of its batch aborts all of it."""
    seen: dict[tuple[str, str], Job] = {}
    for part in parts:
        for job in part.jobs:
            if job.unique:
                first = seen.setdefault((job.queue, job.fingerprint), job)
                if first is not job and job.on_duplicate == "raise":
                    raise taken_by(first)
