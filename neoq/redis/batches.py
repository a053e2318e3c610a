"""The part of RedisStore for batches."""

from __future__ import annotations

from typing import Any

import orjson

from neoq.held.group import BATCH, Batch, BatchRules
from neoq.job import Job
from neoq.redis.add import Adder
from neoq.redis.groups import Groups, state_of
from neoq.redis.mending import mending
from neoq.redis.steps import no_transactions
from neoq.store import taken_by


class BatchingStore:
    """Opens, seals and counts batches."""

    _adder: Adder
    _groups: Groups

    @mending
    def open_batch(self, then: Job, rules: BatchRules, *, token: bytes, transaction: Any = None) -> Job:
        """Store the callback of a batch, held; or take over the batch of its name."""
        if transaction is not None:
            raise no_transactions("batch")
        job = self._adder.open_batch(then, orjson.dumps({**state_of(rules), "q": {}}), token)
        if job.duplicate and (job.held != "batch" or not self._groups.take_over(job.id, rules)):
            raise taken_by(job)
        return job

    @mending
    def seal(self, job_id: int, producer: int, *, transaction: Any = None) -> None:
        """Add no more members from outside: release the callback when all have ended."""
        if transaction is not None:
            raise no_transactions("batch")
        self._groups.seal(job_id, producer)

    @mending
    def group(self, job_id: int, round: int = BATCH) -> Batch | None:  # noqa: A002
        """The counts of a holder's group."""
        return self._groups.get(job_id, round)
