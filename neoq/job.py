"""A job: what it is, how it looks from outside, and what may be in its payload."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from itertools import chain, repeat
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Unpack

import orjson

from neoq.checks import (
    check_queue,
    check_size_of_meta,
    checked_choice,
    checked_fraction,
    checked_int,
    checked_meta,
    checked_span,
    checked_text,
    checked_timeout,
    checked_uid,
    known_queues,
)
from neoq.errors import InvalidJobError, NeoqError
from neoq.held.stepwise import RunningAttempt, Stepwise
from neoq.payload import (
    EXACT,
    SCALARS,
    SORTED,
    encode_payload,
    fingerprint,
    fingerprint_of_kind,
    read_json,
    refuse_size,
)
from neoq.record import FINISHED, PENDING, JobOptions, OnDuplicate, Record, Status, Unique
from neoq.threads.boundary import entrances
from neoq.times import When, add_span, epoch_or_span, to_datetime
from neoq.wording.bounds import cut

if TYPE_CHECKING:
    from contextlib import AbstractContextManager


@entrances()
class Job(Stepwise, Record):
    """One piece of work: a queue's name, a JSON payload, and when and how to run it.

    ``run_after`` and ``deadline`` take an aware datetime, a timedelta, or seconds from now.
    ``max_retries`` and ``timeout`` (of an attempt, in seconds or as a timedelta) None leave it to the
    queue's listener. ``unique`` True holds the fingerprint until
    the job ends, ``"until_started"`` until its first attempt starts, False not at all, a timedelta until the
    job has ended and that long has passed since it was accepted; None leaves it to the queue or the backend,
    whose default is True. ``max_delay`` is for ``on_duplicate="replace"``: the job is due at most so long
    after the first one was accepted, however often it is replaced.
    ``on_duplicate`` says what an enqueue does that meets an unfinished job of equal fingerprint.
    ``uid`` is a name of your own, of up to 255 characters, by which ``get(uid=...)`` finds the job; while a
    job is kept no other one has its uid, and an enqueue with that uid returns it as a duplicate. A job with
    a uid is unique by its fingerprint only if it has ``unique`` or ``fingerprint``, too.
    ``kind`` names the task that runs it, on a queue of tasks.

    Jobs that a backend returns are snapshots; the one that a handler gets also has `remaining`,
    `cancelled`, `progress`, `shield`, `complete`, and what makes it durable in steps: `step`, `gather`,
    `call`, `sleep`, `wait_for`, `save`, `saved` and `enqueue`. Treat the fields as read-only.

    Raises InvalidJobError for a bad argument, TypeError for an unknown one. The payload is checked when the
    job is enqueued.
    """

    __slots__ = ()

    slot: RunningAttempt | None

    def __init__(
        self, queue: str, payload: Mapping[str, Any] | None = None, **options: Unpack[JobOptions]
    ) -> None:
        if type(queue) is not str or queue not in known_queues:
            check_queue(queue)
        self.id = self.body = self.due = self.expires = self.created = None  # type: ignore[assignment]
        self.started = self.finished_on = self.result_body = self.slot = None
        self.queue = queue
        self.status = PENDING
        self.parsed = payload  # type: ignore[assignment]  # encode_payload is the judge of it
        self.token = 0
        self.cancel_asked = self.completed = self.special = False
        if options:  # most jobs have none, and creating them is the hot path
            try:
                self._describe(**options)
            except TypeError:
                refuse_unknown("Job", options)
                raise

    def _describe(
        self,
        *,
        run_after: When | None = None,
        deadline: When | None = None,
        priority: int = 0,
        max_retries: int | None = None,
        timeout: timedelta | float | None = None,
        uid: str | None = None,
        fingerprint: str | None = None,
        unique: Unique | timedelta | None = None,
        on_duplicate: OnDuplicate = "return",
        max_delay: timedelta | float | None = None,
        key: str | None = None,
        meta: Mapping[str, str] | None = None,
        kind: str | None = None,
    ) -> None:
        """Check and take over what is more than a queue and a payload."""
        if isinstance(unique, timedelta):
            self.unique_for, unique = checked_span("unique", unique), True
        unique = self._said_unique(unique, uid, fingerprint)
        asked = (run_after, deadline, max_retries, timeout, uid, fingerprint, max_delay, key, meta, kind)
        usual = unique is True and on_duplicate == "return" and priority.__class__ is int and not priority
        self.special = not usual or self.unique_for is not None or any(one is not None for one in asked)
        if not self.special:
            return
        if run_after is not None or deadline is not None:
            self._set_times(run_after, deadline)
        if priority.__class__ is not int or priority:
            self.priority = checked_int("priority", priority, -100, 100)
        if max_retries is not None:
            self.max_retries = checked_int("max_retries", max_retries, 0, 2**31 - 1)
        if timeout is not None:
            self.timeout = checked_timeout(timeout)
        if fingerprint is not None:
            self.own_fingerprint = checked_text("fingerprint", fingerprint)
        if unique is not True:
            self.unique = checked_choice("unique", unique, (True, False, "until_started"), also="a timedelta")
        if on_duplicate != "return":
            self.on_duplicate = checked_choice("on_duplicate", on_duplicate, ("return", "raise", "replace"))
        if uid is not None:
            self.uid = _own_uid(uid, self.on_duplicate)
        if max_delay is not None:
            self.max_delay = _checked_delay(max_delay, self.on_duplicate)
        self._name(key, meta, kind)

    def _name(self, key: str | None, meta: Mapping[str, str] | None, kind: str | None) -> None:
        if key is not None:
            self.key = checked_text("key", key)
        if meta is not None:
            self.meta = checked_meta(meta)
        if kind is not None:
            self.kind = checked_text("kind", kind)

    def _said_unique(self, unique: Unique | None, uid: str | None, fingerprint: str | None) -> Unique:
        """How long it is unique. One that has a uid and nothing else to be compared is told by its uid."""
        if unique is None and (uid is None or fingerprint is not None):
            return True
        self.says_unique = True
        return False if unique is None else unique

    def _set_times(self, run_after: When | None, deadline: When | None) -> None:
        if run_after is not None:
            self.asked_run_after = epoch_or_span("run_after", run_after)
            self.due = self.asked_run_after[0]
        if deadline is not None:
            self.asked_deadline = epoch_or_span("deadline", deadline)
            self.expires = self.asked_deadline[0]

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled and copied: a snapshot, without the attempt that this process makes."""
        state = {name: getattr(self, name) for name in _IN_SLOTS} | self.__dict__
        state["slot"] = None
        if self.body is not None:
            state["parsed"] = None  # it is read anew
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)

    def __repr__(self) -> str:
        return f"<Job {self.id} of {self.queue!r} {self.status.name} retries={self.retries}>"

    @property
    def payload(self) -> dict[str, Any]:
        """The payload: a fresh copy for each attempt and each snapshot."""
        if self.parsed is None:
            self.parsed = read_json(self.body, self.id, self.queue) if self.body else {}
        return self.parsed

    @property
    def fingerprint(self) -> str:
        """What uniqueness compares: the caller's own, or a hash of queue and canonical payload."""
        if self.own_fingerprint is not None:
            return self.own_fingerprint
        if self.computed_fingerprint is None:
            data = encode_payload(self.parsed, self.queue) if self.body is None else self.body
            self.computed_fingerprint = (
                fingerprint(self.queue, data)
                if self.kind is None
                else fingerprint_of_kind(self.queue, self.kind, data)
            )
        return self.computed_fingerprint

    @property
    def result(self) -> Any:
        """What the handler returned, as JSON; None until it has succeeded."""
        return None if self.result_body is None else read_json(self.result_body, self.id, self.queue)

    @property
    def run_after(self) -> datetime | None:
        """When it may start; never None once accepted."""
        return to_datetime(self.due)

    @property
    def deadline(self) -> datetime | None:
        """When it must have finished, or None."""
        return to_datetime(self.expires)

    @property
    def created_at(self) -> datetime | None:
        """When it was accepted."""
        return to_datetime(self.created)

    @property
    def ran_at(self) -> datetime | None:
        """When its latest attempt started."""
        return to_datetime(self.started)

    @property
    def finished_at(self) -> datetime | None:
        """When it succeeded, died or was cancelled."""
        return to_datetime(self.finished_on)

    @property
    def scheduled_at(self) -> datetime | None:
        """The tick that it is for, where a cron has made it; None elsewhere."""
        return to_datetime(self.scheduled)

    @property
    def finished(self) -> bool:
        """Whether it has succeeded, died or been cancelled."""
        return self.status in FINISHED

    @property
    def cancelled(self) -> bool:
        """Whether this attempt was asked to stop: cancelled, timed out, or the backend shuts down."""
        return self.cancel_asked or (self.slot is not None and self.slot.asked_to_stop(self))

    def remaining(self) -> float:
        """Seconds until this attempt is interrupted; ``math.inf`` where it has no timeout or deadline."""
        return self._running_slot("remaining").remaining()

    def progress(self, fraction: float | None = None, message: str = "") -> tuple[float, str] | None:
        """Report how far the attempt is (0.0 to 1.0), or without arguments read the last report.

        That of a job that has succeeded is 1.0, with the last message; None where nothing was reported.
        """
        if fraction is not None:
            slot = self._running_slot("progress")
            self.progress_report = (checked_fraction(fraction), cut(str(message), slot.max_progress))
            slot.on_report()
        if self.progress_report is not None and self.status is Status.SUCCEEDED:
            return 1.0, self.progress_report[1]
        return self.progress_report

    def shield(self) -> AbstractContextManager[None]:
        """Hold interrupts back inside a ``with`` block; one that came meanwhile is raised at its end.

        The clock is not held: one second after its timeout the attempt counts as failed all the same.
        """
        return self._running_slot("shield").shield(self)

    def fail(self, reason: str | BaseException = "") -> None:
        """Let this job fail, of those that a handler of `Backend.listen_many` was called with.

        It is retried, or dead, as if its own attempt had raised; the others are not concerned. An exception
        is taken as it is: a `Discard` ends the job, a `Retry` or a `Snooze` says when it runs again.
        """
        slot = self._running_slot("fail")
        slot.fail(self, reason if isinstance(reason, BaseException) else RuntimeError(reason or "it failed"))

    def complete(self, connection: Any, result: Any = None) -> None:
        """Settle the job as succeeded inside the caller's own transaction on ``connection``.

        Where that is rolled back the attempt has failed, though its handler may return normally.

        Raises UnsupportedError where the backend shares no transactions, StaleLeaseError where another
        worker has the job by now.
        """
        self._running_slot("complete").complete(self, connection, result)

    def prepare(self, now: float, max_payload: int) -> None:
        """Make a job that was built by its user ready for a store: payload as bytes, spans as times."""
        data = encode_payload(self.parsed, self.queue)
        if len(data) > max_payload:
            refuse_size(data, max_payload, self.queue)
        if self.special:
            self._resolve(now)
            if self.meta:
                check_size_of_meta(self.meta, max_payload, self.queue)
            if self.kind is not None and self.unique and self.own_fingerprint is None:
                self.own_fingerprint = fingerprint_of_kind(self.queue, self.kind, data)
        else:
            self.due = now
        self.body = data
        self.parsed = None
        self.created = now

    def _resolve(self, now: float) -> None:
        """Turn what was asked for into times."""
        at, span = self.asked_run_after
        if at is None and not span:
            self.due = now
        else:
            self.due = add_span("run_after", now, span or 0.0) if at is None else at
        if self.waits or self.due > now:
            self.waits = self.due > now
        at, span = self.asked_deadline
        self.expires = at if span is None else add_span("deadline", now, span)

    def described(self) -> None:
        """Check what enqueue middleware may have assigned."""
        checked_int("priority", self.priority, -100, 100)
        if self.max_retries is not None:
            checked_int("max_retries", self.max_retries, 0, 2**31 - 1)
        if self.timeout is not None:
            self.timeout = checked_timeout(self.timeout)
        self.meta = checked_meta(self.meta)
        self.special = True

    def fresh(self) -> Job:
        """This job, or where it came from a backend a new one like it: what enqueue stores."""
        if self.body is None:
            return self
        fresh = Job(self.queue, read_json(self.body, self.id, self.queue))
        fresh.special = self.special
        for name in (_DESCRIBED | _ASKED) & self.__dict__.keys():
            setattr(fresh, name, self.__dict__[name])
        fresh.waits = False
        fresh.scheduled = fresh.uid = fresh.group = None
        fresh.producer = 0
        fresh.says_unique = True
        return fresh

    def as_record(self) -> Job:
        """The store's own record of a job that it accepts."""
        record = blank(self.queue)
        record.id = self.id
        record.body = self.body
        record.due = self.due
        record.created = self.created
        record.expires = self.expires
        record.special = self.special
        if self.special:
            for name in _STORED & self.__dict__.keys():
                setattr(record, name, self.__dict__[name])
        return record

    def replace_by(self, new: Job) -> None:
        """Take what a newer job brings that replaces this one while it waits; the fingerprint stays."""
        if self.own_fingerprint is None and new.body != self.body:
            self.own_fingerprint = self.fingerprint  # it stays the job's, whatever its payload
        self.body, self.due, self.expires, self.priority = new.body, new.due, new.expires, new.priority
        self.max_retries, self.meta, self.key = new.max_retries, new.meta, new.key
        self.timeout, self.scheduled = new.timeout, new.scheduled
        self.special = True

    def slim(self) -> Job:
        """A job of the same fields that takes less memory, to wait for long between two attempts.

        It has no attribute that says what a job says without it, and none that is read anew.
        """
        slim = Job.__new__(Job)
        for name in _IN_SLOTS:
            setattr(slim, name, getattr(self, name))
        for name, value in self.__dict__.items():
            if name not in _READ_ANEW and value is not getattr(Job, name, self):
                setattr(slim, name, value)
        return slim

    def snapshot(self) -> Job:
        """A job of the same fields and stored bytes that shares no decoded payload and no attempt."""
        copy = Job.__new__(Job)
        for name in _IN_SLOTS:
            setattr(copy, name, getattr(self, name))
        copy.__dict__.update(self.__dict__)
        copy.parsed = None if self.body is not None else self.parsed
        copy.slot = None
        return copy


