"""Forgetting what is not kept: finished jobs by age and by number, and old entries of the audit."""

from __future__ import annotations

from collections.abc import Collection

from neoq.errors import BackendError
from neoq.postgres.config import PostgresConfig
from neoq.postgres.connections import Connections
from neoq.postgres.statements import Statements
from neoq.postgres.steps import Steps
from neoq.record import Status
from neoq.store import warn_of_dropped

PRUNED_AT_ONCE = 5000  # so that no statement blocks others for long
_ENDS = frozenset({Status.SUCCEEDED, Status.CANCELLED})


class Pruner:
    """Drops finished jobs."""

    def __init__(
        self, connections: Connections, statements: Statements, steps: Steps, config: PostgresConfig
    ) -> None:
        self._connections = connections
        self._statements = statements
        self._steps = steps
        self._config = config

    def prune(self) -> int:
        """Forget finished jobs older than ``retention``, and the oldest beyond max_finished and max_dead."""
        execute = self._connections.execute
        for statement in (
            self._statements.sum_up,
            self._statements.bound_beats,
            self._statements.prune_audit,
            self._statements.prune_series,
            self._statements.forget_groups,
            self._statements.prune_spent,
            self._statements.prune_rates,
            self._statements.prune_heads,
        ):
            execute(statement)
        pruned = self._trim({*_ENDS, Status.DEAD})
        if self._config.retention is None:
            return pruned
        while True:  # in parts, so that no statement blocks others for long
            number: int
            [(number,)] = execute(
                self._statements.prune, {"seconds": self._config.retention, "limit": PRUNED_AT_ONCE}
            )
            pruned += number
            if number < PRUNED_AT_ONCE:
                return pruned

    def trim_after(self, statuses: Collection[Status]) -> None:
        """Drop finished jobs beyond the limits; a failure does not undo what was settled."""
        try:
            self._trim(statuses)
        except BackendError as error:
            self._config.log.debug("finished jobs beyond the limits are dropped later: %s", error)

    def _trim(self, statuses: Collection[Status]) -> int:
        """Drop finished jobs beyond the limits; returns how many."""
        config, dropped = self._config, 0
        if config.max_finished is not None and not _ENDS.isdisjoint(statuses):
            values = {"dead": False, "limit": config.max_finished}
            dropped += len(self._connections.execute(self._statements.trim, values))
        if config.max_dead is not None and Status.DEAD in statuses:
            gone = self._connections.execute(self._statements.trim, {"dead": True, "limit": config.max_dead})
            self._steps.drop([job_id for job_id, _ in gone])
            for job_id, queue in gone:
                dropped += 1
                warn_of_dropped(config, job_id, queue)
        return dropped
