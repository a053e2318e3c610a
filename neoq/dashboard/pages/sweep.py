"""The page of a sweep: how far a change of all that match is, and a button that stops it."""

from __future__ import annotations

from neoq.dashboard.board import Board
from neoq.dashboard.request import Request
from neoq.dashboard.response import Page, Refused


def page(request: Request, board: Board) -> Page:
    """How far it is."""
    sweep = board.sweeps.get(request.query.get("id", ""))
    if sweep is None:
        raise Refused(
            404,
            "This process of the dashboard knows no such change. Where several processes serve the "
            "dashboard, another one may carry it out: load the page again. Actions has what it did.",
        )
    request.need_read(sweep.queue)
    data = {"sweep": sweep, "back": request.url("jobs", sweep.finder.pairs())}
    return Page("sweep.html", data)
