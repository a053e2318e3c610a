"""Steps of a job as its handler sees them: what runs again, what is read back, and what it waits for."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

import neoq
from neoq import Job, Status
from neoq.engine.interrupt import current_job, must_not_interrupt
from neoq.retry import RetryPolicy

AT_ONCE = RetryPolicy(delay=lambda _: 0.0)


@pytest.fixture
def backend() -> Iterator[neoq.Backend]:
    with neoq.MemBackend(job_check_interval=0.05) as backend:
        yield backend


def run(backend: neoq.Backend, handler: Callable[[Job], Any], **options: Any) -> Job:
    """Run one job to its end."""
    options.setdefault("retry", AT_ONCE)
    backend.listen("steps", handler, **options)
    return backend.wait(backend.enqueue("steps").id, 10)


def test_a_step_runs_once_over_failing_attempts(backend: neoq.Backend) -> None:
    """A later attempt reads back what a step returned, None included, and does not call it again."""
    calls: list[str] = []

    def handler(job: Job) -> Any:
        first = job.step("first", lambda: calls.append("first") or (1, "a"))
        second = job.step("second", calls.append, "second")
        calls.append("attempt")
        if calls.count("attempt") < 3:
            raise ValueError
        return [first, second]

    job = run(backend, handler)
    assert job.result == [[1, "a"], None]
    assert calls == ["first", "second", "attempt", "attempt", "attempt"]


def test_the_first_attempt_sees_what_later_ones_see(backend: neoq.Backend) -> None:
    """A step returns its value decoded again, in the first attempt too: a tuple as a list."""
    assert run(backend, lambda job: type(job.step("a", lambda: (1,))).__name__).result == "list"


def test_a_name_twice_in_one_attempt_is_two_steps(backend: neoq.Backend) -> None:
    """A loop may use one name: each turn has a step of its own."""
    turns: list[int] = []

    def handler(job: Job) -> Any:
        found = [job.step("turn", lambda n=n: turns.append(n) or n) for n in range(3)]
        if job.attempt == 1 and len(turns) == 3 and not job.retries:
            raise ValueError
        return found

    assert run(backend, handler).result == [0, 1, 2]
    assert turns == [0, 1, 2]


def test_a_step_that_is_not_json_fails_the_attempt(backend: neoq.Backend) -> None:
    """What a step returns has to be JSON: PayloadError names the step, and nothing is recorded."""
    job = run(backend, lambda job: job.step("odd", object), max_retries=0)
    assert job.status is Status.DEAD
    assert job.error is not None
    assert "PayloadError: the result of step 'odd' is an object" in job.error


def test_what_is_no_function_or_no_list_is_refused(backend: neoq.Backend) -> None:
    """A result in the place of a function, or a job in the place of a list, is said to be wrong."""

    def handler(job: Job) -> list[str]:
        errors = []
        for ask in (
            lambda: job.step("a", 5),
            lambda: job.gather("b", Job("q")),
            lambda: job.gather("c", None),
        ):  # type: ignore[arg-type]
            with pytest.raises(neoq.InvalidJobError) as raised:
                ask()
            errors.append(str(raised.value))
        return errors

    first, second, third = run(backend, handler).result
    assert "the step 'a' got 5; it takes a function" in first
    assert "the gather 'b' got <Job" in second
    assert "the gather 'c' got None; it takes a list" in third


def test_attempts_are_counted_since_the_last_progress(backend: neoq.Backend) -> None:
    """A recorded step begins the count of attempts anew: for the policy, `Job.attempt` and the log."""
    seen: list[tuple[int, int]] = []

    def handler(job: Job) -> None:
        seen.append((job.attempt, job.retries))
        for name in range(job.retries):
            job.step(f"step {name}", int)
        if job.retries < 5:
            raise ValueError

    job = run(backend, handler, max_retries=1)
    assert job.status is Status.SUCCEEDED
    assert [retries for _, retries in seen] == [0, 1, 2, 3, 4, 5]
    assert [attempt for attempt, _ in seen] == [1, 2, 2, 2, 2, 2]


def test_a_job_has_a_thousand_steps_at_most(backend: neoq.Backend) -> None:
    """The step beyond them makes the job dead, without another attempt."""
    job = run(backend, lambda job: [job.step(f"{n}", int) for n in range(1001)])
    assert job.status is Status.DEAD
    assert job.retries == 0
    assert "TooManySteps" in str(job.error)


def test_a_sleep_is_not_early_and_holds_no_thread(backend: neoq.Backend) -> None:
    """A job that sleeps leaves its runner to others, and goes on when its time has come."""
    order: list[str] = []
    slept = threading.Event()

    def handler(job: Job) -> float:
        if job.payload.get("other"):
            order.append("other")
            return 0.0
        began = job.step("began", backend.clock.time)
        slept.set()
        job.sleep("nap", 0.1)
        order.append("awake")
        return backend.clock.time() - began

    backend.listen("steps", handler, concurrency=1)
    sleeper = backend.enqueue("steps", {"n": 1})
    assert slept.wait(10)
    backend.enqueue("steps", {"other": True})
    assert backend.wait(sleeper.id, 10).result >= 0.1
    assert order == ["other", "awake"]


def test_a_swallowed_suspension_still_suspends(backend: neoq.Backend) -> None:
    """A handler that catches `Suspended` is suspended all the same; middleware sees it pass."""
    seen: list[type] = []
    calls: list[int] = []

    def middleware(job: Job, call_next: Any) -> Any:
        try:
            return call_next(job)
        except BaseException as error:
            seen.append(type(error))
            raise

    def handler(job: Job) -> str:
        calls.append(1)
        try:
            job.sleep("nap", 0.01)
        except BaseException:
            if len(calls) > 1:
                return "wrong"
            raise
        return "right"

    backend.use(middleware)
    job = run(backend, handler)
    assert (job.result, job.retries) == ("right", 0)
    assert seen == [neoq.Suspended]

    def swallow(job: Job) -> int:
        try:
            job.sleep("nap", 0.01)
        except neoq.Suspended:
            return 1
        return 2

    backend.listen("swallow", swallow)
    assert backend.wait(backend.enqueue("swallow").id, 10).result == 2


def test_steps_belong_to_the_handlers_thread(backend: neoq.Backend) -> None:
    """A step in another thread, or after the handler's end, raises."""
    kept: list[Job] = []

    def handler(job: Job) -> str:
        kept.append(job)
        errors: list[str] = []

        def helper() -> None:
            try:
                job.step("a", int)
            except neoq.NeoqError as error:
                errors.append(str(error))

        thread = threading.Thread(target=helper)
        thread.start()
        thread.join()
        return errors[0]

    assert "own thread" in run(backend, handler).result
    with pytest.raises(neoq.NeoqError, match="only while its handler runs"):
        kept[0].step("a", int)


