"""The jobs under leases of this process, as they were claimed; no other process changes them meanwhile.

The scripts that settle jobs get these records, so that the server need not look them up.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from neoq.outcome import Lease, Outcome
from neoq.redis.queues import RedisQueues
from neoq.redis.rows import group_name_of

# The token of a job's lease, and the job's record and state as they were claimed.
Known = tuple[int, bytes, bytes | None]
NOT_OURS: Known = (0, b"0", None)


class Leased:
    """The jobs that this process has claimed and not settled."""

    def __init__(self, queues: RedisQueues) -> None:
        self._queues = queues
        self._of: dict[str, dict[int, Known]] = {}  # by queue
        self.limited: set[str] = set()  # queues that had limits at the last claim

    def of_queue(self, queue: str) -> dict[int, Known]:
        """The jobs of a queue; a claim adds to them."""
        return self._of.get(queue) or self._of.setdefault(queue, {})

    def known(self, queue: str, outcomes: Sequence[Outcome]) -> dict[int, Known]:
        """The known jobs of a queue; those of the outcomes are looked up if they are missing."""
        known = self.of_queue(queue)
        missing = [one.lease for one in outcomes if one.lease.job_id not in known]
        if missing:
            self._look_up(queue, missing, known)
        return known

    def has_member(self, queue: str, group: bytes) -> bool:
        """Whether a job of a group is among them."""
        records = [record for _, record, _ in list(self.of_queue(queue).values())]
        return any(group in record and group_name_of(record) == group for record in records)

    def _look_up(self, queue: str, leases: list[Lease], known: dict[int, Known]) -> None:
        keys = self._queues.keys(queue)
        commands = [("HGET", keys.key(what), lease.job_id) for lease in leases for what in ("jobs", "life")]
        found = self._queues.redis.commands(commands, near=keys.key("jobs"))
        for lease, record, life in zip(leases, found[::2], found[1::2], strict=True):
            known[lease.job_id] = NOT_OURS if record is None else (lease.token, record, life)

    def forget(self, queue: str, outcomes: Iterable[Outcome]) -> None:
        """Forget jobs whose outcomes were recorded, or refused as stale."""
        known = self.of_queue(queue)
        for outcome in outcomes:
            job_id, _, token, *_ = outcome.lease
            ours = known.pop(job_id, None)
            if ours is not None and ours[0] not in {token, 0}:
                known[job_id] = ours  # claimed again meanwhile
