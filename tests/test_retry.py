"""When a failed job tries again: the formula, and the policies that replace it."""

from __future__ import annotations

import math
import random
from datetime import timedelta
from typing import Any

import pytest

from neoq.errors import ConfigError
from neoq.retry import MAX_DELAY, RetryPolicy, backoff


@pytest.mark.parametrize(
    ("retries", "low", "high"),
    [(0, 15, 45), (1, 16, 76), (2, 31, 121), (10, 10_015, 10_345), (22, 234_271, 234_961)],
)
def test_the_formula_is_a_power_of_four_and_a_random_part(retries: int, low: float, high: float) -> None:
    """The delay is retries**4 + 15 plus a random part that grows with the retries."""
    assert backoff(retries, lambda: 0.0) == low
    assert backoff(retries, lambda: 1.0) == high


def test_jobs_that_failed_together_do_not_come_back_together() -> None:
    """The random part differs from job to job, and stays within its bounds."""
    delays = {backoff(0) for _ in range(100)}
    assert len(delays) > 90
    assert all(15 <= delay < 45 for delay in delays)


def test_the_random_part_can_be_steered() -> None:
    """A policy with a seeded generator gives the same delays again."""
    one, two = (RetryPolicy(rng=random.Random(7).random) for _ in range(2))
    assert [one.seconds(n) for n in range(5)] == [two.seconds(n) for n in range(5)]


@pytest.mark.parametrize(
    ("delay", "seconds"),
    [
        (0, 0.0),
        (2.5, 2.5),
        (timedelta(minutes=1), 60.0),
        (lambda retries: 2**retries, 8.0),
        (lambda retries: timedelta(seconds=retries), 3.0),
    ],
    ids=["zero", "seconds", "timedelta", "function", "function of timedelta"],
)
def test_a_policy_replaces_the_formula(delay: Any, seconds: float) -> None:
    """A delay is a number of seconds, a timedelta, or a function of the retries made so far."""
    assert RetryPolicy(delay=delay).seconds(3) == seconds


@pytest.mark.parametrize(
    "delay", [1e300, timedelta.max, lambda retries: 10**300], ids=["float", "timedelta", "function"]
)
def test_no_policy_waits_beyond_a_year(delay: Any) -> None:
    """A delay that no calendar holds is cut to a year."""
    assert RetryPolicy(delay=delay).seconds(1) == MAX_DELAY


@pytest.mark.parametrize("retries", [1_000, 2**31 - 1])
def test_the_formula_never_leaves_the_calendar(retries: int) -> None:
    """The formula is cut like any other delay: max_retries may be two thousand million."""
    assert RetryPolicy().seconds(retries) <= MAX_DELAY


@pytest.mark.parametrize("delay", [-1, math.nan, math.inf, "5", True, timedelta(seconds=-1), {1}], ids=repr)
def test_a_delay_that_is_no_span_is_refused(delay: Any) -> None:
    """A wrong delay is refused when the policy is made, not at the first failure at night."""
    with pytest.raises(
        ConfigError, match=r"RetryPolicy\.delay is .*takes seconds, a timedelta, a list of them, or"
    ):
        RetryPolicy(delay=delay)


@pytest.mark.parametrize("delays", [[10, timedelta(seconds=30), 60], (10, 30, 60.0)], ids=["list", "tuple"])
def test_a_list_has_a_delay_for_each_retry(delays: Any) -> None:
    """The delays of a list are taken in their order, and the last one repeats."""
    policy = RetryPolicy(delay=delays)
    assert [policy.seconds(retries) for retries in range(5)] == [10, 30, 60, 60, 60]
    assert hash(policy) == hash(RetryPolicy(delay=tuple(delays)))


@pytest.mark.parametrize(
    ("delays", "named"),
    [
        ([], "an empty list"),
        ([1, -1], r"delay\[1\] is -1"),
        ([1, True, "5"], r"delay\[1\] is True.*delay\[2\] is '5'"),
        (lambda: 5, "cannot be called as"),
        (lambda retries, error, more: 5, "cannot be called as"),
    ],
    ids=["empty", "negative", "several", "no argument", "three arguments"],
)
def test_a_bad_delay_of_a_list_or_function_is_named(delays: Any, named: str) -> None:
    """A wrong item of a list, or a function with other arguments, is refused when the policy is made."""
    with pytest.raises(ConfigError, match=f"(?s){named}"):
        RetryPolicy(delay=delays)


def test_a_function_of_two_is_given_the_error() -> None:
    """A delay function with two required arguments gets the error that the job failed with."""
    policy = RetryPolicy(delay=lambda retries, error: retries + (60 if isinstance(error, KeyError) else 1))
    assert policy.seconds(2, KeyError("x")) == 62
    assert policy.seconds(2, ValueError("x")) == 3
    assert RetryPolicy(delay=lambda retries, base=10: base * retries).seconds(2, KeyError("x")) == 20


@pytest.mark.parametrize("delay", [-1, math.nan, None, "5", True], ids=repr)
def test_a_function_that_returns_no_span_is_a_type_error(delay: Any) -> None:
    """What a delay function returns is checked too; the attempt then takes the default delay."""
    with pytest.raises(TypeError, match="return seconds or a timedelta"):
        RetryPolicy(delay=lambda retries: delay).seconds(0)


def test_exceptions_named_never_are_not_retried() -> None:
    """An exception of a class in ``never``, or derived from one, is not tried again."""
    policy = RetryPolicy(never=(LookupError, SystemExit))
    assert not policy.retries(KeyError("k"))
    assert not policy.retries(SystemExit(1))
    assert policy.retries(ValueError("v"))


def test_a_single_class_needs_no_tuple() -> None:
    """``never`` takes one class as it is."""
    assert RetryPolicy(never=KeyError).never == (KeyError,)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "never", ["KeyError", KeyError("k"), (KeyError, "ValueError"), int, [KeyError], None], ids=repr
)
def test_what_is_no_exception_class_is_refused(never: Any) -> None:
    """``never`` takes exception classes only."""
    with pytest.raises(ConfigError, match="takes exception classes"):
        RetryPolicy(never=never)


def test_every_problem_of_a_policy_is_reported_at_once() -> None:
    """Two mistakes are two lines of one error."""
    with pytest.raises(ConfigError) as caught:
        RetryPolicy(delay=-1, never=(7,))  # type: ignore[arg-type]
    assert len(caught.value.problems) == 2
