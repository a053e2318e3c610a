"""A task: a function whose calls may be jobs; and what an enqueue of one returns."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Coroutine, Iterable, Mapping
from datetime import timedelta, tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Protocol, TypeVar, Unpack

from neoq.checks import check_queue
from neoq.errors import InvalidJobError, NeoqError, PayloadError
from neoq.held.limit_options import LimitOptions
from neoq.job import Job
from neoq.payload import fingerprint_of_kind
from neoq.record import JobOptions, Status, Unique
from neoq.tasks.binding import Binding
from neoq.tasks.codec import Misfit

if TYPE_CHECKING:
    from neoq.config import OnError
    from neoq.retry import RetryPolicy

P = ParamSpec("P")
R = TypeVar("R")
Call = tuple[Any, ...] | Mapping[str, Any]


class Queues(Protocol):
    """The backend that a task's jobs go to."""

    def enqueue(self, queue: Job, *, transaction: Any = None) -> Job:
        """Store a job."""

    def enqueue_call(self, queue: str, kind: str, data: bytes) -> Job:
        """Store a job of a kind that is nothing but its arguments, as they are stored, and not unique."""

    def enqueue_many(self, jobs: Iterable[Job], *, transaction: Any = None) -> list[Job]:
        """Store several."""

    def wait(self, job_id: int, timeout: timedelta | float | None = None) -> Job:
        """Wait until a job has finished."""


class TaskOptions(LimitOptions, total=False):
    """The keywords of ``@tasks.task``; what is not given comes from the collection and the backend."""

    queue: str
    name: str
    aliases: Iterable[str]
    unique: Unique | timedelta
    timeout: timedelta | float | None
    max_retries: int
    retry: RetryPolicy
    on_error: OnError | None
    cron: str | Iterable[str]
    timezone: str | tzinfo
    catch_up: bool
    kwargs: Mapping[str, Any]


class CallOptions(JobOptions, total=False):
    """The keywords of ``using``: those of a job, and the transaction that it waits for."""

    transaction: Any


class JobFailed(NeoqError):
    """A job whose result was asked for has ended dead or cancelled: ``job``, ``error``, ``traceback``."""

    def __init__(self, job: Job) -> None:
        why = f": {job.error}" if job.error else ""
        super().__init__(
            f"job {job.id} of {job.queue!r} ({job.kind}) is {job.status.name}{why}",
            queue=job.queue,
            job_id=job.id,
        )
        self.job = job
        self.error = job.error
        self.traceback = job.traceback


class TaskJob(Job, Generic[R]):
    """The job of a task: a `Job`, and `get` returns what the function returned."""

    __slots__ = ()
    task: Task[Any, R]

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        state.pop("task", None)  # of this process
        return state

    def get(self, timeout: timedelta | float | None = None) -> R:
        """Wait for the end of the job, and return its result, read as the task's return annotation says.

        Raises `JobFailed` where it ended dead or cancelled, TimeoutError when ``timeout`` comes first, and
        PayloadError where the result does not fit the annotation.
        """
        task: Task[Any, R] | None = self.__dict__.get("task")
        if task is None:
            raise NeoqError("a job that was copied to another process has no get(); use backend.wait(job.id)")
        job: Job = self
        if not self.finished:
            job = task.backend.wait(self.id, timeout)
        if job.status is not Status.SUCCEEDED:
            raise JobFailed(job)
        try:
            result: R = task.binding.read_result(job.result)
        except Misfit as misfit:
            lost = "; a result that could not be stored is null, and its worker has logged why"
            raise PayloadError(
                f"job {job.id} of {job.queue!r} ({task.kind}) succeeded, but {misfit}, as the task's return "
                f"annotation says{lost if job.result is None else ''}"
            ) from None
        return result


