"""Filter: which jobs are wanted, by what they are, when they were, and what is in them."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, TypedDict

import orjson

from neoq.checks import check_queue
from neoq.errors import InvalidJobError
from neoq.job import Job
from neoq.record import FINISHED, Status
from neoq.times import epoch_or_span

Path = tuple[str, ...]
Order = Literal["newest", "oldest"]
Time = Literal["created", "due", "finished"]
AT_LEAST = 500  # rows that are asked for, if some may have another payload after all
_EXACT_INTEGERS = 10**15  # below, JSON writes a number in one way


class OtherFilters(TypedDict, total=False):
    """The keywords by which `Backend.jobs` chooses jobs, beside their queue and their status."""

    kind: str | None
    key: str | None
    since: datetime | timedelta | float | None
    until: datetime | timedelta | float | None
    time: Time | None
    error: str | None
    payload: Mapping[str, Any] | None


class Filters(OtherFilters, total=False):
    """The keywords by which `Backend.retry_all` and its like choose jobs."""

    queue: str | None
    status: Status | str | None


@dataclass(frozen=True)
class Filter:
    """The jobs that are wanted: all conditions hold for them; None asks for nothing.

    ``since`` (included) and ``until`` (excluded) are seconds since the epoch: of a job's creation or of its
    due time, if ``time`` says so, else of its end, or of its creation where it has not ended. ``error`` is a
    part of its error. ``payload`` has paths into it, and the values that are there.
    ``group`` is the name of a group (see `Group.name`), whose jobs are wanted.
    """

    ids: Collection[int] | None = None
    uids: Collection[str] | None = None
    queue: str | None = None
    statuses: frozenset[Status] | None = None
    kind: str | None = None
    key: str | None = None
    since: float | None = None
    until: float | None = None
    time: Literal["created", "due"] | None = None
    error: str | None = None
    payload: tuple[tuple[Path, Any], ...] = ()
    group: str | None = None

    @property
    def narrow(self) -> bool:
        """Whether it may leave out many jobs, so that a store looks at a bounded number of them in a call."""
        return self.ids is None and self.uids is None and self != ALL

    @property
    def by_end(self) -> bool:
        """Whether jobs that have ended are wanted only where that was in a span of time."""
        return self.time is None and (self.since is not None or self.until is not None)

    def matches(self, job: Job) -> bool:
        """Whether a job is wanted."""
        return (
            (self.ids is None or job.id in self.ids)
            and (self.uids is None or job.uid in self.uids)
            and (self.queue is None or job.queue == self.queue)
            and (self.statuses is None or job.status in self.statuses)
            and (self.kind is None or job.kind == self.kind)
            and (self.key is None or job.key == self.key)
            and (self.group is None or (job.group or "").startswith(self.group))
            and (self.error is None or self.error in (job.error or ""))
            and self._is_in_time(job)
            and self.matches_payload(job)
        )

    def _is_in_time(self, job: Job) -> bool:
        if self.since is None and self.until is None:
            return True
        if self.time == "due":
            at = job.due
        else:
            at = job.finished_on if self.time is None and job.status in FINISHED else job.created
        at = at or 0.0
        return (self.since is None or at >= self.since) and (self.until is None or at < self.until)

    def matches_payload(self, job: Job) -> bool:
        """Whether the payload has the values that are wanted."""
        if not self.payload:
            return True
        try:
            payload: Any = orjson.loads(job.body or b"{}")
        except ValueError:  # somebody has damaged it
            return False
        return all(_is_at(payload, path, value) for path, value in self.payload)

    def payload_parts(self) -> list[list[bytes]]:
        """Of each list one is in the JSON of a payload that `matches_payload` takes, and of few others."""
        return [parts for path, value in self.payload for parts in _parts_of(path[-1], value)]

    def rows(self, limit: int) -> int:
        """How many rows to ask for, to have ``limit`` jobs."""
        return max(limit, AT_LEAST) if self.payload else limit

    def cut(self, jobs: list[Job], limit: int, rest: int | None) -> tuple[list[Job], int | None]:
        """The jobs of `rows` that have the payload, ``limit`` at most, and the id at which to go on.

        That is ``rest`` where all rows that there are up to it were read, and all of them are taken.
        """
        if len(jobs) == self.rows(limit):
            rest = jobs[-1].id
        if self.payload:
            jobs = [job for job in jobs if self.matches_payload(job)]
        if len(jobs) > limit:
            jobs = jobs[:limit]
            rest = jobs[-1].id
        return jobs, rest


ALL = Filter()


def _is_at(value: Any, path: Path, wanted: Any) -> bool:
    for name in path:
        if isinstance(value, dict) and name in value:
            value = value[name]
        elif isinstance(value, list) and name.isdigit() and int(name) < len(value):
            value = value[int(name)]
        else:
            return False
    return value == wanted and isinstance(value, bool) == isinstance(wanted, bool)


def _parts_of(name: str, value: Any) -> list[list[bytes]]:
    text = b"" if name.isdigit() else orjson.dumps(name) + b":"  # digits may be the place in a list
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return [[text + orjson.dumps(value)]]
    if abs(value) >= _EXACT_INTEGERS or value != int(value):
        return [[text]]
    start = b"%b%d" % (text, value)  # which most payloads do not have: it is quicker to look for it first
    return [[start], [start + end for end in (b",", b"}", b"]", b".0")]]


def filter_of(filters: Mapping[str, Any], now: float) -> Filter:
    """The filter that keywords describe; InvalidJobError for a bad one, TypeError for an unknown one."""
    unknown = filters.keys() - Filters.__annotations__.keys()
    if unknown:
        known = ", ".join(Filters.__annotations__)
        raise TypeError(f"there is no filter {', '.join(sorted(unknown))}; there are {known}")
    queue, status, payload = filters.get("queue"), filters.get("status"), filters.get("payload")
    if queue is not None:
        check_queue(queue)
    if status is not None and status not in tuple(Status):
        raise InvalidJobError(f"status is {status!r}; it takes a neoq.Status: {', '.join(Status)}")
    since, until = (_time(name, filters.get(name), now) for name in ("since", "until"))
    if since is not None and until is not None and since >= until:
        raise InvalidJobError(
            "since is not before until, so no job can match; both take a time or a time ago"
        )
    time, statuses = _which_time(filters.get("time"), None if status is None else Status(status))
    return Filter(
        queue=queue,
        statuses=statuses,
        kind=_text("kind", filters.get("kind")),
        key=_text("key", filters.get("key")),
        since=since,
        until=until,
        time=None if since is None and until is None else time,
        error=_text("error", filters.get("error")),
        payload=_payload(payload),
    )


def _which_time(
    time: Any, status: Status | None
) -> tuple[Literal["created", "due"] | None, frozenset[Status] | None]:
    """The time that since and until are about, None for the end, and the statuses of jobs that have it."""
    statuses = None if status is None else frozenset({status})
    if time is None:
        return None, statuses
    if not isinstance(time, str) or time not in {"created", "due", "finished"}:
        raise InvalidJobError(f'time is {time!r:.80}; it takes "created", "due" or "finished"')
    if time != "finished":
        return time, statuses  # type: ignore[return-value]
    if status is not None and status not in FINISHED:
        raise InvalidJobError(f'time is "finished", and a job that is {status} has not ended; leave one out')
    return None, statuses or FINISHED


def is_oldest(order: Order) -> bool:
    """Whether the oldest jobs come first; InvalidJobError for an unknown order."""
    if order not in {"newest", "oldest"}:
        raise InvalidJobError(f'order is {order!r:.80}; it takes "newest" or "oldest"')
    return order == "oldest"


def _text(name: str, value: Any) -> str | None:
    if value is not None and (not isinstance(value, str) or not value or not _is_sound(value)):
        raise InvalidJobError(f"{name} is {value!r:.80}; it takes a text, without NUL or lone surrogates")
    return value


def _is_sound(text: str) -> bool:
    """Whether every store can hold a text."""
    return "\0" not in text and text.encode(errors="replace").decode() == text


def _time(name: str, when: Any, now: float) -> float | None:
    if when is None:
        return None
    at, ago = epoch_or_span(name, when)
    if ago is not None and ago < 0:
        raise InvalidJobError(f"{name} is {when!r}, in the future; it takes a datetime, or a time ago")
    return now - ago if at is None else at  # type: ignore[operator]  # epoch_or_span gives one of them


def _payload(wanted: Any) -> tuple[tuple[Path, Any], ...]:
    if wanted is None:
        return ()
    example = 'it takes paths and their values, such as {"user.id": 7}'
    if not isinstance(wanted, Mapping) or not wanted:
        raise InvalidJobError(f"payload is {wanted!r:.80}; {example}")
    for path, value in wanted.items():
        if not isinstance(path, str) or not all(path.split(".")) or not _is_sound(path):
            raise InvalidJobError(f"payload has the path {path!r:.80}; {example}")
        if not isinstance(value, (str, int, float, bool, type(None))) or (
            (isinstance(value, float) and not math.isfinite(value))
            or (isinstance(value, str) and value.encode(errors="replace").decode() != value)
        ):
            raise InvalidJobError(
                f"payload[{path!r}] is {value!r:.80}; it takes a text, a number, a bool or None"
            )
    return tuple((tuple(path.split(".")), value) for path, value in wanted.items())
