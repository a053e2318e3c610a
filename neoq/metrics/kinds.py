"""How long attempts of each kind of job ran: counted only where an application asks for it."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from neoq.errors import ShutdownRequested, Snooze, Suspended
from neoq.metrics.figures import NO_TIMES, Figures
from neoq.metrics.names import KIND_RUN, KnownKinds
from neoq.series import BUCKETS

if TYPE_CHECKING:
    from neoq.backend import Backend
    from neoq.engine.engine import Engine
    from neoq.job import Job

NO_KIND = "(none)"  # as `QueueCounts.unknown` has it


class _KindTimes:
    """Middleware: counts how long handlers ran, by queue and kind, and whether they raised."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a signal handler may read while its thread counts
        self._known = KnownKinds()
        self._times: dict[tuple[str, str, str], list[float]] = {}

    def __call__(self, job: Job, call_next: Callable[..., Any]) -> Any:
        began, outcome = perf_counter(), "failed"
        try:
            result = call_next(job)
            outcome = "ok"
        except (Snooze, Suspended):
            outcome = "ok"
            raise
        except ShutdownRequested:
            outcome = ""  # the job is given back, and its attempt does not count
            raise
        finally:
            if outcome and not job.lease_lost:
                self._note((job.queue, job.kind or NO_KIND, outcome), perf_counter() - began)
        return result

    def _note(self, key: tuple[str, str, str], seconds: float) -> None:
        queue, kind, outcome = key
        with self._lock:
            times = self._times.setdefault((queue, self._known.name_of(kind), outcome), list(NO_TIMES))
            times[bisect_left(BUCKETS, seconds)] += 1
            times[-1] += seconds

    def figures(self) -> Figures:
        """The times by queue, kind and outcome."""
        with self._lock:
            return {(KIND_RUN, *key): tuple(times) for key, times in self._times.items()}


_counted: WeakKeyDictionary[Engine, _KindTimes] = WeakKeyDictionary()
_lock = threading.Lock()


def begin(backend: Backend) -> None:
    """Count the kinds of a backend from now on; once."""
    with _lock:
        if backend.engine in _counted:
            return
        times = _counted[backend.engine] = _KindTimes()
    backend.use(times)


def figures_of(engine: Engine) -> Figures:
    """What was counted by kind: nothing where nobody asked for it."""
    times = _counted.get(engine)
    return {} if times is None else times.figures()