class Task(Generic[P, R]):
    """A function that can be called, or enqueued as a job. Made by ``@tasks.task`` and ``@backend.task``.

    ``kind`` names it in the store: ``module.qualname`` unless ``name`` was given. ``aliases`` are further
    kinds that it runs.
    """

    def __init__(self, function: Callable[..., Any], default_queue: str, options: TaskOptions) -> None:
        self.function = function
        self.queue = options.get("queue", default_queue)
        check_queue(self.queue)
        self.options = options
        self.kind = _kind_of(function, options.get("name"))
        self.aliases = _aliases_of(self.kind, options.get("aliases", ()))
        self.unique = options.get("unique", False)
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise InvalidJobError(
                f"{self.kind} cannot be a task: it is a generator function, whose body a call does not run; "
                "take out the yield"
            )
        functools.update_wrapper(self, function)
        self.binding = Binding(function, getattr(function, "__name__", self.kind))
        self._backend: Queues | None = None
        self._plainly = self.unique is False
        alone = [name for name in ("timezone", "catch_up", "kwargs") if name in options]
        if alone and "cron" not in options:
            raise InvalidJobError(f"{self.kind}: {', '.join(alone)} belongs to cron=, which is not given")

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function, here and now."""
        function: Callable[..., R] = self.function
        name = self.binding.job
        if name is None or name in kwargs or any(isinstance(one, Job) for one in args):
            return function(*args, **kwargs)
        given = self.binding.signature.bind(*args, **kwargs)
        return function(**{name: self.job(*args, **kwargs)}, **given.arguments)

    def __repr__(self) -> str:
        return f"<Task {self.kind} of {self.queue!r}>"

    @property
    def backend(self) -> Queues:
        """Where its jobs go; NeoqError before its collection was included in a backend."""
        if self._backend is None:
            raise NeoqError(
                f"the task {self.kind} belongs to no backend yet; call backend.include(tasks) first",
                queue=self.queue,
            )
        return self._backend

    @backend.setter
    def backend(self, backend: Queues | None) -> None:
        self._backend = backend

    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> TaskJob[R]:
        """Store a call as a job: its arguments are bound to the signature and written now.

        Raises TypeError for a wrong call, PayloadError for a value that does not fit its annotation, and what
        `Backend.enqueue` raises.
        """
        if not self._plainly:
            return self.mine(self.backend.enqueue(self.job(*args, **kwargs)))
        data = self.binding.data(args, kwargs, self.queue)
        job: Any = (self._backend or self.backend).enqueue_call(self.queue, self.kind, data)
        job.__class__ = TaskJob
        job.task = self
        return job  # type: ignore[no-any-return]

    def job(self, *args: P.args, **kwargs: P.kwargs) -> Job:
        """A call as a job that is not stored: for ``backend.enqueue_many``."""
        return self._job(self.binding.payload(args, kwargs), {})

    def using(self, **options: Unpack[CallOptions]) -> Using[P, R]:
        """The same task with options for its jobs: ``send.using(priority=5).enqueue(...)``."""
        return Using(self, options)

    def enqueue_many(self, calls: Iterable[Call]) -> list[TaskJob[R]]:
        """Store many calls, all or none: each a tuple of positional arguments, or a dict of them by name."""
        return self.using().enqueue_many(calls)

    def made(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], options: JobOptions) -> Job:
        """A call as a job with options."""
        return self._job(self.binding.payload(args, kwargs), options)

    def tick(self, cron: str) -> Job:
        """The job of a tick of a cron, which is its fingerprint."""
        try:
            payload = self.binding.payload((), self.options.get("kwargs", {}))
        except TypeError as error:
            raise TypeError(f"{error}; a task with cron= takes its arguments from kwargs={{...}}") from None
        retries = self.options.get("max_retries", 0)
        return Job(self.queue, payload, kind=self.kind, fingerprint=cron, max_retries=retries)

    def _job(self, payload: dict[str, Any], options: JobOptions) -> Job:
        options = {"unique": self.unique, **options, "kind": self.kind}
        if options["unique"] not in {None, False} and options.get("fingerprint") is None:
            data = self.binding.canonical(payload)
            options["fingerprint"] = fingerprint_of_kind(self.queue, self.kind, data)
        return Job(self.queue, payload, **options)

    def mine(self, job: Job) -> TaskJob[R]:
        """A stored job as one of this task."""
        job.__class__ = TaskJob
        job.__dict__["task"] = self
        return job  # type: ignore[return-value]

    @property
    def handler(self) -> Callable[[Job], Any]:
        """What runs a job of its kind; named as the function is."""
        function, binding = self.function, self.binding

        def run(job: Job) -> Any:
            return binding.result(function(**binding.arguments(job)))

        async def run_async(job: Job) -> Any:
            return binding.result(await function(**binding.arguments(job)))

        handler: Any = run_async if inspect.iscoroutinefunction(function) else run
        for name in ("__module__", "__name__", "__qualname__"):
            setattr(handler, name, getattr(function, name, self.kind))
        return handler  # type: ignore[no-any-return]


class AsyncTask(Task[P, R]):
    """A task whose function is a coroutine function: a call returns the coroutine, a job runs it."""

    if TYPE_CHECKING:

        def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:  # type: ignore[override]
            """Call the function: the coroutine is to be awaited."""


class Using(Generic[P, R]):
    """A task with options for its jobs. Made by `Task.using`."""

    def __init__(self, task: Task[P, R], options: CallOptions) -> None:
        self._task = task
        self._transaction = options.pop("transaction", None)
        self._options: JobOptions = options

    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> TaskJob[R]:
        """Store a call as a job."""
        task = self._task
        job = task.made(args, kwargs, self._options)
        return task.mine(task.backend.enqueue(job, transaction=self._transaction))

    def job(self, *args: P.args, **kwargs: P.kwargs) -> Job:
        """A call as a job that is not stored."""
        if self._transaction is not None:
            raise InvalidJobError("job() stores nothing; give transaction= to enqueue_many")
        return self._task.made(args, kwargs, self._options)

    def enqueue_many(self, calls: Iterable[Call]) -> list[TaskJob[R]]:
        """Store many calls, all or none."""
        task = self._task
        jobs = []
        for place, call in enumerate(calls):
            args, kwargs = _parts(call, place, task.kind)
            jobs.append(task.made(args, kwargs, self._options))
        return [task.mine(job) for job in task.backend.enqueue_many(jobs, transaction=self._transaction)]


def _parts(call: Any, place: int, kind: str) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    if isinstance(call, (tuple, list)):
        return tuple(call), {}
    if isinstance(call, Mapping):
        return (), call
    raise InvalidJobError(
        f"call {place} of {kind} is a {type(call).__name__}; give a tuple of positional arguments, as "
        "(x,), or a dict of them by name"
    )


def _kind_of(function: Any, name: Any) -> str:
    if name is not None:
        return _checked(name, "the name of a task")
    qualname = getattr(function, "__qualname__", None)
    if not callable(function) or qualname is None:
        raise InvalidJobError(f"{function!r:.80} cannot be a task; it takes a function, or give it a name=")
    if "<" in qualname:
        raise InvalidJobError(
            f"{qualname} cannot be a task without a name, since another process cannot tell which "
            'function that is: give it one, @tasks.task(name="...")'
        )
    return f"{_module_of(function)}.{qualname}"


def _module_of(function: Any) -> str:
    """The module of a function, by the name under which others import it."""
    module: str = function.__module__
    if module != "__main__":
        return module
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return str(spec.name).removesuffix(".__main__")
    file = getattr(main, "__file__", None)
    return Path(file).stem if file else module


def _aliases_of(kind: str, aliases: Iterable[str]) -> tuple[str, ...]:
    if isinstance(aliases, str):
        raise InvalidJobError(f"the aliases of {kind} are a str; give a tuple: aliases=({aliases!r},)")
    return tuple(_checked(alias, f"an alias of {kind}") for alias in aliases)


def _checked(name: Any, what: str) -> str:
    if not isinstance(name, str) or not 0 < len(name) <= 200 or not name.isprintable():
        raise InvalidJobError(f"{what} is {name!r:.80}; it takes 1 to 200 printable characters")
    return name
