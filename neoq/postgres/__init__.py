"""Jobs in a PostgreSQL database."""

from neoq.postgres.backend import PostgresBackend

__all__ = ["PostgresBackend"]
