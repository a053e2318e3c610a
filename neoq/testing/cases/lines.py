"""Lines: the jobs of one key, of which only some may be ready or running at once."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

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
    group,
    hold,
    in_group,
    nothing_comes,
    open_batch,
    outcome,
    seal,
    settle,
    tend,
)
from neoq.testing.cases.seam import claim, look, numbers
from neoq.testing.cases.suite import LATER, eventually, id_of, in_threads, needs, prepared

ORDERED = Limits(ordered=True)
GOES_ON = Limits(ordered=True, hold_dead=False)
ONE, TWO = Limits(per_key=1), Limits(per_key=2)


def keyed(key: str | None, n: int, queue: str = "q", **keywords: Any) -> Job:
    """Make a job of a key, as the engine hands it to the store."""
    return prepared(queue, {"n": n}, **{"unique": False, "key": key, **keywords})


def line_up(idle: Backend, limits: Limits, key: str = "a", count: int = 3) -> list[Job]:
    """Add jobs of one key, 0, 1, ..., to a queue with limits."""
    limit(idle, limits)
    return add(idle, *(keyed(key, n) for n in range(count)))


def limit(idle: Backend, limits: Limits | None) -> None:
    """Set the limits of the queue, as a listener does."""
    idle.store.limit("q", limits, by_listener=True)


def came(idle: Backend) -> list[int]:
    """The numbers of the jobs that can be claimed now, after all that a heartbeat does."""
    tend(idle)
    return numbers(claim(idle))


class OrderedCases(HeldSuite):
    """Ordered queues: of one key one job after another."""

    @needs("limits")
    def test_one_of_a_key_after_another(self, idle: Backend) -> None:
        """Of one key one job is claimed at a time, in the order of enqueue; others meanwhile."""
        limit(idle, ORDERED)
        add(idle, *(keyed(key, n) for n, key in enumerate(["a", "a", "b", None, None, "a"])))
        jobs = come(idle, 4)
        assert numbers(jobs) == [0, 2, 3, 4]
        assert nothing_comes(idle)
        settle(idle, jobs[1:])
        assert nothing_comes(idle)
        settle(idle, jobs[:1])
        for n in (1, 5):
            [job] = come(idle)
            assert (job.payload["n"], job.key, job.counted) == (n, "a", True)
            assert nothing_comes(idle)
            settle(idle, [job])

    @needs("limits")
    def test_a_job_in_line_is_ready(self, idle: Backend) -> None:
        """Jobs that wait in line are held by it, and count as ready."""
        jobs = line_up(idle, ORDERED)
        tend(idle)
        assert [(found.status, found.held) for found in (look(idle, job) for job in jobs[1:])] == [
            (Status.PENDING, "line"),
            (Status.PENDING, "line"),
        ]
        assert look(idle, jobs[0]).held is None
        [counts] = [counts for counts in idle.store.counts() if counts.queue == "q"]
        assert (counts.ready, counts.held, counts.scheduled) == (3, 0, 0)
        settle(idle, come(idle))
        [counts] = [counts for counts in idle.store.counts() if counts.queue == "q"]
        assert (counts.ready, counts.held, counts.scheduled) == (2, 0, 0)

    @needs("limits")
    @pytest.mark.parametrize("status", [Status.RETRYING, Status.PENDING])
    def test_a_head_keeps_its_turn(self, idle: Backend, status: Status) -> None:
        """A head that is to be retried, or is snoozed, keeps its turn until it has ended."""
        line_up(idle, ORDERED)
        add(idle, keyed("b", 9))
        jobs = come(idle, 2)
        settle(idle, jobs[1:])
        settle(idle, jobs[:1], status, run_after=time.time() + 0.5)
        assert nothing_comes(idle)
        [head] = come(idle)
        assert head.payload["n"] == 0
        settle(idle, [head], Status.PENDING, run_after=head.due)
        [head] = come(idle)
        assert head.payload["n"] == 0
        assert nothing_comes(idle)
        settle(idle, [head])
        assert numbers(come(idle)) == [1]

    @needs("limits")
    @pytest.mark.parametrize("end", ["retry", "delete"])
    def test_a_dead_head_holds_its_line(self, idle: Backend, end: str) -> None:
        """A dead head holds its line until it is retried, in its old place, or deleted."""
        line_up(idle, ORDERED)
        [head] = come(idle)
        settle(idle, [head], Status.DEAD)
        assert nothing_comes(idle)
        assert idle.store.lines("q") == [Line("q", "a", "dead", head.id, 2)]
        assert idle.stats().held_lines == 1
        add(idle, keyed("a", 3), keyed("b", 9))
        assert numbers(come(idle)) == [9]
        assert nothing_comes(idle)
        assert idle.store.change([id_of(head)], end).done == {head.id}  # type: ignore[arg-type]
        order = [0, 1, 2, 3] if end == "retry" else [1, 2, 3]
        come_in_turn(idle, order)

    @needs("limits")
    def test_a_head_that_died_just_now(self, idle: Backend) -> None:
        """A head that dies and is retried before anybody claims is shown as dead, and keeps its place."""
        line_up(idle, ORDERED)
        [head] = come(idle)
        settle(idle, [head], Status.DEAD)
        assert idle.store.lines("q") == [Line("q", "a", "dead", head.id, 2)]
        idle.store.change([id_of(head)], "retry")
        come_in_turn(idle, range(3))

    @needs("limits")
    @pytest.mark.parametrize(
        ("limits", "status"),
        [(GOES_ON, Status.DEAD), (ORDERED, Status.CANCELLED), (GOES_ON, Status.SUCCEEDED)],
    )
    def test_an_end_that_frees_the_line(self, idle: Backend, limits: Limits, status: Status) -> None:
        """A head that has succeeded or is cancelled frees its line, and a dead one without hold_dead."""
        line_up(idle, limits)
        come_in_turn(idle, range(3), status)
        assert idle.store.lines("q") == []

    @needs("limits")
    def test_a_future_job_joins_when_it_is_due(self, idle: Backend) -> None:
        """A job for later holds nobody up, and joins its line when it is due."""
        limit(idle, ORDERED)
        add(idle, keyed("a", 0, run_after=0.6), keyed("a", 1), keyed("a", 2, run_after=LATER))
        [first] = come(idle)
        assert first.payload["n"] == 1
        due = datetime.now(UTC) + timedelta(seconds=0.6)
        eventually(lambda: datetime.now(UTC) > due, "the job for later is due")
        assert nothing_comes(idle)
        settle(idle, [first])
        [second] = come(idle)
        assert second.payload["n"] == 0
        settle(idle, [second])
        assert nothing_comes(idle)

    @needs("limits")
    def test_priority_in_a_line(self, idle: Backend) -> None:
        """In a line the higher priority goes first, then what was due earlier, then what was added."""
        limit(idle, ORDERED)
        add(idle, keyed("a", 0))
        [head] = come(idle)
        now = datetime.now(UTC)
        add(idle, keyed("a", 4), keyed("a", 5), keyed("a", 3, run_after=now - timedelta(seconds=5)))
        add(idle, keyed("a", 1, priority=2), keyed("a", 2, priority=1), keyed("a", 6, priority=-1))
        for n in range(1, 7):
            settle(idle, [head])
            [head] = come(idle)
            assert head.payload["n"] == n
            assert nothing_comes(idle)

    @needs("limits")
    @pytest.mark.parametrize("action", ["cancel", "delete"])
    def test_what_leaves_its_line(self, idle: Backend, action: str) -> None:
        """A job that is cancelled or deleted in line, or at its head before it runs, frees its place."""
        limit(idle, ORDERED)
        jobs = add(idle, *(keyed("a", n, unique=True, fingerprint=str(n)) for n in range(4)))
        ids = [id_of(job) for job in jobs]
        assert idle.store.change(ids[1:2], action).done == set(ids[1:2])  # type: ignore[arg-type]
        assert idle.store.change(ids[:1], action).done == set(ids[:1])  # type: ignore[arg-type]
        assert not add(idle, keyed("a", 9, unique=True, fingerprint="1"))[0].duplicate
        come_in_turn(idle, (2, 3, 9))

    @needs("limits")
    def test_replacing_a_job_in_line(self, idle: Backend) -> None:
        """A job in line can be replaced, and keeps the line's rule."""
        limit(idle, ORDERED)
        add(idle, *(keyed("a", n, unique=True, fingerprint=str(n)) for n in range(3)))
        again = keyed("a", 11, unique=True, fingerprint="1", on_duplicate="replace")
        assert add(idle, again)[0].duplicate
        order = []
        for _ in range(3):
            [job] = come(idle)
            order.append(job.payload["n"])
            assert nothing_comes(idle)
            settle(idle, [job])
        assert sorted(order) == [0, 2, 11]

    @needs("limits")
    def test_a_paused_queue_with_lines(self, idle: Backend) -> None:
        """A pause holds lines, too, and they go on after it."""
        line_up(idle, ORDERED)
        [head] = come(idle)
        idle.store.set_paused("q", True)
        settle(idle, [head])
        assert nothing_comes(idle)
        idle.store.set_paused("q", False)
        assert numbers(come(idle)) == [1]

    @needs("limits")
    @pytest.mark.parametrize("action", ["run", "retry"])
    def test_nobody_jumps_the_line(self, idle: Backend, action: str) -> None:
        """Neither a run nor a retry by hand lets a job in line start before its turn."""
        jobs = line_up(idle, ORDERED)
        [head] = come(idle)
        idle.store.change([id_of(job) for job in jobs[1:]], action)  # type: ignore[arg-type]
        assert nothing_comes(idle)
        settle(idle, [head])
        assert numbers(come(idle)) == [1]

    @needs("limits")
    def test_jobs_from_before_the_limits(self, idle: Backend) -> None:
        """Jobs that were enqueued before their queue had limits form lines, too."""
        add(idle, *(keyed("a", n) for n in range(3)), keyed("b", 9))
        limit(idle, ORDERED)
        jobs = come(idle, 2)
        assert sorted(numbers(jobs)) == [0, 9]
        assert nothing_comes(idle)
        for n in (1, 2):
            settle(idle, [job for job in jobs if job.key == "a"])
            jobs = come(idle)
            assert numbers(jobs) == [n]
            assert nothing_comes(idle)

    @needs("limits")
    @pytest.mark.parametrize(
        ("limits", "status", "order"),
        [
            (ORDERED, Status.SUCCEEDED, [1]),
            (ORDERED, Status.PENDING, [0, 1]),
            (ORDERED, Status.DEAD, []),
            (ONE, Status.SUCCEEDED, [1]),
            (ONE, Status.RETRYING, [1]),
            (ONE, Status.DEAD, [1]),
        ],
    )
    def test_jobs_that_run_already(
        self, idle: Backend, limits: Limits, status: Status, order: list[int]
    ) -> None:
        """A job that ran before its queue had limits has its turn, and gives it up as any other does."""
        add(idle, keyed("a", 0))
        jobs = come(idle)
        limit(idle, limits)
        add(idle, keyed("a", 1))
        assert nothing_comes(idle)
        later = time.time() + 3600
        settle(idle, jobs, status, run_after=later if status is Status.RETRYING else None)
        come_in_turn(idle, order)
        assert nothing_comes(idle)

    @needs("limits")
    def test_workers_that_share_lines(self, idle: Backend) -> None:
        """Of many that claim and settle at once none has a job of a key before its predecessor has ended."""
        limit(idle, ORDERED)
        add(idle, *(keyed(key, n) for n in range(10) for key in "abc"))
        order: list[tuple[str | None, str, int]] = []

        def work(_number: int) -> None:
            while len([what for _, what, _ in order if what == "end"]) < 30:
                tend(idle)
                for job in claim(idle, 2):
                    order.append((job.key, "start", job.payload["n"]))
                    order.append((job.key, "end", job.payload["n"]))
                    idle.store.settle([outcome(job)])

        in_threads(3, work)
        for key in "abc":
            steps = [(what, n) for of, what, n in order if of == key]
            assert steps == [(what, n) for n in range(10) for what in ("start", "end")]

    @needs("limits", "batches")
    def test_a_line_waits_for_a_gather(self, idle: Backend) -> None:
        """In an ordered queue a job that waits for children keeps its turn."""
        line_up(idle, ORDERED)
        [head] = come(idle)
        hold(idle, head, in_group(head, "p", number=1, place=0))
        assert nothing_comes(idle)
        settle(idle, come(idle, queue="p"))
        [again] = come(idle)
        assert again.id == head.id
        assert nothing_comes(idle)
        settle(idle, [again])
        assert numbers(come(idle)) == [1]

    @needs("limits", "batches")
    def test_members_in_a_line(self, idle: Backend) -> None:
        """Members of a batch that have a key wait in its line, and the callback for all of them."""
        limit(idle, ORDERED)
        holder = open_batch(idle)
        add(idle, *(in_group(holder, key="a") for _ in range(3)))
        seal(idle, holder)
        for _ in range(3):
            assert nothing_comes(idle, "then")
            [job] = come(idle)
            assert nothing_comes(idle)
            settle(idle, [job])
        assert [job.id for job in come(idle, queue="then")] == [holder.id]
        assert group(idle, holder).succeeded == 3


