"""Jobs as Redis keeps them: a record of what a job is, and JSON of what has become of it.

``lua/job.lua`` describes both; what follows the two times in a record is for this file alone.
"""

from __future__ import annotations

import struct
from typing import Any

import orjson

from neoq.job import CODEC, Job, Status, Unique
from neoq.store import Outcome

STATUSES = (
    Status.PENDING,
    Status.RETRYING,
    Status.RUNNING,
    Status.SUCCEEDED,
    Status.DEAD,
    Status.CANCELLED,
)
NUMBER = {status: number for number, status in enumerate(STATUSES)}
RUNNING = NUMBER[Status.RUNNING]

MAX_INLINE = 2048  # bytes of a payload that are kept in the record, which scripts read as a whole
_UNIQUENESS: dict[Unique, bytes] = {False: b"0", True: b"1", "until_started": b"2"}
_UNIQUE: dict[int, Unique] = {48: False, 49: True, 50: "until_started"}
_TAIL = struct.Struct("<ddBI")  # created at, run after, codec, length of the JSON before the payload
_PLAIN = b"1c%c1000032%b0000%b%b"
_ON_DUPLICATE = {"return": b"r", "raise": b"e", "replace": b"p"}


def arguments_of(job: Job, skip: bool = False) -> tuple[bytes, bytes, str, bytes, bytes]:
    """What ``add.lua`` is told of a job."""
    data = job._data
    run_after, created_at = job._run_after, job._created_at
    assert data is not None
    inline, apart = (data, b"") if len(data) <= MAX_INLINE else (b"", data)
    place = 76 if apart else 45  # L or -
    print_ = job.fingerprint.encode() if job.unique else b""
    if not job._special and job.kind is None and job.group is None:
        tail = _TAIL.pack(created_at, run_after, CODEC, 0)
        return b"r", b"0", repr(run_after), _PLAIN % (place, print_, tail, inline), apart
    own = b"o" if job._own_fingerprint is not None else b"c"
    if not job.unique and own == b"o":
        print_ = job.fingerprint.encode()
    kind = (job.kind or "").encode()
    extra = _extra_of(job)
    record = b"%b%b%c%03d%04d%b%04d%b%b%b%b" % (
        *(_UNIQUENESS[job.unique], own, place, 100 - job.priority, len(print_), print_, len(kind), kind),
        *(_TAIL.pack(created_at, run_after, CODEC, len(extra)), extra, inline),
    )
    on_duplicate = b"s" if skip else _ON_DUPLICATE[job.on_duplicate]
    return on_duplicate, b"1" if job._waits else b"0", repr(run_after), record, apart


def _extra_of(job: Job) -> bytes:
    extra: dict[str, Any] = {}
    if job._deadline is not None:
        extra["deadline"] = job._deadline
    if job.max_retries is not None:
        extra["max_retries"] = job.max_retries
    if job.key is not None:
        extra["key"] = job.key
    if job.group is not None:
        extra["group"] = job.group
    if job.meta:
        extra["meta"] = dict(job.meta)
    return orjson.dumps(extra) if extra else b""


def job_of(id_of_job: int, queue: str, record: bytes, life: bytes | None, payload: bytes | None) -> Job:
    """The job that a record describes, with what its settled attempts have made of it."""
    job = Job.__new__(Job)
    job.id = id_of_job
    job.queue = queue
    job._special = True
    job._cancel = False
    at = 10 + int(record[6:10])
    if record[1] == 111:  # o
        job._own_fingerprint = record[10:at].decode()
    if record[0] != 49:
        job.unique = _UNIQUE[record[0]]
    if record[3:6] != b"100":
        job.priority = 100 - int(record[3:6])
    length = int(record[at : at + 4])
    if length:
        job.kind = record[at + 4 : at + 4 + length].decode()
    at += 4 + length
    job._created_at, job._run_after, _, length = _TAIL.unpack_from(record, at)
    at += _TAIL.size
    if length:
        _read_extra(job, orjson.loads(record[at : at + length]))
    job._data = payload if record[2] == 76 else record[at + length :]
    if life is not None:
        _read_life(job, orjson.loads(life))
    return job


def _read_extra(job: Job, extra: dict[str, Any]) -> None:
    job._deadline = extra.get("deadline")
    job.max_retries = extra.get("max_retries")
    job.key = extra.get("key")
    job.group = extra.get("group")
    if "meta" in extra:
        job.meta = extra["meta"]


def _read_life(job: Job, life: dict[str, Any]) -> None:
    job.status = STATUSES[int(life["s"])]
    job.retries = int(life.get("n", 0))
    job.crashes = int(life.get("c", 0))
    job.error = life.get("err")
    job.traceback = life.get("tb")
    if "at" in life:
        job._run_after = float(life["at"])
    if "ran" in life:
        job._ran_at = float(life["ran"])
    if "fin" in life:
        job._finished_at = float(life["fin"])
    if life.get("nodl"):
        job._deadline = None
    if "pf" in life:
        job._progress = (float(life["pf"]), life["pt"])


def read_run(job: Job, run: bytes) -> None:
    """Take over from a lease who runs the job, and since when."""
    token, began, worker = run.decode().split(":")
    job.status = Status.RUNNING
    job._token = int(token)
    job._ran_at = float(began)
    job.worker = worker


def success_of(outcome: Outcome) -> str:
    """The JSON of a job that has succeeded: written by hand, for it is most of them."""
    lease, started_at = outcome.lease, outcome.started_at
    ran = "" if started_at is None else f'"ran":"{started_at!r}",'
    progress = "" if lease.progress is None else progress_of(lease.progress)[1:-1] + ","
    return f'{{"s":3,{ran}"fin":"{outcome.finished_at!r}",{progress}"t":"{lease.token}:"}}'


def change_of(outcome: Outcome, now: float) -> bytes:
    """What an attempt that did not succeed changes in its job's life, as JSON. Times are texts: Lua's JSON
    keeps 14 digits of a number.
    """
    status = outcome.status
    change: dict[str, Any] = {"s": NUMBER[status], "charged": outcome.charged}
    if outcome.run_after is not None:
        change["at"] = repr(float(outcome.run_after))
    if outcome.started_at is not None:
        change["ran"] = repr(outcome.started_at)
    if status in {Status.DEAD, Status.CANCELLED}:
        change["fin"] = repr(outcome.finished_at or now)
        if outcome.lease.progress is not None:
            change["pf"], change["pt"] = repr(outcome.lease.progress[0]), outcome.lease.progress[1]
    if outcome.failure is not None:
        change["err"] = f"{outcome.failure.type}: {outcome.failure.message}"
        change["tb"] = outcome.failure.traceback
    return dumps(change)


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
