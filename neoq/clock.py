"""The clock that everything above and below the seam reads, so that tests can hold it in their hands."""

from __future__ import annotations

import time as _time
from collections.abc import Callable
from functools import partial
from types import BuiltinFunctionType
from typing import Protocol


class Clock(Protocol):
    """What tells the time in seconds: ``time`` as the wall shows it, ``monotonic`` to measure with."""

    def time(self) -> float:
        """Seconds since the epoch, as the wall shows them: they may jump."""

    def monotonic(self) -> float:
        """Seconds since some start: they never jump."""


class _Machine:
    """The clocks of this machine, taken once.

    Test suites freeze the time by putting functions of their own in place of these, in the module and in all
    that imported them: leases would end, and waits would not. The attributes of an object they leave alone.
    """

    def __init__(self) -> None:
        self.time: Callable[[], float] = _time.time
        self.monotonic: Callable[[], float] = _time.monotonic
        if not isinstance(_time.time, BuiltinFunctionType):  # imported while the time is frozen
            self.time = partial(_time.clock_gettime, _time.CLOCK_REALTIME)
        if not isinstance(_time.monotonic, BuiltinFunctionType):
            self.monotonic = partial(_time.clock_gettime, _time.CLOCK_MONOTONIC)


machine = _Machine()


class SystemClock:
    """The clocks of this machine."""

    def time(self) -> float:
        """Seconds since the epoch."""
        return machine.time()

    def monotonic(self) -> float:
        """Seconds since the machine started, or so."""
        return machine.monotonic()


class LiveClock:
    """The clock of one backend: one object for life, that can be made to follow another clock.

    Its two readings are plain attributes, so that the system's are called without a frame between.
    """

    def __init__(self) -> None:
        self.time = machine.time
        self.monotonic = machine.monotonic

    def follow(self, clock: Clock) -> None:
        """Read from another clock from now on."""
        system = type(clock) is SystemClock
        self.time = machine.time if system else clock.time
        self.monotonic = machine.monotonic if system else clock.monotonic
