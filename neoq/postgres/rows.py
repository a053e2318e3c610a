"""Jobs as rows: what the statements of PostgresBackend send, and what they return."""

from __future__ import annotations

import math
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import orjson

from neoq.filter import Filter
from neoq.held.group import BATCH, group_in
from neoq.job import Job, blank
from neoq.outcome import Outcome
from neoq.payload import CODEC, digest
from neoq.postgres.arrays import bools, byteas, float8s, int2s, int4s, int8s, texts, uuids
from neoq.postgres.members import print_of
from neoq.postgres.statements import Statements
from neoq.record import FINISHED, Held, OnDuplicate, Status
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
    take_meta,
    unreadable,
)
from neoq.times import within_calendar

_ON_DUPLICATE: dict[OnDuplicate, int] = {"return": 0, "raise": 1, "replace": 2}

HELD_FOR: dict[int, Held] = {1: "batch", 2: "children", 3: "signal", 4: "line"}
MOST = 2**31 - 1  # rows
LOOKED_AT_ONCE = 10_000  # jobs of a table, for a filter that may leave most of them out
FEW = 5000  # jobs that are found by the time of their end, and sorted
MOST_IDS = 2**63 - 1  # above every id
_TIMES = {"created": "created_at", "due": "run_after"}
_PLAIN = (0, 0, 1, *(None,) * 15)  # what most jobs have from crashes on


class Arrays:
    """How arrays are given to a connection: in binary to ours, as lists to a caller's own."""

    def __init__(self, *, binary: bool) -> None:
        self.int2s: Any = int2s if binary else list
        self.int4s: Any = int4s if binary else list
        self.int8s: Any = int8s if binary else list
        self.float8s: Any = float8s if binary else list
        self.bools: Any = bools if binary else list
        self.texts: Any = texts if binary else list
        self.byteas: Any = byteas if binary else list
        self.uuids: Any = uuids if binary else _hexadecimal


def _hexadecimal(values: Sequence[bytes | None]) -> list[str | None]:
    return [None if value is None else value.hex() for value in values]


# The types of the columns that the statements return, as `portable` takes them.
ADDED = "nnfffnn"
SNAPSHOT = "ntnnffnnnnftttttbbfttftnntnnfbbn"

BINARY, LISTS = Arrays(binary=True), Arrays(binary=False)


def held(job: Job) -> bytes | None:
    """What a job keeps others from having, in 16 bytes; None for one that is not unique."""
    if not job.unique:
        return None
    own = job.own_fingerprint
    if own is None:
        return bytes.fromhex(job.fingerprint) if job.body is None else digest(job.queue, job.body)
    return held_by(own)


def held_by(own: str) -> bytes:
    """What a job of that fingerprint keeps others from having."""
    if len(own) == 32 and not own.strip("0123456789abcdef"):  # one that we computed
        return bytes.fromhex(own)
    return blake2b(own.encode(), digest_size=16).digest()


def add_values(
    jobs: Sequence[Job],
    tokens: Sequence[bytes | None],
    arrays: Arrays,
    *,
    notify: str | None = None,
    unnamed: Container[int] = (),
) -> dict[str, Any]:
    """The values of `Statements.add`; ``unnamed`` are producers of batches that need no prints."""
    special = _NOT_SPECIAL
    if any(job.special for job in jobs):
        special = _special(jobs, arrays)
    return {
        "queues": arrays.texts([job.queue for job in jobs]),
        "payloads": arrays.byteas([job.body for job in jobs]),
        "holds": arrays.uuids([held(job) for job in jobs]),
        "added_by": arrays.uuids(tokens) if any(tokens) else None,
        **special,
        **_membership(jobs, arrays, unnamed),
        "codec": CODEC,
        "notify": notify,
    }