def test_saved_values_survive_a_failure(backend: neoq.Backend) -> None:
    """What was saved is there in the next attempt, as it was saved last."""

    def handler(job: Job) -> Any:
        row = job.saved("row", 0)
        for n in range(row, 4):
            job.save("row", n + 1)
            if n == 1:
                raise ValueError
        return [row, job.saved("row"), job.saved("other", "none")]

    assert run(backend, handler).result == [2, 4, "none"]


def test_a_job_that_follows_comes_with_success_only(backend: neoq.Backend) -> None:
    """`Job.enqueue` adds a job when the attempt succeeds, and none when it fails."""
    got: list[int] = []

    def handler(job: Job) -> str:
        job.enqueue("after", {"retries": job.retries})
        if not job.retries:
            raise ValueError
        return "done"

    backend.listen("after", lambda job: got.append(job.payload["retries"]))
    assert run(backend, handler).result == "done"
    assert backend.drain(10)
    assert got == [1]


def test_a_gather_returns_its_children_in_order(backend: neoq.Backend) -> None:
    """Children come back in the order in which they were given: ended, with results and errors."""

    def child(job: Job) -> int:
        if job.payload["n"] == 1:
            raise neoq.Discard("no")
        return int(job.payload["n"]) * 10

    def handler(job: Job) -> Any:
        children = job.gather("all", [Job("child", {"n": n}) for n in range(3)])
        again = job.gather("none", [])
        return [[one.status, one.result, one.error] for one in children], again

    backend.listen("child", child)
    found, again = run(backend, handler).result
    assert found == [["succeeded", 0, None], ["dead", None, "Discard: no"], ["succeeded", 20, None]]
    assert again == []


