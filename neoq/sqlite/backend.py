"""SqliteBackend: jobs in one file. Nothing to run, nothing to install; several processes may share it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Unpack

from neoq.backend import Backend
from neoq.errors import ConfigError
from neoq.sqlite.config import SqliteConfig, SqliteSettings
from neoq.sqlite.store import SqliteStore

if TYPE_CHECKING:
    from urllib.parse import SplitResult


class SqliteBackend(Backend):
    """Jobs in a SQLite file: ``SqliteBackend("jobs.db")``, or ``neoq.connect("sqlite:///jobs.db")``.

    Takes every setting of `Config`, and ``synchronous`` and ``busy_timeout``, as keywords. The jobs outlive
    the process, and several processes of one machine may share the file. Safe to use from many threads.

    Raises ConfigError for a setting that is unknown or out of range, and at the first call BackendError or
    BackendUnavailable where the file cannot be used.
    """

    config_class = SqliteConfig
    store_class = SqliteStore
    store: SqliteStore
    config: SqliteConfig

    def __init__(self, path: str | os.PathLike[str] = "", **options: Unpack[SqliteSettings]) -> None:
        super().__init__(path=path, **options)

    @classmethod
    def url_settings(cls, parts: SplitResult) -> dict[str, Any]:
        """The file in a URL: three slashes before a relative path, four before an absolute one."""
        from urllib.parse import unquote

        shape = "sqlite:///relative.db or sqlite:////absolute/path.db"
        if parts.netloc:
            raise ConfigError([f"a sqlite:// URL takes no host: {shape} (three slashes before the path)"])
        if parts.fragment:
            raise ConfigError([f"a sqlite:// URL takes no fragment: {shape}; write a # in a path as %23"])
        path = unquote(parts.path).removeprefix("/")
        if not path:
            raise ConfigError([f"the URL names no file: {shape}; to keep jobs in memory use memory://"])
        return {"path": path}
