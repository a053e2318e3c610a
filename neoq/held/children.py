"""Children: the jobs that a job runs and waits for, as their end is told to it."""

from __future__ import annotations

from neoq.errors import NeoqError
from neoq.job import Job, blank
from neoq.record import Status

DELETED = "deleted"  # the error of a child that somebody has deleted


class ChildFailed(NeoqError):
    """The job of a `Job.call` ended DEAD or CANCELLED; ``job`` is how it ended."""

    def __init__(self, job: Job) -> None:
        why = f": {job.error}" if job.error else ""
        which = f"job {job.id} of {job.queue!r}" if job.id else "the job"
        super().__init__(
            f"{which} that was called is {job.status.name}{why}", queue=job.queue, job_id=job.id or None
        )
        self.job = job


def forgotten(queue: str) -> Job:
    """What stands for a child that was deleted."""
    job = blank(queue)
    job.id, job.body = 0, b"{}"
    job.status, job.error = Status.CANCELLED, DELETED
    job.due = job.created = 0.0
    return job
