"""The page of jobs: a form of filters, a page of the jobs that they take, and what to do with them."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from neoq.dashboard import shown
from neoq.dashboard.board import Board
from neoq.dashboard.changes import CHANGES, LEVELS, state_of
from neoq.dashboard.finder import STATUSES, Finder
from neoq.dashboard.request import Request
from neoq.dashboard.response import Page
from neoq.errors import InvalidJobError
from neoq.line import JobLine
from neoq.record import Status
from neoq.store import QueueCounts

LIMIT = 50
_ENDED = ("succeeded", "dead", "cancelled")
_TIMES = (("created", "creation"), ("due", "due time"), ("finished", "end"))


def page(request: Request, board: Board) -> Page:
    """Jobs, newest first or oldest first, between two ids."""
    finder = Finder.of(request.query, board.mask)
    queue = finder.texts.get("queue")
    request.need_read(queue)
    found, older, newer = ([], None, None) if finder.wrong else _found(request, board, finder)
    status = finder.texts.get("status")
    data = {
        "finder": finder,
        "chips": _chips(request, board, finder),
        "times": _TIMES,
        "rows": [_row(board, job) for job in found if finder.shows(board.mask, job)],
        "ended": status in _ENDED or finder.texts.get("time") == "finished",
        "older": None if older is None else request.url("jobs", finder.pairs(after=older)),
        "newer": None if newer is None else request.url("jobs", finder.pairs(before=newer)),
        "first": request.url("jobs", finder.pairs()),
        "paged": "after" in request.query or "before" in request.query,
        "changes": _changes(request, finder),
        "command": finder.command("jobs"),
        "back": f"jobs?{urlencode(request.query.pairs)}",
    }
    return Page("jobs.html", data, 400 if finder.wrong else 200)


def _found(request: Request, board: Board, finder: Finder) -> tuple[list[JobLine], str | None, str | None]:
    """The jobs of this page, and the ids behind and before which the next ones are, if there are any."""
    after, before = (_id(request, name) for name in ("after", "before"))
    if after is not None and before is not None:
        after = None
    order: Any = "oldest" if finder.oldest else "newest"
    try:
        found = board.backend.jobs(
            **finder.filters(), order=order, brief=True, limit=LIMIT + 1, after=after, before=before
        )
    except InvalidJobError as error:
        finder.wrong["form"] = f"{str(error)[:1].upper()}{str(error)[1:]}."
        return [], None, None
    more = len(found) > LIMIT
    found = found[1:] if more and before is not None else found[:LIMIT]
    if not found:
        return [], None, None
    has_older, has_newer = (True, more) if before is not None else (more, after is not None)
    return found, str(found[-1].id) if has_older else None, str(found[0].id) if has_newer else None


def _id(request: Request, name: str) -> int | None:
    text = request.query.text(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise InvalidJobError(f"{name} is {text!r:.40}; it takes the id of a job")
    return int(text)


def _chips(request: Request, board: Board, finder: Finder) -> list[dict[str, Any]]:
    """The statuses as links, with their numbers where these are counted anyway."""
    queue = finder.texts.get("queue")
    counts = [
        one
        for one in (() if finder.narrow or finder.wrong else board.counts().value)
        if queue in {None, one.queue} and request.granted.may_read(one.queue)
    ]
    here = finder.texts.get("status")
    return [
        {
            "name": status or "any",
            "url": request.url("jobs", finder.pairs(status=status)),
            "here": status == here,
            "count": None if finder.narrow or finder.wrong else _number(counts, status),
        }
        for status in (None, *STATUSES)
    ]


def _number(counts: list[QueueCounts], status: str | None) -> int:
    levels = [level for level, its in LEVELS.items() if status in {None, its}]
    return sum(getattr(one, level) for one in counts for level in levels)


def _row(board: Board, job: JobLine) -> dict[str, Any]:
    ended, waits = job.finished_at is not None, job.status in {Status.PENDING, Status.RETRYING}
    when = job.finished_at if ended else job.run_after if waits else job.ran_at
    label = "Ended" if ended else "Due" if waits else "Ran"
    return {
        "job": job,
        "state": shown.state(job),
        "seen": f"{job.id}.{state_of(job)}",
        "preview": shown.preview(board.mask, job),
        "error": None if job.error is None else board.mask.text(job.error, job=job),
        "seconds": shown.run_seconds(job),
        "when": when,
        "when_label": label,
    }


def _changes(request: Request, finder: Finder) -> list[dict[str, Any]]:
    """What may be done here, and why some of it has no effect."""
    queue, status = finder.texts.get("queue"), finder.texts.get("status")
    return [
        {
            "change": change,
            "why_not": None
            if change.statuses(status)
            else f"{change.label} does nothing to jobs that are {status}.",
            "all": None
            if finder.empty
            else request.url("confirm", [("action", change.name), *finder.frozen().pairs(order=None)]),
        }
        for change in CHANGES.values()
        if request.granted.may(change.name, queue)
    ]
