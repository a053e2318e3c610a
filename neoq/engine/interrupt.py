"""Stop what runs too long: the slot of each runner, and the watchdog that scans the slots.

An interrupt is raised inside the handler's thread between two bytecodes, but not where that would harm
others. It can arrive late, and code blocked in C never sees it. So a second later the watchdog settles the
attempt itself, abandons the thread and replaces it.
"""

from __future__ import annotations

import ctypes
import logging
import math
import threading
import weakref
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, cast

from neoq.clock import Clock
from neoq.engine.coroutines import close_loop
from neoq.errors import DeadlineExceeded, JobInterrupted, JobTimeout, NeoqError, UnsupportedError
from neoq.threads.boundary import entrance, is_entrance, is_wall
from neoq.threads.frames import gc_paused, stack_frames
from neoq.threads.loop import Loop
from neoq.wording.safe_logger import SafeLogger

if TYPE_CHECKING:
    from neoq.held.group import Batch
    from neoq.held.stepwise import Steps
    from neoq.job import Job
    from neoq.outcome import Outcome

GRACE = 1.0  # seconds between an interrupt and the abandonment of the thread that ignored it
REDELIVER_EVERY = 0.002  # seconds between looks whether a thread has left what must not be broken off
FLUSH_AFTER = 0.02  # seconds that an outcome may wait behind a job that turned out long

Interrupt = type[JobInterrupted]

_FRAGILE = frozenset(
    {
        *("<frozen importlib._bootstrap>", "<frozen importlib._bootstrap_external>"),
        logging.__file__,
        weakref.__file__,
        weakref.WeakSet.__init__.__code__.co_filename,
    }
)

_raise_in_thread = ctypes.pythonapi.PyThreadState_SetAsyncExc
_raise_in_thread.argtypes = (ctypes.c_ulong, ctypes.py_object)
_clear_in_thread = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p)(
    ("PyThreadState_SetAsyncExc", ctypes.pythonapi)
)


