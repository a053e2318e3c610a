"""Jobs that come into a SQLite file: each call is part of its caller's transaction."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from hashlib import blake2b
from typing import Any

import orjson

from neoq.errors import BatchClosedError
from neoq.held.group import BatchRules
from neoq.job import Job
from neoq.payload import CODEC
from neoq.record import Status
from neoq.sqlite import groups, lines, spans
from neoq.sqlite.rows import N_READY, kind_of, waiting_state
from neoq.sqlite.schema import READY, SCHEDULED
from neoq.sqlite.session import Session
from neoq.store import Tick, must_not_meet, taken_by
from neoq.stored import NUMBER, encoded_meta, number_in

MANY = 16  # jobs of one call that are sorted in as they are added: they share the pages that they change
_MAY_CHANGE = frozenset({None, "line"})  # why a job waits that an enqueue may change
_CLOCK_WAS_WRONG = 3 * 3600.0  # a tick that much older than the last one: the clock was set right


def add(session: Session, jobs: Sequence[Job], token: bytes = b"") -> list[Job]:
    """Store jobs; see `Store.add`."""
    if token and (known := _known(session, token)) is not None:
        return known
    added = _add_many(session, jobs) if len(jobs) >= MANY else [add_or_meet(job, session) for job in jobs]
    _remember(session, token, added)
    return added


def _add_many(session: Session, jobs: Sequence[Job]) -> list[Job]:
    """As `add_or_meet` of each; those that are a row and nothing else, as most are, are stored together."""
    session.index_new()
    added: list[Job] = []
    together: list[tuple[int | None, Job]] = []
    hashes: set[int | None] = set()  # of those
    for job in jobs:
        if _is_a_row(session, job):
            fingerprint_hash = hash_of(job)
            may_be_held = fingerprint_hash is not None and (
                fingerprint_hash in hashes or session.may_be_held(fingerprint_hash)
            )
            if not may_be_held and (job.group is None or groups.takes_in(session, job)):
                together.append((fingerprint_hash, job))
                hashes.add(fingerprint_hash)
                added.append(job)
                continue
        session.insert_many(together)
        together.clear()
        hashes.clear()
        added.append(add_or_meet(job, session))
    session.insert_many(together)
    return added


def _is_a_row(session: Session, job: Job) -> bool:
    """Whether nothing but its own row tells of a job, and the number of its group's members."""
    return not session.tail.spans and job.key is None and job.uid is None and job.unique_for is None


def _known(session: Session, token: bytes) -> list[Job] | None:
    """The jobs of an earlier call with a token."""
    known = _ids_of(session.do("select ids from neoq_tokens where token = ?", (token,)).fetchone())
    if known is None:
        return None
    found = {job.id: job for job in session.of_ids(known)}
    return [found[job_id] for job_id in known if job_id in found]


def _remember(session: Session, token: bytes, added: Sequence[Job]) -> None:
    if token:
        ids = orjson.dumps([job.id for job in added]).decode()
        session.do("insert or replace into neoq_tokens values (?,?,?)", (token, ids, session.now))


def _ids_of(row: Sequence[Any] | None) -> list[int] | None:
    """The ids that a token stands for; None where it stands for none that can be read."""
    try:
        ids = None if row is None else orjson.loads(row[0])
    except (ValueError, TypeError):
        return None
    return ids if isinstance(ids, list) and all(type(job_id) is int for job_id in ids) else None


def add_or_meet(job: Job, session: Session, *, follows: bool = False) -> Job:
    """Store a job, or return the unfinished one that has its fingerprint.

    BatchClosedError where its group takes no more jobs; see `groups.admit` for one that ``follows``.
    """
    grouped = job.group is not None
    if grouped and (member := groups.admit(session, job, follows=follows)) is not None:
        return member
    if job.uid is not None:
        holder = session.of_uid(job.uid)
        if holder is not None:
            if must_not_meet(job, holder):
                raise taken_by(holder, job.uid)
            holder.duplicate = True
            return holder
    fingerprint_hash = hash_of(job)
    if fingerprint_hash is not None and session.may_be_held(fingerprint_hash):
        holder = session.holder(job, fingerprint_hash)
        if holder is not None:
            return _meet(session, job, holder)
    if session.tail.spans and (spent := spans.meet(session, job)) is not None:
        return spent
    session.insert(job, fingerprint_hash)
    if job.unique_for is not None:
        spans.begin(session, job)
    if grouped:
        groups.enter(session, job)
    if job.key is not None:
        lines.enter(session, job)
    return job


def follow(session: Session, jobs: Sequence[Job]) -> None:
    """Add the jobs that follow an outcome, but those of a group that has ended or was stopped."""
    for job in jobs:
        with suppress(BatchClosedError):
            add_or_meet(job, session, follows=True)


def open_batch(session: Session, then: Job, rules: BatchRules, token: bytes) -> Job:
    """Store the callback of a batch, or take over the batch of its name; see `Store.open_batch`."""
    if token and (known := _known(session, token)):
        return known[0]
    session.index_new()
    if then.group is not None and (member := groups.admit(session, then, follows=False)) is not None:
        return member
    if then.uid is not None and (holder := session.of_uid(then.uid)) is not None:
        raise taken_by(holder, then.uid)
    fingerprint_hash = hash_of(then)
    there = None if fingerprint_hash is None else session.holder(then, fingerprint_hash)
    if there is not None:
        if not rules.named or there.held != "batch":
            raise taken_by(there)
        groups.take_over(session, there.id, rules)
        there.duplicate = True
    else:
        session.insert(then, fingerprint_hash)
        groups.hold_batch(session, then, rules)
        if then.group is not None:
            groups.enter(session, then)
    _remember(session, token, [there or then])
    return there or then


