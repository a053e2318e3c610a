"""The series writer: adds what the meter has counted to the series of the store, every few seconds."""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING

from neoq.clock import machine
from neoq.engine.meter import QueueTotals
from neoq.series import OUTCOMES, Increment, increment

if TYPE_CHECKING:
    from neoq.engine.meter import Meter
    from neoq.store import Store

EVERY = 5.0  # seconds
EARLY = 0.5  # a heartbeat that comes this much sooner need not wait for the next


class SeriesWriter:
    """Writes what came since the last time; what the store did not take is written again, as it was."""

    def __init__(self, store: Store, meter: Meter) -> None:
        self._store = store
        self._meter = meter
        self._lock = threading.Lock()
        self._written: dict[str, QueueTotals] = {}
        self._pending: list[Increment] = []
        self._serial = 0
        self._wrote = -math.inf  # monotonic

    def write_in_time(self) -> None:
        """Write if it is time: the heartbeat's duty."""
        if machine.monotonic() - self._wrote >= EVERY - EARLY:
            self.write()

    def write(self) -> None:
        """Write now; nothing where another thread does."""
        if not self._lock.acquire(blocking=False):
            return
        try:
            self._wrote = machine.monotonic()
            for _ in range(2):  # what was left, and what came since
                if not self._pending:
                    self._take_up()
                if self._pending:
                    self._store.add_series(self._pending, serial=self._serial)
                    self._pending = []
        finally:
            self._lock.release()

    def _take_up(self) -> None:
        totals = self._meter.totals()
        for queue, now in totals.items():
            before = self._written.get(queue, QueueTotals())
            outcomes = {name: now.outcomes[name] - before.outcomes[name] for name in OUTCOMES}
            if any(outcomes.values()):
                runs = now.runs_ok + now.runs_failed - before.runs_ok - before.runs_failed
                self._pending.append(increment(queue, outcomes, now.waits - before.waits, runs))
        self._written = totals
        self._serial += 1
