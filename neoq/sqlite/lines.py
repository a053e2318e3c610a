"""Lines: the jobs of one key in a queue with limits by key; each call is part of its caller's transaction.

A job that has its turn has ``turn`` 1, from when it becomes ready until it frees its slot; the others that
are due are in the state LINE. Whoever makes jobs ready otherwise (a retry, a schedule, a limit that is new)
leaves them without a turn: a claim that meets such a job gives it one, or puts it into its line.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from neoq.held.limits import Limits, Line, LineState, Rate
from neoq.job import Job
from neoq.record import Status
from neoq.sqlite import groups
from neoq.sqlite.file import SqliteFile
from neoq.sqlite.groups import End
from neoq.sqlite.rows import N_KEPT_DEAD, N_READY, kind_of
from neoq.sqlite.rules import forget_rates, limits_of, start, starts_now
from neoq.sqlite.schema import DEAD, IN_STATE, KEPT_DEAD, LINE, RUNNING, SCHEDULED
from neoq.sqlite.session import Session
from neoq.stored import NUMBER

_TURNS = "select count(*), sum(state in (0, 1)) from neoq_jobs where turn = 1 and queue = ? and key = ?"
_MANY = 2**31  # more than there are
_SOON = 1e-4  # seconds: a job that is put off is due later than now
_HEAD = (
    f"select id, status from neoq_jobs where {IN_STATE[LINE]} and queue = ? and key = ?"  # noqa: S608
    " order by priority desc, run_after, id limit 1"
)
_WITHOUT_TURN = "select id, key, status from neoq_jobs where turn is null and key is not null and"
_NEXT = (
    "select id, key, status, run_after from (select id, key, status, run_after, turn from neoq_jobs"
    " where state = 0 and queue = ? order by priority desc, run_after, id limit ?) where turn is null"
)
# A job with its turn that never ran waits for the rate of its key; others may wait for a retry, or a snooze.
_BRING_FORWARD = (
    "update neoq_jobs set run_after = ? where turn = 1 and queue = ? and state = 1 and status = 0"
    " and ran_at is null and run_after > ?"
)
_WAIT = frozenset({NUMBER[Status.PENDING], NUMBER[Status.RETRYING]})
_STANDING = (
    "select distinct key from neoq_jobs"
    " where turn = 1 and queue = ? and (state in (4, 9) or status = 1) limit ?"
)
_WAITING = f"select key, count(*) from neoq_jobs where {IN_STATE[LINE]} and queue = ? group by key limit ?"  # noqa: S608
_WAIT_BEHIND = f"select count(*) from neoq_jobs where {IN_STATE[LINE]} and queue = ? and key = ?"  # noqa: S608
_KEYS_IN_LINES = f"select distinct key from neoq_jobs where {IN_STATE[LINE]} and queue = ?"  # noqa: S608
_FIRST = (
    "select id, state, status from neoq_jobs where turn = 1 and queue = ? and key = ?"
    " order by state <> 2, run_after, id limit 1"
)
_RETRYING = NUMBER[Status.RETRYING]
_ORDER: tuple[LineState, ...] = ("dead", "retrying", "waiting", "running")


class Place(NamedTuple):
    """A line: its queue, its key, and the limits of the queue."""

    queue: str
    key: str
    limits: Limits


def enter(session: Session, job: Job) -> None:
    """Give a job with a key that was stored its turn, or put it into its line, where there are such."""
    limits = limits_of(session, job.queue)
    if limits is None or not limits.by_key or job.due > session.now:  # type: ignore[operator]
        return
    session.index_new()
    assert job.id is not None
    assert job.key is not None
    _place(session, Place(job.queue, job.key, limits), (job.id, NUMBER[job.status]))


def _place(session: Session, place: Place, job: tuple[int, int]) -> bool:
    """Put a ready job without a turn where it belongs; whether it can be claimed now."""
    queue, key, _ = place
    free = _free(session, place)
    if free > 0 and session.do(_HEAD, (queue, key)).fetchone() is None:
        return _give_turn(session, place, job)
    session.do("update neoq_jobs set state = ? where id = ?", (LINE, job[0]))
    if free > 0:
        fill(session, queue, key)
    return False


def _free(session: Session, place: Place) -> int:
    """How many more jobs of a line may have their turn.

    Where a key has a rate, no more wait for their start than may come at once: a start lets in the next.
    """
    queue, key, limits = place
    [turns, waiting] = session.do(_TURNS, (queue, key)).fetchone()
    free = _MANY if limits.slots is None else limits.slots - turns
    return free if limits.rate_per_key is None else min(free, limits.rate_per_key.at_once - (waiting or 0))


def _give_turn(session: Session, place: Place, job: tuple[int, int], due: float | None = None) -> bool:
    """Let a job be claimed, as soon as the rate of its key allows; whether that is now."""
    queue, key, limits = place
    job_id = job[0]
    if limits.rate_per_key is not None:
        [_, waiting] = session.do(_TURNS, (queue, key)).fetchone()
        number, when = starts_now(session, (queue, key), limits.rate_per_key)
        if number <= (waiting or 0):
            _put_off(session, queue, job, when + (waiting or 0) * limits.rate_per_key.spacing)
            session.do("update neoq_jobs set turn = 1 where id = ?", (job_id,))
            return False
    session.do(
        "update neoq_jobs set turn = 1, state = 0, run_after = coalesce(?, run_after) where id = ?",
        (due, job_id),
    )
    return True


def _put_off(session: Session, queue: str, job: tuple[int, int], until: float) -> None:
    """Let a job that is ready, or in its line, be due later."""
    session.do("update neoq_jobs set state = 1, run_after = ? where id = ?", (until, job[0]))
    session.count(queue, N_READY, -1)
    session.count(queue, kind_of(SCHEDULED, job[1]), 1)


def fill(session: Session, queue: str, key: str | None) -> None:
    """Give free slots of a line to those that wait in it."""
    limits = limits_of(session, queue)
    if limits is None or key is None or not limits.by_key:
        return
    place = Place(queue, key, limits)
    free = _free(session, place)
    while free > 0 and (head := session.do(_HEAD, (queue, key)).fetchone()) is not None:
        _give_turn(session, place, head, session.now)
        session.released.add(queue)
        free -= 1


def leave(session: Session, ends: Sequence[End]) -> None:
    """Jobs that had their turn were settled, or ended otherwise: they free their slots, or keep them."""
    for job, status in ends:
        if job.turn is None or job.key is None:
            continue
        limits = limits_of(session, job.queue)
        if limits is None or not _keeps_turn(limits, status):
            session.do("update neoq_jobs set turn = null where id = ?", (job.job_id,))
            fill(session, job.queue, job.key)
        elif status is Status.DEAD:
            groups.keep(session, job, status)


def _keeps_turn(limits: Limits, status: Status) -> bool:
    if not limits.ordered:
        return False
    return status in {Status.PENDING, Status.RETRYING} or (status is Status.DEAD and limits.hold_dead)


def withdraw(session: Session, job_id: int) -> None:
    """Take the turn from a job that waits, and was changed: a claim meets it again."""
    row = session.do("select queue, key from neoq_jobs where id = ? and turn = 1", (job_id,)).fetchone()
    if row is not None:
        session.do("update neoq_jobs set turn = null where id = ?", (job_id,))
        fill(session, *row)


# -- claims -----------------------------------------------------------------------------------------------


def meet(session: Session, limits: Limits, jobs: Sequence[Job]) -> bool:
    """Look at the best ready jobs of a queue by key: whether all of them may start now.

    Those without a turn get one, or go into their line; those whose key has a rate may have to wait for it.
    """
    keyed = [job for job in jobs if job.key is not None]
    ids = [job.id for job in keyed]
    found = {row[0]: row[1:] for row in session.rows_of(_WITHOUT_TURN, ids)} if ids else {}
    ready = True
    for job in keyed:  # in the order of the claim
        job.counted = True
        if job.id in found:
            key, status = found[job.id]
            ready = _place(session, Place(job.queue, key, limits), (job.id, status)) and ready
    if ready and limits.rate_per_key is not None:
        ready = _in_time(session, limits.rate_per_key, keyed)
    return ready


def meet_next(session: Session, limits: Limits, first: tuple[str, int], late: float) -> bool:
    """As `meet`, for the first so many ready jobs of a queue, without reading them: most may go into lines.

    What somebody has damaged, or has put off until after ``late``, is left to who reads it.
    """
    ready = True
    for job_id, key, status, due in session.do(_NEXT, first).fetchall():
        if key.__class__ is str and status in _WAIT and due.__class__ is float and due <= late:
            ready = _place(session, Place(first[0], key, limits), (job_id, status)) and ready
    return ready


def _in_time(session: Session, rate: Rate, jobs: Sequence[Job]) -> bool:
    """Put off those of some ready jobs that the rate of their key keeps from starting; whether none is."""
    asked, ready = Counter[str](), True
    for job in jobs:
        assert job.key is not None
        number, when = starts_now(session, (job.queue, job.key), rate)
        before = asked[job.key]
        if before >= number:
            until = max(when + before * rate.spacing, session.now + _SOON)
            _put_off(session, job.queue, (job.id, NUMBER[job.status]), until)
            ready = False
        asked[job.key] += 1
    return ready


def started(session: Session, limits: Limits, jobs: Sequence[Job]) -> None:
    """Jobs of a queue by key were claimed: where the keys have a rate the next ones may wait for theirs."""
    if limits.rate_per_key is None:
        return
    for job in jobs:
        if job.key is not None:
            start(session, (job.queue, job.key), limits.rate_per_key, 1)
            fill(session, job.queue, job.key)


# -- limits that change -----------------------------------------------------------------------------------


def adapt(session: Session, queue: str, before: Limits | None) -> None:
    """The limits of a queue were others before: release those that may start now."""
    session.index_new()
    limits = limits_of(session, queue)
    session.released.add(queue)
    if before is not None:
        forget_rates(session, queue, before, limits or Limits())
        if before.rate_per_key is not None:
            session.do(_BRING_FORWARD, (session.now, queue, session.now))
    if limits is None or not limits.by_key:
        _free_turns(session, queue, "turn = 1")
        session.do(f"update neoq_jobs set state = 0 where {IN_STATE[LINE]} and queue = ?", (queue,))  # noqa: S608
        return
    if before is None or not before.by_key:
        session.do(
            "update neoq_jobs set turn = 1 where state = 2 and queue = ? and key is not null", (queue,)
        )
    if not limits.ordered:
        _free_turns(session, queue, "turn = 1 and state in (1, 6, 9)")
    elif not limits.hold_dead:
        _free_turns(session, queue, "turn = 1 and state = 9")
    keys = session.do(_KEYS_IN_LINES, (queue,)).fetchall()
    for (key,) in keys:
        fill(session, queue, key)


def _free_turns(session: Session, queue: str, which: str) -> None:
    """Take the turns of some jobs of a queue."""
    rows = session.do(
        f"select id, batch from neoq_jobs where {which} and queue = ? and state = 9",  # noqa: S608
        (queue,),
    ).fetchall()
    for job_id, group in rows:  # they held their lines
        if not groups.keeps(session, group):
            session.do("update neoq_jobs set state = 4, turn = null where id = ?", (job_id,))
            session.count(queue, N_KEPT_DEAD, -1)
    session.do(f"update neoq_jobs set turn = null where {which} and queue = ?", (queue,))  # noqa: S608


# -- looking ----------------------------------------------------------------------------------------------


def of_queue(file: SqliteFile, queue: str, limit: int) -> list[Line]:
    """The lines of a queue in which a job waits or that stand still: those that stand still first."""
    waiting = dict(file.read(_WAITING, (queue, limit)))
    found = []
    for key in {key for (key,) in file.read(_STANDING, (queue, limit))} | waiting.keys():
        head: int | None = None
        state: LineState = "waiting"
        for job_id, place, status in file.read(_FIRST, (queue, key)):
            head = job_id
            state = _state(place, status)
        found.append(Line(queue, key, state, head, waiting.get(key) or _behind(file, queue, key)))
    found.sort(key=lambda line: (_ORDER.index(line.state), line.key))
    return found[:limit]


def _behind(file: SqliteFile, queue: str, key: str) -> int:
    return file.read(_WAIT_BEHIND, (queue, key))[0][0]  # type: ignore[no-any-return]


def _state(place: int, status: int) -> LineState:
    if place == RUNNING:
        return "running"
    if place in {DEAD, KEPT_DEAD}:
        return "dead"
    return "retrying" if status == _RETRYING else "waiting"
