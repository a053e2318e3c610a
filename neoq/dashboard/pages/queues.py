"""The page of all queues: what each holds, whether it is paused, and who listens."""

from __future__ import annotations

from neoq.dashboard.board import Board
from neoq.dashboard.request import Request
from neoq.dashboard.response import Page


def page(request: Request, board: Board) -> Page:
    """All queues that the request may look at."""
    counts = board.counts()
    heard = board.heard()
    rows = [
        {"counts": queue, "workers": heard.get(queue.queue, 0)}
        for queue in counts.value
        if request.granted.may_read(queue.queue)
    ]
    return Page("queues.html", {"rows": rows}, seen=[counts])
