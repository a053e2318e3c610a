"""Lines of JSON: each record is one, whatever it holds, and those of a handler name its job."""

from __future__ import annotations

import io
import json
import logging
import logging.config
import logging.handlers
import math
import queue
import threading
from collections import UserDict
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Never

import orjson
import pytest

import neoq
from neoq.logs import JobFields, JsonFormatter, job_fields
from neoq.testing.cases.suite import reached


class Lines:
    """A logger that writes JSON, and the lines that it has written, read strictly."""

    def __init__(self, **options: Any) -> None:
        self._stream = io.StringIO()
        self.handler = logging.StreamHandler(self._stream)
        self.handler.setFormatter(JsonFormatter(**options))
        self.log = logging.getLogger("tests.logs")

    def read(self) -> list[dict[str, Any]]:
        lines = self._stream.getvalue().splitlines()
        return [orjson.loads(line) for line in lines]

    def one(self) -> dict[str, Any]:
        (line,) = self.read()
        return line


@pytest.fixture
def lines() -> Iterator[Lines]:
    made = Lines(fields={"service": "shop"})
    loggers = [made.log, logging.getLogger("neoq")]
    for logger in loggers:
        logger.addHandler(made.handler)
    yield made
    for logger in loggers:
        logger.removeHandler(made.handler)


class Hostile:
    """An object that can be shown in no way."""

    def __repr__(self) -> Never:
        raise RuntimeError("no")

    __str__ = __repr__


class HostileDict(dict[str, int]):
    def items(self) -> Never:
        raise RuntimeError("no")


class Mute(Exception):
    def __str__(self) -> Never:
        raise RuntimeError("no")


def test_a_line(lines: Lines) -> None:
    """A line has time, level, logger, message and process, what is given to the formatter, and the extra."""
    before = datetime.now(UTC)
    lines.log.warning("%s orders", 3, extra={"shop": "Ada's", "total": 12.5})
    line = lines.one()
    moment = datetime.fromisoformat(line.pop("time"))
    assert abs((moment - before).total_seconds()) < 5
    assert line.pop("pid") > 0
    assert line == {
        "level": "WARNING",
        "logger": "tests.logs",
        "message": "3 orders",
        "service": "shop",
        "shop": "Ada's",
        "total": 12.5,
    }


CIRCLE: list[Any] = []
CIRCLE.append(CIRCLE)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("a\nb\r\x85\u2028\x00", "a\nb\r\x85\u2028\x00"),
        ("half \ud800 of one", "half \ufffd of one"),
        ("whole \U0001f600", "whole \U0001f600"),
        (Hostile(), "<Hostile cannot be shown: RuntimeError>"),
        ([1, Hostile()], [1, "<Hostile cannot be shown: RuntimeError>"]),
        (math.nan, "nan"),
        ({"a": [math.inf, 1.5, True, None]}, {"a": ["inf", 1.5, True, None]}),
        ({(1, 2): "tuple"}, {"(1, 2)": "tuple"}),
        ({1, 2}, "{1, 2}"),
        (datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02 00:00:00+00:00"),
        (b"bytes", "b'bytes'"),
        (UserDict(a=1), "{'a': 1}"),
    ],
)
def test_any_value_of_extra(lines: Lines, value: Any, shown: Any) -> None:
    """Whatever an extra is, the record is one line of JSON."""
    lines.log.warning("it", extra={"value": value})
    assert lines.one()["value"] == shown


@pytest.mark.parametrize(
    "value", [CIRCLE, HostileDict(a=1), 10**5000, [[[]] * 3] * 3], ids=["a", "b", "c", "d"]
)
def test_what_has_no_text_of_its_own(lines: Lines, value: Any) -> None:
    """A circle, a broken dict and a huge number leave a line that can be read."""
    lines.log.warning("it", extra={"value": value})
    assert lines.one()["message"] == "it"


@pytest.mark.parametrize(
    ("message", "arguments", "shown"),
    [
        ("%s and %s", ("one",), '%s and %s ["one"]'),
        ("%d", ("x",), '%d ["x"]'),
        ("%s", (Hostile(),), '%s ["<Hostile cannot be shown: RuntimeError>"]'),
        (Hostile(), (), "<Hostile cannot be shown: RuntimeError>"),
        ("a\nb", (), "a\nb"),
        ("%(a)s", ({"a": 1},), "1"),
    ],
)
def test_any_message(message: Any, arguments: tuple[Any, ...], shown: str) -> None:
    """A message that does not fit its arguments, or cannot be shown, is logged with what there is."""
    # Not by a logger: pytest listens to all of them, and fails a test whose records it cannot format.
    record = logging.LogRecord("shop", logging.WARNING, __file__, 1, message, arguments, None)
    assert orjson.loads(JsonFormatter().format(record))["message"] == shown


def test_names_that_the_line_has_already(lines: Lines) -> None:
    """An extra whose name is taken by the line has a _ behind it."""
    lines.log.warning("it", extra={"level": 7, "time": "noon", "service": "other"})
    line = lines.one()
    assert (line["level"], line["level_"], line["time_"]) == ("WARNING", 7, "noon")
    assert line["service"] == "other"


