"""The recorder: writes down the steps of running jobs, those of many runners in one call of the store."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from neoq.clock import machine
from neoq.errors import BackendError, BackendUnavailable
from neoq.held.step import Step
from neoq.outcome import Lease
from neoq.store import Store
from neoq.threads.group_commit import Call, GroupCommit

FIRST_PAUSE, LAST_PAUSE = 0.05, 1.0  # seconds between attempts to reach the store
Entry = tuple[Lease, Sequence[Step]]


class Recorder:
    """Records steps. One of the threads that wait leads, and its call takes the steps of all others along."""

    def __init__(self, store: Store, *, patience: float) -> None:
        self._store = store
        self._patience = patience
        self._local = "local" in store.features
        self._together: GroupCommit[Entry, bool] = GroupCommit(self._commit)

    def record(self, lease: Lease, steps: Sequence[Step], asked_to_stop: Callable[[], bool]) -> bool:
        """Record steps of a running job; False where its lease was lost.

        While the store is away it tries again, as what was done would be done again. It gives up when the
        attempt is to stop, or after as long as a lease lasts.
        """
        give_up, pause = machine.monotonic() + self._patience, FIRST_PAUSE
        while True:
            try:
                if self._local:
                    return lease.job_id not in self._store.record([(lease, steps)])
                return self._together((lease, steps))
            except BackendUnavailable:
                if asked_to_stop() or machine.monotonic() + pause > give_up:
                    raise
            threading.Event().wait(pause)
            pause = min(2 * pause, LAST_PAUSE)

    def _commit(self, calls: Sequence[Call[Entry, bool]]) -> None:
        if len({call.item[0].job_id for call in calls}) < len(calls):  # an attempt, and one before it that
            for call in calls:  # has lost its lease: the store tells of jobs only, not of leases
                self._commit_alone(call)
            return
        try:
            stale = self._store.record([call.item for call in calls])
        except BackendUnavailable:
            raise
        except BackendError:
            if len(calls) == 1:
                raise
            for call in calls:  # the store refuses one of them
                self._commit_alone(call)
            return
        for call in calls:
            call.value = call.item[0].job_id not in stale
            call.ended = True

    def _commit_alone(self, call: Call[Entry, bool]) -> None:
        try:
            call.value = call.item[0].job_id not in self._store.record([call.item])
            call.ended = True
        except BackendError as error:
            call.fail(error)
