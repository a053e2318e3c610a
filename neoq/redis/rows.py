"""Jobs as Redis keeps them: a record of what a job is, and JSON of what has become of it.

``lua/job.lua`` describes both; what follows the two times in a record is for this file alone.
"""

from __future__ import annotations

import functools
import re
import struct
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from neoq.held.group import group_in
from neoq.held.step import Step
from neoq.job import Job, blank
from neoq.outcome import Outcome
from neoq.payload import CODEC, fingerprint
from neoq.record import FINISHED, Held, Status, Unique
from neoq.stored import NUMBER, STATUSES, Unreadable, kept_meta, read, shown, take_meta
from neoq.times import within_calendar

MAX_INLINE = 2048  # bytes of a payload that are kept in the record, which scripts read as a whole
_UNIQUENESS: dict[Unique, int] = {False: 48, True: 49, "until_started": 50}
_UNIQUE: dict[int, Unique] = {48: False, 49: True, 50: "until_started"}
_APART = 3  # added to the uniqueness where the payload is kept apart
_BAD = (ValueError, LookupError, TypeError, AttributeError, OverflowError, struct.error)
_HOLD = (49, 52)  # unique until their end
_USUAL = b"1c100" + b"0032" + b"0000" * 3  # how most records begin: no kind, no key, no group
_is_usual = re.compile(_USUAL + b".{32}", re.DOTALL).match
# The life of a job that came out of its line and was never settled, as `turned_at` has it.
_has_turn = re.compile(rb'\{"s":0,"at":"([0-9]{1,11}\.[0-9]{6})"\}').fullmatch
_group_name = re.compile(rb"[1-9][0-9]*/[0-9]+/").match
_HEAD = 21  # bytes before the texts of a record
_USUAL_HEAD = _HEAD + 32
_FAR = 2.0**37  # a time that is within the calendar, as nearly all are
_TAIL = struct.Struct("<ddBI")  # created at, run after, codec, length of the JSON before the payload
_LEVEL = 2**45  # due times of one priority in the order of ready jobs, in eighths of a millisecond


def record_of(job: Job) -> tuple[bytes, bytes | None, bytes | None]:
    """A job's record, the fingerprint that it is to hold, and its payload where that is kept apart."""
    data = job.body
    assert data is not None
    large = len(data) > MAX_INLINE
    if not job.special and not large and job.kind is None and job.group is None:
        print_ = fingerprint(job.queue, data).encode()
        tail = _TAIL.pack(job.created, job.due, CODEC, 0)
        return b"%b%b%b%b" % (_USUAL, print_, tail, data), print_, None
    extra = _extra_of(job)
    own = job.own_fingerprint is not None
    if not (large or own or extra or job.unique):
        head = _head_of(job.priority, job.kind, job.key, job.group)
        return b"%b%b%b" % (head, _TAIL.pack(job.created, job.due, CODEC, 0), data), None, None
    print_ = job.fingerprint.encode() if own or job.unique else b""
    kind, key, group = ((text or "").encode() for text in (job.kind, job.key, job.group))
    record = b"%c%b%03d%04d%04d%04d%04d%b%b%b%b%b%b%b" % (
        *(_UNIQUENESS[job.unique] + _APART * large, b"o" if own else b"c", 100 - job.priority),
        *(len(print_), len(kind), len(key), len(group), print_, kind, key, group),
        *(_TAIL.pack(job.created, job.due, CODEC, len(extra)), extra, b"" if large else data),
    )
    return record, print_ if job.unique else None, data if large else None


@functools.lru_cache(maxsize=1000)
def _head_of(priority: int, kind: str | None, key: str | None, group: str | None) -> bytes:
    """How the records of jobs that are not unique begin: those of a batch or of a key have the same."""
    of_kind, of_key, of_group = ((text or "").encode() for text in (kind, key, group))
    lengths = b"%04d%04d%04d" % (len(of_kind), len(of_key), len(of_group))
    return b"0c%03d0000%b%b%b%b" % (100 - priority, lengths, of_kind, of_key, of_group)


def score_of(priority: int, run_after: float) -> int:
    """The place of a ready job: by priority, then by when it was due. It agrees with ``lua/job.lua``."""
    ticks = int(run_after * 8000)
    if not 0 <= ticks < _LEVEL:
        ticks = 0 if ticks < 0 else _LEVEL - 1
    return (100 - priority) * _LEVEL + ticks


def ready_since(score: bytes) -> float:
    """When a ready job became due, or had its turn, by its score: to an eighth of a millisecond."""
    return float(score) % _LEVEL / 8000


