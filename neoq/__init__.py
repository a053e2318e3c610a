"""Background jobs for synchronous Python: in memory, in one file, in your database or in Redis."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from collections.abc import Mapping

    from neoq.backend import Backend, Stats
    from neoq.config import Config
    from neoq.mem_backend import MemBackend
    from neoq.postgres_backend import PostgresBackend
    from neoq.redis_backend import RedisBackend
    from neoq.retry import RetryPolicy
    from neoq.shutdown import ShutdownReport
    from neoq.sqlite_backend import SqliteBackend
    from neoq.store import QueueCounts, WorkerInfo
    from neoq.worker import current_job

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

# What only a program that has a backend needs; its module is imported when somebody names it.
_ON_DEMAND = {
    "Backend": "neoq.backend",
    "Config": "neoq.config",
    "MemBackend": "neoq.mem_backend",
    "PostgresBackend": "neoq.postgres_backend",
    "QueueCounts": "neoq.store",
    "RedisBackend": "neoq.redis_backend",
    "RetryPolicy": "neoq.retry",
    "ShutdownReport": "neoq.shutdown",
    "SqliteBackend": "neoq.sqlite_backend",
    "Stats": "neoq.backend",
    "WorkerInfo": "neoq.store",
    "current_job": "neoq.worker",
}

_DRIVERS = {  # and what to install
    "PostgresBackend": ("psycopg", "psycopg[binary]>=3.2"),
    "RedisBackend": ("redis", "redis[hiredis]>=5,<9"),
}

_SCHEMES = {
    "memory": "MemBackend",
    "postgres": "PostgresBackend",
    "postgresql": "PostgresBackend",
    "sqlite": "SqliteBackend",
    "redis": "RedisBackend",
    "rediss": "RedisBackend",
    "redis+unix": "RedisBackend",
    "redis+sentinel": "RedisBackend",
    "rediss+sentinel": "RedisBackend",
    "redis+cluster": "RedisBackend",
    "rediss+cluster": "RedisBackend",
}


def __getattr__(name: str) -> Any:
    """Import what is on demand, once."""
    if name not in _ON_DEMAND:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    driver, requirement = _DRIVERS.get(name, ("", ""))
    try:
        value = getattr(importlib.import_module(_ON_DEMAND[name]), name)
    except ModuleNotFoundError as error:
        if error.name != driver:
            raise
        raise ModuleNotFoundError(
            f"{name} needs {driver}, which is not installed: pip install '{requirement}'", name=driver
        ) from None
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def connect(url: str | None = None, *, environ: Mapping[str, str] | None = None, **options: Any) -> Backend:
    """The backend that a URL names, with settings as its query (``memory://?concurrency=4``).

    It begins with ``memory://``, ``sqlite:///`` and a file, ``postgresql://`` or ``redis://``.
    Without a URL it is ``$NEOQ_URL`` (looked up in ``environ``, if that is given), or ``memory://``.
    Keywords are settings too and come first.

    Raises ConfigError for a URL or a setting that is wrong.
    """
    url = url or (os.environ if environ is None else environ).get("NEOQ_URL") or "memory://"
    scheme, separator, rest = url.partition("://") if isinstance(url, str) else ("", "", "")
    name = _SCHEMES.get(scheme.lower())
    if name is None or not separator:
        raise ConfigError([_unknown_url(url, scheme if separator else None)])
    backend: type[Backend] = __getattr__(name)
    return backend.from_url(f"{scheme.lower()}://{rest}", options)


def _unknown_url(url: object, scheme: str | None) -> str:
    import difflib

    shown = repr(url) if scheme is None else f"{scheme}://..."  # never more of it: it may hold a password
    near = difflib.get_close_matches(scheme or str(url), _SCHEMES, 1)
    guess = f"did you mean {near[0]}://...? One" if near else "it"
    return f"no backend knows the URL {shown}; {guess} begins with memory://, sqlite:///, postgresql:// or redis://"


def migrate(url: str | None = None, **options: Any) -> None:
    """Make or update the tables of the backend that a URL names, and do nothing else.

    Backends do so by themselves at their first use; a deployment whose processes may not change tables calls
    this before (and gives them ``migrate=False``). Raises ConfigError as `connect` does, and BackendError
    where the tables cannot be made; then nothing was changed.
    """
    backend = connect(url, **options)
    backend.queues()
    backend.shutdown()
