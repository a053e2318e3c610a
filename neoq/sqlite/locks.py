"""The locks of the workers on a file, of the kind that this system has."""

from __future__ import annotations

from neoq.errors import UnsupportedError
from neoq.sqlite.alive import WorkerLocks, has_flock


def locks_for(database: str, worker: str) -> WorkerLocks:
    """The locks of the workers on a file, by what this system has."""
    if has_flock():
        return WorkerLocks(database, worker)
    try:
        from neoq.sqlite.filelock import FileLocks
    except ModuleNotFoundError as error:
        raise UnsupportedError(
            "jobs in a SQLite file need filelock on this system, which has no flock: pip install filelock"
        ) from error
    return FileLocks(database, worker)
