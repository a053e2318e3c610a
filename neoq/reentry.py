"""Calls of a backend by code that Python runs in the middle of another call of it, in the same thread.

That is a signal handler, a finalizer, the callback of a weak reference, a trace function. The frame below may
hold one of our locks, or be the one on whom the others wait: to wait here would be to wait for ever.
"""

from __future__ import annotations

import functools
import sys
from _thread import get_ident
from collections.abc import Callable
from types import FrameType
from typing import Any

from neoq.boundary import entrance, is_entrance
from neoq.errors import NeoqError
from neoq.frames import frames_from

GUARDED = (
    *("open_store", "close_store", "add", "add_plain", "add_tick", "last_tick", "claim", "extend", "settle"),
    *("reclaim", "prune", "beat", "workers", "find", "counts", "change", "set_paused"),
)


def guarded(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method of a store that refuses to be called in the middle of another such call."""

    def call(self: Any, *arguments: Any, **keywords: Any) -> Any:
        me = get_ident()
        inside: set[int] = self.inside
        if me in inside:  # also where a store calls itself, or an exception of a signal handler left it there
            if _is_reentry(self):
                raise reentered()
            return method(self, *arguments, **keywords)
        inside.add(me)
        try:
            return method(self, *arguments, **keywords)
        finally:
            inside.discard(me)

    return functools.wraps(method)(entrance(call))


def reentered() -> NeoqError:
    """The error of a call that came in the middle of another."""
    return NeoqError(
        "this thread is in the middle of another call of this backend, so nothing was done: a signal "
        "handler, a finalizer or a trace function came in between; let that set a flag or fill a "
        "queue.SimpleQueue, and call the backend from a thread"
    )


_GUARD = guarded(lambda: None).__code__


def _is_reentry(store: Any) -> bool:
    """Whether more than the store's own code stands between the caller and a call of the store below."""
    between = False
    for frame in frames_from(sys._getframe(2)):
        if frame.f_code is _GUARD and _self_of(frame) is store:
            return between
        between = between or is_entrance(frame) or not _is_of_store(frame, store)
    return False


def _is_of_store(frame: FrameType, store: Any) -> bool:
    """Whether a frame runs a store's own code, a method or what is written inside one, or what opens it."""
    first = _self_of(frame)
    if first is store or getattr(type(first), "opens_stores", False):
        return True
    name, module = frame.f_code.co_qualname, frame.f_globals.get("__name__")
    return any(
        module == cls.__module__ and name.startswith(f"{cls.__qualname__}.") for cls in type(store).__mro__
    )


def _self_of(frame: FrameType) -> Any:
    """What a frame has for its first argument."""
    code = frame.f_code
    return frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None
