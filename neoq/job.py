"""A job: what it is, how it looks from outside, and what may be in its payload."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import chain, repeat
from operator import attrgetter
from types import MappingProxyType, NoneType
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Protocol, TypedDict, Unpack

import orjson

from neoq.boundary import entrances
from neoq.bounds import cut
from neoq.errors import InvalidJobError, NeoqError, PayloadError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

Unique = bool | Literal["until_started"]
OnDuplicate = Literal["return", "raise", "replace"]
When = datetime | timedelta | float
Asked = tuple[float | None, float | None]  # a point in time, or a span counted from the enqueue

CODEC = 1  # how payload and result bytes are written: 1 is JSON with sorted keys
MAX_DEPTH = 100
EXACT = b"%b"  # copies bytes to their size: orjson's own keep the 4 KB that they were written into
_EARLIEST, _LATEST = (datetime(year, 12, 30, tzinfo=UTC).timestamp() for year in (1, 9999))
_LEAST_TIMEOUT = 0.001
_MAX_KNOWN = 10_000
_known_queues: set[str] = set()  # names that were checked
SORTED = orjson.OPT_SORT_KEYS
SCALARS = frozenset({str, int, bool, NoneType})
_LAST_ID = 2**63 - 1  # of 64 bits
_NO_META: Mapping[str, str] = MappingProxyType({})


class JobOptions(TypedDict, total=False):
    """The keywords of `Job` and of ``enqueue``."""

    run_after: When | None
    deadline: When | None
    priority: int
    max_retries: int | None
    timeout: timedelta | float | None
    fingerprint: str | None
    unique: Unique | None
    on_duplicate: OnDuplicate
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


class RunningAttempt(Protocol):
    """What a running job asks of the thread that runs it."""

    job: Job | None
    max_progress: int

    def asked_to_stop(self, job: Job) -> bool:
        """Whether the attempt is to end soon."""

    def remaining(self) -> float:
        """Seconds until the timeout or the deadline; infinity without either."""

    def shield(self, job: Job) -> AbstractContextManager[None]:
        """Keep interrupts out of a block."""

    def complete(self, job: Job, connection: Any, result: Any) -> None:
        """Settle the job as succeeded in a transaction of the handler's."""


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
    slot: RunningAttempt | None

    priority: int = 0
    retries: int = 0
    max_retries: int | None = None
    timeout: float | None = None  # of an attempt, in seconds; None leaves it to the queue's listener
    scheduled: float | None = None  # the tick of a cron that it is for
    unique: Unique = True
    on_duplicate: OnDuplicate = "return"
    duplicate: bool = False
    error: str | None = None
    traceback: str | None = None
    kind: str | None = None
    key: str | None = None
    group: str | None = None
    meta: Mapping[str, str] = _NO_META
    worker: str | None = None
    crashes: int = 0
    failed_attempts: bytes | None = None  # see attempts.py

    asked_run_after: Asked = (None, None)
    asked_deadline: Asked = (None, None)
    own_fingerprint: str | None = None  # the caller's
    computed_fingerprint: str | None = None  # the computed one, once somebody asked for it
    says_unique: bool = False  # it was given to the job itself: no setting changes it
    waits: bool = False  # for its time, as its store sees it
    progress_report: tuple[float, str] | None = None
    clock_skew: float = 0.0  # seconds that its store's clock is ahead of ours; the deadline is by that one
    lease_lost: bool = False  # others may have it by now: however it ends here, it is only given back
    unreadable: str | None = None  # what of its stored record cannot be read; see stored.py


