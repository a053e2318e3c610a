"""A batch, with a gather in it, whose workers are killed at every durable boundary: nothing is lost or twice.

A child of this process does it all, and is killed before a certain call of its server; then this process
does the rest.
"""

from __future__ import annotations

import itertools
import os
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from neoq.backend import Backend
from neoq.filter import Filter
from neoq.held.group import Batch, BatchRules, Group
from neoq.held.step import Step
from neoq.job import Job
from neoq.outcome import Outcome, lease_of
from neoq.postgres.backend import PostgresBackend
from neoq.postgres.connections import Connections
from neoq.record import Status
from neoq.redis import outbox
from neoq.redis.backend import RedisBackend
from neoq.redis.connection import RedisConnection
from neoq.sqlite.backend import SqliteBackend
from neoq.sqlite.store import SqliteStore
from neoq.store import Demand
from neoq.testing.cases.suite import prepared
from tests.postgres_server import fresh_schema

Make = Callable[[], Backend]

SOON = {"lease": 0.3, "heartbeat": 0.1, "autostart": False, "max_crashes": 100}
PATIENCE = 20.0  # seconds until what never happens is a failure
QUEUES = ("q", "p", "r", "then")


@pytest.fixture(params=["sqlite", "postgres", "redis"])
def make(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """How to open the same store, again and again."""
    if request.param == "sqlite":
        return lambda: SqliteBackend(tmp_path / "jobs.db", **SOON)
    if request.param == "postgres":
        url, schema = request.getfixturevalue("postgres_url"), fresh_schema()
        return lambda: PostgresBackend(url, schema=schema, **SOON)
    monkeypatch.setattr(outbox, "OVERDUE", 0.0)
    url, prefix = request.getfixturevalue("redis_url"), request.getfixturevalue("redis_prefix")()
    return lambda: RedisBackend(url, prefix=prefix, **SOON)


# -- what is done, by the child and then by its parent ----------------------------------------------------


def member(holder: int, queue: str, name: str, producer: int = 0) -> Job:
    """A member of the batch, which it knows by its name."""
    job = prepared(queue, {"name": name}, fingerprint=name, unique=bool(producer))
    job.group, job.producer = str(Group(holder)), producer
    return job


def produce(backend: Backend) -> None:
    """Run the block of the batch, unless it was run to its end."""
    store = backend.store
    for then in store.find(Filter(queue="then")).jobs:
        counts = store.group(then.id)
        if counts is None or not counts.open:
            return
    rules = BatchRules(os.getpid(), named=True)
    then = prepared("then", fingerprint="batch")
    holder = store.open_batch(then, rules, token=store.new_token()).id
    for queue, name in (("q", "parent"), ("p", "plain")):
        store.add([member(holder, queue, name, rules.producer)], token=store.new_token())
    store.seal(holder, rules.producer)


def attempt(backend: Backend, job: Job) -> Outcome:
    """Run a claimed job: the parent gathers two children, and adds a member as it ends."""
    outcome = Outcome(lease_of(job), Status.SUCCEEDED, finished_at=time.time())
    if job.queue == "then":
        assert backend.store.group(job.id) == Batch(3, succeeded=3, open=False)
        members = backend.store.find(Filter(group=Group(job.id).name)).jobs
        assert sorted(one.payload["name"] for one in members) == ["added", "parent", "plain"]
    if job.queue != "q":
        return outcome
    if job.holds is None:
        children = [prepared(queue, {"name": "child"}, unique=False) for queue in ("p", "r")]
        for place, child in enumerate(children):
            child.group = str(Group(job.id, 1, place))
        steps = (Step("gather:a", b"[1,2]"),)
        return outcome._replace(status=Status.PENDING, holds=1, follow=tuple(children), steps=steps)
    assert backend.store.group(job.id, 1) == Batch(2, succeeded=2, open=False)
    assert backend.store.record([(lease_of(job), [Step("step:b", b"1")])]) == set()
    assert [step.name for step in backend.store.steps(job.id)] == ["gather:a", "step:b"]
    assert job.group is not None
    return outcome._replace(follow=(member(int(job.group.split("/")[0]), "r", "added"),))


def do_all(backend: Backend) -> None:
    """Do what there is to do until the callback has run."""
    store, give_up = backend.store, time.monotonic() + PATIENCE
    produce(backend)
    while [then.status for then in store.find(Filter(queue="then")).jobs] != [Status.SUCCEEDED]:
        assert time.monotonic() < give_up, f"it does not go on: {store.find().jobs}"
        store.reclaim()
        store.tend()
        for job in store.claim([Demand(queue, 1) for queue in QUEUES]).jobs:
            store.settle([attempt(backend, job)])


# -- how the child is killed ------------------------------------------------------------------------------


def do_all_and_die(make: Make, before: int) -> None:
    """Do it all, and be killed before the call of that number, of those that change a store."""
    backend = make()
    backend.queues()  # it opens the store
    numbers = itertools.count()

    def reached() -> None:
        if next(numbers) == before:
            os.kill(os.getpid(), signal.SIGKILL)

    if isinstance(backend, RedisBackend):
        _count_commands(reached)
    elif isinstance(backend, PostgresBackend):
        _count_calls(psycopg.Cursor, "execute", reached)
        _count_calls(Connections, "prepared", reached)
    else:
        for name in ("open_batch", "add", "seal", "claim", "settle", "record", "tend"):
            _count_calls(SqliteStore, name, reached)
    do_all(backend)


def _count_calls(owner: type, name: str, reached: Callable[[], None]) -> None:
    plain = getattr(owner, name)

    def call(*arguments: Any, **keywords: Any) -> Any:
        reached()
        return plain(*arguments, **keywords)

    setattr(owner, name, call)


def _count_commands(reached: Callable[[], None]) -> None:
    plain = RedisConnection.exchange_once

    def exchange(connection: RedisConnection, commands: Any, near: Any) -> list[Any]:
        replies = []
        for command in commands:  # one at a time
            reached()
            replies += plain(connection, [command], near)
        return replies

    RedisConnection.exchange_once = exchange  # type: ignore[method-assign]


def killed(make: Make, before: int) -> bool:
    """Whether a child that does it all was killed before a call of that number; else it has done it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the child uses nothing of the other threads
        pid = os.fork()
    if not pid:
        try:
            do_all_and_die(make, before)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert status in {0, signal.SIGKILL}, "the child has failed: see its traceback above"
    return status != 0


# -- the tests --------------------------------------------------------------------------------------------


def check_after_a_kill(make: Make, before: int) -> bool:
    """Check that what a child leaves is done, once; whether it was killed at all."""
    was_killed = killed(make, before)
    with make() as backend:
        backend.queues()
        do_all(backend)
        while backend.store.tend():
            pass
        assert backend.store.claim([Demand(queue, 9) for queue in QUEUES]).jobs == []
        jobs = backend.store.find().jobs
        found = sorted((job.queue, job.payload.get("name", ""), job.status.value) for job in jobs)
        assert found == [
            ("p", "child", "succeeded"),
            ("p", "plain", "succeeded"),
            ("q", "parent", "succeeded"),
            ("r", "added", "succeeded"),
            ("r", "child", "succeeded"),
            ("then", "", "succeeded"),
        ]
        backend.store.change([job.id for job in jobs], "delete")
    return was_killed


def boundaries(make: Make) -> Iterator[int]:
    """The numbers of calls before which the child was killed, until it is not killed any more."""
    for before in itertools.count():
        if not check_after_a_kill(make, before):
            return
        yield before


@pytest.mark.parametrize("before", [9, 22])
def test_a_batch_whose_worker_is_killed(make: Make, before: int) -> None:
    """A worker is killed in the middle of a batch; the members count once, and the callback runs."""
    check_after_a_kill(make, before)


@pytest.mark.faults
@pytest.mark.timeout(1800)  # there are a hundred of them
def test_a_batch_whose_worker_is_killed_at_every_boundary(make: Make) -> None:
    """Wherever a worker is killed, the members count once, and the callback runs after them, once."""
    assert len(list(boundaries(make))) > 10