class PerKeyCases(HeldSuite):
    """per_key: so many of a key at once, and the keys in turn."""

    @needs("limits")
    def test_so_many_of_a_key_at_once(self, idle: Backend) -> None:
        """With per_key of one key so many jobs are claimed at once, and no more."""
        line_up(idle, TWO, count=4)
        add(idle, keyed("b", 9))
        jobs = come(idle, 3)
        assert sorted(numbers(jobs)) == [0, 1, 9]
        assert nothing_comes(idle)
        settle(idle, [job for job in jobs if job.payload["n"] == 1])
        assert numbers(come(idle)) == [2]
        assert nothing_comes(idle)

    @needs("limits")
    @pytest.mark.parametrize("status", [Status.RETRYING, Status.PENDING, Status.DEAD])
    def test_what_gives_its_slot_back(self, idle: Backend, status: Status) -> None:
        """With per_key a job gives its slot back when it is to be retried, is snoozed, or is dead."""
        line_up(idle, ONE)
        [first] = come(idle)
        run_after = {} if status is Status.DEAD else {"run_after": time.time() + LATER}
        settle(idle, [first], status, **run_after)
        [second] = come(idle)
        assert second.payload["n"] == 1
        assert nothing_comes(idle)
        if status is not Status.PENDING:
            idle.store.change([id_of(first)], "retry")
            assert nothing_comes(idle)
        settle(idle, [second])
        rest = come(idle)
        assert nothing_comes(idle)
        settle(idle, rest)
        if status is not Status.PENDING:
            rest += come(idle)
            assert sorted(numbers(rest)) == [0, 2]

    @needs("limits")
    def test_a_newcomer_waits_for_few(self, idle: Backend) -> None:
        """A key with a backlog does not hold up another: the next of it is due behind what is due then."""
        line_up(idle, ONE, "many", 6)
        add(idle, keyed("few", 10), keyed("few", 11))
        order = []
        for _ in range(8):
            tend(idle)
            [job] = eventually(lambda: claim(idle, 1), "a job can be claimed")
            order.append(job.payload["n"])
            settle(idle, [job])
        assert order.index(10) <= 1
        assert order.index(11) <= 3
        assert [n for n in order if n < 10] == [0, 1, 2, 3, 4, 5]

    @needs("limits")
    def test_limits_that_change(self, idle: Backend) -> None:
        """Limits can be raised, lowered and removed while jobs run."""
        line_up(idle, ONE, count=8)
        jobs = come(idle)
        limit(idle, Limits(per_key=3))
        jobs += come(idle, 2)
        assert nothing_comes(idle)
        limit(idle, ONE)
        settle(idle, jobs[:2])
        assert nothing_comes(idle)
        settle(idle, jobs[2:])
        jobs = come(idle)
        assert numbers(jobs) == [3]
        assert nothing_comes(idle)
        limit(idle, None)
        assert sorted(numbers(come(idle, 4))) == [4, 5, 6, 7]

    @needs("limits", "batches")
    def test_a_held_job_gives_its_slot_back(self, idle: Backend) -> None:
        """With per_key a job that waits for children gives its slot back, and waits for one after that."""
        line_up(idle, ONE)
        [first] = come(idle)
        hold(idle, first, in_group(first, "p", number=1, place=0))
        [second] = come(idle)
        assert second.payload["n"] == 1
        settle(idle, come(idle, queue="p"))
        assert nothing_comes(idle)
        settle(idle, [second])
        rest = come(idle)
        assert nothing_comes(idle)
        settle(idle, rest)
        rest += come(idle)
        assert {job.payload["n"] for job in rest} == {0, 2}


