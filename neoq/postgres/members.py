"""Members of batches: by what a named batch knows them, and what is done with those that it has."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b

from neoq.errors import BackendError, BatchClosedError
from neoq.job import Job


def print_of(job: Job) -> bytes | None:
    """By what a named batch knows a member; None for a job that is none, or comes from a member."""
    if job.group is None or not job.producer:
        return None
    own = job.own_fingerprint
    what = b"\0" + (job.body or b"") if own is None else own.encode()
    return blake2b(f"{job.queue}\0{job.kind}\0".encode() + what, digest_size=16).digest()


def closed(job_id: int) -> BatchClosedError:
    """The error for a batch that takes no members."""
    return BatchClosedError(
        f"batch {job_id} takes no more members: its block has ended, it was stopped or cancelled, or another "
        "process has opened it again",
        job_id=job_id,
    )


def meet_members(
    known: Mapping[int, int], jobs: Sequence[Job], add: Callable[[list[Job], list[int]], list[int]]
) -> list[int]:
    """Add the jobs that named batches do not have; as `Adder._insert_or_meet` for all of them."""
    first: dict[tuple[str | None, bytes | None], int] = {}
    for place, job in enumerate(jobs):
        if place not in known:
            first.setdefault((job.group, print_of(job) or place.to_bytes(8, "big")), place)
    places = list(first.values())
    rest = [jobs[place] for place in places]
    holders = dict(known)
    if len(rest) == len(jobs):
        raise BackendError("a batch has such a member, and nobody knows which: add it again")
    if rest:
        holders |= dict(zip(places, add(rest, places), strict=True))
    for place, job in enumerate(jobs):
        if place not in holders:
            there = first[job.group, print_of(job)]
            holders[place] = holders[there] or jobs[there].id or 0
    return [holders[place] for place in range(len(jobs))]
