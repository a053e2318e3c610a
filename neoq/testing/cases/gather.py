"""Gathers: a job that waits for children, which are added in the step that holds it."""

from __future__ import annotations

import time

import pytest

from neoq.backend import Backend
from neoq.filter import Filter
from neoq.held.group import Batch, Group
from neoq.held.step import Step
from neoq.record import Status
from neoq.testing.cases.holding import (
    HeldSuite,
    come,
    group,
    hold,
    in_group,
    nothing_comes,
    outcome,
    running,
    settle,
    tend,
)
from neoq.testing.cases.seam import claim, look
from neoq.testing.cases.suite import LATER, eventually, id_of, needs


class GatherCases(HeldSuite):
    """Outcomes that hold a job until those that follow have ended."""

    @needs("batches")
    @pytest.mark.parametrize("queue", ["p", "q"])
    def test_a_job_waits_for_its_children(self, idle: Backend, queue: str) -> None:
        """A job that holds a round is due when the last child of it has ended, and not before."""
        parent = running(idle)
        hold(idle, parent, *(in_group(parent, queue, number=1, place=place) for place in range(3)))
        found = look(idle, parent)
        assert (found.status, found.held, found.holds) == (Status.PENDING, "children", 1)
        for child in come(idle, 3, queue):
            assert nothing_comes(idle)
            settle(idle, [child], result=b"1")
        [again] = come(idle)
        assert (again.id, again.held, again.holds, again.counted) == (parent.id, None, 1, True)
        assert (again.retries, again.crashes) == (0, 0)
        assert group(idle, parent, 1) == Batch(3, succeeded=3, open=False)

    @needs("batches")
    def test_no_children(self, idle: Backend) -> None:
        """A job that waits for no children is due at once."""
        parent = running(idle)
        hold(idle, parent)
        assert [job.id for job in come(idle)] == [parent.id]
        assert group(idle, parent, 1) == Batch(0, open=False)

    @needs("batches")
    def test_children_that_do_not_succeed(self, idle: Backend) -> None:
        """Children that are dead, cancelled or deleted have ended, and are found by their places."""
        parent = running(idle)
        hold(idle, parent, *(in_group(parent, "p", number=1, place=place) for place in range(4)))
        children = come(idle, 4, "p")
        settle(idle, children[:1], result=b"[0]")
        settle(idle, children[1:2], Status.DEAD)
        settle(idle, children[2:3], Status.CANCELLED)
        settle(idle, children[3:], Status.PENDING, run_after=time.time() + LATER)
        assert nothing_comes(idle)
        idle.store.change([id_of(children[3])], "delete")
        [again] = come(idle)
        assert again.id == parent.id
        found = idle.store.find(Filter(group=Group(id_of(parent), 1).name)).jobs
        assert {job.group: job.status for job in found} == {
            f"{parent.id}/1/0": Status.SUCCEEDED,
            f"{parent.id}/1/1": Status.DEAD,
            f"{parent.id}/1/2": Status.CANCELLED,
        }

    @needs("batches")
    def test_one_gather_after_another(self, idle: Backend) -> None:
        """What becomes of a child of an earlier round changes nothing in a later one."""
        parent = running(idle)
        hold(idle, parent, in_group(parent, "p", number=1, place=0))
        [child] = come(idle, queue="p")
        settle(idle, [child], Status.DEAD)
        [parent] = come(idle)
        hold(idle, parent, in_group(parent, "p", number=2, place=0), number=2)
        [second] = come(idle, queue="p")
        idle.store.change([id_of(child)], "retry")
        settle(idle, come(idle, queue="p"))
        assert nothing_comes(idle)
        assert group(idle, parent, 1) == Batch(1, dead=1, open=False)
        settle(idle, [second])
        [parent] = come(idle)
        assert parent.holds == 2
        assert group(idle, parent, 2) == Batch(1, succeeded=1, open=False)

    @needs("batches")
    def test_children_of_children(self, idle: Backend) -> None:
        """A child that gathers itself ends when it has gone on, and only then."""
        parent = running(idle)
        hold(idle, parent, in_group(parent, "p", number=1, place=0))
        [child] = come(idle, queue="p")
        hold(idle, child, in_group(child, "r", number=1, place=0))
        settle(idle, come(idle, queue="r"))
        assert nothing_comes(idle)
        settle(idle, come(idle, queue="p"))
        assert [job.id for job in come(idle)] == [parent.id]

    @needs("batches")
    def test_a_lease_that_was_lost_adds_no_children(self, idle: Backend) -> None:
        """An outcome under a lease that is not current holds nothing and adds nothing."""
        parent = running(idle)
        late = outcome(parent, Status.PENDING, holds=1, follow=(in_group(parent, "p", number=1, place=0),))
        settle(idle, [parent], Status.PENDING, run_after=parent.due)
        assert idle.store.settle([late]) == {parent.id}
        assert nothing_comes(idle, "p")
        [parent] = come(idle)
        assert idle.store.settle([late]) == {parent.id}
        assert nothing_comes(idle, "p")
        settle(idle, [parent])

    @needs("batches")
    def test_a_gather_settled_twice(self, idle: Backend) -> None:
        """An outcome with children that is recorded again adds none again."""
        parent = running(idle)
        gather = outcome(parent, Status.PENDING, holds=1, follow=(in_group(parent, "p", number=1, place=0),))
        assert idle.store.settle([gather]) == set()
        idle.store.settle([gather])
        [child] = come(idle, queue="p")
        assert nothing_comes(idle, "p")
        idle.store.settle([gather])
        settle(idle, [child])
        assert [job.id for job in come(idle)] == [parent.id]
        assert group(idle, parent, 1) == Batch(1, succeeded=1, open=False)

    @needs("batches")
    def test_a_parent_that_is_cancelled(self, idle: Backend) -> None:
        """With a job that waits its children are cancelled that have not ended."""
        parent = running(idle)
        hold(
            idle,
            parent,
            *(in_group(parent, "p", number=1, place=place) for place in range(2)),
            in_group(parent, "p", number=1, place=2, run_after=LATER),
        )
        [child, _] = come(idle, 2, "p")
        settle(idle, [child])
        assert parent.id in idle.store.change([id_of(parent)], "cancel").done
        assert look(idle, parent).status is Status.CANCELLED
        wanted = Filter(group=Group(id_of(parent), 1).name, statuses=frozenset({Status.CANCELLED}))

        def one_is_cancelled() -> bool:
            tend(idle)
            return len(idle.store.find(wanted).jobs) == 1

        eventually(one_is_cancelled, "the child that waits for its time is cancelled")
        assert nothing_comes(idle, "p")
        assert nothing_comes(idle)

    @needs("batches")
    def test_a_gather_with_a_time(self, idle: Backend) -> None:
        """A job that waits for children until a time is due at it."""
        parent = running(idle)
        child = in_group(parent, "p", number=1, place=0)
        hold(idle, parent, child, run_after=time.time() + 0.05)
        [again] = come(idle)
        assert (again.id, again.held) == (parent.id, None)
        assert time.time() >= (again.due or 0.0)
        settle(idle, [again])
        assert nothing_comes(idle)
        assert nothing_comes(idle, "p")

    @needs("batches")
    def test_a_parent_cancelled_as_it_suspends(self, idle: Backend) -> None:
        """A job that was cancelled as it ran, and then waits for children, is CANCELLED, and so are they."""
        parent = running(idle)
        idle.store.change([id_of(parent)], "cancel")
        hold(idle, parent, in_group(parent, "p", number=1, place=0))
        assert look(idle, parent).status is Status.CANCELLED
        assert nothing_comes(idle, "p")
        assert nothing_comes(idle)

    @needs("batches", "steps")
    def test_steps_with_a_gather(self, idle: Backend) -> None:
        """The steps of an outcome that waits for children are recorded with it."""
        parent = running(idle)
        hold(idle, parent, in_group(parent, "p", number=1, place=0), steps=(Step("gather:a", b"1"),))
        assert [(step.name, step.data) for step in idle.store.steps(id_of(parent))] == [("gather:a", b"1")]
        settle(idle, come(idle, queue="p"))
        [again] = come(idle)
        assert again.steps == 1

    @needs("batches")
    def test_the_results_of_children_are_kept(self, idle: Backend) -> None:
        """Children that have succeeded are kept while their parent runs, whatever the settings keep."""
        parent = running(idle)
        hold(idle, parent, in_group(parent, "p", number=1, place=0))
        settle(idle, come(idle, queue="p"), result=b'"well"')
        [again] = come(idle)
        idle.store.prune()
        [child] = idle.store.find(Filter(group=Group(id_of(parent), 1).name)).jobs
        assert child.result == "well"
        settle(idle, [again], Status.RETRYING, run_after=time.time())
        tend(idle)
        idle.store.prune()
        assert len(idle.store.find(Filter(group=Group(id_of(parent), 1).name)).jobs) == 1
        assert len(claim(idle)) == 1
