"""Groups in PostgreSQL: batches are opened, sealed and counted, and what was noted of them is done."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from neoq.held.group import BATCH, Batch, BatchRules
from neoq.job import Job
from neoq.postgres.add import Adder
from neoq.postgres.connections import Connections
from neoq.postgres.members import closed
from neoq.postgres.statements import Statements
from neoq.postgres.transactions import Transaction
from neoq.postgres.wake import Notifier
from neoq.store import taken_by

CANCELLED_AT_ONCE = 500  # jobs of a group that was stopped

Join = Callable[[Any], Transaction]


class Groups:
    """The groups of one database."""

    def __init__(
        self,
        connections: Connections,
        own: Connections,
        statements: Statements,
        *,
        adder: Adder,
        notifier: Notifier,
        ready: Callable[[str], None],
    ) -> None:
        self._connections = connections
        self._own = own  # of workers: what callers wait for holds up none of them
        self._statements = statements
        self._adder = adder
        self._notifier = notifier
        self._ready = ready  # tells this process

    def open_batch(self, then: Job, rules: BatchRules, token: bytes, joined: Transaction | None) -> Job:
        """Store the callback of a batch, held; or take over the batch of its name."""
        self._adder.know_producer(rules.producer, named=rules.named)
        if joined is not None:
            return self._open(joined, then, rules, b"")
        if token and (known := self._adder.known(token)):
            return known[0]
        self._adder.name_queues({then.queue})  # on a connection of its own: before ours
        [opened] = self._adder.committed(token, lambda joined: [self._open(joined, then, rules, token)])
        self._adder.remember(token, [opened])
        return opened

    def _open(self, joined: Transaction, then: Job, rules: BatchRules, token: bytes) -> Job:
        [job] = self._adder.add_joined(joined, [then], [token or None])
        if job.duplicate:
            values = {"job": job.id, "producer": rules.producer}
            [(taken,)] = joined(self._statements.take_over, values, "n")
            if not taken:
                raise taken_by(job)
            return job
        due = then.due if then.asked_run_after != (None, None) else None
        joined(
            self._statements.hold_batch,
            {
                "job": job.id,
                "due": due,
                "producer": rules.producer,
                "successes": rules.successes,
                "stop_on_dead": rules.stop_on_dead,
                "named": rules.named,
            },
            "n",
        )
        job.held, job.holds = "batch", BATCH
        return job

    def seal(self, job_id: int, producer: int, joined: Transaction | None) -> None:
        """Add no more members from outside."""
        values = {"job": job_id, "producer": producer, "tell": joined is not None}
        execute = self._execute if joined is None else joined
        queues = [queue for (queue,) in execute(self._statements.seal, values, "t")]
        if not queues:
            raise closed(job_id)
        if joined is None:
            self._tell(queues)

    def group(self, job_id: int, number: int) -> Batch | None:
        """The counts of a group."""
        rows = self._connections.read(self._statements.group, {"job": job_id, "round": number})
        return Batch(*rows[0]) if rows else None

    def tend(self) -> bool:
        """Count what was noted, and cancel a page of the jobs of a stopped group; whether there is more."""
        [(queues, more)] = self._own.execute(self._statements.tend, {"limit": CANCELLED_AT_ONCE})
        if queues:
            self._tell(queues)
        return bool(more)

    def _tell(self, queues: list[str]) -> None:
        self._notifier.notify_later(queues)
        for queue in queues:
            self._ready(queue)

    def _execute(self, statement: str, values: Any, columns: str = "") -> list[Any]:  # noqa: ARG002
        return self._connections.execute(statement, values)
