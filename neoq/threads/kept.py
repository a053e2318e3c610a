"""Looks at very many jobs: how long one may take, and what it found, kept for a while for all who ask."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from neoq.clock import machine
from neoq.errors import LookTimeoutError

T = TypeVar("T")

LOOK_SECONDS = 2.0  # that one look at very many jobs may take
CHEAP = 10_000  # jobs that are counted anew at each look, where a store must count them one by one
KEPT_AT_LEAST = 2.0  # seconds
KEPT_AT_MOST = 30.0
SHARE = 0.02  # of the time that may be spent on finding it out


class Kept(Generic[T]):
    """Finds something out at each call while that is cheap, else once in a while for all threads.

    ``is_cheap`` tells by what was found, and not by the time that it took: a busy machine is no reason to
    give an old answer.
    """

    def __init__(self, find_out: Callable[[], T], is_cheap: Callable[[T], bool]) -> None:
        self._find_out = find_out
        self._is_cheap = is_cheap
        self._lock = threading.Lock()
        self._known: tuple[T, float] | None = None  # and the wall clock's time at which it was found out
        self._until = 0.0  # monotonic: that long it is given again

    def get(self) -> tuple[T, float | None]:
        """What was found out, and when; None for just now.

        Where it takes too long, what was known before; LookTimeoutError where nothing was.
        """
        if not self._lock.acquire(timeout=LOOK_SECONDS):
            if self._known is None:
                raise broken_off("while another thread counts")
            return self._known
        try:
            began = machine.monotonic()
            if self._known is not None and began < self._until:
                return self._known
            now = machine.time()
            try:
                found = self._find_out()
            except LookTimeoutError:
                if self._known is None:
                    raise
                self._rest(began)
                return self._known
            self._known = found, now
            if not self._is_cheap(found):
                self._rest(began)
            return found, None
        finally:
            self._lock.release()

    def _rest(self, began: float) -> None:
        ended = machine.monotonic()
        self._until = ended + min(max(KEPT_AT_LEAST, (ended - began) / SHARE), KEPT_AT_MOST)


def broken_off(where: str, seconds: float = LOOK_SECONDS) -> LookTimeoutError:
    """The error for a look at jobs that took longer than it may."""
    return LookTimeoutError(
        f"{where}: a look at the jobs was broken off after {seconds:g} s; filter by queue, kind or key, "
        "which have indexes, or look again when the store is less busy"
    )
