"""Background jobs for synchronous Python: in memory, in one file, in your database or in Redis."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from neoq.backend import Backend, Stats
from neoq.config import Config
from neoq.errors import (
    BackendClosedError,
    BackendError,
    BackendUnavailable,
    ConfigError,
    CronError,
    DeadlineExceeded,
    Discard,
    DuplicateJobError,
    InvalidJobError,
    JobCancelled,
    JobInterrupted,
    JobTimeout,
    ListenerExistsError,
    NeoqError,
    NoListenerError,
    PayloadError,
    QueueFullError,
    Retry,
    ShutdownRequested,
    Signal,
    Snooze,
    StaleLeaseError,
    UnsupportedError,
)
from neoq.job import Job, Status
from neoq.mem_backend import MemBackend
from neoq.retry import RetryPolicy
from neoq.shutdown import ShutdownReport
from neoq.store import QueueCounts, WorkerInfo
from neoq.worker import current_job

if TYPE_CHECKING:
    from collections.abc import Mapping

    from neoq.postgres_backend import PostgresBackend
    from neoq.redis_backend import RedisBackend
    from neoq.sqlite_backend import SqliteBackend

__version__ = "0.1.0"

__all__ = [
    "Backend",
    "BackendClosedError",
    "BackendError",
    "BackendUnavailable",
    "Config",
    "ConfigError",
    "CronError",
    "DeadlineExceeded",
    "Discard",
    "DuplicateJobError",
    "InvalidJobError",
    "Job",
    "JobCancelled",
    "JobInterrupted",
    "JobTimeout",
    "ListenerExistsError",
    "MemBackend",
    "NeoqError",
    "NoListenerError",
    "PayloadError",
    "PostgresBackend",
    "QueueCounts",
    "QueueFullError",
    "RedisBackend",
    "Retry",
    "RetryPolicy",
    "ShutdownReport",
    "ShutdownRequested",
    "Signal",
    "Snooze",
    "SqliteBackend",
    "StaleLeaseError",
    "Stats",
    "Status",
    "UnsupportedError",
    "WorkerInfo",
    "connect",
    "current_job",
    "migrate",
]

_SCHEMES = {
    "memory": ("neoq.mem_backend", "MemBackend"),
    "postgres": ("neoq.postgres_backend", "PostgresBackend"),
    "postgresql": ("neoq.postgres_backend", "PostgresBackend"),
    "sqlite": ("neoq.sqlite_backend", "SqliteBackend"),
    "redis": ("neoq.redis_backend", "RedisBackend"),
    "rediss": ("neoq.redis_backend", "RedisBackend"),
    "redis+unix": ("neoq.redis_backend", "RedisBackend"),
    "redis+sentinel": ("neoq.redis_backend", "RedisBackend"),
    "rediss+sentinel": ("neoq.redis_backend", "RedisBackend"),
    "redis+cluster": ("neoq.redis_backend", "RedisBackend"),
    "rediss+cluster": ("neoq.redis_backend", "RedisBackend"),
}


def __getattr__(name: str) -> Any:
    """Import a backend with a driver when somebody names it."""
    import importlib

    for module, backend in _SCHEMES.values():
        if backend == name:
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def connect(url: str | None = None, *, environ: Mapping[str, str] = os.environ, **options: Any) -> Backend:
    """The backend that a URL names: ``memory://``, settings as its query (``memory://?concurrency=4``).

    Without a URL it is ``$NEOQ_URL``, or ``memory://``. Keywords are settings too and come first.
    Raises ConfigError for a URL or a setting that is wrong.
    """
    import importlib

    url = url or environ.get("NEOQ_URL") or "memory://"
    scheme, separator, _ = url.partition("://") if isinstance(url, str) else ("", "", "")
    if scheme not in _SCHEMES or not separator:
        known = ", ".join(f"{name}://" for name in _SCHEMES)
        shown = f"{scheme}://..." if separator else repr(url)  # never more of it: it may hold a password
        raise ConfigError([f"no backend knows the URL {shown}; it begins with one of {known}"])
    module, name = _SCHEMES[scheme]
    backend: type[Backend] = getattr(importlib.import_module(module), name)
    return backend.from_url(url, options)


def migrate(url: str | None = None, **options: Any) -> None:
    """Make or update the tables of the backend that a URL names, and do nothing else.

    Backends do so by themselves at their first use; a deployment whose processes may not change tables calls
    this before (and gives them ``migrate=False``). Raises ConfigError as `connect` does, and BackendError
    where the tables cannot be made; then nothing was changed.
    """
    backend = connect(url, **options)
    backend.queues()
    backend.shutdown()
