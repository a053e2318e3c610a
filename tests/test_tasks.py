"""Tasks: functions whose calls are jobs."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import neoq
from neoq import testing
from neoq.store import QueueCounts
from neoq.testing.cases.suite import eventually

NOW = datetime(2030, 1, 2, 3, tzinfo=UTC)


@pytest.fixture
def tasks() -> neoq.Tasks:
    return neoq.Tasks()


@pytest.fixture
def backend(tasks: neoq.Tasks) -> Iterator[neoq.MemBackend]:
    backend = neoq.MemBackend(shutdown_timeout=5)
    backend.include(tasks)
    yield backend
    backend.shutdown(0)


def greet(name: str, greeting: str = "hi", *, at: datetime | None = None) -> str:
    return f"{greeting} {name} {at}"


class TestCalls:
    """What a call becomes."""

    def test_a_call_is_an_ordinary_call(self, tasks: neoq.Tasks) -> None:
        """A task that is called runs at once, with no backend at all."""
        task = tasks.task(greet)
        assert task("ada", greeting="hello") == "hello ada None"
        assert (task.__name__, task.__doc__, task.kind) == ("greet", None, f"{__name__}.greet")

    def test_enqueue_stores_what_was_given_by_name(self, tasks: neoq.Tasks, backend: neoq.Backend) -> None:
        """The payload is the arguments by name, defaults left out, each written by its annotation."""
        task = tasks.task(greet)
        with testing.enqueued(backend) as jobs:
            task.enqueue("ada", at=NOW)
        assert [(job.queue, job.kind, job.unique) for job in jobs] == [("default", task.kind, False)]
        assert jobs[0].payload == {"name": "ada", "at": NOW.isoformat()}

    def test_get_returns_the_result(self, tasks: neoq.Tasks, backend: neoq.Backend) -> None:
        """get() waits for the end, and reads the result as the return annotation says."""

        @tasks.task(name="later")
        def later(day: date, days: int) -> date:
            return day + timedelta(days=days)

        assert later.enqueue(date(2030, 1, 1), days=3).get(timeout=5) == date(2030, 1, 4)

    def test_get_raises_for_a_job_that_failed(self, tasks: neoq.Tasks, backend: neoq.Backend) -> None:
        """JobFailed has the job, its error and its traceback."""

        @tasks.task(name="fail", max_retries=0)
        def fail() -> None:
            raise ValueError("no such user")

        with pytest.raises(neoq.JobFailed, match="DEAD: ValueError: no such user") as caught:
            fail.enqueue().get(5)
        assert caught.value.job.status is neoq.Status.DEAD
        assert caught.value.error == "ValueError: no such user"
        assert "raise ValueError" in (caught.value.traceback or "")

    def test_get_times_out(self, tasks: neoq.Tasks, backend: neoq.Backend) -> None:
        """TimeoutError where the job has not ended in time."""
        task = tasks.task(greet)
        with pytest.raises(TimeoutError):
            task.using(run_after=60).enqueue("ada").get(0.01)

    def test_get_of_a_cancelled_job(self, tasks: neoq.Tasks, backend: neoq.Backend) -> None:
        """A cancelled job has no result either."""
        job = tasks.task(greet).using(run_after=60).enqueue("ada")
        backend.cancel(job.id)
        with pytest.raises(neoq.JobFailed, match="CANCELLED"):
            job.get(5)

    @pytest.mark.parametrize(
        ("args", "kwargs", "message"),
        [
            ((), {}, "missing a required argument: 'name'"),
            (("a", "b", "c"), {}, "too many positional arguments"),
            (("a",), {"name": "b"}, "multiple values for argument 'name'"),
            (("a",), {"nme": "b"}, "unexpected keyword argument 'nme'"),
        ],
    )
    def test_a_wrong_call_is_a_type_error(
        self, tasks: neoq.Tasks, backend: neoq.Backend, args: Any, kwargs: Any, message: str
    ) -> None:
        """A call that the function would refuse is refused at enqueue, with its signature."""
        task: Any = tasks.task(greet)
        with pytest.raises(TypeError, match=message) as caught:
            task.enqueue(*args, **kwargs)
        assert "greet(name: str" in str(caught.value)
        assert backend.jobs() == []

    def test_a_value_that_does_not_fit_is_refused(self, tasks: neoq.Tasks, backend: neoq.Backend) -> None:
        """Nothing is coerced: PayloadError names the parameter."""
        task: Any = tasks.task(greet)
        with pytest.raises(neoq.PayloadError, match=r"greet: at is a str, not datetime") as caught:
            task.enqueue("ada", at="2030-01-01")
        assert caught.value.path == "at"

    def test_what_has_no_annotation_is_json(self, tasks: neoq.Tasks, backend: neoq.Backend) -> None:
        """A parameter without annotation takes JSON, and a PayloadError says what else there was."""

        @tasks.task(name="loose")
        def loose(value):  # type: ignore[no-untyped-def]
            return value

        assert loose.enqueue({"a": [1, None]}).get(5) == {"a": [1, None]}
        with pytest.raises(neoq.PayloadError, match="value is a datetime, which is not JSON"):
            loose.enqueue(NOW)

    def test_keyword_arguments_merge(self, tasks: neoq.Tasks, backend: neoq.Backend) -> None:
        """**kwargs are part of the payload, each by the annotation of all of them."""

        @tasks.task(name="many")
        def many(first: int, **days: date) -> list[str]:
            return [f"{name} {day}" for name, day in days.items()]

        job = many.enqueue(1, a=date(2030, 1, 1), days=date(2030, 1, 2))
        assert job.get(5) == ["a 2030-01-01", "days 2030-01-02"]
        assert job.payload == {"first": 1, "a": "2030-01-01", "days": "2030-01-02"}
        with pytest.raises(neoq.PayloadError, match="a is an int, not date"):
            many.enqueue(1, a=5)  # type: ignore[arg-type]

    def test_the_running_job_is_given(self, tasks: neoq.Tasks, backend: neoq.Backend) -> None:
        """A parameter annotated neoq.Job is the running job, and no part of the payload."""

        @tasks.task(name="self")
        def own(job: neoq.Job, n: int) -> list[int]:
            assert neoq.current_job() is job
            return [job.id, n]

        job = own.enqueue(5)
        assert job.payload == {"n": 5}
        assert job.get(5) == [job.id, 5]
        with pytest.raises(TypeError, match="unexpected keyword argument 'job'"):
            own.enqueue(5, job=job)  # type: ignore[call-arg]

    def test_a_direct_call_is_given_a_job(self, tasks: neoq.Tasks) -> None:
        """A task that takes its job can be called: it gets one that is not stored, or the caller's."""

        @tasks.task(name="self")
        def own(job: neoq.Job, n: int) -> Any:
            return job.payload, n

        assert own(5) == ({"n": 5}, 5)
        mine: Any = neoq.Job("q", {"mine": 1})
        assert own(mine, 6) == ({"mine": 1}, 6)  # type: ignore[call-arg]

    def test_options_of_one_call(self, tasks: neoq.Tasks, backend: neoq.Backend) -> None:
        """using() gives a call the options of a job."""
        task = tasks.task(greet)
        with testing.enqueued(backend) as jobs:
            task.using(run_after=60, priority=5, max_retries=2, key="k", meta={"a": "b"}).enqueue("ada")
            task.using(fingerprint="f", unique=True).enqueue("ada")
            assert task.using(fingerprint="f", unique=True).enqueue("bob").duplicate
        first, second = jobs
        assert (first.priority, first.max_retries, first.key, first.meta) == (5, 2, "k", {"a": "b"})
        assert second.fingerprint == "f"

    def test_a_job_for_a_batch(self, tasks: neoq.Tasks, backend: neoq.Backend) -> None:
        """job() is a neoq.Job that is not stored; enqueue_many of the backend takes it."""
        task = tasks.task(greet)
        jobs = backend.enqueue_many([task.job("ada"), task.using(priority=1).job("bob")])
        assert [backend.wait(job.id, 5).result for job in jobs] == ["hi ada None", "hi bob None"]

    def test_many_calls(self, tasks: neoq.Tasks, backend: neoq.Backend) -> None:
        """enqueue_many takes tuples and dicts; one that is wrong is refused with all others."""
        task = tasks.task(greet)
        jobs = task.enqueue_many([("ada",), {"name": "bob", "greeting": "hello"}])
        assert [job.get(5) for job in jobs] == ["hi ada None", "hello bob None"]
        with pytest.raises(TypeError, match=r"missing a required argument"):
            task.enqueue_many([("ada",), {}])
        with pytest.raises(neoq.InvalidJobError, match=r"call 0 of .* is a str"):
            task.enqueue_many(["ada"])  # type: ignore[list-item]
        assert len(backend.jobs()) == 2

    def test_a_job_of_a_task_can_be_pickled(self, tasks: neoq.Tasks, backend: neoq.Backend) -> None:
        """A copy in another process is a snapshot; it says why it has no get()."""
        copied = pickle.loads(pickle.dumps(tasks.task(greet).enqueue("ada")))
        assert copied.payload == {"name": "ada"}
        with pytest.raises(neoq.NeoqError, match=r"backend\.wait"):
            copied.get()


