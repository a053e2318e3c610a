"""What a store keeps of a job, read whatever it holds: a record that nobody can read is a job all the same.

The stores read their records in a quick way of their own, which knows what they write themselves. Where that
fails, `read` goes through the record field by field. What it cannot make sense of makes the job unreadable:
it has its id and its queue, ``error`` says which field held what, and it can be looked at and deleted like
any other. A worker that has claimed such a job does not run it: `unreadable_end` is how it ends.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson

from neoq.audit import AuditEntry
from neoq.job import Job, blank
from neoq.outcome import Failure, Outcome, lease_of
from neoq.payload import is_coded
from neoq.record import Status, Unique
from neoq.store import QueueCounts, ThreadInfo, WorkerInfo
from neoq.times import to_datetime, within_calendar
from neoq.wording.safe_logger import SafeLogger

STATUSES = (
    Status.PENDING,
    Status.RETRYING,
    Status.RUNNING,
    Status.SUCCEEDED,
    Status.DEAD,
    Status.CANCELLED,
)
STATUS_OF = dict(enumerate(STATUSES))
NUMBER = {status: number for number, status in STATUS_OF.items()}
UNIQUENESS: dict[int, Unique] = {0: False, 1: True, 2: "until_started"}
UNIQUENESS_NUMBER = {unique: number for number, unique in UNIQUENESS.items()}
LAST_RETRY, LAST_CRASH = 2**31 - 2, 2**15 - 2  # that every store can count up once more
_LAST_INT = 2**31 - 1
COUNTED = ("ready", "scheduled", "retrying", "running", "succeeded", "dead", "cancelled")  # of QueueCounts
COUNTED_IN_ROWS = (*COUNTED, "held")
HELD = COUNTED_IN_ROWS.index("held")
SHOWN = 60  # characters of what a field held
SHOWN_IN_ALL = 500
_ONLY_TEXTS = frozenset({str})
_META = "a JSON object of texts"
_OWN = frozenset({"timeout", "scheduled"})  # numbers that are kept with meta
_MOST_OWN = 1e12
REMEMBERED = 10_000  # jobs that were logged


class Unreadable(ValueError):
    """A field holds what no job has."""


def read(fields: Mapping[str, Any], *, problems: Sequence[str] = ()) -> Job:
    """The job that a record describes; it never raises for what the record holds.

    ``fields`` has what the store keeps, by these names: id, queue, status and uniqueness (their numbers in
    `STATUSES` and `UNIQUENESS`), priority, retries, max_retries, crashes, run_after, created_at, deadline,
    ran_at, finished_at, fingerprint, kind, key, group, uid, meta, payload, result, error, traceback,
    attempts, progress, progress_text, token, worker, cancel, waits. What is left out is as in a new job; a
    payload or result that is left out is kept elsewhere. ``problems`` are those that the store has found.
    """
    reader = _Reader(fields, problems)
    job = blank(reader.get("queue", _name, "") or "")
    job.id = fields["id"]
    job.special = True
    job.status = reader.get("status", _status, Status.DEAD)
    job.unique = reader.get("uniqueness", _unique, True)
    job.priority = reader.get("priority", _priority, 0)
    job.retries = reader.get("retries", lambda value: _integer(value, 0, LAST_RETRY), 0)
    job.crashes = reader.get("crashes", lambda value: _integer(value, 0, LAST_CRASH), 0)
    job.max_retries = reader.get("max_retries", _or_none(_count), None)
    # A claim that has no time to go by would wait for ever.
    job.created = reader.get("created_at", _time, 0.0)
    job.due = reader.get("run_after", _time, job.created)
    job.expires = reader.get("deadline", _or_none(_time), None)
    job.started = reader.get("ran_at", _or_none(_time), None)
    job.finished_on = reader.get("finished_at", _or_none(_time), None)
    job.own_fingerprint = reader.get("fingerprint", _or_none(_text), None)
    for name in ("kind", "key", "group", "uid"):
        setattr(job, name, reader.get(name, _or_none(_text), None))
    reader.get("meta", lambda value: _read_meta(job, value), None)
    if "payload" in fields:
        job.body = reader.get("payload", _payload, b"")
    job.result_body = reader.get("result", _result, None)
    _read_passing(job, fields)
    _mark(job, reader.problems)
    return job


def _read_passing(job: Job, fields: Mapping[str, Any]) -> None:
    """What says how the job fares, and not what it is: where it cannot be read it is left out."""
    job.error = _shown(fields.get("error"))
    job.traceback = _shown(fields.get("traceback"))
    job.worker = _shown(fields.get("worker"))
    attempts = fields.get("attempts")
    job.failed_attempts = bytes(attempts) if isinstance(attempts, (bytes, memoryview)) else None
    token = fields.get("token")
    job.token = token if type(token) is int else 0
    job.cancel_asked = bool(fields.get("cancel"))
    job.waits = bool(fields.get("waits"))
    fraction, words = fields.get("progress"), fields.get("progress_text")
    if isinstance(fraction, (int, float)) and 0 <= fraction <= 1:
        job.progress_report = (float(fraction), _shown(words) or "")


def _mark(job: Job, problems: Sequence[str]) -> None:
    if problems:
        job.unreadable = "; ".join(problems)[:SHOWN_IN_ALL]
        job.error = f"Unreadable: {job.unreadable}"


def mark_unreadable(job: Job, problem: str) -> Job:
    """Say of a job that one more part of it cannot be read."""
    before = [] if job.unreadable is None else [job.unreadable]
    _mark(job, [*before, problem])
    return job


def unreadable(job: Job) -> str | None:
    """What could not be read of a job; None for one that is whole."""
    return job.unreadable


def unreadable_end(job: Job, now: float) -> Outcome:
    """How a job ends that was claimed and cannot be read."""
    failure = Failure("Unreadable", job.unreadable or "", "")
    return Outcome(lease_of(job), Status.DEAD, finished_at=now, failure=failure)


class Reported:
    """Logs each unreadable job that has ended, once."""

    def __init__(self, log: SafeLogger) -> None:
        self._log = log
        self._told: OrderedDict[int, None] = OrderedDict()

    def tell(self, job: Job) -> None:
        """Log that a job is dead because it cannot be read."""
        if job.id in self._told:
            return
        self._told[job.id] = None
        while len(self._told) > REMEMBERED:
            self._told.popitem(last=False)
        self._log.error(
            "job %s of %s is dead, for it cannot be read: %s; look at what wrote it, and delete it",
            job.id,
            job.queue,
            job.unreadable,
        )


def payload_of(data: Any) -> Any:
    """A stored payload, None for a coded one; raises Unreadable or ValueError where it is no JSON object."""
    payload: Any
    try:
        payload = orjson.loads(data)
    except ValueError:
        if is_coded(bytes(data)):
            return None  # whoever has the codec reads it
        raise
    if payload.__class__ is not dict:
        raise Unreadable("a JSON object")
    return payload


def kept_meta(job: Job) -> Any:
    """What is kept as a job's meta; None for nothing.

    That is an object of texts, or where the job has options of its own that no store looks at a list of that
    object and one of these.
    """
    own = {name: value for name in _OWN if (value := getattr(job, name)) is not None}
    if own:
        return [dict(job.meta), own]
    return dict(job.meta) if job.meta else None


def encoded_meta(job: Job) -> bytes | None:
    """`kept_meta` as JSON."""
    meta = kept_meta(job)
    return None if meta is None else orjson.dumps(meta)


def take_meta(job: Job, meta: Any) -> None:
    """Take over what was kept as a job's meta; raises Unreadable for anything else."""
    own: Any = None
    if meta.__class__ is list and len(meta) == 2:
        meta, own = meta
        if own.__class__ is not dict or not own.keys() <= _OWN:
            raise Unreadable(_META)
        for name, value in own.items():
            if type(value) not in {int, float} or not -_MOST_OWN < value < _MOST_OWN:
                raise Unreadable(_META)
            setattr(job, name, float(value))
    if meta.__class__ is not dict or not _ONLY_TEXTS.issuperset(map(type, meta.values())):
        raise Unreadable(_META)
    if meta or own is None:
        job.meta = meta


