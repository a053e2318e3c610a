"""What a handler returns: whether its work is done."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Callable
from typing import Any

import pytest

from neoq.engine.results import plain_json, undone


def a_future_of_asyncio() -> Any:
    """A future that no loop will ever set."""
    loop = asyncio.new_event_loop()
    try:
        return loop.create_future()
    finally:
        loop.close()


def a_future_of_a_pool() -> Any:
    """A future that is done already: whether it is would be a matter of luck."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(int)


@pytest.mark.parametrize("make", [a_future_of_asyncio, a_future_of_a_pool, lambda: map(int, "12")])
def test_what_is_undone(make: Callable[[], Any]) -> None:
    """Futures of both kinds, done or not, and lazy iterators are work that may not be done."""
    error = undone(make(), "q")
    assert error is not None
    assert "the handler of queue 'q' returned a" in str(error)


class Odd:
    """Answers to every attribute, as a mock does."""

    def __getattr__(self, name: str) -> Any:
        return self


@pytest.mark.parametrize("result", [0, "", [], {}, object(), Odd(), Odd, iter([]), b"", {1, 2}])
def test_what_is_no_work(result: Any) -> None:
    """Plain values and objects of any class are results, whatever they claim to have."""
    assert undone(result, "q") is None


@pytest.mark.parametrize("result", [1.5, {"at": 1.5}, {1: 2}, "\ud800", 2**70, [1], {"a": [1]}, object()])
def test_what_wants_a_closer_look(result: Any) -> None:
    """Only plain values are written at once: nobody's code runs for them."""
    assert plain_json(result) is None


def test_plain_results() -> None:
    """A scalar, or a dict of scalars, is written as it is."""
    assert plain_json({"a": 1, "b": None, "c": True}) == b'{"a":1,"b":null,"c":true}'
    assert plain_json("done") == b'"done"'