def test_a_call_returns_the_result_or_raises(backend: neoq.Backend) -> None:
    """`Job.call` returns what its child returned, and raises ChildFailed for a dead one."""

    def child(job: Job) -> int:
        if job.payload["bad"]:
            raise neoq.Discard("no")
        return 7

    def handler(job: Job) -> Any:
        good = job.call("good", Job("child", {"bad": False}))
        try:
            job.call("bad", Job("child", {"bad": True}))
        except neoq.ChildFailed as failed:
            return [good, failed.job.error]

    backend.listen("child", child)
    assert run(backend, handler).result == [7, "Discard: no"]


def test_a_child_that_was_deleted_is_cancelled(backend: neoq.Backend) -> None:
    """A deleted child comes back CANCELLED, with the error "deleted"."""
    backend.listen("child", lambda _: None)
    backend.pause("child")
    backend.listen("steps", lambda job: [[one.status, one.error] for one in job.gather("a", [Job("child")])])
    parent = backend.enqueue("steps")
    with until(lambda: bool(backend.jobs("child"))):
        backend.delete(backend.jobs("child")[0].id)
    assert backend.wait(parent.id, 10).result == [["cancelled", "deleted"]]


def test_a_signal_may_come_before_or_while_a_job_waits(backend: neoq.Backend) -> None:
    """`Job.wait_for` returns the payload of the first signal of a name, and reads it again."""

    def handler(job: Job) -> Any:
        return [job.wait_for("go"), job.wait_for("go"), job.wait_for("never", timeout=0.05)]

    backend.listen("steps", handler)
    job = backend.enqueue("steps", fingerprint="one")
    assert backend.signal(("steps", "one"), "go", {"by": "ada"})
    assert not backend.signal(job.id, "go", {"by": "bob"})
    assert backend.wait(job.id, 10).result == [{"by": "ada"}, {"by": "ada"}, None]
    assert not backend.signal(job.id, "other")
    assert not backend.signal(10**9, "go")


@pytest.fixture
def file(tmp_path: Path) -> Iterator[tuple[neoq.Backend, Path]]:
    """A backend on a file that has a table of the program's, too."""
    path = tmp_path / "jobs.db"
    with neoq.SqliteBackend(str(path), heartbeat=0.05, job_check_interval=0.05) as backend:
        backend.queues()
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("create table effects (n integer)")
            connection.commit()
        yield backend, path


def test_a_step_joins_the_callers_transaction(file: tuple[neoq.Backend, Path]) -> None:
    """Effect and record are one commit; what is rolled back never was, and runs again under its name."""
    backend, path = file

    def insert(connection: sqlite3.Connection, n: int) -> int:
        connection.execute("insert into effects values (?)", (n,))
        return n

    def handler(job: Job) -> Any:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("begin immediate")
            job.step("book", insert, connection, 1, transaction=connection)
            connection.execute("rollback")
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("begin immediate")
            found = job.step("book", insert, connection, 2, transaction=connection)
            with pytest.raises(neoq.NeoqError, match="transaction of step 'book' is open; commit it first"):
                job.step("next", int)
            connection.execute("commit")
        if not job.retries:
            raise ValueError
        return found

    assert run(backend, lambda job: job.step("x", int) or once(job, handler)).result == 2
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("select n from effects").fetchall() == [(2,)]


def once(job: Job, handler: Callable[[Job], Any]) -> Any:
    """Run a handler in the first attempt, and read back in the second what it has recorded."""
    return handler(job) if not job.retries else job.step("book", lambda: "again")


