"""A batch, with a gather in it, whose workers are killed at every durable boundary: nothing is lost or twice.

A child of this process does it all, and is killed before a certain call of its server; then this process
does the rest.
"""

from __future__ import annotations

import os
import time

import pytest

from neoq.backend import Backend
from neoq.filter import Filter
from neoq.held.group import Batch, BatchRules, Group
from neoq.held.step import Step
from neoq.job import Job
from neoq.outcome import Outcome, lease_of
from neoq.record import Status
from neoq.store import Demand
from neoq.testing.cases.suite import prepared
from tests.killing import Make, boundaries, killed

PATIENCE = 20.0  # seconds until what never happens is a failure
QUEUES = ("q", "p", "r", "then")


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


# -- the tests --------------------------------------------------------------------------------------------


def check_after_a_kill(make: Make, before: int) -> bool:
    """Check that what a child leaves is done, once; whether it was killed at all."""
    was_killed = killed(make, do_all, before)
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


@pytest.mark.parametrize("before", [9, 22])
def test_a_batch_whose_worker_is_killed(durable: Make, before: int) -> None:
    """A worker is killed in the middle of a batch; the members count once, and the callback runs."""
    check_after_a_kill(durable, before)


@pytest.mark.faults
@pytest.mark.timeout(1800)  # there are a hundred of them
def test_a_batch_whose_worker_is_killed_at_every_boundary(durable: Make) -> None:
    """Wherever a worker is killed, the members count once, and the callback runs after them, once."""
    assert boundaries(lambda before: check_after_a_kill(durable, before)) > 10