def _membership(jobs: Sequence[Job], arrays: Arrays, unnamed: Container[int]) -> dict[str, Any]:
    """What `Statements.add_members` takes beside; nothing where no job is of a group."""
    if not any(job.special and job.group is not None for job in jobs):
        return {}
    producers = [job.producer for job in jobs]
    printed = any(producer and producer not in unnamed for producer in set(producers))
    return {
        "producers": arrays.int8s(producers),
        "prints": arrays.uuids([print_of(job) for job in jobs]) if printed else None,
    }


def _special(jobs: Sequence[Job], arrays: Arrays) -> dict[str, Any]:
    return {
        "at": arrays.float8s([job.asked_run_after[0] for job in jobs]),
        "span": arrays.float8s([job.asked_run_after[1] for job in jobs]),
        "priorities": arrays.int2s([job.priority for job in jobs]),
        "uniqueness": arrays.int2s([UNIQUENESS_NUMBER[job.unique] for job in jobs]),
        "on_duplicate": arrays.int2s([_ON_DUPLICATE[job.on_duplicate] for job in jobs]),
        "max_retries": arrays.int4s([job.max_retries for job in jobs]),
        "deadline": arrays.float8s([job.expires if job.asked_deadline[1] is None else None for job in jobs]),
        "deadline_span": arrays.float8s([job.asked_deadline[1] for job in jobs]),
        "fingerprints": arrays.texts([job.own_fingerprint for job in jobs]),
        "kinds": arrays.texts([job.kind for job in jobs]),
        "keys": arrays.texts([job.key for job in jobs]),
        "batches": arrays.texts([job.group for job in jobs]),
        "uids": arrays.texts([job.uid for job in jobs]) if any(job.uid for job in jobs) else None,
        "metas": arrays.byteas([encoded_meta(job) for job in jobs]),
    }


_NOT_SPECIAL = dict.fromkeys(_special([], LISTS))


def accept(jobs: Sequence[Job], rows: list[tuple[Any, ...]]) -> list[int]:
    """Give jobs what the server gave them; return the ids of holders, 0 where the job itself was stored."""
    ids = rows[0][6]
    if ids is not None:
        now = rows[0][2]
        for job, job_id in zip(jobs, ids, strict=True):
            job.id = job_id
            job.due = job.created = now
        return [0] * len(jobs)
    if len(rows) > 1:
        rows.sort(key=_place_or_id)
    holders = []
    for job, (_, job_id, run_after, created_at, deadline, duplicate, _) in zip(jobs, rows, strict=True):
        if duplicate:
            holders.append(job_id)
            continue
        holders.append(0)
        job.id = job_id
        job.due = run_after
        job.created = created_at
        job.expires = deadline
    return holders


def _place_or_id(row: tuple[Any, ...]) -> Any:
    return row[1] if row[0] is None else row[0]


_FIND = (  # the columns of a `find_query`, as `read` calls them
    *("id", "queue", "status", "priority", "run_after", "created_at", "uniqueness", "crashes", "retries"),
    *(
        "max_retries",
        "deadline",
        "fingerprint",
        "kind",
        "key",
        "group",
        "uid",
        "meta",
        "payload",
        "ran_at",
        "error",
    ),
    *("traceback", "progress", "progress_text", "round", "token", "worker", "cancel", "waits", "finished_at"),
    *("result", "attempts", "held"),
)
_PAYLOAD_AT = _FIND.index("payload")
_CLAIM = (
    *("id", "queue", "priority", "run_after", "created_at", "payload", "crashes", "retries", "uniqueness"),
    *("max_retries", "deadline", "fingerprint", "kind", "key", "group", "uid", "meta", "error", "traceback"),
    *("attempts", "steps", "round", "turn"),
)
CLAIMED_DEADLINE = _CLAIM.index("deadline")


def claimed(rows: Iterable[Sequence[Any]], token: int, worker: str) -> tuple[list[Job], list[Job]]:
    """The jobs that a claim returned, and those that nobody can read, whatever somebody has put there."""
    jobs, unread = list[Job](), list[Job]()
    for row in rows:
        try:
            jobs.append(_claimed(row, token, worker))
        except (ValueError, LookupError, TypeError):
            fields = dict(zip(_CLAIM, row, strict=False))
            job = read({**fields, "status": NUMBER[Status.RUNNING], "token": token, "worker": worker})
            _take_place(job, fields.get("steps"), fields.get("round"), fields.get("turn"))
            (jobs if unreadable(job) is None else unread).append(job)
    return jobs, unread


