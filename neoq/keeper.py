"""The keeper: one thread that keeps this process's claims alive in a store that others share.

Every heartbeat it says that the process lives, renews its leases, passes cancellations on to the runners,
and takes over from workers that died. If it could not renew for as long as a lease lives, others may have
the jobs by now: then this process claims nothing and stops what it runs.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from neoq.errors import BackendError
from neoq.job import Job
from neoq.store import Lease, Store, WorkerInfo
from neoq.threads import join

if TYPE_CHECKING:
    from neoq.clock import Clock
    from neoq.config import Config

PRUNE_EVERY = 60.0  # seconds


class Keeper:
    """Heartbeats for what one process holds."""

    def __init__(
        self,
        store: Store,
        config: Config,
        clock: Clock,
        *,
        held: Callable[[], list[Job]],
        info: Callable[[], WorkerInfo],
        cancel: Callable[[set[int]], None],
        lose: Callable[[set[tuple[int, int]]], None],
        fence: Callable[[bool], None],
    ) -> None:
        self._store = store
        self._config = config
        self._logger: logging.Logger | logging.LoggerAdapter[logging.Logger] = config.log
        self._clock = clock
        self._held = held
        self._info = info
        self._cancel = cancel
        self._lose = lose
        self._fence = fence
        self._renewed = clock.monotonic()
        self._pruned = clock.monotonic()
        self._fenced = False
        self._closing = False
        self._call = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread, once."""
        with self._lock:
            if self._thread is None and not self._closing:
                self._renewed = self._clock.monotonic()
                self._thread = threading.Thread(target=self._run, name="neoq-keeper", daemon=True)
                self._thread.start()

    def call(self) -> None:
        """Look for cancellations now."""
        self._call.set()

    def close(self) -> None:
        """Stop the thread."""
        with self._lock:
            self._closing = True
            thread = self._thread
        self._call.set()
        join(thread, 1.0)

    def _run(self) -> None:
        while not self._closing:
            self._call.clear()
            try:
                self._keep()
            except BackendError as error:
                self._logger.warning("the heartbeat did not reach the store: %s", error)
                self._check_lease()
            self._call.wait(self._config.heartbeat)

    def _keep(self) -> None:
        store = self._store
        began = self._clock.monotonic()
        store.beat(self._info())
        leases = [Lease(job.id, job.queue, job._token, job._progress) for job in self._held()]  # type: ignore[arg-type]
        if leases:
            lost, cancelled = store.extend(leases)
            # By lease and not by job: it may have been settled meanwhile, and claimed again by this process.
            self._lose({(lease.job_id, lease.token) for lease in leases if lease.job_id in lost})
            self._cancel(cancelled)
        self._renewed = began
        if self._fenced:
            self._fenced = False
            self._fence(False)
        reclaimed = store.reclaim()
        for job in reclaimed.returned:
            self._logger.warning("job %s of %s is ready again: its worker died", job.id, job.queue)
        for job in reclaimed.dead:
            self._logger.error("job %s of %s is dead: %d workers died of it", job.id, job.queue, job.crashes)
        if began - self._pruned > PRUNE_EVERY:
            self._pruned = began
            store.prune()

    def _check_lease(self) -> None:
        if self._fenced or self._clock.monotonic() - self._renewed < self._config.lease:
            return
        self._fenced = True
        held = self._held()
        self._logger.critical(
            "no heartbeat for %g s (lease): %d jobs may be run by others now; they are stopped here and "
            "nothing is claimed until the store answers",
            self._config.lease,
            len(held),
        )
        self._fence(True)
        self._lose({(job.id, job._token) for job in held if job.id is not None})
