"""Groups on Redis: counted once in several slots, whoever dies in between, whatever another hand writes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
import redis

from neoq.errors import BatchClosedError, NeoqError
from neoq.held.group import BatchRules, Group
from neoq.job import Job
from neoq.outcome import Outcome, lease_of
from neoq.record import Status
from neoq.redis import groups, outbox
from neoq.redis.backend import RedisBackend
from neoq.redis.connection import Call, RedisConnection
from neoq.store import Demand
from neoq.testing.cases.suite import prepared
from tests.processes import PROGRAMS, running
from tests.redis_ledger import check_ledger
from tests.servers import cluster_url, running_cluster

PRODUCER = 7


@pytest.fixture
def backend(
    redis_url: str, redis_prefix: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[RedisBackend]:
    monkeypatch.setattr(outbox, "OVERDUE", 0.0)
    monkeypatch.setattr(groups, "UNTOLD", 0.0)
    with RedisBackend(redis_url, prefix=redis_prefix(), autostart=False) as backend:
        yield backend


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url, protocol=2) as client:
        yield client


def key(backend: RedisBackend, queue: str, name: str) -> str:
    return f"{{{backend.config.prefix}:{queue}}}:{name}"


def opened(backend: RedisBackend, **rules: bool) -> Job:
    backend.stats()  # it opens the store
    return backend.store.open_batch(
        prepared("home", unique=False), BatchRules(PRODUCER, **rules), token=backend.store.new_token()
    )


def member(holder: Job, queue: str, n: int, **options: object) -> Job:
    made = prepared(queue, {"n": n}, **{"unique": False, **options})
    made.group, made.producer = str(Group(holder.id)), PRODUCER
    return made


def add(backend: RedisBackend, holder: Job, queue: str, n: int) -> Job:
    return backend.store.add([member(holder, queue, n)], token=backend.store.new_token())[0]


def come(backend: RedisBackend, queue: str) -> list[Job]:
    return backend.store.claim([Demand(queue, 10)]).jobs


def settle(backend: RedisBackend, jobs: list[Job], status: Status = Status.SUCCEEDED) -> None:
    backend.store.settle([Outcome(lease_of(job), status, finished_at=1.0) for job in jobs])


@pytest.mark.parametrize(
    "before", [0, 1, 3, *(pytest.param(number, marks=pytest.mark.faults) for number in (2, 4, 5, 6, 7, 8))]
)
def test_the_callback_comes_once_whenever_a_worker_is_killed(
    backend: RedisBackend,
    client: redis.Redis,
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
    before: int,
) -> None:
    """A worker that is killed before any command of a member's settle loses no end, and no member added."""
    holder = opened(backend)
    add(backend, holder, "q", 0)
    backend.store.seal(holder.id, PRODUCER)
    prefix = backend.config.prefix
    program = [sys.executable, PROGRAMS / "dies_in_settle.py", redis_url, prefix, "q", str(before), "p"]
    with running(program) as child:
        child.exit_code()
    backend.store.tend()
    if not backend.jobs("p"):  # it was killed before anything was settled
        assert come(backend, "home") == []
        for worker in backend.workers():
            client.hdel(f"{{{prefix}}}:workers", worker.id)
        [lease] = client.zrange(key(backend, "q", "lease"), 0, -1)
        client.zadd(key(backend, "q", "lease"), {lease: 0})
        monkeypatch.setattr("neoq.redis.reclaim.SWEEP_EVERY", 0.0)
        backend.store.reclaim()
        settle(backend, come(backend, "q"))
    else:
        assert come(backend, "home") == []
        settle(backend, come(backend, "p"))
    backend.store.tend()
    assert [job.id for job in come(backend, "home")] == [holder.id]
    found = backend.store.group(holder.id)
    assert found is not None
    assert found.members == found.succeeded
    assert client.exists(key(backend, "q", "out")) == 0
    check_ledger(client, prefix)


def test_a_stopped_group_is_stopped_by_another_process(backend: RedisBackend, client: redis.Redis) -> None:
    """What a process that died has begun to stop is stopped with the next heartbeat of any other one."""
    holder = opened(backend)
    members = [add(backend, holder, queue, n) for n, queue in enumerate(["a", "b", "b"])]
    name = Group(holder.id).name
    state = client.hget(key(backend, "home", "groups"), name)
    client.hset(key(backend, "home", "groups"), name, state[:-1] + b',"stopped":true}')
    client.sadd(key(backend, "home", "halts"), name)
    backend.store.tend()
    assert {backend.get(job.id).status for job in members} == {Status.CANCELLED}  # type: ignore[union-attr]
    assert not client.exists(key(backend, "home", "halts"))
    check_ledger(client, backend.config.prefix)


