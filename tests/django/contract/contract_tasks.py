"""What Django's contract of task backends says, with the jobs in the project's own database."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connections, transaction
from django.http import HttpRequest, HttpResponse
from django.test import Client, override_settings
from django.urls import path
from django.utils import timezone as django_timezone
from shop import tasks
from shop.models import Order

import neoq
import neoq.django
from neoq.django.contract import (
    InvalidTask,
    TaskResultDoesNotExist,
    TaskResultStatus,
    task_enqueued,
    task_finished,
    task_started,
)
from neoq.django.task_backend import TaskBackend

try:
    from django.tasks import task, task_backends
    from django.tasks.exceptions import InvalidTaskBackend, TaskResultMismatch
except ImportError:
    from django_tasks import task, task_backends
    from django_tasks.exceptions import InvalidTaskBackendError as InvalidTaskBackend
    from django_tasks.exceptions import TaskResultMismatch

Finished = Callable[[Any], Any]
ELSEWHERE = {
    "default": {"BACKEND": "neoq.django.TaskBackend", "OPTIONS": {"url": "memory://", "autostart": False}}
}


def test_what_it_supports() -> None:
    """It defers, takes priorities and coroutines, and keeps results."""
    backend = task_backends["default"]
    assert isinstance(backend, TaskBackend)
    assert backend.supports_defer
    assert backend.supports_async_task
    assert backend.supports_priority
    assert backend.supports_get_result


def test_an_enqueued_task(store: Any) -> None:
    """A result that was just enqueued is ready, and nothing of it has begun."""
    result = tasks.add.enqueue(1, b=(2, b"x"))
    assert result.task is tasks.add
    assert 0 < len(result.id) <= 64
    assert result.status is TaskResultStatus.READY
    assert (result.args, result.kwargs, result.backend) == ([1], {"b": [2, "x"]}, "default")
    assert abs(django_timezone.now() - result.enqueued_at) < timedelta(seconds=30)
    assert (result.started_at, result.finished_at, result.last_attempted_at) == (None, None, None)
    assert (result.errors, result.worker_ids, result.attempts, result.is_finished) == ([], [], 0, False)
    with pytest.raises(ValueError, match="not finished"):
        _ = result.return_value
    found = tasks.add.get_result(result.id)
    assert found == result
    assert found.task == tasks.add


@pytest.mark.parametrize("call", [lambda: tasks.add.enqueue(1), lambda: tasks.add_slowly.enqueue(1, 2)])
def test_a_task_runs(running: Any, finished: Finished, call: Callable[[], Any]) -> None:
    """A function, or a coroutine function, runs in a worker, and its result is found."""
    result = finished(call())
    assert result.status is TaskResultStatus.SUCCESSFUL
    assert (result.return_value, result.attempts, result.errors) == (3, 1, [])
    assert result.enqueued_at <= result.started_at <= result.finished_at
    assert result.last_attempted_at == result.started_at


def test_the_same_from_coroutines(running: Any) -> None:
    """aenqueue, aget_result and arefresh do what their brothers do."""

    async def use() -> Any:
        result = await tasks.add.aenqueue(1, b=5)
        while not result.is_finished:
            await asyncio.sleep(0.01)
            await result.arefresh()
        found = await tasks.add.aget_result(result.id)
        with pytest.raises(TaskResultDoesNotExist):
            await tasks.add.aget_result("unknown")
        with pytest.raises(TaskResultMismatch):
            await tasks.fail.aget_result(result.id)
        return found

    assert asyncio.run(use()).return_value == 6


def test_the_context(running: Any, finished: Finished) -> None:
    """A task that takes the context is told its attempt and its result, which is running."""
    result = finished(tasks.attempt_of.enqueue("x"))
    assert result.return_value == ["x", 1, result.id, "RUNNING"]


def test_results_that_are_not_there(store: Any) -> None:
    """Asking for an unknown id, or for the result of another task, is refused."""
    result = tasks.add.enqueue(1)
    for unknown in ("unknown", "", "x" * 1000):
        with pytest.raises(TaskResultDoesNotExist):
            tasks.add.get_result(unknown)
    with pytest.raises(TaskResultMismatch):
        tasks.fail.get_result(result.id)
    store.enqueue("default", {"n": 1}, uid="plain", kind="shop.tasks.add")
    with pytest.raises(TaskResultDoesNotExist):
        tasks.add.get_result("plain")


@pytest.mark.parametrize(
    ("name", "args", "path", "error"),
    [
        ("fail", ["no: such\n  line"], "shop.tasks.Bounced", tasks.Bounced),
        ("fail_plainly", [], "builtins.ZeroDivisionError", ZeroDivisionError),
        ("unserialisable", [], "builtins.TypeError", TypeError),
        ("add", [1, 2, 3], "builtins.TypeError", TypeError),
    ],
)
def test_a_task_fails(
    running: Any, finished: Finished, name: str, args: list[Any], path: str, error: type[Exception]
) -> None:
    """A task that raises, or returns what is no JSON, has failed, once, with class and traceback."""
    result = finished(getattr(tasks, name).enqueue(*args))
    assert result.status is TaskResultStatus.FAILED
    assert result.attempts == 1
    [found] = result.errors
    assert (found.exception_class_path, found.exception_class) == (path, error)
    assert "Traceback" in found.traceback
    with pytest.raises(ValueError, match="failed"):
        _ = result.return_value


def test_a_result_is_normalised(running: Any, finished: Finished) -> None:
    """Tuples and bytes come back as lists and texts."""
    assert finished(tasks.as_tuple.enqueue()).return_value == [1, {"b": "bytes"}]


def test_retries(store: Any, finished: Finished) -> None:
    """Where the options say so, a failed task is ready again, with its errors and a worker per attempt."""
    result = tasks.flaky.enqueue(1)
    store.start()
    waiting = threading.Event()
    while not result.errors:
        waiting.wait(0.01)
        result.refresh()
    assert result.status in {TaskResultStatus.READY, TaskResultStatus.SUCCESSFUL, TaskResultStatus.RUNNING}
    store.retry(store.get(uid=result.id).id)
    finished(result)
    assert (result.return_value, result.attempts) == (2, 2)
    assert [error.exception_class_path for error in result.errors] == ["shop.tasks.Bounced"]
    assert result.started_at < result.last_attempted_at


def test_arguments_that_are_no_json(store: Any) -> None:
    """Arguments that JSON does not have are refused, and nothing is stored."""
    for value in (datetime.now(UTC), {1, 2}, object()):
        with pytest.raises(TypeError):
            tasks.add.enqueue(value)
    with pytest.raises((ValueError, neoq.NeoqError)):
        tasks.add.enqueue(float("nan"))
    assert store.jobs() == []


def a_method() -> Any:
    class Methods:
        def method(self) -> None: ...

    return Methods.method


def takes_none() -> None: ...


@pytest.mark.parametrize(
    ("function", "options"),
    [
        (a_method(), {}),
        (lambda: None, {}),
        (print, {}),
        (takes_none, {"takes_context": True}),
        (takes_none, {"priority": 101}),
        (takes_none, {"priority": -101}),
        (takes_none, {"priority": 1.5}),
        (takes_none, {"queue_name": "unknown"}),
    ],
)
def test_invalid_tasks(function: Any, options: dict[str, Any]) -> None:
    """A task that cannot be run is refused where it is made."""
    with pytest.raises(InvalidTask):
        task(**options)(function)
    if "priority" in options or "queue_name" in options:
        with pytest.raises(InvalidTask):
            tasks.add.using(**options)


def test_run_after(store: Any) -> None:
    """A deferred task waits; a naive time is refused."""
    later = datetime.now(UTC) + timedelta(hours=1)
    result = tasks.add.using(run_after=later).enqueue(1)
    assert tasks.add.get_result(result.id).task.run_after == later
    assert store.get(uid=result.id).run_after == later
    with pytest.raises(InvalidTask):
        tasks.add.using(run_after=datetime.now())  # noqa: DTZ005


def test_priority_and_queue(store: Any) -> None:
    """Priority and queue of a task are those of its job, and come back with its result."""
    changed = tasks.add.using(priority=-7, queue_name="emails")
    result = changed.enqueue(1)
    job = store.get(uid=result.id)
    assert (job.priority, job.queue, job.kind) == (-7, "emails", "shop.tasks.add")
    assert (job.max_retries, job.timeout) == (2, 30)
    assert tasks.add.get_result(result.id).task == changed
    order = [tasks.mail.enqueue(1), tasks.mail.using(priority=9).enqueue(2)]
    assert [result.task.priority for result in order] == [5, 9]


def test_no_call_is_dropped(store: Any) -> None:
    """Two equal calls are two jobs."""
    assert tasks.add.enqueue(1).id != tasks.add.enqueue(1).id
    assert len(store.jobs()) == 2


def test_signals(running: Any, finished: Finished) -> None:
    """The three signals are sent by the class of the backend, each once for a call."""
    seen: list[tuple[str, Any, str]] = []

    def hear(name: str) -> Callable[..., None]:
        def receive(sender: Any, task_result: Any, **_: Any) -> None:
            seen.append((name, sender, task_result.status))

        return receive

    heard = {
        signal: hear(name)
        for name, signal in (
            ("enqueued", task_enqueued),
            ("started", task_started),
            ("finished", task_finished),
        )
    }
    for signal, receive in heard.items():
        signal.connect(receive)
    try:
        finished(tasks.add.enqueue(1))
        finished(tasks.fail.enqueue("x"))
    finally:
        for signal, receive in heard.items():
            signal.disconnect(receive)
    names = ["enqueued", "started", "finished"]
    assert sorted(seen[:3]) == sorted(
        zip(names, [TaskBackend] * 3, ["READY", "RUNNING", "SUCCESSFUL"], strict=True)
    )
    assert sorted(seen[3:]) == sorted(
        zip(names, [TaskBackend] * 3, ["READY", "RUNNING", "FAILED"], strict=True)
    )


def test_one_backend_for_all_threads(store: Any) -> None:
    """Django makes an object per thread; the queues behind them are one."""
    found = []

    def look() -> None:
        mine = task_backends["default"]
        found.append((id(mine), mine.neoq))

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
        thread.join()
    assert {id(neoq) for _, neoq in found} == {id(store)}


def test_a_transaction_that_is_rolled_back(store: Any) -> None:
    """A task, and one of neoq's, are gone with the rows of their transaction."""
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        order = Order.objects.create(name="gone")
        tasks.mail.enqueue(order.pk)
        tasks.typed.enqueue(order.pk)
        store.enqueue_many([tasks.typed.job(order.pk)])
        raise ZeroDivisionError
    assert store.jobs() == []
    assert not Order.objects.exists()


