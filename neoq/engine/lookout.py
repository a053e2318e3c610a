"""The lookout: one thread that hears which jobs have changed, for all threads of this process that wait.

It tells the workers which jobs are waited for, so that they announce these and no others. A worker may not
hear that, and an announcement may be lost, so the lookout polls as well: rarely where it hears, often where
it does not, and more rarely the longer the wait. The first polls come soon, since a worker that hears the ask
late may have settled the job just before. It has a connection while somebody waits, and for a few seconds
after that.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from neoq.clock import machine
from neoq.engine.awaited import AwaitedJob, AwaitedJobs
from neoq.errors import BackendError
from neoq.store import ANNOUNCED_AT_ONCE, Ear, Store
from neoq.threads.loop import Loop

if TYPE_CHECKING:
    from neoq.config import Config

ASK_EVERY = 20.0  # seconds between two asks for the same jobs: see REMEMBERED in announcer.py
LINGER = 5.0  # seconds that the connection stays after the last wait
SLICE = 0.1  # seconds of hearing, after which it is looked whether somebody still waits
POLL_FIRST, POLL_HEARING = 0.01, 0.02  # seconds until the first poll, without an ear and with one
POLL_GROWS, POLL_GROWS_HEARING = 1.5, 2.0  # times, from poll to poll, up to job_check_interval
DEAF_FOR = 60.0  # seconds until a store that let us not hear is asked again
REOPEN = (0.1, 2.0)  # seconds between attempts to hear again
FOUND_AT_ONCE = 500  # jobs of one look
LOOK_SHARE = 4  # times the time that a look took pass until the next one


class Lookout:
    """Looks for the jobs that this process waits for, in a store that others share."""

    def __init__(self, store: Store, config: Config, awaited: AwaitedJobs) -> None:
        self._store = store
        self._log = config.log
        self._awaited = awaited
        self._slowest = config.job_check_interval
        self._ear: Ear | None = None
        self._hears = False
        self._open_at = -math.inf  # monotonic
        self._reopen = REOPEN[0]
        self._last_waited = -math.inf
        self._asked_at = -math.inf
        self._look_at = -math.inf  # not before
        self._stale = False
        self._poll_at, self._pause = math.inf, POLL_FIRST
        self._loop = Loop(
            "neoq-lookout",
            self._turn,
            config.log,
            away=self._say_away,
            ended=self._close_ear,
            on_demand=True,
        )

    def follow(self, awaited: AwaitedJob) -> bool:
        """Look for a job from now on; whether workers were asked at once, so that its thread looks again."""
        self._pause = POLL_HEARING if self._hears else POLL_FIRST
        self._poll_at = machine.monotonic() + self._pause
        hears = self._hears and self._store.announces
        self._loop.wake()
        return hears and self._ask([awaited.job_id], every_change=awaited.every_change)

    def close(self) -> None:
        """Look no more."""
        self._loop.close(1.0)
        self._close_ear()

    def _say_away(self, error: BackendError, pause: float) -> None:
        self._log.debug("jobs that are waited for are looked for again in %.1f s: %s", pause, error)

    def _turn(self) -> float | None:
        now = machine.monotonic()
        if self._awaited:
            self._last_waited = now
        elif self._ear is None or now - self._last_waited > LINGER:
            self._close_ear()
            return None
        if self._ear is None and now >= self._open_at:
            self._open(now)
        if self._ear is not None:
            self._hear(self._ear)
        if self._stale and machine.monotonic() >= self._look_at:
            self._look()
        elif machine.monotonic() >= self._poll_at:
            self._poll()
        return 0.0 if self._ear is not None else max(0.0, self._poll_at - machine.monotonic())

    def _open(self, now: float) -> None:
        try:
            self._ear = self._store.open_ear()
        except BackendError as error:
            self._pause_hearing(error)
            return
        self._open_at = now + DEAF_FOR
        if self._ear is not None:
            self._reopen = REOPEN[0]
            self._hears = True  # before the first ask for all: who begins to wait later asks by itself

    def _pause_hearing(self, error: BackendError) -> None:
        self._open_at = machine.monotonic() + self._reopen
        self._reopen = min(2 * self._reopen, REOPEN[1])
        self._pause = POLL_FIRST
        self._poll_at = min(self._poll_at, machine.monotonic() + self._pause)
        self._log.debug("changes of jobs are not heard, and polled for: %s", error)

    def _close_ear(self) -> None:
        ear, self._ear, self._hears = self._ear, None, False
        if ear is not None:
            self._open_at = -math.inf
            ear.close()

    def _hear(self, ear: Ear) -> None:
        wake_at = min(self._poll_at, self._look_at if self._stale else math.inf)
        try:
            changed = ear.hear(max(0.0, min(SLICE, wake_at - machine.monotonic())))
        except BaseException as error:
            self._close_ear()
            if not isinstance(error, BackendError):
                raise
            self._pause_hearing(error)
            return
        if changed:
            self._awaited.note_changed(changed)
        if changed is None:
            self._stale = True
        if changed is None or machine.monotonic() - self._asked_at > ASK_EVERY:
            self._ask_for_all()

    def _ask_for_all(self) -> None:
        self._asked_at = machine.monotonic()
        if self._store.announces:
            for every_change in (False, True):
                ids = self._awaited.ids(every_change=every_change)
                for start in range(0, len(ids), ANNOUNCED_AT_ONCE):
                    self._ask(ids[start : start + ANNOUNCED_AT_ONCE], every_change=every_change)

    def _ask(self, job_ids: list[int], *, every_change: bool) -> bool:
        try:
            self._store.ask(job_ids, every_change=every_change)
        except BackendError as error:
            self._log.debug("workers do not know which jobs are waited for, and they are polled: %s", error)
            return False
        return True

    def _poll(self) -> None:
        grows = POLL_GROWS_HEARING if self._hears else POLL_GROWS
        self._pause = min(grows * self._pause, self._slowest)
        self._look()
        self._poll_at = max(machine.monotonic() + self._pause, self._look_at)

    def _look(self) -> None:
        """Ask the store for all jobs that are waited for."""
        began = machine.monotonic()
        self._stale = False
        ids = self._awaited.ids()
        for start in range(0, len(ids), FOUND_AT_ONCE):
            part = ids[start : start + FOUND_AT_ONCE]
            found = self._store.of_ids(part)
            self._awaited.note_found(part, {job.id: job for job in found})
        now = machine.monotonic()
        self._look_at = now + LOOK_SHARE * (now - began)
