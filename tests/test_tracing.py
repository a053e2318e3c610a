"""Spans of enqueues and attempts, as OpenTelemetry's own in-memory exporter sees them."""

from __future__ import annotations

import logging
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import neoq
from neoq import Job, Status, testing
from neoq.testing.cases.suite import eventually, reached

pytest.importorskip("opentelemetry.sdk")
from opentelemetry import baggage, propagate, trace
from opentelemetry import context as contexts
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode, TraceFlags

from neoq import tracing
from neoq.tracing import instrument

ROOT = Path(__file__).parents[1]

# From the registry of the semantic conventions for messaging, version 1.44.
CONVENTIONS = {
    "error.type",
    "messaging.batch.message_count",
    "messaging.client.id",
    "messaging.destination.name",
    "messaging.message.id",
    "messaging.operation.name",
    "messaging.operation.type",
    "messaging.system",
}
OWN = {"neoq.job.attempt", "neoq.job.duplicate", "neoq.job.kind", "neoq.job.outcome"}


class Spans:
    """The spans that have ended, oldest first."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    def all(self, operation: str | None = None) -> list[ReadableSpan]:
        spans = sorted(self._exporter.get_finished_spans(), key=lambda span: span.start_time or 0)
        return [span for span in spans if operation in (None, span.name.partition(" ")[0])]

    def one(self, operation: str) -> ReadableSpan:
        (span,) = self.all(operation)
        return span


@pytest.fixture
def spans() -> Iterator[Spans]:
    seen = Spans()
    yield seen
    for span in seen.all():
        assert set(attributes(span)) <= CONVENTIONS | OWN
    seen.provider.shutdown()


@pytest.fixture(params=["memory", "sqlite", "postgres", "redis"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[neoq.Backend]:
    url = {"memory": "memory://", "sqlite": f"sqlite:///{tmp_path}/jobs.db"}.get(request.param)
    with neoq.connect(url or request.getfixturevalue(f"{request.param}_url"), autostart=True) as made:
        yield made


@pytest.fixture
def memory() -> Iterator[neoq.MemBackend]:
    with neoq.MemBackend() as made:
        yield made


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def ids(context: trace.SpanContext | None) -> tuple[int, int] | None:
    return None if context is None else (context.trace_id, context.span_id)


def within(child: ReadableSpan, parent: ReadableSpan) -> bool:
    """Whether a span is a child of another, without links."""
    return (
        ids(child.parent) == ids(parent.context)
        and child.context.trace_id == parent.context.trace_id
        and not child.links
    )


def linked(span: ReadableSpan, origin: ReadableSpan) -> bool:
    """Whether a span begins a trace of its own, with one link."""
    return (
        span.parent is None
        and [ids(link.context) for link in span.links] == [ids(origin.context)]
        and span.context.trace_id != origin.context.trace_id
    )


def test_request_send_and_process_are_one_trace(backend: neoq.Backend, spans: Spans) -> None:
    """The first attempt of a job is in the trace of the request that enqueued it."""
    instrument(backend, tracer_provider=spans.provider)
    backend.listen("emails", lambda job: None)
    with spans.provider.get_tracer("web").start_as_current_span("POST /signup"):
        job = backend.enqueue("emails", {"to": "ada"})
    reached(backend, job, Status.SUCCEEDED)
    request, send, process = spans.one("POST"), spans.one("send"), spans.one("process")
    assert within(send, request)
    assert within(process, send)
    assert (send.name, send.kind) == ("send emails", SpanKind.PRODUCER)
    assert (process.name, process.kind) == ("process emails", SpanKind.CONSUMER)
    common = {
        "messaging.system": "neoq",
        "messaging.destination.name": "emails",
        "messaging.message.id": str(job.id),
    }
    assert attributes(send) == common | {
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
    }
    processed = attributes(process)
    worker = processed.pop("messaging.client.id", None)
    assert (worker is None) == isinstance(backend, neoq.MemBackend)
    assert processed == common | {
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "neoq.job.attempt": 1,
    }
    assert {send.status.status_code, process.status.status_code} == {StatusCode.UNSET}


def test_a_retry_is_a_trace_of_its_own(backend: neoq.Backend, spans: Spans) -> None:
    """A failed attempt is an error with its type, and the next one links to the send."""
    instrument(backend, tracer_provider=spans.provider)

    def fails_once(job: Job) -> None:
        if job.attempt == 1:
            raise ConnectionError("the mail server is down")

    backend.listen("emails", fails_once, retry=neoq.RetryPolicy(delay=0))
    reached(backend, backend.enqueue("emails"), Status.SUCCEEDED)
    first, second = spans.all("process")
    assert within(first, spans.one("send"))
    assert linked(second, spans.one("send"))
    assert first.status.status_code is StatusCode.ERROR
    assert first.status.description == "ConnectionError: the mail server is down"
    assert attributes(first)["error.type"] == "ConnectionError"
    assert not first.events
    assert second.status.status_code is StatusCode.UNSET
    assert attributes(second)["neoq.job.attempt"] == 2


def test_a_retry_after_a_day(memory: neoq.MemBackend, spans: Spans) -> None:
    """An attempt a day later begins a trace of its own, with a link to the send."""
    instrument(memory, tracer_provider=spans.provider)
    memory.listen("q", lambda job: 1 / (job.attempt - 1), retry=neoq.RetryPolicy(delay=86400))
    with testing.clock(memory) as clock:
        memory.enqueue("q")
        clock.advance(days=2)
    first, second = spans.all("process")
    assert within(first, spans.one("send"))
    assert linked(second, spans.one("send"))


@pytest.mark.parametrize(("delay", "child"), [(5, True), (59, True), (61, False)])
def test_a_future_job(memory: neoq.MemBackend, spans: Spans, delay: float, child: bool) -> None:
    """A job for later is in the trace of its sender if it starts within a minute."""
    instrument(memory, tracer_provider=spans.provider)
    memory.listen("q", lambda job: None)
    with testing.clock(memory) as clock:
        memory.enqueue("q", {"n": 1}, run_after=delay)
        memory.enqueue("q", {"n": 2}, run_after=clock.now + timedelta(seconds=delay))
        clock.advance(minutes=2)
    sends = {attributes(send)["messaging.message.id"]: send for send in spans.all("send")}
    for process in spans.all("process"):
        send = sends.pop(attributes(process)["messaging.message.id"])
        assert (within if child else linked)(process, send)
    assert not sends


def test_a_snoozed_job(backend: neoq.Backend, spans: Spans) -> None:
    """A snooze is no error, and what runs after it links to the send, also of a job for later."""
    instrument(backend, tracer_provider=spans.provider)
    ran = []

    def snoozes_once(job: Job) -> None:
        ran.append(job.id)
        if ran.count(job.id) == 1:
            raise neoq.Snooze(0.05)

    backend.listen("q", snoozes_once)
    jobs = [backend.enqueue("q"), backend.enqueue("q", {"n": 1}, run_after=0.02)]
    for job in jobs:
        reached(backend, job, Status.SUCCEEDED)
    for job, send in zip(jobs, spans.all("send"), strict=True):
        number = str(job.id)
        first, second = (
            span for span in spans.all("process") if attributes(span)["messaging.message.id"] == number
        )
        assert within(first, send)
        assert linked(second, send)
        assert first.status.status_code is StatusCode.UNSET
        assert attributes(first)["neoq.job.outcome"] == "snoozed"
        assert "error.type" not in attributes(first)


def test_a_retry_by_hand(backend: neoq.Backend, spans: Spans) -> None:
    """What an operator runs again links to the send, although its attempts count from 1."""
    instrument(backend, tracer_provider=spans.provider)
    failing = [True]

    def handler(job: Job) -> None:
        if failing:
            raise ValueError("wrong")

    backend.listen("q", handler, max_retries=0)
    job = reached(backend, backend.enqueue("q"), Status.DEAD)
    failing.clear()
    backend.retry(job.id)
    reached(backend, job, Status.SUCCEEDED)
    first, second = spans.all("process")
    assert within(first, spans.one("send"))
    assert linked(second, spans.one("send"))


DIES = """
import os, sys, neoq
backend = neoq.SqliteBackend(sys.argv[1], autostart=True)
backend.listen("q", lambda job: os._exit(9))
backend.drain()
"""


def test_a_job_whose_worker_died(tmp_path: Path, spans: Spans) -> None:
    """The attempt after a worker died links to the send."""
    path = tmp_path / "jobs.db"
    with neoq.SqliteBackend(path) as backend:
        instrument(backend, tracer_provider=spans.provider)
        job = backend.enqueue("q")
        died = subprocess.run([sys.executable, "-c", DIES, str(path)], cwd=ROOT, timeout=30, check=False)
        assert died.returncode == 9
        backend.listen("q", lambda job: None)
        backend.start()
        assert reached(backend, job, Status.SUCCEEDED).crashes == 1
    assert linked(spans.one("process"), spans.one("send"))


def test_cron(memory: neoq.MemBackend, spans: Spans) -> None:
    """The job of a tick begins a trace of its own, without links."""
    instrument(memory, tracer_provider=spans.provider)
    memory.listen_cron("@every 60s", lambda job: None, queue="ticks")
    with testing.clock(memory) as clock:
        clock.advance(minutes=1)
    process = spans.one("process")
    assert (process.parent, len(process.links), process.name) == (None, 0, "process ticks")


def test_enqueue_many(backend: neoq.Backend, spans: Spans) -> None:
    """A batch has one span, a CLIENT's, which each attempt links to."""
    instrument(backend, tracer_provider=spans.provider)
    backend.listen("q", lambda job: None)
    assert backend.enqueue_many([]) == []
    for job in backend.enqueue_many([Job("q", {"n": n}) for n in range(3)]):
        reached(backend, job, Status.SUCCEEDED)
    send = spans.one("send")
    assert send.kind is SpanKind.CLIENT
    assert attributes(send)["messaging.batch.message_count"] == 3
    assert "messaging.message.id" not in attributes(send)
    assert [linked(process, send) for process in spans.all("process")] == [True] * 3
    assert not spans.all("create")


