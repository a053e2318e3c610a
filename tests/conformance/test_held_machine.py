"""Random operations on batches and ordered lines of a store, and on a model of them, which must agree."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from neoq import MemBackend, SqliteBackend
from neoq.backend import Backend
from neoq.errors import BatchClosedError
from neoq.held.group import Batch, BatchRules, Group
from neoq.held.limits import Limits
from neoq.job import Job
from neoq.outcome import Failure, Outcome, lease_of
from neoq.postgres.backend import PostgresBackend
from neoq.record import FINISHED, Status
from neoq.redis.backend import RedisBackend
from neoq.store import Demand
from neoq.testing.cases.suite import prepared
from tests.postgres_server import fresh_schema

pytestmark = pytest.mark.timeout(300)  # to make a failure small takes a while

QUEUES = ("p", "q", "then")
FAILURE = Failure("ValueError", "no", "")
PENDING, RUNNING, RETRYING = Status.PENDING, Status.RUNNING, Status.RETRYING
SUCCEEDED, DEAD, CANCELLED = Status.SUCCEEDED, Status.DEAD, Status.CANCELLED


@dataclass
class Known:
    """What the model knows of one job."""

    id: int
    batch: int | None = None
    key: str | None = None
    held: bool = False
    status: Status = PENDING
    asked: bool = False  # to stop
    claimed: Job | None = None

    @property
    def waits(self) -> bool:
        return self.status in {PENDING, RETRYING}


@dataclass
class Members:
    """What the model knows of one batch."""

    rules: BatchRules
    ends: Counter[Status] = field(default_factory=Counter)
    members: int = 0
    sealed: bool = False
    stopped: bool = False
    complete: bool = False

    @property
    def is_over(self) -> bool:
        ended = sum(self.ends.values()) == self.members
        return self.sealed and ended and not (self.rules.successes and self.ends[DEAD])

    def seen(self) -> Batch:
        ends = self.ends[SUCCEEDED], self.ends[DEAD], self.ends[CANCELLED]
        return Batch(self.members, *ends, open=not (self.sealed or self.stopped), stopped=self.stopped)


class HeldMachine(RuleBasedStateMachine):
    """A store beside a model of it."""

    def make(self) -> Backend:
        """A backend on an empty store."""
        raise NotImplementedError

    @initialize()
    def begin(self) -> None:
        self.backend = self.make()
        self.backend.queues()
        self.store = self.backend.store
        self.jobs: dict[int, Known] = {}
        self.batches: dict[int, Members] = {}
        self.turns: dict[str, int] = {}
        self.has_lines = "limits" in self.backend.features
        if self.has_lines:
            self.store.limit("q", Limits(ordered=True), by_listener=True)

    def teardown(self) -> None:
        if hasattr(self, "backend"):
            self.backend.shutdown(timeout=0)
            self.tidy()

    def tidy(self) -> None:
        """Remove what `make` has made."""

    # -- the model ---------------------------------------------------------------------------------------

    def some(self, number: int, wanted: Callable[[Known], bool]) -> Known | None:
        found = [job for job in self.jobs.values() if wanted(job)]
        return found[number % len(found)] if found else None

    def some_batch(self, number: int) -> int | None:
        return list(self.batches)[number % len(self.batches)] if self.batches else None

    def ready(self) -> set[int]:
        return {
            job.id
            for job in self.jobs.values()
            if job.waits and not job.held and (job.key is None or self.turns.get(job.key) == job.id)
        }

    def joined(self, jobs: list[Job], batch: int | None) -> None:
        """Jobs were added."""
        for job in jobs:
            self.jobs[job.id] = Known(job.id, batch, job.key if self.has_lines else None)
            if batch is not None:
                self.batches[batch].members += 1

    def ended(self, job: Known, status: Status) -> None:
        """A job has ended, or is deleted."""
        job.status, job.asked, job.held, job.claimed = status, False, False, None
        if status is not DEAD:
            self.free(job)
        if job.id in self.batches and not self.batches[job.id].complete:
            self.stop(job.id)
        members = None if job.batch is None else self.batches[job.batch]
        if members is not None and not members.complete:
            members.ends[status] += 1
            if status is DEAD and members.rules.stop_on_dead:
                assert job.batch is not None
                self.stop(job.batch)

    def free(self, job: Known) -> None:
        if job.key is not None and self.turns.get(job.key) == job.id:
            del self.turns[job.key]

    def stop(self, batch: int) -> None:
        if self.batches[batch].stopped:
            return
        self.batches[batch].stopped = True
        for job in [job for job in self.jobs.values() if job.batch == batch]:
            if job.waits:
                self.ended(job, CANCELLED)
            elif job.status is RUNNING:
                job.asked = True

    def settled(self) -> None:
        """Follow up what an operation has changed."""
        for batch, members in self.batches.items():
            if not members.complete and members.is_over:
                members.complete = True
                if batch in self.jobs:
                    self.jobs[batch].held = False
        for job in sorted(self.jobs.values(), key=lambda job: job.id):
            if job.key is not None and job.waits and not job.held:
                self.turns.setdefault(job.key, job.id)

    # -- operations --------------------------------------------------------------------------------------

    @rule(kind=st.sampled_from(["plain", "successes", "successes", "stops"]))
    def open(self, kind: str) -> None:
        rules = BatchRules(7, kind == "successes", kind == "stops")
        then = prepared("then", unique=False)
        holder = self.store.open_batch(then, rules, token=self.store.new_token())
        self.jobs[holder.id] = Known(holder.id, held=True)
        self.batches[holder.id] = Members(rules)

    @rule(
        number=st.integers(0, 99),
        keys=st.lists(st.sampled_from([None, "a", "b"]), min_size=1, max_size=3),
        alone=st.booleans(),
    )
    def add(self, number: int, keys: list[str | None], alone: bool) -> None:
        batch = None if alone else self.some_batch(number)
        jobs = [self.made(key, batch) for key in keys]
        closed = batch is not None and (self.batches[batch].sealed or self.batches[batch].stopped)
        if closed:
            with pytest.raises(BatchClosedError):
                self.store.add(jobs, token=self.store.new_token())
        else:
            self.joined(self.store.add(jobs, token=self.store.new_token()), batch)
        self.settled()

    def made(self, key: str | None, batch: int | None) -> Job:
        job = prepared("p" if key is None else "q", {"n": 1}, unique=False, key=key)
        if batch is not None:
            job.group, job.producer = str(Group(batch)), 7
        return job

    @precondition(lambda self: self.batches)
    @rule(number=st.integers(0, 99))
    def seal(self, number: int) -> None:
        batch = self.some_batch(number)
        if batch is None or (batch not in self.jobs or not self.jobs[batch].held):
            return
        self.store.seal(batch, 7)
        self.batches[batch].sealed = True
        self.settled()

    @rule()
    def claim(self) -> None:
        expected, claimed = self.ready(), list[Job]()
        give_up = time.monotonic() + 10
        while len(claimed) < len(expected) and time.monotonic() < give_up:
            claimed += self.store.claim([Demand(queue, 99) for queue in QUEUES]).jobs
        claimed += self.store.claim([Demand(queue, 99) for queue in QUEUES]).jobs
        assert {job.id for job in claimed} == expected
        for job in claimed:
            self.jobs[job.id].status, self.jobs[job.id].claimed = RUNNING, job

    @precondition(lambda self: self.some(0, lambda job: job.status is RUNNING))
    @rule(
        number=st.integers(0, 99),
        status=st.sampled_from([SUCCEEDED, SUCCEEDED, DEAD, CANCELLED, RETRYING, PENDING]),
        follows=st.sampled_from([None, None, "", "a"]),
    )
    def settle(self, number: int, status: Status, follows: str | None) -> None:
        job = self.some(number, lambda job: job.status is RUNNING)
        if job is None or job.claimed is None:
            return
        ends, now = status in FINISHED, time.time()
        follow: tuple[Job, ...] = ()
        members = None if job.batch is None else self.batches[job.batch]
        takes_more = members is not None and not members.complete and not members.stopped
        if takes_more and follows is not None and status is SUCCEEDED:
            follow = (self.made(follows or None, job.batch),)
        failure = FAILURE if status in {DEAD, RETRYING} else None
        outcome = Outcome(lease_of(job.claimed), status, None if ends else now, status is RETRYING, now, now)
        outcome = outcome._replace(failure=failure, follow=follow)
        assert self.store.settle([outcome]) == set()
        if follow:
            before = set(self.jobs)
            self.tend()
            added = [one for one in self.store.find(limit=10_000).jobs if one.id not in before]
            assert len(added) == 1
            self.joined(added, job.batch)
        if ends or job.asked:
            self.ended(job, status if ends else CANCELLED)
        else:
            job.status, job.claimed = status, None
        self.settled()

    @precondition(lambda self: self.jobs)
    @rule(number=st.integers(0, 99))
    def cancel(self, number: int) -> None:
        job = self.some(number, lambda _job: True)
        if job is None:
            return
        changed = self.store.change([job.id], "cancel")
        assert (job.id in changed.done) == job.waits
        if job.waits:
            self.ended(job, CANCELLED)
        elif job.status is RUNNING:
            job.asked = True
        self.settled()

    @precondition(lambda self: self.some(0, lambda job: job.status is DEAD))
    @rule(number=st.integers(0, 99))
    def retry(self, number: int) -> None:
        job = self.some(number, lambda job: job.status is DEAD)
        if job is None:
            return
        members = None if job.batch is None else self.batches[job.batch]
        refused = members is not None and members.stopped and not members.complete
        assert self.store.change([job.id], "retry").done == (set() if refused else {job.id})
        if not refused:
            if members is not None and not members.complete:
                members.ends[DEAD] -= 1
            job.status = PENDING
        self.settled()

    @precondition(lambda self: self.jobs)
    @rule(number=st.integers(0, 99))
    def delete(self, number: int) -> None:
        job = self.some(number, lambda job: job.status is not RUNNING and job.id not in self.batches)
        if job is None:
            return
        assert self.store.change([job.id], "delete").done == {job.id}
        members = None if job.batch is None else self.batches[job.batch]
        if job.status is DEAD and members is not None and not members.complete:
            members.ends[DEAD] -= 1
            members.ends[CANCELLED] += 1
        if job.waits:
            self.ended(job, CANCELLED)
        self.free(job)
        del self.jobs[job.id]
        self.settled()

    # -- what always holds -------------------------------------------------------------------------------

    def tend(self) -> None:
        while self.store.tend():
            pass

    @invariant()
    def they_agree(self) -> None:
        if not hasattr(self, "backend"):
            return
        self.tend()
        self.store.claim([Demand(queue, 0) for queue in QUEUES])
        found = {job.id: job.status for job in self.store.find(limit=10_000).jobs}
        assert found == {job.id: job.status for job in self.jobs.values()}
        for batch, members in self.batches.items():
            if self.jobs[batch].status not in FINISHED:
                assert self.store.group(batch) == members.seen()


class MemHeldMachine(HeldMachine):
    """Jobs in memory."""

    def make(self) -> Backend:
        return MemBackend(autostart=False)


class SqliteHeldMachine(HeldMachine):
    """Jobs in a file."""

    def make(self) -> Backend:
        self.directory = Path(tempfile.mkdtemp())
        return SqliteBackend(self.directory / "jobs.db", synchronous="off", autostart=False)

    def tidy(self) -> None:
        shutil.rmtree(self.directory)


class PostgresHeldMachine(HeldMachine):
    """Jobs in a schema."""

    url: ClassVar[str]

    def make(self) -> Backend:
        return PostgresBackend(self.url, schema=fresh_schema(), autostart=False)


class RedisHeldMachine(HeldMachine):
    """Jobs under a prefix."""

    url: ClassVar[str]
    new_prefix: ClassVar[Callable[[], str]]

    def make(self) -> Backend:
        return RedisBackend(self.url, prefix=type(self).new_prefix(), autostart=False)


def as_test(machine: type[HeldMachine], examples: int) -> Any:
    """A test of a few seconds."""
    test = machine.TestCase
    test.settings = settings(
        max_examples=examples,
        stateful_step_count=40,
        deadline=None,
        report_multiple_bugs=False,
        phases=[Phase.reuse, Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    return test


TestMemory = as_test(MemHeldMachine, 30)
TestSqlite = as_test(SqliteHeldMachine, 10)


class TestPostgres(as_test(PostgresHeldMachine, 3)):  # type: ignore[misc]
    @pytest.fixture(autouse=True)
    def _server(self, postgres_url: str) -> None:
        PostgresHeldMachine.url = postgres_url


class TestRedis(as_test(RedisHeldMachine, 3)):  # type: ignore[misc]
    @pytest.fixture(autouse=True)
    def _server(self, redis_url: str, redis_prefix: Callable[[], str]) -> None:
        RedisHeldMachine.url, RedisHeldMachine.new_prefix = redis_url, redis_prefix