def _take_place(job: Job, steps: int | None, holds: int | None, turn: int | None) -> None:
    """Let a claimed job know how many steps it has, which children, and whether its end is counted."""
    job.steps, job.holds = steps or 0, holds
    job.counted = steps is not None or turn is not None or job.group is not None or holds is not None


def job_of(row: Sequence[Any]) -> Job:
    """The snapshot that a row of a `find_query` describes, whatever somebody has put there."""
    try:
        return _job_of(row)
    except (ValueError, LookupError, TypeError):
        return read(dict(zip(_FIND, row, strict=True)))


def _check(job: Job) -> None:
    """Raise where a job has what none of ours has; its times are brought into the calendar."""
    check_numbers(job)
    if job.expires is not None:
        job.expires = within_calendar(job.expires)


def _claimed(row: Sequence[Any], token: int, worker: str) -> Job:
    """As `claimed`, in a hurry; raises where the row is not as we write it."""
    job = blank()
    job.id, job.queue, priority, job.due, job.created, data = row[:6]
    payload = orjson.loads(data)
    if payload.__class__ is not dict:
        raise Unreadable
    job.body, job.parsed = data, payload
    job.priority = priority
    job.status = Status.RUNNING
    job.token = token
    job.worker = worker
    job.special = True
    if row[6:] != _PLAIN:
        job.crashes, job.retries, uniqueness, job.max_retries, job.expires, job.own_fingerprint = row[6:12]
        job.kind, job.key, job.group, job.uid, meta, job.error, job.traceback, job.failed_attempts = row[
            12:20
        ]
        _take_place(job, *row[20:23])
        job.unique = UNIQUENESS[uniqueness]
        if meta is not None:
            take_meta(job, orjson.loads(meta))
        _check(job)
    elif priority and not -100 <= priority <= 100:
        raise Unreadable
    return job


def _job_of(row: Sequence[Any]) -> Job:
    """As `job_of`, quickly; raises where the row is not as we write it. A driver may give memoryviews."""
    job = blank()
    job.id, job.queue, status, job.priority, job.due, job.created, uniqueness = row[:7]
    job.crashes, job.retries, job.max_retries, job.expires, job.own_fingerprint = row[7:12]
    job.kind, job.key, job.group, job.uid, meta, data, job.started, job.error, job.traceback = row[12:21]
    progress, progress_text, job.holds, token, job.worker, job.cancel_asked, job.waits = row[21:28]
    job.finished_on, result, attempts, why_held = row[28:]
    if why_held is not None and status < 2 and job.waits:
        job.held = HELD_FOR[why_held]
        job.waits = why_held != 4  # which is due
        if job.due == math.inf:
            job.due = job.created
    if attempts is not None:
        job.failed_attempts = bytes(attempts)
    job.status = STATUS_OF[status]
    job.body = bytes(data)
    job.parsed = payload_of(job.body)
    if result is not None:
        job.result_body = bytes(result)
        orjson.loads(job.result_body)
    job.token = token or 0
    job.unique = UNIQUENESS[uniqueness]
    job.special = True
    if meta is not None:
        take_meta(job, orjson.loads(bytes(meta)))
    _check(job)
    if progress is not None:
        job.progress_report = (progress, progress_text or "")
    return job


def brief_job_of(row: Sequence[Any]) -> Job:
    """As `job_of`, for a row whose payload may be cut; that is the body of the job, and nobody reads it."""
    job = job_of([*row[:_PAYLOAD_AT], b"{}", *row[_PAYLOAD_AT + 1 :]])
    job.body = bytes(row[_PAYLOAD_AT])
    return job