queue_of, is_special, data_of = map(
    attrgetter, ("queue", "special", "body")
)  # for loops that are written in C
_payload_of = attrgetter("parsed")
_IN_SLOTS = tuple(name for name in Record.__slots__ if name != "__dict__")
_DESCRIBED = frozenset(
    (
        "priority max_retries timeout uid scheduled unique unique_for on_duplicate max_delay kind key group "
        "producer meta waits own_fingerprint"
    ).split()
)  # what a user may say of a job, beyond the plain
_ASKED = frozenset({"asked_run_after", "asked_deadline"})
_STORED = _DESCRIBED - {"producer"}
_READ_ANEW = frozenset({"looked_back", "retries_before"})


def _own_uid(uid: Any, on_duplicate: OnDuplicate) -> str:
    """The uid of a new job."""
    if on_duplicate == "replace":
        raise InvalidJobError(f"a job with a uid ({uid!r:.80}) replaces no other one: leave one of both out")
    return checked_uid(uid)


def _checked_delay(max_delay: Any, on_duplicate: OnDuplicate) -> float:
    """By how many seconds replacements may put a new job off."""
    if on_duplicate != "replace":
        raise InvalidJobError('max_delay is for jobs that are replaced: give on_duplicate="replace", too')
    return checked_span("max_delay", max_delay)


