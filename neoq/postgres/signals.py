"""Signals to the jobs of a database: recorded as steps, and heeded by the jobs that await them."""

from __future__ import annotations

from typing import Any

from neoq.errors import BackendError
from neoq.held.step import MOST_SIGNALS, Step
from neoq.postgres.connections import Connections
from neoq.postgres.rows import held_by
from neoq.postgres.statements import Statements
from neoq.postgres.transactions import Transaction
from neoq.wording.safe_logger import SafeLogger

HEEDED_AT_ONCE = 1000


class Signals:
    """Records signals, and lets jobs heed them."""

    def __init__(
        self, connections: Connections, own: Connections, statements: Statements, log: SafeLogger
    ) -> None:
        self._connections = connections
        self._own = own  # of workers: a heartbeat waits for no caller
        self._statements = statements
        self._log = log

    def send(self, to: int | tuple[str, str], step: Step) -> tuple[bool, set[str]]:
        """Record a signal; whether it was, and the queues that now have a job to claim."""
        rows = self._connections.execute(self._statements.signal, _values(to, step, notify=False))
        if not rows:
            return False, set()
        try:
            return True, self.heed()
        except BackendError as error:  # it is recorded: a heartbeat makes up for it
            self._log.debug("jobs heed signals later: %s", error)
            return True, set()

    def send_joined(self, joined: Transaction, to: int | tuple[str, str], step: Step) -> bool:
        """Record a signal in a caller's transaction, whose commit notifies all processes."""
        return bool(joined(self._statements.signal, _values(to, step, notify=True), "t"))

    def heed(self) -> set[str]:
        """Make the jobs due whose signals have come; returns their queues."""
        rows = self._own.execute(self._statements.heed, {"limit": HEEDED_AT_ONCE})
        return {queue for (queue,) in rows}


def _values(to: int | tuple[str, str], step: Step, *, notify: bool) -> dict[str, Any]:
    job_id, queue, holds = (to, None, None) if isinstance(to, int) else (None, to[0], held_by(to[1]).hex())
    return {
        "job": job_id,
        "queue": queue,
        "holds": holds,
        "name": step.name,
        "data": step.data,
        "most": MOST_SIGNALS,
        "notify": notify,
    }