def test_a_span_outlasts_a_stopped_group(backend: RedisBackend) -> None:
    """A member that is unique for a span is so after its batch was cancelled, too."""
    holder = opened(backend)
    member = prepared("a", {"n": 0}, unique=timedelta(minutes=1))
    member.group, member.producer = str(Group(holder.id)), PRODUCER
    [added] = backend.store.add([member], token=backend.store.new_token())
    backend.store.change([holder.id], "cancel")
    assert backend.get(added.id).status is Status.CANCELLED  # type: ignore[union-attr]
    again = backend.enqueue("a", {"n": 0}, unique=timedelta(minutes=1))
    assert (again.duplicate, again.id) == (True, added.id)


def test_a_batch_whose_members_met_others_is_forgotten(backend: RedisBackend, client: redis.Redis) -> None:
    """Of a batch all of whose jobs were duplicates nothing is kept, whether it ended or was cancelled."""
    backend.stats()  # it opens the store
    [there] = backend.store.add([prepared("q")], token=b"")
    for cancel in (True, False):
        holder = opened(backend)
        member = prepared("q")
        member.group, member.producer = str(Group(holder.id)), PRODUCER
        [met] = backend.store.add([member], token=backend.store.new_token())
        assert met.id == there.id
        if cancel:
            backend.cancel(holder.id)
        else:
            backend.store.seal(holder.id, PRODUCER)
            settle(backend, come(backend, "home"))
        backend.store.tend()
        assert client.exists(key(backend, "q", "opener"))
        backend.prune()
        assert not client.exists(key(backend, "q", "opener"), key(backend, "q", "stopped"))


def test_no_member_of_a_stopped_group_starts(backend: RedisBackend, client: redis.Redis) -> None:
    """A claim cancels the members of a stopped group that it meets, and hands out what is behind them."""
    holder = opened(backend)
    member = add(backend, holder, "a", 0)
    plain = backend.enqueue("a")
    client.zadd(key(backend, "a", "stopped"), {Group(holder.id).name: 1})
    assert [job.id for job in come(backend, "a")] == [plain.id]
    assert backend.get(member.id).status is Status.CANCELLED  # type: ignore[union-attr]
    assert backend.store.group(holder.id).cancelled == 1  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "garbage", [b"", b"{", b"[]", b'{"q":1}', b'{"q":{"a":{}},"p":{},"turn":{}}', b"\xff"]
)
@pytest.mark.parametrize("what", ["groups", "ends", "opener"])
def test_what_another_hand_writes_of_a_group(
    backend: RedisBackend, client: redis.Redis, what: str, garbage: bytes
) -> None:
    """Whatever stands in the place of a group, its jobs run, and the callback can be cancelled."""
    holder = opened(backend)
    add(backend, holder, "a", 0)
    for queue in ("home", "a"):
        client.hset(key(backend, queue, what), Group(holder.id).name, garbage)
    settle(backend, come(backend, "a"))
    backend.store.tend()
    backend.store.group(holder.id)
    backend.store.prune()
    assert backend.store.change([holder.id], "cancel").done == {holder.id}
    check_ledger(client, backend.config.prefix)


@pytest.mark.parametrize(
    "name", ["groups", "halts", "members", "ends", "tell", "opener", "known", "stopped", "out", "took"]
)
def test_a_key_of_a_group_of_another_type(backend: RedisBackend, client: redis.Redis, name: str) -> None:
    """A key that holds another type is set aside, and batches are opened, filled and ended again."""
    backend.enqueue("home")
    for queue in ("home", "a"):
        client.rpush(key(backend, queue, name), "spoiled")
    settle(backend, come(backend, "home"))
    backend.store.tend()
    for _ in range(2):  # the first may meet the key halfway
        try:
            holder = opened(backend, named=True)
            add(backend, holder, "a", 0)
            backend.store.seal(holder.id, PRODUCER)
        except NeoqError:
            continue
        settle(backend, come(backend, "a"))
        backend.store.tend()
    assert holder.id in {job.id for job in come(backend, "home")}
    check_ledger(client, backend.config.prefix)


