"""The end of a thread."""

from __future__ import annotations

import threading


def join(thread: threading.Thread | None, seconds: float) -> None:
    """Wait for a thread, if there is one to wait for.

    It may be the caller's own, or not started: an exception from a signal handler can come between making
    a thread and starting it.
    """
    if thread is not None and thread.ident is not None and thread is not threading.current_thread():
        thread.join(seconds)