def _extra_of(job: Job) -> bytes:
    meta = kept_meta(job)
    if job.expires is None and job.max_retries is None and job.uid is None and meta is None:
        return b""
    extra: dict[str, Any] = {}
    if job.expires is not None:
        extra["deadline"] = job.expires
    if job.max_retries is not None:
        extra["max_retries"] = job.max_retries
    if job.uid is not None:
        extra["uid"] = job.uid
    if meta is not None:
        extra["meta"] = meta
    return orjson.dumps(extra)


def job_of(id_of_job: int, queue: str, record: bytes, life: bytes | None) -> Job:
    """The job that a record describes, with what its settled attempts have made of it.

    Its payload is missing where that is kept apart. Where another hand has written, what cannot be read makes
    the job unreadable.
    """
    try:
        return _job_of(id_of_job, queue, record, life)
    except _BAD:
        return _in_parts(id_of_job, queue, record, life)


def may_have(record: bytes, parts: list[list[bytes]]) -> bool:
    """Whether the payload of a record may have one of each of these parts; one that is kept apart may."""
    return record[:1] > b"2" or all(any(part in record for part in ones) for ones in parts)


def _job_of(id_of_job: int, queue: str, record: bytes, life: bytes | None) -> Job:
    """As `job_of`, in a hurry; raises where something is not as we write it."""
    job = blank(queue)
    job.id = id_of_job
    job.special = True
    large = record[0] > 50
    at = _USUAL_HEAD if _is_usual(record) else _read_head(job, record, large)
    created_at, run_after, _, length = _TAIL.unpack_from(record, at)
    if not (0.0 <= created_at < _FAR and 0.0 <= run_after < _FAR):
        created_at, run_after = within_calendar(created_at), within_calendar(run_after)
    job.created, job.due = created_at, run_after
    at += _TAIL.size
    if length:
        _read_extra(job, orjson.loads(record[at : at + length]))
        at += length
    job.body = None if large else record[at:]
    if life is not None:
        if turned := _has_turn(life):
            job.due = float(turned[1])
        else:
            _read_life(job, orjson.loads(life))
    return job


def _read_head(job: Job, record: bytes, large: bool) -> int:
    """What stands before the times of a record; returns where they are."""
    print_, kind, key, group, at = _texts_of(record)
    if record[1] == 111:  # o
        job.own_fingerprint = print_.decode()
    elif record[1] != 99:
        raise Unreadable
    if record[0] != 49:
        job.unique = _UNIQUE[record[0] - _APART * large]
    job.priority = 100 - _digits(record[2:5])
    if not -100 <= job.priority <= 100:
        raise Unreadable
    if kind:
        job.kind = kind.decode()
    if key:
        job.key = key.decode()
    if group:
        job.group = group.decode()
        job.counted = True
    return at


def group_name_of(record: bytes) -> bytes | None:
    """The name of the group that a job belongs to."""
    if record[17:_HEAD] == b"0000":
        return None
    try:
        found = _group_name(_texts_of(record)[3])
    except _BAD:
        return None
    return None if found is None else found[0]


def group_names_of(records: Iterable[bytes]) -> list[bytes]:
    """The name of the group of each job, b"" for none."""
    names: list[bytes] = []
    start, name = b"", b""  # what has the same start, up to its group, is of the same one
    for record in records:
        if record[17:_HEAD] == b"0000":
            names.append(b"")
            continue
        if not (start and record.startswith(start)):
            name = group_name_of(record) or b""
            start = record[: _texts_of(record)[4]] if name else b""
        names.append(name)
    return names


def _texts_of(record: bytes) -> tuple[bytes, bytes, bytes, bytes, int]:
    """Fingerprint, kind, key and group of a record, and where its times are."""
    head = record[5:_HEAD]
    if len(head) != 16 or not head.isdigit():
        raise Unreadable
    kind = _HEAD + int(head[:4])
    key = kind + int(head[4:8])
    group = key + int(head[8:12])
    end = group + int(head[12:])
    return record[_HEAD:kind], record[kind:key], record[key:group], record[group:end], end


def _digits(text: bytes) -> int:
    if not text.isdigit():
        raise Unreadable
    return int(text)


def _in_parts(id_of_job: int, queue: str, record: bytes, life: bytes | None) -> Job:
    """As `job_of`, part by part."""
    fields: dict[str, Any] = {"id": id_of_job, "queue": queue}
    problems: list[str] = []
    try:
        fields |= _fields_of_record(record)
    except _BAD:
        problems.append(f"its record holds {shown(record)}, which is no job's")
    try:
        fields |= _fields_of_life({"s": 0} if life is None else orjson.loads(life))
    except _BAD:
        problems.append(f"its life holds {shown(life)}, which is no JSON object")
    large = fields.pop("apart", False)
    job = read(fields, problems=problems)
    job.status = _status_in(fields.get("status"))
    if not large and job.body is None:
        job.body = b""
    return job


