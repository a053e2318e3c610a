"""Lines, limits and spans as a Redis server keeps them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest
import redis

from neoq.held.limits import Limits, Rate
from neoq.job import Job
from neoq.outcome import Outcome, lease_of
from neoq.record import Status
from neoq.redis import lines as redis_lines
from neoq.redis.backend import RedisBackend
from neoq.redis.connection import Call, RedisConnection
from neoq.store import Demand
from neoq.testing.cases.holding import in_group, open_batch
from neoq.testing.cases.suite import prepared
from tests.redis_ledger import check_ledger

ORDERED = Limits(ordered=True)
LINES = {"lines", "turn", "busy", "pace", "paced", "tats", "limits"}


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    """A look at the keys."""
    with redis.Redis.from_url(redis_url, protocol=2) as client:
        yield client


@pytest.fixture
def backend(redis_url: str, redis_prefix: Callable[[], str], client: redis.Redis) -> Iterator[RedisBackend]:
    """A backend that runs nothing, whose jobs add up at the end."""
    prefix = redis_prefix()
    with RedisBackend(redis_url, prefix=prefix, autostart=False, max_dead=1, retention=0) as backend:
        backend.listen("q", print)
        backend.queues()
        yield backend
    check_ledger(client, prefix)


def add(backend: RedisBackend, *keys: str, **options: object) -> list[Job]:
    jobs = [prepared("q", {"n": n}, **{"key": key, "unique": False, **options}) for n, key in enumerate(keys)]
    return backend.store.add(jobs, token=b"")


def claim(backend: RedisBackend, limit: int = 50) -> list[Job]:
    return backend.store.claim([Demand("q", limit)]).jobs


def settle(backend: RedisBackend, jobs: list[Job], status: Status) -> None:
    assert backend.store.settle([Outcome(lease_of(job), status) for job in jobs]) == set()


def unique_for_an_hour() -> Job:
    job = prepared("q", {"n": 1})
    job.unique_for, job.special = 3600.0, True
    return job


def kept(backend: RedisBackend, client: redis.Redis) -> set[str]:
    keys = client.scan_iter(f"{{{backend.config.prefix}:q}}:*", count=1000)
    return {key.decode().rpartition(":")[2] for key in keys}


def test_nothing_of_lines_is_left(backend: RedisBackend, client: redis.Redis) -> None:
    """When the limits are removed and the lines are empty, nothing is kept of them, and claims are plain."""
    backend.store.limit("q", ORDERED, by_listener=True)
    add(backend, *(key for key in "abcdefghijklmnopqrstuvwxyz" for _ in range(3)))
    jobs = claim(backend)
    assert len(jobs) == 26
    backend.store.limit("q", None, by_listener=True)
    while more := claim(backend):
        jobs += more
    assert len(jobs) == 78
    settle(backend, jobs, Status.SUCCEEDED)
    assert not kept(backend, client) & LINES


def test_a_turn_outlives_no_limits(backend: RedisBackend, client: redis.Redis) -> None:
    """A job that had its turn as the limits were removed holds no line when there are limits again."""
    backend.store.limit("q", ORDERED, by_listener=True)
    add(backend, "a")
    backend.store.limit("q", None, by_listener=True)
    settle(backend, claim(backend), Status.SUCCEEDED)
    assert not kept(backend, client) & LINES
    backend.store.limit("q", ORDERED, by_listener=True)
    [again] = add(backend, "a")
    assert [job.id for job in claim(backend)] == [again.id]


@pytest.mark.parametrize("limits", [Limits(ordered=True, hold_dead=False), Limits(per_key=1), None])
def test_a_dead_head_is_let_go(backend: RedisBackend, limits: Limits | None) -> None:
    """A dead job holds its line no more when the limits of the queue do not say so any more."""
    backend.store.limit("q", ORDERED, by_listener=True)
    [_, other] = add(backend, "a", "a")
    settle(backend, claim(backend), Status.DEAD)
    assert claim(backend) == []
    backend.store.limit("q", limits, by_listener=True)
    assert [job.id for job in claim(backend)] == [other.id]


def test_a_key_that_begins_like_another(backend: RedisBackend) -> None:
    """The lines of keys that begin with one another are kept apart."""
    backend.store.limit("q", ORDERED, by_listener=True)
    keys = ["a", "a0", "a/", "aa", "0001a", "ä"]
    add(backend, *keys, *keys)
    for _ in range(2):
        jobs = claim(backend)
        assert [job.key for job in jobs] == keys
        settle(backend, jobs, Status.SUCCEEDED)


def test_a_dead_head_is_not_pruned(backend: RedisBackend) -> None:
    """max_dead spares a dead job that holds its line."""
    backend.store.limit("q", ORDERED, by_listener=True)
    [head] = add(backend, "a")
    add(backend, "b", "c")
    settle(backend, claim(backend), Status.DEAD)
    others = [backend.store.add([prepared("q", unique=False)], token=b"")[0] for _ in range(2)]
    for _ in others:
        settle(backend, claim(backend), Status.DEAD)
    for _ in range(3):
        backend.prune()
    found = backend.get(head.id)
    assert found is not None
    assert found.status is Status.DEAD
    assert [backend.get(job.id) for job in others] == [None, None]


def test_the_end_of_a_member_makes_room(backend: RedisBackend) -> None:
    """In a queue with max_running the next job can be claimed as soon as a member of a batch has ended."""
    backend.store.limit("q", Limits(max_running=1), by_listener=True)
    holder = open_batch(backend)
    backend.store.add([in_group(holder) for _ in range(2)], token=b"")
    for _ in range(2):
        jobs = claim(backend)
        assert len(jobs) == 1
        assert claim(backend) == []
        settle(backend, jobs, Status.SUCCEEDED)


def test_a_span_outlives_its_job(backend: RedisBackend, client: redis.Redis) -> None:
    """A fingerprint is held for its span although the job is gone, whatever is pruned."""
    [first] = backend.store.add([unique_for_an_hour()], token=b"")
    settle(backend, claim(backend), Status.SUCCEEDED)
    backend.prune()
    assert backend.get(first.id) is None
    for again in (prepared("q", {"n": 1}), unique_for_an_hour()):
        [met] = backend.store.add([again], token=b"x" * 16)
        assert (met.id, met.duplicate, met.status) == (first.id, True, Status.CANCELLED)
    spans = f"{{{backend.config.prefix}:q}}:spent"
    client.hset(spans, first.fingerprint, f"1.0 {first.id}")
    backend.prune()
    assert client.hlen(spans) == 0
    assert not backend.store.add([prepared("q", {"n": 1})], token=b"y" * 16)[0].duplicate


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the scripts that have settled."""
    names: list[str] = []
    call_many = RedisConnection.call_many

    def noted(connection: RedisConnection, calls: list[Call], *, again: bool = True) -> list[object]:
        names.extend(script.name for script, *_ in calls)
        return call_many(connection, calls, again=again)

    monkeypatch.setattr(RedisConnection, "call_many", noted)
    return names


