"""Fingerprints that are taken for a span after their job was accepted; see `Record.unique_for`."""

from __future__ import annotations

from neoq.job import Job
from neoq.sqlite.groups import duplicate_of
from neoq.sqlite.session import Session
from neoq.store import taken_by

_SPENT = "select job from neoq_spent where queue = ? and fingerprint = ? and until > ?"


def meet(session: Session, job: Job) -> Job | None:
    """The job into whose span a new one falls; None where there is none."""
    if job.unique is False:
        return None
    row = session.do(_SPENT, (job.queue, job.fingerprint, session.now)).fetchone()
    if row is None:
        return None
    there = duplicate_of(session, job, row[0])
    if job.on_duplicate == "raise":
        raise taken_by(there)
    return there


def begin(session: Session, job: Job) -> None:
    """Take the fingerprint of a job that was stored, for its span."""
    until = job.created + job.unique_for  # type: ignore[operator]  # accepted jobs have the one, this the other
    session.do(
        "insert or replace into neoq_spent values (?,?,?,?)", (job.queue, job.fingerprint, job.id, until)
    )
    session.tail.spans = True


def is_spent(session: Session, job: Job) -> bool:
    """Whether a job falls into the span of another one."""
    found = session.do(_SPENT, (job.queue, job.fingerprint, session.now)).fetchone()
    return job.unique is not False and found is not None


def forget(session: Session) -> None:
    """Forget spans that are over."""
    session.do("delete from neoq_spent where until < ?", (session.now,))
