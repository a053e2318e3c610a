"""Signals: a worker runs until one asks it to stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable

from neoq.clock import machine
from neoq.engine.engine import Engine
from neoq.engine.report import ShutdownReport
from neoq.errors import NeoqError

SECOND_SIGNAL = 0.5  # seconds after the first, or it is the same


def run_until_signalled(engine: Engine, queues: Iterable[str] | None) -> ShutdownReport:
    """Run jobs until SIGTERM or SIGINT, then shut down; a second signal interrupts what runs."""
    if threading.current_thread() is not threading.main_thread():
        raise NeoqError("run() waits for signals, which only the main thread gets; elsewhere use start()")
    # A lock and no Event: the set() of one takes a lock that the wait() under this handler may hold.
    asked = threading.Lock()
    asked.acquire()
    times: list[float] = []  # when we were asked, and asked again

    def ask(*_: object) -> None:
        now = machine.monotonic()
        if not times:
            times.append(now)
            asked.release()
        elif now - times[0] >= SECOND_SIGNAL:  # both at once is a supervisor that passes a signal on
            times.append(now)
            if (stopping := engine.stopping) is not None:
                stopping.hurry()

    signals = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, ask) for number in signals]
    try:
        engine.is_worker = True
        engine.start(queues)
        if not engine.pools:
            engine.config.log.warning(
                "run() has nothing to run: this backend listens on no queue; import the modules that "
                "have its handlers first"
            )
        while not asked.acquire(
            timeout=1.0
        ):  # untimed, it would miss a signal that comes just before it blocks
            pass
        stopping = engine.begin_shutdown(None, drain=False)
        if len(times) > 1:  # the second came before there was anything to hurry
            stopping.hurry()
        return stopping.run()
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)
