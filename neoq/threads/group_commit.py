"""Writes of many threads in one commit: one of the waiting threads leads, and takes all others along.

A commit costs a wait for the disk, whatever is in it. A thread that finds no commit under way begins one at
once, unless several threads took part in the last one. Then it waits until as many are here again, or for a
moment. Otherwise the first thread to return from a commit would lead the next one alone while the others wait
for it, and commits of many and commits of one would take turns.

Threads that wake together compete for the interpreter, which costs more than their work. So each thread of a
commit wakes the next one when it is done. If other threads keep the interpreter busy, all are woken at once:
in a chain the delay of each would add to that of the ones before it.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice, pairwise
from typing import Generic, TypeVar

from neoq.clock import machine
from neoq.errors import BackendError, BackendUnavailable

T = TypeVar("T")
R = TypeVar("R")

MAX_BATCH = 200  # calls that share a commit, at most
# Of the last commit's time, and seconds. A shorter wait would miss some calls: two commits cost more.
PATIENCE, PATIENCE_AT_MOST = 1.0, 0.002
LATE = 0.002  # seconds from being woken to being awake
LOOKS_EVERY = 1.0  # seconds; a wakeup is lost only if an interrupt hit the thread that passes it on
_BROKEN_OFF = BackendUnavailable("the commit was broken off by an interrupt", outcome_unknown=True)


class Call(Generic[T, R]):
    """What one caller wants to write, and how that ended."""

    __slots__ = ("asleep", "durable", "ended", "error", "item", "next", "taken", "value", "woken")

    value: R

    def __init__(self, item: T, durable: bool) -> None:
        self.item = item
        self.durable = durable
        self.error: BaseException | None = None
        self.taken = self.ended = False  # into a commit; by one
        self.next: Call[T, R] | None = None  # of the same commit, to be woken after this one
        self.asleep = asleep = threading.Lock()
        asleep.acquire()
        self.woken = math.inf  # when (monotonic)

    def fail(self, error: BaseException) -> None:
        """End it with an error of its own."""
        self.error, self.ended = error, True

    def wake(self) -> None:
        """Wake its thread, which then looks how the call ended."""
        self.woken = machine.monotonic()
        try:
            self.asleep.release()
        except RuntimeError:  # it is awake already, and looks before it sleeps again
            pass

    def outcome(self) -> R:
        """Return its value, or raise its error."""
        if self.error is None:
            return self.value
        try:
            raise self.error
        finally:
            self.error = None  # or the traceback and this frame would keep each other alive


class GroupCommit(Generic[T, R]):
    """Calls ``commit`` with the calls of one or many threads.

    ``commit`` gives each call its ``value`` or ``error`` and then sets ``ended``. If it raises, that is the
    error of all calls that have not ended. Fewer callers than ``few`` are not worth waiting for.

    A signal handler may raise in the main thread between any two steps. They are in such an order that a
    waiting thread finds out, if only after ``LOOKS_EVERY``.
    """

    def __init__(self, commit: Callable[[Sequence[Call[T, R]]], None], *, few: int = 2) -> None:
        self._commit = commit
        self._few = few
        self._lock = threading.Lock()
        self._leader: Call[T, R] | None = None
        self._waiting: deque[Call[T, R]] = deque()  # beside the leader
        self._expected = 1  # so many durable calls are worth waiting for: as many as there were just now
        self._patience = 0.0  # seconds that the first waiting thread waits for the others
        self._crowded = False  # other threads keep the interpreter busy

    def __call__(self, item: T, *, durable: bool = True) -> R:
        """Commit one item; returns its value or raises its error.

        A call that is not ``durable`` need not wait for the disk: it waits for no other, and no other for it.
        """
        call: Call[T, R] = Call(item, durable)
        try:
            patience = LOOKS_EVERY
            with self._lock:
                nobody, waiting = self._leader is None, self._waiting
                if nobody and (len(waiting) + 1 >= self._expected or not durable):
                    self._leader = call
                else:
                    if nobody and not waiting:
                        patience = self._patience
                    waiting.append(call)
            while not call.ended:
                if self._leader is call:
                    self._lead(call)
                elif call.asleep.acquire(True, patience):
                    patience = self._patience  # where it is not served it is now the first
                else:
                    self._lead_if_nobody_does(call)
                    patience = LOOKS_EVERY
        finally:
            if call.next is not None:
                self._crowded = machine.monotonic() - call.woken > LATE
                self._wake(call.next)
            if self._leader is call or not call.ended:
                try:
                    self._leave(call)
                except BaseException:  # an interrupt: nobody else could leave for us
                    self._leave(call)
                    raise
        return call.outcome()

    @property
    def pending(self) -> int:
        """How many calls are in a commit or wait for one."""
        with self._lock:
            return len(self._waiting) + (self._leader is not None)

    def _lead_if_nobody_does(self, call: Call[T, R]) -> None:
        with self._lock:
            if self._leader is None and not call.taken:
                if call in self._waiting:
                    self._waiting.remove(call)
                self._leader = call

    def _lead(self, own: Call[T, R]) -> None:
        batch = [own]
        if self._waiting:
            with self._lock:
                others = self._take_along()
            for call, following in pairwise(others):
                call.next = following
            batch += others
        began = machine.monotonic()
        try:
            self._commit(batch)
        except BaseException as error:
            ours = isinstance(error, BackendError)
            for call in batch:
                if not call.ended and (call is not own or ours):
                    call.fail(error if call is own else _copy_of(error))
            if not ours:
                raise
        if own.durable:
            self._patience = min(PATIENCE_AT_MOST, PATIENCE * (machine.monotonic() - began))

    def _take_along(self) -> list[Call[T, R]]:
        # No loop stands in the body of a `with`: an exception from a signal handler that lands on its jump
        # backward would leave the lock taken (CPython 3.12 and 3.13).
        others = list(islice(self._waiting, MAX_BATCH - 1))
        for call in others:
            call.taken = True
        return others

    def _leave(self, call: Call[T, R]) -> None:
        """End a call: wake those that its commit has served, and let the longest waiting one lead."""
        with self._lock:
            if self._leader is not call:
                if call in self._waiting:
                    self._waiting.remove(call)
                return
            served, longest = self._hand_over(call)
        if longest is not None:
            longest.wake()
        if served:
            self._wake(served[0])

    def _hand_over(self, call: Call[T, R]) -> tuple[list[Call[T, R]], Call[T, R] | None]:
        if not self._waiting:  # most often
            self._expected = 1 if call.durable else self._expected
            self._leader = None
            return [], None
        if here := call.durable + sum(other.durable for other in self._waiting):
            self._expected = 1 if here < self._few else min(here, MAX_BATCH)
        served = [other for other in self._waiting if other.taken]
        for other in served:
            if not other.ended:  # an interrupt came before the commit, or before its end was recorded
                other.fail(_copy_of(_BROKEN_OFF))
        if served:
            self._waiting = deque([other for other in self._waiting if not other.taken])
        longest = self._waiting[0] if self._waiting else None
        if longest is not None and (len(self._waiting) >= self._expected or not longest.durable):
            self._waiting.popleft()
            self._leader = longest
        else:
            self._leader = None
        return served, longest

    def _wake(self, call: Call[T, R]) -> None:
        """Wake one call that was served, or all from there on."""
        call.wake()
        while self._crowded and call.next is not None:
            call = call.next
            call.wake()


def _copy_of(error: BaseException) -> BaseException:
    """A copy of an error for each call that shares it: one object cannot be raised in several threads."""
    copy: BackendError
    if isinstance(error, BackendUnavailable):
        copy = BackendUnavailable(str(error), outcome_unknown=error.outcome_unknown)
    elif isinstance(error, BackendError):
        copy = BackendError(str(error))
    else:
        copy = BackendUnavailable(f"the commit was broken off: {error!r}", outcome_unknown=True)
    copy.__cause__ = error if not isinstance(error, BackendError) else error.__cause__
    return copy
