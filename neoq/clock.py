"""The clock that the engine and the stores read, so that tests can control the time."""

from __future__ import annotations

import time as _time
from collections.abc import Callable
from functools import partial
from types import BuiltinFunctionType
from typing import Protocol


class Clock(Protocol):
    """Tells the time in seconds: ``time`` is the wall clock, ``monotonic`` is for measuring."""

    def time(self) -> float:
        """Seconds since the epoch, by the wall clock, which may jump."""

    def monotonic(self) -> float:
        """Seconds since some start, by a clock that never jumps."""


class _Machine:
    """The clocks of this machine, looked up once.

    Libraries that freeze the time in tests replace these functions, in the module and wherever they were
    imported: leases would end, and waits would not. They leave the attributes of an object alone.
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
    """The clock of one backend: the same object for its whole life, which can follow another clock.

    ``time`` and ``monotonic`` are plain attributes: a call of the system's clock needs no extra frame.
    """

    def __init__(self) -> None:
        self.time = machine.time
        self.monotonic = machine.monotonic

    def follow(self, clock: Clock) -> None:
        """Read from another clock from now on."""
        system = type(clock) is SystemClock
        self.time = machine.time if system else clock.time
        self.monotonic = machine.monotonic if system else clock.monotonic
