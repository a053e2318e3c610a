"""Random operations on a store and on a model of it, which must agree after each.

A store joins with one class: how to make one, how to open it a second time, and what it can have done to it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from neoq import DuplicateJobError, MemBackend, SqliteBackend
from neoq.backend import Backend
from neoq.job import Job
from neoq.outcome import Failure, Lease, Outcome
from neoq.postgres.backend import PostgresBackend
from neoq.record import FINISHED, Status, Unique
from neoq.redis.backend import RedisBackend
from neoq.store import Demand, QueueCounts
from neoq.testing import Faults
from tests.postgres_server import Schemas

pytestmark = pytest.mark.timeout(300)  # to make a failure small takes a while

QUEUES = ("p", "q")
HOUR, DAY = 3600.0, 86400.0
EVERYTHING = 10_000
MAX_CRASHES = 2
OF_ANOTHER = "of another"  # the fingerprint that neoq computes for a payload, given by hand
FAILURE = Failure("ValueError", "no", "Traceback ...")

PENDING, RUNNING, RETRYING = Status.PENDING, Status.RUNNING, Status.RETRYING
SUCCEEDED, DEAD, CANCELLED = Status.SUCCEEDED, Status.DEAD, Status.CANCELLED


@dataclass
class Modelled:
    """What is to be known of one job."""

    id: int
    queue: str
    n: int
    fingerprint: str
    unique: Unique
    priority: int
    run_after: float
    status: Status = PENDING
    holds: bool = False
    retries: int = 0
    crashes: int = 0
    token: int = 0
    store: int = 0  # which of the two has claimed it
    cancel: bool = False

    @property
    def waits(self) -> bool:
        return self.status in {PENDING, RETRYING}

    def end(self, status: Status) -> None:
        self.status, self.holds, self.cancel, self.token = status, False, False, 0

    def seen(self) -> tuple[Any, ...]:
        return (
            self.id,
            self.queue,
            self.n,
            self.fingerprint,
            self.priority,
            round(self.run_after, 6) if self.status not in FINISHED else None,
            self.status,
            self.retries,
            self.crashes,
        )


def seen(job: Job) -> tuple[Any, ...]:
    """A job of the store, as `Modelled.seen` describes one."""
    assert job.run_after is not None
    due = round(job.run_after.timestamp(), 6) if job.status not in FINISHED else None
    described = job.id, job.queue, job.payload["n"], job.fingerprint, job.priority, due
    return (*described, job.status, job.retries, job.crashes)


@dataclass(frozen=True)
class Wanted:
    """A job to add."""

    queue: str
    n: int
    own: str | None
    unique: Unique
    priority: int
    delay: float
    on_duplicate: Any

    def job(self, now: float) -> Job:
        job = Job(
            self.queue,
            {"n": self.n},
            fingerprint=Job(self.queue, {"n": 0}).fingerprint if self.own == OF_ANOTHER else self.own,
            unique=self.unique,
            priority=self.priority,
            run_after=self.delay or None,
            on_duplicate=self.on_duplicate,
        )
        job.prepare(now, 2**20)
        return job


WANTED = st.builds(
    Wanted,
    queue=st.sampled_from(QUEUES),
    n=st.integers(0, 3),
    own=st.sampled_from([None, None, None, "own", OF_ANOTHER]),
    unique=st.sampled_from([True, True, False, "until_started"]),
    priority=st.sampled_from([0, 0, 0, -1, 1]),
    delay=st.sampled_from([0.0, 0.0, HOUR, 2 * HOUR]),
    on_duplicate=st.sampled_from(["return", "return", "replace", "raise"]),
)


@dataclass
class Model:
    """The jobs as they should be."""

    given: float | None  # what time it is; None: as everybody's clock says
    ticks: int | None = None  # a second: due times in one of them are alike; None: they are told apart
    jobs: dict[int, Modelled] = field(default_factory=dict)
    paused: set[str] = field(default_factory=set)

    @property
    def now(self) -> float:
        return round(time.time(), 6) if self.given is None else self.given

    def holder(self, queue: str, fingerprint: str) -> Modelled | None:
        for job in self.jobs.values():
            if job.holds and (job.queue, job.fingerprint) == (queue, fingerprint):
                return job
        return None

    def refuses(self, batch: Iterable[Job]) -> bool:
        """Whether one of a batch raises."""
        earlier = set[tuple[str, str]]()
        for job in batch:
            key = job.queue, job.fingerprint
            if not job.unique:
                continue
            if job.on_duplicate == "raise" and (key in earlier or self.holder(*key)):
                return True
            earlier.add(key)
        return False

    def meet(self, holder: Modelled, job: Job) -> None:
        assert job.due is not None
        if not holder.waits:
            return
        if job.on_duplicate == "replace":
            holder.n, holder.priority, holder.run_after = job.payload["n"], job.priority, job.due
        elif holder.status is RETRYING:
            holder.run_after = min(holder.run_after, job.due)

    def accept(self, job: Job, job_id: int) -> None:
        assert job.due is not None
        new = Modelled(
            job_id,
            job.queue,
            job.payload["n"],
            job.fingerprint,
            job.unique,
            job.priority,
            job.due,
            holds=bool(job.unique),
        )
        self.jobs[job_id] = new

    def ready(self, queue: str) -> list[Modelled]:
        """What may be claimed of a queue, the best first."""
        if queue in self.paused:
            return []
        jobs = [
            job
            for job in self.jobs.values()
            if job.waits and job.queue == queue and job.run_after <= self.now
        ]
        return sorted(jobs, key=lambda job: (-job.priority, self.turn(job), job.id))

    def turn(self, job: Modelled) -> float:
        """When it is a job's turn among those of its priority."""
        return job.run_after if self.ticks is None else int(job.run_after * self.ticks)

    def counts(self) -> list[QueueCounts]:
        names = {SUCCEEDED: "succeeded", DEAD: "dead", CANCELLED: "cancelled", RUNNING: "running"}
        found = {queue: QueueCounts(queue, paused=queue in self.paused) for queue in QUEUES}
        for job in self.jobs.values():
            if job.waits:
                name = "scheduled" if job.status is PENDING else "retrying"
                name = "ready" if job.run_after <= self.now else name
            else:
                name = names[job.status]
            counts = found[job.queue]
            found[job.queue] = replace(counts, **{name: getattr(counts, name) + 1})
        return list(found.values())