def test_enqueue_many_with_a_span_for_each(memory: neoq.MemBackend, spans: Spans) -> None:
    """With create_spans each job of a batch has a PRODUCER span of its own, which its first attempt is in."""
    instrument(memory, create_spans=True, tracer_provider=spans.provider)
    memory.listen("a", lambda job: None)
    memory.listen("b", lambda job: None)
    memory.enqueue_many([Job("a"), Job("b")])
    assert memory.drain(20)
    send, creates = spans.one("send"), spans.all("create")
    assert send.name == "send"
    assert "messaging.destination.name" not in attributes(send)
    assert [create.name for create in creates] == ["create a", "create b"]
    assert all(within(create, send) and create.kind is SpanKind.PRODUCER for create in creates)
    for process in spans.all("process"):
        (create,) = (one for one in creates if one.name[-1] == process.name[-1])
        assert within(process, create)


def test_enqueue_in_a_handler(backend: neoq.Backend, spans: Spans) -> None:
    """A job that a handler enqueues is sent within the handler's span, also if it passes its meta on."""
    instrument(backend, tracer_provider=spans.provider)
    backend.listen("second", lambda job: None)
    backend.listen("first", lambda job: backend.enqueue("second", meta=job.meta).id)
    job = reached(backend, backend.enqueue("first", meta={"user": "ada"}), Status.SUCCEEDED)
    following = backend.get(job.result)
    assert following is not None
    assert reached(backend, following, Status.SUCCEEDED).meta["user"] == "ada"
    sends = {span.name: span for span in spans.all("send")}
    processes = {span.name: span for span in spans.all("process")}
    assert within(sends["send second"], processes["process first"])
    assert within(processes["process second"], sends["send second"])


