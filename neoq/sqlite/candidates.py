"""Among which jobs of a SQLite file those of a filter are, where an index tells.

What has ended is found by an index of queue, kind, status and id, or by its key. A filter that names only
some of these looks into the index once for each queue, kind and status that there are, while these are few.
What is unfinished is looked through where the counts say that it is not much.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from neoq.filter import Filter
from neoq.held.group import BATCH, group_in
from neoq.record import FINISHED, Status
from neoq.sqlite.file import SqliteFile
from neoq.sqlite.rows import N_HELD, N_READY, N_RETRYING, N_RUNNING, N_SCHEDULED
from neoq.sqlite.schema import HELD, IN_STATE, LINE, READY, RUNNING, SCHEDULED
from neoq.stored import NUMBER
from neoq.threads.kept import LOOK_SECONDS

LOOKED_AMONG = 2000  # jobs of an index, for a filter that may leave most of them out
LOOKED_THROUGH = 20_000  # unfinished jobs, at most
PLACES = 200  # of an index, at most, that are looked at together: one for each queue, kind and status
TOGETHER = 50  # of them, in one statement
_BEYOND = 2**63 - 1  # all ids
NEW_IDS = "select id from neoq_jobs where id > (select n from neoq_counts where queue = '' and kind = 0)"
# Each step goes to the next name that there is, so that it costs one look whatever lies between.
_NEXT_QUEUE = """
    with recursive names (name) as (
        select (select queue from neoq_jobs where state in (3, 4) order by queue limit 1)
        union all select (
            select queue from neoq_jobs where state in (3, 4) and queue > name order by queue limit 1
        ) from names where name is not null
    ) select name from names where name is not null limit ?
"""
_NEXT_KIND = """
    with recursive names (name) as (
        select (
            select coalesce(kind, '') from neoq_jobs where state in (3, 4) and queue = ?
            order by coalesce(kind, '') limit 1
        )
        union all select (
            select coalesce(kind, '') from neoq_jobs
            where state in (3, 4) and queue = ? and coalesce(kind, '') > name
            order by coalesce(kind, '') limit 1
        ) from names where name is not null
    ) select name from names where name is not null limit ?
"""
ENDED = (  # in one place
    "select * from (select id from neoq_jobs where state in (3, 4) and queue = ? and coalesce(kind, '') = ?"
    " and status = ? and id {} ? order by id {} limit ?)"
)
KEPT_IDS = "select id from neoq_jobs where state > 6 and state in (8, 9)"
OF_BATCH = "select id from neoq_jobs where batch = ? and batch is not null and id {} ? order by id {} limit ?"
OF_GATHER = "select id from neoq_jobs where batch >= ? and batch < ? and batch is not null and id {} ?"
OF_KEY = "select id from neoq_jobs where key = ? and key is not null and id {} ? order by id {} limit ?"


class Candidates(NamedTuple):
    """The ids of all jobs that may match; up to ``end``, where there are more behind it."""

    ids: list[int]
    end: int | None = None


def candidates(
    file: SqliteFile, wanted: Filter, limit: int, after: int | None, before: int | None
) -> Candidates | None:
    """The candidates for a filter; None where no index tells that they are few."""
    start, than, order = _window(after, before)
    statuses = frozenset(Status) if wanted.statuses is None else wanted.statuses
    if wanted.key is not None:
        exact = wanted == Filter(key=wanted.key)
        most = limit if exact else max(limit, LOOKED_AMONG)
        ids = _ids(file, OF_KEY.format(than, order), (wanted.key, start, most))
        return Candidates(ids, ids[-1] if len(ids) == most else None)
    waiting = _unfinished(file, wanted.queue, statuses - FINISHED)
    if waiting is None:
        return None
    ended = statuses & FINISHED
    if not ended:
        return Candidates(waiting)
    kept = _ids(file, f"{KEPT_IDS} limit ?", (LOOKED_THROUGH + 1,))
    if len(kept) > LOOKED_THROUGH:
        return None
    waiting += kept
    places = _places(file, wanted, ended)
    if places is None:
        return None
    exact = wanted == Filter(queue=wanted.queue, kind=wanted.kind, statuses=wanted.statuses)
    most, ids = limit if exact else max(limit, LOOKED_AMONG), list[int]()
    for at in range(0, len(places), TOGETHER):
        some = places[at : at + TOGETHER]
        query = " union all ".join([ENDED.format(than, order)] * len(some))
        ids += _ids(file, query, [value for place in some for value in (*place, start, most)])
    ids = sorted(ids, reverse=before is None)[:most]
    return Candidates(waiting + ids, ids[-1] if len(ids) == most else None)


def _window(after: int | None, before: int | None) -> tuple[int, str, str]:
    """The id from which to go, how the ids compare with it, and their order."""
    if before is not None:
        return before, ">", "asc"
    return _BEYOND if after is None else after, "<", "desc"


def bounds_of_group(name: str) -> tuple[str, str]:
    """What the texts of a group's jobs begin with, and what comes after all of them."""
    return name, f"{name[:-1]}0"  # its last character is "/"


