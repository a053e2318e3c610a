"""Jobs that follow an outcome on Redis: each is added once, whoever dies in between."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import pytest
import redis

from neoq.outcome import Outcome, lease_of
from neoq.record import Status
from neoq.redis import outbox
from neoq.redis.backend import RedisBackend
from neoq.redis.outbox import Pack, pack_in
from neoq.store import Demand
from neoq.testing.cases.suite import prepared
from tests.processes import PROGRAMS, running
from tests.redis_ledger import check_ledger


@pytest.fixture
def backend(redis_url: str, redis_prefix: Callable[[], str]) -> Iterator[RedisBackend]:
    with RedisBackend(redis_url, prefix=redis_prefix(), autostart=False) as backend:
        yield backend


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url, protocol=2) as client:
        yield client


def settle_one(backend: RedisBackend, *queues: str) -> None:
    """Settle a job that a job in each of these queues follows."""
    backend.enqueue("q")
    [job] = backend.store.claim([Demand("q", 1)]).jobs
    follow = tuple(prepared(queue) for queue in queues)
    backend.store.settle([Outcome(lease_of(job), Status.SUCCEEDED, finished_at=1.0, follow=follow)])


def key(backend: RedisBackend, queue: str, name: str) -> str:
    return f"{{{backend.config.prefix}:{queue}}}:{name}"


@pytest.mark.parametrize("before", [0, 1, 2, 3, 4, 6])  # of 6 commands
def test_what_follows_is_added_once_whenever_a_worker_is_killed(
    backend: RedisBackend,
    client: redis.Redis,
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
    before: int,
) -> None:
    """A worker that is killed before any command has not settled a job, or what follows is added once."""
    monkeypatch.setattr(outbox, "OVERDUE", 0.0)
    settle_one(backend, "p", "r")  # the server knows the queues and scripts now: each is one command
    for one in backend.jobs():
        backend.store.change([one.id], "delete")
    job = backend.enqueue("q")
    prefix = backend.config.prefix
    program = [sys.executable, PROGRAMS / "dies_in_settle.py", redis_url, prefix, "q", str(before), "p", "r"]
    with running(program) as child:
        child.exit_code()
    backend.store.tend()
    found = backend.get(job.id)
    assert found is not None
    settled = found.status is Status.SUCCEEDED
    assert settled == (before > 0)
    for queue in ("p", "r"):
        assert [one.payload for one in backend.jobs(queue)] == [{"after": job.id}] * settled
    assert client.exists(key(backend, "q", "out")) == 0
    backend.store.tend()
    assert len(backend.jobs()) == 1 + 2 * settled
    check_ledger(client, prefix)


def test_what_was_read_long_ago_is_not_delivered(
    backend: RedisBackend, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that stood still between reading an outbox and delivering from it adds nothing."""
    monkeypatch.setattr(outbox, "STANDS", -1.0)
    monkeypatch.setattr(outbox, "OVERDUE", 0.0)
    settle_one(backend, "p")
    assert backend.jobs("p") == []
    monkeypatch.setattr(outbox, "STANDS", 60.0)
    backend.store.tend()
    assert len(backend.jobs("p")) == 1
    assert client.zcard(key(backend, "p", "took")) == 1
    assert client.zrange(key(backend, "p", "took"), 0, -1, withscores=True)[0][1] < float("inf")


def test_an_outbox_that_holds_something_else(
    backend: RedisBackend,
    client: redis.Redis,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What another program has written into an outbox is deleted with an error, and the rest is delivered."""
    monkeypatch.setattr(outbox, "OVERDUE", 0.0)
    monkeypatch.setattr(outbox.Outbox, "send", lambda *_: None)
    settle_one(backend, "p")
    client.hset(key(backend, "q", "out"), mapping={"spoiled": b"\xff", "also": b"1.0 1:p3:abc"})
    backend.store.tend()
    assert len(backend.jobs("p")) == 1
    assert client.exists(key(backend, "q", "out")) == 0
    assert caplog.text.count("holds no jobs") == 2


@pytest.mark.parametrize("value", [b"", b"1.0 ", b"1.0 5:p", b"1.0 1:p", b"1.0 -1:p", b"1.0 x:p", b"1:p2:ab"])
def test_what_is_no_pack(value: bytes) -> None:
    """An entry of an outbox that holds anything else is no pack."""
    assert pack_in(value) is None
    assert pack_in(b"1.0 " + Pack("p", [b"a", b"", b"1:", b"", b"x", b"y", b""]).written()) == Pack(
        "p", [b"a", b"", b"1:", b"", b"x", b"y", b""]
    )