def test_a_transaction(tmp_path: Path, spans: Spans) -> None:
    """A job that waits for a commit has a span `create`; a rolled-back one leaves no span that says sent."""
    path = tmp_path / "jobs.db"
    with neoq.SqliteBackend(path, autostart=True) as backend:
        instrument(backend, tracer_provider=spans.provider)
        backend.listen("q", lambda job: None)
        with sqlite3.connect(path, isolation_level=None) as connection:
            connection.execute("begin immediate")
            backend.enqueue("q", {"n": 1}, transaction=connection)
            connection.execute("rollback")
            connection.execute("begin immediate")
            job = backend.enqueue("q", {"n": 2}, transaction=connection)
            connection.execute("commit")
            connection.execute("begin immediate")
            many = backend.enqueue_many([Job("q", {"n": 3}), Job("q", {"n": 4})], transaction=connection)
            connection.execute("commit")
        connection.close()
        for one in (job, *many):
            reached(backend, one, Status.SUCCEEDED)
    assert not spans.all("send")
    _, committed, batch = spans.all("create")
    assert (committed.name, committed.kind) == ("create q", SpanKind.PRODUCER)
    first, *others = spans.all("process")
    assert within(first, committed)
    assert [linked(process, batch) for process in others] == [True, True]


@pytest.mark.parametrize("relation", ["parent", "link", "none"])
def test_relations(memory: neoq.MemBackend, spans: Spans, relation: tracing.Relation) -> None:
    """With "parent" each attempt is a child, with "link" each has a link, with "none" neither."""
    instrument(memory, relation, tracer_provider=spans.provider)
    memory.listen("q", lambda job: 1 / (job.attempt - 1), retry=neoq.RetryPolicy(delay=0))
    memory.enqueue("q")
    reached(memory, memory.jobs()[0], Status.SUCCEEDED)
    send, processes = spans.one("send"), spans.all("process")
    assert len(processes) == 2
    for process in processes:
        if relation == "none":
            assert process.parent is None
            assert not process.links
        else:
            assert (within if relation == "parent" else linked)(process, send)


