"""Steps: what a job records under its lease, and the signals to it."""

from __future__ import annotations

import time

import pytest

from neoq.backend import Backend
from neoq.held.step import MOST_SIGNALS, Step
from neoq.job import Job
from neoq.outcome import Lease, lease_of
from neoq.record import Status
from neoq.testing.cases.durable import SHORT_LEASE, LeaseCases, TransactionCases
from neoq.testing.cases.holding import HeldSuite, add, come, nothing_comes, outcome, running, settle
from neoq.testing.cases.seam import look
from neoq.testing.cases.suite import LATER, Make, id_of, needs, prepared

APPROVAL = Step("signal:approval", b'{"by":"me"}')


def recorded(idle: Backend, job: Job) -> list[tuple[str, bytes]]:
    """The names of what a job has recorded, and the data."""
    return [(step.name, step.data) for step in idle.store.steps(id_of(job))]


def record(idle: Backend, job: Job, *steps: Step) -> set[int]:
    """Record steps of a claimed job; return the ids of stale ones."""
    return idle.store.record([(lease_of(job), steps)])


def wait_for_approval(idle: Backend, job: Job, *, until: float | None = None) -> None:
    """Let a claimed job wait for a signal."""
    settle(idle, [job], Status.PENDING, awaits=APPROVAL.name, run_after=until)