def check_numbers(job: Job) -> None:
    """Raise Unreadable where a number of a job is none that we write."""
    counts = 0 <= job.retries <= LAST_RETRY and 0 <= job.crashes <= LAST_CRASH
    if not counts or not -100 <= job.priority <= 100:
        raise Unreadable
    if job.max_retries is not None and not 0 <= job.max_retries <= _LAST_INT:
        raise Unreadable


def counts_of(
    rows: Iterable[tuple[str, int, int, Any]], paused: Mapping[str, bool], counted_at: float | None = None
) -> list[QueueCounts]:
    """Counts of each queue from (queue, place in `COUNTED_IN_ROWS`, number, time); a place may come twice.

    The time is when the oldest ready job became due, or the longest running one was started; else None.
    ``paused`` has queues that are there without jobs, too. A row that no store has written is left out.
    """
    numbers: dict[str, dict[str, Any]] = {queue: {} for queue in paused}
    oldest: dict[tuple[str, str], float] = {}
    for queue, place, number, time in rows:
        if type(queue) is str and type(place) is type(number) is int and 0 <= place <= HELD:
            of_queue, name = numbers.setdefault(queue, {}), COUNTED_IN_ROWS[place]
            of_queue[name] = of_queue.get(name, 0) + number
            if (at := number_in(time)) is not None:
                oldest[queue, name] = min(at, oldest.get((queue, name), at))
    return [
        QueueCounts(
            queue,
            paused=paused.get(queue, False),
            oldest_due=to_datetime(oldest.get((queue, "ready"))),
            oldest_started=to_datetime(oldest.get((queue, "running"))),
            counted_at=to_datetime(counted_at),
            **{field: max(0, number) for field, number in numbers[queue].items()},
        )
        for queue in sorted(numbers)
    ]


