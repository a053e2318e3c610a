"""The page of a queue: how full it is, how fast it goes, who listens, and whether it is paused."""

from __future__ import annotations

from neoq.dashboard import graphs
from neoq.dashboard.board import Board
from neoq.dashboard.levels import levels_of
from neoq.dashboard.request import Request
from neoq.dashboard.response import Page, Refused
from neoq.held.limit_options import words_for
from neoq.held.limits import Line
from neoq.store import QueueCounts

LINES = 20  # that are shown


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
        "limits": _limits(board, name),
        "lines": _lines(board, name),
        "may_pause": request.granted.may("pause", name),
        **graphs.data_of(request, board, wanted),
    }
    return Page("queue.html", data, seen=[seen])


def _limits(board: Board, name: str) -> str | None:
    """The limits of a queue in words; None where it has none."""
    backend = board.backend
    if not backend.features & {"limits", "rates"}:
        return None
    found = board.shared(("limits",), backend.limits).value.get(name)
    return None if found is None else words_for(found)


def _lines(board: Board, name: str) -> list[Line]:
    """The lines of a queue, those that stand still first."""
    backend = board.backend
    if "limits" not in backend.features or name not in board.shared(("limits",), backend.limits).value:
        return []
    return board.shared(("lines", name), lambda: backend.lines(name, limit=LINES)).value
