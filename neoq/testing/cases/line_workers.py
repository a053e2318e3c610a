"""Lines of workers that are busy, are shut down, or die."""

from __future__ import annotations

import threading

import pytest

from neoq.backend import Backend
from neoq.held.limits import Limits
from neoq.job import Job
from neoq.testing.cases.durable import SHORT_LEASE, LeaseCases
from neoq.testing.cases.holding import come, nothing_comes, outcome, settle, tend
from neoq.testing.cases.lines import ONE, ORDERED, line_up
from neoq.testing.cases.seam import claim
from neoq.testing.cases.suite import PATIENCE, Make, Seen, Suite, busy, eventually, needs


class LineLeaseCases(LeaseCases):
    """Lines of workers that die."""

    @needs("shared", "limits")
    @pytest.mark.parametrize("limits", [ORDERED, ONE], ids=["ordered", "per_key"])
    def test_the_turn_of_a_worker_that_died(self, make: Make, join: Make, limits: Limits) -> None:
        """The job of a worker that died runs again, and never beside another of its key."""
        first = self._open(make(autostart=False, **SHORT_LEASE))
        line_up(first, limits)
        [old] = come(first)
        second = join(first, autostart=False, **SHORT_LEASE)
        second.queues()
        assert nothing_comes(second)
        self.die(first)
        self._reclaim(second)
        [again] = come(second)
        assert nothing_comes(second)
        if limits.ordered:
            assert again.id == old.id
        settle(second, [again])
        [job] = come(second)
        assert nothing_comes(second)
        assert second.store.settle([outcome(old)]) <= {old.id}
        settle(second, [job])

    @needs("shared", "limits")
    def test_turns_claimed_ahead_by_a_worker_that_died(self, make: Make, join: Make) -> None:
        """Several keys whose jobs one worker had claimed go on elsewhere, each in its order."""
        first = self._open(make(autostart=False, **SHORT_LEASE))
        for key in "abc":
            line_up(first, ORDERED, key, 2)
        come(first, 3)
        second = join(first, autostart=False, **SHORT_LEASE)
        second.queues()
        assert nothing_comes(second)
        self.die(first)
        came: dict[str | None, list[int]] = {"a": [], "b": [], "c": []}

        def all_came() -> bool:
            second.store.reclaim()
            tend(second)
            jobs = claim(second)
            assert len({job.key for job in jobs}) == len(jobs)
            for job in jobs:
                came[job.key].append(job.payload["n"])
            settle(second, jobs)
            return sum(map(len, came.values())) == 6

        eventually(all_came, "all jobs run elsewhere")
        assert came == {"a": [0, 1], "b": [0, 1], "c": [0, 1]}


class ClaimedAheadCases(Suite):
    """Lines as workers go through them, which claim ahead of what they run."""

    @needs("durable", "limits")
    def test_a_shutdown_gives_lines_back(self, waiting: Backend, again: Make, seen: Seen) -> None:
        """What a worker has claimed ahead when it is shut down is given back, and runs later in its order."""

        def listen(backend: Backend, stop_at: int | None = None) -> None:
            def handler(job: Job) -> None:
                if job.payload["n"] == stop_at:
                    halfway.set()
                    busy(threading.Event())
                seen((job.key, job.payload["n"]))

            backend.listen("q", handler, ordered=True, concurrency=2)

        halfway, keys = threading.Event(), [str(n) for n in range(20)]
        listen(waiting, stop_at=21)
        waiting.enqueue_many(
            Job("q", {"n": n}, unique=False, key=keys[n % len(keys)]) for n in range(3 * len(keys))
        )
        waiting.start()
        assert halfway.wait(PATIENCE)
        waiting.shutdown(timeout=0.05)
        second = again(waiting)
        listen(second)
        ran = seen.wait(3 * len(keys))
        assert {key: [n for one, n in ran if one == key] for key in keys} == {
            key: [int(key), int(key) + 20, int(key) + 40] for key in keys
        }

    @needs("shared", "limits")
    def test_a_long_job_holds_up_its_own_key(
        self, waiting: Backend, join: Make, seen: Seen, gate: threading.Event
    ) -> None:
        """While the only runner of a worker is busy, another worker runs the jobs of all other keys."""

        def handler(job: Job) -> None:
            seen(job.key)
            if job.key == "long":
                busy(gate)

        waiting.listen("q", handler, ordered=True, concurrency=1)
        waiting.start()
        waiting.enqueue("q", {"n": 0}, key="long")
        seen.wait()
        waiting.enqueue_many(
            Job("q", {"n": n}, unique=False, key=key) for n in range(2) for key in ("long", "a", "b")
        )
        second = join(waiting)
        second.listen("q", handler, ordered=True, concurrency=1)
        assert sorted(seen.wait(5)) == ["a", "a", "b", "b", "long"]
        gate.set()
        assert seen.wait(7)[5:] == ["long", "long"]