class AttemptSlot:
    """What one runner thread runs, and until when.

    The runner writes ``job`` without a lock, for that is the hot path. An interrupter sets ``asked``
    first and reads ``job`` again under the lock; the runner clears ``job`` first and reads ``asked``
    after. One of the two sees the other, so no interrupt outlives its attempt.
    """

    def __init__(
        self,
        clock: Clock,
        complete: Callable[[Job, Any, Any], None] | None = None,
        on_defer: Callable[[], None] | None = None,
    ) -> None:
        self.clock = clock
        self.max_progress = 2**20  # bytes of a message
        self.dead_hold: Container[str] = ()  # queues whose dead jobs hold the lines of their keys
        self.on_report: Callable[[], object] = bool  # called when the job reports progress
        self.job: Job | None = None
        self.until = math.inf  # monotonic
        self.why: Interrupt = JobTimeout  # what happens at `until`
        self.asked: Interrupt | None = None
        self.abandoned = False
        self.outcome: Outcome | None = None  # the attempt is over, and what follows it runs
        self.stepped: Any = None  # the `AttemptSteps` of an attempt that has asked for them
        self.step_maker: Any = None  # the `StepMaker`
        self.uncounted = False  # the attempt has failed, and is not counted so yet
        # Asked, while the thread was where nothing may break off: it is raised when it has left.
        self.deferred = False
        self.ident = 0
        self.done: deque[Job] = deque()  # succeeded, and not settled yet
        self._abandon_at = math.inf
        self._pending = False  # raised by us, not yet seen to be delivered
        self._shields = 0
        self._shielded: Job | None = None
        self._lock = threading.RLock()  # what Python runs in the middle may come here, too
        self._complete = complete
        self._on_defer = on_defer
        self._cancel_task: Callable[[], None] | None = None  # an event loop runs the handler

    def plan(self, job: Job, timeout: float | None, wall: float) -> float:
        """Get ready for an attempt, which begins as ``job`` is set; return when it will be interrupted."""
        until = math.inf if timeout is None else self.clock.monotonic() + timeout
        self.why = JobTimeout
        if job.expires is not None:
            dies = self.clock.monotonic() + job.expires - wall - job.clock_skew
            if dies <= until:
                until, self.why = dies, DeadlineExceeded
        self.until = until
        job.slot = self
        job.started = wall
        return until

    def begin_on_error(self, timeout: float | None, outcome: Outcome) -> float:
        """Get ready for what follows an attempt, which has the timeout for itself, and a second at least.

        Return when it will be interrupted; if it hangs, the attempt ends with ``outcome``.
        """
        self.why = JobTimeout
        self.outcome = outcome
        # A timeout of milliseconds would break off the reading of source files for the traceback.
        self.until = math.inf if timeout is None else self.clock.monotonic() + max(timeout, GRACE)
        return self.until

    @entrance
    def end(self) -> Interrupt | None:
        """Close an attempt whose interrupt may be under way; return what it was asked, if anything.

        The caller has set ``job`` to None, and calls again if the interrupt lands in here.
        """
        with self._lock:
            if self._pending:
                _clear_in_thread(self.ident, None)
                self._pending = False
            asked, self.asked = self.asked, None
            self.deferred = False
            self._abandon_at = math.inf
            return asked

    def asked_to_stop(self, job: Job) -> bool:
        """Whether this very attempt was asked to stop."""
        return self.job is job and self.asked is not None

    def remaining(self) -> float:
        """Seconds until the attempt is interrupted."""
        return self.until - self.clock.monotonic()

    def interrupt(self, job: Job, why: Interrupt) -> bool:
        """Raise ``why`` in the thread, if that job still runs there and was not asked before."""
        with self._lock:
            if self.asked is not None:
                return self.job is job
            self.asked = why  # before the look at job: see the class
            if self.job is not job:
                self.asked = None
                return False
            self._abandon_at = self.clock.monotonic() + GRACE
            if not (self._shields and self._shielded is job):
                self._raise(why)
            return True

    def _raise(self, why: Interrupt) -> None:
        if self.ident == threading.get_ident():
            return
        if self._cancel_task is not None:
            self._cancel_task()
            return
        # First deferred, and then the look: the thread may go on between the look and the raise. If it comes
        # into our code only then it sees this, and waits in land() for the lock, which is held here.
        self.deferred = True
        if self._on_defer is not None:
            self._on_defer()
        if not must_not_interrupt(self.ident):
            self.deferred = False
            self._pending = True
            _raise_in_thread(self.ident, self._landing(why))

    def deliver(self) -> None:
        """In the handler's thread, at a point where nothing is left halfway: raise what was deferred."""
        with self._lock:
            asked = self.asked if self.deferred and self.job is not None and not self._shields else None
            if asked is not None:
                self.deferred = False
        if asked is not None:
            raise asked

    def retry_delivery(self) -> None:
        """Raise an interrupt that was deferred, if it may land now."""
        with self._lock:
            if self.deferred and self.asked is not None and self.job is not None and not self._shields:
                self._raise(self.asked)

    def _landing(self, why: Interrupt) -> Interrupt:
        """The interrupt as a class that notes when it is raised: from then on it must not be taken back."""
        slot = self

        class Landing(why):  # type: ignore[misc, valid-type]
            def __init__(self, *args: object) -> None:
                super().__init__(*args)
                self.__class__ = why  # type: ignore[assignment]
                slot._pending = False

        return Landing

    @entrance
    @contextmanager
    def shield(self, job: Job) -> Iterator[None]:
        """No interrupt lands inside; one that was asked for meanwhile is raised at the end."""
        with self._lock:
            if self._pending:  # asked already, and about to land: rather here than inside
                self._take_back()
            if self._shielded is not job:  # the shields of an attempt before, never lowered
                self._shielded, self._shields = job, 0
            self._shields += 1
            seen = self.asked
        try:
            yield
        finally:
            asked = self._lower_shield(job, seen)
            if asked is not None:  # rather than what the block raised, after which its handler may go on
                raise asked

    def _lower_shield(self, job: Job, seen: Interrupt | None) -> Interrupt | None:
        """Take one shield away; return what is to be raised in this thread now."""
        with self._lock:
            if self._shielded is not job:
                return None
            self._shields -= 1
            if self._shields or self.job is not job or self.asked is None or self.asked is seen:
                return None
            if self.ident == threading.get_ident():
                return self.asked
            self._raise(self.asked)  # the shield was a helper's; the interrupt is for the handler
            return None

    @entrance
    @contextmanager
    def cancelling(self, cancel: Callable[[], None]) -> Iterator[None]:
        """An interrupt calls a function inside the block, and is not raised: it cancels a coroutine."""
        with self._lock:
            if self._pending:
                self._take_back()
            if self.deferred and self.asked is not None:
                raise self.asked
            self._cancel_task = cancel
        try:
            yield
        finally:
            with self._lock:
                self._cancel_task = None

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Let the thread that enters a block run the handler there."""
        ident = self.ident
        try:
            with running_in(self):
                yield
        finally:
            self.ident = ident

    def _take_back(self) -> None:
        _clear_in_thread(self.ident, None)
        self._pending = False
        if self.asked is not None:
            raise self.asked

    def abandon(self, job: Job) -> bool:
        """Leave the thread behind, if that job still runs there: what it does later counts no more."""
        with self._lock:
            if self.job is not job or self.abandoned:
                return False
            self.abandoned = True
            return True

    def complete(self, job: Job, connection: Any, result: Any) -> None:
        """Settle the attempt inside the caller's transaction."""
        if self._complete is None:
            raise UnsupportedError("job.complete() needs a backend that shares transactions", job_id=job.id)
        self._complete(job, connection, result)

    def steps_of(self, job: Job, method: str) -> Steps:
        """The steps of this attempt, which its handler asks for by a method of the job."""
        stepped = self.stepped
        if stepped is not None and stepped.job is job and self.outcome is None:
            return cast("Steps", stepped)
        if self.step_maker is None or self.outcome is not None:
            raise NeoqError(
                f"job.{method}() works only while the handler runs, and it has ended", job_id=job.id
            )
        self.stepped = self.step_maker.new_steps(job, self)
        return cast("Steps", self.stepped)

    def members(self, job: Job) -> Batch | None:
        """The members of the batch whose callback the job is."""
        return None if self.step_maker is None else cast("Batch | None", self.step_maker.members(job))

    def look_back(self, job: Job) -> None:
        """Learn how many retries the job had when it got on for the last time."""
        if self.step_maker is not None and not job.looked_back:
            self.step_maker.look_back(job)

    def meet_interrupt(self) -> None:
        """Let an interrupt land here that another thread is just about to raise, rather than later."""
        with self._lock:
            pass

    def fail(self, job: Job, error: BaseException) -> None:
        """Refuse: a handler of one job raises."""
        raise NeoqError("job.fail() is for listen_many(); raise an exception here", job_id=job.id) from error

    def due(self) -> float:
        """The monotonic time at which the watchdog has to look here again."""
        if self.job is None:  # one that is about to begin has told its time already
            return self.until if self.until > self.clock.monotonic() else math.inf
        if self.asked is None:
            return self.until
        return self.clock.monotonic() + REDELIVER_EVERY if self.deferred else self._abandon_at

    @property
    def overdue(self) -> bool:
        """Whether it was asked to stop, and has had its grace."""
        return self.asked is not None and self.clock.monotonic() >= self._abandon_at


