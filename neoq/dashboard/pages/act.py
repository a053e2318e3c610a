"""What a form changes: jobs that are ticked, jobs that a filter takes, queues. It leads back to its page."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, urlencode

from neoq.audit import ids_text
from neoq.dashboard.acting import acting, recorded
from neoq.dashboard.board import Board
from neoq.dashboard.changes import CHANGES, Change, state_of, told_state
from neoq.dashboard.finder import Finder
from neoq.dashboard.pages import failures
from neoq.dashboard.pages import job as job_page
from neoq.dashboard.request import Request
from neoq.dashboard.response import Answer, Page, Redirect, Refused
from neoq.dashboard.sweeps import Sweep
from neoq.job import DuplicateJobError, Job

MOST_TICKED = 500
MOMENT = 0.5  # seconds in which most changes of all that match have ended, so that the page says so
_MOST_BACK_FIELDS = 100
_MOST_BACK = 4000  # characters of a query to go back to, which a header has to hold
_ID = re.compile(r"[0-9]{1,18}")
_BACK = frozenset(
    {"", "queues", "queue", "jobs", "job", "failures", "schedules", "workers", "actions", "sweep"}
)


def page(request: Request, board: Board) -> Answer:
    """Do what a form asks for, and lead back to where it stood."""
    action = request.form.get("action", "")
    if action in {"pause", "resume"}:
        return _switch(request, board, action)
    if action == "stop":
        return _stop(request, board)
    if action == "reveal":
        return _reveal(request, board)
    ask = "ask" in request.query  # by a button that cannot ask by itself, since there are no scripts
    change = CHANGES.get(action)
    if change is None:
        raise Refused(400, "There is no such action.")
    if "group" in request.form:
        return failures.change_group(request, board, change, ask=ask)
    if "all" in request.form and not ask:
        return _sweep(request, board, change)
    return _ticked(request, board, change, ask=ask)


def back_of(request: Request) -> str:
    """The page that a form wants to go back to, if it is one of ours."""
    path, _, query = request.form.get("back", "jobs").partition("?")
    if path not in _BACK or len(query) > _MOST_BACK:
        return "jobs"
    text = urlencode(parse_qsl(query, keep_blank_values=True)[:_MOST_BACK_FIELDS])
    return f"{path}?{text}" if text else path


# -- queues --------------------------------------------------------------------------------------------------


def _switch(request: Request, board: Board, action: str) -> Answer:
    queue = request.form.get("queue", "")
    request.need("pause", queue)
    with acting(request):
        board.backend.pause(queue) if action == "pause" else board.backend.resume(queue)
    board.changed()
    return Redirect(back_of(request), f"Queue {queue} {'is paused' if action == 'pause' else 'goes on'}.")


# -- jobs that were ticked -----------------------------------------------------------------------------------


def _ticked(request: Request, board: Board, change: Change, *, ask: bool) -> Answer:
    """Change the jobs of a form, if all of them still are as the form shows them; or ``ask`` before."""
    seen = _seen(request)
    back = back_of(request)
    if not seen:
        return Redirect(back, f"Nothing was {change.past}: no job is ticked.", failed=True)
    may_read = request.granted.may_read
    jobs = {job.id: job for job in board.brief(list(seen)) if may_read(job.queue)}
    for job in jobs.values():
        request.need(change.name, job.queue)
    stale = _stale(seen, jobs) or _impossible(change, jobs)
    if stale:
        return Redirect(back, f"Nothing was {change.past}: {stale}.", failed=True)
    if ask:
        fields = [("job", one) for one in request.form.all("job")]
        data = {"change": change, "jobs": list(jobs.values()), "number": len(jobs)}
        return Page("sure.html", {**data, "fields": fields, "back": back})
    return _change(request, board, change, jobs, back)


def _change(request: Request, board: Board, change: Change, jobs: dict[int, Job], back: str) -> Redirect:
    ids = list(jobs)
    only = ids[0] if len(ids) == 1 else None
    try:
        with recorded(
            request, board.backend.store, change.name, queue=_queue_of(jobs), what=ids_text(ids)
        ) as deed:
            done = {only} if only and _one(board, change, only) else change.apply(board.backend, ids)
            deed.count = len(done)
    except DuplicateJobError as error:
        return _conflict(request, change, only or 0, error.job)
    board.changed()
    if only is not None and change.name == "delete" and back.startswith("job?"):
        back = "jobs"
    left = len(ids) - len(done)
    text = f"{_many(len(done))} {change.past}."
    if left:
        text += f" {_many(left)} left: changed meanwhile, or an equal job is unfinished."
    return Redirect(back, text, failed=not done)


def _queue_of(jobs: dict[int, Job]) -> str | None:
    """The queue that all jobs are in, if they are in one."""
    queues = {job.queue for job in jobs.values()}
    return queues.pop() if len(queues) == 1 else None


def _one(board: Board, change: Change, job_id: int) -> bool:
    return bool(getattr(board.backend, change.method)(job_id))


def _seen(request: Request) -> dict[int, str]:
    """The jobs of a form, and the state of each as it was shown."""
    seen: dict[int, str] = {}
    for text in request.form.all("job"):
        name, _, state = text.partition(".")
        if not _ID.fullmatch(name):
            raise Refused(400, "The form names a job that cannot be.")
        seen[int(name)] = state
    if len(seen) > MOST_TICKED:
        raise Refused(
            400, f"At most {MOST_TICKED} jobs can be ticked; filter them, and act on all that match."
        )
    return seen


def _stale(seen: dict[int, str], jobs: dict[int, Job]) -> str | None:
    """What has changed since the form was shown."""
    for job_id, state in seen.items():
        job = jobs.get(job_id)
        if job is None:
            return f"job {job_id} is gone"
        if state != state_of(job):
            was, now = told_state(state), job.status.value
            if was == now:
                return f"job {job_id} was tried or changed since the page was shown"
            return f"job {job_id} was {was} when the page was shown, and is {now} now"
    return None


def _impossible(change: Change, jobs: dict[int, Job]) -> str | None:
    """Why none of the jobs can be changed; those that can are, whatever is ticked beside them."""
    reasons = [(job.id, change.why_not(job.status)) for job in jobs.values()]
    if all(why for _, why in reasons):
        return f"of job {reasons[0][0]}, {reasons[0][1]}"
    return None


def _conflict(request: Request, change: Change, job_id: int, holder: Job) -> Redirect:
    equal = f"job {holder.id} of {holder.queue} is equal, and is {holder.status}"
    text = f"Job {job_id} was not {change.past}: {equal}."
    if back_of(request).startswith("job?"):
        return Redirect(f"job?id={job_id}&holder={holder.id}", text, failed=True)
    return Redirect(back_of(request), text, failed=True)


def _many(number: int) -> str:
    return "1 job" if number == 1 else f"{number:,} jobs"


# -- what is hidden ------------------------------------------------------------------------------------------


def _reveal(request: Request, board: Board) -> Page:
    """The page of a job with what is hidden; that it was asked for is recorded."""
    job_id = next(iter(_seen(request)), 0)
    job = board.backend.get(job_id) if job_id else None
    if job is None or not request.granted.may_read(job.queue):
        raise Refused(404, "There is no such job.")
    request.need("reveal", job.queue)
    with recorded(request, board.backend.store, "reveal", queue=job.queue, what=f"job {job.id}") as deed:
        deed.count = 1
    request.path, request.query = "job", type(request.query)([("id", str(job.id))])
    return job_page.page_of(request, board, job, reveal=True)


# -- all that match ------------------------------------------------------------------------------------------


def _sweep(request: Request, board: Board, change: Change) -> Redirect:
    finder = Finder.of(request.form, board.mask)
    if finder.wrong or finder.empty:
        raise Refused(400, "The filter of this form is not right; begin at the page of jobs.")
    request.need(change.name, finder.texts.get("queue"))
    newest, once = request.form.get("newest", ""), request.form.get("once", "")
    upto = int(newest) if _ID.fullmatch(newest) else None
    total = int(counted) if _ID.fullmatch(counted := request.form.get("counted", "")) else None
    sweep = Sweep(change, finder.frozen(), request, board.mask, newest=upto, once=once, total=total)
    sweep = board.sweeps.begin(board.backend, sweep, board.changed)
    sweep.wait(MOMENT)
    return Redirect(f"sweep?id={sweep.id}")


def _stop(request: Request, board: Board) -> Redirect:
    sweep = board.sweeps.get(request.form.get("sweep", ""))
    if sweep is None:
        raise Refused(404, "This process of the dashboard knows no such change.")
    request.need(sweep.change.name, sweep.queue)
    sweep.stop()
    return Redirect(f"sweep?id={sweep.id}")
