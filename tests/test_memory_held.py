"""What the conformance suite cannot see of held jobs and limits in memory: pages, and what is forgotten."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

import neoq
from neoq.held.group import BatchRules
from neoq.held.limits import Limits, Rate
from neoq.job import Job, blank, plain
from neoq.memory.groups import Groups
from neoq.memory.lines import Lines
from neoq.memory.queues import ReadyQueue, Records
from neoq.memory.table import Table
from neoq.outcome import Outcome, lease_of, succeeded
from neoq.record import Status
from neoq.store import Demand
from neoq.testing import clock
from neoq.testing.cases.suite import eventually


class StandingClock:
    """A clock that stands still."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def time(self) -> float:
        """The time that it was set to."""
        return self.now

    monotonic = time


def record(job_id: int, key: str | None = None, group: str | None = None) -> Job:
    """A stored job."""
    job = plain("q", b"{}", 1000.0)
    job.id, job.key, job.group, job.special = job_id, key, group, True
    return job


def test_an_outcome_is_never_seen_without_what_follows_it() -> None:
    """A job that follows an attempt is there at the moment at which others see that the attempt succeeded."""
    with neoq.MemBackend(autostart=False) as backend:
        backend.listen("q", lambda job: None)
        backend.enqueue_many([Job("q", {"n": n}) for n in range(500)])
        store = backend.store
        seen: list[tuple[int, int]] = []
        ended = threading.Event()

        def look() -> None:
            while not ended.is_set():
                seen.extend((one.succeeded, one.ready) for one in store.counts())

        looking = threading.Thread(target=look)
        looking.start()
        for job in store.claim([Demand("q", 500)]).jobs:
            after = plain("q", b'{"after": %d}' % job.id, 1000.0)
            store.settle([succeeded(job)._replace(follow=(after,))])
        ended.set()
        looking.join()
    assert [(done, ready) for done, ready in seen if ready < done] == []


def test_a_group_is_stopped_in_pages() -> None:
    """A large group is cancelled page by page, and none of its jobs may start from the first page on."""
    jobs: Records = {}
    stopped: list[int] = []
    groups = Groups(jobs, wake=lambda _: None, stop=stopped.append, let_go=lambda _: None)
    holder = record(1)
    holder.holds = 0
    groups.open(1, BatchRules(producer=7))
    for job_id in range(2, 1002):
        jobs[job_id] = record(job_id, group="1/0/")
        groups.join(jobs[job_id])  # type: ignore[arg-type]
    holder.status = Status.DEAD
    groups.ended(holder)
    assert stopped == []
    groups.stop_some()
    assert stopped == list(range(2, 502))
    last = jobs[1001]
    assert isinstance(last, Job)
    assert groups.is_stopped(last)
    groups.stop_some()
    groups.stop_some()
    assert len(stopped) == 1000
    assert not groups.stopping


def test_a_job_may_hold_several_groups() -> None:
    """Each round has its own jobs, of which those that were deleted are gone."""
    jobs: Records = {}
    woken: list[int] = []
    groups = Groups(jobs, wake=woken.append, stop=lambda _: None, let_go=lambda _: None)
    jobs[1] = holder = record(1)
    holder.held = "children"
    for job_id, group in {2: "1/1/0", 3: "1/2/0", 4: "1/2/1", 5: "1/3/0"}.items():
        holder.holds = int(group[2])
        groups.expect(Outcome(lease_of(holder), Status.PENDING, holds=holder.holds))
        groups.gather(1, holder.holds)
        jobs[job_id] = record(job_id, group=group)
        groups.join(jobs[job_id])  # type: ignore[arg-type]
        groups.added()
    assert [groups.ids(f"1/{number}/") for number in (1, 2, 3, 4)] == [[2], [3, 4], [5], None]
    for job_id in (2, 4):
        groups.forget(jobs[job_id])  # type: ignore[arg-type]
    assert [groups.ids(f"1/{number}/") for number in (1, 2, 3)] == [[], [3], [5]]
    assert woken == []
    jobs[5].status = Status.SUCCEEDED  # type: ignore[union-attr]
    assert groups.succeeded([jobs[5]]) == []  # type: ignore[list-item]
    assert woken == [1]
    holder.status = Status.SUCCEEDED
    groups.ended(holder)
    assert [groups.ids(f"1/{number}/") for number in (1, 2, 3)] == [None] * 3
    groups.forget(holder)
    assert groups.get(1, 2) is None


