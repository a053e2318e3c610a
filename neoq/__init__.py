"""Background jobs for synchronous Python: in memory, in one file, in your database or in Redis."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from neoq.errors import (
    BackendClosedError,
    BackendError,
    BackendUnavailable,
    BatchClosedError,
    ConfigError,
    CronError,
    DeadlineExceeded,
    Discard,
    InvalidJobError,
    JobCancelled,
    JobInterrupted,
    JobTimeout,
    ListenerExistsError,
    LookTimeoutError,
    MissingKeyError,
    NeoqError,
    NoListenerError,
    PayloadError,
    QueueFullError,
    Retry,
    ShutdownRequested,
    Signal,
    Snooze,
    StaleLeaseError,
    Suspended,
    TooManyStepsError,
    UnsupportedError,
)
from neoq.version import __version__ as __version__

if TYPE_CHECKING:
    from collections.abc import Mapping

    from neoq.attempts import Attempt
    from neoq.audit import AuditEntry
    from neoq.backend import Backend
    from neoq.codec.codec import Codec
    from neoq.config import Config
    from neoq.engine.interrupt import current_job
    from neoq.engine.report import ShutdownReport
    from neoq.held.children import ChildFailed
    from neoq.held.group import Batch
    from neoq.held.limits import Limits, Line, Rate
    from neoq.held.step import Step
    from neoq.job import DuplicateJobError, Job
    from neoq.line import JobLine
    from neoq.mem_backend import MemBackend
    from neoq.operations import Stats
    from neoq.postgres.backend import PostgresBackend
    from neoq.record import Status
    from neoq.redis.backend import RedisBackend
    from neoq.retry import RetryPolicy
    from neoq.schedules import ScheduleInfo
    from neoq.sqlite.backend import SqliteBackend
    from neoq.store import QueueCounts, ThreadInfo, WorkerInfo
    from neoq.tasks import JobFailed, Task, TaskJob, Tasks

__all__ = [
    "Attempt",
    "AuditEntry",
    "Backend",
    "BackendClosedError",
    "BackendError",
    "BackendUnavailable",
    "Batch",
    "BatchClosedError",
    "ChildFailed",
    "Codec",
    "Config",
    "ConfigError",
    "CronError",
    "DeadlineExceeded",
    "Discard",
    "DuplicateJobError",
    "InvalidJobError",
    "Job",
    "JobCancelled",
    "JobFailed",
    "JobInterrupted",
    "JobLine",
    "JobTimeout",
    "Limits",
    "Line",
    "ListenerExistsError",
    "LookTimeoutError",
    "MemBackend",
    "MissingKeyError",
    "NeoqError",
    "NoListenerError",
    "PayloadError",
    "PostgresBackend",
    "QueueCounts",
    "QueueFullError",
    "Rate",
    "RedisBackend",
    "Retry",
    "RetryPolicy",
    "ScheduleInfo",
    "ShutdownReport",
    "ShutdownRequested",
    "Signal",
    "Snooze",
    "SqliteBackend",
    "StaleLeaseError",
    "Stats",
    "Status",
    "Step",
    "Suspended",
    "Task",
    "TaskJob",
    "Tasks",
    "ThreadInfo",
    "TooManyStepsError",
    "UnsupportedError",
    "WorkerInfo",
    "connect",
    "current_job",
    "migrate",
]

# Their modules are imported at the first use: `neoq health` needs none of them, and is run every few seconds.
_ON_DEMAND = {
    "Step": "neoq.held.step",
    "Limits": "neoq.held.limits",
    "Line": "neoq.held.limits",
    "Rate": "neoq.held.limits",
    "ChildFailed": "neoq.held.children",
    "Batch": "neoq.held.group",
    "Backend": "neoq.backend",
    "Codec": "neoq.codec.codec",
    "Config": "neoq.config",
    "DuplicateJobError": "neoq.job",
    "Job": "neoq.job",
    "JobLine": "neoq.line",
    "JobFailed": "neoq.tasks",
    "MemBackend": "neoq.mem_backend",
    "PostgresBackend": "neoq.postgres",
    "QueueCounts": "neoq.store",
    "Attempt": "neoq.attempts",
    "AuditEntry": "neoq.audit",
    "RedisBackend": "neoq.redis",
    "RetryPolicy": "neoq.retry",
    "ScheduleInfo": "neoq.schedules",
    "ShutdownReport": "neoq.engine.report",
    "SqliteBackend": "neoq.sqlite",
    "Stats": "neoq.operations",
    "Status": "neoq.job",
    "Task": "neoq.tasks",
    "TaskJob": "neoq.tasks",
    "Tasks": "neoq.tasks",
    "ThreadInfo": "neoq.store",
    "WorkerInfo": "neoq.store",
    "current_job": "neoq.engine.interrupt",
}

_DRIVERS = {  # the driver's module, and the requirement to install
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
    """Import a name of ``_ON_DEMAND`` at its first use."""
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
    """Return the backend that a URL names. Settings go into its query (``memory://?concurrency=4``).

    A URL begins with ``memory://``, ``sqlite:///`` and a file, ``postgresql://`` or ``redis://``.
    Without a URL, `connect` reads ``$NEOQ_URL`` (from ``environ``, if given), and else uses ``memory://``.
    Keywords are settings too, and override the query.

    Raises ConfigError for a URL or a setting that is wrong.
    """
    if url is None:
        url = (os.environ if environ is None else environ).get("NEOQ_URL", "memory://")
        if isinstance(url, str) and not url.strip():
            raise ConfigError(["the variable NEOQ_URL is empty; give it a URL, or unset it for memory://"])
    if not isinstance(url, str):
        raise ConfigError([_no_url(url)])
    url = url.strip()  # a URL that was pasted, or read from a file, often ends with a line end or a blank
    scheme, separator, rest = url.partition("://")
    name = _SCHEMES.get(scheme.lower())
    if name is None or not separator or rest[-1:] in {"'", '"'}:
        from neoq.wording.urls import advice

        raise ConfigError([advice(url, _SCHEMES)])
    backend: type[Backend] = __getattr__(name)
    return _made(backend, f"{scheme.lower()}://{rest}", options)


def _made(backend: type[Backend], url: str, options: Mapping[str, Any]) -> Backend:
    """Make the backend of a URL. Its errors do not show the URL's secrets."""
    from dataclasses import fields

    from neoq.wording.redact import Hider, misread, secrets_of

    problem = misread(url)
    problems = [problem] if problem else []
    if not problems:
        try:
            return backend.from_url(url, options)
        except ConfigError as error:
            problems = error.problems
        except UnicodeError:
            problems = ["the URL contains characters that its driver cannot encode; percent-encode them"]
    hider = Hider(secrets_of(url, [spec.name for spec in fields(backend.config_class)]))
    # Raised outside of the except block: a chained exception would show the secrets.
    raise ConfigError([hider.text(problem) for problem in problems])


def _no_url(url: object) -> str:
    """The problem with a URL that is not a string. It is not repeated, since it may contain a password."""
    fix = "pass a str such as redis://localhost:6379/0"
    if isinstance(url, os.PathLike):
        fix = "for a file use neoq.SqliteBackend(path), or write sqlite:///jobs.db"
    return f"the URL must be a str, got {type(url).__name__}; {fix}"


def migrate(url: str | None = None, **options: Any) -> None:
    """Create or update the tables of the backend that a URL names, and do nothing else.

    Backends do this themselves at their first use. If your processes may not change tables, call `migrate`
    before they start, and give them ``migrate=False``. Raises ConfigError as `connect` does, and BackendError
    if the tables cannot be created. In both cases nothing was changed.
    """
    backend = connect(url, **options)
    backend.queues()
    backend.shutdown()
