"""What a store promises to the engine that claims and settles, whatever engine that is."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from neoq.backend import Backend
from neoq.errors import UnsupportedError
from neoq.job import DuplicateJobError, Job
from neoq.outcome import Failure, Lease, Outcome
from neoq.record import Status
from neoq.store import Demand, WorkerInfo
from neoq.testing.cases.suite import (
    LATER,
    Make,
    Seen,
    Suite,
    ended,
    eventually,
    id_of,
    ignore,
    in_threads,
    prepared,
    unfinished_jobs,
    without,
)

EVERYTHING = 1000


def how_it_ended(job: Job, status: Status, **fields: Any) -> Outcome:
    """Return the outcome of an attempt of a claimed job, begun and ended now."""
    now = time.time()
    return Outcome(lease_of(job), status, **{"started_at": now, "finished_at": now, **fields})


def lease_of(job: Job) -> Lease:
    """The lease under which a job was claimed."""
    return Lease(id_of(job), job.queue, job.token)


def numbers(jobs: list[Job]) -> list[int]:
    """The n of each job's payload."""
    return [job.payload["n"] for job in jobs]


def claim(idle: Backend, limit: int = EVERYTHING, queue: str = "q") -> list[Job]:
    """Claim from one queue."""
    return idle.store.claim([Demand(queue, limit)]).jobs


def look(idle: Backend, job: Job) -> Job:
    """Return a fresh snapshot of a job."""
    found = idle.get(id_of(job))
    assert found is not None
    return found


class StoreSuite(Suite):
    """Cases that call the store directly."""

    @pytest.fixture
    def idle(self, waiting: Backend) -> Backend:
        """A backend that runs nothing, opened, with listeners for its queues."""
        for queue in ("p", "q"):
            waiting.listen(queue, ignore)
        waiting.queues()
        return waiting


class AddCases(StoreSuite):
    """add."""

    def test_jobs_are_added_in_order(self, idle: Backend) -> None:
        """add() returns a snapshot of each job, in order, with ids that rise."""
        jobs = idle.store.add([prepared("q", {"n": n}) for n in range(10)], token=b"")
        assert numbers(jobs) == list(range(10))
        ids = [id_of(job) for job in jobs]
        assert ids == sorted(set(ids))
        assert numbers(claim(idle)) == list(range(10))

    def test_ids_that_a_browser_can_hold(self, idle: Backend) -> None:
        """Ids are whole numbers that JavaScript reads as they are, of every queue and in a batch."""
        jobs = [idle.store.add([prepared(f"queue {n % 3}", {"n": n})], token=b"")[0] for n in range(20)]
        jobs += idle.store.add([prepared("q", {"n": n}) for n in range(20)], token=b"")
        assert all(0 < id_of(job) < 2**53 and int(float(id_of(job))) == job.id for job in jobs)
        assert len({job.id for job in jobs}) == len(jobs)

    def test_a_repeated_add_adds_nothing(self, idle: Backend) -> None:
        """add() repeated with its token returns the same jobs and stores none, even after they have ended."""
        batch = [prepared("q", {"n": n}, unique=False) for n in range(3)]
        first = idle.store.add([job.snapshot() for job in batch], token=b"a token of 16 by")
        again = idle.store.add([job.snapshot() for job in batch], token=b"a token of 16 by")
        assert [job.id for job in again] == [job.id for job in first]
        idle.store.settle([how_it_ended(job, Status.SUCCEEDED) for job in claim(idle)])
        later = idle.store.add([job.snapshot() for job in batch], token=b"a token of 16 by")
        assert [job.id for job in later] == [job.id for job in first]
        assert claim(idle) == []
        assert len(idle.jobs()) == 3

    def test_another_token_is_another_add(self, idle: Backend) -> None:
        """add() with another token, or with none, stores the jobs again."""
        batch = [prepared("q", {"n": 1}, unique=False)]
        for token in (b"a token of 16 by", b"another token 16", b"", b""):
            idle.store.add([job.snapshot() for job in batch], token=token)
        assert len(claim(idle)) == 4

    def test_an_add_that_raises_adds_nothing(self, idle: Backend) -> None:
        """An add() that a duplicate aborts has stored nothing, and its token is free."""
        idle.store.add([prepared("q", {"n": 2})], token=b"")
        batch = [prepared("q", {"n": 1}), prepared("q", {"n": 2}, on_duplicate="raise")]
        with pytest.raises(DuplicateJobError):
            idle.store.add([job.snapshot() for job in batch], token=b"a token of 16 by")
        idle.store.settle([how_it_ended(job, Status.SUCCEEDED) for job in claim(idle)])
        assert len(idle.store.add([job.snapshot() for job in batch], token=b"a token of 16 by")) == 2
        assert len(claim(idle)) == 2

    @without("transactions")
    def test_no_transactions_at_the_seam(self, idle: Backend) -> None:
        """Where no transaction can be joined, add and settle say so and do nothing."""
        with pytest.raises(UnsupportedError):
            idle.store.add([prepared("q")], token=b"", transaction=object())
        [job] = idle.store.add([prepared("q")], token=b"")
        [job] = claim(idle)
        with pytest.raises(UnsupportedError):
            idle.store.settle([how_it_ended(job, Status.SUCCEEDED)], transaction=object())
        assert look(idle, job).status is Status.RUNNING


