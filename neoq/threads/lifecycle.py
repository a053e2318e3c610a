"""The beginning and the end of a thread, and a thread for what may never end."""

from __future__ import annotations

import _thread
import sys
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from neoq.errors import NeoqError

T = TypeVar("T")


def start(thread: threading.Thread) -> None:
    """Start a thread; what a signal handler raises meanwhile is raised when it has begun.

    Signal handlers run in the main thread. An exception of theirs that lands in `Thread.start`, as that waits
    for the thread to begin, leaves a lock in disorder: the thread may die of it, or run while its starter is
    told otherwise. So there a thread in between starts it.

    Raises RuntimeError where there is no thread to be had.
    """
    if threading.current_thread() is not threading.main_thread():
        thread.start()
        return
    outcome: list[BaseException | None] = []
    told = threading.Lock()  # a plain lock, which an exception cannot harm
    told.acquire()

    def begin() -> None:
        try:
            thread.start()
            outcome.append(None)
        except BaseException as error:
            outcome.append(error)
        told.release()

    asked: list[int] = []
    landed: BaseException | None = None
    while not outcome:
        try:
            if not asked:  # in one call of C: nothing lands between the beginning and our knowing of it
                asked.extend(map(_thread.start_new_thread, (begin,), ((),)))
            told.acquire()
        except BaseException as error:
            if isinstance(error, RuntimeError) and not asked:
                raise
            landed = landed or error
    if outcome[0] is not None:
        raise outcome[0]
    if landed is not None:
        raise landed


def try_start(thread: threading.Thread) -> bool:
    """Start a thread; False where there is none to be had."""
    try:
        start(thread)
    except (RuntimeError, MemoryError, OSError):
        return False
    return True


def refuse_isolated() -> None:
    """Raise a NeoqError in an interpreter that may have no threads, as some sub-interpreters."""
    try:
        _thread.start_new_thread(int, ())
    except RuntimeError as error:
        if "interpreter" not in str(error) or "shutdown" in str(error):  # none for now, or none any more
            return
        raise NeoqError(
            f"this sub-interpreter may start no threads, and so run no jobs ({error}); run them in the main "
            "interpreter: under mod_wsgi set WSGIApplicationGroup %{GLOBAL}"
        ) from error


def green_threads() -> str | None:
    """What has put green threads in the place of the system's, which nothing can interrupt; mostly None."""
    gevent: Any = sys.modules.get("gevent.monkey")
    if gevent is not None and gevent.is_module_patched("threading"):
        return "gevent"
    eventlet: Any = sys.modules.get("eventlet.patcher")
    if eventlet is not None and eventlet.is_monkey_patched("thread"):
        return "eventlet"
    return None


def join(thread: threading.Thread | None, seconds: float) -> None:
    """Wait for a thread, if there is one to wait for.

    It may be the caller's own, or not started: an exception from a signal handler can come between making
    a thread and starting it.
    """
    if thread is not None and thread.ident is not None and thread is not threading.current_thread():
        thread.join(seconds)


def await_change(
    lock: threading.RLock, changed: threading.Condition, unchanged: Callable[[], bool], seconds: float
) -> None:
    """Wait for a notification of a condition on this lock, at most so long; not where something has changed.

    The lock is taken by itself: a Condition's own `with` is Python code, which an exception of a signal
    handler may leave halfway, with the lock taken.
    """
    try:
        with lock:
            if unchanged():
                changed.wait(seconds)
    except RuntimeError as error:  # what a signal handler raises can come while wait() has not got the
        if error.__context__ is None:  # lock back: then the end of the block has nothing to release
            raise
        raise error.__context__ from None


def in_time(work: Callable[[], T], seconds: float) -> T | None:
    """What ``work`` returns in a thread of its own; None where that takes longer, or there is no thread."""
    returned: list[T] = []
    thread = threading.Thread(target=lambda: returned.append(work()), name="neoq-in-time", daemon=True)
    if not try_start(thread):
        return None
    join(thread, seconds)
    return returned[0] if returned else None


class Wakeup:
    """Wakes the one thread that waits for it. If it is set before the wait, the wait returns at once.

    A `threading.Event` would do, but for signals: it is Python code around a lock, which an exception of a
    signal handler may leave taken for good. This is one call of C.
    """

    def __init__(self) -> None:
        self._silent = threading.Lock()
        self._silent.acquire()

    def set(self) -> None:
        """Let the thread that waits go on, or the next wait return at once."""
        if self._silent.locked():
            try:
                self._silent.release()
            except RuntimeError:  # another thread has just set it
                pass

    def wait(self, seconds: float | None) -> bool:
        """Wait until it is set, for so long or (None) for ever; return whether it was set, and clear it."""
        return self._silent.acquire(timeout=-1 if seconds is None else min(seconds, threading.TIMEOUT_MAX))

    def clear(self) -> None:
        """Clear it without a wait."""
        self._silent.acquire(blocking=False)


class BoundedCall:
    """Runs a call that may never return in a thread of its own; its caller waits only so long.

    It can be started beforehand: while the interpreter goes down, none can be started any more.
    """

    def __init__(self, name: str) -> None:
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._lock = threading.Lock()
        self._asked = threading.Event()
        self._done = threading.Event()
        self._work: Callable[[], None] = _nothing
        self._raised: BaseException | None = None

    def start(self) -> None:
        """Start the thread, once; RuntimeError where the interpreter is going down."""
        with self._lock:
            if self._thread.ident is None:
                start(self._thread)

    def prepare(self) -> None:
        """Start the thread, once, if there is one to be had; else `run` does the work in the caller's."""
        try:
            self.start()
        except RuntimeError:
            pass

    def run(self, work: Callable[[], None], seconds: float) -> bool:
        """Do the work, and raise what it raised; False where it is not done in time, and goes on."""
        try:
            self.start()
        except RuntimeError:  # nor has this process run a job, so it has little to say to its store
            work()
            return True
        self._work = work
        self._asked.set()
        if not self._done.wait(seconds):
            return False
        join(self._thread, 1.0)
        if self._raised is not None:
            raise self._raised
        return True

    def _run(self) -> None:
        self._asked.wait()
        try:
            self._work()
        except BaseException as error:
            self._raised = error
        finally:
            self._done.set()


def _nothing() -> None:
    pass