class TestResultsThatDoNotFit:
    """What get() says of a result that the task's return annotation does not allow."""

    def test_a_result_of_another_type_is_named(self, tasks: neoq.Tasks, backend: neoq.Backend) -> None:
        """A result that does not fit the annotation raises a PayloadError that names the job and its task."""

        @tasks.task(name="count")
        def count() -> int:
            return "three"  # type: ignore[return-value]

        job = count.enqueue()
        with pytest.raises(
            neoq.PayloadError,
            match=rf"^job {job.id} of 'default' \(count\) succeeded, but the result is a str, not int",
        ):
            job.get(timeout=10)

    def test_a_result_that_was_not_stored_is_no_none(self, tasks: neoq.Tasks) -> None:
        """get() of a result that could not be stored raises a PayloadError instead of returning None."""

        @tasks.task(name="text")
        def text(length: int) -> str:
            return "x" * length

        @tasks.task(name="maybe")
        def maybe() -> str | None:
            return None

        with neoq.MemBackend(max_payload=1000) as small:
            small.include(tasks)
            with pytest.raises(
                neoq.PayloadError, match="could not be stored is null, and its worker has logged"
            ):
                text.enqueue(2000).get(timeout=10)
            assert maybe.enqueue().get(timeout=10) is None


class TestUnique:
    """How long equal calls are one job."""

    def test_calls_are_not_unique_unless_asked(self, tasks: neoq.Tasks, backend: neoq.Backend) -> None:
        """Each call counts; with unique=True equal ones are one while it is unfinished."""
        backend.pause("default")
        every = tasks.task(greet)
        assert not every.enqueue("ada").duplicate
        assert not every.enqueue("ada").duplicate
        one = tasks.task(name="one", unique=True)(greet)
        first = one.enqueue("ada")
        assert one.enqueue("ada").id == first.id

    def test_defaults_are_part_of_the_fingerprint(self, tasks: neoq.Tasks, backend: neoq.Backend) -> None:
        """A call that spells a default out equals one that does not; another task's does not."""
        backend.pause("default")
        one = tasks.task(name="one", unique=True)(greet)
        other = tasks.task(name="other", unique=True)(greet)
        first = one.enqueue("ada")
        assert one.enqueue("ada", "hi", at=None).duplicate
        assert one.enqueue(name="ada").duplicate
        assert not one.enqueue("ada", "hello").duplicate
        assert not other.enqueue("ada").duplicate
        assert first.payload == {"name": "ada"}

    def test_jobs_of_other_kinds_are_no_duplicates(self, backend: neoq.Backend) -> None:
        """Of jobs that are made by hand the kind is part of the fingerprint, too."""
        backend.listen("plain", lambda job: None)
        backend.pause("plain")
        jobs = [backend.enqueue("plain", {"n": 1}, kind=kind) for kind in ("a", "b", "a", None)]
        assert [job.duplicate for job in jobs] == [False, False, True, False]