class LimitsCases(HeldSuite):
    """limit, limits and lines."""

    @needs("limits")
    def test_listeners_that_differ(self, idle: Backend) -> None:
        """limit() of a listener returns what another listener had set, if that was something else."""
        store = idle.store
        assert store.limit("q", ORDERED, by_listener=True) is None
        assert store.limit("q", ORDERED, by_listener=True) is None
        assert store.limit("q", TWO, by_listener=True) == ORDERED
        assert dict(store.limits()) == {"q": TWO}

    @needs("limits")
    def test_an_operator_overrides(self, idle: Backend) -> None:
        """What an operator has set holds, whatever listeners say, until it is taken back."""
        store = idle.store
        store.limit("q", ONE, by_listener=True)
        store.limit("q", TWO, by_listener=False)
        assert dict(store.limits()) == {"q": TWO}
        store.limit("q", ORDERED, by_listener=True)
        assert dict(store.limits()) == {"q": TWO}
        store.limit("q", None, by_listener=False)
        assert dict(store.limits()) == {"q": ORDERED}
        store.limit("q", None, by_listener=True)
        assert dict(store.limits()) == {}

    @needs("limits")
    def test_the_lines_of_a_queue(self, idle: Backend) -> None:
        """lines() tells which keys have jobs that wait, and which stand still: these first."""
        assert idle.store.lines("q") == []
        line_up(idle, ORDERED, "runs", 3)
        heads = come(idle)
        line_up(idle, ORDERED, "retries", 2)
        [job] = come(idle)
        heads.append(job)
        settle(idle, [job], Status.RETRYING, run_after=time.time() + LATER)
        line_up(idle, ORDERED, "dead", 2)
        [job] = come(idle)
        heads.append(job)
        settle(idle, [job], Status.DEAD)
        add(idle, keyed("alone", 0))
        come(idle)
        tend(idle)
        lines = idle.store.lines("q")
        assert lines[0] == Line("q", "dead", "dead", heads[2].id, 1)
        assert sorted(lines[1:], key=lambda line: line.key) == [
            Line("q", "retries", "retrying", heads[1].id, 1),
            Line("q", "runs", "running", heads[0].id, 2),
        ]
        assert idle.store.lines("q", limit=1) == lines[:1]
        assert idle.store.lines("p") == []
