"""What a block of code enqueued."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from neoq.job import Job
from neoq.testing.manual import ManualRunner, after_add

if TYPE_CHECKING:
    from neoq.backend import Backend


@contextmanager
def enqueued(backend: Backend) -> Iterator[list[Job]]:
    """A list of the jobs that the block enqueued, in their order; duplicates are not in it.

    None of them runs, and at the end of the block they are dropped. Inside `inline` or `clock` they run as
    there, and stay. One that was enqueued with ``transaction=`` leaves the list at a rollback.
    """
    jobs: list[Job] = []

    def record(added: list[Job]) -> list[Job]:
        jobs.extend(job for job in added if not job.duplicate)
        return added

    def drop(ids: set[int]) -> None:
        jobs[:] = [job for job in jobs if job.id not in ids]

    with ExitStack() as stack:
        alone = backend.engine.manual_run is None
        if alone:
            stack.enter_context(ManualRunner(backend).threads_suspended())
            stack.callback(lambda: [backend.delete(job.id) for job in jobs if job.id is not None])
        transactions = stack.enter_context(after_add(backend, record, joined=record))
        transactions.on_rollback.append(drop)
        stack.callback(transactions.on_rollback.remove, drop)
        yield jobs