def number_in(value: Any, low: float = -math.inf, high: float = math.inf) -> float | None:
    """A number of a bookkeeping row, kept between two others; None where it is none."""
    if type(value) not in {int, float} or (type(value) is float and math.isnan(value)):
        return None
    return float(min(max(value, low), high))


def numbers_in(value: Any) -> list[float]:
    """The numbers of a bookkeeping row, in JSON; none where it is anything else."""
    try:
        told = orjson.loads(value)
    except (TypeError, ValueError):
        return []
    numbers = list(map(number_in, told)) if isinstance(told, list) else []
    return [number for number in numbers if number is not None] if None not in numbers else []


def texts_in(value: Any) -> tuple[str, ...]:
    """The texts of a bookkeeping row: a list, or its JSON; what is no text is left out."""
    if isinstance(value, (str, bytes)):
        try:
            value = orjson.loads(value)
        except ValueError:
            return ()
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, (list, tuple)) else ()


def kinds_in(value: Any, queues: Iterable[str]) -> dict[str, tuple[str, ...] | None]:
    """The kinds that a worker runs in each of its queues, from a bookkeeping row; None where that is any."""
    told = value
    if isinstance(value, (str, bytes)):
        try:
            told = orjson.loads(value)
        except ValueError:
            told = None
    if not isinstance(told, dict):
        told = {}
    return {queue: texts_in(told[queue]) if isinstance(told.get(queue), list) else None for queue in queues}


def restricted(worker: WorkerInfo) -> dict[str, tuple[str, ...]]:
    """What a worker says of the kinds that it runs, to be stored: only of queues where that is not any."""
    return {queue: kinds for queue, kinds in worker.kinds.items() if kinds is not None}


def report_of(worker: WorkerInfo) -> bytes:
    """What a worker says of its threads and its memory, as JSON: a few bytes for each thread."""
    places = {queue: place for place, queue in enumerate(worker.queues)}
    threads: list[list[Any]] = []
    for one in worker.threads:
        since = None if one.since is None else int(one.since.timestamp() * 1000) / 1000
        told = [places.get(one.queue, one.queue), one.job_id, since, one.kind, int(one.abandoned)]
        while told[-1] in {None, 0} and len(told) > 1:
            told.pop()
        threads.append(told)
    return orjson.dumps({"t": threads, "m": worker.memory, "a": worker.abandoned})


def reported(worker: WorkerInfo, report: Any) -> WorkerInfo:
    """A worker with what `report_of` told of it; what cannot be read of that is left out."""
    try:
        told: Any = orjson.loads(report) if isinstance(report, (str, bytes)) else report
        listed = told["t"]
    except (ValueError, LookupError, TypeError):
        return worker
    threads = [_thread(one, worker.queues) for one in (listed if isinstance(listed, list) else ())]
    memory, abandoned = (number_in(told.get(name), 0, 2**53) for name in "ma")
    return replace(
        worker,
        threads=tuple(one for one in threads if one is not None),
        memory=None if memory is None else int(memory),
        abandoned=int(abandoned or 0),
    )


def _thread(told: Any, queues: Sequence[str]) -> ThreadInfo | None:
    try:
        queue, job_id, since, kind, abandoned = [*told, *[None] * 4][:5]
        queue = queues[queue] if type(queue) is int else queue
    except (TypeError, ValueError, LookupError):
        return None
    return ThreadInfo(
        queue if isinstance(queue, str) else "",
        job_id if type(job_id) is int else None,
        kind if isinstance(kind, str) else None,
        to_datetime(number_in(since)),
        bool(abandoned),
    )