class ClaimCases(StoreSuite):
    """claim."""

    def test_never_more_than_asked_for(self, idle: Backend) -> None:
        """claim() takes the best jobs up to the limit, and the others later."""
        idle.store.add([prepared("q", {"n": n}) for n in range(5)], token=b"")
        assert numbers(claim(idle, 2)) == [0, 1]
        assert numbers(claim(idle, 2)) == [2, 3]
        assert numbers(claim(idle, 2)) == [4]
        assert claim(idle, 2) == []

    def test_a_claim_for_several_queues(self, idle: Backend) -> None:
        """One claim() serves several queues, each up to its own limit."""
        for queue in ("p", "q"):
            idle.store.add([prepared(queue, {"n": n}) for n in range(3)], token=b"")
        claimed = idle.store.claim([Demand("p", 1), Demand("q", 2), Demand("unknown", 5)]).jobs
        assert sorted((job.queue, job.payload["n"]) for job in claimed) == [("p", 0), ("q", 0), ("q", 1)]

    def test_a_claim_of_nothing(self, idle: Backend) -> None:
        """claim() of nothing, or of empty queues, returns no job and no time."""
        for demand in ([], [Demand("q", 5)], [Demand("unknown", 1)]):
            claimed = idle.store.claim(demand)
            assert (claimed.jobs, claimed.next_due) == ([], None)
            assert abs(claimed.now - datetime.now(UTC)) < timedelta(minutes=1)

    def test_a_claimed_job_is_running(self, idle: Backend) -> None:
        """A claimed job is RUNNING, holds a lease, and is not claimed again."""
        [added] = idle.store.add([prepared("q", {"a": 1}, priority=3, meta={"b": "c"})], token=b"")
        [job] = claim(idle)
        assert (job.id, job.payload, job.priority, dict(job.meta)) == (added.id, {"a": 1}, 3, {"b": "c"})
        assert (job.status, look(idle, job).status) == (Status.RUNNING, Status.RUNNING)
        assert job.token
        assert claim(idle) == []

    def test_each_claim_has_its_own_token(self, idle: Backend) -> None:
        """The same job claimed again has another token."""
        idle.store.add([prepared("q")], token=b"")
        [first] = claim(idle)
        token = first.token
        idle.store.settle([how_it_ended(first, Status.PENDING, run_after=first.due)])
        [second] = claim(idle)
        assert (second.id, second.token != token) == (first.id, True)

    def test_the_best_are_claimed_first(self, idle: Backend) -> None:
        """claim() goes by priority, then due time, then order of enqueue."""
        now = datetime.now(UTC)
        order = [(0, 10, 0), (1, 20, 0), (2, 20, 0), (3, 0, 1), (4, 30, 0), (5, 0, -1), (6, 0, 1)]
        for n, ago, priority in order:
            run_after = now - timedelta(seconds=ago)
            idle.store.add([prepared("q", {"n": n}, run_after=run_after, priority=priority)], token=b"")
        assert numbers(claim(idle, 3)) == [3, 6, 4]
        assert numbers(claim(idle)) == [1, 2, 0, 5]

    def test_never_claimable_early(self, idle: Backend) -> None:
        """A job is not claimable before its time; next_due tells when it will be."""
        [job] = idle.store.add([prepared("q", {"n": 0}, run_after=0.1)], token=b"")
        assert job.run_after is not None
        while not (claimed := idle.store.claim([Demand("q", 5)])).jobs:
            assert claimed.next_due == job.run_after or claimed.now >= job.run_after
            assert claimed.now < job.run_after + timedelta(seconds=9)
        assert claimed.now >= job.run_after

    def test_when_the_next_one_is_due(self, idle: Backend) -> None:
        """next_due has come while more are ready; else it is the time of the first future job."""
        idle.store.add([prepared("q", {"n": n}) for n in range(2)], token=b"")
        far, near = (prepared("q", {"n": n}, run_after=LATER * n) for n in (3, 2))
        idle.store.add([far, near], token=b"")
        first = idle.store.claim([Demand("q", 1)])
        assert first.next_due is not None
        assert first.next_due <= first.now
        assert len(claim(idle, 1)) == 1

        def next_due() -> datetime | None:
            return idle.store.claim([Demand("q", 1)]).next_due

        # Where a search took long, a store may want to be asked again before that.
        eventually(lambda: next_due() == near.run_after, "it is the time of the first future job")

    def test_a_paused_queue_is_not_claimed(self, idle: Backend) -> None:
        """claim() leaves paused queues alone until they are resumed."""
        for queue in ("p", "q"):
            idle.store.add([prepared(queue, {"n": 0})], token=b"")
        idle.store.set_paused("q", True)
        demand = [Demand("p", 5), Demand("q", 5)]
        assert [job.queue for job in idle.store.claim(demand).jobs] == ["p"]
        idle.store.set_paused("q", False)
        assert [job.queue for job in idle.store.claim(demand).jobs] == ["q"]

    def test_only_some_kinds(self, idle: Backend) -> None:
        """A demand for kinds takes only jobs of these, and leaves the others as they were."""
        batch = [prepared("q", {"n": n}, priority=1) for n in range(6)]
        for n, job in enumerate(batch):
            job.kind = "abc"[n % 3]
        idle.store.add(batch, token=b"")
        assert numbers(idle.store.claim([Demand("q", 3, frozenset("ac"))]).jobs) == [0, 2, 3]
        assert numbers(claim(idle)) == [1, 4, 5]

    def test_at_most_one_lease_a_job(self, idle: Backend) -> None:
        """Of many that claim at once each gets jobs that no other got."""
        idle.store.add([prepared("q", {"n": n}) for n in range(300)], token=b"")

        def work(_number: int) -> list[Job]:
            mine: list[Job] = []
            while got := claim(idle, 7):
                mine += got
            return mine

        claimed = [job for mine in in_threads(4, work) for job in mine]
        assert sorted(numbers(claimed)) == list(range(300))