def candidates_of_group(
    file: SqliteFile, wanted: Filter, limit: int, after: int | None, before: int | None
) -> Candidates:
    """The candidates among the jobs of a group: of a batch in the order of an index, of a gather all."""
    start, than, order = _window(after, before)
    name = wanted.group or ""
    group = group_in(name)
    if group is None or group.round != BATCH:
        values = (*bounds_of_group(name), start)
        return Candidates(_ids(file, OF_GATHER.format(than), values))
    most = limit if wanted == Filter(group=name) else max(limit, LOOKED_AMONG)
    ids = _ids(file, OF_BATCH.format(than, order), (name, start, most))
    return Candidates(ids, ids[-1] if len(ids) == most else None)


def _places(
    file: SqliteFile, wanted: Filter, statuses: Iterable[Status]
) -> list[tuple[str, str, int]] | None:
    """Each queue, kind and status that jobs of a filter have which have ended; None where they are many."""
    if wanted.queue is None and wanted.kind is None:
        return None
    queues = [wanted.queue] if wanted.queue is not None else _names(file, _NEXT_QUEUE, (PLACES + 1,))
    places = []
    for queue in queues:
        kinds = (
            [wanted.kind] if wanted.kind is not None else _names(file, _NEXT_KIND, (queue, queue, PLACES + 1))
        )
        places += [(queue, kind, NUMBER[status]) for kind in kinds for status in statuses]
        if len(places) > PLACES:
            return None
    return places


def _unfinished(file: SqliteFile, queue: str | None, statuses: frozenset[Status]) -> list[int] | None:
    """The ids of unfinished jobs that may have one of these statuses; None where they are many."""
    if not statuses:
        return []
    if statuses <= {Status.RUNNING, Status.RETRYING}:
        wanted = [f"{name} = {number}" for name, number, status in _FEW if status in statuses]
        ids = list[int]()
        for condition in wanted:
            query = f"select id from neoq_jobs where {condition} limit ?"  # noqa: S608
            ids += _ids(file, query, (LOOKED_THROUGH + 1,))
        return ids if len(ids) <= LOOKED_THROUGH else None
    of_queue, values = ("", ()) if queue is None else (" and queue = ?", (queue,))
    [(number,)] = file.read(
        "select sum(n) from neoq_counts where queue <> ''"  # noqa: S608
        f" and kind in ({N_READY}, {N_SCHEDULED}, {N_RETRYING}, {N_RUNNING}, {N_HELD}){of_queue}",
        values,
    )
    if not isinstance(number or 0, int) or (number or 0) > LOOKED_THROUGH:
        return None
    states = (READY, SCHEDULED, RUNNING, HELD, LINE)
    queries = [f"select id from neoq_jobs where {IN_STATE[state]}{of_queue}" for state in states]  # noqa: S608
    return _ids(file, " union all ".join([*queries, NEW_IDS]), values * 5)


_FEW = (("state", RUNNING, Status.RUNNING), ("status", NUMBER[Status.RETRYING], Status.RETRYING))


def _ids(file: SqliteFile, query: str, values: Any) -> list[int]:
    return [job_id for (job_id,) in file.read(query, values, seconds=LOOK_SECONDS)]


def _names(file: SqliteFile, query: str, values: Any) -> list[str]:
    return [name for (name,) in file.read(query, values, seconds=LOOK_SECONDS) if isinstance(name, str)]
