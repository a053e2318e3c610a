"""Backend: the public face of the library, the same above every store."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Self, Unpack, overload

from neoq.batch import Batch, BatchMiddleware, given, listed, refreshed
from neoq.clock import Clock
from neoq.config import Config, query_of
from neoq.engine.engine import Engine
from neoq.engine.held_operations import HeldOperations
from neoq.engine.listener import Middleware
from neoq.engine.report import ShutdownReport
from neoq.engine.signals import run_until_signalled
from neoq.errors import ConfigError, InvalidJobError
from neoq.job import (
    Job,
    call_of,
    plain,
    plain_payloads,
    queue_of,
)
from neoq.listening import Listening
from neoq.operations import Operations, seconds_of
from neoq.payload import encode_payload, refuse_size
from neoq.record import JobOptions
from neoq.store import DirectStore, Store
from neoq.threads.boundary import entrances
from neoq.wording.redact import HOW_TO_WRITE

if TYPE_CHECKING:
    from collections.abc import Mapping
    from urllib.parse import SplitResult

    from neoq.tasks import Tasks
    from neoq.tasks.collection import Decorator

EnqueueMiddleware = Callable[[Job, Callable[..., Job]], Job]


@entrances()
class Backend(Listening, Operations, HeldOperations):
    """Background jobs: listen, enqueue, shut down. Make one of its subclasses, or call `neoq.connect`.

    All methods may be called from any thread. As a context manager it runs jobs inside the block, unless
    ``autostart`` is False. It shuts down at the end, and runs what is ready first unless the block ends by an
    exception.
    """

    config_class: ClassVar[type[Config]] = Config
    store_class: ClassVar[type[Store]]
    features: ClassVar[frozenset[str]] = frozenset()
    """What its store offers: see `Store.features`."""

    store: Store
    """Where its jobs are kept. For those who write stores, and for tests; see docs/writing-a-backend.md."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "store_class" in vars(cls):
            cls.features = cls.store_class.features

    def __init__(self, **options: Any) -> None:
        self._set_up(self.config_class.load(options))

    @classmethod
    def from_url(cls, url: str, options: Mapping[str, Any]) -> Self:
        """A backend as its URL and keywords describe it; called by `neoq.connect`."""
        from urllib.parse import urlsplit

        try:
            parts = urlsplit(url)
        except ValueError:  # which may repeat a password
            parts = None
        if parts is None:
            raise ConfigError([f"the URL cannot be read: {HOW_TO_WRITE}"])
        query = query_of(parts.query)
        return cls._of(cls.config_class.load(cls.url_settings(parts) | dict(options), query))

    @classmethod
    def _of(cls, config: Config) -> Self:
        backend = cls.__new__(cls)
        cls._set_up(backend, config)
        return backend

    @classmethod
    def url_settings(cls, parts: SplitResult) -> dict[str, Any]:
        """The settings in a URL's host, path and the like; ConfigError for what it cannot mean."""
        if parts.netloc or parts.path or parts.fragment:
            raise ConfigError(
                [
                    f"a {parts.scheme}:// URL takes no host, path or fragment, only settings: {parts.scheme}://?..."
                ]
            )
        return {}

    def _set_up(self, config: Config) -> None:
        self.config = config
        self.engine = Engine(self.config, self.store_class)
        self.store = self.engine.store
        self._direct = self.store if isinstance(self.store, DirectStore) else None
        self._own_tasks: Tasks | None = None
        self._queue_options = {}
        self._enqueue_middleware: list[EnqueueMiddleware] = []
        self._batch_middleware: list[BatchMiddleware] = []
        self._max_payload = self.config.max_payload
        self.engine.holding.prepare = self._made_ready
        self._look_at_enqueue()

    def __repr__(self) -> str:
        settings = {"job_check_interval": self.config.job_check_interval}
        settings["future_job_window"] = self.config.future_job_window
        settings |= self.config.changed()
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in settings.items())})"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a backend cannot be pickled or copied: give its URL to the other process, and make one there"
        )

    @property
    def clock(self) -> Clock:
        """What it takes for the time; assign an object with ``time`` and ``monotonic`` to change it."""
        return self.engine.clock

    @clock.setter
    def clock(self, clock: Clock) -> None:
        self.engine.clock.follow(clock)

    @property
    def task(self) -> Decorator:
        """Make a function a task of this backend: ``@backend.task``, with or without options.

        See `neoq.tasks.collection.Decorator` for these. Tasks that no backend has yet are in a `neoq.Tasks`.
        """
        if self._own_tasks is None:
            from neoq.tasks import Tasks

            tasks = Tasks()
            Tasks.include_all([tasks], self)
            self._own_tasks = tasks
        return self._own_tasks.task

    def include(self, *collections: Tasks) -> None:
        """Run the tasks of collections, and send their jobs here; also those that are added to them later.

        All are included, or none where it raises.

        Raises ListenerExistsError for a queue that has a plain handler, and for a name that is taken;
        NeoqError for a collection that belongs to another backend, unless that was shut down.
        """
        from neoq.tasks import Tasks

        Tasks.include_all(collections, self)

    @property
    def closed(self) -> bool:
        """Whether it was shut down, or is about to be."""
        return self.engine.closed

    def use(self, middleware: Middleware) -> None:
        """Put ``middleware(job, call_next) -> result`` around every attempt; the first is outermost."""
        _check_callable("middleware", middleware)
        self.engine.use_middleware(middleware)

    def use_enqueue(self, middleware: EnqueueMiddleware) -> None:
        """Put ``middleware(job, call_next) -> job`` around every enqueue; the first is outermost.

        It sees the job before it is stored. In a bulk enqueue ``call_next`` returns the job unstored, and
        one for which it is not called is left out.
        """
        _check_callable("middleware", middleware)
        self._enqueue_middleware.append(middleware)
        self._look_at_enqueue()

    def use_batch(self, middleware: BatchMiddleware) -> None:
        """Put ``middleware(batch, call_next) -> jobs`` around every call of enqueue and of enqueue_many.

        The first is outermost, and all are around those of `use_enqueue`. It gets a `neoq.batch.Batch`: the
        jobs, which are not stored yet, and how the caller enqueues them. ``call_next()`` stores them.
        """
        _check_callable("middleware", middleware)
        self._batch_middleware.append(middleware)
        self._look_at_enqueue()

    def _look_at_enqueue(self) -> None:
        """Learn whether a job may be stored as it is given, as most are."""
        uniques = [self.config.unique, *(one.unique for one in self.engine.listeners.values())]
        self._defaults = any(unique is not True for unique in uniques)
        self._wrapped = bool(self._enqueue_middleware or self._batch_middleware)
        self._plainly = not (self._defaults or self._wrapped)

    # -- enqueue -----------------------------------------------------------------------------------------

    @overload
    def enqueue(
        self,
        queue: str,
        payload: Mapping[str, Any] | None = None,
        *,
        transaction: Any = None,
        **options: Unpack[JobOptions],
    ) -> Job: ...
    @overload
    def enqueue(self, queue: Job, *, transaction: Any = None) -> Job: ...
    def enqueue(
        self,
        queue: str | Job,
        payload: Mapping[str, Any] | None = None,
        *,
        transaction: Any = None,
        **options: Unpack[JobOptions],
    ) -> Job:
        """Store a job and return a snapshot of it; takes a `Job`, or a queue, a payload and Job's keywords.

        The payload is serialised now: later changes to it are not seen. Where an unfinished job has the same
        fingerprint that one is returned, with ``duplicate=True`` and its own uid, or none (or as
        ``on_duplicate`` says). A job with a ``uid`` meets it only where it asks for ``unique`` as well.
        ``transaction`` is a connection of yours whose commit the job waits for (backends that share one).

        Raises InvalidJobError, PayloadError, NoListenerError, DuplicateJobError, QueueFullError,
        BackendClosedError, BackendUnavailable.
        """
        if options or queue.__class__ is not str or not self._plainly:
            return self._enqueue_special(queue, payload, options, transaction)
        engine = self.engine
        if engine.needs_check or queue not in engine.pools:
            engine.check_enqueue(queue)
        data = encode_payload(payload, queue)
        if len(data) > self._max_payload:
            refuse_size(data, self._max_payload, queue)
        now = engine.clock.time()
        if self._direct is None or transaction is not None:
            return self._add(plain(queue, data, now), transaction)
        job = self._direct.add_plain(queue, data, now)
        if job.body is not data and job.duplicate:  # the first is looked up in a tenth of the time
            engine.note_duplicate(job)
        else:
            engine.meter.enqueued[queue] += 1
        return job

    def enqueue_call(self, queue: str, kind: str, data: bytes) -> Job:
        """Store the call of a task that has no options and is not unique; used by `Task.enqueue`."""
        engine = self.engine
        if self._wrapped:
            return self._enqueue_special(call_of(queue, data, 0.0, kind), None, {}, None)
        if engine.needs_check or queue not in engine.pools:
            engine.check_enqueue(queue)
        if len(data) > self._max_payload:
            refuse_size(data, self._max_payload, queue)
        now = engine.clock.time()
        if self._direct is None:
            return self._add(call_of(queue, data, now, kind), None)
        job = self._direct.add_call(queue, data, now, kind)
        engine.meter.enqueued[queue] += 1
        return job

    def _enqueue_special(self, queue: Any, payload: Any, options: JobOptions, transaction: Any) -> Job:
        job = given(queue, payload, options)
        if self._defaults or job.kind is not None:
            self._say_unique(job)
        if self._batch_middleware:
            batch = Batch([job], many=False, transaction=transaction)
            return batch.through(self._batch_middleware, self._store_one)[0]
        return self._enqueue_one(job, transaction)

    def _store_one(self, batch: Batch) -> list[Job]:
        (job,) = batch.jobs
        return [self._enqueue_one(job, batch.transaction)]

    def _enqueue_one(self, job: Job, transaction: Any) -> Job:
        if not self._enqueue_middleware:
            return self._enqueue(job, transaction)

        def store(given: Job | None = None) -> Job:
            last = job if given is None else given
            last.described()
            return self._enqueue(last, transaction)

        return self._through_middleware(job, store)

    def _enqueue(self, job: Job, transaction: Any) -> Job:
        engine = self.engine
        if engine.needs_check or job.queue not in engine.pools:
            engine.check_enqueue(job.queue)
        job.prepare(engine.clock.time(), self._max_payload)
        return self._add(job, transaction)

    def _add(self, job: Job, transaction: Any) -> Job:
        added = self.store.add((job,), token=self.store.new_token(), transaction=transaction)[0]
        if added.duplicate:
            self.engine.note_duplicate(added)
        else:
            self.engine.meter.enqueued[added.queue] += 1
        return added

    def _say_unique(self, job: Job) -> None:
        """Let a job that does not say how long it is unique have that of its queue."""
        listener = self.engine.listeners.get(job.queue)
        if listener is not None and job.kind is not None:
            listener = listener.of(job)
        unique = self.config.unique if listener is None else listener.unique
        if job.says_unique or unique is True:
            return
        job.unique = unique
        job.special = True

    def _through_middleware(self, job: Job, last: Callable[..., Job]) -> Job:
        if type(job.parsed) is dict:
            job.parsed = dict(job.parsed)  # middleware may add to it; the caller's own stays as it is
        call = last
        for layer in reversed(self._enqueue_middleware):
            call = _around(layer, job, call)
        return call()

    def enqueue_many(self, jobs: Iterable[Job], *, transaction: Any = None) -> list[Job]:
        """Store jobs in their order, all or none, and return a snapshot of each.

        Of equal fingerprints the later are duplicates of the first. Raises what `enqueue` raises; a bad job
        is named by its place in the list.
        """
        if self.engine.needs_check:
            self.engine.ensure_open_or_in_handler()
        batch = listed(jobs)
        payloads = plain_payloads(batch) if self._plainly else None
        if payloads is None:
            batch = refreshed(batch)
            for job in batch:
                if self._defaults or job.kind is not None:
                    self._say_unique(job)
            if self._batch_middleware and batch:
                whole = Batch(batch, many=True, transaction=transaction)
                return whole.through(self._batch_middleware, self._store_many)
        return self._enqueue_batch(batch, payloads, transaction)

    def _made_ready(self, jobs: list[Job]) -> list[Job]:
        """Jobs as `enqueue_many` would store them, for those that are stored in another way."""
        ready: list[Job] = []

        def keep(batch: Batch) -> list[Job]:
            found = batch.jobs
            if self._enqueue_middleware:
                found = self._batch_through_middleware(found)
            self._prepare_batch(found, None)
            ready.extend(found)
            return found

        for job in jobs:
            if self._defaults or job.kind is not None:
                self._say_unique(job)
        if jobs:
            Batch(jobs, many=True).through(self._batch_middleware, keep)
        return ready

    def _store_many(self, batch: Batch) -> list[Job]:
        return self._enqueue_batch(batch.jobs, None, batch.transaction)

    def _enqueue_batch(self, batch: list[Job], payloads: list[bytes] | None, transaction: Any) -> list[Job]:
        if self._enqueue_middleware:
            batch = self._batch_through_middleware(batch)
        queues = self._prepare_batch(batch, payloads)
        if not batch:
            return []
        added = self.store.add(batch, token=self.store.new_token(), transaction=transaction)
        if added != batch:  # some are not the jobs that were given
            self.engine.note_added(added)
        elif len(queues) > 1:
            self.engine.meter.note_enqueued(added)
        else:  # mostly, and then no job is looked at
            number = len(added)  # no call may come between the read and the write
            self.engine.meter.enqueued[added[0].queue] += number
        return added

    def _prepare_batch(self, batch: list[Job], payloads: list[bytes] | None) -> set[str]:
        """Make jobs ready for the store; return their queues."""
        now, limit = self.engine.clock.time(), self._max_payload
        queues = set(map(queue_of, batch))
        for queue in queues:
            if queue not in self.engine.pools:
                self.engine.require_listener(queue)
        if payloads and max(map(len, payloads)) <= limit:
            for job, data in zip(batch, payloads, strict=True):
                job.body = data
                job.parsed = None
                job.due = job.created = now
            return queues
        for place, job in enumerate(batch):
            try:
                job.prepare(now, limit)
            except InvalidJobError as error:
                if len(batch) > 1:
                    error.args = (f"job {place} of the list: {error}",)
                raise
        return queues

    def _batch_through_middleware(self, batch: list[Job]) -> list[Job]:
        kept: list[Job] = []

        def keep(job: Job) -> Callable[..., Job]:
            def last(given: Job | None = None) -> Job:
                kept.append(job if given is None else given)
                kept[-1].described()
                return kept[-1]

            return last

        for job in batch:
            self._through_middleware(job, keep(job))
        return kept

    # -- start and stop ----------------------------------------------------------------------------------

    def start(self, queues: Iterable[str] | None = None) -> None:
        """Begin to run jobs, unless listening has: on a durable store it does not by default. Idempotent.

        ``queues`` are those to run, of those that have handlers here; None: all. Crons of the others do not
        tick here. Raises InvalidJobError for one that has none.
        """
        self.engine.start(queues)

    def shutdown(self, timeout: timedelta | float | None = None, *, drain: bool = False) -> ShutdownReport:
        """Shut down gracefully, and report what became of each job.

        Stops claiming, waits for running jobs up to ``timeout`` (default ``shutdown_timeout``), then
        interrupts them; the whole call takes at most a second more, and five beyond where the store neither
        answers nor refuses. ``drain`` runs what is ready first, in the same time. Idempotent and safe from
        any thread. From a handler, its own job is left to end. From a signal handler that came while this
        thread was inside neoq it only asks a thread to do it, and the report fills later.
        """
        return self.engine.shutdown(seconds_of(timeout), drain=drain)

    def run(self, queues: Iterable[str] | None = None) -> ShutdownReport:
        """Run jobs until SIGTERM or SIGINT, then shut down gracefully; for the main thread of a worker.

        ``queues`` are those to run, as for `start`.
        A second signal, half a second later or more, does not let running jobs end: it interrupts them.
        """
        return run_until_signalled(self.engine, queues)

    def drain(self, timeout: timedelta | float | None = None) -> bool:
        """Wait until every job that is ready or running here is settled; False if ``timeout`` comes first.

        Future, retrying and paused jobs are not waited for, nor queues without a listener here.
        """
        return self.engine.drain(seconds_of(timeout))

    def __enter__(self) -> Self:
        if self.config.autostart is not False:
            self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown(drain=kind is None)


def _around(middleware: EnqueueMiddleware, job: Job, inner: Callable[..., Job]) -> Callable[..., Job]:
    def call(given: Job | None = None) -> Job:
        current = job if given is None else given

        def call_next(other: Job | None = None) -> Job:
            return inner(current if other is None else other)

        return middleware(current, call_next)

    return call


def _check_callable(name: str, value: Any) -> None:
    if not callable(value):
        raise InvalidJobError(f"{name} is {value!r}; it takes a function of job and call_next")
