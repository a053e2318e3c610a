"""Limits: how many jobs of a queue, or of one key in it, may run at once, and how often they may start."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, NamedTuple

from neoq.errors import ConfigError

OnDead = Literal["hold", "go on"]
LineState = Literal["running", "retrying", "dead", "waiting"]


@dataclass(frozen=True, init=False)
class Rate:
    """At most ``n`` starts in ``per`` seconds (or a timedelta), of which up to ``burst`` may come at once.

    ``burst`` is a tenth of ``n`` by default, at least 1. A start is a claim, whatever becomes of it. In any t
    seconds at most burst + t * n / per jobs start. The algorithm is GCRA (ITU-T I.371).
    """

    n: int
    per: float
    burst: int | None

    def __init__(self, n: int, per: timedelta | float = 1.0, burst: int | None = None) -> None:
        seconds = per.total_seconds() if isinstance(per, timedelta) else per
        for name, value in (("n", n), ("per", seconds), ("burst", burst)):
            object.__setattr__(self, name, value)
        problems = []
        if type(self.n) is not int or not 1 <= self.n <= 10**9:
            problems.append(f"Rate: n must be an integer from 1 to 10**9, not {self.n!r}")
        if type(self.per) not in {int, float} or not 0 < self.per <= 366 * 86400:
            problems.append(f"Rate: per must be seconds, above 0 and at most a year, not {self.per!r}")
        if self.burst is not None and (type(self.burst) is not int or not 1 <= self.burst <= 10**9):
            problems.append(f"Rate: burst must be an integer from 1 to 10**9, not {self.burst!r}")
        if problems:
            raise ConfigError(problems)

    @property
    def spacing(self) -> float:
        """Seconds between two starts in the long run."""
        return self.per / self.n

    @property
    def at_once(self) -> int:
        """How many may start at once."""
        return max(1, self.n // 10) if self.burst is None else self.burst

    @property
    def tolerance(self) -> float:
        """By how many seconds a start may be early, as GCRA has it."""
        return self.spacing * (self.at_once - 1)

    def allowed(self, tat: float, now: float) -> int:
        """How many may start now; ``tat`` is what `after` has said of the starts so far, 0 for none."""
        if now < self.earliest(tat):
            return 0
        return math.floor((self.tolerance - max(0.0, tat - now)) / self.spacing + 1e-6) + 1

    def after(self, tat: float, now: float, starts: int = 1) -> float:
        """The theoretical arrival time of GCRA, once so many have started."""
        return max(tat, now) + starts * self.spacing

    def earliest(self, tat: float) -> float:
        """When the next one may start."""
        return tat - self.tolerance


class Limits(NamedTuple):
    """The limits of one queue, over all processes; None where there is none.

    ``ordered``: of one key one job after another, in their order. ``hold_dead``: a DEAD head of an ordered
    line holds it. ``aging`` are seconds of waiting that count as one level of priority.
    """

    per_key: int | None = None
    ordered: bool = False
    hold_dead: bool = True
    max_running: int | None = None
    rate: Rate | None = None
    rate_per_key: Rate | None = None
    aging: float | None = None

    @property
    def by_key(self) -> bool:
        """Whether the jobs of a key form a line."""
        return self.ordered or self.per_key is not None or self.rate_per_key is not None

    @property
    def holds_lines(self) -> bool:
        """Whether a line stands still behind a dead job."""
        return self.ordered and self.hold_dead

    @property
    def counts_claims(self) -> bool:
        """Whether a claim takes what others may need at once: then no job is claimed before it can start."""
        return self.max_running is not None or self.rate is not None or self.rate_per_key is not None

    @property
    def slots(self) -> int | None:
        """How many jobs of one key may be ready or running at once; None: as many as there are."""
        return 1 if self.ordered else self.per_key


@dataclass(frozen=True)
class Line:
    """The jobs of one key of a queue whose jobs form lines.

    ``head`` is the job that has its turn: it runs, waits for its next attempt, is dead and holds the line, or
    waits to be claimed. ``waiting`` are the jobs behind it.
    """

    queue: str
    key: str
    state: LineState
    head: int | None
    waiting: int
