"""Ends of a batch that two workers report at the same instant."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest

from neoq.backend import Backend
from neoq.held.group import Batch
from neoq.job import Job
from neoq.testing.cases.holding import (
    HeldSuite,
    add,
    come,
    hold,
    in_group,
    nothing_comes,
    open_batch,
    seal,
    sealed,
    settle,
)
from neoq.testing.cases.seam import claim
from neoq.testing.cases.suite import PATIENCE, Make, id_of, in_threads, needs

Workers = Sequence[Backend]  # two of them, on one store; a store in one process has the same one twice


def end_the_last_two_at_once(workers: Workers) -> None:
    """Let each worker end one of the last two members of a batch; the callback must be due once."""
    first = workers[0]
    holder, _ = sealed(first, 2)
    jobs = [come(worker)[0] for worker in workers]
    in_threads(2, lambda number: settle(workers[number], [jobs[number]]))
    [callback] = come(first, queue="then")
    assert callback.id == holder.id
    assert nothing_comes(first, "then")
    settle(first, [callback])


def end_children_and_their_parent_at_once(workers: Workers) -> None:
    """Let both workers count what has ended: two children, then their parent, which is a batch's member."""
    first = workers[0]
    holder = open_batch(first)
    add(first, in_group(holder))
    seal(first, holder)
    [parent] = come(first)
    hold(first, parent, *(in_group(parent, "p", number=1, place=place) for place in range(2)))
    children = [come(worker, queue="p")[0] for worker in workers]
    parents: list[Job] = []
    callbacks: list[tuple[Backend, Job]] = []  # each with who has it

    def end_all(number: int) -> None:
        worker, give_up = workers[number], time.monotonic() + PATIENCE
        settle(worker, [children[number]])
        while not callbacks:
            assert time.monotonic() < give_up, f"the parent came {len(parents)} times, the callback never"
            worker.store.tend()
            for job in claim(worker, 1):
                parents.append(job)
                assert worker.store.group(id_of(job), 1) == Batch(2, succeeded=2, open=False)
                settle(worker, [job])
            callbacks.extend((worker, job) for job in claim(worker, 1, "then"))

    in_threads(2, end_all)
    assert [job.id for job in parents] == [parent.id]
    assert [job.id for _, job in callbacks] == [holder.id]
    assert first.store.group(id_of(holder)) == Batch(1, succeeded=1, open=False)
    assert nothing_comes(first)
    assert nothing_comes(first, "then")
    for worker, callback in callbacks:
        settle(worker, [callback])


class BatchRaceCases(HeldSuite):
    """Two workers that end what a batch waits for, a few times; the tests of neoq do it a thousand times."""

    @pytest.fixture
    def workers(self, idle: Backend, join: Make) -> Workers:
        """Two workers of one store that run nothing by themselves."""
        if "shared" not in self.features:
            return [idle, idle]
        other = join(idle, autostart=False)
        other.queues()
        return [idle, other]

    @needs("batches")
    def test_the_last_two_end_at_once(self, workers: Workers) -> None:
        """Where the last two members end at the same instant the callback is due once."""
        for _ in range(10):
            end_the_last_two_at_once(workers)

    @needs("batches")
    def test_children_and_their_parent_end_at_once(self, workers: Workers) -> None:
        """Where two workers count ends at once, children count before their parent, and all count once."""
        for _ in range(5):
            end_children_and_their_parent_at_once(workers)
