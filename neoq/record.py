"""What a store keeps of a job: plain fields, and the words for where it is in its life."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from datetime import timedelta
from types import MappingProxyType
from typing import Any, Literal, TypedDict

from neoq.times import Asked, When

Unique = bool | Literal["until_started"]
OnDuplicate = Literal["return", "raise", "replace"]
Held = Literal["batch", "children", "signal", "line"]
NO_META: Mapping[str, str] = MappingProxyType({})


class JobOptions(TypedDict, total=False):
    """The keywords of `Job` and of ``enqueue``."""

    run_after: When | None
    deadline: When | None
    priority: int
    max_retries: int | None
    timeout: timedelta | float | None
    uid: str | None
    fingerprint: str | None
    unique: Unique | timedelta | None
    on_duplicate: OnDuplicate
    max_delay: timedelta | float | None
    key: str | None
    meta: Mapping[str, str] | None
    kind: str | None


class Status(enum.StrEnum):
    """Where a job is in its life."""

    PENDING = "pending"  # ready now, or waiting for run_after
    RUNNING = "running"
    RETRYING = "retrying"  # failed, waiting for its next attempt
    SUCCEEDED = "succeeded"
    DEAD = "dead"
    CANCELLED = "cancelled"


PENDING = Status.PENDING
FINISHED = frozenset({Status.SUCCEEDED, Status.DEAD, Status.CANCELLED})


class Record:
    """What a store keeps of a job, and what its process knows of it: fields, as plain as they come.

    Times are seconds since the epoch, ``body`` and ``result_body`` JSON. Stores fill these fields in (see
    `blank`); users see them by the properties of `Job`.
    """

    # What every job has lies in slots: the interpreter reaches them several times faster than an attribute
    # that has a default in its class. What few jobs have is such an attribute.
    __slots__ = (
        "__dict__",
        "body",
        "cancel_asked",
        "completed",
        "created",
        "due",
        "expires",
        "finished_on",
        "id",
        "parsed",
        "queue",
        "result_body",
        "slot",
        "special",
        "started",
        "status",
        "token",
    )
    id: int  # None until it is accepted; each that a backend returns has one
    queue: str
    status: Status
    # Seconds since the epoch: a float is cheap, and most jobs' datetimes are never looked at.
    due: float | None
    expires: float | None
    created: float | None
    started: float | None
    finished_on: float | None
    body: bytes | None  # the payload as stored; None: not enqueued yet
    parsed: dict[str, Any] | None
    result_body: bytes | None
    special: bool  # there is more to it than a queue and a payload
    token: int  # of the lease that holds it, 0: nobody's
    cancel_asked: bool
    completed: bool  # by its handler, in a transaction that is the handler's to commit
    slot: Any  # the attempt that this process makes of it

    priority: int = 0
    retries: int = 0
    max_retries: int | None = None
    timeout: float | None = None  # of an attempt, in seconds; None leaves it to the queue's listener
    uid: str | None = None  # the caller's own name for it, which no other job has
    scheduled: float | None = None  # the tick of a cron that it is for
    unique: Unique = True
    on_duplicate: OnDuplicate = "return"
    duplicate: bool = False
    error: str | None = None
    traceback: str | None = None
    kind: str | None = None
    key: str | None = None
    group: str | None = None  # the group whose holder waits for its end; see held/group.py
    unique_for: float | None = None  # seconds for which it is unique at least
    max_delay: float | None = None  # seconds by which replacements may put it off
    producer: int = 0  # the opener of the batch that adds this member; not stored
    held: Held | None = None  # why it is PENDING and not due
    holds: int | None = None  # it holds, or has held, a group: of this round, the latest
    counted: bool = False  # claimed: it has a group, a round, steps or a turn, so that its end concerns more
    steps: int = 0  # how many it has recorded, signals included
    meta: Mapping[str, str] = NO_META
    worker: str | None = None
    crashes: int = 0
    retries_before: int = 0  # what `retries` was when the job got on for the last time
    looked_back: bool = False  # `retries_before` is known
    failed_attempts: bytes | None = None  # see attempts.py

    asked_run_after: Asked = (None, None)
    asked_deadline: Asked = (None, None)
    own_fingerprint: str | None = None  # the caller's
    computed_fingerprint: str | None = None  # the computed one, once somebody asked for it
    says_unique: bool = False  # it was given to the job itself: no setting changes it
    is_call: bool = False  # nothing but a payload and a kind, and not unique: made by `call_of`
    waits: bool = False  # for its time, as its store sees it
    progress_report: tuple[float, str] | None = None
    clock_skew: float = 0.0  # seconds that its store's clock is ahead of ours; the deadline is by that one
    lease_lost: bool = False  # others may have it by now: however it ends here, it is only given back
    unreadable: str | None = None  # what of its stored record cannot be read; see stored.py