def plain(queue: str, body: bytes, now: float) -> Job:
    """A job that is nothing but a queue and a payload, as `encode_payload` writes it, due now."""
    job = Job(queue)
    job.body = body
    job.due = job.created = now
    return job


def call_of(queue: str, body: bytes, now: float, kind: str) -> Job:
    """A job that is nothing but the call of a task, and not unique, due now."""
    job = plain(queue, body, now)
    job.special, job.unique, job.kind, job.is_call = True, False, kind, True
    return job


def blank(queue: str = "") -> Job:
    """A job for a store to fill in."""
    job = Job.__new__(Job)
    job.id = job.body = job.due = job.expires = job.created = None  # type: ignore[assignment]
    job.parsed = job.started = job.finished_on = job.result_body = job.slot = None
    job.queue = queue
    job.status = PENDING
    job.token = 0
    job.special = job.cancel_asked = job.completed = False
    return job


def _keep_beside_the_object(*names: str) -> None:
    """Let jobs have these attributes without a dict of their own, which takes more than the job.

    CPython keeps attributes beside the object if their names were used by the first instances of its class.
    """
    first = blank()
    for name in names:
        setattr(first, name, None)


_keep_beside_the_object(
    *(
        "unique",
        "says_unique",
        "waits",
        "key",
        "kind",
        "group",
        "producer",
        "counted",
        "held",
        "holds",
        "steps",
    )
)