def find_query(
    statements: Statements,
    wanted: Filter,
    *,
    limit: int,
    after: int | None = None,
    before: int | None = None,
    rest: int | None = None,
    among: Mapping[str, list[int]] | None = None,
    brief: bool = False,
) -> tuple[str, list[Any]]:
    """The query for snapshots, and its values: newest first, or oldest first for those above ``before``.

    ``among`` has the ids of all that may match, for each table in which they are known.
    """
    order = "desc" if before is None else "asc"
    bounds = [("id < %s", after), ("id > %s", before), ("id >= %s" if before is None else "id <= %s", rest)]
    parts, given = [], list[Any]()
    for table, numbers in tables_of(wanted):
        find, time = (
            (statements.brief_unfinished if brief else statements.find_unfinished, "created_at")
            if table == "jobs"
            else (statements.brief_finished if brief else statements.find_finished, "finished_at")
        )
        where, values = conditions(wanted, _TIMES[wanted.time] if wanted.time else time, bounds)
        if among and table in among:
            where.append("id = any (%s::bigint[])")
            values.append(among[table])
        parts.append(find.format(" and ".join([of_status(numbers), *where]), order))
        given += [*values, limit]
    if len(parts) == 1:
        return parts[0], given
    return f"{' union all '.join(parts)} order by 1 {order} limit %s", [*given, limit]


def tables_of(wanted: Filter) -> list[tuple[str, list[int] | None]]:
    """The tables that have such jobs, each with the numbers of the statuses there; None for all."""
    if wanted.statuses is None:
        return [("jobs", None), ("history", None)]
    numbers = {
        "jobs": [NUMBER[status] for status in wanted.statuses - FINISHED],
        "history": [NUMBER[status] for status in wanted.statuses & FINISHED],
    }
    return [(table, there) for table, there in numbers.items() if there]


def of_status(numbers: list[int] | None) -> str:
    """The condition that a status is one of these numbers; None for any."""
    if numbers is None:
        return "true"
    return f"status = {numbers[0]}" if len(numbers) == 1 else f"status in ({', '.join(map(str, numbers))})"


def conditions(
    wanted: Filter, time: str, bounds: list[tuple[str, int | None]]
) -> tuple[list[str], list[Any]]:
    """The conditions of a filter, without its statuses, and their values; ``time`` is a column."""
    where, values = list[str](), list[Any]()
    if wanted.ids is not None:
        where.append("id = any (%s::bigint[])")
        values.append(list(wanted.ids))
    if wanted.uids is not None:
        where.append("uid = any (%s::text[])")
        values.append(list(wanted.uids))
    for condition, value in (
        *bounds,
        ("queue = %s", wanted.queue),
        ("kind = %s", wanted.kind),
        ("key = %s", wanted.key),
        *_group_bounds(wanted.group),
        (f"{time} >= %s", wanted.since),
        (f"{time} < %s", wanted.until),
        ("strpos(error, %s) > 0", wanted.error),
    ):
        if value is not None:
            where.append(condition)
            values.append(value)
    for parts in wanted.payload_parts():
        where.append(f"({' or '.join(['position(%s::bytea in payload) > 0'] * len(parts))})")
        values += parts
    return where, values


def _group_bounds(name: str | None) -> list[tuple[str, str]]:
    """The conditions for the jobs of a group; the members of a batch all have the same text."""
    if name is None:
        return []
    group = group_in(name)
    if group is not None and group.round == BATCH:
        return [('batch collate "C" = %s', name)]
    return [('batch collate "C" >= %s', name), ('batch collate "C" < %s', f"{name}:")]


def ended_query(statements: Statements, wanted: Filter) -> tuple[str, list[Any]] | None:
    """The query for the ids of jobs that ended in a span of time, one more than `FEW` at most.

    None where the filter asks for no such span.
    """
    numbers = dict(tables_of(wanted)).get("history", [])
    if not wanted.by_end or numbers == []:
        return None
    bounds = {"finished_at >= %s": wanted.since, "finished_at < %s": wanted.until}
    where = [condition for condition, value in bounds.items() if value is not None]
    given = [value for value in bounds.values() if value is not None]
    dead = NUMBER[Status.DEAD]
    parts = [
        statements.ended_between.format(" and ".join([f"status {which} {dead}", *where]))
        for which in ("=", "<>")
        if numbers is None or (dead in numbers if which == "=" else set(numbers) - {dead})
    ]
    return " union all ".join(parts), [*given, FEW + 1] * len(parts)