@pytest.mark.parametrize("limits", [ORDERED, Limits(per_key=2), Limits(ordered=True, max_running=9)])
def test_a_pack_of_successes_lets_the_lines_go_on(
    backend: RedisBackend, scripts: list[str], limits: Limits
) -> None:
    """Successes of several keys are recorded by one short script, and each line goes on in its order."""
    backend.store.limit("q", limits, by_listener=True)
    added = add(backend, *("abcab" * 8))
    scripts.clear()
    ran: list[Job] = []
    while jobs := claim(backend):
        for key in "abc":
            running = [job.id for job in jobs if job.key == key]
            assert len(running) <= (limits.per_key or 1)
        settle(backend, jobs, Status.SUCCEEDED)
        ran += jobs
    assert scripts
    assert set(scripts) == {"finish_counted"}
    for key in "abc":
        assert [job.id for job in ran if job.key == key] == [job.id for job in added if job.key == key]


def test_a_line_goes_on_behind_a_job_that_was_deleted_by_hand(
    backend: RedisBackend, client: redis.Redis
) -> None:
    """A job in a line whose record is gone holds up nobody behind it."""
    backend.store.limit("q", ORDERED, by_listener=True)
    jobs = add(backend, *("a" * 4), "b", "b")
    tag = f"{{{backend.config.prefix}:q}}:"
    client.hdel(tag + "jobs", jobs[1].id, jobs[2].id)
    settle(backend, claim(backend), Status.SUCCEEDED)
    assert sorted(job.id for job in claim(backend)) == [jobs[3].id, jobs[5].id]


