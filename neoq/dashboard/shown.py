"""Shown: parts of a job as a page shows them, with what is secret hidden and what is large left out."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any, Literal

import orjson

from neoq.dashboard.mask import Mask
from neoq.job import Job
from neoq.line import JobLine
from neoq.payload import CANNOT_OPEN, is_coded
from neoq.record import Status

MOST_SHOWN = 64 * 1024  # bytes of a payload, a result or meta; what is larger is downloaded
Field = Literal["payload", "result"]
_DIRECTIONS = re.compile(
    "[\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff]"
)  # they hide, or turn, a text
_PRETTY = orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS


def document(mask: Mask, job: Job, field: Field, *, reveal: bool = False) -> dict[str, Any]:
    """A payload or a result: its text, unless it is too large, and its size."""
    body = body_of(job, field)
    data = body or b""
    shown = {"size": len(data), "text": None, "large": len(data) > MOST_SHOWN, "hidden": False}
    if not data or shown["large"]:
        return shown
    try:
        value = orjson.loads(data)
    except ValueError:  # it is sealed, or somebody has damaged it
        text = CANNOT_OPEN if is_coded(data) else data.decode("utf-8", "replace")
        return shown | {"text": mask.text(text, field=field, job=job, revealed=reveal)}
    full = mask.value(value, field=field, job=job, revealed=True)
    seen = full if reveal else mask.value(value, field=field, job=job)
    return shown | {"text": pretty(seen), "hidden": seen != full}


def whole(mask: Mask, job: Job, field: Field) -> bytes:
    """All of a payload or a result, for those who download it."""
    data = body_of(job, field) or b""
    if is_coded(data):
        return CANNOT_OPEN.encode()
    try:
        value = mask.value(orjson.loads(data), field=field, job=job)
        return orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS)
    except (ValueError, TypeError):  # damaged, or of a formatter
        text = data.decode("utf-8", "replace")
        return mask.text(text, field=field, job=job).encode("utf-8", "replace")


def body_of(job: Job, field: Field) -> bytes | None:
    """A payload or a result as it is stored."""
    return job.body if field == "payload" else job.result_body


def pretty(value: Any) -> str:
    """A value as indented JSON; numbers stay as exact as they are stored."""
    try:
        text = orjson.dumps(value, default=str, option=_PRETTY).decode()
    except (orjson.JSONEncodeError, TypeError):  # what somebody's formatter has made
        text = str(value)
    return _DIRECTIONS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def preview(mask: Mask, job: JobLine) -> str:
    """The beginning of a payload on one line."""
    return mask.text(job.preview, field="preview", job=job)


def state(job: Job | JobLine) -> str:
    """Where a job is, as a page names it: a pending one is ready, scheduled or held."""
    if job.status is not Status.PENDING:
        return job.status.value
    if job.held not in {None, "line"}:
        return "held"
    return "scheduled" if job.run_after is not None and job.run_after > datetime.now(UTC) else "ready"


def run_seconds(job: Job | JobLine) -> float | None:
    """How long the latest attempt took, or has taken until now."""
    if job.ran_at is None:
        return None
    end = job.finished_at or (datetime.now(UTC) if job.status is Status.RUNNING else None)
    return None if end is None else max(0.0, (end - job.ran_at).total_seconds())
