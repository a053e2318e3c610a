"""What a row of a SQLite file's jobs says, and how they are counted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import orjson

from neoq.job import FINISHED, Job, Status, Unique, blank
from neoq.sqlite_schema import DIED, ENDED, READY, RUNS, WAITS
from neoq.store import QueueCounts

_STATUSES = (
    Status.PENDING,
    Status.RETRYING,
    Status.RUNNING,
    Status.SUCCEEDED,
    Status.DEAD,
    Status.CANCELLED,
)
NUMBER = {status: number for number, status in enumerate(_STATUSES)}
PENDING, RETRYING, RUNNING, SUCCEEDED, DEAD, CANCELLED = range(6)
UNIQUENESS: dict[Unique, int] = {False: 0, True: 1, "until_started": 2}
_UNIQUE: dict[int, Unique] = {0: False, 1: True, 2: "until_started"}
_FIELDS = (  # of QueueCounts; the place in this tuple is the kind in neoq_counts
    *("ready", "scheduled", "retrying", "running", "succeeded", "dead", "cancelled"),
)
N_READY, N_SCHEDULED, N_RETRYING, N_RUNNING, N_SUCCEEDED, N_DEAD, N_CANCELLED = range(7)
_IN_SLOTS = "id, queue, run_after, created_at, token, deadline, payload, ran_at, finished_at, result"
_AS_THEY_ARE = {  # columns, and the attributes of a job that they are
    "priority": "priority",
    "worker": "worker",
    "crashes": "crashes",
    "retries": "retries",
    "max_retries": "max_retries",
    "fingerprint": "_own_fingerprint",
    "kind": "kind",
    "key": "key",
    "batch": "group",
    "error": "error",
    "traceback": "traceback",
}
_ATTRIBUTES = tuple(_AS_THEY_ARE.values())
_OTHERS = "status, uniqueness, cancel, meta, progress, progress_text, place, lease_until"
COLUMNS = f"{_IN_SLOTS}, {', '.join(_AS_THEY_ARE)}, {_OTHERS}"
_FIRST, _REST = 10, 10 + len(_AS_THEY_ARE)


def job_of(row: Sequence[Any]) -> Job:
    """The job that a row of `COLUMNS` describes."""
    job = blank()
    (
        job.id,
        job.queue,
        job._run_after,
        job._created_at,
        job._token,
        job._deadline,
        job._data,
        job._ran_at,
        job._finished_at,
        job._result,
    ) = row[:_FIRST]
    fields = job.__dict__
    fields.update(zip(_ATTRIBUTES, row[_FIRST:_REST], strict=True))
    status, uniqueness, cancel, meta, progress, progress_text, place, _ = row[_REST:]
    job.status = _STATUSES[status]
    job._cancel = bool(cancel)
    job._waits = place == WAITS
    job._special = True
    if uniqueness != 1:
        job.unique = _UNIQUE[uniqueness]
    if meta is not None:
        job.meta = orjson.loads(meta)
    if progress is not None:
        fields["_progress"] = (progress, progress_text)
    return job


def counts_of(rows: Iterable[tuple[str, int, int]], paused: set[str]) -> list[QueueCounts]:
    """Counts of each queue from (queue, kind, number), which may name a kind more than once."""
    numbers: dict[str, dict[str, int]] = {queue: {} for queue in paused}
    for queue, kind, number in rows:
        of_queue = numbers.setdefault(queue, {})
        of_queue[_FIELDS[kind]] = of_queue.get(_FIELDS[kind], 0) + number
    return [QueueCounts(queue, paused=queue in paused, **numbers[queue]) for queue in sorted(numbers)]


def place_and_status(status: Status) -> tuple[tuple[int, ...], int]:
    """Where jobs of a status are, and its number."""
    places = {Status.RUNNING: (RUNS,), Status.DEAD: (DIED,)}
    default = (ENDED,) if status in FINISHED else (READY, WAITS)
    return places.get(status, default), NUMBER[status]


def kind_of(place: int, status: int) -> int:
    """The kind of neoq_counts that a job at this place is counted as."""
    if place == WAITS:
        return N_RETRYING if status == RETRYING else N_SCHEDULED
    if place == ENDED:
        return N_SUCCEEDED if status == SUCCEEDED else N_CANCELLED
    return {READY: N_READY, RUNS: N_RUNNING, DIED: N_DEAD}[place]
