"""What this process knows of the jobs that it holds leases of: nobody else changes it meanwhile.

It is told when they end, so that the server need not look it up among all its jobs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from neoq.redis_keys import stored_at
from neoq.redis_queues import RedisQueues
from neoq.redis_records import held_by
from neoq.store import Lease, Outcome


class Known(NamedTuple):
    """A job as it was claimed."""

    token: int
    fingerprint: bytes  # that it holds until its end; b"" for none
    life: bytes | None


def known_of(token: int, record: bytes, life: bytes | None) -> Known:
    """What is to be remembered of a job that was claimed under a token."""
    return Known(token, held_by(record), life)


_NOT_OURS = Known(0, b"", None)


class Leased:
    """The jobs that were claimed here and are not settled."""

    def __init__(self, queues: RedisQueues) -> None:
        self._queues = queues
        self._of: dict[str, dict[int, Known]] = {}  # by queue: of very many, two may have jobs of one id

    def of_queue(self, queue: str) -> dict[int, Known]:
        """The jobs of a queue, for who claims to add to."""
        return self._of.get(queue) or self._of.setdefault(queue, {})

    def known(self, queue: str, outcomes: Sequence[Outcome]) -> list[Known]:
        """What is known of the jobs of outcomes; nothing of those that have another lease by now."""
        known = self.of_queue(queue)
        missing = [one.lease for one in outcomes if one.lease.job_id not in known]
        if missing:
            self._look_up(queue, missing, known)
        found = [known.get(one.lease.job_id, _NOT_OURS) for one in outcomes]
        return [
            one if one.token == outcome.lease.token else _NOT_OURS
            for one, outcome in zip(found, outcomes, strict=True)
        ]

    def _look_up(self, queue: str, leases: list[Lease], known: dict[int, Known]) -> None:
        keys = self._queues.keys(queue)
        stored = [stored_at(lease.job_id) for lease in leases]
        commands = [("HGET", keys.key(what), one) for one in stored for what in ("jobs", "life")]
        found = self._queues.redis.commands(commands, near=keys.key("jobs"))
        for lease, record, life in zip(leases, found[::2], found[1::2], strict=True):
            if record is not None:
                known[lease.job_id] = known_of(lease.token, record, life)

    def forget(self, outcomes: Iterable[Outcome]) -> None:
        """Outcomes were recorded, or refused for good."""
        for outcome in outcomes:
            job_id, queue, token, _ = outcome.lease
            known = self.of_queue(queue)
            if job_id in known and known[job_id].token == token:
                del known[job_id]