def _status_in(value: Any) -> Status:
    """The status that the scripts go by: a job waits where its life does not tell another."""
    try:
        return STATUSES[_count(float(value))] if value.__class__ is not bool else Status.PENDING
    except _BAD:
        return Status.PENDING


def _fields_of_record(record: bytes) -> dict[str, Any]:
    """What a record holds, as `stored.read` calls it."""
    print_, kind, key, group, at = _texts_of(record)
    created_at, run_after, _, length = _TAIL.unpack_from(record, at)
    at += _TAIL.size
    number = record[0] - 48
    fields = {
        "uniqueness": number % _APART if 0 <= number < 2 * _APART else number,
        "priority": 100 - _digits(record[2:5]),
        "fingerprint": print_ if record[1:2] == b"o" else None,
        "kind": kind or None,
        "key": key or None,
        "group": group or None,
        "created_at": created_at,
        "run_after": run_after,
    }
    extra = orjson.loads(record[at : at + length]) if length else {}
    fields |= {name: extra[name] for name in _EXTRA if name in extra}
    fields["apart"] = _APART <= number < 2 * _APART
    if not fields["apart"]:
        fields["payload"] = record[at + length :]
    return fields


def _fields_of_life(life: Mapping[str, Any]) -> dict[str, Any]:
    """What has become of a job, as `stored.read` calls it."""
    fields = {name: life[short] for short, name in _LIFE.items() if short in life}
    if life.get("nodl"):
        fields["deadline"] = None
    if isinstance(attempts := life.get("ats"), str):
        fields["attempts"] = attempts.encode()
    if "pf" in life:
        fields |= {"progress": float(life["pf"]), "progress_text": life.get("pt")}
    return fields


_HELD: dict[Any, Held] = {"batch": "batch", "children": "children", "signal": "signal"}
_EXTRA = ("deadline", "max_retries", "uid", "meta")
_LIFE = {
    "s": "status",
    "n": "retries",
    "c": "crashes",
    "err": "error",
    "tb": "traceback",
    "at": "run_after",
    "ran": "ran_at",
    "fin": "finished_at",
}


def held_by(record: bytes) -> bytes:
    """The fingerprint that a job holds until its end; b"" for none."""
    if record.startswith(_USUAL):
        return record[_HEAD:_USUAL_HEAD]
    return record[_HEAD : _HEAD + int(record[5:9])] if record[0] in _HOLD else b""


def _read_extra(job: Job, extra: dict[str, Any]) -> None:
    deadline, job.max_retries = extra.get("deadline"), extra.get("max_retries")
    if deadline is not None:
        job.expires = within_calendar(deadline)
    if job.max_retries is not None and not (type(job.max_retries) is int and 0 <= job.max_retries < 2**31):
        raise Unreadable
    job.uid = extra.get("uid")
    if job.uid is not None and type(job.uid) is not str:
        raise Unreadable
    if "meta" in extra:
        take_meta(job, extra["meta"])


def mark_held(job: Job, life: bytes | None) -> None:
    """Say of a job that is held what it waits for, as its life has it."""
    try:
        job.held = _HELD.get(orjson.loads(life or b"{}").get("h"))
    except _BAD:
        job.held = None


def _read_life(job: Job, life: dict[str, Any]) -> None:
    job.status = STATUSES[_count(life["s"])]
    if "r" in life:
        job.holds, job.counted = _count(life["r"]), True
    job.retries = _count(life.get("n", 0))
    job.crashes = _count(life.get("c", 0))
    job.error, job.traceback = life.get("err"), life.get("tb")
    if not isinstance(job.error, (str, type(None))) or not isinstance(job.traceback, (str, type(None))):
        raise Unreadable
    if type(attempts := life.get("ats")) is str:
        job.failed_attempts = attempts.encode()
    if "at" in life:
        job.due = within_calendar(float(life["at"]))
    if "ran" in life:
        job.started = within_calendar(float(life["ran"]))
    if "fin" in life:
        job.finished_on = within_calendar(float(life["fin"]))
    if life.get("nodl"):
        job.expires = None
    if "pf" in life:
        job.progress_report = (float(life["pf"]), str(life["pt"]))


def _count(value: Any) -> int:
    if type(value) not in {int, float} or not 0 <= value < 2**31 - 1 or value % 1:
        raise Unreadable
    return int(value)


