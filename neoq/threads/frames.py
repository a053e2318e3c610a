"""The stack of another thread, looked at while that thread runs.

In CPython 3.11 each step to a caller allocates, an allocation may collect garbage, and a collection may run
finalizers of the user. While these wait, the other thread goes on; then the step ends at a frame that is no
more, in memory that belongs to something else by now. From 3.12 on an allocation collects nothing.
"""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from neoq.system import at_fork

_ALLOCATING_COLLECTS = sys.version_info < (3, 12)
_looking = threading.RLock()  # else a second thread would find the collector off, and leave it off


def stack_frames(ident: int) -> Iterator[FrameType]:
    """The frames of a thread, the innermost first; to be used up within `gc_paused`."""
    return frames_from(sys._current_frames().get(ident))


def frames_from(frame: FrameType | None) -> Iterator[FrameType]:
    """A frame and those that it was called from, the innermost first."""
    while frame is not None:
        yield frame
        frame = frame.f_back


@contextmanager
def gc_paused() -> Iterator[None]:
    """No garbage is collected inside the block, where that matters."""
    if not _ALLOCATING_COLLECTS:
        yield
        return
    with _looking:
        was_on = gc.isenabled()
        gc.disable()
        try:
            yield
        finally:
            if was_on:
                gc.enable()


if _ALLOCATING_COLLECTS:  # a child that is forked meanwhile would never collect anything
    at_fork(before=_looking.acquire, after_in_parent=_looking.release, after_in_child=_looking.release)
