"""Batch: the jobs of one call of ``enqueue`` or ``enqueue_many``, and which others they may not meet."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from neoq.errors import InvalidJobError
from neoq.job import DuplicateJobError, Job, refuse_unknown
from neoq.record import JobOptions


@dataclass(slots=True)
class Batch:
    """What one call is about to store.

    ``jobs`` are not stored yet: ``meta``, ``priority``, ``timeout`` and ``max_retries`` may be assigned.
    ``many`` tells ``enqueue_many`` from ``enqueue``, whose batch has one job. ``transaction`` is the
    caller's connection, or None.
    """

    jobs: list[Job]
    many: bool
    transaction: Any = None

    def through(self, middleware: Sequence[BatchMiddleware], last: Callable[[Batch], list[Job]]) -> list[Job]:
        """Call middleware around each other, the first outermost, and ``last`` inside."""

        def store() -> list[Job]:
            for job in self.jobs:
                job.described()
            return last(self)

        if not middleware:
            return last(self)
        call = store
        for layer in reversed(middleware):
            call = _around(layer, self, call)
        return call()


BatchMiddleware = Callable[[Batch, Callable[[], list[Job]]], list[Job]]


def _around(
    middleware: BatchMiddleware, batch: Batch, inner: Callable[[], list[Job]]
) -> Callable[[], list[Job]]:
    return lambda: middleware(batch, inner)


def taken_by(holder: Job, uid: str | None = None) -> DuplicateJobError:
    """The error for a job that must not be a duplicate but is: by its fingerprint, or by this uid."""
    if not holder.id:  # it has none yet
        holder_is = "an earlier job of the same call has"
    else:
        holder_is = f"job {holder.id} of {holder.queue!r} is {holder.status.name} and has"
    return DuplicateJobError(
        f"{holder_is} that fingerprint" if uid is None else f"{holder_is} the uid {uid!r}", job=holder
    )


def must_not_meet(job: Job, holder: Job) -> bool:
    """Whether an enqueue is refused since this other job has its uid."""
    return holder.queue != job.queue or job.on_duplicate == "raise"


def refuse_taken_uids(jobs: Sequence[Job], known: Mapping[str, Job]) -> None:
    """Raise DuplicateJobError for the first job whose uid is one of those known, or of an earlier job."""
    holders = dict(known)
    for job in jobs:
        if job.uid is not None:
            holder = holders.setdefault(job.uid, job)
            if holder is not job and must_not_meet(job, holder):
                raise taken_by(holder, job.uid)


def listed(jobs: Any, call: str = "enqueue_many") -> list[Any]:
    """What a call was given to add, as a list; InvalidJobError for what is no list of anything."""
    if not isinstance(jobs, Iterable) or isinstance(jobs, (str, bytes, Mapping)):
        raise InvalidJobError(f"{call} got {jobs!r:.80}; it takes a list of Job objects")
    return list(jobs)


def refreshed(jobs: list[Any]) -> list[Job]:
    """Jobs that were not enqueued yet, each of them another object."""
    refreshed: dict[int, Job] = {}
    for place, job in enumerate(jobs):
        if not isinstance(job, Job):
            raise InvalidJobError(
                f"job {place} of the list is {job!r:.80}; it takes Job objects: Job(queue, payload)"
            )
        fresh = job.fresh()
        if id(fresh) in refreshed:  # it is in the list twice
            fresh = fresh.snapshot()
        refreshed[id(fresh)] = fresh
    return list(refreshed.values())


def given(job: Any, payload: Any, options: JobOptions) -> Job:
    """The job to store for what ``enqueue`` was given."""
    if not isinstance(job, Job):
        try:
            return Job(job, payload, **options)
        except TypeError:
            refuse_unknown("enqueue", options)
            raise
    if payload is not None or options:
        extra = ", ".join([*(["payload"] if payload is not None else []), *options])
        raise InvalidJobError(f"enqueue(job) takes everything from the Job; {extra} was given beside it")
    return job.fresh()
