"""How a worker runs the jobs of a task of Django."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.utils import timezone

from neoq.attempts import attempts_of
from neoq.django.contract import (
    TaskContext,
    TaskError,
    TaskResultStatus,
    normalize_json,
    task_finished,
    task_started,
)
from neoq.django.options import Options
from neoq.django.results import put, result_of
from neoq.engine.attempt import describe
from neoq.errors import DeadlineExceeded, Discard, JobCancelled, ShutdownRequested, Snooze, Suspended
from neoq.job import Job
from neoq.record import Status
from neoq.retry import RetryPolicy


class RunnableTask:
    """A task of Django, with what `Backend.listen_tasks` asks of one of neoq."""

    aliases: tuple[str, ...] = ()
    unique = False

    def __init__(self, task: Any, options: Options) -> None:
        self.task = task
        self.alias = options.alias
        self.kind: str = task.module_path
        self.queue: str = task.queue_name
        self.options = options.of_task(task.queue_name)

    @property
    def handler(self) -> Callable[[Job], Any]:
        """What runs a job of its kind; named as the function is."""

        def run(job: Job) -> Any:
            return self._run(job)

        function = self.task.func
        run.__module__, run.__qualname__ = function.__module__, function.__qualname__
        run.__name__ = function.__name__
        return run

    def _run(self, job: Job) -> Any:
        sender = type(self.task.get_backend())
        result = result_of(job, self.alias, self.task)
        now = timezone.now()
        put(result, status=TaskResultStatus.RUNNING, last_attempted_at=now)
        if result.started_at is None or not attempts_of(job):
            put(result, started_at=now)
        task_started.send(sender=sender, task_result=result)
        try:
            context = (TaskContext(task_result=result),) if self.task.takes_context else ()
            value = normalize_json(self.task.call(*context, *result.args, **result.kwargs))
        except BaseException as error:
            if self._is_last(job, error):
                failure = describe(error)
                kind = type(error)
                path = f"{kind.__module__}.{kind.__qualname__}"
                result.errors.append(TaskError(exception_class_path=path, traceback=failure.traceback))
                put(result, status=TaskResultStatus.FAILED, finished_at=timezone.now())
                task_finished.send(sender=sender, task_result=result)
            raise
        put(result, status=TaskResultStatus.SUCCESSFUL, finished_at=timezone.now(), _return_value=value)
        task_finished.send(sender=sender, task_result=result)
        return value

    def _is_last(self, job: Job, error: BaseException) -> bool:
        """Whether the job ends with this error: it is not run again."""
        if isinstance(error, (Discard, JobCancelled, DeadlineExceeded)):
            return not job.lease_lost
        if isinstance(error, (Snooze, ShutdownRequested, Suspended)):
            return False
        retries = self.options["max_retries"] if job.max_retries is None else job.max_retries
        policy = self.options.get("retry", RetryPolicy())
        return job.status is Status.RUNNING and (job.attempt > retries or not policy.retries(error))
