"""Groups in memory: the members of each, and how many of them have ended."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from neoq.held.group import BATCH, Batch, BatchRules, closed, group_in
from neoq.job import Job
from neoq.memory.queues import Records
from neoq.outcome import Outcome
from neoq.record import FINISHED, Status

_GATHER = BatchRules(producer=0)
_STOPPED_AT_ONCE = 500  # jobs, while others wait for the lock
_SUCCEEDED, _DEAD, _CANCELLED = Status.SUCCEEDED, Status.DEAD, Status.CANCELLED


class Members:
    """One group: its jobs, counted. As it is, the children of a gather."""

    __slots__ = (
        *("cancelled", "complete", "dead", "holder", "ids"),
        *("number", "round", "stopped", "succeeded"),
    )
    rules = _GATHER
    sealed = True  # it takes no more members from outside
    names: dict[tuple[str, str], int] | None = None

    def __init__(self, holder: int, number: int) -> None:
        self.holder = holder
        self.round = number
        # Its jobs: 0 for none, or the only one. None once it has let them go, to the settings.
        self.ids: dict[int, None] | int | None = 0
        self.number = self.succeeded = self.dead = self.cancelled = 0
        self.stopped = False
        self.complete = False

    def all_ids(self) -> list[int]:
        """Its jobs, until it has let them go."""
        ids = self.ids
        return list(ids) if isinstance(ids, dict) else [ids] if ids else []

    def add(self, job_id: int) -> None:
        """Count a job in."""
        self.number += 1
        if isinstance(self.ids, dict):
            self.ids[job_id] = None
        elif self.ids is not None:
            self.ids = {self.ids: None, job_id: None} if self.ids else job_id

    def drop(self, job_id: int) -> None:
        """Forget a job that was deleted."""
        if isinstance(self.ids, dict):
            self.ids.pop(job_id, None)
        elif self.ids == job_id:
            self.ids = 0

    @property
    def over(self) -> bool:
        """Whether all its jobs have ended, and no other can come."""
        ended = self.succeeded + self.dead + self.cancelled
        return self.sealed and ended == self.number and not (self.dead and self.rules.successes)

    @property
    def takes_more(self) -> bool:
        """Whether a job that is part of it may add others."""
        return not (self.stopped or self.complete)

    def count(self, status: Status, one: int) -> None:
        """Count an end in (1) or out (-1)."""
        if status is _SUCCEEDED:
            self.succeeded += one
        elif status is _DEAD:
            self.dead += one
        else:
            self.cancelled += one


class BatchMembers(Members):
    """The members of a batch; those of a named one by queue and fingerprint, too."""

    __slots__ = ("names", "rules", "sealed")

    def __init__(self, holder: int, rules: BatchRules) -> None:
        super().__init__(holder, BATCH)
        self.rules = rules
        self.sealed = False
        self.names = {} if rules.named else None


class Groups:
    """All groups, by holder and round; callers hold the lock of the table.

    ``wake`` makes a held job due, ``stop`` cancels one, and ``let_go`` leaves those that have ended to the
    settings: what these do to a job comes back here as its end.
    """

    def __init__(
        self,
        jobs: Records,
        *,
        wake: Callable[[int], None],
        stop: Callable[[int], None],
        let_go: Callable[[Sequence[Job]], None],
    ) -> None:
        self._jobs = jobs
        self._wake, self._stop_job, self._let_go_jobs = wake, stop, let_go
        # By holder; by round, too, where it has had several. A dict of one group takes more than the group.
        self._of: dict[int, Members | dict[int, Members]] = {}
        self._expecting: list[Members] = []  # in the settle at work: those whose jobs are yet to be added
        self.stopping: list[list[int]] = []  # jobs of stopped groups that are not cancelled yet
        self._latest: tuple[str, Members | None] = "", None  # what a job was last said to be part of

    def any(self) -> bool:
        """Whether there is a group: else no job has one, whatever it says."""
        return bool(self._of)

    def get(self, holder: int, number: int) -> Members | None:
        """The group of a holder's round."""
        found = self._of.get(holder)
        if isinstance(found, dict):
            return found.get(number)
        return found if found is not None and found.round == number else None

    def _all_of(self, holder: int) -> list[Members]:
        found = self._of.get(holder)
        if isinstance(found, dict):
            return list(found.values())
        return [] if found is None else [found]

    def _by_name(self, name: str) -> Members | None:
        named = group_in(name)
        return None if named is None else self.get(*named[:2])

    def of(self, job: Job) -> Members | None:
        """The group that a job belongs to."""
        text = job.group
        if text is None:
            return None
        latest, members = self._latest
        if text != latest:  # mostly it is that of the job before
            members = self._by_name(text)
            self._latest = text, members
        return members

    def ids(self, name: str) -> list[int] | None:
        """The jobs of a group by its name; None where they are not known here any more."""
        members = self._by_name(name)
        return None if members is None or members.ids is None else members.all_ids()

    def counts(self, holder: int, number: int) -> Batch | None:
        """A group in numbers."""
        members = self.get(holder, number)
        if members is None:
            return None
        return Batch(
            members.number,
            members.succeeded,
            members.dead,
            members.cancelled,
            open=not (members.sealed or members.stopped),
            stopped=members.stopped,
        )

    # -- from its beginning to its seal ------------------------------------------------------------------

    def open(self, holder: int, rules: BatchRules) -> None:
        """Begin a batch, or let another producer go on with it."""
        members = self._begun(holder, BATCH, rules)
        assert isinstance(members, BatchMembers)
        members.rules = rules
        members.sealed = False

    def seal(self, holder: int, producer: int) -> None:
        """Take no more members from outside; the callback is due if all have ended."""
        members = self.get(holder, BATCH)
        if not isinstance(members, BatchMembers) or members.rules.producer != producer:
            raise closed(holder)
        members.sealed = True
        self._look(members)

    def gather(self, holder: int, number: int) -> bool:
        """Begin, or go on with, a gather; whether all its children have ended."""
        members = self._begun(holder, number)
        members.complete = members.complete or self._is_over(members)
        return members.complete

    def expect(self, outcome: Outcome) -> None:
        """Let no group of the jobs after an outcome be complete, until they were added."""
        groups = [members for job in outcome.follow if job.group is not None and (members := self.of(job))]
        if outcome.holds is not None:
            groups.append(self._begun(outcome.lease.job_id, outcome.holds))
        self._expecting = groups

    def expect_none(self) -> None:
        """The outcome was not settled."""
        self._expecting = []

    def added(self) -> None:
        """The jobs that were expected were added, or were not taken."""
        groups, self._expecting = self._expecting, []
        for members in groups:
            self._look(members)

    def _begun(self, holder: int, number: int, rules: BatchRules | None = None) -> Members:
        members = self.get(holder, number)
        if members is None:
            members = Members(holder, number) if rules is None else BatchMembers(holder, rules)
            before = self._all_of(holder)
            self._of[holder] = {one.round: one for one in (*before, members)} if before else members
            self._latest = "", None
        return members

    # -- members -----------------------------------------------------------------------------------------

    def refuse_closed(self, jobs: Sequence[Job]) -> None:
        """Raise BatchClosedError where one of the jobs is for a batch that is not open to its producer."""
        group: str | None = None
        producer: int | None = None
        for job in jobs:
            if job.group is None or (job.group == group and job.producer == producer):
                continue
            group, producer = job.group, job.producer
            members = self.of(job)
            if (
                members is None
                or members.sealed
                or not members.takes_more
                or producer != members.rules.producer
            ):
                named = group_in(group)
                raise closed(0 if named is None else named.holder)

    def admits(self, job: Job) -> bool:
        """Whether a job that follows an attempt may be added: its group is not stopped."""
        if job.group is None:
            return True
        members = self.of(job)
        return members is not None and members.takes_more

    def known(self, job: Job) -> Job | None:
        """The member of a named batch that has this one's fingerprint, as it is or has ended."""
        members = self.of(job)
        if members is None or members.names is None:
            return None
        job_id = members.names.get((job.queue, job.fingerprint))
        if job_id is None:
            return None
        there = self._jobs.get(job_id)
        if isinstance(there, Job):
            met = there.snapshot()
        else:  # it was deleted
            met = job.as_record()
            met.id, met.status = job_id, _CANCELLED
        met.duplicate = True
        return met

    def join(self, record: Job) -> None:
        """Count a job in that was stored."""
        members = self.of(record)
        if members is None:
            return
        record.counted = True
        members.add(record.id)
        if members.names is not None:
            members.names[record.queue, record.fingerprint] = record.id

    def keeps(self, job: Job) -> bool:
        """Whether a job that has ended stays for the holder of its group."""
        members = self.of(job)
        return members is not None and members.ids is not None

    def ended(self, job: Job) -> bool:
        """Count the end of a job, in its group and as a holder; whether its group needs it still."""
        if job.holds is not None:
            self._holder_ended(job, let_go=job.status is not _DEAD)
        members = self.of(job)
        if members is not None and not members.complete:
            members.count(job.status, 1)
            if job.status is _DEAD and members.rules.stop_on_dead:
                self._stop(members)
            self._look(members)
        return members is not None and members.ids is not None

    def succeeded(self, jobs: Iterable[Job]) -> list[Job]:
        """As `ended`, for jobs that have succeeded and hold no group; return those that no group needs."""
        group, members = "", None
        free: list[Job] = []
        for job in jobs:
            if job.group != group:  # mostly it is that of the job before
                if members is not None:
                    self._look(members)
                group, members = job.group or "", self.of(job)
            if members is None or members.ids is None:
                free.append(job)
            if members is not None and not members.complete:
                members.succeeded += 1
        if members is not None:
            self._look(members)
        return free

    def may_revive(self, job: Job) -> bool:
        """Whether a DEAD job may run again: not where its group was stopped before all had ended."""
        members = self.of(job)
        return members is None or members.complete or not members.stopped

    def revive(self, job: Job) -> None:
        """Take the end of a DEAD job back, if the group is not complete."""
        members = self.of(job)
        if members is not None and not members.complete:
            members.count(_DEAD, -1)

    def forget(self, job: Job) -> None:
        """Count out what a job is that was deleted: as a member its end, if it had none; its own groups."""
        if job.holds is not None:
            self._holder_ended(job, let_go=True)
            self._of.pop(job.id, None)
            self._latest = "", None
        members = self.of(job)
        if members is None:
            return
        members.drop(job.id)
        if not members.complete:
            if job.status is _DEAD:
                members.count(_DEAD, -1)
            if job.status is _DEAD or job.status not in FINISHED:
                members.count(_CANCELLED, 1)
            self._look(members)

    # -- ends --------------------------------------------------------------------------------------------

    def _look(self, members: Members) -> None:
        """Release the holder once, when the last has ended."""
        if not members.complete and self._is_over(members):
            members.complete = True
            holder = self._jobs.get(members.holder)
            if (
                isinstance(holder, Job)
                and holder.held in {"batch", "children"}
                and holder.holds == members.round
            ):
                self._wake(members.holder)

    def _is_over(self, members: Members) -> bool:
        return members.over and members not in self._expecting

    def _holder_ended(self, job: Job, *, let_go: bool) -> None:
        for members in self._all_of(job.id):
            if not members.complete:
                self._stop(members)
            if let_go:
                self._let_go(members)

    def _stop(self, members: Members) -> None:
        if not members.stopped:
            members.stopped = True
            self.stopping.append(members.all_ids()[::-1])

    def stop_some(self) -> None:
        """Cancel a page of the jobs whose groups are stopped."""
        for _ in range(_STOPPED_AT_ONCE):
            while self.stopping and not self.stopping[-1]:
                self.stopping.pop()
            if not self.stopping:
                return
            self._stop_job(self.stopping[-1].pop())

    def is_stopped(self, job: Job) -> bool:
        """Whether a job may not start, since its group is stopped."""
        members = self.of(job)
        return members is not None and members.stopped and not members.complete

    def _let_go(self, members: Members) -> None:
        ids, members.ids = members.all_ids(), None
        if members.names is not None:
            members.names = None
        jobs = [job for job in map(self._jobs.get, ids) if isinstance(job, Job)]
        self._let_go_jobs([job for job in jobs if job.status is _SUCCEEDED or job.status in FINISHED])
