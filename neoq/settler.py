"""The settler: one thread that records outcomes in a store which is a round trip away.

It commits whatever gathered while its last commit ran, so the batches grow with the load and nobody
waits for a batch to fill. While the store is away it keeps the outcomes, and tries again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from neoq.errors import BackendError, BackendUnavailable
from neoq.store import Failure, Outcome, Store
from neoq.threads import join, start

MAX_BATCH = 1000
MAX_WAITING = 10_000  # outcomes; runners wait beyond
FIRST_PAUSE, LAST_PAUSE = 0.05, 2.0  # seconds between attempts to reach the store


class Settler:
    """Takes outcomes from many runners and settles them in batches."""

    def __init__(
        self,
        store: Store,
        settled: Callable[[Sequence[Outcome], set[int]], None],
        logger: logging.Logger | logging.LoggerAdapter[logging.Logger],
    ) -> None:
        self._store = store
        self._settled = settled
        self._logger = logger
        self._changed = threading.Condition()
        self._waiting: list[Outcome] = []
        self._in_hand: list[Outcome] = []
        self._closing = False
        self._give_up = False
        self._thread: threading.Thread | None = None

    def put(self, outcomes: list[Outcome]) -> None:
        """Take over outcomes; waits while very many are unsettled."""
        with self._changed:
            while len(self._waiting) > MAX_WAITING and not self._closing:
                self._changed.wait(1.0)
            self._waiting += outcomes
            if self._thread is None and not self._give_up:
                self._start()
            self._changed.notify_all()

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="neoq-settler", daemon=True)
        try:
            start(self._thread)
        except RuntimeError:  # the interpreter is going down; close() settles what is here
            self._thread = None

    def unsettled(self) -> list[Outcome]:
        """Outcomes that are not recorded yet."""
        with self._changed:
            return [*self._in_hand, *self._waiting]

    def close(self, timeout: float) -> list[Outcome]:
        """Settle what is left, for up to ``timeout`` seconds; return what could not be."""
        with self._changed:
            self._closing = True
            if self._thread is None and self._waiting:
                self._start()
            self._changed.notify_all()
            thread = self._thread
        if thread is None:
            self._drain_here()
        else:
            join(thread, timeout)
        with self._changed:
            self._give_up = True
            self._changed.notify_all()
        return self.unsettled()

    def _drain_here(self) -> None:
        """No thread can be started any more: settle in this one."""
        batch = self._next_batch()
        while batch and self._settle(batch):
            batch = self._next_batch()

    def _run(self) -> None:
        pause = FIRST_PAUSE
        while batch := self._next_batch():
            while not self._settle(batch):
                with self._changed:
                    if self._give_up:
                        return
                    self._changed.wait(pause)
                pause = min(2 * pause, LAST_PAUSE)
            pause = FIRST_PAUSE

    def _next_batch(self) -> list[Outcome]:
        """Whatever has gathered; empty at the end."""
        with self._changed:
            self._in_hand = []
            while not self._waiting and not self._closing:
                self._changed.wait()
            self._in_hand, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
            self._changed.notify_all()
            return self._in_hand

    def _settle(self, batch: list[Outcome]) -> bool:
        """Record a batch; False where the store cannot be reached now."""
        try:
            stale = self._record(batch)
        except BackendUnavailable as error:
            self._logger.warning("%d outcomes wait for the store: %s", len(batch), error)
            return False
        with self._changed:
            self._in_hand = []  # before it is told, or who waits for that looks and sees it still
        self._settled(batch, stale)
        return True

    def _record(self, batch: list[Outcome]) -> set[int]:
        """Settle a batch; where the store refuses it one by one, so that one holds up no neighbour."""
        try:
            return self._store.settle(batch)
        except BackendUnavailable:
            raise
        except BackendError:
            return set().union(*map(self._record_alone, batch))

    def _record_alone(self, outcome: Outcome) -> set[int]:
        """Settle one outcome; without what a store may not be able to write, if it must be."""
        try:
            return self._store.settle([outcome])
        except BackendUnavailable:
            raise
        except BackendError as error:
            self._logger.warning("job %s is settled in plain words: %s", outcome.lease.job_id, error)
        try:
            return self._store.settle([_plain(outcome)])
        except BackendUnavailable:
            raise
        except BackendError:
            self._logger.exception("the outcome of job %s could not be settled", outcome.lease.job_id)
            return {outcome.lease.job_id}


def _plain(outcome: Outcome) -> Outcome:
    """The same outcome in ASCII, and without a result."""
    failure = outcome.failure
    if failure is not None:
        failure = Failure(*map(_in_ascii, failure))
    return outcome._replace(lease=outcome.lease._replace(progress=None), failure=failure, result=None)


def _in_ascii(text: str) -> str:
    return text.replace("\0", r"\x00").encode("ascii", "backslashreplace").decode()
