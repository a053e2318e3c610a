"""The schedules of a process that keeps its jobs in memory, and what became of their ticks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from neoq.schedules import Listed
from neoq.times import to_datetime

_CLOCK_SLIPPED = 60.0  # seconds: a tick that much older than the last one is a new one, of a clock set back


@dataclass
class Ticks:
    """What became of the ticks of a schedule."""

    last: float | None = None
    job_id: int | None = None
    skipped: int = 0

    def is_new(self, at: float) -> bool:
        """Whether a tick comes for the first time."""
        return self.last is None or not 0 <= self.last - at < _CLOCK_SLIPPED


class Schedules:
    """The schedules of one process; its caller has the lock."""

    def __init__(self) -> None:
        self._ticks: dict[str, Ticks] = {}
        self._described: dict[str, bytes] = {}

    def ticks(self, cron: str) -> Ticks:
        """The ticks of a schedule."""
        return self._ticks.setdefault(cron, Ticks())

    def keep(self, schedules: Mapping[str, bytes]) -> None:
        """Remember the schedules of this process."""
        self._described = dict(sorted(schedules.items()))

    def listed(self) -> list[Listed]:
        """The schedules of this process."""
        found = [(name, told, self.ticks(name)) for name, told in self._described.items()]
        return [
            Listed(name, told, to_datetime(ticks.last), ticks.job_id, ticks.skipped)
            for name, told, ticks in found
        ]
