"""A clock that stands still until a test moves it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from neoq.errors import UnsupportedError
from neoq.mem_backend import MemBackend
from neoq.testing.manual import ManualRunner, after_add

if TYPE_CHECKING:
    from neoq.backend import Backend


_ROUNDING = 1e-5  # seconds: a sum of spans is due at the sum of the advances, whatever floats make of them


class VirtualClock:
    """The time of one memory backend. Made by `clock`."""

    def __init__(self, backend: MemBackend, runner: ManualRunner, start: float) -> None:
        self._backend = backend
        self._runner = runner
        self._now = self._start = start

    def time(self) -> float:
        """Seconds since the epoch."""
        return self._now

    def monotonic(self) -> float:
        """Seconds since this clock was made."""
        return self._now - self._start

    @property
    def now(self) -> datetime:
        """The time it shows, in UTC."""
        return datetime.fromtimestamp(self._now, UTC)

    def advance(self, seconds: float = 0.0, *, minutes: float = 0, hours: float = 0, days: float = 0) -> int:
        """Let time pass: run every job, retry and cron tick of it in order; return how many attempts ran.

        What a handler raises is dealt with as in production: the job waits for its next attempt, which runs
        too if it is due in that time.
        """
        return self._run_until(self._now + seconds + 60 * minutes + 3600 * hours + 86400 * days)

    def run_until(self, instant: datetime) -> int:
        """As `advance`, up to a point in time (an aware datetime that is not in the past of this clock)."""
        return self._run_until(_timestamp("run_until", instant))

    def _run_until(self, until: float) -> int:
        if not math.isfinite(until):
            raise ValueError(f"the clock cannot advance to {until}")
        if until < self._now - _ROUNDING:
            raise ValueError(f"the clock shows {self.now} already, and does not go back")
        ran = self._runner.run_ready()
        while (due := self._next_due()) is not None and due <= until + _ROUNDING:
            self._now = max(self._now, due)
            ran += self._step()
        self._now = max(self._now, until)
        return ran + self._step()

    def _step(self) -> int:
        self._backend.store.release_due()
        self._backend.engine.cron_scheduler.fire()
        return self._runner.run_ready()

    def _next_due(self) -> float | None:
        tick = self._backend.engine.cron_scheduler.next_due()
        dues = [self._backend.store.next_due(), None if tick is None else tick.timestamp()]
        return min((due for due in dues if due is not None), default=None)


def _timestamp(taker: str, instant: datetime) -> float:
    if instant.utcoffset() is None:
        raise ValueError(f"{taker} got the naive datetime {instant!r}; give it a timezone: tzinfo=UTC")
    return instant.timestamp()


@contextmanager
def clock(backend: Backend, start: datetime | None = None) -> Iterator[VirtualClock]:
    """Put a memory backend's time into your hands; yields a `VirtualClock`.

    The clock starts at ``start`` (an aware datetime; default now) and stands still but for `advance`, in
    which jobs run in the caller's thread, in the order in which they are due, without any sleeping. Inside
    the block no thread of the backend works; `Backend.drain` and `Backend.wait` run what is ready now.
    """
    if not isinstance(backend, MemBackend):
        raise UnsupportedError("only jobs in memory take their time from a clock of yours: use MemBackend")
    runner = ManualRunner(backend)
    live = backend.engine.clock
    before = live.time, live.monotonic
    with runner.threads_suspended(), after_add(backend, list):
        virtual = VirtualClock(backend, runner, before[0]() if start is None else _timestamp("clock", start))
        backend.store.hold_timers(True)
        live.time, live.monotonic = virtual.time, virtual.monotonic
        backend.engine.cron_scheduler.forget_time()  # what was looked at by the time of the machine
        backend.engine.cron_scheduler.fire()  # ticks count from here
        try:
            yield virtual
        finally:
            live.time, live.monotonic = before
            backend.engine.cron_scheduler.forget_time()
            backend.store.hold_timers(False)
