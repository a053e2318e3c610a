"""Where a thread enters neoq, and where neoq calls a handler: both are marked on code objects.

A thread is inside neoq from the call of an entrance until that returns. No interrupt may land there, and code
that Python runs in the middle must not wait for it. The wall is the function that makes an attempt: what it
calls is a handler's code, which holds no lock of neoq and may call every entrance. Middleware and wrappers
are such code, too, in whatever file they are.

A mark costs nothing when the function is called: only code that looks at a stack reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from types import CodeType, FrameType
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])
C = TypeVar("C", bound=type)

# By identity: code objects of different functions may be equal. What is kept here stays, and so does its id.
_entrances: dict[int, CodeType] = {}
_walls: dict[int, CodeType] = {}


def entrance(function: F) -> F:
    """Mark a function by which a thread enters neoq."""
    _mark(function, _entrances)
    return function


def entrances(*, but: Collection[str] = ()) -> Callable[[C], C]:
    """Mark the public methods of a class, except some.

    What a subclass overrides is not marked: it is its author's code, until it calls the method here.
    """

    def mark(cls: C) -> C:
        for name, method in vars(cls).items():
            if not name.startswith("_") and name not in but and not isinstance(method, property):
                _mark(method, _entrances)
        return cls

    return mark


def wall(function: F) -> F:
    """Mark a function that calls a handler."""
    _mark(function, _walls)
    return function


def _mark(function: Any, marks: dict[int, CodeType]) -> None:
    while hasattr(function, "__wrapped__"):  # the code of a decorator is that of all that it decorates
        function = function.__wrapped__
    code = getattr(function, "__code__", None)
    if isinstance(code, CodeType):
        marks[id(code)] = code


def is_entrance(frame: FrameType) -> bool:
    """Whether a thread has entered neoq with this frame."""
    return id(frame.f_code) in _entrances


def is_wall(frame: FrameType) -> bool:
    """Whether this frame has called a handler."""
    return id(frame.f_code) in _walls


def entered(frames: Iterable[FrameType]) -> FrameType | None:
    """The innermost entrance of a stack, innermost first; None where the wall comes first, or neither."""
    for frame in frames:
        if is_wall(frame):
            break
        if is_entrance(frame):
            return frame
    return None
