"""Figures: numbers by metric and label values, as plain data that processes add up and send each other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import zip_longest
from typing import Any

from neoq.series import BUCKETS

Key = tuple[str, ...]  # the name of the metric, and the values of its labels
Numbers = tuple[float, ...]  # one; of a histogram the count of each bucket (not cumulative), then the sum
Figures = dict[Key, Numbers]

NO_TIMES: Numbers = (0,) * (len(BUCKETS) + 2)


def grown(now: Mapping[Key, Numbers], before: Mapping[Key, Numbers]) -> Figures:
    """What counters have gained since; those that are new are in it though they be zero."""
    return {
        key: tuple(new - old for new, old in zip_longest(numbers, before.get(key, ()), fillvalue=0))
        for key, numbers in now.items()
        if numbers != before.get(key)
    }


def add(total: Figures, gained: Mapping[Key, Numbers]) -> None:
    """Add to a total what counters have gained."""
    for key, numbers in gained.items():
        old = total.get(key)
        total[key] = (
            numbers if old is None else tuple(map(float.__add__, map(float, old), map(float, numbers)))
        )


def as_message(figures: Mapping[Key, Numbers]) -> list[Any]:
    """The figures as JSON takes them."""
    return [[key, numbers] for key, numbers in figures.items()]


def of_message(message: Iterable[Any]) -> Figures:
    """The figures that `as_message` gave."""
    return {tuple(key): tuple(numbers) for key, numbers in message}
