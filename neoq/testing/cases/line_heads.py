"""Heads of lines, and the jobs behind them, that are cancelled, whatever state they are in."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from neoq.backend import Backend
from neoq.held.limits import Limits, Line
from neoq.job import Job
from neoq.record import Status
from neoq.testing.cases.holding import (
    HeldSuite,
    add,
    come,
    come_in_turn,
    hold,
    in_group,
    nothing_comes,
    settle,
)
from neoq.testing.cases.lines import ONE, ORDERED, keyed, limit, line_up
from neoq.testing.cases.seam import look
from neoq.testing.cases.suite import LATER, id_of, needs


def waits(_idle: Backend, _head: Job) -> None:
    """Leave the head as it is."""


def retries(idle: Backend, head: Job) -> None:
    """Let the head wait for its next attempt."""
    settle(idle, [head], Status.RETRYING, run_after=time.time() + LATER)


def snoozes(idle: Backend, head: Job) -> None:
    """Let the head wait for a time."""
    settle(idle, [head], Status.PENDING, run_after=time.time() + LATER)


def gathers(idle: Backend, head: Job) -> None:
    """Let the head wait for a child."""
    hold(idle, head, in_group(head, "p", number=1, place=0))


def awaits(idle: Backend, head: Job) -> None:
    """Let the head wait for a signal."""
    settle(idle, [head], Status.PENDING, awaits="signal:x")


HEADS = (waits, retries, snoozes, gathers, awaits)


class CancelledHeadCases(HeldSuite):
    """cancel, of heads and of what is behind them."""

    @needs("limits", "batches", "steps")
    @pytest.mark.parametrize("become", HEADS)
    def test_cancelling_a_head(self, idle: Backend, become: Callable[[Backend, Job], None]) -> None:
        """A head that is cancelled as it waits for anything lets its line go on, in its order."""
        jobs = line_up(idle, ORDERED)
        if become is not waits:
            become(idle, come(idle)[0])
            assert nothing_comes(idle)
        assert jobs[0].id in idle.store.change([id_of(jobs[0])], "cancel").done
        assert look(idle, jobs[0]).status is Status.CANCELLED
        come_in_turn(idle, (1, 2))

    @needs("limits")
    def test_cancelling_a_head_that_runs(self, idle: Backend) -> None:
        """A head that is cancelled as it runs keeps its turn until its attempt has ended."""
        line_up(idle, ORDERED)
        [head] = come(idle)
        idle.store.change([id_of(head)], "cancel")
        assert nothing_comes(idle)
        settle(idle, [head], Status.CANCELLED)
        [job] = come(idle)
        assert job.payload["n"] == 1

    @needs("limits")
    def test_cancelling_a_dead_head(self, idle: Backend) -> None:
        """Cancel does nothing to a dead head: it holds its line until it is retried or deleted."""
        line_up(idle, ORDERED)
        [head] = come(idle)
        settle(idle, [head], Status.DEAD)
        assert idle.store.change([id_of(head)], "cancel").done == set()
        assert nothing_comes(idle)
        assert idle.store.lines("q") == [Line("q", "a", "dead", head.id, 2)]
        assert look(idle, head).status is Status.DEAD
        idle.store.change([id_of(head)], "delete")
        [job] = come(idle)
        assert job.payload["n"] == 1

    @needs("limits", "batches", "steps")
    @pytest.mark.parametrize("become", HEADS)
    def test_cancelling_behind_a_head(self, idle: Backend, become: Callable[[Backend, Job], None]) -> None:
        """A job that is cancelled in line is passed over, whatever the head does meanwhile."""
        jobs = line_up(idle, ORDERED)
        [head] = come(idle)
        become(idle, head)
        assert idle.store.change([id_of(jobs[1])], "cancel").done == {jobs[1].id}
        assert look(idle, jobs[1]).status is Status.CANCELLED
        assert nothing_comes(idle)
        if become is waits:
            settle(idle, [head])
        else:
            idle.store.change([id_of(head)], "cancel")
        [job] = come(idle)
        assert job.payload["n"] == 2

    @needs("limits")
    def test_cancelling_behind_a_dead_head(self, idle: Backend) -> None:
        """A job that is cancelled behind a dead head is passed over once the line goes on."""
        jobs = line_up(idle, ORDERED)
        [head] = come(idle)
        settle(idle, [head], Status.DEAD)
        assert idle.store.change([id_of(jobs[1])], "cancel").done == {jobs[1].id}
        assert nothing_comes(idle)
        assert idle.store.lines("q") == [Line("q", "a", "dead", head.id, 1)]
        idle.store.change([id_of(head)], "delete")
        [job] = come(idle)
        assert job.payload["n"] == 2

    @needs("limits")
    def test_how_heads_that_wait_are_shown(self, idle: Backend) -> None:
        """A head that is snoozed waits, and one that is to be tried again is retrying."""
        line_up(idle, ORDERED, "snoozes", 2)
        snoozes(idle, come(idle)[0])
        line_up(idle, ORDERED, "retries", 2)
        retries(idle, come(idle)[0])
        states = {line.key: line.state for line in idle.store.lines("q")}
        assert states == {"snoozes": "waiting", "retries": "retrying"}


class OverrideCases(HeldSuite):
    """Limits of an operator that are none."""

    @needs("limits")
    @pytest.mark.parametrize("limits", [ONE, ORDERED])
    def test_an_operator_lifts_limits(self, idle: Backend, limits: Limits) -> None:
        """Limits that an operator has lifted hold no job back, until those of the listeners hold again."""
        line_up(idle, limits)
        [first] = come(idle)
        idle.store.limit("q", Limits(), by_listener=False)
        limit(idle, limits)  # another worker that starts
        rest = come(idle, 2)
        settle(idle, [first, *rest])
        assert idle.store.limits().get("q", Limits()) == Limits()
        add(idle, *(keyed("a", n) for n in range(3, 6)))
        settle(idle, come(idle, 3))
        idle.store.limit("q", None, by_listener=False)
        add(idle, keyed("a", 6), keyed("a", 7))
        [job] = come(idle)
        assert job.payload["n"] == 6
        assert nothing_comes(idle)


class FairnessCases(HeldSuite):
    """Whose turn it is, of several keys."""

    @needs("limits")
    @pytest.mark.parametrize("slots", [1, 2])
    def test_a_newcomer_among_backlogs(self, idle: Backend, slots: int) -> None:
        """A newcomer waits behind at most as many jobs of each active key as may run at once."""
        limits = ONE._replace(per_key=slots)
        limit(idle, limits)
        add(idle, *(keyed(key, n) for n in range(6) for key in "abc"))
        settle(idle, come(idle, 2))
        [new] = add(idle, keyed("new", 99))
        before: dict[str | None, int] = {}
        while (job := come_one(idle)).id != new.id:
            before[job.key] = before.get(job.key, 0) + 1
            settle(idle, [job])
        assert all(count <= slots for count in before.values()), before


def come_one(idle: Backend) -> Job:
    """The next job that can be claimed."""
    [job] = come(idle)
    return job
