"""Limits of whole queues: how many jobs run at once, how often they start, and how the old ones gain."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from neoq.backend import Backend
from neoq.held.limits import Limits, Rate
from neoq.record import Status
from neoq.store import Demand
from neoq.testing.cases.durable import SHORT_LEASE, LeaseCases
from neoq.testing.cases.holding import HeldSuite, add, come, nothing_comes, settle, tend
from neoq.testing.cases.lines import keyed, limit
from neoq.testing.cases.seam import claim, numbers
from neoq.testing.cases.suite import LATER, Make, in_threads, needs, prepared

AT_MOST_TWO = Limits(max_running=2)
CLOCKS = 0.005  # seconds by which two readings of a store's clock may differ in rounding


def starts(idle: Backend, count: int) -> list[tuple[float, float]]:
    """Claim so many jobs as soon as that is possible; the times of each between which it was claimed."""
    times: list[tuple[float, float]] = []
    while len(times) < count:
        tend(idle)
        before = time.time()
        claimed = idle.store.claim([Demand("q", count - len(times))])
        times += [(before, claimed.now.timestamp())] * len(claimed.jobs)
        time.sleep(0.002)
    return times


class MaxRunningCases(HeldSuite):
    """max_running: so many jobs of a queue at once, over all processes."""

    @needs("rates")
    def test_so_many_at_once(self, idle: Backend) -> None:
        """Of a queue so many jobs are claimed at once as it allows, over all claims; of others more."""
        limit(idle, AT_MOST_TWO)
        add(idle, *(prepared(queue, {"n": n}) for n in range(5) for queue in "pq"))
        jobs = come(idle, 2)
        assert nothing_comes(idle)
        assert len(come(idle, 5, "p")) == 5
        settle(idle, jobs[:1])
        jobs += come(idle)
        assert nothing_comes(idle)
        assert numbers(jobs) == [0, 1, 2]

    @needs("rates")
    @pytest.mark.parametrize("status", [Status.RETRYING, Status.PENDING, Status.DEAD, Status.CANCELLED])
    def test_every_outcome_makes_room(self, idle: Backend, status: Status) -> None:
        """An attempt that ends, however it does, makes room for another."""
        limit(idle, AT_MOST_TWO)
        add(idle, *(prepared("q", {"n": n}) for n in range(4)))
        jobs = come(idle, 2)
        last = {"run_after": time.time() + LATER} if status in {Status.RETRYING, Status.PENDING} else {}
        settle(idle, jobs, status, **last)
        assert numbers(come(idle, 2)) == [2, 3]

    @needs("rates")
    def test_claims_at_the_same_time(self, idle: Backend) -> None:
        """Claims at the same instant take no more than the queue allows, all of them together."""
        limit(idle, Limits(max_running=3))
        add(idle, *(prepared("q", {"n": n}) for n in range(20)))
        claimed = [job for jobs in in_threads(3, lambda _number: claim(idle, 2)) for job in jobs]
        claimed += claim(idle)
        assert len(claimed) == 3

    @needs("rates")
    def test_a_bound_that_changes(self, idle: Backend) -> None:
        """The bound can be raised, lowered and removed while jobs run; it counts those that ran before."""
        add(idle, *(prepared("q", {"n": n}) for n in range(8)))
        jobs = claim(idle, 3)
        limit(idle, AT_MOST_TWO)
        assert nothing_comes(idle)
        settle(idle, jobs[:2])
        jobs = jobs[2:] + come(idle)
        assert nothing_comes(idle)
        limit(idle, Limits(max_running=3))
        jobs += come(idle)
        assert nothing_comes(idle)
        limit(idle, None)
        assert len(come(idle, 3)) == 3


class RateCases(HeldSuite):
    """rate and rate_per_key: how often jobs start."""

    @needs("rates")
    def test_starts_are_spaced(self, idle: Backend) -> None:
        """A burst starts at once, and what comes after it in the spacing of the rate, and never earlier."""
        rate = Rate(50, per=1.0, burst=2)
        limit(idle, Limits(rate=rate))
        add(idle, *(prepared("q", {"n": n}) for n in range(6)))
        times = starts(idle, 5)
        assert times[0] == times[1]
        for n, (_, at) in enumerate(times):
            assert at - times[0][0] >= (n - rate.at_once + 1) * rate.spacing - CLOCKS

    @needs("rates")
    def test_when_the_next_may_start(self, idle: Backend) -> None:
        """next_due is when the rate allows the next start, whatever waits."""
        limit(idle, Limits(rate=Rate(1, per=LATER, burst=1)))
        add(idle, *(prepared("q", {"n": n}) for n in range(3)))
        assert len(come(idle)) == 1
        claimed = idle.store.claim([Demand("q", 5)])
        assert claimed.jobs == []
        assert claimed.next_due is not None
        assert LATER - 60 < (claimed.next_due - claimed.now).total_seconds() <= LATER
        limit(idle, None)
        assert len(come(idle, 2)) == 2

    @needs("rates")
    def test_every_attempt_is_a_start(self, idle: Backend) -> None:
        """Each claim is a start: a job that is given back, or retried, takes from the rate again."""
        limit(idle, Limits(rate=Rate(1, per=LATER, burst=2)))
        add(idle, prepared("q", {"n": 0}))
        for _ in range(2):
            [job] = come(idle)
            settle(idle, [job], Status.PENDING, run_after=job.due)
        assert nothing_comes(idle)

    @needs("rates")
    def test_claims_share_a_rate(self, idle: Backend) -> None:
        """Claims at the same instant take from one rate."""
        limit(idle, Limits(rate=Rate(1, per=LATER, burst=3)))
        add(idle, *(prepared("q", {"n": n}) for n in range(20)))
        claimed = [job for jobs in in_threads(3, lambda _number: claim(idle, 2)) for job in jobs]
        claimed += claim(idle)
        assert len(claimed) == 3

    @needs("rates", "limits")
    def test_a_rate_of_each_key(self, idle: Backend) -> None:
        """With rate_per_key the jobs of each key start in that spacing; other keys do not wait for them."""
        limit(idle, Limits(rate_per_key=Rate(1, per=LATER, burst=1)))
        add(idle, *(keyed(key, n) for n in range(3) for key in ("a", "b", None)))
        jobs = come(idle, 5)
        assert sorted((job.key or "", job.payload["n"]) for job in jobs) == [
            ("", 0),
            ("", 1),
            ("", 2),
            ("a", 0),
            ("b", 0),
        ]
        settle(idle, jobs)
        assert nothing_comes(idle)

    @needs("rates", "limits")
    @pytest.mark.parametrize("after", [None, Limits(ordered=True), Limits(rate_per_key=Rate(100))])
    def test_the_rate_of_each_key_is_lifted(self, idle: Backend, after: Limits | None) -> None:
        """Jobs that waited for a rate of their key wait no more when it is lifted, or raised."""
        limit(idle, Limits(rate_per_key=Rate(1, per=LATER, burst=1)))
        add(idle, *(keyed("a", n) for n in range(3)))
        settle(idle, come(idle))
        assert nothing_comes(idle)
        limit(idle, after)
        found: list[int] = []
        for _ in range(2):
            jobs = come(idle)
            found += numbers(jobs)
            settle(idle, jobs)
        assert sorted(found) == [1, 2]

    @needs("rates", "limits")
    @pytest.mark.parametrize("after", [None, Limits(rate=Rate(100))])
    def test_a_rate_is_lifted(self, idle: Backend, after: Limits | None) -> None:
        """What a low rate has used up counts no more when it is lifted, or raised."""
        limit(idle, Limits(rate=Rate(1, per=LATER, burst=1)))
        add(idle, *(keyed(None, n) for n in range(3)))
        settle(idle, come(idle))
        assert nothing_comes(idle)
        limit(idle, after)
        assert sorted(numbers(come(idle, 2))) == [1, 2]

    @needs("rates", "limits")
    @pytest.mark.parametrize("name", ["rate", "rate_per_key"])
    def test_another_limit_changes(self, idle: Backend, name: str) -> None:
        """What a rate has used up counts on when another limit of the queue changes, another rate too."""
        used: dict[str, Any] = {name: Rate(1, per=LATER, burst=1)}
        limits = Limits(**used)
        other = "rate" if name == "rate_per_key" else "rate_per_key"
        limit(idle, limits)
        add(idle, *(keyed("a", n) for n in range(2)))
        settle(idle, come(idle))
        changes: tuple[dict[str, Any], ...] = ({"per_key": 2}, {"max_running": 2}, {other: Rate(100)}, {})
        for change in changes:
            limit(idle, limits._replace(**change))
            assert nothing_comes(idle), f"after {change}"

    @needs("rates", "limits")
    def test_a_key_goes_on_at_its_rate(self, idle: Backend) -> None:
        """The next job of a key comes when its rate allows it, and never earlier."""
        rate = Rate(1, per=0.05, burst=1)
        limit(idle, Limits(rate_per_key=rate))
        add(idle, *(keyed("a", n) for n in range(3)))
        times = starts(idle, 3)
        assert times[1][1] - times[0][0] >= rate.spacing - CLOCKS
        assert times[2][1] - times[1][0] >= rate.spacing - CLOCKS


class AgingCases(HeldSuite):
    """aging: what has waited gains priority."""

    @needs("rates")
    def test_what_has_waited_gains_priority(self, idle: Backend) -> None:
        """With aging a job counts as one level higher for each span that it has waited."""
        limit(idle, Limits(aging=10.0))
        now = datetime.now(UTC)
        for n, (ago, priority) in enumerate([(35.0, 0), (0.0, 2), (0.0, 4), (5.0, -5), (95.0, -5)]):
            add(idle, prepared("q", {"n": n}, run_after=now - timedelta(seconds=ago), priority=priority))
        # 35 s are three levels, 95 s are nine: they count as 3, 2, 4, -5 and 4.
        order = [numbers(claim(idle, 1))[0] for _ in range(5)]
        assert set(order[:2]) == {2, 4}
        assert order[2:] == [0, 1, 3]

    @needs("rates")
    def test_priority_alone_without_aging(self, idle: Backend) -> None:
        """Without aging a job of a higher priority goes first, however long others have waited."""
        ages_ago = datetime.now(UTC) - timedelta(days=100)
        add(idle, prepared("q", {"n": 0}, run_after=ages_ago), prepared("q", {"n": 1}, priority=1))
        assert numbers(claim(idle, 1)) == [1]


class LimitLeaseCases(LeaseCases):
    """Limits of queues, and workers that die."""

    @needs("shared", "rates")
    def test_the_room_of_a_worker_that_died(self, make: Make, join: Make) -> None:
        """The jobs of a worker that died hold no room of their queue after they are reclaimed."""
        first = self._open(make(autostart=False, **SHORT_LEASE))
        limit(first, AT_MOST_TWO)
        add(first, *(prepared("q", {"n": n}) for n in range(4)))
        come(first, 2)
        second = join(first, autostart=False, **SHORT_LEASE)
        second.queues()
        assert nothing_comes(second)
        self.die(first)
        self._reclaim(second)
        come(second)