class StoreMachine(RuleBasedStateMachine):
    """The operations, and what holds after each of them."""

    own_clock: ClassVar[bool] = True  # the store takes its time from `Backend.clock`
    shared: ClassVar[bool] = True  # a second backend may work on it
    dies: ClassVar[bool] = True  # the death of a backend shows at once
    shares_tokens: ClassVar[bool] = True  # an add is known to the second backend, too
    one_order: ClassVar[bool] = True  # ids rise throughout the store, not only in each queue
    lends_leases: ClassVar[bool] = True  # the second backend may settle what the first has claimed
    ticks: ClassVar[int | None] = None  # a second, where due times in one of them count as equal

    def make(self, **options: Any) -> Backend:
        """Return a backend on an empty store."""
        raise NotImplementedError

    def another(self, first: Backend, **options: Any) -> Backend:
        """Return a second backend on the store of a live one."""
        raise NotImplementedError

    def die(self, backend: Backend) -> None:
        """Let a backend's process die, as far as the store can tell."""

    def tidy(self) -> None:
        """Remove what `make` made."""

    # -- the beginning and the end -----------------------------------------------------------------------

    OPTIONS: ClassVar[dict[str, Any]] = {
        "autostart": False,
        "lease": DAY,
        "max_crashes": MAX_CRASHES,
        "retention": None,
        "max_finished": None,
        "queue_capacity": None,
    }

    @initialize()
    def open(self) -> None:
        self.model = Model(2e9 if self.own_clock else None, self.ticks)
        self.began = self.model.now
        self.stores = [self.prepared(self.make(**self.OPTIONS))]
        if self.shared:
            self.stores.append(self.prepared(self.another(self.stores[0], **self.OPTIONS)))
        self.old: list[Lease] = []

    def prepared(self, backend: Backend) -> Backend:
        if self.own_clock:
            backend.clock = self
        backend.queues()
        if isinstance(backend, MemBackend):
            backend.store.hold_timers(True)
        return backend

    def time(self) -> float:
        return self.model.now

    def monotonic(self) -> float:
        return self.model.now

    def teardown(self) -> None:
        for store in reversed(getattr(self, "stores", [])):
            store.shutdown(timeout=1)
        self.tidy()

    def a_store(self, number: int) -> Backend:
        return self.stores[number % len(self.stores)]

    def some(self, number: int, *statuses: Status) -> Modelled | None:
        """One of the jobs of these statuses, or of all."""
        jobs = [job for job in self.model.jobs.values() if not statuses or job.status in statuses]
        return jobs[number % len(jobs)] if jobs else None

    def running(self) -> list[Modelled]:
        return [job for job in self.model.jobs.values() if job.status is RUNNING]

    # -- add ---------------------------------------------------------------------------------------------

    @rule(
        wanted=st.lists(WANTED, min_size=1, max_size=3),
        where=st.integers(0, 1),
        twice=st.booleans(),
    )
    def add(self, wanted: list[Wanted], where: int, twice: bool) -> None:
        store, model = self.a_store(where), self.model
        token = os.urandom(16) if twice else b""
        jobs = [each.job(model.now) for each in wanted]
        copies = [job.snapshot() for job in jobs]
        if model.refuses(jobs):
            with pytest.raises(DuplicateJobError):
                store.store.add(jobs, token=token)
            return
        added = store.store.add(jobs, token=token)
        for job, got in zip(copies, added, strict=True):
            holder = model.holder(job.queue, job.fingerprint) if job.unique else None
            assert got.duplicate == (holder is not None)
            assert got.id is not None
            if holder is None:
                assert got.id > self.newest(job.queue)
                model.accept(job, got.id)
                if not self.own_clock:
                    model.jobs[got.id].run_after = self.by_its_clock(got, job)
            else:
                assert got.id == holder.id
                model.meet(holder, job)
                if not self.own_clock and holder.waits:
                    [found] = store.store.of_ids([holder.id])
                    assert found.run_after is not None
                    holder.run_after = found.run_after.timestamp()
        if twice:
            again = self.a_store(where + self.shares_tokens).store.add(copies, token=token)
            assert [job.id for job in again] == [job.id for job in added]

    def newest(self, queue: str) -> int:
        """The id above which the next job's is."""
        jobs = self.model.jobs.values()
        return max((job.id for job in jobs if self.one_order or job.queue == queue), default=0)

    def by_its_clock(self, got: Job, job: Job) -> float:
        """When a job is due that was asked for now, or a span from now: on a clock which is not ours."""
        assert got.run_after is not None
        assert job.run_after is not None
        assert abs((got.run_after - job.run_after).total_seconds()) < HOUR / 2
        return got.run_after.timestamp()

    # -- claim and settle --------------------------------------------------------------------------------

    @rule(
        limits=st.dictionaries(st.sampled_from(QUEUES), st.sampled_from([1, 1, 2, 9]), min_size=1),
        where=st.integers(0, 1),
    )
    def claim(self, limits: dict[str, int], where: int) -> None:
        model = self.model
        ready = {queue: model.ready(queue) for queue in limits}
        claimed = self.a_store(where).store.claim([Demand(*limit) for limit in limits.items()])
        ids = {queue: [job.id for job in claimed.jobs if job.queue == queue] for queue in limits}
        crashed = any(job.crashes for jobs in ready.values() for job in jobs)
        for queue, limit in limits.items():
            best = [job.id for job in ready[queue][:limit]]
            if crashed:  # a job with a crash behind it comes alone, at its turn
                assert ids[queue] == best[: len(ids[queue])]
            else:
                assert ids[queue] == best
        if crashed:
            assert len(claimed.jobs) >= 1
            assert len(claimed.jobs) == 1 or not any(job.crashes for job in claimed.jobs)
        for job in claimed.jobs:
            assert job.id is not None
            self.note_claimed(model.jobs[job.id], job, where)
        if any(model.ready(queue) for queue in limits):
            assert claimed.next_due is not None
            assert claimed.next_due <= claimed.now
        waiting = [
            job.run_after
            for job in model.jobs.values()
            if job.waits and job.queue in limits and job.queue not in model.paused
        ]
        if waiting:
            assert claimed.next_due is not None
            assert claimed.next_due.timestamp() <= max(min(waiting), claimed.now.timestamp()) + 0.001

    def note_claimed(self, known: Modelled, job: Job, where: int) -> None:
        assert job.token
        assert job.token not in {lease.token for lease in self.old if lease.job_id == job.id}
        known.status, known.token, known.store = RUNNING, job.token, where % len(self.stores)
        known.holds = known.holds and known.unique != "until_started"
        self.old.append(Lease(known.id, known.queue, known.token))

    @precondition(lambda self: self.some(0, RUNNING))
    @rule(
        number=st.integers(0, 99),
        where=st.integers(0, 1),
        status=st.sampled_from([SUCCEEDED, SUCCEEDED, DEAD, CANCELLED, RETRYING, RETRYING, PENDING]),
        delay=st.sampled_from([0.0, HOUR]),
    )
    def settle(self, number: int, where: int, status: Status, delay: float) -> None:
        model, job = self.model, self.some(number, RUNNING)
        if job is None:
            return
        ends, now = status not in {RETRYING, PENDING}, model.now
        outcome = Outcome(
            Lease(job.id, job.queue, job.token),
            status,
            None if ends else now + delay,
            status is RETRYING,
            now,
            now,
            FAILURE if status in {RETRYING, DEAD} else None,
            b"[1]" if status is SUCCEEDED else None,
        )
        assert self.a_store(where if self.lends_leases else job.store).store.settle([outcome]) == set()
        job.retries += status is RETRYING
        if job.cancel and not ends:
            job.run_after = now + delay
            job.end(CANCELLED)
        elif ends:
            job.end(status)
        else:
            job.status, job.run_after, job.token = status, now + delay, 0

    @precondition(lambda self: self.an_old_lease(0))
    @rule(
        number=st.integers(0, 99), where=st.integers(0, 1), status=st.sampled_from([SUCCEEDED, DEAD, PENDING])
    )
    def settle_stale(self, number: int, where: int, status: Status) -> None:
        lease = self.an_old_lease(number)
        if lease is not None:
            outcome = Outcome(lease, status, self.model.now, False, self.model.now, self.model.now)
            assert self.a_store(where).store.settle([outcome]) == {lease.job_id}

    @precondition(lambda self: self.old)
    @rule(number=st.integers(0, 99), where=st.integers(0, 1))
    def extend(self, number: int, where: int) -> None:
        job, stale = self.some(number, RUNNING), self.an_old_lease(number)
        leases = [Lease(job.id, job.queue, job.token)] if job else []
        if stale is not None and (job is None or stale.job_id != job.id):
            leases.append(stale)
        else:
            stale = None
        extended = self.a_store(where if self.lends_leases or job is None else job.store).store.extend(leases)
        assert extended.lost == ({stale.job_id} if stale else set())
        assert extended.cancelled == ({job.id} if job and job.cancel else set())

    def an_old_lease(self, number: int) -> Lease | None:
        current = {(job.id, job.token) for job in self.model.jobs.values()}
        old = [lease for lease in self.old if (lease.job_id, lease.token) not in current]
        return old[number % len(old)] if old else None

    # -- death -------------------------------------------------------------------------------------------

    @precondition(lambda self: self.dies and any(job.store for job in self.running()))
    @rule()
    def a_worker_dies(self) -> None:
        first, second = self.stores
        self.die(second)
        reclaimed = first.store.reclaim()
        returned, dead = set(), set()
        for job in self.model.jobs.values():
            if job.status is not RUNNING or job.store != 1:
                continue
            job.crashes += 1
            if job.cancel:
                job.end(CANCELLED)
            elif job.crashes >= MAX_CRASHES:
                job.end(DEAD)
                dead.add(job.id)
            else:
                job.status, job.token = RETRYING if job.retries else PENDING, 0
                returned.add(job.id)
        assert {job.id for job in reclaimed.returned} == returned
        assert {job.id for job in reclaimed.dead} == dead
        second.shutdown(timeout=1)
        self.stores[1] = self.prepared(self.another(first, **self.OPTIONS))

    @precondition(lambda self: self.some(0, RUNNING))
    @rule(where=st.integers(0, 1))
    def nobody_died(self, where: int) -> None:
        assert self.a_store(where).store.reclaim() == ([], [])

    # -- operating ---------------------------------------------------------------------------------------

    @precondition(lambda self: self.model.jobs)
    @rule(number=st.integers(0, 99), where=st.integers(0, 1))
    def cancel(self, number: int, where: int) -> None:
        job = self.some(number)
        if job is None:
            return
        changed = self.a_store(where).store.change([job.id], "cancel")
        assert changed.done == ({job.id} if job.waits else set())
        assert changed.running == ({job.id} if job.status is RUNNING else set())
        if job.waits:
            job.end(CANCELLED)
        elif job.status is RUNNING:
            job.cancel = True

    @precondition(lambda self: self.model.jobs)
    @rule(number=st.integers(0, 99), where=st.integers(0, 1), dead=st.booleans())
    def retry(self, number: int, where: int, dead: bool) -> None:
        model, job = self.model, self.some(number, *([DEAD] if dead else []))
        if job is None:
            return
        taken = job.status is DEAD and job.unique and model.holder(job.queue, job.fingerprint)
        if taken:
            with pytest.raises(DuplicateJobError):
                self.a_store(where).store.change([job.id], "retry")
            return
        changed = self.a_store(where).store.change([job.id], "retry")
        assert changed.done == ({job.id} if job.waits or job.status is DEAD else set())
        if job.status is DEAD:
            job.status, job.retries, job.crashes, job.holds = PENDING, 0, 0, bool(job.unique)
            job.run_after = self.as_stored(job)
        elif job.waits and job.run_after > model.now:
            job.run_after = self.as_stored(job)

    def as_stored(self, job: Modelled) -> float:
        """The time that the store has just given a job: now, on a clock which may not be ours."""
        [found] = self.stores[0].store.of_ids([job.id])
        assert found.run_after is not None
        at = found.run_after.timestamp()
        assert at == self.model.now if self.own_clock else at <= time.time() + 1
        return at

    @precondition(lambda self: self.model.jobs)
    @rule(number=st.integers(0, 99), where=st.integers(0, 1))
    def delete(self, number: int, where: int) -> None:
        job = self.some(number)
        if job is None:
            return
        changed = self.a_store(where).store.change([job.id], "delete")
        assert changed.done == (set() if job.status is RUNNING else {job.id})
        if job.status is not RUNNING:
            del self.model.jobs[job.id]

    @rule(
        queue=st.sampled_from(QUEUES), paused=st.sampled_from([False, False, True]), where=st.integers(0, 1)
    )
    def pause(self, queue: str, paused: bool, where: int) -> None:
        self.a_store(where).store.set_paused(queue, paused)
        (self.model.paused.add if paused else self.model.paused.discard)(queue)

    @precondition(lambda self: self.own_clock and self.model.now < self.began + 20 * HOUR)  # within leases
    @rule(hours=st.sampled_from([0.5, 1.0, 3.0]))
    def advance(self, hours: float) -> None:
        self.model.given = self.model.now + hours * HOUR
        for store in self.stores:
            if isinstance(store, MemBackend):
                store.store.release_due()

    # -- what always holds -------------------------------------------------------------------------------

    @invariant()
    def they_agree(self) -> None:
        if not hasattr(self, "stores"):
            return
        for store in self.stores:
            jobs = store.store.find(limit=EVERYTHING).jobs
            known = [job.seen() for job in sorted(self.model.jobs.values(), key=lambda job: -job.id)]
            assert [seen(job) for job in jobs] == known

    @invariant()
    def they_count_alike(self) -> None:
        if not hasattr(self, "stores"):
            return
        for store in self.stores:
            counted = {counts.queue: counts for counts in store.store.counts()}
            assert [counted.get(queue, QueueCounts(queue)) for queue in QUEUES] == self.model.counts()


