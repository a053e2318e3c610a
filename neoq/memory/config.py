"""The settings of MemBackend."""

from __future__ import annotations

from dataclasses import dataclass

from neoq.config import Config, count, setting, span


@dataclass(frozen=True)
class MemConfig(Config):
    """The settings of `MemBackend`: those of every backend, bounded by default since memory is."""

    queue_capacity: int | None = setting(
        10_000, count(1, none=True), "Ready jobs a queue holds before its producers wait; None: no bound."
    )
    retention: float | None = setting(
        None, span(0.0, none=True), "How long finished jobs can be looked up; None: for ever."
    )
    max_finished: int | None = setting(
        1000, count(0, none=True), "Finished jobs that can be looked up, the newest; None: no bound."
    )
    max_dead: int | None = setting(
        10_000, count(1, none=True), "Dead jobs kept; the oldest goes, with a warning. None: no bound."
    )
