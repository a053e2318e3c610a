"""The page of a queue: how full it is, how fast it goes, who listens, and whether it is paused."""

from __future__ import annotations

from typing import Any

from neoq.dashboard.board import Board
from neoq.dashboard.changes import LEVELS
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
    data = {
        "counts": counts,
        "levels": [_level(request, counts, level, status) for level, status in LEVELS.items()],
        "workers": workers,
        "may_pause": request.granted.may("pause", name),
    }
    return Page("queue.html", data, seen=[seen])


def _level(request: Request, counts: QueueCounts, level: str, status: str) -> dict[str, Any]:
    return {
        "name": level,
        "number": getattr(counts, level),
        "oldest": {"ready": counts.oldest_due, "running": counts.oldest_started}.get(level),
        "url": request.url("jobs", {"queue": counts.queue, "status": status}),
    }
