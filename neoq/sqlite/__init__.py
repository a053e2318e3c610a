"""Jobs in a SQLite file."""

from neoq.sqlite.backend import SqliteBackend

__all__ = ["SqliteBackend"]