_current = threading.local()


def current_slot() -> AttemptSlot | None:
    """The slot of this thread, if it is a runner's."""
    return getattr(_current, "slot", None)


def current_job() -> Job | None:
    """The job that this thread runs, or None outside a handler."""
    slot = current_slot()
    return None if slot is None else slot.job


def enter(slot: AttemptSlot) -> None:
    """Let this thread be the runner of a slot."""
    slot.ident = threading.get_ident()
    _current.slot = slot


@contextmanager
def running_in(slot: AttemptSlot) -> Iterator[AttemptSlot]:
    """Let this thread be the runner of a slot inside the block; blocks may be nested."""
    before = current_slot()
    enter(slot)
    try:
        yield slot
    finally:
        _current.slot = before
        if before is None:
            close_loop()


def must_not_interrupt(ident: int) -> bool:
    """Whether a thread's handler is in a call that an exception must not end halfway.

    That is one of neoq; an import or a line of log, whose locks would stay taken and hang every other thread
    that comes by; or a finalizer or the callback of a weak reference, which would swallow the exception.
    """
    with gc_paused():
        for frame in stack_frames(ident):
            if is_wall(frame):
                return False
            code = frame.f_code
            if is_entrance(frame) or code.co_filename in _FRAGILE or code.co_name == "__del__":
                return True
    return False


class Supervised(Protocol):
    """What the watchdog looks at."""

    def check(self, now: float) -> float:
        """Do what is due at ``now`` (monotonic), and return when to look again."""


class Watchdog:
    """One thread that interrupts what is over its time, and abandons what does not heed it.

    ``supervised`` yields everything whose ``check(now)`` does that, and returns when to look again.
    """

    def __init__(
        self,
        name: str,
        clock: Clock,
        supervised: Callable[[], Iterable[Supervised]],
        log: SafeLogger | None = None,
    ) -> None:
        self._clock = clock
        self._supervised = supervised
        self._log = log or SafeLogger(logging.getLogger("neoq"))
        self.wakes_at = -math.inf
        self._loop = Loop(name, self._look, self._log)

    def expect(self, due: float) -> None:
        """Make sure that the watchdog looks at ``due`` (monotonic) or earlier."""
        if due < self.wakes_at:  # callers in a hurry look at it themselves
            self._loop.wake()

    def start(self) -> None:
        """Start the thread, once."""
        if not self._loop.wanted:
            self.wakes_at = math.inf  # from now on `expect` wakes the loop
        self._loop.start()

    def close(self) -> None:
        """Stop the thread and wait for it."""
        self._loop.close(GRACE)

    def _look(self) -> float:
        # Infinity while scanning, so that a slot which begins meanwhile wakes the loop.
        self.wakes_at = math.inf
        self.wakes_at = due = self.scan()
        return due - self._clock.monotonic()

    def scan(self) -> float:
        """Look at every slot once; return when the next one is due."""
        return min((self._check(one) for one in self._supervised()), default=math.inf)

    def _check(self, one: Supervised) -> float:
        now = self._clock.monotonic()
        try:
            return one.check(now)
        except Exception:
            self._log.exception("the watchdog goes on after an error")
            return now + GRACE


class SecondLook:
    """Makes up for what was left undone where a signal handler raised, once in each ``interval``.

    Remote stores need none: there the fetcher looks for jobs as often.
    """

    def __init__(self, look: Callable[[], None], interval: float) -> None:
        self._look = look
        self._interval = interval
        self._due = -math.inf

    def hurry(self) -> None:
        """Let the next check look."""
        self._due = -math.inf

    def check(self, now: float) -> float:
        """Look if it is time: the watchdog's call."""
        if now >= self._due:
            self._due = now + self._interval
            self._look()
        return self._due