def test_a_trace_of_the_callers_own(memory: neoq.MemBackend, spans: Spans) -> None:
    """A traceparent in the caller's meta stays; the span of the send is then a CLIENT's."""
    instrument(memory, tracer_provider=spans.provider)
    memory.listen("q", lambda job: None)
    with spans.provider.get_tracer("own").start_as_current_span("own") as own:
        meta: dict[str, str] = {}
        propagate.inject(meta)
    assert memory.enqueue("q", meta=meta).meta == meta
    assert memory.drain(20)
    assert spans.one("send").kind is SpanKind.CLIENT
    assert ids(spans.one("process").parent) == ids(own.get_span_context())


def test_baggage_travels(memory: neoq.MemBackend, spans: Spans) -> None:
    """What the caller has in its baggage, the handler has too, also in a trace of its own."""
    instrument(memory, "link", tracer_provider=spans.provider)
    memory.listen("q", lambda job: baggage.get_baggage("tenant"))
    token = contexts.attach(baggage.set_baggage("tenant", "acme"))
    try:
        job = memory.enqueue("q")
    finally:
        contexts.detach(token)
    assert reached(memory, job, Status.SUCCEEDED).result == "acme"


def test_what_was_current_at_listen_is_no_parent(memory: neoq.MemBackend, spans: Spans) -> None:
    """A span in which a queue was listened to is not the parent of its attempts."""
    instrument(memory, tracer_provider=spans.provider)
    with spans.provider.get_tracer("web").start_as_current_span("start-up"):
        memory.listen_cron("@every 60s", lambda job: None, queue="ticks")
    with testing.clock(memory) as clock:
        clock.advance(minutes=1)
    assert spans.one("process").parent is None


