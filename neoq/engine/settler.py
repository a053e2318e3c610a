"""The settler: one thread that records outcomes in a store which is a round trip away.

It commits whatever gathered while its last commit ran, so the batches grow with the load and nobody
waits for a batch to fill. While the store is away it keeps the outcomes, and tries again.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from neoq.clock import machine
from neoq.errors import BackendError, BackendUnavailable
from neoq.outcome import Failure, Outcome
from neoq.record import Status
from neoq.store import Store
from neoq.threads.loop import Loop

MAX_BATCH = 1000
MAX_WAITING = 10_000  # outcomes; runners wait beyond
FIRST_PAUSE, LAST_PAUSE = 0.05, 2.0  # seconds between attempts to reach the store
TOGETHER = 3  # attempts to record a batch before it is parted, to find what holds it up
TRIES = (3, 2, 2)  # attempts for an outcome that is not taken though the store answers: as it is, plain, dead


@dataclass
class Suspect:
    """An outcome that failed alone: it is tried beside the others, and holds none of them up."""

    outcome: Outcome
    due: float  # monotonic
    tries: int = 0  # that the store did not take, though it answers
    pause: float = FIRST_PAUSE


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
        self._chunks: deque[list[Outcome]] = deque()  # of a batch that was taken up
        self._suspects: list[Suspect] = []
        self._failed = 0  # attempts in a row
        self._closing = False
        self._give_up = False
        self._loop = Loop(
            "neoq-settler",
            self._turn,
            logger,
            away=self._say_away,
            owes=self._owes,
            pauses=(FIRST_PAUSE, LAST_PAUSE),
            on_demand=True,
        )

    def put(self, outcomes: Sequence[Outcome]) -> None:
        """Take over outcomes; waits while very many are unsettled."""
        with self._changed:
            while len(self._waiting) > MAX_WAITING and not self._closing:
                self._changed.wait(1.0)
            self._waiting += outcomes
        self._loop.wake()

    def unsettled(self) -> list[Outcome]:
        """Outcomes that are not recorded yet."""
        with self._changed:
            in_hand = [outcome for chunk in self._chunks for outcome in chunk]
            return [*(suspect.outcome for suspect in self._suspects), *in_hand, *self._waiting]

    def _owes(self) -> bool:
        return not self._give_up and bool(self._waiting or self._chunks or self._suspects)

    def close(self, timeout: float) -> list[Outcome]:
        """Settle what is left, for up to ``timeout`` seconds; return what could not be."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._owes() and not self._loop.start():
            self._drain_here()
        self._loop.close(timeout)
        self._give_up = True
        self._loop.wakeup.set()
        return self.unsettled()

    def _drain_here(self) -> None:
        """No thread can be started any more: settle in this one."""
        try:
            while self._owes() and self._turn() == 0.0:
                pass
        except Exception as error:
            self._logger.warning("%d outcomes wait for the store: %s", len(self.unsettled()), error)

    def _say_away(self, error: BackendError, pause: float) -> None:  # noqa: ARG002
        self._logger.warning("%d outcomes wait for the store: %s", len(self.unsettled()), error)

    def _turn(self) -> float | None:
        """Settle what has gathered, or a part of it; and a suspect, if its time has come."""
        with self._changed:
            if not self._chunks and self._waiting:
                self._chunks.append(self._waiting[:MAX_BATCH])
                self._waiting = self._waiting[MAX_BATCH:]
                self._changed.notify_all()
        if self._suspects:
            self._try_a_suspect()
        if self._chunks:
            self._settle(self._chunks[0])
            return 0.0
        if self._suspects:
            return max(0.0, min(suspect.due for suspect in self._suspects) - machine.monotonic())
        return None

    def _settle(self, batch: list[Outcome]) -> None:
        """Record a batch; where it cannot be, part it, so that one outcome holds up no other for long."""
        try:
            stale = self._store.settle(batch)
        except Exception as error:
            self._failed += 1
            if not _refused(error) and (self._failed < TOGETHER or not self._answers(batch[0], error)):
                raise
            self._part(batch, _refused(error))
            return
        self._failed = 0
        with self._changed:
            self._chunks.popleft()  # before it is told, or who waits for that looks and sees it still
        self._settled(batch, stale)

    def _part(self, batch: list[Outcome], refused: bool) -> None:
        """Try the halves of a batch, or each of it where the store has said no; one alone is a suspect."""
        with self._changed:
            self._chunks.popleft()
            if len(batch) == 1:
                # What was refused is tried in plain words next.
                due = machine.monotonic() + (0.0 if refused else FIRST_PAUSE)
                self._suspects.append(Suspect(batch[0], due, TRIES[0] if refused else 0))
            elif refused:
                self._chunks.extend([outcome] for outcome in batch)
            else:
                middle = len(batch) // 2
                self._chunks.extend((batch[:middle], batch[middle:]))

    def _try_a_suspect(self) -> None:
        suspect = min(self._suspects, key=lambda one: one.due)
        if suspect.due > machine.monotonic():
            return
        job_id = suspect.outcome.lease.job_id
        try:
            stale = self._store.settle([_as_tried(suspect)])
        except Exception as error:
            if not self._gives_up(suspect, error):
                return
            self._logger.exception("the outcome of job %s could not be settled", job_id)
            stale = {job_id}
        else:
            self._failed = 0
            if suspect.tries >= TRIES[0] + TRIES[1]:
                self._logger.error("job %s is settled as dead: the store does not take its outcome", job_id)
            elif suspect.tries >= TRIES[0]:
                self._logger.warning(
                    "job %s is settled in plain words: the store does not take its outcome", job_id
                )
        with self._changed:
            self._suspects.remove(suspect)
        self._settled([suspect.outcome], stale)

    def _gives_up(self, suspect: Suspect, error: Exception) -> bool:
        """Plan the next attempt for a suspect; True where it has had them all."""
        answers = self._answers(suspect.outcome, error)
        suspect.tries += answers
        if suspect.tries >= sum(TRIES):
            return True
        suspect.due = machine.monotonic() + suspect.pause
        if answers:
            self._logger.debug("the store does not take the outcome of a job: %s", error)
        else:
            self._logger.warning("%d outcomes wait for the store: %s", len(self.unsettled()), error)
            for other in self._suspects:  # the store is away for all of them
                other.due = max(other.due, suspect.due)
        suspect.pause = min(2 * suspect.pause, LAST_PAUSE)
        with self._changed:
            self._suspects.remove(suspect)
            self._suspects.append(suspect)  # the others come first
        return False

    def _answers(self, outcome: Outcome, error: Exception) -> bool:
        """Whether the store answers otherwise: then it is the outcome. Its lease is renewed by the way."""
        if _refused(error):
            return True
        try:
            self._store.extend([outcome.lease._replace(progress=None)])
        except Exception:
            return False
        return True


