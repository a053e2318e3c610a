"""The clock that everything above and below the seam reads, so that tests can hold it in their hands."""

from __future__ import annotations

import time as _time
from typing import Protocol


class Clock(Protocol):
    """What tells the time in seconds: ``time`` as the wall shows it, ``monotonic`` to measure with."""

    def time(self) -> float:
        """Seconds since the epoch, as the wall shows them: they may jump."""

    def monotonic(self) -> float:
        """Seconds since some start: they never jump."""


class SystemClock:
    """The clocks of this machine."""

    def time(self) -> float:
        """Seconds since the epoch."""
        return _time.time()

    def monotonic(self) -> float:
        """Seconds since the machine started, or so."""
        return _time.monotonic()


class LiveClock:
    """The clock of one backend: one object for life, that can be made to follow another clock.

    Its two readings are plain attributes, so that the system's are called without a frame between.
    """

    def __init__(self) -> None:
        self.time = _time.time
        self.monotonic = _time.monotonic

    def follow(self, clock: Clock) -> None:
        """Read from another clock from now on."""
        system = type(clock) is SystemClock
        self.time = _time.time if system else clock.time
        self.monotonic = _time.monotonic if system else clock.monotonic