class TestKinds:
    """Which task runs what."""

    def test_a_job_made_elsewhere_runs(self, tasks: neoq.Tasks, backend: neoq.Backend) -> None:
        """A program that does not import the task enqueues by kind; unique is the task's default."""
        task = tasks.task(greet)
        job = backend.enqueue("default", {"name": "ada"}, kind=task.kind)
        assert backend.wait(job.id, 5).result == "hi ada None"
        assert job.unique is False

    def test_an_alias_runs_old_jobs(self, tasks: neoq.Tasks, backend: neoq.Backend) -> None:
        """A task that was renamed keeps the jobs of its old name."""
        tasks.task(name="new", aliases=("old.name",))(greet)
        job = backend.enqueue("default", {"name": "ada"}, kind="old.name")
        assert backend.wait(job.id, 5).result == "hi ada None"

    def test_an_unknown_kind_waits_and_is_logged_once(
        self,
        tasks: neoq.Tasks,
        backend: neoq.Backend,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Jobs of unknown kinds wait, others pass them, and each kind is named once."""
        monkeypatch.setattr("neoq.engine.unknown.LOOK_EVERY", 0.01)
        task = tasks.task(greet)
        for n in range(3):
            backend.enqueue("default", {"n": n}, kind="gone.task")
        backend.enqueue("default", {"n": 3})
        assert task.enqueue("ada").get(5) == "hi ada None"
        assert backend.drain(5)

        def told() -> list[str]:
            return [message for message in caplog.messages if "no live worker knows it" in message]

        eventually(lambda: len(told()) == 2, "both are named")
        task.enqueue("bob").get(5)
        assert {message.split(" wait")[0].split(" ", 1)[1] for message in told()} == {
            "jobs of kind '(none)'",
            "jobs of kind 'gone.task'",
        }
        assert [queue.unknown for queue in backend.queues()] == [{"gone.task": 3, "(none)": 1}]

    def test_a_task_that_comes_later_runs_what_waited(self, tasks: neoq.Tasks, backend: neoq.Backend) -> None:
        """Jobs that were set aside run once a task of their kind is there."""
        tasks.task(greet)
        waiting = [backend.enqueue("default", {"name": str(n)}, kind="late") for n in range(3)]
        assert backend.drain(5)
        tasks.task(name="late")(greet)
        assert [backend.wait(job.id, 5).result for job in waiting] == [f"hi {n} None" for n in range(3)]

    def test_one_name_one_task(self, tasks: neoq.Tasks, backend: neoq.Backend) -> None:
        """A second task of a name, or of an alias, is refused."""
        tasks.task(name="one", aliases=("two",))(greet)
        for name in ("one", "two"):
            with pytest.raises(neoq.NeoqError, match="there is a task"):
                tasks.task(name=name)(greet)
        assert len(tasks) == 1

    def test_a_queue_holds_tasks_or_a_handler(self, tasks: neoq.Tasks, backend: neoq.Backend) -> None:
        """Both on one queue is an error, whichever comes first."""
        tasks.task(greet)
        with pytest.raises(neoq.ListenerExistsError, match="holds tasks"):
            backend.listen("default", lambda job: None)
        backend.listen("plain", lambda job: None)
        with pytest.raises(neoq.ListenerExistsError, match="has a plain handler"):
            tasks.task(name="x", queue="plain")(greet)

    def test_a_plain_handler_runs_jobs_of_any_kind(self, backend: neoq.Backend) -> None:
        """Kinds mean nothing where a plain handler listens."""
        backend.listen("plain", lambda job: job.kind)
        assert backend.wait(backend.enqueue("plain", kind="k").id, 5).result == "k"

    def test_only_collections_are_included(self, backend: neoq.Backend) -> None:
        """A module, or a single task, given to include() is refused with what include() takes."""
        with pytest.raises(
            neoq.InvalidJobError, match=r"include\(\) got <module 'neoq'.* made by neoq.Tasks\(\)"
        ):
            backend.include(neoq)  # type: ignore[arg-type]

    @pytest.mark.parametrize("flaw", ["timeout", "cron", "plain", "taken", "twice", "foreign", "no tasks"])
    def test_collections_are_included_all_or_none(self, backend: neoq.Backend, flaw: str) -> None:
        """An include() that is refused leaves nothing behind, whatever came first, and may be repeated."""
        good, bad, more = neoq.Tasks("good"), neoq.Tasks("bad"), neoq.Tasks("bad")
        first = good.task(name="first", cron="@every 1h")(lambda: 1)
        bad.task(name="second")(lambda: 2)
        backend.listen("plain", lambda job: None)
        backend.task(name="taken")(lambda: None)
        before = set(backend.engine.listeners), list(backend.engine.crons)
        other = neoq.MemBackend()
        if flaw == "foreign":
            other.include(more)
        else:
            options: dict[str, Any] = {
                "timeout": {"timeout": -1},
                "cron": {"cron": "never"},
                "plain": {"queue": "plain"},
                "taken": {"aliases": ("taken",)},
                "twice": {"name": "first"},
            }.get(flaw, {})
            more.task(**{"name": "third", **options})(lambda: 3)
        given: Any = (good, bad, more, neoq) if flaw == "no tasks" else (good, bad, more)
        with pytest.raises(neoq.NeoqError):
            backend.include(*given)
        assert (set(backend.engine.listeners), backend.engine.crons) == before
        with pytest.raises(neoq.NeoqError, match=r"backend\.include\(tasks\)"):
            first.enqueue()
        backend.include(good, bad, good)
        assert first.enqueue().get(5) == 1
        other.shutdown()

    def test_tasks_wait_for_a_store_that_is_away(self, tmp_path: Path) -> None:
        """An include() that has to open its store, and cannot, leaves nothing behind."""
        path = tmp_path / "missing" / "jobs.db"
        tasks = neoq.Tasks()
        task = tasks.task(name="one")(lambda: 1)
        backend = neoq.connect(f"sqlite:///{path}", autostart=True)
        with pytest.raises(neoq.BackendError):
            backend.include(tasks)
        path.parent.mkdir()
        backend.include(tasks)
        assert task.enqueue().get(10) == 1
        backend.shutdown()

    def test_a_collection_holds_a_name_once(self) -> None:
        """A second task of a name is refused before its collection has a backend, and the first one stays."""
        tasks = neoq.Tasks()
        first = tasks.task(name="mail")(lambda: 1)
        with pytest.raises(neoq.ListenerExistsError, match="there is a task 'mail' already"):
            tasks.task(name="mail")(lambda: 2)
        assert list(tasks) == [first]


class TestChangedTasks:
    """Jobs that were stored before a task was changed."""

    def test_arguments_that_no_longer_fit_end_dead(self, tasks: neoq.Tasks, backend: neoq.Backend) -> None:
        """The job is DEAD at once, and its error shows what is stored and what the task takes."""
        task = tasks.task(max_retries=5)(greet)
        job = backend.enqueue("default", {"nme": "ada", "age": 5}, kind=task.kind)
        ended = backend.wait(job.id, 5)
        assert ended.status is neoq.Status.DEAD
        assert "ArgumentsError: the stored arguments do not fit the task greet: name is missing" in str(
            ended.error
        )
        assert "Stored is (age: number, nme: string), and the task takes (name: str, greeting" in str(
            ended.error
        )

    def test_values_that_no_longer_fit_end_dead(self, tasks: neoq.Tasks, backend: neoq.Backend) -> None:
        """The same where a value is not of the annotated type."""
        task = tasks.task(greet)
        job = backend.enqueue("default", {"name": "ada", "at": "soon"}, kind=task.kind)
        assert "at is 'soon', which is no datetime" in str(backend.wait(job.id, 5).error)

    def test_a_result_that_is_not_json(
        self, tasks: neoq.Tasks, backend: neoq.Backend, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The job has succeeded, its result is None, and a warning says what it was."""

        @tasks.task(name="odd")
        def odd() -> object:
            return threading.Lock()

        assert odd.enqueue().get(5) is None
        assert "its result is stored as null" in caplog.text


class TestDecoration:
    """What cannot be a task, and options."""

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: lambda *values: None, r"takes \*values; the arguments of a job have names"),
            (lambda: eval("lambda value, /: None"), "positional-only"),
            (lambda: lambda self, value: None, "it is a method"),
            (lambda: generator, "is a generator function"),
            (lambda: async_generator, "is a generator function"),
            (lambda: odd_annotation, "the parameter lock of odd_annotation is annotated Event"),
        ],
    )
    def test_functions_that_cannot_be_tasks(
        self, tasks: neoq.Tasks, make: Callable[[], Any], message: str
    ) -> None:
        """A function whose calls cannot travel is refused where it is decorated."""
        with pytest.raises(neoq.InvalidJobError, match=message):
            tasks.task(name="x")(make())

    def test_a_function_inside_a_function_needs_a_name(self, tasks: neoq.Tasks) -> None:
        """Its qualname means nothing to another process."""
        with pytest.raises(neoq.InvalidJobError, match="without a name"):
            tasks.task(lambda: None)

    def test_options_are_checked(self, tasks: neoq.Tasks) -> None:
        """What a task does not know is refused, with what belongs to a queue."""
        with pytest.raises(TypeError, match=r"task\(\) does not know concurrency"):
            tasks.task(concurrency=4)  # type: ignore[call-overload]
        with pytest.raises(neoq.InvalidJobError, match="a queue is given as queue="):
            tasks.task("emails")  # type: ignore[call-overload]
        with pytest.raises(neoq.InvalidJobError, match="belongs to cron="):
            tasks.task(name="x", kwargs={})(greet)
        with pytest.raises(neoq.InvalidJobError, match="aliases"):
            tasks.task(name="x", aliases="old")(greet)

    def test_options_of_a_task(self, tasks: neoq.Tasks, backend: neoq.Backend) -> None:
        """retries, timeout and on_error are the task's, and other tasks of its queue keep their own."""
        told: list[Any] = []

        @tasks.task(
            name="flaky", max_retries=1, retry=neoq.RetryPolicy(delay=0), on_error=lambda *a: told.append(a)
        )
        def flaky(job: neoq.Job) -> int:
            if job.attempt == 1:
                raise ValueError
            return job.attempt

        @tasks.task(name="slow", timeout=0.05, max_retries=0)
        def slow() -> None:
            while True:
                time.sleep(0.001)

        assert flaky.enqueue().get(5) == 2
        assert len(told) == 1
        with pytest.raises(neoq.JobFailed, match=r"ran longer than the task's timeout of 0\.05 s"):
            slow.enqueue().get(5)

    def test_a_task_has_one_backend(self, tasks: neoq.Tasks, backend: neoq.Backend) -> None:
        """Another backend is refused until the first is shut down; without one enqueue says what to do."""
        task = tasks.task(greet)
        with neoq.MemBackend() as other:
            with pytest.raises(neoq.NeoqError, match="belongs to another backend"):
                other.include(tasks)
            backend.shutdown()
            other.include(tasks)
            assert task.enqueue("ada").get(5) == "hi ada None"
        with pytest.raises(neoq.NeoqError, match=r"backend\.include\(tasks\)"):
            neoq.Tasks().task(greet).enqueue("ada")

    def test_a_task_of_a_backend_in_one_step(self) -> None:
        """backend.task makes a task of the backend's own, with and without parentheses."""
        with neoq.MemBackend() as backend:
            one = backend.task(greet)
            two = backend.task(name="two", queue="second")(greet)
            assert [one.enqueue("ada").get(5), two.enqueue("bob").get(5)] == ["hi ada None", "hi bob None"]

    def test_a_queue_has_its_own_options(self, tasks: neoq.Tasks, backend: neoq.Backend) -> None:
        """backend.queue says how many run at once, before or after the tasks are there."""
        backend.queue("one", concurrency=1)
        both = threading.Barrier(2)

        @tasks.task(name="meet", queue="one")
        def meet() -> int:
            return both.wait(5)

        backend.queue("one", concurrency=2)
        jobs = [meet.enqueue() for _ in range(2)]
        assert {job.get(5) for job in jobs} == {0, 1}
        backend.listen("plain", lambda job: None)
        with pytest.raises(neoq.InvalidJobError, match="has a plain handler"):
            backend.queue("plain", concurrency=2)

    def test_capacity_of_a_queue(self, tasks: neoq.Tasks, backend: neoq.Backend) -> None:
        """backend.queue bounds how many calls may be ready."""
        task = tasks.task(greet)
        backend.queue("default", capacity=2)
        backend.pause("default")
        task.enqueue_many([("a",), ("b",)])
        assert backend.engine.capacity_of("default") == 2

    def test_middleware_is_around_tasks(self, tasks: neoq.Tasks, backend: neoq.Backend) -> None:
        """Middleware of attempts and of enqueues sees the jobs of tasks."""
        seen: list[str] = []
        task = tasks.task(greet)
        backend.use(lambda job, call_next: seen.append("run") or call_next(job))
        backend.use_enqueue(lambda job, call_next: seen.append(f"enqueue {job.kind}") or call_next(job))
        assert task.enqueue("ada").get(5) == "hi ada None"
        assert seen == [f"enqueue {task.kind}", "run"]

    def test_annotations_that_are_defined_later(self, tasks: neoq.Tasks, backend: neoq.Backend) -> None:
        """An annotation may name what its module defines after the task."""

        def use(value: Later) -> Later:  # type: ignore[name-defined]  # noqa: F821
            return value

        task: Any = tasks.task(name="use")(use)
        globals()["Later"] = date
        try:
            assert task.enqueue(date(2030, 1, 1)).get(5) == date(2030, 1, 1)
        finally:
            del globals()["Later"]


