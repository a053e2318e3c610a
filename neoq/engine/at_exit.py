"""What is done as the main thread ends, while thread pools still work, and as the interpreter does.

The pools of concurrent.futures close before atexit's functions are called. So a job that runs then could use
none, nor asyncio.to_thread, nor a client that has a pool inside.
"""

from __future__ import annotations

import atexit
import threading
from typing import TYPE_CHECKING, Any, Protocol

from neoq.threads.boundary import entrance

if TYPE_CHECKING:
    from neoq.config import Config


class Ends(Protocol):
    """An engine, as it is seen at the end."""

    config: Config
    needs_check: bool
    ends_at: float | None

    def finish_at_exit(self) -> None:
        """Let jobs end as the main thread does."""

    def stop_at_exit(self) -> None:
        """End with the interpreter."""


alive: dict[int, Ends] = {}  # engines whose store is open
_registered = threading.Event()


def finish_before_pools_close() -> None:
    """Have `_finish` called as the main thread ends, once; not where Python has no such place."""
    register: Any = getattr(threading, "_register_atexit", None)
    if register is None or _registered.is_set():
        return
    import concurrent.futures.thread  # noqa: F401  # functions are called in reverse order of registration

    try:
        register(_finish)
        _registered.set()
    except RuntimeError:  # the main thread has ended already
        pass


@entrance
def _finish() -> None:
    for engine in list(alive.values()):
        try:
            engine.finish_at_exit()
        except (KeyboardInterrupt, SystemExit):  # what still runs is interrupted
            engine.ends_at = 0.0
        except Exception as error:
            engine.config.log.debug("the end of the interpreter is not waited for: %s", error)


@entrance
def _stop() -> None:
    for engine in list(alive.values()):
        try:
            engine.stop_at_exit()
        except KeyboardInterrupt:  # it has hurried, and said what was lost
            pass


atexit.register(_stop)
