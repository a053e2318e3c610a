"""Writes of many threads in one commit: one of those who wait leads, and takes all who wait along.

A commit costs a wait for the disk, whatever is in it. Who finds nobody committing begins at once, unless
several were here just now: then whoever completes their number leads, or the first of them after a moment.
The first whom a commit has sent on would otherwise lead the next one alone, and the others wait for it:
commits of many and commits of one would take turns.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from neoq.errors import BackendUnavailable

if TYPE_CHECKING:
    from neoq.sqlite_jobs import Ledger

T = TypeVar("T")
Work = Callable[["Ledger"], T]

PATIENCE, PATIENCE_AT_MOST = 0.3, 0.002  # of the last commit's time, and seconds
MAX_BATCH = 200  # operations that share a commit, at most
LOOKS_EVERY = 1.0  # seconds; a wake is lost only where an interrupt hit the one who was to give it


class Operation(Generic[T]):
    """What one caller wants written, and what became of it."""

    __slots__ = ("baton", "ended", "error", "lasting", "taken", "value", "work")

    def __init__(self, work: Work[T], *, lasting: bool) -> None:
        self.work = work
        self.lasting = lasting
        self.value: T
        self.error: BaseException | None = None
        self.taken = False  # into a commit
        self.ended = False
        self.baton = threading.Lock()
        self.baton.acquire()

    def wake(self) -> None:
        """Let its thread look what has become of it."""
        with contextlib.suppress(RuntimeError):  # it was woken before, and has not looked yet
            self.baton.release()

    def outcome(self) -> T:
        """Return what the work returned, or raise what it raised."""
        if self.error is not None:
            try:
                raise self.error
            finally:
                self.error = None  # or the traceback and this frame would keep each other alive
        return self.value


class GroupCommit:
    """Calls ``commit`` with the operations of one or many threads; it says in each what became of it.

    A signal handler may raise in the main thread between any two steps: the order of those that change the
    state is such that whoever waits finds out, if only after ``LOOKS_EVERY``.
    """

    def __init__(self, commit: Callable[[list[Operation[Any]]], None]) -> None:
        self._commit = commit
        self._lock = threading.Lock()
        self._leader: Operation[Any] | None = None
        self._waiting: deque[Operation[Any]] = deque()  # beside the leader
        self._expected = 1  # as many lasting ones as were here when the last commit ended
        self._patience = 0.0  # seconds that the first of those who wait gives them

    def __call__(self, operation: Operation[Any]) -> None:
        """Return when the operation has ended, by this thread or another."""
        try:
            with self._lock:
                waiting = self._waiting
                patience = LOOKS_EVERY if waiting or self._leader is not None else self._patience
                enough = len(waiting) + 1 >= self._expected or not operation.lasting
                if enough and self._leader is None:
                    self._leader = operation
                else:
                    waiting.append(operation)
            while not operation.ended:
                if self._leader is operation:
                    self._lead(operation)
                elif operation.baton.acquire(timeout=patience):
                    patience = self._patience  # where it is not served it is now the first
                else:
                    self._lead_if_nobody_does(operation)
                    patience = LOOKS_EVERY
        finally:
            if self._leader is operation or not operation.ended:
                try:
                    self._leave(operation)
                except BaseException:  # an interrupt: nobody else could leave for us
                    self._leave(operation)
                    raise

    def _lead_if_nobody_does(self, operation: Operation[Any]) -> None:
        with self._lock:
            if self._leader is None and operation in self._waiting:
                self._leader = operation
                self._waiting.remove(operation)

    def _lead(self, own: Operation[Any]) -> None:
        batch = [own]
        if self._waiting:
            with self._lock:
                batch += islice(self._waiting, MAX_BATCH - 1)
                for operation in batch:
                    operation.taken = True
        began = time.monotonic()
        self._commit(batch)
        if own.lasting:
            self._patience = min(PATIENCE_AT_MOST, PATIENCE * (time.monotonic() - began))

    def _leave(self, operation: Operation[Any]) -> None:
        """Wait no longer, or lead no longer: who was served may go, and who waited longest is the next."""
        served: list[Operation[Any]] = []
        first = None
        with self._lock:
            if self._leader is not operation:
                if operation in self._waiting:
                    self._waiting.remove(operation)
                return
            if self._waiting:
                lasting = operation.lasting + sum(other.lasting for other in self._waiting)
                self._expected = lasting or self._expected
                served = [other for other in self._waiting if other.taken]
                for other in served:
                    if not other.ended:  # an interrupt came before the commit
                        other.error, other.ended = _broken_off(), True
                self._waiting = deque(other for other in self._waiting if not other.taken)
                first = self._waiting[0] if self._waiting else None
            elif operation.lasting:
                self._expected = 1
            if first is not None and (len(self._waiting) >= self._expected or not first.lasting):
                self._waiting.popleft()
                self._leader = first
            else:
                self._leader = None
        for other in served:
            other.wake()
        if first is not None:
            first.wake()


def _broken_off() -> BackendUnavailable:
    return BackendUnavailable("the commit was broken off by an interrupt", outcome_unknown=True)
