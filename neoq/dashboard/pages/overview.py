"""The first page: what needs a hand, then how much there is, how fast it goes, and how long it takes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from neoq.dashboard.attention import hands
from neoq.dashboard.board import Board, Seen
from neoq.dashboard.failures import groups_of
from neoq.dashboard.request import Request
from neoq.dashboard.response import Page
from neoq.store import QueueCounts

HOUR = timedelta(hours=1)
_LEVELS = {
    "ready": "pending",
    "scheduled": "pending",
    "retrying": "retrying",
    "running": "running",
    "succeeded": "succeeded",
    "dead": "dead",
    "cancelled": "cancelled",
}


def page(request: Request, board: Board) -> Page:
    """The overview of the queues that the request may look at."""
    now = datetime.now(UTC)
    may_read = request.granted.may_read
    counts, workers, faults = board.counts(), board.workers(), board.faults()
    mine = [one for one in counts.value if may_read(one.queue)]
    dead = [one for one in faults.value if one.died_at is not None and now - one.died_at < HOUR]
    groups = groups_of(dead, may_read)
    data = {
        "now": now,
        "hands": hands(mine, board.heard(), _readable(request, workers), groups, now),
        "levels": [_level(request, mine, name) for name in _LEVELS],
        "queues": len(mine),
        "workers": len(workers.value),
        "mask": board.mask,
    }
    return Page("overview.html", data, seen=[counts, workers, faults])


def _readable(request: Request, workers: Seen[Any]) -> list[Any]:
    return [one for one in workers.value if all(request.granted.may_read(queue) for queue in one.queues)]


def _level(request: Request, counts: Sequence[QueueCounts], name: str) -> dict[str, Any]:
    """A number, and the jobs that are meant."""
    number = sum(getattr(one, name) for one in counts)
    return {
        "name": name,
        "number": number,
        "url": request.url("jobs", {"status": _LEVELS[name]}),
        "oldest": _oldest(counts, {"ready": "oldest_due", "running": "oldest_started"}.get(name)),
    }


def _oldest(counts: Sequence[QueueCounts], name: str | None) -> datetime | None:
    if name is None:
        return None
    return min((since for one in counts if (since := getattr(one, name)) is not None), default=None)