def generator() -> Iterator[int]:
    yield 1


async def async_generator() -> Any:
    yield 1


def odd_annotation(lock: threading.Event) -> None: ...


class TestCron:
    """Tasks that run by themselves."""

    def test_a_cron_without_the_arguments_says_where_they_go(
        self, tasks: neoq.Tasks, backend: neoq.Backend
    ) -> None:
        """A cron task with a required parameter and no kwargs= is refused with the place of its arguments."""
        with pytest.raises(TypeError, match=r"required argument: 'a'; a task with cron= .* from kwargs="):
            tasks.task(name="t", cron="0 3 * * *")(lambda a: a)

    def test_a_cron_task_runs_at_each_tick(self, tasks: neoq.Tasks, backend: neoq.MemBackend) -> None:
        """Its job has the arguments of kwargs and the tick, and other calls are jobs beside it."""
        seen: list[str] = []
        at: list[datetime | None] = []

        @tasks.task(name="sweep", cron=["0 * * * *", "30 6 * * *"], kwargs={"what": "all"})
        def sweep(job: neoq.Job, what: str) -> None:
            seen.append(what)
            at.append(job.scheduled_at)

        with testing.clock(backend, datetime(2030, 1, 1, tzinfo=UTC)) as clock:
            clock.advance(hours=7)
            assert seen == ["all"] * 8
            sweep.enqueue("some")
            backend.drain()
        assert (seen[-1], at[-1]) == ("some", None)
        assert at[0] == datetime(2030, 1, 1, 1, tzinfo=UTC)

    def test_a_tick_is_not_retried_unless_the_task_says_so(
        self, tasks: neoq.Tasks, backend: neoq.MemBackend
    ) -> None:
        """max_retries of a tick is 0, or what the task names."""

        @tasks.task(name="once", cron="0 * * * *")
        def once() -> None:
            raise ValueError

        @tasks.task(name="twice", cron="0 * * * *", max_retries=1, retry=neoq.RetryPolicy(delay=1))
        def twice() -> None:
            raise ValueError

        with testing.clock(backend, datetime(2030, 1, 1, tzinfo=UTC)) as clock:
            clock.advance(minutes=61)
        assert {job.kind: job.retries for job in backend.jobs(status=neoq.Status.DEAD)} == {
            "once": 0,
            "twice": 1,
        }

    def test_required_arguments_are_checked_at_once(self, tasks: neoq.Tasks, backend: neoq.Backend) -> None:
        """A cron task whose kwargs do not make a call is refused, and so is a wrong spec."""
        with pytest.raises(TypeError, match="missing a required argument: 'name'"):
            tasks.task(cron="0 * * * *")(greet)
        with pytest.raises(neoq.CronError):
            tasks.task(cron="0 * * *", kwargs={"name": "a"})(greet)


variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")


class TestCoroutines:
    """async def tasks and handlers."""

    def test_a_coroutine_function_is_run(self, tasks: neoq.Tasks, backend: neoq.Backend) -> None:
        """A job runs the coroutine in the runner's thread; a call returns the coroutine."""

        @tasks.task(name="add")
        async def add(job: neoq.Job, a: int, b: int) -> list[Any]:
            await asyncio.sleep(0)
            assert neoq.current_job() is job
            return [a + b, threading.current_thread().name.startswith("neoq-runner")]

        assert add.enqueue(1, 2).get(5) == [3, True]

    def test_a_handler_may_be_a_coroutine_function(self, backend: neoq.Backend) -> None:
        """A plain listener takes async def, too; runs share a loop, and no context variables."""

        @backend.listen("async", concurrency=1)
        async def handler(job: neoq.Job) -> list[Any]:
            before = variable.get()
            variable.set("set")
            return [before, id(asyncio.get_running_loop())]

        first, second = (backend.wait(backend.enqueue("async", {"n": n}).id, 5).result for n in range(2))
        assert first == second
        assert first[0] == "none"

    @pytest.mark.parametrize("way", ["timeout", "cancel", "shutdown"])
    def test_interrupts_arrive_as_cancelled_error(self, way: str) -> None:
        """Timeout, cancel and shutdown reach it at an await, and its clean-up may await."""
        seen: list[str] = []
        started = threading.Event()
        with neoq.MemBackend() as backend:

            @backend.task(name="hang", timeout=0.05 if way == "timeout" else None, max_retries=0)
            async def hang() -> None:
                started.set()
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    await asyncio.sleep(0)
                    seen.append("cancelled")
                    raise

            job = hang.enqueue()
            assert started.wait(5)
            if way == "cancel":
                backend.cancel(job.id)
            if way == "shutdown":
                backend.shutdown(0)
            else:
                with pytest.raises(neoq.JobFailed) as caught:
                    job.get(5)
                assert ("JobTimeout" in str(caught.value)) == (way == "timeout")
                assert ("CANCELLED" in str(caught.value)) == (way == "cancel")
            assert seen == ["cancelled"]

    def test_what_is_left_in_the_loop_is_ended(self, tasks: neoq.Tasks, backend: neoq.Backend) -> None:
        """A task of asyncio that a handler leaves behind is cancelled with it."""
        seen: list[str] = []

        async def stray() -> None:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                seen.append("ended")
                raise

        @tasks.task(name="leave")
        async def leave() -> None:
            leave.stray = asyncio.ensure_future(stray())  # type: ignore[attr-defined]
            await asyncio.sleep(0)

        leave.enqueue().get(5)
        assert seen == ["ended"]

    def test_a_shielded_block_is_not_cancelled(self, tasks: neoq.Tasks, backend: neoq.Backend) -> None:
        """job.shield() holds the cancellation back until its end."""
        seen: list[str] = []

        @tasks.task(name="shield", timeout=0.03, max_retries=0)
        async def shielded(job: neoq.Job) -> None:
            with job.shield():
                while not job.cancelled:  # noqa: ASYNC110  # that is what a shielded block looks at
                    await asyncio.sleep(0.001)
                seen.append("shielded")
            seen.append("not reached")

        with pytest.raises(neoq.JobFailed, match="JobTimeout"):
            shielded.enqueue().get(5)
        assert seen == ["shielded"]

    def test_inline_in_a_running_loop(self, tasks: neoq.Tasks, backend: neoq.Backend) -> None:
        """A test that is a coroutine may run coroutine tasks inline."""

        @tasks.task(name="double")
        async def double(n: int) -> int:
            await asyncio.sleep(0)
            return 2 * n

        async def test() -> int:
            return double.enqueue(4).get()

        with testing.inline(backend):
            assert double.enqueue(3).get() == 6
            assert asyncio.run(test()) == 8


