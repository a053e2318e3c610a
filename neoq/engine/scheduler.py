"""Cron: one thread that enqueues a job for each tick.

The wall clock is read at least every ``interval``, so that a clock that is set moves the ticks with it.
As in Debian's cron, a clock set back by up to three hours repeats nothing that has a time of day; a rhythm
such as every five minutes goes on.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from neoq.clock import machine
from neoq.errors import BackendError
from neoq.job import Job
from neoq.schedules import describe
from neoq.store import Store, Tick
from neoq.threads.loop import Loop
from neoq.times import to_datetime

if TYPE_CHECKING:
    from neoq.clock import Clock
    from neoq.config import Config
    from neoq.cron import Schedule
    from neoq.engine.meter import Meter

LIST_EVERY = 600.0  # seconds
ON_TIME = timedelta(seconds=60)  # a tick that comes later than this was missed
FIRST_PAUSE, LAST_PAUSE = 1.0, 300.0  # seconds in which a schedule that fails is left alone
SHORTEST = 0.01  # seconds between two looks, whatever a schedule says
CLOCK_WAS_WRONG = timedelta(hours=3)  # a clock set back further shows the true time now: follow it
_LOOK_BACK = (
    ON_TIME,
    timedelta(hours=1),
    timedelta(days=1),
    timedelta(days=32),
    timedelta(days=366),
    timedelta(days=3000),
)


class Cron:
    """One schedule, the queue that its ticks go to, and how far they have been dealt with.

    ``name`` tells it from others, and is that of the queue where a handler listens. ``call`` makes the job of
    a tick where a task is to run.
    """

    def __init__(
        self,
        queue: str,
        schedule: Schedule,
        *,
        catch_up: bool,
        name: str = "",
        call: Callable[[], Job] | None = None,
    ) -> None:
        self.queue = queue
        self.name = name or queue
        self._call = call
        self.schedule = schedule
        self.catch_up = catch_up
        self.first: datetime | None = None  # when its clock was first looked at
        self.seen: datetime | None = None  # ticks up to here are dealt with
        # The store was away from the first to the second of these, while this process lived and looked.
        self.away: tuple[datetime, datetime] | None = None
        self.pause = FIRST_PAUSE
        self.rests_until = -math.inf  # monotonic, after an error of its own

    def job_of(self, tick: datetime) -> Job:
        """The job of a tick: one at a time is unfinished."""
        if self._call is None:
            return Job(self.queue, {"scheduled_at": tick.isoformat()}, fingerprint=self.name)
        return self._call()

    def due(self, now: datetime) -> tuple[datetime | None, bool]:
        """The latest tick that has come since the last look, if any, and whether it is on time."""
        assert self.seen is not None
        if self.away is not None and not self.away[0] <= now <= self.away[1] + ON_TIME:
            self.away = None  # no look since: the process was suspended, or its clock was set
        if now < self.seen:
            if self.seen - now > (ON_TIME if self.schedule.is_rhythm else CLOCK_WAS_WRONG):
                self.seen = now
            return None, True
        for span in _LOOK_BACK:
            tick = self._latest(max(self.seen, now - span), now)
            if tick is not None:
                since = now if self.away is None else self.away[0]
                return tick, since - tick <= ON_TIME
            if now - span <= self.seen:
                break
        return None, True

    def _latest(self, start: datetime, now: datetime) -> datetime | None:
        latest = None
        tick = self.schedule.next_after(start)
        while tick is not None and tick <= now:
            latest = tick
            tick = self.schedule.next_after(tick)
        return latest

    def note_away(self, began: datetime, now: datetime) -> None:
        """The store did not take a tick, between these two times."""
        since = began if self.away is None else self.away[0]
        self.away = since, max(since, now)

    def rest(self) -> float:
        """Leave it alone for a while; returns for how long."""
        pause, self.pause = self.pause, min(2 * self.pause, LAST_PAUSE)
        self.rests_until = machine.monotonic() + pause
        return pause

    @property
    def rests(self) -> bool:
        """Whether it is left alone after an error."""
        return machine.monotonic() < self.rests_until


class CronScheduler:
    """Enqueues the ticks of the crons of a backend whose queues run here."""

    def __init__(
        self, store: Store, config: Config, clock: Clock, runs: Callable[[str], bool], meter: Meter
    ) -> None:
        self._store = store
        self._meter = meter
        self._runs = runs
        self._clock = clock
        self._interval = config.job_check_interval
        self._max_payload = config.max_payload
        self._logger = config.log
        self._crons: list[Cron] = []
        self._told: dict[str, bytes] = {}
        self._tell_at = -math.inf  # monotonic
        self._lock = threading.Lock()
        self._loop = Loop(
            "neoq-cron", self._tick, config.log, away=self._say_away, pauses=(self._interval, self._interval)
        )
        self.suspended = False  # a test fires the ticks by hand
        self.skipped = 0  # ticks whose predecessor was unfinished

    def add(self, cron: Cron) -> None:
        """Take up a schedule."""
        with self._lock:
            self._crons.append(cron)
        self._loop.wake()

    def list_schedules(self) -> None:
        """Let the store tell of the schedules; again now and then, or it would forget them."""
        told = {cron.name: describe(cron.schedule, cron.queue) for cron in self.at_work()}
        if told and (told != self._told or machine.monotonic() >= self._tell_at):
            self._store.list_schedules(told)
            self._told, self._tell_at = told, machine.monotonic() + LIST_EVERY

    def start(self) -> None:
        """Start the thread, if there is anything to tick."""
        if self.at_work():
            self._loop.start()

    def close(self) -> None:
        """Stop the thread."""
        self._loop.close(1.0)

    def _tick(self) -> float:
        if self.suspended:
            return self._interval
        self.fire()
        return max(SHORTEST, min(self._seconds_to_next(), self._interval))

    def _say_away(self, error: BackendError, pause: float) -> None:  # noqa: ARG002
        self._logger.warning("cron cannot reach the store, and tries again: %s", error)

    def fire(self) -> None:
        """Enqueue every tick that is due; a schedule that fails holds up no other."""
        now = self._now()
        failed: BackendError | None = None
        for cron in self._awake():
            try:
                self._fire(cron, now)
            except BackendError as error:
                cron.note_away(now, self._now())
                failed = error
            except Exception as error:
                self._let_rest(cron, error)
        if failed is not None:
            raise failed

    def at_work(self) -> list[Cron]:
        """The crons whose queues run here: the ticks of the others come from processes that run these."""
        with self._lock:
            return [cron for cron in self._crons if self._runs(cron.queue)]

    def _awake(self) -> list[Cron]:
        return [cron for cron in self.at_work() if not cron.rests]

    def _let_rest(self, cron: Cron, error: Exception) -> None:
        """Say that a schedule fails, and leave it alone for a while."""
        self._logger.error(
            "cron %s fails, and is tried again in %g s: %s", cron.name, cron.rest(), error, exc_info=error
        )

    def _fire(self, cron: Cron, now: datetime) -> None:
        if cron.seen is None:
            self._begin(cron, now)
        tick, on_time = cron.due(now)
        if tick is not None and (on_time or cron.catch_up):
            self._enqueue(cron, tick)
        elif tick is not None:
            self._logger.warning("cron %s missed its tick of %s", cron.name, tick)
        cron.seen = max(cron.seen, now)  # type: ignore[type-var]  # only now is it dealt with
        cron.away, cron.pause = None, FIRST_PAUSE

    def _begin(self, cron: Cron, now: datetime) -> None:
        if cron.first is None or cron.first > now:
            cron.first = now
        last = self._store.last_tick(cron.name) if cron.catch_up else None
        cron.seen = cron.first if last is None or last > now else last

    def _enqueue(self, cron: Cron, tick: datetime) -> None:
        job = cron.job_of(tick)
        job.scheduled = tick.timestamp()
        job.prepare(self._clock.time(), self._max_payload)
        became = self._store.add_tick(cron.name, tick, job)
        if became is Tick.NEW:
            self._meter.enqueued[job.queue] += 1
        elif became is Tick.SKIPPED:
            self.skipped += 1
            self._logger.warning(
                "cron %s skips its tick of %s: the one before is unfinished", cron.name, tick
            )

    def forget_time(self) -> None:
        """Begin anew: ticks count from the next look at the clock."""
        with self._lock:
            for cron in self._crons:
                cron.seen = cron.first = cron.away = None

    def next_due(self) -> datetime | None:
        """When the next tick is due."""
        ticks = []
        for cron in self._awake():
            try:
                if cron.seen is None:
                    self._begin(cron, self._now())
                ticks.append(cron.schedule.next_after(cron.seen))  # type: ignore[arg-type]
            except BackendError:
                raise
            except Exception as error:
                self._let_rest(cron, error)
        return min((tick for tick in ticks if tick is not None), default=None)

    def _seconds_to_next(self) -> float:
        due = self.next_due()
        return self._interval if due is None else (due - self._now()).total_seconds()

    def _now(self) -> datetime:
        return to_datetime(self._clock.time())  # type: ignore[return-value]
