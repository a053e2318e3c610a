"""OpenTelemetry: a span for each enqueue and for each attempt, joined by what travels in the job's ``meta``.

Names and attributes follow the semantic conventions for messaging, version 1.44. This module imports
opentelemetry-api, and nothing else of neoq imports this module.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from typing import Any, Literal
from weakref import WeakSet

import neoq
from neoq.backend import Backend
from neoq.batch import Batch
from neoq.errors import ConfigError, JobCancelled, NeoqError, ShutdownRequested, Snooze, Suspended
from neoq.job import Job
from neoq.wording.bounds import MAX_TYPE, class_name, cut, full_name

try:
    from opentelemetry import context as contexts
    from opentelemetry import propagate, trace
    from opentelemetry.context import Context
    from opentelemetry.trace import Link, Span, SpanKind, StatusCode, Tracer, TracerProvider
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "opentelemetry":
        raise
    raise ModuleNotFoundError(
        "neoq.tracing needs opentelemetry-api, which is not installed: pip install 'neoq[tracing]'",
        name="opentelemetry",
    ) from None

Relation = Literal["auto", "parent", "link", "none"]

SCHEMA = "https://opentelemetry.io/schemas/1.44.0"
CHILD_FOR = 60.0  # seconds from the send in which a first attempt belongs to the trace of its sender
MAX_DESCRIPTION = 1000  # bytes of an error's text in the status of a span
NOTE = "neoq.sent"  # in meta: "many", or when a future job was to start; plain jobs have none
TOLERANCE = 0.001  # seconds by which a time may differ that has been in a store

RELATIONS = ("auto", "parent", "link", "none")
_traced: WeakSet[Backend] = WeakSet()
_lock = threading.Lock()


def instrument(
    backend: Backend,
    relation: Relation = "auto",
    *,
    create_spans: bool = False,
    tracer_provider: TracerProvider | None = None,
) -> None:
    """Make spans for what a backend enqueues and runs from now on.

    ``relation`` says how the span of an attempt belongs to that of its enqueue. "auto": the first attempt of
    a job that was enqueued alone is a child if it starts within 60 seconds, and every other attempt begins a
    trace of its own with a link. "parent": always a child. "link": always a link. "none": neither.
    With ``create_spans`` each job of an ``enqueue_many`` has a span of its own. ``tracer_provider`` takes the
    place of OpenTelemetry's global one.

    Raises ConfigError for another relation, NeoqError if this backend is traced already.
    """
    if relation not in RELATIONS:
        raise ConfigError([f"relation is {relation!r}; it takes {', '.join(map(repr, RELATIONS))}"])
    with _lock:
        if backend in _traced:
            raise NeoqError(
                "this backend is traced already: call neoq.tracing.instrument once for each backend"
            )
        _traced.add(backend)
    tracer = trace.get_tracer("neoq", neoq.__version__, tracer_provider, SCHEMA)
    backend.use_batch(_Enqueues(tracer, create_spans))
    backend.use(_Attempts(tracer, relation))


class _Enqueues:
    """Middleware: a span around each call of enqueue and enqueue_many."""

    def __init__(self, tracer: Tracer, create_spans: bool) -> None:
        self._tracer = tracer
        self._create_spans = create_spans

    def __call__(self, batch: Batch, call_next: Callable[[], list[Job]]) -> list[Job]:
        # In a transaction of the caller's it is the caller's commit that sends the jobs.
        operation = "send" if batch.transaction is None else "create"
        fields = propagate.get_global_textmap().fields
        free = [job for job in batch.jobs if not _has_carrier(job, fields)]
        attributes = _attributes(operation, {job.queue for job in batch.jobs})
        if batch.many:
            attributes["messaging.batch.message_count"] = len(batch.jobs)
        # PRODUCER is the span whose context the jobs carry, and which stands for one message.
        producer = operation == "create" or (free and not batch.many)
        with self._tracer.start_as_current_span(
            _name(operation, attributes),
            kind=SpanKind.PRODUCER if producer else SpanKind.CLIENT,
            attributes=attributes,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            self._send_along(free, batch.many, fields)
            try:
                added = call_next()
            except BaseException as error:
                _failed(span, error)
                raise
            if not batch.many and span.is_recording():
                span.set_attributes(_identity(added[0]))
            return added

    def _send_along(self, jobs: list[Job], many: bool, fields: set[str]) -> None:
        """Put the current span into the meta of jobs, or a span of each job's own."""
        current: dict[str, str] = {}
        propagate.inject(current)
        for job in jobs:
            carrier = self._created(job) if many and self._create_spans else dict(current)
            if not carrier:
                continue
            at, wait = job.asked_run_after
            if many and not self._create_spans:
                carrier[NOTE] = "many"
            elif at is not None or wait is not None:
                carrier[NOTE] = f"+{wait!r}" if at is None else repr(at)
            kept = {key: value for key, value in job.meta.items() if key not in fields and key != NOTE}
            job.meta = {**kept, **carrier}

    def _created(self, job: Job) -> dict[str, str]:
        """Make a span for one job of many, and return what leads to it."""
        attributes, carrier = _attributes("create", {job.queue}), dict[str, str]()
        span = self._tracer.start_span(
            _name("create", attributes), kind=SpanKind.PRODUCER, attributes=attributes
        )
        propagate.inject(carrier, trace.set_span_in_context(span))
        span.end()
        return carrier