@entrances()
class Job(Record):
    """One piece of work: a queue's name, a JSON payload, and when and how to run it.

    ``run_after`` and ``deadline`` take an aware datetime, a timedelta, or seconds from now.
    ``max_retries`` and ``timeout`` (of an attempt, in seconds or as a timedelta) None leave it to the
    queue's listener. ``unique`` True holds the fingerprint until
    the job ends, ``"until_started"`` until its first attempt starts, False not at all; None leaves it to
    the queue or the backend, whose default is True.
    ``on_duplicate`` says what an enqueue does that meets an unfinished job of equal fingerprint.
    ``kind`` names the task that runs it, on a queue of tasks.

    Jobs that a backend returns are snapshots; the one that a handler gets also has `remaining`,
    `cancelled`, `progress`, `shield` and `complete`. Treat the fields as read-only.

    Raises InvalidJobError for a bad argument, TypeError for an unknown one. The payload is checked when the
    job is enqueued.
    """

    __slots__ = ()

    def __init__(
        self, queue: str, payload: Mapping[str, Any] | None = None, **options: Unpack[JobOptions]
    ) -> None:
        if type(queue) is not str or queue not in _known_queues:
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
        fingerprint: str | None = None,
        unique: Unique | None = None,
        on_duplicate: OnDuplicate = "return",
        key: str | None = None,
        meta: Mapping[str, str] | None = None,
        kind: str | None = None,
    ) -> None:
        """Check and take over what is more than a queue and a payload."""
        if unique is None:
            unique = True
        else:
            self.says_unique = True
        self.special = not (
            unique is True
            and run_after is None
            and deadline is None
            and max_retries is None
            and timeout is None
            and fingerprint is None
            and key is None
            and meta is None
            and kind is None
            and on_duplicate == "return"
            and priority.__class__ is int
            and not priority
        )
        if not self.special:
            return
        if run_after is not None:
            self.asked_run_after = epoch_or_span("run_after", run_after)
            self.due = self.asked_run_after[0]
        if deadline is not None:
            self.asked_deadline = epoch_or_span("deadline", deadline)
            self.expires = self.asked_deadline[0]
        self.priority = _checked_int("priority", priority, -100, 100)
        if max_retries is not None:
            self.max_retries = _checked_int("max_retries", max_retries, 0, 2**31 - 1)
        if timeout is not None:
            self.timeout = _checked_timeout(timeout)
        if fingerprint is not None:
            self.own_fingerprint = _checked_text("fingerprint", fingerprint)
        self.unique = _checked_choice("unique", unique, (True, False, "until_started"))
        self.on_duplicate = _checked_choice("on_duplicate", on_duplicate, ("return", "raise", "replace"))
        if key is not None:
            self.key = _checked_text("key", key)
        if meta is not None:
            self.meta = _checked_meta(meta)
        if kind is not None:
            self.kind = _checked_text("kind", kind)

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
            self.parsed = orjson.loads(self.body) if self.body else {}
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
        return None if self.result_body is None else orjson.loads(self.result_body)

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
    def attempt(self) -> int:
        """The number of this attempt, from 1."""
        return self.retries + 1

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
            limit = self._running_slot("progress").max_progress
            self.progress_report = (_checked_fraction(fraction), cut(str(message), limit))
        if self.progress_report is not None and self.status is Status.SUCCEEDED:
            return 1.0, self.progress_report[1]
        return self.progress_report

    def shield(self) -> AbstractContextManager[None]:
        """Hold interrupts back inside a ``with`` block; one that came meanwhile is raised at its end.

        The clock is not held: one second after its timeout the attempt counts as failed all the same.
        """
        return self._running_slot("shield").shield(self)

    def complete(self, connection: Any, result: Any = None) -> None:
        """Settle the job as succeeded inside the caller's own transaction on ``connection``.

        Where that is rolled back the attempt has failed, though its handler may return normally.

        Raises UnsupportedError where the backend shares no transactions, StaleLeaseError where another
        worker has the job by now.
        """
        self._running_slot("complete").complete(self, connection, result)

    def _running_slot(self, method: str) -> RunningAttempt:
        slot = self.slot
        if slot is None or slot.job is not self:
            raise NeoqError(
                f"job.{method}() works only while its handler runs; this is a snapshot of job {self.id}",
                queue=self.queue,
                job_id=self.id,
            )
        return slot

    def prepare(self, now: float, max_payload: int) -> None:
        """Make a job that was built by its user ready for a store: payload as bytes, spans as times."""
        data = encode_payload(self.parsed, self.queue)
        if len(data) > max_payload:
            refuse_size(data, max_payload, self.queue)
        if self.special:
            self._resolve(now)
            if self.meta:
                _check_size_of_meta(self.meta, max_payload, self.queue)
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
        self.due = add_span("run_after", now, span or 0.0) if at is None else at
        self.waits = self.due > now
        at, span = self.asked_deadline
        self.expires = at if span is None else add_span("deadline", now, span)

    def described(self) -> None:
        """Check what enqueue middleware may have assigned."""
        _checked_int("priority", self.priority, -100, 100)
        if self.max_retries is not None:
            _checked_int("max_retries", self.max_retries, 0, 2**31 - 1)
        if self.timeout is not None:
            self.timeout = _checked_timeout(self.timeout)
        self.meta = _checked_meta(self.meta)
        self.special = True

    def fresh(self) -> Job:
        """This job, or where it came from a backend a new one like it: what enqueue stores."""
        if self.body is None:
            return self
        fresh = Job(self.queue, orjson.loads(self.body))
        fresh.special = self.special
        for name in (_DESCRIBED | _ASKED) & self.__dict__.keys():
            setattr(fresh, name, self.__dict__[name])
        fresh.waits = False
        fresh.scheduled = None
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
            for name in _DESCRIBED & self.__dict__.keys():
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
        "priority max_retries timeout scheduled unique on_duplicate kind key group meta own_fingerprint waits"
    ).split()
)  # what a user may say of a job, beyond the plain
_ASKED = frozenset({"asked_run_after", "asked_deadline"})


