"""Tasks above a store: claims by kind, and jobs of kinds that nobody here knows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import neoq
from neoq.backend import Backend
from neoq.job import Job
from neoq.record import Status
from neoq.store import Demand
from neoq.testing.cases.seam import StoreSuite, claim, numbers
from neoq.testing.cases.suite import PATIENCE, Make, Suite, eventually, id_of, needs, prepared

NOW = datetime(2030, 1, 2, 3, 4, 5, 6, tzinfo=UTC)


class ClaimByKindCases(StoreSuite):
    """Claims by kind."""

    def test_jobs_of_other_kinds_hold_nobody_up(self, idle: Backend) -> None:
        """Jobs of wanted kinds are claimed in their order past any number of others, which stay."""
        kinds = frozenset({"mine"})
        batch = [prepared("q", {"n": n}) for n in range(1200)]
        for n, job in enumerate(batch):
            job.kind, job.special = "mine" if n >= 1195 else "other", True
        idle.store.add(batch, token=b"")
        seen: list[int] = []
        for _ in range(5):
            seen += numbers(idle.store.claim([Demand("q", 2, kinds)]).jobs)
        assert seen == [1195, 1196, 1197, 1198, 1199]
        assert [one.ready for one in idle.store.counts()] == [1195]

    def test_jobs_without_a_kind_are_not_of_any(self, idle: Backend) -> None:
        """A claim by kinds leaves a job that has none, and one for any kind takes it."""
        idle.store.add([prepared("q", {"n": 0})], token=b"")
        assert idle.store.claim([Demand("q", 5, frozenset({"mine"}))]).jobs == []
        assert numbers(claim(idle)) == [0]

    def test_next_due_tells_of_what_can_be_claimed(self, idle: Backend) -> None:
        """What is ready and of no wanted kind does not count as more; it would be asked for without end."""
        job = prepared("q", {"n": 0})
        job.kind, job.special = "other", True
        idle.store.add([job], token=b"")
        claimed = idle.store.claim([Demand("q", 5, frozenset({"mine"}))])
        assert claimed.jobs == []
        assert claimed.next_due is None or claimed.next_due > claimed.now

    def test_other_kinds_are_wanted_later(self, idle: Backend) -> None:
        """What was passed over is claimed once its kind is asked for, in its order."""
        batch = [prepared("q", {"n": n}) for n in range(6)]
        for n, job in enumerate(batch):
            job.kind, job.special = "ab"[n % 2], True
        idle.store.add(batch, token=b"")
        assert numbers(idle.store.claim([Demand("q", 9, frozenset("a"))]).jobs) == [0, 2, 4]
        assert numbers(idle.store.claim([Demand("q", 2, frozenset("ab"))]).jobs) == [1, 3]
        assert numbers(claim(idle)) == [5]

    def test_what_was_passed_over_can_be_changed(self, idle: Backend) -> None:
        """Cancel, delete and counts see jobs that wait for their kind as any others."""
        batch = [prepared("q", {"n": n}) for n in range(3)]
        for job in batch:
            job.kind, job.special = "other", True
        added = idle.store.add(batch, token=b"")
        assert idle.store.claim([Demand("q", 9, frozenset({"mine"}))]).jobs == []
        idle.store.change([added[0].id], "cancel")
        idle.store.change([added[1].id], "delete")
        assert [(one.ready, one.cancelled) for one in idle.store.counts()] == [(1, 1)]
        assert numbers(idle.store.claim([Demand("q", 9, frozenset({"other"}))]).jobs) == [2]

    def test_the_kind_of_a_job_is_kept(self, idle: Backend) -> None:
        """A job that is looked up or claimed has the kind that it was given."""
        job = prepared("q", {"n": 0}, kind="shop.mail.send")
        [added] = idle.store.add([job], token=b"")
        assert [found.kind for found in idle.store.of_ids([id_of(added)])] == ["shop.mail.send"]
        assert [found.kind for found in claim(idle)] == ["shop.mail.send"]


class TaskCases(Suite):
    """Tasks."""

    def test_arguments_and_results_come_as_they_were(self, backend: Backend) -> None:
        """A call runs with the values that it was given, and get() returns what the function did."""

        @backend.task(name="shift")
        def shift(at: datetime, by: timedelta, *, times: int = 1) -> datetime:
            return at + by * times

        assert shift.enqueue(NOW, timedelta(microseconds=1), times=3).get(PATIENCE) == NOW + timedelta(
            microseconds=3
        )

    def test_tasks_of_several_queues(self, backend: Backend) -> None:
        """Each task's jobs wait in its queue, beside plain handlers on others."""

        @backend.task(name="first", queue="first")
        def first(n: int) -> int:
            return n

        @backend.task(name="second", queue="second")
        def second(n: int) -> int:
            return -n

        backend.listen("plain", lambda job: job.payload["n"])
        jobs = [first.enqueue(1), second.enqueue(2), first.enqueue(3)]
        plain = backend.enqueue("plain", {"n": 4})
        assert [job.get(PATIENCE) for job in jobs] == [1, -2, 3]
        assert backend.wait(plain.id, PATIENCE).result == 4

    def test_a_task_that_fails_is_retried(self, backend: Backend) -> None:
        """A task's own retries and policy hold for its jobs."""

        @backend.task(name="flaky", max_retries=2, retry=neoq.RetryPolicy(delay=0.0))
        def flaky(job: Job) -> int:
            if job.attempt < 3:
                raise ValueError
            return job.attempt

        assert flaky.enqueue().get(PATIENCE) == 3

    def test_a_unique_call_is_one_job(self, backend: Backend) -> None:
        """Equal calls of a unique task are one job while it is unfinished, also where a default is given."""
        backend.pause("default")

        @backend.task(name="once", unique=True)
        def once(n: int, m: int = 5) -> int:
            return n + m

        job = once.enqueue(1)
        assert once.enqueue(1, m=5).id == job.id
        assert once.enqueue(1, m=6).id != job.id
        backend.resume("default")
        assert job.get(PATIENCE) == 6

    def test_calls_that_are_not_unique(self, backend: Backend) -> None:
        """Equal calls of a task are as many jobs, alone or many at once."""

        @backend.task(name="each")
        def each(n: int) -> int:
            return n

        jobs = [each.enqueue(1), each.enqueue(1), *each.enqueue_many([(1,), {"n": 1}])]
        assert len({job.id for job in jobs}) == 4
        assert [job.get(PATIENCE) for job in jobs] == [1, 1, 1, 1]

    def test_a_job_of_an_unknown_kind_waits(self, backend: Backend) -> None:
        """It holds nobody up, does not keep drain() waiting, and is counted by its kind."""

        @backend.task(name="known")
        def known(n: int) -> int:
            return n

        unknown = [backend.enqueue("default", {"n": n}, kind="gone") for n in range(2)]
        assert known.enqueue(1).get(PATIENCE) == 1
        assert backend.drain(PATIENCE)
        eventually(lambda: backend.queues()[0].unknown == {"gone": 2}, "they are counted")
        for job in unknown:
            found = backend.get(job.id)
            assert found is not None
            assert found.status is Status.PENDING
        backend.delete(job.id for job in unknown)

    def test_a_kind_that_is_known_later_runs(self, backend: Backend) -> None:
        """A task that is there at last runs the jobs that waited for it."""

        @backend.task(name="known")
        def known(n: int) -> int:
            return n

        waiting = [backend.enqueue("default", {"n": n}, kind="late") for n in range(3)]
        assert known.enqueue(1).get(PATIENCE) == 1

        @backend.task(name="late")
        def late(n: int) -> int:
            return 10 * n

        assert [backend.wait(job.id, PATIENCE).result for job in waiting] == [0, 10, 20]

    @needs("shared")
    def test_a_worker_takes_only_what_it_knows(self, make: Make, join: Make) -> None:
        """Of two workers on one queue each runs the kinds that it has, whoever enqueued them."""
        first = make()

        @first.task(name="old")
        def old() -> str:
            return "old"

        second = join(first)

        @second.task(name="new")
        def new() -> str:
            return "new"

        jobs = [first.enqueue("default", kind=kind, unique=False) for kind in ("old", "new") * 10]
        assert [first.wait(job.id, PATIENCE).result for job in jobs] == ["old", "new"] * 10
        del old, new

    @needs("durable")
    def test_arguments_that_do_not_fit_any_more(self, backend: Backend) -> None:
        """A job whose stored arguments do not fit its task ends DEAD, and says what both are."""

        @backend.task(name="changed", max_retries=5)
        def changed(name: str) -> None:
            raise AssertionError(name)

        ended = backend.wait(backend.enqueue("default", {"nme": 1}, kind="changed").id, PATIENCE)
        assert ended.status is Status.DEAD
        assert "Stored is (nme: number), and the task takes (name: str)" in str(ended.error)
