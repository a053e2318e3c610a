"""Metrics for Prometheus: what a process has counted, and how the store stands; see docs/metrics.md.

The supervisor of `neoq worker` imports this package, so it imports no engine by itself; and prometheus-client
only for a registry.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary, ref

if TYPE_CHECKING:
    from neoq.backend import Backend
    from neoq.engine.engine import Engine
    from neoq.metrics.figures import Figures
    from neoq.metrics.prometheus import Collector

__all__ = ["collector", "count_kinds", "exposition"]

_known: WeakKeyDictionary[Backend, Callable[[], Figures]] = WeakKeyDictionary()
_lock = threading.Lock()


def collector(backend: Backend) -> Collector:
    """A collector of a backend's metrics, for a registry of prometheus-client.

    It gives what this process has counted since its start, and the levels of the store: these it reads when
    it is asked, at most once in five seconds, and waits two seconds for them at most.
    Raises ModuleNotFoundError where prometheus-client is not installed.
    """
    from neoq.metrics.prometheus import Collector

    return Collector(_figures_of(backend))


def exposition(backend: Backend) -> tuple[str, bytes]:
    """The metrics of a backend as a scrape gets them: the Content-Type, and the text.

    It has what `collector` gives, and does not need prometheus-client.
    """
    from neoq.metrics.text import CONTENT_TYPE, text_of

    return CONTENT_TYPE, text_of(_figures_of(backend)())


def _figures_of(backend: Backend) -> Callable[[], Figures]:
    """A function that reads the figures of a backend; one for all who ask for its metrics."""
    with _lock:
        known = _known.get(backend)
        if known is None:
            known = _known[backend] = _reading(backend.engine)
        return known


def _reading(engine: Engine) -> Callable[[], Figures]:
    """A function that reads the figures of an engine, and does not keep the engine alive."""
    from neoq.metrics.levels import Levels
    from neoq.metrics.process import Counters

    counters, levels, reference = Counters(engine.store), Levels(), ref(engine)

    def figures() -> Figures:
        present = reference()
        return {} if present is None else {**counters.read(present), **levels.read(present)}

    return figures


def count_kinds(backend: Backend) -> None:
    """Count how long handlers run by kind of job, too: neoq_kind_run_seconds.

    It counts in this process, and from now on. The first 200 kinds have series of their own, and the others
    share those of the kind "other".
    """
    from neoq.metrics import kinds

    kinds.begin(backend)
