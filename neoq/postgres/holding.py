"""The part of PostgresStore for held jobs; see neoq/held/seam.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from neoq.held.group import BATCH, Batch, BatchRules
from neoq.held.limits import Limits, Line
from neoq.held.step import Step
from neoq.job import Job
from neoq.postgres.groups import Groups
from neoq.postgres.limits import LimitBook
from neoq.postgres.lines import Lines
from neoq.postgres.signals import Signals
from neoq.postgres.steps import Records, Steps
from neoq.postgres.transactions import Home, Transaction
from neoq.postgres.wake import Notifier
from neoq.store import Notify, Store


class PostgresHolding(Store):
    """What PostgresStore does for held jobs."""

    _groups: Groups
    _home: Home
    _limits: LimitBook
    _lines: Lines
    _notifier: Notifier
    _notify: Notify
    _signals: Signals
    _steps: Steps

    def open_batch(self, then: Job, rules: BatchRules, *, token: bytes, transaction: Any = None) -> Job:
        """Store the callback of a batch, held, or take over the batch of its name."""
        return self._groups.open_batch(then, rules, token, self._joined(transaction))

    def seal(self, job_id: int, producer: int, *, transaction: Any = None) -> None:
        """Add no more members from outside."""
        self._groups.seal(job_id, producer, self._joined(transaction))

    def group(self, job_id: int, round: int = BATCH) -> Batch | None:  # noqa: A002
        """The counts of a holder's group."""
        return self._groups.group(job_id, round)

    def tend(self) -> bool:
        """Count ends that were noted, stop groups, let jobs heed their signals, and look after lines."""
        self._limits.refresh()
        return self._heed() | self._groups.tend() | self._lines.tend()

    def record(self, records: Records, *, transaction: Any = None) -> set[int]:
        """Record steps, each only under its current lease, all in one commit or in the caller's."""
        if transaction is not None:
            return self._steps.record_joined(self._home.join(transaction), records)
        return self._steps.record(records)

    def steps(self, job_id: int) -> list[Step]:
        """What a job has recorded, in that order, and the signals to it."""
        return self._steps.of(job_id)

    def signal(self, to: int | tuple[str, str], step: Step, *, transaction: Any = None) -> bool:
        """Record a signal for an unfinished job; whether it was."""
        if transaction is not None:
            return self._signals.send_joined(self._home.join(transaction), to, step)
        sent, queues = self._signals.send(to, step)
        self._tell_ready(queues)
        return sent

    def limit(self, queue: str, limits: Limits | None, *, by_listener: bool) -> Limits | None:
        """Set the limits of a queue; return those that a listener has set before, if they were others."""
        before = self._limits.set(queue, limits, by_listener=by_listener)
        self._notify(queue, "ready")
        return before

    def limits(self) -> Mapping[str, Limits]:
        """The limits that hold now, of each queue that has any."""
        return self._limits.all()

    def lines(self, queue: str, *, limit: int = 1000) -> list[Line]:
        """The lines of a queue in which jobs wait or that stand still."""
        return self._lines.of(queue, limit)

    def _heed(self) -> bool:
        queues = self._signals.heed()
        self._tell_ready(queues)
        return bool(queues)

    def _tell_ready(self, queues: set[str]) -> None:
        for queue in queues:
            self._notify(queue, "ready")
        if queues:
            self._notifier.notify_later(queues)

    def _joined(self, transaction: Any) -> Transaction | None:
        return None if transaction is None else self._home.join(transaction)
