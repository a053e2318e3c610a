"""Enqueues of many threads in one commit: the first of those who wait leads, and takes all who wait along.

A commit costs a wait for the disk, whatever is in it. Who finds nobody committing begins at once.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from neoq.errors import BackendError, BackendUnavailable

T = TypeVar("T")
R = TypeVar("R")

MAX_BATCH = 200
FEW = 4  # callers, for whom it is not worth waiting
MOMENT, MOMENTS = 0.00005, 2  # seconds, and how many of them


class _Call(Generic[T, R]):
    def __init__(self, item: T) -> None:
        self.item = item
        self.value: R
        self.error: BaseException | None = None
        self.ended = False
        self.baton = threading.Lock()
        self.baton.acquire()


class GroupCommit(Generic[T, R]):
    """Calls ``commit`` with what one or many threads want committed; it returns a value for each."""

    def __init__(self, commit: Callable[[Sequence[T]], Sequence[R]]) -> None:
        self._commit = commit
        self._lock = threading.Lock()
        self._led = False
        self._callers = 1  # who waited, or were served, when the last commit ended
        self._waiting: deque[_Call[T, R]] = deque()

    def __call__(self, item: T) -> R:
        """Commit one item; returns or raises what became of it."""
        call: _Call[T, R] = _Call(item)
        with self._lock:
            waits, self._led = self._led, True
            if waits:
                self._waiting.append(call)
        if waits:
            self._await_turn(call)
        if not call.ended:
            self._lead(call)
        if call.error is not None:
            try:
                raise call.error
            finally:
                call.error = None  # or the traceback and this frame would keep each other alive
        return call.value

    def _await_turn(self, call: _Call[T, R]) -> None:
        try:
            call.baton.acquire()
        except BaseException:  # an interrupt of the main thread: leave nobody waiting for us
            with self._lock:
                waits = call in self._waiting
                if waits:
                    self._waiting.remove(call)
            if not waits and call.baton.acquire(timeout=10.0) and not call.ended:
                self._pass_on([])
            raise

    def _lead(self, own: _Call[T, R]) -> None:
        batch = [own]
        self._gather()
        with self._lock:
            while self._waiting and len(batch) < MAX_BATCH:
                batch.append(self._waiting.popleft())
        try:
            for call, value in zip(batch, self._commit([call.item for call in batch]), strict=True):
                call.value, call.ended = value, True
        except BaseException as error:
            for call in batch:
                if not call.ended:
                    call.error, call.ended = _copy_of(error) if call is not own else error, True
        finally:
            self._pass_on(batch[1:])

    def _gather(self) -> None:
        """Wait a moment for those who were here just now: with them it is one commit, without them two."""
        expected = self._callers
        if expected < FEW:
            return
        for _ in range(MOMENTS):
            if len(self._waiting) >= expected - 1:
                return
            time.sleep(MOMENT)

    def _pass_on(self, followers: Sequence[_Call[T, R]]) -> None:
        with self._lock:
            self._callers = len(followers) + 1 + len(self._waiting)
            successor = self._waiting.popleft() if self._waiting else None
            self._led = successor is not None
        for call in followers:
            call.baton.release()
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