class StepCases(HeldSuite):
    """record, steps, and the steps of outcomes."""

    @needs("steps")
    def test_steps_are_read_back_in_order(self, idle: Backend) -> None:
        """What a running job records is read back, in order, with the time of the store."""
        job = running(idle)
        assert recorded(idle, job) == []
        before = idle.store.clock.time()
        assert record(idle, job, Step("step:b", b"1", 2, 3), Step("step:a", b"null")) == set()
        assert record(idle, job, Step("step:c", b'{"x":[1,"\xc3\xa9"]}')) == set()
        first, second, third = idle.store.steps(id_of(job))
        assert first[:5] == ("step:b", b"1", 2, 3, True)
        assert second[:5] == ("step:a", b"null", 0, 0, True)
        assert third.data == b'{"x":[1,"\xc3\xa9"]}'
        assert first.at is not None
        assert before - 5 < first.at < time.time() + 5

    @needs("steps")
    def test_the_first_of_a_name_stays(self, idle: Backend) -> None:
        """A lasting step whose name is there stays as it is; one that is not is replaced in its place."""
        job = running(idle)
        record(idle, job, Step("step:a", b"1"), Step("save:row", b"1", lasting=False), Step("step:b", b"2"))
        record(idle, job, Step("step:a", b"3"), Step("save:row", b"4", lasting=False))
        assert recorded(idle, job) == [("step:a", b"1"), ("save:row", b"4"), ("step:b", b"2")]

    @needs("steps")
    def test_a_lost_lease_records_nothing(self, idle: Backend) -> None:
        """A step under a lease that is not current is refused, and so are those of unknown and ended jobs."""
        job = running(idle)
        settle(idle, [job], Status.PENDING, run_after=job.due)
        assert record(idle, job, Step("step:a", b"1")) == {job.id}
        [again] = come(idle)
        assert record(idle, job, Step("step:a", b"1")) == {job.id}
        assert record(idle, again, Step("step:a", b"2")) == set()
        assert recorded(idle, again) == [("step:a", b"2")]
        settle(idle, [again])
        assert record(idle, again, Step("step:b", b"3")) == {job.id}
        assert idle.store.record([(Lease(2**40, "q", 7), [Step("step:a", b"1")])]) == {2**40}

    @needs("steps")
    def test_steps_of_several_jobs(self, idle: Backend) -> None:
        """One call records steps of several jobs, without those whose leases are not current."""
        jobs = [running(idle) for _ in range(3)]
        stale = lease_of(jobs[1])._replace(token=jobs[1].token + 10**6)
        leases = [lease_of(jobs[0]), stale, lease_of(jobs[2])]
        assert idle.store.record([(lease, [Step("step:a", b"1")]) for lease in leases]) == {jobs[1].id}
        assert [len(recorded(idle, job)) for job in jobs] == [1, 0, 1]
        assert idle.store.record([]) == set()

    @needs("steps")
    @pytest.mark.parametrize("status", [Status.RETRYING, Status.PENDING, Status.DEAD])
    def test_steps_outlive_an_attempt(self, idle: Backend, status: Status) -> None:
        """Steps stay when the job fails, is given back or dies, and a claim says how many there are."""
        job = running(idle)
        record(idle, job, Step("step:a", b"1"), Step("step:b", b"2"))
        last = {} if status is Status.DEAD else {"run_after": job.due}
        settle(idle, [job], status, steps=(Step("step:c", b"3"),), **last)
        assert recorded(idle, job) == [("step:a", b"1"), ("step:b", b"2"), ("step:c", b"3")]
        if status is Status.DEAD:
            idle.store.change([id_of(job)], "retry")
        [again] = come(idle)
        assert (again.steps, again.counted) == (3, True)

    @needs("steps")
    @pytest.mark.parametrize("status", [Status.SUCCEEDED, Status.CANCELLED])
    def test_steps_go_with_the_end(self, idle: Backend, status: Status) -> None:
        """The steps of a job that has succeeded or is cancelled are dropped."""
        job = running(idle)
        record(idle, job, Step("step:a", b"1"))
        settle(idle, [job], status, steps=(Step("step:b", b"2"),))
        assert recorded(idle, job) == []

    @needs("steps")
    @pytest.mark.parametrize("action", ["cancel", "delete"])
    def test_steps_go_with_a_change(self, idle: Backend, action: str) -> None:
        """The steps of a job that is cancelled or deleted while it waits are dropped."""
        job = running(idle)
        record(idle, job, Step("step:a", b"1"))
        settle(idle, [job], Status.PENDING, run_after=time.time() + LATER)
        assert idle.store.change([id_of(job)], action).done == {job.id}  # type: ignore[arg-type]
        assert recorded(idle, job) == []

    @needs("steps")
    def test_a_stale_outcome_records_no_step(self, idle: Backend) -> None:
        """The steps of an outcome under a lease that is not current are not recorded."""
        job = running(idle)
        late = outcome(job, Status.RETRYING, run_after=job.due, steps=(Step("step:a", b"1"),))
        settle(idle, [job], Status.PENDING, run_after=job.due)
        assert idle.store.settle([late]) == {job.id}
        assert recorded(idle, job) == []
        [again] = come(idle)
        assert (again.steps, again.counted) == (0, False)

    @needs("steps")
    def test_a_sleep(self, idle: Backend) -> None:
        """A job that sleeps records it, and is not due before its time."""
        job = running(idle)
        until = time.time() + 0.05
        settle(idle, [job], Status.PENDING, run_after=until, steps=(Step("sleep:a", b"1"),))
        [again] = come(idle)
        assert time.time() >= until - 0.002
        assert (again.id, again.steps, again.retries) == (job.id, 1, 0)

    @needs("steps")
    def test_many_steps(self, idle: Backend) -> None:
        """A job may have hundreds of steps, which stay in their order."""
        job = running(idle)
        steps = [Step(f"step:{n}", b"%d" % n) for n in range(300)]
        for start in range(0, 300, 100):
            record(idle, job, *steps[start : start + 100])
        assert recorded(idle, job) == [step[:2] for step in steps]
        settle(idle, [job], Status.PENDING, run_after=job.due)
        assert come(idle)[0].steps == 300


