"""What a handler returns: whether the work is done, and the result as JSON.

Only the class of a result is looked at, and never through an attribute that it may compute: nothing here runs
code of the user.
"""

from __future__ import annotations

from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any

import orjson

from neoq.errors import NeoqError

_SCALARS = frozenset({str, int, bool, type(None)})
_DONE = frozenset({str, int, bool, float, dict, list, tuple})  # whose class alone says that nothing is left
_LAZY = frozenset({map, filter, zip})
_FUTURE = ("add_done_callback", "result")  # of concurrent.futures, asyncio and their like


def undone(result: Any, queue: str, who: str | None = None) -> NeoqError | None:
    """The error of a handler that returned what is still to be done instead of doing it, or None.

    ``who`` is the function that returned it, where that is not the handler.
    """
    kind = type(result)
    if kind in _DONE:
        return None
    problem = _problem(kind)
    if problem is None:
        return None
    if not_begun(result) and kind is CoroutineType:
        result.close()  # nothing of it runs; Python would warn that it was never awaited
    what, advice = problem
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
    who = who or f"the handler of queue {queue!r}"
    return NeoqError(f"{who} returned a {name}: {what}; {advice}", queue=queue)


def _problem(kind: type) -> tuple[str, str] | None:
    if issubclass(kind, GeneratorType) or kind is AsyncGeneratorType:
        return "its body has not run", "take out the yield, or go through it in the handler"
    if kind in _LAZY:
        return "it does nothing until it is iterated", "go through it in the handler: list(...)"
    members = {name for base in kind.__mro__ for name in type.__dict__["__dict__"].__get__(base)}
    if members.issuperset(_FUTURE):
        return (
            "its work may not be done yet, and its error would be lost",
            "wait for it in the handler: return future.result(), or asyncio.run(...)",
        )
    if "__await__" in members:
        return "nobody awaits it, so its work is not done", "let the handler run it: asyncio.run(...)"
    return None


def not_begun(result: Any) -> bool:
    """Whether it is a coroutine or a generator of which nothing has run, or a future that is still open."""
    kind = type(result)
    if kind is CoroutineType:
        return result.cr_frame is not None and not (result.cr_suspended or result.cr_running)
    if kind is GeneratorType:
        return result.gi_frame is not None and not (result.gi_suspended or result.gi_running)
    return False


def plain_json(result: Any) -> bytes | None:
    """A result of plain values as JSON; None for one that wants a closer look."""
    kind = type(result)
    if kind in _SCALARS or (kind is dict and _SCALARS.issuperset(map(type, result.values()))):
        try:
            return b"%b" % orjson.dumps(result)  # a copy of its size: orjson's own keeps what it wrote into
        except orjson.JSONEncodeError:
            return None
    return None