def plain(queue: str, body: bytes, now: float) -> Job:
    """A job that is nothing but a queue and a payload, as `encode_payload` writes it, due now."""
    job = Job(queue)
    job.body = body
    job.due = job.created = now
    return job


def call_of(queue: str, body: bytes, now: float, kind: str) -> Job:
    """A job that is nothing but the call of a task, and not unique, due now."""
    job = plain(queue, body, now)
    job.special, job.unique, job.kind = True, False, kind
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


@cache
def _blake2b() -> Any:
    from hashlib import blake2b  # on first use: importing it takes longer than all of this module

    return blake2b


def digest(queue: str, data: bytes) -> bytes:
    """A hash of a payload (as `encode_payload` wrote it) and its queue: BLAKE2b, 128 bits."""
    hashed: bytes = _blake2b()(queue.encode() + b"\0" + data, digest_size=16).digest()
    return hashed


def fingerprint(queue: str, data: bytes) -> str:
    """The fingerprint of a payload on a queue: its `digest` in hex."""
    return digest(queue, data).hex()


def fingerprint_of_kind(queue: str, kind: str, data: bytes) -> str:
    """The fingerprint of a payload of one kind of job on a queue."""
    return fingerprint(queue, kind.encode() + b"\0" + data)


def encode_payload(payload: Any, queue: str) -> bytes:
    """A payload as canonical JSON, or PayloadError naming the place that is not JSON."""
    if payload is None:
        return b"{}"
    try:
        if type(payload) is not dict or not SCALARS.issuperset(map(type, payload.values())):
            payload = _plain_object(payload, "payload", queue, 0)
        return EXACT % orjson.dumps(payload, None, SORTED)
    except orjson.JSONEncodeError:
        # orjson says what, never where; the walk finds the place, or makes plain what orjson refuses.
        return EXACT % orjson.dumps(_plain_object(payload, "payload", queue, 0), None, SORTED)


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


def encode_result(result: Any) -> bytes | None:
    """A handler's result as JSON (None for None), or PayloadError."""
    if result is None:
        return None
    return EXACT % orjson.dumps(_plain(result, "result", None, 0))


def sized_result(result: Any, limit: int) -> bytes | None:
    """A handler's result as JSON of at most ``limit`` bytes, or PayloadError."""
    data = encode_result(result)
    if data is not None and len(data) > limit:
        raise PayloadError(
            f"the result is {len(data):,} bytes as JSON, more than max_payload ({limit:,}): store the bulk "
            "elsewhere and return a reference to it"
        )
    return data


def refuse_size(data: bytes, limit: int, queue: str) -> NoReturn:
    """Refuse a payload of more than ``limit`` bytes."""
    raise PayloadError(
        f"the payload for queue {queue!r} is {len(data):,} bytes as JSON, more than max_payload "
        f"({limit:,}): store the bulk elsewhere and enqueue a reference to it",
        queue=queue,
    )


def _plain_object(value: Any, path: str, queue: str | None, depth: int) -> dict[str, Any]:
    if not issubclass(type(value), dict):
        raise PayloadError(
            f"{path} is {_describe(value)}; a payload is a dict of JSON values{_wrapped(value)}",
            path=path,
            queue=queue,
        )
    if depth > MAX_DEPTH:
        raise PayloadError(
            f"{path[:80]}... is nested deeper than {MAX_DEPTH} levels, or contains itself",
            path=path,
            queue=queue,
        )
    plain = {}
    for key, item in value.items():
        if not issubclass(type(key), str):
            raise PayloadError(
                f"{path} has the key {key!r}, {_describe(key)}; JSON keys are str{_as_key(key)}",
                path=path,
                queue=queue,
            )
        plain[_text(key, f"a key of {path}", queue)] = _plain(item, f"{path}.{key}", queue, depth + 1)
    return plain


