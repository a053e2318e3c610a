"""Logging that names the job: a formatter for lines of JSON, and the fields for other formats.

Nothing else of neoq imports this module, except the command. It imports neither the engine nor OpenTelemetry,
but looks for those that the process uses.
"""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from collections.abc import Mapping
from typing import Any

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_DEPTH = 20  # of nested values, for one that cannot be written as it is


def job_fields() -> dict[str, Any]:
    """What this thread works on, for a line of log.

    In a handler: ``job_id``, ``queue``, ``kind``, ``attempt`` and ``worker``. Where a span of OpenTelemetry
    is current: ``trace_id`` and ``span_id``. What there is not is left out.
    """
    fields: dict[str, Any] = {}
    interrupt = sys.modules.get("neoq.engine.interrupt")
    job = None if interrupt is None else interrupt.current_job()
    if job is not None:
        fields = {"job_id": job.id, "queue": job.queue, "kind": job.kind}
        fields |= {"attempt": job.attempt, "worker": job.worker}
        fields = {name: value for name, value in fields.items() if value is not None}
    trace = sys.modules.get("opentelemetry.trace")
    if trace is not None:
        span = trace.get_current_span().get_span_context()
        if span.is_valid:
            fields |= {"trace_id": f"{span.trace_id:032x}", "span_id": f"{span.span_id:016x}"}
    return fields


class JobFields(logging.Filter):
    """Gives each record the attributes of `job_fields`; those that it has already stay.

    Put it on a handler, so that it sees the records of all loggers. `JsonFormatter` does without it, unless
    the records are formatted in another thread, as those of a `QueueHandler` are.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass."""
        for name, value in job_fields().items():
            if not hasattr(record, name):
                setattr(record, name, value)
        return True


class JsonFormatter(logging.Formatter):
    """Writes each record as one line of JSON, whatever it holds.

    A line has ``time``, ``level``, ``logger``, ``message`` and ``pid``; what `job_fields` finds; the record's
    ``extra``; and of an exception ``error`` and ``traceback``. ``fields`` are in every line.
    """

    def __init__(self, fields: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self._fields = dict(fields or {})

    def format(self, record: logging.LogRecord) -> str:
        """One JSON object, in ASCII."""
        line = self._line(record)
        try:
            text = json.dumps(line, default=_text, allow_nan=False)
        except Exception:  # a key, a number or a circle that JSON does not have, or an object's own code
            text = ""
        if not text or "\\ud" in text:  # half a character, maybe, at which strict readers stop
            text = json.dumps(_plain(line, _DEPTH))
        return text

    def _line(self, record: logging.LogRecord) -> dict[str, Any]:
        line = {
            "time": _moment(record.created),
            "level": record.levelname,
            "logger": record.name,
            "message": _message(record),
            "pid": record.process,
        }
        own = frozenset(line)
        line |= job_fields() | self._fields
        for name, value in vars(record).items():
            if name not in _STANDARD:
                line[f"{name}_" if name in own else name] = value
        error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
        if error is not None:
            line["error"] = f"{type(error).__name__}: {_text(error)}"
            line["traceback"] = self._traceback(record)
        elif record.exc_text:
            line["traceback"] = record.exc_text
        if record.stack_info:
            line["stack"] = record.stack_info
        return line

    def _traceback(self, record: logging.LogRecord) -> str:
        try:
            return record.exc_text or self.formatException(record.exc_info)  # type: ignore[arg-type]
        except Exception as broken:
            return f"<it could not be read: {type(broken).__name__}>"


def _moment(created: float) -> str:
    if not math.isfinite(created):
        return str(created)
    whole = math.floor(created)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{int((created - whole) * 1000):03}Z"


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # the arguments do not fit, or one of them cannot be shown
        shown = json.dumps(_plain(record.args, _DEPTH)) if record.args else ""
        return f"{_text(record.msg)} {shown}".rstrip()


def _text(value: object) -> str:
    """Any object as text, whatever its methods do."""
    try:
        return str(value)
    except Exception as broken:
        return f"<{type(value).__name__} cannot be shown: {type(broken).__name__}>"


def _plain(value: Any, depth: int) -> Any:
    """A value of what JSON has: what it does not have becomes text."""
    if value is None or isinstance(value, bool):
        return value
    try:
        if depth and isinstance(value, Mapping):
            return {_plain_text(_text(key)): _plain(item, depth - 1) for key, item in value.items()}
        if depth and isinstance(value, list | tuple):
            return [_plain(item, depth - 1) for item in value]
        if isinstance(value, int | float) and math.isfinite(value):
            return json.loads(json.dumps(value))
    except Exception:
        return _plain_text(_text(value))
    return _plain_text(_text(value))


def _plain_text(text: str) -> str:
    """A text without halves of characters."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
