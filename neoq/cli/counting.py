"""What a process of a worker has counted, told to its supervisor in shares: what has come since the last."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from neoq.cli.wire import Wire
from neoq.metrics.figures import Figures, as_message, grown
from neoq.metrics.levels import Levels
from neoq.metrics.process import Counters
from neoq.threads.lifecycle import start

if TYPE_CHECKING:
    from neoq.engine.engine import Engine


class Counting:
    """The counters of this process, as far as its supervisor has been told of them."""

    def __init__(self, wire: Wire, engine: Engine) -> None:
        self._wire = wire
        self._engine = engine
        self._counters = Counters(engine.store)
        self._levels = Levels(kept=0.0)  # the supervisor keeps them: it asks its processes in turn
        self._lock = threading.Lock()
        self._told: Figures = {}

    def tell(self) -> None:
        """Tell what was counted since the last call."""
        with self._lock:
            counted = self._counters.read(self._engine)
            gained, self._told = grown(counted, self._told), counted
            if gained:
                self._wire.send("counted", figures=as_message(gained))

    def look(self) -> None:
        """Read the levels of the store and tell them, in a thread: the store may be away."""
        thread = threading.Thread(target=self._tell_levels, name="neoq-look", daemon=True)
        try:
            start(thread)
        except (RuntimeError, MemoryError, OSError):  # no thread is to be had: another process is asked next
            return

    def _tell_levels(self) -> None:
        self._wire.send("levels", figures=as_message(self._levels.read(self._engine)))
