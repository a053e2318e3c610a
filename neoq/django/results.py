"""A job as Django sees it: the result of a task."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields
from datetime import datetime
from typing import Any

from django.conf import settings
from django.utils import timezone
from django.utils.module_loading import import_string

from neoq import Attempt, Status
from neoq.attempts import attempts_of
from neoq.django.contract import Task, TaskError, TaskResult, TaskResultStatus
from neoq.job import Job

UNKNOWN_WORKER = "unknown"
_STATUS = {
    Status.PENDING: TaskResultStatus.READY,
    Status.RETRYING: TaskResultStatus.READY,
    Status.RUNNING: TaskResultStatus.RUNNING,
    Status.SUCCEEDED: TaskResultStatus.SUCCESSFUL,
    Status.DEAD: TaskResultStatus.FAILED,
    Status.CANCELLED: TaskResultStatus.FAILED,
}
_raised = re.compile(r"^((?:[^\W\d]\w*\.)*[^\W\d]\w*)(?::|$)").match


def is_of_django(job: Job) -> bool:
    """Whether a job is a call of a task of Django."""
    payload = job.payload
    return (
        job.kind is not None
        and isinstance(payload.get("args"), list)
        and isinstance(payload.get("kwargs"), dict)
        and len(payload) == 2
    )


def result_of(job: Job, alias: str, task: Any = None) -> Any:
    """The result of a job; ``task`` is the one that it calls, where that is known."""
    attempts = attempts_of(job)
    workers = [attempt.worker or UNKNOWN_WORKER for attempt in attempts]
    count = attempts[-1].number if attempts else 0
    workers = [UNKNOWN_WORKER] * (count - len(workers)) + workers
    if job.status is Status.SUCCEEDED and workers:
        workers[-1] = job.worker or workers[-1]
    if job.status is Status.RUNNING:
        workers.append(job.worker or UNKNOWN_WORKER)
    first = attempts[0].started_at if attempts else None
    result = TaskResult(
        task=restored(task or task_of(job.kind or ""), job, alias),
        id=job.uid,
        status=_STATUS[job.status],
        enqueued_at=moment(job.created_at),
        started_at=moment(first or job.ran_at),
        finished_at=moment(job.finished_at),
        last_attempted_at=moment(job.ran_at),
        args=job.payload["args"],
        kwargs=job.payload["kwargs"],
        backend=alias,
        errors=[error_of(attempt) for attempt in attempts if attempt.error is not None],
        worker_ids=workers,
    )
    if job.status is Status.SUCCEEDED:
        put(result, _return_value=job.result)
    return result


def put(result: Any, **values: Any) -> None:
    """Assign attributes of a result, which is frozen for others."""
    for name, value in values.items():
        object.__setattr__(result, name, value)


def moment(at: datetime | None) -> datetime | None:
    """A time as Django's settings want it: aware, or naive where USE_TZ is False."""
    if at is None or settings.USE_TZ:
        return at
    return timezone.make_naive(at)  # type: ignore[no-any-return]


def error_of(attempt: Attempt) -> Any:
    """What an attempt has raised."""
    return TaskError(
        exception_class_path=_path_of(attempt.error or "", attempt.traceback or ""),
        traceback=attempt.traceback or attempt.error or "",
    )


def _path_of(error: str, traceback: str) -> str:
    """The path of an exception's class, of which the traceback has the module and the error the name."""
    name = error.partition(":")[0]
    for line in reversed(traceback.splitlines()):
        found = _raised(line)
        if found is not None and found[1].rpartition(".")[2] == name:
            return found[1] if "." in found[1] else f"builtins.{found[1]}"
    import neoq.errors

    return f"neoq.errors.{name}" if hasattr(neoq.errors, name) else f"builtins.{name}"


def task_of(kind: str) -> Any:
    """The task or function of a kind; where there is none any more, one that says so when it is called."""
    try:
        return import_string(kind)
    except Exception:  # whatever its module does when it is imported
        return _gone(kind)


def _gone(kind: str) -> Callable[..., Any]:
    def gone(*_args: Any, **_kwargs: Any) -> Any:
        raise ImportError(f"the task {kind} cannot be imported any more")

    gone.__module__, _, gone.__qualname__ = kind.rpartition(".")
    gone.__name__ = gone.__qualname__
    return gone


def _asked_run_after(job: Job) -> datetime | None:
    """When a job was to start at the earliest, as far as it still says so: a retry has a time of its own."""
    at, created = job.run_after, job.created_at
    return at if not job.retries and at is not None and created is not None and at > created else None


def restored(found: Any, job: Job, alias: str) -> Any:
    """The task of a stored job with its own options, which no change of the settings makes invalid."""
    known = found if isinstance(found, Task) else None
    cls = type(known) if known is not None else Task
    values = {one.name: getattr(known, one.name) for one in fields(cls)} if known is not None else {}
    values = {
        "func": found,
        "takes_context": False,
        **values,
        "priority": job.priority,
        "backend": alias,
        "queue_name": job.queue,
        "run_after": moment(_asked_run_after(job)),
    }
    task = object.__new__(cls)
    for name, value in values.items():
        object.__setattr__(task, name, value)
    return task