def test_a_failing_enqueue(memory: neoq.MemBackend, spans: Spans) -> None:
    """An enqueue that raises is an error with its type."""
    instrument(memory, tracer_provider=spans.provider)
    with pytest.raises(neoq.NoListenerError):
        memory.enqueue("nobody")
    send = spans.one("send")
    assert send.status.status_code is StatusCode.ERROR
    assert attributes(send)["error.type"] == "neoq.errors.NoListenerError"


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_an_exception_that_cannot_be_read(memory: neoq.MemBackend, spans: Spans) -> None:
    """An exception whose text cannot be read is an error by its type, and a long text is cut."""
    instrument(memory, tracer_provider=spans.provider)

    def handler(job: Job) -> None:
        raise Mute if job.payload else ValueError("x" * 10_000_000)

    memory.listen("q", handler, max_retries=0)
    memory.enqueue("q", {"mute": True})
    memory.enqueue("q")
    assert memory.drain(20)
    by_type = {attributes(span)["error.type"]: span.status.description for span in spans.all("process")}
    assert by_type[f"{__name__}.Mute"] == "Mute"
    assert len(by_type["ValueError"] or "") < 2000


class Nameless(type):
    def __getattribute__(cls, name: str) -> Any:
        if name == "__qualname__":
            raise RuntimeError("no name")
        return super().__getattribute__(name)


class Unnamed(Exception, metaclass=Nameless):
    """An exception of a class that does not tell its name."""


def test_a_class_that_does_not_tell_its_name(memory: neoq.MemBackend, spans: Spans) -> None:
    """The error of the job is the handler's own, whatever the metaclass of its class overrides."""
    instrument(memory, tracer_provider=spans.provider)

    def handler(_job: Job) -> None:
        raise Unnamed("away")

    memory.listen("q", handler, max_retries=0)
    memory.enqueue("q")
    assert memory.drain(20)
    [job] = memory.jobs()
    assert job.error == "Unnamed: away"
    [process] = spans.all("process")
    assert attributes(process)["error.type"] == f"{__name__}.Unnamed"


def test_a_timeout_and_a_cancelled_job(memory: neoq.MemBackend, spans: Spans) -> None:
    """A timeout is an error; an attempt that was cancelled is none, and both spans end."""
    instrument(memory, tracer_provider=spans.provider)

    def waits(job: Job) -> None:
        eventually(lambda: False, "the interrupt")

    memory.listen("q", waits, max_retries=0)
    late, cancelled = memory.enqueue("q", {"n": 1}, timeout=0.05), memory.enqueue("q", {"n": 2})
    reached(memory, cancelled, Status.RUNNING)
    memory.cancel(cancelled.id)
    reached(memory, late, Status.DEAD)
    reached(memory, cancelled, Status.CANCELLED)
    ended = {attributes(span)["messaging.message.id"]: span for span in spans.all("process")}
    assert attributes(ended[str(late.id)])["error.type"] == "neoq.errors.JobTimeout"
    assert attributes(ended[str(cancelled.id)])["neoq.job.outcome"] == "cancelled"
    assert ended[str(cancelled.id)].status.status_code is StatusCode.UNSET


def test_the_line_of_a_failure_is_in_the_trace(memory: neoq.MemBackend, spans: Spans) -> None:
    """The line about a failed attempt is logged in its trace, and what follows in the thread is not."""
    current: list[int] = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            current.append(trace.get_current_span().get_span_context().span_id)

    logger, ear = logging.getLogger("neoq"), Ear()
    logger.addHandler(ear)
    try:
        instrument(memory, tracer_provider=spans.provider)
        memory.listen("q", lambda job: 1 / 0, max_retries=0, concurrency=1)
        memory.enqueue_many([Job("q", {"n": n}) for n in range(3)])
        assert memory.drain(20)
    finally:
        logger.removeHandler(ear)
    assert current == [process.context.span_id for process in spans.all("process")]
    with testing.inline(memory), pytest.raises(ZeroDivisionError):
        memory.enqueue("q", {"n": 4})
    assert not trace.get_current_span().get_span_context().is_valid