def window_query(
    statements: Statements,
    wanted: Filter,
    after: int | None,
    before: int | None,
    *,
    known: Collection[str] = (),
) -> tuple[str, list[Any]]:
    """The query for the ids of the last jobs that a look goes to, one for each table that has more.

    That is "" where there is no such table. The ``known`` tables are left out. Of jobs in history that have
    not succeeded an index has each status, and others there are not counted.
    """
    start = before if before is not None else MOST_IDS if after is None else after
    window = statements.window_upwards if before is not None else statements.window_downwards
    parts = [
        window.format(table, of_status(numbers if table == "history" and len(numbers or ()) == 1 else None))
        for table, numbers in tables_of(wanted)
        if table not in known
    ]
    return " union all ".join(parts), [value for _ in parts for value in (start, LOOKED_AT_ONCE - 1)]


def succeed_values(outcomes: Sequence[Outcome], skew: float, *, keep: bool) -> dict[str, Any]:
    """The values of `Statements.succeed`."""
    results = [outcome.result for outcome in outcomes] if keep else []
    return {
        "ids": int8s([outcome.lease.job_id for outcome in outcomes]),
        "tokens": int8s([outcome.lease.token for outcome in outcomes]),
        "started": float8s([outcome.started_at for outcome in outcomes]) if keep else None,
        "finished": float8s([outcome.finished_at for outcome in outcomes]) if keep else None,
        "results": byteas(results) if any(results) else None,
        "skew": skew,
        "keep": keep,
    }


def settle_values(
    outcomes: Sequence[Outcome],
    arrays: Arrays,
    skew: float,
    *,
    keep: bool,
    completed: bool = False,
    skip: bool = False,
) -> dict[str, Any]:
    """The values of `Statements.settle`."""
    failures = [outcome.failure for outcome in outcomes]
    progress = [outcome.lease.progress or (None, None) for outcome in outcomes]
    return {
        "ids": arrays.int8s([outcome.lease.job_id for outcome in outcomes]),
        "tokens": arrays.int8s([outcome.lease.token for outcome in outcomes]),
        "statuses": arrays.int2s([NUMBER[outcome.status] for outcome in outcomes]),
        "run_after": arrays.float8s([_due(outcome) for outcome in outcomes]),
        "charged": arrays.bools([outcome.charged for outcome in outcomes]),
        "started": arrays.float8s([outcome.started_at for outcome in outcomes]),
        "finished": arrays.float8s([outcome.finished_at for outcome in outcomes]),
        "errors": arrays.texts(
            [failure and text(f"{failure.type}: {failure.message}") for failure in failures]
        ),
        "tracebacks": arrays.texts([failure and text(failure.traceback) for failure in failures]),
        "attempts": arrays.byteas([outcome.failed_attempts for outcome in outcomes]),
        "results": arrays.byteas([outcome.result for outcome in outcomes]),
        "fractions": arrays.float8s([fraction for fraction, _ in progress]),
        "texts": arrays.texts([text(words) for _, words in progress]),
        "skew": skew,
        "keep": keep,
        "completed": completed,
        "skip": skip,
    }


def _due(outcome: Outcome) -> float | None:
    never = outcome.run_after is None and outcome.awaits is not None
    return math.inf if never else outcome.run_after


def text(value: str | None) -> str | None:
    """A text that PostgreSQL can hold: an exception's message may have anything, NUL included."""
    return (
        None
        if value is None
        else value.encode("utf-8", "replace").decode().replace("\0", "\N{SYMBOL FOR NULL}")
    )
