"""The heartbeat: one thread that keeps this process's claims alive in a store that other workers share.

Every heartbeat it says that the process lives, renews its leases, passes cancellations on to the runners,
and takes over from workers that died. If it could not renew for as long as a lease lives, other workers may
have the jobs by now: then this process claims nothing and stops what it runs. The watchdog judges that, since
the heartbeat itself may be held up in a call: a store whose network stands still refuses nothing.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from neoq.clock import machine
from neoq.errors import BackendError, BackendUnavailable
from neoq.job import Job
from neoq.outcome import Lease, Outcome, lease_of
from neoq.store import Extended, Reclaimed, Store, WorkerInfo
from neoq.threads.loop import Loop

if TYPE_CHECKING:
    from neoq.config import Config

PRUNE_EVERY = 60.0  # seconds
TOGETHER = 2  # attempts to renew all leases at once, before they are renewed one by one
APART_AT_MOST = 3  # renewals that fail one after another: then it is the store, and none of them


class Heartbeat:
    """Heartbeats for what one process holds."""

    def __init__(
        self,
        store: Store,
        config: Config,
        *,
        held: Callable[[], list[Job]],
        unsettled: Callable[[], list[Outcome]],
        info: Callable[[], WorkerInfo],
        extended: Callable[[list[Lease], Extended], None],
        reclaimed: Callable[[Reclaimed], None],
        abandon_leases: Callable[[set[tuple[int, int]]], None],
        fence: Callable[[bool], None],
        duties: Mapping[str, Callable[[], None]],
    ) -> None:
        self._store = store
        self._config = config
        self._logger: logging.Logger | logging.LoggerAdapter[logging.Logger] = config.log
        self._held = held
        self._unsettled = unsettled
        self._info = info
        self._extended = extended
        self._reclaimed = reclaimed
        self._abandon_leases = abandon_leases
        self._fence = fence
        self._duties = duties
        self._renewed = machine.monotonic()
        self._pruned = machine.monotonic()
        self._fenced = False
        self._refused = 0
        self._said: set[str] = set()  # in this round
        self._lock = threading.Lock()
        self._loop = Loop("neoq-heartbeat", self._beat_once, config.log)

    def start(self) -> None:
        """Start the thread, once."""
        with self._lock:
            if not self._loop.wanted:
                self._renewed = machine.monotonic()
        self._loop.start()

    def call(self) -> None:
        """Look for cancellations now."""
        self._loop.wake()

    @property
    def silence(self) -> float:
        """Seconds since the store last answered a beat."""
        return machine.monotonic() - self._renewed

    def close(self) -> None:
        """Stop the thread."""
        self._loop.close(1.0)

    def _beat_once(self) -> float:
        """Do every duty; one that fails does not stop the next."""
        asked = began = machine.monotonic()
        self._said.clear()
        alive = self._does("beat", lambda: self._store.beat(self._info()))
        leases: list[Lease] = []
        if self._does("renewal", lambda: leases.extend(self._leases())) and leases:
            asked = machine.monotonic()
            alive = self._does("renewal", lambda: self._extend(leases))
        if alive:
            self._note_renewed(asked)
        self._does("look for dead workers", self._reclaim)
        if began - self._pruned > PRUNE_EVERY:
            self._pruned = began
            self._does("pruning", self._store.prune)
        for duty, do in self._duties.items():
            self._does(duty, do)
        return self._config.heartbeat

    def _leases(self) -> list[Lease]:
        """The leases of jobs, and of outcomes that are not recorded yet: no other worker may run these."""
        unsettled = [outcome.lease._replace(progress=None) for outcome in self._unsettled()]
        return [*map(lease_of, self._held()), *unsettled]

    def _does(self, duty: str, do: Callable[[], object]) -> bool:
        """Do one duty; whether that went well."""
        if self._loop.closing:
            return False
        try:
            do()
        except BackendError as error:
            if str(error) not in self._said:  # one line, where the store is away for all duties
                self._said.add(str(error))
                self._logger.warning("the heartbeat did not reach the store: %s", error)
            return False
        except Exception:
            self._logger.exception("the heartbeat goes on after an error in its %s", duty)
            return False
        return True

    def _extend(self, leases: list[Lease]) -> None:
        self._extended(leases, self._renew(leases))

    def _renew(self, leases: list[Lease]) -> Extended:
        """Renew leases; one by one where the store does not take them together."""
        try:
            extended = self._store.extend(leases)
        except Exception as error:
            self._refused += 1
            if isinstance(error, BackendUnavailable) and self._refused < TOGETHER:
                raise
            return self._renew_apart(leases)
        self._refused = 0
        return extended

    def _renew_apart(self, leases: list[Lease]) -> Extended:
        extended, failures, error = Extended(set(), set()), 0, None
        for lease in leases:
            try:
                one = self._store.extend([lease._replace(progress=None)])
            except Exception as raised:
                failures, error = failures + 1, raised
                if failures == APART_AT_MOST:
                    break
                continue
            failures = 0
            extended.lost.update(one.lost)
            extended.cancelled.update(one.cancelled)
        if error is not None and failures >= min(APART_AT_MOST, len(leases)):
            raise error
        if error is not None:
            self._logger.warning("not every lease could be renewed: %s", error)
        return extended

    def _reclaim(self) -> None:
        reclaimed = self._store.reclaim()
        if reclaimed.returned or reclaimed.dead:
            self._reclaimed(reclaimed)
        for job in reclaimed.returned:
            self._logger.warning("job %s of %s is ready again: its worker died", job.id, job.queue)
        for job in reclaimed.dead:
            self._logger.error("job %s of %s is dead: %d workers died of it", job.id, job.queue, job.crashes)

    def _note_renewed(self, began: float) -> None:
        """A renewal that was sent at ``began`` (monotonic) was answered; perhaps long after."""
        with self._lock:
            self._renewed = began
            if not self._fenced:
                return
            if machine.monotonic() - began >= self._config.lease:
                self._loop.wake()  # too old to count: renew again at once
                return
            self._fenced = False
            self._fence(False)
        self._logger.warning("the store answers again: jobs are claimed")

    def check(self, now: float) -> float:
        """Stop what runs here where nothing was renewed for a lease: the watchdog's look at this process."""
        with self._lock:
            if not self._loop.wanted or self._loop.closing:
                return math.inf
            left = self._renewed + self._config.lease - machine.monotonic()
            if left > 0:
                return now + left
            if self._fenced:
                return now + self._config.lease
            self._fence(True)
            held = self._held()  # and nothing that is claimed once the store answers
            self._abandon_leases({(job.id, job.token) for job in held if job.id is not None})
            self._fenced = True  # at the end: what fails before is done again at the next look
        self._logger.critical(
            "no heartbeat for %g s (lease): %d jobs may be running elsewhere by now; they are "
            "interrupted here, and nothing is claimed until the store answers",
            self._config.lease,
            len(held),
        )
        return now + self._config.lease
