"""Makes the steps of an attempt when its handler asks for them: most attempts never do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from neoq.errors import NeoqError

if TYPE_CHECKING:
    from neoq.engine.holding import Holding
    from neoq.engine.interrupt import AttemptSlot
    from neoq.engine.steps import AttemptSteps
    from neoq.held.group import Batch
    from neoq.job import Job


class StepMaker:
    """What a slot asks; `neoq.engine.steps` is imported at its first use."""

    def __init__(self, holding: Holding) -> None:
        self._holding = holding
        self._members: tuple[Job | None, Batch | None] = None, None

    def new_steps(self, job: Job, slot: AttemptSlot) -> AttemptSteps:
        """The steps of an attempt."""
        from neoq.engine.steps import AttemptSteps

        return AttemptSteps(job, slot, self._holding)

    def members(self, job: Job) -> Batch | None:
        """The members of the batch whose callback a job is, as this attempt has seen them first."""
        if job.holds is None:
            return None
        if self._members[0] is not job:
            self._members = job, self._holding.members(job.id)
        return self._members[1]

    def look_back(self, job: Job) -> None:
        """Let a job know how many retries it had when it got on for the last time."""
        from neoq.engine.steps import look_back

        try:
            look_back(job, self._holding.store.steps(job.id))
        except NeoqError as error:
            self._holding.config.log.warning("the steps of job %s could not be read: %s", job.id, error)
