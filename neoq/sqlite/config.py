"""The settings of SqliteBackend."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

from neoq.config import Config, Kind, Settings, setting, span
from neoq.sqlite.place import wrong_with

_MODES = ("off", "normal", "full", "extra")


def _mode(value: Any) -> str:
    if not isinstance(value, str) or value.lower() not in _MODES:
        raise ValueError(value)
    return value.lower()


def _file(value: Any) -> str:
    name = os.fspath(value)
    if not isinstance(name, str):
        raise ValueError(value)
    return name


def _rights(value: Any) -> int:
    """Octal digits in a URL or a variable, a number in Python."""
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError(value)
    rights = int(value, 8) if isinstance(value, str) else value
    if rights & 0o600 != 0o600 or rights & ~0o666:
        raise ValueError(value)
    return rights


class SqliteSettings(Settings, total=False):
    """The keywords of `SqliteBackend` beside its file."""

    synchronous: Literal["full", "normal", "off", "extra"]
    busy_timeout: timedelta | float
    file_mode: int | None


@dataclass(frozen=True)
class SqliteConfig(Config):
    """The settings of `SqliteBackend`: those of every backend, and the file's."""

    path: str = setting(
        "",
        Kind('the name of a file, as in SqliteBackend("jobs.db")', _file),
        "The database file; it is made where it does not exist.",
    )
    synchronous: str = setting(
        "full",
        Kind(f"one of {', '.join(_MODES)}", _mode),
        "When a commit is on the disk: full, at once; normal, a power cut may take the last ones.",
    )
    busy_timeout: float = setting(
        10.0, span(0.0, 3600), "How long to wait while another connection holds the file's write lock."
    )

    file_mode: int | None = setting(
        None,
        Kind("rights in octal, such as 600 (in Python 0o600), at least 600; or None", _rights, none=True),
        "The rights of the file where it is made; None: as the umask says.",
    )

    def _contradictions(self) -> list[str]:
        problems = super()._contradictions()
        if "://" in self.path:
            return [*problems, "path is a URL, not the name of a file; give it to neoq.connect(url)"]
        if problem := wrong_with(self.path):
            problems.append(f"path is {self.path!r}; {problem}")
        return problems
