"""The page of a queue: how full it is, how fast it goes, who listens, and whether it is paused."""

from __future__ import annotations

from neoq.dashboard import graphs
from neoq.dashboard.board import Board
from neoq.dashboard.levels import levels_of
from neoq.dashboard.request import Request
from neoq.dashboard.response import Page, Refused
from neoq.store import QueueCounts


def page(request: Request, board: Board) -> Page:
    """One queue, by its name."""
    name = request.query.get("name", "")
    request.need_read(name)
    seen = board.counts()
    workers = [worker for worker in board.workers().value if name in worker.queues]
    counts = next((one for one in seen.value if one.queue == name), None)
    if counts is None:
        if not workers:
            raise Refused(404, "There is no such queue: it has no jobs, and nobody listens on it.")
        counts = QueueCounts(name)

    def wanted(queue: str) -> bool:
        return queue == name

    data = {
        "counts": counts,
        "levels": levels_of(request, [counts], graphs.slots(board, wanted), name),
        "workers": workers,
        "may_pause": request.granted.may("pause", name),
        **graphs.data_of(request, board, wanted),
    }
    return Page("queue.html", data, seen=[seen])
