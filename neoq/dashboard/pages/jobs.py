"""The page of jobs: a form of filters, a page of the jobs that they take, and what to do with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple
from urllib.parse import urlencode

from neoq.dashboard import shown
from neoq.dashboard.board import Board, Seen
from neoq.dashboard.changes import CHANGES, number_of, state_of
from neoq.dashboard.finder import STATUSES, Finder
from neoq.dashboard.request import Request
from neoq.dashboard.response import Page
from neoq.dashboard.search import Found, search, wanted_by
from neoq.errors import InvalidJobError, LookTimeoutError
from neoq.line import JobLine
from neoq.record import Status

LIMIT = 50
_ENDED = ("succeeded", "dead", "cancelled")
_TIMES = (("created", "creation"), ("due", "due time"), ("finished", "end"))


def page(request: Request, board: Board) -> Page:
    """Jobs, newest first or oldest first, between two ids."""
    finder = Finder.of(request.query, board.mask)
    queue = finder.texts.get("queue")
    request.need_read(queue)
    seen = Seen(_Listed(), 0.0) if finder.wrong else _listed(request, board, finder)
    listed = seen.value
    wanted = finder.texts.get("status")
    data = {
        "finder": finder,
        "chips": _chips(request, board, finder),
        "times": _TIMES,
        "rows": [_row(board, job) for job in listed.jobs if finder.shows(board.mask, job)],
        "ended": wanted in _ENDED or finder.texts.get("time") == "finished",
        "older": _link(request, finder, "after", listed.older),
        "newer": _link(request, finder, "before", listed.newer),
        "go_on": _link(
            request, finder, "before" if "before" in request.query else "after", listed.stopped_at
        ),
        "stopped_at": listed.stopped_at,
        "first": request.url("jobs", finder.pairs()),
        "paged": "after" in request.query or "before" in request.query,
        "changes": _changes(request, finder),
        "sweeps": [one for one in board.sweeps.running() if request.granted.may_read(one.queue)],
        "command": finder.command("jobs"),
        "back": f"jobs?{urlencode(request.query.pairs)}",
    }
    status = 503 if "store" in finder.wrong else 400 if finder.wrong else 200
    return Page("jobs.html", data, status, seen=[seen])


class _Listed(NamedTuple):
    """The jobs of a page, and the ids behind and before which the next ones are, if there are any."""

    jobs: Sequence[JobLine] = ()
    older: int | None = None
    newer: int | None = None
    stopped_at: int | None = None  # not every job was looked at


def _listed(request: Request, board: Board, finder: Finder) -> Seen[_Listed]:
    after, before = (_id(request, name) for name in ("after", "before"))
    backend, back = board.backend, before is not None

    def question() -> Found:
        return search(
            backend,
            wanted_by(backend, finder),
            limit=LIMIT + 1,
            after=None if back else after,
            before=before,
            oldest=finder.oldest,
        )

    try:
        wanted_by(backend, finder)
        key = ("jobs", tuple(finder.pairs()), after, before)
        seen = board.shared(key, question, anew=request.region is None)
    except (InvalidJobError, LookTimeoutError) as error:
        place = "store" if isinstance(error, LookTimeoutError) else "form"
        finder.wrong[place] = f"{str(error)[:1].upper()}{str(error)[1:]}."
        return Seen(_Listed(), 0.0)
    return Seen(_page_of(seen.value, after, before), seen.age, seen.late)


def _page_of(found: Found, after: int | None, before: int | None) -> _Listed:
    """The jobs of a page, of which one more was looked for."""
    more, back = len(found.jobs) > LIMIT, before is not None
    jobs = found.jobs[1:] if more and back else found.jobs[:LIMIT]
    if not jobs:
        return _Listed(stopped_at=found.rest)
    has_older, has_newer = (True, more) if back else (more, after is not None)
    older, newer = jobs[-1].id if has_older else None, jobs[0].id if has_newer else None
    return _Listed(jobs, older, newer, found.rest)


def _id(request: Request, name: str) -> int | None:
    text = request.query.text(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise InvalidJobError(f"{name} is {text!r:.40}; it takes the id of a job")
    return int(text)


def _link(request: Request, finder: Finder, name: str, job_id: int | None) -> str | None:
    """The page behind or before a job."""
    return None if job_id is None else request.url("jobs", finder.pairs(**{name: str(job_id)}))


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
            "count": None
            if finder.narrow or finder.wrong
            else number_of(counts, STATUSES if status is None else (status,)),
        }
        for status in (None, *STATUSES)
    ]


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
