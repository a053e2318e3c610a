"""Batches as a program sees them: members, their callback, and what becomes of both."""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import neoq
from neoq import Job, Status


@pytest.fixture
def backend() -> Iterator[neoq.Backend]:
    with neoq.MemBackend(job_check_interval=0.05) as backend:
        yield backend


def listen(backend: neoq.Backend) -> list[Any]:
    """Run members that do as they are told, and callbacks, which note the counts of their batches."""
    noted: list[Any] = []

    def member(job: Job) -> int:
        if job.payload.get("bad"):
            raise neoq.Discard("bad")
        if job.payload.get("more"):
            job.enqueue("member", {"n": 100}, batch=True)
        return int(job.payload["n"])

    def callback(job: Job) -> None:
        batch = job.batch
        assert batch is not None
        noted.append((batch.members, batch.succeeded, batch.dead, batch.cancelled))
        noted.append(sorted(one.result for one in batch.results() if one.result is not None))

    backend.listen("member", member)
    backend.listen("callback", callback)
    return noted


def test_the_callback_runs_after_the_last_member(backend: neoq.Backend) -> None:
    """It runs once all members have ended and the block has, and sees the counts and the results."""
    noted = listen(backend)
    with backend.batch(then=Job("callback")) as batch:
        first = batch.enqueue("member", {"n": 1})
        batch.enqueue_many(Job("member", {"n": n}) for n in (2, 3))
        backend.wait(first.id, 10)
        assert backend.get(batch.id).held == "batch"  # type: ignore[union-attr]
    backend.wait(batch.id, 10)
    assert noted == [(3, 3, 0, 0), [1, 2, 3]]
    found = backend.get(batch.id)
    assert found is not None
    assert found.batch is not None
    assert (found.batch.members, found.batch.ended, found.batch.open) == (3, 3, False)
    assert pickle.loads(pickle.dumps(found)).batch.members == 3
    assert backend.get(first.id).batch is None  # type: ignore[union-attr]


def test_an_empty_batch_ends_at_once(backend: neoq.Backend) -> None:
    """A batch without members runs its callback."""
    noted = listen(backend)
    with backend.batch(then=Job("callback")) as batch:
        pass
    backend.wait(batch.id, 10)
    assert noted == [(0, 0, 0, 0), []]


def test_members_are_not_unique_and_may_add_others(backend: neoq.Backend) -> None:
    """Two members may be alike; a member adds one to its own batch when it succeeds."""
    noted = listen(backend)
    with backend.batch(then=Job("callback")) as batch:
        batch.enqueue_many([Job("member", {"n": 1}), Job("member", {"n": 1}), Job("member", {"bad": True})])
        batch.enqueue("member", {"n": 2, "more": True})
    backend.wait(batch.id, 10)
    assert noted == [(5, 4, 1, 0), [1, 1, 2, 100]]


def test_a_batch_inside_a_batch(backend: neoq.Backend) -> None:
    """The callback of the inner batch is a member of the outer one."""
    noted = listen(backend)
    with backend.batch(then=Job("callback", {"outer": True})) as outer:
        with outer.batch(then=Job("callback")) as inner:
            inner.enqueue("member", {"n": 1})
        outer.enqueue("member", {"n": 2})
    backend.wait(outer.id, 10)
    assert noted == [(1, 1, 0, 0), [1], (2, 2, 0, 0), [2]]


def test_an_exception_in_the_block_cancels_the_batch(backend: neoq.Backend) -> None:
    """Neither the callback nor a member that waits runs; the exception is raised."""
    noted = listen(backend)
    backend.pause("member")
    batch = backend.batch(then=Job("callback"))
    batch.__enter__()
    batch.enqueue("member", {"n": 1})
    batch.__exit__(ZeroDivisionError, ZeroDivisionError(), None)
    assert backend.wait(batch.id, 10).status is Status.CANCELLED
    assert [one.status for one in backend.jobs("member")] == [Status.CANCELLED]
    assert noted == []


def test_a_cancelled_batch_stops_its_running_members(backend: neoq.Backend) -> None:
    """Cancelling the callback's id cancels the members that wait, and interrupts those that run."""
    running, ended = threading.Event(), threading.Event()

    def slow(_: Job) -> None:
        running.set()
        try:
            while True:
                ended.wait(0.01)
        finally:
            ended.set()

    backend.listen("slow", slow, concurrency=1)
    backend.listen("callback", lambda _: None)
    with backend.batch(then=Job("callback")) as batch:
        first, second = batch.enqueue_many([Job("slow"), Job("slow")])
    assert running.wait(10)
    assert backend.cancel(batch.id)
    assert ended.wait(10)
    statuses = [backend.wait(one.id, 10).status for one in (batch.callback, first, second)]
    assert statuses == [Status.CANCELLED] * 3
    with pytest.raises(neoq.BatchClosedError):
        batch.enqueue("slow")


