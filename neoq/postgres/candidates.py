"""Among which jobs of a database those of a filter are, where an index or a short look tells.

What has ended is found by an index of queue, kind, status and id, or by its key. A filter that names only
some of these looks into the index once for each queue, kind and status that there are, while these are few.
What is unfinished is looked through for conditions that are cheap to check, while it takes few jobs.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from neoq.filter import ALL, Filter
from neoq.postgres.connections import Connections
from neoq.postgres.rows import FEW, MOST_IDS, conditions, ended_query, of_status, tables_of
from neoq.postgres.statements import Statements
from neoq.record import FINISHED
from neoq.stored import NUMBER

ENDED = [NUMBER[status] for status in FINISHED]
LOOKED_AMONG = 2000  # jobs of an index, for a filter that may leave most of them out
PLACES = 500  # of an index, at most, that are looked at together: one for each queue, kind and status


class Candidates(NamedTuple):
    """The ids of all jobs that may match, in one table; up to ``end``, where there are more behind it."""

    ids: list[int]
    end: int | None = None


class Looker:
    """Finds candidates."""

    def __init__(self, connections: Connections, statements: Statements) -> None:
        self._look = connections.look
        self._statements = statements

    def candidates(
        self, wanted: Filter, limit: int, after: int | None, before: int | None
    ) -> dict[str, Candidates]:
        """The candidates in each table; none for a table in which they are not few."""
        found = {}
        for table, numbers in tables_of(wanted):
            if wanted.group is not None:
                there: Candidates | None = self._of_group(
                    wanted, table, numbers, limit, after=after, before=before
                )
            else:
                look = self._unfinished if table == "jobs" else self._ended
                there = look(wanted, numbers, limit, after, before)
            if there is not None:
                found[table] = there
        return found

    def _of_group(
        self,
        wanted: Filter,
        table: str,
        numbers: list[int] | None,
        limit: int,
        *,
        after: int | None,
        before: int | None,
    ) -> Candidates:
        """The next jobs of a group; those of a batch lie in the index in this order."""
        indexed = Filter(group=wanted.group, statuses=wanted.statuses)
        where, values = conditions(indexed, "", [("id < %s", after), ("id > %s", before)])
        query = self._statements.of_group.format(
            table, " and ".join([of_status(numbers), *where]), "desc" if before is None else "asc"
        )
        most = limit if wanted == indexed else max(limit, LOOKED_AMONG)
        ids = [job_id for (job_id,) in self._look(query, [*values, most])]
        return Candidates(ids, ids[-1] if len(ids) == most else None)

    def _unfinished(
        self, wanted: Filter, numbers: list[int] | None, limit: int, after: int | None, before: int | None
    ) -> Candidates | None:
        cheap = Filter(queue=wanted.queue, kind=wanted.kind, key=wanted.key)
        if cheap == ALL and numbers is None:
            return None
        where, values = conditions(cheap, "", [("id < %s", after), ("id > %s", before)])
        query, values = self._statements.some_unfinished, [*values, FEW + 1]
        if wanted.key is not None:
            query, values = self._statements.some_of_key, 3 * values
        query = query.format(" and ".join([of_status(numbers), *where]))
        ids = [job_id for (job_id,) in self._look(query, values)]
        if len(ids) > FEW:
            return None
        if wanted != replace(cheap, statuses=wanted.statuses) or len(ids) <= limit:
            return Candidates(ids)
        ids = sorted(ids, reverse=before is None)[:limit]
        return Candidates(ids, ids[-1])

    def _ended(
        self, wanted: Filter, numbers: list[int] | None, limit: int, after: int | None, before: int | None
    ) -> Candidates | None:
        if (by_end := ended_query(self._statements, wanted)) is not None:
            ids = [job_id for (job_id,) in self._look(*by_end)]
            if len(ids) <= FEW:
                return Candidates(ids)
        if wanted.key is None and wanted.queue is None and wanted.kind is None:
            return None
        query, values = candidates_query(self._statements, wanted, numbers, limit, after=after, before=before)
        ids = [job_id for (job_id,) in self._look(query, values, along_index=True)]
        if None in ids:  # there are too many queues and kinds
            return None
        return Candidates(ids, ids[-1] if len(ids) == values["most"] else None)


def candidates_query(
    statements: Statements,
    wanted: Filter,
    numbers: list[int] | None,
    limit: int,
    *,
    after: int | None = None,
    before: int | None = None,
) -> tuple[str, dict[str, Any]]:
    """The query for the ids of jobs that have ended, the next ones in order, and its values."""
    by = {"key": wanted.key} if wanted.key is not None else {"queue": wanted.queue, "kind": wanted.kind}
    indexed = Filter(statuses=wanted.statuses, **by)
    given = {name: value for name, value in by.items() if value is not None}
    values = {
        **given,
        "statuses": ENDED if numbers is None else numbers,
        "start": before if before is not None else MOST_IDS if after is None else after,
        "most": limit if wanted == indexed else max(limit, LOOKED_AMONG),
        "places": PLACES,
    }
    return statements.ended_candidates(by=given, upwards=before is not None), values