@pytest.mark.faults
def test_a_batch_over_three_nodes() -> None:
    """In a cluster a batch whose queues are on different nodes is counted, and can be cancelled."""
    with (
        running_cluster(3, "--appendonly", "yes", "--appendfsync", "no") as nodes,
        RedisBackend(cluster_url(nodes), autostart=False) as backend,
    ):
        holder = opened(backend)
        queues = [f"q{n}" for n in range(6)]
        for n, queue in enumerate(queues):
            add(backend, holder, queue, n)
        backend.store.seal(holder.id, PRODUCER)
        for queue in queues:
            assert come(backend, "home") == []
            settle(backend, come(backend, queue))
        assert [job.id for job in come(backend, "home")] == [holder.id]
        found = backend.store.group(holder.id)
        assert found is not None
        assert (found.members, found.succeeded) == (6, 6)
        other = opened(backend)
        members = [add(backend, other, queue, n) for n, queue in enumerate(queues)]
        assert backend.store.change([other.id], "cancel").done == {other.id}
        assert {backend.get(job.id).status for job in members} == {Status.CANCELLED}  # type: ignore[union-attr]


def test_home_is_told_when_no_other_member_runs_here(backend: RedisBackend, client: redis.Redis) -> None:
    """Home hears of the ends in a queue with the last of those that this process runs, or by a heartbeat."""
    holder = opened(backend)
    for n in range(3):
        add(backend, holder, "q", n)
    name = Group(holder.id).name
    backend.store.seal(holder.id, PRODUCER)
    jobs = come(backend, "q")
    told: list[str] = []
    for job in jobs:
        settle(backend, [job])
        state = json.loads(client.hget(key(backend, "home", "groups"), name) or b"")
        told.append(state["q"]["q"])
        found = backend.store.group(holder.id)
        assert found is not None
        assert found.succeeded == len(told)
    assert told == ["3 0 0 0 0 0", "3 0 0 0 0 0", "3 3 0 0 0 0"]
    assert [job.id for job in come(backend, "home")] == [holder.id]


def test_a_heartbeat_tells_of_ends_while_a_member_runs(backend: RedisBackend, client: redis.Redis) -> None:
    """What was counted while another member runs for long is told by the next heartbeat."""
    holder = opened(backend)
    for n in range(2):
        add(backend, holder, "q", n)
    settle(backend, come(backend, "q")[:1])
    backend.store.tend()
    state = json.loads(client.hget(key(backend, "home", "groups"), Group(holder.id).name) or b"")
    assert state["q"]["q"] == "2 1 0 0 0 0"


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("unique", [False, True])
def test_members_are_added_by_the_short_script(
    backend: RedisBackend, client: redis.Redis, monkeypatch: pytest.MonkeyPatch, *, behind: bool, unique: bool
) -> None:
    """Members of a batch without a name are counted once a call, also where another clock is ahead."""
    holder = opened(backend)
    members = [member(holder, "q", n, unique=unique) for n in range(120)]
    members[7].body = b'"' + b"x" * 5000 + b'"'  # kept apart
    add(backend, holder, "q", 120)
    if behind:
        client.incrby(key(backend, "q", "seq"), 10**15)
    scripts: list[str] = []
    together = RedisConnection.call_together

    def noted(connection: RedisConnection, calls: list[Call]) -> list[object]:
        scripts.extend(script.name for script, *_ in calls)
        return together(connection, calls)

    monkeypatch.setattr(RedisConnection, "call_together", noted)
    added = backend.store.add(members, token=backend.store.new_token())
    assert set(scripts) == {"gate", "add_new"}
    found = {
        name.rpartition(b"/")[2].lstrip(b"0") for name in client.zrange(key(backend, "q", "members"), 0, -1)
    }
    assert found >= {b"%d" % job.id for job in added}
    assert len(found) == 121
    assert client.hget(key(backend, "q", "ends"), Group(holder.id).name) == b"121 0 0 0 0 0"
    check_ledger(client, backend.config.prefix)
    again = member(holder, "q", 3, unique=True)
    assert backend.store.add([again], token=backend.store.new_token())[0].duplicate is unique
    assert client.hget(key(backend, "q", "ends"), Group(holder.id).name) == b"%d 0 0 0 0 0" % (
        121 + (not unique)
    )


@pytest.mark.parametrize("count", [1, 2, 120])
def test_a_closed_batch_takes_no_members_by_the_short_script(
    backend: RedisBackend, client: redis.Redis, count: int
) -> None:
    """Where a queue knows that a batch is closed or stopped, nothing is added, also by a repetition."""
    holder = opened(backend)
    add(backend, holder, "q", 0)
    backend.store.seal(holder.id, PRODUCER)
    token = backend.store.new_token()
    for _ in range(2):
        with pytest.raises(BatchClosedError):
            backend.store.add([member(holder, "q", n) for n in range(count)], token=token)
    other = opened(backend)
    add(backend, other, "q", 0)
    client.zadd(key(backend, "q", "stopped"), {Group(other.id).name: 1})
    with pytest.raises(BatchClosedError):
        backend.store.add([member(other, "q", n) for n in range(count)], token=token)
    assert client.hlen(key(backend, "q", "jobs")) == 2
