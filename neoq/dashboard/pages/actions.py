"""The page of actions: who changed what, how, and to how many jobs."""

from __future__ import annotations

from functools import partial

from neoq.audit import AuditEntry
from neoq.dashboard.board import Board
from neoq.dashboard.request import Request
from neoq.dashboard.response import Page, Refused

PAGE = 50
_MOST = 10  # questions to the store for one page, where the request may not look at most of them


def page(request: Request, board: Board) -> Page:
    """The newest entries, or those before one, as far as the request may look at their queues."""
    before = _before(request)
    entries: list[AuditEntry] = []
    looks = []
    for _ in range(_MOST):
        looks.append(board.shared(("audit", before), partial(board.backend.audit, PAGE + 1, before)))
        found = looks[-1].value
        entries += [entry for entry in found if request.granted.may_read(entry.queue)]
        if len(found) <= PAGE or len(entries) > PAGE:
            break
        before = found[-1].id
    more = len(entries) > PAGE
    data = {
        "entries": entries[:PAGE],
        "older": request.url("actions", {"before": str(entries[PAGE - 1].id)}) if more else None,
        "newest": request.url("actions") if _before(request) is not None else None,
        "mask": board.mask,
    }
    return Page("actions.html", data, seen=looks)


def _before(request: Request) -> int | None:
    text = request.query.text("before")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 19 and int(text)):
        raise Refused(400, "The page begins at no entry: before takes the id of one.")
    return int(text)