def _plain(value: Any, path: str, queue: str | None, depth: int) -> Any:
    """The value made of nothing but exact dict, list, str, int, float, bool and None."""
    if value is None or value is True or value is False:
        return value
    cls = type(value)  # not isinstance, which believes what a proxy says of its class
    if issubclass(cls, str):
        return _text(value, path, queue)
    if issubclass(cls, int):
        return _integer(value, path, queue)
    if issubclass(cls, float):
        return _number(value, path, queue)
    if issubclass(cls, dict):
        return _plain_object(value, path, queue, depth)
    if issubclass(cls, (list, tuple)):
        if depth > MAX_DEPTH:
            _plain_object({}, path, queue, depth)
        return [_plain(item, f"{path}[{at}]", queue, depth + 1) for at, item in enumerate(value)]
    raise PayloadError(
        f"{path} is {_describe(value)}, which is not JSON; use str, int, float, bool, None, list or dict"
        f"{_advice(value)}",
        path=path,
        queue=queue,
    )


def _text(value: str, path: str, queue: str | None) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise PayloadError(
            f"{path} holds a lone surrogate at character {error.start}, which UTF-8 cannot carry; "
            'decode its source with errors="replace"',
            path=path,
            queue=queue,
        ) from None
    return value if value.__class__ is str else str.__str__(value)


def _integer(value: int, path: str, queue: str | None) -> int:
    if not -(2**63) <= value < 2**64:
        raise PayloadError(f"{path} is an integer beyond 64 bits; send it as a str", path=path, queue=queue)
    return int(value)


def _number(value: float, path: str, queue: str | None) -> float:
    if not math.isfinite(value):
        raise PayloadError(
            f"{path} is {value!r}, which JSON cannot carry; send None or a str", path=path, queue=queue
        )
    return float(value)


def _advice(value: Any) -> str:
    from neoq.remedies import of_value  # where something is refused, and no sooner

    return f" ({_describe(value)}: send {of_value(value)})"


def _wrapped(value: Any) -> str:
    if issubclass(type(value), (str, int, float, list, tuple)):
        return ': {"name": ...}'
    return _advice(value)


def _as_key(key: Any) -> str:
    if key is None or issubclass(type(key), (tuple, bytes)):
        return ""
    return ": str(key)" if not issubclass(type(key), enum.Enum) else ": key.value or key.name"


def _describe(value: Any) -> str:
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeio' else 'a'} {name}"