def ticked_in(job_id: Any, skipped: Any) -> tuple[int | None, int]:
    """The job of the last tick and the number of those that were skipped, from a bookkeeping row."""
    number = number_in(skipped, 0, 2**53)
    return job_id if type(job_id) is int else None, int(number or 0)


def entries_in(rows: Iterable[Sequence[Any]]) -> list[AuditEntry]:
    """Entries of the audit from rows in the order of their fields; what is none is left out."""
    found = []
    for row in rows:
        name, at, user, via, action, count, queue, what = row
        moment = to_datetime(number_in(at))
        texts = (user, via, action, what)
        if moment is None or type(name) is not int or type(count) is not int:
            continue
        if all(isinstance(text, str) for text in texts) and (queue is None or isinstance(queue, str)):
            found.append(AuditEntry(name, moment, user, via, action, count, queue, what))
    return found


def shown(value: Any) -> str:
    """What a field held, in a few characters."""
    if isinstance(value, memoryview):
        value = bytes(value[: SHOWN + 1])
    if isinstance(value, (str, bytes)) and len(value) > SHOWN:
        return f"{value[:SHOWN]!r}..."
    try:
        text = repr(value)
    except Exception:  # an int of too many digits, or whatever a driver makes of a value
        return f"{_article(type(value).__name__)} that cannot be shown"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _article(name: str) -> str:
    return f"{'an' if name[:1].lower() in 'aeio' else 'a'} {name}"


class _Reader:
    """Reads one record, and remembers what it could not read."""

    def __init__(self, fields: Mapping[str, Any], problems: Sequence[str]) -> None:
        self._fields = fields
        self.problems = list(problems)

    def get(self, name: str, reads: Any, otherwise: Any) -> Any:
        """A field; ``otherwise`` where it is left out or cannot be read."""
        if name not in self._fields:
            return otherwise
        value = self._fields[name]
        try:
            return reads(value)
        except Unreadable as wrong:
            self.problems.append(f"{name} holds {shown(value)}, which is not {wrong}")
            return _shown(value) if reads is _name else otherwise


def _status(value: Any) -> Status:
    if type(value) is not int or not 0 <= value < len(STATUSES):
        raise Unreadable(f"the number of a status, 0 to {len(STATUSES) - 1}")
    return STATUSES[value]


def _unique(value: Any) -> Unique:
    if type(value) is not int or value not in UNIQUENESS:
        raise Unreadable("the number of a uniqueness, 0 to 2")
    return UNIQUENESS[value]


def _integer(value: Any, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise Unreadable(f"an integer from {low} to {high}")
    return value


def _priority(value: Any) -> int:
    return _integer(value, -100, 100)


def _count(value: Any) -> int:
    return _integer(value, 0, _LAST_INT)


def _time(value: Any) -> float:
    if type(value) in {str, bytes}:
        try:
            value = float(value)
        except ValueError:
            raise Unreadable("a time in seconds") from None
    if type(value) not in {int, float}:
        raise Unreadable("a time in seconds")
    return within_calendar(value)


def _text(value: Any) -> str:
    if isinstance(value, memoryview):
        value = bytes(value)
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            pass
    if not isinstance(value, str):
        raise Unreadable("a text")
    return value


def _name(value: Any) -> str:
    if not (name := _text(value)):
        raise Unreadable("the name of a queue")
    return name


def _bytes(value: Any, what: str) -> bytes:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    if not isinstance(value, (bytes, bytearray, memoryview)):
        raise Unreadable(what)
    return bytes(value)


def _json(data: bytes, what: str) -> Any:
    try:
        return orjson.loads(data)
    except ValueError:
        raise Unreadable(what) from None


def _payload(value: Any) -> bytes:
    data = _bytes(value, "a JSON object")
    if is_coded(data):
        return data
    if not isinstance(_json(data, "a JSON object"), dict):
        raise Unreadable("a JSON object")
    return data


def _result(value: Any) -> bytes | None:
    if value is None:
        return None
    data = _bytes(value, "JSON")
    if not is_coded(data):
        _json(data, "JSON")
    return data


def _read_meta(job: Job, value: Any) -> None:
    if value is not None:
        take_meta(job, value if isinstance(value, (dict, list)) else _json(_bytes(value, _META), _META))


def _or_none(reads: Any) -> Any:
    return lambda value: None if value is None else reads(value)


def _shown(value: Any) -> str | None:
    """A text for people to read, whatever it is."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, memoryview):
        value = bytes(value)
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else shown(value)
