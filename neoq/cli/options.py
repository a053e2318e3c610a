"""What `neoq worker` was told, as the supervisor keeps it and sends it to its children."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any

from neoq.cli.exits import CommandError, Exit

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class WorkerOptions:
    """The options of a worker."""

    app: str
    name: str = "worker"
    processes: int = 1
    concurrency: dict[str, int] = field(default_factory=dict)  # by queue; "" stands for every other queue
    queues: list[str] = field(default_factory=list)  # none: all that the application listens on
    exclude: list[str] = field(default_factory=list)
    drain: bool = False
    reload: bool = False
    max_jobs: int | None = None
    max_memory: int | None = None  # MB
    wait: float = 0.0
    port: str | None = None
    pidfile: str | None = None
    shutdown_timeout: float | None = None
    log_format: str | None = None
    log_level: str = "info"

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise CommandError(f"--name {self.name!r}: use letters, digits, '.', '_' and '-'", Exit.USAGE)

    def as_message(self) -> dict[str, Any]:
        """Its fields, for `WorkerOptions(**fields)` in a child."""
        return dataclasses.asdict(self)
