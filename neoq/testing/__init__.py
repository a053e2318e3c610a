"""For tests: jobs run in the test's own thread, lists of enqueued jobs, a clock to move, faults of the store.

`inline`, `enqueued` and `clock` are context managers around a backend. The pytest fixture ``neoq_testing``
offers the same, and undoes it at the end of the test. `Faults` makes the store of a backend fail.
`BackendConformance` is the suite that every backend passes; it needs pytest, and is imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from neoq.testing.faults import Fault, Faults
from neoq.testing.manual import inline
from neoq.testing.recording import enqueued
from neoq.testing.virtual_clock import VirtualClock, clock

if TYPE_CHECKING:
    from neoq.testing.conformance import BackendConformance

__all__ = ["BackendConformance", "Fault", "Faults", "VirtualClock", "clock", "enqueued", "inline"]


def __getattr__(name: str) -> Any:
    if name == "BackendConformance":
        from neoq.testing.conformance import BackendConformance

        return BackendConformance
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
