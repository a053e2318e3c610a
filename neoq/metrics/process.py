"""What one process has counted: the attempts and enqueues of its engine, and the calls of its store."""

from __future__ import annotations

import threading
from bisect import bisect_left
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any

from neoq.metrics import kinds
from neoq.metrics.figures import NO_TIMES, Figures
from neoq.metrics.names import (
    ENQUEUED,
    FINISHED,
    LEASES_LOST,
    OPERATIONS,
    OUTCOMES,
    RECLAIMED,
    RUN,
    RUNS,
    STORE_SECONDS,
    WAIT,
)
from neoq.series import BUCKETS

if TYPE_CHECKING:
    from collections.abc import Callable

    from neoq.engine.engine import Engine
    from neoq.store import Store


class Counters:
    """The counters of an engine in this process, and those of its store from now on."""

    def __init__(self, store: Store) -> None:
        self._calls = StoreCalls(store)

    def read(self, engine: Engine) -> Figures:
        """Everything counted since the start of this process."""
        figures: Figures = {
            (LEASES_LOST,): (engine.meter.leases_lost,),
            (RECLAIMED,): (engine.meter.reclaimed,),
            **self._calls.figures(),
            **kinds.figures_of(engine),
        }
        for queue in list(engine.pools):  # also before the first job: a rate begins at zero
            figures |= _nothing_yet(queue)
        for queue, totals in engine.meter.totals().items():
            figures[ENQUEUED, queue] = (totals.enqueued,)
            if any(totals.outcomes.values()):
                for outcome, number in totals.outcomes.items():
                    figures[FINISHED, queue, outcome] = (number,)
                figures[WAIT, queue] = (*totals.waits.counts, totals.waits.sum)
                figures[RUN, queue, "ok"] = (*totals.runs_ok.counts, totals.runs_ok.sum)
                figures[RUN, queue, "failed"] = (*totals.runs_failed.counts, totals.runs_failed.sum)
        return figures


def _nothing_yet(queue: str) -> Figures:
    return {
        (ENQUEUED, queue): (0,),
        (WAIT, queue): NO_TIMES,
        **{(FINISHED, queue, outcome): (0,) for outcome in OUTCOMES},
        **{(RUN, queue, outcome): NO_TIMES for outcome in RUNS},
    }


class StoreCalls:
    """Times the calls of a store from now on; a process that exposes no metrics pays nothing for it.

    A store in the memory of this process is left as it is: a call there costs less than to time it.
    """

    def __init__(self, store: Store) -> None:
        self._lock = threading.Lock()
        self._times: dict[str, list[float]] = {}
        if "local" in store.features:
            return
        for operation in OPERATIONS:
            self._times[operation] = list(NO_TIMES)
            setattr(
                store, operation, partial(_timed, store, self._note, operation, getattr(store, operation))
            )

    def _note(self, operation: str, seconds: float) -> None:
        with self._lock:
            times = self._times[operation]
            times[bisect_left(BUCKETS, seconds)] += 1
            times[-1] += seconds

    def figures(self) -> Figures:
        """How long the calls of each operation took."""
        with self._lock:
            return {(STORE_SECONDS, operation): tuple(times) for operation, times in self._times.items()}


def _timed(
    store: Store,  # noqa: ARG001  # by its first argument `neoq.threads.reentry` knows a frame of the store
    note: Callable[[str, float], None],
    operation: str,
    method: Callable[..., Any],
    *arguments: Any,
    **keywords: Any,
) -> Any:
    began = perf_counter()
    try:
        return method(*arguments, **keywords)
    finally:
        note(operation, perf_counter() - began)