def lease_name(stored: int, token: int, worker: str) -> str:
    """What a lease is called: a settle of the job has to name it."""
    return f"{stored}:{token}:{worker}"


def read_lease(job: Job, lease: bytes) -> None:
    """Take over from a lease when the job was claimed: its token is that microsecond."""
    job.status = Status.RUNNING
    _, token, worker = lease.decode(errors="replace").split(":")
    if not token.isdecimal() or len(token) > 19:
        return
    job.token = int(token)
    job.started = int(token) / 1e6
    job.finished_on = None
    job.progress_report = None
    job.worker = worker


def has_held(life: bytes | None) -> bool:
    """Whether a job has been held for others or for a signal, or may have been: its life cannot be read."""
    if life is None or _has_turn(life):
        return False
    try:
        return not orjson.loads(life).keys().isdisjoint({"r", "h", "aw"})
    except _BAD:
        return True


def turned_at(time: float, life: bytes | None) -> bytes | None:
    """The life of a job that had its turn at a time."""
    if life is None:
        return b'{"s":0,"at":"%.6f"}' % time
    try:
        return dumps(orjson.loads(life) | {"at": f"{time:.6f}"})
    except (ValueError, TypeError):
        return life


def success_of(outcome: Outcome, lease: str, life: bytes | None) -> str:
    """The JSON of a job that has succeeded, after the life that it had before.

    Most had none, or no more than a turn, so it is written by hand.
    """
    started_at, progress = outcome.started_at, outcome.lease.progress
    ran = "" if started_at is None else f'"ran":"{started_at!r}",'
    told = "" if progress is None else progress_of(progress)[1:-1] + ","
    end = f'{{"s":3,{ran}"fin":"{outcome.finished_at!r}",{told}"t":"{lease}"}}'
    if life is None:
        return end
    if turned := _has_turn(life):
        return f'{{"at":"{turned[1].decode()}",{end[1:]}'
    try:
        return dumps(orjson.loads(life) | orjson.loads(end)).decode()
    except (ValueError, TypeError):  # what stood there is nothing to go by
        return end


def change_of(outcome: Outcome, now: float, packs: int = 0) -> bytes:
    """What the end of an attempt changes in its job's life, as JSON, and what else belongs to it.

    Times are texts: Lua's JSON keeps 14 digits of a number.
    """
    status = outcome.status
    change: dict[str, Any] = {"s": NUMBER[status], "charged": outcome.charged}
    if outcome.run_after is not None:
        change["at"] = repr(float(outcome.run_after))
    if outcome.started_at is not None:
        change["ran"] = repr(outcome.started_at)
    if status in FINISHED:
        change["fin"] = repr(outcome.finished_at or now)
        if outcome.lease.progress is not None:
            change["pf"], change["pt"] = repr(outcome.lease.progress[0]), outcome.lease.progress[1]
    if outcome.failure is not None:
        change["err"] = f"{outcome.failure.type}: {outcome.failure.message}"
        change["tb"] = outcome.failure.traceback
    if outcome.failed_attempts is not None:
        change["ats"] = outcome.failed_attempts.decode()
    if packs:
        change["packs"] = packs
        change["sent"] = Counter(group.name for job in outcome.follow if (group := group_in(job.group)))
    if outcome.holds is not None:
        change["holds"] = outcome.holds
        change["to"] = Counter(job.queue for job in outcome.follow)
    if outcome.steps:
        change["steps"] = len(outcome.steps)
    if outcome.awaits is not None:
        change["awaits"] = outcome.awaits
    return dumps(change)


def step_args(steps: Iterable[Step], mark: str = "-") -> list[Any]:
    """Names and values of steps, as ``lua/step.lua`` takes them."""
    arguments: list[Any] = []
    for step in steps:
        head = f"{int(step.lasting)} {step.retries} {step.crashes} {mark} "
        arguments += (step.name, head.encode() + step.data)
    return arguments


def steps_in(head: bytes | None) -> int:
    """How many steps a job has recorded, by the head of them."""
    text = (head or b"").partition(b":")[0]
    return int(text) if text.isdigit() and len(text) < 8 else 0


def progress_of(progress: tuple[float, str]) -> str:
    """How far an attempt is, as JSON."""
    return dumps({"pf": repr(progress[0]), "pt": progress[1]}).decode()


def dumps(value: Any) -> bytes:
    """As JSON; texts that UTF-8 cannot carry, as an exception's message may be, are mended."""
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:
        return orjson.dumps(
            {
                name: text.encode("utf-8", "replace").decode() if isinstance(text, str) else text
                for name, text in value.items()
            }
        )
