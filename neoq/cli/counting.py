"""What a process of a worker has counted, told to its supervisor in shares: what has come since the last."""

from __future__ import annotations

import math
import threading
from time import monotonic
from typing import TYPE_CHECKING

from neoq.cli.wire import Wire
from neoq.metrics.figures import Figures, as_message, grown
from neoq.metrics.levels import Levels
from neoq.metrics.names import STORE_SECONDS
from neoq.metrics.process import Counters
from neoq.threads.lifecycle import try_start

if TYPE_CHECKING:
    from neoq.engine.engine import Engine

IDLE = 5.0  # seconds between what an idle process tells: it does not wake its supervisor for less


class Counting:
    """The counters of this process, as far as its supervisor has been told of them."""

    def __init__(self, wire: Wire, engine: Engine) -> None:
        self._wire = wire
        self._engine = engine
        self._counters = Counters(engine.store)
        self._levels = Levels(kept=0.0)  # the supervisor keeps them: it asks its processes in turn
        self._lock = threading.Lock()
        self._told: Figures = {}
        self._told_at = -math.inf

    def tell(self, *, at_once: bool = False) -> None:
        """Tell what was counted since the last time; an idle process tells less often, unless ``at_once``."""
        with self._lock:
            counted = self._counters.read(self._engine)
            gained = grown(counted, self._told)
            is_idle = all(name == STORE_SECONDS for name, *_ in gained)  # it only looks for jobs
            if not gained or (is_idle and not at_once and monotonic() - self._told_at < IDLE):
                return
            self._told, self._told_at = counted, monotonic()
            self._wire.send("counted", figures=as_message(gained))

    def look(self) -> None:
        """Read the levels of the store and tell them, in a thread: the store may be away.

        Where there is no thread to be had another process is asked next.
        """
        try_start(threading.Thread(target=self._tell_levels, name="neoq-look", daemon=True))

    def _tell_levels(self) -> None:
        self._wire.send("levels", figures=as_message(self._levels.read(self._engine)))