def test_a_named_batch_is_opened_again(backend: neoq.Backend) -> None:
    """The same block under the same name adds what is missing, and the earlier one is refused then."""
    noted = listen(backend)
    first = backend.batch(then=Job("callback"), name="import")
    first.__enter__()
    one = first.enqueue("member", {"n": 1})
    with backend.batch(then=Job("callback"), name="import") as again:
        assert again.id == first.id
        assert again.enqueue("member", {"n": 1}).duplicate
        again.enqueue("member", {"n": 2})
        with pytest.raises(neoq.BatchClosedError):
            first.enqueue("member", {"n": 3})
    backend.wait(again.id, 10)
    assert noted == [(2, 2, 0, 0), [1, 2]]
    assert one.duplicate is False


def test_a_contradiction_is_refused(backend: neoq.Backend) -> None:
    """A batch that stops at a dead member cannot wait until that has succeeded."""
    with pytest.raises(neoq.ConfigError, match="contradict"):
        backend.batch(Job("callback"), wait_for="succeeded", stop_on_dead=True)
    with pytest.raises(neoq.InvalidJobError, match="takes the job to run"):
        backend.batch("callback")  # type: ignore[arg-type]


def test_cancelling_a_parent_cancels_its_children(backend: neoq.Backend) -> None:
    """The children of a job that is cancelled while it waits for them do not run."""
    held = threading.Event()
    backend.listen("child", lambda _: None)
    backend.pause("child")

    def parent(job: Job) -> None:
        held.set()
        job.gather("all", [Job("child"), Job("child")])

    backend.listen("parent", parent)
    job = backend.enqueue("parent")
    assert held.wait(10)
    give_up = time.monotonic() + 10
    while len(backend.jobs("child")) < 2 and time.monotonic() < give_up:
        time.sleep(0.005)
    assert backend.cancel(job.id)
    assert [one.status for one in backend.jobs("child")] == [Status.CANCELLED] * 2


def test_calls_of_tasks_are_members_children_and_followers(backend: neoq.Backend) -> None:
    """What `Task.job` makes can be added to a batch, gathered, called and enqueued by a handler."""
    sent: list[str] = []

    @backend.task(name="send")
    def send(to: str) -> str:
        sent.append(to)
        return to.upper()

    def handler(job: Job) -> str:
        found = job.call("send", send.job("a"))
        job.enqueue(send.using(key="k").job("b"))
        return str(found)

    backend.listen("parent", handler)
    noted = listen(backend)
    with backend.batch(then=Job("callback")) as batch:
        batch.enqueue(send.job("c"))
    backend.wait(batch.id, 10)
    assert noted == [(1, 1, 0, 0), ["C"]]
    assert backend.wait(backend.enqueue("parent").id, 10).result == "A"
    assert backend.drain(10)
    assert sent == ["c", "a", "b"]


def test_held_jobs_are_lost_with_the_memory_and_no_drain_waits_for_them() -> None:
    """A shutdown of memory reports what was held; a drain does not wait for it; the counts show it."""
    backend = neoq.MemBackend()
    backend.listen("wait", lambda job: job.wait_for("never"))
    backend.listen("then", lambda _: None)
    job = backend.enqueue("wait")
    batch = backend.batch(then=Job("then"))
    batch.__enter__()
    assert backend.drain(10)
    assert backend.stats().held == 2
    assert [(one.queue, one.held, one.ready) for one in backend.queues()] == [("then", 1, 0), ("wait", 1, 0)]
    report = backend.shutdown()
    assert {one.id for one in report.lost} == {job.id, batch.id}


def test_a_batch_stops_at_a_dead_member(tmp_path: Path) -> None:
    """The members that wait are cancelled long before the next heartbeat would come."""
    with neoq.SqliteBackend(str(tmp_path / "jobs.db"), heartbeat=60, lease=180, autostart=True) as backend:
        noted = listen(backend)
        backend.listen("later", lambda _: None)
        backend.pause("later")
        with backend.batch(then=Job("callback"), stop_on_dead=True) as batch:
            batch.enqueue_many(Job("later", {"n": n}) for n in range(3))
            batch.enqueue("member", {"bad": True})
        backend.wait(batch.id, 10)
    assert noted[0] == (4, 0, 1, 3)


def test_a_block_that_goes_on_after_a_stop_is_left_and_its_callback_runs(backend: neoq.Backend) -> None:
    """Where a dead member has stopped a batch an add raises BatchClosedError, and the callback runs."""
    noted = listen(backend)
    batch = backend.batch(then=Job("callback"), stop_on_dead=True)

    def add_until_refused() -> None:
        with batch:
            for _ in range(1000):
                backend.wait(batch.enqueue("member", {"bad": True}).id, 10)

    with pytest.raises(neoq.BatchClosedError):
        add_until_refused()
    backend.wait(batch.id, 10)
    assert noted[0][2] >= 1