def _refused(error: Exception) -> bool:
    """Whether the store has answered, and said no."""
    return isinstance(error, BackendError) and not isinstance(error, BackendUnavailable)


def _as_tried(suspect: Suspect) -> Outcome:
    """The outcome in the way that has its turn: as it is, in plain words, as dead."""
    if suspect.tries < TRIES[0]:
        return suspect.outcome
    return _plain(suspect.outcome) if suspect.tries < TRIES[0] + TRIES[1] else _dead(suspect.outcome)


def _plain(outcome: Outcome) -> Outcome:
    """The same outcome in ASCII, and without a result."""
    failure = outcome.failure
    if failure is not None:
        failure = Failure(*map(_in_ascii, failure))
    return outcome._replace(
        lease=outcome.lease._replace(progress=None), failure=failure, result=None, failed_attempts=None
    )


def _dead(outcome: Outcome) -> Outcome:
    """The same attempt as one that failed for good, with nothing that came from a handler."""
    failure = Failure("BackendError", "the store did not take the outcome of this attempt", "")
    lease = outcome.lease._replace(progress=None)
    return Outcome(lease, Status.DEAD, None, False, outcome.started_at, outcome.finished_at, failure)


def _in_ascii(text: str) -> str:
    return text.replace("\0", r"\x00").encode("ascii", "backslashreplace").decode()