class TestSelf:
    """Tasks that enqueue themselves."""

    def test_its_own_duplicate_is_warned_of(
        self, tasks: neoq.Tasks, backend: neoq.Backend, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A unique task that enqueues itself is told so; one that is not unique goes on in peace."""

        @tasks.task(name="again", unique=True)
        def again(n: int) -> bool:
            return again.enqueue(n).duplicate

        @tasks.task(name="count")
        def count(n: int) -> int:
            if n:
                count.enqueue(n - 1)
            return n

        assert again.enqueue(1).get(5) is True
        count.enqueue(3)
        assert backend.drain(5)
        warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
        assert len(warnings) == 1
        assert "Snooze" in warnings[0].getMessage()
        assert 'unique="until_started"' in warnings[0].getMessage()


def test_faults_meet_tasks(tasks: neoq.Tasks, backend: neoq.Backend) -> None:
    """A fault of add() meets the calls of tasks, too."""
    task = tasks.task(greet)
    with testing.Faults(backend).failing("add"), pytest.raises(neoq.BackendUnavailable):
        task.enqueue("ada")
    assert task.enqueue("ada").get(5) == "hi ada None"


@pytest.mark.parametrize("durable", [False, True])
def test_helpers_take_tasks(tasks: neoq.Tasks, tmp_path: Path, durable: bool) -> None:
    """A call under inline runs at once on any backend, and raises what the function raises."""
    backend = neoq.SqliteBackend(tmp_path / "jobs.db") if durable else neoq.MemBackend()
    with backend, testing.inline(backend):
        backend.include(tasks)
        task = tasks.task(greet)
        assert task.enqueue("ada").status is neoq.Status.SUCCEEDED
        assert task.enqueue("bob").get() == "hi bob None"

        @tasks.task(name="fail", max_retries=0)
        def fail() -> None:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail.enqueue()


def test_a_drain_sees_the_call_that_is_claimed_as_it_looks() -> None:
    """A drain waits for a call that a runner claims after it counted the jobs and before it looked."""
    may_claim, claimed, may_end = threading.Event(), threading.Event(), threading.Event()
    backend = neoq.MemBackend(concurrency=1)
    plain_take, plain_counts = backend.store.take, backend.store.counts

    def take(queue: str, limit: int, kinds: frozenset[str] | None) -> tuple[list[neoq.Job], bool]:
        may_claim.wait(20)
        taken = plain_take(queue, limit, kinds)
        claimed.set()
        return taken

    def counts() -> list[QueueCounts]:
        counted = plain_counts()
        may_claim.set()
        claimed.wait(20)
        threading.Timer(0.05, may_end.set).start()
        return counted

    backend.store.take = take  # type: ignore[method-assign]
    with backend:
        task = backend.task(name="wait")(lambda: may_end.wait(20))
        job = task.enqueue()
        backend.store.counts = counts  # type: ignore[method-assign]
        assert backend.drain(20)
        found = backend.get(job.id)
        assert found is not None
        assert found.status is neoq.Status.SUCCEEDED
