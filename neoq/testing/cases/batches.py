"""Batches: a callback that is due once, when the last of its members has ended."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest

from neoq.backend import Backend
from neoq.errors import BatchClosedError
from neoq.filter import Filter
from neoq.held.group import Batch, BatchRules, Group
from neoq.job import DuplicateJobError, Job
from neoq.record import Status
from neoq.testing.cases.holding import (
    PRODUCER,
    RULES,
    HeldSuite,
    add,
    come,
    group,
    in_group,
    nothing_comes,
    open_batch,
    outcome,
    seal,
    sealed,
    settle,
    tend,
)
from neoq.testing.cases.seam import claim, look
from neoq.testing.cases.suite import LATER, Make, eventually, id_of, needs, prepared

NAMED = BatchRules(PRODUCER, named=True)


class BatchCases(HeldSuite):
    """The callback is released once, by the last end and the seal."""

    @needs("batches")
    @pytest.mark.parametrize("members", [0, 1, 3])
    def test_the_last_end_releases_the_callback(self, idle: Backend, members: int) -> None:
        """A callback is due when the last member of its sealed batch has ended, once, and not before."""
        holder, _ = sealed(idle, members)
        for job in come(idle, members) if members else []:
            assert nothing_comes(idle, "then")
            settle(idle, [job])
        [callback] = come(idle, queue="then")
        assert (callback.id, callback.held, callback.counted) == (holder.id, None, True)
        assert group(idle, holder) == Batch(members, succeeded=members, open=False)
        settle(idle, [callback])
        assert look(idle, holder).status is Status.SUCCEEDED
        assert nothing_comes(idle, "then")

    @needs("batches")
    def test_a_callback_is_held(self, idle: Backend) -> None:
        """A callback that waits is PENDING, held by its batch, counted as held, and takes no room."""
        holder = open_batch(idle)
        assert not holder.duplicate
        found = look(idle, holder)
        assert (found.status, found.held, found.holds) == (Status.PENDING, "batch", 0)
        [counts] = [counts for counts in idle.store.counts() if counts.queue == "then"]
        assert (counts.held, counts.ready, counts.scheduled, counts.unfinished) == (1, 0, 0, 1)
        assert idle.store.claim([]).next_due is None
        assert nothing_comes(idle, "then")

    @needs("batches")
    def test_not_before_the_seal(self, idle: Backend) -> None:
        """Members run before the batch is sealed, and the callback is not due although all have ended."""
        holder = open_batch(idle)
        for _ in range(2):
            add(idle, in_group(holder), in_group(holder))
            settle(idle, come(idle, 2))
            assert nothing_comes(idle, "then")
        assert group(idle, holder) == Batch(4, succeeded=4, open=True)
        seal(idle, holder)
        seal(idle, holder)
        assert [job.id for job in come(idle, queue="then")] == [holder.id]
        assert nothing_comes(idle, "then")

    @needs("batches")
    def test_a_sealed_batch_takes_no_member(self, idle: Backend) -> None:
        """An add to a batch that is sealed raises, and adds nothing."""
        holder, _ = sealed(idle, 1)
        with pytest.raises(BatchClosedError):
            add(idle, in_group(holder))
        assert len(claim(idle)) == 1
        assert group(idle, holder).members == 1

    @needs("batches")
    def test_members_in_several_queues(self, idle: Backend) -> None:
        """The members of a batch may be in several queues, and its callback in another or in one of them."""
        for queue in ("then", "q"):
            then = prepared(queue, unique=False)
            holder = idle.store.open_batch(then, RULES, token=idle.store.new_token())
            add(idle, *(in_group(holder, queue) for queue in "pqr"))
            seal(idle, holder)
            for other in "pqr":
                assert nothing_comes(idle, "then")
                settle(idle, come(idle, queue=other))
            assert [job.id for job in come(idle, queue=queue)] == [holder.id]
            assert group(idle, holder) == Batch(3, succeeded=3, open=False)

    @needs("batches")
    def test_a_batch_in_a_batch(self, idle: Backend) -> None:
        """A callback that is a member itself ends for the outer batch when it has run."""
        outer = open_batch(idle)
        then = in_group(outer, "inner")
        inner = idle.store.open_batch(then, RULES, token=idle.store.new_token())
        add(idle, in_group(inner))
        seal(idle, inner)
        seal(idle, outer)
        settle(idle, come(idle))
        assert nothing_comes(idle, "then")
        settle(idle, come(idle, queue="inner"))
        assert [job.id for job in come(idle, queue="then")] == [outer.id]

    @needs("batches")
    def test_the_members_of_a_member(self, idle: Backend) -> None:
        """What a member adds to its batch as it ends is a member, which the callback waits for."""
        holder, _ = sealed(idle, 1)
        [job] = come(idle)
        settle(idle, [job], follow=(in_group(holder), in_group(holder, "p")))
        settle(idle, come(idle))
        assert nothing_comes(idle, "then")
        settle(idle, come(idle, queue="p"))
        [callback] = come(idle, queue="then")
        assert group(idle, holder) == Batch(3, succeeded=3, open=False)
        assert callback.id == holder.id

    @needs("batches")
    def test_a_repeated_add_counts_once(self, idle: Backend) -> None:
        """An opening, an add and a seal that are repeated with their tokens count once."""
        if not (token := idle.store.new_token()):
            pytest.skip("no reply can be lost here")
        then = prepared("then", unique=False)
        first, again = (idle.store.open_batch(then.snapshot(), RULES, token=token) for _ in range(2))
        assert first.id == again.id
        member, token = in_group(first), idle.store.new_token()
        for _ in range(2):
            idle.store.add([_copy(member)], token=token)
        seal(idle, first)
        settle(idle, come(idle))
        assert len(come(idle, queue="then")) == 1
        assert group(idle, first) == Batch(1, succeeded=1, open=False)

    @needs("batches")
    def test_a_group_that_is_not(self, idle: Backend) -> None:
        """A job without a group has no counts, and a job of an unknown group is refused."""
        [plain] = add(idle, prepared("q"))
        assert idle.store.group(id_of(plain)) is None
        assert idle.store.group(2**40) is None
        with pytest.raises(BatchClosedError):
            add(idle, in_group(plain))

    @needs("batches")
    def test_the_members_are_found(self, idle: Backend) -> None:
        """The members of a batch are found by the name of its group, as they are and as they ended."""
        first, one = sealed(idle, 2)
        _, other = sealed(idle, 1)
        settle(idle, come(idle, 2), result=b"[1]")
        found = idle.store.find(Filter(group=Group(id_of(first)).name)).jobs
        assert {job.id for job in found} == {job.id for job in one}
        assert [job.result for job in found] == [[1], [1]]
        assert other[0].id not in {job.id for job in found}

    @needs("batches")
    def test_the_results_are_kept_for_the_callback(self, make: Make) -> None:
        """Members are kept until the callback has ended, whatever the settings keep."""
        idle = make(autostart=False, retention=0)
        idle.queues()
        holder, _ = sealed(idle, 2)
        name = Group(id_of(holder)).name
        [one, other] = come(idle, 2)
        settle(idle, [one], result=b"1")
        settle(idle, [other], Status.DEAD)
        [callback] = come(idle, queue="then")
        idle.store.prune()
        found = idle.store.find(Filter(group=name)).jobs
        assert {job.status for job in found} == {Status.SUCCEEDED, Status.DEAD}
        settle(idle, [callback])

        def has_gone() -> bool:
            tend(idle)
            idle.store.prune()
            return [job.status for job in idle.store.find(Filter(group=name)).jobs] == [Status.DEAD]

        eventually(has_gone, "the results of a batch that is over are forgotten")


class MemberCases(HeldSuite):
    """What is the end of a member, and what is not."""

    @needs("batches")
    def test_what_is_no_end(self, idle: Backend) -> None:
        """A member that is retried, snoozed or given back has not ended."""
        holder, _ = sealed(idle, 1)
        for status in (Status.RETRYING, Status.PENDING, Status.PENDING):
            [job] = come(idle)
            run_after = job.due if status is Status.PENDING else time.time()
            settle(idle, [job], status, run_after=run_after)
            assert nothing_comes(idle, "then")
            assert group(idle, holder).ended == 0
        settle(idle, come(idle))
        assert [job.id for job in come(idle, queue="then")] == [holder.id]

    @needs("batches")
    def test_every_end_counts(self, idle: Backend) -> None:
        """A member that is dead, cancelled or deleted has ended, as one that succeeded."""
        holder, added = sealed(idle, 6)
        idle.store.change([id_of(added[0])], "cancel")
        idle.store.change([id_of(added[1])], "delete")
        jobs = come(idle, 4)
        settle(idle, jobs[:1], Status.DEAD)
        settle(idle, jobs[1:2], Status.CANCELLED)
        settle(idle, jobs[2:3])
        assert nothing_comes(idle, "then")
        assert group(idle, holder) == Batch(6, succeeded=1, dead=1, cancelled=3, open=False)
        settle(idle, jobs[3:], Status.DEAD)
        assert [job.id for job in come(idle, queue="then")] == [holder.id]
        assert group(idle, holder) == Batch(6, succeeded=1, dead=2, cancelled=3, open=False)

    @needs("batches")
    def test_a_member_cancelled_as_it_runs(self, idle: Backend) -> None:
        """A member that is cancelled while it runs ends when its attempt does."""
        holder, added = sealed(idle, 1)
        [job] = come(idle)
        assert idle.store.change([id_of(added[0])], "cancel").running == {added[0].id}
        assert nothing_comes(idle, "then")
        settle(idle, [job], Status.RETRYING, run_after=time.time())
        assert [job.id for job in come(idle, queue="then")] == [holder.id]
        assert group(idle, holder) == Batch(1, cancelled=1, open=False)

    @needs("batches")
    def test_an_end_is_counted_once(self, idle: Backend) -> None:
        """A member that is settled again, under its lease or an older one, counts once."""
        holder, _ = sealed(idle, 3)
        [zombie] = come(idle)
        settle(idle, [zombie], Status.PENDING, run_after=zombie.due)
        jobs = come(idle, 3)
        assert idle.store.settle([outcome(zombie)]) == {zombie.id}
        settle(idle, jobs[:1])
        idle.store.settle([outcome(jobs[0])])
        idle.store.settle([outcome(jobs[0], Status.DEAD)])
        assert group(idle, holder) == Batch(3, succeeded=1, open=False)
        settle(idle, jobs[1:2])
        assert nothing_comes(idle, "then")
        idle.store.settle([outcome(job) for job in jobs])
        assert [job.id for job in come(idle, queue="then")] == [holder.id]
        assert group(idle, holder) == Batch(3, succeeded=3, open=False)

    @needs("batches")
    def test_a_deleted_member_counts_once(self, idle: Backend) -> None:
        """A member that has ended and is deleted after that does not end again; a dead one is cancelled."""
        holder, added = sealed(idle, 3)
        jobs = come(idle, 2)
        settle(idle, jobs[:1])
        settle(idle, jobs[1:], Status.DEAD)
        assert group(idle, holder).ended == 2
        for job in jobs:
            assert idle.store.change([id_of(job)], "delete").done == {job.id}
        assert group(idle, holder).ended == 2
        assert nothing_comes(idle, "then")
        idle.store.change([id_of(job) for job in added], "delete")
        assert [job.id for job in come(idle, queue="then")] == [holder.id]
        assert group(idle, holder).ended == 3

    @needs("batches")
    def test_a_dead_member_that_is_retried(self, idle: Backend) -> None:
        """The end of a dead member is taken back by a retry, until the callback was released."""
        holder, _ = sealed(idle, 2)
        jobs = come(idle, 2)
        settle(idle, jobs[:1], Status.DEAD)
        assert group(idle, holder).dead == 1
        assert idle.store.change([id_of(jobs[0])], "retry").done == {jobs[0].id}
        assert group(idle, holder) == Batch(2, open=False)
        settle(idle, jobs[1:])
        assert nothing_comes(idle, "then")
        settle(idle, come(idle), Status.DEAD)
        [callback] = come(idle, queue="then")
        assert idle.store.change([id_of(jobs[0])], "retry").done == {jobs[0].id}
        settle(idle, come(idle))
        assert group(idle, holder) == Batch(2, succeeded=1, dead=1, open=False)
        settle(idle, [callback])
        assert nothing_comes(idle, "then")

    @needs("batches")
    def test_a_dead_member_retried_after_the_callback(self, idle: Backend) -> None:
        """A dead member that is retried after its callback has ended is a plain job."""
        holder, _ = sealed(idle, 1)
        [member] = come(idle)
        settle(idle, [member], Status.DEAD)
        settle(idle, come(idle, queue="then"))
        idle.store.change([id_of(member)], "retry")
        settle(idle, come(idle))
        assert nothing_comes(idle, "then")
        assert look(idle, member).status is Status.SUCCEEDED
        assert look(idle, holder).status is Status.SUCCEEDED

    @needs("batches")
    @pytest.mark.parametrize("end", ["retry", "delete", "cancel"])
    def test_a_callback_that_waits_for_successes(self, idle: Backend, end: str) -> None:
        """With ``successes`` a dead member holds the callback until it is retried well, or deleted."""
        holder, _ = sealed(idle, 2, RULES._replace(successes=True))
        jobs = come(idle, 2)
        settle(idle, jobs[:1], Status.DEAD)
        settle(idle, jobs[1:])
        assert nothing_comes(idle, "then")
        assert group(idle, holder) == Batch(2, succeeded=1, dead=1, open=False)
        if end == "delete":
            idle.store.change([id_of(jobs[0])], "delete")
        else:
            idle.store.change([id_of(jobs[0])], "retry")
            assert nothing_comes(idle, "then")
            settle(idle, come(idle), Status.SUCCEEDED if end == "retry" else Status.CANCELLED)
        assert [job.id for job in come(idle, queue="then")] == [holder.id]
        assert group(idle, holder).ended == 2

    @needs("batches")
    def test_a_duplicate_is_no_member(self, idle: Backend) -> None:
        """A job that is there already does not become a member, and its end does not count."""
        [plain] = add(idle, prepared("q", {"a": 1}))
        holder = open_batch(idle)
        member = prepared("q", {"a": 1})
        member.group, member.producer = str(Group(id_of(holder))), PRODUCER
        [met] = add(idle, member)
        assert (met.id, met.duplicate) == (plain.id, True)
        seal(idle, holder)
        assert group(idle, holder) == Batch(0, open=False)
        assert [job.id for job in come(idle, queue="then")] == [holder.id]
        settle(idle, come(idle))
        assert group(idle, holder) == Batch(0, open=False)

    @needs("batches")
    def test_an_add_that_raises_counts_nothing(self, idle: Backend) -> None:
        """An add to a batch that a duplicate aborts has counted nothing."""
        add(idle, prepared("q", {"a": 1}))
        holder = open_batch(idle)
        bad = prepared("q", {"a": 1}, on_duplicate="raise")
        bad.group, bad.producer = str(Group(id_of(holder))), PRODUCER
        with pytest.raises(DuplicateJobError):
            add(idle, in_group(holder), bad)
        seal(idle, holder)
        assert group(idle, holder) == Batch(0, open=False)
        assert len(claim(idle)) == 1


class StopCases(HeldSuite):
    """Batches that are cancelled or stopped, and those that are opened again."""

    @needs("batches")
    def test_cancelling_a_batch(self, idle: Backend) -> None:
        """A batch is cancelled with its callback: no member starts, and those that run are asked to stop."""
        holder = open_batch(idle)
        first, second, third, fourth = add(
            idle,
            in_group(holder),
            in_group(holder),
            in_group(holder, "p", fingerprint="mine"),
            in_group(holder, run_after=LATER),
        )
        jobs = come(idle, 2)
        assert {job.id for job in jobs} == {first.id, second.id}
        settle(idle, jobs[1:], Status.RETRYING, run_after=time.time())
        assert holder.id in idle.store.change([id_of(holder)], "cancel").done
        assert claim(idle) == []
        assert claim(idle, queue="p") == []
        tend(idle)
        ids = [id_of(job) for job in (holder, jobs[1], third, fourth)]
        eventually(
            lambda: {job.status for job in idle.store.of_ids(ids)} == {Status.CANCELLED}, "all are cancelled"
        )
        assert not add(idle, prepared("p", fingerprint="mine"))[0].duplicate
        [asked] = [idle.store.extend([outcome(jobs[0]).lease]).cancelled]
        assert asked == {jobs[0].id}
        with pytest.raises(BatchClosedError):
            add(idle, in_group(holder))
        idle.store.settle([outcome(jobs[0], Status.CANCELLED, follow=(in_group(holder),))])
        assert nothing_comes(idle)
        assert nothing_comes(idle, "then")

    @needs("batches")
    def test_stopping_at_a_dead_member(self, idle: Backend) -> None:
        """With ``stop_on_dead`` the first dead member cancels those that wait, and the callback runs."""
        holder, added = sealed(idle, 4, RULES._replace(stop_on_dead=True))
        jobs = come(idle, 2)
        settle(idle, jobs[:1], Status.DEAD)
        tend(idle)
        assert claim(idle) == []
        assert idle.store.extend([outcome(jobs[1]).lease]).cancelled == {jobs[1].id}
        assert nothing_comes(idle, "then")
        settle(idle, jobs[1:], Status.CANCELLED)
        assert [job.id for job in come(idle, queue="then")] == [holder.id]
        assert group(idle, holder) == Batch(4, dead=1, cancelled=3, open=False, stopped=True)
        waiting = [id_of(job) for job in added[2:]]
        assert {job.status for job in idle.store.of_ids(waiting)} == {Status.CANCELLED}

    @needs("batches")
    def test_a_held_callback_is_not_deleted(self, idle: Backend) -> None:
        """A callback that waits is not deleted: it is cancelled first."""
        holder, _ = sealed(idle, 1)
        assert idle.store.change([id_of(holder)], "delete").done == frozenset()
        assert look(idle, holder).held == "batch"
        idle.store.change([id_of(holder)], "cancel")
        tend(idle)
        assert idle.store.change([id_of(holder)], "delete").done == {holder.id}
        assert nothing_comes(idle)

    @needs("batches")
    @pytest.mark.parametrize("action", ["run", "retry"])
    def test_a_held_callback_is_not_run_by_hand(self, idle: Backend, action: str) -> None:
        """Neither a retry nor a run by hand makes a callback due before its members have ended."""
        holder, _ = sealed(idle, 1)
        idle.store.change([id_of(holder)], action)  # type: ignore[arg-type]
        assert nothing_comes(idle, "then")
        settle(idle, come(idle))
        assert [job.id for job in come(idle, queue="then")] == [holder.id]

    @needs("batches")
    def test_opening_a_batch_again(self, idle: Backend) -> None:
        """A batch is opened again by its name; the producer that had it adds and seals no more."""
        first = open_batch(idle, NAMED, unique=True, fingerprint="import")
        add(idle, in_group(first, fingerprint="a"))
        again = open_batch(idle, NAMED._replace(producer=8), unique=True, fingerprint="import")
        assert (again.id, again.duplicate) == (first.id, True)
        with pytest.raises(BatchClosedError):
            add(idle, in_group(first, fingerprint="b"))
        with pytest.raises(BatchClosedError):
            seal(idle, first)
        member = in_group(first, fingerprint="b")
        member.producer = 8
        add(idle, member)
        settle(idle, come(idle, 2))
        assert nothing_comes(idle, "then")
        seal(idle, first, 8)
        assert [job.id for job in come(idle, queue="then")] == [first.id]
        assert group(idle, first) == Batch(2, succeeded=2, open=False)

    @needs("batches")
    def test_a_sealed_batch_is_opened_again(self, idle: Backend) -> None:
        """A sealed batch that has not ended is open again, to its new producer, until that seals it."""
        first = open_batch(idle, NAMED, unique=True, fingerprint="import")
        add(idle, in_group(first))
        seal(idle, first)
        open_batch(idle, NAMED._replace(producer=8), unique=True, fingerprint="import")
        settle(idle, come(idle))
        assert nothing_comes(idle, "then")
        assert group(idle, first).open
        seal(idle, first, 8)
        assert [job.id for job in come(idle, queue="then")] == [first.id]

    @needs("batches")
    def test_members_that_are_known(self, idle: Backend) -> None:
        """A named batch knows its members, ended or not: a loop that runs again adds what is missing."""
        first = open_batch(idle, NAMED, unique=True, fingerprint="import")
        added = add(idle, *(in_group(first, fingerprint=name) for name in "abc"))
        [done] = come(idle)
        settle(idle, [done])
        again = add(idle, *(in_group(first, fingerprint=name) for name in "abcd"))
        assert [job.duplicate for job in again] == [True, True, True, False]
        assert [job.id for job in again[:3]] == [job.id for job in added]
        seal(idle, first)
        settle(idle, come(idle, 3))
        assert [job.id for job in come(idle, queue="then")] == [first.id]
        assert group(idle, first) == Batch(4, succeeded=4, open=False)

    @needs("batches")
    def test_a_name_that_another_job_has(self, idle: Backend) -> None:
        """A batch whose name another unfinished job has is refused; one whose callback ended is new."""
        add(idle, prepared("then", fingerprint="import"))
        with pytest.raises(DuplicateJobError):
            open_batch(idle, NAMED, unique=True, fingerprint="import")
        settle(idle, come(idle, queue="then"))
        first = open_batch(idle, NAMED, unique=True, fingerprint="import")
        add(idle, in_group(first, fingerprint="a"))
        seal(idle, first)
        settle(idle, come(idle))
        settle(idle, come(idle, queue="then"))
        second = open_batch(idle, NAMED, unique=True, fingerprint="import")
        assert (second.duplicate, second.id != first.id) == (False, True)
        assert not add(idle, in_group(second, fingerprint="a"))[0].duplicate

    @needs("batches")
    def test_a_deadline_of_a_callback(self, idle: Backend) -> None:
        """A callback that waits at its deadline is due then; as it ends dead its members are cancelled."""
        holder, _ = sealed(idle, 1, deadline=0.05)
        tend(idle)
        [callback] = come(idle, queue="then")
        assert callback.deadline is not None
        assert datetime.now(UTC) >= callback.deadline
        settle(idle, [callback], Status.DEAD)
        assert nothing_comes(idle)
        assert group(idle, holder).stopped


def _copy(job: Job) -> Job:
    copy = job.snapshot()
    copy.group, copy.producer = job.group, job.producer
    return copy
