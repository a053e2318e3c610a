"""Levels: how many jobs are where in their life, how fast that grows, and which jobs are meant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from neoq.dashboard.changes import LEVELS
from neoq.dashboard.charts import Slot
from neoq.dashboard.request import Request
from neoq.store import QueueCounts

# What ends in a level, or begins there again.
_OUTCOMES = {"retrying": "retried", "succeeded": "succeeded", "dead": "dead", "cancelled": "cancelled"}
_SINCE = {"ready": "oldest_due", "running": "oldest_started"}


@dataclass(frozen=True)
class Level:
    """One of them. ``minute`` and ``hour`` are how many attempts came to it in the last of each."""

    name: str
    number: int
    url: str
    minute: int | None
    hour: int | None
    oldest: datetime | None


def levels_of(
    request: Request, counts: Sequence[QueueCounts], slots: Sequence[Slot], queue: str | None = None
) -> list[Level]:
    """The levels of queues together; ``slots`` has the minutes of the last hour, the current one last."""
    return [_level(request, counts, slots, name, queue) for name in LEVELS]


def _level(
    request: Request, counts: Sequence[QueueCounts], slots: Sequence[Slot], name: str, queue: str | None
) -> Level:
    outcome = _OUTCOMES.get(name)
    return Level(
        name=name,
        number=sum(getattr(one, name) for one in counts),
        url=request.url("jobs", {"queue": queue, "status": LEVELS[name]}),
        minute=slots[-2].outcomes[outcome] if outcome else None,
        hour=sum(slot.outcomes[outcome] for slot in slots) if outcome else None,
        oldest=_oldest(counts, _SINCE[name]) if name in _SINCE else None,
    )


def _oldest(counts: Sequence[QueueCounts], name: str) -> datetime | None:
    return min((since for one in counts if (since := getattr(one, name)) is not None), default=None)
