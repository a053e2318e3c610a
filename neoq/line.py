"""JobLine: a job as a line of a list, with the beginning of its payload."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from neoq.job import Job
from neoq.payload import CANNOT_OPEN, is_coded
from neoq.record import FINISHED, Held, Status

PREVIEW = 1024  # bytes of a payload, at most
_ELLIPSIS = "…"


@dataclass(frozen=True)
class JobLine:
    """A job without its payload, its result and its traceback, which may be large.

    ``preview`` is the payload as JSON, at most 1 KB of it. One that is longer ends with "…". The other fields
    are those of `Job`.
    """

    id: int
    uid: str | None
    queue: str
    kind: str | None
    key: str | None
    status: Status
    preview: str
    priority: int
    attempt: int
    retries: int
    max_retries: int | None
    crashes: int
    error: str | None
    worker: str | None
    created_at: datetime | None
    run_after: datetime | None
    ran_at: datetime | None
    finished_at: datetime | None
    held: Held | None = None

    @property
    def finished(self) -> bool:
        """Whether the job has succeeded, died or been cancelled."""
        return self.status in FINISHED


def line_of(job: Job) -> JobLine:
    """The line of a job, of whose payload as stored the first kilobyte and a byte more are enough."""
    return JobLine(
        id=job.id,
        uid=job.uid,
        queue=job.queue,
        kind=job.kind,
        key=job.key,
        status=job.status,
        preview=_preview(job.body or b""),
        priority=job.priority,
        attempt=job.attempt,
        retries=job.retries,
        max_retries=job.max_retries,
        crashes=job.crashes,
        error=job.error,
        worker=job.worker,
        created_at=job.created_at,
        run_after=job.run_after,
        ran_at=job.ran_at,
        finished_at=job.finished_at,
        held=job.held,
    )


def _preview(body: bytes) -> str:
    if is_coded(body):
        return CANNOT_OPEN
    if len(body) <= PREVIEW:
        return body.decode("utf-8", "replace")
    room = PREVIEW - len(_ELLIPSIS.encode())
    return body[:room].decode("utf-8", "ignore") + _ELLIPSIS
