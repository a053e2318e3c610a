"""Steps, gathers and signals as their users see them, over running workers."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from neoq.backend import Backend
from neoq.errors import Discard, Retry, Snooze
from neoq.held.children import ChildFailed
from neoq.job import Job
from neoq.record import Status
from neoq.retry import RetryPolicy
from neoq.testing.cases.durable import TransactionCases
from neoq.testing.cases.suite import (
    A_WHILE,
    LATER,
    PATIENCE,
    Make,
    Seen,
    Suite,
    ended,
    eventually,
    id_of,
    ignore,
    needs,
    without,
)
from neoq.testing.faults import Faults

AT_ONCE = RetryPolicy(delay=0.0)


def held(backend: Backend, job: Job) -> Job:
    """Wait until a job is held by something, and return its snapshot."""

    def look() -> Job | None:
        found = backend.get(id_of(job))
        return found if found is not None and found.held is not None else None

    found = eventually(look, f"{job} is held")
    assert found is not None
    return found


def result(backend: Backend, job: Job) -> Any:
    """Wait until a job has succeeded, and return its result."""
    done = ended(backend, job)
    assert done.status is Status.SUCCEEDED, done.error
    return done.result


class WorkflowCases(Suite):
    """Handlers that are durable in steps."""

    @needs("steps")
    def test_steps_over_failing_attempts(self, backend: Backend) -> None:
        """A step runs once over attempts that fail, and a job that was dead goes on after its steps."""
        calls: Counter[str] = Counter()

        def call(name: str) -> dict[str, list[int]] | None:
            calls[name] += 1
            return {"a": [1]} if name == "first" else None

        def handler(job: Job) -> Any:
            values = [job.step("first", call, "first")]
            calls["attempt"] += 1
            if calls["attempt"] < 3:
                raise ValueError
            values.append(job.step("second", call, "second"))
            if calls["attempt"] < 4:
                raise Discard("no")
            return values

        backend.listen("q", handler, retry=AT_ONCE)
        job = backend.enqueue("q")
        assert ended(backend, job).status is Status.DEAD
        backend.retry(id_of(job))
        eventually(lambda: calls["attempt"] == 4, "it runs again")
        assert result(backend, job) == [{"a": [1]}, None]
        assert calls == {"first": 1, "second": 1, "attempt": 4}

    @needs("steps")
    def test_steps_in_another_order(self, backend: Backend) -> None:
        """Steps are read back by their names, in another order, too; a name that is gone does no harm."""
        calls: list[str] = []

        def call(name: str) -> str:
            calls.append(name)
            return f"{name}{len(calls)}"

        def handler(job: Job) -> list[str]:
            names = (
                ["a", "gone", "b", "a"] if not job.retries and "new" not in calls else ["new", "b", "a", "a"]
            )
            values = [job.step(name, call, name) for name in names]
            if len(calls) == 4:
                raise ValueError
            return values

        backend.listen("q", handler, retry=AT_ONCE)
        assert result(backend, backend.enqueue("q")) == ["new5", "b3", "a1", "a4"]
        assert calls == ["a", "gone", "b", "a", "new"]

    @needs("steps")
    @pytest.mark.parametrize("kind", ["object", "inside", "not a number", "surrogate"])
    def test_a_step_that_is_not_json(self, backend: Backend, kind: str) -> None:
        """What a step returns has to be JSON: the error names the step and the place; nothing is recorded."""
        odd = {"inside": {"a": [{1}]}, "not a number": float("nan"), "surrogate": "\ud800"}.get(
            kind, object()
        )
        calls: list[Any] = [odd, "good"]

        def handler(job: Job) -> Any:
            assert backend.steps(id_of(job)) == []
            return job.step("odd", calls.pop, 0)

        backend.listen("q", handler, retry=AT_ONCE)
        job = backend.enqueue("q")
        assert result(backend, job) == "good"
        [error] = [attempt.error for attempt in backend.attempts(id_of(job)) if attempt.error]
        assert error.startswith("PayloadError: the result of step 'odd'"), error

    @needs("steps")
    def test_sleep_wait_and_save(self, backend: Backend) -> None:
        """A handler sleeps, waits for a signal and reads what it has saved, without losing its place."""

        def handler(job: Job) -> Any:
            began = job.step("began", backend.clock.time)
            job.save("row", job.saved("row", 0) + 1)
            job.sleep("nap", 0.05)
            slept = backend.clock.time() - began
            answer = job.wait_for("answer")
            nothing = job.wait_for("nothing", timeout=0.02)
            return [slept >= 0.05, answer, nothing, job.saved("row")]

        backend.listen("q", handler)
        job = backend.enqueue("q", fingerprint="one")
        eventually(lambda: (found := backend.get(id_of(job))) and found.held == "signal", "it waits")
        assert backend.drain(PATIENCE)  # a job that waits does not hold it up
        assert backend.signal(("q", "one"), "answer", {"by": "ada"})
        assert not backend.signal(job.id, "answer", {"by": "bob"})
        assert result(backend, job) == [True, {"by": "ada"}, None, 4]
        assert not backend.signal(job.id, "later")

    @needs("steps", "batches")
    def test_gather_and_call(self, backend: Backend) -> None:
        """A handler gets its children in order, dead ones too, and children gather, too."""

        def leaf(job: Job) -> Any:
            if job.payload["n"] == 1:
                raise Discard("no")
            return job.payload["n"] * 10

        def middle(job: Job) -> Any:
            return job.call("leaf", Job("leaf", {"n": 7}))

        def handler(job: Job) -> Any:
            jobs = [*(Job("leaf", {"n": n}) for n in range(3)), Job("middle")]
            first = [(child.status, child.result) for child in job.gather("all", jobs)]
            second = job.gather("none", [])
            try:
                job.call("bad", Job("leaf", {"n": 1}))
            except ChildFailed as failed:
                return [first, second, failed.job.error]

        for queue, function in (("leaf", leaf), ("middle", middle), ("q", handler)):
            backend.listen(queue, function)
        assert result(backend, backend.enqueue("q")) == [
            [["succeeded", 0], ["dead", None], ["succeeded", 20], ["succeeded", 70]],
            [],
            "Discard: no",
        ]

    @needs("steps", "batches")
    def test_children_that_are_duplicates(self, backend: Backend) -> None:
        """A unique child that meets another is not added, and says so; one that was deleted says that."""

        def parent(job: Job) -> Any:
            prints = {0: "there", 1: "once", 2: "once"}
            jobs = [Job("child", {"n": n}, fingerprint=prints.get(n)) for n in range(5)]
            with pytest.raises(ChildFailed, match="CANCELLED: duplicate: a job with its fingerprint"):
                job.call("one", Job("child", fingerprint="there"))
            return [(child.status, child.duplicate, child.error) for child in job.gather("all", jobs)]

        backend.listen("child", ignore)
        backend.pause("child")
        there = backend.enqueue("child", fingerprint="there")
        backend.listen("q", parent)
        job = backend.enqueue("q")
        deleted = eventually(
            lambda: [one for one in backend.jobs("child") if one.payload == {"n": 3}], "they are there"
        )
        backend.cancel(id_of(deleted[0]))
        backend.delete(id_of(deleted[0]))
        backend.resume("child")
        refused = "duplicate: a job with its fingerprint or uid was there already, so this one was not added"
        met, well = ["cancelled", True, refused], ["succeeded", False, None]
        assert result(backend, job) == [met, well, met, ["cancelled", False, "deleted"], well]
        assert ended(backend, there).status is Status.SUCCEEDED

    @needs("steps")
    def test_jobs_that_follow(self, backend: Backend, seen: Seen) -> None:
        """What a handler enqueues comes into being when its attempt succeeds, and not when it fails."""

        def handler(job: Job) -> None:
            job.enqueue("after", {"retries": job.retries})
            job.enqueue(Job("later", {"retries": job.retries}, run_after=LATER))
            if job.retries < 2:
                raise ValueError

        backend.listen("later", ignore)
        backend.listen("after", lambda job: seen(job.payload["retries"]))
        backend.listen("q", handler, retry=AT_ONCE)
        ended(backend, backend.enqueue("q"))
        assert seen.wait(1) == [2]
        [job] = backend.jobs("later")
        assert job.payload == {"retries": 2}
        seen.stays(1)

    @needs("steps")
    @pytest.mark.parametrize("end", [ValueError("no"), Retry("later", after=0), Snooze(0)], ids=repr)
    def test_jobs_of_an_attempt_that_is_repeated(self, backend: Backend, seen: Seen, end: Exception) -> None:
        """What an attempt enqueued that failed, asked for a retry or was snoozed never comes into being."""
        attempts: list[int] = []

        def handler(job: Job) -> None:
            attempts.append(1)
            job.enqueue("after", {"n": len(attempts)})
            job.enqueue(Job("q", {"n": len(attempts)}, run_after=LATER))
            if len(attempts) < 3:
                assert len(backend.jobs("after")) + len(backend.jobs("q")) == 1
                raise end

        backend.listen("after", lambda job: seen(job.payload["n"]))
        backend.listen("q", handler, retry=AT_ONCE)
        job = backend.enqueue("q")
        assert ended(backend, job).status is Status.SUCCEEDED
        assert seen.wait() == [3]
        later = eventually(
            lambda: [one for one in backend.jobs("q") if one.id != job.id], "the other follows"
        )
        assert [one.payload for one in later] == [{"n": 3}]
        seen.stays(1)

    @needs("steps")
    def test_jobs_of_an_attempt_that_is_the_last(self, backend: Backend) -> None:
        """What an attempt enqueued that leaves its job dead, or cancelled, never comes into being."""

        def handler(job: Job) -> None:
            job.enqueue("after", {"n": 1})
            if job.payload["cancel"]:
                backend.cancel(id_of(job))
                raise ValueError
            raise Discard("no")

        backend.listen("after", ignore)
        backend.listen("q", handler, retry=AT_ONCE)
        for cancel, status in ((False, Status.DEAD), (True, Status.CANCELLED)):
            assert ended(backend, backend.enqueue("q", {"cancel": cancel})).status is status
        assert backend.drain(PATIENCE)
        assert backend.jobs("after") == []

    @needs("steps", "batches")
    @pytest.mark.parametrize("how", ["cancel", "deadline"])
    def test_the_end_of_what_waits(self, backend: Backend, how: str, gate: threading.Event) -> None:
        """With a job that waits, and is cancelled or meets its deadline, its children are cancelled."""
        backend.listen("q", lambda job: job.gather("all", [Job("child", run_after=LATER), Job("late")]))
        backend.pause("late")
        backend.listen("child", ignore)
        backend.listen("late", lambda _job: gate.wait())
        job = backend.enqueue("q", deadline=2.0 if how == "deadline" else None)
        eventually(lambda: backend.jobs("child") and backend.jobs("late"), "its children are there")
        if how == "cancel":
            backend.cancel(id_of(job))
        wanted = Status.CANCELLED if how == "cancel" else Status.DEAD
        end = ended(backend, job)
        assert (end.status, "still waiting at its deadline" in (end.error or "")) == (
            wanted,
            how == "deadline",
        )
        for queue in ("child", "late"):
            eventually(
                lambda queue=queue: [child.status for child in backend.jobs(queue)] == [Status.CANCELLED],  # type: ignore[misc]
                f"the job of {queue} is cancelled",
            )

    @needs("steps", "batches", "durable")
    def test_a_workflow_over_a_restart(self, make: Make, again: Make) -> None:
        """A handler that waits when its process ends goes on in another, after the steps that it had."""
        calls: Counter[str] = Counter()

        def handler(job: Job) -> Any:
            job.step("once", lambda: calls.update(["once"]))
            job.save("row", 3)
            children = job.gather("all", [Job("child", {"n": n}) for n in range(2)])
            return [child.result for child in children] + [job.saved("row")]

        first = make()
        first.listen("q", handler)
        job = first.enqueue("q")
        held(first, job)
        first.shutdown()
        second = again(first)
        second.listen("q", handler)
        second.listen("child", lambda job: job.payload["n"])
        assert result(second, job) == [0, 1, 3]
        assert calls == {"once": 1}

    @needs("steps", "batches", "shared")
    def test_settles_whose_replies_are_lost(self, backend: Backend) -> None:
        """Children are added once, and their ends counted once, where replies of the server are lost."""
        runs: Counter[int] = Counter()

        def child(job: Job) -> int:
            runs[job.payload["n"]] += 1
            return int(job.payload["n"])

        backend.listen("child", child)
        backend.listen("q", lambda job: [one.result for one in job.gather("all", _children(3))])
        with Faults(backend).lost_reply("settle", times=3):
            assert result(backend, backend.enqueue("q")) == [0, 1, 2]
        assert len(backend.jobs("child")) == 3
        assert set(runs) == {0, 1, 2}


class SharedCommitCases(Suite):
    """Steps of many runners at once."""

    @needs("steps")
    @without("local")
    def test_steps_share_commits(self, waiting: Backend, seen: Seen) -> None:
        """The steps of many runners are recorded in fewer calls of the store than there are steps."""
        runners, steps = 4, 5
        waiting.queues()
        record, calls = waiting.store.record, list[int]()

        def count(records: Sequence[Any], **keywords: Any) -> set[int]:
            calls.append(len(records))
            if len(calls) == 1:  # the others come to wait for it
                seen.wait(runners)
                time.sleep(A_WHILE)
            return record(records, **keywords)

        def handler(job: Job) -> list[int]:
            return [job.step(f"step {n}", one, n) for n in range(steps)]

        def one(n: int) -> int:
            seen()
            return n

        waiting.store.record = count  # type: ignore[method-assign]
        waiting.listen("q", handler, concurrency=runners)
        jobs = waiting.enqueue_many(Job("q", {"n": n}) for n in range(runners))
        waiting.start()
        assert [result(waiting, job) for job in jobs] == [list(range(steps))] * runners
        assert len(seen.items) == runners * steps
        assert len(calls) < len(seen.items), calls


class LineWorkerCases(Suite):
    """Ordered queues and bounds over running workers."""

    @needs("limits")
    def test_an_ordered_queue_over_workers(self, backend: Backend, seen: Seen) -> None:
        """Of one key one job runs after another, in the order of enqueue, over failing attempts, too."""

        def handler(job: Job) -> None:
            seen((job.key, "start", job.payload["n"]))
            if job.payload["n"] == 1 and not job.retries:
                raise ValueError
            seen((job.key, "end", job.payload["n"]))

        backend.listen("q", handler, ordered=True, concurrency=4, retry=AT_ONCE)
        backend.enqueue_many(Job("q", {"n": n}, key=key, unique=False) for n in range(3) for key in "ab")
        events = seen.wait(14)
        for key in "ab":
            mine = [event[1:] for event in events if event[0] == key]
            assert mine == [
                ("start", 0),
                ("end", 0),
                ("start", 1),
                ("start", 1),
                ("end", 1),
                ("start", 2),
                ("end", 2),
            ]

    @needs("rates")
    def test_so_many_of_a_queue_over_workers(
        self, backend: Backend, seen: Seen, gate: threading.Event
    ) -> None:
        """With max_running so many jobs of a queue run at once, however many threads there are."""

        def handler(_job: Job) -> None:
            seen()
            gate.wait()

        backend.listen("q", handler, max_running=2, concurrency=4)
        backend.enqueue_many(Job("q", {"n": n}) for n in range(4))
        seen.wait(2)
        seen.stays(2)
        gate.set()
        seen.wait(4)


class WorkflowTransactionCases(TransactionCases):
    """Steps in a transaction of the handler's own."""

    @needs("transactions", "steps")
    def test_a_step_in_a_transaction(self, backend: Backend) -> None:
        """A step that was rolled back runs again; one whose transaction is open holds up the next."""
        calls: list[int] = []

        def book() -> int:
            calls.append(1)
            return len(calls)

        def handler(job: Job) -> Any:
            connection = self.connection(backend)
            try:
                value = job.step("book", book, transaction=connection)
                if len(calls) == 1:
                    raise ValueError
                with pytest.raises(Exception, match="commit it"):
                    job.step("next", int)
                connection.commit()
                return [value, job.step("next", int), job.step("again", int)]
            finally:
                connection.close()

        backend.listen("q", handler, retry=AT_ONCE)
        assert result(backend, backend.enqueue("q")) == [2, 0, 0]
        assert calls == [1, 1]


def _children(count: int) -> list[Job]:
    return [Job("child", {"n": n}) for n in range(count)]
