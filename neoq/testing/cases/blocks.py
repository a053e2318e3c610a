"""Batches as their users see them: blocks that add members, over running workers."""

from __future__ import annotations

import threading
from itertools import pairwise
from typing import Any

import pytest

from neoq.backend import Backend
from neoq.errors import Discard
from neoq.held.group import Batch
from neoq.job import Job
from neoq.record import Status
from neoq.testing.cases.durable import TransactionCases
from neoq.testing.cases.suite import (
    LATER,
    PATIENCE,
    Background,
    Seen,
    Suite,
    ended,
    eventually,
    id_of,
    ignore,
    needs,
    reached,
)
from neoq.testing.cases.workflows import AT_ONCE, held
from neoq.testing.faults import Faults


class BatchBlockCases(Suite):
    """backend.batch."""

    @needs("batches")
    def test_a_batch_and_its_callback(self, backend: Backend) -> None:
        """The callback of a batch runs after its members, and sees how they ended, and their results."""

        def member(job: Job) -> int:
            if job.payload["n"] == 2:
                raise Discard("no")
            return int(job.payload["n"])

        def callback(job: Job) -> Any:
            assert job.batch is not None
            results = [(member.payload["n"], member.result) for member in job.batch.results()]
            return [job.batch.members, job.batch.succeeded, job.batch.dead, sorted(results)]

        backend.listen("q", member)
        backend.listen("then", callback)
        with backend.batch(then=Job("then")) as batch:
            batch.enqueue("q", {"n": 0})
            batch.enqueue_many(Job("q", {"n": n}) for n in (1, 2))
            eventually(lambda: _members(backend, batch.id).ended == 3, "members run in the block")
            found = backend.get(batch.id)
            assert found is not None
            assert (found.status, found.held) == (Status.PENDING, "batch")
        assert backend.wait(batch.id, PATIENCE).result == [3, 2, 1, [[0, 0], [1, 1], [2, None]]]
        assert not _members(backend, batch.id).open

    @needs("batches")
    def test_progress_of_a_batch(self, backend: Backend, gate: threading.Event) -> None:
        """While members run, never more have ended than there are; no count goes back; all end in the end."""

        def member(job: Job) -> None:
            if job.payload["n"] == 0:
                gate.wait()
            if job.payload["n"] % 5 == 1 and not job.retries:
                raise ValueError
            if job.payload["n"] % 5 == 2:
                raise Discard("no")

        for queue in "pq":
            backend.listen(queue, member, concurrency=2, retry=AT_ONCE)
        backend.listen("then", ignore)
        seen: list[Batch] = []
        over = threading.Event()
        with backend.batch(then=Job("then")) as batch:
            watcher = Background(lambda: _watch(backend, batch.id, seen, over))
            for n in range(0, 12, 4):
                batch.enqueue_many(Job(queue, {"n": n + k}) for k in range(4) for queue in "pq")
        eventually(lambda: any(0 < one.ended < one.members for one in seen), "some of them have ended")
        gate.set()
        backend.wait(batch.id, PATIENCE)
        over.set()
        watcher.result()
        assert all(one.ended <= one.members <= 24 for one in seen), seen
        for before, after in pairwise(seen):
            assert all(a <= b for a, b in zip(_counts(before), _counts(after), strict=True)), (before, after)
        assert seen[-1] == Batch(24, succeeded=20, dead=4, open=False)

    @needs("batches")
    def test_an_empty_batch(self, backend: Backend) -> None:
        """The callback of a batch without members runs at once."""
        backend.listen("then", lambda job: job.batch.members if job.batch else None)
        with backend.batch(then=Job("then")) as batch:
            pass
        assert backend.wait(batch.id, PATIENCE).result == 0

    @needs("batches")
    def test_a_block_that_raises(self, backend: Backend) -> None:
        """A batch whose block is left by an exception is cancelled, with all that has not run."""
        backend.listen("q", ignore)
        backend.listen("then", ignore)
        backend.pause("q")
        batch = backend.batch(then=Job("then"))
        with pytest.raises(ZeroDivisionError), batch:
            batch.enqueue("q", {"n": 1 // len(batch.enqueue("q").payload)})
        assert ended(backend, batch.callback).status is Status.CANCELLED
        eventually(lambda: [job.status for job in backend.jobs("q")] == [Status.CANCELLED], "it is cancelled")

    @needs("batches")
    def test_a_named_block_again(self, backend: Backend, seen: Seen) -> None:
        """A named block that was not finished is run again: it adds what is missing, and ends the batch."""
        backend.listen("q", lambda job: seen(job.payload["n"]))
        backend.listen("then", lambda job: job.batch.members if job.batch else None)
        first = backend.batch(then=Job("then"), name="import")
        first.__enter__()
        first.enqueue_many(Job("q", {"n": n}) for n in range(2))
        seen.wait(2)
        with backend.batch(then=Job("then"), name="import") as second:
            added = second.enqueue_many(Job("q", {"n": n}) for n in range(3))
        assert second.id == first.id
        assert [job.duplicate for job in added] == [True, True, False]
        assert backend.wait(second.id, PATIENCE).result == 3
        assert sorted(seen.items) == [0, 1, 2]

    @needs("batches", "steps")
    def test_a_member_that_adds_members(self, backend: Backend) -> None:
        """Members that a member adds are waited for, if it succeeds; nested batches are, too."""

        def member(job: Job) -> None:
            if job.payload["n"]:
                job.enqueue("q", {"n": job.payload["n"] - 1}, batch=True)
                if not job.retries:
                    raise ValueError

        backend.listen("q", member, retry=AT_ONCE)
        backend.listen("inner", ignore)
        backend.listen("then", lambda job: job.batch.succeeded if job.batch else None)
        with backend.batch(then=Job("then")) as batch:
            batch.enqueue("q", {"n": 2})
            with batch.batch(then=Job("inner")) as inner:
                inner.enqueue("q", {"n": 0})
        assert backend.wait(batch.id, PATIENCE).result == 4

    @needs("batches")
    @pytest.mark.parametrize("how", ["succeeded", "stop"])
    def test_dead_members(self, backend: Backend, how: str) -> None:
        """wait_for="succeeded" holds the callback until the dead are retried well; stop_on_dead cancels."""
        good = threading.Event()

        def member(_job: Job) -> None:
            if not good.is_set():
                raise Discard("no")

        backend.listen("q", member)
        backend.listen("then", lambda job: [job.batch.dead, job.batch.cancelled] if job.batch else None)
        options: dict[str, Any] = {"wait_for": "succeeded"} if how == "succeeded" else {"stop_on_dead": True}
        with backend.batch(then=Job("then"), **options) as batch:
            batch.enqueue("q", {"n": 1}, run_after=LATER)
            dead = batch.enqueue("q", {"n": 0})
            reached(backend, dead, Status.DEAD)
        if how == "stop":
            assert backend.wait(batch.id, PATIENCE).result == [1, 1]
            return
        backend.delete(next(job.id for job in backend.jobs("q") if job.status is Status.PENDING))
        assert held(backend, batch.callback).status is Status.PENDING
        good.set()
        backend.retry(id_of(dead))
        assert backend.wait(batch.id, PATIENCE).result == [0, 1]

    @needs("batches", "shared")
    def test_replies_that_are_lost(self, backend: Backend) -> None:
        """A batch counts its members once where replies of the server are lost."""
        backend.listen("q", ignore)
        backend.listen("then", lambda job: [job.batch.members, job.batch.ended] if job.batch else None)
        with Faults(backend).lost_reply("settle", times=2):
            with backend.batch(then=Job("then")) as batch:
                batch.enqueue_many(Job("q", {"n": n}) for n in range(3))
            assert backend.wait(batch.id, PATIENCE).result == [3, 3]


class BatchTransactionCases(TransactionCases):
    """Batches in a transaction of the caller's own."""

    @needs("transactions", "batches")
    def test_a_block_in_a_transaction(self, backend: Backend, seen: Seen) -> None:
        """A batch in a transaction never was after a rollback, and begins with the commit."""
        backend.listen("q", lambda job: seen(job.payload["n"]))
        backend.listen("then", lambda job: job.batch.succeeded if job.batch else None)
        for end in ("rollback", "commit"):
            connection = self.connection(backend)
            with backend.batch(then=Job("then"), transaction=connection) as batch:
                batch.enqueue_many(Job("q", {"n": n}) for n in range(2))
            seen.stays(0)
            getattr(connection, end)()
            connection.close()
            if end == "rollback":
                assert backend.get(batch.id) is None
        assert backend.wait(batch.id, PATIENCE).result == 2


def _watch(backend: Backend, batch_id: int, seen: list[Batch], over: threading.Event) -> None:
    """Read the counts of a batch again and again, and once more when all is over."""
    while not over.is_set():
        seen.append(_members(backend, batch_id))
    seen.append(_members(backend, batch_id))


def _counts(batch: Batch) -> tuple[int, ...]:
    """What of a batch only grows."""
    return batch.members, batch.succeeded, batch.dead, batch.cancelled, not batch.open


def _members(backend: Backend, batch_id: int) -> Batch:
    found = backend.get(batch_id)
    assert found is not None
    assert isinstance(found.batch, Batch)
    return found.batch
