"""The page of schedules: when each ticks, in which zone, and what became of its last tick."""

from __future__ import annotations

from neoq.dashboard.board import Board
from neoq.dashboard.request import Request
from neoq.dashboard.response import Page


def page(request: Request, board: Board) -> Page:
    """The schedules whose queues the request may look at."""
    schedules, counts = board.schedules(), board.counts()
    paused = {one.queue for one in counts.value if one.paused}
    mine = [one for one in schedules.value if request.granted.may_read(one.queue)]
    return Page("schedules.html", {"schedules": mine, "paused": paused}, seen=[schedules, counts])
