"""What can be read of a SQLite file's jobs and workers, without a transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

import orjson

from neoq.audit import AuditEntry
from neoq.filter import Filter
from neoq.record import Status
from neoq.schedules import Listed
from neoq.series import SeriesPoint, in_order, point_of
from neoq.sqlite.candidates import KEPT_IDS, NEW_IDS, bounds_of_group, candidates, candidates_of_group
from neoq.sqlite.file import SqliteFile
from neoq.sqlite.rows import (
    BRIEF_COLUMNS,
    COLUMNS,
    N_DEAD,
    N_HELD,
    N_KEPT,
    N_KEPT_DEAD,
    N_READY,
    N_RETRYING,
    N_RUNNING,
    N_SCHEDULED,
    brief_job_of,
    job_of,
    states_and_status,
)
from neoq.sqlite.schema import (
    DEAD,
    FINISHED,
    HELD,
    IN_STATE,
    KEPT,
    KEPT_DEAD,
    LINE,
    NEW,
    READY,
    RUNNING,
    SCHEDULED,
)
from neoq.store import KINDS_LOOKED_AT, Page, QueueCounts, WorkerInfo
from neoq.stored import (
    counts_of,
    entries_in,
    kinds_in,
    number_in,
    numbers_in,
    reported,
    texts_in,
    ticked_in,
)
from neoq.times import to_datetime

LOOKED_AT_ONCE = 10_000  # jobs, for a filter that may leave most of them out
FEW = 5000  # jobs that are found by the index of their state, and sorted
MOST = _BEYOND = 2**63 - 1
_UNSORTED = frozenset({Status.SUCCEEDED, Status.CANCELLED})  # one index has both, and there may be millions
_TIMES = {None: "coalesce(finished_at, created_at)", "created": "created_at", "due": "run_after"}
_ENDED = frozenset({FINISHED, DEAD})
_KEPT = frozenset({KEPT, KEPT_DEAD})
_KINDS: dict[int, tuple[int, ...]] = {
    READY: (N_READY,),
    SCHEDULED: (N_SCHEDULED, N_RETRYING),
    RUNNING: (N_RUNNING,),
    DEAD: (N_DEAD,),
    HELD: (N_HELD,),
    LINE: (),  # they count as ready
}

_COUNTS = (  # in one statement, because `index_new` changes both
    "select queue, kind, n, null from neoq_counts where queue <> ''"
    " union all select queue, run_after > ?, count(*), min(run_after) from neoq_jobs"
    " where id > (select n from neoq_counts where queue = '' and kind = 0) group by 1, 2"
)
_DUE = "select count(*), min(run_after) from neoq_jobs where state = 1 and queue = ? and run_after <= ?"
_RETRYING_DUE = (
    "select count(*) from neoq_jobs indexed by neoq_retrying"
    " where status = 1 and queue = ? and state = 1 and run_after <= ?"
)
_OLDEST = (  # one look at an index for each priority of a queue, and for each queue
    "with recursive level (queue, priority) as ("  # noqa: S608
    " select queue, (select max(priority) from neoq_jobs where state = 0 and queue = counted.queue)"
    " from neoq_counts counted where kind = 0 and n > 0 and queue <> ''"
    " union all select queue, (select max(priority) from neoq_jobs where state = 0"
    " and queue = level.queue and priority < level.priority) from level where priority is not null)"
    f" select queue, {N_READY}, 0, (select min(run_after) from neoq_jobs where state = 0"
    " and queue = level.queue and priority = level.priority) from level where priority is not null"
    f" union all select queue, {N_RUNNING}, 0, min(ran_at) from neoq_jobs where state = 2 group by queue"
)
_WAITING_KINDS = (
    "select case typeof(kind) when 'text' then kind end, count(*) from (select kind from ("  # noqa: S608
    " select * from (select kind from neoq_jobs where state = 0 and queue = ?"
    f" order by priority desc, run_after limit {KINDS_LOOKED_AT})"
    " union all select * from (select kind from neoq_jobs where state = 1 and queue = ?"
    f" order by run_after limit {KINDS_LOOKED_AT})"
    " union all select * from (select kind from neoq_jobs where id > (select n from neoq_counts"
    f" where queue = '' and kind = 0) and queue = ? limit {KINDS_LOOKED_AT})"
    f" union all select * from (select kind from neoq_jobs where {IN_STATE[LINE]} and queue = ?"
    f" limit {KINDS_LOOKED_AT})"
    f") limit {KINDS_LOOKED_AT}) group by 1"
)


def find(
    file: SqliteFile,
    wanted: Filter,
    limit: int,
    after: int | None,
    before: int | None,
    *,
    brief: bool = False,
) -> Page:
    """Snapshots of jobs, newest first; ``brief``: as `Store.find_brief` says."""
    brief = brief and not wanted.payload  # whose values may stand anywhere in it
    columns, read = (BRIEF_COLUMNS, brief_job_of) if brief else (COLUMNS, job_of)
    where, values = _conditions(wanted)
    rest: int | None = None
    if wanted.narrow:
        few = None if wanted.group is not None else _few(file, wanted)
        look = candidates if wanted.group is None else candidates_of_group
        among = None if few is not None else look(file, wanted, limit, after, before)
        if few is not None:
            where.append(few[0])
            values += few[1]
        elif among is not None:
            where.append("id in (select value from json_each(?))")
            values.append(orjson.dumps(among.ids).decode())
            rest = among.end
        else:
            rest = _end_of_window(file, after, before)
    for condition, value in (
        ("id < ?", after),
        ("id > ?", before),
        ("id >= ?" if before is None else "id <= ?", rest),
    ):
        if value is not None:
            where.append(condition)
            values.append(value)
    order = "desc" if before is None else "asc"
    rows = file.read(
        f"select {columns} from neoq_jobs where {' and '.join(where)} order by id {order} limit ?",  # noqa: S608
        (*values, wanted.rows(limit)),
    )
    jobs, rest = wanted.cut([read(row) for row in rows], limit, rest)
    return Page(jobs if before is None else jobs[::-1], rest)


def _conditions(wanted: Filter) -> tuple[list[str], list[Any]]:
    where, values = ["1"], list[Any]()
    if wanted.ids is not None:
        where.append("id in (select value from json_each(?))")
        values.append(f"[{','.join(map(str, wanted.ids))}]")
    if wanted.uids is not None:
        where.append("uid in (select value from json_each(?))")
        values.append(orjson.dumps(list(wanted.uids)).decode())
    if wanted.statuses is not None:
        any_of = []
        for status in wanted.statuses:
            states, number = states_and_status(status)
            any_of.append(f"(state in ({','.join(map(str, states))}) and status = {number})")
        where.append(f"({' or '.join(any_of) or '0'})")
    time = _TIMES[wanted.time]
    for condition, value in (
        ("queue = ?", wanted.queue),
        ("kind = ?", wanted.kind),
        ("key = ?", wanted.key),
        (f"{time} >= ?", wanted.since),
        (f"{time} < ?", wanted.until),
        ("instr(error, ?) > 0", wanted.error),
    ):
        if value is not None:
            where.append(condition)
            values.append(value)
    if wanted.group is not None:
        where.append("batch >= ? and batch < ?")
        values += bounds_of_group(wanted.group)
    for parts in wanted.payload_parts():
        where.append(f"({' or '.join(['instr(payload, ?) > 0'] * len(parts))})")
        values += parts
    return where, values


def _few(file: SqliteFile, wanted: Filter) -> tuple[str, list[float]] | None:
    """A condition that indexes answer, and its values, for jobs that are few by their states and ends."""
    statuses = frozenset(Status) if wanted.statuses is None else wanted.statuses
    if statuses & _UNSORTED and not wanted.by_end:
        return None
    states = {state for status in statuses for state in states_and_status(status)[0]} - {NEW}
    kept, states = states & _KEPT, states - _KEPT
    queries = [f"select id from neoq_jobs where {IN_STATE[state]}" for state in sorted(states - _ENDED)]  # noqa: S608
    if READY in states:
        queries.append(NEW_IDS)
    values: list[float] = []
    if wanted.by_end:
        bounds = {"finished_at >= ?": wanted.since, "finished_at < ?": wanted.until}
        span = "".join(f" and {condition}" for condition, value in bounds.items() if value is not None)
        given = [value for value in bounds.values() if value is not None]
        for state in sorted(states & _ENDED):
            queries.append(f"select id from neoq_jobs where state = {state}{span}")  # noqa: S608
            values += given
        states -= _ENDED
    elif DEAD in states:
        queries.append(f"select id from neoq_jobs where state = {DEAD}")  # noqa: S608
    kinds = ",".join(str(kind) for state in states for kind in _KINDS[state])
    if kept:
        queries.append(KEPT_IDS)
        kinds = f"{kinds or -1},{N_KEPT},{N_KEPT_DEAD}"
    [(number,)] = file.read(
        f"select sum(n) from neoq_counts where queue <> '' and kind in ({kinds})"  # noqa: S608
    )
    if not isinstance(number or 0, int) or (number or 0) > FEW:
        return None
    ids = " union all ".join(queries)
    if wanted.by_end:
        [(number,)] = file.read(f"select count(*) from ({ids} limit ?)", (*values, FEW + 1))  # noqa: S608
        if number > FEW:
            return None
    return f"id in ({ids})", values


def _end_of_window(file: SqliteFile, after: int | None, before: int | None) -> int | None:
    """The id of the last job that this call looks at; None where it looks at all that are left."""
    if before is not None:
        query, start = "id > ? order by id", before
    else:
        query, start = "id < ? order by id desc", _BEYOND if after is None else after
    query = f"select id from neoq_jobs where {query} limit 1 offset {LOOKED_AT_ONCE - 1}"  # noqa: S608
    return next((job_id for (job_id,) in file.read(query, (start,))), None)


def counts(file: SqliteFile, now: float) -> list[QueueCounts]:
    """Every queue that has or had jobs."""
    rows = file.read(_COUNTS, (now,))
    paused = {
        queue
        for (queue,) in file.read("select queue from neoq_paused where paused = 1 and typeof(queue) = 'text'")
    }
    for queue in {
        queue for queue, kind, number, _ in rows if type(queue) is str and kind in {1, 2} and number
    }:
        [(number, oldest)] = file.read(_DUE, (queue, now))
        [(retrying,)] = file.read(_RETRYING_DUE, (queue, now))  # due, and nobody has looked yet
        rows += [
            (queue, N_READY, number, oldest),
            (queue, N_SCHEDULED, retrying - number, None),
            (queue, N_RETRYING, -retrying, None),
        ]
    rows += file.read(_OLDEST)
    return counts_of(rows, dict.fromkeys(paused, True))


def waiting_kinds(file: SqliteFile, queues: Iterable[str]) -> dict[tuple[str, str | None], int]:
    """How many jobs of each queue and kind wait, of the first that will be claimed."""
    return {
        (queue, kind): number
        for queue in queues
        for kind, number in file.read(_WAITING_KINDS, (queue, queue, queue, queue))
    }


def schedules(file: SqliteFile, listed_since: float) -> list[Listed]:
    """The schedules that were listed since then."""
    rows = file.read(
        "select name, described, tick, job, skipped from neoq_schedules"
        " left join neoq_ticks t on t.cron = name left join neoq_tick_jobs j on j.cron = name"
        " where listed_at >= ? and typeof(name) = 'text' order by name",
        (listed_since,),
    )
    return [
        Listed(name, described, to_datetime(number_in(tick)), *ticked_in(job, skipped))
        for name, described, tick, job, skipped in rows
    ]


def workers(file: SqliteFile, heard_since: float, is_dead: Callable[[str], bool]) -> list[WorkerInfo]:
    """The processes that listen on this file and are alive."""
    rows = file.read(
        "select id, host, pid, started_at, beat_at, queues, running, kinds, version, report"
        " from neoq_processes"
        " left join neoq_reports on worker = id where beat_at >= ? order by started_at, id",
        (heard_since,),
    )
    return [
        reported(
            WorkerInfo(
                *(name, host, pid, _time_of(began), _time_of(beat), served := texts_in(queues), running),
                *(kinds_in(kinds, served), version if isinstance(version, str) else ""),
            ),
            report,
        )
        for name, host, pid, began, beat, queues, running, kinds, version, report in rows
        if tuple(map(type, (name, host, pid, running))) == (str, str, int, int)  # else it is not ours
        and number_in(beat) is not None
        and not is_dead(name)
    ]


def audit(file: SqliteFile, limit: int, before: int | None, kept_since: float) -> list[AuditEntry]:
    """What was done since then, newest first."""
    return entries_in(
        file.read(
            "select id, at, user, via, action, count, queue, what from neoq_audit"
            " where id < ? and at >= ? order by id desc limit ?",
            (_BEYOND if before is None else before, kept_since, limit),
        )
    )


def series(file: SqliteFile, queue: str | None, since: float, seconds: int) -> list[SeriesPoint]:
    """What jobs came to over time: the points that last so long and end after then."""
    rows = file.read(
        "select queue, start, numbers from neoq_series where seconds = ? and start > ?",
        (seconds, since - seconds),
    )
    return in_order(
        point_of(name, number_in(start), seconds, numbers_in(numbers))
        for name, start, numbers in rows
        if isinstance(name, str) and queue in {None, name}
    )


def _time_of(epoch: float) -> datetime:
    return to_datetime(number_in(epoch) or 0.0)  # type: ignore[return-value]
