"""TaskBackend: Django Tasks as jobs of neoq."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from django.db import transaction
from django.utils import timezone
from django.utils.crypto import get_random_string

from neoq.django.contract import (
    BaseTaskBackend,
    InvalidTask,
    TaskResult,
    TaskResultDoesNotExist,
    TaskResultStatus,
    task_enqueued,
)
from neoq.django.joining import Joined
from neoq.django.options import Options
from neoq.django.registry import backend, know
from neoq.django.results import is_of_django, moment, put, result_of
from neoq.errors import InvalidJobError
from neoq.job import Job


class TaskBackend(BaseTaskBackend):
    """A backend for the setting TASKS: ``{"default": {"BACKEND": "neoq.django.TaskBackend"}}``.

    Jobs are kept in the project's own database, where that is Postgres or SQLite; ``OPTIONS["url"]`` names
    another store. ``OPTIONS`` also takes ``max_retries`` (default 0), ``timeout`` and ``retry`` of all tasks,
    ``queues`` with these, ``concurrency`` and ``capacity`` of a queue, ``database``, and every setting of the
    backend.
    """

    supports_defer = True
    supports_async_task = True
    supports_priority = True

    def __init__(self, alias: str, params: Mapping[str, Any]) -> None:
        super().__init__(alias, params)

    @property
    def supports_get_result(self) -> bool:
        """Whether any thread of any process can ask for a result: not where jobs are in memory."""
        return Options.read(self.alias, self.queues, self.options).place().durable

    @property
    def neoq(self) -> Joined:
        """The backend that keeps the jobs: see `neoq.django.backend`."""
        return backend(self.alias)

    def validate_task(self, task: Any) -> None:
        """Refuse a task that cannot be run here, and let workers know the others."""
        super().validate_task(task)
        name = task.func.__qualname__
        if not name.isidentifier():
            raise InvalidTask(
                f"Task function {name} cannot be imported by its name; define it at module level with def."
            )
        know(self.alias, task)

    def enqueue(self, task: Any, args: Any, kwargs: Any) -> Any:
        """Store a call of a task as a job."""
        self.validate_task(task)
        result = TaskResult(
            task=task,
            id=get_random_string(32),
            status=TaskResultStatus.READY,
            enqueued_at=None,
            started_at=None,
            finished_at=None,
            last_attempted_at=None,
            args=args,
            kwargs=kwargs,
            backend=self.alias,
            errors=[],
            worker_ids=[],
        )
        job = self._job_of(result)
        home = self.neoq
        if home.waits_for_commit:
            home.refuse_payload(job)
            transaction.on_commit(partial(self._store, home, job, result), using=home.database)
        else:
            self._store(home, job, result)
        return result

    def _job_of(self, result: Any) -> Job:
        task = result.task
        run_after = task.run_after
        if run_after is not None and timezone.is_naive(run_after):
            run_after = timezone.make_aware(run_after)
        options = Options.read(self.alias, self.queues, self.options)
        return Job(
            task.queue_name,
            {"args": result.args, "kwargs": result.kwargs},
            kind=task.module_path,
            uid=result.id,
            unique=False,
            priority=int(task.priority),
            run_after=run_after,
            **options.of_job(task.queue_name),
        )

    def _store(self, home: Joined, job: Job, result: Any) -> None:
        stored = home.enqueue(job)
        put(result, enqueued_at=moment(stored.created_at))
        task_enqueued.send(type(self), task_result=result)

    def get_result(self, result_id: str) -> Any:
        """The result of a task by its id. Raises TaskResultDoesNotExist."""
        if not self.supports_get_result:
            raise NotImplementedError(
                "jobs in memory are seen only by the process that has them; keep them in the database, or "
                'set OPTIONS["url"], to ask for results'
            )
        try:
            job = self.neoq.get(uid=result_id)
        except InvalidJobError:  # no job can have such an id
            job = None
        if job is None or not is_of_django(job):
            raise TaskResultDoesNotExist(result_id)
        return result_of(job, self.alias)

    def check(self, **kwargs: Any) -> Iterable[Any]:
        """What is wrong with its settings, as messages of Django's system checks."""
        from neoq.django.checks import check_alias

        return [*super().check(**kwargs), *check_alias(self.alias, self.queues, self.options)]