def to_datetime(epoch: float | None) -> datetime | None:
    """Seconds since the epoch as an aware datetime in UTC; the end of the calendar for what lies beyond."""
    if epoch is None:
        return None
    try:
        return datetime.fromtimestamp(epoch, UTC)
    except (ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(within_calendar(epoch), UTC)


def within_calendar(epoch: float) -> float:
    """A time that a datetime can hold: somebody may have parked a job until infinity."""
    if isinstance(epoch, float) and math.isnan(
        epoch
    ):  # no number, which PostgreSQL takes for later than all others
        return _LATEST
    return float(min(max(epoch, _EARLIEST), _LATEST))


def epoch_or_span(name: str, when: When) -> Asked:
    """A point in time as (seconds since the epoch, None), a span as (None, seconds)."""
    if not isinstance(when, datetime):
        return None, to_seconds(name, when)
    if when.utcoffset() is None:
        raise InvalidJobError(
            f"{name} is the naive datetime {when!r}; give it a timezone: "
            "datetime.now(timezone.utc) + ..., or .replace(tzinfo=zoneinfo.ZoneInfo('Europe/Paris'))"
        )
    try:
        at = when.timestamp()
    except OverflowError:
        at = math.inf
    if not _EARLIEST <= at <= _LATEST:
        raise InvalidJobError(f"{name} is {when!r}, at the very end of the calendar")
    return at, None


def add_span(name: str, now: float, span: float) -> float:
    """``now`` plus a span in seconds, where that is a time that a datetime can hold."""
    if not 0 <= now + span <= _LATEST:
        raise InvalidJobError(f"{name} is {span!r} seconds from now, outside the years 1970 to 9999")
    return now + span


def to_seconds(name: str, span: timedelta | float) -> float:
    """A timedelta, or a number of seconds, as a finite float."""
    if isinstance(span, timedelta):
        return span.total_seconds()
    try:
        if not isinstance(span, bool) and isinstance(span, (int, float)) and math.isfinite(span):
            return float(span)
    except OverflowError:  # an int beyond all floats
        raise InvalidJobError(f"{name} is more seconds than a calendar has") from None
    raise InvalidJobError(
        f"{name} is {span!r}; it takes a timedelta, a number of seconds, or where it is a point in time an "
        "aware datetime"
    )


def latest(at: float) -> float:
    """A point in time, or the end of the calendar where it lies beyond."""
    return min(at, _LATEST)


def check_queue(queue: Any) -> None:
    """Refuse what is no queue name: 1 to 200 printable characters."""
    if type(queue) is str and queue in _known_queues:
        return
    if callable(queue):
        raise InvalidJobError(
            'the queue is a function; a decorator needs its queue: @backend.listen("emails")'
        )
    if not isinstance(queue, str) or not queue.strip():
        raise InvalidJobError(f'the queue is {queue!r}; it takes a name such as "emails"')
    if len(queue) > 200 or not queue.isprintable():
        raise InvalidJobError(f"the queue is {queue[:40]!r}...; a name has 1 to 200 printable characters")
    if len(_known_queues) < _MAX_KNOWN:
        _known_queues.add(queue)


def checked_id(job_id: Any) -> int:
    """The id that some call was given; one that no store gives out is merely unknown."""
    if isinstance(job_id, bool) or not isinstance(job_id, int):
        raise InvalidJobError(f"the id of a job is {job_id!r:.80}; it takes an int, which job.id is")
    return max(-_LAST_ID, min(job_id, _LAST_ID))


def refuse_unknown(call: str, options: Mapping[str, Any]) -> None:
    """Raise TypeError for the first option that jobs do not have, with what to write in its place."""
    for name in options:
        if name not in JobOptions.__annotations__:
            from neoq.remedies import of_enqueue  # where something is refused, and no sooner

            remedy = of_enqueue(name, JobOptions.__annotations__)
            raise TypeError(f"{call}() does not know {name}; {remedy}") from None


def _checked_int(name: str, value: Any, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidJobError(f"{name} is {value!r}; it takes an int from {low} to {high}")
    return value


def _checked_timeout(timeout: Any) -> float:
    seconds = to_seconds("timeout", timeout)
    if not _LEAST_TIMEOUT <= seconds <= _LATEST:
        raise InvalidJobError(
            f"timeout is {timeout!r}; it takes seconds (or a timedelta) >= {_LEAST_TIMEOUT}"
        )
    return seconds


def _checked_text(name: str, value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= 1000 or not value.isprintable():
        raise InvalidJobError(f"{name} is {value!r:.80}; it takes 1 to 1,000 printable characters")
    return value


def _checked_choice(name: str, value: Any, choices: tuple[Any, ...]) -> Any:
    for choice in choices:
        if value is choice or (isinstance(value, str) and value == choice):
            return choice
    raise InvalidJobError(f"{name} is {value!r}; it takes {' or '.join(map(repr, choices))}")


def _checked_fraction(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise InvalidJobError(f"progress is {value!r}; it takes a number from 0.0 to 1.0")
    return float(value)


def _check_size_of_meta(meta: Mapping[str, str], limit: int, queue: str) -> None:
    size = sum(len(text.encode("utf-8", "surrogatepass")) for item in meta.items() for text in item)
    if size > limit:
        raise PayloadError(
            f"the meta for queue {queue!r} is {size:,} bytes, more than max_payload ({limit:,}): "
            "it is for a few words, so store the bulk elsewhere",
            path="meta",
            queue=queue,
        )


def _checked_meta(meta: Any) -> Mapping[str, str]:
    if not isinstance(meta, Mapping):
        raise InvalidJobError(f"meta is {meta!r:.80}; it takes a dict of str to str")
    for key, value in meta.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise InvalidJobError(f"meta[{key!r}] is {value!r:.80}; keys and values of meta are str")
        _text(key, "a key of meta", None)
        _text(value, f"meta[{key!r}]", None)
    return dict(meta)


class DuplicateJobError(NeoqError):
    """An unfinished job has that fingerprint; ``job`` is the one already there."""

    def __init__(self, message: str, *, job: Job) -> None:
        super().__init__(message, queue=job.queue, job_id=job.id)
        self.job = job
