"""The page of all queues: what each holds, whether it is paused, and who listens."""

from __future__ import annotations

from neoq.dashboard import graphs
from neoq.dashboard.board import Board
from neoq.dashboard.changes import LEVELS
from neoq.dashboard.request import Request
from neoq.dashboard.response import Page
from neoq.store import QueueCounts


def page(request: Request, board: Board) -> Page:
    """All queues that the request may look at, by name."""
    counts, workers = board.counts(), board.workers()
    heard = board.heard()
    known = {one.queue: one for one in counts.value}
    names = sorted(name for name in known.keys() | heard.keys() if request.granted.may_read(name))
    sparks = graphs.small(board, request.granted.may_read)
    rows = [
        {
            "counts": one,
            "spark": sparks.get(one.queue),
            "workers": heard.get(one.queue, 0),
            "state": _state(one, heard.get(one.queue, 0)),
        }
        for one in (known.get(name) or QueueCounts(name) for name in names)
    ]
    return Page("queues.html", {"rows": rows, "levels": LEVELS}, seen=[counts, workers])


def _state(counts: QueueCounts, workers: int) -> str:
    if counts.paused:
        return "paused"
    if not workers and counts.unfinished:
        return "unheard"
    return "running" if counts.running else "idle"
