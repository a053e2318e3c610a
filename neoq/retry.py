"""When a failed job is retried: pure functions of what happened."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

from neoq.errors import ConfigError

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

    ``delay`` is a number of seconds, a timedelta, or a function that takes the number of retries so far and
    returns either; None means `backoff`. ``never`` lists exception classes that make the job DEAD at once.
    """

    delay: float | timedelta | Callable[[int], float | timedelta] | None = None
    never: tuple[type[BaseException], ...] = ()
    rng: Callable[[], float] = field(default=random.random, repr=False, compare=False)

    def __post_init__(self) -> None:
        never = self.never if isinstance(self.never, tuple) else (self.never,)
        problems = [
            f"RetryPolicy.never contains {cls!r}; it takes exception classes"
            for cls in never
            if not (isinstance(cls, type) and issubclass(cls, BaseException))
        ]
        if not (self.delay is None or callable(self.delay) or _is_span(self.delay)):
            problems.append(
                f"RetryPolicy.delay is {self.delay!r}; it takes seconds, a timedelta, or a function of the "
                "number of retries"
            )
        if problems:
            raise ConfigError(problems)
        object.__setattr__(self, "never", never)

    def retries(self, error: BaseException) -> bool:
        """Whether a job that failed with this error may be tried again."""
        return not isinstance(error, self.never)

    def seconds(self, retries: int) -> float:
        """Seconds until the next attempt, after ``retries`` retries so far."""
        if self.delay is None:
            return min(backoff(retries, self.rng), MAX_DELAY)
        delay = self.delay(retries) if callable(self.delay) else self.delay
        if not _is_span(delay):
            raise TypeError(f"RetryPolicy.delay returned {delay!r}; return seconds or a timedelta")
        seconds = delay.total_seconds() if isinstance(delay, timedelta) else float(delay)
        return min(seconds, MAX_DELAY)


def _is_span(value: object) -> bool:
    if isinstance(value, timedelta):
        return value >= timedelta(0)
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < float("inf")