@pytest.mark.parametrize("error", [ValueError("a\nb"), Mute()], ids=["text", "mute"])
def test_exceptions_are_fields(lines: Lines, error: Exception) -> None:
    """An exception is in the fields error and traceback, also one whose text cannot be read."""
    try:
        raise error
    except Exception:
        lines.log.exception("it failed", stack_info=True)
    line = lines.one()
    assert line["message"] == "it failed"
    assert line["error"].startswith(f"{type(error).__name__}: ")
    assert "in test_exceptions_are_fields" in line["traceback"]
    assert "test_logs.py" in line["stack"]


def test_a_record_of_garbage() -> None:
    """A record that was put together by hand is one line, too."""
    record = logging.makeLogRecord(
        {"msg": None, "exc_info": True, "created": math.inf, "args": 7, "name": b"x"}
    )
    assert "\n" not in JsonFormatter().format(record)
    assert json.loads(JsonFormatter().format(record))["time"] == "inf"


def test_lines_of_a_job(lines: Lines) -> None:
    """What a handler logs, and what neoq says of its failure, has the job; what others log has none."""
    with neoq.MemBackend(max_retries=0) as backend:

        @backend.task(name="charge")
        def charge(amount: int) -> None:
            lines.log.warning("charging %s", amount)
            other = threading.Thread(target=lines.log.warning, args=("elsewhere",))
            other.start()
            other.join()
            raise ConnectionError("no bank")

        job = charge.enqueue(5)
        reached(backend, neoq.MemBackend.get(backend, job.id) or neoq.Job("q"), neoq.Status.DEAD)
    lines.log.warning("outside")
    charging, elsewhere, failed, outside = lines.read()
    expected = {"job_id": job.id, "kind": "charge", "attempt": 1, "queue": charging["queue"]}
    assert expected.items() <= charging.items()
    assert expected.items() <= failed.items()
    assert failed["error"] == "ConnectionError: no bank"
    assert not {"job_id", "queue", "kind", "attempt"} & (elsewhere.keys() | outside.keys())
    assert job_fields() == {}


def test_the_worker_of_a_durable_job(tmp_path: Any) -> None:
    """On a durable backend the fields name the worker, too."""
    with neoq.SqliteBackend(tmp_path / "jobs.db", autostart=True) as backend:
        backend.listen("q", lambda job: job_fields())
        done = reached(backend, backend.enqueue("q"), neoq.Status.SUCCEEDED)
        (worker,) = backend.workers()
    assert done.result == {"job_id": done.id, "queue": "q", "attempt": 1, "worker": worker.id}


def test_records_that_another_thread_formats(lines: Lines) -> None:
    """With the filter on a QueueHandler, a line that is written by another thread has its job."""
    waiting: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    handler = logging.handlers.QueueHandler(waiting)
    handler.addFilter(JobFields())
    log = logging.getLogger("tests.queued")
    log.addHandler(handler)
    try:
        with neoq.MemBackend() as backend:
            backend.listen("q", lambda job: log.warning("it", extra={"attempt": "mine"}))
            job = backend.enqueue("q")
    finally:
        log.removeHandler(handler)
    line = json.loads(JsonFormatter().format(waiting.get(timeout=20)))
    assert (line["job_id"], line["queue"], line["attempt"]) == (job.id, "q", "mine")


def test_the_trace_is_in_the_line(lines: Lines) -> None:
    """Lines that are logged within a span have its trace_id and span_id, that of a failure included."""
    pytest.importorskip("opentelemetry.sdk")
    from opentelemetry.sdk.trace import TracerProvider

    from neoq.tracing import instrument

    provider = TracerProvider()
    with neoq.MemBackend(max_retries=0) as backend:
        instrument(backend, tracer_provider=provider)

        def handler(job: neoq.Job) -> None:
            lines.log.warning("in the handler")
            raise ValueError("wrong")

        backend.listen("q", handler)
        with provider.get_tracer("web").start_as_current_span("request") as request:
            lines.log.warning("in the request")
            backend.enqueue("q")
    in_request, in_handler, failed = lines.read()
    context = request.get_span_context()
    assert {line["trace_id"] for line in lines.read()} == {f"{context.trace_id:032x}"}
    assert in_request["span_id"] == f"{context.span_id:016x}"
    assert in_handler["span_id"] == failed["span_id"] != in_request["span_id"]


def test_a_configuration_by_dict(capsys: pytest.CaptureFixture[str]) -> None:
    """A configuration by logging.config makes the formatter from its name."""
    formatter = {"()": "neoq.logs.JsonFormatter", "fields": {"service": "shop"}}
    handler = {"class": "logging.StreamHandler", "stream": "ext://sys.stdout", "formatter": "json"}
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"json": formatter},
            "handlers": {"out": handler},
            "loggers": {"tests.configured": {"handlers": ["out"], "propagate": False}},
        }
    )
    logging.getLogger("tests.configured").warning("it")
    logging.getLogger("tests.configured").handlers.clear()
    assert json.loads(capsys.readouterr().out)["service"] == "shop"
