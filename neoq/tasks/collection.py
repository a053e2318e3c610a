"""Tasks that belong together: functions are put into a collection, and the collection into a backend."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any, Concatenate, Protocol, TypeVar, Unpack, overload

from neoq.checks import check_queue
from neoq.errors import InvalidJobError, ListenerExistsError, NeoqError
from neoq.job import Job
from neoq.tasks.task import AsyncTask, P, Queues, R, Task, TaskOptions

AnyTask = TypeVar("AnyTask", bound=Task[..., Any])


class Home(Queues, Protocol):
    """The backend that a collection is included in."""

    @property
    def closed(self) -> bool:
        """Whether it was shut down."""

    def listen_tasks(self, tasks: Sequence[Task[..., Any]]) -> None:
        """Run the jobs of tasks: of all, or of none where it raises."""


class Decorator:
    """``@tasks.task``: with or without parentheses it makes a function a `Task`.

    ``queue`` is where its jobs wait, ``name`` its kind, ``aliases`` former kinds whose jobs it runs.
    ``unique`` (default False), ``timeout``, ``max_retries``, ``retry`` and ``on_error`` are as in
    `Backend.listen`, and so are the limits of its queue, which all tasks of that share. ``cron`` is a spec,
    or several: then it also runs by itself, with the arguments of ``kwargs``; ``timezone`` and ``catch_up``
    are as in `Backend.listen_cron`.

    Raises InvalidJobError for a function that cannot be a task.
    """

    def __init__(self, add: Callable[[Any, TaskOptions], Any], options: TaskOptions) -> None:
        self._add = add
        self._options = options

    @overload
    def __call__(self, function: Callable[Concatenate[Job, P], Awaitable[R]], /) -> AsyncTask[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, Awaitable[R]], /) -> AsyncTask[P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[Job, P], R], /) -> Task[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Task[P, R]: ...
    @overload
    def __call__(self, /, **options: Unpack[TaskOptions]) -> Decorator: ...
    def __call__(self, function: Any = None, /, **options: Unpack[TaskOptions]) -> Any:
        """Make a function a task, or take options for the function that follows."""
        unknown = options.keys() - TaskOptions.__annotations__.keys()
        if unknown:
            raise TypeError(
                f"task() does not know {', '.join(sorted(unknown))}; it takes "
                f"{', '.join(TaskOptions.__annotations__)}. concurrency and capacity belong to the queue: "
                "backend.queue(name, concurrency=...)"
            )
        merged: TaskOptions = {**self._options, **options}
        if function is None:
            return Decorator(self._add, merged)
        if isinstance(function, str):
            raise InvalidJobError(f"task() got {function!r}; a queue is given as queue={function!r}")
        return self._add(function, merged)


class Tasks:
    """A collection of tasks, with no backend yet. ``backend.include(tasks)`` gives it one.

    ``queue`` is where the jobs of its tasks wait, unless a task names another.
    """

    def __init__(self, queue: str = "default") -> None:
        check_queue(queue)
        self.queue = queue
        self._tasks: dict[str, Task[..., Any]] = {}
        self._home: Home | None = None
        self.task = Decorator(self._add, {})
        """Decorate a function with it: see `Decorator`."""

    def __iter__(self) -> Iterator[Task[..., Any]]:
        return iter(list(self._tasks.values()))

    def __len__(self) -> int:
        return len(self._tasks)

    def __repr__(self) -> str:
        return f"<Tasks {', '.join(self._tasks) or 'none yet'}>"

    def _add(self, function: Any, options: TaskOptions) -> Task[..., Any]:
        task: Task[..., Any] = Task(function, self.queue, options)
        if isinstance(function, Task):
            raise InvalidJobError(f"{function.kind} is a task already")
        if task.kind in self._tasks:
            raise ListenerExistsError(
                f"there is a task {task.kind!r} already; give this one another name=, and take what it "
                "replaces out of its aliases"
            )
        if self._home is not None:
            task.backend = self._home
            self._home.listen_tasks([task])
        self._tasks[task.kind] = task
        return task

    @staticmethod
    def include_all(collections: Iterable[Any], home: Home) -> None:
        """Give collections a backend, all or none; called by `Backend.include`."""
        moved: list[tuple[Tasks, Home | None]] = []
        try:
            for tasks in collections:
                if not isinstance(tasks, Tasks):
                    raise InvalidJobError(
                        f"include() got {tasks!r:.100}; it takes collections of tasks, each made by "
                        "neoq.Tasks()"
                    )
                before = tasks.move(home)
                if before is not home:
                    moved.append((tasks, before))
            if new := [task for tasks, _ in moved for task in tasks]:
                home.listen_tasks(new)
        except BaseException:
            for tasks, before in moved:
                tasks.move_back(before)
            raise

    def move(self, home: Home) -> Home | None:
        """Let its tasks have a backend, and return that before, which has to be the same or shut down."""
        before = self._home
        if before is not None and before is not home and not before.closed:
            raise NeoqError(
                f"{self!r:.200} belongs to another backend, which is not shut down; a collection has one "
                "backend: shut the first one down, or make a collection for each"
            )
        self.move_back(home)
        return before

    def move_back(self, home: Home | None) -> None:
        """Let its tasks have the backend that they had before, or none."""
        self._home = home
        for task in self:
            task.backend = home
