"""What jobs of a database have recorded, and what becomes of it as their attempts end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from neoq.held.step import Step
from neoq.outcome import Lease, Outcome
from neoq.postgres.arrays import bools, byteas, int4s, int8s, texts
from neoq.postgres.connections import Connections
from neoq.postgres.rows import BINARY, Arrays
from neoq.postgres.statements import Statements
from neoq.postgres.transactions import Execute, Transaction

Attempt = tuple[int, int]  # job id and token
Records = Sequence[tuple[Lease, Sequence[Step]]]


class Steps:
    """Records the steps of one process's attempts, and reads those of any job."""

    def __init__(self, connections: Connections, own: Connections, statements: Statements) -> None:
        self._connections = connections
        self._own = own
        self._statements = statements
        self.recorded: set[Attempt] = set()  # here, and not settled yet: they have steps to count or to drop
        self.joined: set[Attempt] = set()  # those that did so in a transaction that may still be open

    def record(self, records: Records) -> set[int]:
        """Record steps, in one commit; returns the ids of the stale ones."""
        self.recorded.update((lease.job_id, lease.token) for lease, _ in records)
        result = self._own.execute_prepared(*self._statements.record_prepared, _binary_values(records))
        if result.ntuples == len(records):
            return set()
        values = [result.get_value(row, 0) for row in range(result.ntuples)]
        return _stale(records, [(int.from_bytes(value or b"", "big"),) for value in values])

    def record_joined(self, joined: Transaction, records: Records) -> set[int]:
        """As `record`, in a caller's transaction."""
        attempts = {(lease.job_id, lease.token) for lease, _ in records}
        self.recorded |= attempts
        self.joined |= attempts
        values = _record_values(records, joined.arrays)
        return _stale(records, joined(self._statements.record_steps, values, "n"))

    def of(self, job_id: int) -> list[Step]:
        """What a job has recorded, in that order."""
        return [
            Step(name, bytes(data), retries, crashes, lasting, at)
            for name, data, retries, crashes, lasting, at in self._connections.read(
                self._statements.steps, (job_id,)
            )
        ]

    def concern(self, outcome: Outcome) -> bool:
        """Whether an outcome changes more than the job's own row."""
        lease = outcome.lease
        return (
            lease.counted
            or bool(outcome.steps)
            or outcome.awaits is not None
            or (lease.job_id, lease.token) in self.recorded
        )

    def before(self, execute: Execute, arrays: Arrays, outcomes: Iterable[Outcome]) -> None:
        """Record the steps of outcomes, before these are settled in the same transaction."""
        records = [(outcome.lease, outcome.steps) for outcome in outcomes if outcome.steps]
        if records:
            execute(self._statements.record_steps, _record_values(records, arrays), "n")

    def after(self, execute: Execute, arrays: Arrays, outcomes: Iterable[Outcome], stale: set[int]) -> None:
        """Count or drop the steps of outcomes that were just settled in the same transaction."""
        settled = [outcome for outcome in outcomes if outcome.lease.job_id not in stale]
        if settled:
            values = {
                "ids": arrays.int8s([outcome.lease.job_id for outcome in settled]),
                "awaits": arrays.texts([outcome.awaits for outcome in settled]),
            }
            execute(self._statements.settle_steps, values, "n")

    def settled(self, outcomes: Iterable[Outcome]) -> None:
        """Forget attempts that are over."""
        if self.recorded:
            over = {(lease.job_id, lease.token) for lease, *_ in outcomes}
            self.recorded -= over
            self.joined -= over

    def drop(self, job_ids: Sequence[int]) -> None:
        """Drop the steps of jobs that are forgotten."""
        if job_ids:
            values = {"ids": int8s(job_ids), "awaits": None}
            self._own.execute(self._statements.settle_steps, values)


def _record_values(records: Records, arrays: Arrays) -> dict[str, Any]:
    # One statement cannot write one row twice: of a name that lasts the first is kept, else the last.
    steps: dict[tuple[int, str], Step] = {}
    for lease, recorded in records:
        for step in recorded:
            place = lease.job_id, step.name
            if not step.lasting or place not in steps:
                steps[place] = step
    return {
        "ids": arrays.int8s([lease.job_id for lease, _ in records]),
        "tokens": arrays.int8s([lease.token for lease, _ in records]),
        "jobs": arrays.int8s([job_id for job_id, _ in steps]),
        "names": arrays.texts([name for _, name in steps]),
        "data": arrays.byteas([step.data for step in steps.values()]),
        "retries": arrays.int4s([step.retries for step in steps.values()]),
        "crashes": arrays.int4s([step.crashes for step in steps.values()]),
        "lasting": arrays.bools([step.lasting for step in steps.values()]),
    }


def _binary_values(records: Records) -> list[bytes | None]:
    """As `_record_values`, without what most records have: one step each, which lasts, after no failure."""
    ids = [lease.job_id for lease, _ in records]
    if any(len(recorded) != 1 for _, recorded in records) or len(set(ids)) < len(ids):
        return [array.data for array in _record_values(records, BINARY).values()]
    steps = [recorded[0] for _, recorded in records]
    special: list[bytes | None] = [None, None, None]
    if any(step.retries or step.crashes or not step.lasting for step in steps):
        special = [
            int4s([step.retries for step in steps]).data,
            int4s([step.crashes for step in steps]).data,
            bools([step.lasting for step in steps]).data,
        ]
    return [
        int8s(ids).data,
        int8s([lease.token for lease, _ in records]).data,
        None,
        texts([step.name for step in steps]).data,
        byteas([step.data for step in steps]).data,
        *special,
    ]


def _stale(records: Records, rows: Sequence[Sequence[Any]]) -> set[int]:
    return {lease.job_id for lease, _ in records} - {row[0] for row in rows}
