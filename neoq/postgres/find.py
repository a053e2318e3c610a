"""Looking at a database: at its jobs, by a filter, by id and in numbers; at schedules and workers."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime

from neoq.filter import Filter
from neoq.job import Job
from neoq.postgres.connections import Connections
from neoq.postgres.rows import FEW, MOST, brief_job_of, ended_query, find_query, job_of, window_query
from neoq.postgres.statements import Statements
from neoq.schedules import Listed
from neoq.store import KINDS_LOOKED_AT, Page, QueueCounts, WorkerInfo
from neoq.stored import counts_of, kinds_in, texts_in
from neoq.times import to_datetime


class Finder:
    """Finds and counts jobs, and lists what processes say of themselves."""

    def __init__(self, connections: Connections, statements: Statements) -> None:
        self._connections = connections
        self._statements = statements

    def find(
        self, wanted: Filter, limit: int, after: int | None, before: int | None, *, brief: bool = False
    ) -> Page:
        """Snapshots of jobs, newest first; ``brief``: as `Store.find_brief` says."""
        brief = brief and not wanted.payload  # whose values may stand anywhere in it
        as_job = brief_job_of if brief else job_of
        read, limit = self._connections.read, min(limit, MOST)
        rest = ended = None
        if wanted.narrow:
            if (by_end := ended_query(self._statements, wanted)) is not None:
                ended = [job_id for (job_id,) in read(*by_end)]
                ended = ended if len(ended) <= FEW else None
            unfinished = ended is not None
            query, values = window_query(self._statements, wanted, after, before, unfinished=unfinished)
            ends = [end for (end,) in read(query, values) if end is not None] if query else []
            rest = (max if before is None else min)(ends, default=None)
        query, values = find_query(
            self._statements,
            wanted,
            limit=wanted.rows(limit),
            after=after,
            before=before,
            rest=rest,
            ended=ended,
            brief=brief,
        )
        jobs, rest = wanted.cut([as_job(row) for row in read(query, values)], limit, rest)
        return Page(jobs if before is None else jobs[::-1], rest)

    def of_ids(self, ids: Collection[int]) -> list[Job]:
        """The jobs of these ids that exist."""
        return self.find(Filter(ids=list(ids)), len(ids), None, None).jobs

    def counts(self) -> list[QueueCounts]:
        """Every queue that has or had jobs."""
        queues = dict(self._connections.read(self._statements.queues))
        return counts_of(self._connections.read(self._statements.counts), queues)

    def waiting_kinds(self, queues: Sequence[str]) -> dict[tuple[str, str | None], int]:
        """How many jobs of each queue and kind wait, of the first that will be claimed."""
        return {
            (queue, kind): number
            for queue in queues
            for kind, number in self._connections.read(
                self._statements.waiting_kinds, (queue, KINDS_LOOKED_AT)
            )
        }

    def schedules(self) -> list[Listed]:
        """The schedules that were listed within a day."""
        rows = self._connections.read(self._statements.schedules)
        return [Listed(name, bytes(described), to_datetime(tick)) for name, described, tick in rows]

    def workers(self, lease: float) -> list[WorkerInfo]:
        """The processes that listen and whose last heartbeat is not older than a lease."""
        rows = self._connections.read(self._statements.workers, (lease,))
        return [
            WorkerInfo(
                *(name, host, pid, _time_of(began), _time_of(beat), served := texts_in(queues), running),
                *(kinds_in(kinds, served), version or ""),
            )
            for name, host, pid, began, beat, queues, running, kinds, version in rows
        ]


def _time_of(epoch: float) -> datetime:
    return to_datetime(epoch)  # type: ignore[return-value]
