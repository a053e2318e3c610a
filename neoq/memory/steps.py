"""Steps in memory: what jobs have recorded, and the signals to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from sys import intern

from neoq.held.step import MOST_SIGNALS, SIGNAL, Step
from neoq.job import Job

_SHORT = 8  # bytes


@lru_cache(256)
def _shared(data: bytes) -> bytes:
    """The same object for the same value: many jobs of a kind wait with no other."""
    return data


class Steps:
    """The recorded steps of each job that has any; callers hold the lock of the table."""

    def __init__(self) -> None:
        # A dict of one step takes more than the step, and most jobs that wait for long have recorded one.
        self._of: dict[int, Step | dict[str, Step]] = {}
        self._awaited: dict[int, tuple[str, ...]] = {}  # signals that each has waited for, the latest last

    def of(self, job_id: int) -> list[Step]:
        """What a job has recorded, in that order."""
        return list(self._known(job_id).values())

    def record(self, job: Job, steps: Sequence[Step], now: float) -> None:
        """Add steps to those of a job; one that is lasting and there already stays as it is."""
        known = self._known(job.id)
        for step in steps:
            there = known.get(step.name)
            if there is None or not there.lasting or not step.lasting:
                name = intern(step.name)  # jobs of a kind have the same
                data = step.data if len(step.data) > _SHORT else _shared(step.data)
                known[name] = Step(name, data, step.retries, step.crashes, step.lasting, now)
        if known:
            self._of[job.id] = known if len(known) > 1 else next(iter(known.values()))
        job.steps = len(known)
        job.special = job.counted = True

    def _known(self, job_id: int) -> dict[str, Step]:
        known = self._of.get(job_id)
        if known is None:
            return {}
        return {known.name: known} if isinstance(known, Step) else known

    def signal(self, job: Job, step: Step, now: float) -> bool:
        """Record a signal, unless there is one of its name, or there are too many that no one waited for."""
        known: Mapping[str, Step] = self._known(job.id)
        if step.name in known:
            return False
        waited = self._awaited.get(job.id, ())
        if sum(name.startswith(SIGNAL) and name not in waited for name in known) >= MOST_SIGNALS:
            return False
        self.record(job, (step,), now)
        return True

    def awaits(self, job_id: int, name: str) -> bool:
        """Note the signal that a job waits for; whether it has come already."""
        before = self._awaited.get(job_id, ())
        self._awaited[job_id] = (*(other for other in before if other != name), intern(name))
        return name in self._known(job_id)

    def is_awaited(self, job_id: int, name: str) -> bool:
        """Whether a job that is held until a signal waits for this one."""
        return self._awaited.get(job_id, ("",))[-1] == name

    def knows(self, job_id: int) -> bool:
        """Whether a job has recorded something, or waited for a signal."""
        return job_id in self._of or job_id in self._awaited

    def knows_any(self) -> bool:
        """Whether there is a job that it knows."""
        return bool(self._of or self._awaited)

    def drop(self, job_id: int) -> None:
        """Forget what a job has recorded."""
        self._of.pop(job_id, None)
        self._awaited.pop(job_id, None)
