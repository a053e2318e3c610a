"""Ids on Redis, which queue they name, and what happens when the server has lost what it knew of queues."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest
import redis

import neoq
from neoq.job import Job
from neoq.redis.backend import RedisBackend
from neoq.redis.connection import RedisConnection
from neoq.redis.keys import PACE, ids_of, number_of
from neoq.store import Demand, Tick
from neoq.testing.cases.suite import Background
from tests.redis_ledger import check_ledger
from tests.servers import RedisServer, cluster_client, cluster_url, running_cluster, running_server

MANY = 2200  # queues: more than 11 bits can number


@pytest.fixture
def backend(redis_url: str, redis_prefix: Callable[[], str]) -> Iterator[RedisBackend]:
    """A backend that runs nothing, with keys of its own."""
    with RedisBackend(redis_url, prefix=redis_prefix(), autostart=False) as backend:
        yield backend


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """A server that may be emptied."""
    with running_server("--appendonly", "yes", "--appendfsync", "no") as server:
        yield server


def another(backend: RedisBackend) -> RedisBackend:
    """A second process on the same jobs, as far as the server can tell."""
    return RedisBackend(backend.config.url, prefix=backend.config.prefix, autostart=False)


def id_of(job: Job) -> int:
    assert job.id is not None
    return job.id


@pytest.mark.parametrize("number", [0, 1, 15, 16, 271, 272, 4367, 4368, 69903, 69904, 1_000_000])
@pytest.mark.parametrize("at", [0.0, 1_600_000_000.0, 1_800_000_000.5, 5_890_000_000.0])
def test_an_id_names_its_queue(number: int, at: float) -> None:
    """An id tells the number of its queue, and a browser can hold it until the year 2156."""
    ids = ids_of(number)
    for place in range(4):
        one = ids.at(at) + place * ids.step
        assert number_of(one) == number
        assert 0 < one < 2**53


def test_ids_of_two_queues_differ() -> None:
    """Queues of other numbers never have an id in common, whatever the time."""
    seen: dict[int, int] = {}
    for number in range(5000):
        ids = ids_of(number)
        for one in range(ids.tag, 1 << 21, ids.step):
            assert seen.setdefault(one, number) == number


def test_ids_follow_the_time() -> None:
    """Of two queues the one that is enqueued to later has the larger id, if they are a second apart."""
    assert ids_of(5000).at(2e9) < ids_of(0).at(2e9 + 1)
    assert ids_of(3).at(2e9 + 1) - ids_of(3).at(2e9) == PACE


def test_more_queues_than_eleven_bits_can_number(backend: RedisBackend) -> None:
    """With thousands of queues every job is found, waited for, cancelled, retried and deleted by its id."""
    jobs = backend.enqueue_many([Job(f"queue {n}", {"n": n}) for n in range(MANY)])
    assert len({job.id for job in jobs}) == MANY
    with another(backend) as other:
        for n in (0, 15, 16, 300, 2047, 2048, MANY - 1):
            job = jobs[n]
            found = other.get(id_of(job))
            assert found is not None
            assert (found.queue, found.payload) == (job.queue, {"n": n})
            assert other.retry(id_of(job)) is True
            assert other.cancel(id_of(job)) is True
            assert other.wait(id_of(job), timeout=5).status is neoq.Status.CANCELLED
            assert other.delete(id_of(job)) is True
            assert other.get(id_of(job)) is None
        newest = other.jobs(limit=10)
        assert [job.id for job in newest] == sorted((id_of(job) for job in newest), reverse=True)


def works(backend: RedisBackend, queue: str) -> None:
    """A job that is enqueued now is found, listed and claimed by another process."""
    job = backend.enqueue(queue, {"n": 1})
    with another(backend) as other:
        assert other.get(id_of(job)) is not None
        assert other.jobs(queue=queue)[0].id == job.id
        assert queue in {stats.queue for stats in other.queues()}
        assert [found.id for found in other.store.claim([Demand(queue, 9)]).jobs] == [job.id]


def test_a_server_that_was_emptied(server: RedisServer) -> None:
    """After FLUSHDB the next enqueue, of any kind, registers the queue of a process that is up again."""
    with RedisBackend(server.url, autostart=False) as backend, server.client() as client:
        queues = ("one", "several", "later", "tick")
        for queue in queues:
            backend.enqueue(queue)
        client.flushdb()
        with another(backend) as newcomer:
            newcomer.enqueue("first")  # it takes the number that another queue had
        works(backend, "one")
        jobs = backend.enqueue_many([Job("several", {"n": n}) for n in range(120)])
        late = backend.enqueue("later", run_after=3600)
        with another(backend) as other:
            for job in (*jobs, late):
                found = other.get(id_of(job))
                assert found is not None
                assert found.queue == job.queue
        tick = Job("tick", {}, fingerprint="tick")
        tick.prepare(time.time(), 1000)
        assert backend.store.add_tick("c", datetime.now(UTC), tick) is Tick.NEW
        assert {stats.queue for stats in backend.queues()} == {"first", *queues}
        check_ledger(client, "neoq")
        client.flushdb()


def test_a_registration_that_was_lost(server: RedisServer) -> None:
    """A queue whose registration alone was lost has its number again, and its older jobs their ids."""
    with RedisBackend(server.url, autostart=False) as backend, server.client() as client:
        for queue in ("other", "q"):
            backend.enqueue(queue, {"n": 0})
        [old] = backend.jobs(queue="q")
        client.delete("{neoq}:queues")
        backend.store.beat(backend.store.context.worker())
        with another(backend) as other:
            assert other.get(id_of(old)) is not None
        assert backend.cancel(id_of(old))
        works(backend, "q")
        client.flushdb()


def test_a_job_whose_queue_has_another_number_now(server: RedisServer) -> None:
    """A job is found by its id also where its queue was given another number since."""
    with RedisBackend(server.url, autostart=False) as backend, server.client() as client:
        backend.enqueue("other")
        job = backend.enqueue("q")
        client.hset("{neoq}:queues", "q", "17")
        with another(backend) as other:
            assert other.get(id_of(job)) is not None
            assert other.cancel(id_of(job))
        client.flushdb()


def test_a_registration_that_a_cluster_lost() -> None:
    """In a cluster, too, a queue of a process that is up is registered again."""
    with (
        running_cluster(2, "--appendonly", "yes") as nodes,
        cluster_client(nodes) as client,
        RedisBackend(cluster_url(nodes), autostart=False) as backend,
    ):
        backend.enqueue("q")
        for key in ("{neoq}:queues", "{neoq}:numbers"):
            client.delete(key)
        backend.store.beat(backend.store.context.worker())
        with another(backend) as other:
            assert [stats.queue for stats in other.queues()] == ["q"]
        for node in nodes:
            node.client().flushall()
        works(backend, "q")


@pytest.mark.parametrize("life", [None, b'{"s":4}', b'{"s":3}'], ids=["gone", "dead", "succeeded"])
@pytest.mark.parametrize(
    "options", [{}, {"priority": 1}, {"run_after": 60}, {"on_duplicate": "raise"}], ids=str
)
def test_a_fingerprint_whose_job_is_gone(
    backend: RedisBackend, redis_url: str, life: bytes | None, options: dict[str, Any]
) -> None:
    """A fingerprint that is held by no unfinished job is taken over by the next one that has it."""
    job = backend.enqueue("q", {"n": 1})
    tag = f"{{{backend.config.prefix}:q}}:"
    with redis.Redis.from_url(redis_url, protocol=2) as client:
        client.zrem(f"{tag}ready", id_of(job))
        if life is None:
            client.hdel(f"{tag}jobs", str(job.id))
        else:
            client.hset(f"{tag}life", str(job.id), life)
            client.zadd(f"{tag}{'dead' if life[5:6] == b'4' else 'done'}", {str(job.id): 1e9})
        new = backend.enqueue("q", {"n": 1}, **options)
        assert not new.duplicate
        assert new.id != job.id
        assert backend.enqueue("q", {"n": 1}).id == new.id
        batch = backend.enqueue_many([Job("q", {"n": n}) for n in range(120)])
        assert [one.duplicate for one in batch].count(True) == 1
        check_ledger(client, backend.config.prefix)


def test_a_batch_takes_fingerprints_over(backend: RedisBackend, redis_url: str) -> None:
    """A batch of several scripts takes over the fingerprints of jobs that are gone."""
    jobs = backend.enqueue_many([Job("q", {"n": n}) for n in range(120)])
    tag = f"{{{backend.config.prefix}:q}}:"
    with redis.Redis.from_url(redis_url, protocol=2) as client:
        client.delete(f"{tag}jobs", f"{tag}ready", f"{tag}ids")
        again = backend.enqueue_many([Job("q", {"n": n}, on_duplicate="raise") for n in range(120)])
        assert not {job.id for job in again} & {job.id for job in jobs}
        check_ledger(client, backend.config.prefix)


def test_a_queue_that_is_new_as_the_heart_beats(
    backend: RedisBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A heartbeat goes on where another thread adds a queue while it asks for the others."""
    real, new = RedisConnection.command, iter(["new"])

    def command(self: RedisConnection, *words: Any) -> Any:
        reply = real(self, *words)
        if words[0] == "HMGET":
            for queue in new:
                Background(partial(backend.enqueue, queue)).result()
        return reply

    backend.enqueue("old")
    monkeypatch.setattr(RedisConnection, "command", command)
    backend.store.beat(backend.store.context.worker())
    assert next(new, None) is None
    assert {stats.queue for stats in backend.queues()} == {"old", "new"}
