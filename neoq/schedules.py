"""The schedules that processes list in a store, so that others can tell what comes when."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import orjson

from neoq.errors import CronError

if TYPE_CHECKING:
    from neoq.cron import Schedule

TICKS_SHOWN = 5
LONGEST = 2000  # characters of a text; another program may have written it
_TOLD = ("spec", "timezone", "description", "queue")


class Listed(NamedTuple):
    """A schedule as a store keeps it: ``described`` means nothing to the store."""

    name: str
    described: bytes
    last_tick: datetime | None
    last_job_id: int | None = None  # of the last tick that was not skipped
    skipped: int = 0  # ticks


@dataclass(frozen=True)
class ScheduleInfo:
    """A schedule that some process listens to, or did within the last day.

    ``next_ticks`` are the next five, none where the timezone has no name that is known here. ``last_job_id``
    is the id of the job that the last tick enqueued; ``skipped`` counts the ticks that enqueued none, since
    the job of the one before was unfinished.
    """

    name: str
    spec: str
    timezone: str
    description: str
    queue: str
    last_tick: datetime | None
    next_ticks: tuple[datetime, ...]
    last_job_id: int | None = None
    skipped: int = 0


def describe(schedule: Schedule, queue: str) -> bytes:
    """What is listed of a schedule whose jobs go to a queue."""
    try:
        zone = str(schedule.timezone)
    except Exception:  # it is code of somebody else's
        zone = type(schedule.timezone).__name__
    texts = (schedule.spec, zone, schedule.description, queue)
    told = [text.encode("utf-8", "replace").decode() for text in texts]
    return orjson.dumps(dict(zip(_TOLD, told, strict=True)))


def info_of(listed: Listed, now: datetime) -> ScheduleInfo | None:
    """What a store has listed, for people; None where somebody else has written something there."""
    try:
        told = orjson.loads(listed.described)
        spec, zone, description, queue = (told[name] for name in _TOLD)
    except (ValueError, LookupError, TypeError):
        return None
    if not all(isinstance(text, str) for text in (spec, zone, description, queue)):
        return None
    spec, zone, description, queue = (text[:LONGEST] for text in (spec, zone, description, queue))
    ticks = tuple(islice(_ticks(spec, zone, now), TICKS_SHOWN))
    return ScheduleInfo(
        *(listed.name, spec, zone, description, queue, listed.last_tick, ticks),
        *(listed.last_job_id, listed.skipped),
    )


def _ticks(spec: str, timezone: str, now: datetime) -> Iterator[datetime]:
    from neoq.cron import Schedule

    try:
        schedule = Schedule(spec, timezone)
        tick = schedule.next_after(now)
        while tick is not None:
            yield tick
            tick = schedule.next_after(tick)
    except CronError:
        return
