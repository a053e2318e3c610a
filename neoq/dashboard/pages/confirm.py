"""The page that asks before all jobs are changed that a filter takes: how many, and some of them."""

from __future__ import annotations

import secrets

from neoq.dashboard import shown
from neoq.dashboard.board import Board
from neoq.dashboard.changes import CHANGES, Change, number_of
from neoq.dashboard.finder import Finder
from neoq.dashboard.request import Request
from neoq.dashboard.response import Page, Refused
from neoq.dashboard.sweeps import counted


def page(request: Request, board: Board) -> Page:
    """What a change of all that match would do."""
    change = CHANGES.get(request.query.get("action", ""))
    finder = Finder.of(request.query, board.mask).frozen()
    if change is None or finder.wrong or finder.empty:
        raise Refused(400, "The filter is not right; begin at the page of jobs.")
    request.need_read(finder.texts.get("queue"))
    request.need(change.name, finder.texts.get("queue"))
    backend, known = board.backend, 0 if finder.narrow else _known(board, change, finder)
    number, exact, sample = board.ask(lambda: counted(backend, change, finder, board.mask, known))
    newest = board.ask(lambda: backend.jobs(limit=1, brief=True))
    data = {
        "change": change,
        "newest": newest[0].id if newest else 0,
        "once": secrets.token_hex(8),
        "finder": finder,
        "number": number,
        "exact": exact,
        "statuses": [status.value for status in change.statuses(finder.texts.get("status"))],
        "sample": [
            {"job": job, "state": shown.state(job), "preview": shown.preview(board.mask, job)}
            for job in sample
            if finder.shows(board.mask, job)
        ],
        "back": request.url("jobs", finder.pairs()),
        "command": finder.command("retry" if change.name == "run" else change.name),
    }
    return Page("confirm.html", data)


def _known(board: Board, change: Change, finder: Finder) -> int:
    """How many jobs there are of a queue and a status, which nobody has to look at for that."""
    queue = finder.texts.get("queue")
    counts = [one for one in board.counts().value if queue in {None, one.queue}]
    return number_of(counts, change.statuses(finder.texts.get("status")))
