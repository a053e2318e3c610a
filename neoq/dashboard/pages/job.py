"""The page of a job: where it is in its life and why, its attempts, its data, and what to do with it."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime
from typing import Any

from neoq.attempts import Attempt, attempts_of
from neoq.dashboard import shown
from neoq.dashboard.board import Board
from neoq.dashboard.changes import CHANGES, Change, state_of
from neoq.dashboard.request import Request
from neoq.dashboard.response import Page, Refused, Response
from neoq.dashboard.search import search
from neoq.errors import LookTimeoutError
from neoq.filter import filter_of
from neoq.job import Job
from neoq.payload import CANNOT_OPEN, is_coded
from neoq.record import Status
from neoq.times import to_datetime
from neoq.wording.bounds import cut

MOST_OF_A_STEP = 2000  # characters of its value that are shown
RUNS = 20  # the last ones of its queue
RUNS_SECONDS = 0.1  # for which these are looked for
HELD = {
    "batch": "It runs when all members of its batch have ended.",
    "children": "It goes on when all its children have ended.",
    "signal": "It goes on when its signal comes, or its time.",
    "line": "It waits for its turn in the line of its key.",
}
_COMMANDS = {"retry": "retry", "run": "retry", "cancel": "cancel", "delete": "delete"}
_MOST_DIGITS = 18


def page(request: Request, board: Board) -> Page:
    """One job, by its id or its uid."""
    job = job_of(request, board)
    return page_of(request, board, job)


def download(request: Request, board: Board) -> Response:
    """The payload or the result of a job, however large, as it may be shown."""
    job = job_of(request, board)
    part = request.query.get("part", "payload")
    if part not in {"payload", "result"}:
        raise Refused(404, "There is no such part of a job.")
    body = shown.whole(board.mask, job, "payload" if part == "payload" else "result")
    name = f"job-{job.id}-{part}.json"
    return Response(
        body,
        content_type="application/json",
        kind="download",
        headers=[("Content-Disposition", f'attachment; filename="{name}"')],
    )


def job_of(request: Request, board: Board) -> Job:
    """The job that a request names; Refused where there is none, or it may not be looked at."""
    name, backend = request.query.text("id") or "", board.backend
    job: Job | None = None
    if name.isascii() and name.isdigit() and len(name) <= _MOST_DIGITS and int(name) > 0:
        job = board.ask(lambda: backend.get(int(name)))
    if job is None and 0 < len(name) <= 255:
        job = board.ask(lambda: backend.get(uid=name))
    if job is None or not request.granted.may_read(job.queue):
        raise Refused(404, "There is no such job. Jobs that have ended are forgotten after the retention.")
    return job


def page_of(request: Request, board: Board, job: Job, *, reveal: bool = False) -> Page:
    """The page of a job, with what is secret only to ``reveal`` it."""
    mask = board.mask
    parts = {
        "payload": shown.document(mask, job, "payload", reveal=reveal),
        "result": shown.document(mask, job, "result", reveal=reveal),
    }
    meta = mask.value(dict(job.meta), field="meta", job=job, revealed=reveal) if job.meta else None
    data = {
        "job": job,
        "state": shown.state(job),
        "seen": f"{job.id}.{state_of(job)}",
        "error": None if job.error is None else mask.text(job.error, job=job, revealed=reveal),
        "next": _next(board, job),
        "steps": _steps(job),
        "recorded": _recorded(board, job, reveal),
        "batch": job.batch,
        "attempts": [_attempt(board, job, attempt, reveal) for attempt in reversed(attempts_of(job))],
        "progress": _progress(board, job, reveal),
        "seconds": shown.run_seconds(job),
        "parts": parts,
        "meta": None if meta is None else shown.pretty(meta),
        "hides": not reveal and (parts["payload"]["hidden"] or parts["result"]["hidden"]),
        "reveals": request.granted.may("reveal", job.queue),
        "changes": _changes(request, job),
        "runs": _runs(board, job),
        "commands": _commands(request, job),
        "holder": _holder(request, board),
    }
    return Page("job.html", data)


def _attempt(board: Board, job: Job, attempt: Attempt, reveal: bool) -> dict[str, Any]:
    seconds = None
    if attempt.started_at is not None and attempt.finished_at is not None:
        seconds = max(0.0, (attempt.finished_at - attempt.started_at).total_seconds())
    error, trace = (
        None if text is None else board.mask.text(text, field=field, job=job, revealed=reveal)
        for field, text in (("error", attempt.error), ("traceback", attempt.traceback))
    )
    return {"attempt": attempt, "seconds": seconds, "error": error, "traceback": trace}


def _progress(board: Board, job: Job, reveal: bool) -> tuple[float, str] | None:
    """How far it is, and what it said last."""
    progress = job.progress()
    if progress is None:
        return None
    return progress[0], board.mask.text(progress[1], field="progress", job=job, revealed=reveal)


def _recorded(board: Board, job: Job, reveal: bool) -> list[dict[str, Any]]:
    """What the job has recorded by its steps, and the signals to it."""
    backend = board.backend
    if "steps" not in backend.features or not job.steps:
        return []
    recorded = []
    for step in board.ask(lambda: backend.steps(job.id)):
        what, _, name = step.name.partition(":")
        text = CANNOT_OPEN
        if not is_coded(step.data):
            value = board.mask.value({name: step.value}, field="step", job=job, revealed=reveal)
            text = cut(shown.pretty(value[name]), MOST_OF_A_STEP)
        recorded.append({"what": what, "name": name, "at": to_datetime(step.at), "text": text})
    return recorded


def _steps(job: Job) -> list[dict[str, Any]]:
    """The timeline: what has happened, and what comes, in the order of time."""
    steps: list[dict[str, Any]] = [{"state": "ready", "when": job.created_at, "what": "Enqueued"}]
    if job.scheduled_at is not None:
        steps[0]["what"] = "Enqueued by its schedule"
    for attempt in attempts_of(job):
        good = attempt.error is None
        what = f"Attempt {attempt.number} {'succeeded' if good else 'failed'}"
        steps.append(
            {
                "state": "succeeded" if good else "retrying",
                "when": attempt.finished_at or attempt.started_at,
                "what": what,
            }
        )
    if job.status is Status.RUNNING:
        steps.append({"state": "running", "when": job.ran_at, "what": f"Attempt {job.attempt} runs"})
    elif job.status in {Status.DEAD, Status.CANCELLED}:
        what = "Dead: no attempt is left" if job.status is Status.DEAD else "Cancelled"
        steps.append({"state": job.status.value, "when": job.finished_at, "what": what})
    elif not job.finished:
        what = "Next attempt" if job.status is Status.RETRYING else "Due"
        steps.append({"state": shown.state(job), "when": job.run_after, "what": what})
    return steps


def _next(board: Board, job: Job) -> str | None:
    """Why a job that waits does not run yet; None for one that does not wait."""
    if job.status not in {Status.PENDING, Status.RETRYING}:
        return None
    if job.held is not None:
        return HELD[job.held]
    if job.run_after is not None and job.run_after > datetime.now(UTC):
        if job.status is Status.RETRYING:
            return f"Attempt {job.attempt} follows, since the one before it failed."
        return "It was enqueued for a later time."
    return _held_up(board, job) or "It is ready, and runs when a thread of its queue is free."


def _held_up(board: Board, job: Job) -> str | None:
    """What keeps a job from running that is ready."""
    counts = next((one for one in board.counts().value if one.queue == job.queue), None)
    if counts is not None and counts.paused:
        return "Its queue is paused."
    if not board.heard().get(job.queue):
        return "No live worker listens on its queue."
    if counts is not None and (job.kind or "(none)") in counts.unknown:
        return "No live worker of its queue knows its kind."
    return None


def _changes(request: Request, job: Job) -> list[dict[str, Any]]:
    return [
        {"change": change, "why_not": _why_not(change, job)}
        for change in CHANGES.values()
        if request.granted.may(change.name, job.queue)
    ]


def _why_not(change: Change, job: Job) -> str | None:
    if change.name == "run" and shown.state(job) == "ready":
        return "it is ready already"
    return change.why_not(job.status)


def _runs(board: Board, job: Job) -> list[dict[str, Any]]:
    """The last jobs of its queue that have ended, of its own kind if it has one."""
    backend = board.backend
    wanted = filter_of({"queue": job.queue, "kind": job.kind, "time": "finished"}, backend.clock.time())
    key = ("runs", job.queue, job.kind)
    try:
        seen = board.shared(key, lambda: search(backend, wanted, limit=RUNS, seconds=RUNS_SECONDS))
    except LookTimeoutError:
        return []
    found = seen.value.jobs
    return [{"job": run, "state": shown.state(run), "seconds": shown.run_seconds(run)} for run in found]


def _commands(request: Request, job: Job) -> list[str]:
    """The command lines that do the same as this page and its buttons."""
    verbs = [
        _COMMANDS[change.name]
        for change in CHANGES.values()
        if change.why_not(job.status) is None and request.granted.may(change.name, job.queue)
    ]
    return [shlex.join(["neoq", verb, str(job.id)]) for verb in dict.fromkeys(["show", *verbs])]


def _holder(request: Request, board: Board) -> Job | None:
    """The equal job that kept this one from being retried, as the link says that came from there."""
    name = request.query.text("holder") or ""
    if not (name.isascii() and name.isdigit() and 0 < len(name) <= _MOST_DIGITS and int(name)):
        return None
    holder = next(iter(board.brief([int(name)])), None)
    return holder if holder is not None and request.granted.may_read(holder.queue) else None
