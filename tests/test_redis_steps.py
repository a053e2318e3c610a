"""Steps, signals and held jobs as a Redis server keeps them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from neoq.held.step import MOST_SIGNALS, Step
from neoq.job import Job
from neoq.outcome import Outcome, lease_of
from neoq.record import Status
from neoq.redis.backend import RedisBackend
from neoq.store import Demand
from tests.redis_ledger import check_ledger

APPROVAL = "signal:approval"


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    """A look at the keys."""
    with redis.Redis.from_url(redis_url, protocol=2) as client:
        yield client


@pytest.fixture
def backend(redis_url: str, redis_prefix: Callable[[], str], client: redis.Redis) -> Iterator[RedisBackend]:
    """A backend that runs nothing, whose jobs add up at the end."""
    prefix = redis_prefix()
    with RedisBackend(redis_url, prefix=prefix, autostart=False, max_crashes=2) as backend:
        backend.listen("q", print)
        backend.enqueue("q", {"n": 0})
        yield backend
    check_ledger(client, prefix)


def claim(backend: RedisBackend) -> Job:
    [job] = backend.store.claim([Demand("q", 1)]).jobs
    return job


def look(backend: RedisBackend, job: Job) -> Job:
    found = backend.get(job.id)
    assert found is not None
    return found


def settle(backend: RedisBackend, job: Job, status: Status, **fields: Any) -> set[int]:
    now = time.time()
    return backend.store.settle([Outcome(lease_of(job), status, started_at=now, finished_at=now, **fields)])


def wait_for(backend: RedisBackend, **fields: Any) -> Job:
    job = claim(backend)
    assert settle(backend, job, Status.PENDING, awaits=APPROVAL, **fields) == set()
    return look(backend, job)


def fields_of(backend: RedisBackend, client: redis.Redis) -> Any:
    return client.hlen(f"{{{backend.config.prefix}:q}}:steps")


def test_steps_are_recorded_in_order_and_once(backend: RedisBackend) -> None:
    """Steps stand in the order of their names' first records; a lasting one is not replaced, another is."""
    job = claim(backend)
    first = [Step("step:a", b"1 2", 1, 2), Step("save:row", b'{"\\u0000": " "}', lasting=False)]
    assert backend.store.record([(lease_of(job), first)]) == set()
    second = [Step("step:a", b"2"), Step("save:row", b"3", lasting=False)]
    assert backend.store.record([(lease_of(job), second)]) == set()
    assert [step._replace(at=None) for step in backend.store.steps(job.id)] == [
        first[0],
        Step("save:row", b"3", lasting=False),
    ]
    assert look(backend, job).steps == 2
    settle(backend, job, Status.RETRYING, run_after=time.time() - 1, steps=(Step("step:b", b"\xff"),))
    assert (again := claim(backend)).steps == 3
    assert again.counted
    assert backend.store.record([(lease_of(job), [Step("step:c", b"1")])]) == {job.id}
    assert [step.name for step in backend.store.steps(job.id)] == ["step:a", "save:row", "step:b"]


@pytest.mark.parametrize("status", [Status.SUCCEEDED, Status.CANCELLED, Status.DEAD])
def test_steps_are_dropped_with_the_job_unless_it_is_dead(
    backend: RedisBackend, client: redis.Redis, status: Status
) -> None:
    """Only a DEAD job keeps its steps; deleted, it keeps none."""
    job = claim(backend)
    backend.store.record([(lease_of(job), [Step(f"step:{n}", b"1") for n in range(600)])])
    settle(backend, job, status, steps=(Step("step:last", b"1"),))
    assert len(backend.store.steps(job.id)) == (601 if status is Status.DEAD else 0)
    assert backend.delete(job.id)
    assert fields_of(backend, client) == 0


def test_a_held_job_waits_for_its_signal(backend: RedisBackend, client: redis.Redis) -> None:
    """A job that awaits a signal is held, and due as soon as the signal has come; a second one is refused."""
    job = wait_for(backend)
    assert (job.status, job.held) == (Status.PENDING, "signal")
    assert backend.store.claim([Demand("q", 1)]).jobs == []
    [counts] = backend.store.counts()
    assert (counts.held, counts.scheduled, counts.ready) == (1, 0, 0)
    assert not backend.retry(job.id)
    to = ("q", job.fingerprint)
    assert backend.store.signal(to, Step(APPROVAL, b'{"by": "me"}'))
    assert not backend.store.signal(job.id, Step(APPROVAL, b"{}"))
    released = claim(backend)
    assert (released.id, released.steps, released.held) == (job.id, 1, None)
    assert [step.data for step in backend.store.steps(job.id)] == [b'{"by": "me"}']
    assert settle(backend, released, Status.SUCCEEDED) == set()
    assert not backend.store.signal(job.id, Step("signal:other", b"{}"))
    assert fields_of(backend, client) == 0


def test_a_signal_may_come_first(backend: RedisBackend) -> None:
    """A job whose signal is there is not held; most signals that a job has not waited for are refused."""
    job = claim(backend)
    assert backend.store.signal(job.id, Step(APPROVAL, b"{}"))
    for n in range(MOST_SIGNALS - 1):
        assert backend.store.signal(job.id, Step(f"signal:{n}", b"{}"))
    assert not backend.store.signal(job.id, Step("signal:more", b"{}"))
    settle(backend, job, Status.PENDING, awaits=APPROVAL)
    assert claim(backend).id == job.id


def test_a_held_job_is_due_at_its_timeout(backend: RedisBackend) -> None:
    """A held job with a time is claimed then."""
    job = wait_for(backend, run_after=time.time() + 0.05)
    assert job.held == "signal"
    give_up = time.monotonic() + 10
    while not (jobs := backend.store.claim([Demand("q", 1)]).jobs):
        assert time.monotonic() < give_up
    assert [(one.id, one.held) for one in jobs] == [(job.id, None)]
    assert backend.store.counts()[0].held == 0


def test_a_held_job_is_cancelled(backend: RedisBackend) -> None:
    """Cancelling a held job ends it, and its signal comes too late."""
    job = wait_for(backend)
    assert backend.cancel(job.id)
    assert look(backend, job).status is Status.CANCELLED
    assert not backend.store.signal(job.id, Step(APPROVAL, b"{}"))
    assert backend.store.counts()[0].held == 0


def test_crashes_count_since_the_last_step(
    backend: RedisBackend, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job dies of as many crashes as are allowed without progress."""
    monkeypatch.setattr("neoq.redis.reclaim.SWEEP_EVERY", 0.0)

    def crash(job: Job) -> Job:
        lease = f"{job.id}:{job.token}:{backend.store.context.worker_id}"
        client.zadd(f"{{{backend.config.prefix}:q}}:lease", {lease: 1.0})
        backend.store.reclaim()
        return look(backend, job)

    job = claim(backend)
    for crashes in range(1, 4):
        backend.store.record([(lease_of(job), [Step(f"step:{crashes}", b"1", 0, job.crashes)])])
        crashed = crash(job)
        assert (crashed.status, crashed.crashes) == (Status.PENDING, crashes)
        job = claim(backend)
    assert crash(job).status is Status.DEAD
    assert backend.retry(job.id)
    assert {(step.retries, step.crashes) for step in backend.store.steps(job.id)} == {(0, 0)}
