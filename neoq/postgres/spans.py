"""Fingerprints that jobs hold for a time in PostgreSQL, and how long replacements may put a job off."""

from __future__ import annotations

from collections.abc import Sequence

from neoq.job import Job
from neoq.postgres.add import Adder, duplicate_of
from neoq.postgres.find import Finder
from neoq.postgres.rows import held
from neoq.postgres.statements import Statements
from neoq.postgres.transactions import Transaction
from neoq.record import Status


def have_spans(jobs: Sequence[Job]) -> bool:
    """Whether some jobs are unique for a time, or may be put off so long at most."""
    return any(job.special and (job.unique_for is not None or job.max_delay is not None) for job in jobs)


class SpanAdder:
    """Adds jobs that have spans."""

    def __init__(self, statements: Statements, adder: Adder, finder: Finder) -> None:
        self._statements = statements
        self._adder = adder
        self._finder = finder

    def add(self, jobs: Sequence[Job], token: bytes) -> list[Job]:
        """Add jobs, all or none, in a transaction of our own."""
        self._adder.name_queues({job.queue for job in jobs})  # on a connection of its own: before ours
        added = self._adder.committed(token, lambda joined: self.join(joined, jobs, token))
        self._adder.remember(token, added)
        return added

    def join(self, joined: Transaction, jobs: Sequence[Job], token: bytes = b"") -> list[Job]:
        """Add any jobs inside a transaction; its commit notifies all processes."""
        tokens = [token] * len(jobs) if token else []
        if not have_spans(jobs):
            return self._adder.add_joined(joined, jobs, tokens)
        met = self._met(joined, jobs)
        rest = [job for place, job in enumerate(jobs) if place not in met]
        others = self._adder.add_joined(joined, rest, tokens[: len(rest)]) if rest else []
        self._settle(joined, rest, others)
        new = iter(others)
        return [met[place] if place in met else next(new) for place in range(len(jobs))]

    def _met(self, joined: Transaction, jobs: Sequence[Job]) -> dict[int, Job]:
        """By the places of jobs those that have ended, and hold their fingerprints for a time."""
        values = {
            "queues": joined.arrays.texts([job.queue for job in jobs]),
            "holds": joined.arrays.uuids([None if job.unique_for is None else held(job) for job in jobs]),
        }
        rows = joined(self._statements.spent_by, values, "nn")
        found = {job.id: job for job in self._finder.of_ids([job_id for _, job_id in rows])} if rows else {}
        met = {}
        for place, job_id in rows:
            job = jobs[place - 1]
            holder = found.get(job_id)
            if job.on_duplicate == "raise":
                raise duplicate_of(holder, job_id)
            there = (holder or job).snapshot()
            if holder is None:
                there.id, there.status = job_id, Status.CANCELLED
            there.duplicate = True
            met[place - 1] = there
        return met

    def _settle(self, joined: Transaction, jobs: Sequence[Job], added: Sequence[Job]) -> None:
        spent = [
            (new.id, job.unique_for)
            for job, new in zip(jobs, added, strict=True)
            if job.unique_for is not None and not new.duplicate
        ]
        replaced = [
            (new.id, job.max_delay)
            for job, new in zip(jobs, added, strict=True)
            if job.max_delay is not None and new.duplicate and job.on_duplicate == "replace"
        ]
        arrays = joined.arrays
        values = {
            "ids": arrays.int8s([job_id for job_id, _ in spent]),
            "spans": arrays.float8s([span for _, span in spent]),
            "replaced": arrays.int8s([job_id for job_id, _ in replaced]),
            "delays": arrays.float8s([delay for _, delay in replaced]),
        }
        joined(self._statements.settle_spans, values, "n")
