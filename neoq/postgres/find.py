"""Looking at the jobs of a database: by a filter, by id and in numbers."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from neoq.errors import LookTimeoutError
from neoq.filter import Filter
from neoq.job import Job
from neoq.postgres.candidates import Looker
from neoq.postgres.connections import Connections
from neoq.postgres.rows import MOST, brief_job_of, find_query, job_of, window_query
from neoq.postgres.statements import Statements
from neoq.store import KINDS_LOOKED_AT, Page, QueueCounts
from neoq.stored import COUNTED, counts_of
from neoq.threads.kept import CHEAP, LOOK_SECONDS, Kept


class Finder:
    """Finds and counts jobs."""

    def __init__(self, connections: Connections, statements: Statements) -> None:
        self._connections = connections
        self._statements = statements
        self._looker = Looker(connections, statements)
        self._patience: float | None = None  # to count all
        self._counted = Kept(self._count, _is_cheap)

    def find(
        self, wanted: Filter, limit: int, after: int | None, before: int | None, *, brief: bool = False
    ) -> Page:
        """Snapshots of jobs, newest first; ``brief``: as `Store.find_brief` says."""
        brief = brief and not wanted.payload  # whose values may stand anywhere in it
        as_job = brief_job_of if brief else job_of
        limit, read = min(limit, MOST), self._connections.read
        rest, among = None, dict[str, list[int]]()
        if wanted.narrow:
            read = self._connections.look
            rest, among = self._narrow(wanted, limit, after, before)
        query, values = find_query(
            self._statements,
            wanted,
            limit=wanted.rows(limit),
            after=after,
            before=before,
            rest=rest,
            among=among,
            brief=brief,
        )
        jobs, rest = wanted.cut([as_job(row) for row in read(query, values)], limit, rest)
        return Page(jobs if before is None else jobs[::-1], rest)

    def _narrow(
        self, wanted: Filter, limit: int, after: int | None, before: int | None
    ) -> tuple[int | None, dict[str, list[int]]]:
        """The id of the last job that a look goes to, and the ids of all that may match in some tables."""
        found = self._looker.candidates(wanted, limit, after, before)
        query, values = window_query(self._statements, wanted, after, before, known=found)
        ends = [end for (end,) in self._connections.look(query, values)] if query else []
        ends += [candidates.end for candidates in found.values()]
        # In each table all of them: a job may move to the other one before it is read.
        ids = list({job_id for candidates in found.values() for job_id in candidates.ids})
        last = (max if before is None else min)((end for end in ends if end is not None), default=None)
        return last, dict.fromkeys(found, ids)

    def of_ids(self, ids: Collection[int]) -> list[Job]:
        """The jobs of these ids that exist."""
        return self.find(Filter(ids=list(ids)), len(ids), None, None).jobs

    def counts(self) -> list[QueueCounts]:
        """Every queue that has or had jobs."""
        queues = dict(self._connections.read(self._statements.queues))
        rows, counted_at = self._counted.get()
        if counted_at is not None:  # what has ended is counted already
            rows = [row for row in rows if row[1] not in _ENDED_PLACES]
            rows += self._connections.read(self._statements.counts_ended)
        return counts_of(rows, queues, counted_at)

    def _count(self) -> list[tuple[Any, ...]]:
        """The rows of counts. Where there was no time to count all, the next try has twice as much."""
        try:
            return self._connections.look(self._statements.counts, seconds=self._patience)
        except LookTimeoutError:
            self._patience = min(2 * (self._patience or LOOK_SECONDS), COUNT_SECONDS)
            raise

    def waiting_kinds(self, queues: Sequence[str]) -> dict[tuple[str, str | None], int]:
        """How many jobs of each queue and kind wait, of the first that will be claimed."""
        return {
            (queue, kind): number
            for queue in queues
            for kind, number in self._connections.look(
                self._statements.waiting_kinds, (queue, KINDS_LOOKED_AT)
            )
        }


COUNT_SECONDS = 30.0  # that the count of all unfinished jobs may take, if others have an older one
_ENDED_PLACES = frozenset(range(COUNTED.index("succeeded"), len(COUNTED)))


def _is_cheap(rows: list[tuple[Any, ...]]) -> bool:
    """Whether few unfinished jobs were counted, which is done one by one."""
    return sum(int(row[2]) for row in rows if row[1] not in _ENDED_PLACES) <= CHEAP
