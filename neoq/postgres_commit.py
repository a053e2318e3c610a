"""Enqueues of many threads in one commit: the first of those who wait leads, and takes all who wait along.

A commit costs a wait for the disk, whatever is in it. Who finds nobody committing begins at once.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Generic, TypeVar

from neoq.errors import BackendError, BackendUnavailable

T = TypeVar("T")
R = TypeVar("R")

MAX_BATCH = 200
FEW = 4  # callers, for whom it is not worth waiting
MOMENT, MOMENTS = 0.00005, 2  # seconds, and how many of them
LOOKS_EVERY = 1.0  # seconds; a baton is lost only where an interrupt hit the one who passed it on
_BROKEN_OFF = BackendUnavailable("the commit was broken off by an interrupt", outcome_unknown=True)


class _Call(Generic[T, R]):
    def __init__(self, item: T) -> None:
        self.item = item
        self.value: R
        self.error: BaseException | None = None
        self.taken = False  # into a commit
        self.ended = False
        self.baton = threading.Lock()
        self.baton.acquire()


class GroupCommit(Generic[T, R]):
    """Calls ``commit`` with what one or many threads want committed; it returns a value for each.

    A signal handler may raise in the main thread between any two steps: the order of those that change the
    state is such that whoever waits finds out, if only after ``LOOKS_EVERY``.
    """

    def __init__(self, commit: Callable[[Sequence[T]], Sequence[R]]) -> None:
        self._commit = commit
        self._lock = threading.Lock()
        self._leader: _Call[T, R] | None = None
        self._callers = 1  # who waited, or were served, when the last commit ended
        self._waiting: deque[_Call[T, R]] = deque()  # beside the leader

    def __call__(self, item: T) -> R:
        """Commit one item; returns or raises what became of it."""
        call: _Call[T, R] = _Call(item)
        try:
            with self._lock:
                if self._leader is None:
                    self._leader = call
                else:
                    self._waiting.append(call)
            while not call.ended:
                if self._leader is call:
                    self._lead(call)
                else:
                    call.baton.acquire(timeout=LOOKS_EVERY)
        finally:
            if self._leader is call or not call.ended:
                try:
                    self._leave(call)
                except BaseException:  # an interrupt: nobody else could leave for us
                    self._leave(call)
                    raise
        if call.error is not None:
            try:
                raise call.error
            finally:
                call.error = None  # or the traceback and this frame would keep each other alive
        return call.value

    def _lead(self, own: _Call[T, R]) -> None:
        self._gather()
        with self._lock:
            batch = [own, *islice(self._waiting, MAX_BATCH - 1)]
            for call in batch:
                call.taken = True
        try:
            for call, value in zip(batch, self._commit([call.item for call in batch]), strict=True):
                call.value, call.ended = value, True
        except BaseException as error:
            for call in batch[1:]:
                if not call.ended:
                    call.error, call.ended = _copy_of(error), True
            raise

    def _gather(self) -> None:
        """Wait a moment for those who were here just now: with them it is one commit, without them two."""
        expected = self._callers
        if expected < FEW:
            return
        for _ in range(MOMENTS):
            if len(self._waiting) >= expected - 1:
                return
            time.sleep(MOMENT)

    def _leave(self, call: _Call[T, R]) -> None:
        """Wait no longer, or lead no longer: who was served may go, and who waited longest leads."""
        with self._lock:
            if self._leader is not call:
                if call in self._waiting:
                    self._waiting.remove(call)
                return
            self._callers = len(self._waiting) + 1
            served = [other for other in self._waiting if other.taken]
            for other in served:
                if not other.ended:  # an interrupt came between its commit and its value
                    other.error, other.ended = _copy_of(_BROKEN_OFF), True
            if served:
                self._waiting = deque([other for other in self._waiting if not other.taken])
            successor = self._waiting[0] if self._waiting else None
            self._leader = successor
            if successor is not None:
                self._waiting.popleft()
        for other in served:
            other.baton.release()
        if successor is not None:
            successor.baton.release()


def _copy_of(error: BaseException) -> BaseException:
    """An error for each of those who share a failure: one object cannot be raised in several threads."""
    copy: BackendError
    if isinstance(error, BackendUnavailable):
        copy = BackendUnavailable(str(error), outcome_unknown=error.outcome_unknown)
    elif isinstance(error, BackendError):
        copy = BackendError(str(error))
    else:
        copy = BackendUnavailable(f"the commit was broken off: {error!r}", outcome_unknown=True)
    copy.__cause__ = error if not isinstance(error, BackendError) else error.__cause__
    return copy
