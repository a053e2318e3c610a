"""What a row of a SQLite file's jobs says, and how they are counted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import orjson

from neoq.held.step import SIGNAL
from neoq.job import Job, blank
from neoq.line import PREVIEW
from neoq.payload import CODEC
from neoq.record import FINISHED as FINISHED_STATUSES
from neoq.record import Status
from neoq.sqlite.schema import (
    DEAD,
    FINISHED,
    HELD,
    KEPT,
    KEPT_DEAD,
    LINE,
    NEW,
    READY,
    RUNNING,
    SCHEDULED,
)
from neoq.stored import (
    NUMBER,
    STATUS_OF,
    UNIQUENESS,
    UNIQUENESS_NUMBER,
    Unreadable,
    check_numbers,
    encoded_meta,
    payload_of,
    read,
    shown,
    take_meta,
)
from neoq.times import within_calendar

PENDING, RETRYING, SUCCEEDED = NUMBER[Status.PENDING], NUMBER[Status.RETRYING], NUMBER[Status.SUCCEEDED]
N_READY, N_SCHEDULED, N_RETRYING, N_RUNNING, N_SUCCEEDED, N_DEAD, N_CANCELLED = range(7)  # as in COUNTED
N_HELD = 7
N_KEPT, N_KEPT_DEAD = KEPT, KEPT_DEAD  # those of N_SUCCEEDED and N_CANCELLED, and of N_DEAD, that are kept
_IN_SLOTS = {  # columns, and the attributes of a job that they are; job_of names them in this order
    "id": "id",
    "queue": "queue",
    "run_after": "due",
    "created_at": "created",
    "token": "token",
    "deadline": "expires",
    "payload": "body",
    "ran_at": "started",
    "finished_at": "finished_on",
    "result": "result_body",
}
_IN_DICT = {
    "priority": "priority",
    "worker": "worker",
    "crashes": "crashes",
    "retries": "retries",
    "max_retries": "max_retries",
    "fingerprint": "own_fingerprint",
    "kind": "kind",
    "key": "key",
    "batch": "group",
    "uid": "uid",
    "error": "error",
    "traceback": "traceback",
    "attempts": "failed_attempts",
}
_NAMES = tuple(_IN_DICT.values())
_STATES = range(10)
_SHAPES_KEPT = 500
_OTHERS = "status, uniqueness, cancel, meta, progress, progress_text, state, lease_until"
_HOLDING = {  # what only some jobs have
    "held": "held",
    "round": "round",
    "steps": "case when steps is null then 0"
    " else (select count(*) from neoq_steps s where s.job = neoq_jobs.id) end",
    "turn": "turn",
}
COLUMNS = f"{', '.join(_IN_SLOTS)}, {', '.join(_IN_DICT)}, {_OTHERS}, {', '.join(_HOLDING.values())}"
_BRIEF = {
    "payload": f"substr(payload, 1, {PREVIEW + 1})",
    **dict.fromkeys(("result", "traceback", "attempts"), "null"),
}
BRIEF_COLUMNS = ", ".join(_BRIEF.get(column, column) for column in COLUMNS.split(", "))
_FIRST, _REST = len(_IN_SLOTS), len(_IN_SLOTS) + len(_IN_DICT)
_ALL = (*_IN_SLOTS, *_IN_DICT, *_OTHERS.split(", "), *_HOLDING)
_HOLDS = len(_ALL) - len(_HOLDING)
_HOLDS_NOTHING = (None, None, 0, None)
TOKEN_AT, WORKER_AT, LEASE_AT = (_ALL.index(name) for name in ("token", "worker", "lease_until"))
_PAYLOAD_AT = _ALL.index("payload")
_NUMBERS_END = _FIRST + 5
_CHANGING = 7  # columns of a plain job that is ready, which differ; the others are these
_PLAIN_READY = (
    *(None,) * 3,
    0,
    None,
    0,
    0,
    *(None,) * 9,
    PENDING,
    1,
    0,
    *(None,) * 3,
    READY,
    None,
    *_HOLDS_NOTHING,
)
_USUAL = (0, None, 0, 0, None)  # priority, worker, crashes, retries and max_retries of most jobs
_CALLED = {"batch": "group"}  # where `read` calls a column otherwise

# A column takes any type, whatever it was made for. Rows come in a few shapes; each is looked at once.
_NULL = type(None)
_TYPES: dict[tuple[type, ...], str] = {
    (int,): "id token priority crashes retries status uniqueness cancel state steps",
    (int, _NULL): "max_retries round turn",
    (float, int): "run_after created_at",
    (float, int, _NULL): "deadline ran_at finished_at progress lease_until",
    (str,): "queue",
    (bytes,): "payload",
    (bytes, _NULL): "result meta attempts",
}
_TYPE_OF = {name: types for types, names in _TYPES.items() for name in names.split()}
_EXPECTED = tuple(_TYPE_OF.get(name, (str, _NULL)) for name in _ALL)
_shapes: set[tuple[type, ...]] = set()  # that were looked at and are in order

_PLAIN = ("queue", "run_after", "created_at", "payload")  # of most jobs there is no more to say
_DESCRIBED = (
    *_PLAIN,
    *("priority", "max_retries", "deadline", "fingerprint", "kind", "key", "batch", "uid"),
)
_SPECIAL = ("uniqueness", "meta", "codec", *_DESCRIBED)
_attributes_of = attrgetter(*((_IN_SLOTS | _IN_DICT)[column] for column in _DESCRIBED))


INSERTED_AT_ONCE = 16  # rows of one statement: each statement opens all indexes of the table


def _insert(*columns: str, rows: int = 1) -> str:
    columns = ("id", "hash", "holds", "state", *columns)
    marks = ", ".join("?" * len(columns))
    values = ", ".join([f"({marks})"] * rows)
    return f"insert into neoq_jobs ({', '.join(columns)}) values {values}"  # noqa: S608


INSERT_PLAIN = _insert(*_PLAIN)
INSERT_PLAINS = _insert(*_PLAIN, rows=INSERTED_AT_ONCE)
INSERT = _insert(*_SPECIAL)
INSERTS = _insert(*_SPECIAL, rows=INSERTED_AT_ONCE)


def described(job: Job) -> tuple[Any, ...]:
    """What `INSERT` says of a job, after its id, hash, holds and state."""
    return UNIQUENESS_NUMBER[job.unique], encoded_meta(job), CODEC, *_attributes_of(job)


def job_of(row: Sequence[Any]) -> Job:
    """The job that a row of `COLUMNS` describes, whatever somebody has put there."""
    try:
        return _job_of(row)
    except (ValueError, LookupError, TypeError):
        fields = {_CALLED.get(name, name): value for name, value in zip(_ALL, row, strict=True)}
        state = fields["state"]
        fields["waits"] = state == SCHEDULED
        there = state in _STATES and type(state) is int
        problems = [] if there else [f"state holds {shown(state)}, which is not 0 to {len(_STATES) - 1}"]
        return read(fields, problems=problems)


def brief_job_of(row: Sequence[Any]) -> Job:
    """As `job_of`, for a row whose payload may be cut; that is the body of the job, and nobody reads it."""
    job = job_of((*row[:_PAYLOAD_AT], b"{}", *row[_PAYLOAD_AT + 1 :]))
    beginning = row[_PAYLOAD_AT]
    job.body = beginning if isinstance(beginning, bytes) else str(beginning).encode(errors="replace")
    return job


def _check_shape(shape: tuple[type, ...]) -> None:
    if not all(found in expected for found, expected in zip(shape, _EXPECTED, strict=True)):
        raise Unreadable
    if len(_shapes) < _SHAPES_KEPT:
        _shapes.add(shape)


def _plain_of(row: Sequence[Any]) -> Job | None:
    """As `job_of`, for a ready job that is a queue and a payload, as most are; None for another."""
    if row[_CHANGING:] != _PLAIN_READY:
        return None
    job_id, queue, due, created, token, deadline, body = row[:_CHANGING]
    if (
        body.__class__ is not bytes
        or queue.__class__ is not str
        or not queue
        or due.__class__ is not float
        or created.__class__ is not float
        or token != 0
        or deadline is not None
    ):
        return None
    parsed = orjson.loads(body)
    if parsed.__class__ is not dict:
        return None
    job = blank(queue)
    job.id, job.due, job.created, job.body, job.parsed = job_id, due, created, body, parsed
    job.special = True
    return job


def _job_of(row: Sequence[Any]) -> Job:
    """As `job_of`, in a hurry; raises where the row is not as we write it."""
    plain = _plain_of(row)
    if plain is not None:
        return plain
    shape = tuple(map(type, row))
    if shape not in _shapes:
        _check_shape(shape)
    job = blank()
    (
        job.id,
        job.queue,
        job.due,
        job.created,
        job.token,
        job.expires,
        job.body,
        job.started,
        job.finished_on,
        job.result_body,
    ) = row[:_FIRST]
    fields = job.__dict__
    fields.update(zip(_NAMES, row[_FIRST:_REST], strict=True))
    status, uniqueness, cancel, meta, progress, progress_text, state, _ = row[_REST:_HOLDS]
    if row[_FIRST:_NUMBERS_END] != _USUAL:
        check_numbers(job)
    job.parsed = payload_of(job.body)
    job.status = STATUS_OF[status]
    if state not in _STATES:
        raise Unreadable
    if job.expires is not None:
        job.expires = within_calendar(job.expires)
    job.cancel_asked = bool(cancel)
    job.waits = state == SCHEDULED
    job.special = True
    if uniqueness != 1:
        job.unique = UNIQUENESS[uniqueness]
    if meta is not None:
        take_meta(job, orjson.loads(meta))
    if job.result_body is not None:
        orjson.loads(job.result_body)
    if progress is not None:
        fields["progress_report"] = (progress, progress_text or "")
    if state > NEW or job.group is not None or row[_HOLDS:] != _HOLDS_NOTHING:
        _take_holding(job, state, row[_HOLDS:])
    return job


def _take_holding(job: Job, state: int, holding: Sequence[Any]) -> None:
    """Take over what only some jobs have."""
    held, holds, steps, turn = holding
    if state == LINE:
        job.held = "line"
    elif state == HELD:
        job.held = "signal" if (held or "").startswith(SIGNAL) else "batch" if held == "batch" else "children"
        if job.due == math.inf:
            job.due = job.created
    job.holds, job.steps = holds, steps
    job.counted = job.group is not None or holds is not None or steps > 0 or turn is not None


def states_and_status(status: Status) -> tuple[tuple[int, ...], int]:
    """Where jobs of a status are, and its number."""
    states = {Status.RUNNING: (RUNNING,), Status.DEAD: (DEAD, KEPT_DEAD)}
    default = (FINISHED, KEPT) if status in FINISHED_STATUSES else (READY, SCHEDULED, NEW, HELD, LINE)
    return states.get(status, default), NUMBER[status]


def kind_of(state: int, status: int) -> int:
    """The kind of neoq_counts that a job in this state is counted as."""
    if state == SCHEDULED:
        return N_RETRYING if status == RETRYING else N_SCHEDULED
    if state in {FINISHED, KEPT}:
        return N_SUCCEEDED if status == SUCCEEDED else N_CANCELLED
    return _KINDS[state]


_KINDS = {
    READY: N_READY,
    LINE: N_READY,
    RUNNING: N_RUNNING,
    DEAD: N_DEAD,
    KEPT_DEAD: N_DEAD,
    HELD: N_HELD,
}


def waiting_state(job: Job) -> int:
    """Where a job is that is neither running nor finished, as it was read."""
    if job.held is not None:
        return LINE if job.held == "line" else HELD
    return SCHEDULED if job.waits else READY