class _Attempts:
    """Middleware: a span around each attempt."""

    def __init__(self, tracer: Tracer, relation: Relation) -> None:
        self._tracer = tracer
        self._relation = relation

    def __call__(self, job: Job, call_next: Callable[..., Any]) -> Any:
        context, links = self._origin(job)
        attributes = _attributes("process", {job.queue}) | _identity(job)
        attributes["neoq.job.attempt"] = job.attempt
        if job.worker is not None:
            attributes["messaging.client.id"] = job.worker
        span = self._tracer.start_span(
            _name("process", attributes),
            context,
            kind=SpanKind.CONSUMER,
            attributes=attributes,
            links=links,
        )
        # It stays attached: neoq's own line about a failure, and on_error, belong to the trace, too. Each
        # attempt has context variables of its own, so that this ends with the attempt.
        contexts.attach(trace.set_span_in_context(span, context))
        try:
            return call_next(job)
        except BaseException as error:
            _failed(span, error)
            raise
        finally:
            running = neoq.current_job()
            with nullcontext() if running is None else running.shield():  # a processor may hold a lock
                span.end()

    def _origin(self, job: Job) -> tuple[Context, list[Link]]:
        """The context that an attempt starts in, and the links of its span.

        What was current where the queue was listened to has nothing to do with it.
        """
        context = propagate.extract(job.meta, Context())
        sent = trace.get_current_span(context).get_span_context()
        if not sent.is_valid or self._is_child(job):
            return context, []
        links = [] if self._relation == "none" else [Link(sent)]
        return trace.set_span_in_context(trace.INVALID_SPAN, context), links

    def _is_child(self, job: Job) -> bool:
        if self._relation != "auto":
            return self._relation == "parent"
        return _begins(job)


def _begins(job: Job) -> bool:
    """Whether this is the first start of a job that was enqueued alone, less than a minute ago.

    A retry and a worker's death are counted. A snooze, and a retry by hand, change when the job is due.
    """
    created, due, started = job.created_at, job.run_after, job.ran_at
    if job.attempt > 1 or job.crashes or created is None or due is None or started is None:
        return False
    if (started - created).total_seconds() > CHILD_FOR:
        return False
    note = job.meta.get(NOTE, "+0")
    try:
        asked = created.timestamp() + float(note) if note.startswith("+") else float(note)
    except ValueError:  # "many", or not ours
        return False
    return abs(due.timestamp() - asked) <= TOLERANCE


def _has_carrier(job: Job, fields: set[str]) -> bool:
    """Whether the caller has given a job a trace of its own.

    A handler that passes its job's ``meta`` on does not mean the trace in there.
    """
    running = neoq.current_job()
    inherited: Mapping[str, str] = {} if running is None else running.meta
    return any(job.meta[field] != inherited.get(field) for field in fields if field in job.meta)


def _name(operation: str, attributes: Mapping[str, Any]) -> str:
    queue = attributes.get("messaging.destination.name")
    return operation if queue is None else f"{operation} {queue}"


def _attributes(operation: str, queues: Iterable[str]) -> dict[str, Any]:
    attributes = {
        "messaging.system": "neoq",
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
    }
    first, *others = queues
    if not others:
        attributes["messaging.destination.name"] = first
    return attributes


def _identity(job: Job) -> dict[str, Any]:
    """The attributes of one job that is stored."""
    attributes: dict[str, Any] = {"messaging.message.id": str(job.id)}
    if job.kind is not None:
        attributes["neoq.job.kind"] = job.kind
    if job.duplicate:
        attributes["neoq.job.duplicate"] = True
    return attributes


_NO_FAILURES: dict[type[BaseException], str] = {
    Snooze: "snoozed",
    Suspended: "suspended",
    ShutdownRequested: "interrupted",
    JobCancelled: "cancelled",
}


def _failed(span: Span, error: BaseException) -> None:
    """Write into a span how its operation ended."""
    if not span.is_recording():
        return
    for kind, outcome in _NO_FAILURES.items():
        if isinstance(error, kind):
            span.set_attribute("neoq.job.outcome", outcome)
            return
    cls = type(error)
    try:
        text = f"{class_name(cls)}: {error}"
    except Exception:
        text = class_name(cls)
    span.set_attribute("error.type", cut(full_name(cls), MAX_TYPE))
    span.set_status(StatusCode.ERROR, cut(text, MAX_DESCRIPTION))