def plain_payloads(jobs: Sequence[Job]) -> list[bytes] | None:
    """The payloads of many jobs, as `encode_payload` writes them; None where one of them wants a closer look.

    That is a job that is more than a queue and a payload, one that was enqueued before or is there twice,
    or a payload that is more than a dict of scalars. Whole lists go through loops that are written in C.
    """
    if set(map(type, jobs)) != {Job} or len(set(map(id, jobs))) < len(jobs):
        return None
    if any(map(is_special, jobs)) or any(map(data_of, jobs)):
        return None
    payloads: list[Any] = list(map(_payload_of, jobs))
    if set(map(type, payloads)) != {dict}:
        return None
    if not SCALARS.issuperset(map(type, chain.from_iterable(map(dict.values, payloads)))):
        return None
    try:
        return list(map(EXACT.__mod__, map(orjson.dumps, payloads, repeat(None), repeat(SORTED))))
    except orjson.JSONEncodeError:
        return None


def refuse_unknown(call: str, options: Mapping[str, Any]) -> None:
    """Raise TypeError for the first option that jobs do not have, with what to write in its place."""
    for name in options:
        if name not in JobOptions.__annotations__:
            from neoq.wording.remedies import of_enqueue  # where something is refused, and no sooner

            remedy = of_enqueue(name, JobOptions.__annotations__)
            raise TypeError(f"{call}() does not know {name}; {remedy}") from None


class DuplicateJobError(NeoqError):
    """An unfinished job has that fingerprint; ``job`` is the one already there."""

    def __init__(self, message: str, *, job: Job) -> None:
        super().__init__(message, queue=job.queue, job_id=job.id)
        self.job = job
