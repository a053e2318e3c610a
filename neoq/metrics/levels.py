"""Levels: how the store stands, which is the same wherever it is read. A scrape never waits long for it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from time import monotonic
from typing import TYPE_CHECKING

from neoq.errors import NeoqError
from neoq.metrics.figures import Figures
from neoq.metrics.names import (
    JOBS,
    OLDEST,
    PAUSED,
    RUNNING_OLDEST,
    STATES,
    STORE_UP,
    THREADS,
    THREADS_NOW,
    WORKERS,
)
from neoq.threads.lifecycle import join, try_start

if TYPE_CHECKING:
    from neoq.engine.engine import Engine
    from neoq.store import QueueCounts, WorkerInfo

KEPT = 5.0  # seconds for which what was read is good
LIMIT = 2.0  # seconds that a scrape waits for the store
AWAY: Figures = {(STORE_UP,): (0,)}


class Levels:
    """The levels of one store, kept for a few seconds."""

    def __init__(self, kept: float = KEPT) -> None:
        self._kept = kept
        self._lock = threading.Lock()
        self._last: tuple[float, Figures] = (-KEPT - LIMIT, AWAY)  # monotonic: when it was asked for
        self._reader: threading.Thread | None = None

    def read(self, engine: Engine) -> Figures:
        """The levels, at most a few seconds old; only that the store is away where it is, or is slow."""
        with self._lock:
            fresh = monotonic() - self._last[0] < self._kept
            reader = None if fresh else self._begin(engine)
        join(reader, LIMIT)
        read_at, found = self._last
        return dict(found) if monotonic() - read_at < self._kept + LIMIT else dict(AWAY)

    def _begin(self, engine: Engine) -> threading.Thread | None:
        """A thread that reads the store: perhaps one that has not come back yet."""
        if self._reader is None or not self._reader.is_alive():
            self._reader = threading.Thread(target=self._ask, args=(engine,), name="neoq-levels", daemon=True)
            if not try_start(self._reader):
                self._reader = None
        return self._reader

    def _ask(self, engine: Engine) -> None:
        asked = monotonic()
        try:
            found = levels_of(engine)
        except NeoqError:  # the store is away, which the log says elsewhere; or the backend is shut down
            found = AWAY
        except Exception:
            engine.config.log.exception("the metrics do without the levels of the store")
            found = AWAY
        self._last = (asked, found)


def levels_of(engine: Engine) -> Figures:
    """The levels as the store has them now. Raises BackendError."""
    engine.ensure_readable()
    counts, workers = engine.store.counts(), engine.store.workers()
    figures: Figures = {(STORE_UP,): (1,), (WORKERS,): (len(workers),)}
    now = engine.clock.time()
    for queue in counts:
        figures |= _of_queue(queue, now)
    return figures | _threads(workers)


def _of_queue(counts: QueueCounts, now: float) -> Figures:
    queue = counts.queue
    return {
        **{(JOBS, queue, state): (getattr(counts, state),) for state in STATES},
        (OLDEST, queue): (_since(counts.oldest_due, now),),
        (PAUSED, queue): (int(counts.paused),),
        (RUNNING_OLDEST, queue): (_since(counts.oldest_started, now),),
    }


def _since(when: datetime | None, now: float) -> float:
    return 0.0 if when is None else max(0.0, now - when.timestamp())


def _threads(workers: Sequence[WorkerInfo]) -> Figures:
    states = Counter(
        (thread.queue, "abandoned" if thread.abandoned else "idle" if thread.job_id is None else "busy")
        for worker in workers
        for thread in worker.threads
    )
    queues = {queue for worker in workers for queue in worker.queues} | {queue for queue, _ in states}
    return {(THREADS_NOW, queue, state): (states[queue, state],) for queue in queues for state in THREADS}
