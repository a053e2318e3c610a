"""How attempts end in PostgreSQL: in one statement for many, and beside those that the handlers complete."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import Any

from neoq.clock import machine
from neoq.errors import BackendError, BackendUnavailable
from neoq.messages import text_of_ids
from neoq.outcome import ROLLED_BACK, Outcome
from neoq.postgres.arrays import byteas, float8s, int8s
from neoq.postgres.connections import Connections
from neoq.postgres.followers import settle_with_followers
from neoq.postgres.rows import BINARY, settle_values, succeed_values
from neoq.postgres.statements import Statements
from neoq.postgres.steps import Steps
from neoq.postgres.transactions import Transaction
from neoq.postgres.wake import APART
from neoq.record import Status
from neoq.store import ANNOUNCED_AT_ONCE, StoreContext

Attempt = tuple[int, int]  # job id and token


class Settlement:
    """Settles the outcomes of one process."""

    def __init__(
        self,
        connections: Connections,
        statements: Statements,
        steps: Steps,
        *,
        keep: bool,
        channel: str,
        context: StoreContext,
    ) -> None:
        self._connections = connections
        self._statements = statements
        self._steps = steps
        self._keep = keep
        self._channel = channel  # of changes
        self._context = context
        self._announced_at = -math.inf  # monotonic
        self.skew = 0.0  # seconds that the server's clock is ahead of ours; 0 for a small difference
        self._unsure: set[Attempt] = set()  # sent, and the reply was lost
        self._lock = threading.Lock()
        self._completed: set[Attempt] = set()  # by handlers, in their own transactions
        self.told: set[str] = set()  # queues whose held jobs may be due by ends that were settled
        self._locked: list[Outcome] = []  # their handlers' transactions are still open

    def settle(self, outcomes: Sequence[Outcome]) -> set[int]:
        """Settle outcomes in a transaction of our own; returns the ids of the stale ones."""
        stale: set[int] = set()
        plain, stepped, counted, special, joined = self._apart(outcomes)
        for part, work in (
            (plain, self._succeed),
            (stepped, self._succeed_stepped),
            (counted, self._succeed_counted),
            (special, self._settle),
            (joined, self._settle_completed),
        ):
            if part:
                stale |= self._surely(part, work)
        self._steps.settled([*stepped, *counted, *special])
        return stale

    def _apart(self, outcomes: Sequence[Outcome]) -> tuple[list[Outcome], ...]:
        plain, stepped, counted = list[Outcome](), list[Outcome](), list[Outcome]()
        special, joined = list[Outcome](), list[Outcome]()
        completed = self._completed | self._steps.joined
        recorded = self._steps.recorded
        for outcome in outcomes:
            lease = outcome.lease
            if completed and (lease.job_id, lease.token) in completed:
                joined.append(outcome)
            elif outcome.status is not Status.SUCCEEDED or outcome.follow or lease.progress is not None:
                special.append(outcome)
            elif lease.counted:
                counted.append(outcome)
            elif recorded and (lease.job_id, lease.token) in recorded:
                stepped.append(outcome)
            else:
                plain.append(outcome)
        return plain, stepped, counted, special, joined

    def _surely(self, outcomes: list[Outcome], work: Any) -> set[int]:
        """Settle; an outcome whose earlier reply was lost is not stale if it is settled already."""
        attempts = {outcome.lease.job_id: (outcome.lease.job_id, outcome.lease.token) for outcome in outcomes}
        try:
            stale: set[int] = work(outcomes)
        except BackendUnavailable as error:
            if error.outcome_unknown:
                self._unsure.update(attempts.values())
            raise
        if self._unsure:
            stale = {job_id for job_id in stale if attempts[job_id] not in self._unsure}
            self._unsure.difference_update(attempts.values())
        return stale

    def _succeed(self, outcomes: list[Outcome]) -> set[int]:
        values = succeed_values(outcomes, self.skew, keep=self._keep)
        ended = self._context.ends_asked_for(outcomes)
        now = machine.monotonic()
        # A notification holds a lock over the whole server as it commits: those that follow closely go apart.
        if not ended or len(ended) > ANNOUNCED_AT_ONCE or now - self._announced_at < APART:
            return _missing(outcomes, self._connections.execute(self._statements.succeed, values))
        values |= {"channel": self._channel, "told": text_of_ids(ended)}
        rows = self._connections.execute(self._statements.succeed_and_announce, values)
        stale = _missing(outcomes, rows)
        self._announced_at = now
        self._context.announced([job_id for job_id in ended if job_id not in stale])
        return stale

    def _succeed_stepped(self, outcomes: list[Outcome]) -> set[int]:
        values = succeed_values(outcomes, self.skew, keep=self._keep)
        return _missing(outcomes, self._connections.execute(self._statements.succeed_stepped, values))

    def _succeed_counted(self, outcomes: list[Outcome]) -> set[int]:
        values = succeed_values(outcomes, self.skew, keep=self._keep)
        values |= {
            "started": float8s([outcome.started_at for outcome in outcomes]),
            "finished": float8s([outcome.finished_at for outcome in outcomes]),
            "results": byteas([outcome.result for outcome in outcomes]),
        }
        rows = self._connections.execute(self._statements.succeed_counted, values)
        self.told.update(queue for _, queue in rows if queue is not None)
        return _missing(outcomes, [row for row in rows if row[0] is not None])

    def _settle(self, outcomes: list[Outcome]) -> set[int]:
        if not any(outcome.follow or outcome.holds is not None for outcome in outcomes):
            return self._settle_rows(outcomes)
        with self._connections.use() as connection, connection.transaction():
            execute = Transaction(self._connections, connection)
            return settle_with_followers(
                execute, self._statements, outcomes, lambda: self._settle_in(execute, outcomes), self.skew
            )

    def _settle_rows(self, outcomes: Sequence[Outcome], *, skip: bool = False) -> set[int]:
        """Settle what is no plain success, and nothing that follows it; ``skip``: what others have locked."""
        if not any(map(self._steps.concern, outcomes)):
            values = settle_values(outcomes, BINARY, self.skew, keep=self._keep, skip=skip)
            return _missing(outcomes, self._connections.execute(self._statements.settle, values))
        with self._connections.use() as connection, connection.transaction():
            return self._settle_in(Transaction(self._connections, connection), outcomes, skip=skip)

    def _settle_in(
        self, execute: Transaction, outcomes: Sequence[Outcome], *, skip: bool = False
    ) -> set[int]:
        """As `_settle_rows`, in a transaction of our own, with what follows for steps."""
        concerned = [outcome for outcome in outcomes if self._steps.concern(outcome)]
        self._steps.before(execute, BINARY, concerned)
        values = settle_values(outcomes, BINARY, self.skew, keep=self._keep, skip=skip)
        stale = _missing(outcomes, execute(self._statements.settle, values))
        self._steps.after(execute, BINARY, concerned, stale)
        return stale

    # -- completed by the handler -----------------------------------------------------------------------

    def complete(self, joined: Transaction, outcomes: Sequence[Outcome]) -> set[int]:
        """Settle inside a handler's own transaction."""
        with self._lock:
            self._completed.update((outcome.lease.job_id, outcome.lease.token) for outcome in outcomes)

        def settle() -> set[int]:
            concerned = [outcome for outcome in outcomes if self._steps.concern(outcome)]
            values = settle_values(outcomes, joined.arrays, self.skew, keep=True, completed=True)
            stale = _missing(outcomes, joined(self._statements.settle, values, "n"))
            self._steps.after(joined, joined.arrays, concerned, stale)
            return stale

        if not any(outcome.follow for outcome in outcomes):
            return settle()
        return settle_with_followers(joined, self._statements, outcomes, settle, self.skew)

    def is_completed(self, job_id: int, token: int) -> bool:
        """Whether a handler has completed an attempt in a transaction that may not be over."""
        return (job_id, token) in self._completed

    def _settle_completed(self, outcomes: list[Outcome]) -> set[int]:
        """Settle jobs that handlers have completed: their commit has done it, after a rollback we do.

        Rows that an open transaction of a handler still locks are left for later: to wait for them would
        delay the outcomes of all other jobs.
        """
        missing = self._settle_rows(outcomes, skip=True)
        left = [outcome for outcome in outcomes if outcome.lease.job_id in missing]
        for outcome in outcomes:
            if outcome.failure is ROLLED_BACK and outcome.lease.job_id not in missing:
                self._context.undone(outcome)
        locked: set[int] = set()
        done: set[int] = set()
        if left:
            values = {
                "ids": int8s([outcome.lease.job_id for outcome in left]),
                "tokens": int8s([outcome.lease.token for outcome in left]),
            }
            for job_id, ended in self._connections.execute(self._statements.completed, values):
                (done if ended else locked).add(job_id)
        with self._lock:
            self._locked += [outcome for outcome in left if outcome.lease.job_id in locked - done]
            over = [outcome for outcome in outcomes if outcome.lease.job_id not in locked - done]
            self._completed.difference_update((lease.job_id, lease.token) for lease, *_ in over)
        self._steps.settled(over)
        return missing - locked - done

    def settle_left(self) -> set[int]:
        """Try again to settle what was locked; returns the ids of stale ones."""
        with self._lock:
            left, self._locked = self._locked, []
        if not left:
            return set()
        try:
            return self._settle_completed(left)
        except BackendError:
            with self._lock:
                self._locked += left
            raise

    @property
    def left(self) -> int:
        """How many outcomes wait for the end of their handler's transaction."""
        return len(self._locked)


def _missing(outcomes: Sequence[Outcome], rows: Sequence[Sequence[Any]]) -> set[int]:
    """The ids of outcomes that were not settled."""
    if len(rows) == len(outcomes):
        return set()
    return {outcome.lease.job_id for outcome in outcomes} - {row[0] for row in rows}