class MemMachine(StoreMachine):
    """Jobs in memory: nobody else is there, and nobody dies."""

    shared = dies = False

    def make(self, **options: Any) -> Backend:
        return MemBackend(**{name: options[name] for name in options if name != "lease"})


class SqliteMachine(StoreMachine):
    """Jobs in a file, which two backends have open."""

    def make(self, **options: Any) -> Backend:
        self.directory = Path(tempfile.mkdtemp())
        return SqliteBackend(self.directory / "jobs.db", synchronous="off", **options)

    def another(self, first: Backend, **options: Any) -> Backend:
        return SqliteBackend(self.directory / "jobs.db", synchronous="off", **options)

    def die(self, backend: Backend) -> None:
        Faults(backend).drop_worker_lock()

    def tidy(self) -> None:
        shutil.rmtree(self.directory)


class PostgresMachine(StoreMachine):
    """Jobs in a schema, which two backends use."""

    own_clock = dies = shares_tokens = False
    url: ClassVar[str]
    schemas: ClassVar[Schemas]

    @initialize(remembers=st.booleans())
    def choose(self, remembers: bool) -> None:
        """Let claims begin where the last one ended or never, however fast the machine is."""
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr("neoq.postgres.scan.LONG", -1.0 if remembers else float("inf"))

    def tidy(self) -> None:
        if hasattr(self, "patch"):
            self.patch.undo()
        if hasattr(self, "taken"):
            self.schemas.give_back(*self.taken)

    def make(self, **options: Any) -> Backend:
        self.taken = self.schemas.take()
        return PostgresBackend(self.url, schema=self.taken[0], **options)

    def another(self, first: Backend, **options: Any) -> Backend:
        assert isinstance(first, PostgresBackend)
        return PostgresBackend(self.url, schema=first.config.schema, **options)


