"""Board: what all pages of a process share, asked of the store at most once in two seconds."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, cast

from neoq.dashboard.failures import Fault, Faults
from neoq.dashboard.sweeps import Sweeps
from neoq.errors import BackendError, LookTimeoutError
from neoq.filter import Filter
from neoq.threads.lifecycle import BoundedCall, start

if TYPE_CHECKING:
    from neoq.backend import Backend
    from neoq.dashboard.mask import Mask
    from neoq.job import Job
    from neoq.schedules import ScheduleInfo
    from neoq.series import SeriesPoint
    from neoq.store import QueueCounts, WorkerInfo

T = TypeVar("T")
FRESH = 2.0  # seconds for which nobody asks again
SELDOM = 10.0  # where the answer takes the store more
Span = Literal["hour", "day"]
# How far each goes back, in seconds, and for how long it is fresh: stores get new numbers each 5 s.
_SERIES: dict[Span, tuple[float, float]] = {"hour": (3700.0, 5.0), "day": (87_600.0, 30.0)}
PATIENCE = 1.0  # seconds that a page waits for an answer, if it can show an older one
FIRST_PATIENCE = 5.0  # seconds that it waits if it cannot
SHARED = 1.0  # for which a list is the same for all who look at it
MOST_SHARED = 64  # lists
LOST = 30.0  # after which a question is asked again that hangs, or that a fork has left behind
MOST_ASKED = 16  # questions of pages that are on their way


class StoreAway(BackendError):
    """The store does not answer, and there is nothing older to show."""


@dataclass(frozen=True)
class Seen(Generic[T]):
    """The last known answer of the store, its age in seconds, and why there is no newer one, if so."""

    value: T
    age: float
    late: str | None = None


class Look(Generic[T]):
    """One question to the store: asked by one thread at a time, and not again while the answer is fresh."""

    def __init__(
        self, ask: Callable[[], T], clock: Callable[[], float] = time.monotonic, fresh: float = FRESH
    ) -> None:
        self._ask = ask
        self._fresh = fresh
        self._clock = clock
        self._lock = threading.Lock()
        self._answer: tuple[T, float] | None = None
        self._error: BaseException | None = None
        self._asked_at = float("-inf")
        self._flight: threading.Event | None = None

    def seen(self, first_patience: float | None = None) -> Seen[T]:
        """The answer; StoreAway where there never was one, and none comes in time."""
        flight = self._flight_of_now()
        first = FIRST_PATIENCE if first_patience is None else first_patience
        answered = flight is None or flight.wait(first if self._answer is None else PATIENCE)
        with self._lock:
            answer, error = self._answer, self._error
        if answer is None:
            if isinstance(error, LookTimeoutError):
                raise error
            if error is None or isinstance(error, BackendError):
                raise StoreAway(str(error or f"it has not answered for {first:g} s")) from error
            raise error
        late = str(error) if error else None if answered else f"it has not answered for {PATIENCE:g} s"
        return Seen(answer[0], self._clock() - answer[1], late)

    def forget(self) -> None:
        """Ask anew next time: somebody has changed something."""
        with self._lock:
            self._asked_at = float("-inf")
            self._flight = None  # what it will answer is from before

    def _flight_of_now(self) -> threading.Event | None:
        """The question that is on its way, or begins now; None while the answer is fresh."""
        with self._lock:
            now = self._clock()
            patience = self._fresh if self._flight is None else LOST
            if now - self._asked_at < patience:
                return self._flight
            self._asked_at = now
            flight = self._flight = threading.Event()
        _in_thread(partial(self._fly, flight))
        return flight

    def _fly(self, flight: threading.Event) -> None:
        answer: T | None = None
        error: BaseException | None = None
        try:
            answer = self._ask()
        except BaseException as failed:
            error = failed
        with self._lock:
            if self._flight is flight:
                if error is None:
                    self._answer = (answer, self._clock())  # type: ignore[assignment]
                self._error = error
                self._flight = None
        flight.set()


def _in_thread(work: Callable[[], None]) -> None:
    """Do something in a thread of its own, or here where the system has no more threads."""
    try:
        start(threading.Thread(target=work, name="neoq-dashboard-look", daemon=True))
    except RuntimeError:
        work()


class Board:
    """What pages get to work with: the backend, the mask, and what all of them share."""

    def __init__(self, backend: Backend, mask: Mask) -> None:
        self.backend = backend
        self.mask = mask
        self._counts = Look(backend.queues)
        self._workers = Look(backend.workers)
        self._schedules = Look(backend.schedules)
        self.sweeps = Sweeps()
        self._lock = threading.Lock()
        self._shared: OrderedDict[Hashable, Look[Any]] = OrderedDict()
        self._made: OrderedDict[Hashable, tuple[object, object]] = OrderedDict()
        self._asking = threading.BoundedSemaphore(MOST_ASKED)
        self._series = {
            span: Look(partial(backend.series, since=since), fresh=fresh)
            for span, (since, fresh) in _SERIES.items()
        }
        self._faults = Look(Faults(backend).read, fresh=SELDOM)

    def counts(self) -> Seen[list[QueueCounts]]:
        """Every queue's jobs, counted."""
        return self._counts.seen()

    def workers(self) -> Seen[list[WorkerInfo]]:
        """The processes that run jobs."""
        return self._workers.seen()

    def schedules(self) -> Seen[list[ScheduleInfo]]:
        """The schedules."""
        return self._schedules.seen()

    def series(self, span: Span) -> Seen[list[SeriesPoint]]:
        """What the attempts of each queue came to, in the last hour or the last day."""
        return self._series[span].seen()

    def faults(self, first_patience: float | None = None) -> Seen[list[Fault]]:
        """The newest dead jobs, as far as groups need them; with many the first look takes a while."""
        return self._faults.seen(first_patience)

    def changed(self) -> None:
        """Let the next page show what an action did."""
        for look in (self._counts, self._workers, self._schedules, self._faults):
            look.forget()
        with self._lock:
            self._shared.clear()

    def heard(self) -> dict[str, int]:
        """How many processes listen on each queue."""
        heard: dict[str, int] = {}
        for worker in self.workers().value:
            for queue in worker.queues:
                heard[queue] = heard.get(queue, 0) + 1
        return heard

    def brief(self, ids: list[int]) -> list[Job]:
        """The jobs of these ids that exist, with the beginning of their payload only."""
        wanted, backend = Filter(ids=ids), self.backend
        backend.engine.ensure_readable()
        return self.ask(lambda: backend.store.find_brief(wanted, limit=len(ids)).jobs) if ids else []

    def shared(self, key: Hashable, question: Callable[[], T], *, anew: bool = False) -> Seen[T]:
        """What many ask alike, such as a list that several look at; ``anew``: as it is now."""
        with self._lock:
            look = self._shared.get(key)
            if look is None:
                look = self._shared[key] = Look(partial(self.ask, question), fresh=SHARED)
            self._shared.move_to_end(key)
            while len(self._shared) > MOST_SHARED:
                self._shared.popitem(last=False)
        if anew:
            look.forget()
        return look.seen()

    def made(self, key: Hashable, source: object, make: Callable[[], T]) -> T:
        """What is made of an answer of the store, such as a drawing: once for all who look at it."""
        with self._lock:
            known = self._made.get(key)
        if known is not None and known[0] is source:
            return cast("T", known[1])
        value = make()
        with self._lock:
            self._made[key] = (source, value)
            self._made.move_to_end(key)
            while len(self._made) > MOST_SHARED:
                self._made.popitem(last=False)
        return value

    def ask(self, question: Callable[[], T]) -> T:
        """What the store answers to a page of its own; StoreAway where it takes too long.

        So a store that hangs holds up some threads that wait for it, and never those that serve pages.
        """
        if not self._asking.acquire(blocking=False):
            raise StoreAway("it has not answered what other pages have asked")
        answers: list[T] = []

        def ask() -> None:
            try:
                answers.append(question())
            finally:
                self._asking.release()

        if not BoundedCall("neoq-dashboard-look").run(ask, FIRST_PATIENCE):
            raise StoreAway(f"it has not answered for {FIRST_PATIENCE:g} s")
        return answers[0]
