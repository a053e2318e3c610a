"""Metrics for Prometheus: what a process has counted, and how the store stands; see docs/metrics.md.

The supervisor of `neoq worker` imports this package: so it imports no engine, and prometheus-client only
where something is exposed.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary, ref

if TYPE_CHECKING:
    from collections.abc import Callable

    from neoq.backend import Backend
    from neoq.engine.engine import Engine
    from neoq.metrics.figures import Figures
    from neoq.metrics.prometheus import Collector

__all__ = ["collector", "exposition"]

_collectors: WeakKeyDictionary[Backend, Collector] = WeakKeyDictionary()
_lock = threading.Lock()


def collector(backend: Backend) -> Collector:
    """The collector of a backend's metrics, for a registry of prometheus-client.

    It gives what this process has counted since its start, and the levels of the store: these it reads when
    it is asked, at most once in five seconds and in at most two. For the same backend it is the same one.
    Raises ModuleNotFoundError where prometheus-client is not installed.
    """
    from neoq.metrics.prometheus import Collector

    with _lock:
        known = _collectors.get(backend)
        if known is None:
            known = _collectors[backend] = Collector(_figures_of(backend.engine))
        return known


def _figures_of(engine: Engine) -> Callable[[], Figures]:
    """A function that reads the figures of an engine, and does not keep the engine alive."""
    from neoq.metrics.levels import Levels
    from neoq.metrics.process import Counters

    counters, levels, reference = Counters(engine.store), Levels(), ref(engine)

    def figures() -> Figures:
        present = reference()
        return {} if present is None else {**counters.read(present), **levels.read(present)}

    return figures


def exposition(backend: Backend) -> tuple[str, bytes]:
    """The metrics of a backend as a scrape gets them: the Content-Type, and the text.

    Raises ModuleNotFoundError where prometheus-client is not installed.
    """
    made = collector(backend)
    from neoq.metrics.prometheus import text_of

    return text_of(made)
