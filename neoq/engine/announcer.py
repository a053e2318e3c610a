"""The announcer: tells other processes of changes of jobs that they wait for, and of no others."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING

from neoq.clock import machine
from neoq.errors import BackendError
from neoq.outcome import Outcome
from neoq.record import FINISHED
from neoq.store import ANNOUNCED_AT_ONCE, Store
from neoq.threads.loop import Loop

if TYPE_CHECKING:
    from neoq.config import Config

REMEMBERED = 60.0  # seconds that an ask holds; who still waits asks again sooner
MOST = 100_000  # jobs that are remembered; the oldest asks are forgotten beyond


class Announcer:
    """Knows which jobs other processes have asked for, and sends what became of these."""

    def __init__(self, store: Store, config: Config) -> None:
        self._store = store
        self._log = config.log
        self._lock = threading.RLock()
        # By id, the oldest ask first: until when it holds, and whether it is for every change.
        self._asked: dict[int, tuple[float, bool]] = {}
        self._changed: dict[int, None] = {}  # to be announced
        self._loop = Loop(
            "neoq-announcer", self._turn, config.log, owes=lambda: bool(self._changed), on_demand=True
        )

    @property
    def was_asked(self) -> bool:
        """Whether another process waits for any job."""
        return bool(self._asked)

    def close(self) -> None:
        """Announce what is left."""
        self._loop.close(1.0)

    def note_asked(self, job_ids: Iterable[int], every_change: bool) -> None:
        """Another process waits for these jobs, or watches them."""
        now = machine.monotonic()
        with self._lock:
            for job_id in job_ids:
                _, every = self._asked.pop(job_id, (now, False))
                self._asked[job_id] = now + REMEMBERED, every or every_change
            for job_id, (until, _) in list(self._asked.items()):
                if until > now and len(self._asked) <= MOST:
                    break
                del self._asked[job_id]

    def note_outcomes(self, outcomes: Iterable[Outcome], stale: set[int]) -> None:
        """Outcomes were recorded here."""
        if not self._asked:
            return
        changed = []
        with self._lock:
            for outcome in outcomes:
                job_id = outcome.lease.job_id
                ends = outcome.status in FINISHED
                if self._is_asked(job_id, ends=ends) and job_id not in stale:
                    changed.append(job_id)
                    if ends:
                        del self._asked[job_id]
        self.announce(changed)

    def ends_asked_for(self, outcomes: Iterable[Outcome]) -> list[int]:
        """The jobs of these outcomes whose end another process waits for."""
        if not self._asked:
            return []
        with self._lock:
            ids = [outcome.lease.job_id for outcome in outcomes]
            return [job_id for job_id in ids if self._is_asked(job_id, ends=True)]

    def note_announced(self, job_ids: Iterable[int]) -> None:
        """The store itself has announced the end of these jobs."""
        with self._lock:
            for job_id in job_ids:
                self._asked.pop(job_id, None)

    def note_changed(self, job_ids: Iterable[int], *, may_have_ended: bool = False) -> None:
        """Jobs have changed, as a worker that runs jobs knows."""
        if self._asked:
            with self._lock:
                changed = [job_id for job_id in job_ids if self._is_asked(job_id, ends=may_have_ended)]
            self.announce(changed)

    def _is_asked(self, job_id: int, *, ends: bool) -> bool:
        until, every_change = self._asked.get(job_id, (0.0, False))
        if until <= machine.monotonic():
            self._asked.pop(job_id, None)
            return False
        return ends or every_change

    def announce(self, job_ids: Iterable[int]) -> None:
        """Announce changes, whether this process was asked to or not."""
        if not self._store.announces:
            return
        with self._lock:
            self._changed.update(dict.fromkeys(job_ids))
        if self._changed:
            self._loop.wake()

    def _turn(self) -> None:
        with self._lock:
            changed, self._changed = list(self._changed), {}
        if not changed:
            return
        try:
            self._store.announce(changed if len(changed) <= ANNOUNCED_AT_ONCE else None)
        except BackendError as error:
            self._log.debug("changes of jobs were not announced, and are found by polling: %s", error)
