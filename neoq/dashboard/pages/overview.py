"""The first page: what needs a hand, then how much there is, how fast it goes, and how long it takes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from neoq.dashboard import graphs
from neoq.dashboard.attention import hands
from neoq.dashboard.board import PATIENCE, Board, Seen, StoreAway
from neoq.dashboard.failures import Fault, groups_of
from neoq.dashboard.levels import levels_of
from neoq.dashboard.request import Request
from neoq.dashboard.response import Page
from neoq.errors import LookTimeoutError

HOUR = timedelta(hours=1)


def page(request: Request, board: Board) -> Page:
    """The overview of the queues that the request may look at."""
    now = datetime.now(UTC)
    may_read = request.granted.may_read
    counts, workers, faults = board.counts(), board.workers(), _faults(board)
    mine = [one for one in counts.value if may_read(one.queue)]
    dead = [
        one
        for one in (faults.value if faults else ())
        if one.died_at is not None and now - one.died_at < HOUR
    ]
    groups = groups_of(dead, may_read)
    data = {
        "now": now,
        "hands": hands(mine, board.heard(), _readable(request, workers), groups, now),
        "levels": levels_of(request, mine, graphs.slots(board, may_read)),
        "counting": faults is None,
        "queues": len(mine),
        "workers": len(workers.value),
        "mask": board.mask,
        **graphs.data_of(request, board, may_read),
    }
    return Page("overview.html", data, seen=[counts, workers, *([faults] if faults else [])])


def _faults(board: Board) -> Seen[list[Fault]] | None:
    """The dead jobs; None while many of them are looked at for the first time."""
    try:
        return board.faults(PATIENCE)
    except (LookTimeoutError, StoreAway):
        return None


def _readable(request: Request, workers: Seen[Any]) -> list[Any]:
    return [one for one in workers.value if all(request.granted.may_read(queue) for queue in one.queues)]