def test_a_line_goes_on_behind_a_head_that_was_deleted_by_hand(
    backend: RedisBackend, client: redis.Redis
) -> None:
    """A job that had its turn, and whose record is gone, gives it up when a claim meets it."""
    backend.store.limit("q", ORDERED, by_listener=True)
    jobs = add(backend, "a", "a", "a")
    client.hdel(f"{{{backend.config.prefix}:q}}:jobs", jobs[0].id)
    assert [job.id for job in claim(backend)] == [jobs[1].id]


@pytest.mark.parametrize("status", [None, Status.RETRYING])
def test_a_job_waits_since_its_turn(backend: RedisBackend, status: Status | None) -> None:
    """What was due long ago, and then stood in its line, became due with its turn."""
    backend.store.limit("q", Limits(per_key=1), by_listener=True)
    [first, second] = add(backend, "a", "a", run_after=datetime(2020, 1, 1, tzinfo=UTC))
    jobs = claim(backend)
    if status is not None:  # it waits for its next attempt, and then at the end of its line
        due = time.time() + 0.01
        backend.store.settle([Outcome(lease_of(jobs[0]), status, run_after=due)])
        first, second = second, first
        jobs = claim(backend)
        time.sleep(0.05)
        assert claim(backend) == []
    assert [job.id for job in jobs] == [first.id]
    before = time.time()
    settle(backend, jobs, Status.SUCCEEDED)
    [job] = claim(backend)
    assert job.id == second.id
    assert job.due is not None
    assert before - 0.001 <= job.due <= time.time() + 0.001
    backend.store.settle([Outcome(lease_of(job), Status.DEAD)])


def test_a_new_rate_of_each_key_lets_one_start(backend: RedisBackend) -> None:
    """Where a key has a rate, the ends of several jobs make ready one more of it."""
    backend.store.limit("q", Limits(per_key=3, rate_per_key=Rate(2, 3600, 2)), by_listener=True)
    jobs = add(backend, *"aaaab")
    first = claim(backend)
    first += claim(backend)
    assert [job.id for job in first] == [jobs[0].id, jobs[4].id, jobs[1].id]
    settle(backend, first, Status.SUCCEEDED)
    assert claim(backend) == []


def test_a_member_with_a_key_is_kept_and_counted(backend: RedisBackend, scripts: list[str]) -> None:
    """A member of a batch may stand in a line: its success is counted, and lets the next one start."""
    backend.store.limit("q", ORDERED, by_listener=True)
    holder = open_batch(backend)
    backend.store.add([in_group(holder, key="a") for _ in range(2)], token=b"")
    scripts.clear()
    for _ in range(2):
        jobs = claim(backend)
        assert len(jobs) == 1
        settle(backend, jobs, Status.SUCCEEDED)
    assert {name for name in scripts if name != "count"} == {"finish_counted"}
    assert [job.status for job in backend.jobs("q")] == [Status.SUCCEEDED] * 2
    batch = backend.store.group(holder.id)
    assert batch is not None
    assert batch.succeeded == 2


