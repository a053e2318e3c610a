"""Children: the jobs that a job runs and waits for, as their end is told to it."""

from __future__ import annotations

from collections.abc import Sequence

from neoq.errors import NeoqError
from neoq.job import Job, blank
from neoq.record import Status

DELETED = "deleted"  # the error of a child that somebody has deleted
NOT_ADDED = "duplicate: a job with its fingerprint or uid was there already, so this one was not added"


class ChildFailed(NeoqError):
    """The job of a `Job.call` ended DEAD or CANCELLED; ``job`` is how it ended."""

    def __init__(self, job: Job) -> None:
        why = f": {job.error}" if job.error else ""
        which = f"job {job.id} of {job.queue!r}" if job.id else "the job"
        super().__init__(
            f"{which} that was called is {job.status.name}{why}", queue=job.queue, job_id=job.id or None
        )
        self.job = job


def stand_ins(places: Sequence[int], given: Sequence[Job], unstored: int) -> dict[int, Job]:
    """By their places what stands for children that are not there.

    So many of them were never stored, since they were duplicates; somebody has deleted the others.
    ``given`` are the jobs of the gather, as the handler gives them now.
    """
    by_place = {place: given[place] for place in places if place < len(given)}
    unique = {place for place, job in by_place.items() if _may_meet_another(job)}
    suspects = unique if len(unique) >= unstored else set(places)
    sure = NOT_ADDED if len(suspects) == unstored else f"{DELETED}, or a {NOT_ADDED}"
    found = {}
    for place in places:
        queue = by_place[place].queue if place in by_place else ""
        found[place] = _stand_in(queue, sure if unstored and place in suspects else DELETED)
    return found


def _may_meet_another(job: Job) -> bool:
    return bool(job.says_unique and job.unique) or job.own_fingerprint is not None or job.uid is not None


def _stand_in(queue: str, error: str) -> Job:
    job = blank(queue)
    job.id, job.body = 0, b"{}"
    job.status, job.error = Status.CANCELLED, error
    job.duplicate = error == NOT_ADDED
    job.due = job.created = 0.0
    return job
