"""The keeper: one thread that keeps this process's claims alive in a store that others share.

Every heartbeat it says that the process lives, renews its leases, passes cancellations on to the runners,
and takes over from workers that died. If it could not renew for as long as a lease lives, others may have
the jobs by now: then this process claims nothing and stops what it runs. The watchdog judges that, since the
keeper itself may be held up in a call: a store whose network stands still refuses nothing.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from neoq.errors import BackendError
from neoq.job import Job
from neoq.store import Lease, Store, WorkerInfo
from neoq.threads import Bell, join, start

if TYPE_CHECKING:
    from neoq.config import Config

PRUNE_EVERY = 60.0  # seconds


class Keeper:
    """Heartbeats for what one process holds."""

    def __init__(
        self,
        store: Store,
        config: Config,
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
        self._held = held
        self._info = info
        self._cancel = cancel
        self._lose = lose
        self._fence = fence
        self._renewed = time.monotonic()
        self._pruned = time.monotonic()
        self._fenced = False
        self._closing = False
        self._call = Bell()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread, once."""
        with self._lock:
            if self._thread is None and not self._closing:
                self._renewed = time.monotonic()
                self._thread = threading.Thread(target=self._run, name="neoq-keeper", daemon=True)
                start(self._thread)

    def call(self) -> None:
        """Look for cancellations now."""
        self._call.ring()

    def close(self) -> None:
        """Stop the thread."""
        with self._lock:
            self._closing = True
            thread = self._thread
        self._call.ring()
        join(thread, 1.0)

    def _run(self) -> None:
        while True:
            self._call.hush()
            if self._closing:  # looked at after the hush, which may have taken its call
                return
            try:
                self._keep()
            except BackendError as error:
                self._logger.warning("the heartbeat did not reach the store: %s", error)
            self._call.wait(self._config.heartbeat)

    def _keep(self) -> None:
        store = self._store
        began = time.monotonic()
        store.beat(self._info())
        leases = [Lease(job.id, job.queue, job._token, job._progress) for job in self._held()]
        if leases:
            lost, cancelled = store.extend(leases)
            # By lease and not by job: it may have been settled meanwhile, and claimed again by this process.
            self._lose({(lease.job_id, lease.token) for lease in leases if lease.job_id in lost})
            self._cancel(cancelled)
        self._note_renewed(began)
        reclaimed = store.reclaim()
        for job in reclaimed.returned:
            self._logger.warning("job %s of %s is ready again: its worker died", job.id, job.queue)
        for job in reclaimed.dead:
            self._logger.error("job %s of %s is dead: %d workers died of it", job.id, job.queue, job.crashes)
        if began - self._pruned > PRUNE_EVERY:
            self._pruned = began
            store.prune()

    def _note_renewed(self, began: float) -> None:
        """A renewal that was sent at ``began`` (monotonic) was answered; perhaps long after."""
        with self._lock:
            self._renewed = began
            if not self._fenced:
                return
            if time.monotonic() - began >= self._config.lease:
                self._call.ring()  # it tells nothing of now: ask again at once
                return
            self._fenced = False
            self._fence(False)
        self._logger.warning("the store answers again: jobs are claimed")

    def check(self, now: float) -> float:
        """Stop what runs here where nothing was renewed for a lease: the watchdog's look at this process."""
        with self._lock:
            if self._thread is None or self._closing:
                return math.inf
            left = self._renewed + self._config.lease - time.monotonic()
            if left > 0:
                return now + left
            if self._fenced:
                return now + self._config.lease
            self._fenced = True
            self._fence(True)
            held = self._held()  # and nothing that is claimed once the store answers
        self._logger.critical(
            "no heartbeat for %g s (lease): %d jobs may be run by others now; they are stopped here and "
            "nothing is claimed until the store answers",
            self._config.lease,
            len(held),
        )
        self._lose({(job.id, job._token) for job in held if job.id is not None})
        return now + self._config.lease