class SettleCases(StoreSuite):
    """settle, extend, give back."""

    @pytest.fixture
    def job(self, idle: Backend) -> Job:
        """A claimed job."""
        idle.store.add([prepared("q", {"n": 0})], token=b"")
        [job] = claim(idle)
        return job

    def test_settled_success(self, idle: Backend, job: Job) -> None:
        """A job settled as succeeded has its result and its times."""
        outcome = how_it_ended(job, Status.SUCCEEDED, result=b'{"a":[1]}', started_at=1e9, finished_at=2e9)
        assert idle.store.settle([outcome]) == set()
        done = look(idle, job)
        assert (done.status, done.result, done.retries) == (Status.SUCCEEDED, {"a": [1]}, 0)
        assert done.ran_at == datetime.fromtimestamp(1e9, UTC)
        assert done.finished_at == datetime.fromtimestamp(2e9, UTC)

    def test_settled_death(self, idle: Backend, job: Job) -> None:
        """A job settled as dead is kept, with its failure."""
        failure = Failure("ValueError", "no \N{SNOWMAN}", "Traceback ...")
        assert idle.store.settle([how_it_ended(job, Status.DEAD, charged=True, failure=failure)]) == set()
        dead = look(idle, job)
        assert (dead.status, dead.error) == (Status.DEAD, "ValueError: no \N{SNOWMAN}")
        assert dead.traceback == "Traceback ..."
        assert dead.finished_at is not None
        assert claim(idle) == []

    def test_settled_as_cancelled(self, idle: Backend, job: Job) -> None:
        """A job settled as cancelled has ended."""
        assert idle.store.settle([how_it_ended(job, Status.CANCELLED)]) == set()
        assert look(idle, job).status is Status.CANCELLED
        assert claim(idle) == []

    def test_settled_for_a_retry(self, idle: Backend, job: Job) -> None:
        """A job settled for a retry is charged, and claimable at its new time."""
        again = time.time() + 0.05
        failure = Failure("ValueError", "no", "")
        outcome = how_it_ended(job, Status.RETRYING, run_after=again, charged=True, failure=failure)
        assert idle.store.settle([outcome]) == set()
        waiting = look(idle, job)
        assert (waiting.status, waiting.retries, waiting.error) == (Status.RETRYING, 1, "ValueError: no")
        assert waiting.run_after == datetime.fromtimestamp(again, UTC)
        [retried] = eventually(lambda: claim(idle), "it is claimable")
        assert (retried.id, retried.retries, retried.attempt) == (job.id, 1, 2)
        assert time.time() >= again - 0.002

    def test_settled_as_given_back(self, idle: Backend, job: Job) -> None:
        """A job given back is uncharged, claimable at once, and keeps its place before later ones."""
        idle.store.add([prepared("q", {"n": n}) for n in (1, 2)], token=b"")
        back = Outcome(lease_of(job), Status.PENDING, job.due)
        assert idle.store.settle([back]) == set()
        assert (look(idle, job).status, look(idle, job).retries) == (Status.PENDING, 0)
        assert numbers(claim(idle)) == [0, 1, 2]

    def test_given_back_into_its_batch(self, idle: Backend) -> None:
        """Jobs of one due time keep the order of their enqueue when some are given back in another."""
        instant = datetime.now(UTC)
        idle.store.add([prepared("q", {"n": n}, run_after=instant) for n in range(5)], token=b"")
        for job in reversed(claim(idle, 3)):
            idle.store.settle([Outcome(lease_of(job), Status.PENDING, job.due)])
        assert numbers(claim(idle)) == [0, 1, 2, 3, 4]

    def test_settled_as_snoozed(self, idle: Backend, job: Job) -> None:
        """A snoozed job is uncharged, and not claimable before its time."""
        outcome = how_it_ended(job, Status.PENDING, run_after=time.time() + LATER)
        assert idle.store.settle([outcome]) == set()
        assert (look(idle, job).status, look(idle, job).retries) == (Status.PENDING, 0)
        assert claim(idle) == []
        assert idle.store.add([prepared("q", {"n": 0})], token=b"")[0].duplicate

    def test_retries_stay_when_it_is_given_back(self, idle: Backend, job: Job) -> None:
        """Giving back and snoozing leave earlier retries as they are."""
        failure = Failure("ValueError", "no", "")
        idle.store.settle([how_it_ended(job, Status.RETRYING, run_after=0.0, charged=True, failure=failure)])
        [job] = eventually(lambda: claim(idle), "it is claimable")
        idle.store.settle([how_it_ended(job, Status.PENDING, run_after=0.0)])
        [job] = eventually(lambda: claim(idle), "it is claimable")
        assert job.retries == 1

    def test_settling_twice_is_harmless(self, idle: Backend, job: Job) -> None:
        """An outcome settled again changes nothing, and neither does another one for the same lease."""
        done = how_it_ended(job, Status.SUCCEEDED, result=b"1")
        assert idle.store.settle([done]) == set()
        idle.store.settle([done])
        idle.store.settle([how_it_ended(job, Status.DEAD, failure=Failure("E", "late", ""))])
        idle.store.settle([how_it_ended(job, Status.PENDING, run_after=0.0)])
        settled = look(idle, job)
        assert (settled.status, settled.result, settled.error) == (Status.SUCCEEDED, 1, None)
        assert claim(idle) == []
        assert [counts.succeeded for counts in idle.queues() if counts.queue == "q"] == [1]

    def test_a_stale_lease_settles_nothing(self, idle: Backend, job: Job) -> None:
        """A settle under an older token is reported as stale, and the job goes on under its newer one."""
        old = how_it_ended(job, Status.SUCCEEDED, result=b'"old"')
        idle.store.settle([how_it_ended(job, Status.PENDING, run_after=0.0)])
        assert idle.store.settle([old]) == {job.id}
        [again] = eventually(lambda: claim(idle), "it is claimable")
        assert idle.store.settle([old]) == {job.id}
        assert look(idle, job).status is Status.RUNNING
        assert idle.store.settle([how_it_ended(again, Status.SUCCEEDED, result=b'"new"')]) == set()
        assert idle.store.settle([old]) == {job.id}
        assert look(idle, job).result == "new"

    def test_an_operators_retry_makes_a_lease_stale(self, idle: Backend, job: Job) -> None:
        """A lease from before a retry() by hand does not fit after it, though the attempt has its number."""
        old = how_it_ended(job, Status.SUCCEEDED)
        idle.store.settle([how_it_ended(job, Status.DEAD, failure=Failure("E", "", ""))])
        idle.retry(id_of(job))
        [again] = eventually(lambda: claim(idle), "it is claimable")
        assert again.attempt == job.attempt
        assert idle.store.settle([old]) == {job.id}
        assert look(idle, job).status is Status.RUNNING

    def test_an_unknown_job_is_stale(self, idle: Backend, job: Job) -> None:
        """Settling jobs that are unknown, waiting or deleted reports them and does nothing."""
        [waiting] = idle.store.add([prepared("q", {"n": 1})], token=b"")
        unknown = Outcome(Lease(2**40, "q", 7), Status.SUCCEEDED, finished_at=time.time())
        never = Outcome(Lease(id_of(waiting), "q", 7), Status.SUCCEEDED, finished_at=time.time())
        zero = Outcome(Lease(id_of(waiting), "q", 0), Status.SUCCEEDED, finished_at=time.time())
        idle.store.settle([how_it_ended(job, Status.SUCCEEDED)])
        idle.delete(id_of(job))
        deleted = how_it_ended(job, Status.SUCCEEDED)
        assert idle.store.settle([unknown, never, deleted]) == {2**40, waiting.id, job.id}
        assert idle.store.settle([zero]) == {waiting.id}
        assert look(idle, waiting).status is Status.PENDING

    def test_a_stale_one_among_others(self, idle: Backend) -> None:
        """In a batch with a stale outcome the others are settled."""
        idle.store.add([prepared("q", {"n": n}) for n in range(3)], token=b"")
        jobs = claim(idle)
        outcomes = [how_it_ended(job, Status.SUCCEEDED) for job in jobs]
        wrong = outcomes[1]._replace(lease=outcomes[1].lease._replace(token=jobs[1].token + 10**6))
        assert idle.store.settle([outcomes[0], wrong, outcomes[2]]) == {jobs[1].id}
        assert [look(idle, job).status.name for job in jobs] == ["SUCCEEDED", "RUNNING", "SUCCEEDED"]

    def test_one_of_many_settles(self, idle: Backend) -> None:
        """Of many that settle one lease at once exactly one is not stale."""
        for n in range(10):
            [job] = idle.store.add([prepared("q", {"n": n})], token=b"")
            [job] = claim(idle)
            results = [
                how_it_ended(job, Status.SUCCEEDED),
                how_it_ended(job, Status.PENDING, run_after=time.time() + LATER),
                how_it_ended(job, Status.CANCELLED),
            ]
            stale = in_threads(3, lambda number, results=results: idle.store.settle([results[number]]))  # type: ignore[misc]
            assert sorted(map(len, stale)) == [0, 1, 1]

    def test_follow_up_jobs(self, idle: Backend, job: Job) -> None:
        """Jobs that follow are added when the outcome is recorded, once, and not with a stale one."""
        follow = tuple(prepared("p", {"n": n}, unique=False) for n in range(2))
        done = how_it_ended(job, Status.SUCCEEDED, follow=follow)
        wrong = done._replace(lease=done.lease._replace(token=job.token + 10**6))
        assert idle.store.settle([wrong]) == {job.id}
        assert idle.jobs("p") == []
        assert idle.store.settle([done]) == set()
        idle.store.settle([done])
        assert numbers(claim(idle, queue="p")) == [0, 1]

    def test_follow_up_jobs_need_no_room(self, make: Make) -> None:
        """A settle does not wait for room: jobs that follow are added to a full queue."""
        idle = make(autostart=False, queue_capacity=1, enqueue_timeout=0)
        idle.queues()
        idle.store.add([prepared("q", {"n": 0})], token=b"")
        [job] = claim(idle)
        idle.store.add([prepared("p", {"n": 0})], token=b"")
        follow = (prepared("p", {"n": 1}),)
        assert idle.store.settle([how_it_ended(job, Status.SUCCEEDED, follow=follow)]) == set()
        assert numbers(claim(idle, queue="p")) == [0, 1]

    def test_progress_with_an_outcome(self, idle: Backend, job: Job) -> None:
        """The progress that comes with an outcome's lease is recorded."""
        outcome = how_it_ended(job, Status.SUCCEEDED)
        outcome = outcome._replace(lease=outcome.lease._replace(progress=(1.0, "done")))
        assert idle.store.settle([outcome]) == set()
        assert look(idle, job).progress() == (1.0, "done")

    def test_extend_keeps_quiet_about_live_leases(self, idle: Backend, job: Job) -> None:
        """extend() of a live lease reports nothing, and records progress."""
        lease = lease_of(job)._replace(progress=(0.5, "half \N{SNOWMAN}"))
        assert idle.store.extend([lease]) == (set(), set())
        assert look(idle, job).progress() == (0.5, "half \N{SNOWMAN}")
        assert idle.store.extend([]) == (set(), set())

    def test_extend_reports_lost_leases(self, idle: Backend, job: Job) -> None:
        """extend() of a lease that is not current, or of an unknown job, reports it lost and does nothing."""
        old = lease_of(job)._replace(progress=(0.5, "old"))
        unknown = Lease(2**40, "q", 7)
        idle.store.settle([how_it_ended(job, Status.PENDING, run_after=0.0)])
        assert idle.store.extend([old, unknown]).lost == {job.id, 2**40}
        [again] = eventually(lambda: claim(idle), "it is claimable")
        assert idle.store.extend([old, lease_of(again)]).lost == {job.id}
        assert look(idle, job).progress() is None
        idle.store.settle([how_it_ended(again, Status.SUCCEEDED)])
        assert idle.store.extend([lease_of(again)]).lost == {job.id}

    def test_a_cancelled_job_is_reported(self, idle: Backend, job: Job) -> None:
        """Cancelling a running job marks it; extend() reports that to the worker that runs it."""
        changed = idle.store.change([id_of(job)], "cancel")
        assert (set(changed.done), set(changed.running)) == (set(), {job.id})
        assert look(idle, job).status is Status.RUNNING
        assert idle.store.extend([lease_of(job)]) == (set(), {job.id})

    @pytest.mark.parametrize("status", [Status.RETRYING, Status.PENDING])
    def test_a_cancelled_job_does_not_come_back(self, idle: Backend, job: Job, status: Status) -> None:
        """A job cancelled as it ran, which fails or is given back, is CANCELLED."""
        idle.store.change([id_of(job)], "cancel")
        outcome = how_it_ended(job, status, run_after=time.time(), charged=status is Status.RETRYING)
        assert idle.store.settle([outcome]) == set()
        assert look(idle, job).status is Status.CANCELLED
        assert claim(idle) == []
        assert not idle.store.add([prepared("q", {"n": 0})], token=b"")[0].duplicate

    def test_a_cancelled_job_may_succeed(self, idle: Backend, job: Job) -> None:
        """A job cancelled as it ran, which succeeded all the same, has succeeded: the work is done."""
        idle.store.change([id_of(job)], "cancel")
        assert idle.store.settle([how_it_ended(job, Status.SUCCEEDED)]) == set()
        assert look(idle, job).status is Status.SUCCEEDED


