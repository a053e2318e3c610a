"""When a failed job is retried: pure functions of what happened."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from neoq.errors import ConfigError

Span = float | timedelta
DelayFunction = Callable[[int], Span] | Callable[[int, BaseException], Span]
MAX_DELAY = 365 * 86400.0


def backoff(retries: int, rng: Callable[[], float] = random.random) -> float:
    """Seconds until the next attempt, after ``retries`` retries so far. The formula is Sidekiq's.

    ``retries**4 + 15 + random(0..30) * (retries + 1)``: a quarter of a minute, then longer each time.
    The random part keeps jobs that failed together from being retried together.
    ``rng`` returns a float in [0, 1).
    """
    return retries**4 + 15 + rng() * 30 * (retries + 1)


@dataclass(frozen=True)
class RetryPolicy:
    """How long a queue's failed jobs wait for a retry, and after which exceptions they are not retried.

    ``delay`` is a number of seconds, a timedelta, a list of these for the first retry, the second and so on
    (the last repeats), or a function that returns seconds or a timedelta: ``delay(retries)`` with the number
    of retries so far, or ``delay(retries, error)`` with the exception, too. None means `backoff`. ``never``
    lists exception classes that make the job DEAD at once.
    """

    delay: Span | Sequence[Span] | DelayFunction | None = None
    never: tuple[type[BaseException], ...] = ()
    rng: Callable[[], float] = field(default=random.random, repr=False, compare=False)

    def __post_init__(self) -> None:
        never = self.never if isinstance(self.never, tuple) else (self.never,)
        problems = [
            f"RetryPolicy.never contains {cls!r}; it takes exception classes"
            for cls in never
            if not (isinstance(cls, type) and issubclass(cls, BaseException))
        ]
        problems += _problems_of(self.delay)
        if problems:
            raise ConfigError(problems)
        object.__setattr__(self, "never", never)
        if isinstance(self.delay, list):
            object.__setattr__(self, "delay", tuple(self.delay))

    def retries(self, error: BaseException) -> bool:
        """Whether a job that failed with this error may be tried again."""
        return not isinstance(error, self.never)

    def seconds(self, retries: int, error: BaseException | None = None) -> float:
        """Seconds until the next attempt, after ``retries`` retries so far and now this error."""
        delay: object = self.delay
        if delay is None:
            return min(backoff(retries, self.rng), MAX_DELAY)
        if callable(delay):
            delay = delay(*(retries, error)[: _arguments_of(delay)])
            if not _is_span(delay):
                raise TypeError(f"RetryPolicy.delay returned {delay!r}; return seconds or a timedelta")
        elif isinstance(delay, tuple):
            delay = delay[min(retries, len(delay) - 1)]
        seconds = delay.total_seconds() if isinstance(delay, timedelta) else float(delay)  # type: ignore[arg-type]
        return min(seconds, MAX_DELAY)


def _problems_of(delay: object) -> list[str]:
    if callable(delay):
        if _arguments_of(delay):
            return []
        calls = "delay(retries) or delay(retries, error)"
        return [f"RetryPolicy.delay is {delay!r}, which cannot be called as {calls}"]
    if isinstance(delay, (list, tuple)):
        if not delay:
            return ["RetryPolicy.delay is an empty list; it takes at least one delay, such as [10, 60]"]
        return [
            f"RetryPolicy.delay[{place}] is {one!r}; it takes seconds >= 0, or a timedelta"
            for place, one in enumerate(delay)
            if not _is_span(one)
        ]
    if delay is None or _is_span(delay):
        return []
    known = "seconds, a timedelta, a list of them, or a function of the number of retries and the error"
    return [f"RetryPolicy.delay is {delay!r}; it takes {known}"]


def _arguments_of(function: Callable[..., object]) -> int:
    """How many of (retries, error) a delay function is given; 0 where it can be called with neither."""
    try:
        signature = inspect.signature(function)
    except ValueError:  # written in C, with no signature to look at
        return 1
    for number in (1, 2):
        try:
            signature.bind(*range(number))
        except TypeError:
            continue
        return number
    return 0


def _is_span(value: object) -> bool:
    if isinstance(value, timedelta):
        return value >= timedelta(0)
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < float("inf")
