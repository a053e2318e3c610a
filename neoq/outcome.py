"""Outcome: how an attempt ended, under which lease, and what a store writes of it into a record."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from neoq.attempts import one_more
from neoq.held.step import Step
from neoq.job import Job
from neoq.record import FINISHED, Status

WORKER_DIED = "WorkerDied: the process ended, or was silent for as long as a lease"


class Lease(NamedTuple):
    """The right to settle one job: ``token`` is drawn at each claim, so an older claim's no longer fits.

    ``due`` is when the job became due, as its store has it: by that waiting is measured. ``counted`` is
    `Record.counted` of the claimed job: its end concerns more than itself.
    """

    job_id: int
    queue: str
    token: int
    progress: tuple[float, str] | None = None
    due: float | None = None
    counted: bool = False


class Failure(NamedTuple):
    """Why an attempt failed."""

    type: str
    message: str
    traceback: str


ROLLED_BACK = Failure("RolledBack", "the transaction that job.complete() settled it in was rolled back", "")


class Outcome(NamedTuple):
    """How an attempt ended; the policy is already decided.

    ``status`` is SUCCEEDED, DEAD, CANCELLED, RETRYING (failed, again at ``run_after``) or PENDING (given
    back or snoozed). ``charged`` says whether the attempt counts as a retry. Times are seconds since the
    epoch on this process's clock. ``failed_attempts`` takes the place of what the job has
    there; None leaves it.

    ``follow`` are jobs that are added in the same atomic step, or durably so that each will be added once.
    PENDING with ``holds``, the number of a round, holds the job until all of its group of that round have
    ended: those in ``follow``, in which the group is sealed. With ``awaits``, the name of a signal as a step
    ("signal:approval"), it is held until that has come; it is due at once where it has. Both are due at
    ``run_after``, too, or None: never by time. ``steps`` are recorded in the same atomic step, whatever the
    status; where a job SUCCEEDED or is CANCELLED its steps are dropped instead.
    """

    lease: Lease
    status: Status
    run_after: float | None = None
    charged: bool = False
    started_at: float | None = None
    finished_at: float | None = None
    failure: Failure | None = None
    result: bytes | None = None
    follow: tuple[Job, ...] = ()
    failed_attempts: bytes | None = None
    holds: int | None = None
    awaits: str | None = None
    steps: tuple[Step, ...] = ()


def lease_of(job: Job) -> Lease:
    """The lease of a job that was claimed here."""
    return Lease(job.id, job.queue, job.token, job.progress_report, job.due, job.counted)


def succeeded(job: Job) -> Outcome:
    """The outcome of a job that has run and succeeded here."""
    return Outcome(
        lease_of(job), Status.SUCCEEDED, None, False, job.started, job.finished_on, None, job.result_body
    )


def given_back(job: Job) -> Outcome:
    """The outcome of a job that was claimed here and not started."""
    return Outcome(lease_of(job), Status.PENDING, job.due)


class Successes(Sequence[Outcome]):
    """The outcomes of jobs of one queue that have run and succeeded here, each made where it is looked at.

    `MemStore.settle` looks at the jobs instead. With an Outcome for each, a job there would cost half as much
    again: 24,000 instructions in place of 15,000 from claim to settle.
    """

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.jobs = jobs

    def __len__(self) -> int:
        return len(self.jobs)

    def __getitem__(self, place: Any) -> Any:
        return (
            list(map(succeeded, self.jobs))[place]
            if isinstance(place, slice)
            else succeeded(self.jobs[place])
        )

    def __iter__(self) -> Iterator[Outcome]:
        return map(succeeded, self.jobs)


def record_outcome(job: Job, outcome: Outcome, now: float) -> None:
    """Write into the record of a running job how its attempt ended, as `Store.settle` is to.

    A job that was cancelled while it ran, and has not finished, is CANCELLED: it does not run again.
    """
    status = outcome.status
    if job.cancel_asked and status not in FINISHED:
        status = Status.CANCELLED
    job.started = outcome.started_at or (job.started if job.retries else None)
    job.retries += outcome.charged
    job.result_body = outcome.result
    job.progress_report = outcome.lease.progress or job.progress_report
    if outcome.run_after is not None:
        job.due = outcome.run_after
    if outcome.failure is not None:
        job.error = f"{outcome.failure.type}: {outcome.failure.message}"
        job.traceback = outcome.failure.traceback
    job.failed_attempts = outcome.failed_attempts or job.failed_attempts
    _end_lease(job, status, outcome.finished_at or now)


def record_crash(job: Job, max_crashes: int, now: float) -> None:
    """Write into the record of a running job that its worker died, as `Store.reclaim` is to."""
    job.crashes += 1
    job.failed_attempts = crashed(job, now)
    status = Status.RETRYING if job.retries else Status.PENDING
    if job.cancel_asked:
        status = Status.CANCELLED
    elif job.crashes >= max_crashes:
        status = Status.DEAD
        job.error = f"WorkerDied: {job.crashes} workers died while they ran it (max_crashes)"
    _end_lease(job, status, now)


def crashed(job: Job, now: float) -> bytes:
    """The failed attempts of a running job whose worker died, with that one."""
    return one_more(job.failed_attempts, WORKER_DIED, started=job.started, finished=now, worker=job.worker)


def _end_lease(job: Job, status: Status, now: float) -> None:
    job.status, job.token, job.worker, job.cancel_asked = status, 0, None, False
    if status in FINISHED:
        job.finished_on = now
    else:
        job.progress_report = None