class RedisMachine(StoreMachine):
    """Jobs under a prefix, which two backends use."""

    own_clock = dies = shares_tokens = one_order = lends_leases = False
    ticks = 8000
    url: ClassVar[str]
    new_prefix: ClassVar[Callable[[], str]]

    def make(self, **options: Any) -> Backend:
        return RedisBackend(self.url, prefix=type(self).new_prefix(), **options)

    def another(self, first: Backend, **options: Any) -> Backend:
        assert isinstance(first, RedisBackend)
        return RedisBackend(self.url, prefix=first.config.prefix, **options)

    def a_store(self, number: int) -> Backend:
        store = super().a_store(number)
        assert isinstance(store, RedisBackend)
        for queue in QUEUES:  # the server's call that the other backend has added may still be on its way
            store.store._idle.mark_changed(queue)
        return store


def as_test(machine: type[StoreMachine], examples: int = 150) -> Any:
    """A test of about ten seconds; `make faults` has a long one."""
    test = machine.TestCase
    test.settings = settings(
        max_examples=examples,
        stateful_step_count=60,
        deadline=None,
        report_multiple_bugs=False,
        phases=[Phase.reuse, Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    return test


TestMemory = as_test(MemMachine)
TestSqlite = as_test(SqliteMachine, 40)


class TestPostgres(as_test(PostgresMachine, 12)):  # type: ignore[misc]
    @pytest.fixture(autouse=True)
    def _server(self, postgres_url: str, schemas: Schemas) -> None:
        PostgresMachine.url, PostgresMachine.schemas = postgres_url, schemas


class TestRedis(as_test(RedisMachine, 12)):  # type: ignore[misc]
    @pytest.fixture(autouse=True)
    def _server(self, redis_url: str, redis_prefix: Callable[[], str]) -> None:
        RedisMachine.url, RedisMachine.new_prefix = redis_url, redis_prefix


class SqliteMachineForLong(SqliteMachine):
    """The same; a machine has one number of examples."""


@pytest.mark.faults
class TestSqliteForLong(as_test(SqliteMachineForLong, 200)):  # type: ignore[misc]
    """Jobs in a file, in many more examples."""
