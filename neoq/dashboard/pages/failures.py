"""The page of dead jobs in groups, by what was raised and where: a retry or a delete for each group."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from neoq.dashboard.acting import recorded
from neoq.dashboard.failures import NEWEST, Group, groups_of
from neoq.dashboard.response import Page, Redirect, Refused
from neoq.record import Status

if TYPE_CHECKING:
    from neoq.dashboard.board import Board
    from neoq.dashboard.changes import Change
    from neoq.dashboard.request import Request
    from neoq.job import Job

AT_ONCE = 500  # jobs of one call of the store, so that it holds nobody up for long
MOST = 5000  # jobs of one press of a button
_ACTIONS = ("retry", "delete")


def page(request: Request, board: Board) -> Page:
    """The newest dead jobs of the queues that the request may look at."""
    counts, faults = board.counts(), board.faults()
    groups = groups_of(faults.value, request.granted.may_read)
    total = sum(one.dead for one in counts.value if request.granted.may_read(one.queue))
    looked_at = sum(group.count for group in groups)
    rows = [_row(request, group) for group in groups]
    data = {
        "rows": rows,
        "acting": any(row["actions"] for row in rows),
        "total": max(total, looked_at),
        "looked_at": looked_at,
        "bounded": len(faults.value) >= NEWEST,
        "mask": board.mask,
    }
    return Page("failures.html", data, seen=[counts, faults])


def _row(request: Request, group: Group) -> dict[str, Any]:
    may = request.granted.may
    return {
        "group": group,
        "actions": [name for name in _ACTIONS if all(may(name, queue) for queue in group.queues)],
        "jobs": request.url("jobs", {"status": "dead", "error": group.exception}),
    }


def change_group(request: Request, board: Board, change: Change, *, ask: bool) -> Page | Redirect:
    """Change the jobs of a group that are dead still, or ``ask`` before.

    Those that died since the form was shown are left.
    """
    if change.name not in _ACTIONS:
        raise Refused(400, f"A group of failures can be retried or deleted; {change.name} is neither.")
    groups = {group.key: group for group in groups_of(board.faults().value, request.granted.may_read)}
    group = groups.get(request.form.get("group", ""))
    if group is None:
        return Redirect("failures", f"Nothing was {change.past}: the group is gone.", failed=True)
    for queue in group.queues:
        request.need(change.name, queue)
    newest, last = _shown(request)
    seen = [job_id for job_id in group.ids if job_id <= newest]
    if ask:
        fields = [(name, request.form.get(name, "")) for name in ("group", "newest", "last")]
        data = {"change": change, "group": group, "number": len(seen), "mask": board.mask}
        return Page("sure.html", {**data, "fields": fields, "back": "failures"})
    what = f"{group.exception} in {group.place or 'unknown'}"
    done = _change(request, board, change, seen[:MOST], last=last, what=what)
    board.changed()
    text = f"{done:,} of {len(seen):,} jobs {change.past}."
    if len(seen) > MOST:
        text += f" {MOST:,} are done at once: press again for the others."
    elif done < len(seen):
        text += " The others are no longer dead, died again, or an equal job is unfinished."
    if len(seen) < group.count:
        text += f" {group.count - len(seen):,} died since the page was shown, and are left."
    return Redirect("failures", text, failed=not done)


def _shown(request: Request) -> tuple[int, datetime]:
    """The newest job of the group as it was shown, and when the last one had died."""
    newest, last = request.form.get("newest", ""), request.form.get("last", "")
    try:
        if not (newest.isascii() and newest.isdigit() and len(newest) < 19):
            raise ValueError("no id")
        return int(newest), datetime.fromisoformat(last).astimezone(UTC)
    except (ValueError, OverflowError):
        raise Refused(400, "The form does not say which jobs it showed: load the page again.") from None


def _change(
    request: Request, board: Board, change: Change, ids: list[int], *, last: datetime, what: str
) -> int:
    done = 0
    with recorded(request, board.backend.store, change.name, what=what) as deed:
        for start in range(0, len(ids), AT_ONCE):
            found = board.brief(ids[start : start + AT_ONCE])
            dead = [job.id for job in found if job.status is Status.DEAD and _died(job) <= last]
            done += len(change.apply(board.backend, dead)) if dead else 0
            deed.count = done
    return done


def _died(job: Job) -> datetime:
    return job.finished_at or datetime.min.replace(tzinfo=UTC)
