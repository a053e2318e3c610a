"""Listener: how the jobs of one queue are run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from neoq.engine.coroutines import as_function
from neoq.engine.interactive import is_interactive, named_alike
from neoq.engine.results import not_begun, undone
from neoq.engine.surroundings import Surroundings
from neoq.errors import ListenerExistsError, NeoqError
from neoq.job import Job
from neoq.record import Unique
from neoq.retry import RetryPolicy
from neoq.wording.safe_logger import SafeLogger

if TYPE_CHECKING:
    import logging

    from neoq.clock import Clock
    from neoq.config import OnError
    from neoq.engine.scheduler import Cron
    from neoq.held.limits import Limits

Handler = Callable[[Job], Any]
Middleware = Callable[[Job, Handler], Any]


class Listener:
    """How a queue's jobs are run: the handler, and the options of `listen`."""

    def __init__(
        self,
        queue: str,
        handler: Handler,
        *,
        concurrency: int,
        timeout: float | None,
        capacity: int | None,
        max_retries: int,
        retry: RetryPolicy,
        on_error: OnError | None,
        clock: Clock,
        logger: logging.Logger | logging.LoggerAdapter[Any],
        failed: Callable[[], None],
        unique: Unique = True,
        max_result: int = 2**20,
        limits: Limits | None = None,
    ) -> None:
        self.queue = queue
        self.handler = handler
        self.concurrency = concurrency
        self.timeout = timeout
        self.capacity = capacity
        self.max_retries = max_retries
        self.retry = retry
        self.on_error = on_error
        self.clock = clock
        self.logger = SafeLogger(logger)
        self.failed = failed
        self.unique = unique
        self.max_result = max_result
        self.limits = limits  # of the queue, over all processes
        self.call = handler
        self.whose = "the queue's"  # its options are
        self.routes: Routes | None = None  # of a queue that holds tasks: who runs which kind
        self.surroundings = Surroundings()
        self.said_key_is_missing = False

    @property
    def kinds(self) -> frozenset[str] | None:
        """The kinds of job that are claimed; None: any."""
        return None if self.routes is None else self.routes.kinds

    def of(self, job: Job) -> Listener:
        """How this very job is run: on a queue of tasks that depends on its kind."""
        return self if self.routes is None else self.routes.by_kind.get(job.kind, self)

    def run_as(self, other: Listener) -> None:
        """Run jobs from now on as another listener would; `wrap` is to follow. Runners keep this object."""
        self.handler = other.handler
        self.timeout = other.timeout
        self.max_retries = other.max_retries
        self.retry = other.retry
        self.on_error = other.on_error
        self.surroundings = other.surroundings

    def replace(self, other: Listener) -> None:
        """Take over everything of another listener of the same backend; `wrap` is to follow."""
        self.run_as(other)
        self.concurrency = other.concurrency
        self.capacity = other.capacity
        self.unique = other.unique
        self.limits = other.limits

    def wrap(self, middleware: Sequence[Middleware]) -> None:
        """Put middleware around the handler, the first outermost."""
        call = as_function(self.handler)
        for layer in reversed(middleware):
            call = _around(layer, call)
        self.call = call

    def call_on_error(self, job: Job, error: BaseException) -> None:
        """Call on_error, if there is one; what it raises is logged and changes nothing."""
        if self.on_error is None:
            return
        try:
            self.surroundings.fresh().run(self.on_error, job, error)
        except BaseException as raised:
            self.log_failed_on_error(job, raised)

    def log_failed_on_error(self, job: Job, raised: BaseException) -> None:
        """Say that on_error has failed itself."""
        self.logger.error("on_error of queue %s failed for job %s", self.queue, job.id, exc_info=raised)


class Route(NamedTuple):
    """What runs the jobs of a task: a listener for its kinds, and that of its queue where it has none yet."""

    listener: Listener | None
    kinds: tuple[str, ...]
    crons: Sequence[Cron]
    of_queue: Listener


class Routes:
    """The listeners of a backend's tasks by kind. ``kinds`` is what its claims ask for."""

    def __init__(self) -> None:
        self.by_kind: dict[str | None, Listener] = {}
        self.kinds: frozenset[str] = frozenset()

    def with_more(self, routes: Iterable[Route]) -> dict[str | None, Listener]:
        """The listeners with those of more tasks; ListenerExistsError where another one has a kind."""
        by_kind = dict(self.by_kind)
        for listener, kinds, _, _ in routes:
            for kind in kinds:
                present = by_kind.get(kind)
                assert listener is not None
                if present is not None and not (
                    is_interactive() and named_alike(present.handler, listener.handler)
                ):
                    raise ListenerExistsError(
                        f"there is a task {kind!r} already; give this one another name=, and take what it "
                        "replaces out of its aliases",
                        queue=listener.queue,
                    )
                by_kind[kind] = listener
        return by_kind

    def take(self, by_kind: dict[str | None, Listener]) -> None:
        """Use the listeners of `with_more`."""
        self.by_kind = by_kind
        self.kinds = frozenset(kind for kind in by_kind if kind is not None)


def no_such_task(job: Job) -> Any:
    """The handler of a queue of tasks, for a job of a kind that it no longer knows."""
    raise NeoqError(f"there is no task of kind {job.kind} here any more", queue=job.queue, job_id=job.id)


def _around(middleware: Middleware, inner: Handler) -> Handler:
    def call(job: Job) -> Any:
        left: Any = None  # that the handler has not done, and middleware may drop

        def call_next(given: Job | None = None) -> Any:
            nonlocal left
            result = inner(job if given is None else given)
            if result is not None and not_begun(result):
                left = result
            return result

        result = middleware(job, call_next)
        if left is not None and result is not left and not_begun(left):
            error = undone(left, job.queue)
            if error is not None:
                raise error
        return result

    return call