def order_for(request: HttpRequest, name: str) -> HttpResponse:
    """A view that enqueues in a transaction, and raises there where asked to."""
    with transaction.atomic():
        tasks.mail.enqueue(Order.objects.create(name=name).pk)
        if request.GET.get("fails"):
            raise ZeroDivisionError
    return HttpResponse(name)


@override_settings(ROOT_URLCONF=(path("order/<name>", order_for),))
def test_a_request_that_raises_in_its_transaction(store: Any) -> None:
    """A view that raises after an enqueue inside atomic() leaves no job; the next request has its own."""
    client = Client(raise_request_exception=False)
    assert client.get("/order/gone?fails=1").status_code == 500
    assert (store.jobs(), Order.objects.count()) == ([], 0)
    assert client.get("/order/here").status_code == 200
    assert len(store.jobs()) == Order.objects.count() == 1


def test_a_transaction_that_is_committed(running: Any, finished: Finished) -> None:
    """A worker sees a task after the commit, with the rows that it needs."""
    with transaction.atomic():
        order = Order.objects.create(name="here")
        result = tasks.mail.enqueue(order.pk)
        typed = tasks.typed.enqueue(order.pk)
        assert running.jobs() == []
    assert finished(result).return_value == "here"
    assert typed.get(timeout=20) == "here"


