"""What a database has beside the jobs: schedules and their ticks, workers, and who did what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

import orjson

from neoq.audit import KEPT, AuditEntry
from neoq.postgres.arrays import byteas, texts
from neoq.postgres.connections import Connections
from neoq.postgres.rows import MOST
from neoq.postgres.statements import Statements
from neoq.postgres.transactions import Transaction
from neoq.schedules import Listed
from neoq.series import Increment, SeriesPoint, in_order, point_of
from neoq.store import WorkerInfo
from neoq.stored import entries_in, kinds_in, reported, texts_in, ticked_in
from neoq.times import to_datetime


class Ledger:
    """Reads and writes it; what workers write goes by their own connections."""

    def __init__(self, connections: Connections, own: Connections, statements: Statements) -> None:
        self._connections = connections
        self._own = own
        self._statements = statements

    def tick(self, execute: Transaction, cron: str, tick: datetime) -> bool:
        """Record a tick; whether it comes for the first time."""
        [(new,)] = execute(self._statements.tick, {"cron": cron, "tick": tick.timestamp()})
        return bool(new)

    def ticked(self, execute: Transaction, cron: str, job_id: int | None) -> None:
        """Record the job of a tick; None: it was skipped."""
        execute(self._statements.ticked, {"cron": cron, "job": job_id})

    def last_tick(self, cron: str) -> datetime | None:
        """The newest tick of a cron in any process."""
        rows = self._connections.read(self._statements.last_tick, (cron,))
        return to_datetime(rows[0][0]) if rows else None

    def list_schedules(self, schedules: Mapping[str, bytes]) -> None:
        """Keep what this process says of its schedules."""
        values = {"names": texts(list(schedules)), "described": byteas(list(schedules.values()))}
        self._own.execute(self._statements.list_schedules, values)

    def schedules(self) -> list[Listed]:
        """The schedules that were listed within a day."""
        return [
            Listed(name, bytes(described), to_datetime(tick), *ticked_in(job, skipped))
            for name, described, tick, job, skipped in self._connections.read(self._statements.schedules)
        ]

    def workers(self, lease: float) -> list[WorkerInfo]:
        """The processes that listen and whose last heartbeat is not older than a lease."""
        rows = self._connections.read(self._statements.workers, (lease,))
        return [
            reported(
                WorkerInfo(
                    *(name, host, pid, _time_of(began), _time_of(beat), served := texts_in(queues), running),
                    *(kinds_in(kinds, served), version or ""),
                ),
                report,
            )
            for name, host, pid, began, beat, queues, running, kinds, version, report in rows
        ]

    def add_audit(self, entry: AuditEntry) -> None:
        """Keep what somebody did."""
        values = (entry.user, entry.via, entry.action, entry.count, entry.queue, entry.what)
        names = ("user", "via", "action", "count", "queue", "what")
        self._connections.execute(self._statements.add_audit, dict(zip(names, values, strict=True)))

    def audit(self, limit: int, before: int | None) -> list[AuditEntry]:
        """What was done, newest first."""
        values = {"before": MOST if before is None else before, "kept": KEPT, "limit": min(limit, MOST)}
        return entries_in(self._connections.read(self._statements.audit, values))

    def add_series(self, increments: Sequence[Increment], writer: str, serial: int) -> None:
        """Add to the series what a process has counted, once for each serial."""
        told = orjson.dumps([{"q": queue, "n": numbers} for queue, numbers in increments]).decode()
        self._own.execute(self._statements.add_series, {"writer": writer, "serial": serial, "told": told})

    def series(self, queue: str | None, since: float, seconds: int) -> list[SeriesPoint]:
        """The points that last so long and end after a time."""
        rows = self._connections.read(
            self._statements.series, {"queue": queue, "after": since - seconds, "seconds": seconds}
        )
        return in_order(point_of(name, start, seconds, numbers) for name, start, numbers in rows)


def _time_of(epoch: float) -> datetime:
    return to_datetime(epoch)  # type: ignore[return-value]
