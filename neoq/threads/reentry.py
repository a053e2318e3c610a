"""Refuses a call of a store that interrupts another call of it in the same thread.

Python runs signal handlers, finalizers, weak reference callbacks and trace functions in the middle of other
code. The interrupted call may hold a lock of ours, or be the one that others wait for. A call that waited for
it would wait for ever.
"""

from __future__ import annotations

import functools
import sys
from _thread import get_ident
from collections.abc import Callable
from types import FrameType
from typing import Any

from neoq.errors import NeoqError
from neoq.threads.boundary import entrance, is_entrance
from neoq.threads.frames import frames_from

GUARDED = (
    *("open_store", "close_store", "add", "add_tick", "last_tick", "list_schedules", "schedules"),
    *("claim", "extend", "settle", "reclaim", "prune", "beat", "workers"),
    *("find", "find_brief", "counts", "waiting_kinds", "change", "set_paused"),
    *("add_audit", "audit", "add_series", "series"),
    *("open_batch", "seal", "group", "tend", "record", "steps", "signal", "limit", "limits", "lines"),
)


def guarded(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method of a store that refuses to be called in the middle of another such call."""

    def call(self: Any, *arguments: Any, **keywords: Any) -> Any:
        me = get_ident()
        inside: set[int] = self.inside
        if me in inside:  # also if a store calls itself, or if a signal handler's exception left the entry
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
    """The error for a call in the middle of another one."""
    return NeoqError(
        "this thread is in the middle of another call of this backend, so nothing was done; in a signal "
        "handler, a finalizer or a trace function set a flag or fill a queue.SimpleQueue, and call the "
        "backend from a thread"
    )


_GUARD = guarded(lambda: None).__code__


def _is_reentry(store: Any) -> bool:
    """Whether code that is not the store's runs between this call and an outer call of the same store."""
    between = False
    for frame in frames_from(sys._getframe(2)):
        if frame.f_code is _GUARD and _self_of(frame) is store:
            return between
        between = between or is_entrance(frame) or not _is_of_store(frame, store)
    return False


def _is_of_store(frame: FrameType, store: Any) -> bool:
    """Whether a frame runs the store's own code: a method, a function inside one, or what opens the store."""
    first = _self_of(frame)
    if first is store or getattr(type(first), "opens_stores", False):
        return True
    name, module = frame.f_code.co_qualname, frame.f_globals.get("__name__")
    return any(
        module == cls.__module__ and name.startswith(f"{cls.__qualname__}.") for cls in type(store).__mro__
    )


def _self_of(frame: FrameType) -> Any:
    """The first argument of a frame's function."""
    code = frame.f_code
    return frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None
