"""MemBackend: jobs in this process's memory. No server, nothing to install, gone with the process."""

from __future__ import annotations

from typing import Unpack

from neoq.backend import Backend
from neoq.config import Settings
from neoq.memory.config import MemConfig
from neoq.memory.store import MemStore

__all__ = ["MemBackend", "MemConfig"]


class MemBackend(Backend):
    """Jobs in memory: ``MemBackend(job_check_interval=1.0, future_job_window=30.0)``.

    Takes every setting of `Config` as a keyword. What has not run when the process ends is lost, and the
    report of `shutdown` lists it. Safe to use from many threads; after a fork the child starts empty.

    Raises ConfigError for a setting that is unknown or out of range.
    """

    config_class = MemConfig
    store_class = MemStore
    store: MemStore

    def __init__(self, **options: Unpack[Settings]) -> None:
        super().__init__(**options)