class SignalToCases(HeldSuite):
    """signal, and jobs that are held until one comes."""

    @needs("steps")
    def test_a_job_waits_for_a_signal(self, idle: Backend) -> None:
        """A job that awaits a signal is held, and due when it comes; another signal does not wake it."""
        job = running(idle)
        wait_for_approval(idle, job)
        found = look(idle, job)
        assert (found.status, found.held) == (Status.PENDING, "signal")
        [counts] = [counts for counts in idle.store.counts() if counts.queue == "q"]
        assert (counts.held, counts.ready, counts.scheduled) == (1, 0, 0)
        assert nothing_comes(idle)
        assert idle.store.signal(id_of(job), Step("signal:other", b"{}"))
        assert nothing_comes(idle)
        assert idle.store.signal(id_of(job), APPROVAL)
        [again] = come(idle)
        assert (again.id, again.held, again.steps, again.retries) == (job.id, None, 2, 0)
        assert recorded(idle, again) == [("signal:other", b"{}"), APPROVAL[:2]]

    @needs("steps")
    def test_a_signal_that_came_before(self, idle: Backend) -> None:
        """A signal to a job that waits, or that runs, is kept: a wait for it ends at once."""
        [job] = add(idle, prepared("q", {"n": 0}))
        assert idle.store.signal(id_of(job), APPROVAL)
        [job] = come(idle)
        assert (job.steps, job.counted) == (1, True)
        assert idle.store.signal(id_of(job), Step("signal:second", b"{}"))
        for name in (APPROVAL.name, "signal:second", APPROVAL.name):
            settle(idle, [job], Status.PENDING, awaits=name)
            [job] = come(idle)

    @needs("steps")
    def test_the_first_signal_wins(self, idle: Backend) -> None:
        """Of two signals of a name the first is kept, and the other refused."""
        job = running(idle)
        assert idle.store.signal(id_of(job), APPROVAL)
        assert not idle.store.signal(id_of(job), APPROVAL._replace(data=b"{}"))
        assert recorded(idle, job) == [APPROVAL[:2]]

    @needs("steps")
    def test_a_signal_by_fingerprint(self, idle: Backend) -> None:
        """A signal finds an unfinished job by its queue and fingerprint."""
        [job] = add(idle, prepared("q", {"n": 0}, fingerprint="order-7"))
        wait_for_approval(idle, come(idle)[0])
        assert not idle.store.signal(("p", "order-7"), APPROVAL)
        assert not idle.store.signal(("q", "order-8"), APPROVAL)
        assert idle.store.signal(("q", "order-7"), APPROVAL)
        assert [job.id for job in come(idle)] == [job.id]

    @needs("steps")
    def test_a_signal_to_nobody(self, idle: Backend) -> None:
        """A signal to a job that is unknown, has ended or is dead is not taken."""
        assert not idle.store.signal(2**40, APPROVAL)
        for status in (Status.SUCCEEDED, Status.DEAD, Status.CANCELLED):
            job = running(idle, fingerprint="order-7", unique=True)
            settle(idle, [job], status)
            assert not idle.store.signal(id_of(job), APPROVAL)
            assert not idle.store.signal(("q", "order-7"), APPROVAL)
            assert recorded(idle, job) == []

    @needs("steps")
    def test_a_signal_that_does_not_come(self, idle: Backend) -> None:
        """A job that awaits a signal until a time is due at it."""
        job = running(idle)
        until = time.time() + 0.05
        wait_for_approval(idle, job, until=until)
        [again] = come(idle)
        assert time.time() >= until - 0.002
        assert (again.id, again.held, again.steps) == (job.id, None, 0)
        assert idle.store.signal(id_of(job), APPROVAL)

    @needs("steps")
    def test_a_signal_before_the_time(self, idle: Backend) -> None:
        """A job that awaits a signal until a time is due when it comes."""
        job = running(idle)
        wait_for_approval(idle, job, until=time.time() + LATER)
        assert look(idle, job).held == "signal"
        assert nothing_comes(idle)
        assert idle.store.signal(id_of(job), APPROVAL)
        assert [job.id for job in come(idle)] == [job.id]

    @needs("steps")
    def test_too_many_signals(self, idle: Backend) -> None:
        """So many signals are kept that a job has not waited for, and no more."""
        job = running(idle)
        names = [f"signal:{n}" for n in range(MOST_SIGNALS + 1)]
        taken = [idle.store.signal(id_of(job), Step(name, b"{}")) for name in names]
        assert taken == [True] * MOST_SIGNALS + [False]

    @needs("steps")
    def test_cancelling_what_awaits_a_signal(self, idle: Backend) -> None:
        """A job that awaits a signal can be cancelled, and takes none after that."""
        job = running(idle)
        wait_for_approval(idle, job)
        assert idle.store.change([id_of(job)], "cancel").done == {job.id}
        assert look(idle, job).status is Status.CANCELLED
        assert not idle.store.signal(id_of(job), APPROVAL)
        assert nothing_comes(idle)

    @needs("steps")
    def test_a_job_cancelled_before_it_waits(self, idle: Backend) -> None:
        """A job that was cancelled as it ran, and then awaits a signal, is CANCELLED."""
        job = running(idle)
        idle.store.change([id_of(job)], "cancel")
        wait_for_approval(idle, job)
        assert look(idle, job).status is Status.CANCELLED

    @needs("steps")
    def test_a_held_job_keeps_its_fingerprint(self, idle: Backend) -> None:
        """A job that awaits a signal is unfinished: its fingerprint is taken."""
        job = running(idle, fingerprint="order-7", unique=True)
        wait_for_approval(idle, job)
        [met] = add(idle, prepared("q", fingerprint="order-7"))
        assert (met.id, met.duplicate) == (job.id, True)
        assert nothing_comes(idle)


