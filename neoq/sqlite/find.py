"""What can be read of a SQLite file's jobs and workers, without a transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime

from neoq.job import Job, Status, to_datetime
from neoq.sqlite.file import SqliteFile
from neoq.sqlite.rows import COLUMNS, job_of, states_and_status
from neoq.store import KINDS_LOOKED_AT, QueueCounts, WorkerInfo
from neoq.stored import counts_of, kinds_in, number_in, texts_in

_COUNTS = (  # in one statement, because `index_new` changes both
    "select queue, kind, n from neoq_counts where queue <> ''"
    " union all select queue, run_after > ?, count(*) from neoq_jobs"
    " where id > (select n from neoq_counts where queue = '' and kind = 0) group by 1, 2"
)
_WAITING_KINDS = (
    "select case typeof(kind) when 'text' then kind end, count(*) from (select kind from ("
    " select * from (select kind from neoq_jobs where state = 0 and queue = ?1"
    " order by priority desc, run_after limit ?2)"
    " union all select * from (select kind from neoq_jobs where state = 1 and queue = ?1"
    " order by run_after limit ?2)"
    " union all select * from (select kind from neoq_jobs"
    " where id > (select n from neoq_counts where queue = '' and kind = 0) and queue = ?1 limit ?2)"
    ") limit ?2) group by 1"
)


def find(
    file: SqliteFile,
    *,
    ids: Iterable[int] | None,
    queue: str | None,
    status: Status | None,
    limit: int,
    after: int | None,
) -> list[Job]:
    """Snapshots of jobs, newest first."""
    where, values = ["1"], []
    if ids is not None:
        where.append("id in (select value from json_each(?))")
        values.append(f"[{','.join(map(str, ids))}]")
    if status is not None:
        states, number = states_and_status(status)
        where.append(f"state in ({','.join(map(str, states))}) and status = {number}")
    for condition, value in (("queue = ?", queue), ("id < ?", after)):
        if value is not None:
            where.append(condition)
            values.append(value)  # type: ignore[arg-type]
    rows = file.read(
        f"select {COLUMNS} from neoq_jobs where {' and '.join(where)} order by id desc limit ?",  # noqa: S608
        (*values, limit),
    )
    return [job_of(row) for row in rows]


def counts(file: SqliteFile, now: float) -> list[QueueCounts]:
    """Every queue that has or had jobs."""
    rows = file.read(_COUNTS, (now,))
    paused = {
        queue
        for (queue,) in file.read("select queue from neoq_queues where paused = 1 and typeof(queue) = 'text'")
    }
    for queue in {queue for queue, kind, number in rows if type(queue) is str and kind in {1, 2} and number}:
        for status, number in file.read(
            "select status, count(*) from neoq_jobs where state = 1 and queue = ? and run_after <= ?"
            " and status in (0, 1) group by status",
            (queue, now),
        ):
            rows += [(queue, 0, number), (queue, 1 + status, -number)]  # due, and nobody has looked yet
    return counts_of(rows, dict.fromkeys(paused, True))


def waiting_kinds(file: SqliteFile, queues: Iterable[str]) -> dict[tuple[str, str | None], int]:
    """How many jobs of each queue and kind wait, of the first that will be claimed."""
    return {
        (queue, kind): number
        for queue in queues
        for kind, number in file.read(_WAITING_KINDS, (queue, KINDS_LOOKED_AT))
    }


def workers(file: SqliteFile, heard_since: float, is_dead: Callable[[str], bool]) -> list[WorkerInfo]:
    """The processes that listen on this file and are alive."""
    rows = file.read(
        "select id, host, pid, started_at, beat_at, queues, running, kinds, version from neoq_workers"
        " where beat_at >= ? order by started_at, id",
        (heard_since,),
    )
    return [
        WorkerInfo(
            *(name, host, pid, _time_of(began), _time_of(beat), served := texts_in(queues), running),
            *(kinds_in(kinds, served), version if isinstance(version, str) else ""),
        )
        for name, host, pid, began, beat, queues, running, kinds, version in rows
        if tuple(map(type, (name, host, pid, running))) == (str, str, int, int)  # else it is not ours
        and number_in(beat) is not None
        and not is_dead(name)
    ]


def _time_of(epoch: float) -> datetime:
    return to_datetime(number_in(epoch) or 0.0)  # type: ignore[return-value]
