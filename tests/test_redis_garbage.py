"""What another hand has written under our keys on a Redis server: it stops nothing else."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

import neoq
from neoq.job import Job
from neoq.record import Status
from neoq.redis.backend import RedisBackend
from neoq.store import Demand
from tests.garbage import PATIENCE, REDIS_HASHES, REDIS_SETS, REDIS_ZSETS

pytestmark = pytest.mark.usefixtures("autostart")

GARBAGE = [b"", b"{", b"null", b"[1]", b'{"s":"x"}', b'{"s":9,"n":{}}', b"\xff\xfe", b"1c10000", b"9" * 30]


@pytest.fixture
def backend(redis_url: str, redis_prefix: Callable[[], str]) -> Iterator[RedisBackend]:
    """A backend that runs nothing yet, with keys of its own."""
    with RedisBackend(redis_url, prefix=redis_prefix(), autostart=False, heartbeat=0.2, lease=2) as backend:
        yield backend


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    """The other hand."""
    with redis.Redis.from_url(redis_url, protocol=2) as client:
        yield client


def eventually(holds: Callable[[], object], what: Any) -> None:
    give_up = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < give_up, what() if callable(what) else what
        time.sleep(0.01)


def id_of(job: Job) -> int:
    assert job.id is not None
    return job.id


def look(backend: RedisBackend, job: Job) -> Job:
    found = backend.get(id_of(job))
    assert found is not None
    return found


def is_dead_and_told(backend: RedisBackend, job: Job, log: pytest.LogCaptureFixture) -> None:
    """A job is dead, shown with what could not be read, logged once and can be deleted."""
    eventually(
        lambda: job.id in {each.id for each in backend.jobs(status=Status.DEAD)}, lambda: look(backend, job)
    )
    found = look(backend, job)
    assert found.error is not None
    assert found.error.startswith("Unreadable: ")
    eventually(lambda: f"job {job.id} " in log.text, "it is not logged")
    told = [record for record in log.records if f"job {job.id} " in record.getMessage()]
    assert [record.levelname for record in told] == ["ERROR"]
    assert backend.delete(id_of(job)) is True
    assert backend.get(id_of(job)) is None


@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize("what", ["jobs", "life"])
@pytest.mark.parametrize("options", [{}, {"run_after": 0.3, "priority": 7}], ids=["ready", "later"])
def test_a_job_that_cannot_be_read(
    backend: RedisBackend,
    client: redis.Redis,
    caplog: pytest.LogCaptureFixture,
    what: str,
    garbage: bytes,
    options: dict[str, Any],
) -> None:
    """A job whose record or life is no such thing is dead with that as its error; all others are run."""
    before = backend.enqueue("q", {"n": 0})
    bad = backend.enqueue("q", {"n": 1}, **options)
    client.hset(f"{{{backend.config.prefix}:q}}:{what}", str(bad.id), garbage)
    assert bad.id in {job.id for job in backend.jobs()}
    after = [backend.enqueue("q", {"n": 2}), backend.enqueue("other", {"n": 3})]
    for queue in ("q", "other"):
        backend.listen(queue, lambda job: job.payload["n"])
    backend.start()
    assert [backend.wait(id_of(job), PATIENCE).result for job in (before, *after)] == [0, 2, 3]
    is_dead_and_told(backend, bad, caplog)
    again = backend.enqueue("q", {"n": 1})
    assert backend.wait(id_of(again), PATIENCE).result == 1


@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize("what", ["jobs", "life"])
def test_a_job_that_cannot_be_read_waits_for_its_time(
    backend: RedisBackend, client: redis.Redis, what: str, garbage: bytes
) -> None:
    """A future job that cannot be read waits, and is shown so with its error, until its time has come."""
    bad = backend.enqueue("q", {"n": 1}, run_after=3600)
    client.hset(f"{{{backend.config.prefix}:q}}:{what}", str(bad.id), garbage)
    assert [job.id for job in backend.jobs(status=Status.PENDING)] == [bad.id]
    assert backend.jobs(status=Status.DEAD) == []
    assert (look(backend, bad).error or "").startswith("Unreadable: ")
    assert (backend.stats().scheduled, backend.stats().dead) == (1, 0)


@pytest.mark.parametrize("garbage", [None, b"", b"[1]", b"{"])
def test_a_payload_that_cannot_be_read(
    backend: RedisBackend, client: redis.Redis, caplog: pytest.LogCaptureFixture, garbage: bytes | None
) -> None:
    """A job whose large payload is gone or is no JSON object is dead with that as its error."""
    bad = backend.enqueue("q", {"x": "x" * 5000})
    key = f"{{{backend.config.prefix}:q}}:payloads"
    if garbage is None:
        client.hdel(key, str(bad.id))
    elif garbage:
        client.hset(key, str(bad.id), garbage)
    else:
        client.hset(key, str(bad.id), b"null")
    good = backend.enqueue("q", {"n": 1})
    backend.listen("q", lambda job: job.payload["n"])
    backend.start()
    assert backend.wait(id_of(good), PATIENCE).result == 1
    is_dead_and_told(backend, bad, caplog)


def test_the_fingerprints_of_jobs_that_cannot_be_read(backend: RedisBackend, client: redis.Redis) -> None:
    """Fingerprints that no unfinished job holds any more are forgotten by prune, and all others are kept."""
    tag = f"{{{backend.config.prefix}:q}}:"
    jobs = backend.enqueue_many([Job("q", {"n": n}, run_after=3600) for n in range(2000)])
    for job in jobs[::2]:
        client.hset(f"{tag}jobs", str(job.id), b"spoiled")
        assert backend.delete(id_of(job))
    assert client.hlen(f"{tag}uniq") == 2000
    eventually(lambda: [backend.prune(), client.hlen(f"{tag}uniq") == 1000][1], "they are kept")
    again = backend.enqueue("q", {"n": 1}, run_after=3600)
    assert (again.id, again.duplicate) == (jobs[1].id, True)
    assert set(map(int, client.hvals(f"{tag}uniq"))) == {job.id for job in jobs[1::2]}


@pytest.mark.parametrize("act", ["cancel", "retry", "delete"])
@pytest.mark.parametrize("what", ["jobs", "life"])
def test_operating_on_what_cannot_be_read(
    backend: RedisBackend, client: redis.Redis, act: str, what: str
) -> None:
    """A waiting job that cannot be read is cancelled, retried and deleted as any other."""
    bad = backend.enqueue("q", {"n": 1}, run_after=3600, priority=3)
    client.hset(f"{{{backend.config.prefix}:q}}:{what}", str(bad.id), b"spoiled")
    assert getattr(backend, act)(id_of(bad)) is True
    assert (backend.get(id_of(bad)) is None) == (act == "delete")


def test_times_beyond_the_calendar(backend: RedisBackend, client: redis.Redis) -> None:
    """A job that somebody has parked until infinity is shown, waits, and holds up nobody."""
    parked = backend.enqueue("q", {"n": 1}, run_after=3600)
    tag = f"{{{backend.config.prefix}:q}}:"
    [member] = client.zrange(f"{tag}wait", 0, -1)
    client.zadd(f"{tag}wait", {member: "inf"})  # type: ignore[type-var]
    client.hset(f"{tag}life", str(parked.id), b'{"s":0,"at":"1e300"}')
    good = backend.enqueue("q", {"n": 2})
    assert [job.id for job in backend.store.claim([Demand("q", 5)]).jobs] == [good.id]
    assert backend.store.claim([Demand("q", 5)]).jobs == []
    assert look(backend, parked).run_after is not None
    assert backend.retry(id_of(parked))
    assert [job.id for job in backend.store.claim([Demand("q", 5)]).jobs] == [parked.id]


@pytest.mark.parametrize(
    "value", [b"", b"spoiled", b'1.0 {"host":"h","pid":1,"version":3}', b"nan {}", b"\xff \xff"]
)
def test_a_worker_that_cannot_be_read(
    backend: RedisBackend,
    client: redis.Redis,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    value: bytes,
) -> None:
    """What a worker of another version says is left alone, with one warning; all others go on."""
    backend.listen("q", lambda job: job.payload["n"])
    backend.start()
    client.hset(f"{{{backend.config.prefix}}}:workers", "f" * 32, value)
    client.hset(f"{{{backend.config.prefix}}}:workers", b"\xff", value)
    monkeypatch.setattr("neoq.redis.alive.STEADY_AFTER", 0.0)
    for _ in range(3):
        backend.store.reclaim()
        assert [worker.id for worker in backend.workers()] == [backend.store.context.worker_id]
    assert backend.wait(id_of(backend.enqueue("q", {"n": 5})), PATIENCE).result == 5
    assert caplog.text.count("the record of worker ffff") == 1


@pytest.mark.parametrize("number", [b"", b"spoiled", b"-1", b"1e300", b"\xff"])
def test_a_queue_whose_number_cannot_be_read(
    backend: RedisBackend, client: redis.Redis, number: bytes
) -> None:
    """A queue whose number is no number gets one, and what is no queue is none."""
    backend.enqueue("q", {"n": 0})
    key = f"{{{backend.config.prefix}}}:queues"
    client.hset(key, mapping={"q": number, b"\xff\x00": b"3", "x": number})
    client.set(f"{{{backend.config.prefix}}}:numbers", number)
    client.set(f"{{{backend.config.prefix}:q}}:seq", number)
    with RedisBackend(backend.config.url, prefix=backend.config.prefix, autostart=False) as other:
        job, new = other.enqueue("q", {"n": 1}), other.enqueue("new", {"n": 2})
        assert {stats.queue for stats in other.queues()} == {"q", "new"}
        assert [look(backend, each).payload["n"] for each in (job, new)] == [1, 2]
        assert len(other.store.claim([Demand("q", 5), Demand("new", 5)]).jobs) == 3


@pytest.mark.parametrize("name", [*REDIS_HASHES, *REDIS_ZSETS, *REDIS_SETS, "seq"])
def test_a_key_of_another_type(
    backend: RedisBackend, client: redis.Redis, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """A key of a queue that holds another type is set aside with an error, and jobs are run again."""
    backend.enqueue("q", {"n": 0})
    key = f"{{{backend.config.prefix}:q}}:{name}"
    client.delete(key)
    client.rpush(key, "spoiled")
    done = threading.Event()

    @backend.listen("q")
    def work(job: Job) -> None:
        if job.payload["n"] == 1:
            done.set()
        if job.payload["n"] == 2 and not job.retries:
            raise neoq.Retry(after=0.01)

    backend.start()
    jobs = [backend.enqueue("q", {"n": 1}), backend.enqueue("q", {"n": 2}), backend.enqueue("other")]
    assert done.wait(PATIENCE)
    backend.listen("other", lambda job: None)
    assert [backend.wait(id_of(job), PATIENCE).status for job in jobs] == [Status.SUCCEEDED] * 3
    backend.jobs()
    backend.queues()
    backend.prune()
    if name in {"seq", "jobs", "ready", "lease", "done", "uniq", "life", "ids"}:
        assert "another program writes to these keys" in caplog.text


@pytest.mark.parametrize("name", ["queues", "workers", "numbers", "crons"])
def test_a_key_of_all_queues_of_another_type(backend: RedisBackend, client: redis.Redis, name: str) -> None:
    """A key that belongs to no queue and holds another type is set aside, and all goes on."""
    backend.listen("q", lambda job: job.payload["n"])
    backend.start()
    assert backend.wait(id_of(backend.enqueue("q", {"n": 1})), PATIENCE).result == 1
    key = f"{{{backend.config.prefix}}}:{name}"
    client.delete(key)
    client.zadd(key, {"spoiled": 1})
    assert backend.wait(id_of(backend.enqueue("q", {"n": 2})), PATIENCE).result == 2
    eventually(lambda: [worker.id for worker in backend.workers()], "no worker")
    assert "q" in {stats.queue for stats in backend.queues()}


@pytest.mark.parametrize("until", ["inf", "1e12", "0"])
def test_a_lease_of_nobody(backend: RedisBackend, client: redis.Redis, until: str) -> None:
    """A lease that none of us has runs out like any other, however far away its end was set."""
    key = f"{{{backend.config.prefix}:q}}:lease"
    job = backend.enqueue("q", {"n": 1})
    [claimed] = backend.store.claim([Demand("q", 1)]).jobs
    client.delete(key)
    client.zadd(key, {f"{job.id}:{claimed.token}:{'f' * 32}": until})  # type: ignore[type-var]
    eventually(
        lambda: sweep(backend) or look(backend, job).status is Status.PENDING, lambda: look(backend, job)
    )
    assert backend.stats().running == 0
    assert [again.id for again in backend.store.claim([Demand("q", 1)]).jobs] == [job.id]


@pytest.mark.parametrize("until", ["inf", "0"])
def test_a_lease_of_a_job_that_does_not_run(backend: RedisBackend, client: redis.Redis, until: str) -> None:
    """A lease of a job that has ended, waits or does not exist is dropped, and the job stays as it is."""
    done, later = backend.enqueue("q", {"n": 1}), backend.enqueue("q", {"n": 2}, run_after=3600)
    backend.listen("q", lambda job: None)
    backend.start()
    backend.wait(id_of(done), PATIENCE)
    key = f"{{{backend.config.prefix}:q}}:lease"
    leases = [*(f"{job}:1:x" for job in (done.id, later.id, 7)), "spoiled"]
    client.zadd(key, dict.fromkeys(leases, until))  # type: ignore[type-var]
    eventually(lambda: sweep(backend) or not client.exists(key), "it is not dropped")
    assert [look(backend, job).status for job in (done, later)] == [Status.SUCCEEDED, Status.PENDING]
    stats = backend.stats()
    assert (stats.ready, stats.scheduled, stats.running, stats.succeeded) == (0, 1, 0, 1)


def test_the_lease_of_a_living_worker_is_kept(backend: RedisBackend, client: redis.Redis) -> None:
    """A worker that lives keeps a job whose lease another hand has set to run for ever."""
    go_on, key = threading.Event(), f"{{{backend.config.prefix}:q}}:lease"
    backend.listen("q", lambda job: go_on.wait(PATIENCE))
    backend.start()
    job = backend.enqueue("q")
    eventually(lambda: look(backend, job).status is Status.RUNNING, "it does not run")
    for member in client.zrange(key, 0, -1):
        client.zadd(key, {member: "inf"})  # type: ignore[type-var]
    sweep(backend)
    assert look(backend, job).status is Status.RUNNING
    go_on.set()
    found = backend.wait(id_of(job), PATIENCE)
    assert (found.status, found.crashes) == (Status.SUCCEEDED, 0)


def sweep(backend: RedisBackend) -> None:
    """Look for leases that ran out, as is done now and then."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("neoq.redis.reclaim.SWEEP_EVERY", 0.0)
        backend.store.reclaim()
