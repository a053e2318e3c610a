"""Listening: what a backend runs, and under which settings; the same above every store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta, tzinfo
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, overload

from neoq.checks import check_queue
from neoq.config import Config, OnError
from neoq.engine.engine import Engine
from neoq.engine.listener import Handler, Listener, Route, no_such_task
from neoq.engine.many import calling_many, checked_many
from neoq.engine.scheduler import Cron
from neoq.errors import InvalidJobError
from neoq.held.limit_options import (
    LimitOptions,
    limits_of,
    names_limits,
    refuse_unknown_limits,
    words_for,
)
from neoq.held.limits import Limits
from neoq.record import Unique
from neoq.retry import RetryPolicy
from neoq.threads.boundary import entrances

if TYPE_CHECKING:
    from neoq.tasks import Task

AnyHandler = TypeVar("AnyHandler", bound=Handler)
_NOT_GIVEN: Any = object()


class ListenOptions(LimitOptions, total=False):
    """The keywords of ``listen``; what is not given comes from the backend's `Config`."""

    concurrency: int
    timeout: timedelta | float | None
    capacity: int | None
    max_retries: int
    retry: RetryPolicy
    on_error: OnError | None
    unique: Unique


@entrances()
class Listening:
    """How a backend learns what to run; see `neoq.backend.Backend`."""

    config: Config
    engine: Engine

    _queue_options: dict[str, ListenOptions]

    @overload
    def listen(self, queue: str, handler: AnyHandler, **options: Unpack[ListenOptions]) -> AnyHandler: ...
    @overload
    def listen(self, queue: str, **options: Unpack[ListenOptions]) -> Callable[[AnyHandler], AnyHandler]: ...
    def listen(self, queue: str, handler: Any = _NOT_GIVEN, **options: Unpack[ListenOptions]) -> Any:
        """Run a queue's jobs with ``handler(job)``; without a handler it is a decorator.

        ``concurrency`` runners at most; ``timeout`` an attempt in seconds or as a timedelta (None: for
        ever); ``capacity`` ready jobs before producers wait; ``max_retries`` and ``retry`` for attempts that
        fail; ``on_error(job, exception)`` after each of these; ``unique`` of jobs that this process enqueues
        there and that do not say it themselves. What is not given comes from the Config.

        The others are limits of the queue over all processes, kept in its store. ``ordered`` runs the jobs of
        one ``key`` one after another, in their order, and ``on_dead`` says whether a dead one holds its line
        ("hold") or not ("go on"). ``per_key`` of one key and ``max_running`` in all may run at once.
        ``rate`` and ``rate_per_key`` (see `Rate`) limit starts. ``aging`` is the time of waiting that counts
        as one level of priority.

        Raises ListenerExistsError for a queue that has a handler, InvalidJobError for a bad argument.
        """
        check_queue(queue)
        if handler is _NOT_GIVEN or handler is None:
            return lambda function: self.listen(queue, function, **options)
        self.engine.listen(self._listener(queue, handler, options))
        self._look_at_enqueue()
        return handler

    def listen_many(
        self,
        queue: str,
        handler: Any = _NOT_GIVEN,
        *,
        size: int = 100,
        wait: timedelta | float = 1.0,
        by_key: bool = False,
        **options: Unpack[ListenOptions],
    ) -> Any:
        """Run a queue's jobs with ``handler(jobs)``, many in one call; without a handler it is a decorator.

        A call has at most ``size`` jobs: those that came within ``wait`` seconds after its first. With
        ``by_key`` it has those of one key only. Each job keeps its own fate: what the handler raises fails
        all, `Job.fail` one; the others have succeeded when it returns. ``timeout`` is that of a call. A job
        that is cancelled meanwhile has `Job.cancelled`. There is no middleware and there are no steps. The
        other options are those of `listen`.
        """
        check_queue(queue)
        many = checked_many(size, wait, by_key)
        if handler is _NOT_GIVEN or handler is None:
            return lambda function: self.listen_many(
                queue, function, size=size, wait=wait, by_key=by_key, **options
            )
        self.engine.listen(calling_many(self._listener(queue, handler, options, "the list of jobs"), many))
        self._look_at_enqueue()
        return handler

    @overload
    def listen_cron(
        self,
        spec: str,
        handler: AnyHandler,
        *,
        queue: str | None = None,
        timezone: str | tzinfo = ...,
        catch_up: bool = False,
        **options: Unpack[ListenOptions],
    ) -> AnyHandler: ...
    @overload
    def listen_cron(
        self,
        spec: str,
        *,
        queue: str | None = None,
        timezone: str | tzinfo = ...,
        catch_up: bool = False,
        **options: Unpack[ListenOptions],
    ) -> Callable[[AnyHandler], AnyHandler]: ...
    def listen_cron(
        self,
        spec: str,
        handler: Any = _NOT_GIVEN,
        *,
        queue: str | None = None,
        timezone: str | tzinfo = _NOT_GIVEN,
        catch_up: bool = False,
        **options: Unpack[ListenOptions],
    ) -> Any:
        """Run ``handler(job)`` whenever a cron spec says; without a handler it is a decorator.

        ``job.payload["scheduled_at"]`` is the tick, ISO 8601 in UTC. The queue is named after the spec
        unless ``queue`` names it. A failed tick is not retried unless ``max_retries`` says so.
        ``catch_up`` enqueues one tick for those missed while nothing ran (durable backends).

        Raises CronError for a bad spec or timezone, ListenerExistsError where the name is taken.
        """
        from neoq.cron import Schedule

        _checked_catch_up(catch_up)
        schedule = Schedule(spec, self.config.timezone if timezone is _NOT_GIVEN else timezone)
        name = schedule.queue_name if queue is None else queue
        if handler is _NOT_GIVEN or handler is None:
            return lambda function: self.listen_cron(
                spec, function, queue=queue, timezone=schedule.timezone, catch_up=catch_up, **options
            )
        options.setdefault("max_retries", 0)
        cron = Cron(name, schedule, catch_up=catch_up)
        self.engine.listen(self._listener(name, handler, options), cron)
        self._look_at_enqueue()
        return handler

    def _listener(self, queue: str, handler: Any, options: ListenOptions, takes: str = "the job") -> Listener:
        check_queue(queue)
        _check_handler(queue, handler, takes)
        config = self.config
        unknown = set(options) - ListenOptions.__annotations__.keys()
        if unknown:
            from neoq.wording.remedies import of_listen  # where something is refused, and no sooner

            of_limits = LimitOptions.__annotations__
            usual = [name for name in ListenOptions.__annotations__ if name not in of_limits]
            known = [*usual, *of_limits, "timezone", "catch_up"]
            told = [f"{name}: {of_listen(name, known)}" for name in sorted(unknown)]
            raise InvalidJobError(f"listen does not know {'; '.join(told)}", queue=queue)
        retry = options.get("retry", RetryPolicy())
        if not isinstance(retry, RetryPolicy):
            raise InvalidJobError(f"retry is {retry!r}; it takes a RetryPolicy", queue=queue)
        limits = limits_of(names_limits(options), queue)
        if limits is not None:
            self.engine.holding.refuse_limits(limits, queue)
        own = {"retry", "capacity", *LimitOptions.__annotations__}
        given = {name: options[name] for name in options if name not in own}  # type: ignore[literal-required]
        if "capacity" in options:
            given["queue_capacity"] = options["capacity"]
        checked = config.replace(given, queue)
        return Listener(
            queue,
            handler,
            concurrency=checked.concurrency,
            timeout=checked.timeout,
            capacity=checked.queue_capacity,
            max_retries=checked.max_retries,
            retry=retry,
            on_error=checked.on_error,
            clock=self.engine.clock,
            logger=config.logger,
            failed=self.engine.count_failure,
            unique=checked.unique,
            max_result=config.max_payload,
            limits=limits,
        )

    def queue(
        self,
        name: str,
        *,
        concurrency: int = _NOT_GIVEN,
        capacity: int | None = _NOT_GIVEN,
        **limits: Unpack[LimitOptions],
    ) -> None:
        """Say how many jobs of a queue of tasks run at once, how many may be ready, and its limits."""
        check_queue(name)
        refuse_unknown_limits(limits)
        given: Any = {**limits}
        if concurrency is not _NOT_GIVEN:
            given["concurrency"] = concurrency
        if capacity is not _NOT_GIVEN:
            given["capacity"] = capacity
        present = self.engine.listeners.get(name)
        if present is not None and present.routes is None:
            raise InvalidJobError(
                f"queue {name!r} has a plain handler: give concurrency and capacity to listen()", queue=name
            )
        options: ListenOptions = {**self._queue_options.get(name, {}), **given}
        listener = self._listener(name, no_such_task, options)
        self._queue_options[name] = options
        if present is not None:
            self.engine.configure(listener)

    def listen_tasks(self, tasks: Sequence[Task[..., Any]]) -> None:
        """Run the jobs of tasks: of all, or of none where it raises. Called as collections are included."""
        routes = [self._route_of(task) for task in tasks]
        known: dict[str, Limits] = {}
        for route in routes:
            queue, limits = route.of_queue.queue, route.of_queue.limits
            present = self.engine.listeners.get(queue)
            other = known.get(queue) or (None if present is None else present.limits)
            if limits is not None and other is not None and limits != other:
                raise InvalidJobError(
                    f"two tasks give queue {queue!r} different limits ({words_for(limits)}; "
                    f"{words_for(other)}): give all tasks of a queue the same, or each a queue of its own",
                    queue=queue,
                )
            if limits is not None:
                known[queue] = limits
        self.engine.listen_tasks(routes)

    def _route_of(self, task: Task[..., Any]) -> Route:
        options = task.options
        crons = self._crons_of(task) if "cron" in options else []
        names = ("timeout", "max_retries", "retry", "on_error")
        given: Any = {name: value for name, value in options.items() if name in names}
        given["unique"] = True if isinstance(task.unique, timedelta) else task.unique
        listener = self._listener(task.queue, task.handler, given)
        listener.whose = "the task's"
        of_queue = self._holder_of(task.queue, names_limits(options))
        listener.limits = of_queue.limits
        return Route(listener, (task.kind, *task.aliases), crons, of_queue)

    def hold_tasks(self, queue: str) -> None:
        """Let a queue hold tasks before it has one of its own; for integrations with frameworks."""
        if queue not in self.engine.listeners:
            self.engine.listen_tasks([Route(None, (), (), self._holder_of(queue))])

    def _holder_of(self, queue: str, limits: Any = None) -> Listener:
        """The listener of a queue that holds tasks."""
        options: Any = {**self._queue_options.get(queue, {}), **(limits or {})}
        return self._listener(queue, no_such_task, options)

    def _crons_of(self, task: Task[..., Any]) -> list[Cron]:
        """The schedules of a task: a failed tick is not retried unless the task says so."""
        from neoq.cron import Schedule

        options = task.options
        specs = (options["cron"],) if isinstance(options["cron"], str) else tuple(options["cron"])
        zone = options.get("timezone", self.config.timezone)
        catch_up = _checked_catch_up(options.get("catch_up", False))
        crons = []
        for spec in specs:
            name = task.kind if len(specs) == 1 else f"{task.kind} {spec}"
            call = partial(task.tick, name)
            call()  # its arguments are checked here, and not at the first tick
            crons.append(Cron(task.queue, Schedule(spec, zone), catch_up=catch_up, name=name, call=call))
        return crons

    def _look_at_enqueue(self) -> None:
        """Learn how a job may be stored now that there is another listener."""


def _check_handler(queue: str, handler: Any, takes: str) -> None:
    import inspect

    problem = None
    if not callable(handler):
        problem = "is not callable"
    elif _is_generator_function(handler) or _is_generator_function(type(handler).__call__):
        problem = "is a generator function, whose body a call does not run; take out the yield"
    else:
        try:
            inspect.signature(handler).bind(None)
        except TypeError:
            problem = (
                f"cannot be called with one argument, {takes}: its signature is {inspect.signature(handler)}"
            )
        except ValueError:
            pass  # written in C, with no signature to look at
    if problem is not None:
        raise InvalidJobError(f"the handler {handler!r} of queue {queue!r} {problem}", queue=queue)


def _is_generator_function(function: Any) -> bool:
    import inspect

    return inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)


def _checked_catch_up(catch_up: Any) -> bool:
    if not isinstance(catch_up, bool):
        raise InvalidJobError(f"catch_up is {catch_up!r}; it takes True or False")
    return catch_up