def test_a_return_inside_an_open_transaction_fails(file: tuple[neoq.Backend, Path]) -> None:
    """A handler that returns before it has committed has failed: its step may never come to be."""
    backend, path = file
    left: list[sqlite3.Connection] = []

    def handler(job: Job) -> int:
        if job.retries:
            return 7
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        left.append(connection)
        connection.execute("begin immediate")
        return job.step("book", int, transaction=connection)

    backend.listen("steps", handler, retry=RetryPolicy(delay=lambda _: 0.01))
    job = backend.enqueue("steps")
    with until(lambda: bool(left)):
        pass
    time.sleep(0.05)
    left[0].execute("rollback")
    left[0].close()
    done = backend.wait(job.id, 20)
    assert (done.result, done.retries) == (7, 1)
    assert "the handler's return comes while the transaction of step 'book'" in str(done.error)


def test_one_call_after_another_in_a_file(file: tuple[neoq.Backend, Path]) -> None:
    """A second gather of a job is not stopped by the end of the attempt that asked for it."""
    backend, _ = file
    backend.listen("child", lambda job: job.payload["n"])
    found = run(backend, lambda job: [job.call("turn", Job("child", {"n": n})) for n in range(3)]).result
    assert found == [0, 1, 2]


def test_saved_values_are_written_with_the_heartbeat(file: tuple[neoq.Backend, Path]) -> None:
    """While a job runs, another process could read what it has saved: a kill loses the last seconds only."""
    backend, _ = file
    saved, go = threading.Event(), threading.Event()

    def handler(job: Job) -> None:
        job.save("row", 17)
        saved.set()
        go.wait(10)

    backend.listen("steps", handler)
    job = backend.enqueue("steps")
    assert saved.wait(10)
    with until(lambda: [step.data for step in backend.store.steps(job.id)] == [b"17"]):
        go.set()
    assert backend.wait(job.id, 10).status is Status.SUCCEEDED


def test_a_step_under_a_lost_lease_stops_the_attempt(file: tuple[neoq.Backend, Path]) -> None:
    """A step that the store refuses ends the attempt, which is given back and not charged."""
    backend, _ = file
    record, refused = backend.store.record, list[int]()

    def refuse_once(records: Any, **options: Any) -> set[int]:
        if not refused:
            refused.append(records[0][0].job_id)
            return set(refused)
        return record(records, **options)

    backend.store.__dict__["record"] = refuse_once
    after: list[str] = []

    def handler(job: Job) -> int:
        found = job.step("a", lambda: 5)
        after.append("after")
        return found

    job = run(backend, handler)
    assert (job.result, job.retries, after) == (5, 0, ["after"])
    assert refused == [job.id]


def test_a_step_can_be_interrupted(backend: neoq.Backend) -> None:
    """A timeout ends the function of a step as it ends a handler."""

    def handler(job: Job) -> None:
        job.step("long", lambda: [time.sleep(0.01) for _ in range(1000)])

    job = run(backend, handler, timeout=0.05, max_retries=0)
    assert "JobTimeout" in str(job.error)


def test_a_name_that_ends_like_a_repetition_is_its_own_step(backend: neoq.Backend) -> None:
    """A step "a#2" and the second step "a" each read back what they recorded."""

    def handler(job: Job) -> list[str]:
        names = "a#2", "a", "a"
        found = [job.step(name, str, number) for number, name in enumerate(names)]
        if not job.retries:
            raise ValueError
        return found

    assert run(backend, handler).result == ["0", "1", "2"]


def test_a_value_can_be_saved_while_a_suspension_passes(backend: neoq.Backend) -> None:
    """What a ``finally`` saves as the job is suspended is there when it goes on."""

    def handler(job: Job) -> Any:
        before = job.saved("row")
        try:
            job.sleep("nap", 0.01)
        finally:
            job.save("row", 7)
        return before

    assert run(backend, handler).result == 7


def test_a_coroutine_is_suspended_in_a_task_group(backend: neoq.Backend) -> None:
    """`Suspended` that a task group has wrapped suspends the job, and charges no attempt."""

    async def handler(job: Job) -> Any:
        async with asyncio.TaskGroup(), asyncio.TaskGroup():
            return job.call("child", Job("child"))

    backend.listen("child", lambda job: 5)
    job = run(backend, handler, max_retries=0)
    assert (job.result, job.error) == (5, None)


