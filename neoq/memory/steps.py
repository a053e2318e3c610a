"""Steps in memory: what jobs have recorded, and the signals to them."""

from __future__ import annotations

from collections.abc import Sequence

from neoq.held.step import MOST_SIGNALS, SIGNAL, Step
from neoq.job import Job


class Steps:
    """The recorded steps of each job that has any; callers hold the lock of the table."""

    def __init__(self) -> None:
        self._of: dict[int, dict[str, Step]] = {}
        self._awaited: dict[int, dict[str, None]] = {}  # signals that each has waited for, the latest last

    def of(self, job_id: int) -> list[Step]:
        """What a job has recorded, in that order."""
        return list(self._of.get(job_id, {}).values())

    def record(self, job: Job, steps: Sequence[Step], now: float) -> None:
        """Add steps to those of a job; one that is lasting and there already stays as it is."""
        known = self._of.setdefault(job.id, {})
        for step in steps:
            there = known.get(step.name)
            if there is None or not there.lasting or not step.lasting:
                known[step.name] = step._replace(at=now)
        job.steps = len(known)
        job.special = job.counted = True

    def signal(self, job: Job, step: Step, now: float) -> bool:
        """Record a signal, unless there is one of its name, or there are too many that no one waited for."""
        known = self._of.get(job.id, {})
        if step.name in known:
            return False
        waited = self._awaited.get(job.id, {})
        if sum(name.startswith(SIGNAL) and name not in waited for name in known) >= MOST_SIGNALS:
            return False
        self.record(job, (step,), now)
        return True

    def awaits(self, job_id: int, name: str) -> bool:
        """Note the signal that a job waits for; whether it has come already."""
        names = self._awaited.setdefault(job_id, {})
        names.pop(name, None)
        names[name] = None
        return name in self._of.get(job_id, {})

    def is_awaited(self, job_id: int, name: str) -> bool:
        """Whether a job that is held until a signal waits for this one."""
        return name == next(reversed(self._awaited.get(job_id, {"": None})))

    def knows(self, job_id: int) -> bool:
        """Whether a job has recorded something, or waited for a signal."""
        return job_id in self._of or job_id in self._awaited

    def drop(self, job_id: int) -> None:
        """Forget what a job has recorded."""
        self._of.pop(job_id, None)
        self._awaited.pop(job_id, None)
