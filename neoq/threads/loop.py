"""The loop of every thread of ours: a round, a wait, and the next round, whatever the round raised.

A thread that ended by an exception would leave a process that looks alive: fenced, deaf, without schedules.
So none ends before it is closed. One that cannot be started is started later, by a loop or the next call.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from typing import Any

from neoq.clock import machine
from neoq.errors import BackendError
from neoq.threads.boundary import entrance
from neoq.threads.lifecycle import Wakeup, join, start

FIRST_PAUSE, LAST_PAUSE = 0.1, 5.0  # seconds after a round that failed
TRY_AGAIN = 0.5  # seconds between attempts to start what could not be started

Logger = logging.Logger | logging.LoggerAdapter[Any]

_late: dict[int, Callable[[], object]] = {}  # what needs a thread, and found none to be had
_living: set[Loop] = set()
_told: list[Callable[[], None]] = []  # of what is late
_turns = threading.Lock()  # held by the thread that tries again
_again_at = [0.0]  # monotonic: not before


class Loop:
    """A thread that does ``turn`` again and again until it is closed.

    ``turn`` returns how many seconds to wait for the next one; None waits for a ring. Nothing that it raises
    ends the thread: it is logged, and the pause before the next turn grows. ``away`` says so for a
    BackendError, with the error and the pause; anything else is logged with its traceback.
    ``owes`` tells whether there is something to be done yet before a closed loop may end. ``ended`` is called
    by the thread at its end: it releases what the turns have opened, however late that is.
    ``on_demand``: the first ring starts it.
    """

    def __init__(
        self,
        name: str,
        turn: Callable[[], float | None],
        log: Logger,
        *,
        away: Callable[[BackendError, float], None] | None = None,
        owes: Callable[[], bool] | None = None,
        ended: Callable[[], None] | None = None,
        pauses: tuple[float, float] = (FIRST_PAUSE, LAST_PAUSE),
        on_demand: bool = False,
    ) -> None:
        self.name = name
        self.wakeup = Wakeup()
        self.closing = False
        self.wake: Callable[[], None] = self._wake_unstarted
        self.wanted = on_demand  # start() was called
        self._turn = turn
        self._log = log
        self._away = away
        self._owes = owes
        self._ended = ended
        self._first, self._last = pauses
        self._pause = self._first
        self._said, self._said_at = "", 0.0
        self._lock = threading.RLock()
        self._starting = False
        self._missed: str | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> bool:
        """Start the thread, if it does not run; False where none is to be had yet: that is tried again."""
        with self._lock:
            if self._starting or self.is_alive():
                return True
            if self.closing:
                return False
            self.wanted = True
            self._starting = True
            try:
                return self._start()
            finally:
                self._starting = False

    def _start(self) -> bool:
        thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        try:
            start(thread)
        except (RuntimeError, MemoryError, OSError) as error:
            if thread.ident is None:
                self._say_missing(error)
                return False
            raise
        finally:
            if thread.ident is not None:  # whatever a signal handler raised
                self._thread, self._missed = thread, None
                self.wake = self.wakeup.set
        return True

    def _say_missing(self, error: BaseException) -> None:
        if not threading.main_thread().is_alive():  # the interpreter is going down, and starts none any more
            return
        try_later(self, self.start)
        if self._missed != str(error):
            self._missed = str(error)
            self._log.error("no thread for %s: %s; it is tried again", self.name, error)

    def _wake_unstarted(self) -> None:
        self.wakeup.set()
        if self.wanted and not self.closing:
            self.start()

    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def close(self, seconds: float = 0.0) -> bool:
        """Let the thread end, and wait so long for that; whether it has ended."""
        with self._lock:
            self.closing = True
        self.wakeup.set()
        return self.join(seconds)

    def join(self, seconds: float) -> bool:
        """Wait until the thread has ended, at most so long; whether it has."""
        if seconds > 0:
            join(self._thread, seconds)
        return not self.is_alive()

    def _is_over(self) -> bool:
        return self.closing and not (self._owes is not None and self._owes())

    def _run(self) -> None:
        _living.add(self)
        while True:
            try:
                self.wakeup.clear()
                if self._is_over():  # looked at after the hush, which may have taken the call of close()
                    break
                self._round()
            except BaseException:  # what is done about an exception failed itself: memory has run out
                self.wakeup.wait(self._last)
        _living.discard(self)
        if self._ended is not None:
            self._ended()

    def _round(self) -> None:
        try:
            wait = self._turn()
            self._pause = self._first
        except BaseException as error:
            if not self._is_over():
                self._say(error)
                self._rest()
            return
        if _late:
            revive(often=False)
            wait = TRY_AGAIN if wait is None else min(wait, TRY_AGAIN)
        # The ring of close() is gone where it came before this turn, for what was owed still then.
        if not self._is_over() and (wait is None or wait > 0):
            self.wakeup.wait(wait)

    def _say(self, error: BaseException) -> None:
        """Log an error, once as long as it stays the same and the pause has not passed."""
        text, now = f"{type(error).__name__} {error}", machine.monotonic()
        if text == self._said and now - self._said_at < self._pause:
            return
        self._said, self._said_at = text, now
        if isinstance(error, BackendError) and self._away is not None:
            self._away(error, self._pause)
        elif isinstance(error, BackendError):
            self._log.warning(
                "%s does not reach the store, again in %.1f s: %s", self.name, self._pause, error
            )
        else:
            self._log.error(
                "%s goes on after an error, again in %.1f s: %s",
                self.name,
                self._pause,
                error,
                exc_info=error,
            )

    def _rest(self) -> None:
        """Wait after an error. A ring shortens it, but no further than to the shortest pause."""
        pause, self._pause = self._pause, min(2 * self._pause, self._last)
        began = machine.monotonic()
        if _late:
            revive(often=False)
        while (passed := machine.monotonic() - began) < pause and not self._is_over():
            if self.wakeup.wait(pause - passed) and machine.monotonic() - began >= self._first:
                break


def try_later(owner: object, again: Callable[[], object]) -> None:
    """Have something done again that failed for want of a thread: by a loop that lives, or the next call."""
    _late[id(owner)] = again
    if not _turns.locked():  # or it has just failed again, and is tried again in a while
        for loop in list(_living):
            loop.wakeup.set()
    for tell in _told:
        tell()


def tell_of_late(tell: Callable[[], None]) -> None:
    """Have ``tell`` called whenever something is late: so that the next call calls `revive`."""
    _told.append(tell)


def revive(*, often: bool = True) -> None:
    """Try again what failed for want of a thread; one caller at a time, and not too often from loops."""
    if (not often and machine.monotonic() < _again_at[0]) or not _turns.acquire(blocking=False):
        return
    try:
        for key in list(_late):
            again = _late.pop(key, None)
            if again is not None:
                again()
        _again_at[0] = machine.monotonic() + TRY_AGAIN
    finally:
        _turns.release()


def has_late() -> bool:
    """Whether something waits for a thread that could not be started."""
    return bool(_late)


@entrance
def _forked() -> None:
    if _turns.locked():
        _turns.release()
    _late.clear()
    _living.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