def test_an_abandoned_attempt_runs_no_more_steps(backend: neoq.Backend) -> None:
    """A handler that heeded no interrupt runs no effect once its attempt has ended without it."""
    ended, calls, errors = threading.Event(), list[int](), list[type[BaseException]]()

    def handler(job: Job) -> None:
        while not ended.is_set():
            try:
                ended.wait(10)
            except neoq.JobInterrupted:
                pass
        try:
            job.step("charge", calls.append, 1)
        except BaseException as error:
            errors.append(type(error))
            raise

    assert run(backend, handler, timeout=0.05, max_retries=0).status is Status.DEAD
    ended.set()
    with until(lambda: bool(errors or calls)):
        assert (calls, errors) == ([], [neoq.JobCancelled])


def test_a_job_that_follows_cannot_raise_for_a_duplicate(file: tuple[neoq.Backend, Path]) -> None:
    """Where nobody could catch the error the option is refused, rather than that the outcome is lost."""
    backend, _ = file
    backend.enqueue("others", {"n": 1})

    def enqueue(job: Job) -> None:
        job.enqueue("others", {"n": 1}, on_duplicate="raise")

    def gather(job: Job) -> None:
        job.gather("others", [Job("others", {"n": 1}, unique=True, on_duplicate="raise")])

    assert 'on_duplicate="raise" is for' in str(run(backend, enqueue, max_retries=0).error)
    backend.listen("gather", gather, max_retries=0)
    assert 'on_duplicate="raise" is for' in str(backend.wait(backend.enqueue("gather").id, 10).error)


def test_an_attempt_that_is_completed_waits_for_nothing(file: tuple[neoq.Backend, Path]) -> None:
    """After `Job.complete` a gather or a step is refused: nothing would run the handler again."""
    backend, path = file
    errors: list[str] = []

    def handler(job: Job) -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("begin immediate")
            job.complete(connection, 3)
            connection.execute("commit")
        for ask in (lambda: job.gather("g", [Job("steps")]), lambda: job.step("s", int)):
            with pytest.raises(neoq.NeoqError) as raised:
                ask()
            errors.append(str(raised.value))

    assert run(backend, handler).result == 3
    with until(lambda: len(errors) == 2):
        assert all("comes after job.complete()" in error for error in errors)


def test_no_interrupt_lands_where_a_batch_is_read(backend: neoq.Backend) -> None:
    """A running callback reads its batch and the results of its members inside neoq, as by a method."""
    inside: list[bool] = []
    store = backend.store
    group, find = store.group, store.find

    def watched(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            if threading.current_thread().name.startswith("neoq-") and current_job() is not None:
                inside.append(must_not_interrupt(threading.get_ident()))
            return method(*arguments, **keywords)

        return call

    store.__dict__.update(group=watched(group), find=watched(find))
    backend.listen("member", lambda job: 1)
    backend.listen("then", lambda job: [member.result for member in job.batch.results()])  # type: ignore[union-attr]
    with backend.batch(then=Job("then")) as batch:
        batch.enqueue("member")
    assert backend.wait(batch.id, 10).result == [1]
    assert inside == [True, True]


def test_on_error_of_a_callback_can_read_its_batch(backend: neoq.Backend) -> None:
    """What follows a failed attempt may ask for the counts, though it can record nothing any more."""
    seen: list[Any] = []

    def fail(job: Job) -> None:
        raise ValueError

    backend.listen("then", fail, max_retries=0, on_error=lambda job, error: seen.append(job.batch))
    with backend.batch(then=Job("then")) as batch:
        pass
    assert backend.wait(batch.id, 10).status is Status.DEAD
    with until(lambda: bool(seen)):
        assert seen[0].members == 0


@contextmanager
def until(holds: Callable[[], bool]) -> Iterator[None]:
    """Wait until something holds."""
    give_up = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < give_up
        time.sleep(0.005)
    yield