class StepLeaseCases(LeaseCases):
    """Steps of workers that die."""

    @needs("shared", "steps")
    def test_steps_of_workers_that_died(self, make: Make, join: Make) -> None:
        """What a worker recorded before it died stands, no later step does, and earlier crashes are over."""
        first = self._open(make(autostart=False, max_crashes=2, **SHORT_LEASE))
        add(first, prepared("q", {"n": 0}))
        for crashes in range(2):
            worker = join(first, autostart=False, max_crashes=2, **SHORT_LEASE)
            worker.queues()
            [job] = come(worker)
            assert record(worker, job, Step(f"step:{crashes}", b"1", 0, crashes)) == set()
            self.die(worker)
            assert self._reclaim(first).dead == []
            assert record(worker, job, Step("step:late", b"2")) == {job.id}
        [again] = come(first)
        assert (again.steps, again.crashes, again.counted) == (2, 2, True)
        assert recorded(first, again) == [("step:0", b"1"), ("step:1", b"1")]


class StepTransactionCases(TransactionCases):
    """Steps and signals in a transaction of the caller's own."""

    @needs("transactions", "steps")
    def test_a_step_goes_with_its_transaction(self, waiting: Backend) -> None:
        """A step recorded in a transaction is there after its commit, and never was after a rollback."""
        waiting.queues()
        job = running(waiting)
        for end in ("rollback", "commit"):
            connection = self.connection(waiting)
            leased = [(lease_of(job), [Step("step:a", b"1")])]
            assert waiting.store.record(leased, transaction=connection) == set()
            assert recorded(waiting, job) == []
            getattr(connection, end)()
            connection.close()
            assert len(recorded(waiting, job)) == (end == "commit")

    @needs("transactions", "steps")
    def test_a_signal_goes_with_its_transaction(self, waiting: Backend) -> None:
        """A signal in a transaction wakes the job that awaits it after the commit, not after a rollback."""
        waiting.queues()
        job = running(waiting)
        wait_for_approval(waiting, job)
        connection = self.connection(waiting)
        assert waiting.store.signal(id_of(job), APPROVAL, transaction=connection)
        connection.rollback()
        assert nothing_comes(waiting)
        assert waiting.store.signal(id_of(job), APPROVAL, transaction=connection)
        assert look(waiting, job).held == "signal"
        connection.commit()
        connection.close()
        assert [job.id for job in come(waiting)] == [job.id]
