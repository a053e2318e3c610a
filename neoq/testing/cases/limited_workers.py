"""Limits over running workers: rates, aging, and bounds that change as jobs run."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import pytest

from neoq.backend import Backend
from neoq.held.limit_options import LimitOptions
from neoq.held.limits import Rate
from neoq.job import Job
from neoq.testing.cases.suite import A_WHILE, LATER, PATIENCE, Make, Seen, Suite, eventually, needs

FAST = Rate(200, per=1.0, burst=40)
STARTS = 160  # as many as FAST allows in 0.6 s
ENOUGH = 0.95  # of what a rate promises, while there is work
T = TypeVar("T")


class RateWorkerCases(Suite):
    """Rates as running workers keep them."""

    @needs("rates")
    @pytest.mark.timeout(60)
    def test_as_fast_as_the_rate(self, backend: Backend, seen: Seen) -> None:
        """In any time no more jobs start than promised, and hardly fewer while there is work."""
        backend.listen("q", lambda _job: seen(time.time()), rate=FAST, concurrency=4)
        give_up = time.monotonic() + 4 * PATIENCE
        while (share := self._share_of_rate(backend, seen)) < ENOUGH:  # else the machine was busy with others
            assert time.monotonic() < give_up, share
            time.sleep(FAST.at_once * FAST.spacing)  # as many may start at once again

    @staticmethod
    def _share_of_rate(backend: Backend, seen: Seen) -> float:
        seen.items.clear()
        began = time.time()
        backend.enqueue_many(Job("q", {"n": n}, unique=False) for n in range(STARTS))
        times: list[float] = sorted(seen.wait(STARTS))
        for n, at in enumerate(times):  # none starts before its time, since the burst
            assert at - began >= (n - FAST.at_once) * FAST.spacing - 0.01, (n, at - began)
        return (STARTS - FAST.at_once) * FAST.spacing / (times[-1] - began)

    @needs("rates", "limits")
    def test_a_rate_for_each_key_of_workers(self, backend: Backend, seen: Seen) -> None:
        """Each key has its own rate: its jobs start in their spacing, beside those of others."""
        rate = Rate(1, per=0.1, burst=1)
        backend.listen("q", lambda job: seen((job.key, time.time())), rate_per_key=rate, concurrency=4)
        backend.enqueue_many(Job("q", {"n": n}, key=key, unique=False) for n in range(4) for key in "ab")
        times: dict[str, list[float]] = {"a": [], "b": []}
        for key, at in sorted(seen.wait(8), key=lambda item: item[1]):
            times[key].append(at)
        for of_key in times.values():
            # A start may be seen late, and so the next one seems early: not so all of them.
            assert of_key[-1] - of_key[0] >= 3 * rate.spacing - 0.1
        assert max(times["a"][0], times["b"][0]) < min(times["a"][-1], times["b"][-1])


HOURLY = Rate(1, per=LATER, burst=1)


class QuietWorkerCases(Suite):
    """Workers of queues in which nothing may run now."""

    @needs("limits", "rates")
    @pytest.mark.parametrize("name", ["rate", "rate_per_key", "max_running", "ordered"])
    def test_no_claims_while_nothing_may_run(
        self, make: Make, name: str, seen: Seen, gate: threading.Event
    ) -> None:
        """Workers of a queue whose limit is used up do not claim over and over."""
        used_up: dict[str, LimitOptions] = {
            "rate": {"rate": HOURLY},
            "rate_per_key": {"rate_per_key": HOURLY},
            "max_running": {"max_running": 1},
            "ordered": {"ordered": True},
        }
        backend = make(job_check_interval=LATER, heartbeat=PATIENCE, lease=3 * PATIENCE)

        def handler(_job: Job) -> None:
            seen()
            gate.wait()

        backend.listen("q", handler, concurrency=3, **used_up[name])
        claims = _claims_of(backend)
        backend.enqueue_many(Job("q", {"n": n}, key="a", unique=False) for n in range(3))
        seen.wait(1)
        if name.startswith("rate"):
            gate.set()
        eventually(lambda: _none_come(claims), "its workers wait")
        seen.stays(1)


def _claims_of(backend: Backend) -> list[float]:
    """The times at which a backend claims from here on, in a list that grows."""
    backend.queues()  # it is open
    times: list[float] = []
    for name in ("claim", "take"):  # `DirectStore` has both
        if (plain := getattr(backend.store, name, None)) is not None:
            setattr(backend.store, name, _noting(times, plain))
    return times


def _noting(times: list[float], plain: Callable[..., T]) -> Callable[..., T]:
    def call(*arguments: Any, **keywords: Any) -> T:
        times.append(time.monotonic())
        return plain(*arguments, **keywords)

    return call


def _none_come(times: list[float]) -> bool:
    """Whether a list is as long after a while."""
    before = len(times)
    time.sleep(3 * A_WHILE)
    return len(times) == before


class AgingWorkerCases(Suite):
    """aging as running workers keep it."""

    @needs("rates")
    def test_an_old_one_runs_before_urgent_ones(self, waiting: Backend, seen: Seen) -> None:
        """With aging a job that has waited for long runs before others of a higher priority."""
        waiting.listen("q", lambda job: seen(job.payload["n"]), aging=timedelta(seconds=1), concurrency=1)
        an_hour_ago = datetime.now(UTC) - timedelta(hours=1)
        for n in range(4):
            waiting.enqueue("q", {"n": n}, priority=9)
        waiting.enqueue("q", {"n": 99}, priority=-9, run_after=an_hour_ago)
        waiting.start()
        assert seen.wait(5)[0] == 99


class ChangingLimitCases(Suite):
    """Limits that are changed as workers run."""

    @needs("limits", "rates")
    @pytest.mark.parametrize("name", ["per_key", "max_running"])
    def test_a_bound_that_changes_under_workers(self, backend: Backend, name: str) -> None:
        """A bound that is raised, lowered or removed holds from then on, for what runs already, too."""

        def bound(most: int | None) -> LimitOptions:
            return {"per_key": most} if name == "per_key" else {"max_running": most}

        workers = _Workers()
        backend.listen("q", workers.handler, concurrency=6, **bound(1))
        backend.enqueue_many(Job("q", {"n": n}, key="a", unique=False) for n in range(12))
        workers.are(1)
        backend.limit("q", **bound(3))
        workers.are(3)
        backend.limit("q", **bound(1))
        workers.finish(2)
        workers.are(1)
        workers.finish(1)
        workers.are(1)
        backend.limit("q", **bound(None))
        workers.are(6)
        workers.finish(12)
        eventually(lambda: backend.stats().succeeded == 12, "all have run")


class _Workers:
    """A handler whose jobs end when they may, and how many of them run."""

    def __init__(self) -> None:
        self._may_end = threading.Semaphore(0)
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def handler(self, _job: Job) -> None:
        with self._lock:
            self._counts["running"] += 1
        while not self._may_end.acquire(timeout=0.01):
            pass
        with self._lock:
            self._counts["running"] -= 1

    def finish(self, count: int) -> None:
        """Let so many end."""
        for _ in range(count):
            self._may_end.release()

    def are(self, count: int) -> None:
        """Wait until so many run, and see that it stays so."""
        eventually(lambda: self._counts["running"] == count, f"{count} run, not {self._counts['running']}")
        give_up = time.monotonic() + 0.1
        while time.monotonic() < give_up:
            assert self._counts["running"] <= count
            time.sleep(0.01)