class ChangeCases(StoreSuite):
    """change, find, beat, and notifications."""

    def test_a_change_of_many_at_once(self, idle: Backend) -> None:
        """change() tells which jobs it changed and which run; unknown ones are neither."""
        jobs = idle.store.add([prepared("q", {"n": n}) for n in range(3)], token=b"")
        claim(idle, 1)
        ids = [id_of(job) for job in jobs]
        changed = idle.store.change([*ids, 2**40], "cancel")
        assert (set(changed.done), set(changed.running)) == (set(ids[1:]), {ids[0]})
        assert idle.store.change(ids, "retry").done == frozenset()
        assert idle.store.change([*ids, 2**40], "delete").done == set(ids[1:])

    def test_a_change_of_nothing(self, idle: Backend) -> None:
        """change() of no jobs does nothing."""
        assert idle.store.change([], "cancel").done == frozenset()

    def test_find_by_ids(self, idle: Backend) -> None:
        """of_ids() returns those that exist, newest first."""
        jobs = idle.store.add([prepared("q", {"n": n}) for n in range(4)], token=b"")
        wanted = [id_of(jobs[n]) for n in (0, 3, 1)]
        assert numbers(idle.store.of_ids([*wanted, 2**40])) == [3, 1, 0]
        assert idle.store.of_ids([]) == []

    def test_nothing_is_reclaimed_from_the_living(self, idle: Backend) -> None:
        """reclaim() leaves live leases alone."""
        idle.store.add([prepared("q", {"n": 0})], token=b"")
        [job] = claim(idle)
        assert idle.store.reclaim() == ([], [])
        assert idle.store.settle([how_it_ended(job, Status.SUCCEEDED)]) == set()

    def test_prune_keeps_what_is_unfinished(self, idle: Backend) -> None:
        """prune() forgets no job that has not ended."""
        idle.store.add([prepared("q", {"n": n}) for n in range(3)], token=b"")
        idle.store.add([prepared("q", {"n": 3}, run_after=LATER)], token=b"")
        claim(idle, 1)
        assert idle.prune() == 0
        assert len(unfinished_jobs(idle)) == 4

    def test_beats_are_accepted(self, idle: Backend) -> None:
        """beat() may be called again and again."""
        now = datetime.now(UTC)
        for running in range(3):
            idle.store.beat(WorkerInfo("a worker", "host", 1, now, now, ("q",), running))

    @staticmethod
    def _rewire(backend: Backend, monkeypatch: pytest.MonkeyPatch, wire: Any) -> None:
        plain = backend.store.open_store
        monkeypatch.setattr(backend.store, "open_store", lambda notify: plain(wire(notify)))

    def test_spurious_notifications(self, make: Make, seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
        """Notifications that mean nothing do no harm."""
        backend = make()

        def wire(notify: Any) -> Any:
            def noisy(queue: str, notice: str) -> None:
                for name in (queue, "q", "unknown"):
                    for kind in ("ready", "cancel", "pause", notice):
                        notify(name, kind)

            return noisy

        self._rewire(backend, monkeypatch, wire)
        backend.listen("q", lambda job: seen(job.payload["n"]))
        jobs = [backend.enqueue("q", {"n": n}, run_after=n % 3 / 50) for n in range(30)]
        for job in jobs:
            assert ended(backend, job).status is Status.SUCCEEDED
        assert sorted(seen.items) == list(range(30))

    @without("local")
    def test_lost_notifications(self, make: Make, seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without any notification jobs run all the same, by polling; so are paused queues resumed."""
        backend = make()
        self._rewire(backend, monkeypatch, lambda _notify: lambda _queue, _notice: None)
        backend.listen("q", lambda job: seen(job.payload["n"]))
        ended(backend, backend.enqueue("q", {"n": 0}))
        ended(backend, backend.enqueue("q", {"n": 1}, run_after=0.05))
        backend.pause("q")
        backend.enqueue("q", {"n": 2})
        seen.stays(2)
        backend.resume("q")
        assert seen.wait(3) == [0, 1, 2]