def test_an_inner_transaction_that_is_rolled_back(store: Any) -> None:
    """A savepoint takes its tasks along, and leaves those of the outer one."""
    with transaction.atomic():
        kept = tasks.add.enqueue(1)
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            tasks.add.enqueue(2)
            raise ZeroDivisionError
    assert [job.uid for job in store.jobs()] == [kept.id]


@override_settings(TASKS=ELSEWHERE)
def test_another_store_waits_for_the_commit() -> None:
    """Where the jobs are elsewhere, a task is stored at the commit, and never after a rollback."""
    store = neoq.django.backend()
    heard: list[str] = []

    def receive(task_result: Any, **_: Any) -> None:
        heard.append(task_result.id)

    task_enqueued.connect(receive)
    plain = neoq.Tasks()
    typed = plain.task(name="typed")(takes_none)
    store.include(plain)
    with transaction.atomic():
        result = tasks.add.enqueue(1)
        job = typed.enqueue()
        assert (store.jobs(), heard, result.enqueued_at, job.id) == ([], [], None, None)
    assert heard == [result.id]
    assert result.enqueued_at is not None
    assert store.get(uid=result.id).id == result_job(store, result).id
    assert store.get(job.id).kind == "typed"
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        tasks.add.enqueue(2)
        typed.enqueue()
        raise ZeroDivisionError
    assert len(store.jobs()) == 2
    task_enqueued.disconnect(receive)


