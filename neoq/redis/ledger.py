"""What a server has beside the jobs: schedules and their ticks, and who did what."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

import orjson

from neoq.audit import KEPT, AuditEntry
from neoq.errors import BackendError
from neoq.redis.keys import global_key, id_in
from neoq.redis.queues import RedisQueues, pairs_of
from neoq.schedules import Listed
from neoq.series import KEPT as KEPT_SERIES
from neoq.series import (
    MINUTE,
    TEN_MINUTES,
    WIDTH,
    Increment,
    SeriesPoint,
    in_order,
    point_of,
    starts,
)
from neoq.store import SCHEDULES_KEPT
from neoq.stored import entries_in, ticked_in
from neoq.times import to_datetime

FORGOTTEN_AT_ONCE = 500  # entries
_MOST = 2**62
_BEFORE_ALL, _AFTER_ALL = b"-inf", b"+inf"


class Ledger:
    """Reads and writes it."""

    def __init__(self, queues: RedisQueues) -> None:
        self._queues = queues
        self._redis = queues.redis
        self._crons: dict[str, str] = {}  # and their queues, as the server knows them

    def _key(self, name: str) -> bytes:
        return global_key(self._queues.prefix, name)

    # -- schedules --------------------------------------------------------------------------------------

    def know(self, cron: str, queue: str) -> None:
        """Record, before its first tick, to which queue the jobs of a cron go."""
        if self._crons.get(cron) != queue:
            self._redis.command("HSET", self._key("crons"), cron, queue)
            self._crons[cron] = queue

    def ticked(self, cron: str, job_id: int | None) -> None:
        """Record the job of a tick; None: it was skipped. A full server need not take it."""
        with suppress(BackendError):
            if job_id is None:
                self._redis.command("HINCRBY", self._key("skips"), cron, 1)
            else:
                self._redis.command("HSET", self._key("tick_jobs"), cron, job_id)

    def last_tick(self, cron: str) -> datetime | None:
        """The newest tick of a cron in any process."""
        queue = self._redis.command("HGET", self._key("crons"), cron)
        if queue is None:
            return None
        tick = self._redis.command(
            "HGET", self._queues.keys(queue.decode(errors="replace")).key("ticks"), cron
        )
        try:
            return None if tick is None else to_datetime(float(tick))
        except ValueError:  # another program wrote it: the tick is unknown
            return None

    def list_schedules(self, schedules: Mapping[str, bytes]) -> None:
        """Keep what this process says of its schedules."""
        key, now = self._key("schedules"), self._queues.ask_time()
        told = [item for name, said in schedules.items() for item in (name, b"%.6f %b" % (now, said))]
        self._redis.command("HSET", key, *told)
        known = pairs_of(self._redis.command("HGETALL", key))
        old = [name for name, value in known if now - _listed_at(value) > SCHEDULES_KEPT]
        if old:
            keys = [key, self._key("skips"), self._key("tick_jobs")]
            self._redis.commands([("HDEL", one, *old) for one in keys])

    def schedules(self) -> list[Listed]:
        """The schedules that were listed within a day."""
        now, found = self._queues.ask_time(), []
        known = pairs_of(self._redis.command("HGETALL", self._key("schedules")))
        listed = [(name, value) for name, value in known if now - _listed_at(value) <= SCHEDULES_KEPT]
        for name, value in listed:
            job, skipped = self._redis.commands(
                [("HGET", self._key(key), name) for key in ("tick_jobs", "skips")]
            )
            past = ticked_in(*(None if one is None else id_in(one) for one in (job, skipped)))
            text = name.decode(errors="replace")
            found.append(Listed(text, value.partition(b" ")[2], self.last_tick(text), *past))
        return sorted(found)

    # -- who did what -----------------------------------------------------------------------------------

    def add_audit(self, entry: AuditEntry) -> None:
        """Keep what somebody did."""
        number = int(self._redis.command("INCR", self._key("audit_ids")))
        at = self._queues.ask_time()
        told = (entry.user, entry.via, entry.action, entry.count, entry.queue, entry.what)
        self._redis.command("ZADD", self._key("audit"), number, orjson.dumps([number, at, *told]))

    def audit(self, limit: int, before: int | None) -> list[AuditEntry]:
        """What was done, newest first."""
        start = _AFTER_ALL if before is None else b"(%d" % before
        rows = self._redis.command(
            "ZREVRANGEBYSCORE", self._key("audit"), start, _BEFORE_ALL, "LIMIT", 0, min(limit, _MOST)
        )
        oldest = self._queues.ask_time() - KEPT
        return [entry for entry in _entries(rows) if entry.at.timestamp() >= oldest]

    # -- series -----------------------------------------------------------------------------------------

    def add_series(self, increments: Sequence[Increment], writer: str, serial: int) -> None:
        """Add to the series what a process has counted, once for each serial."""
        begins = starts(self._queues.ask_time())
        keys = [self._series_key(seconds, start) for seconds, start in begins.items()]
        script = self._queues.scripts.series
        arguments = script.arguments(serial=serial, minutes=_lives(MINUTE), tens=_lives(TEN_MINUTES))
        for queue, numbers in increments:
            for place, number in enumerate(numbers):
                if number:
                    arguments += [f"{place}:{queue}", repr(number)]
        self._redis.call(script, [*keys, self._key(f"series:{writer}")], arguments)

    def series(self, queue: str | None, since: float, seconds: int) -> list[SeriesPoint]:
        """The points that last so long and end after a time."""
        now = self._queues.ask_time()
        oldest = int(max(since, now - KEPT_SERIES[seconds]) // seconds) * seconds
        begins = range(oldest, int(now) + seconds, seconds)
        commands = [("HGETALL", self._series_key(seconds, start)) for start in begins]
        found = []
        for start, reply in zip(begins, self._redis.commands(commands) if commands else (), strict=True):
            for name, numbers in _numbers_in(reply).items():
                if queue in {None, name}:
                    found.append(point_of(name, start, seconds, numbers))
        return in_order(found)

    def _series_key(self, seconds: int, start: int) -> bytes:
        return self._key(f"series:{seconds}:{start}")

    def forget_old(self) -> None:
        """Forget old entries."""
        oldest = self._queues.ask_time() - KEPT
        while True:
            rows = self._redis.command("ZRANGE", self._key("audit"), 0, FORGOTTEN_AT_ONCE - 1)
            kept = {row for row in rows if any(one.at.timestamp() >= oldest for one in _entries([row]))}
            old = [row for row in rows if row not in kept]
            if old:
                self._redis.command("ZREM", self._key("audit"), *old)
            if kept or not old:
                return


def _lives(seconds: int) -> int:
    """How long a point is kept from when it is written."""
    return int(KEPT_SERIES[seconds]) + seconds


def _numbers_in(reply: Any) -> dict[str, list[float]]:
    """The numbers of each queue in the hash of one time; none where another program has written."""
    found: dict[str, list[float]] = {}
    for field, value in pairs_of(reply):
        place, _, queue = field.partition(b":")
        with suppress(ValueError, IndexError):
            found.setdefault(queue.decode(), [0.0] * WIDTH)[int(place)] = float(value)
    return found


def _entries(rows: list[bytes]) -> list[AuditEntry]:
    """Entries from members of the set; what another program has written there is none."""
    found = []
    for row in rows:
        try:
            told = orjson.loads(row)
        except ValueError:
            continue
        if isinstance(told, list) and len(told) == 8:
            found.append(told)
    return entries_in(found)


def _listed_at(value: bytes) -> float:
    """When a schedule was listed; long ago where somebody else has written something there."""
    try:
        at = float(value.partition(b" ")[0])
    except ValueError:
        return -math.inf
    return at if math.isfinite(at) else -math.inf