def test_a_batch_ends_although_memory_ran_out_in_a_settle(monkeypatch: pytest.MonkeyPatch) -> None:
    """An outcome that could not be settled at first, and that a member follows, holds no callback up."""
    real, failures = Table.settle, iter([MemoryError()])

    def settle(*arguments: Any) -> None:
        for failure in failures:
            raise failure
        real(*arguments)

    monkeypatch.setattr(Table, "settle", settle)
    called = threading.Event()
    with neoq.MemBackend() as backend:

        def member(job: Job) -> None:
            if job.payload["again"]:
                job.enqueue("q", {"again": False}, batch=True)

        backend.listen("q", member)
        backend.listen("then", lambda job: called.set())
        with backend.batch(then=Job("then", {})) as batch:
            batch.enqueue("q", {"again": True})
        assert called.wait(10)
    assert next(failures, None) is None


@pytest.mark.parametrize("rate", [None, Rate(1, per=60)])
def test_an_empty_line_is_forgotten(rate: Rate | None) -> None:
    """A line in which no job is left takes no memory, but for as long as its rate needs it."""
    records: Records = {}
    ready = ReadyQueue(threading.RLock(), records)
    time = StandingClock()
    alarms: list[tuple[float, str]] = []
    lines = Lines(ready, records, time, lambda at, key: alarms.append((at, key)))
    lines.limits = Limits(per_key=1, rate_per_key=rate)
    lines.enter(record(1, "a"))
    [job] = ready.take(5, None)
    assert isinstance(job, Job)
    lines.claimed([job])
    job.status = Status.SUCCEEDED
    lines.ended(job)
    if rate is not None:
        assert alarms[-1] == (1060.0, "a")
        assert lines.by_key
        time.now = 1060.0
        lines.look("a")
    assert lines.by_key == {}


@pytest.fixture
def standing() -> Iterator[neoq.MemBackend]:
    """A backend in memory with a handler."""
    with neoq.MemBackend(max_finished=0) as backend:
        backend.listen("q", lambda _job: None)
        yield backend


def test_a_plain_job_meets_a_span(standing: neoq.MemBackend) -> None:
    """A plain job meets the fingerprint of one that is known no more, until its span is over."""
    with clock(standing) as time:
        first = standing.enqueue("q", {"n": 1}, unique=timedelta(minutes=1))
        time.advance(1)
        assert standing.get(first.id) is None
        met = standing.enqueue("q", {"n": 1})
        assert met.duplicate
        assert (met.id, met.status) == (first.id, Status.CANCELLED)
        time.advance(60)
        later = standing.enqueue("q", {"n": 1})
        assert not later.duplicate


def test_a_record_that_waits_says_only_what_is_not_as_usual() -> None:
    """A slim job has the same fields, and keeps none that its class has as well."""
    job = blank("q")
    job.unique, job.priority, job.on_duplicate, job.steps, job.looked_back = False, 0, "return", 1, True
    before = {name: getattr(job, name) for name in ("unique", "priority", "on_duplicate", "steps", "held")}
    slim = job.slim()
    assert vars(slim) == {"unique": False, "steps": 1}
    assert {name: getattr(slim, name) for name in before} == before
    assert slim.queue == "q"


def test_what_a_job_has_recorded_is_forgotten_as_it_succeeds() -> None:
    """Its steps take no memory beyond its end, though it is kept itself."""
    with neoq.MemBackend() as backend:
        backend.listen("q", lambda job: job.step("one", lambda: 1))
        job_id = backend.enqueue("q").id
        backend.drain()
        assert [job.status for job in backend.jobs("q")] == [Status.SUCCEEDED]
        assert backend.store.steps(job_id) == []  # type: ignore[attr-defined]


def test_many_dead_holders_go_for_the_members_that_they_let_go() -> None:
    """A dead callback that is one too many lets a dead member go, which takes the place of the next one."""
    batches = 400  # one in the other they were deeper than Python's stack
    with neoq.MemBackend(autostart=False, max_dead=batches) as backend:

        @backend.listen("q", max_retries=0, concurrency=1)
        def fail(job: Job) -> None:
            raise neoq.Discard("dead")

        backend.start()
        for _ in range(batches):
            with backend.batch(then=Job("q", unique=False)) as batch:
                batch.enqueue("q", unique=False)
        assert backend.drain(30)
        backend.enqueue("q", unique=False)
        eventually(lambda: backend.count(status=Status.DEAD) <= batches, "the others are forgotten")
        assert backend.count(status=Status.DEAD) == backend.stats().dead == batches