def result_job(store: Any, result: Any) -> Any:
    [job] = [job for job in store.jobs() if job.uid == result.id]
    return job


@override_settings(TASKS=ELSEWHERE)
def test_results_in_memory() -> None:
    """In memory nobody else can ask for a result, and it says so."""
    backend = task_backends["default"]
    assert not backend.supports_get_result
    with pytest.raises(NotImplementedError, match="OPTIONS"):
        backend.get_result("x")


@override_settings(TASKS={"default": {"BACKEND": "neoq.django.TaskBackend", "OPTIONS": {"url": "memory://"}}})
def test_jobs_in_memory_run() -> None:
    """In memory a task runs in the process that enqueues it."""
    done = threading.Event()

    def receive(**_: Any) -> None:
        done.set()

    task_finished.connect(receive)
    try:
        tasks.add.enqueue(1)
        assert done.wait(20)
    finally:
        task_finished.disconnect(receive)


@override_settings(TASKS={"default": {"BACKEND": "neoq.django.TaskBackend", "QUEUES": []}})
def test_any_queue(finished: Finished) -> None:
    """Without QUEUES a task may have any queue, and a worker runs it."""
    result = tasks.add.using(queue_name="of its own").enqueue(1)
    neoq.django.backend().start()
    assert finished(result).return_value == 3


def test_an_unknown_alias() -> None:
    """An alias that TASKS does not have is Django's error, and neoq's."""
    with pytest.raises(InvalidTaskBackend):
        tasks.add.using(backend="unknown")
    with pytest.raises(neoq.ConfigError, match="unknown"):
        neoq.django.backend("unknown")


def test_a_task_that_is_gone(store: Any) -> None:
    """The result of a task that was removed, or whose queue was, can still be read."""
    store.enqueue(neoq.Job("later", {"args": [], "kwargs": {}}, kind="shop.old.task", uid="old"))
    result = task_backends["default"].get_result("old")
    assert (result.task.module_path, result.status) == ("shop.old.task", TaskResultStatus.READY)
    result = tasks.add.enqueue(1)
    with override_settings(TASKS={"default": {"BACKEND": "neoq.django.TaskBackend", "QUEUES": ["emails"]}}):
        assert task_backends["default"].get_result(result.id).task.queue_name == "default"


def test_a_cancelled_task(store: Any) -> None:
    """A job that was cancelled has failed, as Django sees it."""
    result = tasks.add.enqueue(1)
    store.cancel(store.get(uid=result.id).id)
    result.refresh()
    assert (result.status, result.attempts) == (TaskResultStatus.FAILED, 0)


def test_connections_of_workers(running: Any, finished: Finished) -> None:
    """After their jobs the threads of a worker have no connection of Django's open."""
    opened: list[Any] = []
    closed: list[Any] = []
    cls = type(connections["default"])
    connect, close = cls.connect, cls._close
    cls.connect = lambda self: (opened.append(self), connect(self))[1]
    cls._close = lambda self: (self.connection and closed.append(self), close(self))[1]
    try:
        orders = [Order.objects.create(name=str(n)) for n in range(10)]
        results = [tasks.mail.enqueue(order.pk) for order in orders]
        assert [finished(result).return_value for result in results] == [str(n) for n in range(10)]
        assert running.drain(20)
    finally:
        cls.connect, cls._close = connect, close
    assert len(opened) == 10
    assert set(map(id, opened)) == set(map(id, closed))


def test_system_checks() -> None:
    """Each mistake in the settings is told by `manage.py check`, without a connection."""
    from neoq.django.checks import check_alias

    wrong: list[dict[str, Any]] = [
        {"url": ""},
        {"url": "redsi://x"},
        {"database": "unknown"},
        {"queues": {"unknown": {}}},
        {"queues": {"default": {"concurency": 2}}},
        {"concurrency": 0},
        {"concurency": 2},
        {"retry": 3},
    ]
    for options in wrong:
        assert [message.id for message in check_alias("default", ["default"], options)] == ["neoq.E001"], (
            options
        )
    assert check_alias("default", ["default"], {"concurrency": 2}) == []
    [message] = check_alias("default", ["default"], {"url": "memory://"})
    assert message.id == "neoq.W002"
    if connections["default"].vendor == "sqlite":
        options = connections["default"].settings_dict["OPTIONS"]
        mode = options.pop("transaction_mode")
        [message] = check_alias("default", ["default"], {})
        options["transaction_mode"] = mode
        assert message.id == "neoq.W003"