def _meet(session: Session, job: Job, holder: Job) -> Job:
    if job.on_duplicate == "raise":
        raise taken_by(holder)
    if holder.status is not Status.RUNNING and holder.held in _MAY_CHANGE:
        if job.on_duplicate == "replace":
            _replace(session, holder, job)
        elif holder.status is Status.RETRYING and job.due < holder.due:  # type: ignore[operator]
            move(session, holder, job.due)
        [holder] = session.of_ids([holder.id])
    holder.duplicate = True
    return holder


def _replace(session: Session, holder: Job, new: Job) -> None:
    session.do(
        "update neoq_jobs set payload = :payload, codec = :codec, deadline = :deadline, priority = :priority,"
        " max_retries = :max_retries, meta = :meta, key = :key, fingerprint = :fingerprint where id = :id",
        {
            "id": holder.id,
            "payload": new.body,
            "codec": CODEC,
            "deadline": new.expires,
            "priority": new.priority,
            "max_retries": new.max_retries,
            "meta": encoded_meta(new),
            "key": new.key,
            "fingerprint": holder.own_fingerprint if new.body == holder.body else holder.fingerprint,
        },
    )
    due = new.due
    if new.max_delay is not None:
        due = min(due, holder.created + new.max_delay)  # type: ignore[operator,type-var]
    move(session, holder, due)
    if holder.counted and (holder.key != new.key or due > session.now):  # type: ignore[operator]
        lines.withdraw(session, holder.id)


def move(session: Session, job: Job, run_after: float | None) -> None:
    """Put a waiting job at another time."""
    before = waiting_state(job)
    after = SCHEDULED if run_after > session.now else READY  # type: ignore[operator]
    session.do("update neoq_jobs set state = ?, run_after = ? where id = ?", (after, run_after, job.id))
    session.count(job.queue, kind_of(before, NUMBER[job.status]), -1)
    session.count(job.queue, kind_of(after, NUMBER[job.status]), 1)


def full_queue(session: Session, wanted: dict[str, int], capacities: dict[str, int]) -> str | None:
    """The name of a queue that has no room for its part of a batch."""
    session.write_counts()
    for queue, capacity in capacities.items():
        ready = session.do(
            "select coalesce((select n from neoq_counts where queue = ? and kind = ?), 0)"
            " + (select count(*) from neoq_jobs where state = 1 and queue = ? and run_after <= ?)"
            " + (select count(*) from neoq_jobs where id > ? and state = 5 and queue = ? and run_after <= ?)",
            (queue, N_READY, queue, session.now, session.tail.sorted_to, queue, session.now),
        ).fetchone()[0]
        if wanted[queue] and ready + wanted[queue] > capacity:
            return queue
    return None


def duplicates(session: Session, jobs: Sequence[Job]) -> set[int]:
    """The places of jobs whose fingerprints unfinished jobs have, or whose uids any jobs have."""
    places = set()
    for place, job in enumerate(jobs):
        if job.uid is not None and session.of_uid(job.uid) is not None:
            places.add(place)
            continue
        if session.tail.spans and spans.is_spent(session, job):
            places.add(place)
            continue
        fingerprint_hash = hash_of(job)
        if (
            fingerprint_hash is not None
            and session.may_be_held(fingerprint_hash)
            and session.holder(job, fingerprint_hash) is not None
        ):
            places.add(place)
    return places


def add_tick(session: Session, cron: str, tick: datetime, job: Job) -> Tick:
    """Record a tick and add its job."""
    at = tick.timestamp()
    row = session.do("select tick from neoq_ticks where cron = ?", (cron,)).fetchone()
    last = None if row is None else number_in(row[0])
    if last is not None and 0 <= last - at < _CLOCK_WAS_WRONG:
        return Tick.EXISTS
    session.do("insert or replace into neoq_ticks values (?,?)", (cron, at))
    new = add_or_meet(job, session) is job
    session.do("insert or ignore into neoq_tick_jobs (cron) values (?)", (cron,))
    if new:
        session.do("update neoq_tick_jobs set job = ? where cron = ?", (job.id, cron))
    else:
        session.do("update neoq_tick_jobs set skipped = skipped + 1 where cron = ?", (cron,))
    return Tick.NEW if new else Tick.SKIPPED


_number = int.from_bytes
_COMPUTED = re.compile("[0-9a-f]{32}").fullmatch


def hash_of(job: Job) -> int | None:
    """A hash of queue and fingerprint, 32 bits; None for a job that need not be unique."""
    if job.unique is False:
        return None
    if job.own_fingerprint is None:
        digest = blake2b(job.queue.encode() + b"\0" + job.body, digest_size=16).digest()  # type: ignore[operator]
        return _number(digest[:4], "big", signed=True)
    return hash_named(job.queue, job.fingerprint)


def hash_named(queue: str, name: str) -> int:
    """A hash of a queue and a fingerprint that is known."""
    if _COMPUTED(name):  # it is such a digest
        return _number(bytes.fromhex(name[:8]), "big", signed=True)
    return _number(blake2b(f"{queue}\0{name}".encode(), digest_size=4).digest(), "big", signed=True)