@pytest.fixture
def formed_by_claims(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is ready as its queue gets limits is put in lines by claims alone."""
    monkeypatch.setattr(redis_lines, "FIRST_FORMED", 0)


def size(backend: RedisBackend, client: redis.Redis, what: str) -> int:
    return client.zcard(f"{{{backend.config.prefix}:q}}:{what}")


def test_new_limits_form_no_more_lines_than_a_short_while_takes(
    backend: RedisBackend, client: redis.Redis
) -> None:
    """Setting limits, and each claim after that, puts a bounded number of ready jobs in lines."""
    for _ in range(5):
        add(backend, *("a" * 500))
    backend.store.limit("q", ORDERED, by_listener=True)
    assert size(backend, client, "lines") == 1999
    claims = 0
    while size(backend, client, "ready"):
        before = size(backend, client, "lines")
        claim(backend)
        claims += 1
        assert size(backend, client, "lines") <= before + 100
    assert size(backend, client, "lines") == 2499
    assert claims <= 10
    backend.store.change([job.id for job in backend.jobs("q", limit=2500)], "delete")


@pytest.mark.usefixtures("formed_by_claims")
@pytest.mark.parametrize(
    "limits", [ORDERED, Limits(ordered=True, aging=60), Limits(ordered=True, max_running=9)]
)
def test_order_is_kept_while_lines_are_formed(
    backend: RedisBackend, client: redis.Redis, limits: Limits
) -> None:
    """A job that comes while lines are formed starts after those of its key that were ready before."""
    waiting = add(backend, *("a" * 150), *("b" * 150))
    backend.store.limit("q", limits, by_listener=True)
    ran = jobs = claim(backend)
    assert [job.id for job in jobs] == [waiting[0].id]
    [late] = add(backend, "b")
    [other] = add(backend, "c")
    urgent = add(backend, "d", "d", priority=10)
    lines = {"a": waiting[:150], "b": [*waiting[150:], late], "c": [other], "d": urgent}
    while size(backend, client, "ready") or size(backend, client, "lease"):
        settle(backend, jobs, Status.SUCCEEDED)
        jobs = claim(backend)
        assert len({job.key for job in jobs}) == len(jobs)
        ran = ran + jobs
    for key, expected in lines.items():
        assert [job.id for job in ran if job.key == key] == [job.id for job in expected]


@pytest.mark.usefixtures("formed_by_claims")
def test_lines_go_on_while_others_are_formed(backend: RedisBackend) -> None:
    """A job that gets its turn starts at once, although many that are due before it are in no line yet."""
    jobs = add(backend, *("a" * 50), *("b" * 450))
    backend.store.limit("q", ORDERED, by_listener=True)
    first = claim(backend)
    assert [job.id for job in first] == [jobs[0].id, jobs[50].id]
    settle(backend, first, Status.SUCCEEDED)
    assert [job.id for job in claim(backend)] == [jobs[1].id, jobs[51].id]
    backend.store.change([job.id for job in jobs], "cancel")


@pytest.mark.usefixtures("formed_by_claims")
def test_a_job_that_is_deleted_stops_no_forming(backend: RedisBackend, client: redis.Redis) -> None:
    """Lines are formed to the end, also where the job is gone to which they had come."""
    jobs = add(backend, *("a" * 250))
    backend.store.limit("q", ORDERED, by_listener=True)
    claim(backend)
    backend.store.change([jobs[100].id], "delete")
    for _ in range(3):
        claim(backend)
    assert size(backend, client, "lines") == 248
    assert client.hget(f"{{{backend.config.prefix}:q}}:limits", "form") is None
    backend.store.change([job.id for job in jobs], "delete")


@pytest.mark.usefixtures("formed_by_claims")
def test_no_kind_overtakes_another_one_of_its_key(backend: RedisBackend) -> None:
    """A claim for one kind starts no job in front of which one of its key and another kind was ready."""
    add(backend, "a")
    [later] = add(backend, "a", kind="late")
    backend.store.limit("q", ORDERED, by_listener=True)
    late = Demand("q", 9, frozenset({"late"}))
    assert backend.store.claim([late]).jobs == []
    settle(backend, claim(backend), Status.SUCCEEDED)
    assert [job.id for job in backend.store.claim([late]).jobs] == [later.id]
