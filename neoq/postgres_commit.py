"""Enqueues of many threads in one commit: one of those who wait leads, and takes all who wait along.

A commit costs a wait for the disk, whatever is in it. Who finds nobody committing begins at once, unless many
were here just now: then it is whoever completes their number, or the first of them after a moment.

Threads that wake together fight for the interpreter, which costs more than the work that they have to do. So
each that was served wakes the next one of its commit as it goes. Where something else keeps the interpreter
busy they are woken all at once after all: in a row each would wait for its turn as the one before it did.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import islice, pairwise
from typing import Generic, TypeVar

from neoq.errors import BackendError, BackendUnavailable

T = TypeVar("T")
R = TypeVar("R")

MAX_BATCH = 200
FEW = 4  # callers, for whom it is not worth waiting
MOMENT = 0.0003  # seconds to wait for those who were here just now: with them it is one commit, not two
LATE = 0.002  # seconds from being woken to being awake
LOOKS_EVERY = 1.0  # seconds; a wake-up is lost only where an interrupt hit the one who passed it on
_BROKEN_OFF = BackendUnavailable("the commit was broken off by an interrupt", outcome_unknown=True)


class _Call(Generic[T, R]):
    __slots__ = ("asleep", "ended", "error", "item", "next", "taken", "value", "woken")

    value: R

    def __init__(self, item: T) -> None:
        self.item = item
        self.error: BaseException | None = None
        self.taken = False  # into a commit
        self.ended = False
        self.next: _Call[T, R] | None = None  # of the same commit, to be woken after this one
        self.asleep = threading.Lock()
        self.asleep.acquire()
        self.woken = math.inf  # when (monotonic)

    def wake(self) -> None:
        self.woken = time.monotonic()
        with suppress(RuntimeError):  # it is awake, and looks what has become of it before it sleeps again
            self.asleep.release()


class GroupCommit(Generic[T, R]):
    """Calls ``commit`` with what one or many threads want committed; it returns a value for each.

    A signal handler may raise in the main thread between any two steps: the order of those that change the
    state is such that whoever waits finds out, if only after ``LOOKS_EVERY``.
    """

    def __init__(self, commit: Callable[[Sequence[T]], Sequence[R]]) -> None:
        self._commit = commit
        self._lock = threading.Lock()
        self._leader: _Call[T, R] | None = None
        self._expected = 1  # so many are worth waiting for: as many as there were just now
        self._waiting: deque[_Call[T, R]] = deque()  # beside the leader
        self._crowded = False  # other threads keep the interpreter busy

    def __call__(self, item: T) -> R:
        """Commit one item; returns or raises what became of it."""
        call: _Call[T, R] = _Call(item)
        try:
            patience = self._arrive(call)
            while not call.ended:
                if self._leader is call:
                    self._lead(call)
                elif call.asleep.acquire(timeout=patience):
                    patience = MOMENT  # served, or the first of those who wait for more to come
                else:
                    patience = LOOKS_EVERY
                    self._lead_if_nobody_does(call)
        finally:
            if call.next is not None:
                self._wake(call.next, all_too=time.monotonic() - call.woken > LATE)
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

    def _arrive(self, call: _Call[T, R]) -> float:
        """Lead, where nobody does and enough are here, or wait; returns how long before looking again."""
        with self._lock:
            if self._leader is None and len(self._waiting) + 1 >= self._expected:
                self._leader = call
                return LOOKS_EVERY
            first = self._leader is None and not self._waiting
            self._waiting.append(call)
        return MOMENT if first else LOOKS_EVERY

    def _lead_if_nobody_does(self, call: _Call[T, R]) -> None:
        with self._lock:
            if self._leader is None and not call.taken:
                if call in self._waiting:
                    self._waiting.remove(call)
                self._leader = call

    def _lead(self, own: _Call[T, R]) -> None:
        with self._lock:
            others = list(islice(self._waiting, MAX_BATCH - 1))
            for call in others:
                call.taken = True
        for call, following in pairwise(others):
            call.next = following
        batch = [own, *others]
        try:
            for call, value in zip(batch, self._commit([call.item for call in batch]), strict=True):
                call.value, call.ended = value, True
        except BaseException as error:
            for call in others:
                if not call.ended:
                    call.error, call.ended = _copy_of(error), True
            raise

    def _leave(self, call: _Call[T, R]) -> None:
        """Wait, or lead, no longer: who was served may go, and who waited longest leads or waits for more."""
        with self._lock:
            if self._leader is not call:
                if call in self._waiting:
                    self._waiting.remove(call)
                return
            here = len(self._waiting) + 1
            self._expected = 1 if here < FEW else min(here, MAX_BATCH)
            served = [other for other in self._waiting if other.taken]
            for other in served:
                if not other.ended:  # an interrupt came between its commit and its value
                    other.error, other.ended = _copy_of(_BROKEN_OFF), True
            if served:
                self._waiting = deque([other for other in self._waiting if not other.taken])
            longest = self._waiting[0] if self._waiting else None
            if longest is not None and len(self._waiting) >= self._expected:
                self._waiting.popleft()
                self._leader = longest
            else:
                self._leader = None
        if longest is not None:
            longest.wake()
        if served:
            self._wake(served[0], all_too=self._crowded)

    def _wake(self, call: _Call[T, R] | None, *, all_too: bool) -> None:
        """Wake one that was served, or all from there on."""
        self._crowded = all_too
        while call is not None:
            call.wake()
            call = call.next if all_too else None


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
