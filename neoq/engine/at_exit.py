"""What is done as the main thread ends, while thread pools still work.

Those of concurrent.futures close before atexit's functions are called. So a job that runs then could use
none, nor asyncio.to_thread, nor a client that has a pool inside.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

_registered: list[Callable[[], None]] = []


def before_pools_close(call: Callable[[], None]) -> None:
    """Have ``call`` called as the main thread ends, once; not where Python has no such place."""
    register: Any = getattr(threading, "_register_atexit", None)
    if register is None or call in _registered:
        return
    import concurrent.futures.thread  # noqa: F401  # functions are called in reverse order of registration

    try:
        register(call)
        _registered.append(call)
    except RuntimeError:  # the main thread has ended already
        pass