def test_tasks_and_coroutines(memory: neoq.MemBackend, spans: Spans) -> None:
    """The call of a task has its kind, and a coroutine runs inside the span of its attempt."""
    instrument(memory, tracer_provider=spans.provider)

    @memory.task(name="greet")
    async def greet(name: str) -> str:
        return format(trace.get_current_span().get_span_context().span_id, "x")

    job = greet.enqueue("Ada")
    assert memory.drain(20)
    process = spans.one("process")
    found = memory.get(job.id)
    assert found is not None
    assert found.result == format(process.context.span_id, "x")
    assert within(process, spans.one("send"))
    assert attributes(process)["neoq.job.kind"] == attributes(spans.one("send"))["neoq.job.kind"] == "greet"


def test_a_duplicate(memory: neoq.MemBackend, spans: Spans) -> None:
    """The send of a duplicate names the job that was there."""
    instrument(memory, tracer_provider=spans.provider)
    memory.listen("q", lambda job: None)
    memory.pause("q")
    jobs = [memory.enqueue("q"), memory.enqueue("q")]
    sends = [attributes(span) for span in spans.all("send")]
    assert [send["messaging.message.id"] for send in sends] == [str(jobs[0].id)] * 2
    assert [send.get("neoq.job.duplicate") for send in sends] == [None, True]


def test_not_sampled(memory: neoq.MemBackend) -> None:
    """Jobs that are not sampled run as ever, and what they enqueue is not sampled either."""
    provider = TracerProvider(sampler=ALWAYS_OFF)
    instrument(memory, tracer_provider=provider)
    memory.listen("q", lambda job: trace.get_current_span().get_span_context().trace_flags)
    job = memory.enqueue("q")
    assert not int(job.meta["traceparent"][-2:], 16) & TraceFlags.SAMPLED
    assert not reached(memory, job, Status.SUCCEEDED).result & TraceFlags.SAMPLED


def test_without_an_sdk_jobs_carry_nothing(memory: neoq.MemBackend) -> None:
    """Where no SDK is configured, jobs run, and their meta stays empty."""
    instrument(memory)
    memory.listen("q", lambda job: job.attempt)
    job = memory.enqueue("q")
    assert job.meta == {}
    assert reached(memory, job, Status.SUCCEEDED).result == 1


def test_wrong_calls(memory: neoq.MemBackend, spans: Spans) -> None:
    """An unknown relation is refused, and so is the second call for a backend."""
    with pytest.raises(
        neoq.ConfigError, match="relation is 'child'; it takes 'auto', 'parent', 'link', 'none'"
    ):
        instrument(memory, "child")  # type: ignore[arg-type]
    instrument(memory)
    with pytest.raises(neoq.NeoqError, match="traced already"):
        instrument(memory)


def test_without_opentelemetry() -> None:
    """Jobs run without OpenTelemetry, and the module for it says what to install where that is missing."""
    program = """
import sys
import neoq
with neoq.MemBackend() as backend:
    backend.listen("q", lambda job: None)
    backend.enqueue("q")
assert not [name for name in sys.modules if name.startswith("opentelemetry")]
sys.modules["opentelemetry"] = None
try:
    import neoq.tracing
except ModuleNotFoundError as error:
    print(error)
"""
    run = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert run.stdout == (
        "neoq.tracing needs opentelemetry-api, which is not installed: pip install 'neoq[tracing]'\n"
    ), run.stderr
